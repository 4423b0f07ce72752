//! The Reason header field (RFC 3326) and what it tells about a call.

use super::EndCause;
use crate::sip::Params;

/// One value of a Reason field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason<'a> {
    /// `SIP`, `Q.850`, … as it stands.
    pub protocol: &'a str,
    pub cause: Option<u16>,
    /// Without its quotes; escapes stay.
    pub text: Option<&'a str>,
}

impl<'a> Reason<'a> {
    /// All values of one field: `SIP;cause=480, Q.850;cause=18;text="no user, responding"`.
    pub fn all(field: &'a str) -> impl Iterator<Item = Reason<'a>> {
        let mut rest = field;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let end = end_of_value(rest);
            let value = rest.get(..end).unwrap_or_default();
            rest = rest.get(end + 1..).unwrap_or_default();
            Some(Reason::one(value))
        })
    }

    fn one(value: &'a str) -> Reason<'a> {
        let (protocol, params) = match value.find(';') {
            Some(at) => value.split_at(at),
            None => (value, ""),
        };
        let params = Params(params.as_bytes());
        let text_of = |name: &[u8]| params.value(name).and_then(|value| std::str::from_utf8(value).ok()).map(str::trim);
        Reason {
            protocol: protocol.trim(),
            cause: text_of(b"cause").and_then(|cause| cause.parse().ok()),
            text: text_of(b"text").map(|text| text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text)),
        }
    }

    fn is(&self, protocol: &str) -> bool {
        self.protocol.eq_ignore_ascii_case(protocol)
    }
}

/// The Q.850 cause in the Reason fields of a message: 0 to 127.
pub fn q850<S: AsRef<str>>(fields: &[S]) -> Option<u16> {
    values(fields).find(|reason| reason.is("Q.850") && reason.cause.is_some_and(|cause| cause <= 127))?.cause
}

/// What the Reason of a caller's CANCEL says beyond "cancelled": its own ring timer ran out, or
/// somebody else answered.
pub fn ring_timeout_or_elsewhere<S: AsRef<str>>(fields: &[S]) -> Option<EndCause> {
    let says = |protocol: &str, causes: &[u16]| {
        values(fields).any(|reason| reason.is(protocol) && reason.cause.is_some_and(|cause| causes.contains(&cause)))
    };
    if says("SIP", &[200]) || says("Q.850", &[26]) {
        Some(EndCause::AnsweredElsewhere)
    } else if says("Q.850", &[18, 19, 102]) || says("SIP", &[408, 480]) {
        Some(EndCause::DialerRingTimeout)
    } else {
        None
    }
}

/// Refused as unwanted: 607 (RFC 8197), 608 (RFC 8688), or 603 in the form of ATIS-1000099.
pub fn is_blocked<S: AsRef<str>>(code: u16, phrase: &str, fields: &[S]) -> bool {
    match code {
        607 | 608 => true,
        603 => {
            phrase.trim().eq_ignore_ascii_case("Network Blocked")
                || values(fields).any(|reason| {
                    reason.text.is_some_and(|text| {
                        text.eq_ignore_ascii_case("Network Blocked")
                            || text.get(..11).is_some_and(|start| start.eq_ignore_ascii_case("v=analytics"))
                    })
                })
        }
        _ => false,
    }
}

fn values<S: AsRef<str>>(fields: &[S]) -> impl Iterator<Item = Reason<'_>> {
    fields.iter().flat_map(|field| Reason::all(field.as_ref()))
}

/// Offset of the comma that ends the first value, or the length.
fn end_of_value(text: &str) -> usize {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_q850_cause_is_found_among_other_values_and_fields() {
        assert_eq!(q850(&["SIP;cause=486", "Q.850;cause=17"]), Some(17));
        assert_eq!(q850(&["SIP;cause=480, Q.850;cause=18;text=\"no user, responding\""]), Some(18));
        assert_eq!(q850(&["q.850 ; cause = 34 ;text=\"No circuit; \\\"here\\\"\""]), Some(34));
        assert_eq!(q850(&["Q.850;cause=xyz"]), None);
        assert_eq!(q850(&["SIP;cause=500;text=\"Q.850;cause=1\""]), None);
        assert_eq!(q850(&["Q.850;cause=408"]), None);
    }

    #[test]
    fn a_cancel_tells_the_dialers_own_ring_timeout() {
        for field in
            ["Q.850;cause=19", "Q.850;cause=18", "Q.850 ;cause=102", "SIP;cause=408", "SIP;cause=480;text=\"x\""]
        {
            assert_eq!(ring_timeout_or_elsewhere(&[field]), Some(EndCause::DialerRingTimeout), "{field}");
        }
        for field in ["SIP;cause=200;text=\"Call completed elsewhere\"", "Q.850;cause=26"] {
            assert_eq!(ring_timeout_or_elsewhere(&[field]), Some(EndCause::AnsweredElsewhere), "{field}");
        }
        for field in ["Q.850;cause=16", "SIP;cause=19", "Q.850;cause=408", "Q.850;cause=1", ""] {
            assert_eq!(ring_timeout_or_elsewhere(&[field]), None, "{field}");
        }
    }

    #[test]
    fn blocked_calls_are_told_from_declined_ones() {
        let none: [&str; 0] = [];
        assert!(is_blocked(607, "Unwanted", &none));
        assert!(is_blocked(608, "Rejected", &none));
        assert!(is_blocked(603, "Network Blocked", &none));
        assert!(is_blocked(603, "Decline", &["Q.850;cause=21;text=\"v=analytics1;url=https://blocker.example\""]));
        assert!(!is_blocked(603, "Decline", &["Q.850;cause=21;text=\"call rejected\""]));
        assert!(!is_blocked(486, "Network Blocked", &none));
    }
}
