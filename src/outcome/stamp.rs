//! The stamp: header lines that carry an outcome to the dialer.

use super::{Decision, EndCause, Outcome};
use crate::scan::is_of_token;
use crate::sip::HeaderName;
use crate::text::Put;

/// Writes the stamp of an ended call: one line for each header name.
pub fn final_stamp(headers: &[HeaderName], decision: &Decision, cause: EndCause, call_uid: &str, out: &mut Vec<u8>) {
    lines(headers, out, |out| {
        out.put(decision.outcome.label().as_bytes());
        out.put(b";cause=");
        out.put(cause.label().as_bytes());
        out.put(b";id=");
        out.put(call_uid.as_bytes());
        for (name, text) in [(&b";disposition="[..], &decision.disposition), (b";next=", &decision.next)] {
            if let Some(text) = text {
                out.put(name);
                put_value(out, text);
            }
        }
    });
}

/// Writes the stamp of a 2xx: the call goes on, so it names no cause.
pub fn provisional_stamp(headers: &[HeaderName], call_uid: &str, out: &mut Vec<u8>) {
    lines(headers, out, |out| {
        out.put(Outcome::Normal.label().as_bytes());
        out.put(b";id=");
        out.put(call_uid.as_bytes());
    });
}

fn lines(headers: &[HeaderName], out: &mut Vec<u8>, put_value: impl Fn(&mut Vec<u8>)) {
    for header in headers {
        out.put(header.as_bytes());
        out.put(b": ");
        put_value(out);
        out.put(b"\r\n");
    }
}

/// A token as it stands, anything else as a quoted string (RFC 3261 §25.1).
fn put_value(out: &mut Vec<u8>, text: &str) {
    if !text.is_empty() && text.bytes().all(is_of_token) {
        return out.put(text.as_bytes());
    }
    out.push(b'"');
    for character in text.chars().filter(|character| !character.is_control()) {
        if matches!(character, '"' | '\\') {
            out.push(b'\\');
        }
        out.put(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
    out.push(b'"');
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
        let mut out = Vec::new();
        final_stamp(&headers, &decision, EndCause::NoAnswerTimer, "01J", &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "Call-Outcome: NoAnswer;cause=no_answer_timer;id=01J;disposition=NA;next=\"next \\\"record\\\"\"\r\n\
             X-Outcome: NoAnswer;cause=no_answer_timer;id=01J;disposition=NA;next=\"next \\\"record\\\"\"\r\n"
        );
    }

    #[test]
    fn a_provisional_stamp_names_no_cause() {
        let mut out = Vec::new();
        provisional_stamp(&["Call-Outcome".into()], "01J", &mut out);
        assert_eq!(out, b"Call-Outcome: Normal;id=01J\r\n");
    }
}
