//! The workers and their supervisor, put together of what is configured and bound.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use mio::{Poll, Registry};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::oneshot;

use super::clock::Clock;
use super::limiter::Limiter;
use super::mail::{Address, Inbox, Post, mailbox};
use super::reload::{ReloadFigures, share_of};
use super::resolve::Resolver;
use super::start::Bind;
use super::supervisor::{Inlets, Report, Supervisor};
use super::worker::{Core, Teller, Worker};
use super::workers::Workers;
use crate::admin::Readiness;
use crate::admin::metrics::Histograms;
use crate::config::{ServerNames, Settings};
use crate::control::Ask;
use crate::endpoint::{Endpoint, Seed};
use crate::policy::{Listener, Policy};
use crate::recent::Recent;
use crate::sink::Sinks;
use crate::sip::Limits;
use crate::transport::{Acceptor, Bound, Connections, LocalAddresses, Names, Seats, UdpPorts, UdpSockets};

/// Header fields of one message.
const MOST_FIELDS: usize = 512;

/// What it takes.
pub(super) struct Parts {
    pub(super) settings: Settings,
    pub(super) bind: Bind,
    pub(super) bound: Bound,
    pub(super) sinks: Sinks,
    pub(super) readiness: Readiness,
    pub(super) recent: Recent,
}

/// Ready to be started.
pub(super) struct Built {
    pub(super) supervisor: Supervisor,
    pub(super) workers: Vec<Worker>,
    pub(super) inlets: Inlets,
}

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
}

/// # Errors
/// Where the system has no descriptors left, or a socket refuses what it needs.
pub(super) fn build(parts: Parts, asks: mpsc::Receiver<Ask>, stopped: oneshot::Receiver<()>) -> io::Result<Built> {
    let Parts { settings, bind, bound, sinks, readiness, recent } = parts;
    let clock = Clock::start();
    let count = settings.workers;
    let listeners = bound.listeners();
    let mut names = ServerNames::default();
    let mut locals = LocalAddresses(listeners.clone());
    let policy = Arc::new(settings.policy(listeners.clone(), &mut locals, &mut names));
    let mut sockets = UdpSockets::new(bound.udp, count)?;
    sockets.follow(&policy);
    let seats = Seats::new(settings.sockets.tcp_connections);
    let (reports, reported) = mpsc::unbounded_channel();
    let mut ends = Vec::new();
    let mut addresses = Vec::new();
    for _ in 0..count {
        let poll = Poll::new()?;
        let (address, inbox) = mailbox(poll.registry())?;
        addresses.push(address);
        ends.push((poll, inbox));
    }
    let common = Common {
        clock,
        key: random_key()?,
        policy: policy.clone(),
        settings: &settings,
        sinks: &sinks,
        sockets: &sockets,
        seats: &seats,
        listeners,
        addresses: addresses.clone(),
        reports,
    };
    let mut workers = Vec::new();
    for (me, (poll, inbox)) in ends.into_iter().enumerate() {
        workers.push(common.worker(me, poll, inbox)?);
    }
    for (at, (socket, listener)) in bound.tcp.into_iter().enumerate() {
        if let Some(worker) = workers.get_mut(at % count) {
            worker.listen(socket, listener)?;
        }
    }
    drop(common);
    let (loads, loaded) = mpsc::unbounded_channel();
    let supervisor = Supervisor {
        workers: Workers(addresses),
        threads: Vec::new(),
        clock,
        reload: ReloadFigures::taken(&clock),
        settings,
        policy,
        bind,
        names,
        locals,
        sockets,
        seats,
        sinks,
        readiness,
        recent,
        resolver: Resolver::new(),
        loads,
        ending: None,
    };
    Ok(Built { supervisor, workers, inlets: Inlets { asks, reports: reported, loaded, stopped } })
}

/// What a message may have, by configuration and by ourselves.
pub(super) fn sip_limits(settings: &Settings) -> Limits {
    Limits { message_bytes: settings.sockets.message_bytes, fields: MOST_FIELDS }
}

impl Common<'_> {
    fn worker(&self, me: usize, poll: Poll, inbox: Inbox) -> io::Result<Worker> {
        let count = self.addresses.len();
        let registry = || -> io::Result<Registry> { poll.registry().try_clone() };
        let limits = sip_limits(self.settings);
        let now = self.clock.now();
        let mut histograms = Histograms::new();
        for server in &self.policy.servers {
            histograms.add_server(&server.name);
        }
        let policy = share_of(&self.policy, me, count);
        let sinks = self.sinks.input().ok_or_else(|| io::Error::other("the sinks are closed"))?;
        Ok(Worker {
            clock: self.clock,
            core: Core {
                endpoint: Endpoint::new(now, Seed { key: self.key }, policy),
                now,
                limits,
                post: Post::new(me, self.addresses.clone(), &self.key),
                messages: 0,
            },
            udp: UdpPorts::new(self.sockets.sources(), me, registry()?)?,
            acceptors: Vec::new(),
            connections: Connections::new(
                limits,
                self.seats.clone(),
                self.listeners.clone(),
                Names::new(me, count),
                registry()?,
            ),
            poll,
            inbox,
            reports: self.reports.clone(),
            teller: Teller { sinks, histograms, mask: self.settings.events.mask.clone() },
            limiter: Limiter::new(),
            failed: Vec::new(),
            deadline: None,
            is_full_of_mail: false,
            ending: None,
            is_over: false,
        })
    }
}

impl Worker {
    fn listen(&mut self, socket: TcpListener, listener: Listener) -> io::Result<()> {
        let index = self.acceptors.len();
        self.acceptors.push(Acceptor::new(socket, listener, index, self.poll.registry())?);
        Ok(())
    }
}

/// The key under which names are derived, from the system's random source.
fn random_key() -> io::Result<[u8; 16]> {
    use std::io::Read;
    let mut key = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    Ok(key)
}
