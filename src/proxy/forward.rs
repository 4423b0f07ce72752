//! The edits that a hop makes: RFC 3261 §16.6 on requests, §16.7 on responses. Every other byte stays.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};

use super::make;
use crate::flow::{Side, Transport};
use crate::policy::Policy;
use crate::sip::{Edits, Message, Name, number};
use crate::text::Put;
use crate::transaction::Branch;

/// Max-Forwards of a request that bears none (§16.6 step 3).
pub const MAX_FORWARDS: u32 = 70;

/// How a request is changed.
#[derive(Clone, Copy, Debug)]
pub struct RequestChange<'a> {
    /// Where it came from.
    pub source: SocketAddr,
    /// Our Via line up to the branch, which follows.
    pub via: &'a [u8],
    pub branch: Branch,
    /// Whole Record-Route lines, or nothing.
    pub record_route: [&'a [u8]; 2],
    /// What the Request-URI becomes.
    pub uri: Option<&'a [u8]>,
    /// Route values at the top that are ours.
    pub own_routes: usize,
    /// Says which headers nobody on the side `to` may see.
    pub policy: &'a Policy,
    pub to: Side,
    /// Whole header lines to add at the end.
    pub stamp: Option<&'a [u8]>,
    pub transport: Transport,
}

/// How a response is changed.
#[derive(Clone, Copy, Debug)]
pub struct ResponseChange<'a> {
    /// Says which headers are ours alone.
    pub policy: &'a Policy,
    pub stamp: Option<&'a [u8]>,
    /// A reason phrase in place of the peer's.
    pub phrase: Option<&'a str>,
    pub transport: Transport,
}

/// The value of Max-Forwards; `None` where there is none.
pub fn max_forwards(message: &Message) -> Option<u32> {
    let field = message.first(Name::MaxForwards)?;
    number(message.value(field)).and_then(|hops| u32::try_from(hops).ok())
}

/// A request as it leaves.
pub fn request(message: &Message, change: &RequestChange<'_>, edits: &mut Edits, out: &mut BytesMut) -> Bytes {
    edits.clear();
    if let (Some(uri), crate::sip::Start::Request { uri: range, .. }) = (change.uri, message.start()) {
        edits.replace(range.clone(), uri);
    }
    let top = message.first(Name::Via).map_or(message.head_start(), |via| via.start as usize);
    edits.insert_with(top, |out| {
        out.put(change.via);
        change.branch.put(out);
        out.put(b"\r\n");
    });
    let recorded = message.first(Name::RecordRoute).map_or(top, |field| field.start as usize);
    for line in change.record_route.into_iter().filter(|line| !line.is_empty()) {
        edits.insert(recorded, line);
    }
    // Max-Forwards comes behind Via nearly always: edits in the order of the message need no sorting.
    for (range, mark) in make::via_marks(message.raw(), message.via(), change.source).into_iter().flatten() {
        edits.replace_with(range, |out| mark.put(out));
    }
    match message.first(Name::MaxForwards) {
        Some(field) => {
            let left = max_forwards(message).unwrap_or(MAX_FORWARDS).saturating_sub(1);
            let value = field.value_start as usize..field.value_end as usize;
            edits.replace_with(value, |out| out.put_number(left.into()));
        }
        None => edits.insert(top, format!("Max-Forwards: {MAX_FORWARDS}\r\n").as_bytes()),
    }
    if change.own_routes > 0 {
        edits.remove_first_elements(message, Name::Route, change.own_routes);
    }
    strip(message, change.policy, change.to == Side::Telephony, edits);
    finish(message, change.stamp, change.transport, edits);
    edits.apply(message, out)
}

/// A response as it leaves: without our Via.
pub fn response(message: &Message, change: &ResponseChange<'_>, edits: &mut Edits, out: &mut BytesMut) -> Bytes {
    edits.clear();
    if let Some(phrase) = change.phrase {
        edits.replace_phrase(message, phrase);
    }
    match message.fields().get(message.via().element.field) {
        Some(field) if message.via().element.alone => edits.remove_field(field),
        _ => edits.remove_first_elements(message, Name::Via, 1),
    }
    strip(message, change.policy, false, edits);
    finish(message, change.stamp, change.transport, edits);
    edits.apply(message, out)
}

/// Removes what only we may write and, of requests to the telephony side, what the dialer says to us alone.
fn strip(message: &Message, policy: &Policy, is_for_telephony: bool, edits: &mut Edits) {
    let may_have = |name| message.may_have(name);
    let for_us = || policy.timeouts.no_answer_header.iter().chain([&policy.voicemail_drop.header]);
    let may_be_there = policy.stamp.headers.iter().any(may_have) || is_for_telephony && for_us().any(may_have);
    if !may_be_there {
        return;
    }
    for field in message.fields() {
        let is = |name| message.is_named(field, name);
        let is_ours = policy.stamp.headers.iter().any(is);
        if is_ours || (is_for_telephony && for_us().any(is)) {
            edits.remove_field(field);
        }
    }
}

fn finish(message: &Message, stamp: Option<&[u8]>, transport: Transport, edits: &mut Edits) {
    if let Some(stamp) = stamp {
        edits.insert(message.head_end(), stamp);
    }
    // A datagram ends where it ends; a stream needs to be told (§20.14).
    if transport.is_reliable() && message.first(Name::ContentLength).is_none() {
        edits.insert(message.head_end(), format!("Content-Length: {}\r\n", message.body().len()).as_bytes());
    }
}
