//! Messages: what [`Message::parse`] says of any bytes.
//!
//! Where it takes them, the ranges that it gives tile them and nothing else could be read in their place; where it does not,
//! what the core answers can be read.

use std::ops::Range;

use bytes::Bytes;
use sipstamp::endpoint::{Input, Output};
use sipstamp::sip::{Field, Message, Name, RejectReason, Rejected, Start, Via};

use crate::LIMITS;
use crate::messages;
use crate::world::World;

pub fn run(data: &[u8]) {
    let raw = Bytes::copy_from_slice(data);
    match Message::parse(raw, &LIMITS) {
        Ok(message) => {
            is_part_of(&message, data);
            tiles(&message);
            essentials_are_inside(&message);
            elements_are_inside(&message);
            is_read_again(&message);
        }
        Err(rejected) => is_answered(rejected),
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    messages::all().into_iter().chain(messages::broken()).map(String::into_bytes).collect()
}

/// Only line ends before the start line and what follows the body are cut off.
fn is_part_of(message: &Message, data: &[u8]) {
    let mut rest = data;
    while let Some(behind) = rest.strip_prefix(b"\r\n") {
        rest = behind;
    }
    assert!(rest.starts_with(message.raw()));
    let mut lengths = message.all(Name::ContentLength).map(|field| message.value(field));
    match lengths.next() {
        Some(length) => {
            let length = std::str::from_utf8(length).unwrap();
            assert!(length.bytes().all(|byte| byte.is_ascii_digit()));
            assert_eq!(length.parse(), Ok(message.body().len()));
            assert_eq!(lengths.next(), None);
        }
        None => assert_eq!(rest.len(), message.raw().len()),
    }
}

/// Start line, fields, empty line and body follow each other without a gap; no line end but CRLF is in the head, and what a
/// line continues is not another field.
fn tiles(message: &Message) {
    let raw = &message.raw()[..];
    let head = &raw[..message.head_end()];
    let body = message.head_end() + 2;
    assert_eq!(&raw[message.head_end()..body], b"\r\n");
    assert_eq!(message.body(), &raw[body..]);
    for (at, byte) in head.iter().enumerate() {
        match byte {
            b'\r' => assert_eq!(head[at + 1], b'\n'),
            b'\n' => assert_eq!(head[at - 1], b'\r'),
            _ => {}
        }
    }
    let mut at = message.head_start();
    let start = &head[..at];
    assert_eq!(start.iter().position(|byte| *byte == b'\n'), Some(at - 1));
    match message.start() {
        Start::Request { method_text, uri, .. } => {
            let (method, uri) = (&raw[method_text.clone()], &raw[uri.clone()]);
            assert!(start.eq_ignore_ascii_case(&[method, b" ", uri, b" SIP/2.0\r\n"].concat()));
            assert!(!uri.iter().any(|byte| byte.is_ascii_whitespace()));
        }
        Start::Response { code, phrase } => {
            assert!((100..700).contains(code));
            assert_eq!(phrase.end, at - 2);
            assert_eq!(&raw[8..11], code.to_string().as_bytes());
        }
    }
    for field in message.fields() {
        assert_eq!(field.start as usize, at);
        at = field.end as usize;
        is_one_field(head, field);
    }
    assert_eq!(at, head.len());
}

fn is_one_field(head: &[u8], field: &Field) {
    let name_end = field.start as usize + usize::from(field.name_len);
    let name = &head[field.start as usize..name_end];
    assert!(!name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic() && *byte != b':'));
    assert_eq!(field.name, Name::from_bytes(name));
    let text = &head[field.start as usize..field.end as usize];
    assert!(text.ends_with(b"\r\n"));
    // Each line but the first continues the one before it, and the line behind the field does not.
    for (at, _) in text.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        let next = text.get(at + 1);
        assert!(next.is_none_or(|byte| matches!(byte, b' ' | b'\t')));
    }
    assert!(!matches!(head.get(field.end as usize), Some(b' ' | b'\t')));
    let (start, end) = (field.value_start as usize, field.value_end as usize);
    let before = head[name_end..start].iter().filter(|byte| !byte.is_ascii_whitespace()).collect::<Vec<_>>();
    assert_eq!(before, [&b':']);
    assert!(head[end..field.end as usize].iter().all(|byte| byte.is_ascii_whitespace()));
    let value = &head[start..end];
    let is_white = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'));
    assert!(!is_white(value.first()) && !is_white(value.last()));
}

fn essentials_are_inside(message: &Message) {
    let essentials = message.essentials();
    let within = |name: Name, range: &Range<usize>| {
        let field = message.first(name).unwrap();
        assert!(field.value_start as usize <= range.start && range.end <= field.value_end as usize);
        assert!(range.start < range.end);
    };
    within(Name::CallId, &essentials.call_id);
    within(Name::CSeq, &essentials.cseq_method);
    essentials.from_tag.iter().for_each(|tag| within(Name::From, tag));
    essentials.to_tag.iter().for_each(|tag| within(Name::To, tag));
    within(Name::Via, &essentials.via.element.range);
    via_is_inside(&essentials.via);
    assert!(message.bytes(essentials.cseq_method.clone()).iter().all(u8::is_ascii_graphic));
    assert!(essentials.cseq.number < 1 << 31);
    for name in [Name::From, Name::To, Name::CallId, Name::CSeq, Name::MaxForwards, Name::ContentLength] {
        assert!(message.all(name).count() <= 1);
    }
}

/// All parts of a Via lie in its element.
pub fn via_is_inside(via: &Via) {
    let parts = [&via.transport, &via.host].into_iter().chain(&via.branch).chain(&via.received).chain(&via.maddr);
    for part in parts.chain(via.rport.as_ref().map(|(range, _)| range)) {
        assert!(via.element.range.start <= part.start && part.end <= via.element.range.end);
        assert!(part.start < part.end);
    }
    assert!(via.transport.end < via.host.start);
}

/// Elements of a list follow each other in their fields, with commas and white space between them.
fn elements_are_inside(message: &Message) {
    let raw = &message.raw()[..];
    for name in Name::ALL.iter().copied().filter(|name| *name != Name::Other) {
        let mut before: Option<(usize, usize)> = None;
        for element in message.elements(name) {
            let field = &message.fields()[element.field];
            assert_eq!(field.name, name);
            let start = before.filter(|(of, _)| *of == element.field).map(|(_, end)| end);
            assert_eq!(element.first, start.is_none());
            assert!(before.is_none_or(|(of, _)| of <= element.field));
            let gap = &raw[start.unwrap_or(field.value_start as usize)..element.range.start];
            assert!(gap.iter().all(|byte| matches!(byte, b',' | b' ' | b'\t' | b'\r' | b'\n')));
            assert!(start.is_none() || gap.contains(&b','));
            assert!(!element.range.is_empty() && element.range.end <= field.value_end as usize);
            before = Some((element.field, element.range.end));
            if let Some(via) = Via::parse_at(raw, element.clone()).filter(|_| name == Name::Via) {
                via_is_inside(&via);
            }
        }
    }
}

fn is_read_again(message: &Message) {
    let again = Message::parse(message.raw().clone(), &LIMITS).unwrap();
    assert_eq!(again.raw(), message.raw());
    assert_eq!(again.start(), message.start());
    assert_eq!(again.fields(), message.fields());
    assert_eq!(format!("{:?}", again.essentials()), format!("{:?}", message.essentials()));
}

/// What goes back to whoever sent a broken message is one message, as far as its own header fields can be read.
fn is_answered(rejected: Box<Rejected>) {
    let mut world = World::quiet();
    let code = rejected.code;
    let may_be_answered = rejected.answerable.is_some();
    let flow = world.flow_of_dialer();
    world.endpoint.handle(world.now, Input::Broken { flow, rejected });
    let mut answers = 0;
    loop {
        match world.endpoint.poll_output() {
            Output::Transmit(transmit) => {
                answers += 1;
                match Message::parse(transmit.bytes.clone(), &LIMITS) {
                    Ok(message) => {
                        assert_eq!(message.code(), code);
                        assert_eq!(message.raw(), &transmit.bytes);
                        tiles(&message);
                    }
                    Err(rejected) => {
                        let is_of_theirs =
                            matches!(rejected.reason, RejectReason::MissingHeader | RejectReason::BadHeader);
                        assert!(is_of_theirs, "{} in {:?}", rejected.detail, transmit.bytes);
                    }
                }
            }
            Output::Notice(_) => {}
            Output::Idle { .. } => break,
            output => panic!("{output:?} for a broken message"),
        }
    }
    assert_eq!(answers, usize::from(may_be_answered));
}
