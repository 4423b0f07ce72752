//! What is told of a call, and the one function that ends it.

use super::setup::milliseconds;
use super::{Call, CallTimer, Phase};
use crate::arena::Handle;
use crate::endpoint::{Deadline, Endpoint, Output};
use crate::event::{self, CallData, CallState, CallView, Event, EventKind};
use crate::outcome::{Anomaly, CodeSource, Decision, EndCause, Facts, decide, is_blocked, q850};
use crate::time::{Mono, Wall};

impl Endpoint {
    /// Ends a call: it is taken out, counted and told, together and once.
    pub(crate) fn emit(&mut self, handle: Handle, cause: EndCause, at: Mono) {
        let Some(call) = self.calls.get(handle) else { return };
        let names = self.names_of(&call.identity);
        let from_tag = call.identity.from_tag.as_deref().unwrap_or_default();
        let call_id = &call.identity.call_id;
        let dialogs = call.dialogs.iter().map(|dialog| self.keys.dialog(call_id, from_tag, &dialog.to_tag));
        let dialogs = dialogs.collect::<Vec<_>>();
        let decision = self.decide(call, cause, at);
        let data = self.data(call, Some((cause, at, &decision)));
        let Some(mut call) = self.calls.remove(handle, &names, &dialogs) else { return };
        for (_, timer) in call.timers.drain(..) {
            self.wheel.cancel(timer);
        }
        self.stats.on_call_ended(&call, decision.outcome, cause);
        self.push(Output::Event(Box::new(Event { kind: EventKind::Ended, time: call.started.wall_at(at), data })));
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
        let facts = Facts {
            direction: call.direction,
            end_cause: cause,
            code: response.and_then(|response| response.code),
            reason_phrase: response.and_then(|response| response.phrase.as_deref()).unwrap_or_default(),
            server: call.server_name(),
            q850: q850(&call.reasons),
            progress_q850: call.progress_q850,
            ringing: call.ringing_at.is_some(),
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
        let owned = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
        let started = call.started.mono;
        let ended_at = ended.map(|(_, at, _)| at);
        let response = call.response.as_ref();
        let code = response.and_then(|response| response.code);
        let phrase = response.and_then(|response| response.phrase.as_deref());
        let until = call.answered_at.or(ended_at);
        let decision = ended.map(|(.., decision)| decision);
        let optional = |text: Option<&std::sync::Arc<str>>| text.map(|text| text.to_string());
        CallData {
            call_uid: call.uid.to_string(),
            call_id: lossy(&call.identity.call_id),
            parent_call_uid: call.identity.parent.map(|parent| parent.to_string()),
            direction: call.direction,
            dialing_mode: owned(&call.identity.dialing_mode),
            outcome: decision.map(|decision| decision.outcome),
            sip_code: code,
            code_source: response.map(|response| response.source).or(ended.map(|_| CodeSource::None)),
            reason_phrase: phrase.map(str::to_owned),
            end_cause: ended.map(|(cause, ..)| cause),
            blocked: code.is_some_and(|code| is_blocked(code, phrase.unwrap_or_default(), &call.reasons)),
            q850: q850(&call.reasons),
            progress_q850: call.progress_q850,
            reason: call.reasons.iter().map(|reason| reason.to_string()).collect(),
            rule: optional(decision.and_then(|decision| decision.rule.as_ref())),
            disposition: optional(decision.and_then(|decision| decision.disposition.as_ref())),
            next: optional(decision.and_then(|decision| decision.next.as_ref())),
            from: owned(&call.identity.from),
            to: owned(&call.identity.to),
            request_user: owned(&call.identity.request_user),
            from_tag: call.identity.from_tag.as_deref().map(lossy),
            to_tag: owned(&call.identity.to_tag),
            correlation: owned(&call.identity.correlation),
            labels: labels(call),
            server: call.server_name().map(str::to_owned),
            transport: call.flow.transport,
            attempts: call.attempts.iter().map(|attempt| self.attempt(attempt, ended_at)).collect(),
            had_ringing: call.ringing_at.is_some(),
            had_early_media: call.early_media,
            started_at: call.started.wall,
            ringing_at: call.ringing_at.map(wall),
            answered_at: call.answered_at.map(wall),
            ended_at: ended_at.map(wall),
            post_dial_delay_ms: call.progress_at.or(call.answered_at).map(|at| milliseconds(at, started)),
            ring_ms: call.ringing_at.zip(until).map(|(from, to)| milliseconds(to, from)),
            answer_delay_ms: call.answered_at.map(|at| milliseconds(at, started)),
            talk_ms: call.answered_at.zip(ended_at).map(|(from, to)| milliseconds(to, from)),
            ended_by: ended.map(|(cause, ..)| cause.ended_by()),
            anomalies: call.anomalies.iter().collect(),
        }
    }

    fn attempt(&self, attempt: &super::Attempt, ended: Option<Mono>) -> event::Attempt {
        let until = attempt.ended.or(ended).unwrap_or(self.now.mono);
        event::Attempt {
            server: attempt.name.to_string(),
            sip_code: attempt.code,
            duration_ms: milliseconds(until, attempt.started),
        }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn labels(call: &Call) -> std::collections::BTreeMap<String, String> {
    let named = call.identity.labels.iter().filter_map(|(at, value)| {
        let label = call.policy.capture.labels.get(*at)?;
        Some((label.label.to_string(), value.to_string()))
    });
    named.collect()
}
