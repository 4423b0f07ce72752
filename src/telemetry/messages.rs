//! SIP messages in the log, at `trace`, under a target of their own, so that they can be asked for alone
//! (`log.level = "info,sipstamp::message=trace"`). There are numbers in them, but no secrets.

use std::net::SocketAddr;
use std::sync::LazyLock;

use bytes::Bytes;
use regex::{Captures, Regex};
use tracing::{Level, enabled, trace};

use crate::flow::Transport;
use crate::sip::{Limits, Message};

/// The target by which a filter names them.
const TARGET: &str = "sipstamp::message";

const HIDDEN: &str = "(not shown)";

/// A message that was read.
#[inline]
pub fn received(message: &Message, transport: Transport, remote: SocketAddr) {
    if enabled!(target: TARGET, Level::TRACE) {
        tell("received", message, transport, remote);
    }
}

/// A message that is about to be sent.
#[inline]
pub fn sent(bytes: &Bytes, transport: Transport, remote: SocketAddr) {
    if enabled!(target: TARGET, Level::TRACE)
        && let Ok(message) = Message::parse(bytes.clone(), &Limits::NONE)
    {
        tell("sent", &message, transport, remote);
    }
}

#[cold]
fn tell(way: &str, message: &Message, transport: Transport, remote: SocketAddr) {
    let call_id = String::from_utf8_lossy(message.call_id());
    trace!(target: TARGET, %remote, transport = transport.label(), %call_id, "{way}\n{}", text(message));
}

/// The message, a line for each of its own, without what is secret in it: credentials, also in a URI; passwords in URIs
/// (RFC 3261 §19.1.1); keys and passwords of media in a body (RFC 4566 §5.12, RFC 4567, RFC 4568, RFC 8839).
fn text(message: &Message) -> String {
    static SECRET: LazyLock<Option<Regex>> = LazyLock::new(|| {
        // A fold continues the header.
        let header = r"^((?:proxy-)?authorization[ \t]*:)[^\n]*(?:\n[ \t][^\n]*)*";
        let in_uri = r"([?&](?:proxy-)?authorization=)[^\s&>]*";
        let password = r"\b([a-z][a-z0-9+.-]*:(?://)?[^\s:@<>]*:)[^\s@<>]*@";
        let key = r"^(k=|a=crypto:|a=key-mgmt:|a=ice-pwd:)[^\n]*";
        Regex::new(&format!("(?im){header}|{in_uri}|{password}|{key}")).ok()
    });
    let text = String::from_utf8_lossy(message.raw()).replace("\r\n", "\n");
    // It is a pattern, as a test shows; should it be none, nothing is shown.
    let Some(secret) = &*SECRET else { return HIDDEN.to_owned() };
    let hidden = |found: &Captures<'_>| {
        let begin = found.iter().skip(1).flatten().next().map_or("", |begin| begin.as_str());
        let end = if found.get(3).is_some() { "@" } else { "" };
        format!("{begin}{HIDDEN}{end}")
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
            Proxy-Authorization: Digest hunter2\r\nSubject: authorization: shown\r\nCall-Info: <http://u:hunter2@h/>\r\n\
            Refer-To: <sip:b@x?Authorization=hunter2&X=shown>\r\n\r\n\
            v=0\r\nk=clear:hunter2\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:hunter2\r\na=key-mgmt:mikey hunter2\r\na=ice-pwd:hunter2\r\n\
            a=rtpmap:0 PCMU/8000\r\n";
        let message = Message::parse(Bytes::from_static(raw.as_bytes()), &Limits::NONE).unwrap();
        assert_eq!(
            text(&message),
            "INVITE sip:bob:(not shown)@example.net SIP/2.0\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\nFrom: <sips:a:(not shown)@x:5061>;tag=1\n\
             To: <sip:b@x:5060>\nCall-ID: c\nCSeq: 1 INVITE\nAUTHORIZATION :(not shown)\nProxy-Authorization:(not shown)\n\
             Subject: authorization: shown\nCall-Info: <http://u:(not shown)@h/>\nRefer-To: <sip:b@x?Authorization=(not shown)&X=shown>\n\n\
             v=0\nk=(not shown)\na=crypto:(not shown)\na=key-mgmt:(not shown)\na=ice-pwd:(not shown)\na=rtpmap:0 PCMU/8000\n"
        );
    }
}
