//! From what is known of an ended call to its outcome, rule and disposition.

use std::sync::Arc;
use std::time::Duration;

use super::{EndCause, Outcome, of_code};
use crate::flow::Direction;
use crate::policy::{Disposition, Policy, Rule, When};

/// What is known of a call when it ends.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub direction: Direction,
    pub end_cause: EndCause,
    /// Code of the final response; `None` where none was received.
    pub code: Option<u16>,
    pub reason_phrase: &'a str,
    pub server: Option<&'a str>,
    pub q850: Option<u16>,
    pub progress_q850: Option<u16>,
    /// A 180 was seen.
    pub ringing: bool,
    /// From the INVITE to the end.
    pub elapsed: Duration,
    /// An accepted voicemail drop.
    pub voicemail_drop: bool,
}

/// What a call comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub outcome: Outcome,
    pub rule: Option<Arc<str>>,
    pub disposition: Option<Arc<str>>,
    pub next: Option<Arc<str>>,
}

/// The one decision: by voicemail drop, by the cause, by the rules, by the table.
pub fn decide(facts: &Facts<'_>, policy: &Policy) -> Decision {
    let by_table = match (facts.end_cause.fixed_outcome(), facts.code) {
        (Some(outcome), _) => outcome,
        (None, Some(code)) => of_code(code),
        (None, None) => Outcome::CallFailed,
    };
    let (outcome, rule) = match by_table {
        Outcome::Normal if facts.voicemail_drop => (Outcome::VoicemailDrop, None),
        Outcome::Normal => (Outcome::Normal, None),
        other => match policy.rules.iter().find(|rule| rule_matches(rule, facts)) {
            Some(rule) => (rule.outcome, Some(rule.name.clone())),
            None => (other, None),
        },
    };
    let mapped = disposition(&policy.dispositions, outcome, facts.end_cause);
    Decision {
        outcome,
        rule,
        disposition: mapped.and_then(|mapped| mapped.disposition.clone()),
        next: mapped.and_then(|mapped| mapped.next.clone()),
    }
}

/// Whether rules see calls with this end.
fn is_open_to_rules(cause: EndCause) -> bool {
    matches!(
        cause,
        EndCause::PeerFinal
            | EndCause::Redirected
            | EndCause::NoAnswerTimer
            | EndCause::NoResponse
            | EndCause::DialerRingTimeout
    )
}

fn rule_matches(rule: &Rule, facts: &Facts<'_>) -> bool {
    let When { code, server, direction, q850, reason_contains, progress_q850, ringing, after, before } = &rule.when;
    // A test that is not given passes; a test on what the call does not have fails.
    let passes = |given: bool, test: bool| !given || test;
    is_open_to_rules(facts.end_cause)
        && code.is_none_or(|(low, high)| facts.code.is_some_and(|code| (low..=high).contains(&code)))
        && passes(server.is_some(), facts.server == server.as_deref())
        && direction.is_none_or(|direction| facts.direction == direction)
        && passes(q850.is_some(), facts.q850 == *q850)
        && reason_contains.as_deref().is_none_or(|part| facts.reason_phrase.to_lowercase().contains(part))
        && passes(progress_q850.is_some(), facts.progress_q850 == *progress_q850)
        && ringing.is_none_or(|ringing| facts.ringing == ringing)
        && after.is_none_or(|after| facts.elapsed >= after)
        && before.is_none_or(|before| facts.elapsed < before)
}

/// The mapping with the end cause wins over the one without.
fn disposition(table: &[Disposition], outcome: Outcome, cause: EndCause) -> Option<&Disposition> {
    let of_outcome = || table.iter().filter(|mapped| mapped.outcome == outcome);
    of_outcome()
        .find(|mapped| mapped.end_cause == Some(cause))
        .or_else(|| of_outcome().find(|mapped| mapped.end_cause.is_none()))
}
