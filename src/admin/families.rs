//! The metrics that exist: name, unit, help and, for histograms, bounds.

use metrics::{KeyName, Recorder, Unit};
use metrics_exporter_prometheus::PrometheusRecorder;

/// Datagram read to datagram written.
pub const PROCESSING: &str = "sipstamp_processing_seconds";
/// First INVITE to first 18x or 2xx.
pub const POST_DIAL_DELAY: &str = "sipstamp_post_dial_delay_seconds";
/// First INVITE to 2xx.
pub const ANSWER_DELAY: &str = "sipstamp_answer_delay_seconds";
/// Answer to end.
pub const TALK: &str = "sipstamp_talk_seconds";
/// First 180 to answer or end.
pub const RING: &str = "sipstamp_ring_seconds";

/// Counters and gauges, which are set from samples.
pub const SAMPLED: &[(&str, Unit, &str)] = &[
    ("sipstamp_call_outcomes_total", Unit::Count, "Calls that ended, by outcome."),
    ("sipstamp_call_end_causes_total", Unit::Count, "Calls that ended, by the reason why."),
    ("sipstamp_calls_started_total", Unit::Count, "Calls begun by an INVITE."),
    ("sipstamp_calls_refused_total", Unit::Count, "New calls that were refused, by the limit that was reached."),
    ("sipstamp_calls_restored_total", Unit::Count, "Open calls of an earlier process that go on, by state."),
    ("sipstamp_calls_active", Unit::Count, "Open calls, by state."),
    ("sipstamp_accounting_imbalance", Unit::Count, "Calls started less calls ended less calls open: always 0."),
    (
        "sipstamp_final_responses_total",
        Unit::Count,
        "Final responses to INVITEs, by code and the server that sent them.",
    ),
    ("sipstamp_server_call_outcomes_total", Unit::Count, "Calls that ended, by the server tried last and outcome."),
    ("sipstamp_server_calls_active", Unit::Count, "Open calls, by server and state."),
    ("sipstamp_attempts_total", Unit::Count, "Servers asked for a call, by what came of it."),
    ("sipstamp_server_up", Unit::Count, "Whether calls have shown the server to be up (1) or down (0)."),
    ("sipstamp_sip_requests_total", Unit::Count, "SIP requests, by method, side, and received or sent."),
    ("sipstamp_sip_responses_total", Unit::Count, "SIP responses, by class, side, and received or sent."),
    ("sipstamp_sip_retransmissions_total", Unit::Count, "SIP messages seen or sent again, by side and kind."),
    ("sipstamp_sip_rejected_total", Unit::Count, "SIP messages that became no call, by reason."),
    ("sipstamp_tcp_connections", Unit::Count, "Open TCP connections."),
    ("sipstamp_overloaded_workers", Unit::Count, "Workers that refuse new calls because messages wait too long."),
    ("sipstamp_overloads_total", Unit::Count, "How often workers began to refuse new calls for overload."),
    ("sipstamp_worker_handovers_total", Unit::Count, "Messages that a worker has read for another."),
    ("sipstamp_admin_refused_total", Unit::Count, "Requests and connections that the admin API refused, by reason."),
    (
        "sipstamp_transport_dropped_total",
        Unit::Count,
        "Messages or connections given up by the socket layer, by reason.",
    ),
    ("sipstamp_races_total", Unit::Count, "Messages that came after their call was decided, by kind."),
    ("sipstamp_voicemail_drops_total", Unit::Count, "Voicemail drops asked for, by what came of it."),
    ("sipstamp_events_delivered_total", Unit::Count, "Events that the sink has taken."),
    ("sipstamp_events_pending", Unit::Count, "Events that wait for the sink."),
    ("sipstamp_events_oldest_pending_seconds", Unit::Seconds, "Age of the oldest event that waits for the sink."),
    ("sipstamp_events_failed_total", Unit::Count, "Attempts to hand an event to the sink that failed."),
    ("sipstamp_events_dead_lettered_total", Unit::Count, "Events in the sink's file of dead letters."),
    ("sipstamp_events_dropped_total", Unit::Count, "Events given up, by kind: no room, or their receiver is gone."),
    ("sipstamp_config_last_reload_successful", Unit::Count, "Whether the last reload took the configuration (1)."),
    (
        "sipstamp_config_last_reload_success_timestamp_seconds",
        Unit::Seconds,
        "When the configuration in use was taken, since the Unix epoch.",
    ),
];

/// Histograms, which are observed as things happen. Bounds in seconds. Carriers and regulators count talk of
/// less than 2 s and 6 s and ringing of less than 15 s.
pub const OBSERVED: &[(&str, &str, &[f64])] = &[
    (
        PROCESSING,
        "Time from a datagram read to the datagrams written that it causes.",
        &[0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5],
    ),
    (
        POST_DIAL_DELAY,
        "Time from the INVITE to the first sign of progress or the answer.",
        &[0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 11.0, 15.0, 20.0, 30.0],
    ),
    (
        ANSWER_DELAY,
        "Time from the INVITE to the answer.",
        &[0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0, 25.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0],
    ),
    (
        TALK,
        "Time from the answer to the end.",
        &[
            1.0, 2.0, 6.0, 10.0, 15.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0, 1_200.0, 1_800.0, 3_600.0, 7_200.0,
            14_400.0,
        ],
    ),
    (
        RING,
        "Time from the first ringing to the answer or the end.",
        &[1.0, 2.0, 4.0, 6.0, 10.0, 15.0, 20.0, 25.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0],
    ),
];

/// Gives a recorder the help texts of what is sampled.
pub fn describe_sampled(recorder: &PrometheusRecorder) {
    for (name, unit, help) in SAMPLED {
        // The text format knows no difference: a description is one for all kinds.
        recorder.describe_gauge(KeyName::from_const_str(name), Some(*unit), (*help).into());
    }
}
