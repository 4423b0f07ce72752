//! Datagrams in batches, with the kernel's receive timestamps.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, MultiHeaders, recvmmsg, sendmmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;

use super::wire::{Arrived, Inbox, Outbox, wall};

/// Datagrams that one system call reads or sends.
const BATCH: usize = 64;
/// Room for a datagram; the longest message has some 1,500 bytes.
const ROOM: usize = 8 * 1024;
/// Asked for as the socket's buffers.
const BUFFER: usize = 8 * 1024 * 1024;

/// A socket that is connected to the device: datagrams of anybody else do not get in.
#[derive(Debug)]
pub struct UdpWire {
    socket: UdpSocket,
    headers: MultiHeaders<()>,
    pub outbox: Outbox,
}

impl UdpWire {
    pub fn open(local: SocketAddr, device: SocketAddr) -> io::Result<UdpWire> {
        let socket = UdpSocket::bind(local)?;
        socket.set_nonblocking(true)?;
        socket.connect(device)?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        // Beyond the system's limit where that is allowed.
        if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &BUFFER)?;
        }
        setsockopt(&socket, sockopt::SndBuf, &BUFFER)?;
        // Each datagram brings the same control message, so that its length, which the kernel leaves in the headers, is
        // right for the next batch too.
        let headers = MultiHeaders::preallocate(BATCH, Some(cmsg_space!(TimeSpec)));
        Ok(UdpWire { socket, headers, outbox: Outbox::default() })
    }

    pub fn local(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub fn source(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub fn receive(&mut self, inbox: &mut Inbox) -> io::Result<bool> {
        inbox.bytes.resize(BATCH * ROOM, 0);
        let mut rooms = inbox.bytes.chunks_mut(ROOM);
        let mut parts: [_; BATCH] = std::array::from_fn(|_| [IoSliceMut::new(rooms.next().unwrap_or_default())]);
        let fd = self.socket.as_raw_fd();
        let read = match recvmmsg(fd, &mut self.headers, parts.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
            Ok(read) => read,
            Err(Errno::EAGAIN) => return Ok(false),
            // What ICMP said about an earlier datagram: the device is not there yet, or no more.
            Err(Errno::ECONNREFUSED | Errno::EINTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        for (at, message) in read.enumerate() {
            let stamp = message.cmsgs().ok().and_then(|mut all| all.find_map(timestamp));
            let start = at * ROOM;
            inbox.is_broken |= message.flags.contains(MsgFlags::MSG_TRUNC);
            inbox.messages.push(Arrived { start, end: start + message.bytes, at: stamp.unwrap_or_else(wall) });
        }
        Ok(inbox.messages.len() == BATCH)
    }

    pub fn flush(&mut self) -> io::Result<u64> {
        let mut lost = 0;
        let mut start = 0;
        for ends in self.outbox.ends.chunks(BATCH) {
            let parts = ends.iter().map(|&end| {
                let part = [IoSlice::new(&self.outbox.bytes[start..end])];
                start = end;
                part
            });
            lost += send(&self.socket, &parts.collect::<Vec<_>>())?;
        }
        self.outbox.clear();
        Ok(lost)
    }
}

/// Sends a batch. What the kernel does not take is lost, as it would be anywhere on the way.
fn send(socket: &UdpSocket, mut parts: &[[IoSlice<'_>; 1]]) -> io::Result<u64> {
    let mut lost = 0;
    while !parts.is_empty() {
        let mut headers = MultiHeaders::<()>::preallocate(parts.len(), None);
        match sendmmsg(socket.as_raw_fd(), &mut headers, parts, [None; BATCH], [], MsgFlags::MSG_DONTWAIT) {
            Ok(sent) => parts = parts.get(sent.count()..).unwrap_or_default(),
            Err(Errno::ECONNREFUSED | Errno::EAGAIN | Errno::ENOBUFS) => {
                lost += 1;
                parts = &parts[1..];
            }
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(lost)
}

fn timestamp(message: ControlMessageOwned) -> Option<u64> {
    match message {
        ControlMessageOwned::ScmTimestampns(time) => {
            let (seconds, nanos) = (u64::try_from(time.tv_sec()).ok()?, u64::try_from(time.tv_nsec()).ok()?);
            Some(seconds * 1_000_000_000 + nanos)
        }
        _ => None,
    }
}
