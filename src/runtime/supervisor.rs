//! The thread beside the workers: signals, questions and commands, names to resolve, reload, the end.
//!
//! It owns what the workers share at the start and changes at a reload, and it is the only one that
//! knows of all of them. Nothing here is on the way of a message.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::build::Birth;
use super::clock::Clock;
use super::mail::Mail;
use super::reload::{Loaded, ReloadFigures, Reloads};
use super::resolve::Resolver;
use super::start::Bind;
use super::systemd::{self, Watchdog};
use super::takeover::{Door, Successor};
use super::worker::Worker;
use super::workers::Workers;
use crate::admin::metrics::Histograms;
use crate::admin::{Readiness, Token};
use crate::config::{ServerNames, Settings};
use crate::control::Ask;
use crate::endpoint::{Input, QueryId};
use crate::policy::Policy;
use crate::recent::Recent;
use crate::sink::Sinks;
use crate::transport::{LocalAddresses, Seats, UdpSockets};

/// After a forced end, for what connections have still to write.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// At the end, for how long sinks may take to write what waits; where the journal keeps all of it.
const FLUSH: Duration = Duration::from_secs(5);
const KEPT_FLUSH: Duration = Duration::from_millis(500);

/// What workers tell.
#[derive(Debug)]
pub(super) enum Report {
    /// A name to look up for a worker.
    Resolve { worker: usize, query: QueryId, name: Box<str> },
    /// Whether nothing is left to do there, once the process is to end.
    Settled { worker: usize, is_settled: bool },
    /// Another process takes the place of this one.
    Takeover(Successor),
    /// It works no more, and was not told to end.
    Ended { worker: usize, why: String },
}

/// Everything that the supervisor is made of.
pub(super) struct Supervisor {
    pub(super) workers: Workers,
    pub(super) reports: UnboundedSender<Report>,
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) clock: Clock,
    pub(super) settings: Settings,
    pub(super) policy: Arc<Policy>,
    pub(super) bind: Bind,
    pub(super) names: ServerNames,
    pub(super) locals: LocalAddresses,
    pub(super) sockets: UdpSockets,
    pub(super) seats: Seats,
    pub(super) sinks: Sinks,
    pub(super) histograms: Histograms,
    pub(super) readiness: Readiness,
    pub(super) recent: Recent,
    pub(super) token: Token,
    pub(super) journal: Option<crate::journal::Running>,
    /// Where another process asks to take over; it is gone with this one.
    pub(super) door: Option<Door>,
    pub(super) successor: Option<Successor>,
    pub(super) listening: Vec<TcpListener>,
    /// Systemd has the sockets too.
    pub(super) sockets_stay: bool,
    pub(super) is_draining: bool,
    pub(super) watchdog: Watchdog,
    pub(super) reload: ReloadFigures,
    pub(super) reloads: Reloads,
    pub(super) resolver: Resolver,
    pub(super) loads: UnboundedSender<Loaded>,
    pub(super) ending: Option<Ending>,
}

/// What comes in from outside and from the workers.
pub(super) struct Inlets {
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) reports: UnboundedReceiver<Report>,
    pub(super) loaded: UnboundedReceiver<Loaded>,
    pub(super) stopped: oneshot::Receiver<()>,
}

/// The process is to end.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    /// Not later than this.
    by: Option<Instant>,
    is_forced: bool,
    /// By worker.
    settled: Vec<bool>,
}

/// Signals that the process answers to; none of them in a demo or a test.
struct Signals {
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
    hangup: Option<Signal>,
}

/// Whether it goes on.
type Verdict = Option<io::Result<()>>;

impl Supervisor {
    /// Starts the workers, each on a thread of its own, and waits until all have restored their calls.
    ///
    /// # Errors
    /// Where no thread can be had; those that were started end.
    pub(super) fn spawn(&mut self, workers: Vec<Birth>) -> io::Result<()> {
        let (born, births) = std::sync::mpsc::channel::<()>();
        for (index, birth) in workers.into_iter().enumerate() {
            let born = born.clone();
            let reports = self.reports.clone();
            let work = move || {
                let work = || {
                    let worker = birth();
                    drop(born);
                    worker.run()
                };
                let why = match catch_unwind(AssertUnwindSafe(work)) {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "it has panicked".to_owned(),
                };
                // Nobody listens once everything ends.
                drop(reports.send(Report::Ended { worker: index, why }));
            };
            match std::thread::Builder::new().name(format!("sip-{index}")).spawn(work) {
                Ok(thread) => self.threads.push(thread),
                Err(error) => {
                    self.workers.end();
                    return Err(error);
                }
            }
        }
        drop(born);
        // Nothing is ever sent: this ends when all have dropped their end. Who has failed at it is reported.
        let _ = births.recv();
        Ok(())
    }

    /// Until a signal, a command or the last call of a drain ends it.
    ///
    /// # Errors
    /// A worker that has failed.
    pub(super) async fn run(mut self, mut inlets: Inlets) -> io::Result<()> {
        let mut signals = Signals::new(self.bind.handles_signals)?;
        let ended = loop {
            if let Some(ended) = self.step(&mut inlets, &mut signals).await {
                break ended;
            }
        };
        self.workers.end();
        for thread in std::mem::take(&mut self.threads) {
            // Its panic has been reported.
            drop(thread.join());
        }
        // What is left in a journal is delivered after the next start.
        let kept = if self.is_kept() { KEPT_FLUSH } else { FLUSH };
        let left = self.sinks.close(kept, FLUSH);
        if left > 0 {
            tracing::error!(events = left, "events could not be written before the end");
        }
        // From here on the next process may have the journal, and a door of its own.
        drop(self.door);
        if let Some(journal) = self.journal {
            journal.close();
        }
        if let Some(successor) = self.successor {
            let datagrams = self.sockets.sources().iter().filter_map(|source| source.socket.try_clone().ok());
            let sockets =
                datagrams.map(OwnedFd::from).chain(self.listening.into_iter().map(OwnedFd::from)).collect::<Vec<_>>();
            drop(self.sockets);
            let count = sockets.len();
            match successor.give(sockets) {
                Ok(()) => tracing::info!(sockets = count, "handed over"),
                Err(error) => {
                    tracing::error!(%error, "who wanted to take over is gone; calls go on after the next start");
                }
            }
        }
        self.recent.close();
        tracing::info!("ended");
        ended
    }

    async fn step(&mut self, inlets: &mut Inlets, signals: &mut Signals) -> Verdict {
        let deadline = self.ending.as_ref().and_then(|ending| ending.by);
        let is_forced = self.ending.as_ref().is_some_and(|ending| ending.is_forced);
        tokio::select! {
            biased;
            Some(()) = received(&mut signals.terminate) => return self.on_terminate().await,
            Some(()) = received(&mut signals.interrupt) => return self.on_terminate().await,
            Some(()) = received(&mut signals.hangup) => {
                self.sinks.reopen();
                self.begin_reload(None);
            }
            _ = &mut inlets.stopped, if !is_forced => self.force_end().await,
            Some(report) = inlets.reports.recv() => return self.on_report(report).await,
            Some(loaded) = inlets.loaded.recv() => self.on_loaded(loaded).await,
            Some(ask) = inlets.asks.recv() => self.on_ask(ask).await,
            () = self.watchdog.due() => {
                let alive = self.workers.ask(|_| ()).await.into_iter().flatten().count();
                self.watchdog.tell(alive == self.workers.count());
            }
            () = until(deadline) => {
                if is_forced {
                    return Some(Ok(()));
                }
                self.force_end().await;
            }
        }
        None
    }

    async fn on_report(&mut self, report: Report) -> Verdict {
        match report {
            Report::Resolve { worker, query, name } => {
                let (resolver, workers) = (self.resolver.clone(), self.workers.clone());
                let clock = self.clock;
                spawn_local(async move {
                    let addresses = resolver.look_up(name).await;
                    workers.post(worker, Mail::Inputs(vec![Input::Resolved { query, addresses }], clock.mono()));
                });
            }
            Report::Settled { worker, is_settled } => {
                let ending = self.ending.as_mut()?;
                if let Some(of_worker) = ending.settled.get_mut(worker) {
                    *of_worker = is_settled;
                }
                let is_over = !ending.is_forced && ending.settled.iter().all(|is_settled| *is_settled);
                return is_over.then_some(Ok(()));
            }
            Report::Takeover(successor) if !self.come_to_rest().await => {
                tracing::warn!("not handed over: the journal cannot be written, and open calls would be lost");
                successor.refuse("its journal cannot be written, and open calls would be lost: see its log, make room or mend the disk");
            }
            Report::Takeover(successor) => {
                tracing::info!("another process takes over");
                self.readiness.set_draining();
                self.successor = Some(successor);
                return Some(Ok(()));
            }
            Report::Ended { worker, why } => {
                tracing::error!(worker, why, "a worker has failed: the process ends");
                return Some(Err(io::Error::other(format!("worker {worker}: {why}"))));
            }
        }
        None
    }

    /// No new calls from here on.
    pub(super) async fn drain(&mut self) {
        self.is_draining = true;
        self.readiness.set_draining();
        let calls = self.workers.ask(|worker| {
            worker.handle(Input::Drain);
            worker.core.endpoint.active_calls()
        });
        let calls = calls.await.into_iter().flatten().sum::<usize>();
        tracing::info!(calls, "draining: no new calls");
    }

    async fn on_terminate(&mut self) -> Verdict {
        if self.ending.is_some() {
            self.force_end().await;
            return None;
        }
        if self.sockets_stay && !self.is_draining && self.leave().await {
            return Some(Ok(()));
        }
        let by = self.bind.drain_timeout.map(|timeout| Instant::now() + timeout);
        systemd::tell_stopping();
        self.ending = Some(Ending { by, is_forced: false, settled: vec![false; self.workers.count()] });
        self.drain().await;
        self.workers.tell(|worker| worker.ending = Some(Default::default()));
        None
    }

    /// Leaves open calls to the journal, and what comes to the sockets. False where the journal cannot be relied upon.
    async fn leave(&mut self) -> bool {
        if !self.is_kept() {
            return false;
        }
        // Nobody else has the connected sockets.
        self.sockets.disconnect();
        let sources = self.sockets.sources().to_vec();
        self.workers.ask(move |worker| worker.follow(&sources)).await;
        if !self.come_to_rest().await {
            return false;
        }
        systemd::tell_stopping();
        self.readiness.set_draining();
        tracing::info!("open calls are left to the next start");
        true
    }

    /// Has the workers read no more and do all that follows from what they have read, so that nothing is lost between
    /// them when they end. False where open calls would not outlive the process: everything goes on then.
    async fn come_to_rest(&self) -> bool {
        if !self.is_kept() {
            return false;
        }
        self.workers.ask(|worker| worker.is_reading = false).await;
        // What one has read for another is in that one's mail by now: it is taken in the first round. What that one then
        // sends by the other's connections is with it in the next.
        let until = Instant::now() + LAST_WORDS;
        for round in 0_u32.. {
            let is_flushed = |worker: &mut Worker| worker.udp.is_flushed() && worker.connections.is_idle();
            let is_at_rest = self.workers.ask(is_flushed).await.into_iter().all(|at_rest| at_rest.unwrap_or(true));
            if round >= 2 && (is_at_rest || Instant::now() >= until) {
                break;
            }
            if round >= 2 {
                // Only the kernel knows when a socket has room again.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let is_kept = self.is_kept();
        if !is_kept {
            self.workers.tell(|worker| worker.is_reading = true);
        }
        is_kept
    }

    /// Whether open calls outlive the process.
    fn is_kept(&self) -> bool {
        self.journal.as_ref().is_some_and(crate::journal::Running::is_sound)
    }

    async fn force_end(&mut self) {
        if self.ending.as_ref().is_some_and(|ending| ending.is_forced) {
            return;
        }
        self.readiness.set_draining();
        self.ending = Some(Ending { by: Some(Instant::now() + LAST_WORDS), is_forced: true, settled: Vec::new() });
        let is_kept = self.is_kept();
        let calls = self.workers.ask(move |worker| {
            let calls = worker.core.endpoint.active_calls();
            // What the journal has goes on after the next start: nobody is told anything.
            if !is_kept {
                worker.handle(Input::Stop);
            }
            calls
        });
        let calls = calls.await.into_iter().flatten().sum::<usize>();
        if is_kept {
            tracing::info!(calls, "open calls are left to the next start");
        } else {
            tracing::warn!(calls, "open calls are given up");
        }
    }
}

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

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
