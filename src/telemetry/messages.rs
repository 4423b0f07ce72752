//! SIP messages in the log: a line for each at `debug`, all of it at `trace`, under a target of their own, so that they can be
//! asked for alone (`log.level = "info,sipstamp::message=debug"`).
//!
//! At `debug` a line has no number but one that no configuration masks. At `trace` there are numbers, but no secrets.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::LazyLock;

use bytes::Bytes;
use regex::{Captures, Regex};
use tracing::{Level, debug, enabled, trace};

use crate::flow::Transport;
use crate::mask::{Kind, Numbers};
use crate::policy::Policy;
use crate::sip::{Limits, Message, Name, NameAddr, subscriber};

/// The target by which a filter names them.
const TARGET: &str = "sipstamp::message";

const HIDDEN: &str = "(not shown)";
const RECEIVED: &str = "received";
const SENT: &str = "sent";

/// A message that was read.
#[inline]
pub fn received(message: &Message, transport: Transport, remote: SocketAddr, policy: &Policy) {
    if enabled!(target: TARGET, Level::DEBUG) {
        tell(RECEIVED, message, transport, remote, policy);
    }
}

/// A message that is about to be sent.
#[inline]
pub fn sent(bytes: &Bytes, transport: Transport, remote: SocketAddr, policy: &Policy) {
    if enabled!(target: TARGET, Level::DEBUG)
        && let Ok(message) = Message::parse(bytes.clone(), &Limits::NONE)
    {
        tell(SENT, &message, transport, remote, policy);
    }
}

#[cold]
fn tell(way: &str, message: &Message, transport: Transport, remote: SocketAddr, policy: &Policy) {
    let call_id = match Numbers::of(&policy.mask, users(message)) {
        Some(numbers) => numbers.hide(message.call_id(), Kind::Id),
        None => String::from_utf8_lossy(message.call_id()),
    };
    let cseq = message.cseq().number;
    let method = String::from_utf8_lossy(message.bytes(message.essentials().cseq_method.clone()));
    let what = match message.code() {
        0 => method,
        code => Cow::from(format!("{code} to {method}")),
    };
    // One that came is nobody's word, and not sent on.
    let stamp = policy.stamp.headers.iter().filter(|_| way == SENT).find_map(|header| message.named(header).next());
    let stamp = stamp.map(|field| String::from_utf8_lossy(message.value(field)));
    debug!(target: TARGET, %remote, transport = transport.label(), %call_id, cseq, stamp = stamp.as_deref(), "{way} {what}");
    if enabled!(target: TARGET, Level::TRACE) {
        trace!(target: TARGET, "{way}\n{}", text(message));
    }
}

/// User parts of From, To and Request-URI.
fn users(message: &Message) -> [Option<&[u8]>; 3] {
    let of = |name| {
        let field = message.first(name)?;
        subscriber(NameAddr::parse(message.value(field))?.uri)
    };
    [of(Name::From), of(Name::To), subscriber(message.uri())]
}

/// The message, a line for each of its own, without what is secret in it: credentials, passwords in URIs
/// (RFC 3261 §19.1.1), keys of media in a body (RFC 4566 §5.12, RFC 4568).
fn text(message: &Message) -> String {
    static SECRET: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let header = r"^(?:proxy-)?authorization[ \t]*:";
        let uri = r"\bsips?:[^\s:@<>]*:";
        let key = r"^(?:k=|a=crypto:)";
        // A fold continues the header.
        let pattern = format!(r"(?im)({header})[^\n]*(?:\n[ \t][^\n]*)*|({uri})[^\s@<>]*@|({key})[^\n]*");
        Regex::new(&pattern).ok()
    });
    let text = String::from_utf8_lossy(message.raw()).replace("\r\n", "\n");
    // It is a pattern, as a test shows; should it be none, nothing is shown.
    let Some(secret) = &*SECRET else { return HIDDEN.to_owned() };
    let hidden = |found: &Captures<'_>| match (found.get(1).or(found.get(3)), found.get(2)) {
        (Some(begin), _) => format!("{} {HIDDEN}", begin.as_str()),
        (None, begin) => format!("{}{HIDDEN}@", begin.map_or("", |begin| begin.as_str())),
    };
    secret.replace_all(&text, hidden).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_is_not_shown() {
        let raw = "INVITE sip:bob:hunter2@example.net SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sips:a:hunter2@x:5061>;tag=1\r\n\
            To: <sip:b@x:5060>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\nAUTHORIZATION : Digest username=\"a\",\r\n response=\"hunter2\"\r\n\
            Proxy-Authorization: Digest hunter2\r\nSubject: authorization: shown\r\n\r\n\
            v=0\r\nk=clear:hunter2\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:hunter2\r\na=rtpmap:0 PCMU/8000\r\n";
        let message = Message::parse(Bytes::from_static(raw.as_bytes()), &Limits::NONE).unwrap();
        let text = text(&message);
        assert_eq!(
            text,
            "INVITE sip:bob:(not shown)@example.net SIP/2.0\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\nFrom: <sips:a:(not shown)@x:5061>;tag=1\n\
             To: <sip:b@x:5060>\nCall-ID: c\nCSeq: 1 INVITE\nAUTHORIZATION : (not shown)\nProxy-Authorization: (not shown)\n\
             Subject: authorization: shown\n\nv=0\nk= (not shown)\na=crypto: (not shown)\na=rtpmap:0 PCMU/8000\n"
        );
    }
}
