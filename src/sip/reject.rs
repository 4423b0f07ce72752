//! Messages that are not taken, and what it needs to answer them (RFC 3261 §8.2.6, §16.3).

use std::ops::Range;

use bytes::Bytes;

use super::list::Elements;
use super::parse::{field_at, tag};
use super::start::request_method;
use super::{Field, Limits, Message, Name, Via};
use crate::closed::closed_enum;

closed_enum! {
    /// Why a message was not taken.
    pub enum RejectReason {
        Malformed = "malformed",
        MissingHeader = "missing_header",
        BadHeader = "bad_header",
        BadLength = "bad_length",
        Version = "version",
        TooLarge = "too_large",
    }
}

/// A message that was not taken.
#[derive(Clone, Debug)]
pub struct Rejected {
    pub reason: RejectReason,
    /// What was wrong, in a few words, for the log.
    pub detail: &'static str,
    /// The code that a request of this kind gets: 400, 414, 505 or 513.
    pub code: u16,
    /// Raw header fields (whole lines) from which a response can be made: Via (all), From, To,
    /// Call-ID, CSeq, in the order of the message. `None` where none can or may be made: a response, an ACK,
    /// no readable Via.
    pub answerable: Option<Answerable>,
}

/// Enough of a bad request to answer it.
#[derive(Clone, Debug)]
pub struct Answerable {
    pub via: Via,
    pub raw: Bytes,
    /// The lines to copy: Via, From, To, Call-ID, CSeq. Of a header that is repeated but Via, only the first.
    pub lines: Vec<Range<usize>>,
    /// False where a To is there that can be read and has no tag: then, and only then, one is to be added.
    pub has_to_tag: bool,
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub reason: RejectReason,
    pub detail: &'static str,
    pub code: u16,
}

impl RejectReason {
    /// The code that a request gets which was not taken for this reason; 414 is for one detail alone.
    const fn code(self) -> u16 {
        match self {
            RejectReason::Version => 505,
            RejectReason::TooLarge => 513,
            RejectReason::Malformed
            | RejectReason::MissingHeader
            | RejectReason::BadHeader
            | RejectReason::BadLength => 400,
        }
    }
}

impl Fault {
    pub(super) const fn new(reason: RejectReason, detail: &'static str) -> Fault {
        Fault { reason, detail, code: reason.code() }
    }

    pub(super) const fn malformed(detail: &'static str) -> Fault {
        Fault::new(RejectReason::Malformed, detail)
    }

    pub(super) const fn missing(detail: &'static str) -> Fault {
        Fault::new(RejectReason::MissingHeader, detail)
    }

    pub(super) const fn bad_header(detail: &'static str) -> Fault {
        Fault::new(RejectReason::BadHeader, detail)
    }

    pub(super) const fn bad_length(detail: &'static str) -> Fault {
        Fault::new(RejectReason::BadLength, detail)
    }

    pub(super) const fn version() -> Fault {
        Fault::new(RejectReason::Version, "another version than SIP/2.0")
    }

    pub(super) const fn too_large(detail: &'static str) -> Fault {
        Fault::new(RejectReason::TooLarge, detail)
    }

    pub(super) const fn uri_too_long() -> Fault {
        Fault { code: 414, ..Fault::too_large("Request-URI too long") }
    }
}

/// Says no to a message; its head is read once more, leniently, for what an answer needs.
pub(super) fn reject(raw: Bytes, fault: Fault) -> Rejected {
    Rejected { reason: fault.reason, detail: fault.detail, code: fault.code, answerable: answerable(raw) }
}

impl Rejected {
    /// The request, where nothing is wrong with it but its size; one that a stream did not bring whole, without its body.
    pub fn beyond_limits(&self) -> Option<Message> {
        let raw = self.answerable.as_ref().filter(|_| self.reason == RejectReason::TooLarge)?.raw.clone();
        let whole = || Message::parse(raw.clone(), &Limits::NONE).ok();
        whole().or_else(|| Message::parse(without_body(&raw)?, &Limits::NONE).ok())
    }
}

/// The head, whose last lines may be missing, as that of a message that has no body.
fn without_body(raw: &[u8]) -> Option<Bytes> {
    let mut at = memchr::memchr(b'\n', raw)? + 1;
    let mut head = raw.get(..at)?.to_vec();
    while at < raw.len() {
        let Some(field) = field_at(raw, at).ok()? else { break };
        if field.name != Name::ContentLength {
            head.extend_from_slice(raw.get(at..field.end as usize)?);
        }
        at = field.end as usize;
    }
    head.extend_from_slice(b"\r\n");
    Some(head.into())
}

fn answerable(raw: Bytes) -> Option<Answerable> {
    if request_method(&raw)? == b"ACK" {
        return None;
    }
    let lines = lines(&raw)?;
    let top = Elements::new(&raw, &lines, Name::Via).next()?;
    let via = Via::parse_at(&raw, top)?;
    let to = lines.iter().find(|field| field.name == Name::To);
    let has_to_tag = to.is_none_or(|to| tag(&raw, to) != Ok(None));
    let lines = lines.iter().map(|field| field.start as usize..field.end as usize).collect();
    Some(Answerable { via, raw, lines, has_to_tag })
}

/// The fields that an answer repeats; `None` where the head cannot be tiled. It may end without its empty line.
fn lines(raw: &[u8]) -> Option<Vec<Field>> {
    let mut lines: Vec<Field> = Vec::new();
    let mut seen = [false; Name::COUNT];
    let mut at = memchr::memchr(b'\n', raw)? + 1;
    while at < raw.len() {
        let Some(field) = field_at(raw, at).ok()? else { break };
        at = field.end as usize;
        let repeated = seen.get_mut(field.name.index()).is_some_and(|seen| std::mem::replace(seen, true));
        match field.name {
            Name::Via => lines.push(field),
            Name::From | Name::To | Name::CallId | Name::CSeq if !repeated => lines.push(field),
            _ => {}
        }
    }
    Some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { fields: 8, ..Limits::standard(2_000) };

    fn rejected(text: &str) -> Rejected {
        *Message::parse(text.to_owned().into(), &LIMITS).unwrap_err()
    }

    /// The lines that an answer to `text` would repeat.
    fn answer(text: &str) -> Option<String> {
        let answerable = rejected(text).answerable?;
        Some(answerable.lines.iter().map(|line| std::str::from_utf8(&answerable.raw[line.clone()]).unwrap()).collect())
    }

    #[test]
    fn a_request_without_essentials_is_answered_with_what_it_has() {
        let text =
            "INVITE sip:a@b SIP/2.0\r\nX: 1\r\nv: SIP/2.0/UDP h\r\nCSeq: 1\r\n INVITE\r\nVia: SIP/2.0/UDP g\r\n\r\n";
        assert_eq!((rejected(text).reason, rejected(text).code), (RejectReason::MissingHeader, 400));
        assert_eq!(answer(text).as_deref(), Some("v: SIP/2.0/UDP h\r\nCSeq: 1\r\n INVITE\r\nVia: SIP/2.0/UDP g\r\n"));
        let via = rejected(text).answerable.unwrap().via;
        assert_eq!(&text[via.host], "h");
    }

    #[test]
    fn a_repeated_header_is_answered_with_its_first_line() {
        let text = "INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h\r\nTo: <sip:a>\r\nTo: <sip:b>;tag=1\r\n\r\n";
        assert_eq!(answer(text).as_deref(), Some("Via: SIP/2.0/UDP h\r\nTo: <sip:a>\r\n"));
        assert!(!rejected(text).answerable.unwrap().has_to_tag);
    }

    #[test]
    fn a_tag_is_wanted_only_where_one_can_be_added() {
        let has_to_tag = |to: &str| {
            let text = format!("INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h\r\n{to}\r\n");
            rejected(&text).answerable.unwrap().has_to_tag
        };
        assert!(!has_to_tag("To: <sip:a>\r\n"));
        assert!(has_to_tag("t: <sip:a>;tag=1\r\n"));
        assert!(has_to_tag("To: \"open <sip:a>\r\n"));
        assert!(has_to_tag(""));
    }

    #[test]
    fn what_may_not_be_answered_is_not() {
        let via = "Via: SIP/2.0/UDP h\r\n";
        assert_eq!(answer(&format!("ACK sip:a@b SIP/2.0\r\n{via}\r\n")), None);
        assert_eq!(answer(&format!("SIP/2.0 200 OK\r\n{via}\r\n")), None);
        assert_eq!(answer("INVITE sip:a@b SIP/2.0\r\nVia: h\r\n\r\n"), None);
        assert_eq!(answer("INVITE sip:a@b SIP/2.0\r\n\r\n"), None);
        assert_eq!(answer(&format!("INVITE sip:a@b SIP/2.0\r\n{via}no colon\r\n\r\n")), None);
        assert_eq!(answer(&format!("INVITE sip:a@b SIP/2.0\r\n{via}X: 1\n\r\n")), None);
        assert_eq!(answer(&format!("GET / HTTP/1.1\r\n{via}\r\n")), None);
        assert_eq!(answer("\r\n\r\n"), None);
    }

    #[test]
    fn a_bad_request_line_can_be_answered() {
        let lines = "Via: SIP/2.0/UDP h\r\n";
        for line in [
            "INVITE  sip:a@b  SIP/2.0",
            "INVITE sip:a@b; lr SIP/2.0",
            "INVITE sip:a@b SIP/2.0 ",
            "INVITE <sip:a@b> SIP/2.0",
        ] {
            let text = format!("{line}\r\n{lines}\r\n");
            assert_eq!((rejected(&text).code, answer(&text).as_deref()), (400, Some(lines)), "{line}");
        }
        let text = format!("INVITE sip:a@b SIP/7.0\r\n{lines}\r\n");
        assert_eq!((rejected(&text).code, answer(&text).as_deref()), (505, Some(lines)));
    }

    #[test]
    fn what_is_too_large_gets_513() {
        let many = format!("INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h\r\n{}\r\n", "X: 1\r\n".repeat(8));
        let long = format!("INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h\r\n\r\n{}", "x".repeat(2_000));
        let name = format!("INVITE sip:a@b SIP/2.0\r\n{}: x\r\n\r\n", "x".repeat(70_000));
        for text in [&many, &long] {
            assert_eq!((rejected(text).reason, rejected(text).code), (RejectReason::TooLarge, 513));
            assert_eq!(answer(text).as_deref(), Some("Via: SIP/2.0/UDP h\r\n"));
        }
        let limits = Limits { message_bytes: 100_000, field_bytes: usize::MAX, ..LIMITS };
        assert_eq!(Message::parse(name.into(), &limits).unwrap_err().reason, RejectReason::TooLarge);
    }
}
