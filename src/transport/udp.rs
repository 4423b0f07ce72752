//! Datagrams, read and sent in batches: one system call for many, in both directions.

use std::collections::VecDeque;
use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, setsockopt,
    sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::errqueue::socket_addr;
use crate::endpoint::Owner;
use crate::flow::{Flow, Hop, Transport};
use crate::policy::Listener;

/// Datagrams that one system call reads or sends.
const BATCH: usize = 32;
/// Largest datagram that UDP can carry.
const LARGEST: usize = 65_535;
/// Datagrams are copied into pieces of this size, which are given back when nothing of them is used any more.
const CHUNK: usize = 64 * 1024;
/// Datagrams that wait for room in the socket's buffer; beyond it the oldest go.
const MOST_QUEUED: usize = 10_000;

/// A socket that datagrams come and go by.
#[derive(Debug)]
pub struct UdpPort {
    pub socket: Rc<UdpSocket>,
    pub listener: Listener,
    /// Where the kernel writes, [`BATCH`] × [`LARGEST`].
    buffer: Vec<u8>,
    chunk: BytesMut,
    /// To be sent with the next [`UdpPort::flush`].
    queue: VecDeque<Queued>,
    /// Datagrams that were dropped because the queue was full.
    pub dropped: u64,
}

/// A datagram and how it came.
#[derive(Debug)]
pub struct Datagram {
    pub flow: Flow,
    pub bytes: Bytes,
}

/// A datagram that the kernel refused outright: no route, too long.
#[derive(Debug)]
pub struct Refusal {
    pub remote: SocketAddr,
    pub owner: Option<Owner>,
    pub error: io::Error,
}

#[derive(Debug)]
struct Queued {
    hop: Hop,
    bytes: Bytes,
    owner: Option<Owner>,
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
        Ok(UdpPort {
            socket: Rc::new(UdpSocket::from_std(socket)?),
            listener,
            buffer: vec![0; BATCH * LARGEST],
            chunk: BytesMut::new(),
            queue: VecDeque::new(),
            dropped: 0,
        })
    }

    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_recv_ready(cx).map(|_| ())
    }

    /// Ready when something waits and the socket has room again.
    pub fn poll_flushable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.queue.is_empty() { Poll::Pending } else { self.socket.poll_send_ready(cx).map(|_| ()) }
    }

    /// Reads what is there, at most one batch. Errors that ICMP left on the socket are skipped: they come by the
    /// error queue.
    pub fn receive(&mut self, mut take: impl FnMut(Datagram)) {
        let (socket, listener) = (self.socket.clone(), self.listener);
        let (buffer, chunk) = (&mut self.buffer, &mut self.chunk);
        for _ in 0..BATCH {
            let received = socket.try_io(Interest::READABLE, || {
                let count = receive_batch(socket.as_raw_fd(), &listener, buffer, chunk, &mut take)?;
                // Fewer than asked for: the socket is empty. Saying so spares the call that would find it out;
                // the next datagram wakes the loop again.
                if count < BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match received {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {}
            }
        }
    }

    /// Puts a datagram into the next batch. Beyond the limit the oldest is dropped.
    pub fn enqueue(&mut self, hop: Hop, bytes: Bytes, owner: Option<Owner>) {
        if self.queue.len() >= MOST_QUEUED {
            self.queue.pop_front();
            self.dropped += 1;
        }
        self.queue.push_back(Queued { hop, bytes, owner });
    }

    /// Sends what waits, as far as there is room; `refused` hears what the kernel refuses.
    pub fn flush(&mut self, mut refused: impl FnMut(Refusal)) {
        let mut last_error_at = None;
        while !self.queue.is_empty() {
            match self.socket.try_io(Interest::WRITABLE, || self.send_batch()) {
                Ok(count) => {
                    self.queue.drain(..count.min(self.queue.len()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An error that an earlier datagram's ICMP left on the socket is reported once by the next send, which
                // then did not happen: it is tried again.
                Err(error) if is_leftover(&error) && last_error_at != Some(self.queue.len()) => {
                    last_error_at = Some(self.queue.len());
                }
                Err(error) => {
                    if let Some(Queued { hop, owner, .. }) = self.queue.pop_front() {
                        refused(Refusal { remote: hop.remote, owner, error });
                    }
                }
            }
        }
    }

    /// Sends the head of the queue: as many as leave from the same address.
    fn send_batch(&self) -> io::Result<usize> {
        let Some(first) = self.queue.front() else { return Ok(0) };
        let source = first.hop.local.ip();
        let count = self.queue.iter().take(BATCH).take_while(|one| one.hop.local.ip() == source).count();
        let parts = self.queue.iter().take(count).map(|one| [IoSlice::new(&one.bytes)]).collect::<Vec<_>>();
        let addresses = self.queue.iter().take(count).map(|one| Some(SockaddrStorage::from(one.hop.remote)));
        let addresses = addresses.collect::<Vec<_>>();
        let fd = self.socket.as_raw_fd();
        let is_any = self.listener.bound.ip().is_unspecified() && !source.is_unspecified();
        let sent = match source {
            IpAddr::V4(address) if is_any => {
                let source = libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) };
                let any = libc::in_addr { s_addr: 0 };
                let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: any };
                let mut headers = MultiHeaders::preallocate(count, Some(nix::cmsg_space!(libc::in_pktinfo)));
                let control = [ControlMessage::Ipv4PacketInfo(&info)];
                sendmmsg(fd, &mut headers, &parts, &addresses, control, MsgFlags::MSG_DONTWAIT)?.count()
            }
            IpAddr::V6(address) if is_any => {
                let source = libc::in6_addr { s6_addr: address.octets() };
                let info = libc::in6_pktinfo { ipi6_addr: source, ipi6_ifindex: 0 };
                let mut headers = MultiHeaders::preallocate(count, Some(nix::cmsg_space!(libc::in6_pktinfo)));
                let control = [ControlMessage::Ipv6PacketInfo(&info)];
                sendmmsg(fd, &mut headers, &parts, &addresses, control, MsgFlags::MSG_DONTWAIT)?.count()
            }
            _ => {
                let mut headers = MultiHeaders::preallocate(count, None);
                sendmmsg(fd, &mut headers, &parts, &addresses, [], MsgFlags::MSG_DONTWAIT)?.count()
            }
        };
        Ok(sent)
    }
}

/// Reads one batch and returns how many datagrams it held.
fn receive_batch(
    fd: i32,
    listener: &Listener,
    buffer: &mut [u8],
    chunk: &mut BytesMut,
    take: &mut impl FnMut(Datagram),
) -> io::Result<usize> {
    let is_any = listener.bound.ip().is_unspecified();
    let space = is_any.then(|| nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo));
    // Made anew for each batch: the kernel leaves the lengths of what it wrote in them.
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, space);
    let mut parts = buffer.chunks_mut(LARGEST).map(|part| [IoSliceMut::new(part)]).collect::<Vec<_>>();
    let mut count = 0;
    for message in recvmmsg(fd, &mut headers, parts.iter_mut(), MsgFlags::MSG_DONTWAIT, None)? {
        count += 1;
        let Some(remote) = message.address.as_ref().and_then(socket_addr) else { continue };
        let to =
            if is_any { message.cmsgs().ok().and_then(|mut all| all.find_map(|one| packet_info(&one))) } else { None };
        let local = if is_any { to.unwrap_or(listener.address.ip()) } else { listener.bound.ip() };
        let flow = Flow {
            transport: Transport::Udp,
            local: SocketAddr::new(local, listener.bound.port()),
            remote,
            connection: None,
            opened_for: None,
        };
        let bytes = message.iovs().next().and_then(|part| part.get(..message.bytes)).unwrap_or_default();
        take(Datagram { flow, bytes: copy(bytes, chunk) });
    }
    Ok(count)
}

/// A copy in the current chunk, or at the start of another one.
fn copy(bytes: &[u8], chunk: &mut BytesMut) -> Bytes {
    if chunk.capacity() < bytes.len() {
        *chunk = BytesMut::with_capacity(CHUNK.max(bytes.len()));
    }
    chunk.extend_from_slice(bytes);
    chunk.split().freeze()
}

fn packet_info(control: &ControlMessageOwned) -> Option<IpAddr> {
    match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes())),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
        _ => None,
    }
}

fn is_leftover(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
    )
}
