//! The endpoint with a clock of its own, and everything that it put out.
//!
//! Time moves only from one deadline that the endpoint named to the next: one that it handles but never names
//! does not fire here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sipstamp::endpoint::{Endpoint, Input, Notice, Output, Owner, QueryId, Restored, Seed, Transmit};
use sipstamp::event::{CallData, EventKind};
use sipstamp::flow::{ConnectionId, Flow, Side, Transport};
use sipstamp::policy::Policy;
use sipstamp::sip::{Limits, Message};
use sipstamp::time::{Mono, Now, Wall};

use super::agent::{Uac, Uas};
use super::journal::Journal;
use super::message::{Msg, Text};
use super::policy::{DIALER, PBX_A, SIDECAR};

/// A message on its way out of the sidecar.
#[derive(Clone, Debug)]
pub struct Sent {
    pub at: Mono,
    pub to: SocketAddr,
    pub transport: Transport,
    pub connection: Option<ConnectionId>,
    pub side: Side,
    pub owner: Option<Owner>,
    pub connect_timeout: Option<Duration>,
    pub msg: Msg,
    /// The bytes that left; `msg` may show them with replacement characters.
    pub raw: Bytes,
}

/// An event, read.
#[derive(Clone, Debug)]
pub struct Told {
    pub kind: EventKind,
    pub source: String,
    pub data: CallData,
}

/// Codes of RFC 3261 that a message gets which cannot be read.
const ANSWERS_TO_BROKEN: [u16; 4] = [400, 414, 505, 513];
const SEED: Seed = Seed { key: [7; 16] };

/// The sidecar's core and everybody around it.
pub struct World {
    pub endpoint: Endpoint,
    pub now: Now,
    pub journal: Journal,
    policy: Arc<Policy>,
    /// Sent and not yet taken, oldest first.
    pub sent: Vec<Sent>,
    pub notices: Vec<Notice>,
    pub queries: Vec<(QueryId, String)>,
    /// Every event so far.
    pub events: Vec<Told>,
    /// Ended events that a test has looked at.
    seen: usize,
    /// Outcome, cause and call_uid of each stamp with a cause that went to the dialer.
    stamps: Vec<(String, String, String)>,
    calls: u32,
}

impl World {
    pub fn new(policy: Policy) -> World {
        let now = Now { mono: Mono(1_000_000_000), wall: Wall(1_795_428_000_000_000) };
        let policy = Arc::new(policy);
        World {
            endpoint: Endpoint::new(now, SEED, policy.clone()),
            now,
            journal: Journal::default(),
            policy,
            sent: Vec::new(),
            notices: Vec::new(),
            queries: Vec::new(),
            events: Vec::new(),
            seen: 0,
            stamps: Vec::new(),
            calls: 0,
        }
    }

    /// A world whose sidecar keeps a journal.
    pub fn with_journal(policy: Policy) -> World {
        let mut world = World::new(policy);
        world.endpoint.keep_records();
        world
    }

    /// The sidecar is killed, and another one goes on with its journal after a while.
    #[track_caller]
    pub fn restart(&mut self, after: Duration) -> Restored {
        let policy = self.policy.clone();
        self.restart_with(after, policy)
    }

    /// The same with another configuration.
    #[track_caller]
    pub fn restart_with(&mut self, after: Duration, policy: Arc<Policy>) -> Restored {
        self.go_to(self.now.mono + after);
        self.endpoint = Endpoint::new(self.now, SEED, policy);
        self.endpoint.keep_records();
        let restored = self.endpoint.restore(self.now, &self.journal.stored());
        self.drain();
        assert_eq!(restored.unreadable, 0);
        restored
    }

    // -- messages in ----------------------------------------------------------------------------

    /// A datagram from an address.
    pub fn send(&mut self, from: &str, text: impl ToString) {
        self.send_on(udp(from), text);
    }

    pub fn send_on(&mut self, flow: Flow, text: impl ToString) {
        let raw = Bytes::from(text.to_string());
        let input = match Message::parse(raw, &Limits::standard(65_535)) {
            Ok(message) => Input::Message { flow, message },
            Err(rejected) => Input::Broken { flow, rejected },
        };
        self.input(input);
    }

    pub fn input(&mut self, input: Input) {
        self.endpoint.handle(self.now, input);
        self.drain();
    }

    /// A command of an operator.
    pub fn command<T>(&mut self, command: impl FnOnce(&mut Endpoint, Now) -> T) -> T {
        let result = command(&mut self.endpoint, self.now);
        self.drain();
        result
    }

    // -- messages out ---------------------------------------------------------------------------

    /// Takes the oldest message of a kind (method or code) that went to an address.
    #[track_caller]
    pub fn take(&mut self, address: &str, kind: &str) -> Msg {
        self.take_sent(address, kind).msg
    }

    #[track_caller]
    pub fn take_sent(&mut self, address: &str, kind: &str) -> Sent {
        let to: SocketAddr = address.parse().unwrap();
        match self.sent.iter().position(|sent| sent.to == to && sent.msg.kind() == kind) {
            Some(at) => self.sent.remove(at),
            None => panic!("no {kind} for {address} in {:#?}", self.overview()),
        }
    }

    /// Takes everything that went to an address.
    pub fn take_all(&mut self, address: &str) -> Vec<Msg> {
        let to: SocketAddr = address.parse().unwrap();
        let (taken, rest) = self.sent.drain(..).partition::<Vec<_>, _>(|sent| sent.to == to);
        self.sent = rest;
        taken.into_iter().map(|sent| sent.msg).collect()
    }

    /// Kinds of everything that went to an address, taken.
    pub fn kinds(&mut self, address: &str) -> Vec<String> {
        self.take_all(address).iter().map(|msg| msg.kind().to_owned()).collect()
    }

    /// The only message to an address, taken; its kind must be this.
    #[track_caller]
    pub fn only_to(&mut self, address: &str, kind: &str) -> Msg {
        let taken = self.take(address, kind);
        let to: SocketAddr = address.parse().unwrap();
        assert!(self.sent.iter().all(|sent| sent.to != to), "{:#?}", self.overview());
        taken
    }

    /// The only message that is there, taken; its address and kind must be these.
    #[track_caller]
    pub fn only(&mut self, address: &str, kind: &str) -> Msg {
        let taken = self.take(address, kind);
        self.nothing_sent();
        taken
    }

    /// Asserts that nothing is left that was sent.
    #[track_caller]
    pub fn nothing_sent(&self) {
        assert!(self.sent.is_empty(), "{:#?}", self.overview());
    }

    fn overview(&self) -> Vec<(SocketAddr, &str)> {
        self.sent.iter().map(|sent| (sent.to, sent.msg.start())).collect()
    }

    // -- time -----------------------------------------------------------------------------------

    /// Lets time go by, from deadline to deadline.
    #[track_caller]
    pub fn advance(&mut self, time: Duration) {
        let until = self.now.mono + time;
        let mut in_place = 0;
        while let Some(deadline) = self.deadline().filter(|deadline| *deadline <= until) {
            in_place = if deadline <= self.now.mono { in_place + 1 } else { 0 };
            assert!(in_place < 1_000, "the deadline stays where it is: {deadline:?}");
            self.go_to(deadline.max(self.now.mono));
            self.input(Input::Timeout);
        }
        self.go_to(until);
    }

    pub fn deadline(&mut self) -> Option<Mono> {
        match self.endpoint.poll_output() {
            Output::Idle { deadline } => deadline,
            output => panic!("left behind: {output:?}"),
        }
    }

    /// Lets everything come to its end, and asserts that nothing is left and that the books balance.
    #[track_caller]
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            let Some(deadline) = self.deadline() else { break };
            let time = deadline.since(self.now.mono);
            self.advance(time);
        }
        let open = self.endpoint.calls(Default::default(), None, 10);
        assert_eq!((self.endpoint.active_calls(), self.endpoint.pending_work()), (0, 0), "{open:#?}");
        self.balances();
        let started = self.sample("sipstamp_calls_started_total", &[]);
        assert_eq!(self.ended_events().count() as u64, started, "one ended event for each started call");
    }

    /// Asserts that started, ended, active and every stamp agree.
    #[track_caller]
    pub fn balances(&self) {
        assert_eq!(self.sample("sipstamp_accounting_imbalance", &[]), 0);
        let started = self.sample("sipstamp_calls_started_total", &[]);
        let outcomes = self.sample("sipstamp_call_outcomes_total", &[]);
        let causes = self.sample("sipstamp_call_end_causes_total", &[]);
        let ended = self.ended_events().count() as u64;
        assert_eq!((outcomes, causes), (ended, ended));
        assert_eq!(started, ended + self.endpoint.active_calls() as u64);
        for (outcome, cause, uid) in &self.stamps {
            let Some(event) = self.ended_events().find(|event| event.call_uid == *uid) else { continue };
            let told = event.outcome.unwrap().label();
            let is_late_drop = told == "VoicemailDrop" && outcome == "Normal";
            assert!(outcome == told || is_late_drop, "stamped {outcome}, told {told}");
            assert_eq!(cause, event.end_cause.unwrap().label());
        }
    }

    // -- what is told ---------------------------------------------------------------------------

    /// The one call that has ended since this was last asked.
    #[track_caller]
    pub fn ended(&mut self) -> CallData {
        let ended = self.ended_events().skip(self.seen).cloned().collect::<Vec<_>>();
        self.seen += ended.len();
        match &ended[..] {
            [one] => one.clone(),
            several => panic!("{} calls have ended; {:#?}", several.len(), self.overview()),
        }
    }

    /// The same, with the outcome and the end cause that it must have.
    #[track_caller]
    pub fn ended_as(&mut self, outcome: &str, cause: &str) -> CallData {
        let ended = self.ended();
        assert_eq!((ended.outcome.unwrap().label(), ended.end_cause.unwrap().label()), (outcome, cause));
        ended
    }

    /// Asserts that no call has ended that the test has not asked for.
    #[track_caller]
    pub fn none_ended(&self) {
        assert_eq!(self.ended_events().count(), self.seen);
    }

    pub fn ended_events(&self) -> impl Iterator<Item = &CallData> {
        self.events.iter().filter(|event| event.kind == EventKind::Ended).map(|event| &event.data)
    }

    /// The sum over all series of a metric that bear these labels.
    pub fn sample(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let mut sum = 0;
        self.endpoint.samples(&mut |sample| {
            if sample.name == name && labels.iter().all(|label| sample.labels.contains(label)) {
                sum += sample.value;
            }
        });
        sum
    }

    // -- calls ----------------------------------------------------------------------------------

    /// A caller at the dialer with a Call-ID of its own.
    pub fn uac(&mut self) -> Uac {
        self.calls += 1;
        Uac::new(DIALER, &format!("call-{}", self.calls))
    }

    /// An outbound call whose INVITE has reached `pbx-a`.
    #[track_caller]
    pub fn called(&mut self) -> (Uac, Uas) {
        let mut uac = self.uac();
        let invite = uac.invite();
        self.place(&uac, invite, PBX_A)
    }

    /// Sends an INVITE and takes the 100 and what reached the server.
    #[track_caller]
    pub fn place(&mut self, uac: &Uac, invite: Text, server: &str) -> (Uac, Uas) {
        self.send(&uac.address, invite);
        assert_eq!(self.take(&uac.address, "100").to_tag(), None);
        let uas = Uas::new(server, self.take(server, "INVITE"), "callee");
        (uac.clone(), uas)
    }

    /// The same, ringing.
    #[track_caller]
    pub fn ringing(&mut self) -> (Uac, Uas) {
        let (uac, uas) = self.called();
        self.send(PBX_A, uas.reply(180));
        self.take(DIALER, "180");
        (uac, uas)
    }

    /// The same, answered and acknowledged.
    #[track_caller]
    pub fn answered(&mut self) -> (Uac, Uas) {
        let (uac, uas) = self.ringing();
        self.answer(uac, uas)
    }

    /// The 200 and its ACK go through.
    #[track_caller]
    pub fn answer(&mut self, mut uac: Uac, uas: Uas) -> (Uac, Uas) {
        self.send(&uas.address, uas.reply(200));
        let answer = self.take(&uac.address, "200");
        uac.learn(&answer);
        let ack = uac.ack();
        self.send(&uac.address, ack);
        self.take(&uas.address, "ACK");
        (uac, uas)
    }

    /// The 200 goes through; its ACK is on its way to nobody.
    #[track_caller]
    pub fn answer_unacknowledged(&mut self, mut uac: Uac, uas: Uas) -> (Uac, Uas) {
        self.send(&uas.address, uas.reply(200));
        uac.learn(&self.take(&uac.address, "200"));
        (uac, uas)
    }

    /// A failure goes through, both hops acknowledged.
    #[track_caller]
    pub fn fail(&mut self, uac: &Uac, uas: &Uas, response: impl ToString) -> Msg {
        let kind = Msg::new(response.to_string()).kind().to_owned();
        self.send(&uas.address, response);
        self.take(&uas.address, "ACK");
        let failure = self.take(&uac.address, &kind);
        self.send(&uac.address, uac.ack_of(&failure));
        failure
    }

    /// The CANCEL that went to a server is answered 200, its INVITE 487.
    #[track_caller]
    pub fn cancelled(&mut self, uas: &Uas) -> Msg {
        let cancel = self.take(&uas.address, "CANCEL");
        assert_eq!(cancel.branch(), uas.invite.branch());
        self.send(&uas.address, super::ok(&cancel));
        self.send(&uas.address, uas.reply(487));
        self.take(&uas.address, "ACK");
        cancel
    }

    /// A BYE and its 200 go through.
    #[track_caller]
    pub fn hang_up(&mut self, from: &str, to: &str, bye: impl ToString) -> (Msg, Msg) {
        self.send(from, bye);
        let bye = self.take(to, "BYE");
        self.send(to, super::ok(&bye));
        (bye, self.take(from, "200"))
    }

    fn go_to(&mut self, mono: Mono) {
        self.now = Now { mono, wall: self.now.wall_at(mono) };
    }

    fn drain(&mut self) {
        loop {
            match self.endpoint.poll_output() {
                Output::Transmit(transmit) => self.on_transmit(transmit),
                Output::Resolve { query, name } => self.queries.push((query, name.into())),
                Output::Record(record) => self.journal.take(&record),
                Output::Event(event) => {
                    if event.kind == EventKind::Ended {
                        self.journal.end(event.summary.call.0);
                    }
                    let data = event.data().unwrap();
                    // What is written and what is read are one schema.
                    let line = serde_json::from_slice::<serde_json::Value>(&event.line).unwrap();
                    assert_eq!(line["data"], serde_json::to_value(&data).unwrap());
                    let source = line["source"].as_str().unwrap().to_owned();
                    self.events.push(Told { kind: event.kind, source, data });
                }
                Output::Notice(notice) => self.notices.push(notice),
                Output::Idle { .. } => return,
            }
        }
    }

    fn on_transmit(&mut self, transmit: Transmit) {
        let text = String::from_utf8_lossy(&transmit.bytes).into_owned();
        // Whatever leaves must be readable.
        let parsed = Message::parse(transmit.bytes.clone(), &Limits::NONE);
        let msg = Msg::new(text);
        // But for the answer to what cannot be read, which repeats what is there.
        assert!(parsed.is_ok() || ANSWERS_TO_BROKEN.contains(&msg.code()), "cannot be read: {}", msg.text());
        if let (Side::Dialer, Some((outcome, Some(cause), uid))) = (transmit.side, msg.stamp()) {
            self.stamps.push((outcome.to_owned(), cause.to_owned(), uid.to_owned()));
        }
        self.sent.push(Sent {
            at: self.now.mono,
            to: transmit.hop.remote,
            transport: transmit.hop.transport,
            connection: transmit.hop.connection,
            side: transmit.side,
            owner: transmit.owner,
            connect_timeout: transmit.connect_timeout,
            msg,
            raw: transmit.bytes,
        });
    }
}

fn udp(from: &str) -> Flow {
    Flow {
        transport: Transport::Udp,
        local: SIDECAR.parse().unwrap(),
        remote: from.parse().unwrap(),
        connection: None,
        opened_for: None,
    }
}
