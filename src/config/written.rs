//! The configuration as it is written: the shape of the file, and with it its JSON Schema.
//!
//! Nothing is required and nothing has a value here that is not in the file; defaults are given where
//! values are checked. The schema says the rest: types, ranges, defaults (`default`), and in `x-later`
//! keys and values that are refused because this version does not have them.

mod webhook;

use schemars::JsonSchema;
use serde::Deserialize;
pub use webhook::{DeadLetter, Webhook};

use super::key::{BothOr, Key, NumberOrText, OneOrMany, Table};
use crate::flow::Direction;
use crate::outcome::{EndCause, Outcome};

/// The configuration of sipstamp. In every string `${NAME}` and `${NAME:-default}` come from the environment.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// How a call's legs are written.
    #[schemars(extend("enum" = ["proxy"], "default" = "proxy", "x-later" = ["b2bua"]))]
    pub mode: Key<String>,
    /// Threads that handle calls.
    #[schemars(range(min = 1, max = 64), extend("default" = 1))]
    pub workers: Key<u64>,
    pub listen: Listen,
    pub dialer: Key<Dialer>,
    pub telephony: Key<Telephony>,
    pub timeouts: Timeouts,
    pub stamp: Stamp,
    pub voicemail_drop: VoicemailDrop,
    pub capture: Capture,
    pub outcome: OutcomeRules,
    /// What the dialer does next, by outcome and end cause.
    pub dispositions: Vec<Key<Disposition>>,
    pub events: Events,
    pub admin: Admin,
    pub metrics: Metrics,
    pub limits: Limits,
    pub security: Security,
    pub log: Log,
}

/// Where SIP is received.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline, extend("x-later" = ["tls_certificate", "tls_key"]))]
pub struct Listen {
    /// Addresses for UDP; port 0 takes any free one. Default: those of `tcp`, else 0.0.0.0:5060.
    #[schemars(extend("default" = ["0.0.0.0:5060"]))]
    pub udp: Key<Vec<Key<String>>>,
    /// Addresses for TCP. Default: those of `udp`, else 0.0.0.0:5060.
    #[schemars(extend("default" = ["0.0.0.0:5060"]))]
    pub tcp: Key<Vec<Key<String>>>,
    /// Addresses for TLS.
    #[schemars(extend("default" = [], "maxItems" = 0, "x-later" = []))]
    pub tls: Vec<String>,
    /// Host for Via and Record-Route, for both sides or for each. Default: the address that the packet leaves from.
    pub advertise: Key<BothOr<Advertise>>,
}

/// Host for Via and Record-Route per side.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub struct Advertise {
    pub dialer: Key<String>,
    pub telephony: Key<String>,
}

/// The dialer.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub struct Dialer {
    /// Who is the dialer: addresses or networks. Required, here or with --dialer.
    #[schemars(example = ["10.0.1.0/24"])]
    pub sources: Key<Vec<Key<String>>>,
    /// SIP URI where calls from the telephony server go. Default: none, they get 404.
    #[schemars(example = "sip:10.0.1.5:5060")]
    pub target: Key<String>,
    /// Whether its headers may override timeouts and ask for a voicemail drop; they are removed either way.
    #[schemars(extend("default" = true))]
    pub trust_headers: Key<bool>,
}

/// The telephony side.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub struct Telephony {
    /// The telephony servers. At least one is required, here or with --server.
    pub servers: Key<Vec<Key<Server>>>,
}

/// A telephony server.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline, extend("required" = ["uri"]))]
pub struct Server {
    /// SIP URI of the server.
    #[schemars(example = "sip:10.0.2.10:5060;transport=udp")]
    pub uri: Key<String>,
    /// Label in events and metrics. Default: host:port of the URI.
    #[schemars(example = "pbx-a")]
    pub name: Key<String>,
    /// Lower is tried first.
    #[schemars(range(max = 65535), extend("default" = 1))]
    pub priority: Key<u64>,
    /// Share among servers of equal priority.
    #[schemars(range(min = 1, max = 65535), extend("default" = 1))]
    pub weight: Key<u64>,
    /// Who else is this server; its own address always is.
    #[schemars(extend("default" = []))]
    pub sources: Vec<Key<String>>,
}

/// How long things may take.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub struct Timeouts {
    /// A call that is not answered within this is a NoAnswer. 1s to 3m.
    #[schemars(extend("default" = "30s"))]
    pub no_answer: Key<String>,
    /// Header from the dialer that overrides `no_answer` for one call, in seconds. Empty: none.
    #[schemars(extend("default" = "No-Answer-Timeout"))]
    pub no_answer_header: Key<String>,
    /// With several servers: no 18x within this tries the next one. 1s to 1m.
    #[schemars(extend("default" = "8s"))]
    pub progress: Key<String>,
    /// How long a cancelled leg may still answer. 0s to 32s.
    #[schemars(extend("default" = "1s"))]
    pub cancel_grace: Key<String>,
    /// How long a challenged call waits for its retry. 1s to 2m.
    #[schemars(extend("default" = "32s"))]
    pub auth_retry_window: Key<String>,
    /// Longest answered call. 1m to 24h.
    #[schemars(extend("default" = "4h"))]
    pub max_duration: Key<String>,
    /// An outbound CANCEL later than this is the dialer's own no-answer. 1s to 3m. Default: none.
    #[schemars(example = "25s")]
    pub dialer_ring_timeout: Key<String>,
    /// RFC 3261 T1, estimate of the round trip. 50ms to 2s.
    #[schemars(extend("default" = "500ms"))]
    pub t1: Key<String>,
    /// RFC 3261 T2, longest interval between retransmissions; not below `t1`.
    #[schemars(extend("default" = "4s"))]
    pub t2: Key<String>,
    /// RFC 3261 T4, how long a message may stay in the network.
    #[schemars(extend("default" = "5s"))]
    pub t4: Key<String>,
    /// RFC 3261 §16.6 step 11; not below `no_answer`.
    #[schemars(extend("default" = "181s"))]
    pub timer_c: Key<String>,
}

/// How the outcome is written on messages.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub struct Stamp {
    /// Header name, or several: FreeSWITCH shows only X- and P- headers to its dialplan.
    #[schemars(extend("default" = "Call-Outcome"))]
    pub header: Key<OneOrMany>,
    /// Whether the outcome is the final response's reason phrase too, for dialers that read no header.
    #[schemars(extend("default" = false))]
    pub reason_phrase: Key<bool>,
    /// Who sees the stamp.
    #[schemars(extend("enum" = ["dialer", "both"], "default" = "dialer"))]
    pub to: Key<String>,
    /// Code that the caller gets when the no-answer timer fires.
    #[schemars(range(min = 400, max = 699), extend("default" = 408))]
    pub no_answer_code: Key<u64>,
    /// Code that the caller gets when no server responds; 503 or 504 lets a dialer fail over.
    #[schemars(range(min = 400, max = 699), extend("default" = 408))]
    pub no_response_code: Key<u64>,
}

/// How the dialer tells that a recorded message was dropped.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub struct VoicemailDrop {
    /// Header on BYE or INFO from the dialer.
    #[schemars(extend("default" = "Voicemail-Drop"))]
    pub header: Key<String>,
    #[schemars(extend("default" = "true"))]
    pub value: Key<String>,
    /// Header on the INVITE that says how the call was dialled.
    #[schemars(extend("default" = "Dialing-Mode"))]
    pub progressive_header: Key<String>,
    #[schemars(extend("default" = "progressive"))]
    pub progressive_value: Key<String>,
    /// Whether every outbound call counts as progressive.
    #[schemars(extend("default" = false))]
    pub always: Key<bool>,
    /// Regular expression: a REFER or re-INVITE to a URI that matches is a drop. Default: none.
    #[schemars(example = "^sip:vmdrop@")]
    pub target_pattern: Key<String>,
    /// How long the record of a progressive call stays open after its BYE. 0s to 1m.
    #[schemars(extend("default" = "2s"))]
    pub grace: Key<String>,
}

/// INVITE headers that ride along in the event.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub struct Capture {
    /// Header whose value names the call in the dialer's own records; "" for none.
    #[schemars(extend("default" = "Correlation-ID"))]
    pub correlation: Key<String>,
    /// Label names, each with the header that it takes its value from.
    #[schemars(example = serde_json::json!({ "campaign": "Campaign-ID" }))]
    pub labels: Table<String>,
    /// Labels that are metric labels too, each with the values shown; others count as `other`.
    #[schemars(example = serde_json::json!({ "campaign": ["spring", "summer"] }))]
    pub metric_values: Table<Vec<Key<String>>>,
}

/// Overrides of the table of outcomes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub struct OutcomeRules {
    /// The first rule that matches decides.
    pub rules: Vec<Key<Rule>>,
}

/// One override of the table of outcomes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline, extend("required" = ["name", "when", "outcome"]))]
pub struct Rule {
    /// Shown in the event.
    #[schemars(example = "carrier-x bad number")]
    pub name: Key<String>,
    pub when: Key<When>,
    #[schemars(with = "Outcome")]
    pub outcome: Key<String>,
}

/// What a rule tests: all that is given, at least one.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub struct When {
    /// Code of the final response: 503, "5xx" or "500-504", within 300 to 699.
    #[schemars(example = 503)]
    pub code: Key<NumberOrText>,
    /// Name of the server that was tried last.
    #[schemars(example = "pbx-a")]
    pub server: Key<String>,
    #[schemars(with = "Direction")]
    pub direction: Key<String>,
    /// Q.850 cause in the final response's Reason.
    #[schemars(range(max = 127), example = 1)]
    pub q850: Key<u64>,
    /// Part of the reason phrase, in any letter case.
    #[schemars(example = &"unallocated")]
    pub reason_contains: Key<String>,
    /// Q.850 cause of the last 18x that bore one.
    #[schemars(range(max = 127), example = 17)]
    pub progress_q850: Key<u64>,
    /// Whether a 180 came.
    #[schemars(example = true)]
    pub ringing: Key<bool>,
    /// At least this long after the INVITE.
    #[schemars(example = "1s")]
    pub after: Key<String>,
    /// Less than this long after the INVITE.
    #[schemars(example = "10s")]
    pub before: Key<String>,
}

/// What the dialer does after an outcome.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline, extend("required" = ["outcome"]))]
pub struct Disposition {
    #[schemars(with = "Outcome")]
    pub outcome: Key<String>,
    /// With one, it wins over the bare outcome.
    #[schemars(with = "EndCause")]
    pub end_cause: Key<String>,
    /// The dialer's own code.
    #[schemars(example = &"NA")]
    pub disposition: Key<String>,
    /// What it does next, such as next_record, next_call, stay.
    #[schemars(example = &"next_record")]
    pub next: Key<String>,
}

/// What becomes of events.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub struct Events {
    /// CloudEvents source. Default: sipstamp/HOSTNAME.
    #[schemars(example = "sipstamp/host-7")]
    pub source: Key<String>,
    /// Directory where open calls and undelivered events are kept, so that they outlive the process; made if it is missing.
    /// Default: none.
    #[schemars(example = "/var/lib/sipstamp")]
    pub journal: Key<String>,
    /// How often the journal is written to the disk itself: what a loss of power can take. `never` survives a crash of the
    /// process, not of the machine. 10ms to 1h.
    #[schemars(extend("default" = "1s"))]
    pub sync: Key<String>,
    /// File that one JSON object a line is appended to. Default: none.
    #[schemars(example = "/var/log/sipstamp/events.jsonl")]
    pub file: Key<String>,
    /// Whether events go to standard output.
    #[schemars(extend("default" = false))]
    pub stdout: Key<bool>,
    /// Whether call.started, call.ringing and call.answered are told too.
    #[schemars(extend("default" = false))]
    pub lifecycle: Key<bool>,
    /// Events that may wait in memory for a sink. 64KiB to 64GiB.
    #[schemars(extend("default" = "64MiB"))]
    pub memory_limit: Key<String>,
    /// What is shown of numbers.
    #[schemars(extend("enum" = ["none", "partial", "hash"], "default" = "none"))]
    pub mask_numbers: Key<String>,
    /// File with the key of `mask_numbers = "hash"`. Default: none.
    #[schemars(example = "/etc/sipstamp/mask.key")]
    pub mask_key_file: Key<String>,
    /// Receivers over HTTP.
    pub webhooks: Vec<Key<Webhook>>,
    pub nats: Key<Nats>,
}

/// A NATS JetStream stream where events go, and subjects by which sidecars ask each other about calls.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline, extend("required" = ["servers"]))]
pub struct Nats {
    /// URLs of servers of one cluster: nats://HOST:PORT, or tls://HOST:PORT where TLS is a must.
    #[schemars(example = ["nats://127.0.0.1:4222"])]
    pub servers: Key<Vec<Key<String>>>,
    /// Name of the stream; made if it is missing, never altered. Default: CALLS.
    #[schemars(example = &"CALLS")]
    pub stream: Key<String>,
    /// Subject of an event, with {outcome}, {event}, {direction}, {end_cause}, {server}, {source}. Default: calls.{outcome}.
    #[schemars(example = "calls.{outcome}")]
    pub subject: Key<String>,
    /// What the subjects begin with by which sidecars ask each other about calls; empty: they do not. Default:
    /// sipstamp.control.
    #[schemars(example = "sipstamp.control")]
    pub control_subject: Key<String>,
    /// Name to log in with. Default: none.
    #[schemars(example = &"sidecar")]
    pub user: Key<String>,
    /// File with the password of `user`. Default: none.
    #[schemars(example = "/etc/sipstamp/nats.password")]
    pub password_file: Key<String>,
    /// File with a token to log in with. Default: none.
    #[schemars(example = "/etc/sipstamp/nats.token")]
    pub token_file: Key<String>,
    /// File with a JWT and the seed of its key to log in with. Default: none.
    #[schemars(example = "/etc/sipstamp/nats.creds")]
    pub credentials_file: Key<String>,
    /// Certificates, in PEM, that are trusted in the place of the system's. Default: none.
    #[schemars(example = "/etc/sipstamp/nats-ca.pem")]
    pub ca_file: Key<String>,
}

/// The admin API.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub struct Admin {
    /// Empty: no admin API.
    #[schemars(extend("default" = "127.0.0.1:9060"))]
    pub listen: Key<String>,
    /// File with the bearer token; needed when it listens beyond loopback. Default: none.
    #[schemars(example = "/etc/sipstamp/admin.token")]
    pub token_file: Key<String>,
}

/// Metrics and health apart from the admin API, without a token.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub struct Metrics {
    /// Address for /metrics, /livez and /readyz alone. Default: none.
    #[schemars(example = "0.0.0.0:9061")]
    pub listen: Key<String>,
}

/// What is too much.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub struct Limits {
    /// Open calls.
    #[schemars(range(min = 1, max = 10_000_000), extend("default" = 100_000))]
    pub calls: Key<u64>,
    /// New calls per second; 0: no limit.
    #[schemars(range(max = 1_000_000), extend("default" = 0))]
    pub calls_per_second: Key<u64>,
    /// New calls per second of each source address; 0: no limit.
    #[schemars(range(max = 1_000_000), extend("default" = 0))]
    pub calls_per_second_per_source: Key<u64>,
    /// Requests that are being answered or were answered lately.
    #[schemars(range(min = 1_000, max = 100_000_000), extend("default" = 2_000_000))]
    pub transactions: Key<u64>,
    /// How long messages may wait to be read before new calls are refused, 5ms to 10s; 0ms: for ever.
    #[schemars(extend("default" = "25ms"))]
    pub overload_delay: Key<String>,
    /// Longest message, in bytes.
    #[schemars(range(min = 1024, max = 65535), extend("default" = 65535))]
    pub message_bytes: Key<u64>,
    /// Open TCP connections.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 1024))]
    pub tcp_connections: Key<u64>,
    /// Open TCP connections of each source address; 0: no limit of its own.
    #[schemars(range(max = 1_000_000), extend("default" = 0))]
    pub tcp_connections_per_source: Key<u64>,
    /// How long a TCP connection may be silent, 32s to 24h; 0s: for ever.
    #[schemars(extend("default" = "1h"))]
    pub tcp_idle: Key<String>,
}

/// What strangers get.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub struct Security {
    /// Nothing, or a 403.
    #[schemars(extend("enum" = ["drop", "403"], "default" = "drop"))]
    pub strangers: Key<String>,
}

/// Logs, which go to standard error.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub struct Log {
    /// A level or a filter directive such as sipstamp=debug.
    #[schemars(extend("default" = "info"))]
    pub level: Key<String>,
    #[schemars(extend("enum" = ["text", "json"], "default" = "text"))]
    pub format: Key<String>,
}
