//! Messages of peers: written line by line, or made of what the sidecar sent them.

use bytes::Bytes;
use sipstamp::flow::Flow;
use sipstamp::sip::{Field, Message, Name, NameAddr};

use crate::policy::PEERS;
use crate::world::{World, flow_of};

const METHODS: [&str; 16] = [
    "INVITE",
    "INVITE",
    "INVITE",
    "BYE",
    "ACK",
    "OPTIONS",
    "CANCEL",
    "REGISTER",
    "MESSAGE",
    "INFO",
    "UPDATE",
    "REFER",
    "SUBSCRIBE",
    "NOTIFY",
    "PRACK",
    "NEW",
];
const URIS: [&str; 8] = [
    "sip:+15550199@10.0.0.1:5060",
    "sip:10.0.0.1",
    "sip:+15550199@10.0.2.10:5060",
    "tel:+15550199",
    "sips:a@10.0.0.1",
    "sip:a@example.test",
    "sip:vmdrop@10.0.0.1;transport=tcp",
    "sip:agent@10.0.1.5:5060",
];
const ROUTES: [&str; 8] = [
    "",
    "",
    "Route: <sip:10.0.0.1;lr>\r\n",
    "Route: <sip:192.0.2.77;lr>\r\n",
    "Route: <sip:10.0.0.1:5060;lr>, <sip:10.0.3.7;lr>\r\n",
    "Route: <sip:example.test;lr>\r\n",
    "Route: <sip:10.0.0.1>\r\nRoute: <sip:a@10.0.1.6:5080>\r\n",
    "Route: <sip:10.0.0.1;lr>,,<sip:[::1]>\r\n",
];
const HOPS: [&str; 4] = ["Max-Forwards: 70\r\n", "Max-Forwards: 1\r\n", "Max-Forwards: 0\r\n", ""];
const CODES: [u16; 32] = [
    100, 180, 183, 199, 200, 200, 202, 299, 300, 302, 401, 407, 408, 422, 480, 481, 486, 487, 488, 491, 500, 503, 503,
    504, 600, 603, 607, 608, 404, 180, 183, 699,
];
const OF_REQUESTS: [&str; 7] = [
    "Dialing-Mode: progressive\r\n",
    "No-Answer-Timeout: 5\r\n",
    "Voicemail-Drop: true\r\n",
    "Call-Outcome: Normal;id=forged\r\nx-outcome : NoAnswer;cause=no_answer_timer;id=forged\r\n",
    "x: 90;refresher=uac\r\nCorrelation-ID: order-7\r\n",
    "Reason: SIP;cause=200;text=\"elsewhere\"\r\nReason: Q.850;cause=19\r\n",
    "Refer-To: <sip:vmdrop@10.0.0.1>\r\nProxy-Require: odd\r\n",
];
const OF_RESPONSES: [&str; 6] = [
    "Session-Expires: 90;refresher=uas\r\n",
    "Reason: Q.850;cause=17;text=\"busy\"\r\n",
    "Retry-After: 3 (soon)\r\n",
    "Call-Outcome: Normal;id=forged\r\nX-OUTCOME: Normal;id=forged\r\n",
    "Contact: <sip:callee@10.0.3.7>\r\n",
    "Content-Type: application/sdp\r\n",
];

/// A request that belongs to no dialog, or claims to: see [`crate::script::Step::Request`].
pub fn request(world: &mut World, peer: u8, call: u8, method: u8, target: u8, extra: u8) -> (Flow, Bytes) {
    let flow = flow_of(usize::from(peer & 7), peer & 8 != 0);
    let (slot, name) = (call & 3, METHODS[usize::from(method & 15)]);
    let via = via(world, &flow, call >> 2);
    let to_tag = if method & 64 != 0 { ";tag=callee-0" } else { "" };
    let lines = [
        format!("{name} {} SIP/2.0\r\n{via}", URIS[usize::from(target & 7)]),
        ROUTES[usize::from(target >> 3 & 7)].to_owned(),
        HOPS[usize::from(target >> 6)].to_owned(),
        format!("From: \"A\" <sip:+15550100@{}>;tag=from-{slot}\r\n", flow.remote),
        format!("To: <sip:+15550199@10.0.0.1>{to_tag}\r\nCall-ID: call-{slot}\r\n"),
        format!("CSeq: {} {name}\r\n", 1 + (method >> 4 & 3)),
        contact(&flow),
        chosen(&OF_REQUESTS, extra),
        body(extra & 128 != 0),
    ];
    (flow, lines.concat().into())
}

/// A response to a request.
pub fn reply(flow: &Flow, request: &Message, code: u8, tag: u8, extra: u8) -> (Flow, Bytes) {
    let code = CODES[usize::from(code) % CODES.len()];
    let flow = if tag & 128 != 0 { flow_of(usize::from(tag >> 4 & 7), false) } else { *flow };
    let mut raw = format!("SIP/2.0 {code} Code\r\n").into_bytes();
    for field in request.fields() {
        match field.name {
            Name::Via | Name::From | Name::CallId | Name::CSeq => raw.extend_from_slice(line(request, field)),
            Name::RecordRoute if extra & 64 == 0 => raw.extend_from_slice(line(request, field)),
            Name::To => {
                raw.extend_from_slice(&[b"To: ", request.value(field)].concat());
                if request.to_tag().is_none() && code > 100 {
                    raw.extend_from_slice(format!(";tag=callee-{}", tag & 3).as_bytes());
                }
                raw.extend_from_slice(b"\r\n");
            }
            _ => {}
        }
    }
    raw.extend_from_slice(contact(&flow).as_bytes());
    raw.extend_from_slice(chosen(&OF_RESPONSES, extra).as_bytes());
    raw.extend_from_slice(body(extra & 128 != 0).as_bytes());
    (flow, raw.into())
}

/// A request inside the dialog of a response that a caller got, or of an INVITE that a callee got.
pub fn in_dialog(world: &mut World, flow: &Flow, of: &Message, method: u8, number: u8, extra: u8) -> (Flow, Bytes) {
    let name = METHODS[usize::from(method & 15)];
    let via = via(world, flow, number >> 2);
    let mut routes = of.elements(Name::RecordRoute).map(|element| of.bytes(element.range).to_vec()).collect::<Vec<_>>();
    let value = |name| of.first(name).map(|field| of.value(field)).unwrap_or_default();
    let (mut from, mut to) = (value(Name::From).to_vec(), value(Name::To).to_vec());
    if of.is_request() {
        std::mem::swap(&mut from, &mut to);
        if of.to_tag().is_none() {
            from.extend_from_slice(format!(";tag=callee-{}", method >> 4 & 3).as_bytes());
        }
    } else {
        routes.reverse();
    }
    let target = NameAddr::parse(value(Name::Contact)).map_or(&b"sip:nobody@10.0.2.10"[..], |contact| contact.uri);
    let more = u32::from(number & 3) + u32::from(name != "ACK");
    let mut raw = [name.as_bytes(), b" ", target, b" SIP/2.0\r\n", via.as_bytes()].concat();
    for route in routes {
        raw.extend_from_slice(&[b"Route: ", &route[..], b"\r\n"].concat());
    }
    raw.extend_from_slice(&[b"Max-Forwards: 70\r\nFrom: ", &from[..], b"\r\nTo: ", &to, b"\r\nCall-ID: "].concat());
    raw.extend_from_slice(of.call_id());
    raw.extend_from_slice(format!("\r\nCSeq: {} {name}\r\n", of.cseq().number.wrapping_add(more)).as_bytes());
    raw.extend_from_slice(contact(flow).as_bytes());
    raw.extend_from_slice(chosen(&OF_REQUESTS, extra).as_bytes());
    raw.extend_from_slice(body(extra & 128 != 0).as_bytes());
    (*flow, raw.into())
}

/// A CANCEL of a request, or an ACK to a failure by the failure: on the same branch.
pub fn on_branch(of: &Message, method: &str, extra: u8) -> Bytes {
    let uri = if of.is_request() { of.uri() } else { URIS[0].as_bytes() };
    let via = of.bytes(of.via().element.range.clone());
    let mut raw = [method.as_bytes(), b" ", uri, b" SIP/2.0\r\nVia: ", via, b"\r\n"].concat();
    for field in of.fields().iter().filter(|field| matches!(field.name, Name::From | Name::To | Name::CallId)) {
        raw.extend_from_slice(line(of, field));
    }
    raw.extend_from_slice(format!("CSeq: {} {method}\r\n", of.cseq().number).as_bytes());
    raw.extend_from_slice(chosen(&OF_REQUESTS, extra).as_bytes());
    raw.extend_from_slice(body(false).as_bytes());
    raw.into()
}

/// What the sidecar sent, as it may come back: bit 0 with another Via on top, bit 1 without the topmost.
pub fn reflected(world: &mut World, flow: &Flow, message: &Message, how: u8) -> (Flow, Bytes) {
    let flow = if how & 4 != 0 { flow_of(usize::from(how >> 3 & 7), how & 64 != 0) } else { *flow };
    let (head, rest) = message.raw().split_at(message.head_start());
    let via = if how & 1 != 0 { via(world, &flow, 0) } else { String::new() };
    let first = message
        .first(Name::Via)
        .filter(|_| how & 2 != 0)
        .map_or(0..0, |field| field.start as usize - head.len()..field.end as usize - head.len());
    (flow, [head, via.as_bytes(), &rest[..first.start], &rest[first.end..]].concat().into())
}

/// A message with a change at a place.
pub fn changed(raw: &[u8], place: u16, how: u8, with: u8) -> Bytes {
    let mut raw = raw.to_vec();
    let place = usize::from(place) % (raw.len() + 1);
    let line = raw[place..].iter().position(|byte| *byte == b'\n').map_or(raw.len(), |end| place + end + 1);
    match how % 6 {
        0 if place < raw.len() => raw[place] = with,
        1 => raw.insert(place, with),
        2 => drop(raw.drain(place..(place + usize::from(with)).min(raw.len()))),
        3 => drop(raw.splice(line..line, raw[place..line].to_vec())),
        4 => drop(raw.splice(line..line, OF_REQUESTS[usize::from(with) % OF_REQUESTS.len()].bytes())),
        _ => raw.truncate(place),
    }
    raw.into()
}

/// The Via of a request: of a new branch for 0; bit 5: as of RFC 2543.
fn via(world: &mut World, flow: &Flow, branch: u8) -> String {
    let sent_by = flow.remote;
    let transport = flow.transport.via_name();
    let branch = match branch {
        0 => {
            world.branches += 1;
            format!(";branch=z9hG4bK-new-{}", world.branches)
        }
        old if old & 32 != 0 => format!(";branch={}", old & 3),
        one => format!(";branch=z9hG4bK-{};rport", one & 7),
    };
    format!("Via: SIP/2.0/{transport} {sent_by}{branch}\r\n")
}

fn contact(flow: &Flow) -> String {
    let name = PEERS.iter().position(|peer| *peer == flow.remote.to_string()).unwrap_or(PEERS.len());
    let transport = flow.transport;
    format!("Contact: <sip:peer-{name}@{};transport={transport}>\r\n", flow.remote)
}

fn chosen(lines: &[&str], bits: u8) -> String {
    lines.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, line)| *line).collect()
}

/// The end of a message: with a body, it is too large for a datagram.
fn body(is_large: bool) -> String {
    let length = if is_large { 1_400 } else { 0 };
    format!("Content-Length: {length}\r\n\r\n{}", "x".repeat(length))
}

fn line<'a>(message: &'a Message, field: &Field) -> &'a [u8] {
    message.bytes(field.start as usize..field.end as usize)
}
