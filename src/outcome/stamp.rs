//! The stamp: header lines that carry an outcome to the dialer.

use std::fmt::Write;

use super::{Decision, EndCause, Outcome};

/// The stamp of an ended call: one line for each header name.
pub fn final_stamp(headers: &[Box<str>], decision: &Decision, cause: EndCause, call_uid: &str) -> String {
    let mut value = format!("{};cause={cause};id={call_uid}", decision.outcome);
    for (name, text) in [("disposition", &decision.disposition), ("next", &decision.next)] {
        if let Some(text) = text {
            let _ = write!(value, ";{name}=");
            push_value(&mut value, text);
        }
    }
    lines(headers, &value)
}

/// The stamp of a 2xx: the call goes on, so it names no cause.
pub fn provisional_stamp(headers: &[Box<str>], call_uid: &str) -> String {
    lines(headers, &format!("{};id={call_uid}", Outcome::Normal))
}

fn lines(headers: &[Box<str>], value: &str) -> String {
    headers.iter().fold(String::new(), |mut lines, header| {
        let _ = write!(lines, "{header}: {value}\r\n");
        lines
    })
}

/// A token as it stands, anything else as a quoted string (RFC 3261 §25.1).
fn push_value(out: &mut String, text: &str) {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_token) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for character in text.chars().filter(|character| !character.is_control()) {
        if matches!(character, '"' | '\\') {
            out.push('\\');
        }
        out.push(character);
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_no_tokens_are_quoted() {
        let decision = Decision {
            outcome: Outcome::NoAnswer,
            rule: None,
            disposition: Some("NA".into()),
            next: Some("next \"record\"".into()),
        };
        let headers = ["Call-Outcome".into(), "X-Outcome".into()];
        assert_eq!(
            final_stamp(&headers, &decision, EndCause::NoAnswerTimer, "01J"),
            "Call-Outcome: NoAnswer;cause=no_answer_timer;id=01J;disposition=NA;next=\"next \\\"record\\\"\"\r\n\
             X-Outcome: NoAnswer;cause=no_answer_timer;id=01J;disposition=NA;next=\"next \\\"record\\\"\"\r\n"
        );
    }

    #[test]
    fn a_provisional_stamp_names_no_cause() {
        assert_eq!(provisional_stamp(&["Call-Outcome".into()], "01J"), "Call-Outcome: Normal;id=01J\r\n");
    }
}
