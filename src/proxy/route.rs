//! Where a message wants to go: Request-URI, Route, and who is meant by them (RFC 3261 §16.4–16.6).

use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use crate::flow::{Side, Transport};
use crate::policy::{Listener, Policy};
use crate::sip::{Message, Name, NameAddr, Uri, has_no_uri_byte, host_ip, scheme};
use crate::text::Put;

/// The port of a SIP URI that names none (RFC 3261 §19.1.2).
pub const DEFAULT_PORT: u16 = 5060;

/// A list of Route or Record-Route values in one text, each behind its length in two bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Routes<'a>(pub &'a [u8]);

/// Values of a message, read but not kept.
pub type Values<'a> = SmallVec<[&'a [u8]; 4]>;

/// Where a URI leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub host: Host,
    pub port: u16,
    /// As far as the URI says.
    pub transport: Option<Transport>,
}

/// A host as a URI has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Address(IpAddr),
    /// Needs the resolver.
    Name(Box<str>),
}

impl<'a> Routes<'a> {
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (length, behind) = rest.split_first_chunk::<2>()?;
            let (value, behind) = behind.split_at_checked(u16::from_be_bytes(*length).into())?;
            rest = behind;
            Some(value)
        })
    }

    pub fn first(self) -> Option<&'a [u8]> {
        self.iter().next()
    }

    /// Adds a value to a text that holds such a list.
    pub fn put(out: &mut impl Put, value: &[u8]) {
        // A value is a part of a head, which is no longer than a datagram; what is longer is no route of ours.
        if let Ok(length) = u16::try_from(value.len()) {
            out.put(&length.to_be_bytes());
            out.put(value);
        }
    }
}

/// The Record-Route values of a message, in order.
pub fn recorded(message: &Message) -> Values<'_> {
    if message.first(Name::RecordRoute).is_none() {
        return Values::new();
    }
    message.elements(Name::RecordRoute).map(|element| message.raw().get(element.range).unwrap_or_default()).collect()
}

/// Of the Record-Route values of a response, what lies beyond us towards the callee, in the order in which we visit it.
/// `upstream` are the values that the request bore before ours was added; they tell the parts. Ours are among both where the
/// request has come through here before (a spiral). Where the callee dropped or moved ours, those of others tell.
pub fn beyond_us<'a>(mut values: Values<'a>, upstream: &[&[u8]], is_ours: impl Fn(&[u8]) -> bool) -> Values<'a> {
    let up_to_us = values.strip_suffix(upstream).unwrap_or_default();
    let own = up_to_us.iter().rev().take(MOST_OWN).take_while(|value| is_ours(value)).count();
    let beyond = up_to_us.len() - own;
    if own > 0 {
        values.truncate(beyond);
    } else {
        values.retain(|value| !is_ours(value));
        let upstream = upstream.iter().copied().filter(|value| !is_ours(value)).collect::<Values<'_>>();
        if values.ends_with(&upstream) {
            values.truncate(values.len() - upstream.len());
        }
    }
    values.reverse();
    values
}

/// Most Record-Route values that we add: one towards each side, where they see us differently (RFC 5658 §4.1).
const MOST_OWN: usize = 2;

/// The URI inside a Route, Record-Route or Contact value as a request line can have it: without header fields
/// (RFC 3261 §19.1.1). Empty where there is none, as with white space or a fold in it, which would part the line.
pub fn address(value: &[u8]) -> &[u8] {
    let uri = NameAddr::parse(value).map_or(value, |parsed| parsed.uri);
    if has_no_uri_byte(uri) {
        return &[];
    }
    match Uri::parse(uri) {
        Some(parsed) => uri.get(..parsed.params.end).unwrap_or_default(),
        None if scheme(uri).is_some_and(|scheme| !is_sip(scheme)) => uri,
        None => &[],
    }
}

fn is_sip(scheme: &[u8]) -> bool {
    scheme.eq_ignore_ascii_case(b"sip") || scheme.eq_ignore_ascii_case(b"sips")
}

/// Whether a route is a loose router's.
pub fn is_loose(value: &[u8]) -> bool {
    Uri::parse(address(value)).is_some_and(|uri| uri.params().value(b"lr").is_some())
}

/// Where a URI leads; `None` where it is no `sip:` URI or asks for a transport that is not here.
pub fn destination(uri: &[u8]) -> Option<Destination> {
    Uri::parse(uri).and_then(|uri| destination_of(&uri))
}

/// The same of a URI that has been read.
pub fn destination_of(uri: &Uri<'_>) -> Option<Destination> {
    if uri.secure {
        return None;
    }
    let transport = match uri.params().value(b"transport") {
        None => None,
        Some(name) if name.eq_ignore_ascii_case(b"udp") => Some(Transport::Udp),
        Some(name) if name.eq_ignore_ascii_case(b"tcp") => Some(Transport::Tcp),
        Some(_) => return None,
    };
    let named = uri.params().value(b"maddr").unwrap_or(uri.host());
    let host = match host_ip(named) {
        Some(address) => Host::Address(address),
        None => Host::Name(std::str::from_utf8(named).ok()?.into()),
    };
    Some(Destination { host, port: uri.port.unwrap_or(DEFAULT_PORT), transport })
}

/// What the sidecar is known by, to tell whether a URI names it.
#[derive(Clone, Copy, Debug)]
pub struct Ourselves<'a> {
    pub policy: &'a Policy,
    /// Where the message at hand came, or leaves from.
    pub local: SocketAddr,
    /// Addresses at which messages have come to wildcard listeners.
    pub seen: &'a [IpAddr],
}

impl Ourselves<'_> {
    /// Whether a URI names an address that we listen on or are reached by, or one that we advertise.
    pub fn are_named_by(&self, uri: &[u8]) -> bool {
        Uri::parse(uri).is_some_and(|uri| self.are_in(&uri))
    }

    /// The same of a URI that has been read. Somebody else may have another port of an address of ours.
    pub fn are_in(&self, uri: &Uri<'_>) -> bool {
        let port = uri.port.unwrap_or(DEFAULT_PORT);
        let listeners = || self.policy.listeners.iter().filter(|listener| listener.bound.port() == port);
        if listeners().next().is_none() && self.local.port() != port {
            return false;
        }
        let is_address = host_ip(uri.host()).is_some_and(|address| {
            let address = address.to_canonical();
            let is_it = |own: SocketAddr| own.port() == port && own.ip().to_canonical() == address;
            let towards_peers = || {
                let servers = self.policy.servers.iter().map(|server| &server.target);
                servers.chain(&self.policy.dialer.target).any(|target| is_it(target.hop.local))
            };
            let hears = |listener: &Listener| {
                let bound = listener.bound.ip().to_canonical();
                let is_at_all = bound.is_unspecified();
                let is_seen = || self.local.ip().to_canonical() == address || self.seen.contains(&address);
                listener.address.ip() == address || bound == address || is_at_all && is_seen()
            };
            is_it(self.local) || listeners().any(hears) || towards_peers()
        });
        is_address || is_advertised(uri.host(), self.policy)
    }

    /// Whether a strict router put our Record-Route URI into the Request-URI (§16.4).
    pub fn are_strictly_routed(&self, message: &Message) -> bool {
        message.first(Name::Route).is_some()
            && message
                .sip_uri()
                .is_some_and(|uri| uri.user.is_none() && uri.params().value(b"lr").is_some() && self.are_in(&uri))
    }
}

/// Writes the host and port that a side's peers know us by at `local`.
pub fn put_sent_by(out: &mut impl Put, policy: &Policy, side: Side, local: SocketAddr) {
    match policy.advertise.get(side.index()).and_then(Option::as_deref) {
        Some(host) => {
            out.put(host.as_bytes());
            out.put(b":");
            out.put_number(local.port().into());
        }
        None => out.put_host_port(SocketAddr::new(local.ip().to_canonical(), local.port())),
    }
}

fn is_advertised(host: &[u8], policy: &Policy) -> bool {
    policy.advertise.iter().flatten().any(|advertised| advertised.as_bytes().eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_that_parts_a_line_is_seen_at_every_place() {
        for byte in 0..=u8::MAX {
            let parts = byte <= b' ' || matches!(byte, b'<' | b'>' | b'"' | 0x7f);
            for place in 0..20 {
                let mut text = [b'a'; 20];
                text[place] = byte;
                assert_eq!(has_no_uri_byte(&text), parts, "{byte} at {place}");
            }
        }
    }

    #[test]
    fn what_lies_beyond_us_is_told_by_what_lay_before() {
        let values =
            |text: &'static str| text.split(' ').filter(|value| !value.is_empty()).map(str::as_bytes).collect();
        for (recorded, upstream, beyond) in [
            ("callee us caller", "caller", "callee"),
            ("far near us us", "", "near far"),
            ("callee caller", "caller", "callee"),
            ("us callee caller", "caller", "callee"),
            // What came back through here: the call that the caller began, and the one that it became.
            ("us pbx us", "", "pbx us"),
            ("us pbx us", "pbx us", ""),
            ("far us us pbx us us caller", "caller", "pbx us us far"),
            ("far us us pbx us us caller", "pbx us us caller", "far"),
        ] {
            let (recorded, upstream, beyond): (Values<'_>, Values<'_>, Values<'_>) =
                (values(recorded), values(upstream), values(beyond));
            assert_eq!(beyond_us(recorded, &upstream, |value| value == b"us"), beyond);
        }
    }

    #[test]
    fn an_address_is_what_a_request_line_can_have() {
        for (value, uri) in [
            ("<sip:a@b;lr>;x=1", "sip:a@b;lr"),
            ("\"A, B\" < sip:a@b > ;x", "sip:a@b"),
            ("sip:a@b;x=1", "sip:a@b"),
            ("<sip:a?b@c?Subject=x>", "sip:a?b@c"),
            ("<tel:+15550100>", "tel:+15550100"),
            ("<sips:[2001:db8::1]:5061>", "sips:[2001:db8::1]:5061"),
        ] {
            assert_eq!(address(value.as_bytes()), uri.as_bytes(), "{value}");
        }
        for value in [
            "*",
            "",
            "bob",
            "<sip:>",
            "<sip:a@b;x=\r\n y>",
            "<sip:a @b>",
            "<sip:a@b;x=\u{7f}>",
            "<tel:+1 2>",
            "<sip:a@b",
        ] {
            assert_eq!(address(value.as_bytes()), b"", "{value}");
        }
    }
}
