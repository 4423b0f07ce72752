//! A worker: one thread with its own sockets' events, its own core, its own queue of mail.
//!
//! A turn is: wait for something to do or for the core's next deadline; read both clocks; take what has
//! come, up to a limit for each socket; take all that the core wants done; send it. Nothing on this way
//! waits, the one lock is that of the list of events, which nobody holds for longer than it takes to
//! exchange it, and an idle worker is woken by nothing but its next deadline.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use mio::{Events, Poll};
use tokio::sync::mpsc::UnboundedSender;

use super::clock::Clock;
use super::gate::{self, Gate};
use super::limiter::Limiter;
use super::mail::{Inbox, Mail, Post};
use super::supervisor::Report;
use crate::admin::metrics::Processing;
use crate::endpoint::{Endpoint, Input, Notice, Output, Record, RecordOf, Transmit};
use crate::event::Event;
use crate::flow::{Flow, Transport};
use crate::journal::{Kind, Position, Writer};
use crate::overload::{Lag, fits};
use crate::sink::EventInput;
use crate::sip::{FrameError, Limits, Message, begins_call};
use crate::telemetry::messages;
use crate::time::{Mono, Now};
use crate::transport::{Acceptor, Connections, Failed, Source, Taker, UdpPorts, UdpSource, Unreachable};

/// Events that one wait brings; more come with the next.
const EVENTS: usize = 256;
/// Letters and messages in them that are taken before sockets get their turn again.
const MOST_MAIL: usize = 64;
/// Calls and transactions that are written out in one turn.
const STORED_AT_ONCE: usize = 256;
/// A datagram that keeps a NAT binding open has at most this many bytes (RFC 5626 §3.5.1 and what phones send).
const KEEP_ALIVE: usize = 4;
/// One in so many INVITEs for which there is no time is refused.
const ANSWERED: u64 = 8;
/// Halves of `limits.overload_delay` beyond which not even refusals are in time.
const SWAMPED: u32 = 3;
/// Messages that have waited for less are on time, whatever is configured.
const NOTEWORTHY: Duration = Duration::from_millis(1);
/// After the last call of a drain, for its final response to be acknowledged (64·T1 at most) and written.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(35);

/// Everything that a worker is made of.
pub(super) struct Worker {
    pub(super) poll: Poll,
    pub(super) clock: Clock,
    pub(super) core: Core,
    pub(super) udp: UdpPorts,
    pub(super) acceptors: Vec<Acceptor>,
    pub(super) connections: Connections,
    pub(super) inbox: Inbox,
    pub(super) reports: UnboundedSender<Report>,
    pub(super) events: EventInput,
    pub(super) journal: Option<Writer>,
    /// Events that the journal has not written yet, each with its place in it.
    pub(super) told: Vec<(Event, Option<Position>)>,
    pub(super) processing: Processing,
    pub(super) limiter: Limiter,
    /// The same for lines about what strangers send: they cannot silence those about others.
    pub(super) stranger_limiter: Limiter,
    /// The same for lines about messages that are not read, which would else stand in the place of those that say why.
    pub(super) flood_limiter: Limiter,
    /// When the next line about overload fits.
    pub(super) overload_line_at: Mono,
    /// How long what came by mail in this turn had waited, at most.
    pub(super) waited: Duration,
    /// How often new calls began to be refused because messages waited too long.
    pub(super) overloads: u64,
    /// Failures of sends, to be told after the outputs are drained.
    pub(super) failed: Vec<Failed>,
    pub(super) deadline: Option<Mono>,
    /// When the last turn, or a wait that was interrupted, ended.
    pub(super) seen: Mono,
    pub(super) is_full_of_mail: bool,
    /// All open calls are being written out.
    pub(super) is_storing: bool,
    pub(super) ending: Option<Ending>,
    /// Else what comes waits in the sockets.
    pub(super) is_reading: bool,
    pub(super) is_over: bool,
}

/// The core, and what decides whether a message is for it.
pub(super) struct Core {
    pub(super) endpoint: Endpoint,
    /// Both clocks, as read at the beginning of the turn.
    pub(super) now: Now,
    pub(super) limits: Limits,
    /// The one at hand.
    pub(super) message: Message,
    pub(super) gate: Gate,
    pub(super) post: Post,
    /// Calls of an earlier process were restored: they may wait for their peers.
    pub(super) is_restored: bool,
    /// There is no time even to refuse new calls: over UDP their INVITEs, which will be sent again, are not read.
    pub(super) is_swamped: bool,
    /// INVITEs that came then.
    pub(super) offered: u64,
    /// Those of them that were not read.
    pub(super) unread: u64,
    /// Messages since it began.
    pub(super) handled: u64,
}

/// The process is to end when nothing is left to do here.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ending {
    /// After the last call, how long its last responses may take to arrive.
    settle_by: Option<Mono>,
    is_settled: bool,
}

impl Worker {
    /// Works until it is told to end.
    ///
    /// # Errors
    /// None that a message could cause: only where the kernel does not let it wait.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        self.drain_outputs();
        while !self.is_over {
            let timeout = self.time_to_wait();
            // Else nobody asks how long it sleeps.
            let is_asked = timeout != Some(Duration::ZERO) && self.core.endpoint.watches_lag();
            let asleep_since = is_asked.then_some(self.seen);
            let waited = self.poll.poll(&mut events, timeout);
            self.inbox.wake();
            match waited {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    // Some of the wait is over.
                    self.seen = self.clock.mono();
                    continue;
                }
                waited => waited?,
            }
            self.turn(&events, asleep_since);
        }
        Ok(())
    }

    /// How long nothing is to be done; `None`: until somebody wakes us.
    fn time_to_wait(&mut self) -> Option<Duration> {
        if self.is_full_of_mail
            || self.is_storing
            || self.is_reading && (self.udp.is_readable() || self.connections.is_readable())
            || !self.inbox.may_sleep()
        {
            return Some(Duration::ZERO);
        }
        let settle = self.ending.filter(|ending| !ending.is_settled).and_then(|ending| ending.settle_by);
        let acceptors = self.acceptors.iter().filter(|_| self.is_reading);
        let accept = acceptors.filter_map(Acceptor::next_deadline).min();
        let deadline = [self.deadline, self.connections.next_deadline(), accept, settle].into_iter().flatten().min()?;
        Some(deadline.since(self.seen))
    }

    fn turn(&mut self, events: &Events, asleep_since: Option<Mono>) {
        self.core.now = self.clock.now();
        if asleep_since.is_some_and(|since| self.core.now.mono.since(since) >= self.longest_wait()) {
            // Nothing waited all the while, whatever it was like before.
            self.note_lag(Duration::ZERO);
        }
        let before = self.core.handled;
        for event in events {
            match Source::of(event.token()) {
                Source::Mail => self.inbox.ring(),
                Source::Udp(key) => self.udp.note(key, event),
                Source::Acceptor(index) => self.acceptors.get_mut(index).map_or((), Acceptor::note),
                Source::Connection(key) => self.connections.note(key, event, self.core.now.mono),
            }
        }
        let now = self.core.now.mono;
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.handle(Input::Timeout);
        }
        self.connections.on_deadlines(now);
        self.open_mail();
        self.read();
        let read = self.waited_to_be_read();
        let waited = std::mem::take(&mut self.waited).max(read);
        self.note_lag(waited);
        self.core.post.hand_over(now - read);
        self.store_all();
        self.drain_outputs();
        let messages = self.core.handled - before;
        self.seen = self.clock.mono();
        if messages > 0 {
            self.processing.observe(self.seen.since(now).as_secs_f64(), messages);
        }
        self.look_at_the_end();
    }

    /// Takes one input in this turn.
    pub(super) fn handle(&mut self, input: Input) {
        self.core.endpoint.handle(self.core.now, input);
    }

    fn open_mail(&mut self) {
        let mut taken = 0;
        while taken < MOST_MAIL {
            let Some(mail) = self.inbox.take() else {
                self.is_full_of_mail = false;
                return;
            };
            taken += 1;
            match mail {
                Mail::Inputs(mut inputs, since) => {
                    taken += inputs.len();
                    self.waited = self.waited.max(self.core.now.mono.since(since));
                    self.core.handled += inputs.len() as u64;
                    for input in inputs.drain(..) {
                        self.core.endpoint.handle(self.core.now, input);
                    }
                    self.core.post.give_back(inputs);
                }
                Mail::Transmit { transmit, from } => self.send_by_connection(*transmit, from),
                Mail::Failed(owner) => self.handle(Input::TransportFailed { owner }),
                Mail::Accepted(accepted) => self.take_connection(accepted),
                Mail::Job(job) => job(self),
            }
        }
        self.is_full_of_mail = true;
    }

    fn read(&mut self) {
        if !self.is_reading {
            return;
        }
        let core = &mut self.core;
        self.udp.read_errors(|Unreachable { remote, quoted }| {
            // Which of us it was that sent the datagram is in its branch: whoever knows that takes it.
            for other in core.post.others() {
                core.post.put_aside(other, Input::Unreachable { remote, quoted: quoted.clone() });
            }
            core.endpoint.handle(core.now, Input::Unreachable { remote, quoted });
        });
        self.udp.read(&mut |flow, bytes| core.datagram(flow, bytes));
        self.accept();
        if self.core.is_restored {
            for flow in self.connections.take_opened() {
                self.core.tell_all(flow);
            }
        }
        let now = self.core.now.mono;
        self.connections.read(now, &mut self.core);
        if let Some(remote) = self.core.gate.take_refused()
            && let Some(suppressed) = self.flood_limiter.admit(remote, now)
        {
            let (unread, one, all) = (self.core.gate.unread, gate::OF_ONE_STRANGER, gate::OF_ALL_STRANGERS);
            tracing::warn!(%remote, unread, suppressed, "strangers send more than is read of them: {one} messages per second of one, {all} of all");
        }
    }

    /// How long what was read in this turn had waited to be read, at most.
    fn waited_to_be_read(&mut self) -> Duration {
        let oldest = [self.udp.take_oldest(), self.connections.take_oldest()].into_iter().flatten().min();
        let micros = oldest.map_or(0, |oldest| self.core.now.wall.0.saturating_sub(oldest.0));
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }

    /// Has the core know how long messages wait, where that is worth a thought.
    fn note_lag(&mut self, delay: Duration) {
        if delay < NOTEWORTHY && !self.core.endpoint.watches_lag() {
            return;
        }
        let was_overloaded = self.core.endpoint.is_overloaded();
        let Core { gate, handled, .. } = &self.core;
        let lag = Lag {
            delay,
            worked: Clock::worked(),
            served: handled.saturating_sub(gate.read),
            strangers: gate.read + gate.unread,
        };
        self.handle(Input::Lag(lag));
        let is_overloaded = self.core.endpoint.is_overloaded();
        self.core.is_swamped = is_overloaded && delay > self.longest_wait() * SWAMPED / 2;
        if is_overloaded && !was_overloaded {
            self.overloads += 1;
            if fits(&mut self.overload_line_at, 1, self.core.now.mono, true) {
                tracing::warn!(
                    ?delay,
                    overloads = self.overloads,
                    "overloaded: messages wait longer than limits.overload_delay and ever longer; new calls get 503"
                );
            }
        }
    }

    /// How long a message may wait.
    fn longest_wait(&self) -> Duration {
        self.core.endpoint.policy().limits.overload_delay
    }

    /// Takes on the connected sockets of a configuration.
    pub(super) fn follow(&mut self, sources: &[UdpSource]) {
        let core = &mut self.core;
        self.udp.follow(sources, &mut |flow, bytes| core.datagram(flow, bytes));
    }

    fn accept(&mut self) {
        let mut accepted = Vec::new();
        for acceptor in &mut self.acceptors {
            acceptor.accept(self.core.now.mono, |one| accepted.push(one));
        }
        for one in accepted {
            match self.core.post.of_peer(one.remote) {
                owner if owner == self.core.post.me => self.take_connection(one),
                // Refused only when everything ends.
                owner => drop(self.core.post.send(owner, Mail::Accepted(one))),
            }
        }
    }

    fn take_connection(&mut self, accepted: crate::transport::Accepted) {
        let source = accepted.remote.ip();
        let is_stranger = self.core.endpoint.policy().source(accepted.remote).is_none();
        let now = self.core.now.mono;
        if let Err(refusal) = self.connections.on_accepted(accepted, is_stranger, now)
            && let Some(suppressed) = self.limiter.admit(source, now)
        {
            tracing::warn!(remote = %source, suppressed, limit = refusal.label(), "connection refused: the limit is reached");
        }
    }

    /// Does all that the core wants done, and sends it.
    pub(super) fn drain_outputs(&mut self) {
        loop {
            match self.core.endpoint.poll_output() {
                Output::Record(record) => self.keep(&record),
                Output::Event(event) => self.tell(event),
                Output::Transmit(transmit) => {
                    self.write_journal();
                    self.send(transmit);
                }
                Output::Resolve { query, name } => {
                    // Nobody listens once everything ends.
                    let worker = self.core.post.me;
                    drop(self.reports.send(Report::Resolve { worker, query, name }));
                }
                Output::Notice(notice) => self.note(&notice),
                Output::Idle { deadline } => {
                    self.deadline = deadline;
                    self.write_journal();
                    self.flush();
                    if !self.tell_failures() {
                        return;
                    }
                }
            }
        }
    }

    fn keep(&mut self, Record { of, key, state }: &Record) {
        if let Some(journal) = &mut self.journal {
            let kind = match of {
                RecordOf::Call => Kind::Call,
                RecordOf::Server => Kind::Server,
                RecordOf::Client => Kind::Client,
            };
            journal.push(kind, *key, &[state]);
        }
    }

    /// An event goes to the sinks once the journal has it.
    fn tell(&mut self, event: Event) {
        match &mut self.journal {
            Some(journal) => {
                let at = journal.push(Kind::Event, event.summary.call.0, &[&[event.kind.index() as u8], &event.line]);
                self.told.push((event, at));
            }
            None => self.events.push(event, None),
        }
    }

    /// Writes the records and events that were put out: nothing that comes after them is sent before.
    fn write_journal(&mut self) {
        if let Some(journal) = &mut self.journal {
            let is_written = journal.flush();
            for (event, at) in self.told.drain(..) {
                self.events.push(event, at.filter(|_| is_written));
            }
        }
    }

    /// Writes out all open calls, some in each turn, where the journal wants it.
    fn store_all(&mut self) {
        let Some(journal) = &mut self.journal else { return };
        if journal.begins_all() {
            self.core.endpoint.store_all();
            self.is_storing = true;
        } else if self.is_storing {
            self.is_storing = self.core.endpoint.store_more(STORED_AT_ONCE);
            if !self.is_storing {
                self.drain_outputs();
                if let Some(journal) = &mut self.journal {
                    journal.ends_all();
                }
            }
        }
    }

    fn send(&mut self, transmit: Transmit) {
        let me = self.core.post.me;
        let Core { gate, endpoint, now, .. } = &mut self.core;
        messages::sent(&transmit.bytes, transmit.hop.transport, transmit.hop.remote);
        // Who gets requests of ours belongs to a call; a response may be a stranger's 403.
        if !transmit.bytes.starts_with(b"SIP/") {
            gate.note_sent(transmit.hop.remote, endpoint.policy(), now.mono);
        }
        match transmit.hop.transport {
            Transport::Tcp => self.send_by_connection(transmit, me),
            Transport::Udp => {
                let Transmit { hop, bytes, owner, .. } = transmit;
                if !self.udp.enqueue(hop, bytes, owner) {
                    self.failed.extend(owner.map(|owner| Failed { worker: me, owner }));
                }
            }
        }
    }

    /// Sends by a connection of this worker, or has the worker do it whose connection it is.
    fn send_by_connection(&mut self, mut transmit: Transmit, from: usize) {
        let me = self.core.post.me;
        let mut owner = self.core.post.of_hop(&transmit.hop);
        if owner == me && !self.connections.has(&transmit.hop) {
            // A connection that has been closed: the next one belongs to whom the peer belongs.
            owner = self.core.post.of_peer(transmit.hop.remote);
            transmit.hop.connection = None;
        }
        if owner == me {
            return self.connections.send(transmit, from, self.core.now.mono);
        }
        let failed = transmit.owner.map(|owner| Failed { worker: from, owner });
        if !self.core.post.send(owner, Mail::Transmit { transmit: Box::new(transmit), from }) {
            self.failed.extend(failed);
        }
    }

    /// Sends what has come together in this turn.
    fn flush(&mut self) {
        self.connections.close_broken(self.core.now.mono);
        let me = self.core.post.me;
        let failed = &mut self.failed;
        self.udp.flush(&mut |refusal| {
            tracing::debug!(error = %refusal.error, remote = %refusal.remote, "datagram not sent");
            failed.extend(refusal.owner.map(|owner| Failed { worker: me, owner }));
        });
        self.connections.flush();
        self.failed.extend(self.connections.take_failed());
    }

    /// Tells who waits for it what could not be sent. True where the core may have something to say to that.
    fn tell_failures(&mut self) -> bool {
        let mut is_told = false;
        while let Some(Failed { worker, owner }) = self.failed.pop() {
            if worker == self.core.post.me {
                is_told = true;
                self.handle(Input::TransportFailed { owner });
            } else {
                self.core.post.send(worker, Mail::Failed(owner));
            }
        }
        is_told
    }

    fn note(&mut self, notice: &Notice) {
        let is_stranger = self.core.endpoint.policy().source(notice.remote).is_none();
        let limiter = if is_stranger { &mut self.stranger_limiter } else { &mut self.limiter };
        if let Some(suppressed) = limiter.admit(notice.remote.ip(), self.core.now.mono) {
            let Notice { remote, reason, detail } = notice;
            tracing::warn!(%remote, reason, detail, suppressed, "message refused");
        }
    }

    /// Once the process is to end: reports whether anything is left to do here, each time that changes.
    fn look_at_the_end(&mut self) {
        let Some(mut ending) = self.ending else { return };
        let is_settled = self.core.endpoint.active_calls() == 0 && {
            let patience = *ending.settle_by.get_or_insert(self.core.now.mono + SETTLE_TIMEOUT);
            let is_quiet = !self.core.endpoint.awaits_ack() && self.connections.is_idle() && self.udp.is_flushed();
            is_quiet || self.core.now.mono >= patience
        };
        if is_settled != ending.is_settled {
            ending.is_settled = is_settled;
            // Nobody listens once everything ends.
            drop(self.reports.send(Report::Settled { worker: self.core.post.me, is_settled }));
        }
        self.ending = Some(ending);
    }
}

impl Core {
    /// Tells all workers of a connection.
    fn tell_all(&mut self, flow: Flow) {
        for other in self.post.others() {
            self.post.put_aside(other, Input::Connected { flow });
        }
        self.endpoint.handle(self.now, Input::Connected { flow });
    }

    fn datagram(&mut self, flow: Flow, bytes: Bytes) {
        if bytes.len() <= KEEP_ALIVE || !self.gate.admits(flow.remote, self.endpoint.policy(), self.now.mono) {
            return;
        }
        if self.is_swamped && begins_call(&bytes) && self.endpoint.is_too_much(flow.remote.ip(), self.now.mono) {
            self.offered += 1;
            // Some get a 503 all the same, which says when to come again.
            if !self.offered.is_multiple_of(ANSWERED) {
                self.unread += 1;
                return;
            }
        }
        self.message(flow, bytes);
    }

    /// A message to whom its Call-ID names; one without to whoever has read it.
    fn message(&mut self, flow: Flow, bytes: Bytes) {
        match self.message.read(bytes, &self.limits) {
            Ok(()) => {
                let message = &self.message;
                messages::received(message, flow.transport, flow.remote);
                let worker = self.post.of_call(message.call_id());
                if worker == self.post.me {
                    self.handled += 1;
                    self.endpoint.handle_message(self.now, &flow, message);
                } else {
                    self.post.put_aside(worker, Input::Message { flow, message: message.clone() });
                }
                // So that what it lies in is used again.
                self.message.release();
            }
            Err(rejected) => {
                // What is only too large belongs to a call all the same.
                let worker = rejected.beyond_limits().map(|message| self.post.of_call(message.call_id()));
                match worker.filter(|worker| *worker != self.post.me) {
                    Some(worker) => self.post.put_aside(worker, Input::Broken { flow, rejected }),
                    None => {
                        self.handled += 1;
                        self.endpoint.handle(self.now, Input::Broken { flow, rejected });
                    }
                }
            }
        }
    }
}

impl Taker for Core {
    fn message(&mut self, flow: Flow, bytes: Bytes) {
        let is_ours = flow.opened_for.is_some();
        if is_ours || self.gate.admits(flow.remote, self.endpoint.policy(), self.now.mono) {
            Core::message(self, flow, bytes);
        }
    }

    /// It is answered here, whosever call it would be: the connection closes when that is written.
    fn broken(&mut self, flow: Flow, error: FrameError) {
        self.endpoint.handle(self.now, Input::Broken { flow, rejected: Box::new(error.into_rejected()) });
    }
}
