//! `[listen]`: where SIP is received, and by what name peers reach us.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Checker, Overrides};
use crate::config::address;
use crate::config::key::{BothOr, Key};
use crate::config::report::Given;
use crate::config::settings::{ListenAddress, ListenKey};
use crate::config::written::Listen;
use crate::flow::{Side, Transport};

/// The addresses to listen on.
pub(super) struct Listening {
    pub addresses: Vec<ListenAddress>,
    /// Whether they are all: nothing was wrong with them.
    pub complete: bool,
}

const LEAVE_OUT: &str = "all addresses of the machine hold each of them: leave one of the two out";
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address::DEFAULT_PORT);

impl Checker<'_> {
    /// Where only one of `udp` and `tcp` is given, the other has the same addresses.
    pub(super) fn listen(&mut self, written: &Listen, flags: &Overrides) -> Listening {
        let mistakes = self.report.mistakes();
        let mut addresses = Vec::new();
        if flags.listen.is_empty() {
            let udp = self.list(&written.udp, Transport::Udp);
            let tcp = self.list(&written.tcp, Transport::Tcp);
            let as_default = |other: &Option<Vec<ListenAddress>>, transport| {
                let same = |one: &ListenAddress| ListenAddress { transport, key: ListenKey::Default, ..*one };
                match other {
                    Some(other) if !other.is_empty() => other.iter().map(same).collect(),
                    _ => vec![ListenAddress { transport, address: DEFAULT, key: ListenKey::Default }],
                }
            };
            let tcp_or_default = tcp.clone().unwrap_or_else(|| as_default(&udp, Transport::Tcp));
            addresses.extend(udp.unwrap_or_else(|| as_default(&tcp, Transport::Udp)));
            addresses.extend(tcp_or_default);
        } else {
            for (index, own) in flags.listen.iter().enumerate() {
                if let Some(other) = flags.listen.iter().take(index).find(|other| are_at_odds(**other, *own)) {
                    let what = format!("`--listen {own}` overlaps with `--listen {other}`");
                    self.report.mistake(None, what).help(LEAVE_OUT);
                }
            }
            for transport in [Transport::Udp, Transport::Tcp] {
                let listener = |&address| ListenAddress { transport, address, key: ListenKey::Flag };
                addresses.extend(flags.listen.iter().map(listener));
            }
        }
        let mut complete = self.report.mistakes() == mistakes && !self.pruned.touches("listen");
        if addresses.is_empty() && complete {
            self.report
                .mistake(written.udp.at(), "`listen.udp` and `listen.tcp` are both empty: nothing would be received");
            complete = false;
        }
        Listening { addresses, complete }
    }

    /// Hosts per side, indexed by [`Side::index`].
    pub(super) fn advertise(&mut self, written: &Listen) -> [Option<Box<str>>; Side::COUNT] {
        match written.advertise.value() {
            None => [None, None],
            Some(BothOr::Both(text)) => {
                let given = Given { key: "listen.advertise".into(), at: written.advertise.at(), text };
                let host = self.advertised(&given);
                [host.clone(), host]
            }
            Some(BothOr::Each(sides)) => [
                sides.dialer.given("listen.advertise.dialer").and_then(|given| self.advertised(&given)),
                sides.telephony.given("listen.advertise.telephony").and_then(|given| self.advertised(&given)),
            ],
        }
    }

    fn list(&mut self, key: &Key<Vec<Key<String>>>, transport: Transport) -> Option<Vec<ListenAddress>> {
        let mut found: Vec<(ListenAddress, &Key<String>)> = Vec::new();
        for (index, item) in key.value()?.iter().enumerate() {
            let Some(given) = item.given(format!("listen.{transport}[{index}]")) else { continue };
            let Some(address) = self.socket(&given, true) else { continue };
            let twin = found.iter().find(|(other, _)| are_at_odds(other.address, address));
            if let Some((other, twin)) = twin {
                let what = if other.address == address { "stands there twice" } else { "overlaps with another one" };
                let finding = given.mistake(self.report, what).also(twin.at(), "here first");
                if other.address != address {
                    finding.help(LEAVE_OUT);
                }
            } else {
                found.push((ListenAddress { transport, address, key: ListenKey::File(index) }, item));
            }
        }
        Some(found.into_iter().map(|(address, _)| address).collect())
    }

    /// An address to bind; port 0 where `any_port`.
    pub(super) fn socket(&mut self, given: &Given<'_>, any_port: bool) -> Option<SocketAddr> {
        match given.text.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 && !any_port => {
                given.mistake(self.report, "needs a port other than 0");
                None
            }
            Ok(address) => Some(address),
            Err(_) => {
                let finding = given.mistake(self.report, "is no address with a port");
                match given.text.parse::<IpAddr>() {
                    Ok(IpAddr::V4(ip)) => finding.help(format!("write `{ip}:PORT`")),
                    Ok(IpAddr::V6(ip)) => finding.help(format!("write `[{ip}]:PORT`")),
                    Err(_) => finding.help("such as `0.0.0.0:5060` or `[::]:5060`; names are not looked up here"),
                };
                None
            }
        }
    }

    fn advertised(&mut self, given: &Given<'_>) -> Option<Box<str>> {
        match address::host(given.text) {
            Ok(address::Host::Ip(ip)) if ip.is_unspecified() => {
                given.mistake(self.report, "is an address that nobody can reach").help("leave it out for the default");
                None
            }
            Ok(host) => Some(host.text().into()),
            Err(wrong) => {
                let finding = given.mistake_at(self.report, wrong.part, wrong.what);
                finding.help("a host, such as `203.0.113.5`, `[2001:db8::5]` or `sip.example.com`");
                None
            }
        }
    }
}

/// Whether only one of two addresses can be bound.
pub(super) fn are_at_odds(one: SocketAddr, other: SocketAddr) -> bool {
    let is_any = one.ip().is_unspecified() || other.ip().is_unspecified();
    let is_shared = one.ip() == other.ip() || is_any && one.is_ipv4() == other.is_ipv4();
    is_shared && one.port() == other.port() && one.port() != 0
}
