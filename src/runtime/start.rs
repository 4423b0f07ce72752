//! Start-up in an order in which a mistake stops everything before anything has begun.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::build::{Built, Parts, build};
use super::takeover::{Held, Predecessor};
use super::{ReloadSource, descriptors, systemd};
use crate::admin::metrics::{Exposition, Histograms};
use crate::admin::{self, AdminHandle, Context, Readiness};
use crate::config::{Events, ListenAddress, Settings};
use crate::control::{Control, Figures};
use crate::flow::Transport;
use crate::journal::{self, Found, Journal};
use crate::recent::{self, Recent};
use crate::sink::{self, Sinks};
use crate::telemetry::LogLevel;
use crate::transport::{self, BindError, Inherited, overlap};

/// Questions that may wait for an answer.
const ASKS: usize = 256;
/// How long a process that was taken over from may need to close its API.
const API_CLOSES: Duration = Duration::from_secs(3);

/// How a sidecar is started, beside its settings.
#[derive(Debug, Default)]
pub struct Bind {
    pub reload: ReloadSource,
    pub log_level: Option<LogLevel>,
    /// SIGTERM drains, SIGHUP reloads; else the process's signals are left alone.
    pub handles_signals: bool,
    pub drain_timeout: Option<Duration>,
    /// Takes the place of the process that has the journal.
    pub takeover: bool,
    /// Takes sockets from systemd and tells it when calls are taken.
    pub notifies_systemd: bool,
}

/// Why nothing was started.
#[derive(Debug)]
pub enum StartError {
    Listen(BindError),
    /// A listener of HTTP, by its key.
    Http {
        key: &'static str,
        address: SocketAddr,
        error: io::Error,
    },
    Events(sink::OpenError),
    Journal(journal::OpenError),
    Takeover(String),
    /// Threads, descriptors.
    System(io::Error),
}

/// A sidecar at work.
#[derive(Debug)]
pub struct Running {
    pub control: Control,
    pub recent: Recent,
    /// As bound.
    pub listen: Vec<(Transport, SocketAddr)>,
    pub admin: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    supervisor: Option<JoinHandle<io::Result<()>>>,
    http: Option<AdminHandle>,
}

/// Binds everything, then starts.
///
/// # Errors
/// Whatever cannot be bound or opened; nothing has begun then.
pub fn start(settings: Settings, bind: Bind) -> Result<Running, StartError> {
    descriptors::allow(&settings);
    let mut inherited = inherited(&settings, &bind)?;
    let bound = transport::bind(&settings.listen, settings.workers, &mut inherited).map_err(StartError::Listen)?;
    let sockets_stay = !bind.takeover && bound.opened == 0;
    let mut http = |key, address: Option<SocketAddr>| {
        let mut listen = |address| match inherited.take_tcp(address) {
            Some(socket) => Ok(socket),
            None => {
                inherited.clear_the_way(Transport::Tcp, address);
                listen_once_free(key, address, bind.takeover)
            }
        };
        address.map(&mut listen).transpose()
    };
    let sockets = admin::Sockets {
        admin: http("admin.listen", settings.admin.as_ref().map(|admin| admin.listen))?,
        metrics: http("metrics.listen", settings.metrics_listen)?,
    };
    let recent = Recent::new(recent::CAPACITY);
    let readiness = Readiness::new();
    let histograms = Histograms::new();
    let journal = match &settings.events.journal {
        Some(directory) => Some(open_journal(directory, &settings.events)?),
        None => None,
    };
    let kept = journal.as_ref().map(|(journal, found)| journal.kept(found));
    let sinks = Sinks::open(&settings.events, kept.as_ref(), recent.clone(), &readiness, histograms.clone());
    let sinks = sinks.map_err(StartError::Events)?;
    let listen = bound.listeners().iter().map(|listener| (listener.transport, listener.bound)).collect::<Vec<_>>();
    let token = admin::Token::new(settings.admin_token());
    let nats = settings.events.nats.clone();
    let shared = journal.as_ref().map(|(journal, _)| journal.shared());
    if let Some(shared) = &shared {
        shared.report_to(readiness.clone());
    }
    let (figures, observed) = (sinks.figures(), histograms.clone());
    let (asks, inbox) = mpsc::channel(ASKS);
    let (stop, stopped) = oneshot::channel();
    let (ready, events) = (readiness.clone(), recent.clone());
    let to_others = [&sockets.admin, &sockets.metrics].into_iter().flatten();
    let to_others = to_others.chain(bound.tcp.iter().map(|(socket, _)| socket)).map(TcpListener::try_clone);
    let listening = to_others.collect::<io::Result<Vec<_>>>().map_err(StartError::System)?;
    let notifies = bind.notifies_systemd;
    let parts = Parts {
        settings,
        bind,
        bound,
        sinks,
        histograms,
        readiness: ready,
        recent: events,
        token: token.clone(),
        journal,
        inherited,
        listening,
        sockets_stay,
    };
    let supervisor = build(parts, inbox, stopped).and_then(supervise).map_err(StartError::System)?;
    let control = Control(asks);
    let context = Context {
        control: control.clone(),
        recent: recent.clone(),
        readiness: readiness.clone(),
        metrics: Arc::new(Exposition::new()),
        figures: Arc::new(move || {
            let mut samples = figures.samples();
            samples.extend(shared.iter().flat_map(|shared| shared.samples()));
            Figures { samples, histograms: observed.snapshot() }
        }),
        nats,
    };
    let http = admin::serve(sockets, token, context).map_err(StartError::System)?;
    let admin = http.addresses().admin;
    for (transport, address) in &listen {
        tracing::info!(%transport, %address, "listening");
    }
    readiness.set_ready();
    if notifies {
        systemd::tell_ready();
    }
    Ok(Running { control, recent, listen, admin, stop: Some(stop), supervisor: Some(supervisor), http: Some(http) })
}

impl Running {
    /// The first address that takes datagrams.
    pub fn udp(&self) -> Option<SocketAddr> {
        self.listen.iter().find(|(transport, _)| *transport == Transport::Udp).map(|(_, address)| *address)
    }

    /// Waits until the sidecar ends by itself.
    ///
    /// # Errors
    /// What ended it, where it was no command.
    pub fn wait(mut self) -> io::Result<()> {
        self.join()
    }

    /// Ends it: open calls end as `shutdown`, events are written.
    ///
    /// # Errors
    /// As [`Running::wait`].
    pub fn stop(mut self) -> io::Result<()> {
        if let Some(stop) = self.stop.take() {
            // An error says that it has ended already.
            let _ = stop.send(());
        }
        self.join()
    }

    fn join(&mut self) -> io::Result<()> {
        let ended = match self.supervisor.take() {
            Some(thread) => thread.join().unwrap_or_else(|_| Err(io::Error::other("the supervisor panicked"))),
            None => Ok(()),
        };
        if let Some(http) = self.http.take() {
            http.stop();
        }
        ended
    }
}

impl StartError {
    /// Whether somebody has the address.
    fn is_in_use(&self) -> bool {
        let (StartError::Listen(BindError { error, .. }) | StartError::Http { error, .. }) = self else { return false };
        error.kind() == io::ErrorKind::AddrInUse
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Listen(error) => error.fmt(f),
            StartError::Http { key, address, error } => {
                write!(f, "{key}: cannot listen on {address}: {error}; choose an address and port that are free")
            }
            StartError::Events(error) => error.fmt(f),
            StartError::Takeover(error) => write!(f, "--takeover: {error}"),
            StartError::Journal(error) => write!(f, "events.journal: {error}"),
            StartError::System(error) => write!(f, "cannot start: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Sockets of the process whose place this one takes, or of systemd.
fn inherited(settings: &Settings, bind: &Bind) -> Result<Inherited, StartError> {
    if !bind.takeover {
        return Ok(if bind.notifies_systemd { systemd::sockets() } else { Inherited::default() });
    }
    let Some(directory) = &settings.events.journal else {
        let why = "a process can be taken over from where it has a journal: set `events.journal` in both";
        return Err(StartError::Takeover(why.to_owned()));
    };
    match Predecessor::find(directory) {
        Ok(Some(predecessor)) => {
            check(settings, &predecessor.holds)?;
            predecessor.succeed().map_err(StartError::Takeover)
        }
        Ok(None) => {
            tracing::info!("no process is there to take over from: an ordinary start");
            Ok(Inherited::default())
        }
        Err(error) => Err(StartError::Takeover(format!("the running process goes on: {error}"))),
    }
}

/// Whether this process could start, as far as that can be known while another one holds these sockets and the journal.
pub(super) fn check(settings: &Settings, holds: &[Held]) -> Result<(), StartError> {
    for one in &settings.listen {
        try_beside(holds, (one.transport, one.address), |address| {
            let one = ListenAddress { address, ..*one };
            transport::bind(&[one], 1, &mut Inherited::default()).map(drop).map_err(StartError::Listen)
        })?;
    }
    let admin = settings.admin.as_ref().map(|admin| ("admin.listen", admin.listen));
    let metrics = settings.metrics_listen.map(|address| ("metrics.listen", address));
    for (key, address) in admin.into_iter().chain(metrics) {
        try_beside(holds, (Transport::Tcp, address), |address| listen_http(key, address).map(drop))?;
    }
    sink::check(&settings.events).map_err(StartError::Events)
}

/// Tries an address that is not handed over. Where something that is handed over has a part of it, that it is in use says
/// nothing: of all addresses the others are tried then.
fn try_beside(
    holds: &[Held],
    own: Held,
    bind: impl Fn(SocketAddr) -> Result<(), StartError>,
) -> Result<(), StartError> {
    let (transport, address) = own;
    let overlaps = |address| holds.iter().any(|held| held.0 == transport && overlap(held.1, address));
    if holds.contains(&own) {
        return Ok(());
    }
    match bind(address) {
        Err(error) if overlaps(address) && error.is_in_use() => {
            let mut others = transport::addresses_of(address).into_iter().filter(|other| !overlaps(*other));
            others.try_for_each(bind)
        }
        tried => tried,
    }
}

/// The process before closes its API as the last thing that it does.
fn listen_once_free(key: &'static str, address: SocketAddr, is_takeover: bool) -> Result<TcpListener, StartError> {
    let until = Instant::now() + if is_takeover { API_CLOSES } else { Duration::ZERO };
    loop {
        match listen_http(key, address) {
            Err(error) if error.is_in_use() && Instant::now() < until => {
                // Nothing tells when an address becomes free.
                std::thread::sleep(Duration::from_millis(10));
            }
            listening => return listening,
        }
    }
}

fn listen_http(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).map_err(|error| StartError::Http { key, address, error })
}

fn open_journal(directory: &Path, events: &Events) -> Result<(Journal, Found), StartError> {
    let opened = Journal::open(directory, events.sync, &sink::kept_names(events)).map_err(StartError::Journal)?;
    let damage = opened.1.damage;
    if opened.1.is_damaged() {
        let journal::Damage { bytes, frames, .. } = damage;
        tracing::error!(bytes, frames, "the journal is damaged: what could be read of it is restored");
    }
    if damage.torn > 0 {
        tracing::warn!(bytes = damage.torn, "the journal's end was torn and is cut off: the last write was under way");
    }
    Ok(opened)
}

/// Starts the threads, the supervisor's first, and waits until they are there.
fn supervise(built: Built) -> io::Result<JoinHandle<io::Result<()>>> {
    let (started, is_started) = sync_channel(1);
    let run = move || {
        // The runtime is made and dropped over here, since one must not be dropped inside another.
        let begin = || -> io::Result<_> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let Built { mut supervisor, workers, inlets } = built;
            supervisor.spawn(workers)?;
            Ok((runtime, supervisor, inlets))
        };
        match begin() {
            Ok((runtime, supervisor, inlets)) => {
                drop(started.send(Ok(())));
                tokio::task::LocalSet::new().block_on(&runtime, supervisor.run(inlets))
            }
            Err(error) => {
                drop(started.send(Err(error)));
                Ok(())
            }
        }
    };
    let thread = std::thread::Builder::new().name("supervisor".into()).spawn(run)?;
    is_started.recv().unwrap_or_else(|_| Err(io::Error::other("the supervisor ended before it began")))?;
    Ok(thread)
}
