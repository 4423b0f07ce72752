//! Addresses as operators write them: sockets, networks, hosts and SIP URIs of next hops (RFC 3261 §19.1).

use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;

use ipnet::IpNet;

use super::structure::LATER;
use crate::flow::Transport;

/// A next hop before its name is resolved.
#[derive(Debug, PartialEq, Eq)]
pub struct NextHop {
    pub host: Host,
    /// Where the URI has one.
    pub port: Option<u16>,
    /// Where the URI says it.
    pub transport: Option<Transport>,
    /// `host` or `host:port` as written.
    pub host_port: Box<str>,
}

/// A host of RFC 3261 §25.1.
#[derive(Debug, PartialEq, Eq)]
pub enum Host {
    Ip(IpAddr),
    Name(String),
}

/// Why a text is not what it should be, and which part of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    pub part: Range<usize>,
    pub what: String,
    pub help: Option<String>,
}

/// The port of SIP where none is given (RFC 3261 §19.1.2).
pub const DEFAULT_PORT: u16 = 5060;

/// A `sip:` URI without user part, with no other parameters than `transport` and `lr`.
pub fn next_hop(text: &str) -> Result<NextHop, Wrong> {
    let wrong = |part, what: String, help: Option<String>| Err(Wrong { part, what, help });
    let scheme = text.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
    let start = match scheme.as_deref() {
        Some("sip") => 4,
        Some("sips") => return wrong(0..5, format!("asks for TLS, which is {LATER}"), Some("write `sip:`".into())),
        _ => return wrong(0..text.len(), "is no SIP URI".into(), Some(format!("write `sip:{text}`"))),
    };
    let rest = text.get(start..).unwrap_or_default();
    if let Some(user) = rest.find('@') {
        return wrong(start..start + user + 1, "has a user part, which a next hop has not".into(), None);
    }
    if let Some(headers) = rest.find('?') {
        return wrong(start + headers..text.len(), "has headers, which a next hop has not".into(), None);
    }
    let (host_port, params) =
        rest.split_once(';').map_or((rest, None), |(host_port, params)| (host_port, Some(params)));
    let mut hop = host_and_port(host_port).map_err(|wrong| wrong.shifted(start))?;
    let mut at = start + host_port.len() + 1;
    for param in params.map(|params| params.split(';')).into_iter().flatten() {
        let part = at..at + param.len();
        at = part.end + 1;
        let (name, value) = param.split_once('=').unwrap_or((param, ""));
        match (name.to_ascii_lowercase().as_str(), value.to_ascii_lowercase().as_str()) {
            ("transport", "udp") => hop.transport = Some(Transport::Udp),
            ("transport", "tcp") => hop.transport = Some(Transport::Tcp),
            ("transport", "tls") => return wrong(part, format!("asks for TLS, which is {LATER}"), None),
            ("transport", other) => {
                let help = Some("`transport=udp` or `transport=tcp`".into());
                return wrong(part, format!("has an unknown transport `{}`", other.escape_debug()), help);
            }
            ("lr", "") => {}
            _ => {
                return wrong(
                    part,
                    format!("has a parameter that means nothing here: `{}`", param.escape_debug()),
                    None,
                );
            }
        }
    }
    Ok(hop)
}

/// A SIP URI as above, or `host` or `host:port` alone.
pub fn next_hop_or_host(text: &str) -> Result<NextHop, Wrong> {
    let has_scheme = ["sip:", "sips:"]
        .iter()
        .any(|scheme| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    if has_scheme { next_hop(text) } else { host_and_port(text) }
}

/// A host alone, without a port; IPv6 with or without brackets.
pub fn host(text: &str) -> Result<Host, Wrong> {
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        return Ok(Host::Ip(ip.into()));
    }
    let hop = host_and_port(text)?;
    match hop.port {
        None => Ok(hop.host),
        Some(port) => Err(Wrong {
            part: text.len() - port.to_string().len() - 1..text.len(),
            what: "has a port where only a host belongs".into(),
            help: None,
        }),
    }
}

/// A network, `10.0.0.0/8`, or one address; the flag says whether bits beyond the prefix had to be cleared.
pub fn network(text: &str) -> Option<(IpNet, bool)> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
    Some((net.trunc(), net != net.trunc()))
}

impl Host {
    /// As it stands in a Via or URI: IPv6 in brackets.
    pub fn text(&self) -> String {
        match self {
            Host::Ip(IpAddr::V4(ip)) => ip.to_string(),
            Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]"),
            Host::Name(name) => name.clone(),
        }
    }
}

impl Wrong {
    fn shifted(mut self, by: usize) -> Wrong {
        self.part = self.part.start + by..self.part.end + by;
        self
    }
}

fn host_and_port(text: &str) -> Result<NextHop, Wrong> {
    let wrong = |part, what: &str, help: Option<String>| Err(Wrong { part, what: what.to_owned(), help });
    let host_length = match text.strip_prefix('[').map(|rest| rest.find(']')) {
        Some(None) => return wrong(0..text.len(), "has a `[` without its `]`", None),
        Some(Some(close)) => close + 2,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, after) = text.split_at(host_length);
    let port = match after.strip_prefix(':') {
        None if after.is_empty() => None,
        Some(port) if port.contains(':') && !host.starts_with('[') => {
            let help = text.parse::<Ipv6Addr>().is_ok().then(|| format!("write `[{text}]`"));
            return wrong(0..text.len(), "has more than one colon: IPv6 addresses stand in brackets", help);
        }
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port > 0 => Some(port),
            _ => return wrong(host_length + 1..text.len(), "has a port that is not within 1 to 65535", None),
        },
        None => return wrong(host_length..text.len(), "has something other than a port after its host", None),
    };
    let parsed = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(bare) => bare.parse::<Ipv6Addr>().ok().map(|ip| Host::Ip(ip.into())),
        None => host.parse().map(Host::Ip).ok().or_else(|| is_name(host).then(|| Host::Name(host.to_owned()))),
    };
    match parsed {
        Some(parsed) => Ok(NextHop { host: parsed, port, transport: None, host_port: text.into() }),
        None if host.is_empty() => wrong(0..text.len(), "has no host", None),
        None => wrong(0..host_length, "has a host that is neither an address nor a name", None),
    }
}

/// RFC 3261 §25.1 `hostname`, and the underscores that container networks use. A last label of digits
/// would be a mistyped address.
fn is_name(host: &str) -> bool {
    let labels = || host.strip_suffix('.').unwrap_or(host).split('.');
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    labels().all(is_label) && labels().next_back().is_some_and(|last| !last.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_hops_are_read() {
        let hop = next_hop("sip:10.0.2.10:5070;transport=TCP;lr").unwrap();
        assert_eq!(
            (hop.host.text().as_str(), hop.port, hop.transport),
            ("10.0.2.10", Some(5070), Some(Transport::Tcp))
        );
        assert_eq!(&*hop.host_port, "10.0.2.10:5070");
        let hop = next_hop("SIP:[2001:db8::1]").unwrap();
        assert_eq!((hop.host.text().as_str(), hop.port, hop.transport), ("[2001:db8::1]", None, None));
        let hop = next_hop_or_host("pbx_a.example:5070").unwrap();
        assert_eq!((hop.host.text().as_str(), hop.port), ("pbx_a.example", Some(5070)));
    }

    #[test]
    fn what_is_wrong_with_a_next_hop_is_placed() {
        let part = |text| next_hop(text).unwrap_err().part;
        assert_eq!(part("10.0.0.1:5060"), 0..13);
        assert_eq!(part("sips:a.b"), 0..5);
        assert_eq!(part("sip:bob@a.b"), 4..8);
        assert_eq!(part("sip:a.b:0"), 8..9);
        assert_eq!(part("sip:a.b:99999"), 8..13);
        assert_eq!(part("sip:1.2.3.400"), 4..13);
        assert_eq!(part("sip:"), 4..4);
        assert_eq!(part("sip:[::1"), 4..8);
        assert_eq!(part("sip:::1"), 4..7);
        assert_eq!(part("sip:a.b;transport=tls"), 8..21);
        assert_eq!(part("sip:a.b;lr;transport=sctp"), 11..25);
        assert_eq!(part("sip:a.b?x=y"), 7..11);
    }

    #[test]
    fn a_host_has_no_port_and_a_network_may_be_one_address() {
        assert_eq!(host("::1").unwrap().text(), "[::1]");
        assert_eq!(host("[::1]").unwrap().text(), "[::1]");
        assert_eq!(host("sip.example").unwrap().text(), "sip.example");
        assert_eq!(host("10.0.0.1:5060").unwrap_err().part, 8..13);
        assert_eq!(network("10.0.0.1").unwrap(), ("10.0.0.1/32".parse().unwrap(), false));
        assert_eq!(network("10.0.0.1/8").unwrap(), ("10.0.0.0/8".parse().unwrap(), true));
        assert_eq!(network("10.0.0/8"), None);
    }
}
