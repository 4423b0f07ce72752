//! Sockets that this process did not open: handed over by the process whose place it takes, or by systemd.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use socket2::{SockRef, Type};

use super::udp::BoundUdp;
use crate::flow::Transport;

/// Those that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Inherited {
    udp: Vec<BoundUdp>,
    tcp: Vec<TcpListener>,
}

impl Inherited {
    /// Sorts descriptors; what is no socket for SIP or HTTP is closed.
    pub fn of(descriptors: impl IntoIterator<Item = OwnedFd>) -> Inherited {
        let mut inherited = Inherited::default();
        for descriptor in descriptors {
            let kind = SockRef::from(&descriptor).r#type();
            match kind {
                Ok(Type::DGRAM) => inherited.udp.push(BoundUdp::inherited(descriptor.into())),
                Ok(Type::STREAM) => inherited.tcp.push(descriptor.into()),
                _ => tracing::warn!("a descriptor that was handed over is no socket to listen on"),
            }
        }
        inherited
    }

    pub fn is_empty(&self) -> bool {
        self.udp.is_empty() && self.tcp.is_empty()
    }

    /// Closes what keeps an address from being bound, and is not that address itself: it was configured otherwise.
    pub fn clear_the_way(&mut self, transport: Transport, address: SocketAddr) {
        let is_in_the_way = |bound: io::Result<SocketAddr>| bound.is_ok_and(|bound| overlap(bound, address));
        match transport {
            Transport::Udp => self.udp.retain(|bound| !is_in_the_way(bound.socket.local_addr())),
            Transport::Tcp => self.tcp.retain(|socket| !is_in_the_way(socket.local_addr())),
        }
    }

    /// Closes the sockets for datagrams that nobody has taken.
    pub fn close_udp(&mut self) {
        self.udp.clear();
    }

    /// The listeners for datagrams at an address, in their order: of several workers each had one.
    pub fn take_udp(&mut self, address: SocketAddr) -> Vec<BoundUdp> {
        let is_it = |BoundUdp { socket, .. }: &mut BoundUdp| {
            socket.local_addr().ok() == Some(address) && socket.peer_addr().is_err()
        };
        self.udp.extract_if(.., is_it).collect()
    }

    /// The socket that is connected to a peer.
    pub fn take_connected(&mut self, local: SocketAddr, remote: SocketAddr) -> Option<BoundUdp> {
        take(&mut self.udp, |BoundUdp { socket, .. }| {
            socket.local_addr().ok() == Some(local) && socket.peer_addr().ok() == Some(remote)
        })
    }

    /// The listener for connections at an address.
    pub fn take_tcp(&mut self, address: SocketAddr) -> Option<TcpListener> {
        take(&mut self.tcp, |socket| socket.local_addr().ok() == Some(address))
    }
}

/// Whether the kernel does not let both be bound, for one transport.
pub fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let is_any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.is_ipv4() == other.is_ipv4() && (is_any || one.ip() == other.ip())
}

fn take<T>(sockets: &mut Vec<T>, is_it: impl Fn(&T) -> bool) -> Option<T> {
    let at = sockets.iter().position(is_it)?;
    Some(sockets.swap_remove(at))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn sockets_are_found_by_their_addresses_once() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect(udp.local_addr().unwrap()).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let (at, from, stream) =
            (udp.local_addr().unwrap(), connected.local_addr().unwrap(), tcp.local_addr().unwrap());
        let mut inherited = Inherited::of([OwnedFd::from(udp), connected.into(), tcp.into()]);
        assert!(inherited.take_udp(from).is_empty());
        assert!(inherited.take_udp(at).len() == 1 && inherited.take_udp(at).is_empty());
        assert!(inherited.take_connected(from, at).is_some());
        assert!(inherited.take_tcp(at).is_none() && inherited.take_tcp(stream).is_some());
        assert!(inherited.is_empty());
    }
}
