//! What ICMP says of our datagrams (RFC 3261 §18.4): the socket's error queue.

use std::io;
use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use bytes::Bytes;
use nix::libc;
use nix::sys::socket::{MsgFlags, SockaddrLike, SockaddrStorage, recvmsg, setsockopt, sockopt};

/// As much of a datagram as ICMP quotes; the Via that names its transaction is at its start.
const QUOTED: usize = 2048;
/// Entries that are read in one turn.
const MOST_AT_ONCE: usize = 64;

/// A datagram that did not arrive.
#[derive(Debug)]
pub struct Unreachable {
    pub remote: SocketAddr,
    /// The start of the datagram.
    pub quoted: Bytes,
}

/// Turns the error queue on.
///
/// # Errors
/// The kernel's.
pub fn enable(socket: &UdpSocket, family: IpAddr) -> io::Result<()> {
    match family {
        IpAddr::V4(_) => setsockopt(socket, sockopt::Ipv4RecvErr, &true)?,
        IpAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvErr, &true)?,
    }
    Ok(())
}

/// Reads a socket's error queue. True where more may be there.
pub fn read(socket: &UdpSocket, mut take: impl FnMut(Unreachable)) -> bool {
    for _ in 0..MOST_AT_ONCE {
        match read_one(socket.as_raw_fd()) {
            Ok(Some(unreachable)) => take(unreachable),
            Ok(None) => {}
            Err(_) => return false,
        }
    }
    true
}

/// One entry of the queue: `None` for one that tells nothing. The message's address is where the datagram was to go.
fn read_one(fd: i32) -> io::Result<Option<Unreachable>> {
    let mut buffer = [0; QUOTED];
    let mut space = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6, libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut space), flags)?;
    let size = message.bytes.min(QUOTED);
    let remote = message.address.filter(|address| address.len() > 0).as_ref().and_then(socket_addr);
    let quoted = Bytes::copy_from_slice(buffer.get(..size).unwrap_or_default());
    Ok(remote.map(|remote| Unreachable { remote, quoted }))
}

fn socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port())))
}
