//! Subjects: a template with placeholders, what an event makes of it, and what a stream has to take for it.
//!
//! A placeholder's value becomes one token: of other characters than ASCII letters, digits, `-` and `_` each becomes `_`.
//! A lifecycle event has no outcome: there `{outcome}` is the kind of event (`started`, `ringing`, `answered`), which no
//! outcome is called. What else is not known is `none`.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;

use crate::closed::closed_enum;
use crate::event::EventKind;

closed_enum! {
    /// What an event is asked for.
    pub enum Field {
        Outcome = "outcome",
        /// `started`, `ringing`, `answered`, `ended`.
        Event = "event",
        Direction = "direction",
        EndCause = "end_cause",
        Server = "server",
        Source = "source",
    }
}

/// A subject with placeholders, such as `calls.{outcome}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

/// Why a text is no template, and which part of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    pub part: Range<usize>,
    pub what: String,
}

/// What of an event's line its subject and its message need.
#[derive(Debug, Deserialize)]
pub struct Facts<'a> {
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    /// The call.
    #[serde(borrow)]
    pub subject: Cow<'a, str>,
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Debug, Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    direction: Cow<'a, str>,
    #[serde(borrow)]
    outcome: Option<Cow<'a, str>>,
    #[serde(borrow)]
    end_cause: Option<Cow<'a, str>>,
    #[serde(borrow)]
    server: Option<Cow<'a, str>>,
}

/// Stands for what is not known.
const NONE: &str = "none";

impl Template {
    /// # Errors
    /// What is no placeholder, and what no subject may have.
    pub fn parse(text: &str) -> Result<Template, Wrong> {
        let wrong = |part: Range<usize>, what: &str| Err(Wrong { part, what: what.to_owned() });
        let mut parts = Vec::new();
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(inside) = rest.strip_prefix('{') else {
                let length = rest.find('{').unwrap_or(rest.len());
                let (literal, _) = rest.split_at(length);
                let is_good = |byte: u8| byte.is_ascii_graphic() && !b"*>}\"".contains(&byte);
                if let Some(bad) = literal.bytes().position(|byte| !is_good(byte)) {
                    let length = literal.get(bad..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
                    return wrong(at + bad..at + bad + length, "has a character that no subject may have here");
                }
                parts.push(Part::Text(literal.to_owned()));
                at += length;
                continue;
            };
            let Some(end) = inside.find('}') else { return wrong(at..text.len(), "has a `{` without its `}`") };
            let whole = at..at + end + 2;
            let name = inside.get(..end).unwrap_or_default();
            let Some(field) = Field::from_label(name) else {
                let what = format!("has an unknown placeholder `{{{}}}`", name.escape_debug());
                return Err(Wrong { part: whole, what });
            };
            parts.push(Part::Field(field));
            at = whole.end;
        }
        let mut at = 0;
        for token in text.split('.') {
            if token.is_empty() {
                return wrong(at.min(text.len())..at, "has an empty token");
            }
            at += token.len() + 1;
        }
        if text.starts_with('$') {
            return wrong(0..1, "begins with `$`, as only the server's own subjects do");
        }
        Ok(Template(parts))
    }

    /// Where an event goes.
    pub fn subject(&self, kind: EventKind, facts: &Facts<'_>) -> String {
        let data = &facts.data;
        let mut subject = String::new();
        for part in &self.0 {
            let value = match part {
                Part::Text(text) => {
                    subject.push_str(text);
                    continue;
                }
                Part::Field(Field::Outcome) => Some(data.outcome.as_deref().unwrap_or(kind.label())),
                Part::Field(Field::Event) => Some(kind.label()),
                Part::Field(Field::Direction) => Some(&*data.direction),
                Part::Field(Field::EndCause) => data.end_cause.as_deref(),
                Part::Field(Field::Server) => data.server.as_deref(),
                Part::Field(Field::Source) => Some(&*facts.source),
            };
            subject.push_str(&token(value.unwrap_or(NONE)));
        }
        subject
    }

    /// All subjects that there can be, as a stream takes them: a token with a placeholder is `*`.
    pub fn wildcard(&self) -> String {
        let text = self.to_string();
        let token = |token: &str| if token.contains('{') { "*".to_owned() } else { token.to_owned() };
        text.split('.').map(token).collect::<Vec<_>>().join(".")
    }
}

/// Whether whoever takes `pattern` takes everything that fits `subject`, both with wildcards.
pub fn covers(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

/// A value as one token.
fn token(value: &str) -> Cow<'_, str> {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match value {
        "" => NONE.into(),
        value if value.chars().all(is_safe) => value.into(),
        value => value.chars().map(|c| if is_safe(c) { c } else { '_' }).collect(),
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Field(field) => write!(f, "{{{field}}}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(outcome: &str, server: &str) -> String {
        format!(
            r#"{{"specversion":"1.0","id":"A/ended","source":"sipstamp/host 7","subject":"A","data":{{"call_id":"x",
            "direction":"outbound","outcome":{outcome},"end_cause":null,"server":{server}}}}}"#
        )
    }

    fn subject(template: &str, kind: EventKind, line: &str) -> String {
        Template::parse(template).unwrap().subject(kind, &serde_json::from_str(line).unwrap())
    }

    #[test]
    fn placeholders_take_what_the_event_says() {
        let line = line("\"NumberBusy\"", "\"pbx-a\"");
        for (template, expected) in [
            ("calls.{outcome}", "calls.NumberBusy"),
            ("calls.{event}.{direction}-{server}", "calls.ended.outbound-pbx-a"),
            ("{source}.x", "sipstamp_host_7.x"),
            ("calls", "calls"),
        ] {
            assert_eq!(subject(template, EventKind::Ended, &line), expected);
        }
    }

    #[test]
    fn what_is_not_known_has_a_token_too() {
        let line = line("null", "null");
        assert_eq!(subject("calls.{outcome}", EventKind::Ringing, &line), "calls.ringing");
        assert_eq!(subject("{server}.{end_cause}", EventKind::Started, &line), "none.none");
        assert!(crate::outcome::Outcome::ALL.iter().all(|outcome| EventKind::from_label(outcome.label()).is_none()));
    }

    #[test]
    fn a_value_is_one_token_whatever_it_holds() {
        for (value, expected) in [
            ("10.0.2.10:5060", "10_0_2_10_5060"),
            ("a b\t*>", "a_b___"),
            ("größe", "gr__e"),
            ("", "none"),
            ("pbx_a-1", "pbx_a-1"),
        ] {
            assert_eq!(token(value), expected);
        }
        let line = line("\"Normal\"", r#""a.\u0000\"> b""#);
        assert_eq!(subject("calls.{server}", EventKind::Ended, &line), "calls.a_____b");
    }

    #[test]
    fn a_stream_takes_every_subject_of_a_template() {
        for (template, wildcard) in
            [("calls.{outcome}", "calls.*"), ("a.{event}-{direction}.b", "a.*.b"), ("calls", "calls")]
        {
            assert_eq!(Template::parse(template).unwrap().wildcard(), wildcard);
        }
    }

    #[test]
    fn what_is_no_template_is_placed() {
        for (template, part, what) in [
            ("", 0..0, "empty token"),
            ("calls..x", 6..6, "empty token"),
            ("calls.", 6..6, "empty token"),
            ("calls.*", 6..7, "no subject may have"),
            ("calls.>", 6..7, "no subject may have"),
            ("a b", 1..2, "no subject may have"),
            ("aé", 1..3, "no subject may have"),
            ("a.{outcome", 2..10, "without its `}`"),
            ("a.{outcom}", 2..10, "unknown placeholder `{outcom}`"),
            ("a}", 1..2, "no subject may have"),
            ("$JS.API", 0..1, "begins with `$`"),
        ] {
            let wrong = Template::parse(template).unwrap_err();
            assert!(wrong.part == part && wrong.what.contains(what), "{template}: {wrong:?}");
        }
    }

    #[test]
    fn a_pattern_covers_what_it_takes_altogether() {
        for (pattern, subject) in
            [("calls.*", "calls.*"), ("calls.>", "calls.*"), (">", "a.b"), ("calls.>", "calls.a.*"), ("a", "a")]
        {
            assert!(covers(pattern, subject), "{pattern} {subject}");
        }
        for (pattern, subject) in [
            ("calls.Normal", "calls.*"),
            ("calls.*", "calls.>"),
            ("calls.*", "calls.*.x"),
            ("calls.>", "calls"),
            ("calls", "calls.*"),
            ("", "calls"),
        ] {
            assert!(!covers(pattern, subject), "{pattern} {subject}");
        }
    }
}
