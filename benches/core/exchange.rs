//! A core between a dialer and a telephony server: one call after the other, INVITE 180 200 ACK BYE 200.

use std::sync::Arc;
use std::time::Duration;

use sipstamp::chunks::Chunks;
use sipstamp::endpoint::{Endpoint, Input, Output, Record, RecordOf, Seed};
use sipstamp::event::EventKind;
use sipstamp::flow::{Flow, Transport};
use sipstamp::journal;
use sipstamp::journal::frame::Batch;
use sipstamp::policy::Policy;
use sipstamp::sip::{Limits, Message};
use sipstamp::time::{Mono, Now, Wall};

use super::peers::{self, Caller};
use super::policy::{self, DIALER, SERVER, SIDECAR};

/// Between two messages.
const GAP: Duration = Duration::from_micros(1_500);
/// The same where many calls are opened before any rings for too long.
const SHORT_GAP: Duration = Duration::from_micros(10);
/// Those of the shell.
const LIMITS: Limits = Limits::standard(65_535);

/// A message of a call, as it comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Invite,
    Ringing,
    Answer,
    Ack,
    Bye,
    ByeAnswer,
}

/// A piece of work that is looked at by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Reading the message.
    Index(Kind),
    /// Deciding: from the input to the last output.
    Handle(Kind),
    /// The same for deadlines that have come.
    Timers,
    /// Putting a record or an event into the journal's batch, or sealing it.
    Journal,
    /// Dropping what was sent and told.
    Release,
}

/// Looks at work while it is done.
pub trait Probe {
    fn run<R>(&mut self, span: Span, work: impl FnOnce() -> R) -> R;
}

/// The core, its clock, and its peers.
pub struct Exchange {
    endpoint: Endpoint,
    now: Now,
    gap: Duration,
    /// When the core wants to be called again.
    deadline: Option<Mono>,
    outputs: Vec<Output>,
    /// Where datagrams lie, as in the shell.
    received: Chunks,
    message: Message,
    calls: u32,
    events: u64,
    journal: Option<Journal>,
}

/// What a journal would write.
#[derive(Debug)]
pub struct Journal {
    batch: Batch,
    /// Where it is written, if anywhere.
    writer: Option<journal::Writer>,
    pub bytes: u64,
    pub records: u64,
}

impl Exchange {
    /// With a journal, everything that the shell does for it but for the write itself.
    pub fn new(has_journal: bool) -> Exchange {
        Exchange::under(policy::policy(), has_journal)
    }

    /// The same under another policy.
    pub fn under(policy: Policy, has_journal: bool) -> Exchange {
        let now = Now { mono: Mono(1_000_000_000), wall: Wall(1_795_428_000_000_000) };
        let mut endpoint = Endpoint::new(now, Seed { key: [7; 16] }, Arc::new(policy));
        if has_journal {
            endpoint.keep_records();
        }
        Exchange {
            endpoint,
            now,
            gap: GAP,
            deadline: None,
            outputs: Vec::with_capacity(16),
            received: Chunks::default(),
            message: Message::default(),
            calls: 0,
            events: 0,
            journal: has_journal.then(Journal::new),
        }
    }

    /// Opens a call that stays ringing or answered; what the journal gets is written.
    pub fn open(&mut self, probe: &mut impl Probe, is_answered: bool) {
        self.gap = SHORT_GAP;
        let caller = self.caller();
        let [_, invite] = self.deliver(probe, Kind::Invite, DIALER, caller.invite());
        let [_] = self.deliver(probe, Kind::Ringing, SERVER, peers::ringing(&invite));
        if is_answered {
            let [answer] = self.deliver(probe, Kind::Answer, SERVER, peers::answer(&invite));
            let [_] = self.deliver(probe, Kind::Ack, DIALER, caller.in_dialog("ACK", 1, &answer));
        }
    }

    /// Has the journal written.
    pub fn write_to(&mut self, writer: journal::Writer) {
        self.journal.get_or_insert_with(Journal::new).writer = Some(writer);
    }

    /// How late it is.
    pub fn now(&self) -> Now {
        self.now
    }

    pub fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// How many calls have been told.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// One whole call, about 100 of them in a second of the core's time.
    pub fn call(&mut self, probe: &mut impl Probe) {
        let caller = self.caller();
        let [trying, invite] = self.deliver(probe, Kind::Invite, DIALER, caller.invite());
        assert!(trying.starts_with("SIP/2.0 100 ") && invite.starts_with("INVITE "), "{trying}{invite}");
        let [ringing] = self.deliver(probe, Kind::Ringing, SERVER, peers::ringing(&invite));
        assert!(ringing.starts_with("SIP/2.0 180 "), "{ringing}");
        let [answer] = self.deliver(probe, Kind::Answer, SERVER, peers::answer(&invite));
        assert!(peers::value(&answer, "Call-Outcome").starts_with("Normal;id="), "{answer}");
        let [ack] = self.deliver(probe, Kind::Ack, DIALER, caller.in_dialog("ACK", 1, &answer));
        assert!(ack.starts_with("ACK "), "{ack}");
        let [bye] = self.deliver(probe, Kind::Bye, DIALER, caller.in_dialog("BYE", 2, &answer));
        assert!(bye.starts_with("BYE "), "{bye}");
        let [ended] = self.deliver(probe, Kind::ByeAnswer, SERVER, peers::plain(&bye, "200 OK"));
        assert!(peers::value(&ended, "Call-Outcome").starts_with("Normal;cause="), "{ended}");
        assert_eq!(self.events, u64::from(self.calls), "the call was told");
    }

    /// A call that a limit refuses.
    pub fn refused(&mut self, probe: &mut impl Probe) {
        let caller = self.caller();
        let [refused] = self.deliver(probe, Kind::Invite, DIALER, caller.invite());
        assert!(refused.starts_with("SIP/2.0 503 "), "{refused}");
        let [] = self.deliver(probe, Kind::Ack, DIALER, caller.ack_of_failure(&refused));
        assert_eq!(self.events, u64::from(self.calls), "the call was told");
    }

    /// The next caller.
    pub fn caller(&mut self) -> Caller {
        self.calls += 1;
        Caller::new(self.calls)
    }

    /// Hands a message to the core as the loop does, and takes the `N` messages that this makes it send.
    pub fn deliver<const N: usize>(
        &mut self,
        probe: &mut impl Probe,
        kind: Kind,
        from: &str,
        text: String,
    ) -> [String; N] {
        self.wait(probe);
        let flow = Flow {
            transport: Transport::Udp,
            local: policy::address(SIDECAR),
            remote: policy::address(from),
            connection: None,
            opened_for: None,
        };
        let raw = self.received.copy(text.as_bytes());
        let Exchange { endpoint, now, deadline, outputs, message, .. } = self;
        let read = probe.run(Span::Index(kind), || message.read(raw, &LIMITS));
        assert!(read.is_ok(), "the message can be read");
        probe.run(Span::Handle(kind), || {
            endpoint.handle_message(*now, &flow, message);
            message.release();
            drain(endpoint, outputs, deadline);
        });
        let sent = self.take(probe);
        sent.try_into().unwrap_or_else(|sent| panic!("{kind:?} makes the core send {sent:#?}"))
    }

    /// Lets a gap go by, with every deadline in it.
    fn wait(&mut self, probe: &mut impl Probe) {
        let until = self.now.mono + self.gap;
        while let Some(due) = self.deadline.filter(|due| *due <= until) {
            self.go_to(due);
            let Exchange { endpoint, now, deadline, outputs, .. } = self;
            probe.run(Span::Timers, || {
                endpoint.handle(*now, Input::Timeout);
                drain(endpoint, outputs, deadline);
            });
            let sent = self.take(probe);
            assert!(sent.is_empty(), "nothing is sent again: {sent:#?}");
        }
        self.go_to(until);
    }

    fn go_to(&mut self, mono: Mono) {
        let mono = mono.max(self.now.mono);
        self.now = Now { mono, wall: self.now.wall_at(mono) };
    }

    /// Empties the outputs: what was sent, as text.
    fn take(&mut self, probe: &mut impl Probe) -> Vec<String> {
        let mut sent = Vec::new();
        if let Some(journal) = &mut self.journal {
            for output in &self.outputs {
                probe.run(Span::Journal, || journal.keep(output));
            }
            probe.run(Span::Journal, || journal.write());
        }
        for output in self.outputs.drain(..) {
            match output {
                Output::Transmit(transmit) => {
                    sent.push(String::from_utf8(transmit.bytes.to_vec()).expect("the core sends text"));
                    probe.run(Span::Release, || drop(transmit));
                }
                Output::Event(event) => {
                    self.events += u64::from(event.kind == EventKind::Ended);
                    probe.run(Span::Release, || drop(event));
                }
                Output::Record(record) => probe.run(Span::Release, || drop(record)),
                output => panic!("the core asks for {output:?}"),
            }
        }
        sent
    }
}

impl Journal {
    fn new() -> Journal {
        Journal { batch: Batch::beginning_with([7; 16], 1), writer: None, bytes: 0, records: 0 }
    }

    fn keep(&mut self, output: &Output) {
        match output {
            Output::Record(Record { of, key, state }) => {
                let kind = match of {
                    RecordOf::Call => journal::Kind::Call,
                    RecordOf::Server => journal::Kind::Server,
                    RecordOf::Client => journal::Kind::Client,
                };
                self.batch.push(kind, *key, &[state]);
                if let Some(writer) = &mut self.writer {
                    writer.push(kind, *key, &[state]);
                }
            }
            Output::Event(event) => {
                let kind = event.kind.index() as u8;
                self.batch.push(journal::Kind::Event, event.summary.call.0, &[&[kind], &event.line]);
            }
            _ => return,
        }
        self.records += 1;
    }

    fn write(&mut self) {
        self.bytes += self.batch.bytes().len() as u64;
        self.batch.clear();
        if let Some(writer) = &mut self.writer {
            assert!(writer.flush(), "the journal is written");
        }
    }
}

fn drain(endpoint: &mut Endpoint, outputs: &mut Vec<Output>, deadline: &mut Option<Mono>) {
    loop {
        match endpoint.poll_output() {
            Output::Idle { deadline: next } => {
                *deadline = next;
                return;
            }
            output => outputs.push(output),
        }
    }
}
