//! Binding, before anything else starts.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{SockaddrStorage, setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use crate::config::{ListenAddress, Locate};
use crate::flow::Transport;
use crate::policy::Listener;
use crate::transport::{BoundUdp, Inherited};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Sockets that are bound and not yet read.
#[derive(Debug, Default)]
pub struct Bound {
    /// At each address one, or one for each worker.
    pub udp: Vec<(Vec<BoundUdp>, Listener)>,
    pub tcp: Vec<(std::net::TcpListener, Listener)>,
    /// How many of them were not handed over.
    pub opened: usize,
}

/// An address of the configuration that could not be bound.
#[derive(Debug)]
pub struct BindError {
    pub key: String,
    pub address: SocketAddr,
    pub error: io::Error,
}

/// What listeners there are, to answer which address leads to a peer.
#[derive(Clone, Debug)]
pub struct LocalAddresses(pub Vec<Listener>);

/// Binds all listeners, or none; those that were handed over are there already, and stay as many as they are.
pub fn bind(addresses: &[ListenAddress], workers: usize, inherited: &mut Inherited) -> Result<Bound, BindError> {
    let mut bound = Bound::default();
    for one in addresses {
        let failed = |error| BindError { key: one.key(), address: one.address, error };
        match one.transport {
            Transport::Udp => {
                let mut sockets = inherited.take_udp(one.address);
                if sockets.is_empty() {
                    bound.opened += 1;
                    inherited.clear_the_way(Transport::Udp, one.address);
                    let opened = open_udp(one.address, workers).map_err(failed)?;
                    sockets = opened.into_iter().map(BoundUdp::opened).collect();
                }
                for bound in &sockets {
                    bound.socket.set_nonblocking(true).map_err(failed)?;
                }
                let Some(first) = sockets.first() else { continue };
                let listener = listener(Transport::Udp, first.socket.local_addr().map_err(failed)?);
                bound.udp.push((sockets, listener));
            }
            Transport::Tcp => {
                let socket = match inherited.take_tcp(one.address) {
                    Some(socket) => socket,
                    None => {
                        bound.opened += 1;
                        inherited.clear_the_way(Transport::Tcp, one.address);
                        let socket = open(one.address, Type::STREAM, false).map_err(failed)?;
                        socket.listen(BACKLOG).map_err(failed)?;
                        socket.into()
                    }
                };
                socket.set_nonblocking(true).map_err(failed)?;
                let listener = listener(Transport::Tcp, socket.local_addr().map_err(failed)?);
                bound.tcp.push((socket, listener));
            }
        }
    }
    Ok(bound)
}

/// The machine's own addresses that a wildcard stands for, as far as they are known; none where it is no wildcard.
pub fn addresses_of(wildcard: SocketAddr) -> Vec<SocketAddr> {
    if !wildcard.ip().is_unspecified() {
        return Vec::new();
    }
    let interfaces = getifaddrs().into_iter().flatten().filter_map(|interface| interface.address);
    let address = |storage: SockaddrStorage| match wildcard {
        SocketAddr::V4(_) => Some(IpAddr::V4(storage.as_sockaddr_in()?.ip())),
        // One of a link has no meaning without that.
        SocketAddr::V6(_) => {
            Some(storage.as_sockaddr_in6()?.ip()).filter(|ip| !ip.is_unicast_link_local()).map(IpAddr::V6)
        }
    };
    interfaces.filter_map(address).map(|ip| SocketAddr::new(ip, wildcard.port())).collect()
}

impl Bound {
    pub fn listeners(&self) -> Vec<Listener> {
        self.udp.iter().map(|(_, listener)| *listener).chain(self.tcp.iter().map(|(_, listener)| *listener)).collect()
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = match self.error.kind() {
            io::ErrorKind::AddrInUse => "; another process listens there: stop it or choose another port",
            io::ErrorKind::AddrNotAvailable => "; this machine has no such address: choose one that it has, or 0.0.0.0",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need the capability CAP_NET_BIND_SERVICE",
            _ => "",
        };
        write!(f, "{}: cannot listen on {}: {}{hint}", self.key, self.address, self.error)
    }
}

impl std::error::Error for BindError {}

impl Locate for LocalAddresses {
    fn local_towards(&mut self, transport: Transport, remote: SocketAddr) -> Option<SocketAddr> {
        let fits =
            |listener: &&Listener| listener.transport == transport && listener.bound.is_ipv4() == remote.is_ipv4();
        let routed = routed_from(remote);
        let of_address = self.0.iter().filter(fits).find(|listener| Some(listener.bound.ip()) == routed);
        let wildcard = || self.0.iter().filter(fits).find(|listener| listener.bound.ip().is_unspecified());
        let listener = of_address.or_else(wildcard).or_else(|| self.0.iter().find(fits))?;
        let address = if listener.bound.ip().is_unspecified() { routed } else { None };
        Some(SocketAddr::new(address.unwrap_or(listener.address.ip()), listener.bound.port()))
    }
}

/// So many sockets at one address. The first is bound alone, so that another process there is seen.
fn open_udp(address: SocketAddr, workers: usize) -> io::Result<Vec<UdpSocket>> {
    let first = UdpSocket::from(open(address, Type::DGRAM, false)?);
    let address = first.local_addr()?;
    if workers > 1 {
        setsockopt(&first, sockopt::ReusePort, &true)?;
    }
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(open(address, Type::DGRAM, true)?.into());
    }
    Ok(sockets)
}

fn open(address: SocketAddr, kind: Type, is_one_of_many: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if is_one_of_many {
        setsockopt(&socket, sockopt::ReusePort, &true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listener(transport: Transport, bound: SocketAddr) -> Listener {
    let address = if bound.ip().is_unspecified() {
        SocketAddr::new(routed_from(default_peer(bound.ip())).unwrap_or(loopback(bound.ip())), bound.port())
    } else {
        bound
    };
    Listener { transport, bound, address }
}

/// The address that routing chooses towards a peer: that of a connected socket, over which nothing is sent.
fn routed_from(peer: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((peer.ip(), peer.port().max(1))).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// Any address behind the default route: documentation ranges of RFC 5737 and RFC 3849.
fn default_peer(family: IpAddr) -> SocketAddr {
    match family {
        IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 5060)),
        IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 5060)),
    }
}

fn loopback(family: IpAddr) -> IpAddr {
    match family {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ListenKey;

    #[test]
    fn a_taken_port_names_its_key() {
        let first = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap();
        let listen = ListenAddress { transport: Transport::Udp, address, key: ListenKey::File(0) };
        let error = bind(&[listen], 2, &mut Inherited::default()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("listen.udp[0]: cannot listen on {address}: ")), "{error}");
        assert!(error.contains("another process"), "{error}");
    }

    #[test]
    fn a_wildcard_listener_is_reached_by_the_address_that_routing_chooses() {
        let any =
            ListenAddress { transport: Transport::Udp, address: "0.0.0.0:0".parse().unwrap(), key: ListenKey::Flag };
        let bound = bind(&[any], 1, &mut Inherited::default()).unwrap();
        let port = bound.udp[0].1.bound.port();
        let mut locals = LocalAddresses(bound.listeners());
        let local = locals.local_towards(Transport::Udp, "127.0.0.9:5060".parse().unwrap()).unwrap();
        assert_eq!(local, SocketAddr::from(([127, 0, 0, 1], port)));
        assert_eq!(locals.local_towards(Transport::Tcp, "127.0.0.9:5060".parse().unwrap()), None);
    }

    /// A successor whose configuration has another address on the same port: the one before it has ended by then.
    #[test]
    fn a_socket_that_was_handed_over_and_is_not_wanted_is_not_in_the_way() {
        let old = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, old.local_addr().unwrap().port()));
        let listen = ListenAddress { transport: Transport::Udp, address, key: ListenKey::File(0) };
        let mut inherited = Inherited::of([std::os::fd::OwnedFd::from(old)]);
        bind(&[listen], 2, &mut inherited).unwrap();
    }
}
