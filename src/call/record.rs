//! What is told of a call, and the one function that ends it.

use std::borrow::Cow;

use super::setup::milliseconds;
use super::{Call, CallTimer, FinalResponse, Phase};
use crate::arena::Handle;
use crate::endpoint::{Deadline, Endpoint, Output};
use crate::event::{self, CallData, CallState, CallView, Event, EventKind};
use crate::outcome::{Anomaly, CodeSource, Decision, EndCause, Facts, decide, is_blocked, q850};
use crate::proxy::make;
use crate::time::{Mono, Wall};

impl Endpoint {
    /// Ends a call: it is taken out, counted and told, together and once.
    pub(crate) fn emit(&mut self, handle: Handle, cause: EndCause, at: Mono) {
        let Some(call) = self.calls.get(handle) else { return };
        let names = self.names_of(&call.identity);
        let decision = self.decide(call, cause, at);
        let data = self.data(call, Some((cause, at, &decision)));
        let Some(mut call) = self.calls.remove(handle, &names) else { return };
        for (_, timer) in call.timers.drain(..) {
            self.wheel.cancel(timer);
        }
        self.stats.on_call_ended(&call, decision.outcome, cause);
        let time = call.started.wall_at(at);
        self.release(call);
        self.push(Output::Event(Box::new(Event { kind: EventKind::Ended, time, data })));
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
        let event = Event { kind, time: self.now.wall, data: self.data(call, None) };
        self.push(Output::Event(Box::new(event)));
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

    /// An open call as the API shows it.
    pub(crate) fn view(&self, call: &Call) -> CallView {
        let mut data = self.data(call, None);
        if let Phase::Ending(ending) = &call.phase {
            data.ended_at = Some(call.started.wall_at(ending.at));
            data.end_cause = Some(ending.cause);
            data.ended_by = Some(ending.cause.ended_by());
        }
        CallView { state: call.state, data }
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

    fn data(&self, call: &Call, ended: Option<(EndCause, Mono, &Decision)>) -> CallData {
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
        let optional = |text: Option<&std::sync::Arc<str>>| text.map(|text| text.to_string());
        CallData {
            call_uid: call.uid.to_string(),
            call_id: lossy(identity.call_id()),
            parent_call_uid: identity.parent().map(|parent| parent.to_string()),
            direction: call.direction,
            dialing_mode: identity.dialing_mode().map(lossy),
            outcome: decision.map(|decision| decision.outcome),
            sip_code: code,
            code_source: response.map(|response| response.source).or(ended.map(|_| CodeSource::None)),
            reason_phrase: phrase.as_deref().map(str::to_owned),
            end_cause: ended.map(|(cause, ..)| cause),
            blocked: code.is_some_and(|code| is_blocked(code, phrase.as_deref().unwrap_or_default(), &call.reasons)),
            q850: q850(&call.reasons),
            progress_q850: call.progress_q850,
            reason: call.reasons.iter().map(|reason| reason.to_string()).collect(),
            rule: optional(decision.and_then(|decision| decision.rule.as_ref())),
            disposition: optional(decision.and_then(|decision| decision.disposition.as_ref())),
            next: optional(decision.and_then(|decision| decision.next.as_ref())),
            from: identity.from_user().map(lossy),
            to: identity.to_user().map(lossy),
            request_user: identity.request_user().map(lossy),
            from_tag: identity.from_tag().map(lossy),
            to_tag: to_tag(call).map(lossy),
            correlation: identity.correlation().map(lossy),
            labels: labels(call),
            server: call.server_name().map(str::to_owned),
            transport: call.path.transport,
            attempts: call.attempts.iter().map(|attempt| self.attempt(call, attempt, ended_at)).collect(),
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
            anomalies: call.anomalies.iter().collect(),
        }
    }

    fn attempt(&self, call: &Call, attempt: &super::Attempt, ended: Option<Mono>) -> event::Attempt {
        let until = attempt.ended.get().or(ended).unwrap_or(self.now.mono);
        event::Attempt {
            server: call.name_of(attempt.server).unwrap_or_default().to_owned(),
            sip_code: attempt.code,
            duration_ms: milliseconds(until, attempt.started),
        }
    }
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

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn labels(call: &Call) -> std::collections::BTreeMap<String, String> {
    let named = call.identity.labels().filter_map(|(at, value)| {
        let label = call.policy.capture.labels.get(at)?;
        Some((label.label.to_string(), lossy(value)))
    });
    named.collect()
}
