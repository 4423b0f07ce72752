//! `[stamp]` and `[voicemail_drop]`: what the sidecar and the dialer tell each other in headers.

use std::time::Duration;

use regex::Regex;

use super::{Checker, flag, number};
use crate::config::key::{Key, OneOrMany};
use crate::config::report::{At, Given};
use crate::config::written::{self, File};
use crate::policy::{Stamp, VoicemailDrop};
use crate::sip::HeaderName;

const LONGEST_GRACE: Duration = Duration::from_secs(60);

impl Checker<'_> {
    pub(super) fn stamp(&mut self, written: &written::Stamp) -> Stamp {
        let default = Stamp::default();
        let headers = match written.header.value() {
            None => default.headers,
            Some(OneOrMany::One(text)) => {
                let given = Given { key: "stamp.header".into(), at: written.header.at(), text };
                self.own_header(&given).into_iter().collect()
            }
            Some(OneOrMany::Many(items)) => self.stamp_headers(items, written.header.at()),
        };
        Stamp {
            headers,
            reason_phrase: flag(&written.reason_phrase, default.reason_phrase),
            to_both: written.to.value().is_some_and(|to| to == "both"),
            no_answer_code: number(&written.no_answer_code, default.no_answer_code),
            no_response_code: number(&written.no_response_code, default.no_response_code),
        }
    }

    pub(super) fn voicemail_drop(&mut self, written: &written::VoicemailDrop) -> VoicemailDrop {
        let default = VoicemailDrop::default();
        let mut header = |key: &Key<String>, name: &'static str, default| match key.given(name) {
            Some(given) => self.own_header(&given).unwrap_or(default),
            None => default,
        };
        let drop_header = header(&written.header, "voicemail_drop.header", default.header);
        let progressive_header =
            header(&written.progressive_header, "voicemail_drop.progressive_header", default.progressive_header);
        let pattern = written.target_pattern.given("voicemail_drop.target_pattern");
        VoicemailDrop {
            header: drop_header,
            value: self.header_value(&written.value, "voicemail_drop.value", default.value),
            progressive_header,
            progressive_value: self.header_value(
                &written.progressive_value,
                "voicemail_drop.progressive_value",
                default.progressive_value,
            ),
            always: flag(&written.always, default.always),
            target_pattern: pattern.and_then(|given| self.pattern(&given)),
            grace: self.duration(&written.grace, "voicemail_drop.grace", Duration::ZERO..=LONGEST_GRACE, default.grace),
        }
    }

    /// A stamp that arrives is removed as forged: no other key may read the same header.
    pub(super) fn stamp_is_nobody_elses(&mut self, file: &File, stamp: &Stamp) {
        let mut readers = vec![
            file.timeouts.no_answer_header.given("timeouts.no_answer_header"),
            file.voicemail_drop.header.given("voicemail_drop.header"),
            file.voicemail_drop.progressive_header.given("voicemail_drop.progressive_header"),
            file.capture.correlation.given("capture.correlation"),
        ];
        for (label, header) in &file.capture.labels.0 {
            let label = label.value().map(String::as_str).unwrap_or_default();
            readers.push(header.given(format!("capture.labels.{label}")));
        }
        for given in readers.into_iter().flatten() {
            if stamp.headers.iter().any(|header| header.eq_ignore_ascii_case(given.text)) {
                given
                    .mistake(self.report, format!("is `{}`, the header of the stamp", given.text))
                    .also(file.stamp.header.at(), "the stamp's header")
                    .help("a stamp that arrives is removed before anything is read from the message");
            }
        }
    }

    fn stamp_headers(&mut self, items: &[Key<String>], at: At) -> Vec<HeaderName> {
        let mut headers: Vec<(HeaderName, At)> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let Some(given) = item.given(format!("stamp.header[{index}]")) else { continue };
            let Some(header) = self.own_header(&given) else { continue };
            match headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(&header)) {
                Some((_, first)) => {
                    given.mistake(self.report, "stands there twice").also(first.clone(), "here first");
                }
                None => headers.push((header, item.at())),
            }
        }
        if items.is_empty() && !self.pruned.touches("stamp.header") {
            self.report.mistake(at, "`stamp.header` names no header").help("leave it out for `Call-Outcome`");
        }
        headers.into_iter().map(|(header, _)| header).collect()
    }

    fn header_value(&mut self, key: &Key<String>, name: &str, default: Box<str>) -> Box<str> {
        match key.given(name) {
            None => default,
            Some(given) if given.text.trim().is_empty() || given.text.chars().any(char::is_control) => {
                given.mistake(self.report, "must be the value of a header: not empty, no control characters");
                default
            }
            Some(given) => given.text.trim().into(),
        }
    }

    fn pattern(&mut self, given: &Given<'_>) -> Option<Regex> {
        match Regex::new(given.text) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                let error = error.to_string();
                let (what, part) = explained(&error, given.text);
                given.mistake_at(self.report, part, "is no regular expression").label(what);
                None
            }
        }
    }
}

/// What the regex crate says is wrong, and where: it shows the pattern with carets below, then the cause.
fn explained(error: &str, pattern: &str) -> (String, std::ops::Range<usize>) {
    let lines: Vec<&str> = error.lines().collect();
    let cause = lines.last().copied().unwrap_or(error);
    let cause = cause.strip_prefix("error: ").unwrap_or(cause).to_owned();
    let carets = lines.windows(2).find_map(|pair| match pair {
        [shown, carets] if shown.trim_start() == pattern && carets.trim_start().starts_with('^') => {
            let indent = shown.len() - pattern.len();
            let start = carets.find('^')?.checked_sub(indent)?;
            Some(start..start + carets.trim().len())
        }
        _ => None,
    });
    let part = carets.filter(|part| pattern.is_ascii() && part.end <= pattern.len());
    (cause, part.unwrap_or(0..pattern.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_pattern_is_explained_with_its_place() {
        let explain = |pattern: &str| explained(&Regex::new(pattern).unwrap_err().to_string(), pattern);
        assert_eq!(explain("^sip:(vm"), ("unclosed group".to_owned(), 5..6));
        assert_eq!(explain("a{2,1}").1, 1..6);
        assert_eq!(explain("é(").1, 0..3);
    }
}
