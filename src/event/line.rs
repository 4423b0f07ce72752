//! A call as one line of JSON, written straight from where it is kept.
//!
//! Written by hand: through serde's derived code a line cost 21,000 instructions, a quarter of what a whole call may.
//! That it says what [`super::CallData`] says, every test of the core checks.

use super::{CallState, EventKind, milliseconds};
use crate::call::{Call, UidText};
use crate::flow::{Direction, Transport};
use crate::mask::MaskNumbers;
use crate::outcome::{CodeSource, Decision, EndCause, is_blocked, q850};
use crate::text::Put;
use crate::time::{Mono, Wall};

/// What is written of a call.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub call: &'a Call,
    pub uid: &'a UidText,
    /// What it came to, when and by what, where it has ended.
    pub ended: Option<(EndCause, Mono, &'a Decision)>,
    pub now: Mono,
    pub mask: &'a MaskNumbers,
}

/// A JSON object that is being written. Keys are given with their quotes and colon, and the comma before them.
struct Object<'a>(&'a mut Vec<u8>);

impl Record<'_> {
    /// The event as a CloudEvent in its structured form.
    pub fn put_event(&self, kind: EventKind, time: Wall, out: &mut Vec<u8>) {
        let mut event = Object(out);
        event.put(b"{\"specversion\":\"1.0\",\"id\":\"");
        event.put(self.uid.as_bytes());
        event.put(b"/");
        event.put(kind.label().as_bytes());
        event.put(b"\"");
        event.text(b",\"source\":", Some(self.call.policy.source.as_bytes()));
        event.label(b",\"type\":", Some(kind.type_name()));
        event.time(b",\"time\":", Some(time));
        event.label(b",\"subject\":", Some(self.uid));
        event.put(b",\"datacontenttype\":\"application/json\",\"dataschema\":\"urn:sipstamp:call.");
        event.put(kind.label().as_bytes());
        event.put(b":v1\",\"data\":");
        self.put(event.0);
        out.put(b"}");
    }

    /// The call as an answer of the API, with where it stands.
    pub fn put_view(&self, state: CallState, out: &mut Vec<u8>) {
        self.put(out);
        out.pop();
        let mut view = Object(out);
        view.label(b",\"state\":", Some(state.label()));
        view.put(b"}");
    }

    /// The fields of [`super::CallData`], in the same order.
    fn put(&self, out: &mut Vec<u8>) {
        let mut data = Object(out);
        data.label(b"{\"call_uid\":", Some(self.uid));
        self.put_identity(&mut data);
        self.put_end(&mut data);
        self.put_parties(&mut data);
        self.put_attempts(&mut data);
        self.put_times(&mut data);
        data.put(b"}");
    }

    fn put_identity(&self, data: &mut Object<'_>) {
        let identity = &self.call.identity;
        data.text(b",\"call_id\":", Some(identity.call_id()));
        match identity.parent() {
            Some(parent) => data.label(b",\"parent_call_uid\":", Some(&parent.text())),
            None => data.label(b",\"parent_call_uid\":", None),
        }
        data.label(b",\"direction\":", Some(Direction::label(self.call.direction)));
        data.text(b",\"dialing_mode\":", identity.dialing_mode());
    }

    fn put_end(&self, data: &mut Object<'_>) {
        let Record { call, ended, .. } = self;
        let response = call.response.as_ref();
        let code = response.and_then(|response| response.code);
        let phrase = response.and_then(|response| response.phrase());
        let source = response.map(|response| response.source).or(ended.map(|_| CodeSource::None));
        let decision = ended.map(|(.., decision)| decision);
        let is_blocked = || {
            is_blocked(
                code.unwrap_or_default(),
                &phrase.map(String::from_utf8_lossy).unwrap_or_default(),
                &call.reasons,
            )
        };
        data.label(b",\"outcome\":", decision.map(|decision| decision.outcome.label()));
        data.number(b",\"sip_code\":", code.map(u64::from));
        data.label(b",\"code_source\":", source.map(CodeSource::label));
        data.text(b",\"reason_phrase\":", phrase);
        data.label(b",\"end_cause\":", ended.map(|(cause, ..)| cause.label()));
        // Only 6xx are ever "blocked".
        data.flag(b",\"blocked\":", code.is_some_and(|code| code >= 600) && is_blocked());
        data.number(b",\"q850\":", q850(&call.reasons).map(u64::from));
        data.number(b",\"progress_q850\":", call.progress_q850.map(u64::from));
        data.list(b",\"reason\":", call.reasons.iter(), |data, reason| data.string(reason.as_bytes()));
        data.text(b",\"rule\":", decision.and_then(|decision| decision.rule.as_deref()).map(str::as_bytes));
        data.text(
            b",\"disposition\":",
            decision.and_then(|decision| decision.disposition.as_deref()).map(str::as_bytes),
        );
        data.text(b",\"next\":", decision.and_then(|decision| decision.next.as_deref()).map(str::as_bytes));
    }

    fn put_parties(&self, data: &mut Object<'_>) {
        let identity = &self.call.identity;
        self.put_number(data, b",\"from\":", identity.from_user());
        self.put_number(data, b",\"to\":", identity.to_user());
        self.put_number(data, b",\"request_user\":", identity.request_user());
        data.text(b",\"from_tag\":", identity.from_tag());
        data.text(b",\"to_tag\":", self.call.to_tag());
        data.text(b",\"correlation\":", identity.correlation());
        data.put(b",\"labels\":{");
        let mut comma: &[u8] = b"";
        for (at, value) in identity.labels() {
            let Some(label) = self.call.policy.capture.labels.get(at) else { continue };
            data.put(comma);
            data.string(label.label.as_bytes());
            data.put(b":");
            data.string(value);
            comma = b",";
        }
        data.put(b"}");
    }

    /// A phone number, masked as the operator wants it.
    fn put_number(&self, data: &mut Object<'_>, key: &[u8], number: Option<&[u8]>) {
        match (self.mask, number) {
            (MaskNumbers::None, _) | (_, None) => data.text(key, number),
            (mask, Some(number)) => {
                data.text(key, Some(mask.masked(String::from_utf8_lossy(number)).as_bytes()));
            }
        }
    }

    fn put_attempts(&self, data: &mut Object<'_>) {
        let until = self.ended.map_or(self.now, |(_, at, _)| at);
        let call = self.call;
        data.text(b",\"server\":", call.server_name().map(str::as_bytes));
        data.label(b",\"transport\":", Some(Transport::label(call.path.transport)));
        data.list(b",\"attempts\":", &call.attempts, |data, attempt| {
            let duration = milliseconds(attempt.ended.get().unwrap_or(until), attempt.started);
            data.text(b"{\"server\":", Some(call.name_of(attempt.server).unwrap_or_default().as_bytes()));
            data.number(b",\"sip_code\":", attempt.code.map(u64::from));
            data.number(b",\"duration_ms\":", Some(duration));
            data.put(b"}");
        });
    }

    fn put_times(&self, data: &mut Object<'_>) {
        let call = self.call;
        let wall = |at: Mono| call.started.wall_at(at);
        let (ringing_at, answered_at) = (call.ringing_at.get(), call.answered_at.get());
        let ended_at = self.ended.map(|(_, at, _)| at);
        let times = self.delays();
        data.flag(b",\"had_ringing\":", ringing_at.is_some());
        data.flag(b",\"had_early_media\":", call.early_media);
        data.time(b",\"started_at\":", Some(call.started.wall));
        data.time(b",\"ringing_at\":", ringing_at.map(wall));
        data.time(b",\"answered_at\":", answered_at.map(wall));
        data.time(b",\"ended_at\":", ended_at.map(wall));
        data.number(b",\"post_dial_delay_ms\":", times.post_dial_ms);
        data.number(b",\"ring_ms\":", times.ring_ms);
        data.number(b",\"answer_delay_ms\":", times.answer_ms);
        data.number(b",\"talk_ms\":", times.talk_ms);
        data.label(b",\"ended_by\":", self.ended.map(|(cause, ..)| cause.ended_by().label()));
        data.list(b",\"anomalies\":", call.anomalies.iter(), |data, anomaly| data.string(anomaly.label().as_bytes()));
    }

    /// How long the parts of the call took.
    pub fn delays(&self) -> Delays {
        let started = self.call.started.mono;
        let (ringing, answered) = (self.call.ringing_at.get(), self.call.answered_at.get());
        let ended = self.ended.map(|(_, at, _)| at);
        Delays {
            post_dial_ms: self.call.progress_at.get().or(answered).map(|at| milliseconds(at, started)),
            ring_ms: ringing.zip(answered.or(ended)).map(|(from, to)| milliseconds(to, from)),
            answer_ms: answered.map(|at| milliseconds(at, started)),
            talk_ms: answered.zip(ended).map(|(from, to)| milliseconds(to, from)),
        }
    }
}

/// How long the parts of a call took, in milliseconds, as far as they came.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    pub post_dial_ms: Option<u64>,
    pub ring_ms: Option<u64>,
    pub answer_ms: Option<u64>,
    pub talk_ms: Option<u64>,
}

impl Object<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A value that needs no escapes: one of ours.
    fn label(&mut self, key: &[u8], value: Option<&str>) {
        self.put(key);
        match value {
            Some(value) => {
                self.put(b"\"");
                self.put(value.as_bytes());
                self.put(b"\"");
            }
            None => self.put(b"null"),
        }
    }

    fn text(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.put(key);
        match value {
            Some(value) => self.string(value),
            None => self.put(b"null"),
        }
    }

    fn time(&mut self, key: &[u8], value: Option<Wall>) {
        match value {
            Some(value) => self.label(key, Some(&value.text())),
            None => self.label(key, None),
        }
    }

    fn number(&mut self, key: &[u8], value: Option<u64>) {
        self.put(key);
        match value {
            Some(value) => self.0.put_number(value),
            None => self.put(b"null"),
        }
    }

    fn flag(&mut self, key: &[u8], value: bool) {
        self.put(key);
        self.put(if value { b"true" } else { b"false" });
    }

    fn list<T>(&mut self, key: &[u8], items: impl IntoIterator<Item = T>, put: impl Fn(&mut Self, T)) {
        self.put(key);
        let mut before: &[u8] = b"[";
        for item in items {
            self.put(before);
            put(self, item);
            before = b",";
        }
        self.put(if before == b"[" { b"[]" } else { b"]" });
    }

    /// A string; what is no UTF-8 in it is replaced.
    fn string(&mut self, value: &[u8]) {
        let is_plain = |byte: &u8| (b' '..0x7f).contains(byte) && !matches!(byte, b'"' | b'\\');
        if value.iter().all(is_plain) {
            self.put(b"\"");
            self.put(value);
            self.put(b"\"");
        } else {
            // Writing to a vector does not fail.
            let _ = serde_json::to_writer(&mut *self.0, &String::from_utf8_lossy(value));
        }
    }
}
