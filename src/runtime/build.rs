//! The workers and their supervisor, put together of what is configured and bound.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use mio::Poll;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::oneshot;

use super::clock::Clock;
use super::gate::{Gate, Peers};
use super::limiter::{FEW_LINES, Limiter, MANY_LINES};
use super::mail::{Address, Inbox, Mail, Post, mailbox};
use super::reload::{ReloadFigures, Reloads, share_of};
use super::resolve::Resolver;
use super::start::Bind;
use super::supervisor::{Inlets, Report, Supervisor};
use super::systemd::Watchdog;
use super::takeover::Door;
use super::worker::{Core, Worker};
use super::workers::Workers;
use crate::admin::metrics::{Histograms, Processing};
use crate::admin::{Readiness, Token};
use crate::config::{ServerNames, Settings};
use crate::control::Ask;
use crate::endpoint::{Endpoint, Restored, Seed, Stored};
use crate::event::CallState;
use crate::flow::Transport;
use crate::journal::{self, Found, Journal, Writer};
use crate::policy::{Listener, Policy};
use crate::recent::Recent;
use crate::sink::Sinks;
use crate::sip::{Limits, Message};
use crate::time::Mono;
use crate::transport::{
    Acceptor, Bound, Connections, Inherited, LocalAddresses, Names, SeatLimits, Seats, Steering, UdpPorts, UdpSockets,
};

/// What it takes.
pub(super) struct Parts {
    pub(super) settings: Settings,
    pub(super) bind: Bind,
    pub(super) bound: Bound,
    pub(super) sinks: Sinks,
    pub(super) histograms: Histograms,
    pub(super) readiness: Readiness,
    pub(super) recent: Recent,
    pub(super) token: Token,
    pub(super) journal: Option<(Journal, Found)>,
    pub(super) inherited: Inherited,
    /// What listens beside the sockets for datagrams.
    pub(super) listening: Vec<TcpListener>,
    /// Somebody else, systemd, has the sockets for SIP too, and hands them to the next process.
    pub(super) sockets_stay: bool,
}

/// Ready to be started.
pub(super) struct Built {
    pub(super) supervisor: Supervisor,
    pub(super) workers: Vec<Birth>,
    pub(super) inlets: Inlets,
}

/// Makes a worker on its own thread, which it never leaves: nothing can fail there.
pub(super) type Birth = Box<dyn FnOnce() -> Worker + Send>;

/// What all workers are made of.
struct Common<'a> {
    clock: Clock,
    key: [u8; 16],
    policy: Arc<Policy>,
    settings: &'a Settings,
    sinks: &'a Sinks,
    sockets: &'a UdpSockets,
    seats: &'a Seats,
    listeners: Vec<Listener>,
    addresses: Vec<Address>,
    reports: UnboundedSender<Report>,
    peers: Peers,
}

/// # Errors
/// Where the system has no descriptors left, or a socket refuses what it needs.
pub(super) fn build(parts: Parts, asks: mpsc::Receiver<Ask>, stopped: oneshot::Receiver<()>) -> io::Result<Built> {
    let Parts {
        settings,
        bind,
        bound,
        mut sinks,
        histograms,
        readiness,
        recent,
        token,
        journal,
        mut inherited,
        listening,
        sockets_stay,
    } = parts;
    let clock = Clock::start();
    let count = settings.workers;
    let listeners = bound.listeners();
    let mut names = ServerNames::default();
    let mut locals = LocalAddresses(listeners.clone());
    let policy = Arc::new(settings.policy(listeners.clone(), &mut locals, &mut names));
    for server in &policy.servers {
        histograms.add_server(server.id, &server.name);
    }
    let seats = Seats::new(seats_of(&settings));
    let (reports, reported) = mpsc::unbounded_channel();
    let mut ends = Vec::new();
    let mut addresses = Vec::new();
    for _ in 0..count {
        let poll = Poll::new()?;
        let (address, inbox) = mailbox(poll.registry())?;
        addresses.push(address);
        ends.push((poll, inbox));
    }
    let (mut journal, found) = journal.unzip();
    let key = match &found {
        Some(found) => found.key,
        None => journal::random_key()?,
    };
    let mut sockets = UdpSockets::new(bound.udp, count, Steering::new(&key))?;
    sockets.follow(&policy, &mut inherited);
    drop(inherited);
    let post = Post::new(0, addresses.clone(), &key);
    let stored = found.map(Found::into_stored).unwrap_or_default();
    // A peer that is back may be that of any worker's call, whoever reads it.
    let is_restored = !stored.calls.is_empty();
    let mut stored = stored.split(count, |call_id| post.of_call(call_id)).into_iter();
    let common = Common {
        clock,
        key,
        policy: policy.clone(),
        settings: &settings,
        sinks: &sinks,
        sockets: &sockets,
        seats: &seats,
        listeners,
        addresses: addresses.clone(),
        reports: reports.clone(),
        peers: Peers::new(),
    };
    let mut workers = Vec::new();
    for (me, (poll, inbox)) in ends.into_iter().enumerate() {
        let mut acceptors = Vec::new();
        for (socket, listener) in bound.tcp.iter().skip(me).step_by(count) {
            acceptors.push(Acceptor::new(socket.try_clone()?, *listener, acceptors.len(), poll.registry())?);
        }
        let journal = journal.as_mut().map(Journal::writer).transpose()?;
        let stored = stored.next().unwrap_or_default();
        workers.push(common.worker(me, poll, inbox, acceptors, (journal, stored, is_restored))?);
    }
    drop(common);
    let door = match &journal {
        Some(journal) => {
            let datagrams = sockets.sources().iter().map(|source| (Transport::Udp, source.socket.local_addr()));
            let streams = listening.iter().map(|socket| (Transport::Tcp, socket.local_addr()));
            let holds = datagrams.chain(streams).filter_map(|(transport, address)| Some((transport, address.ok()?)));
            Some(Door::open(journal.directory(), &holds.collect::<Vec<_>>(), reports.clone())?)
        }
        None => None,
    };
    let late = journal.as_mut().map(Journal::late).transpose()?;
    let wake_sinks = sinks.start(late)?;
    let wake = {
        let addresses = addresses.clone();
        move |writer: usize| match addresses.get(writer) {
            Some(address) => {
                // A turn is all that it takes. False once everything ends.
                address.post(Mail::Job(Box::new(|_| {})));
            }
            None => wake_sinks(),
        }
    };
    let journal = journal.map(|journal| journal.start(wake)).transpose()?;
    let (loads, loaded) = mpsc::unbounded_channel();
    let supervisor = Supervisor {
        workers: Workers(addresses),
        reports,
        threads: Vec::new(),
        clock,
        reload: ReloadFigures::taken(&clock),
        reloads: Reloads::default(),
        settings,
        policy,
        bind,
        names,
        locals,
        sockets,
        seats,
        sinks,
        histograms,
        readiness,
        recent,
        token,
        journal,
        door,
        successor: None,
        listening,
        sockets_stay,
        is_draining: false,
        watchdog: Watchdog::new(),
        resolver: Resolver::new(),
        loads,
        ending: None,
    };
    Ok(Built { supervisor, workers, inlets: Inlets { asks, reports: reported, loaded, stopped } })
}

/// What a message may have, by configuration and by ourselves.
pub(super) fn sip_limits(settings: &Settings) -> Limits {
    Limits::standard(settings.sockets.message_bytes)
}

/// How many connections there may be.
pub(super) fn seats_of(settings: &Settings) -> SeatLimits {
    let sockets = &settings.sockets;
    SeatLimits { all: sockets.tcp_connections, of_one: sockets.tcp_connections_per_source }
}

impl Common<'_> {
    fn worker(
        &self,
        me: usize,
        poll: Poll,
        inbox: Inbox,
        acceptors: Vec<Acceptor>,
        (journal, stored, is_restored): (Option<Writer>, Stored, bool),
    ) -> io::Result<Birth> {
        let count = self.addresses.len();
        let (clock, key, limits) = (self.clock, self.key, sip_limits(self.settings));
        let peers = self.peers.clone();
        let policy = share_of(&self.policy, me, count);
        let post = Post::new(me, self.addresses.clone(), &key);
        let events = self.sinks.input().ok_or_else(|| io::Error::other("the sinks are closed"))?;
        let reports = self.reports.clone();
        let udp = UdpPorts::new(self.sockets.sources(), me, poll.registry().try_clone()?)?;
        let (names, registry) = (Names::new(me, count), poll.registry().try_clone()?);
        let mut connections = Connections::new(limits, self.seats.clone(), self.listeners.clone(), names, registry);
        connections.set_idle(self.settings.sockets.tcp_idle);
        Ok(Box::new(move || {
            let now = clock.now();
            let mut endpoint = Endpoint::new(now, Seed { key }, policy);
            if journal.is_some() {
                endpoint.keep_records();
                let restored = endpoint.restore(now, &stored);
                tell(me, &restored);
            }
            Worker {
                poll,
                clock,
                core: Core {
                    endpoint,
                    now,
                    limits,
                    message: Message::default(),
                    gate: Gate::new(peers),
                    post,
                    is_restored,
                    is_swamped: false,
                    offered: 0,
                    unread: 0,
                    handled: 0,
                },
                udp,
                acceptors,
                connections,
                inbox,
                reports,
                events,
                journal,
                told: Vec::new(),
                processing: Processing::new(),
                limiter: Limiter::new(MANY_LINES),
                stranger_limiter: Limiter::new(MANY_LINES),
                flood_limiter: Limiter::new(FEW_LINES),
                overload_line_at: Mono::default(),
                waited: Duration::ZERO,
                overloads: 0,
                failed: Vec::new(),
                deadline: None,
                seen: clock.mono(),
                is_full_of_mail: false,
                is_storing: false,
                ending: None,
                is_reading: true,
                is_over: false,
            }
        }))
    }
}

fn tell(worker: usize, restored: &Restored) {
    let Restored { calls, ended, unreadable } = restored;
    let of = |state: CallState| calls.get(state.index()).copied().unwrap_or(0);
    let (setup, ringing, answered) = (of(CallState::Setup), of(CallState::Ringing), of(CallState::Answered));
    if setup + ringing + answered + ended > 0 {
        tracing::info!(worker, setup, ringing, answered, ended, "calls restored");
    }
    if *unreadable > 0 {
        tracing::error!(worker, unreadable, "states in the journal could not be read");
    }
}
