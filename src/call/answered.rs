//! Answered calls: the 2xx, its ACK, the session timer, requests inside the dialog.

use std::time::Duration;

use super::dialog::{Callee, Party};
use super::identity::contact;
use super::{CallState, CallTimer, Dialog, DialogState, FinalResponse, Phase, Reasons};
use crate::arena::Handle;
use crate::endpoint::{Endpoint, MANY, reason_fields};
use crate::event::EventKind;
use crate::flow::{Flow, Side};
use crate::kept::Kept;
use crate::outcome::{Anomaly, CodeSource, EndCause, provisional_stamp};
use crate::proxy::route::{self, Routes};
use crate::sip::{Message, Method, Name, seconds};
use crate::stats::{AttemptResult, Race};
use crate::transaction::Key;
use crate::transaction::client::Note;
use crate::transaction::server::State;

/// Dialogs of one call beyond this many are forwarded but not followed.
pub(super) const MOST_DIALOGS: usize = 64;
/// Early ones leave room for those that are answered.
const MOST_EARLY_DIALOGS: usize = 16;
/// Longest time beyond 64·T1 for which a server may still end a call without ACK itself.
const ACK_PATIENCE: Duration = Duration::from_secs(4);
/// The same where T1 is short: 8·T1, but not less than this.
const LEAST_ACK_PATIENCE: Duration = Duration::from_secs(2);

impl Endpoint {
    /// The first 2xx.
    pub(super) fn on_answer(&mut self, handle: Handle, tx: Handle, upstream: Handle, flow: &Flow, message: &Message) {
        let stopping = self.stopping_cause(handle);
        if stopping.is_some() {
            self.count_race(Race::AnswerInGrace);
        }
        if stopping == Some(EndCause::HungUp) {
            self.close_answered_attempt(handle, tx, message.code());
            self.abandon_client(tx);
            self.clear_2xx(tx, message);
            // Nobody is waited for.
            return self.end_stopped(handle);
        }
        let dialog = self.learn_dialog(handle, tx, flow, message);
        let response = super::legs::peer_response(message, dialog, &mut self.store);
        self.be_answered(handle, tx, upstream, response);
        self.on_dialog_answered(handle, tx, upstream, dialog, message);
    }

    /// An ACK, or a BYE of the callee's, inside an early dialog of a restored call: its 2xx has gone through. The journal lacks
    /// that where the machine lost it, which takes what was not yet on the disk. (A caller may end an early dialog by a BYE; a
    /// callee may not: RFC 3261 §15.) Whether it is answered by that.
    pub(crate) fn infer_answer(&mut self, handle: Handle, dialog: u8) -> bool {
        let Some(call) = self.calls.get(handle) else { return false };
        let is_early = call.dialog(dialog).is_some_and(|dialog| dialog.state == DialogState::Early);
        let Some(setup) = call.setup().filter(|setup| setup.is_restored && is_early) else { return false };
        let is_hung_up = setup.stopping.as_ref().is_some_and(|stopping| stopping.cause == EndCause::HungUp);
        // The dialog does not say whose it is; of several servers the one asked last is the likeliest.
        let Some(leg) = setup.legs.last().filter(|_| !is_hung_up) else { return false };
        let (tx, upstream) = (leg.client, setup.upstream);
        self.assume_2xx(tx, upstream);
        if let Some(of) = self.calls.get_mut(handle).and_then(|call| call.dialog_mut(dialog)) {
            (of.state, of.is_acked) = (DialogState::Confirmed, true);
        }
        let response = FinalResponse {
            code: Some(200),
            source: CodeSource::Peer,
            text: Kept::default(),
            phrase: None,
            dialog: Some(dialog),
        };
        self.be_answered(handle, tx, upstream, response);
        true
    }

    /// After an early BYE the callee would have ended the INVITE too. Where nothing came of it in a restored call, its 2xx was
    /// lost with what the machine lost, and that BYE was the end.
    pub(super) fn infer_end(&mut self, handle: Handle) -> bool {
        let Some(call) = self.calls.get(handle) else { return false };
        let caller = call.caller_side();
        let is_ended = |dialog: &Dialog| dialog.state == DialogState::Early && dialog.early_bye == Some((caller, true));
        let Some(dialog) = call.dialogs.iter().position(is_ended).and_then(|at| u8::try_from(at).ok()) else {
            return false;
        };
        if !self.infer_answer(handle, dialog) {
            return false;
        }
        self.end_by_early_bye(handle, dialog, caller);
        self.emit_if_over(handle);
        true
    }

    /// The call is answered by a leg: its setup, with all others, is over.
    fn be_answered(&mut self, handle: Handle, tx: Handle, upstream: Handle, response: FinalResponse) {
        self.close_answered_attempt(handle, tx, response.code.unwrap_or_default());
        self.abandon_legs(handle, Some(tx), super::legs::ELSEWHERE_REASONS);
        for timer in [CallTimer::Progress, CallTimer::CancelGrace] {
            self.clear_call_timer(handle, timer);
        }
        let now = self.now.mono;
        let Some(call) = self.calls.get_mut(handle) else { return };
        if !call.progress_at.is_set() {
            call.anomalies.add(Anomaly::No18xBefore2xx);
        }
        call.answered_at.note(now);
        call.response = Some(response);
        call.reasons = Reasons::default();
        self.places.release(std::mem::replace(&mut call.phase, Phase::Answered));
        let max_duration = call.timeouts().max_duration;
        let stamps = call.stamps(call.caller_side());
        let uid = call.uid.0.to_be_bytes();
        if let Some(server) = self.server_txs.get_mut(upstream).filter(|_| stamps) {
            // The same stamp is made of it for each 2xx.
            let kept = self.store.keep(&[&uid]);
            self.store.release(std::mem::replace(&mut server.stamp, kept));
            self.keep_server(upstream);
        }
        self.set_call_state(handle, CallState::Answered);
        self.replace_call_timer(handle, CallTimer::NoAnswer, CallTimer::MaxDuration, max_duration);
        self.tell(handle, EventKind::Answered);
    }

    /// A 2xx after the first one: the same again, or another dialog's (RFC 3261 §13.2.2.4).
    pub(super) fn on_more_2xx(&mut self, handle: Handle, tx: Handle, upstream: Handle, flow: &Flow, message: &Message) {
        let tag = message.to_tag().unwrap_or_default();
        let known = self.calls.get(handle).and_then(|call| {
            let is_it = |dialog: &Dialog| dialog.to_tag() == tag && dialog.state != DialogState::Early;
            Some((call.dialogs.len(), call.dialogs.iter().position(is_it)?))
        });
        if let Some((count, at)) = known {
            // Of several dialogs each has a number of its own; for one alone the call's record need not change.
            let several = if count > 1 { self.calls.get_mut(handle) } else { None };
            let dialog = several.and_then(|call| call.dialogs.get_mut(at));
            match dialog {
                Some(dialog) => {
                    dialog.repeats = dialog.repeats.saturating_add(1);
                    let repeats = dialog.repeats;
                    self.on_repetition(tx, repeats);
                }
                None => self.on_repeated_response(tx),
            }
            self.forward_2xx(tx, upstream, message);
            return;
        }
        self.note_anomaly(handle, Anomaly::Extra2xx);
        if matches!(self.calls.get(handle).map(|call| &call.phase), Some(Phase::Answered)) {
            let dialog = self.learn_dialog(handle, tx, flow, message);
            self.on_dialog_answered(handle, tx, upstream, dialog, message);
        } else {
            self.forward_2xx(tx, upstream, message);
        }
    }

    /// A 2xx on its way to the caller, with the stamp that its like bore before. True where it is the first one of its
    /// dialog.
    pub(super) fn forward_2xx(&mut self, tx: Handle, upstream: Handle, message: &Message) -> bool {
        let Some(client) = self.client_txs.get(tx) else { return false };
        let crate::transaction::client::User::Leg { call, .. } = client.user else { return false };
        let Some(server) = self.server_txs.get(upstream) else { return false };
        let uid = <[u8; 16]>::try_from(&*server.stamp).ok().map(|uid| super::Uid(u128::from_be_bytes(uid)));
        let mut stamp = std::mem::take(&mut self.lines);
        stamp.clear();
        if let Some(uid) = uid {
            let policy = self.calls.get(call).map_or(&self.policy, |call| &call.policy);
            provisional_stamp(&policy.stamp.headers, &uid.text(), &mut stamp);
        }
        let is_phrased = !stamp.is_empty() && self.policy.stamp.reason_phrase;
        let phrase = is_phrased.then(|| crate::outcome::Outcome::Normal.label());
        self.forward_leg_response(call, upstream, message, (!stamp.is_empty()).then_some(&stamp), phrase);
        self.lines = stamp;
        self.note_2xx(upstream, message)
    }

    /// Notes whose 2xx went to the caller, for as long as it may come again. True the first time; of dialogs beyond
    /// [`MOST_DIALOGS`] never.
    fn note_2xx(&mut self, upstream: Handle, message: &Message) -> bool {
        let tag = self.keys.name(message.to_tag().unwrap_or_default()).to_be_bytes();
        let Some(server) = self.server_txs.get_mut(upstream).filter(|server| server.state == State::Accepted) else {
            return false;
        };
        let mut known = server.last.chunks_exact(tag.len());
        if known.len() >= MOST_DIALOGS || known.any(|known| known == tag) {
            return false;
        }
        let last = self.store.keep(&[&server.last, &tag]);
        self.store.release(std::mem::replace(&mut server.last, last));
        true
    }

    /// The ACK of a 2xx passed. The caller's is that of the dialog's first one.
    pub(crate) fn on_dialog_ack(&mut self, handle: Handle, dialog: u8, side: Side, key: Key) {
        let Some(call) = self.calls.get_mut(handle) else { return };
        let caller = call.caller_side();
        let repeats = call.dialog_mut(dialog).map_or(0, |dialog| dialog.party_mut(side, caller).on_ack(key));
        if repeats > MANY {
            call.anomalies.add(Anomaly::Retransmissions);
        }
        if side != caller {
            return;
        }
        if let Some(acked) = call.dialog_mut(dialog) {
            acked.is_acked = true;
        }
        self.clear_call_timer(handle, CallTimer::Ack(dialog));
    }

    pub(super) fn on_no_ack(&mut self, handle: Handle, dialog: u8) {
        self.note_anomaly(handle, Anomaly::MissingAck);
        self.terminate(handle, Some(dialog), EndCause::AnsweredNoAck);
    }

    /// A request inside a dialog, on its way. Returns what to do when it is answered 2xx.
    pub(crate) fn on_dialog_request(
        &mut self,
        handle: Handle,
        dialog: u8,
        side: Side,
        flow: &Flow,
        message: &Message,
    ) -> Note {
        let mut note = Note { method: Some(message.method()), from: Some(side), ..Note::default() };
        let Some(call) = self.calls.get_mut(handle) else { return note };
        let caller = call.caller_side();
        let path = self.paths.of(flow.reply());
        if side == caller {
            call.path = path.clone();
        }
        let mut is_out_of_order = false;
        if let Some(party) = call.dialog_mut(dialog).map(|dialog| dialog.party_mut(side, caller)) {
            let number = message.cseq().number;
            // Of the callee none may be known yet; 0 is one like any other (RFC 3261 §8.1.1.5).
            is_out_of_order = number <= party.cseq && party.cseq > 0;
            party.cseq = party.cseq.max(number);
            party.path = path;
        }
        if is_out_of_order {
            call.anomalies.add(Anomaly::CseqOutOfOrder);
        }
        if matches!(message.method(), Method::Invite | Method::Update) {
            note.has_target = true;
        }
        if side == Side::Dialer {
            self.hear_voicemail_drop(handle, message, &mut note);
        }
        note
    }

    /// A BYE, on its way. True where it ends its dialog.
    pub(crate) fn on_bye(&mut self, handle: Handle, dialog: u8, side: Side, message: &Message) -> bool {
        let Some(call) = self.calls.get_mut(handle) else { return false };
        let caller = call.caller_side();
        let Some(of) = call.dialog_mut(dialog) else { return false };
        if of.state == DialogState::Early {
            of.early_bye.get_or_insert((side, false));
            return false;
        }
        if let Some(first) = of.bye_from {
            if first == side && !of.is_bye_challenged {
                call.anomalies.add(Anomaly::RepeatedBye);
            } else if first != side {
                self.count_race(Race::ByeGlare);
            }
            return false;
        }
        of.bye_from = Some(side);
        if of.state == DialogState::Ended {
            return false;
        }
        let cause = if side == caller { EndCause::AnsweredByeCaller } else { EndCause::AnsweredByeCallee };
        self.end_dialog(handle, dialog, cause, reason_fields(message).into());
        true
    }

    /// A request inside a dialog was answered.
    pub(crate) fn on_dialog_response(
        &mut self,
        handle: Handle,
        dialog: u8,
        bye: Handle,
        (note, target): (Note, Option<&[u8]>),
        flow: &Flow,
        message: &Message,
    ) {
        let code = message.code();
        let Some(from) = note.from else { return };
        let Some(call) = self.calls.get_mut(handle) else { return };
        let caller = call.caller_side();
        if let Some(party) = call.dialog_mut(dialog).map(|dialog| dialog.party_mut(from.opposite(), caller)) {
            party.path = self.paths.of(flow.reply());
        }
        if note.method == Some(Method::Bye) && code >= 200 {
            if let Some(of) = call.dialog_mut(dialog) {
                of.is_bye_challenged = matches!(code, 401 | 407);
            }
            return self.on_bye_done(handle, bye, Some(code));
        }
        if !(200..300).contains(&code) {
            return;
        }
        if matches!(note.method, Some(Method::Invite | Method::Update)) {
            if let Some(of) = call.dialog_mut(dialog) {
                if let Some(target) = target {
                    of.set_target(from, caller, target);
                }
                if let Some(target) = contact(message) {
                    of.set_target(from.opposite(), caller, target);
                }
            }
            self.start_session_timer(handle, dialog, message);
        }
        if note.is_voicemail_drop {
            let _ = self.drop_voicemail(handle);
        }
    }

    /// What follows each dialog's first 2xx: timers, forwarding, an early BYE that ends it at once.
    fn on_dialog_answered(
        &mut self,
        handle: Handle,
        tx: Handle,
        upstream: Handle,
        found: Option<u8>,
        message: &Message,
    ) {
        if let Some(dialog) = found {
            let t1 = self.calls.get(handle).map(|call| call.timeouts().t1).unwrap_or_default();
            let patience = ACK_PATIENCE.min((t1 * 8).max(LEAST_ACK_PATIENCE));
            self.set_call_timer(handle, CallTimer::Ack(dialog), t1 * 64 + patience);
            self.start_session_timer(handle, dialog, message);
        }
        self.forward_2xx(tx, upstream, message);
        let Some(dialog) = found else { return };
        let early = self.calls.get(handle).and_then(|call| call.dialog(dialog)).and_then(|dialog| dialog.early_bye);
        if let Some((side, true)) = early {
            self.end_by_early_bye(handle, dialog, side);
            self.emit_if_over(handle);
        }
    }

    /// The BYE of a dialog that was early when it came. Where the 2xx has come since, the dialog ends; that the BYE is done is
    /// yet to be told.
    pub(crate) fn on_early_bye_answered(&mut self, handle: Handle, dialog: u8, from: Side, code: u16) {
        let Some(of) = self.calls.get_mut(handle).and_then(|call| call.dialog_mut(dialog)) else { return };
        let Some((side, is_answered)) = of.early_bye.as_mut().filter(|(side, _)| *side == from) else { return };
        *is_answered |= (200..300).contains(&code);
        let (side, is_over) = (*side, *is_answered && of.state == DialogState::Confirmed);
        if is_over {
            self.end_by_early_bye(handle, dialog, side);
        }
    }

    fn end_by_early_bye(&mut self, handle: Handle, dialog: u8, side: Side) {
        let Some(call) = self.calls.get(handle) else { return };
        let by_caller = side == call.caller_side();
        let cause = if by_caller { EndCause::AnsweredByeCaller } else { EndCause::AnsweredByeCallee };
        self.end_dialog(handle, dialog, cause, Reasons::default());
    }

    /// Session-Expires of a 2xx (RFC 4028); one without switches the timer off.
    fn start_session_timer(&mut self, handle: Handle, dialog: u8, message: &Message) {
        let expires = message.first(Name::SessionExpires).and_then(|field| seconds(message.value(field)));
        match expires.filter(|seconds| *seconds > 0) {
            Some(seconds) => {
                let t1 = self.calls.get(handle).map(|call| call.timeouts().t1).unwrap_or_default();
                let after = Duration::from_secs(seconds.min(LONGEST_SESSION)) + t1 * 64;
                self.set_call_timer(handle, CallTimer::Session(dialog), after);
            }
            None => self.clear_call_timer(handle, CallTimer::Session(dialog)),
        }
    }

    /// Notes the dialog that a response with a To tag belongs to, and says which of the call's it is; a 2xx confirms it.
    pub(super) fn learn_dialog(&mut self, handle: Handle, tx: Handle, flow: &Flow, message: &Message) -> Option<u8> {
        let to = message.value(message.first(Name::To)?);
        let is_final = message.code() >= 200;
        // An answer without a tag makes a dialog all the same (§12.1.2).
        let tag = message.to_tag().or(is_final.then_some(b""))?;
        if !matches!(self.client_txs.get(tx)?.user, crate::transaction::client::User::Leg { .. }) {
            return None;
        }
        let path = self.paths.of(flow.reply());
        let call = self.calls.get(handle)?;
        let side = call.caller_side();
        let known = call.dialogs.iter().position(|dialog| dialog.to_tag() == tag);
        let most = if is_final { MOST_DIALOGS } else { MOST_EARLY_DIALOGS };
        if known.is_none() && call.dialogs.len() >= most {
            return None;
        }
        let mut routes = crate::text::Line::<64>::new();
        let upstream = call.identity.routes().iter().collect::<route::Values>();
        let is_ours = |value: &[u8]| self.is_our_route(value, flow.local);
        for value in route::beyond_us(route::recorded(message), &upstream, is_ours) {
            Routes::put(&mut routes, value);
        }
        drop(upstream);
        let (caller, cseq) = (call.path.clone(), message.cseq().number);
        let contact = contact(message).unwrap_or_default();
        let seen = Callee { to, tag, contact, routes: Routes(&routes) };
        if let Some(index) = known {
            let dialog = self.calls.get_mut(handle)?.dialogs.get_mut(index)?;
            dialog.callee.path = path;
            // After a challenge the same callee answers another INVITE, and what came of the one before is over.
            if cseq > dialog.caller.cseq {
                (dialog.caller.cseq, dialog.early_bye) = (cseq, None);
            }
            dialog.caller.path = caller;
            if is_final {
                dialog.see(seen, &mut self.store);
                dialog.state = DialogState::Confirmed;
            } else if !contact.is_empty() && contact != dialog.contact() {
                dialog.set_target(side.opposite(), side, contact);
            }
            return u8::try_from(index).ok();
        }
        let (caller, callee) = (Party::new(caller, cseq), Party::new(path, 0));
        let state = if is_final { DialogState::Confirmed } else { DialogState::Early };
        let key = self.keys.dialog(message.call_id(), message.from_tag().unwrap_or_default(), tag);
        let dialog = Dialog::new(key, seen, state, caller, callee, &mut self.store);
        self.calls.add_dialog(handle, dialog)
    }

    fn close_answered_attempt(&mut self, handle: Handle, tx: Handle, code: u16) {
        let setup = self.calls.get(handle).and_then(|call| call.setup());
        let leg = setup.and_then(|setup| setup.legs.iter().find(|leg| leg.client == tx).copied());
        if let Some(leg) = leg {
            self.note_deciding_attempt(handle, leg.attempt, code, AttemptResult::Answered);
        }
    }
}

/// A session cannot be longer than this, in seconds: what is asked beyond is `max_duration`'s.
const LONGEST_SESSION: u64 = 7 * 24 * 3600;
