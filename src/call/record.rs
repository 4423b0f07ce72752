//! What is told of a call, and the one function that ends it.

use std::borrow::Cow;

use bytes::BytesMut;

use super::{Call, CallTimer, FinalResponse, Phase};
use crate::arena::Handle;
use crate::endpoint::{Deadline, Endpoint, Output};
use crate::event::{
    Attempts, CallData, CallState, CallView, CloudEvent, Event, EventKind, Labels, Record, Summary, milliseconds,
};
use crate::outcome::{Anomaly, CodeSource, Decision, EndCause, Facts, decide, is_blocked, q850};
use crate::proxy::make;
use crate::text::{Line, Put};
use crate::time::{Mono, Wall};

impl Endpoint {
    /// Ends a call: it is taken out, counted and told, together and once.
    pub(crate) fn emit(&mut self, handle: Handle, cause: EndCause, at: Mono) {
        let Some(call) = self.calls.get(handle) else { return };
        let names = self.names_of(&call.identity);
        let decision = self.decide(call, cause, at);
        let uid = call.uid.text();
        let record = self.record(call, &uid, Some((cause, at, &decision)));
        let event = write(EventKind::Ended, call.started.wall_at(at), call, &record, &mut self.lines, &mut self.told);
        let Some(mut call) = self.calls.remove(handle, &names) else { return };
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
        for mut dialog in call.dialogs {
            dialog.release(&mut self.store);
            self.places.dialogs.release(dialog);
        }
    }

    /// Tells a moment in a call's life to whoever wants to hear it.
    pub(crate) fn tell(&mut self, handle: Handle, kind: EventKind) {
        let Some(call) = self.calls.get(handle).filter(|call| call.policy.lifecycle) else { return };
        let uid = call.uid.text();
        let record = self.record(call, &uid, None);
        let event = write(kind, self.now.wall, call, &record, &mut self.lines, &mut self.told);
        self.push(Output::Event(event));
    }

    /// What a call comes to if it ends at `at` by `cause`.
    pub(crate) fn decide(&self, call: &Call, cause: EndCause, at: Mono) -> Decision {
        let response = call.response.as_ref();
        let phrase = response.and_then(FinalResponse::phrase);
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
        let written = serde_json::to_vec(&self.record(call, &call.uid.text(), None)).ok()?;
        let mut data = serde_json::from_slice::<CallData>(&written).ok()?;
        if let Phase::Ending(ending) = &call.phase {
            data.ended_at = Some(call.started.wall_at(ending.at));
            data.end_cause = Some(ending.cause);
            data.ended_by = Some(ending.cause.ended_by());
        }
        Some(CallView { state: call.state, data })
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

    pub(crate) fn set_call_timer(&mut self, handle: Handle, timer: CallTimer, after: std::time::Duration) {
        self.clear_call_timer(handle, timer);
        let Some(call) = self.calls.get_mut(handle) else { return };
        call.timers.push((timer, self.wheel.insert(self.now.mono + after, Deadline::Call(handle, timer))));
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

    fn record<'a>(&self, call: &'a Call, uid: &'a str, ended: Option<(EndCause, Mono, &'a Decision)>) -> Record<'a> {
        let wall = |at: Mono| -> Wall { call.started.wall_at(at) };
        let identity = &call.identity;
        let (ringing_at, answered_at) = (call.ringing_at.get(), call.answered_at.get());
        let started = call.started.mono;
        let ended_at = ended.map(|(_, at, _)| at);
        let response = call.response.as_ref();
        let code = response.and_then(|response| response.code);
        let phrase = response.and_then(FinalResponse::phrase);
        let until = answered_at.or(ended_at);
        let decision = ended.map(|(.., decision)| decision);
        let mask = |number: Option<&'a [u8]>| number.map(|number| self.policy.mask.masked(lossy(number)));
        Record {
            call_uid: uid,
            call_id: lossy(identity.call_id()),
            parent_call_uid: identity.parent().map(|parent| parent.to_string()),
            direction: call.direction,
            dialing_mode: identity.dialing_mode().map(lossy),
            outcome: decision.map(|decision| decision.outcome),
            sip_code: code,
            code_source: response.map(|response| response.source).or(ended.map(|_| CodeSource::None)),
            blocked: code.is_some_and(|code| is_blocked(code, phrase.as_deref().unwrap_or_default(), &call.reasons)),
            reason_phrase: phrase,
            end_cause: ended.map(|(cause, ..)| cause),
            q850: q850(&call.reasons),
            progress_q850: call.progress_q850,
            reason: &call.reasons,
            rule: decision.and_then(|decision| decision.rule.as_deref()),
            disposition: decision.and_then(|decision| decision.disposition.as_deref()),
            next: decision.and_then(|decision| decision.next.as_deref()),
            from: mask(identity.from_user()),
            to: mask(identity.to_user()),
            request_user: mask(identity.request_user()),
            from_tag: identity.from_tag().map(lossy),
            to_tag: to_tag(call).map(lossy),
            correlation: identity.correlation().map(lossy),
            labels: Labels(call),
            server: call.server_name(),
            transport: call.path.transport,
            attempts: Attempts { call, now: ended_at.unwrap_or(self.now.mono) },
            had_ringing: ringing_at.is_some(),
            had_early_media: call.early_media,
            started_at: call.started.wall,
            ringing_at: ringing_at.map(wall),
            answered_at: answered_at.map(wall),
            ended_at: ended_at.map(wall),
            post_dial_delay_ms: call.progress_at.get().or(answered_at).map(|at| milliseconds(at, started)),
            ring_ms: ringing_at.zip(until).map(|(from, to)| milliseconds(to, from)),
            answer_delay_ms: answered_at.map(|at| milliseconds(at, started)),
            talk_ms: answered_at.zip(ended_at).map(|(from, to)| milliseconds(to, from)),
            ended_by: ended.map(|(cause, ..)| cause.ended_by()),
            anomalies: call.anomalies,
        }
    }
}

/// Writes an event into `line` and hands it out as a piece of `told`.
fn write(
    kind: EventKind,
    time: Wall,
    call: &Call,
    record: &Record<'_>,
    line: &mut Vec<u8>,
    told: &mut BytesMut,
) -> Event {
    let mut id = Line::<40>::new();
    id.put(record.call_uid.as_bytes());
    id.put(b"/");
    id.put(kind.label().as_bytes());
    let event = CloudEvent {
        specversion: "1.0",
        id: std::str::from_utf8(&id).unwrap_or_default(),
        source: &call.policy.source,
        kind: kind.type_name(),
        time,
        subject: record.call_uid,
        datacontenttype: "application/json",
        dataschema: kind.schema(),
        data: record,
    };
    line.clear();
    // Writing to a vector does not fail, and nothing in a record refuses to be written.
    let _ = serde_json::to_writer(&mut *line, &event);
    told.extend_from_slice(line);
    let summary = Summary {
        call: call.uid,
        direction: call.direction,
        server: call.server,
        outcome: record.outcome,
        end_cause: record.end_cause,
        sip_code: record.sip_code,
        post_dial_delay_ms: record.post_dial_delay_ms,
        ring_ms: record.ring_ms,
        answer_delay_ms: record.answer_delay_ms,
        talk_ms: record.talk_ms,
    };
    Event { kind, line: told.split().freeze(), summary }
}

impl FinalResponse {
    /// `None` where there is no response.
    fn phrase(&self) -> Option<Cow<'_, str>> {
        let code = self.code?;
        Some(self.phrase.as_deref().map_or_else(|| make::phrase(code).into(), String::from_utf8_lossy))
    }
}

/// The To tag of the final response.
fn to_tag(call: &Call) -> Option<&[u8]> {
    let response = call.response.as_ref()?;
    let of_dialog = || response.dialog.and_then(|dialog| call.dialog(dialog)).map(|dialog| dialog.to_tag());
    response.to_tag.as_deref().or_else(of_dialog).filter(|tag| !tag.is_empty())
}

fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
