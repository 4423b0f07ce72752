//! Methods and header names that the sidecar knows; everything else is carried as it stands.

use super::index::bit_of;
use crate::closed::closed_enum;

closed_enum! {
    /// A method that we treat in a way of its own; any other is `Other`. Case-sensitive (RFC 3261 §7.1).
    pub enum Method {
        Invite = "INVITE",
        Ack = "ACK",
        Bye = "BYE",
        Cancel = "CANCEL",
        Options = "OPTIONS",
        Register = "REGISTER",
        Prack = "PRACK",
        Update = "UPDATE",
        Info = "INFO",
        Refer = "REFER",
        Subscribe = "SUBSCRIBE",
        Notify = "NOTIFY",
        Message = "MESSAGE",
        Publish = "PUBLISH",
        Other = "other",
    }
}

closed_enum! {
    /// A header that we read. Full and compact names are one; letter case does not matter (RFC 3261 §7.3.3).
    pub enum Name {
        Via = "Via",
        From = "From",
        To = "To",
        CallId = "Call-ID",
        CSeq = "CSeq",
        MaxForwards = "Max-Forwards",
        Route = "Route",
        RecordRoute = "Record-Route",
        Contact = "Contact",
        ContentLength = "Content-Length",
        ContentType = "Content-Type",
        ProxyRequire = "Proxy-Require",
        Reason = "Reason",
        RetryAfter = "Retry-After",
        SessionExpires = "Session-Expires",
        ReferTo = "Refer-To",
        UserAgent = "User-Agent",
        Timestamp = "Timestamp",
        Other = "other",
    }
}

/// Compact forms and what they stand for, in the registry of RFC 3261 §7.3.3 and its extensions.
const COMPACT: [(&str, &str); 20] = [
    ("a", "Accept-Contact"),
    ("b", "Referred-By"),
    ("c", "Content-Type"),
    ("d", "Request-Disposition"),
    ("e", "Content-Encoding"),
    ("f", "From"),
    ("i", "Call-ID"),
    ("j", "Reject-Contact"),
    ("k", "Supported"),
    ("l", "Content-Length"),
    ("m", "Contact"),
    ("n", "Identity-Info"),
    ("o", "Event"),
    ("r", "Refer-To"),
    ("s", "Subject"),
    ("t", "To"),
    ("u", "Allow-Events"),
    ("v", "Via"),
    ("x", "Session-Expires"),
    ("y", "Identity"),
];

/// The other form of a header name, where it has two: `i` for `call-id`, `Call-ID` for `I`.
pub(super) fn alias(name: &str) -> Option<&'static str> {
    let is_of_length = |(compact, full): &&(&str, &str)| name.len() == compact.len() || name.len() == full.len();
    COMPACT.iter().filter(is_of_length).find_map(|(compact, full)| {
        if name.eq_ignore_ascii_case(full) {
            Some(*compact)
        } else {
            name.eq_ignore_ascii_case(compact).then_some(*full)
        }
    })
}

/// A header that is named by the configuration, made ready to be found in messages. Full and compact names are one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderName {
    text: Box<str>,
    known: Name,
    /// The other form of a name that is not in [`Name`]; the same where there is none.
    alias: Box<str>,
    bits: u64,
}

impl HeaderName {
    pub(super) fn known(&self) -> Name {
        self.known
    }

    /// What [`bit_of`] gives for its forms.
    pub(super) fn bits(&self) -> u64 {
        self.bits
    }

    /// Whether a field with this name, as it was read and as it stands, is it; letter case does not matter.
    pub(super) fn is(&self, known: Name, text: &[u8]) -> bool {
        let is = |name: &str| text.len() == name.len() && text.eq_ignore_ascii_case(name.as_bytes());
        known == self.known && (known != Name::Other || is(&self.text) || is(&self.alias))
    }
}

impl<T: Into<Box<str>>> From<T> for HeaderName {
    fn from(text: T) -> HeaderName {
        let text = text.into();
        let alias = alias(&text).map_or_else(|| text.clone(), Into::into);
        let bits = bit_of(text.as_bytes()) | bit_of(alias.as_bytes());
        HeaderName { known: Name::from_bytes(text.as_bytes()), text, alias, bits }
    }
}

impl std::ops::Deref for HeaderName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl std::fmt::Display for HeaderName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Method {
    /// The method with exactly this spelling.
    pub fn from_bytes(text: &[u8]) -> Method {
        match text {
            b"INVITE" => Method::Invite,
            b"ACK" => Method::Ack,
            b"BYE" => Method::Bye,
            b"CANCEL" => Method::Cancel,
            _ => std::str::from_utf8(text).ok().and_then(Method::from_label).unwrap_or(Method::Other),
        }
    }
}

impl Name {
    /// The header with this full or compact name, in any letter case.
    pub fn from_bytes(name: &[u8]) -> Name {
        match Name::as_usual(name) {
            Some(name) => name,
            None => Name::in_any_case(name),
        }
    }

    /// The header spelt as in its RFC, as nearly all are.
    #[inline(always)]
    pub(super) fn as_usual(name: &[u8]) -> Option<Name> {
        Some(match name {
            b"Via" => Name::Via,
            b"From" => Name::From,
            b"To" => Name::To,
            b"Call-ID" => Name::CallId,
            b"CSeq" => Name::CSeq,
            b"Max-Forwards" => Name::MaxForwards,
            b"Route" => Name::Route,
            b"Record-Route" => Name::RecordRoute,
            b"Contact" => Name::Contact,
            b"Content-Length" => Name::ContentLength,
            b"Content-Type" => Name::ContentType,
            b"Proxy-Require" => Name::ProxyRequire,
            b"Reason" => Name::Reason,
            b"Retry-After" => Name::RetryAfter,
            b"Session-Expires" => Name::SessionExpires,
            b"Refer-To" => Name::ReferTo,
            b"User-Agent" => Name::UserAgent,
            b"Timestamp" => Name::Timestamp,
            _ => return None,
        })
    }

    pub(super) fn in_any_case(name: &[u8]) -> Name {
        if let [letter] = name {
            return Name::from_compact(*letter);
        }
        // By length: at most three spellings are left to compare.
        let candidates: &[Name] = match name.len() {
            2 => &[Name::To],
            3 => &[Name::Via],
            4 => &[Name::From, Name::CSeq],
            5 => &[Name::Route],
            6 => &[Name::Reason],
            7 => &[Name::CallId, Name::Contact],
            8 => &[Name::ReferTo],
            9 => &[Name::Timestamp],
            10 => &[Name::UserAgent],
            11 => &[Name::RetryAfter],
            12 => &[Name::MaxForwards, Name::RecordRoute, Name::ContentType],
            13 => &[Name::ProxyRequire],
            14 => &[Name::ContentLength],
            15 => &[Name::SessionExpires],
            _ => &[],
        };
        let is_it = |known: &&Name| name.eq_ignore_ascii_case(known.label().as_bytes());
        candidates.iter().find(is_it).copied().unwrap_or(Name::Other)
    }

    fn from_compact(letter: u8) -> Name {
        match letter.to_ascii_lowercase() {
            b'c' => Name::ContentType,
            b'f' => Name::From,
            b'i' => Name::CallId,
            b'l' => Name::ContentLength,
            b'm' => Name::Contact,
            b'r' => Name::ReferTo,
            b't' => Name::To,
            b'v' => Name::Via,
            b'x' => Name::SessionExpires,
            _ => Name::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_letter_case() {
        for name in Name::ALL {
            let label = name.label();
            assert_eq!(Name::from_bytes(label.as_bytes()), *name, "{label}");
            assert_eq!(Name::from_bytes(label.to_uppercase().as_bytes()), *name, "{label}");
            assert_eq!(Name::from_bytes(label.to_lowercase().as_bytes()), *name, "{label}");
        }
    }

    #[test]
    fn compact_names_are_the_same_headers() {
        for (compact, full) in COMPACT {
            assert_eq!(Name::from_bytes(compact.as_bytes()), Name::from_bytes(full.as_bytes()), "{compact}");
            assert_eq!(alias(compact), Some(full));
            assert_eq!(alias(full), Some(compact));
        }
        assert_eq!(Name::from_bytes(b"V"), Name::Via);
        assert_eq!(alias("VIA"), Some("v"));
        assert_eq!(alias("Reason"), None);
    }

    #[test]
    fn names_that_only_resemble_are_other() {
        for name in ["", "Vias", "Vi", "z", "Content_Length", "Call-I"] {
            assert_eq!(Name::from_bytes(name.as_bytes()), Name::Other, "{name}");
        }
    }

    #[test]
    fn methods_keep_their_letter_case() {
        for method in Method::ALL {
            assert_eq!(Method::from_bytes(method.label().as_bytes()), *method);
        }
        assert_eq!(Method::from_bytes(b"invite"), Method::Other);
        assert_eq!(Method::from_bytes(b"INVIT\xc9"), Method::Other);
    }
}
