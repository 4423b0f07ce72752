//! Raw messages in front of the pure core, by datagram or by stream, and what becomes of them.

mod corpus;
mod oracle;
mod own;
mod readers;

use std::net::SocketAddr;

use bytes::Bytes;
use sipstamp::endpoint::Input;
use sipstamp::flow::{ConnectionId, Flow, Side, Transport};
use sipstamp::policy::{Listener, Policy};
use sipstamp::sip::{Frame, Framer, Limits, Message};

pub use corpus::Corpus;
pub use oracle::{Parts, intact_response, response_with_our_via};
pub use own::torture;
pub use readers::disagreement;

use self::oracle::intact;
use super::support::{self, DIALER, PBX_A, SIDECAR, Sent, World};

pub const LIMITS: Limits = Limits::standard(65_535);
/// Where every name leads that the core asks for.
pub const RESOLVED: &str = "192.0.2.77";
/// A Route of ours: what a peer sends inside a dialog that we recorded ourselves in.
pub const OUR_ROUTE: &str = "Route: <sip:10.0.0.1:5060;lr>\r\n";

/// Where the sidecar listens by IPv6.
pub const SIDECAR6: &str = "[2001:db8:5::1]:5060";

/// How bytes reach the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// As one datagram.
    Udp,
    /// As a stream that goes on being open.
    Tcp,
}

/// What became of some bytes.
#[derive(Debug)]
pub struct Fate {
    /// In words, one for each message: `forwarded`, a code that it was answered with, `dropped`; then `closed` where
    /// the connection has to be, `waits` where more of a message must come.
    pub told: String,
    /// What came and went on to the other side.
    pub forwarded: Vec<(Bytes, Sent)>,
}

/// The policy of the tests, with IPv6 beside IPv4.
pub fn policy() -> Policy {
    let mut policy = support::policy();
    let address = SIDECAR6.parse().unwrap();
    policy.listeners.extend([Transport::Udp, Transport::Tcp].map(|transport| Listener {
        transport,
        bound: address,
        address,
    }));
    policy
}

/// A flow from a peer of the sidecar.
pub fn flow(over: Over, from: &str) -> Flow {
    let (transport, connection) = match over {
        Over::Udp => (Transport::Udp, None),
        Over::Tcp => (Transport::Tcp, Some(ConnectionId(1))),
    };
    Flow { transport, local: SIDECAR.parse().unwrap(), remote: from.parse().unwrap(), connection, opened_for: None }
}

/// Gives bytes to the core as the transport would: messages as they are parted, then what cannot be read.
pub fn deliver(world: &mut World, over: Over, from: &str, bytes: &[u8]) -> Fate {
    let flow = flow(over, from);
    let mut fate = Fate { told: String::new(), forwarded: Vec::new() };
    if over == Over::Udp {
        take(world, &flow, Bytes::copy_from_slice(bytes), &mut fate);
        return fate;
    }
    let mut framer = Framer::new(LIMITS);
    framer.buffer.extend_from_slice(bytes);
    let mut rest = bytes;
    loop {
        match framer.next() {
            Ok(Some(Frame::Message(framed))) => {
                // Nothing is lost between two messages but line ends.
                let at = oracle::find(rest, &framed).unwrap();
                assert!(rest[..at].iter().all(|byte| b"\r\n".contains(byte)));
                rest = &rest[at + framed.len()..];
                take(world, &flow, framed, &mut fate);
            }
            Ok(Some(Frame::Ping)) => fate.tell("ping"),
            Ok(None) => {
                if !framer.buffer.is_empty() {
                    fate.tell("waits");
                }
                return fate;
            }
            Err(error) => {
                put_in(world, Input::Broken { flow, rejected: Box::new(error.into_rejected()) });
                fate.see(world, flow.remote, b"");
                fate.tell("closed");
                return fate;
            }
        }
    }
}

/// Gives the core one whole message from a peer; what went to the dialer then, but for a 100.
pub fn answers_from(world: &mut World, over: Over, from: &str, bytes: &[u8]) -> Result<Vec<Bytes>, String> {
    let message = Message::parse(Bytes::copy_from_slice(bytes), &LIMITS).map_err(|rejected| rejected.detail)?;
    put_in(world, Input::Message { flow: flow(over, from), message });
    let sent = std::mem::take(&mut world.sent);
    Ok(sent.into_iter().filter(|sent| sent.side == Side::Dialer).map(|sent| sent.raw).collect())
}

/// A request as it comes inside a dialog: with a Route of ours where its To has a tag.
pub fn routed(bytes: &[u8]) -> Vec<u8> {
    if oracle::find(bytes, b"\r\n\r\n").is_none() {
        return bytes.to_vec();
    }
    let parts = Parts::of(bytes);
    let is_in_dialog = parts.has("to", "t") && String::from_utf8_lossy(parts.first("to", "t")).contains("tag");
    if !parts.is_request() || !is_in_dialog {
        return bytes.to_vec();
    }
    let at = oracle::find(bytes, &parts.start).unwrap() + parts.start.len() + 2;
    [&bytes[..at], OUR_ROUTE.as_bytes(), &bytes[at..]].concat()
}

/// Whether whatever was forwarded is what came, and reads the same for everybody.
pub fn unharmed(fate: &Fate) -> Result<(), String> {
    fate.forwarded.iter().try_for_each(|(came, sent)| {
        intact(came, sent, DIALER.parse().unwrap())?;
        disagreement(&sent.raw).map_or(Ok(()), Err)
    })
}

/// The core goes on: a call is set up and ends.
pub fn still_works(world: &mut World) {
    world.sent.clear();
    let (mut uac, uas) = world.called();
    world.send(PBX_A, uas.reply(200));
    let answer = world.take(DIALER, "200");
    uac.learn(&answer);
    let ack = uac.ack();
    world.send(DIALER, ack);
    world.take(PBX_A, "ACK");
    let bye = uac.bye();
    world.hang_up(DIALER, PBX_A, bye);
}

fn take(world: &mut World, flow: &Flow, bytes: Bytes, fate: &mut Fate) {
    let input = match Message::parse(bytes.clone(), &LIMITS) {
        Ok(message) => Input::Message { flow: *flow, message },
        Err(rejected) => Input::Broken { flow: *flow, rejected },
    };
    put_in(world, input);
    if !fate.see(world, flow.remote, &bytes) {
        fate.tell("dropped");
    }
}

/// Hands an input over and resolves whatever is asked for then.
fn put_in(world: &mut World, input: Input) {
    world.input(input);
    while let Some((query, _)) = world.queries.pop() {
        world.input(Input::Resolved { query, addresses: vec![RESOLVED.parse().unwrap()] });
    }
}

impl Fate {
    fn tell(&mut self, word: &str) {
        if !self.told.is_empty() {
            self.told.push(' ');
        }
        self.told.push_str(word);
    }

    /// Takes what the core sent on account of one message from `source`; whether it was anything.
    fn see(&mut self, world: &mut World, source: SocketAddr, came: &[u8]) -> bool {
        let sent = std::mem::take(&mut world.sent);
        let from = if source == PBX_A.parse().unwrap() { Side::Telephony } else { Side::Dialer };
        let (back, there): (Vec<_>, Vec<_>) = sent.into_iter().partition(|sent| sent.side == from);
        let codes = back.iter().map(|sent| sent.msg.code()).filter(|code| *code > 100).collect::<Vec<_>>();
        there.iter().for_each(|_| self.tell("forwarded"));
        codes.iter().for_each(|code| self.tell(&code.to_string()));
        let is_any = there.len() + codes.len() > 0;
        self.forwarded.extend(there.into_iter().map(|sent| (Bytes::copy_from_slice(came), sent)));
        is_any
    }
}
