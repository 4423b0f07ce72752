//! Start lines: request line and status line (RFC 3261 §7.1, §7.2), taken only as the grammar has them.

use super::lex::{has_no_uri_byte, line_end, number, token_end};
use super::reject::Fault;
use super::uri::UriParts;
use super::{Limits, Method, Start, Uri, scheme};
use crate::scan::find;

/// Reads the start line, the parts of a SIP URI in it, and where the line behind it begins.
pub(super) fn start_line(raw: &[u8], limits: &Limits) -> Result<(Start, Option<UriParts>, usize), Fault> {
    let mut nul = false;
    let end = match line_end(raw, 0, &mut nul) {
        Err(bad) => return Err(Fault::malformed(bad.detail())),
        Ok(None) => {
            return Err(Fault::malformed(if raw.is_empty() { "no message" } else { "the start line does not end" }));
        }
        Ok(Some(_)) if nul => return Err(Fault::malformed("NUL in the head")),
        Ok(Some(end)) => end,
    };
    let line = raw.get(..end).unwrap_or_default();
    let (start, uri) = if let Some(start) = plain_status_line(line) {
        (start, None)
    } else if is_sip(line) {
        (status_line(line)?, None)
    } else {
        request_line(line, limits)?
    };
    Ok((start, uri, end + 2))
}

/// The request's method, the start line being one of a request in its outline; for answers to broken ones.
pub(super) fn request_method(raw: &[u8]) -> Option<&[u8]> {
    let line = raw.get(..memchr::memchr(b'\r', raw)?)?;
    let method = line.get(..token_end(line, 0)).filter(|method| !method.is_empty())?;
    let version = line.trim_ascii_end().rsplit(|byte| *byte == b' ').next()?;
    let outline = line.get(method.len()) == Some(&b' ') && version.len() > 4 && is_sip(version);
    outline.then_some(method)
}

fn request_line(line: &[u8], limits: &Limits) -> Result<(Start, Option<UriParts>), Fault> {
    const MALFORMED: Fault = Fault::malformed("request line is not: method, space, URI, space, version");
    let method_text = 0..token_end(line, 0);
    let uri_start = method_text.end + 1;
    if method_text.is_empty() || line.get(method_text.end) != Some(&b' ') {
        return Err(MALFORMED);
    }
    let uri_end = find([b' ', b'\t'], line, uri_start).ok_or(MALFORMED)?;
    let version = line.get(uri_end + 1..).filter(|_| line.get(uri_end) == Some(&b' ')).ok_or(MALFORMED)?;
    check_version(version).ok_or(MALFORMED)??;
    let uri = line.get(uri_start..uri_end).unwrap_or_default();
    if uri.len() > limits.uri_bytes {
        return Err(Fault::uri_too_long());
    }
    let parts = check_uri(uri)?;
    let method = Method::from_bytes(line.get(method_text.clone()).unwrap_or_default());
    Ok((Start::Request { method, method_text, uri: uri_start..uri_end }, parts))
}

/// The version of a start line: `None` where it is none, an error where it is not ours.
fn check_version(version: &[u8]) -> Option<Result<(), Fault>> {
    if version == b"SIP/2.0" {
        return Some(Ok(()));
    }
    let digits = version.get(4..).filter(|_| is_sip(version))?;
    if digits == b"2.0" {
        return Some(Ok(()));
    }
    let dot = memchr::memchr(b'.', digits)?;
    number(digits.get(..dot)?)?;
    number(digits.get(dot + 1..)?)?;
    Some(Err(Fault::version()))
}

fn is_sip(text: &[u8]) -> bool {
    text.get(..4).is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"SIP/"))
}

fn check_uri(uri: &[u8]) -> Result<Option<UriParts>, Fault> {
    let scheme = scheme(uri).ok_or(Fault::malformed("Request-URI has no scheme"))?;
    if has_no_uri_byte(uri) {
        return Err(Fault::malformed("Request-URI holds a byte that no URI has"));
    }
    if scheme != b"sip" && !scheme.eq_ignore_ascii_case(b"sip") && !scheme.eq_ignore_ascii_case(b"sips") {
        return Ok(None);
    }
    let uri = Uri::parse(uri).ok_or(Fault::malformed("Request-URI has no readable host"))?;
    // None belong there; who finds some ignores them (RFC 3261 §19.1.1), and others' bytes are left as they are. What could
    // take a request elsewhere, if the next hop did honour it, is refused (RFC 4475 §3.1.2.11).
    if uri.has_dangerous_headers() {
        return Err(Fault::malformed("Request-URI has header fields that route"));
    }
    Ok(Some(uri.parts()))
}

/// The form that nearly all have: `SIP/2.0 486 Busy Here`.
fn plain_status_line(line: &[u8]) -> Option<Start> {
    let [a @ b'1'..=b'6', b @ b'0'..=b'9', c @ b'0'..=b'9', b' ', ..] = line.strip_prefix(b"SIP/2.0 ")? else {
        return None;
    };
    let code = [a, b, c].into_iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    Some(Start::Response { code, phrase: 12..line.len() })
}

fn status_line(line: &[u8]) -> Result<Start, Fault> {
    const MALFORMED: Fault = Fault::malformed("status line is not: version, space, three digits, space, phrase");
    let space = memchr::memchr(b' ', line).ok_or(MALFORMED)?;
    check_version(line.get(..space).unwrap_or_default()).ok_or(MALFORMED)??;
    let digits = line.get(space + 1..space + 4).ok_or(MALFORMED)?;
    if !matches!(line.get(space + 4), Some(b' ') | None) {
        return Err(MALFORMED);
    }
    let code = number(digits).and_then(|code| u16::try_from(code).ok()).ok_or(MALFORMED)?;
    if !(100..=699).contains(&code) {
        return Err(Fault::malformed("status code outside 100 to 699"));
    }
    // Some peers leave out the space before an empty phrase.
    Ok(Start::Response { code, phrase: (space + 5).min(line.len())..line.len() })
}

#[cfg(test)]
mod tests {
    use crate::sip::{Limits, Message, RejectReason};

    const FIELDS: &str = "Via: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:f@b>;tag=1\r\nTo: <sip:t@b>\r\n\
        Call-ID: c\r\nCSeq: 1 OPTIONS\r\n";

    fn parse(line: &str) -> Result<Message, RejectReason> {
        let limits = Limits::standard(65_535);
        Message::parse(format!("{line}\r\n{FIELDS}\r\n").into(), &limits).map_err(|rejected| rejected.reason)
    }

    #[test]
    fn what_the_grammar_does_not_have_is_refused() {
        let with = |line: &str| parse(line).unwrap_err();
        for line in [
            "OPTIONS  sip:a@b SIP/2.0",
            "OPTIONS sip:a@b SIP/2.0 ",
            " OPTIONS sip:a@b SIP/2.0",
            "OPTIONS sip:a@b; lr SIP/2.0",
        ] {
            assert_eq!(with(line), RejectReason::Malformed, "{line}");
        }
        for line in [
            "OPTIONS sip:a@b\tSIP/2.0",
            "OPTIONS SIP/2.0",
            "OPTIONS sip:a@b",
            "OPTIONS sip:a@b HTTP/1.1",
            "OPT@IONS sip:a@b SIP/2.0",
        ] {
            assert_eq!(with(line), RejectReason::Malformed, "{line}");
        }
        for uri in ["sip:a@b?Route=%3Csip:c%3E", "<sip:a@b>", "a@b", "sip:", "sip:2001:db8::10", "sip:a\u{1}@b"] {
            assert_eq!(with(&format!("OPTIONS {uri} SIP/2.0")), RejectReason::Malformed, "{uri}");
        }
        for line in
            ["SIP/2.0 99 x", "SIP/2.0 099 x", "SIP/2.0 700 x", "SIP/2.0 4294967301 x", "SIP/2.0  200 x", "SIP/2.0"]
        {
            assert_eq!(with(line), RejectReason::Malformed, "{line}");
        }
        for line in ["OPTIONS sip:a@b SIP/7.0", "OPTIONS sip:a@b SIP/2.00", "SIP/3.0 200 OK"] {
            assert_eq!(with(line), RejectReason::Version, "{line}");
        }
    }

    #[test]
    fn a_request_uri_may_be_of_any_scheme() {
        for uri in [
            "tel:+1",
            "nobodyknows:this",
            "soap.beep://192.0.2.103:3002",
            "sip:user;par=u%40example.net@b",
            "sip:a@b?Subject=x",
        ] {
            let message = parse(&format!("OPTIONS {uri} sip/2.0")).unwrap();
            assert_eq!(message.uri(), uri.as_bytes());
        }
    }
}
