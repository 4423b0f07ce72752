//! One Via element (RFC 3261 §20.42, RFC 3581).

use std::ops::Range;

use super::lex::{is_lws, plain_end, port, skip, skip_lws, token_end};
use super::list::Elements;
use super::parse::value_range;
use super::value::{Param, params, quotes_close};
use super::{Element, Field, Name};
use crate::scan::find;

/// A Via element (RFC 3261 §20.42); ranges into the message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Via {
    pub element: Element,
    /// `UDP`, `TCP`, … as it stands.
    pub transport: Range<usize>,
    /// Host of sent-by; brackets of an IPv6 reference included.
    pub host: Range<usize>,
    pub port: Option<u16>,
    /// `None` also where it is empty.
    pub branch: Option<Range<usize>>,
    /// The whole `;received=…` parameter, semicolon included, where there is one.
    pub received: Option<Range<usize>>,
    /// The whole `;rport` or `;rport=…` parameter, semicolon included; and whether it has a value.
    pub rport: Option<(Range<usize>, bool)>,
    /// The value of `maddr`.
    pub maddr: Option<Range<usize>>,
}

impl Via {
    /// Reads any Via element of a message, given the message's bytes; `None` where protocol or sent-by
    /// cannot be read. Of a parameter that is repeated the first one counts; empty ones (`;;`) are passed over.
    pub fn parse_at(message: &[u8], element: Element) -> Option<Via> {
        parse(message, element).map(|(via, _)| via)
    }
}

/// What is wrong with the parameters of a Via, if anything is.
type Flaw = Option<&'static str>;

/// Reads the topmost Via, given the first Via field, and says what is wrong with its parameters.
pub(super) fn read_topmost(via: &mut Via, message: &[u8], fields: &[Field], field: usize) -> Option<Flaw> {
    let value = fields.get(field).map(value_range)?;
    if read_plain(via, message, field, value).is_some() {
        return Some(None);
    }
    let (parsed, flaw) = parse(message, Elements::new(message, fields, Name::Via).next()?)?;
    *via = parsed;
    Some(flaw)
}

/// Reads the form that nearly all have: `SIP/2.0/UDP host:port;name=value;name`, alone in its field, without quotes and
/// without any other white space. `None` where it has another, and the Via is not to be used.
fn read_plain(via: &mut Via, message: &[u8], field: usize, value: Range<usize>) -> Option<()> {
    let text = message.get(..value.end)?;
    let transport_start = value.start + b"SIP/2.0/".len();
    if text.get(value.start..transport_start)? != b"SIP/2.0/" {
        return None;
    }
    let (transport, space) = word(text, transport_start)?;
    if text.get(space) != Some(&b' ') {
        return None;
    }
    let (host, mut at) = word(text, space + 1)?;
    if text.get(at) == Some(&b':') {
        let digits = at + 1;
        at = skip(text, digits, |byte| byte.is_ascii_digit());
        via.port = Some(port(text.get(digits..at)?)?);
    }
    via.element = Element { field, range: value, alone: true, first: true };
    (via.transport, via.host) = (transport, host);
    let mut has_branch = false;
    while at < text.len() {
        let (name_end, known) = match text.get(at..)? {
            [b';', b'b', b'r', b'a', b'n', b'c', b'h', b'=', ..] => (at + 7, Some(Known::Branch)),
            [b';', b'r', b'p', b'o', b'r', b't', b';', ..] => (at + 6, Some(Known::Rport)),
            // A parameter without a name, or with an empty value, is for the whole grammar.
            [b';', ..] => (word(text, at + 1)?.1, None),
            _ => return None,
        };
        let (value, end) = match text.get(name_end) {
            Some(b'=') => {
                let end = plain_end(text, name_end + 1);
                (Some(name_end + 1..end).filter(|value| !value.is_empty())?.into(), end)
            }
            _ => (None, name_end),
        };
        let is_branch = match known {
            Some(known) => via.take_known(known, at..end, value),
            None => via.take(text, Param { whole: at..end, name: at + 1..name_end, value, next: end }),
        };
        if is_branch && std::mem::replace(&mut has_branch, true) {
            return None;
        }
        at = end;
    }
    Some(())
}

/// As [`Via::parse_at`]; also what is wrong with the parameters.
pub(super) fn parse(message: &[u8], element: Element) -> Option<(Via, Flaw)> {
    let text = message.get(..element.range.end)?;
    let (_, at) = word(text, element.range.start)?;
    let (_, at) = word(text, slash(text, at)?)?;
    let (transport, at) = word(text, slash(text, at)?)?;
    let host_start = skip_lws(text, at);
    if host_start == at {
        return None;
    }
    let host = host(text, host_start)?;
    let mut at = skip_lws(text, host.end);
    let mut sent_by_port = None;
    if text.get(at) == Some(&b':') {
        let start = skip_lws(text, at + 1);
        let end = skip(text, start, |byte| byte.is_ascii_digit());
        sent_by_port = Some(port(text.get(start..end)?)?);
        at = skip_lws(text, end);
    }
    if at < text.len() && text.get(at) != Some(&b';') {
        return None;
    }
    quotes_close(text, at)?;
    let mut via =
        Via { element, transport, host, port: sent_by_port, branch: None, received: None, rport: None, maddr: None };
    let mut flaw = None;
    let mut branches = 0;
    for param in params(text, at) {
        if param.name.is_empty() {
            flaw = Some("the topmost Via has an empty parameter");
        }
        branches += usize::from(via.take(text, param));
    }
    if branches > 1 {
        flaw = Some("the topmost Via has two branches");
    }
    Some((via, flaw))
}

impl Via {
    /// Notes a parameter; whether it is a branch.
    fn take(&mut self, text: &[u8], param: Param) -> bool {
        let name = text.get(param.name).unwrap_or_default();
        let known = [
            (&b"branch"[..], Known::Branch),
            (b"rport", Known::Rport),
            (b"received", Known::Received),
            (b"maddr", Known::Maddr),
        ];
        let value = param.value.filter(|value| !value.is_empty());
        match known.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known)) {
            Some((_, known)) => self.take_known(known, param.whole, value),
            None => false,
        }
    }

    /// Of a parameter that is repeated the first one counts. Whether it is a branch.
    fn take_known(&mut self, known: Known, whole: Range<usize>, value: Option<Range<usize>>) -> bool {
        match known {
            Known::Branch => self.branch = self.branch.take().or(value),
            Known::Rport => self.rport = self.rport.take().or(Some((whole, value.is_some()))),
            Known::Received => self.received = self.received.take().or(Some(whole)),
            Known::Maddr => self.maddr = self.maddr.take().or(value),
        }
        matches!(known, Known::Branch)
    }
}

/// A parameter that is of use to us.
#[derive(Clone, Copy)]
enum Known {
    Branch,
    Rport,
    Received,
    Maddr,
}

/// A token, and where it ends.
fn word(text: &[u8], at: usize) -> Option<(Range<usize>, usize)> {
    let end = token_end(text, at);
    (end > at).then_some((at..end, end))
}

/// Past a slash and the white space on both sides of it.
fn slash(text: &[u8], at: usize) -> Option<usize> {
    let at = skip_lws(text, at);
    (text.get(at) == Some(&b'/')).then(|| skip_lws(text, at + 1))
}

fn host(text: &[u8], start: usize) -> Option<Range<usize>> {
    let end = if text.get(start) == Some(&b'[') {
        find([b']'], text, start)? + 1
    } else {
        skip(text, start, |byte| !is_lws(byte) && !matches!(byte, b':' | b';' | b',' | b'/'))
    };
    let host = text.get(start..end)?;
    (!host.is_empty() && !host.iter().any(|byte| is_lws(*byte))).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn via(text: &str) -> Option<Via> {
        let element = Element { field: 0, range: 0..text.len(), alone: true, first: true };
        Via::parse_at(text.as_bytes(), element)
    }

    proptest::proptest! {
        #[test]
        fn a_plain_via_is_read_as_any_via_is(
            text in "SIP/2.0/[UDP ]{1,3} {0,2}[a-c.:\\[\\]0-9/]{1,5}(:[0-9]{0,6})?((;|; |,|;;)(branch|rport|RECEIVED|maddr|x)(=[a-z0-9.\"\\\\:= ]{0,6})?){0,5}"
        ) {
            let text = text.trim_end();
            let field = Field {
                name: Name::Via, start: 0, name_len: 0, value_start: 0, value_end: text.len() as u32, end: text.len() as u32
            };
            let mut via = Via::default();
            if read_plain(&mut via, text.as_bytes(), 0, 0..text.len()).is_some() {
                let element = Elements::new(text.as_bytes(), &[field], Name::Via).next().unwrap();
                proptest::prop_assert_eq!(parse(text.as_bytes(), element), Some((via, None)));
            }
        }
    }

    #[test]
    fn white_space_around_every_separator_is_passed_over() {
        let text = "SIP / 2.0 / UDP  first.example.com: 4000;ttl=16 ;maddr=224.2.0.1 ;branch=z9hG4bK=x";
        let via = via(text).unwrap();
        assert_eq!(&text[via.transport], "UDP");
        assert_eq!(&text[via.host], "first.example.com");
        assert_eq!(via.port, Some(4000));
        assert_eq!(&text[via.maddr.unwrap()], "224.2.0.1");
        assert_eq!(&text[via.branch.unwrap()], "z9hG4bK=x");
        assert_eq!((via.received, via.rport), (None, None));
    }

    #[test]
    fn a_second_branch_is_a_flaw() {
        let flaw = |text: &str| {
            let element = Element { field: 0, range: 0..text.len(), alone: true, first: true };
            parse(text.as_bytes(), element).unwrap().1
        };
        assert_eq!(flaw("SIP/2.0/UDP h;branch=1;x=branch;branchy=2"), None);
        for text in
            ["SIP/2.0/UDP h;branch=1;Branch=1", "SIP/2.0/UDP h;branch;branch=1", "SIP/2.0/UDP h;branch=;x;branch="]
        {
            assert_eq!(flaw(text), Some("the topmost Via has two branches"), "{text}");
        }
    }

    #[test]
    fn ipv6_references_keep_their_brackets() {
        let text = "SIP/2.0/TCP [2001:db8::9:1]:6050;received=2001:db8::9:255;branch=z9hG4bKas3";
        let via = via(text).unwrap();
        assert_eq!(&text[via.host], "[2001:db8::9:1]");
        assert_eq!(via.port, Some(6050));
        assert_eq!(&text[via.received.unwrap()], ";received=2001:db8::9:255");
    }

    #[test]
    fn rport_is_known_with_and_without_value() {
        let text = "SIP/2.0/UDP h;rport ;branch=z9hG4bK1";
        assert_eq!(via(text).unwrap().rport, Some((13..19, false)));
        let text = "SIP/2.0/UDP h;rport=5062;branch=z9hG4bK1";
        assert_eq!(via(text).unwrap().rport, Some((13..24, true)));
        let text = "SIP/2.0/UDP h;rport=";
        assert_eq!(via(text).unwrap().rport, Some((13..20, false)));
    }

    #[test]
    fn folds_count_as_white_space() {
        let text = "SIP  /   2.0\r\n /UDP\r\n    192.0.2.2;branch=\r\n 390skdjuw";
        let via = via(text).unwrap();
        assert_eq!(&text[via.host], "192.0.2.2");
        assert_eq!(&text[via.branch.unwrap()], "390skdjuw");
    }

    #[test]
    fn what_has_no_sent_by_is_not_read() {
        for text in
            ["", "SIP/2.0/UDP", "SIP/2.0/UDP ", "SIP/2.0 h", "SIP/2.0/UDP h:0", "SIP/2.0/UDP h:70000", ";", "//"]
        {
            assert_eq!(via(text), None, "{text}");
        }
        for text in [
            "SIP/2.0/UDP h;x=\"a;branch=1",
            "SIP/2.0/UDP h x",
            "SIP/2.0/UDP h:",
            "SIP/2.0/UDP [::1",
            "SIP/2.0/UDP 2001:db8::1",
            "SIP/2.0/UDP ;x",
        ] {
            assert_eq!(via(text), None, "{text}");
        }
    }
}
