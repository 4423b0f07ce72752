//! The schema of what the sidecar tells about a call: one form for events and for API answers.

mod line;

use std::fmt;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use line::Record;

use crate::call::Uid;
use crate::closed::closed_enum;
use crate::flow::{Direction, Transport};
use crate::outcome::{Anomaly, CodeSource, EndCause, EndedBy, Outcome};
use crate::policy::ServerId;
use crate::time::{Mono, Wall};

closed_enum! {
    /// The moments in a call's life that are told.
    pub enum EventKind {
        Started = "started",
        Ringing = "ringing",
        Answered = "answered",
        Ended = "ended",
    }
}

closed_enum! {
    /// Where a call stands.
    pub enum CallState {
        /// Neither ringing (180) nor answered nor ended.
        Setup = "setup",
        Ringing = "ringing",
        Answered = "answered",
        Ended = "ended",
    }
}

/// One thing that happened to a call, ready to be told.
#[derive(Clone, Debug)]
pub struct Event {
    pub kind: EventKind,
    /// CloudEvents 1.0 in structured JSON, one line without the line feed.
    pub line: Bytes,
    pub summary: Summary,
    /// Of a call that has ended, where the line has them masked.
    pub names: Option<Box<Names>>,
}

/// By what people ask for a call. Not to be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Names {
    pub call_id: Box<str>,
    pub correlation: Option<Box<str>>,
}

/// Of an event, what is counted and logged.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    pub call: Uid,
    pub direction: Direction,
    pub server: Option<ServerId>,
    pub outcome: Option<Outcome>,
    pub end_cause: Option<EndCause>,
    pub sip_code: Option<u16>,
    pub post_dial_delay_ms: Option<u64>,
    pub ring_ms: Option<u64>,
    pub answer_delay_ms: Option<u64>,
    pub talk_ms: Option<u64>,
}

impl Event {
    /// What its line says of the call.
    ///
    /// # Errors
    /// None for a line that the core wrote.
    pub fn data(&self) -> serde_json::Result<CallData> {
        data_of(&self.line)
    }
}

/// What the line of an event says of the call.
///
/// # Errors
/// Where it is no line that the core wrote.
pub fn data_of(line: &[u8]) -> serde_json::Result<CallData> {
    #[derive(Deserialize)]
    struct Line {
        data: CallData,
    }
    serde_json::from_slice::<Line>(line).map(|line| line.data)
}

impl Names {
    pub fn have(&self, name: &str) -> bool {
        *self.call_id == *name || self.correlation.as_deref() == Some(name)
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names(…)")
    }
}

impl EventKind {
    /// `type` of the CloudEvent.
    pub const fn type_name(self) -> &'static str {
        match self {
            EventKind::Started => "sipstamp.call.started.v1",
            EventKind::Ringing => "sipstamp.call.ringing.v1",
            EventKind::Answered => "sipstamp.call.answered.v1",
            EventKind::Ended => "sipstamp.call.ended.v1",
        }
    }
}

/// How long ago something was, in whole milliseconds.
pub fn milliseconds(later: Mono, earlier: Mono) -> u64 {
    u64::try_from(later.since(earlier).as_millis()).unwrap_or(u64::MAX)
}

/// A call as events and the API show it. What is not known yet is null.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CallData {
    /// Ours, unique for ever: a ULID.
    pub call_uid: String,
    /// The caller's Call-ID.
    pub call_id: String,
    /// The call whose 3xx this one follows.
    pub parent_call_uid: Option<String>,
    pub direction: Direction,
    /// The value of the INVITE header that `voicemail_drop.progressive_header` names.
    pub dialing_mode: Option<String>,
    pub outcome: Option<Outcome>,
    /// Code of the final response; null where none was received.
    pub sip_code: Option<u16>,
    pub code_source: Option<CodeSource>,
    /// Reason phrase of the response in `sip_code`.
    pub reason_phrase: Option<String>,
    pub end_cause: Option<EndCause>,
    /// Refused as unwanted, by the callee or by the network (RFC 8197, RFC 8688).
    pub blocked: bool,
    /// Q.850 cause of `reason` (RFC 3326).
    pub q850: Option<u16>,
    /// Q.850 cause of the last 18x that bore one.
    pub progress_q850: Option<u16>,
    /// The Reason header fields as they stood.
    pub reason: Vec<String>,
    /// Name of the rule that chose the outcome.
    pub rule: Option<String>,
    pub disposition: Option<String>,
    pub next: Option<String>,
    /// User part of the first INVITE's From.
    pub from: Option<String>,
    /// User part of the first INVITE's To.
    pub to: Option<String>,
    /// User part of the first INVITE's Request-URI.
    pub request_user: Option<String>,
    pub from_tag: Option<String>,
    pub to_tag: Option<String>,
    pub correlation: Option<String>,
    pub labels: std::collections::BTreeMap<String, String>,
    /// Name of the server that was tried last, or from which an inbound call came.
    pub server: Option<String>,
    /// The caller's.
    pub transport: Transport,
    pub attempts: Vec<Attempt>,
    pub had_ringing: bool,
    pub had_early_media: bool,
    pub started_at: Wall,
    pub ringing_at: Option<Wall>,
    pub answered_at: Option<Wall>,
    pub ended_at: Option<Wall>,
    pub post_dial_delay_ms: Option<u64>,
    pub ring_ms: Option<u64>,
    pub answer_delay_ms: Option<u64>,
    pub talk_ms: Option<u64>,
    pub ended_by: Option<EndedBy>,
    pub anomalies: Vec<Anomaly>,
}

/// One server that was asked.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Attempt {
    /// Name of the server; `dialer` for inbound calls.
    pub server: String,
    /// Null where it was given up without a final response.
    pub sip_code: Option<u16>,
    /// Milliseconds from forwarding to the final response or to giving up.
    pub duration_ms: u64,
}

/// A call with its state: an answer of the API.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CallView {
    pub state: CallState,
    #[serde(flatten)]
    pub data: CallData,
}
