//! Datagrams, read and sent in place.

use std::collections::VecDeque;
use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::flow::{Flow, Hop, Transport};
use crate::policy::Listener;

/// Largest datagram that UDP can carry.
const LARGEST: usize = 65_535;
/// Datagrams that wait for room in the socket's buffer; beyond it the oldest go.
const MOST_QUEUED: usize = 10_000;

/// A socket that datagrams come and go by.
#[derive(Debug)]
pub struct UdpPort {
    pub socket: Rc<UdpSocket>,
    pub listener: Listener,
    buffer: Vec<u8>,
    /// What the socket had no room for.
    queue: VecDeque<(Hop, Bytes)>,
    /// Datagrams that were dropped because the queue was full.
    pub dropped: u64,
}

/// A datagram and how it came.
#[derive(Debug)]
pub struct Datagram {
    pub flow: Flow,
    pub bytes: Bytes,
}

impl UdpPort {
    /// # Errors
    /// Where the socket cannot be given to the runtime.
    pub fn new(socket: std::net::UdpSocket, listener: Listener) -> io::Result<UdpPort> {
        if listener.bound.ip().is_unspecified() {
            // Replies must leave from the address that the request was sent to.
            match listener.bound.ip() {
                IpAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
                IpAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
            }
        }
        super::errqueue::enable(&socket, listener.bound.ip())?;
        let socket = Rc::new(UdpSocket::from_std(socket)?);
        Ok(UdpPort { socket, listener, buffer: vec![0; LARGEST], queue: VecDeque::new(), dropped: 0 })
    }

    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_recv_ready(cx).map(|_| ())
    }

    /// Ready when something waits and the socket has room again.
    pub fn poll_flushable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.queue.is_empty() { Poll::Pending } else { self.socket.poll_send_ready(cx).map(|_| ()) }
    }

    /// The next datagram; `None` when there is none now. Errors that ICMP left on the socket are skipped: they
    /// come by the error queue.
    pub fn receive(&mut self) -> Option<Datagram> {
        for _ in 0..16 {
            let received = if self.listener.bound.ip().is_unspecified() {
                self.receive_with_address()
            } else {
                self.socket
                    .try_recv_from(&mut self.buffer)
                    .map(|(size, remote)| (size, remote, self.listener.bound.ip()))
            };
            match received {
                Ok((size, remote, local)) => {
                    let flow = Flow {
                        transport: Transport::Udp,
                        local: SocketAddr::new(local, self.listener.bound.port()),
                        remote,
                        connection: None,
                        opened_for: None,
                    };
                    let bytes = Bytes::copy_from_slice(self.buffer.get(..size).unwrap_or_default());
                    return Some(Datagram { flow, bytes });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(_) => {}
            }
        }
        None
    }

    /// Sends, or queues where the socket has no room.
    ///
    /// # Errors
    /// What the kernel refuses outright: no route, too long.
    pub fn send(&mut self, hop: &Hop, bytes: Bytes) -> io::Result<()> {
        if !self.queue.is_empty() {
            self.enqueue(*hop, bytes);
            return Ok(());
        }
        match self.send_now(hop, &bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.enqueue(*hop, bytes);
                Ok(())
            }
            result => result,
        }
    }

    /// Sends what waits, as far as there is room.
    pub fn flush(&mut self) {
        while let Some((hop, bytes)) = self.queue.pop_front() {
            match self.send_now(&hop, &bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.queue.push_front((hop, bytes)),
                // A datagram that cannot be sent is lost, as datagrams are.
                _ => {}
            }
        }
    }

    fn enqueue(&mut self, hop: Hop, bytes: Bytes) {
        if self.queue.len() >= MOST_QUEUED {
            self.queue.pop_front();
            self.dropped += 1;
        }
        self.queue.push_back((hop, bytes));
    }

    /// An error that an earlier datagram's ICMP left on the socket is reported once by the next send, which then did
    /// not happen: it is tried again.
    fn send_now(&self, hop: &Hop, bytes: &[u8]) -> io::Result<()> {
        let is_leftover = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
            )
        };
        match self.send_once(hop, bytes) {
            Err(error) if is_leftover(&error) => self.send_once(hop, bytes),
            result => result,
        }
    }

    fn send_once(&self, hop: &Hop, bytes: &[u8]) -> io::Result<()> {
        let is_any = self.listener.bound.ip().is_unspecified();
        if !is_any || hop.local.ip().is_unspecified() {
            return self.socket.try_send_to(bytes, hop.remote).map(|_| ());
        }
        self.socket.try_io(Interest::WRITABLE, || send_from(self.socket.as_raw_fd(), hop, bytes))
    }

    fn receive_with_address(&mut self) -> io::Result<(usize, SocketAddr, IpAddr)> {
        let fallback = self.listener.address.ip();
        let (socket, buffer) = (&self.socket, &mut self.buffer);
        socket.try_io(Interest::READABLE, || receive_from(socket.as_raw_fd(), buffer, fallback))
    }
}

fn receive_from(fd: i32, buffer: &mut [u8], fallback: IpAddr) -> io::Result<(usize, SocketAddr, IpAddr)> {
    let mut space = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut space), MsgFlags::MSG_DONTWAIT)?;
    let local = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes())),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
        _ => None,
    });
    let remote = message.address.as_ref().and_then(super::errqueue::socket_addr);
    let remote = remote.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok((message.bytes, remote, local.unwrap_or(fallback)))
}

fn send_from(fd: i32, hop: &Hop, bytes: &[u8]) -> io::Result<()> {
    let parts = [IoSlice::new(bytes)];
    let remote = SockaddrStorage::from(hop.remote);
    match hop.local.ip() {
        IpAddr::V4(address) => {
            let source = libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: libc::in_addr { s_addr: 0 } };
            sendmsg(fd, &parts, &[ControlMessage::Ipv4PacketInfo(&info)], MsgFlags::MSG_DONTWAIT, Some(&remote))?;
        }
        IpAddr::V6(address) => {
            let source = libc::in6_addr { s6_addr: address.octets() };
            let info = libc::in6_pktinfo { ipi6_addr: source, ipi6_ifindex: 0 };
            sendmsg(fd, &parts, &[ControlMessage::Ipv6PacketInfo(&info)], MsgFlags::MSG_DONTWAIT, Some(&remote))?;
        }
    }
    Ok(())
}
