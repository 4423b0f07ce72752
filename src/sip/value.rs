//! Typed access to one value at a time, on demand: addresses, parameters (RFC 3261 §20.10, §25.1), numbers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::lex::{is_lws, number, quoted_end, skip, skip_lws, token_end, trim, trimmed};
use crate::scan::find;

/// `"display" <uri>;params` or `uri;params` (RFC 3261 §20.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr<'a> {
    pub uri: &'a [u8],
    /// What follows the URI, from the first semicolon on.
    pub params: &'a [u8],
}

/// Parameters of a header value or a URI: `;name=value;flag`. What stands before the first semicolon is no parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params<'a>(pub &'a [u8]);

/// One parameter; offsets in the text that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Param {
    /// From the semicolon to the last byte of the name or value.
    pub whole: Range<usize>,
    pub name: Range<usize>,
    pub value: Option<Range<usize>>,
    /// Where the next semicolon or the end of the text is.
    pub next: usize,
}

impl<'a> NameAddr<'a> {
    /// `None` where the brackets or quotes do not close.
    pub fn parse(value: &'a [u8]) -> Option<NameAddr<'a>> {
        let (uri, params) = name_addr(value)?;
        Some(NameAddr { uri: value.get(uri)?, params: value.get(params)? })
    }

    pub fn tag(&self) -> Option<&'a [u8]> {
        Params(self.params).value(b"tag")
    }
}

impl<'a> Params<'a> {
    /// The value of a parameter, name compared without case; quotes stay on. `Some(b"")` for one without value.
    pub fn value(&self, name: &[u8]) -> Option<&'a [u8]> {
        // Most URIs have none.
        if self.0.is_empty() {
            return None;
        }
        self.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.unwrap_or_default())
    }

    /// All parameters in order: name, value (`None` without `=`). Empty ones (`;;`) are passed over.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + 'a {
        let text = self.0;
        let slice = |range: Range<usize>| text.get(range).unwrap_or_default();
        params(text, find([b';'], text, 0).unwrap_or(text.len()))
            .map(move |param| (slice(param.name), param.value.map(slice)))
            .filter(|(name, _)| !name.is_empty())
    }
}

/// An IP address as SIP spells hosts: IPv6 in brackets (RFC 3261 §25.1); bare IPv6 is taken too (RFC 5118 §4.5).
pub fn host_ip(host: &[u8]) -> Option<IpAddr> {
    if let Some(address) = ipv4(host) {
        return Some(IpAddr::V4(address));
    }
    let host = std::str::from_utf8(host).ok()?;
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match bracketed {
        None if !host.contains(':') => None,
        _ => ipv6(bracketed.unwrap_or(host)).map(IpAddr::V6),
    }
}

/// Delta seconds at the start of a value (`Retry-After: 120 (busy);duration=60`); `None` where it is no number.
pub fn seconds(value: &[u8]) -> Option<u64> {
    let start = skip_lws(value, 0);
    let end = skip(value, start, |byte| byte.is_ascii_digit());
    let ends = value.get(end).is_none_or(|byte| is_lws(*byte) || matches!(byte, b';' | b'(' | b','));
    if ends { number(value.get(start..end)?) } else { None }
}

/// Where the URI and the parameters of a name-addr or addr-spec are; `None` where brackets or quotes do not close.
pub(super) fn name_addr(text: &[u8]) -> Option<(Range<usize>, Range<usize>)> {
    if let Some(plain) = plain_name_addr(text) {
        return Some(plain);
    }
    let mut at = 0;
    loop {
        let Some(hit) = find([b'"', b'<', b';'], text, at) else {
            return Some((trim(text, 0..text.len()), text.len()..text.len()));
        };
        at = hit;
        match text.get(at)? {
            b'"' => at = quoted_end(text, at)?,
            b'<' => {
                let close = find([b'>'], text, at)?;
                let params = semicolon(text, close + 1)?;
                quotes_close(text, params)?;
                return Some((trim(text, at + 1..close), params..text.len()));
            }
            _ => {
                quotes_close(text, at)?;
                return Some((trim(text, 0..at), at..text.len()));
            }
        }
    }
}

/// Why the tag of a From or To value cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadTag {
    /// Quotes or brackets do not close.
    Open,
    /// One reader might take the first, another one the last.
    Repeated,
}

/// The tag of a From or To value, if it has one that is not empty.
pub fn tag(text: &[u8]) -> Option<&[u8]> {
    text.get(tag_at(text).ok()??)
}

/// Where the tag of a From or To value is. An empty tag is none.
pub(super) fn tag_at(text: &[u8]) -> Result<Option<Range<usize>>, BadTag> {
    if let Some(plain) = plain_tag(text) {
        return Ok(plain);
    }
    let (_, params_at) = name_addr(text).ok_or(BadTag::Open)?;
    let is_tag = |param: &Param| text.get(param.name.clone()).is_some_and(|name| name.eq_ignore_ascii_case(b"tag"));
    let mut tags = params(text, params_at.start).filter(is_tag);
    let first = tags.next();
    match tags.next() {
        Some(_) => Err(BadTag::Repeated),
        None => Ok(first.and_then(|param| param.value).filter(|value| !value.is_empty())),
    }
}

/// Where the angle brackets are in the form that nearly all have: `<uri>` or `"name" <uri>` without escapes.
#[inline]
fn plain_brackets(text: &[u8]) -> Option<(usize, usize)> {
    let mut open = 0;
    if text.first() == Some(&b'"') {
        let close = find([b'"', b'\\'], text, 1).filter(|at| text.get(*at) == Some(&b'"'))?;
        open = skip(text, close + 1, |byte| byte == b' ');
    }
    if text.get(open) != Some(&b'<') {
        return None;
    }
    Some((open, find([b'>'], text, open)?))
}

/// [`name_addr`] for that form, with no white space and no quotes from there on.
fn plain_name_addr(text: &[u8]) -> Option<(Range<usize>, Range<usize>)> {
    let (open, close) = plain_brackets(text)?;
    let uri = text.get(open + 1..close)?;
    let is_inside = |byte: Option<&u8>| byte.is_some_and(|byte| !is_lws(*byte));
    let params_follow = matches!(text.get(close + 1), None | Some(b';'));
    let is_plain =
        is_inside(uri.first()) && is_inside(uri.last()) && params_follow && find([b'"'], text, close + 1).is_none();
    is_plain.then_some((open + 1..close, close + 1..text.len()))
}

/// [`tag_at`] for that form, with nothing behind it or a tag alone.
fn plain_tag(text: &[u8]) -> Option<Option<Range<usize>>> {
    const TAG: &[u8] = b";tag=";
    let (_, close) = plain_brackets(text)?;
    let rest = text.get(close + 1..)?;
    if rest.is_empty() {
        return Some(None);
    }
    let start = close + 1 + TAG.len();
    let is_tag = rest.starts_with(TAG) && start < text.len() && token_end(text, start) == text.len();
    is_tag.then_some(Some(start..text.len()))
}

/// The parameters from the semicolon at `at` on, empty ones too.
pub(super) fn params(text: &[u8], at: usize) -> impl Iterator<Item = Param> + '_ {
    let mut at = at;
    std::iter::from_fn(move || {
        let param = param_at(text, at)?;
        at = param.next;
        Some(param)
    })
}

fn param_at(text: &[u8], semicolon: usize) -> Option<Param> {
    if text.get(semicolon) != Some(&b';') {
        return None;
    }
    let mut equals = None;
    let mut at = semicolon + 1;
    loop {
        match text.get(at) {
            None | Some(b';') => break,
            Some(b'"') => at = quoted_end(text, at).unwrap_or(text.len()),
            Some(b'=') if equals.is_none() => {
                equals = Some(at);
                at += 1;
            }
            Some(_) => at += 1,
        }
    }
    let name = trim(text, semicolon + 1..equals.unwrap_or(at));
    let value = equals.map(|equals| trim(text, equals + 1..at));
    let end = match (&value, equals) {
        (Some(value), _) if !value.is_empty() => value.end,
        (_, Some(equals)) => equals + 1,
        _ => name.end.max(semicolon + 1),
    };
    Some(Param { whole: semicolon..end, name, value, next: at })
}

/// The first semicolon from `at` on that is in no quoted string, or the end of the text; `None` where quotes do not close.
fn semicolon(text: &[u8], mut at: usize) -> Option<usize> {
    while let Some(hit) = find([b'"', b';'], text, at) {
        at = hit;
        if text.get(at) == Some(&b';') {
            return Some(at);
        }
        at = quoted_end(text, at)?;
    }
    Some(text.len())
}

pub(super) fn quotes_close(text: &[u8], mut at: usize) -> Option<()> {
    while let Some(quote) = find([b'"'], text, at) {
        at = quoted_end(text, quote)?;
    }
    Some(())
}

/// Four numbers with dots, without needless zeros.
fn ipv4(text: &[u8]) -> Option<Ipv4Addr> {
    let (mut address, mut dots) = (0_u32, 0);
    // Of the number at hand; `None` before its first digit.
    let mut octet = None;
    for byte in text {
        match (byte, octet) {
            (b'0'..=b'9', None) => octet = Some(u32::from(byte - b'0')),
            (b'0'..=b'9', Some(value @ 1..=25)) => octet = Some(value * 10 + u32::from(byte - b'0')),
            (b'.', Some(value @ 0..=255)) if dots < 3 => {
                (address, octet) = ((address << 8) | value, None);
                dots += 1;
            }
            _ => return None,
        }
    }
    let last = octet.filter(|value| *value <= 255)?;
    (dots == 3).then(|| Ipv4Addr::from_bits((address << 8) | last))
}

fn ipv6(text: &str) -> Option<Ipv6Addr> {
    // Three colons before an embedded IPv4 address come from a mistake in the grammar (RFC 5118 §4.10).
    text.parse().ok().or_else(|| text.replacen(":::", "::", 1).parse().ok())
}

/// A quoted string without its quotes and escapes, or the text as it stands.
pub fn unquoted(text: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    let text = trimmed(text);
    let Some(inner) = text.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) else {
        return text.into();
    };
    if find([b'\\'], inner, 0).is_none() {
        return inner.into();
    }
    let mut plain = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        plain.push(if *byte == b'\\' { *bytes.next().unwrap_or(byte) } else { *byte });
    }
    plain.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag_of(value: &str) -> Option<&str> {
        NameAddr::parse(value.as_bytes())?.tag().map(|tag| std::str::from_utf8(tag).unwrap())
    }

    proptest::proptest! {
        #[test]
        fn a_plain_tag_is_read_as_any_tag_is(
            text in "(\"[ -~\\u{e9}]{0,4}\")? {0,2}<?[ -~]{0,4}>?(;tag=|;TAG=|;tag|;x;tag=| ;tag=)?[a-z\"; =]{0,5}"
        ) {
            let text = text.trim().as_bytes();
            if let Some(plain) = plain_tag(text) {
                let (_, at) = name_addr(text).unwrap();
                let found = params(text, at.start).find(|param| text[param.name.clone()].eq_ignore_ascii_case(b"tag"));
                let general = found.and_then(|param| param.value).filter(|value| !value.is_empty());
                proptest::prop_assert_eq!(general, plain);
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn a_plain_address_is_read_as_any_is(
            text in "(\"[ -~]{0,4}\")? {0,2}<? ?[a-z:@]{0,4} ?>?( |;|;[a-z]=|[a-z])?[a-z\"; =<>]{0,5}"
        ) {
            let text = text.trim().as_bytes();
            if let Some(plain) = plain_name_addr(text) {
                let padded = [b" ", text].concat();
                let shift = |range: Range<usize>| range.start - 1..range.end - 1;
                let any = name_addr(&padded).map(|(uri, params)| (shift(uri), shift(params)));
                proptest::prop_assert_eq!(any, Some(plain));
            }
        }

        #[test]
        fn an_address_of_four_numbers_is_read_as_the_library_does(text in "[0-9.]{0,16}|([0-9]{1,3}[.]){3}[0-9]{1,3}") {
            proptest::prop_assert_eq!(ipv4(text.as_bytes()), text.parse().ok());
        }
    }

    #[test]
    fn a_tag_is_found_past_quotes_brackets_and_uri_parameters() {
        assert_eq!(tag_of(r#""q\"uo;tag=no" <sip:x;tag=no>;x="a;b";tag=yes;y"#), Some("yes"));
        assert_eq!(tag_of("sip:a@b;tag=t1"), Some("t1"));
        assert_eq!(tag_of("<sip:a@b>"), None);
        assert_eq!(tag_of("Bob\r\n\t<sip:a@b>\r\n ;\r\n TAG \t= \r\n 9"), Some("9"));
        assert_eq!(tag_of("Bell, Alexander <sip:a@b>;tag=43"), Some("43"));
    }

    #[test]
    fn the_uri_is_without_brackets() {
        let parsed = NameAddr::parse(b"caller<sip:a@b;lr>;tag=1").unwrap();
        assert_eq!((parsed.uri, parsed.params), (&b"sip:a@b;lr"[..], &b";tag=1"[..]));
        let parsed = NameAddr::parse(b" sip:a@b ;tag=1").unwrap();
        assert_eq!((parsed.uri, parsed.params), (&b"sip:a@b"[..], &b";tag=1"[..]));
    }

    #[test]
    fn quotes_and_brackets_must_close() {
        assert_eq!(NameAddr::parse(br#""Mr. J. User <sip:j.user@example.com>"#), None);
        assert_eq!(NameAddr::parse(b"<sip:a@b;tag=1"), None);
        assert_eq!(NameAddr::parse(br#"<sip:a@b>;x="1;tag=2"#), None);
    }

    #[test]
    fn a_quoted_string_behind_the_brackets_holds_no_parameters() {
        let value = br#"<sip:a@b> "x;tag=no";tag=yes"#;
        assert_eq!(NameAddr::parse(value).unwrap().params, b";tag=yes");
        assert_eq!(NameAddr::parse(br#"<sip:a@b>"x;tag=no""#).unwrap().params, b"");
        assert_eq!(NameAddr::parse(br#"<sip:a@b>"x;tag=no;tag=yes"#), None);
    }

    #[test]
    fn an_empty_tag_is_none() {
        assert_eq!(tag_at(b"<sip:a@b>;tag="), Ok(None));
        assert_eq!(tag_at(b"<sip:a@b>;tag;x"), Ok(None));
        assert_eq!(tag_at(b"<sip:a@b>;tag=12"), Ok(Some(14..16)));
    }

    #[test]
    fn a_tag_is_there_once() {
        for value in ["<sip:a@b>;tag=1;tag=2", "<sip:a@b>;tag;x;TAG=1", "sip:a@b;tag=1; tag =1"] {
            assert_eq!(tag_at(value.as_bytes()), Err(BadTag::Repeated), "{value}");
        }
        assert_eq!(tag_at(b"\";tag=1\" <sip:a@b;tag=2>;tag=3;x=tag"), Ok(Some(29..30)));
        assert_eq!(tag_at(b"<sip:a@b;tag=2"), Err(BadTag::Open));
    }

    #[test]
    fn parameters_come_in_order_with_their_values() {
        let params: Vec<_> = Params(b"Q.850 ; cause=16;text=\"a;b=\\\"c\" ;; flag ;x=a=b;y=").iter().collect();
        let expected: [(&[u8], Option<&[u8]>); 5] = [
            (b"cause", Some(b"16")),
            (b"text", Some(b"\"a;b=\\\"c\"")),
            (b"flag", None),
            (b"x", Some(b"a=b")),
            (b"y", Some(b"")),
        ];
        assert_eq!(params, expected);
        assert_eq!(Params(b";LR;transport=udp").value(b"lr"), Some(&b""[..]));
        assert_eq!(Params(b";transport=udp").value(b"lr"), None);
    }

    #[test]
    fn hosts_that_are_addresses_are_read() {
        assert_eq!(host_ip(b"192.0.2.1"), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(host_ip(b"[2001:db8::1]"), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(host_ip(b"2001:db8::9:255"), Some("2001:db8::9:255".parse().unwrap()));
        assert_eq!(host_ip(b"[2001:db8:::192.0.2.1]"), Some("2001:db8::192.0.2.1".parse().unwrap()));
        for host in ["example.com", "[192.0.2.1]", "192.0.2.256", "", "[", "[]", "1"] {
            assert_eq!(host_ip(host.as_bytes()), None, "{host}");
        }
    }

    #[test]
    fn seconds_end_where_the_number_ends() {
        assert_eq!(seconds(b"120 (busy);duration=60"), Some(120));
        assert_eq!(seconds(b"18000;duration=3600"), Some(18000));
        assert_eq!(seconds(b" 5"), Some(5));
        for value in ["", "x", "12s", "1.5", "-3", " "] {
            assert_eq!(seconds(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn quoted_strings_lose_quotes_and_escapes() {
        assert_eq!(&*unquoted(br#" "a\"b\\c" "#), br#"a"b\c"#);
        assert_eq!(&*unquoted(b"plain"), b"plain");
        assert_eq!(&*unquoted(br#""open"#), br#""open"#);
    }
}
