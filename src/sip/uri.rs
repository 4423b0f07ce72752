//! URIs of RFC 3261 §19.1, as far as routing needs them.

use std::ops::Range;

use smallvec::SmallVec;

use super::lex::{is_of_host, port, skip};
use super::{Name, Params};
use crate::scan::find;

/// A `sip:` or `sips:` URI; ranges are into the bytes it was parsed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri<'a> {
    pub text: &'a [u8],
    pub secure: bool,
    /// Userinfo without the `@`; a password stays in it.
    pub user: Option<Range<usize>>,
    /// Brackets of an IPv6 reference included.
    pub host: Range<usize>,
    pub port: Option<u16>,
    /// Host and port as they stand.
    pub host_port: Range<usize>,
    /// From the first semicolon after the host up to `?` or the end.
    pub params: Range<usize>,
}

/// Where the parts of a URI are, to be put together with its text again.
#[derive(Clone, Copy, Debug)]
pub(super) struct UriParts {
    secure: bool,
    port: Option<u16>,
    /// Offsets in the text: of the user (where it ends with `@`), of host, port, parameters and what follows them.
    user: Option<u32>,
    host: u32,
    host_end: u32,
    port_end: u32,
    params_end: u32,
}

impl<'a> Uri<'a> {
    /// The same URI without reading it again.
    pub(super) fn of_parts(text: &'a [u8], parts: &UriParts) -> Uri<'a> {
        let [host, host_end, end, params_end] =
            [parts.host, parts.host_end, parts.port_end, parts.params_end].map(|at| at as usize);
        Uri {
            text,
            secure: parts.secure,
            user: parts.user.map(|user| user as usize..host - 1),
            host: host..host_end,
            port: parts.port,
            host_port: host..end,
            params: end..params_end,
        }
    }

    /// The reverse of [`Uri::of_parts`].
    pub(super) fn parts(&self) -> UriParts {
        UriParts {
            secure: self.secure,
            port: self.port,
            user: self.user.as_ref().map(|user| user.start as u32),
            host: self.host.start as u32,
            host_end: self.host.end as u32,
            port_end: self.host_port.end as u32,
            params_end: self.params.end as u32,
        }
    }

    /// `None` for another scheme (`tel:`, `urn:`) or where there is no host.
    pub fn parse(text: &'a [u8]) -> Option<Uri<'a>> {
        let scheme = scheme(text)?;
        let is_usual = scheme == b"sip";
        let secure = !is_usual && scheme.eq_ignore_ascii_case(b"sips");
        if !is_usual && !secure && !scheme.eq_ignore_ascii_case(b"sip") {
            return None;
        }
        let start = scheme.len() + 1;
        // Neither parameters nor headers may hold an unescaped `@`: the first one ends the userinfo,
        // in which `;`, `?` and `,` are ordinary.
        let at = find([b'@'], text, start);
        let host = host(text, at.map_or(start, |at| at + 1))?;
        let mut end = host.end;
        let mut host_port = None;
        if text.get(end) == Some(&b':') {
            let digits = end + 1;
            end = skip(text, digits, |byte| byte.is_ascii_digit());
            host_port = Some(port(text.get(digits..end)?)?);
        }
        if !matches!(text.get(end), None | Some(b';' | b'?')) {
            return None;
        }
        let params_end = find([b'?'], text, end).unwrap_or(text.len());
        Some(Uri {
            text,
            secure,
            user: at.map(|at| start..at),
            host_port: host.start..end,
            host,
            port: host_port,
            params: end..params_end,
        })
    }

    pub fn host(&self) -> &'a [u8] {
        self.text.get(self.host.clone()).unwrap_or_default()
    }

    /// The user part without password and parameters of the user (`+1555;phone-context=x` gives `+1555`);
    /// escapes stay. `None` also where it is empty.
    pub fn user(&self) -> Option<&'a [u8]> {
        let userinfo = self.text.get(self.user.clone()?)?;
        let end = skip(userinfo, 0, |byte| !matches!(byte, b':' | b';'));
        userinfo.get(..end).filter(|user| !user.is_empty())
    }

    pub fn params(&self) -> Params<'a> {
        Params(self.text.get(self.params.clone()).unwrap_or_default())
    }

    /// Whether header fields follow (`?Route=…`) that would change whose request it is or where it goes, if somebody
    /// honoured them: the obviously dangerous ones of RFC 3261 §19.1.5, by any spelling.
    pub fn has_dangerous_headers(&self) -> bool {
        let headers = self.text.get(self.params.end..).unwrap_or_default();
        headers.split(|byte| matches!(byte, b'?' | b'&')).any(|header| {
            let name = header.split(|byte| *byte == b'=').next().unwrap_or_default();
            let name = Name::from_bytes(&unescaped(name));
            matches!(name, Name::From | Name::CallId | Name::CSeq | Name::Via | Name::RecordRoute | Name::Route)
        })
    }
}

/// A header's name in a URI without its escapes, as far as names go.
fn unescaped(name: &[u8]) -> SmallVec<[u8; 32]> {
    const LONGEST: usize = 32;
    let mut plain = SmallVec::new();
    let mut rest = name;
    while let (Some((first, behind)), true) = (rest.split_first(), plain.len() < LONGEST) {
        let escaped = (*first == b'%').then(|| behind.split_first_chunk::<2>()).flatten();
        let value = escaped.and_then(|(digits, _)| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        (rest, _) = match (value, escaped) {
            (Some(byte), Some((_, behind))) => (behind, plain.push(byte)),
            _ => (behind, plain.push(*first)),
        };
    }
    plain
}

/// Scheme of any URI, up to the colon; `None` where there is none (RFC 3986 §3.1).
pub fn scheme(uri: &[u8]) -> Option<&[u8]> {
    if uri.starts_with(b"sip:") {
        return uri.get(..3);
    }
    let scheme = uri.get(..skip(uri, 0, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')))?;
    let valid = scheme.first().is_some_and(u8::is_ascii_alphabetic) && uri.get(scheme.len()) == Some(&b':');
    valid.then_some(scheme)
}

/// The number or user that a URI of any scheme names: of `sip:` the user part, of `tel:` the number.
pub fn subscriber(uri: &[u8]) -> Option<&[u8]> {
    if let Some(uri) = Uri::parse(uri) {
        return uri.user();
    }
    let scheme = scheme(uri)?;
    let number = uri.get(scheme.len() + 1..)?;
    let number = number.get(..find([b';'], number, 0).unwrap_or(number.len()))?;
    (scheme.eq_ignore_ascii_case(b"tel") && !number.is_empty()).then_some(number)
}

/// A host name or address from `start` on.
fn host(text: &[u8], start: usize) -> Option<Range<usize>> {
    let end = if text.get(start) == Some(&b'[') {
        let end = skip(text, start + 1, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'.' | b'%'));
        (end > start + 1 && text.get(end) == Some(&b']')).then_some(end + 1)?
    } else {
        skip(text, start, is_of_host)
    };
    (end > start).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Option<(Option<&str>, &str, Option<u16>, &str)> {
        let uri = Uri::parse(text.as_bytes())?;
        let user = uri.user().map(|user| std::str::from_utf8(user).unwrap());
        Some((user, &text[uri.host.clone()], uri.port, &text[uri.params.clone()]))
    }

    #[test]
    fn the_parts_of_a_uri_are_found() {
        assert_eq!(parts("sip:alice@example.com"), Some((Some("alice"), "example.com", None, "")));
        assert_eq!(
            parts("SIPS:+1555;phone-context=x:pw@192.0.2.1:5061;lr;transport=tcp?Subject=x"),
            Some((Some("+1555"), "192.0.2.1", Some(5061), ";lr;transport=tcp"))
        );
        assert_eq!(parts("sip:[2001:db8::10]:5070;lr"), Some((None, "[2001:db8::10]", Some(5070), ";lr")));
        assert_eq!(parts("sip:[2001:db8::10:5070]"), Some((None, "[2001:db8::10:5070]", None, "")));
        assert_eq!(parts("sip:host?Replaces=a"), Some((None, "host", None, "")));
        assert_eq!(parts("sip:@host"), Some((None, "host", None, "")));
    }

    #[test]
    fn a_user_part_may_hold_what_separates_elsewhere() {
        let odd = "sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com";
        assert_eq!(parts(odd), Some((Some("1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/"), "example.com", None, "")));
        let semicolon = "sip:user;par=u%40example.net@example.com";
        assert_eq!(parts(semicolon), Some((Some("user"), "example.com", None, "")));
        assert_eq!(parts("sip:sips%3Auser%40example.com@example.net").unwrap().0, Some("sips%3Auser%40example.com"));
    }

    #[test]
    fn the_first_at_sign_ends_the_user() {
        assert_eq!(parts("sip:a@b;x=c@d"), Some((Some("a"), "b", None, ";x=c@d")));
        assert_eq!(parts("sip:a@b@c"), None);
    }

    #[test]
    fn uris_without_a_host_are_refused() {
        for text in [
            "sip:",
            "sip:a@",
            "sip:2001:db8::10",
            "sip:[::1",
            "sip:[]",
            "sip:h:",
            "sip:h:0",
            "sip:h:99999",
            "sip:h x",
            "sip",
        ] {
            assert_eq!(parts(text), None, "{text}");
        }
        for text in ["tel:+1555", "urn:service:sos", "<sip:a@b>", "", ":x", "sip:h,g"] {
            assert_eq!(parts(text), None, "{text}");
        }
    }

    #[test]
    fn the_scheme_of_any_uri_is_known() {
        assert_eq!(scheme(b"soap.beep://192.0.2.103:3002"), Some(&b"soap.beep"[..]));
        assert_eq!(scheme(b"name:John_Smith"), Some(&b"name"[..]));
        assert_eq!(scheme(b"1sip:x"), None);
        assert_eq!(scheme(b"<sip:x>"), None);
        assert_eq!(scheme(b"sip"), None);
    }

    #[test]
    fn a_subscriber_is_a_user_or_a_number() {
        assert_eq!(subscriber(b"sip:+15550100@example.com;user=phone"), Some(&b"+15550100"[..]));
        assert_eq!(subscriber(b"tel:+1-555-0100;phone-context=x"), Some(&b"+1-555-0100"[..]));
        assert_eq!(subscriber(b"sip:example.com"), None);
        assert_eq!(subscriber(b"tel:"), None);
        assert_eq!(subscriber(b"urn:service:sos"), None);
    }

    #[test]
    fn header_fields_behind_a_uri_that_would_move_a_request_are_noticed() {
        let is_dangerous = |uri: &str| Uri::parse(uri.as_bytes()).unwrap().has_dangerous_headers();
        for headers in ["Route=%3Csip:example.com%3E", "a=b&route", "%52ou%74e=x", "v=x", "From=", "x=1&i=2", "cseq=1"]
        {
            assert!(is_dangerous(&format!("sip:a@b;lr?{headers}")), "{headers}");
        }
        for uri in
            ["sip:a?Route=x@c;x", "sip:a@b?Subject=Route", "sip:a@b?x%=1&%zz=2&%4", "sip:a@b?", "sip:a@b;Route=x"]
        {
            assert!(!is_dangerous(uri), "{uri}");
        }
    }
}
