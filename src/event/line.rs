//! A call as one line of JSON, written straight from where it is kept.
//!
//! Written by hand: through serde's derived code a line cost 21,000 instructions, a quarter of what a whole call may.
//! That it says what [`super::CallData`] says, every test of the core checks.

use super::{CallState, EventKind, Names, milliseconds};
use crate::call::{Call, UidText};
use crate::flow::{Direction, Transport};
use crate::mask::{Kind, MaskNumbers, Numbers};
use crate::outcome::{CodeSource, Decision, EndCause, is_blocked, q850};
use crate::scan::{Set, first};
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
struct Object<'a> {
    out: &'a mut Vec<u8>,
    /// To be masked; `None` where everything is shown.
    numbers: Option<Numbers<'a>>,
}

impl Record<'_> {
    /// The event as a CloudEvent in its structured form.
    pub fn put_event(&self, kind: EventKind, time: Wall, out: &mut Vec<u8>) {
        let mut event = Object { out, numbers: self.numbers() };
        event.put(b"{\"specversion\":\"1.0\",\"id\":\"");
        event.put_any(self.uid.as_bytes());
        event.put(b"/");
        event.put_any(kind.label().as_bytes());
        event.put(b"\"");
        event.text(b",\"source\":", Some(self.call.policy.source.as_bytes()));
        event.label(b",\"type\":", Some(kind.type_name()));
        event.time(b",\"time\":", Some(time));
        event.plain(b",\"subject\":", Some(self.uid.as_bytes()));
        event.put(b",\"datacontenttype\":\"application/json\",\"dataschema\":\"urn:sipstamp:call.");
        event.put_any(kind.label().as_bytes());
        event.put(b":v1\",\"data\":");
        self.put(&mut event);
        event.put(b"}");
    }

    /// The call as an answer of the API, with where it stands.
    pub fn put_view(&self, state: CallState, out: &mut Vec<u8>) {
        let mut view = Object { out, numbers: self.numbers() };
        self.put(&mut view);
        view.out.pop();
        view.label(b",\"state\":", Some(state.label()));
        view.put(b"}");
    }

    /// The names by which people ask for the call, where the line does not show one of them as it is.
    pub fn hidden_names(&self) -> Option<Box<Names>> {
        let numbers = self.numbers()?;
        let is_hidden = |name: &[u8]| numbers.hide(name, Kind::Id) != String::from_utf8_lossy(name);
        let (call_id, correlation) = (self.call.identity.call_id(), self.call.identity.correlation());
        (is_hidden(call_id) || correlation.is_some_and(is_hidden)).then(|| {
            let own = |name: &[u8]| String::from_utf8_lossy(name).into_owned().into_boxed_str();
            Box::new(Names { call_id: own(call_id), correlation: correlation.map(own) })
        })
    }

    fn numbers(&self) -> Option<Numbers<'_>> {
        if !self.mask.is_on() {
            return None;
        }
        let identity = &self.call.identity;
        Numbers::of(self.mask, [identity.from_user(), identity.to_user(), identity.request_user()])
    }

    /// The fields of [`super::CallData`], in the same order.
    fn put(&self, data: &mut Object<'_>) {
        data.plain(b"{\"call_uid\":", Some(self.uid.as_bytes()));
        self.put_identity(data);
        self.put_end(data);
        self.put_parties(data);
        self.put_attempts(data);
        self.put_times(data);
        data.put(b"}");
    }

    fn put_identity(&self, data: &mut Object<'_>) {
        let identity = &self.call.identity;
        data.foreign(b",\"call_id\":", Some(identity.call_id()), Kind::Id);
        match identity.parent() {
            Some(parent) => data.plain(b",\"parent_call_uid\":", Some(parent.text().as_bytes())),
            None => data.plain(b",\"parent_call_uid\":", None),
        }
        data.label(b",\"direction\":", Some(Direction::label(self.call.direction)));
        data.foreign(b",\"dialing_mode\":", identity.dialing_mode(), Kind::Value);
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
        data.foreign(b",\"reason_phrase\":", phrase, Kind::Prose);
        data.label(b",\"end_cause\":", ended.map(|(cause, ..)| cause.label()));
        // Only 6xx are ever "blocked".
        data.flag(b",\"blocked\":", code.is_some_and(|code| code >= 600) && is_blocked());
        data.number(b",\"q850\":", q850(&call.reasons).map(u64::from));
        data.number(b",\"progress_q850\":", call.progress_q850.map(u64::from));
        data.list(b",\"reason\":", call.reasons.iter(), |data, reason| {
            data.foreign(b"", Some(reason.as_bytes()), Kind::Prose);
        });
        data.text(b",\"rule\":", decision.and_then(|decision| decision.rule.as_deref()).map(str::as_bytes));
        data.text(
            b",\"disposition\":",
            decision.and_then(|decision| decision.disposition.as_deref()).map(str::as_bytes),
        );
        data.text(b",\"next\":", decision.and_then(|decision| decision.next.as_deref()).map(str::as_bytes));
    }

    fn put_parties(&self, data: &mut Object<'_>) {
        let identity = &self.call.identity;
        data.user(b",\"from\":", identity.from_user());
        data.user(b",\"to\":", identity.to_user());
        data.user(b",\"request_user\":", identity.request_user());
        data.foreign(b",\"from_tag\":", identity.from_tag(), Kind::Id);
        data.foreign(b",\"to_tag\":", self.call.to_tag(), Kind::Id);
        data.foreign(b",\"correlation\":", identity.correlation(), Kind::Id);
        data.put(b",\"labels\":{");
        let mut is_first = true;
        for (at, value) in identity.labels() {
            let Some(label) = self.call.policy.capture.labels.get(at) else { continue };
            if !std::mem::take(&mut is_first) {
                data.put(b",");
            }
            data.string(label.label.as_bytes());
            data.foreign(b":", Some(value), Kind::Value);
        }
        data.put(b"}");
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
    /// Text of ours: its length is known, so that it is copied in place.
    #[inline(always)]
    fn put<const N: usize>(&mut self, text: &[u8; N]) {
        self.out.extend_from_slice(text);
    }

    #[inline]
    fn put_any(&mut self, text: &[u8]) {
        self.out.extend_from_slice(text);
    }

    /// A user part, masked as the operator wants it.
    fn user<const N: usize>(&mut self, key: &[u8; N], user: Option<&[u8]>) {
        match (&self.numbers, user) {
            (Some(numbers), Some(user)) => {
                let shown = numbers.user(user);
                self.text(key, Some(shown.as_bytes()));
            }
            _ => self.text(key, user),
        }
    }

    /// A text that a peer wrote and that may hold a number.
    fn foreign<const N: usize>(&mut self, key: &[u8; N], value: Option<&[u8]>, kind: Kind) {
        match (&self.numbers, value) {
            (Some(numbers), Some(value)) => {
                let shown = numbers.hide(value, kind);
                self.text(key, Some(shown.as_bytes()));
            }
            _ => self.text(key, value),
        }
    }

    /// A value that needs no escapes: one of ours.
    #[inline]
    fn label<const N: usize>(&mut self, key: &[u8; N], value: Option<&str>) {
        self.plain(key, value.map(str::as_bytes));
    }

    #[inline(always)]
    fn plain<const N: usize>(&mut self, key: &[u8; N], value: Option<&[u8]>) {
        self.put(key);
        match value {
            Some(value) => {
                self.put(b"\"");
                self.put_any(value);
                self.put(b"\"");
            }
            None => self.put(b"null"),
        }
    }

    #[inline]
    fn text<const N: usize>(&mut self, key: &[u8; N], value: Option<&[u8]>) {
        self.put(key);
        match value {
            Some(value) => self.string(value),
            None => self.put(b"null"),
        }
    }

    #[inline]
    fn time<const N: usize>(&mut self, key: &[u8; N], value: Option<Wall>) {
        match value {
            Some(value) => self.plain(key, Some(value.text().as_bytes())),
            None => self.plain(key, None),
        }
    }

    #[inline]
    fn number<const N: usize>(&mut self, key: &[u8; N], value: Option<u64>) {
        self.put(key);
        match value {
            Some(value) => self.out.put_number(value),
            None => self.put(b"null"),
        }
    }

    #[inline]
    fn flag<const N: usize>(&mut self, key: &[u8; N], value: bool) {
        self.put(key);
        match value {
            true => self.put(b"true"),
            false => self.put(b"false"),
        }
    }

    fn list<T, const N: usize>(
        &mut self,
        key: &[u8; N],
        items: impl IntoIterator<Item = T>,
        put: impl Fn(&mut Self, T),
    ) {
        self.put(key);
        self.put(b"[");
        let mut is_first = true;
        for item in items {
            if !std::mem::take(&mut is_first) {
                self.put(b",");
            }
            put(self, item);
        }
        self.put(b"]");
    }

    /// A string; what is no UTF-8 in it is replaced.
    fn string(&mut self, value: &[u8]) {
        const ODD: Set<3> = Set::of(*b"\x7f\"\\").and_below(b' ').and_beyond_ascii();
        if first(value, 0, ODD).is_none() {
            self.put(b"\"");
            self.put_any(value);
            self.put(b"\"");
        } else {
            // Writing to a vector does not fail.
            let _ = serde_json::to_writer(&mut *self.out, &String::from_utf8_lossy(value));
        }
    }
}
