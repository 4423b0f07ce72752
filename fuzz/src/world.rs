//! The core between peers that behave in any way, watched.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use sipstamp::endpoint::{Endpoint, Filter, Input, Output, Owner, QueryId, Record, RecordOf, Seed, Stored, Transmit};
use sipstamp::event::{CallData, Event, EventKind};
use sipstamp::flow::{ConnectionId, Flow, Side, Transport};
use sipstamp::outcome::Outcome;
use sipstamp::sip::{HeaderName, Message, Params};
use sipstamp::time::{Mono, Now, Wall};

use crate::policy::{DIALER, PEERS, SIDECAR, STAMPS, policy};
use crate::{LIMITS, WIDE};

const SEED: Seed = Seed { key: [3; 16] };
/// Of what was sent and received, so much is remembered.
const LATEST: usize = 64;
/// One message causes no more than so many.
const MOST_SENT: usize = 16;
/// Deadlines at one instant, and until all is over.
const MOST_AT_ONCE: usize = 1_000;
const MOST_IN_ALL: usize = 200_000;
/// Another process is not there sooner, in microseconds.
const RESTART: u64 = 10_000;

pub struct World {
    pub endpoint: Endpoint,
    pub now: Now,
    /// Bits of the latest policy.
    pub bits: u16,
    /// What peers got, and where; the newest last.
    pub received: VecDeque<(Flow, Message)>,
    /// What peers sent.
    pub sent: VecDeque<(Flow, Bytes)>,
    pub owners: VecDeque<Owner>,
    pub queries: VecDeque<QueryId>,
    /// Branches that peers have used.
    pub branches: u32,
    /// The process ends when it has sent so many messages more.
    pub dies_after: Option<usize>,
    pub journal: Option<Journal>,
    may_stamp_both: bool,
    is_dead: bool,
    restarts: u32,
    /// Messages that the sidecar has sent.
    count: usize,
    started: BTreeSet<String>,
    ended: BTreeMap<String, CallData>,
    stamps: BTreeSet<(String, String, Option<String>)>,
}

/// The latest state of all that is open.
#[derive(Debug, Default)]
pub struct Journal {
    states: [BTreeMap<u128, Box<[u8]>>; 3],
}

impl Journal {
    fn take(&mut self, record: Record) {
        let states = &mut self.states[place(record.of)];
        match record.state.is_empty() {
            true => drop(states.remove(&record.key)),
            false => drop(states.insert(record.key, record.state.as_ref().into())),
        }
    }

    pub fn stored(&self) -> Stored {
        let list = |of| self.states[place(of)].iter().map(|(key, state)| (*key, state.clone())).collect();
        Stored { calls: list(RecordOf::Call), servers: list(RecordOf::Server), clients: list(RecordOf::Client) }
    }
}

const fn place(of: RecordOf) -> usize {
    match of {
        RecordOf::Call => 0,
        RecordOf::Server => 1,
        RecordOf::Client => 2,
    }
}

/// Whether what happens is to be shown.
fn is_shown() -> bool {
    static SHOWN: OnceLock<bool> = OnceLock::new();
    *SHOWN.get_or_init(|| std::env::var_os("SIPSTAMP_FUZZ_SHOW").is_some())
}

impl World {
    /// A core with a policy by its bits; with a journal where bit 15 is not set.
    pub fn new(bits: u16) -> World {
        let now = Now { mono: Mono(1_000_000_000), wall: Wall(1_795_428_000_000_000) };
        let policy = policy(bits);
        let mut world = World {
            may_stamp_both: policy.stamp.to_both,
            endpoint: Endpoint::new(now, SEED, Arc::new(policy)),
            now,
            bits,
            received: VecDeque::new(),
            sent: VecDeque::new(),
            owners: VecDeque::new(),
            queries: VecDeque::new(),
            branches: 0,
            dies_after: None,
            journal: (bits & 0x8000 == 0).then(Journal::default),
            is_dead: false,
            restarts: 0,
            count: 0,
            started: BTreeSet::new(),
            ended: BTreeMap::new(),
            stamps: BTreeSet::new(),
        };
        if world.journal.is_some() {
            world.endpoint.keep_records();
        }
        world
    }

    /// One where nothing has happened, as by default.
    pub fn quiet() -> World {
        World::new(0x8000)
    }

    pub fn flow_of_dialer(&self) -> Flow {
        flow_of(DIALER, false)
    }

    // -- in -------------------------------------------------------------------------------------

    /// A message of a peer.
    pub fn send(&mut self, flow: Flow, raw: Bytes) {
        if is_shown() {
            println!(
                "{:>10} < {} {}",
                self.now.mono.0 / 1_000,
                flow.remote,
                String::from_utf8_lossy(&raw).escape_debug()
            );
        }
        keep(&mut self.sent, (flow, raw.clone()));
        let input = match Message::parse(raw, &LIMITS) {
            Ok(message) => Input::Message { flow, message },
            Err(rejected) => Input::Broken { flow, rejected },
        };
        // What is due by itself is not due to the message.
        self.input(Input::Timeout);
        let (before, restarts) = (self.count, self.restarts);
        self.input(input);
        let caused = self.count - before;
        assert!(caused <= MOST_SENT || restarts < self.restarts, "one message caused {caused}");
    }

    pub fn input(&mut self, input: Input) {
        let now = self.now;
        self.command(|endpoint| endpoint.handle(now, input));
    }

    pub fn command<T>(&mut self, command: impl FnOnce(&mut Endpoint) -> T) -> T {
        let result = command(&mut self.endpoint);
        self.drain();
        if std::mem::take(&mut self.is_dead) {
            self.restart(RESTART);
        }
        self.check();
        result
    }

    pub fn change_policy(&mut self, bits: u16) {
        self.bits = bits;
        let policy = policy(bits);
        self.may_stamp_both |= policy.stamp.to_both;
        self.input(Input::Policy(Arc::new(policy)));
    }

    /// The process ends, and another one goes on with its journal.
    pub fn restart(&mut self, pause: u64) {
        let Some(journal) = &self.journal else { return };
        self.now = later(self.now, pause.max(RESTART));
        self.restarts += 1;
        let stored = journal.stored();
        self.endpoint = Endpoint::new(self.now, SEED, Arc::new(policy(self.bits)));
        self.endpoint.keep_records();
        let restored = self.endpoint.restore(self.now, &stored);
        assert_eq!(restored.unreadable, 0);
        assert_eq!(restored.calls.iter().sum::<usize>() + restored.ended, stored.calls.len());
        // Nobody tells this process what became of what the other one sent.
        self.owners.clear();
        self.queries.clear();
        self.dies_after = None;
        self.drain();
        self.check();
    }

    // -- time -----------------------------------------------------------------------------------

    /// To the next deadline; false where there is none.
    pub fn to_next_deadline(&mut self) -> bool {
        let Some(deadline) = self.deadline() else { return false };
        self.now = later(self.now, deadline.0.saturating_sub(self.now.mono.0));
        self.input(Input::Timeout);
        true
    }

    /// So many microseconds, from deadline to deadline.
    pub fn wait(&mut self, time: u64) {
        let until = self.now.mono.0 + time;
        let mut at_once = 0;
        while let Some(deadline) = self.deadline().filter(|deadline| deadline.0 <= until) {
            at_once = if deadline <= self.now.mono { at_once + 1 } else { 0 };
            assert!(at_once < MOST_AT_ONCE, "time stands still");
            self.to_next_deadline();
        }
        self.now = later(self.now, until.saturating_sub(self.now.mono.0));
    }

    /// The clock jumps.
    pub fn jump(&mut self, time: u64) {
        self.now = later(self.now, time);
        self.input(Input::Timeout);
    }

    /// Until nothing is to be done any more.
    pub fn settle(&mut self) {
        self.dies_after = None;
        let (mut count, mut at_once) = (0, 0);
        while let Some(deadline) = self.deadline() {
            at_once = if deadline <= self.now.mono { at_once + 1 } else { 0 };
            assert!(at_once < MOST_AT_ONCE, "time stands still");
            count += 1;
            assert!(count < MOST_IN_ALL, "it does not end");
            self.to_next_deadline();
        }
        let open = self.endpoint.calls(Filter::default(), None, 3);
        assert_eq!(
            (self.endpoint.active_calls(), self.endpoint.pending_work()),
            (0, 0),
            "{:?} {open:#?}",
            self.endpoint
        );
        self.check();
        self.check_counters();
        self.check_stamps();
    }

    fn deadline(&mut self) -> Option<Mono> {
        match self.endpoint.poll_output() {
            Output::Idle { deadline } => deadline,
            output => panic!("left behind: {output:?}"),
        }
    }

    // -- out ------------------------------------------------------------------------------------

    fn drain(&mut self) {
        loop {
            match self.endpoint.poll_output() {
                Output::Idle { .. } => return,
                Output::Record(record) => {
                    if let Some(journal) = &mut self.journal {
                        journal.take(record);
                    }
                }
                Output::Event(event) => self.on_event(&event),
                // A batch of records and events is written as a whole before anything is sent.
                Output::Transmit(_) if self.dies_after == Some(0) => {
                    self.is_dead = true;
                    return;
                }
                Output::Transmit(transmit) => {
                    self.dies_after = self.dies_after.map(|left| left - 1);
                    self.on_transmit(transmit);
                }
                Output::Resolve { query, .. } => keep(&mut self.queries, query),
                Output::Notice(_) => {}
            }
        }
    }

    fn on_event(&mut self, event: &Event) {
        let data = event.data().unwrap();
        if is_shown() {
            println!("{:>10} ! {}", self.now.mono.0 / 1_000, String::from_utf8_lossy(&event.line));
        }
        let uid = data.call_uid.clone();
        match event.kind {
            EventKind::Started => assert!(self.started.insert(uid), "a call started twice"),
            EventKind::Ringing | EventKind::Answered => assert!(self.started.contains(&uid)),
            EventKind::Ended => {
                if let Some(journal) = &mut self.journal {
                    let uid = event.summary.call.0;
                    journal.states[0].remove(&uid);
                }
                assert!(self.started.contains(&uid), "a call ended that had not started");
                assert!(self.ended.insert(uid, data).is_none(), "a call ended twice");
            }
        }
    }

    fn on_transmit(&mut self, transmit: Transmit) {
        self.count += 1;
        let Transmit { hop, bytes, side, owner, .. } = transmit;
        if is_shown() {
            println!(
                "{:>10} > {} {}",
                self.now.mono.0 / 1_000,
                hop.remote,
                String::from_utf8_lossy(&bytes).escape_debug()
            );
        }
        let message = match Message::parse(bytes.clone(), &WIDE) {
            Ok(message) => message,
            // Of a broken request its own lines come back.
            Err(rejected) if is_refusal(&bytes) => return assert!(rejected.answerable.is_none()),
            Err(rejected) => panic!("{} in {}", rejected.detail, String::from_utf8_lossy(&bytes)),
        };
        assert_eq!(message.raw(), &bytes, "more than a message was sent");
        for name in STAMPS {
            let name = HeaderName::from(name);
            let stamps = message.named(&name).map(|field| message.value(field)).collect::<Vec<_>>();
            assert!(stamps.len() <= 1, "stamped twice: {}", String::from_utf8_lossy(&bytes));
            if let Some(stamp) = stamps.first() {
                assert!(side == Side::Dialer || self.may_stamp_both, "a stamp for the telephony server");
                self.on_stamp(stamp);
            }
        }
        owner.into_iter().for_each(|owner| keep(&mut self.owners, owner));
        let flow = Flow {
            transport: hop.transport,
            local: hop.local,
            remote: hop.remote,
            connection: hop.connection.or((hop.transport == Transport::Tcp).then_some(ConnectionId(1_000))),
            opened_for: (hop.transport == Transport::Tcp && hop.connection.is_none()).then_some(side),
        };
        keep(&mut self.received, (flow, message));
    }

    fn on_stamp(&mut self, stamp: &[u8]) {
        let stamp = std::str::from_utf8(stamp).unwrap();
        let params = Params(stamp.as_bytes());
        let text = |name: &str| params.value(name.as_bytes()).map(|value| String::from_utf8_lossy(value).into_owned());
        let outcome = stamp.split(';').next().unwrap().to_owned();
        self.stamps.insert((text("id").unwrap(), outcome, text("cause")));
    }

    // -- what must be true ----------------------------------------------------------------------

    /// After each step.
    fn check(&self) {
        let active = self.endpoint.active_calls();
        assert_eq!(self.started.len(), self.ended.len() + active, "started, ended and active do not agree");
        if let Some(journal) = &self.journal {
            assert_eq!(journal.states[0].len(), active, "the journal has other calls than are open");
        }
    }

    /// When all is over.
    fn check_counters(&self) {
        let mut counts = BTreeMap::<String, u64>::new();
        self.endpoint.samples(&mut |sample| {
            let labels = sample.labels.iter().map(|(_, value)| format!(" {value}")).collect::<String>();
            *counts.entry(format!("{}{labels}", sample.name)).or_default() += sample.value;
        });
        let sum = |start: &str| {
            counts.iter().filter(|(name, _)| name.starts_with(start)).map(|(_, value)| value).sum::<u64>()
        };
        assert_eq!(sum("sipstamp_accounting_imbalance"), 0);
        assert_eq!(sum("sipstamp_calls_active"), 0);
        assert_eq!(sum("sipstamp_server_calls_active"), 0);
        if self.restarts > 0 {
            return;
        }
        let calls = self.ended.len() as u64;
        let all = ["sipstamp_calls_started_total", "sipstamp_call_outcomes_total", "sipstamp_call_end_causes_total"];
        assert_eq!(all.map(sum), [calls; 3]);
    }

    /// What was stamped is what was told; what is told of a call can be.
    fn check_stamps(&self) {
        for (uid, stamped, stamped_cause) in &self.stamps {
            let call = self.ended.get(uid).unwrap_or_else(|| panic!("a stamp of no call: {uid} {stamped}"));
            let (outcome, cause) = (call.outcome.unwrap(), call.end_cause.unwrap());
            let is_drop = outcome == Outcome::VoicemailDrop && stamped == "Normal";
            assert!(outcome.label() == stamped || is_drop, "{stamped} was stamped, {outcome:?} told: {call:#?}");
            match stamped_cause {
                Some(stamped) => assert_eq!(cause.label(), stamped, "{call:#?}"),
                None => assert!(matches!(outcome, Outcome::Normal | Outcome::VoicemailDrop), "{call:#?}"),
            }
        }
        for call in self.ended.values() {
            let is_answered = matches!(call.outcome.unwrap(), Outcome::Normal | Outcome::VoicemailDrop);
            assert!(!is_answered || call.answered_at.is_some(), "{call:#?}");
            assert!(call.ended_at.unwrap() >= call.started_at, "{call:#?}");
            assert!(
                call.answered_at.is_none_or(|at| call.started_at <= at && at <= call.ended_at.unwrap()),
                "{call:#?}"
            );
            assert_eq!(call.talk_ms.is_some(), call.answered_at.is_some(), "{call:#?}");
        }
    }

    /// An event or so of a call that is open or has ended, to be named.
    pub fn uid(&self, pick: usize) -> Option<&str> {
        self.started.iter().nth_back(pick % self.started.len().max(1)).map(String::as_str)
    }
}

/// The flow of a peer: datagrams, or a connection that it opened.
pub fn flow_of(peer: usize, is_tcp: bool) -> Flow {
    let remote = PEERS[peer % PEERS.len()];
    let remote: SocketAddr = remote.parse().unwrap();
    let (transport, connection) =
        if is_tcp { (Transport::Tcp, Some(ConnectionId(peer as u64 + 1))) } else { (Transport::Udp, None) };
    Flow { transport, local: SIDECAR.parse().unwrap(), remote, connection, opened_for: None }
}

fn keep<T>(latest: &mut VecDeque<T>, one: T) {
    if latest.len() == LATEST {
        latest.pop_front();
    }
    latest.push_back(one);
}

fn later(now: Now, time: u64) -> Now {
    let mono = now.mono + Duration::from_micros(time);
    Now { mono, wall: now.wall_at(mono) }
}

/// What is sent to whom sent something that cannot be read.
fn is_refusal(bytes: &[u8]) -> bool {
    [&b"SIP/2.0 400 "[..], b"SIP/2.0 505 ", b"SIP/2.0 513 "].iter().any(|start| bytes.starts_with(start))
}
