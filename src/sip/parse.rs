//! Reading one message into its index: tiling of the head, essentials, length of the body
//! (RFC 3261 §7, §8.1.1, §18.3).

use std::ops::Range;

use bytes::{Buf, Bytes};

use super::index::Firsts;
use super::lex::{has_only_quoted_nuls, is_lws, line_end, low_byte, number, skip, skip_lws, token_end, trim};
use super::list::Elements;
use super::reject::{Fault, reject};
use super::start::start_line;
use super::value::BadTag;
use super::{CSeq, Essentials, Field, Limits, Message, Method, Name, Rejected, Start, value, via};
use crate::scan::find;

/// One more than the largest number of a CSeq (RFC 3261 §8.1.1.5).
const CSEQ_LIMIT: u64 = 1 << 31;

pub(super) fn parse(message: &mut Message, mut raw: Bytes, limits: &Limits) -> Result<(), Box<Rejected>> {
    // RFC 3261 §7.5: line ends before the start line are ignored.
    while raw.starts_with(b"\r\n") {
        raw.advance(2);
    }
    message.begin(raw);
    read(message, limits).map_err(|fault| Box::new(reject(std::mem::take(&mut message.raw), fault)))
}

/// The header field that begins at `at`; `None` at the empty line that ends the head.
pub(super) fn field_at(raw: &[u8], at: usize) -> Result<Option<Field>, Fault> {
    match plain_field(raw, at) {
        Some(field) => Ok(Some(field)),
        None => any_field(raw, at),
    }
}

/// The form that nearly all fields have: name, colon, one space, value, CRLF; no fold, no NUL, no white space else at
/// either end of the value.
#[inline(always)]
fn plain_field(raw: &[u8], at: usize) -> Option<Field> {
    let colon = find([b':'], raw, at)?;
    let text = raw.get(at..colon).filter(|text| text.len() <= LONGEST_NAME)?;
    let name = match Name::as_usual(text) {
        Some(name) => name,
        None if !text.is_empty() && token_end(text, 0) == text.len() => Name::in_any_case(text),
        None => return None,
    };
    let value_start = colon + 2;
    let value_end = low_byte(raw, value_start)?;
    let [b' ', first, ..] = raw.get(colon + 1..)? else { return None };
    // The value holds no other white space than spaces; where it is empty, the last byte is the space before it.
    let [last, b'\r', b'\n', next, ..] = raw.get(value_end - 1..)? else { return None };
    let is_plain = *first != b' ' && *last != b' ' && !matches!(next, b' ' | b'\t') && raw.len() <= LONGEST;
    is_plain.then_some(Field {
        name,
        name_len: text.len() as u16,
        start: at as u32,
        value_start: value_start as u32,
        value_end: value_end as u32,
        end: value_end as u32 + 2,
    })
}

/// Beyond this a message has no offsets.
const LONGEST: usize = u32::MAX as usize;
/// Longer names are for the whole grammar.
const LONGEST_NAME: usize = 64;

fn any_field(raw: &[u8], at: usize) -> Result<Option<Field>, Fault> {
    let name_end = token_end(raw, at);
    if name_end == at {
        let end_of_head = raw.get(at..).is_some_and(|rest| rest.starts_with(b"\r\n"));
        return if end_of_head { Ok(None) } else { Err(no_field(raw, at)) };
    }
    let colon = skip(raw, name_end, |byte| matches!(byte, b' ' | b'\t'));
    if raw.get(colon) != Some(&b':') {
        return Err(no_field(raw, colon));
    }
    let mut nul = false;
    let mut at_line_end = colon + 1;
    let line_end = loop {
        match line_end(raw, at_line_end, &mut nul) {
            Err(bad) => return Err(Fault::malformed(bad.detail())),
            Ok(None) => return Err(Fault::malformed("the head does not end")),
            // A line that begins with white space continues the field (RFC 3261 §7.3.1).
            Ok(Some(cr)) if matches!(raw.get(cr + 2), Some(b' ' | b'\t')) => at_line_end = cr + 2,
            Ok(Some(cr)) => break cr,
        }
    };
    let value = trim(raw, colon + 1..line_end);
    if nul && !raw.get(value.clone()).is_some_and(has_only_quoted_nuls) {
        return Err(Fault::malformed("NUL in the head"));
    }
    let name = Name::from_bytes(raw.get(at..name_end).unwrap_or_default());
    Ok(Some(Field {
        name,
        start: offset(at)?,
        name_len: u16::try_from(name_end - at).map_err(|_| Fault::too_large("header name too long"))?,
        value_start: offset(value.start)?,
        value_end: offset(value.end)?,
        end: offset(line_end + 2)?,
    }))
}

/// Reads a message of which nothing is known yet.
fn read(message: &mut Message, limits: &Limits) -> Result<(), Fault> {
    let Message { raw, start, fields, firsts, body, uri_parts, essentials } = message;
    if raw.len() > limits.message_bytes {
        return Err(Fault::too_large("message too long"));
    }
    let text = &**raw;
    let mut at;
    (*start, *uri_parts, at) = start_line(text, limits)?;
    let mut last_via = 0;
    loop {
        if text.get(at..).is_some_and(|rest| rest.starts_with(b"\r\n")) {
            break;
        }
        let field = match plain_field(text, at) {
            Some(field) => field,
            None => match any_field(text, at)? {
                Some(field) => field,
                None => break,
            },
        };
        if fields.count() == limits.fields {
            return Err(Fault::too_large("too many header fields"));
        }
        if (field.end - field.start) as usize > limits.field_bytes {
            return Err(Fault::too_large("header field too long"));
        }
        if field.name == Name::Other {
            firsts.note_other(named(text, &field));
        } else if !firsts.note(field.name, fields.count()) {
            may_be_repeated(field.name)?;
            if field.name == Name::Via {
                last_via = fields.len();
            }
        }
        at = field.end as usize;
        fields.push(field);
    }
    *body = at + 2;
    if has_more_vias(limits.vias, text, fields, firsts.of(Name::Via, fields).unwrap_or(0), last_via) {
        return Err(Fault::too_large("too many Vias"));
    }
    read_essentials(essentials, text, start, fields, firsts)?;
    let length = firsts.of(Name::ContentLength, fields).and_then(|at| fields.get(at));
    if let Some(field) = length {
        let end = *body + content_length(text, field, text.len() - *body)?;
        raw.truncate(end);
    }
    Ok(())
}

/// Whether there are more Via values than so many, given the first and the last of their fields.
fn has_more_vias(most: usize, raw: &[u8], fields: &[Field], first: usize, last: usize) -> bool {
    /// `S/2/U h,`: nearly all messages are told by their size to have few.
    const SHORTEST: usize = 8;
    let bounds = fields.get(first).zip(fields.get(last.max(first)));
    let size = bounds.map_or(0, |(first, last)| (last.end - first.start) as usize);
    size / SHORTEST > most && Elements::from_field(raw, fields, Name::Via, first).nth(most).is_some()
}

/// Whether there may be a second field of this name.
fn may_be_repeated(name: Name) -> Result<(), Fault> {
    Err(match name {
        Name::From => Fault::bad_header("From is repeated"),
        Name::To => Fault::bad_header("To is repeated"),
        Name::CallId => Fault::bad_header("Call-ID is repeated"),
        Name::CSeq => Fault::bad_header("CSeq is repeated"),
        Name::MaxForwards => Fault::bad_header("Max-Forwards is repeated"),
        Name::ContentLength => Fault::bad_length("Content-Length is repeated"),
        _ => return Ok(()),
    })
}

fn read_essentials(
    essentials: &mut Essentials,
    raw: &[u8],
    start: &Start,
    fields: &[Field],
    firsts: &Firsts,
) -> Result<(), Fault> {
    let first = |name, missing| firsts.of(name, fields).ok_or(Fault::missing(missing));
    let field = |name, missing| first(name, missing).map(|at| fields.get(at));
    let top = first(Name::Via, "no Via")?;
    let flaw = via::read_topmost(&mut essentials.via, raw, fields, top);
    if let Some(flaw) = flaw.ok_or(Fault::bad_header("the topmost Via cannot be read"))? {
        return Err(Fault::bad_header(flaw));
    }
    let from = field(Name::From, "no From")?;
    let to = field(Name::To, "no To")?;
    essentials.call_id = field(Name::CallId, "no Call-ID")?.map(value_range).unwrap_or_default();
    if essentials.call_id.is_empty() {
        return Err(Fault::bad_header("Call-ID is empty"));
    }
    let cseq = field(Name::CSeq, "no CSeq")?.and_then(|field| self::cseq(raw, field));
    let (number, method_text) = cseq.ok_or(Fault::bad_header("CSeq cannot be read"))?;
    let method_bytes = raw.get(method_text.clone()).unwrap_or_default();
    let method = match start {
        Start::Request { method_text, .. } if raw.get(method_text.clone()) != Some(method_bytes) => {
            return Err(Fault::bad_header("CSeq has another method than the request"));
        }
        Start::Request { method, .. } => *method,
        Start::Response { .. } => Method::from_bytes(method_bytes),
    };
    essentials.cseq = CSeq { number, method };
    essentials.cseq_method = method_text;
    let tag_of = |field: Option<&Field>, open, repeated| {
        field.map_or(Err(BadTag::Open), |field| tag(raw, field)).map_err(|bad| match bad {
            BadTag::Open => Fault::bad_header(open),
            BadTag::Repeated => Fault::bad_header(repeated),
        })
    };
    essentials.from_tag = tag_of(from, "From: quotes or brackets do not close", "From: tag is repeated")?;
    essentials.to_tag = tag_of(to, "To: quotes or brackets do not close", "To: tag is repeated")?;
    Ok(())
}

/// The tag of a From or To field.
pub(super) fn tag(raw: &[u8], field: &Field) -> Result<Option<Range<usize>>, BadTag> {
    let value = value_range(field);
    let tag = value::tag_at(raw.get(value.clone()).unwrap_or_default())?;
    Ok(tag.map(|tag| value.start + tag.start..value.start + tag.end))
}

fn named<'a>(raw: &'a [u8], field: &Field) -> &'a [u8] {
    raw.get(field.start as usize..field.start as usize + usize::from(field.name_len)).unwrap_or_default()
}

pub(super) const fn value_range(field: &Field) -> Range<usize> {
    field.value_start as usize..field.value_end as usize
}

fn cseq(raw: &[u8], field: &Field) -> Option<(u32, Range<usize>)> {
    let text = raw.get(..field.value_end as usize)?;
    let digits = field.value_start as usize..skip(text, field.value_start as usize, |byte| byte.is_ascii_digit());
    let number = number(text.get(digits.clone())?).filter(|number| *number < CSEQ_LIMIT)?;
    let method = skip_lws(text, digits.end)..text.len();
    let parted = text.get(digits.end).is_some_and(|byte| is_lws(*byte));
    let is_known = || text.get(method.clone()).is_some_and(|method| Method::from_bytes(method) != Method::Other);
    let valid = parted && (is_known() || token_end(text, method.start) == text.len());
    valid.then_some((u32::try_from(number).ok()?, method))
}

/// The length of the body, of which `available` bytes are there.
fn content_length(raw: &[u8], field: &Field, available: usize) -> Result<usize, Fault> {
    let length = body_length(raw, field)?;
    usize::try_from(length)
        .ok()
        .filter(|length| *length <= available)
        .ok_or(Fault::bad_length("the body is shorter than Content-Length"))
}

/// What a Content-Length field says.
pub(super) fn body_length(raw: &[u8], field: &Field) -> Result<u64, Fault> {
    raw.get(value_range(field)).and_then(number).ok_or(Fault::bad_length("Content-Length is not a number"))
}

fn offset(at: usize) -> Result<u32, Fault> {
    u32::try_from(at).map_err(|_| Fault::too_large("message too long"))
}

/// What is wrong where a header field should be.
fn no_field(raw: &[u8], at: usize) -> Fault {
    Fault::malformed(match (raw.get(at), raw.get(at + 1)) {
        (None, _) | (Some(b'\r'), None) => "the head does not end",
        (Some(b'\r'), Some(b'\n')) => "header field without a colon",
        (Some(b'\r'), _) => "CR without LF in the head",
        (Some(b'\n'), _) => "LF without CR in the head",
        (Some(0), _) => "NUL in the head",
        (Some(b' ' | b'\t'), _) => "a fold with nothing to continue",
        _ => "header name with a byte that no name has",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::RejectReason;

    const LIMITS: Limits = Limits::standard(65_535);

    fn parsed(text: &[u8]) -> Message {
        Message::parse(Bytes::copy_from_slice(text), &LIMITS).unwrap_or_else(|rejected| panic!("{}", rejected.detail))
    }

    fn refused(text: impl AsRef<[u8]>) -> RejectReason {
        Message::parse(Bytes::copy_from_slice(text.as_ref()), &LIMITS).unwrap_err().reason
    }

    proptest::proptest! {
        #[test]
        fn a_plain_field_is_read_as_any_field_is(
            line in "(Via|to|X-[a-z]{1,30}|[a-zA-Z!]{0,2}|[ -~\t]{0,3}):[ \t]{0,2}[\x00\t -~\r\n\u{7f}\u{e9}]{0,12}\r\n[ \tA\r]?[\r\n]{0,2}"
        ) {
            let raw = line.as_bytes();
            if let Some(field) = plain_field(raw, 0) {
                proptest::prop_assert_eq!(any_field(raw, 0).ok().flatten(), Some(field));
            }
        }
    }

    #[test]
    fn nearly_all_fields_are_plain() {
        let long = format!("{}: v\r\nX", "n".repeat(LONGEST_NAME));
        for line in ["To: a\r\n\r\n", "Content-Length: 0\r\n\r\n", "X-Y: a b;c\r\nX", &long] {
            assert!(plain_field(line.as_bytes(), 0).is_some(), "{line:?}");
        }
        let longer = format!("n{long}");
        let others = ["To: a\r\n", "X:\r\n\r\n", "X: \r\n\r\n", "X:  a\r\n\r\n", "X: a \r\n\r\n", "X: a\r\n b\r\n\r\n"];
        let odd = [
            "X\r\nY: a\r\n\r\n",
            "X : a\r\n\r\n",
            "X:a\r\n\r\n",
            "X: a\0b\r\n\r\n",
            "X: a\nb\r\n\r\n",
            "X: a\tb\r\n\r\n",
            ": a\r\n\r\n",
        ];
        for line in others.into_iter().chain(odd).chain([&*longer]) {
            assert_eq!(plain_field(line.as_bytes(), 0), None, "{line:?}");
        }
    }

    #[test]
    fn nothing_is_left_of_the_message_that_was_read_before() {
        let tel = options("", "").replace("sip:a@b", "tel:+1");
        let many = options(&"Via: SIP/2.0/TCP i;rport;received=1, SIP/2.0/UDP j\r\nX: 1\r\n".repeat(20), "body");
        let response = format!("SIP/2.0 200 Fine\r\nv: SIP/2.0/TCP h;maddr=m\r\n{REST}Route: <sip:r>\r\n\r\nbody");
        let texts =
            [options("", ""), tel, many, response, "OPTIONS sip:a@b SIP/2.0\r\nX: 1\r\n\r\n".into(), "no".into()];
        let read =
            |message: &mut Message, text: &str| message.read(Bytes::copy_from_slice(text.as_bytes()), &LIMITS).is_ok();
        let parts = |message: &Message| {
            let Message { raw, start, fields, firsts, body, uri_parts, essentials } = message;
            format!("{raw:?} {start:?} {:?} {firsts:?} {body} {uri_parts:?} {essentials:?}", fields.to_vec())
        };
        for before in &texts {
            for text in &texts {
                let (mut message, mut fresh) = (Message::default(), Message::default());
                read(&mut message, before);
                message.release();
                assert_eq!(read(&mut message, text), read(&mut fresh, text));
                assert_eq!(parts(&message), parts(&fresh), "{text} behind {before}");
            }
        }
    }

    const VIA: &str = "Via: SIP/2.0/UDP h;branch=z9hG4bK1\r\n";
    const REST: &str = "From: <sip:f@b>;tag=1\r\nTo: <sip:t@b>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n";

    /// A valid request with more header lines and what follows the head.
    fn options(lines: &str, body: &str) -> String {
        format!("OPTIONS sip:a@b SIP/2.0\r\n{VIA}{REST}{lines}\r\n{body}")
    }

    #[test]
    fn a_request_is_read() {
        let message = parsed(options("Content-Length: 4\r\n", "body").as_bytes());
        assert!(message.is_request());
        assert_eq!((message.method(), message.code(), message.cseq().number), (Method::Options, 0, 1));
        assert_eq!((message.uri(), message.phrase()), (&b"sip:a@b"[..], &b""[..]));
        assert_eq!((message.call_id(), message.body()), (&b"c"[..], &b"body"[..]));
        assert_eq!((message.from_tag(), message.to_tag()), (Some(&b"1"[..]), None));
        assert_eq!(message.bytes(message.via().branch.clone().unwrap()), b"z9hG4bK1");
        assert_eq!(message.head_start(), 25);
        assert_eq!(&message.raw()[message.head_end()..], b"\r\nbody");
    }

    #[test]
    fn a_response_is_read() {
        for (line, code, phrase) in
            [("486 Busy Here", 486, "Busy Here"), ("100 ", 100, ""), ("699 \u{43d}", 699, "\u{43d}")]
        {
            let message = parsed(format!("sip/2.0 {line}\r\n{VIA}{REST}\r\n").as_bytes());
            assert!(!message.is_request());
            assert_eq!((message.code(), message.phrase()), (code, phrase.as_bytes()));
            assert_eq!((message.method(), message.uri()), (Method::Options, &b""[..]));
        }
    }

    #[test]
    fn white_space_and_letter_case_are_free_where_the_grammar_says() {
        let text = b"\r\n\r\nINVITE sip:a@b SIP/2.0\r\nTO :\r\n sip:t@b ;\ttag = 7n\r\nf   : \"J \\\\\\\"\"  <sip:f@b>\r\n  ;\r\n  tag = 9d\r\n\
            i:\tcall \r\nCONTENT-length   : 004\r\ncseq: 0009\r\n  INVITE\r\nVia  : SIP  /   2.0\r\n /UDP\r\n    h;branch=1\r\n\
            s :\r\nOdd!%*_+`'~.: ;;,,;;,;\r\n\r\nbody";
        let message = parsed(text);
        assert_eq!(message.raw(), &text[4..]);
        assert_eq!((message.to_tag(), message.from_tag()), (Some(&b"7n"[..]), Some(&b"9d"[..])));
        assert_eq!((message.call_id(), message.cseq()), (&b"call"[..], CSeq { number: 9, method: Method::Invite }));
        assert_eq!(message.named(&"Subject".into()).map(|field| message.value(field)).collect::<Vec<_>>(), [b""]);
        assert_eq!(
            message.named(&"odd!%*_+`'~.".into()).map(|field| message.value(field)).collect::<Vec<_>>(),
            [b";;,,;;,;"]
        );
        assert_eq!(message.body(), b"body");
    }

    #[test]
    fn headers_are_found_by_full_and_compact_name() {
        let message = parsed(options("k: 100rel\r\nSUPPORTED: timer\r\nm: <sip:m>\r\n", "").as_bytes());
        for (name, values) in [("Supported", 2), ("K", 2), ("Contact", 1), ("m", 1), ("via", 1), ("v", 1), ("Event", 0)]
        {
            assert_eq!(message.named(&name.into()).count(), values, "{name}");
        }
        let contact = message.first(Name::Contact).unwrap();
        assert_eq!((message.name(contact), message.value(contact)), (&b"m"[..], &b"<sip:m>"[..]));
    }

    #[test]
    fn values_may_hold_any_bytes_but_bare_line_ends_and_nul() {
        let with =
            |value: &[u8]| [options("X: ", "").strip_suffix("\r\n").unwrap().as_bytes(), value, b"\r\n\r\n"].concat();
        let value: Vec<u8> = (1..=255).filter(|byte| !b"\r\n".contains(byte)).chain([b'x']).collect();
        let message = parsed(&with(&value));
        assert_eq!(message.named(&"x".into()).map(|field| message.value(field)).collect::<Vec<_>>(), [&value[..]]);
        for value in [&b"a\rb"[..], b"a\nb", b"a\0b", b"\n", b"\r"] {
            assert_eq!(refused(with(value)), RejectReason::Malformed, "{value:?}");
        }
        assert_eq!(parsed(&with(b"\"\\\0\" <sip:x>")).named(&"x".into()).count(), 1);
    }

    #[test]
    fn what_follows_content_length_is_cut_off() {
        assert_eq!(parsed(options("l: 2\r\n", "body").as_bytes()).body(), b"bo");
        assert_eq!(parsed(options("l: 2\r\n", "body").as_bytes()).raw(), options("l: 2\r\n", "bo").as_bytes());
        assert_eq!(parsed(options("", "body").as_bytes()).body(), b"body");
        for length in ["5", "-1", "4x", "", "0x4", "4 4", "4,4", "99999999999999999999999"] {
            assert_eq!(refused(options(&format!("l: {length}\r\n"), "body")), RejectReason::BadLength, "{length}");
        }
        assert_eq!(refused(options("l: 4\r\nContent-Length: 4\r\n", "body")), RejectReason::BadLength);
    }

    #[test]
    fn essential_headers_are_there_once() {
        let all = options("", "");
        for line in ["Via: ", "From: ", "To: ", "Call-ID: ", "CSeq: "] {
            let without: String = all.split_inclusive("\r\n").filter(|found| !found.starts_with(line)).collect();
            assert_eq!(refused(without), RejectReason::MissingHeader, "{line}");
        }
        for line in ["f: <sip:f@b>", "t: <sip:t@b>", "i: c", "CSeq: 1 OPTIONS", "Max-Forwards: 1\r\nMax-Forwards: 1"] {
            assert_eq!(refused(options(&format!("{line}\r\n"), "")), RejectReason::BadHeader, "{line}");
        }
        assert_eq!(
            parsed(options("v: SIP/2.0/UDP g\r\nRoute: <sip:a>\r\nRoute: <sip:b>\r\n", "").as_bytes()).fields().len(),
            8
        );
    }

    #[test]
    fn essential_headers_must_be_readable() {
        let with = |old: &str, new: &str| {
            let text = options("", "");
            assert!(text.contains(old));
            refused(text.replace(old, new))
        };
        for cseq in
            ["2147483648 OPTIONS", "1 INVITE", "1 options", "1OPTIONS", "OPTIONS", "1", "-1 OPTIONS", "1 OPTIONS x", ""]
        {
            assert_eq!(with("1 OPTIONS", cseq), RejectReason::BadHeader, "{cseq}");
        }
        assert_eq!(with("Call-ID: c", "Call-ID: "), RejectReason::BadHeader);
        assert_eq!(with("To: <", "To: \"<"), RejectReason::BadHeader);
        assert_eq!(with("<sip:f@b>", "<sip:f@b"), RejectReason::BadHeader);
        for via in ["SIP/2.0/UDP h;;", "SIP/2.0/UDP h;branch=1;", "h", "SIP/2.0/UDP h:x"] {
            assert_eq!(with("SIP/2.0/UDP h;branch=z9hG4bK1", via), RejectReason::BadHeader, "{via}");
        }
    }

    #[test]
    fn an_unknown_method_is_known_by_its_bytes() {
        let text = options("", "").replace("OPTIONS", "RE%47IST%45R");
        let message = parsed(text.as_bytes());
        assert_eq!(message.method(), Method::Other);
        assert_eq!(message.bytes(message.essentials().cseq_method.clone()), b"RE%47IST%45R");
    }

    #[test]
    fn a_head_is_nothing_but_fields() {
        for lines in ["no colon\r\n", ": x\r\n", "a b: x\r\n", "a\u{e9}: x\r\n", "X: 1\r\n\t\r\n:\r\n", "(: x\r\n"] {
            assert_eq!(refused(options(lines, "")), RejectReason::Malformed, "{lines}");
        }
        assert_eq!(refused(format!("OPTIONS sip:a@b SIP/2.0\r\n {VIA}{REST}\r\n")), RejectReason::Malformed);
        let whole = options("", "");
        for end in 0..whole.len() {
            assert_eq!(refused(&whole[..end]), RejectReason::Malformed, "{end}");
        }
    }
}
