//! Plain counters that the core updates; the shell reads them at each scrape.

use std::sync::Arc;

use crate::call::Call;
use crate::closed::closed_enum;
use crate::event::CallState;
use crate::flow::{Direction, Side};
use crate::outcome::{EndCause, Outcome};
use crate::policy::{Policy, ServerId};
use crate::sip::{Method, RejectReason};

/// One value of one series. Names, labels and their values are those of the public metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample<'a> {
    /// The metric's full name, `sipstamp_…`.
    pub name: &'static str,
    pub kind: SampleKind,
    pub labels: &'a [(&'a str, &'a str)],
    pub value: u64,
}

/// Whether a value only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleKind {
    Counter,
    Gauge,
}

closed_enum! {
    /// Whether a message came or went.
    pub enum Way {
        Received = "received",
        Sent = "sent",
    }
}

closed_enum! {
    /// What was repeated, and by whom.
    pub enum RetransmitKind {
        RequestReceived = "request_received",
        RequestSent = "request_sent",
        ResponseReceived = "response_received",
        ResponseSent = "response_sent",
    }
}

closed_enum! {
    /// Messages that were read but not taken; with [`RejectReason`], the values of `reason`.
    pub enum Refused {
        Stranger = "stranger",
        Scanner = "scanner",
        UnmatchedResponse = "unmatched_response",
        UnmatchedCancel = "unmatched_cancel",
        UnknownDialog = "unknown_dialog",
        StrayAck = "stray_ack",
        Merged = "merged",
        Loop = "loop",
        TooManyHops = "too_many_hops",
        BadMaxForwards = "bad_max_forwards",
        NoTarget = "no_target",
        NoRoom = "no_room",
        Unresolved = "unresolved",
    }
}

closed_enum! {
    /// Limits that refuse new calls, by the names of their keys in `[limits]`.
    pub enum CallLimit {
        Calls = "calls",
        CallsPerSecond = "calls_per_second",
        CallsPerSecondPerSource = "calls_per_second_per_source",
        Transactions = "transactions",
        OverloadDelay = "overload_delay",
    }
}

closed_enum! {
    /// Messages that crossed.
    pub enum Race {
        /// A 2xx while a stopped call waited for its legs.
        AnswerInGrace = "answer_in_grace",
        /// A 2xx that nobody waited for any more: acknowledged and ended here.
        Late2xx = "late_2xx",
        /// Another final response that nobody waited for any more.
        LateFinal = "late_final",
        /// The first 2xx of a further fork after the event of its call: forwarded, so that the caller can end its dialog.
        LateFork = "late_fork",
        /// A 2xx from a server that has refused the same INVITE: dropped.
        AnswerAfterFailure = "answer_after_failure",
        /// Both sides said BYE.
        ByeGlare = "bye_glare",
    }
}

closed_enum! {
    /// What became of a notice of a voicemail drop.
    pub enum DropResult {
        Accepted = "accepted",
        Repeated = "repeated",
        Inbound = "inbound",
        NotAnswered = "not_answered",
        NotProgressive = "not_progressive",
        Ended = "ended",
        UnknownCall = "unknown_call",
    }
}

closed_enum! {
    /// What became of asking one server.
    pub enum AttemptResult {
        Answered = "answered",
        Failed = "failed",
        NoResponse = "no_response",
        Timeout = "timeout",
        TransportError = "transport_error",
        Cancelled = "cancelled",
    }
}

impl DropResult {
    /// Why it was refused, for people.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::Accepted | Self::Repeated => "",
            Self::Inbound => "the call is inbound; a voicemail drop needs an outbound one",
            Self::NotAnswered => "the call is not answered",
            Self::NotProgressive => "the call was not placed by progressive dialing",
            Self::Ended => "the call has ended",
            Self::UnknownCall => "no such call",
        }
    }
}

/// Codes that have a series of their own: those registered with IANA; others count as `other`.
const CODES: &[u16] = &[
    200, 202, 204, 300, 301, 302, 305, 380, 400, 401, 402, 403, 404, 405, 406, 407, 408, 410, 412, 413, 414, 415, 416,
    417, 420, 421, 422, 423, 424, 425, 428, 429, 430, 433, 436, 437, 438, 439, 440, 469, 470, 480, 481, 482, 483, 484,
    485, 486, 487, 488, 489, 491, 493, 494, 500, 501, 502, 503, 504, 505, 513, 555, 580, 600, 603, 604, 606, 607, 608,
];
const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "6xx"];
const REASONS: usize = RejectReason::COUNT + Refused::COUNT;

/// Everything that is counted.
#[derive(Debug, Default)]
pub struct Stats {
    started: [u64; Direction::COUNT],
    restored: [u64; CallState::COUNT],
    ended: u64,
    end_causes: [[u64; Direction::COUNT]; EndCause::COUNT],
    /// By label combination, then outcome, then direction.
    outcomes: Vec<[[u64; Direction::COUNT]; Outcome::COUNT]>,
    servers: Vec<ServerStats>,
    requests: [[[u64; Way::COUNT]; Side::COUNT]; Method::COUNT],
    responses: [[[u64; Way::COUNT]; Side::COUNT]; CLASSES.len()],
    retransmissions: [[u64; RetransmitKind::COUNT]; Side::COUNT],
    rejected: [u64; REASONS],
    refused: [u64; CallLimit::COUNT],
    races: [u64; Race::COUNT],
    voicemail_drops: [u64; DropResult::COUNT],
}

#[derive(Debug)]
struct ServerStats {
    id: ServerId,
    name: Arc<str>,
    /// By position in [`CODES`]; the last one is `other`. Series appear with their first response.
    final_responses: Vec<u64>,
    outcomes: [[u64; Direction::COUNT]; Outcome::COUNT],
    attempts: [u64; AttemptResult::COUNT],
}

/// What is true at the moment of a scrape.
#[derive(Debug)]
pub struct Gauges {
    calls: usize,
    active: [[u64; Direction::COUNT]; CallState::COUNT],
    by_server: Vec<(ServerId, [u64; CallState::COUNT])>,
}

impl Gauges {
    /// None of `calls` counted yet.
    pub fn new(calls: usize) -> Gauges {
        Gauges { calls, active: Default::default(), by_server: Vec::new() }
    }

    pub fn count(&mut self, state: CallState, direction: Direction, server: Option<ServerId>) {
        bump(self.active.get_mut(state.index()).and_then(|row| row.get_mut(direction.index())));
        let Some(server) = server else { return };
        if !self.by_server.iter().any(|(id, _)| *id == server) {
            self.by_server.push((server, Default::default()));
        }
        let row = self.by_server.iter_mut().find(|(id, _)| *id == server).map(|(_, row)| row);
        bump(row.and_then(|row| row.get_mut(state.index())));
    }
}

impl Stats {
    /// Makes room for what a policy names.
    pub fn on_policy(&mut self, policy: &Policy) {
        self.outcomes.resize(policy.capture.combinations().max(self.outcomes.len()), Default::default());
        let dialer = (ServerId::DIALER, Arc::from("dialer"));
        for (id, name) in policy.servers.iter().map(|server| (server.id, server.name.clone())).chain([dialer]) {
            if !self.servers.iter().any(|server| server.id == id) {
                self.servers.push(ServerStats {
                    id,
                    name,
                    final_responses: vec![0; CODES.len() + 1],
                    outcomes: Default::default(),
                    attempts: Default::default(),
                });
            }
        }
    }

    pub fn on_call_started(&mut self, direction: Direction) {
        bump(self.started.get_mut(direction.index()));
    }

    /// A call of an earlier process goes on in this one, which counts it as started.
    pub fn on_call_restored(&mut self, direction: Direction, state: CallState) {
        self.on_call_started(direction);
        bump(self.restored.get_mut(state.index()));
    }

    /// A new call was refused for a limit.
    pub fn on_call_refused(&mut self, limit: CallLimit) {
        bump(self.refused.get_mut(limit.index()));
    }

    pub fn on_call_ended(&mut self, call: &Call, outcome: Outcome, cause: EndCause) {
        let direction = call.direction.index();
        self.ended += 1;
        bump(self.end_causes.get_mut(cause.index()).and_then(|row| row.get_mut(direction)));
        let values = call.identity.labels();
        let combination = call.policy.capture.combination(values);
        let table = self.outcomes.get_mut(combination).and_then(|table| table.get_mut(outcome.index()));
        bump(table.and_then(|row| row.get_mut(direction)));
        if let Some(server) = call.server {
            let table = self.server(server).and_then(|server| server.outcomes.get_mut(outcome.index()));
            bump(table.and_then(|row| row.get_mut(direction)));
        }
    }

    pub fn on_request(&mut self, method: Method, side: Side, way: Way) {
        let row = self.requests.get_mut(method.index()).and_then(|table| table.get_mut(side.index()));
        bump(row.and_then(|row| row.get_mut(way.index())));
    }

    pub fn on_response(&mut self, code: u16, side: Side, way: Way) {
        let class = usize::from(code / 100).saturating_sub(1);
        let row = self.responses.get_mut(class).and_then(|table| table.get_mut(side.index()));
        bump(row.and_then(|row| row.get_mut(way.index())));
    }

    pub fn on_retransmission(&mut self, side: Side, kind: RetransmitKind) {
        bump(self.retransmissions.get_mut(side.index()).and_then(|row| row.get_mut(kind.index())));
    }

    /// `reason` is a label of [`RejectReason`] or [`Refused`].
    pub fn on_rejected(&mut self, reason: &'static str) {
        let at = reasons().position(|known| known == reason);
        bump(at.and_then(|at| self.rejected.get_mut(at)));
    }

    pub fn on_race(&mut self, race: Race) {
        bump(self.races.get_mut(race.index()));
    }

    pub fn on_voicemail_drop(&mut self, result: DropResult) {
        bump(self.voicemail_drops.get_mut(result.index()));
    }

    pub fn on_attempt(&mut self, server: ServerId, result: AttemptResult) {
        bump(self.server(server).and_then(|server| server.attempts.get_mut(result.index())));
    }

    /// A final response to an INVITE, from the server that sent it.
    pub fn on_final_response(&mut self, server: ServerId, code: u16) {
        let at = CODES.iter().position(|known| *known == code).unwrap_or(CODES.len());
        bump(self.server(server).and_then(|server| server.final_responses.get_mut(at)));
    }

    /// Every series with its value.
    pub fn visit(
        &self,
        policy: &Policy,
        gauges: &Gauges,
        is_up: &dyn Fn(ServerId) -> bool,
        visit: &mut dyn FnMut(Sample<'_>),
    ) {
        self.visit_calls(policy, gauges, visit);
        self.visit_servers(policy, gauges, is_up, visit);
        self.visit_messages(visit);
    }

    fn visit_calls(&self, policy: &Policy, gauges: &Gauges, visit: &mut dyn FnMut(Sample<'_>)) {
        let mut put = |name, labels: &[(&str, &str)], value| visit(counter(name, labels, value));
        for (direction, started) in Direction::ALL.iter().zip(self.started) {
            put("sipstamp_calls_started_total", &[("direction", direction.label())], started);
        }
        for (state, restored) in
            CallState::ALL.iter().zip(self.restored).filter(|(state, _)| **state != CallState::Ended)
        {
            put("sipstamp_calls_restored_total", &[("state", state.label())], restored);
        }
        for (combination, table) in self.outcomes.iter().enumerate() {
            let captured = policy.capture.labels_of(combination);
            for (outcome, row) in Outcome::ALL.iter().zip(table) {
                for (direction, value) in Direction::ALL.iter().zip(row) {
                    let mut labels = vec![("outcome", outcome.label()), ("direction", direction.label())];
                    labels.extend(captured.iter().copied());
                    put("sipstamp_call_outcomes_total", &labels, *value);
                }
            }
        }
        for (cause, row) in EndCause::ALL.iter().zip(self.end_causes) {
            for (direction, value) in Direction::ALL.iter().zip(row) {
                let labels = [("end_cause", cause.label()), ("direction", direction.label())];
                put("sipstamp_call_end_causes_total", &labels, value);
            }
        }
        for (limit, value) in CallLimit::ALL.iter().zip(self.refused) {
            put("sipstamp_calls_refused_total", &[("limit", limit.label())], value);
        }
        for (race, value) in Race::ALL.iter().zip(self.races) {
            put("sipstamp_races_total", &[("kind", race.label())], value);
        }
        for (result, value) in DropResult::ALL.iter().zip(self.voicemail_drops) {
            put("sipstamp_voicemail_drops_total", &[("result", result.label())], value);
        }
        for (state, row) in CallState::ALL.iter().zip(gauges.active).filter(|(state, _)| **state != CallState::Ended) {
            for (direction, value) in Direction::ALL.iter().zip(row) {
                let labels = [("state", state.label()), ("direction", direction.label())];
                visit(gauge("sipstamp_calls_active", &labels, value));
            }
        }
        let known = self.ended + gauges.calls as u64;
        let imbalance = self.started.iter().sum::<u64>().abs_diff(known);
        visit(gauge("sipstamp_accounting_imbalance", &[], imbalance));
    }

    fn visit_servers(
        &self,
        policy: &Policy,
        gauges: &Gauges,
        is_up: &dyn Fn(ServerId) -> bool,
        visit: &mut dyn FnMut(Sample<'_>),
    ) {
        for server in &self.servers {
            let name = &*server.name;
            for (at, value) in server.final_responses.iter().enumerate().filter(|(_, value)| **value > 0) {
                let code = CODES.get(at).map_or_else(|| "other".to_owned(), u16::to_string);
                let labels = [("code", code.as_str()), ("server", name)];
                visit(counter("sipstamp_final_responses_total", &labels, *value));
            }
            for (result, value) in AttemptResult::ALL.iter().zip(server.attempts) {
                let labels = [("server", name), ("result", result.label())];
                visit(counter("sipstamp_attempts_total", &labels, value));
            }
            if server.id == ServerId::DIALER {
                continue;
            }
            for (outcome, row) in Outcome::ALL.iter().zip(server.outcomes) {
                for (direction, value) in Direction::ALL.iter().zip(row) {
                    let labels = [("server", name), ("direction", direction.label()), ("outcome", outcome.label())];
                    visit(counter("sipstamp_server_call_outcomes_total", &labels, value));
                }
            }
            let active =
                gauges.by_server.iter().find(|(id, _)| *id == server.id).map(|(_, row)| *row).unwrap_or_default();
            for (state, value) in CallState::ALL.iter().zip(active).filter(|(state, _)| **state != CallState::Ended) {
                let labels = [("server", name), ("state", state.label())];
                visit(gauge("sipstamp_server_calls_active", &labels, value));
            }
            if policy.server(server.id).is_some() {
                visit(gauge("sipstamp_server_up", &[("server", name)], u64::from(is_up(server.id))));
            }
        }
    }

    fn visit_messages(&self, visit: &mut dyn FnMut(Sample<'_>)) {
        let mut put = |name, labels: &[(&str, &str)], value| visit(counter(name, labels, value));
        for side in Side::ALL {
            for way in Way::ALL {
                let at = |table: &[[u64; Way::COUNT]; Side::COUNT]| {
                    table.get(side.index()).and_then(|row| row.get(way.index())).copied().unwrap_or_default()
                };
                for (method, table) in Method::ALL.iter().zip(&self.requests) {
                    let labels = [("method", method.label()), ("side", side.label()), ("direction", way.label())];
                    put("sipstamp_sip_requests_total", &labels, at(table));
                }
                for (class, table) in CLASSES.iter().zip(&self.responses) {
                    let labels = [("class", *class), ("side", side.label()), ("direction", way.label())];
                    put("sipstamp_sip_responses_total", &labels, at(table));
                }
            }
        }
        for (side, row) in Side::ALL.iter().zip(self.retransmissions) {
            for (kind, value) in RetransmitKind::ALL.iter().zip(row) {
                let labels = [("side", side.label()), ("kind", kind.label())];
                put("sipstamp_sip_retransmissions_total", &labels, value);
            }
        }
        for (reason, value) in reasons().zip(self.rejected) {
            put("sipstamp_sip_rejected_total", &[("reason", reason)], value);
        }
    }

    fn server(&mut self, id: ServerId) -> Option<&mut ServerStats> {
        self.servers.iter_mut().find(|server| server.id == id)
    }
}

fn reasons() -> impl Iterator<Item = &'static str> {
    let read = RejectReason::ALL.iter().map(|reason| reason.label());
    read.chain(Refused::ALL.iter().map(|reason| reason.label()))
}

fn counter<'a>(name: &'static str, labels: &'a [(&'a str, &'a str)], value: u64) -> Sample<'a> {
    Sample { name, kind: SampleKind::Counter, labels, value }
}

fn gauge<'a>(name: &'static str, labels: &'a [(&'a str, &'a str)], value: u64) -> Sample<'a> {
    Sample { name, kind: SampleKind::Gauge, labels, value }
}

fn bump(counter: Option<&mut u64>) {
    if let Some(counter) = counter {
        *counter += 1;
    }
}
