//! `sipstamp explain`: which outcome a response code gets, by the table and by the rules and
//! dispositions of a configuration.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use super::{print, refuse};
use crate::config::{self, Overrides, Written};
use crate::outcome::{EndCause, Outcome, of_code};
use crate::policy::{Disposition, Policy, Rule, When};

/// Explains `code`, 100 to 699, on standard output.
pub fn run(code: u16, path: Option<&Path>) -> ExitCode {
    let settings = match path {
        None => None,
        Some(path) => match config::load(Some(path), &Overrides::default(), &config::process_environment) {
            Ok(settings) => Some(settings),
            Err(mistakes) => return refuse(&mistakes),
        },
    };
    print(explained(code, settings.as_ref().map(|settings| &settings.template)).trim_end())
}

/// What the table says, then what the configuration adds.
fn explained(code: u16, policy: Option<&Policy>) -> String {
    let mut text = String::new();
    if (100..200).contains(&code) {
        return format!("{code}  provisional, decides nothing: a call ends with a final response");
    }
    let outcome = of_code(code);
    let cause = end_cause(code);
    line(&mut text, &format!("{code}"), &format!("{} -> {outcome}", row(code)));
    line(&mut text, "end_cause", cause);
    for note in notes(code, policy) {
        line(&mut text, "note", &note);
    }
    if let Some(policy) = policy {
        rules(&mut text, code, policy);
        dispositions(&mut text, outcome, &policy.dispositions, cause);
    }
    text
}

fn line(text: &mut String, head: &str, rest: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{head:<12}  {rest}");
}

/// The row of the table that a code falls in.
fn row(code: u16) -> &'static str {
    match code {
        200..=299 => "2xx, answered",
        300..=399 => "3xx, redirected",
        480 => "480",
        481 => "481",
        486 => "486",
        488 => "488",
        _ => "any other final response",
    }
}

/// How a call with this final response from the far side usually ends.
fn end_cause(code: u16) -> &'static str {
    match code {
        200..=299 => "answered_bye_caller or answered_bye_callee",
        300..=399 => EndCause::Redirected.label(),
        401 | 407 | 422 => EndCause::AuthFailed.label(),
        _ => EndCause::PeerFinal.label(),
    }
}

fn notes(code: u16, policy: Option<&Policy>) -> Vec<String> {
    let window =
        policy.map_or(crate::policy::Timeouts::default().auth_retry_window, |policy| policy.timeouts.auth_retry_window);
    let note = match code {
        200..=299 => "VoicemailDrop instead where the agent drops a message on an outbound progressive call".to_owned(),
        300..=399 => "forwarded, never followed here; a dialer that follows it starts a new call".to_owned(),
        401 | 407 | 422 => format!(
            "a challenge: the call stays open for {} and a retry is the same call; \
             this is its outcome only if no retry comes, and no rule sees it",
            Written(window)
        ),
        408 => "from the far side it is a code like any other; NoAnswer is a call without a code".to_owned(),
        487 => "after the caller's CANCEL the end cause is caller_cancel, which no rule sees".to_owned(),
        603 => "counts as blocked where its phrase is Network Blocked or its Reason says so".to_owned(),
        607 | 608 => "counts as blocked".to_owned(),
        _ => return Vec::new(),
    };
    vec![note]
}

/// Rules in their order, up to the first that decides by the code alone.
fn rules(text: &mut String, code: u16, policy: &Policy) {
    if (200..300).contains(&code) {
        return line(text, "rules", "none sees a 2xx");
    }
    if matches!(code, 401 | 407 | 422) {
        return line(text, "rules", "none sees a challenge");
    }
    let mut found = false;
    for (index, rule) in policy.rules.iter().enumerate() {
        let Some(tests) = other_tests(&rule.when, code) else { continue };
        found = true;
        let head = format!("rule {}", index + 1);
        if tests.is_empty() {
            line(text, &head, &format!("\"{}\" -> {}", rule.name, rule.outcome));
            if index + 1 < policy.rules.len() {
                line(text, "", "decides by the code alone: no later rule is asked");
            }
            return of_rule(text, rule, policy, code);
        }
        line(text, &head, &format!("\"{}\" -> {}, if {}", rule.name, rule.outcome, tests.join(", ")));
        of_rule(text, rule, policy, code);
    }
    if !found {
        line(text, "rules", "none tests this code");
    }
}

/// The disposition of a rule's outcome.
fn of_rule(text: &mut String, rule: &Rule, policy: &Policy, code: u16) {
    if let Some(disposition) = best(rule.outcome, &policy.dispositions, end_cause(code)) {
        line(text, "", &format!("disposition {}", shown(disposition)));
    }
}

/// What a rule tests apart from the code, in the words of the configuration; `None` where the code
/// does not fit.
fn other_tests(when: &When, code: u16) -> Option<Vec<String>> {
    if when.code.is_some_and(|(first, last)| !(first..=last).contains(&code)) {
        return None;
    }
    let tests = [
        when.server.as_ref().map(|server| format!("server = \"{server}\"")),
        when.direction.map(|direction| format!("direction = \"{direction}\"")),
        when.q850.map(|cause| format!("q850 = {cause}")),
        when.reason_contains.as_ref().map(|part| format!("reason_contains = \"{part}\"")),
        when.progress_q850.map(|cause| format!("progress_q850 = {cause}")),
        when.ringing.map(|ringing| format!("ringing = {ringing}")),
        when.after.map(|after| format!("after = \"{}\"", Written(after))),
        when.before.map(|before| format!("before = \"{}\"", Written(before))),
    ];
    Some(tests.into_iter().flatten().collect())
}

fn dispositions(text: &mut String, outcome: Outcome, dispositions: &[Disposition], cause: &str) {
    if outcome == Outcome::Normal {
        for row in dispositions.iter().filter(|row| matches!(row.outcome, Outcome::Normal | Outcome::VoicemailDrop)) {
            line(text, "disposition", &format!("{}, {}", shown(row), condition(row)));
        }
    } else if let Some(row) = best(outcome, dispositions, cause) {
        line(text, "disposition", &format!("{}, {}", shown(row), condition(row)));
    }
}

/// The one with the end cause, else the bare one.
fn best<'a>(outcome: Outcome, rows: &'a [Disposition], cause: &str) -> Option<&'a Disposition> {
    let of_outcome = || rows.iter().filter(|row| row.outcome == outcome);
    let exact = of_outcome().find(|row| row.end_cause.is_some_and(|end_cause| end_cause.label() == cause));
    exact.or_else(|| of_outcome().find(|row| row.end_cause.is_none()))
}

fn shown(row: &Disposition) -> String {
    match (&row.disposition, &row.next) {
        (Some(disposition), Some(next)) => format!("{disposition}, next {next}"),
        (Some(disposition), None) => disposition.to_string(),
        (None, Some(next)) => format!("none, next {next}"),
        (None, None) => "none".to_owned(),
    }
}

fn condition(row: &Disposition) -> String {
    match row.end_cause {
        Some(cause) => format!("for {} with {cause}", row.outcome),
        None => format!("for {}", row.outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIGURATION: &str = r#"
        [dialer]
        sources = ["10.0.1.0/24"]
        [[telephony.servers]]
        uri = "sip:10.0.2.10"
        [timeouts]
        auth_retry_window = "20s"
        [[outcome.rules]]
        name = "one"
        when = { code = 503, q850 = 1 }
        outcome = "NumberUnobtainable"
        [[outcome.rules]]
        name = "two"
        when = { ringing = true, after = "90s" }
        outcome = "NoAnswer"
        [[outcome.rules]]
        name = "three"
        when = { code = "5xx" }
        outcome = "NumberBusy"
        [[outcome.rules]]
        name = "four"
        when = { code = 503 }
        outcome = "CallRejected"
        [[dispositions]]
        outcome = "NumberBusy"
        disposition = "B"
        [[dispositions]]
        outcome = "CallFailed"
        next = "stay"
        [[dispositions]]
        outcome = "CallFailed"
        end_cause = "peer_final"
        disposition = "ERR"
    "#;

    fn explain(code: u16) -> String {
        let settings = config::parse(CONFIGURATION, "test", &Overrides::default(), &|_| None).unwrap();
        explained(code, Some(&settings.template))
    }

    #[test]
    fn rules_are_told_in_order_up_to_the_first_that_decides() {
        let text = explain(503);
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} is not in:\n{text}"));
        assert!(at("any other final response -> CallFailed") < at("\"one\" -> NumberUnobtainable, if q850 = 1"));
        assert!(at("\"one\"") < at("\"two\" -> NoAnswer, if ringing = true, after = \"90s\""));
        assert!(at("\"two\"") < at("\"three\" -> NumberBusy\n"));
        assert!(at("\"three\"") < at("disposition B"));
        assert!(!text.contains("\"four\""));
        assert!(text.contains("ERR, for CallFailed with peer_final"));
    }

    #[test]
    fn what_no_rule_sees_is_said() {
        assert!(explain(200).contains("none sees a 2xx"));
        assert!(explain(401).contains("open for 20s"));
        assert!(explain(401).contains("next stay, for CallFailed"), "peer_final is not auth_failed");
        assert!(explain(183).starts_with("183  provisional, decides nothing"));
        assert!(!explain(486).contains("\"one\""));
    }

    #[test]
    fn every_code_has_its_row() {
        for (code, row) in [(301, "3xx"), (480, "480 -> NumberUnobtainable"), (699, "any other"), (299, "2xx")] {
            assert!(explained(code, None).contains(row), "{code}");
        }
    }
}
