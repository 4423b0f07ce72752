//! The loop: what is due, what has arrived, what is to be sent.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use serde::Serialize;
use serde_json::{Map, Value};
use smallvec::SmallVec;

use super::calls::{Calls, Dialer, Hold};
use super::check::{Checker, Profile};
use super::dialer::End;
use super::histogram::{Histogram, Percentiles};
use super::lanes::{Due, Lanes, Waits};
use super::messages::{Addresses, Messages};
use super::tally::{Fault, Tally};
use super::wire::{Inbox, Wire, wall};

/// Batches that are read of a connection before something else gets its turn.
const BATCHES: usize = 8;

/// What does not change during a run.
#[derive(Debug, Clone)]
pub struct Settings {
    pub device: SocketAddr,
    pub dialer: SocketAddr,
    pub server: SocketAddr,
    pub is_tcp: bool,
    pub profile: Profile,
    pub waits: Waits,
    pub series: u32,
}

/// Calls that are to be made, or ended.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub work: Work,
    pub calls: u64,
    /// Per second; evenly spaced.
    pub rate: f64,
    /// Time after the last call's turn in which all have to be done.
    pub drain: Duration,
}

/// What is done in a call's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// It begins.
    Begin(Hold),
    /// The call that is held longest goes on: is answered where it rings, and hung up. Nothing where none is held.
    Release,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    #[serde(flatten)]
    pub tally: Tally,
    pub faults: Map<String, Value>,
    pub seconds: f64,
    /// From the INVITE's departure to the kernel's receive timestamp at the server, in µs.
    pub invite_delay: Percentiles,
    /// The same for the 200, at the dialer.
    pub answer_delay: Percentiles,
    /// How much later than planned calls began, in µs: of the generator's own making.
    pub lateness: Percentiles,
}

/// Both ends of all calls.
#[derive(Debug)]
pub struct Load {
    pub(super) is_tcp: bool,
    pub(super) messages: Messages,
    pub(super) checker: Checker,
    pub(super) calls: Calls,
    pub(super) lanes: Lanes,
    pub(super) dialer: Wire,
    pub(super) server: Wire,
    pub(super) tally: Tally,
    pub(super) invite_delay: Histogram,
    pub(super) answer_delay: Histogram,
    /// Calls of this step that are not done.
    pub(super) awaited: u64,
    /// Calls that stay as they are, in the order in which they came to it.
    pub(super) held: VecDeque<u32>,
    pub(super) scratch: Vec<u8>,
    lateness: Histogram,
    inbox: Inbox,
    ends: [SocketAddr; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Dialer,
    Server,
}

impl Load {
    /// # Errors
    /// Where an address cannot be had, or by TCP the device does not take the connection.
    pub fn new(settings: &Settings) -> io::Result<Load> {
        let &Settings { device, is_tcp, profile, waits, series, .. } = settings;
        let server = Wire::serve(settings.server, device, is_tcp)?;
        let dialer = Wire::dial(settings.dialer, device, is_tcp)?;
        let addresses = Addresses { device, dialer: dialer.local()?, server: server.local()?, is_tcp, series };
        let messages = Messages::new(&addresses);
        Ok(Load {
            is_tcp,
            ends: [addresses.dialer, addresses.server],
            checker: Checker::new(profile, &addresses, &messages),
            messages,
            calls: Calls::default(),
            lanes: Lanes::new(waits),
            dialer,
            server,
            tally: Tally::default(),
            invite_delay: Histogram::default(),
            answer_delay: Histogram::default(),
            lateness: Histogram::default(),
            awaited: 0,
            held: VecDeque::new(),
            scratch: Vec::new(),
            inbox: Inbox::default(),
        })
    }

    /// Addresses of the dialer and the server, which the system chooses where the port is 0.
    pub fn ends(&self) -> [SocketAddr; 2] {
        self.ends
    }

    /// Takes the calls of a step in turn and waits for them.
    pub fn run(&mut self, step: &Step) -> io::Result<Report> {
        self.tally = Tally::default();
        [&mut self.invite_delay, &mut self.answer_delay, &mut self.lateness].into_iter().for_each(Histogram::clear);
        let begin = Instant::now();
        let plan = |call: u64| begin + Duration::from_secs_f64(call as f64 / step.rate);
        let end = plan(step.calls) + step.drain;
        let mut next_call = 0;
        let mut now = begin;
        while (next_call < step.calls || self.awaited > 0) && now < end {
            let at = wall();
            while next_call < step.calls && plan(next_call) <= now {
                self.lateness.add(u64::try_from((now - plan(next_call)).as_nanos()).unwrap_or(u64::MAX));
                match step.work {
                    Work::Begin(hold) => self.invite(now, at, hold),
                    Work::Release => self.release(now),
                }
                next_call += 1;
            }
            self.fire(now);
            self.tally.unsent += self.dialer.flush()? + self.server.flush()?;
            let planned = (next_call < step.calls).then(|| plan(next_call));
            let due = [planned, self.lanes.next()].into_iter().flatten().min().unwrap_or(end).min(end);
            let ready = self.wait(due)?;
            now = Instant::now();
            for side in ready.into_iter().flatten() {
                self.receive(now, side)?;
            }
        }
        self.tally.unsent += self.dialer.flush()? + self.server.flush()?;
        self.tally.closed = self.dialer.closed() + self.server.closed();
        self.give_up(now);
        Ok(self.report(begin.elapsed()))
    }

    fn release(&mut self, now: Instant) {
        while let Some(number) = self.held.pop_front() {
            // The device may have ended it meanwhile.
            let Some(call) = self.calls.find(number).filter(|call| call.dialer != Dialer::Over) else { continue };
            call.is_awaited = true;
            self.awaited += 1;
            self.tally.released += 1;
            return match std::mem::replace(&mut call.hold, Hold::No) {
                Hold::Ringing => self.answer(now, number),
                Hold::Answered | Hold::No => self.hang_up(now, number),
            };
        }
    }

    fn give_up(&mut self, now: Instant) {
        let open = self.calls.open().filter(|call| call.is_awaited).map(|call| call.number).collect::<Vec<_>>();
        for number in open {
            self.end(now, number, End::Unfinished);
        }
    }

    fn fire(&mut self, now: Instant) {
        while let Some((due, number)) = self.lanes.pop(now) {
            match due {
                Due::Answer => self.answer(now, number),
                Due::HangUp => self.hang_up(now, number),
                Due::Forget => self.calls.forget(number),
                Due::InviteAgain(_) => self.on_invite_due(now, number, due),
                Due::AnswerAgain(_) => self.on_answer_due(now, number, due),
                Due::ByeAgain(_) => self.on_bye_due(now, number, due),
            }
        }
    }

    /// Sleeps until something has arrived or is due. Returns where something may have arrived.
    fn wait(&self, due: Instant) -> io::Result<[Option<Side>; 2]> {
        let mut sources: SmallVec<[PollFd<'_>; 8]> = SmallVec::new();
        self.dialer.sources(|fd| sources.push(PollFd::new(fd, PollFlags::POLLIN)));
        let dialers = sources.len();
        self.server.sources(|fd| sources.push(PollFd::new(fd, PollFlags::POLLIN)));
        let left = due.saturating_duration_since(Instant::now());
        match ppoll(&mut sources, Some(left.into()), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |source: &PollFd<'_>| source.any().unwrap_or(true);
        let (dialers, servers) = sources.split_at(dialers);
        Ok([dialers.iter().any(is_ready).then_some(Side::Dialer), servers.iter().any(is_ready).then_some(Side::Server)])
    }

    fn receive(&mut self, now: Instant, side: Side) -> io::Result<()> {
        let wire = if side == Side::Dialer { &mut self.dialer } else { &mut self.server };
        wire.accept()?;
        let connections = wire.connections();
        let mut inbox = std::mem::take(&mut self.inbox);
        for connection in 0..connections {
            for _ in 0..BATCHES {
                let wire = if side == Side::Dialer { &mut self.dialer } else { &mut self.server };
                let is_full = wire.receive(connection, &mut inbox)?;
                self.tally.messages_received += inbox.messages.len() as u64;
                for arrived in &inbox.messages {
                    let bytes = &inbox.bytes[arrived.start..arrived.end];
                    match side {
                        Side::Dialer => self.on_response(now, bytes, arrived.at),
                        Side::Server => self.on_request(now, bytes, arrived.at, connection),
                    }
                }
                if std::mem::take(&mut inbox.is_broken) {
                    self.tally.fault(Fault::Malformed, b"");
                }
                if !is_full {
                    break;
                }
            }
        }
        self.inbox = inbox;
        Ok(())
    }

    fn report(&self, time: Duration) -> Report {
        Report {
            tally: self.tally.clone(),
            faults: self.tally.faults_by_name(),
            seconds: time.as_secs_f64(),
            invite_delay: self.invite_delay.percentiles(),
            answer_delay: self.answer_delay.percentiles(),
            lateness: self.lateness.percentiles(),
        }
    }
}
