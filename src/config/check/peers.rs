//! `[dialer]` and `[[telephony.servers]]`: who stands on either side, and where.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use ipnet::IpNet;

use super::listen::Listening;
use super::{Checker, Overrides, flag, number};
use crate::config::address::{self, Host, NextHop};
use crate::config::key::Key;
use crate::config::report::{At, FILE, Given};
use crate::config::written;
use crate::flow::{Hop, Transport};
use crate::policy::{Dialer, Server, ServerId, Target};

impl Checker<'_> {
    pub(super) fn dialer(
        &mut self,
        written: Option<&written::Dialer>,
        at: At,
        flags: &Overrides,
        listen: &Listening,
    ) -> Dialer {
        let sources = written.map(|dialer| &dialer.sources);
        let given = sources.and_then(Key::value);
        let nets = if flags.dialer.is_empty() {
            self.networks(given.map(Vec::as_slice).unwrap_or_default(), "dialer.sources")
        } else {
            flags.dialer.iter().map(IpNet::trunc).collect()
        };
        if flags.dialer.is_empty() && given.is_none_or(Vec::is_empty) && !self.pruned.touches("dialer.sources") {
            let at = sources.and_then(Key::at).or(at).or(FILE);
            self.report
                .mistake(at, "`dialer.sources` names nobody: who is the dialer?")
                .help("for instance `sources = [\"10.0.1.0/24\"]` in [dialer], or --dialer 10.0.1.0/24");
        }
        let target = written.and_then(|dialer| dialer.target.given("dialer.target"));
        Dialer {
            sources: nets,
            target: target.and_then(|given| self.target(&given, address::next_hop, listen)).map(|(target, _)| target),
            trust_headers: written.is_none_or(|dialer| flag(&dialer.trust_headers, true)),
        }
    }

    /// The servers, each with the place of its address.
    pub(super) fn servers(
        &mut self,
        written: Option<&written::Telephony>,
        at: At,
        flags: &Overrides,
        listen: &Listening,
    ) -> Vec<(Server, At)> {
        let list = written.map(|telephony| &telephony.servers);
        let given = list.and_then(Key::value).map(Vec::as_slice).unwrap_or_default();
        let mut servers = Vec::new();
        let mut names = Vec::new();
        if flags.servers.is_empty() {
            for (index, item) in given.iter().enumerate() {
                let Some(written) = item.value() else { continue };
                let path = format!("telephony.servers[{index}]");
                // Its other keys are checked also where its address is wrong.
                let sources = self.networks(&written.sources, &format!("{path}.sources"));
                let name = written.name.given(format!("{path}.name"));
                let name = name.and_then(|given| self.server_name(given, &mut names));
                let Some(given) = written.uri.given(format!("{path}.uri")) else { continue };
                let Some((target, default_name)) = self.target(&given, address::next_hop, listen) else { continue };
                let priority = number(&written.priority, 1);
                let weight = number(&written.weight, 1);
                let named = written.name.value().is_some();
                let name = name.unwrap_or_else(|| default_name.as_str().into());
                let server = Server { id: ServerId::DIALER, name, target, priority, weight, sources };
                if self.push_server(&mut servers, server, &given) && !named {
                    self.server_name(Given { text: &default_name, ..given }, &mut names);
                }
            }
        } else {
            for text in &flags.servers {
                let given = Given { key: "--server".into(), at: None, text };
                let Some((target, name)) = self.target(&given, address::next_hop_or_host, listen) else { continue };
                let name = Arc::from(name);
                let (priority, weight, sources) = (1, 1, Vec::new());
                let server = Server { id: ServerId::DIALER, name, target, priority, weight, sources };
                self.push_server(&mut servers, server, &given);
            }
        }
        if flags.servers.is_empty() && given.is_empty() && !self.pruned.touches("telephony.servers") {
            self.report
                .mistake(list.and_then(Key::at).or(at).or(FILE), "`telephony.servers` names no server: where do calls go?")
                .help("for instance `[[telephony.servers]]` with `uri = \"sip:10.0.2.10:5060\"`, or --server 10.0.2.10:5060");
        }
        servers
    }

    pub(super) fn warn_of_overlaps(&mut self, dialer: &Dialer, servers: &[(Server, At)]) {
        for (server, at) in servers {
            let (name, host) = (&server.name, server.target.hop.remote.ip());
            let clash = dialer.sources.iter().find(|net| net.contains(&host));
            if let Some(net) = clash {
                let what = if net.prefix_len() == IpNet::from(host).prefix_len() {
                    "only what comes from its own port is the server's, the rest is the dialer's"
                } else {
                    "what comes from there is the server's"
                };
                self.report.warning(at.clone(), format!("server `{name}` is within dialer.sources ({net}): {what}"));
            }
            for net in &server.sources {
                for dialer in &dialer.sources {
                    let whose = match dialer.prefix_len().cmp(&net.prefix_len()) {
                        std::cmp::Ordering::Equal if dialer == net => "a tie, which is the dialer's",
                        std::cmp::Ordering::Greater if net.contains(dialer) => "the longer prefix wins, the dialer's",
                        std::cmp::Ordering::Less if dialer.contains(net) => "the longer prefix wins, the server's",
                        _ => continue,
                    };
                    let title =
                        format!("sources of server `{name}` ({net}) and the dialer ({dialer}) overlap: {whose}");
                    self.report.warning(at.clone(), title);
                }
            }
        }
    }

    /// False where the server is one of those already there.
    fn push_server(&mut self, servers: &mut Vec<(Server, At)>, server: Server, given: &Given<'_>) -> bool {
        let same =
            |other: &Hop| (other.transport, other.remote) == (server.target.hop.transport, server.target.hop.remote);
        let twin = servers.iter().find(|(other, _)| same(&other.target.hop));
        let is_single = twin.is_none();
        if let Some((twin, at)) = twin {
            let what = format!("is the same server as `{}`: address, port and transport are alike", twin.name);
            given
                .mistake(self.report, what)
                .also(at.clone(), "here first")
                .help("use `weight` to give it a larger share");
        }
        servers.push((server, given.at.clone()));
        is_single
    }

    /// A name that no server has yet; each is told of once.
    fn server_name(&mut self, given: Given<'_>, names: &mut Vec<(Arc<str>, At)>) -> Option<Arc<str>> {
        let name = given.text;
        if name.is_empty() || name.chars().any(char::is_control) {
            given.mistake(self.report, "must be a printable name");
        } else if name == "dialer" {
            given.mistake(self.report, "is reserved: `dialer` stands for the dialer in events");
        } else if let Some((_, first)) = names.iter().find(|(other, _)| &**other == name) {
            given
                .mistake(self.report, format!("is taken: another server is `{name}`"))
                .also(first.clone(), "here first");
        } else {
            let name: Arc<str> = name.into();
            names.push((name.clone(), given.at));
            return Some(name);
        }
        None
    }

    fn networks(&mut self, items: &[Key<String>], path: &str) -> Vec<IpNet> {
        let mut nets = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let Some(given) = item.given(format!("{path}[{index}]")) else { continue };
            match address::network(given.text) {
                Some((net, cleared)) => {
                    if cleared {
                        given.warning(self.report, format!("has bits beyond its prefix: it means {net}"));
                    }
                    nets.push(net);
                }
                None => {
                    given
                        .mistake(self.report, "is neither an address nor a network")
                        .help("such as `10.0.1.5` or `10.0.1.0/24`; names are not looked up here");
                }
            }
        }
        nets
    }

    /// The next hop and its `host:port`, resolved.
    fn target(
        &mut self,
        given: &Given<'_>,
        read: fn(&str) -> Result<NextHop, address::Wrong>,
        listen: &Listening,
    ) -> Option<(Target, String)> {
        let hop = match read(given.text) {
            Ok(hop) => hop,
            Err(wrong) => {
                let finding = given.mistake_at(self.report, wrong.part, wrong.what);
                if let Some(help) = wrong.help {
                    finding.help(help);
                }
                return None;
            }
        };
        let port = hop.port.unwrap_or(address::DEFAULT_PORT);
        let transport = hop.transport.unwrap_or(Transport::Udp);
        let remotes = self.resolved(given, &hop.host, port);
        let remote = self.reachable(given, &remotes, transport, listen)?;
        let local = match remote {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let name = format!("{}:{port}", hop.host.text());
        let explicit_transport = hop.transport.is_some();
        let way = Hop { transport, local: SocketAddr::new(local, 0), remote, connection: None };
        Some((Target { hop: way, host_port: hop.host_port, explicit_transport }, name))
    }

    fn resolved(&mut self, given: &Given<'_>, host: &Host, port: u16) -> Vec<SocketAddr> {
        let name = match host {
            Host::Ip(ip) => return vec![SocketAddr::new(ip.to_canonical(), port)],
            Host::Name(name) => name,
        };
        let found: Result<Vec<SocketAddr>, _> = (name.as_str(), port).to_socket_addrs().map(Iterator::collect);
        match found {
            Ok(found) if !found.is_empty() => found,
            Ok(_) => {
                given.mistake(self.report, format!("names a host without an address: {name}"));
                Vec::new()
            }
            Err(error) => {
                given
                    .mistake(self.report, format!("names a host that does not resolve: {name}"))
                    .label(error.to_string());
                Vec::new()
            }
        }
    }

    /// The first address that one of our listeners can send to.
    fn reachable(
        &mut self,
        given: &Given<'_>,
        remotes: &[SocketAddr],
        transport: Transport,
        listen: &Listening,
    ) -> Option<SocketAddr> {
        let first = remotes.first()?;
        let listeners = || listen.addresses.iter().filter(|one| one.transport == transport).map(|one| one.address);
        let fits = |remote: &SocketAddr| listeners().any(|own| own.is_ipv4() == remote.is_ipv4());
        let Some(remote) = remotes.iter().copied().find(fits) else {
            if listen.complete {
                let (family, any) = if first.is_ipv4() { ("IPv4", "0.0.0.0:5060") } else { ("IPv6", "[::]:5060") };
                let name = transport.via_name();
                given
                    .mistake(self.report, format!("needs {name} over {family}, and nothing listens there"))
                    .help(format!("add `\"{any}\"` to listen.{transport}"));
            }
            return listen.complete.then_some(*first);
        };
        let is_own = |own: SocketAddr| {
            own.port() == remote.port()
                && (own.ip() == remote.ip() || own.ip().is_unspecified() && remote.ip().is_loopback())
        };
        if listeners().any(is_own) {
            given.mistake(self.report, "is the sidecar's own address: calls would go round in circles");
        }
        Some(remote)
    }
}
