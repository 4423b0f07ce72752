//! From an INVITE to the first leg: which call it is, whether it may begin, where it goes.

use std::time::Duration;

use smallvec::SmallVec;

use super::{Anomalies, Call, CallTimer, Identity, Moment, Names, Outline, Phase, Reasons, Setup, Uid};
use crate::arena::Handle;
use crate::endpoint::{Arrival, Endpoint, RETRY_SOON, Reply};
use crate::event::{CallState, EventKind};
use crate::flow::{Direction, Flow, Side};
use crate::outcome::EndCause;
use crate::overload::fits;
use crate::policy::{Policy, ServerId};
use crate::proxy::server_order;
use crate::sip::{Message, Name};
use crate::stats::{CallLimit, Refused};
use crate::transaction::{Key, Keyring, server};

/// Calls with one Call-ID and From tag from one side: an INVITE that forked before it came here makes fewer. One more is
/// taken for merged, so that nobody can make each INVITE be compared to very many.
const MOST_ALIKE: usize = 64;

/// Range of the per-call no-answer timeout, in seconds.
const NO_ANSWER_RANGE: std::ops::RangeInclusive<u64> = 1..=180;

/// What an INVITE without To tag is.
enum Initial {
    New,
    /// The caller comes back after a challenge.
    Retry(Handle),
    Merged,
}

impl Endpoint {
    pub(crate) fn on_initial_invite(&mut self, at: &Arrival<'_>) {
        let key = Keyring::call(at.dialog, at.side);
        match self.classify(key, at.message) {
            Initial::Merged => {
                self.stats.on_rejected(Refused::Merged.label());
                self.reply_to(at.tx, at.message, Reply { code: 482, ..Reply::default() });
            }
            Initial::Retry(call) => self.on_retry(call, at),
            Initial::New => self.start_call(key, at),
        }
    }

    /// Sends the INVITE to the next server; without one the call ends as `cause`, if it is not ended by a response.
    pub(crate) fn try_next(&mut self, handle: Handle) -> bool {
        let Some(setup) = self.calls.get(handle).and_then(|call| call.setup()) else { return false };
        if setup.remaining.is_empty() || setup.stopping.is_some() {
            return false;
        }
        let upstream = setup.upstream;
        let Some(invite) = self.request_of(upstream) else { return false };
        let Some((local, side)) = self.server_txs.get(upstream).map(|server| (server.path.local, server.side)) else {
            return false;
        };
        let own_routes = self.own_routes(&invite, local);
        let loop_hash = self.loop_hash_of(&invite, self.keys.dialog_of(&invite), side, own_routes);
        self.try_servers(handle, &invite, own_routes.count, loop_hash)
    }

    /// The same with the INVITE at hand.
    fn try_servers(&mut self, handle: Handle, invite: &Message, own_routes: usize, loop_hash: u64) -> bool {
        loop {
            let Some(call) = self.calls.get_mut(handle) else { return false };
            let progress = call.timeouts().progress;
            let Some(setup) = call.setup_mut().filter(|setup| setup.stopping.is_none()) else { return false };
            if setup.remaining.is_empty() {
                return false;
            }
            let server = setup.remaining.remove(0);
            let has_more = !setup.remaining.is_empty();
            if self.send_leg(handle, server, invite, own_routes, loop_hash) {
                if has_more {
                    self.set_call_timer(handle, CallTimer::Progress, progress);
                } else {
                    self.clear_call_timer(handle, CallTimer::Progress);
                }
                return true;
            }
        }
    }

    fn classify(&mut self, key: Key, invite: &Message) -> Initial {
        let cseq = invite.cseq().number;
        let is_retry = |call: &Call| matches!(&call.phase, Phase::Challenged(last) if cseq >= last.cseq);
        // One more than there may be.
        let alike = || self.calls.by_key(key).take(MOST_ALIKE + 1);
        let retry = alike().find(|(_, call)| is_retry(call)).map(|(handle, _)| handle);
        if let Some(call) = retry {
            return Initial::Retry(call);
        }
        if alike().count() > MOST_ALIKE {
            return Initial::Merged;
        }
        let same_cseq = |setup: &&Setup| setup.cseq == cseq;
        let setups = self.calls.by_key(key).filter_map(|(_, call)| call.setup().filter(same_cseq));
        let earlier = setups.map(|setup| setup.upstream).collect::<SmallVec<[Handle; 1]>>();
        let is_merged =
            earlier.into_iter().any(|first| self.request_of(first).is_some_and(|first| first.uri() == invite.uri()));
        if is_merged { Initial::Merged } else { Initial::New }
    }

    /// A new call, which is told of.
    fn begin_call(&mut self, key: Key, at: &Arrival<'_>) -> Handle {
        let policy = self.policy.clone();
        let call = self.new_call(key, at, policy);
        self.stats.on_call_started(call.direction);
        let call = self.calls.insert(call);
        self.own_server_tx(at.tx, call);
        self.tell(call, EventKind::Started);
        call
    }

    fn start_call(&mut self, key: Key, at: &Arrival<'_>) {
        let invite = at.message;
        let direction = Direction::from_caller(at.side);
        let call = self.begin_call(key, at);
        if let Err((code, extra)) = self.validate_call(at) {
            return self.fail_here(call, EndCause::LocalReject, code, &extra);
        }
        if self.is_draining {
            return self.fail_here(call, EndCause::Shutdown, 503, RETRY_SOON);
        }
        if direction == Direction::Inbound && self.dialer_target().is_none() {
            return self.fail_here(call, EndCause::LocalReject, 404, "");
        }
        let order = self.order_of(&self.policy, direction, invite);
        self.forward_call(call, order, at);
    }

    /// The servers that a call goes to, in the order in which they are tried.
    fn order_of(&self, policy: &Policy, direction: Direction, invite: &Message) -> SmallVec<[ServerId; 4]> {
        match direction {
            Direction::Inbound => SmallVec::from_slice(&[ServerId::DIALER]),
            Direction::Outbound => {
                server_order(policy, &self.keys, invite.call_id(), |id| self.health_of(id), self.now.mono)
            }
        }
    }

    /// A retry after a challenge is the same call: it goes to the server that challenged, then to those that were not tried
    /// before.
    fn on_retry(&mut self, handle: Handle, at: &Arrival<'_>) {
        self.clear_call_timer(handle, CallTimer::AuthWindow);
        let path = self.paths.of(at.flow.reply());
        let Some(call) = self.calls.get_mut(handle) else { return };
        let Phase::Challenged(challenged) = &call.phase else { return };
        // None where a restart has found it configured no more.
        let server = challenged.server;
        call.phase = Phase::Setup(self.places.setups.put(new_setup(at)));
        call.path = path;
        call.identity.renew(at.message, &mut self.store);
        call.reasons = Reasons::default();
        if let Some(challenge) = call.response.take() {
            challenge.release(&mut self.store);
        }
        self.own_server_tx(at.tx, handle);
        if let Err((code, extra)) = self.validate_call(at) {
            return self.fail_here(handle, EndCause::LocalReject, code, &extra);
        }
        let Some(call) = self.calls.get(handle) else { return };
        let mut order = self.order_of(&call.policy, call.direction, at.message);
        order.retain(|id| call.attempts.iter().all(|attempt| attempt.server != *id));
        order.retain(|id| Some(*id) != server);
        order.insert_many(0, server);
        self.forward_call(handle, order, at);
    }

    fn forward_call(&mut self, handle: Handle, order: SmallVec<[ServerId; 4]>, at: &Arrival<'_>) {
        let Some(call) = self.calls.get_mut(handle) else { return };
        let no_answer = no_answer_of(at.message, &call.policy, at.side);
        if let Some(setup) = call.setup_mut() {
            setup.remaining = order;
        }
        self.set_call_timer(handle, CallTimer::NoAnswer, no_answer);
        if !self.try_servers(handle, at.message, at.own_routes.count, at.loop_hash) {
            self.fail_unreachable(handle);
        }
    }

    fn own_server_tx(&mut self, tx: Handle, call: Handle) {
        if let Some(server) = self.server_txs.get_mut(tx) {
            server.user = server::User::Call(call);
            server.is_stored = true;
            self.keep_server(tx);
        }
    }

    /// The limit that stands against this INVITE, where it begins a new call. A call that is admitted is counted.
    pub(crate) fn limit_of_new_call(
        &mut self,
        flow: &Flow,
        side: Side,
        dialog: Key,
        invite: &Message,
    ) -> Option<CallLimit> {
        let (limits, now, source) = (self.policy.limits, self.now.mono, flow.remote.ip());
        let is_light = self.sources.offer(source, now);
        let limit = if self.calls.len() >= limits.calls {
            Some(CallLimit::Calls)
        } else if self.transactions() >= limits.transactions {
            Some(CallLimit::Transactions)
        } else if !is_light && self.overload.refuses() {
            Some(CallLimit::OverloadDelay)
        } else if !self.sources.admits(source, limits.calls_per_second_per_source, now, false) {
            Some(CallLimit::CallsPerSecondPerSource)
        } else if !fits(&mut self.next_call_at, limits.calls_per_second, now, false) {
            Some(CallLimit::CallsPerSecond)
        } else {
            None
        };
        let is_rated = limits.calls_per_second > 0 || limits.calls_per_second_per_source > 0;
        if limit.is_none() && !is_rated {
            return None;
        }
        let is_new = matches!(self.classify(Keyring::call(dialog, side), invite), Initial::New);
        if is_new && limit.is_none() {
            self.sources.admits(source, limits.calls_per_second_per_source, now, true);
            fits(&mut self.next_call_at, limits.calls_per_second, now, true);
        }
        limit.filter(|_| is_new)
    }

    /// Refuses a new call for a limit, with as little work and memory as that takes. It gets no 100, which a final response
    /// at once makes needless (RFC 3261 §17.2.1) and which would keep the caller from asking again where that is lost;
    /// so the response is repeated only when it asks.
    pub(crate) fn refuse_call(&mut self, limit: CallLimit, at: &Arrival<'_>) {
        let call = self.begin_call(Keyring::call(at.dialog, at.side), at);
        self.stats.on_call_refused(limit);
        self.refuse_here(call, EndCause::Overload, (503, RETRY_SOON), at.message);
        self.stop_repeating(at.tx);
    }

    /// The names by which the API finds a call, hashed.
    pub(crate) fn names_of(&self, identity: &Identity) -> Names {
        Names::new(self.keys.name(identity.call_id()), identity.correlation().map(|name| self.keys.name(name)))
    }

    fn new_call(&mut self, key: Key, at: &Arrival<'_>, policy: std::sync::Arc<Policy>) -> Call {
        self.serial += 1;
        let parent = self.redirects.parent(self.now.mono, key);
        let identity = Identity::of(at.message, &policy, parent, &mut self.store);
        let direction = Direction::from_caller(at.side);
        let mode = identity.dialing_mode();
        let is_progressive = policy.voicemail_drop.always
            || mode.is_some_and(|mode| mode.eq_ignore_ascii_case(policy.voicemail_drop.progressive_value.as_bytes()));
        let server = match direction {
            Direction::Inbound => policy.source(at.flow.remote).and_then(|source| source.server),
            Direction::Outbound => None,
        };
        Call {
            uid: self.uid(key),
            key,
            direction,
            policy,
            names: self.names_of(&identity),
            identity,
            phase: Phase::Setup(self.places.setups.put(new_setup(at))),
            state: CallState::Setup,
            started: self.now,
            path: self.paths.of(at.flow.reply()),
            progress_at: Moment::default(),
            ringing_at: Moment::default(),
            answered_at: Moment::default(),
            early_media: false,
            progress_q850: None,
            attempts: SmallVec::new(),
            server,
            response: None,
            reasons: Reasons::default(),
            anomalies: Anomalies::default(),
            is_progressive,
            is_voicemail_drop: false,
            is_changed: false,
            dialogs: SmallVec::new(),
            timers: SmallVec::new(),
        }
    }

    fn uid(&self, key: Key) -> Uid {
        let milliseconds = u128::try_from(self.now.wall.0.div_euclid(1_000)).unwrap_or(0) & ((1 << 48) - 1);
        Uid((milliseconds << 80) | self.keys.uid(key, self.serial))
    }
}

fn new_setup(at: &Arrival<'_>) -> Setup {
    Setup {
        is_restored: false,
        upstream: at.tx,
        cseq: at.message.cseq().number,
        outline: outline(at.message),
        legs: SmallVec::new(),
        remaining: SmallVec::new(),
        stopping: None,
    }
}

/// Where in a request that stands of which other messages are made.
fn outline(request: &Message) -> Outline {
    let mut outline = Outline::new();
    outline.push((0, request.head_start() as u32));
    let is_needed = |name| {
        matches!(name, Name::Via | Name::From | Name::To | Name::CallId | Name::CSeq | Name::Route | Name::RecordRoute)
    };
    for field in request.fields().iter().filter(|field| is_needed(field.name)) {
        match outline.last_mut() {
            Some((_, end)) if *end == field.start => *end = field.end,
            _ => outline.push((field.start, field.end)),
        }
    }
    outline
}

/// The no-answer timeout: the dialer's own where it may set one and it lies in range.
fn no_answer_of(invite: &Message, policy: &Policy, side: Side) -> Duration {
    let asked = || {
        let field = invite.named(policy.timeouts.no_answer_header.as_ref()?).next()?;
        let seconds = std::str::from_utf8(invite.value(field)).ok()?.parse::<u64>().ok()?;
        NO_ANSWER_RANGE.contains(&seconds).then(|| Duration::from_secs(seconds))
    };
    let is_trusted = side == Side::Dialer && policy.dialer.trust_headers;
    is_trusted.then(asked).flatten().unwrap_or(policy.timeouts.no_answer)
}
