//! `[[outcome.rules]]` and `[[dispositions]]`.

use std::sync::Arc;
use std::time::Duration;

use super::Checker;
use crate::config::key::{Key, NumberOrText};
use crate::config::report::{At, Given};
use crate::config::written;
use crate::flow::Direction;
use crate::outcome::{EndCause, Outcome};
use crate::policy::{Disposition, Rule, When};

/// Codes that a rule may test.
const CODES: std::ops::RangeInclusive<u16> = 300..=699;
const CODES_HELP: &str = "a code such as `503`, a class `\"5xx\"` or a range `\"500-504\"`, within 300 to 699";
/// Bound of `after` and `before`.
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Checker<'_> {
    pub(super) fn rules<'s>(
        &mut self,
        written: &[Key<written::Rule>],
        servers: impl Iterator<Item = &'s str> + Clone,
    ) -> Vec<Rule> {
        let mut rules = Vec::new();
        let mut names: Vec<(Arc<str>, At)> = Vec::new();
        for (index, item) in written.iter().enumerate() {
            let Some(rule) = item.value() else { continue };
            let path = format!("outcome.rules[{index}]");
            let name = rule.name.given(format!("{path}.name")).and_then(|given| self.rule_name(given, &mut names));
            let when = rule.when.value().map(|when| self.when(when, rule.when.at(), &path, servers.clone()));
            let outcome = rule.outcome.value().and_then(|label| Outcome::from_label(label));
            if let (Some(name), Some(when), Some(outcome)) = (name, when, outcome) {
                rules.push(Rule { name, when, outcome });
            }
        }
        rules
    }

    pub(super) fn dispositions(&mut self, written: &[Key<written::Disposition>]) -> Vec<Disposition> {
        let mut dispositions: Vec<(Disposition, At)> = Vec::new();
        for (index, item) in written.iter().enumerate() {
            let Some(row) = item.value() else { continue };
            let path = format!("dispositions[{index}]");
            let disposition = self.word(&row.disposition, format!("{path}.disposition"));
            let next = self.word(&row.next, format!("{path}.next"));
            let is_empty = row.disposition.value().is_none() && row.next.value().is_none();
            if is_empty && !self.pruned.touches(&path) {
                self.report
                    .mistake(item.at(), format!("`{path}` says nothing"))
                    .help("give it a `disposition`, a `next`, or both");
            }
            if self.pruned.touches(&format!("{path}.end_cause")) {
                continue;
            }
            let Some(outcome) = row.outcome.value().and_then(|label| Outcome::from_label(label)) else { continue };
            let end_cause = row.end_cause.value().and_then(|label| EndCause::from_label(label));
            let same = |other: &Disposition| (other.outcome, other.end_cause) == (outcome, end_cause);
            if let Some((_, first)) = dispositions.iter().find(|(other, _)| same(other)) {
                let pair = match end_cause {
                    Some(cause) => format!("{outcome} with {cause}"),
                    None => format!("{outcome} without an end_cause"),
                };
                self.report
                    .mistake(item.at(), format!("`{path}` maps {pair} a second time"))
                    .also(first.clone(), "here first");
            }
            dispositions.push((Disposition { outcome, end_cause, disposition, next }, item.at()));
        }
        dispositions.into_iter().map(|(disposition, _)| disposition).collect()
    }

    fn rule_name(&mut self, given: Given<'_>, names: &mut Vec<(Arc<str>, At)>) -> Option<Arc<str>> {
        if given.text.trim().is_empty() || given.text.chars().any(char::is_control) {
            given.mistake(self.report, "must be a printable name");
            return None;
        }
        if let Some((_, first)) = names.iter().find(|(name, _)| **name == *given.text) {
            given.mistake(self.report, "is the name of another rule").also(first.clone(), "here first");
            return None;
        }
        let name: Arc<str> = given.text.into();
        names.push((name.clone(), given.at));
        Some(name)
    }

    fn when<'s>(
        &mut self,
        written: &written::When,
        at: At,
        rule: &str,
        mut servers: impl Iterator<Item = &'s str>,
    ) -> When {
        let path = format!("{rule}.when");
        let server = written.server.given(format!("{path}.server"));
        if let Some(given) = server.filter(|given| !servers.any(|name| name == given.text))
            && !self.pruned.touches("telephony.servers")
        {
            given.warning(self.report, format!("is `{}`, and no server has that name: it never matches", given.text));
        }
        let reason = written.reason_contains.given(format!("{path}.reason_contains"));
        if let Some(given) = reason.as_ref().filter(|given| given.text.is_empty()) {
            given.mistake(self.report, "is empty: it would match any reason phrase");
        }
        let after = self.optional_duration(&written.after, &format!("{path}.after"), Duration::ZERO..=DAY);
        let before = self.optional_duration(&written.before, &format!("{path}.before"), Duration::from_millis(1)..=DAY);
        if let (Some(after), Some(before)) = (after, before)
            && after >= before
        {
            self.report
                .mistake(written.before.at(), format!("`{path}` never matches: `before` is not later than `after`"))
                .also(written.after.at(), "after");
        }
        let code_given = written.code.value().is_some();
        let when = When {
            code: written.code.value().and_then(|code| self.codes(code, written.code.at(), &path)),
            server: written.server.value().map(|name| name.as_str().into()),
            direction: written.direction.value().and_then(|label| Direction::from_label(label)),
            q850: written.q850.value().and_then(|&cause| u16::try_from(cause).ok()),
            reason_contains: reason.map(|given| given.text.to_lowercase().into()),
            progress_q850: written.progress_q850.value().and_then(|&cause| u16::try_from(cause).ok()),
            ringing: written.ringing.value().copied(),
            after,
            before,
        };
        let tests_nothing = !code_given
            && written.after.value().is_none()
            && written.before.value().is_none()
            && when.server.is_none()
            && when.direction.is_none()
            && when.q850.is_none()
            && when.reason_contains.is_none()
            && when.progress_q850.is_none()
            && when.ringing.is_none();
        if tests_nothing && !self.pruned.touches(&path) {
            self.report
                .mistake(at, format!("`{path}` tests nothing: the rule would match every call"))
                .help("give it at least one test, for instance `code = 503`");
        }
        when
    }

    fn codes(&mut self, code: &NumberOrText, at: At, path: &str) -> Option<(u16, u16)> {
        let key = format!("{path}.code");
        let (range, text) = match code {
            NumberOrText::Number(code) => (u16::try_from(*code).ok().map(|code| (code, code)), code.to_string()),
            NumberOrText::Text(text) => (code_range(text), text.clone()),
        };
        let given = Given { key: key.into(), at, text: &text };
        match range {
            Some((first, last)) if first > last => {
                given.mistake(self.report, format!("is an empty range: {first} is above {last}"));
                None
            }
            Some((first, last)) if CODES.contains(&first) && CODES.contains(&last) => Some((first, last)),
            Some((first, _)) if (200..300).contains(&first) => {
                let help = "rules see only calls that were not answered";
                given.mistake(self.report, "is a 2xx, which no rule ever sees").help(help);
                None
            }
            _ => {
                given.mistake(self.report, "is no code of a failed call").help(CODES_HELP);
                None
            }
        }
    }

    /// A value that goes into events and, quoted where needed, into the stamp.
    fn word(&mut self, key: &Key<String>, name: String) -> Option<Arc<str>> {
        let given = key.given(name)?;
        if given.text.is_empty() || given.text.chars().any(char::is_control) {
            given.mistake(self.report, "must not be empty or have control characters");
            return None;
        }
        Some(given.text.into())
    }
}

/// `503`, `5xx`, `500-504`; inclusive.
fn code_range(text: &str) -> Option<(u16, u16)> {
    let code = |text: &str| {
        let text = text.trim();
        (text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse::<u16>().ok())?
    };
    if let Some((first, last)) = text.split_once('-') {
        return code(first).zip(code(last));
    }
    match text.trim().strip_suffix("xx").or(text.trim().strip_suffix("XX")) {
        Some(class) if class.len() == 1 => class.parse::<u16>().ok().map(|class| (class * 100, class * 100 + 99)),
        Some(_) => None,
        None => code(text).map(|code| (code, code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_classes_and_ranges_are_read() {
        assert_eq!(code_range("503"), Some((503, 503)));
        assert_eq!(code_range("5xx"), Some((500, 599)));
        assert_eq!(code_range("500-504"), Some((500, 504)));
        assert_eq!(code_range("500 - 504"), Some((500, 504)));
        for wrong in ["", "5", "50x", "x", "xx", "5000", "500-", "-504", "500-5xx", "+50"] {
            assert_eq!(code_range(wrong), None, "{wrong}");
        }
    }
}
