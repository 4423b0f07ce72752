//! What both transports have in common: batches in, batches out.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::{SystemTime, UNIX_EPOCH};

use super::tcp::TcpWire;
use super::udp::UdpWire;

/// Messages to be sent together, one behind the other.
#[derive(Debug, Default)]
pub struct Outbox {
    pub bytes: Vec<u8>,
    pub ends: Vec<usize>,
}

/// A message that has arrived, as a part of [`Inbox::bytes`].
#[derive(Debug, Clone, Copy)]
pub struct Arrived {
    pub start: usize,
    pub end: usize,
    /// When, in ns of the wall clock: by UDP the kernel's receive timestamp, by TCP the time of the read.
    pub at: u64,
}

/// Messages that were read together.
#[derive(Debug, Default)]
pub struct Inbox {
    pub bytes: Vec<u8>,
    pub messages: Vec<Arrived>,
    /// Bytes that no message can be made of.
    pub is_broken: bool,
}

/// One side's way to the device.
#[derive(Debug)]
pub enum Wire {
    Udp(UdpWire),
    Tcp(TcpWire),
}

impl Outbox {
    pub fn push(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.ends.push(self.bytes.len());
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

impl Wire {
    /// The dialer's side: connected to the device.
    pub fn dial(local: SocketAddr, device: SocketAddr, is_tcp: bool) -> io::Result<Wire> {
        if is_tcp {
            TcpWire::connect(local, device).map(Wire::Tcp)
        } else {
            UdpWire::open(local, device).map(Wire::Udp)
        }
    }

    /// The server's side: by TCP the device connects to it.
    pub fn serve(local: SocketAddr, device: SocketAddr, is_tcp: bool) -> io::Result<Wire> {
        if is_tcp { TcpWire::listen(local).map(Wire::Tcp) } else { UdpWire::open(local, device).map(Wire::Udp) }
    }

    /// The address that others reach it by.
    pub fn local(&self) -> io::Result<SocketAddr> {
        match self {
            Wire::Udp(wire) => wire.local(),
            Wire::Tcp(wire) => wire.local(),
        }
    }

    /// Connections that messages may come by.
    pub fn connections(&self) -> usize {
        match self {
            Wire::Udp(_) => 1,
            Wire::Tcp(wire) => wire.connections(),
        }
    }

    /// What is watched for messages, a listener included.
    pub fn sources<'a>(&'a self, add: impl FnMut(BorrowedFd<'a>)) {
        match self {
            Wire::Udp(wire) => [wire.source()].into_iter().for_each(add),
            Wire::Tcp(wire) => wire.sources().for_each(add),
        }
    }

    /// Takes in what is there, at most a batch; `true` where there may be more.
    pub fn receive(&mut self, connection: usize, inbox: &mut Inbox) -> io::Result<bool> {
        inbox.messages.clear();
        match self {
            Wire::Udp(wire) => wire.receive(inbox),
            Wire::Tcp(wire) => wire.receive(connection, inbox),
        }
    }

    /// Lets new connections in.
    pub fn accept(&mut self) -> io::Result<()> {
        match self {
            Wire::Udp(_) => Ok(()),
            Wire::Tcp(wire) => wire.accept(),
        }
    }

    pub fn outbox(&mut self, connection: usize) -> &mut Outbox {
        match self {
            Wire::Udp(wire) => &mut wire.outbox,
            Wire::Tcp(wire) => wire.outbox(connection),
        }
    }

    /// Sends what waits. Returns how many datagrams the kernel did not take.
    pub fn flush(&mut self) -> io::Result<u64> {
        match self {
            Wire::Udp(wire) => wire.flush(),
            Wire::Tcp(wire) => {
                wire.flush();
                Ok(0)
            }
        }
    }

    /// Connections that the device has closed.
    pub fn closed(&self) -> u64 {
        match self {
            Wire::Udp(_) => 0,
            Wire::Tcp(wire) => wire.closed(),
        }
    }
}

/// The wall clock, which is that of the kernel's timestamps, in ns.
pub fn wall() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
