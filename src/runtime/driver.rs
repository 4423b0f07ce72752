//! The loop: what has come is read, the core decides, what it wants done is done.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;

use super::clock::Clock;
use super::limiter::Limiter;
use super::resolve::Resolver;
use super::start::Bind;
use crate::admin::Readiness;
use crate::admin::metrics::Histograms;
use crate::config::{ServerNames, Settings};
use crate::control::Ask;
use crate::endpoint::{Endpoint, Input, Notice, Output, QueryId, Seed, Transmit};
use crate::flow::{Flow, Transport};
use crate::recent::Recent;
use crate::sink::Sinks;
use crate::sip::{Limits, Message};
use crate::transport::{Bound, Connections, LocalAddresses, TcpEvent, UdpPort, Unreachable, accept, watch};

/// Events of connections that are treated before anything else gets its turn.
const BATCH: usize = 64;
/// Events of connections that may wait for the loop; readers stop reading beyond it.
const TCP_EVENTS: usize = 1024;
/// Header fields of one message.
const MOST_FIELDS: usize = 512;
/// A datagram that keeps a NAT binding open has at most this many bytes (RFC 5626 §3.5.1 and what phones send).
const KEEP_ALIVE: usize = 4;

/// Everything that the loop is made of.
pub(super) struct DriverParts {
    pub settings: Settings,
    pub bind: Bind,
    pub bound: Bound,
    pub sinks: Sinks,
    pub histograms: Histograms,
    pub inbox: mpsc::Receiver<Ask>,
    pub stopped: oneshot::Receiver<()>,
    pub readiness: Readiness,
    pub recent: Recent,
}

/// The loop of the thread "sip".
pub(super) struct Driver {
    pub(super) clock: Clock,
    pub(super) endpoint: Endpoint,
    pub(super) settings: Settings,
    pub(super) bind: Bind,
    pub(super) names: ServerNames,
    pub(super) locals: LocalAddresses,
    pub(super) limits: Limits,
    pub(super) udp: Vec<UdpPort>,
    pub(super) connections: Connections,
    tcp_events: mpsc::Receiver<TcpEvent>,
    unreachable: mpsc::Receiver<Unreachable>,
    resolver: Resolver,
    resolved: mpsc::UnboundedReceiver<(QueryId, Vec<std::net::IpAddr>)>,
    pub(super) loads: mpsc::UnboundedSender<Loaded>,
    loaded: mpsc::UnboundedReceiver<Loaded>,
    inbox: mpsc::Receiver<Ask>,
    stopped: oneshot::Receiver<()>,
    sinks: Sinks,
    pub(super) histograms: Histograms,
    readiness: Readiness,
    recent: Recent,
    limiter: Limiter,
    /// Failures of sends, to be told after the outputs are drained.
    failed: Vec<crate::endpoint::Owner>,
    deadline: Option<crate::time::Mono>,
    pub(super) reload: ReloadFigures,
    ending: Ending,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ReloadFigures {
    pub(super) successful: bool,
    /// Seconds since the epoch.
    pub(super) at: u64,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, Default)]
struct Ending {
    /// The process ends when the last call has.
    is_wanted: bool,
    /// Not later than this.
    by: Option<Instant>,
    /// After the last call, how long its last responses may take to arrive.
    settle_by: Option<Instant>,
    is_forced: bool,
}

/// A configuration that was read, and who asked for it.
pub(super) struct Loaded {
    pub(super) settings: Result<Settings, String>,
    pub(super) reply: Option<oneshot::Sender<Result<(), String>>>,
}

/// What woke the loop.
enum Wake {
    Udp,
    Tcp(TcpEvent),
    Unreachable(Unreachable),
    Resolved(QueryId, Vec<std::net::IpAddr>),
    Ask(Ask),
    Terminate,
    Hangup,
    Loaded(Box<Loaded>),
    Stop,
    Deadline,
}

/// Signals that the process answers to; none of them in a demo or a test.
struct Signals {
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
    hangup: Option<Signal>,
}

impl Driver {
    /// # Errors
    /// Where a socket cannot be given to the runtime.
    pub(super) fn new(parts: DriverParts) -> io::Result<Driver> {
        let DriverParts { settings, bind, bound, sinks, histograms, inbox, stopped, readiness, recent } = parts;
        let clock = Clock::start();
        let listeners = bound.listeners();
        let limits = Limits { message_bytes: settings.sockets.message_bytes, fields: MOST_FIELDS };
        let (icmp, unreachable) = mpsc::channel(TCP_EVENTS);
        let mut udp = Vec::new();
        for (socket, listener) in bound.udp {
            let port = UdpPort::new(socket, listener)?;
            spawn_local(watch(port.socket.clone(), icmp.clone()));
            udp.push(port);
        }
        let (events, tcp_events) = mpsc::channel(TCP_EVENTS);
        for (listener, of) in bound.tcp {
            spawn_local(accept(tokio::net::TcpListener::from_std(listener)?, of, events.clone()));
        }
        let connections = Connections::new(limits, settings.sockets.tcp_connections, listeners.clone(), events);
        let (answers, resolved) = mpsc::unbounded_channel();
        let (loads, loaded) = mpsc::unbounded_channel();
        let mut names = ServerNames::default();
        let mut locals = LocalAddresses(listeners.clone());
        let policy = Arc::new(settings.policy(listeners, &mut locals, &mut names));
        for server in &policy.servers {
            histograms.add_server(server.id, &server.name);
        }
        let now = clock.now();
        let reload = ReloadFigures { successful: true, at: seconds(now.wall) };
        Ok(Driver {
            endpoint: Endpoint::new(now, Seed { key: random_key()? }, policy),
            clock,
            settings,
            bind,
            names,
            locals,
            limits,
            udp,
            connections,
            tcp_events,
            unreachable,
            resolver: Resolver::new(answers),
            resolved,
            loads,
            loaded,
            inbox,
            stopped,
            sinks,
            histograms,
            readiness,
            recent,
            limiter: Limiter::new(),
            failed: Vec::new(),
            deadline: None,
            reload,
            ending: Ending::default(),
        })
    }

    /// Runs until a signal, a command or the last call of a drain ends it.
    ///
    /// # Errors
    /// None that a message could cause: only the runtime's own.
    pub(super) async fn run(mut self) -> io::Result<()> {
        let mut signals = Signals::new(self.bind.handles_signals)?;
        self.drain_outputs();
        while !self.is_over() {
            let wake = self.wait(&mut signals).await;
            let begun = Instant::now();
            let messages = self.on_wake(wake);
            self.drain_outputs();
            if messages > 0 {
                self.histograms.processing(begun.elapsed().as_secs_f64() / messages as f64, messages);
            }
        }
        let left = self.sinks.close();
        if left > 0 {
            tracing::error!(events = left, "events could not be written before the end");
        }
        self.recent.close();
        tracing::info!("ended");
        Ok(())
    }

    async fn wait(&mut self, signals: &mut Signals) -> Wake {
        let deadline = self.deadline.map(|deadline| self.clock.instant(deadline));
        // Connections say nothing when they have written all.
        let last_words =
            (self.ending.is_wanted && self.endpoint.active_calls() == 0).then(|| Instant::now() + LAST_LOOK);
        let deadline = [deadline, self.ending.by, last_words].into_iter().flatten().min();
        let udp = &mut self.udp;
        let any_udp = poll_fn(|cx| {
            let mut is_ready = false;
            for port in udp.iter_mut() {
                is_ready |= port.poll_flushable(cx).is_ready() | port.poll_readable(cx).is_ready();
            }
            if is_ready { Poll::Ready(()) } else { Poll::Pending }
        });
        let sleep = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(()) = received(&mut signals.terminate) => Wake::Terminate,
            Some(()) = received(&mut signals.interrupt) => Wake::Terminate,
            Some(()) = received(&mut signals.hangup) => Wake::Hangup,
            _ = &mut self.stopped, if !self.ending.is_forced => Wake::Stop,
            Some(ask) = self.inbox.recv() => Wake::Ask(ask),
            Some((query, addresses)) = self.resolved.recv() => Wake::Resolved(query, addresses),
            Some(unreachable) = self.unreachable.recv() => Wake::Unreachable(unreachable),
            Some(loaded) = self.loaded.recv() => Wake::Loaded(Box::new(loaded)),
            () = any_udp => Wake::Udp,
            Some(event) = self.tcp_events.recv() => Wake::Tcp(event),
            () = sleep => Wake::Deadline,
        }
    }

    /// Returns how many messages were read.
    fn on_wake(&mut self, wake: Wake) -> usize {
        match wake {
            Wake::Udp => {
                // However many datagrams there are, connections get their turn.
                let messages = self.read_datagrams();
                let waiting = self.tcp_events.try_recv().ok();
                return messages + waiting.map_or(0, |event| self.read_events(event));
            }
            Wake::Tcp(event) => return self.read_events(event),
            Wake::Unreachable(Unreachable { remote, quoted }) => self.handle(Input::Unreachable { remote, quoted }),
            Wake::Resolved(query, addresses) => self.handle(Input::Resolved { query, addresses }),
            Wake::Ask(ask) => self.on_ask(ask),
            Wake::Terminate => self.on_terminate(),
            Wake::Stop => self.force_end(),
            Wake::Hangup => {
                self.sinks.reopen();
                self.begin_reload(None);
            }
            Wake::Loaded(loaded) => self.on_loaded(*loaded),
            Wake::Deadline => self.handle(Input::Timeout),
        }
        0
    }

    fn read_datagrams(&mut self) -> usize {
        let now = self.clock.now();
        let mut messages = 0;
        let (endpoint, limits) = (&mut self.endpoint, &self.limits);
        for port in &mut self.udp {
            port.receive(|datagram| {
                if datagram.bytes.len() > KEEP_ALIVE {
                    messages += 1;
                    endpoint.handle(now, read(datagram.flow, datagram.bytes, limits));
                }
            });
        }
        messages
    }

    /// One event, and those that wait behind it, up to a batch.
    fn read_events(&mut self, first: TcpEvent) -> usize {
        let now = self.clock.now();
        let mut messages = 0;
        let mut next = Some(first);
        for turn in 1..=BATCH {
            let Some(event) = next.take() else { break };
            match event {
                TcpEvent::Message { flow, bytes } => {
                    messages += 1;
                    self.endpoint.handle(now, read(flow, bytes, &self.limits));
                }
                TcpEvent::Broken { flow, error } => {
                    self.endpoint.handle(now, Input::Broken { flow, rejected: Box::new(error.into_rejected()) });
                    self.drain_outputs();
                    self.connections.close(flow.connection);
                }
                TcpEvent::Accepted { stream, remote, listener } => {
                    if !self.connections.on_accepted(stream, remote, listener) {
                        self.warn_of(remote.ip(), "connection refused: limits.tcp_connections is reached");
                    }
                }
                TcpEvent::Connected { remote, stream } => {
                    self.failed.extend(self.connections.on_connected(remote, stream));
                }
                TcpEvent::Closed(id) => self.connections.on_closed(id),
                TcpEvent::Unsent(owner) => self.failed.push(owner),
            }
            // What is not taken out here waits for the next turn.
            next = if turn < BATCH { self.tcp_events.try_recv().ok() } else { None };
        }
        messages
    }

    pub(super) fn handle(&mut self, input: Input) {
        self.endpoint.handle(self.clock.now(), input);
    }

    fn drain_outputs(&mut self) {
        loop {
            match self.endpoint.poll_output() {
                Output::Transmit(transmit) => self.send(transmit),
                Output::Resolve { query, name } => self.resolver.look_up(query, name),
                Output::Event(event) => self.sinks.push(event),
                Output::Notice(notice) => self.note(&notice),
                Output::Idle { deadline } => {
                    self.deadline = deadline;
                    self.flush();
                    if self.failed.is_empty() {
                        return;
                    }
                    for owner in std::mem::take(&mut self.failed) {
                        self.handle(Input::TransportFailed { owner });
                    }
                }
            }
        }
    }

    fn send(&mut self, transmit: Transmit) {
        let owner = transmit.owner;
        match transmit.hop.transport {
            Transport::Tcp => self.failed.extend(self.connections.send(transmit)),
            Transport::Udp => {
                let hop = transmit.hop;
                let of_family = |port: &&mut UdpPort| port.listener.bound.is_ipv4() == hop.remote.is_ipv4();
                let exact = |port: &UdpPort| {
                    port.listener.bound.port() == hop.local.port()
                        && (port.listener.bound.ip() == hop.local.ip() || port.listener.bound.ip().is_unspecified())
                };
                let at = self.udp.iter().position(exact);
                let port = match at {
                    Some(at) => self.udp.get_mut(at),
                    None => self.udp.iter_mut().find(of_family),
                };
                match port {
                    Some(port) => port.enqueue(hop, transmit.bytes, owner),
                    None => self.failed.extend(owner),
                }
            }
        }
    }

    /// Sends the datagrams of this turn.
    fn flush(&mut self) {
        for port in &mut self.udp {
            port.flush(|refusal| {
                tracing::debug!(error = %refusal.error, remote = %refusal.remote, "datagram not sent");
                self.failed.extend(refusal.owner);
            });
        }
    }

    fn note(&mut self, notice: &Notice) {
        if let Some(suppressed) = self.limiter.admit(notice.remote.ip(), Instant::now()) {
            let Notice { remote, reason, detail } = notice;
            tracing::warn!(%remote, reason, detail, suppressed, "message refused");
        }
    }

    fn warn_of(&mut self, source: std::net::IpAddr, what: &str) {
        if let Some(suppressed) = self.limiter.admit(source, Instant::now()) {
            tracing::warn!(remote = %source, suppressed, "{what}");
        }
    }

    // -- the end --------------------------------------------------------------------------------

    pub(super) fn drain(&mut self) {
        self.readiness.set_draining();
        self.handle(Input::Drain);
        tracing::info!(calls = self.endpoint.active_calls(), "draining: no new calls");
    }

    fn on_terminate(&mut self) {
        if self.ending.is_wanted {
            return self.force_end();
        }
        self.ending.is_wanted = true;
        self.ending.by = self.bind.drain_timeout.map(|timeout| Instant::now() + timeout);
        self.drain();
    }

    fn force_end(&mut self) {
        if self.ending.is_forced {
            return;
        }
        tracing::warn!(calls = self.endpoint.active_calls(), "open calls are given up");
        self.ending =
            Ending { is_wanted: true, by: Some(Instant::now() + LAST_WORDS), is_forced: true, settle_by: None };
        self.readiness.set_draining();
        self.handle(Input::Stop);
    }

    fn is_over(&mut self) -> bool {
        let is_late = self.ending.by.is_some_and(|by| Instant::now() >= by);
        if is_late && !self.ending.is_forced {
            self.force_end();
            self.drain_outputs();
            return false;
        }
        if !self.ending.is_wanted || self.ending.is_forced || self.endpoint.active_calls() > 0 {
            return self.ending.is_wanted && is_late;
        }
        let patience = *self.ending.settle_by.get_or_insert_with(|| Instant::now() + SETTLE_TIMEOUT);
        let is_settled = !self.endpoint.awaits_ack() && self.connections.is_idle();
        is_settled || Instant::now() >= patience
    }
}

/// After the last call of a drain, for its final response to be acknowledged (64·T1 at most) and written.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(35);
/// At the end, between looks at whether everything is written.
const LAST_LOOK: Duration = Duration::from_millis(10);
/// After a forced end, for what connections have still to write.
const LAST_WORDS: Duration = Duration::from_millis(200);

impl Signals {
    fn new(wanted: bool) -> io::Result<Signals> {
        let open = |kind| if wanted { signal(kind).map(Some) } else { Ok(None) };
        Ok(Signals {
            terminate: open(SignalKind::terminate())?,
            interrupt: open(SignalKind::interrupt())?,
            hangup: open(SignalKind::hangup())?,
        })
    }
}

/// The next signal; never, where it is not listened to.
async fn received(signal: &mut Option<Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}

fn read(flow: Flow, bytes: bytes::Bytes, limits: &Limits) -> Input {
    match Message::parse(bytes, limits) {
        Ok(message) => Input::Message { flow, message },
        Err(rejected) => Input::Broken { flow, rejected },
    }
}

pub(super) fn seconds(wall: crate::time::Wall) -> u64 {
    u64::try_from(wall.0.div_euclid(1_000_000)).unwrap_or(0)
}

/// The key under which names are derived, from the system's random source.
fn random_key() -> io::Result<[u8; 16]> {
    use std::io::Read;
    let mut key = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    Ok(key)
}
