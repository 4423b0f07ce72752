//! What the two readers make of a message, item by item.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rsip::prelude::*;
use sipstamp::sip::{Message, Start};

use crate::wire::LIMITS;

/// Where two readings differ.
#[derive(Clone, Debug)]
pub enum Difference {
    /// Only we take the message.
    Ours,
    /// Only rsip takes the message; what we say is wrong with it.
    Theirs(&'static str),
    /// Both take it and read something differently: as its name, by us, by rsip.
    Item(&'static str, String, String),
}

/// White space around a value (RFC 3261 §25.1).
const LWS: [char; 4] = [' ', '\t', '\r', '\n'];

/// What is read of a message by name. An item that is missing is one on which the reader has no opinion.
type Reading = Vec<(&'static str, String)>;

thread_local! {
    /// Whether a panic of this thread is rsip's, which says nothing about us.
    static IS_ASKED: Cell<bool> = const { Cell::new(false) };
}

/// From here on a panic inside of rsip is not printed.
pub fn keep_panics_quiet() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !IS_ASKED.get() {
            usual(info);
        }
    }));
}

pub fn compare(bytes: &[u8]) -> Vec<Difference> {
    IS_ASKED.set(true);
    let theirs = catch_unwind(AssertUnwindSafe(|| theirs(bytes)));
    IS_ASKED.set(false);
    // Where it panics it has no opinion.
    let Ok(theirs) = theirs else { return Vec::new() };
    let ours = Message::parse(bytes.to_vec().into(), &LIMITS);
    match (ours, theirs) {
        (Err(_), None) => Vec::new(),
        (Ok(_), None) => vec![Difference::Ours],
        (Err(rejected), Some(_)) => vec![Difference::Theirs(rejected.detail)],
        (Ok(message), Some(theirs)) => {
            let ours = ours_of(&message);
            let read_by_us = |name: &str| ours.iter().find(|(found, _)| *found == name).map(|(_, text)| text.clone());
            let differing = theirs.into_iter().filter_map(|(name, theirs)| {
                let ours = read_by_us(name).unwrap_or_else(|| "nothing".to_owned());
                (ours != theirs).then_some(Difference::Item(name, ours, theirs))
            });
            differing.collect()
        }
    }
}

fn ours_of(message: &Message) -> Reading {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let option = |bytes: Option<&[u8]>| format!("{:?}", bytes.map(text));
    let mut reading = Reading::new();
    if let Start::Request { method_text, .. } = message.start() {
        reading.push(("method", text(message.bytes(method_text.clone()))));
        if let Some(uri) = message.sip_uri() {
            reading.push(("Request-URI host", text(uri.host())));
            reading.push(("Request-URI port", format!("{:?}", uri.port)));
            reading.push(("Request-URI user", option(uri.user())));
        }
    } else {
        reading.push(("code", message.code().to_string()));
        reading.push(("phrase", text(message.phrase())));
    }
    reading.push(("Call-ID", text(message.call_id())));
    reading.push(("CSeq", message.cseq().number.to_string()));
    reading.push(("CSeq method", text(message.bytes(message.essentials().cseq_method.clone()))));
    reading.push(("From tag", option(message.from_tag())));
    reading.push(("To tag", option(message.to_tag())));
    reading.push(("branch", option(message.via().branch.clone().map(|branch| message.bytes(branch)))));
    let fields = message.fields().iter();
    let fields = fields.map(|field| (text(message.name(field)).to_ascii_lowercase(), text(message.value(field))));
    reading.push(("fields", format!("{:?}", fields.collect::<Vec<_>>())));
    reading.push(("body", message.body().escape_ascii().to_string()));
    reading
}

/// `None` where it is no message.
fn theirs(bytes: &[u8]) -> Option<Reading> {
    let message = rsip::SipMessage::try_from(bytes).ok()?;
    let option = |text: Option<String>| format!("{text:?}");
    let mut reading = Reading::new();
    match &message {
        rsip::SipMessage::Request(request) => {
            reading.push(("method", request.method.to_string()));
            let is_sip = matches!(request.uri.scheme, Some(rsip::Scheme::Sip | rsip::Scheme::Sips));
            if is_sip {
                reading.push(("Request-URI host", request.uri.host().to_string()));
                reading.push(("Request-URI port", format!("{:?}", request.uri.port().map(|port| *port.value()))));
                reading.push(("Request-URI user", option(request.uri.user().map(str::to_owned))));
            }
        }
        rsip::SipMessage::Response(response) => {
            reading.push(("code", response.status_code.code().to_string()));
        }
    }
    if let Ok(call_id) = message.call_id_header() {
        reading.push(("Call-ID", call_id.value().trim_matches(LWS).to_owned()));
    }
    if let Some(cseq) = message.cseq_header().ok().and_then(|cseq| cseq.typed().ok()) {
        reading.push(("CSeq", cseq.seq.to_string()));
        reading.push(("CSeq method", cseq.method.to_string()));
    }
    if let Some(from) = message.from_header().ok().and_then(|from| from.typed().ok()) {
        reading.push(("From tag", option(from.tag().map(|tag| tag.value().to_owned()))));
    }
    if let Some(to) = message.to_header().ok().and_then(|to| to.typed().ok()) {
        reading.push(("To tag", option(to.tag().map(|tag| tag.value().to_owned()))));
    }
    if let Some(via) = message.via_header().ok().and_then(|via| via.typed().ok()) {
        reading.push(("branch", option(via.branch().map(|branch| branch.value().to_owned()))));
    }
    let fields = message.headers().iter().map(|header| {
        let line = header.to_string();
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        (name.to_ascii_lowercase(), value.trim_matches(LWS).to_owned())
    });
    reading.push(("fields", format!("{:?}", fields.collect::<Vec<_>>())));
    reading.push(("body", message.body().escape_ascii().to_string()));
    Some(reading)
}
