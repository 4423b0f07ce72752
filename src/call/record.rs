//! What is told of a call, and the one function that ends it.

use std::time::Duration;

use super::{Call, CallTimer, FinalResponse, Phase};
use crate::arena::Handle;
use crate::chunks::Chunks;
use crate::endpoint::{Deadline, Endpoint, Output};
use crate::event::{CallState, CallView, Event, EventKind, Record, Summary};
use crate::outcome::{Anomaly, Decision, EndCause, Facts, decide, q850};
use crate::proxy::make;
use crate::time::{Mono, Wall};

impl Endpoint {
    /// Ends a call: it is taken out, counted and told, together and once.
    pub(crate) fn emit(&mut self, handle: Handle, cause: EndCause, at: Mono) {
        let Some(call) = self.calls.get(handle) else { return };
        let decision = self.decide(call, cause, at);
        let (uid, ended) = (call.uid.text(), Some((cause, at, &decision)));
        let record = Record { call, uid: &uid, ended, now: self.now.mono, mask: &self.policy.mask };
        let event = write(EventKind::Ended, call.started.wall_at(at), &record, &mut self.lines, &mut self.told);
        let Some(mut call) = self.calls.remove(handle) else { return };
        for (_, timer) in call.timers.drain(..) {
            self.wheel.cancel(timer);
        }
        self.stats.on_call_ended(&call, decision.outcome, cause);
        self.release(call);
        self.push(Output::Event(event));
    }

    /// Gives back what a call kept.
    fn release(&mut self, call: Call) {
        self.places.release(call.phase);
        call.identity.release(&mut self.store);
        if let Some(response) = call.response {
            response.release(&mut self.store);
        }
        for dialog in call.dialogs {
            dialog.release(&mut self.store);
        }
    }

    /// Tells a moment in a call's life to whoever wants to hear it.
    pub(crate) fn tell(&mut self, handle: Handle, kind: EventKind) {
        let Some(call) = self.calls.get(handle).filter(|call| call.policy.lifecycle) else { return };
        let uid = call.uid.text();
        let record = Record { call, uid: &uid, ended: None, now: self.now.mono, mask: &self.policy.mask };
        let event = write(kind, self.now.wall, &record, &mut self.lines, &mut self.told);
        self.push(Output::Event(event));
    }

    /// What a call comes to if it ends at `at` by `cause`.
    pub(crate) fn decide(&self, call: &Call, cause: EndCause, at: Mono) -> Decision {
        let response = call.response.as_ref();
        let phrase = response.and_then(FinalResponse::phrase).map(String::from_utf8_lossy);
        let facts = Facts {
            direction: call.direction,
            end_cause: cause,
            code: response.and_then(|response| response.code),
            reason_phrase: phrase.as_deref().unwrap_or_default(),
            server: call.server_name(),
            q850: q850(&call.reasons),
            progress_q850: call.progress_q850,
            ringing: call.ringing_at.is_set(),
            elapsed: at.since(call.started.mono),
            voicemail_drop: call.is_voicemail_drop,
        };
        decide(&facts, &call.policy)
    }

    /// An open call as the API shows it: as it would be written, read back. `None` does not occur.
    pub(crate) fn view(&self, call: &Call) -> Option<CallView> {
        let uid = call.uid.text();
        let record = Record { call, uid: &uid, ended: None, now: self.now.mono, mask: &self.policy.mask };
        let mut written = Vec::new();
        record.put_view(call.state, &mut written);
        let CallView { state, mut data } = serde_json::from_slice(&written).ok()?;
        if let Phase::Ending(ending) = &call.phase {
            data.ended_at = Some(call.started.wall_at(ending.at));
            data.end_cause = Some(ending.cause);
            data.ended_by = Some(ending.cause.ended_by());
        }
        Some(CallView { state, data })
    }

    pub(crate) fn set_call_state(&mut self, handle: Handle, state: CallState) {
        if let Some(call) = self.calls.get_mut(handle) {
            call.state = state;
        }
    }

    pub(crate) fn note_anomaly(&mut self, handle: Handle, anomaly: Anomaly) {
        if let Some(call) = self.calls.get_mut(handle) {
            call.anomalies.add(anomaly);
        }
    }

    pub(crate) fn set_call_timer(&mut self, handle: Handle, timer: CallTimer, after: Duration) {
        self.replace_call_timer(handle, timer, timer, after);
    }

    /// Sets a timer of a call; another one is not needed any more.
    pub(crate) fn replace_call_timer(&mut self, handle: Handle, old: CallTimer, timer: CallTimer, after: Duration) {
        let Some(call) = self.calls.get_mut(handle) else { return };
        let due = self.now.mono + after;
        match call.timers.iter_mut().find(|(set, _)| *set == old) {
            Some(place) => *place = (timer, self.wheel.renew(Some(place.1), due, Deadline::Call(handle, timer))),
            None => call.timers.push((timer, self.wheel.insert(due, Deadline::Call(handle, timer)))),
        }
    }

    pub(crate) fn clear_call_timer(&mut self, handle: Handle, timer: CallTimer) {
        let Some(call) = self.calls.get_mut(handle) else { return };
        if let Some(at) = call.timers.iter().position(|(set, _)| *set == timer) {
            let (_, key) = call.timers.swap_remove(at);
            self.wheel.cancel(key);
        }
    }

    pub(crate) fn on_call_timer(&mut self, handle: Handle, timer: CallTimer) {
        if let Some(call) = self.calls.get_mut(handle) {
            call.timers.retain(|(set, _)| *set != timer);
        }
        match timer {
            CallTimer::NoAnswer => self.on_no_answer(handle),
            CallTimer::Progress => self.on_no_progress(handle),
            CallTimer::CancelGrace => self.conclude_stop(handle),
            CallTimer::AuthWindow => self.on_auth_window(handle),
            CallTimer::MaxDuration => self.terminate(handle, None, EndCause::AnsweredMaxDuration),
            CallTimer::Ack(dialog) => self.on_no_ack(handle, dialog),
            CallTimer::Session(dialog) => self.terminate(handle, Some(dialog), EndCause::AnsweredSessionExpired),
            CallTimer::ByeAnswer => self.on_bye_answer_late(handle),
            CallTimer::DropGrace => self.on_drop_grace(handle),
        }
    }
}

/// Writes an event into `line` and hands it out as a piece of `told`.
fn write(kind: EventKind, time: Wall, record: &Record<'_>, line: &mut Vec<u8>, told: &mut Chunks) -> Event {
    line.clear();
    record.put_event(kind, time, line);
    let (call, delays) = (record.call, record.delays());
    let summary = Summary {
        call: call.uid,
        direction: call.direction,
        server: call.server,
        outcome: record.ended.map(|(.., decision)| decision.outcome),
        end_cause: record.ended.map(|(cause, ..)| cause),
        sip_code: call.response.as_ref().and_then(|response| response.code),
        post_dial_delay_ms: delays.post_dial_ms,
        ring_ms: delays.ring_ms,
        answer_delay_ms: delays.answer_ms,
        talk_ms: delays.talk_ms,
    };
    let names = record.ended.and_then(|_| record.hidden_names());
    Event { kind, line: told.copy(line), summary, names }
}

impl FinalResponse {
    /// `None` where there is no response.
    pub(crate) fn phrase(&self) -> Option<&[u8]> {
        let code = self.code?;
        let own = self.phrase.and_then(|length| self.text.get(..length.into()));
        Some(own.unwrap_or(make::phrase(code).as_bytes()))
    }
}

impl Call {
    /// The To tag of the final response.
    pub(crate) fn to_tag(&self) -> Option<&[u8]> {
        let response = self.response.as_ref()?;
        let of_dialog = || response.dialog.and_then(|dialog| self.dialog(dialog)).map(|dialog| dialog.to_tag());
        let own = || response.text.get(response.phrase.unwrap_or(0).into()..);
        of_dialog().or_else(own).filter(|tag| !tag.is_empty())
    }
}
