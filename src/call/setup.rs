//! From an INVITE to the first leg: which call it is, whether it may begin, where it goes.

use std::time::Duration;

use smallvec::SmallVec;

use super::{Anomalies, Call, CallTimer, Identity, Phase, Setup, Uid};
use crate::arena::Handle;
use crate::endpoint::{Arrival, Endpoint, RETRY_SOON, Reply};
use crate::event::{CallState, EventKind};
use crate::flow::{Direction, Side};
use crate::outcome::EndCause;
use crate::policy::{Policy, ServerId};
use crate::proxy::server_order;
use crate::sip::{Message, Name, NameAddr, subscriber};
use crate::stats::Refused;
use crate::time::Mono;
use crate::transaction::{Key, server};

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
    pub(crate) fn on_initial_invite(&mut self, at: Arrival, invite: Message) {
        let key = self.keys.call(invite.call_id(), invite.from_tag().unwrap_or_default(), at.side);
        match self.classify(key, &invite) {
            Initial::Merged => {
                self.stats.on_rejected(Refused::Merged.label());
                self.reply(at.tx, Reply { code: 482, ..Reply::default() });
            }
            Initial::Retry(call) => self.on_retry(call, at, &invite),
            Initial::New => self.start_call(key, at, &invite),
        }
    }

    /// Sends the INVITE to the next server; without one the call ends as `cause`, if it is not ended by a response.
    pub(crate) fn try_next(&mut self, handle: Handle) -> bool {
        let Some(call) = self.calls.get_mut(handle) else { return false };
        let Some(setup) = call.setup_mut().filter(|setup| setup.stopping.is_none()) else { return false };
        if setup.remaining.is_empty() {
            return false;
        }
        let server = setup.remaining.remove(0);
        let has_more = !setup.remaining.is_empty();
        if !self.send_leg(handle, server) {
            return self.try_next(handle);
        }
        let progress = self.calls.get(handle).map(|call| call.timeouts().progress).unwrap_or_default();
        if has_more {
            self.set_call_timer(handle, CallTimer::Progress, progress);
        } else {
            self.clear_call_timer(handle, CallTimer::Progress);
        }
        true
    }

    fn classify(&self, key: Key, invite: &Message) -> Initial {
        let open = || self.calls.by_key(key).iter().filter_map(|handle| Some((*handle, self.calls.get(*handle)?)));
        let cseq = invite.cseq().number;
        let retry = open().find(|(_, call)| matches!(&call.phase, Phase::Challenged(last) if cseq >= last.cseq));
        if let Some((call, _)) = retry {
            return Initial::Retry(call);
        }
        let is_merged = open().any(|(_, call)| {
            call.setup().is_some_and(|setup| {
                let same_uri = || {
                    let first = self.server_txs.get(setup.upstream).and_then(|server| server.request.as_ref());
                    first.is_some_and(|first| first.uri() == invite.uri())
                };
                setup.cseq == cseq && same_uri()
            })
        });
        if is_merged { Initial::Merged } else { Initial::New }
    }

    fn start_call(&mut self, key: Key, at: Arrival, invite: &Message) {
        let policy = self.policy.clone();
        let direction = Direction::from_caller(at.side);
        let call = self.new_call(key, at, invite, policy);
        let names = self.names_of(&call.identity);
        self.stats.on_call_started(direction);
        let call = self.calls.insert(Box::new(call), &names);
        self.own_server_tx(at.tx, call);
        self.tell(call, EventKind::Started);
        if let Err((code, extra)) = self.validate(invite) {
            return self.fail_here(call, EndCause::LocalReject, code, &extra);
        }
        if self.is_draining {
            return self.fail_here(call, EndCause::Shutdown, 503, RETRY_SOON);
        }
        if !self.admits_call() {
            return self.fail_here(call, EndCause::Overload, 503, RETRY_SOON);
        }
        let order = match direction {
            Direction::Inbound if self.dialer_target().is_none() => {
                return self.fail_here(call, EndCause::LocalReject, 404, "");
            }
            Direction::Inbound => SmallVec::from_slice(&[ServerId::DIALER]),
            Direction::Outbound => {
                server_order(&self.policy, &self.keys, invite.call_id(), |id| self.health_of(id), self.now.mono)
            }
        };
        self.forward_call(call, order, invite, at.side);
    }

    /// A retry after a challenge is the same call: it goes to the server that challenged.
    fn on_retry(&mut self, handle: Handle, at: Arrival, invite: &Message) {
        self.clear_call_timer(handle, CallTimer::AuthWindow);
        let Some(call) = self.calls.get_mut(handle) else { return };
        let Phase::Challenged(challenged) = &call.phase else { return };
        let server = challenged.server.unwrap_or(ServerId::DIALER);
        call.phase = new_setup(at.tx, invite);
        call.flow = at.flow;
        call.response = None;
        call.reasons.clear();
        self.own_server_tx(at.tx, handle);
        if let Err((code, extra)) = self.validate(invite) {
            return self.fail_here(handle, EndCause::LocalReject, code, &extra);
        }
        self.forward_call(handle, SmallVec::from_slice(&[server]), invite, at.side);
    }

    fn forward_call(&mut self, handle: Handle, order: SmallVec<[ServerId; 4]>, invite: &Message, side: Side) {
        let Some(call) = self.calls.get_mut(handle) else { return };
        let no_answer = no_answer_of(invite, &call.policy, side);
        if let Some(setup) = call.setup_mut() {
            setup.remaining = order;
        }
        self.set_call_timer(handle, CallTimer::NoAnswer, no_answer);
        if !self.try_next(handle) {
            self.fail_unreachable(handle);
        }
    }

    fn own_server_tx(&mut self, tx: Handle, call: Handle) {
        if let Some(server) = self.server_txs.get_mut(tx) {
            server.user = server::User::Call(call);
        }
    }

    /// Whether a new call keeps within the limits.
    fn admits_call(&mut self) -> bool {
        let limits = self.policy.limits;
        if self.calls.len() > limits.calls {
            return false;
        }
        if limits.calls_per_second == 0 {
            return true;
        }
        // A bucket of one second's worth that fills evenly (GCRA).
        let interval = Duration::from_secs(1) / limits.calls_per_second;
        let burst = Duration::from_secs(1) - interval;
        let due = self.next_call_at.max(self.now.mono);
        if due.since(self.now.mono) > burst {
            return false;
        }
        self.next_call_at = due + interval;
        true
    }

    /// The keys of the names by which the API finds a call.
    pub(crate) fn names_of(&self, identity: &Identity) -> SmallVec<[Key; 2]> {
        let call_id = String::from_utf8_lossy(&identity.call_id);
        let names = [Some(call_id.as_ref()), identity.correlation.as_deref()];
        names.into_iter().flatten().map(|name| self.keys.name(name.as_bytes())).collect()
    }

    fn new_call(&mut self, key: Key, at: Arrival, invite: &Message, policy: std::sync::Arc<Policy>) -> Call {
        self.serial += 1;
        let uid = self.uid(key);
        let identity = self.identify(key, invite, &policy);
        let direction = Direction::from_caller(at.side);
        let mode = identity.dialing_mode.as_deref();
        let is_progressive = policy.voicemail_drop.always
            || mode.is_some_and(|mode| mode.eq_ignore_ascii_case(&policy.voicemail_drop.progressive_value));
        let source = policy.source(at.flow.remote).and_then(|source| source.server);
        let server = if direction == Direction::Inbound { source } else { None };
        Call {
            uid,
            key,
            direction,
            policy,
            identity: Box::new(identity),
            phase: new_setup(at.tx, invite),
            state: CallState::Setup,
            started: self.now,
            flow: at.flow,
            progress_at: None,
            ringing_at: None,
            answered_at: None,
            early_media: false,
            progress_q850: None,
            attempts: SmallVec::new(),
            server,
            response: None,
            reasons: Vec::new(),
            anomalies: Anomalies::default(),
            is_progressive,
            is_voicemail_drop: false,
            dialogs: SmallVec::new(),
            timers: SmallVec::new(),
        }
    }

    fn uid(&self, key: Key) -> Uid {
        let milliseconds = u128::try_from(self.now.wall.0.div_euclid(1_000)).unwrap_or(0) & ((1 << 48) - 1);
        Uid((milliseconds << 80) | self.keys.uid(key, self.serial))
    }

    fn identify(&self, key: Key, invite: &Message, policy: &Policy) -> Identity {
        let user_in = |name| {
            let field = invite.first(name)?;
            user_of(NameAddr::parse(invite.value(field))?.uri)
        };
        let labels = policy.capture.labels.iter().enumerate();
        Identity {
            call_id: invite.call_id().into(),
            from_tag: invite.from_tag().map(Into::into),
            from: user_in(Name::From),
            to: user_in(Name::To),
            request_user: user_of(invite.uri()),
            correlation: policy.capture.correlation.as_deref().and_then(|header| text_of(invite, header)),
            dialing_mode: text_of(invite, &policy.voicemail_drop.progressive_header),
            parent: self.redirects.parent(self.now.mono, key),
            labels: labels.filter_map(|(at, label)| Some((at, text_of(invite, &label.header)?))).collect(),
            to_tag: None,
        }
    }
}

/// Values of headers that ride along are cut at this many bytes.
const LONGEST_VALUE: usize = 1024;

fn new_setup(upstream: Handle, invite: &Message) -> Phase {
    Phase::Setup(Box::new(Setup {
        upstream,
        cseq: invite.cseq().number,
        legs: SmallVec::new(),
        remaining: SmallVec::new(),
        stopping: None,
    }))
}

/// The no-answer timeout: the dialer's own where it may set one and it lies in range.
fn no_answer_of(invite: &Message, policy: &Policy, side: Side) -> Duration {
    let asked = || {
        let header = policy.timeouts.no_answer_header.as_deref()?;
        let seconds = text_of(invite, header)?.parse::<u64>().ok()?;
        NO_ANSWER_RANGE.contains(&seconds).then(|| Duration::from_secs(seconds))
    };
    let is_trusted = side == Side::Dialer && policy.dialer.trust_headers;
    is_trusted.then(asked).flatten().unwrap_or(policy.timeouts.no_answer)
}

fn text_of(message: &Message, header: &str) -> Option<Box<str>> {
    message.named(header).next().map(|field| text(message.value(field)))
}

fn user_of(uri: &[u8]) -> Option<Box<str>> {
    subscriber(uri).map(text)
}

pub(super) fn text(bytes: &[u8]) -> Box<str> {
    String::from_utf8_lossy(bytes.get(..LONGEST_VALUE).unwrap_or(bytes)).into()
}

/// How long ago something was, in whole milliseconds.
pub(super) fn milliseconds(later: Mono, earlier: Mono) -> u64 {
    u64::try_from(later.since(earlier).as_millis()).unwrap_or(u64::MAX)
}
