//! Messages made here: responses (RFC 3261 §8.2.6), ACK (§17.1.1.3), CANCEL (§9.1), and requests
//! inside a dialog (§12.2.1.1).
//!
//! They copy the raw fields of the message that they answer or belong to.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use super::route::{self, Routes};
use crate::sip::{Answerable, Message, Method, Name, Via};
use crate::text::Put;
use crate::transaction::Branch;

/// A response to make.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    pub code: u16,
    /// `None`: the usual one.
    pub phrase: Option<&'a str>,
    /// To tag, where the request has none and the code is above 100.
    pub tag: u64,
    /// Whole header lines.
    pub extra: &'a str,
}

/// The reason phrase that RFC 3261 §21 and its extensions give a code that we send.
pub const fn phrase(code: u16) -> &'static str {
    match code {
        100 => "Trying",
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        414 => "Request-URI Too Long",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        500 => "Server Internal Error",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        603 => "Decline",
        _ => "Final Response",
    }
}

/// A response to a request that came from `source`.
pub fn response(request: &Message, source: SocketAddr, made: Response<'_>, out: &mut BytesMut) -> Bytes {
    status_line(out, made);
    for field in request.fields() {
        let whole = field.start as usize..field.end as usize;
        match field.name {
            Name::Via if whole.contains(&request.via().element.range.start) => {
                put_via(out, request.raw(), whole, request.via(), source);
            }
            Name::To if made.code > 100 && request.to_tag().is_none() => {
                let value_end = field.value_end as usize;
                out.put_slice(request.bytes(whole.start..value_end));
                out.put_slice(b";tag=");
                out.put_hex(made.tag);
                out.put_slice(request.bytes(value_end..whole.end));
            }
            Name::Via | Name::From | Name::To | Name::CallId | Name::CSeq => out.put_slice(request.bytes(whole)),
            Name::Timestamp if made.code == 100 => out.put_slice(request.bytes(whole)),
            _ => {}
        }
    }
    finish(out, made.extra)
}

/// A response to a request that could not be read as a whole.
pub fn response_to_broken(request: &Answerable, source: SocketAddr, made: Response<'_>, out: &mut BytesMut) -> Bytes {
    status_line(out, made);
    for line in &request.lines {
        let text = request.raw.get(line.clone()).unwrap_or_default();
        let name = text.split(|byte| *byte == b':').next().unwrap_or_default().trim_ascii_end();
        if line.contains(&request.via.element.range.start) {
            put_via(out, &request.raw, line.clone(), &request.via, source);
        } else if Name::from_bytes(name) == Name::To && !request.has_to_tag {
            out.put_slice(text.trim_ascii_end());
            out.put_slice(b";tag=");
            out.put_hex(made.tag);
            out.put_slice(b"\r\n");
        } else {
            out.put_slice(text);
        }
    }
    finish(out, made.extra)
}

/// The ACK for a 3xx–6xx to `invite`, a request as we sent it.
pub fn ack_of_failure(invite: &Message, response: &Message, out: &mut BytesMut) -> Bytes {
    hop_by_hop(
        invite,
        "ACK",
        response.first(Name::To).map(|to| (response, to.start as usize..to.end as usize)),
        "",
        out,
    )
}

/// The CANCEL of `invite`, a request as we sent it; `reasons` are whole Reason lines.
pub fn cancel(invite: &Message, reasons: &str, out: &mut BytesMut) -> Bytes {
    let to = invite.first(Name::To).map(|to| (invite, to.start as usize..to.end as usize));
    hop_by_hop(invite, "CANCEL", to, reasons, out)
}

/// One party of a dialog, as the other one addresses it.
#[derive(Clone, Copy, Debug)]
pub struct Party<'a> {
    /// The party's remote target: the URI of its Contact.
    pub target: &'a [u8],
    pub routes: Routes<'a>,
    /// Whole value of the From field.
    pub from: &'a [u8],
    /// Whole value of the To field.
    pub to: &'a [u8],
    pub call_id: &'a [u8],
    pub cseq: u32,
}

/// A request inside a dialog. `via` is our Via line up to the branch, and that; `extra` are whole header lines.
pub fn in_dialog(method: Method, party: Party<'_>, via: (&[u8], Branch), extra: &str, out: &mut BytesMut) -> Bytes {
    // A first route without `lr` is a strict router (§12.2.1.1): it takes the Request-URI's place.
    let strict = party.routes.first().filter(|first| !route::is_loose(first)).map(route::address);
    let strict = strict.filter(|uri| !uri.is_empty());
    out.put_slice(method.label().as_bytes());
    out.put_u8(b' ');
    out.put_slice(strict.unwrap_or(party.target));
    out.put_slice(b" SIP/2.0\r\n");
    out.put_slice(via.0);
    via.1.put(out);
    out.put_slice(b"\r\n");
    for value in party.routes.iter().skip(usize::from(strict.is_some())) {
        put_field(out, "Route", value);
    }
    if strict.is_some() {
        out.put_slice(b"Route: <");
        out.put_slice(party.target);
        out.put_slice(b">\r\n");
    }
    out.put_slice(b"Max-Forwards: 70\r\n");
    put_field(out, "From", party.from);
    put_field(out, "To", party.to);
    put_field(out, "Call-ID", party.call_id);
    put_cseq(out, party.cseq, method.label());
    finish(out, extra)
}

/// A parameter that we write on the topmost Via.
#[derive(Clone, Copy, Debug)]
pub enum ViaMark {
    Rport(u16),
    Received(IpAddr),
}

impl ViaMark {
    pub fn put(self, out: &mut impl Put) {
        match self {
            ViaMark::Rport(port) => {
                out.put(b";rport=");
                out.put_number(port.into());
            }
            ViaMark::Received(address) => {
                out.put(b";received=");
                out.put_address(address);
            }
        }
    }
}

/// `received` and `rport` as RFC 3261 §18.2.1 and RFC 3581 §4 want them on the topmost Via: ranges of
/// the original, in order, and what stands there instead.
pub fn via_marks(raw: &[u8], via: &Via, source: SocketAddr) -> [Option<(Range<usize>, ViaMark)>; 2] {
    let ip = source.ip().to_canonical();
    let differs = || {
        let host = raw.get(via.host.clone()).unwrap_or_default();
        crate::sip::host_ip(host).is_none_or(|host| host.to_canonical() != ip)
    };
    let port = via.rport.as_ref().map(|(range, _)| (range.clone(), ViaMark::Rport(source.port())));
    let end = via.element.range.end;
    let place = via.received.clone().or_else(|| (port.is_some() || differs()).then_some(end..end));
    let received = place.map(|range| (range, ViaMark::Received(ip)));
    match (&port, &received) {
        (Some((port_at, _)), Some((received_at, _))) if received_at.start < port_at.start => [received, port],
        _ => [port, received],
    }
}

fn put_via(out: &mut BytesMut, raw: &[u8], whole: Range<usize>, via: &Via, source: SocketAddr) {
    let mut at = whole.start;
    for (range, mark) in via_marks(raw, via, source).into_iter().flatten() {
        out.put_slice(raw.get(at..range.start).unwrap_or_default());
        mark.put(out);
        at = range.end;
    }
    out.put_slice(raw.get(at..whole.end).unwrap_or_default());
}

fn status_line(out: &mut BytesMut, made: Response<'_>) {
    out.put_slice(b"SIP/2.0 ");
    out.put_number(made.code.into());
    out.put_slice(b" ");
    out.put_slice(made.phrase.unwrap_or(phrase(made.code)).as_bytes());
    out.put_slice(b"\r\n");
}

/// What ACK and CANCEL have in common: Request-URI, the one Via, From, Call-ID, CSeq number and Route
/// of the INVITE.
fn hop_by_hop(
    invite: &Message,
    method: &str,
    to: Option<(&Message, Range<usize>)>,
    extra: &str,
    out: &mut BytesMut,
) -> Bytes {
    out.put_slice(method.as_bytes());
    out.put_slice(b" ");
    out.put_slice(invite.uri());
    out.put_slice(b" SIP/2.0\r\n");
    let mut via_is_there = false;
    for field in invite.fields() {
        let whole = field.start as usize..field.end as usize;
        match field.name {
            Name::Via if !via_is_there => {
                via_is_there = true;
                out.put_slice(invite.bytes(whole));
            }
            Name::From | Name::CallId | Name::Route => out.put_slice(invite.bytes(whole)),
            Name::To => {
                if let Some((message, range)) = &to {
                    out.put_slice(message.bytes(range.clone()));
                }
            }
            _ => {}
        }
    }
    out.put_slice(b"Max-Forwards: 70\r\n");
    put_cseq(out, invite.cseq().number, method);
    finish(out, extra)
}

fn put_field(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

fn put_cseq(out: &mut BytesMut, number: u32, method: &str) {
    out.put_slice(b"CSeq: ");
    out.put_number(number.into());
    out.put_slice(b" ");
    out.put_slice(method.as_bytes());
    out.put_slice(b"\r\n");
}

fn finish(out: &mut BytesMut, extra: &str) -> Bytes {
    out.put_slice(extra.as_bytes());
    out.put_slice(b"Content-Length: 0\r\n\r\n");
    out.split().freeze()
}
