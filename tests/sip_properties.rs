//! What holds for every message: properties of the index, the edits and the framing.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a property that panics has failed")]

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::string::string_regex;
use sipstamp::sip::{Edits, Frame, FrameError, Framer, Limits, Message, Name, NameAddr, Params, Uri, Via, subscriber};

const LIMITS: Limits = Limits::standard(65_535);

/// A Via element as it is sent.
#[derive(Clone, Debug)]
struct SentVia {
    transport: &'static str,
    host: String,
    port: Option<u16>,
    branch: Option<String>,
    rport: bool,
}

/// What a generated message says.
#[derive(Clone, Debug)]
struct Sent {
    method: String,
    /// Status code; a request where there is none.
    code: Option<u16>,
    uri: String,
    vias: Vec<SentVia>,
    display: &'static str,
    from_tag: Option<String>,
    to_tag: Option<String>,
    call_id: String,
    number: u32,
    others: Vec<(String, String)>,
    body: Vec<u8>,
}

/// How it is written, which changes nothing of what it says.
#[derive(Clone, Debug)]
struct Style {
    compact: bool,
    upper: bool,
    /// All Vias in one field.
    listed: bool,
    has_length: bool,
    /// A quoted parameter stands before each tag.
    quoted: bool,
    before_colon: &'static str,
    gap: &'static str,
    around_commas: &'static str,
    /// Which of the fields comes first; those before it follow at the end.
    turn: usize,
}

/// As a program writes that follows the examples of the RFC.
const PLAIN: Style = Style {
    compact: false,
    upper: false,
    listed: false,
    has_length: true,
    quoted: false,
    before_colon: "",
    gap: " ",
    around_commas: "",
    turn: 0,
};

fn text(pattern: &str) -> impl Strategy<Value = String> + use<> {
    string_regex(pattern).unwrap()
}

fn sent_via(hosts: &'static str, branches: &'static str) -> impl Strategy<Value = SentVia> {
    let ports = prop::option::of(1..=u16::MAX);
    let branch = prop::option::of(text(branches));
    (select(vec!["UDP", "TCP"]), text(hosts), ports, branch, any::<bool>())
        .prop_map(|(transport, host, port, branch, rport)| SentVia { transport, host, port, branch, rport })
}

fn sent(vias: impl Strategy<Value = SentVia>, displays: &'static [&'static str]) -> impl Strategy<Value = Sent> {
    let start = (
        select(vec!["INVITE", "ACK", "BYE", "OPTIONS", "INFO", "RE%47", "x-y.z!"]),
        prop::option::of(100..=699_u16),
        select(vec!["sip:b@192.0.2.1", "sips:+15550100@example.com:5071;user=phone", "sip:[2001:db8::1];lr", "tel:+1"]),
    );
    let tags = (prop::option::of(text("[a-z0-9._!%*+-]{1,20}")), prop::option::of(text("[a-z0-9]{1,20}")));
    let numbers = (text("[a-zA-Z0-9@.<>:/?{}-]{1,40}"), 0..1_u32 << 31);
    let other = (text("X-[A-Za-z0-9!%*_+`'~.-]{1,12}"), text("([\"!-+./-~][ -~]{0,30}[!-~])?"));
    let rest = (prop::collection::vec(other, 0..6), prop::collection::vec(any::<u8>(), 0..60));
    (start, prop::collection::vec(vias, 1..4), select(displays), tags, numbers, rest).prop_map(
        |((method, code, uri), vias, display, (from_tag, to_tag), (call_id, number), (others, body))| Sent {
            method: method.to_owned(),
            code,
            uri: uri.to_owned(),
            vias,
            display,
            from_tag,
            to_tag,
            call_id,
            number,
            others,
            body,
        },
    )
}

fn any_sent() -> impl Strategy<Value = Sent> {
    let displays = &["", "Bob ", "\"a;b, \\\"<c>;tag=no\\\\\" ", "\"\\\0\""];
    sent(sent_via(r"[a-z0-9.-]{1,20}|\[[0-9a-f:]{2,10}\]", "[!%*_+`'~.a-zA-Z0-9=-]{1,30}"), displays)
}

fn style() -> impl Strategy<Value = Style> {
    let gaps = || select(vec!["", " ", "\t", "\r\n ", " \r\n\t "]);
    let bools = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (bools, select(vec!["", " ", "\t "]), gaps(), gaps(), 0..12_usize).prop_map(
        |((compact, upper, listed, has_length, quoted), before_colon, gap, around_commas, turn)| Style {
            compact,
            upper,
            listed,
            has_length,
            quoted,
            before_colon,
            gap,
            around_commas,
            turn,
        },
    )
}

impl SentVia {
    fn write(&self) -> String {
        let port = self.port.map_or(String::new(), |port| format!(":{port}"));
        let branch = self.branch.as_ref().map_or(String::new(), |branch| format!(";branch={branch}"));
        format!("SIP/2.0/{} {}{port}{branch}{}", self.transport, self.host, if self.rport { ";rport" } else { "" })
    }
}

impl Sent {
    fn write(&self, style: &Style) -> Vec<u8> {
        let before_tag = if style.quoted { ";x=\"a;b\\\";tag=no\"" } else { "" };
        let tag = |tag: &Option<String>| tag.as_ref().map_or(String::new(), |tag| format!("{before_tag};tag={tag};y"));
        let mut fields: Vec<(&str, &str, String)> = vec![
            ("From", "f", format!("{}<sip:f@example.com;tag=no>{}", self.display, tag(&self.from_tag))),
            ("To", "t", format!("{}<sip:t@example.com>{}", self.display, tag(&self.to_tag))),
            ("Call-ID", "i", self.call_id.clone()),
            ("CSeq", "CSeq", format!("{} {}", self.number, self.method)),
        ];
        if style.has_length {
            fields.push(("Content-Length", "l", self.body.len().to_string()));
        }
        fields.extend(self.others.iter().map(|(name, value)| (&name[..], &name[..], value.clone())));
        let count = fields.len();
        fields.rotate_left(style.turn % count);
        let vias: Vec<String> = self.vias.iter().map(SentVia::write).collect();
        let comma = format!("{0},{0}", style.around_commas);
        let vias = if style.listed { vec![vias.join(&comma)] } else { vias };
        fields.splice(count / 2..count / 2, vias.into_iter().map(|via| ("Via", "v", via)));

        let mut wire = match self.code {
            Some(code) => format!("SIP/2.0 {code} Any Phrase\r\n"),
            None => format!("{} {} SIP/2.0\r\n", self.method, self.uri),
        };
        for (full, compact, value) in fields {
            let name = if style.compact { compact } else { full };
            let name = if style.upper { name.to_uppercase() } else { name.to_owned() };
            wire.push_str(&format!("{name}{}:{}{value}{}\r\n", style.before_colon, style.gap, style.around_commas));
        }
        let mut wire = wire.into_bytes();
        wire.extend_from_slice(b"\r\n");
        wire.extend_from_slice(&self.body);
        wire
    }
}

fn parse(wire: &[u8]) -> Message {
    Message::parse(Bytes::copy_from_slice(wire), &LIMITS)
        .unwrap_or_else(|rejected| panic!("{}: {}", rejected.detail, String::from_utf8_lossy(wire)))
}

/// What holds for every message that is taken, however odd; reads all that can be read.
fn check_invariants(message: &Message) -> Result<(), TestCaseError> {
    let mut at = message.head_start();
    for field in message.fields() {
        prop_assert_eq!(field.start as usize, at);
        prop_assert!(message.raw()[at..].starts_with(message.name(field)));
        prop_assert_eq!(Name::from_bytes(message.name(field)), field.name);
        let value = message.value(field);
        let colon = message.bytes(at + usize::from(field.name_len)..field.value_start as usize);
        prop_assert!(value.is_empty() || colon.contains(&b':'));
        prop_assert!(field.value_end <= field.end - 2);
        prop_assert_eq!(value.trim_ascii().len(), value.trim_ascii_start().len());
        let _ = NameAddr::parse(value).map(|address| (address.tag(), Uri::parse(address.uri), subscriber(address.uri)));
        let _ = Params(value).iter().count();
        at = field.end as usize;
        prop_assert_eq!(&message.raw()[at - 2..at], b"\r\n");
    }
    prop_assert_eq!(at, message.head_end());
    prop_assert_eq!(&message.raw()[at..at + 2], b"\r\n");
    prop_assert_eq!(message.body(), &message.raw()[at + 2..]);
    for name in Name::ALL {
        let mut end = 0;
        for element in message.elements(*name) {
            prop_assert!(element.range.start >= end && element.range.start < element.range.end);
            end = element.range.end;
            let field = message.fields()[element.field];
            prop_assert_eq!(field.name, *name);
            prop_assert!(field.value_start as usize <= element.range.start && end <= field.value_end as usize);
            let _ = Via::parse_at(message.raw(), element);
        }
    }
    let again = parse(message.raw());
    prop_assert_eq!(again.fields(), message.fields());
    prop_assert_eq!(again.body(), message.body());
    Ok(())
}

/// Everything that a framer makes of a stream that comes in chunks; stops at the first error.
fn frames(chunks: impl IntoIterator<Item = Vec<u8>>) -> (Vec<Frame>, Option<FrameError>) {
    let mut framer = Framer::new(Limits { field_bytes: 300, ..Limits::standard(2_000) });
    let mut frames = Vec::new();
    for chunk in chunks {
        framer.buffer.extend_from_slice(&chunk);
        loop {
            match framer.next() {
                Ok(None) => break,
                Ok(Some(frame)) => frames.push(frame),
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// Cuts `bytes` at the given places, taken modulo their length.
fn chunks(bytes: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
}

#[derive(Clone, Debug)]
enum Mutation {
    Set(usize, u8),
    Cut(usize, usize),
    Repeat(usize, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let byte = prop_oneof![any::<u8>(), select(b"\r\n \t\0:;,\"<>\\=@[]/".to_vec())];
    prop_oneof![
        (any::<usize>(), byte).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (any::<usize>(), 0..20_usize).prop_map(|(at, length)| Mutation::Cut(at, length)),
        (any::<usize>(), 0..40_usize).prop_map(|(at, length)| Mutation::Repeat(at, length)),
    ]
}

fn mutate(mut wire: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        let range = |at: usize, length: usize| at % wire.len()..(at % wire.len() + length).min(wire.len());
        match *mutation {
            _ if wire.is_empty() => {}
            Mutation::Set(at, byte) => {
                let at = at % wire.len();
                wire[at] = byte;
            }
            Mutation::Cut(at, length) => drop(wire.drain(range(at, length))),
            Mutation::Repeat(at, length) => {
                let range = range(at, length);
                let again = wire[range.clone()].to_vec();
                wire.splice(range.end..range.end, again);
            }
        }
    }
    wire
}

proptest! {
    #[test]
    fn a_message_says_the_same_however_it_is_written(sent in any_sent(), style in style()) {
        let wire = sent.write(&style);
        let message = parse(&wire);
        check_invariants(&message)?;
        prop_assert_eq!(message.raw(), &wire);
        prop_assert_eq!(message.is_request(), sent.code.is_none());
        prop_assert_eq!(message.code(), sent.code.unwrap_or(0));
        prop_assert_eq!(message.uri(), if sent.code.is_none() { sent.uri.as_bytes() } else { b"" });
        prop_assert_eq!(message.call_id(), sent.call_id.as_bytes());
        prop_assert_eq!(message.from_tag(), sent.from_tag.as_ref().map(String::as_bytes));
        prop_assert_eq!(message.to_tag(), sent.to_tag.as_ref().map(String::as_bytes));
        prop_assert_eq!(message.cseq().number, sent.number);
        prop_assert_eq!(message.bytes(message.essentials().cseq_method.clone()), sent.method.as_bytes());
        prop_assert_eq!(message.body(), &sent.body[..]);
        let vias: Vec<Via> = message.elements(Name::Via).filter_map(|via| Via::parse_at(message.raw(), via)).collect();
        prop_assert_eq!(vias.len(), sent.vias.len());
        prop_assert_eq!(&vias[0], message.via());
        for (found, sent) in vias.into_iter().zip(&sent.vias) {
            prop_assert_eq!(message.bytes(found.transport), sent.transport.as_bytes());
            prop_assert_eq!(message.bytes(found.host), sent.host.as_bytes());
            prop_assert_eq!(found.port, sent.port);
            let branch = found.branch.map(|branch| message.bytes(branch));
            prop_assert_eq!(branch, sent.branch.as_ref().map(String::as_bytes));
            let rport = found.rport.map(|(range, has_value)| (message.bytes(range), has_value));
            prop_assert_eq!(rport, sent.rport.then_some((&b";rport"[..], false)));
        }
        for (name, value) in &sent.others {
            let header = sipstamp::sip::HeaderName::from(name.as_str());
            let mut found = message.named(&header).map(|field| message.value(field));
            prop_assert!(found.any(|found| found == value.as_bytes()), "{}: {}", name, value);
        }
    }

    /// rsip 0.4.0 is asked only where it is right: no compact names, folds, lists of Vias, white space
    /// around separators, IPv6 hosts, `=` in a branch, quoted display names and parameters, and methods
    /// that it knows.
    #[test]
    fn rsip_reads_the_same(
        sent in sent(sent_via("[a-z][a-z0-9]{0,9}\\.example", "[a-zA-Z0-9.-]{1,30}"), &["", "Bob "]),
    ) {
        use rsip::prelude::*;
        let method = if sent.method.bytes().all(|byte| byte.is_ascii_uppercase()) { &sent.method[..] } else { "INVITE" };
        let uri = if sent.uri.contains('[') || sent.uri.starts_with("tel") { "sip:b@192.0.2.1" } else { &sent.uri[..] };
        let call_id = sent.call_id.replace(|byte: char| !byte.is_ascii_alphanumeric(), "-");
        let sent = Sent { method: method.to_owned(), uri: uri.to_owned(), call_id, others: Vec::new(), ..sent };
        let wire = sent.write(&PLAIN);
        let message = parse(&wire);
        let oracle = rsip::SipMessage::try_from(&wire[..]).unwrap();
        prop_assert_eq!(oracle.is_request(), message.is_request());
        prop_assert_eq!(oracle.body(), message.body());
        prop_assert_eq!(oracle.call_id_header().unwrap().value().as_bytes(), message.call_id());
        let from = oracle.from_header().unwrap().tag().unwrap().map(|tag| tag.value().as_bytes().to_vec());
        prop_assert_eq!(from.as_deref(), message.from_tag());
        let to = oracle.to_header().unwrap().tag().unwrap().map(|tag| tag.value().as_bytes().to_vec());
        prop_assert_eq!(to.as_deref(), message.to_tag());
        let cseq = oracle.cseq_header().unwrap().typed().unwrap();
        prop_assert_eq!(cseq.seq, message.cseq().number);
        prop_assert_eq!(cseq.method.to_string(), message.method().label());
        let via = oracle.via_header().unwrap().typed().unwrap();
        let branch = via.branch().map(|branch| branch.value().as_bytes().to_vec());
        prop_assert_eq!(branch.as_deref(), message.via().branch.clone().map(|range| message.bytes(range)));
        let host = via.uri.host().to_string();
        prop_assert_eq!(host.as_bytes(), message.bytes(message.via().host.clone()));
        prop_assert_eq!(via.uri.port().map(|port| *port.value()), message.via().port);
    }

    #[test]
    fn edits_leave_every_other_byte_alone(
        sent in any_sent(),
        style in style(),
        cuts in prop::collection::vec((any::<usize>(), any::<bool>(), text("[a-z]{0,6}")), 0..12),
        shuffled in any::<prop::sample::Index>(),
    ) {
        let message = parse(&sent.write(&style));
        let length = message.raw().len();
        let mut cuts: Vec<_> = cuts.into_iter().map(|(at, wide, text)| (at % (length + 1), wide, text)).collect();
        cuts.sort_by_key(|cut| cut.0);
        // Every second gap between two cuts is replaced, the other places are inserted at.
        let ends: Vec<usize> = cuts.iter().skip(1).map(|cut| cut.0).chain([length]).collect();
        let mut changes: Vec<(Range<usize>, String)> =
            cuts.into_iter().zip(ends).map(|((at, wide, text), end)| (at..if wide { end } else { at }, text)).collect();
        if !changes.is_empty() {
            let middle = shuffled.index(changes.len());
            changes.rotate_left(middle);
        }
        let mut edits = Edits::default();
        let mut model: BTreeMap<usize, (usize, String)> = BTreeMap::new();
        for (range, text) in &changes {
            match (range.is_empty(), text.is_empty()) {
                (true, _) => edits.insert(range.start, text.as_bytes()),
                (false, true) => edits.remove(range.clone()),
                (false, false) => edits.replace(range.clone(), text.as_bytes()),
            }
            let (end, texts) = model.entry(range.start).or_default();
            *end = range.end.max(*end);
            texts.push_str(text);
        }
        let mut expected = message.raw().to_vec();
        for (start, (end, texts)) in model.into_iter().rev() {
            expected.splice(start..end, texts.into_bytes());
        }
        let mut out = BytesMut::new();
        prop_assert_eq!(edits.apply(&message, &mut out), &expected[..]);
        edits.clear();
        prop_assert_eq!(&edits.apply(&message, &mut out), message.raw());
    }

    #[test]
    fn elements_go_without_a_trace(
        sent in any_sent(),
        style in style(),
        count in 0..4_usize,
        index in any::<prop::sample::Index>(),
    ) {
        let message = parse(&sent.write(&style));
        let others = |message: &Message| -> Vec<Vec<u8>> {
            let fields = message.fields().iter().filter(|field| field.name != Name::Via);
            fields.map(|field| message.bytes(field.start as usize..field.end as usize).to_vec()).collect()
        };
        let vias = |message: &Message| -> Vec<Vec<u8>> {
            message.elements(Name::Via).map(|via| message.bytes(via.range).to_vec()).collect()
        };
        let all = vias(&message);
        let mut edits = Edits::default();
        edits.remove_first_elements(&message, Name::Via, count);
        let edited = edits.apply(&message, &mut BytesMut::new());
        if count < all.len() {
            let edited = parse(&edited);
            prop_assert_eq!(vias(&edited), &all[count..]);
            prop_assert_eq!(others(&edited), others(&message));
        } else {
            prop_assert_eq!(Message::parse(edited, &LIMITS).unwrap_err().detail, "no Via");
        }

        let one = index.index(all.len());
        if all.len() > 1 {
            edits.clear();
            edits.remove_element(&message, &message.elements(Name::Via).nth(one).unwrap());
            let edited = parse(&edits.apply(&message, &mut BytesMut::new()));
            prop_assert_eq!(vias(&edited), [&all[..one], &all[one + 1..]].concat());
            prop_assert_eq!(others(&edited), others(&message));
        }
    }

    #[test]
    fn nothing_that_arrives_panics(
        sent in any_sent(),
        style in style(),
        mutations in prop::collection::vec(mutation(), 1..8),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        for wire in [mutate(sent.write(&style), &mutations), noise] {
            match Message::parse(wire.clone().into(), &LIMITS) {
                Ok(message) => check_invariants(&message)?,
                Err(rejected) => {
                    prop_assert!([400, 414, 505, 513].contains(&rejected.code));
                    for line in rejected.answerable.iter().flat_map(|answerable| &answerable.lines) {
                        prop_assert!(rejected.answerable.as_ref().unwrap().raw[line.clone()].ends_with(b"\r\n"));
                    }
                }
            }
        }
    }

    #[test]
    fn a_stream_is_framed_the_same_however_it_is_cut(
        parts in prop::collection::vec((any_sent(), style(), 0..4_usize), 0..4),
        tail in prop_oneof![Just(vec![]), prop::collection::vec(any::<u8>(), 0..40), Just(b"OPTIONS s".to_vec())],
        mutations in prop::collection::vec(mutation(), 0..2),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for (sent, style, line_ends) in &parts {
            let style = Style { has_length: true, ..style.clone() };
            let wire = sent.write(&style);
            stream.extend(b"\r\n".repeat(*line_ends));
            expected.extend(std::iter::repeat_n(Frame::Ping, line_ends / 2));
            stream.extend_from_slice(&wire);
            expected.push(Frame::Message(wire.into()));
        }
        let (found, error) = frames([stream.clone()]);
        prop_assert_eq!((&found, error), (&expected, None));
        stream.extend_from_slice(&tail);
        let stream = mutate(stream, &mutations);
        let whole = frames([stream.clone()]);
        prop_assert_eq!(&frames(chunks(&stream, &cuts)), &whole);
        prop_assert_eq!(&frames(stream.iter().map(|byte| vec![*byte])), &whole);
        for frame in whole.0 {
            // Framing and parsing agree about where the message ends.
            if let Frame::Message(wire) = frame
                && let Ok(message) = Message::parse(wire.clone(), &LIMITS)
            {
                prop_assert_eq!(message.raw(), &wire);
            }
        }
    }
}
