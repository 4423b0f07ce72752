//! How calls end: by a final response before the answer, by a BYE or in its place after it.

use bytes::Bytes;
use smallvec::SmallVec;

use super::legs::{ELSEWHERE_REASONS, peer_response};
use super::{CallTimer, DialogState, Ending, FinalResponse, Legs, Phase, Reasons};
use crate::arena::Handle;
use crate::endpoint::{Endpoint, RETRY_SOON, Reply, Request, reason_fields};
use crate::flow::{Hop, Side};
use crate::kept::Kept;
use crate::outcome::{Anomaly, CodeSource, EndCause, final_stamp};
use crate::proxy::make;
use crate::sip::{Message, Method};
use crate::stats::AttemptResult;
use crate::transaction::Branch;
use crate::transaction::client::{Cancel, User};

/// Q.850 causes on final responses that we make.
pub(crate) const fn q850_of(cause: EndCause) -> Option<&'static str> {
    match cause {
        EndCause::NoAnswerTimer => Some("Reason: Q.850;cause=19;text=\"No answer from user\"\r\n"),
        EndCause::NoResponse => Some("Reason: Q.850;cause=18;text=\"No user responding\"\r\n"),
        EndCause::TransportError => Some("Reason: Q.850;cause=38;text=\"Network out of order\"\r\n"),
        EndCause::Overload | EndCause::Shutdown => {
            Some("Reason: Q.850;cause=42;text=\"Switching equipment congestion\"\r\n")
        }
        _ => None,
    }
}

impl Endpoint {
    // -- before the answer ----------------------------------------------------------------------

    /// Ends a call with a response made here. `extra` are whole header lines.
    pub(crate) fn fail_here(&mut self, handle: Handle, cause: EndCause, code: u16, extra: &str) {
        self.fail_locally(handle, cause, (code, extra), (Some(code), CodeSource::Local), None);
    }

    /// The same with the INVITE at hand.
    pub(super) fn refuse_here(&mut self, handle: Handle, cause: EndCause, made: (u16, &str), invite: &Message) {
        self.fail_locally(handle, cause, made, (Some(made.0), CodeSource::Local), Some(invite));
    }

    /// Ends a call for which there is no code: nobody answered.
    pub(super) fn fail_unanswered(&mut self, handle: Handle, cause: EndCause) {
        let Some(call) = self.calls.get_mut(handle) else { return };
        let stamp = &call.policy.stamp;
        let code = if cause == EndCause::NoResponse { stamp.no_response_code } else { stamp.no_answer_code };
        call.reasons = Reasons::default();
        self.fail_locally(handle, cause, (code, ""), (None, CodeSource::None), None);
    }

    /// No server is left to try, and the last one could not be reached.
    pub(super) fn fail_unreachable(&mut self, handle: Handle) {
        self.fail_here(handle, EndCause::TransportError, 503, "");
    }

    /// Ends a call with the far side's response.
    pub(super) fn fail_with(&mut self, handle: Handle, cause: EndCause, message: &Message) {
        let Some(call) = self.calls.get_mut(handle) else { return };
        let Some(upstream) = call.setup().map(|setup| setup.upstream) else { return };
        call.response = Some(peer_response(message, None, &mut self.store));
        // Of a cancelled call, the caller's own reasons stay.
        if matches!(cause, EndCause::PeerFinal | EndCause::Redirected | EndCause::HungUp) {
            call.reasons = reason_fields(message).into();
        }
        let side = call.caller_side();
        let stamps = call.stamps(side);
        let (key, uid) = (call.key, call.uid);
        self.abandon_legs(handle, None, ELSEWHERE_REASONS);
        if cause == EndCause::Redirected {
            self.redirects.add(self.now.mono, key, uid);
        }
        let (stamp, phrase) = self.stamp_of(handle, cause);
        let stamped = stamps.then_some(&*stamp);
        self.forward_leg_response(handle, upstream, message, stamped, phrase.filter(|_| stamps));
        self.lines = stamp;
        self.emit(handle, cause, self.now.mono);
    }

    /// The wait for a stopped call's legs is over: nothing (more) came.
    pub(super) fn conclude_stop(&mut self, handle: Handle) {
        let is_unheard =
            |client: &crate::transaction::client::ClientTx| client.cancel == Cancel::Sent { answered: false };
        if self.legs_of(handle).iter().any(|leg| self.client_txs.get(leg.client).is_some_and(is_unheard)) {
            self.note_anomaly(handle, Anomaly::ResponseToCancelMissing);
        }
        self.end_stopped(handle);
    }

    fn legs_of(&self, handle: Handle) -> Legs {
        self.calls.get(handle).and_then(|call| call.setup()).map(|setup| setup.legs.clone()).unwrap_or_default()
    }

    /// Ends a stopped call as it was decided when it was stopped.
    pub(super) fn end_stopped(&mut self, handle: Handle) {
        let Some(cause) = self.stopping_cause(handle) else { return };
        match cause {
            EndCause::NoAnswerTimer => {
                // What the last server asked did decides (a given-up one is silent by definition).
                let legs = self.legs_of(handle);
                let any_heard = legs.iter().any(|leg| !leg.is_given_up && self.is_open_leg(leg.client, false));
                let cause = if any_heard { cause } else { EndCause::NoResponse };
                for leg in legs.iter().filter(|leg| !any_heard && !leg.is_given_up) {
                    self.note_server_failure(handle, leg.client);
                }
                self.fail_unanswered(handle, cause);
            }
            EndCause::Restart => self.fail_here(handle, EndCause::Restart, 503, RETRY_SOON),
            cause => self.fail_here(handle, cause, 487, ""),
        }
    }

    /// A leg of a stopped call gave its final response: it is the caller's too, but after the no-answer timer it only
    /// ends the wait.
    pub(super) fn conclude_stop_with(&mut self, handle: Handle, message: &Message) {
        match self.stopping_cause(handle) {
            None => {}
            Some(EndCause::NoAnswerTimer) => self.fail_unanswered(handle, EndCause::NoAnswerTimer),
            Some(cause) => self.fail_with(handle, cause, message),
        }
    }

    pub(super) fn on_auth_window(&mut self, handle: Handle) {
        let Some(Phase::Challenged(challenged)) = self.calls.get(handle).map(|call| &call.phase) else { return };
        let at = challenged.at;
        self.emit(handle, EndCause::AuthFailed, at);
    }

    /// Lets go of all legs but one: they are cancelled, and cleared if they answer all the same.
    pub(super) fn abandon_legs(&mut self, handle: Handle, except: Option<Handle>, reasons: &str) {
        let Some(setup) = self.calls.get_mut(handle).and_then(|call| call.setup_mut()) else { return };
        let legs = setup.legs.clone();
        setup.legs.retain(|leg| Some(leg.client) == except);
        for leg in legs.iter().filter(|leg| Some(leg.client) != except) {
            let is_silent = self.is_silent(leg.client);
            let result = if is_silent { AttemptResult::NoResponse } else { AttemptResult::Cancelled };
            self.note_attempt(handle, leg.attempt, None, result);
            self.abandon_client(leg.client);
            self.cancel_client(leg.client, reasons);
        }
    }

    fn fail_locally(
        &mut self,
        handle: Handle,
        cause: EndCause,
        (code, extra): (u16, &str),
        (recorded, source): (Option<u16>, CodeSource),
        invite: Option<&Message>,
    ) {
        let Some(call) = self.calls.get_mut(handle) else { return };
        let Some(upstream) = call.setup().map(|setup| setup.upstream) else { return };
        call.response =
            Some(FinalResponse { code: recorded, source, text: Kept::default(), phrase: None, dialog: None });
        let stamps = call.stamps(call.caller_side());
        self.abandon_legs(handle, None, q850_of(cause).unwrap_or(ELSEWHERE_REASONS));
        let (stamp, phrase) = self.stamp_of(handle, cause);
        let mut lines = format!("{extra}{}", q850_of(cause).unwrap_or_default());
        if stamps {
            lines.push_str(&String::from_utf8_lossy(&stamp));
        }
        self.lines = stamp;
        let reply = Reply { code, phrase: phrase.filter(|_| stamps), extra: &lines };
        match invite {
            Some(invite) => self.reply_to(upstream, invite, reply),
            None => self.reply(upstream, reply),
        }
        self.emit(handle, cause, self.now.mono);
    }

    // -- after the answer -----------------------------------------------------------------------

    /// A dialog has ended. True where it was the call's last one, so that the call is decided.
    pub(super) fn end_dialog(&mut self, handle: Handle, dialog: u8, cause: EndCause, reasons: Reasons) -> bool {
        self.clear_call_timer(handle, CallTimer::Ack(dialog));
        self.clear_call_timer(handle, CallTimer::Session(dialog));
        let now = self.now.mono;
        let Some(call) = self.calls.get_mut(handle) else { return false };
        let Some(ended) = call.dialog_mut(dialog) else { return false };
        ended.state = DialogState::Ended;
        if !ended.is_acked && cause != EndCause::AnsweredByeCaller {
            call.anomalies.add(Anomaly::MissingAck);
        }
        let goes_on = call.dialogs.iter().any(|dialog| dialog.state == DialogState::Confirmed);
        if goes_on || !matches!(call.phase, Phase::Answered) {
            return false;
        }
        call.reasons = reasons;
        let is_in_grace = call.awaits_voicemail_drop() && !call.is_voicemail_drop;
        let (grace, bye_answer) = (call.policy.voicemail_drop.grace, call.timeouts().t1 * 4);
        let ending = Ending { cause, at: now, awaited: SmallVec::new(), is_in_grace };
        call.phase = Phase::Ending(self.places.endings.put(ending));
        self.replace_call_timer(handle, CallTimer::MaxDuration, CallTimer::ByeAnswer, bye_answer);
        if is_in_grace {
            self.set_call_timer(handle, CallTimer::DropGrace, grace);
        }
        true
    }

    /// The event waits for the answer to this BYE, unless it has waited for as long as it does already.
    pub(crate) fn await_bye(&mut self, handle: Handle, bye: Handle) {
        let now = self.now.mono;
        let Some(call) = self.calls.get_mut(handle) else { return };
        let bye_answer = call.timeouts().t1 * 4;
        if let Phase::Ending(ending) = &mut call.phase
            && now.since(ending.at) < bye_answer
        {
            ending.awaited.push(bye);
        }
    }

    /// A BYE was answered, or (`None`) never will be.
    pub(crate) fn on_bye_done(&mut self, handle: Handle, bye: Handle, code: Option<u16>) {
        let Some(call) = self.calls.get_mut(handle) else { return };
        match code {
            Some(401 | 407) | Some(..300) => {}
            Some(_) => call.anomalies.add(Anomaly::ByeRefused),
            None => call.anomalies.add(Anomaly::ByeUnanswered),
        }
        if let Phase::Ending(ending) = &mut call.phase {
            ending.awaited.retain(|awaited| *awaited != bye);
        }
        self.emit_if_over(handle);
    }

    pub(super) fn on_bye_answer_late(&mut self, handle: Handle) {
        let Some(call) = self.calls.get_mut(handle) else { return };
        let Phase::Ending(ending) = &mut call.phase else { return };
        if !ending.awaited.is_empty() {
            ending.awaited.clear();
            call.anomalies.add(Anomaly::ByeUnanswered);
        }
        self.emit_if_over(handle);
    }

    pub(super) fn on_drop_grace(&mut self, handle: Handle) {
        if let Some(Phase::Ending(ending)) = self.calls.get_mut(handle).map(|call| &mut call.phase) {
            ending.is_in_grace = false;
        }
        self.emit_if_over(handle);
    }

    /// Tells a decided call once nothing can change it any more.
    pub(crate) fn emit_if_over(&mut self, handle: Handle) {
        let Some(Phase::Ending(ending)) = self.calls.get(handle).map(|call| &call.phase) else { return };
        if ending.awaited.is_empty() && !ending.is_in_grace {
            let (cause, at) = (ending.cause, ending.at);
            self.emit(handle, cause, at);
        }
    }

    /// Ends dialogs of an answered call from here, with a BYE to each side.
    pub(crate) fn terminate(&mut self, handle: Handle, only: Option<u8>, cause: EndCause) {
        let Some(call) = self.calls.get(handle) else { return };
        if !matches!(call.phase, Phase::Answered) {
            return;
        }
        let sides = [call.caller_side(), call.callee_side()];
        let live = |at: &u8| call.dialog(*at).is_some_and(|dialog| dialog.state == DialogState::Confirmed);
        let dialogs = (0..call.dialogs.len() as u8).filter(|at| only.is_none_or(|only| only == *at)).filter(live);
        for dialog in dialogs.collect::<SmallVec<[u8; 2]>>() {
            self.end_dialog(handle, dialog, cause, Reasons::default());
            for side in sides {
                self.send_bye(handle, dialog, side);
            }
        }
        self.emit_if_over(handle);
    }

    /// The stamp that messages of a decided call's end bear towards `side`; empty where they bear none.
    pub(crate) fn ending_stamp(&mut self, handle: Handle, side: Side) -> Kept {
        let Some(call) = self.calls.get(handle) else { return Kept::default() };
        let Phase::Ending(ending) = &call.phase else { return Kept::default() };
        if !call.stamps(side) {
            return Kept::default();
        }
        let (stamp, _) = self.stamp_of(handle, ending.cause);
        let kept = self.store.keep(&[&stamp]);
        self.lines = stamp;
        kept
    }

    /// Forced exit: unanswered calls get CANCEL and 503, answered ones are left up. What is decided already stays so.
    pub(crate) fn shut_down_call(&mut self, handle: Handle) {
        let Some(call) = self.calls.get(handle) else { return };
        let now = self.now.mono;
        match &call.phase {
            Phase::Setup(setup) if setup.stopping.is_some() => self.end_stopped(handle),
            Phase::Setup(_) => self.fail_here(handle, EndCause::Shutdown, 503, RETRY_SOON),
            Phase::Challenged(_) | Phase::Answered => self.emit(handle, EndCause::Shutdown, now),
            Phase::Ending(ending) => {
                let (cause, at) = (ending.cause, ending.at);
                self.emit(handle, cause, at);
            }
        }
    }

    /// The stamp of the outcome that the call has if it ends now by `cause`, and the outcome as a reason
    /// phrase where the policy wants it there. The buffer belongs back into `lines`.
    fn stamp_of(&mut self, handle: Handle, cause: EndCause) -> (Vec<u8>, Option<&'static str>) {
        let mut stamp = std::mem::take(&mut self.lines);
        stamp.clear();
        let Some(call) = self.calls.get(handle) else { return (stamp, None) };
        let decision = self.decide(call, cause, self.now.mono);
        final_stamp(&call.policy.stamp.headers, &decision, cause, &call.uid.text(), &mut stamp);
        let phrase = call.policy.stamp.reason_phrase.then(|| decision.outcome.label());
        (stamp, phrase)
    }

    /// A BYE of ours to one party of a dialog.
    fn send_bye(&mut self, handle: Handle, dialog: u8, side: Side) {
        let kept = self.ending_stamp(handle, side);
        let Some(call) = self.calls.get(handle) else { return };
        let Some(ended) = call.dialog(dialog) else { return };
        let caller = call.caller_side();
        let (to, from) = (ended.party(side, caller), ended.party(side.opposite(), caller));
        let policy = call.policy.clone();
        // A party without a Contact is asked at the address that it speaks from.
        let address = format!("sip:{}", to.path.remote);
        let (target, routes) = (call.target_of(ended, side), call.routes_to(ended, side));
        let party = make::Party {
            target: if target.is_empty() { address.as_bytes() } else { target },
            routes,
            from: call.value_of(ended, side.opposite()),
            to: call.value_of(ended, side),
            call_id: call.identity.call_id(),
            cseq: from.cseq.saturating_add(1),
        };
        let hop = self.hop_of_party(routes.first(), target, *to.path);
        let own = self.keys.dialog(ended.to_tag(), side.label().as_bytes(), call.identity.call_id());
        let branch = self.keys.branch(own, u32::from(dialog), 0);
        let text = self.own.at(&policy, side, hop.transport, hop.local);
        let stamp = String::from_utf8_lossy(&kept);
        let bytes = make::in_dialog(Method::Bye, party, (&text.via, branch), &stamp, self.out.piece());
        self.store.release(kept);
        let bye = self.start_bye(branch, hop, side, bytes, User::Bye { call: handle });
        self.await_bye(handle, bye);
    }

    /// A BYE of ours, and the transaction that waits for its answer.
    pub(super) fn start_bye(&mut self, branch: Branch, hop: Hop, side: Side, bytes: Bytes, user: User) -> Handle {
        let (method, method_text) = (Method::Bye, b"BYE");
        let request = Request { branch, method, method_text, hop, side, bytes, fallback: None, user };
        let policy = self.policy.clone();
        self.start_client(request, &policy.timeouts)
    }
}
