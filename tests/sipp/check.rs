//! What is left of a run against what was expected of it: answer, stamps, events, counters.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use serde_json::Value as Json;

use super::expect::{Answer, Direction, Expect, Headers, Seen};
use super::metrics::Scrape;
use super::trace::Message;
use super::value::differences;

/// What a run left behind.
pub struct Finished<'a> {
    pub expect: &'a Expect,
    pub events: Vec<Json>,
    pub scrape: Scrape,
    /// By agent: `uac`, `uas`, `uas2`.
    pub traces: Vec<(&'static str, Vec<Message>)>,
}

const STAMP: &str = "Call-Outcome";

const OUTCOMES: [&str; 8] = [
    "Normal",
    "NumberBusy",
    "NoAnswer",
    "NumberUnobtainable",
    "NumberChanged",
    "CallRejected",
    "CallFailed",
    "VoicemailDrop",
];

/// The fields of an event's `data`: no more, no fewer.
const FIELDS: [&str; 39] = [
    "answer_delay_ms",
    "answered_at",
    "anomalies",
    "attempts",
    "blocked",
    "call_id",
    "call_uid",
    "code_source",
    "correlation",
    "dialing_mode",
    "direction",
    "disposition",
    "end_cause",
    "ended_at",
    "ended_by",
    "from",
    "from_tag",
    "had_early_media",
    "had_ringing",
    "labels",
    "next",
    "outcome",
    "parent_call_uid",
    "post_dial_delay_ms",
    "progress_q850",
    "q850",
    "reason",
    "reason_phrase",
    "request_user",
    "ring_ms",
    "ringing_at",
    "rule",
    "server",
    "sip_code",
    "started_at",
    "talk_ms",
    "to",
    "to_tag",
    "transport",
];

/// Everything that is not as expected; empty for a run that went well.
pub fn problems(run: &Finished<'_>) -> Vec<String> {
    [answers(run), forgeries(run), seen(run), events(run), books(run)].concat()
}

/// The last final response to each of the caller's INVITEs.
fn answers(run: &Finished<'_>) -> Vec<String> {
    let Some((_, trace)) = run.traces.iter().find(|(name, _)| *name == "uac") else { return Vec::new() };
    let asked: BTreeSet<(&str, u32)> = trace
        .iter()
        .filter(|message| !message.received && message.kind() == "INVITE" && message.is_initial())
        .map(|message| (message.call_id(), message.cseq().0))
        .collect();
    let calls: BTreeSet<&str> = asked.iter().map(|(call_id, _)| *call_id).collect();
    let mut problems = Vec::new();
    if calls.len() != run.expect.calls as usize {
        problems.push(format!("the uac placed {} call(s), expected {}", calls.len(), run.expect.calls));
    }
    for call_id in calls {
        let finals: Vec<&Message> = trace
            .iter()
            .filter(|message| message.received && message.call_id() == call_id)
            .filter(|message| message.code().is_some_and(|code| code >= 200) && message.cseq().1 == "INVITE")
            .filter(|message| asked.contains(&(call_id, message.cseq().0)))
            .collect();
        problems.extend(answer(run, call_id, &finals));
    }
    problems
}

fn answer(run: &Finished<'_>, call_id: &str, finals: &[&Message]) -> Vec<String> {
    let last = finals.last().copied();
    let (wanted, last) = match (&run.expect.answer, last) {
        (None, None) => return Vec::new(),
        (None, Some(got)) => return vec![format!("{call_id}: expected no answer, got {}", got.start_line)],
        (Some(wanted), None) => return vec![format!("{call_id}: expected {}, got no final response", wanted.code)],
        (Some(wanted), Some(last)) => (wanted, last),
    };
    let Answer { code, phrase, headers } = wanted;
    let mut problems = Vec::new();
    if last.code() != Some(*code) || phrase.as_ref().is_some_and(|phrase| phrase != last.phrase()) {
        let phrase = phrase.as_deref().unwrap_or_default();
        problems.push(format!("{call_id}: expected the answer {code} {phrase}, got {}", last.start_line));
    }
    // Retransmissions and forks bear the same stamp.
    let copies = finals.iter().filter(|message| message.kind() == last.kind() && message.cseq() == last.cseq());
    problems.extend(copies.flat_map(|copy| head(run, "answer", copy, headers)));
    problems
}

/// Stamps are for the dialer alone, never on a provisional response, and each names a call that was counted.
fn forgeries(run: &Finished<'_>) -> Vec<String> {
    if run.expect.config.get("stamp").is_some_and(|stamp| stamp.get("to").is_some()) {
        return Vec::new();
    }
    let dialer = if run.expect.direction == Direction::Outbound { "uac" } else { "uas" };
    let mut problems = Vec::new();
    for (name, trace) in &run.traces {
        for message in trace.iter().filter(|message| message.received) {
            for value in message.all(STAMP) {
                let is_ours = run.events.iter().any(|event| {
                    let uid = data(event, "call_uid").as_str().unwrap_or("?");
                    value.split(';').any(|parameter| parameter.strip_prefix("id=") == Some(uid))
                });
                let is_final = message.code().is_none_or(|code| code >= 200);
                if *name != dialer || !is_ours || !is_final {
                    problems.push(format!("{name} received {} with {STAMP}: {value}", message.start_line));
                }
            }
        }
    }
    problems
}

fn seen(run: &Finished<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    for Seen { by, message, count, headers } in &run.expect.seen {
        let trace = run.traces.iter().find(|(name, _)| name == by).map(|(_, trace)| trace.as_slice());
        let matching = |it: &&Message| it.received && it.kind() == *message;
        let found: Vec<&Message> = trace.unwrap_or_default().iter().filter(matching).collect();
        match count {
            Some(count) if *count != found.len() => {
                problems.push(format!("{by}: expected {message} {count} time(s), got {}", found.len()));
            }
            None if found.is_empty() => problems.push(format!("{by}: expected {message}, never got it")),
            _ => {}
        }
        problems.extend(found.iter().flat_map(|it| head(run, by, it, headers)));
    }
    problems
}

/// The stamp byte for byte, other fields by value.
fn head(run: &Finished<'_>, who: &str, message: &Message, wanted: &Headers) -> Vec<String> {
    let place = format!("{who}, {}", message.start_line);
    let mut problems = Vec::new();
    let stamps: Vec<&str> = message.all(STAMP).collect();
    let ids: Vec<&str> = run
        .events
        .iter()
        .filter(|event| data(event, "call_id").as_str() == Some(message.call_id()))
        .filter_map(|event| data(event, "call_uid").as_str())
        .collect();
    let fits = match (&wanted.stamp, stamps.as_slice()) {
        (None, []) => true,
        (Some(template), [stamp]) => ids.iter().any(|id| template.replace("{id}", id) == *stamp),
        _ => false,
    };
    if !fits {
        let wanted = wanted.stamp.as_deref().unwrap_or("none");
        problems.push(format!("{place}: expected the stamp {wanted} with an id of {ids:?}, got {stamps:?}"));
    }
    for (name, values) in &wanted.headers {
        let got: Vec<&str> = message.all(name).flat_map(|value| value.split(',')).map(str::trim).collect();
        let has = |value: &String| got.iter().any(|it| it == value || it.starts_with(&format!("{value};")));
        if !values.iter().all(has) {
            problems.push(format!("{place}: expected {name} {values:?}, got {got:?}"));
        }
    }
    for name in &wanted.absent {
        if message.header(name).is_some() {
            problems.push(format!("{place}: {name} should not be there"));
        }
    }
    problems
}

fn events(run: &Finished<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    if run.events.len() != run.expect.events() {
        problems.push(format!("expected {} event(s), got {}", run.expect.events(), run.events.len()));
    }
    let uids: BTreeSet<Option<&str>> = run.events.iter().map(|event| data(event, "call_uid").as_str()).collect();
    if uids.len() != run.events.len() {
        problems.push(format!("{} events of {} calls", run.events.len(), uids.len()));
    }
    for (index, event) in run.events.iter().enumerate() {
        problems.extend(envelope(event));
        let Some(wanted) = run.expect.event.as_ref().and_then(|events| events.at(index)) else { continue };
        for key in ["outcome", "sip_code", "code_source", "end_cause", "ended_by"] {
            if !wanted.contains_key(key) {
                problems.push(format!("expect.toml: the event must say {key}"));
            }
        }
        let mut wanted = wanted.clone();
        // What is so unless the scenario says otherwise.
        wanted.entry("anomalies").or_insert_with(|| toml::Value::Array(Vec::new()));
        wanted.entry("blocked").or_insert(toml::Value::Boolean(false));
        wanted.entry("rule").or_insert_with(|| "null".into());
        wanted.entry("parent_call_uid").or_insert_with(|| "null".into());
        wanted.entry("direction").or_insert_with(|| run.expect.direction.as_str().into());
        for (key, value) in &wanted {
            problems.extend(differences(&format!("event.{key}"), value, data(event, key)));
        }
    }
    problems
}

/// CloudEvents' frame, and the fields inside.
fn envelope(event: &Json) -> Vec<String> {
    let mut problems = Vec::new();
    let uid = data(event, "call_uid").as_str().unwrap_or_default();
    let id = format!("{uid}/ended");
    let frame = [
        ("specversion", "1.0"),
        ("type", "sipstamp.call.ended.v1"),
        ("dataschema", "urn:sipstamp:call.ended:v1"),
        ("datacontenttype", "application/json"),
        ("subject", uid),
        ("id", &id),
    ];
    for (key, wanted) in frame {
        let got = event.get(key).and_then(Json::as_str);
        if got != Some(wanted) {
            problems.push(format!("event's {key}: expected {wanted}, got {got:?}"));
        }
    }
    let fields = event.get("data").and_then(Json::as_object);
    let names: BTreeSet<&str> = fields.into_iter().flat_map(|fields| fields.keys().map(String::as_str)).collect();
    let wanted: BTreeSet<&str> = FIELDS.into_iter().collect();
    if names != wanted {
        let odd: Vec<_> = names.symmetric_difference(&wanted).collect();
        problems.push(format!("the event's fields are not those of the schema: {odd:?}"));
    }
    problems
}

/// Counters against events, and the scenario's own figures.
fn books(run: &Finished<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut expect = |name: &str, labels: &[(&str, &str)], wanted: RangeInclusive<f64>, must_exist: bool| {
        let labels: BTreeMap<String, String> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let (sum, count) = run.scrape.sum(name, &labels);
        if sum < *wanted.start() || sum > *wanted.end() || (must_exist && count == 0) {
            problems.push(format!("{name}{labels:?}: expected {wanted:?}, got {sum} in {count} series"));
        }
    };
    let count = |fits: &dyn Fn(&Json) -> bool| run.events.iter().filter(|event| fits(event)).count() as f64;
    let exactly = |wanted: f64| wanted..=wanted;
    let says = |event: &Json, key: &str, value: &str| data(event, key).as_str() == Some(value);
    for direction in ["outbound", "inbound"] {
        for outcome in OUTCOMES {
            let wanted = count(&|event| says(event, "outcome", outcome) && says(event, "direction", direction));
            let labels = [("outcome", outcome), ("direction", direction)];
            expect("sipstamp_call_outcomes_total", &labels, exactly(wanted), true);
        }
        let wanted = count(&|event| says(event, "direction", direction));
        expect("sipstamp_calls_started_total", &[("direction", direction)], exactly(wanted), true);
        expect("sipstamp_call_end_causes_total", &[("direction", direction)], exactly(wanted), false);
    }
    let causes: BTreeSet<&str> = run.events.iter().filter_map(|event| data(event, "end_cause").as_str()).collect();
    for cause in causes {
        let wanted = count(&|event| says(event, "end_cause", cause));
        expect("sipstamp_call_end_causes_total", &[("end_cause", cause)], exactly(wanted), true);
    }
    expect("sipstamp_calls_active", &[], exactly(0.0), true);
    expect("sipstamp_accounting_imbalance", &[], exactly(0.0), true);
    expect("sipstamp_events_delivered_total", &[("sink", "file")], exactly(run.events.len() as f64), true);
    for metric in &run.expect.metric {
        let labels: Vec<(&str, &str)> =
            metric.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let wanted = metric.value.map_or(metric.min..=f64::INFINITY, exactly);
        expect(&metric.name, &labels, wanted, true);
    }
    problems
}

fn data<'a>(event: &'a Json, key: &str) -> &'a Json {
    event.get("data").and_then(|data| data.get(key)).unwrap_or(&Json::Null)
}
