//! The legs of a call that has no final response yet: forwarding its INVITE, and what comes back.

use std::sync::Arc;

use bytes::Bytes;

use super::{Attempt, CallTimer, FinalResponse, Leg, Legs, Moment, Phase, Reasons, Stopping};
use crate::arena::Handle;
use crate::endpoint::{Endpoint, OwnRoutes, Request, reason_fields, reason_lines};
use crate::event::{CallState, EventKind};
use crate::flow::{Flow, Hop, Side, Transport};
use crate::kept::Store;
use crate::outcome::{CodeSource, EndCause, q850};
use crate::policy::{Policy, ServerId, Target, listener_at};
use crate::proxy::route::Ourselves;
use crate::proxy::{forward, make};
use crate::sip::{Message, Method, Name, seconds};
use crate::stats::{AttemptResult, Race};
use crate::text::{Line, Put};
use crate::transaction::client::{self, Fallback};
use crate::transaction::{Branch, Key};

/// Reason lines of a CANCEL that we send because nobody answered.
const NO_ANSWER_REASONS: &str =
    "Reason: SIP;cause=408;text=\"No answer\"\r\nReason: Q.850;cause=19;text=\"No answer\"\r\n";
/// Of one that another server's answer or turn makes needless.
pub(super) const ELSEWHERE_REASONS: &str = "Reason: SIP;cause=200;text=\"Call completed elsewhere\"\r\n";

impl Endpoint {
    /// Forwards the caller's INVITE to a server. False where there is no way to it.
    pub(super) fn send_leg(
        &mut self,
        handle: Handle,
        server: ServerId,
        invite: &Message,
        own_routes: usize,
        loop_hash: u64,
    ) -> bool {
        let Some(call) = self.calls.get_mut(handle) else { return false };
        let policy = call.policy.clone();
        let (side, number) = (call.callee_side(), call.attempts.len());
        let Some(target) = target_of(&policy, server) else { return false };
        call.attempts.push(Attempt { server, started: self.now.mono, ended: Moment::default(), code: None });
        if server != ServerId::DIALER {
            call.server = Some(server);
        }
        let Some(setup) = call.setup() else { return false };
        let upstream = setup.upstream;
        let attempt = u8::try_from(number).unwrap_or(u8::MAX);
        let Some(tx) = self.server_txs.get(upstream) else { return false };
        let branch = self.keys.branch(tx.key, u32::from(attempt), loop_hash);
        let path = tx.path.clone();
        let uri = rewritten_uri(invite, self.ourselves(&policy, path.local), target);
        let how =
            client::Forwarded { is_for_us: uri.is_some(), own_routes: u16::try_from(own_routes).unwrap_or(u16::MAX) };
        let outgoing = Outgoing { branch, uri: uri.as_deref(), own_routes, records: true, stamp: None, to: side };
        let (hop, bytes, fallback) = self.outgoing(invite, &path, target.hop, &policy, outgoing);
        let request = Request {
            branch,
            method: Method::Invite,
            method_text: b"INVITE",
            hop,
            side,
            bytes,
            fallback,
            user: client::User::Leg { call: handle, upstream, attempt, how },
        };
        let client = self.start_client(request, &policy.timeouts);
        if let Some(setup) = self.calls.get_mut(handle).and_then(|call| call.setup_mut()) {
            setup.legs.push(Leg { client, attempt, is_given_up: false });
        }
        true
    }

    /// The INVITE of a leg as it was sent, made again from the caller's.
    pub(crate) fn leg_again(&mut self, tx: Handle) -> Option<Bytes> {
        let client = self.client_txs.get(tx)?;
        let client::User::Leg { call, upstream, attempt, how } = client.user else { return None };
        let (branch, hop, to) = (client.branch(b"INVITE"), *client.path, client.side);
        let call = self.calls.get(call)?;
        let policy = call.policy.clone();
        let server = call.attempts.get(usize::from(attempt))?.server;
        let path = self.server_txs.get(upstream)?.path.clone();
        let invite = self.request_of(upstream)?;
        let is_there = |target: &&Target| target.hop.remote == hop.remote;
        let uri = match target_of(&policy, server).filter(is_there) {
            _ if !how.is_for_us => None,
            Some(target) => uri_towards(&invite, &target.host_port, target.hop.transport),
            // Since a restart it is configured otherwise, or not at all: it is called by its address.
            None => uri_towards(&invite, &hop.remote.to_string(), hop.transport),
        };
        let own_routes = how.own_routes.into();
        let outgoing = Outgoing { branch, uri: uri.as_deref(), own_routes, records: true, stamp: None, to };
        Some(self.write_request(&invite, &path, hop, &policy, outgoing))
    }

    /// A response to the INVITE of a leg.
    pub(crate) fn on_leg_response(&mut self, tx: Handle, upstream: Handle, flow: &Flow, message: &Message) {
        let Some(client) = self.client_txs.get(tx) else { return };
        let client::User::Leg { call: handle, attempt, .. } = client.user else { return };
        let is_abandoned = client.is_abandoned;
        self.heard_from(handle, attempt, flow);
        if is_abandoned {
            return self.on_abandoned_response(tx, handle, message);
        }
        let Some(call) = self.calls.get(handle) else {
            // The call is over; its 2xx may still come again (RFC 6026), or another fork's come.
            if self.forward_2xx(tx, upstream, message) {
                self.count_race(Race::LateFork);
            }
            return;
        };
        if !matches!(call.phase, Phase::Setup(_)) {
            return self.on_more_2xx(handle, tx, upstream, flow, message);
        }
        match message.code() {
            100 => self.extend_grace(handle),
            101..200 => self.on_provisional(handle, tx, upstream, flow, message),
            200..300 => self.on_answer(handle, tx, upstream, flow, message),
            _ => self.on_leg_failure(handle, tx, attempt, message),
        }
    }

    /// Nothing came back in time (Timer B, or Timer C after a 1xx).
    pub(crate) fn on_leg_timeout(&mut self, handle: Handle, tx: Handle, is_silent: bool) {
        let result = if is_silent { AttemptResult::NoResponse } else { AttemptResult::Timeout };
        if is_silent {
            self.note_server_failure(handle, tx);
        }
        let is_given_up = self.is_given_up(handle, tx);
        if !self.close_attempt(handle, tx, None, result) || (is_given_up && self.has_live_leg(handle)) {
            return;
        }
        if self.is_stopping(handle) {
            return self.conclude_stop(handle);
        }
        if self.try_next(handle) || self.has_live_leg(handle) {
            return;
        }
        let cause = if is_silent { EndCause::NoResponse } else { EndCause::NoAnswerTimer };
        self.fail_unanswered(handle, cause);
    }

    /// The server cannot be reached.
    pub(crate) fn on_leg_unreachable(&mut self, handle: Handle, tx: Handle) {
        self.note_server_failure(handle, tx);
        let is_given_up = self.is_given_up(handle, tx);
        let is_open = self.close_attempt(handle, tx, None, AttemptResult::TransportError);
        if !is_open || (is_given_up && self.has_live_leg(handle)) {
            return;
        }
        if self.is_stopping(handle) {
            return self.conclude_stop(handle);
        }
        if !self.try_next(handle) && !self.has_live_leg(handle) {
            self.fail_unreachable(handle);
        }
    }

    /// `progress` went by without an 18x: the next server gets its turn, this one is cancelled.
    pub(super) fn on_no_progress(&mut self, handle: Handle) {
        let Some(call) = self.calls.get_mut(handle) else { return };
        // After a restart the next one may be configured no more: the last server has no such limit.
        let Some(setup) = call.setup_mut().filter(|setup| !setup.remaining.is_empty()) else { return };
        let given_up = setup.legs.iter_mut().filter(|leg| !leg.is_given_up);
        let legs = given_up
            .map(|leg| {
                leg.is_given_up = true;
                *leg
            })
            .collect::<Legs>();
        for leg in legs {
            let is_silent = self.is_silent(leg.client);
            if is_silent {
                self.note_server_failure(handle, leg.client);
            }
            let result = if is_silent { AttemptResult::NoResponse } else { AttemptResult::Timeout };
            self.note_attempt(handle, leg.attempt, None, result);
            self.cancel_client(leg.client, NO_ANSWER_REASONS);
        }
        if !self.try_next(handle) {
            self.fail_unreachable(handle);
        }
    }

    pub(super) fn on_no_answer(&mut self, handle: Handle) {
        if self.infer_end(handle) {
            return;
        }
        // Who is not back since the restart can neither hear nor have said that nobody answered.
        let cause = if self.has_lost_party(handle) { EndCause::Restart } else { EndCause::NoAnswerTimer };
        self.stop(handle, cause, Reasons::default(), NO_ANSWER_REASONS);
    }

    pub(crate) fn on_caller_cancel(&mut self, handle: Handle, reasons: Reasons) {
        let Some(call) = self.calls.get(handle) else { return };
        let by_reason = crate::outcome::ring_timeout_or_elsewhere(&reasons);
        let waited = self.now.mono.since(call.started.mono);
        let limit = call.timeouts().dialer_ring_timeout.filter(|_| call.caller_side() == Side::Dialer);
        let by_time = limit.filter(|limit| waited > *limit).map(|_| EndCause::DialerRingTimeout);
        let cause = by_reason.or(by_time).unwrap_or(EndCause::CallerCancel);
        let lines = reason_lines(&reasons);
        self.stop(handle, cause, reasons, &lines);
    }

    /// Stops a call that has no final response: its legs are cancelled and may still answer within
    /// the grace. The first cause decides.
    pub(crate) fn stop(&mut self, handle: Handle, cause: EndCause, reasons: Reasons, lines: &str) {
        let now = self.now.mono;
        let Some(call) = self.calls.get_mut(handle) else { return };
        let grace = call.timeouts().cancel_grace;
        let t1 = call.timeouts().t1;
        let Some(setup) = call.setup_mut().filter(|setup| setup.stopping.is_none()) else { return };
        setup.stopping = Some(Stopping { cause, since: now });
        let legs = setup.legs.clone();
        call.reasons = reasons;
        self.clear_call_timer(handle, CallTimer::NoAnswer);
        self.clear_call_timer(handle, CallTimer::Progress);
        for leg in &legs {
            self.cancel_client(leg.client, lines);
        }
        // Where nothing has come back, a CANCEL cannot go out: waiting longer than a round trip for an
        // answer to it would only keep the caller.
        let any_heard = legs.iter().any(|leg| self.is_open_leg(leg.client, false));
        self.set_call_timer(handle, CallTimer::CancelGrace, if any_heard { grace } else { grace.min(t1) });
    }

    /// A 1xx other than 100.
    fn on_provisional(&mut self, handle: Handle, tx: Handle, upstream: Handle, flow: &Flow, message: &Message) {
        let now = self.now.mono;
        let code = message.code();
        let Some(setup) = self.calls.get_mut(handle).and_then(|call| call.setup_mut()) else { return };
        // It is still asked: nothing that came last is missing.
        setup.is_restored = false;
        let is_given_up = setup.legs.iter().any(|leg| leg.client == tx && leg.is_given_up);
        if setup.stopping.is_some() {
            self.extend_grace(handle);
        }
        if is_given_up {
            return;
        }
        let Some(call) = self.calls.get_mut(handle) else { return };
        let mut is_first_ringing = false;
        if (180..190).contains(&code) {
            call.progress_at.note(now);
            call.early_media |= !message.body().is_empty();
            call.progress_q850 = q850(&reason_fields(message)).or(call.progress_q850);
            if code == 180 && !call.ringing_at.is_set() {
                call.ringing_at.note(now);
                is_first_ringing = true;
            }
        }
        if (180..190).contains(&code) {
            self.clear_call_timer(handle, CallTimer::Progress);
        }
        if is_first_ringing {
            self.set_call_state(handle, CallState::Ringing);
            self.tell(handle, EventKind::Ringing);
        }
        self.learn_dialog(handle, tx, flow, message);
        self.forward_leg_response(handle, upstream, message, None, None);
        self.forget_invite(handle, upstream);
    }

    /// Once every server that is asked has answered something and no other is left, the caller's INVITE is not sent again:
    /// of it only that is kept of which responses, CANCEL and ACK are made, and what clears a late 2xx.
    fn forget_invite(&mut self, handle: Handle, upstream: Handle) {
        let Some(setup) = self.calls.get(handle).and_then(|call| call.setup()) else { return };
        let is_heard = |leg: &Leg| self.client_txs.get(leg.client).is_some_and(|client| !client.is_silent());
        if !setup.remaining.is_empty() || !setup.legs.iter().all(is_heard) {
            return;
        }
        let Some(server) = self.server_txs.get(upstream).filter(|server| !server.is_outline) else { return };
        self.lines.clear();
        for (start, end) in &setup.outline {
            self.lines.put(server.request.get(*start as usize..*end as usize).unwrap_or_default());
        }
        self.lines.put(b"\r\n");
        let kept = self.store.keep(&[&self.lines]);
        if let Some(server) = self.server_txs.get_mut(upstream) {
            server.is_outline = true;
            self.store.release(std::mem::replace(&mut server.request, kept));
            self.keep_server(upstream);
        }
    }

    /// The CANCEL that was held is out: from here the whole grace counts.
    fn extend_grace(&mut self, handle: Handle) {
        let Some(call) = self.calls.get(handle) else { return };
        let Some(stopping) = call.setup().and_then(|setup| setup.stopping.as_ref()) else { return };
        let grace = call.timeouts().cancel_grace.saturating_sub(self.now.mono.since(stopping.since));
        self.set_call_timer(handle, CallTimer::CancelGrace, grace);
    }

    fn on_leg_failure(&mut self, handle: Handle, tx: Handle, attempt: u8, message: &Message) {
        let code = message.code();
        let is_given_up = self.is_given_up(handle, tx);
        if !is_given_up {
            let server = self.attempt_of(handle, tx).map(|attempt| attempt.server);
            let wait = message.first(Name::RetryAfter).and_then(|field| seconds(message.value(field)));
            if let (503, Some(server), Some(wait)) = (code, server, wait) {
                self.health.entry(server).or_default().on_retry_after(self.now.mono, wait);
            }
        }
        if !self.close_attempt(handle, tx, Some(code), AttemptResult::Failed) {
            return;
        }
        if is_given_up && code < 600 && self.has_live_leg(handle) {
            return;
        }
        if is_given_up && self.stopping_cause(handle) != Some(EndCause::NoAnswerTimer) {
            self.note_deciding_attempt(handle, attempt, code, AttemptResult::Failed);
        }
        if self.is_stopping(handle) {
            return self.conclude_stop_with(handle, message);
        }
        if matches!(code, 500 | 502 | 503 | 504) && self.try_next(handle) {
            return;
        }
        match code {
            401 | 407 | 422 => self.on_challenge(handle, attempt, message),
            300..=399 => self.fail_with(handle, EndCause::Redirected, message),
            _ => self.fail_with(handle, EndCause::PeerFinal, message),
        }
    }

    /// 401, 407, 422: the caller has to ask again, and it is the same call when it does.
    fn on_challenge(&mut self, handle: Handle, attempt: u8, message: &Message) {
        let Some(call) = self.calls.get_mut(handle) else { return };
        let Some(setup) = call.setup() else { return };
        let (upstream, cseq) = (setup.upstream, setup.cseq);
        let window = call.timeouts().auth_retry_window;
        let server = call.attempts.get(usize::from(attempt)).map(|attempt| attempt.server);
        call.response = Some(peer_response(message, None, &mut self.store));
        call.reasons = reason_fields(message).into();
        self.clear_call_timer(handle, CallTimer::NoAnswer);
        self.clear_call_timer(handle, CallTimer::Progress);
        self.abandon_legs(handle, None, ELSEWHERE_REASONS);
        let at = self.now.mono;
        if let Some(call) = self.calls.get_mut(handle) {
            let challenged = Phase::Challenged(super::Challenged { at, cseq, server });
            let setup = std::mem::replace(&mut call.phase, challenged);
            self.places.release(setup);
        }
        self.set_call_timer(handle, CallTimer::AuthWindow, window);
        self.set_call_state(handle, CallState::Setup);
        self.forward_leg_response(handle, upstream, message, None, None);
    }

    /// A response on its way to the caller.
    pub(super) fn forward_leg_response(
        &mut self,
        handle: Handle,
        upstream: Handle,
        message: &Message,
        stamp: Option<&[u8]>,
        phrase: Option<&str>,
    ) {
        let policy = match self.calls.get(handle) {
            Some(call) => call.policy.clone(),
            None => self.policy.clone(),
        };
        let Some(server) = self.server_txs.get(upstream) else { return };
        let change = forward::ResponseChange { policy: &policy, stamp, phrase, transport: server.reply.transport };
        let bytes = forward::response(message, &change, &mut self.edits, self.out.piece());
        self.respond(upstream, message.code(), bytes);
    }

    /// Ends the turn of a leg in the record; false where the call is not in setup any more.
    fn close_attempt(&mut self, handle: Handle, tx: Handle, code: Option<u16>, result: AttemptResult) -> bool {
        let Some(call) = self.calls.get_mut(handle) else { return false };
        let Some(setup) = call.setup_mut() else { return false };
        let Some(at) = setup.legs.iter().position(|leg| leg.client == tx) else { return false };
        let leg = setup.legs.remove(at);
        if !leg.is_given_up {
            self.note_attempt(handle, leg.attempt, code, result);
        }
        true
    }

    pub(super) fn note_attempt(&mut self, handle: Handle, attempt: u8, code: Option<u16>, result: AttemptResult) {
        let now = self.now.mono;
        let Some(call) = self.calls.get_mut(handle) else { return };
        let Some(attempt) = call.attempts.get_mut(usize::from(attempt)).filter(|attempt| !attempt.ended.is_set())
        else {
            return;
        };
        attempt.ended.note(now);
        attempt.code = code;
        let server = attempt.server;
        self.stats.on_attempt(server, result);
        if let Some(code) = code {
            self.stats.on_final_response(server, code);
        }
    }

    /// The final response of this attempt is the call's: its server decided, also where another one was asked after it.
    pub(super) fn note_deciding_attempt(&mut self, handle: Handle, attempt: u8, code: u16, result: AttemptResult) {
        let now = self.now.mono;
        let Some(call) = self.calls.get_mut(handle) else { return };
        let Some(tried) = call.attempts.get_mut(usize::from(attempt)) else { return };
        let server = tried.server;
        if server != ServerId::DIALER {
            call.server = Some(server);
        }
        if !tried.ended.is_set() {
            return self.note_attempt(handle, attempt, Some(code), result);
        }
        // It was given up, and counted so, and gives a final response all the same.
        (tried.ended, tried.code) = (Moment::at(now), Some(code));
        self.stats.on_final_response(server, code);
    }

    fn attempt_of(&self, handle: Handle, tx: Handle) -> Option<&Attempt> {
        let call = self.calls.get(handle)?;
        let leg = call.setup()?.legs.iter().find(|leg| leg.client == tx)?;
        call.attempts.get(usize::from(leg.attempt))
    }

    /// The server of a leg cannot be reached, or has said nothing in all the time that it had.
    pub(super) fn note_server_failure(&mut self, handle: Handle, tx: Handle) {
        if let Some(&Attempt { server, started, .. }) = self.attempt_of(handle, tx) {
            self.health.entry(server).or_default().on_failure(self.now.mono, started);
        }
    }

    /// A server spoke: whatever was thought of it, it is there.
    fn heard_from(&mut self, handle: Handle, attempt: u8, flow: &Flow) {
        let server = match self.calls.get(handle) {
            Some(call) => call.attempts.get(usize::from(attempt)).map(|tried| tried.server),
            None => self.policy.source(flow.remote).and_then(|source| source.server),
        };
        if let Some(server) = server {
            self.health.entry(server).or_default().on_heard(self.now.mono);
        }
    }

    pub(super) fn stopping_cause(&self, handle: Handle) -> Option<EndCause> {
        self.calls.get(handle)?.setup()?.stopping.as_ref().map(|stopping| stopping.cause)
    }

    fn is_stopping(&self, handle: Handle) -> bool {
        self.stopping_cause(handle).is_some()
    }

    fn is_given_up(&self, handle: Handle, tx: Handle) -> bool {
        let setup = self.calls.get(handle).and_then(|call| call.setup());
        setup.is_some_and(|setup| setup.legs.iter().any(|leg| leg.client == tx && leg.is_given_up))
    }

    fn has_live_leg(&self, handle: Handle) -> bool {
        let setup = self.calls.get(handle).and_then(|call| call.setup());
        setup.is_some_and(|setup| setup.legs.iter().any(|leg| !leg.is_given_up))
    }

    /// Whether a leg has answered nothing at all.
    pub(super) fn is_silent(&self, tx: Handle) -> bool {
        self.client_txs.get(tx).is_some_and(|client| client.is_silent())
    }

    /// Whether a leg has answered something but no final response; with `silent_too`, or nothing at all.
    pub(super) fn is_open_leg(&self, tx: Handle, silent_too: bool) -> bool {
        self.client_txs.get(tx).is_some_and(|client| !client.is_final() && (silent_too || !client.is_silent()))
    }

    pub(super) fn count_race(&mut self, race: Race) {
        self.stats.on_race(race);
    }
}

/// How a request leaves, as far as its sender decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing<'a> {
    pub branch: Branch,
    pub uri: Option<&'a [u8]>,
    pub own_routes: usize,
    /// Whether it begins a dialog.
    pub records: bool,
    /// Whole header lines to add.
    pub stamp: Option<&'a [u8]>,
    pub to: Side,
}

impl Endpoint {
    /// Writes a request for a hop: over TCP where it is too large for UDP, with the datagram to fall
    /// back on.
    pub(crate) fn outgoing(
        &mut self,
        message: &Message,
        from: &Hop,
        hop: Hop,
        policy: &Arc<Policy>,
        how: Outgoing<'_>,
    ) -> (Hop, Bytes, Option<Box<Fallback>>) {
        let bytes = self.write_request(message, from, hop, policy, how);
        if self.transport_for(&hop, bytes.len()) == hop.transport {
            return (hop, bytes, None);
        }
        let listener = listener_at(&self.policy.listeners, Transport::Tcp, hop.local.ip()).map(|one| one.bound.port());
        let mut over_tcp = Hop { transport: Transport::Tcp, ..hop };
        over_tcp.local.set_port(listener.unwrap_or(hop.local.port()));
        let large = self.write_request(message, from, over_tcp, policy, how);
        (over_tcp, large, Some(Box::new(Fallback { hop, bytes })))
    }

    fn write_request(
        &mut self,
        message: &Message,
        from: &Hop,
        hop: Hop,
        policy: &Arc<Policy>,
        how: Outgoing<'_>,
    ) -> Bytes {
        let towards = self.own.at(policy, how.to, hop.transport, hop.local);
        let back = self.own.at(policy, how.to.opposite(), from.transport, from.local);
        // Two lines where the sides see us differently (RFC 5658 §4.1).
        let record_route: [&[u8]; 2] = match how.records {
            true if towards.record_route == back.record_route => [&towards.record_route, b""],
            true => [&towards.record_route, &back.record_route],
            false => [b"", b""],
        };
        let change = forward::RequestChange {
            source: from.remote,
            via: &towards.via,
            branch: how.branch,
            record_route,
            uri: how.uri,
            own_routes: how.own_routes,
            policy,
            to: how.to,
            stamp: how.stamp,
            transport: hop.transport,
        };
        forward::request(message, &change, &mut self.edits, self.out.piece())
    }

    pub(crate) fn loop_hash_of(&self, message: &Message, dialog: Key, side: Side, own_routes: OwnRoutes) -> u64 {
        if !own_routes.has_more {
            return self.keys.loop_hash(message, dialog, side, b"");
        }
        self.keys.loop_hash(message, dialog, side, &crate::endpoint::routes_behind(message, own_routes))
    }
}

impl FinalResponse {
    /// Gives back what it kept.
    pub(super) fn release(self, store: &mut Store) {
        store.release(self.text);
    }
}

/// The final response of the far side, as the record keeps it; its To tag is in a dialog, or kept here.
pub(super) fn peer_response(message: &Message, dialog: Option<u8>, store: &mut Store) -> FinalResponse {
    let (code, phrase) = (message.code(), message.phrase());
    let phrase = Some(phrase).filter(|phrase| *phrase != make::phrase(code).as_bytes());
    let tag = message.to_tag().filter(|_| dialog.is_none());
    FinalResponse {
        code: Some(code),
        source: CodeSource::Peer,
        text: store.keep(&[phrase.unwrap_or_default(), tag.unwrap_or_default()]),
        // No longer than the message.
        phrase: phrase.map(|phrase| phrase.len() as u16),
        dialog,
    }
}

/// Where a server's INVITE goes.
fn target_of(policy: &Policy, server: ServerId) -> Option<&Target> {
    if server == ServerId::DIALER {
        return policy.dialer.target.as_ref();
    }
    policy.server(server).map(|server| &server.target)
}

/// The Request-URI that a server gets where the caller's named us: host and port become the server's,
/// a `transport` parameter follows the hop, everything else stays.
pub(crate) fn rewritten_uri(message: &Message, ourselves: Ourselves<'_>, target: &Target) -> Option<Line<128>> {
    message.sip_uri().filter(|uri| ourselves.are_in(uri))?;
    uri_towards(message, &target.host_port, target.hop.transport)
}

fn uri_towards(message: &Message, host_port: &str, transport: Transport) -> Option<Line<128>> {
    let (uri, text) = (message.sip_uri()?, message.uri());
    let mut out = Line::from_slice(text.get(..uri.host_port.start)?);
    out.put(host_port.as_bytes());
    out.put(text.get(uri.host_port.end..uri.params.start)?);
    for (name, value) in uri.params().iter() {
        let value = if name.eq_ignore_ascii_case(b"transport") { Some(transport.label().as_bytes()) } else { value };
        out.put(b";");
        out.put(name);
        if let Some(value) = value {
            out.put(b"=");
            out.put(value);
        }
    }
    out.put(text.get(uri.params.end..)?);
    Some(out)
}
