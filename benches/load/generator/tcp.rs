//! Connections: many messages to a read and to a write, framed by Content-Length.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use memchr::memmem;
use socket2::{Domain, Socket, Type};

use super::wire::{Arrived, Inbox, Outbox, wall};

/// Read at once.
const ROOM: usize = 256 * 1024;
/// A head that is longer is no message.
const LONGEST: usize = 64 * 1024;

/// One side's connections; the dialer has one, the server those that the device opened.
#[derive(Debug)]
pub struct TcpWire {
    local: SocketAddr,
    listener: Option<TcpListener>,
    connections: Vec<Connection>,
    /// Where answers go that have no connection any more.
    nowhere: Outbox,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    is_open: bool,
    outbox: Outbox,
    /// Bytes of the outbox that have left.
    sent: usize,
    /// The beginning of a message whose end has not come yet.
    rest: Vec<u8>,
}

impl TcpWire {
    pub fn connect(local: SocketAddr, device: SocketAddr) -> io::Result<TcpWire> {
        let socket = Socket::new(Domain::for_address(local), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(local.ip(), 0).into())?;
        socket.connect(&device.into())?;
        let connection = Connection::new(socket.into())?;
        Ok(TcpWire { local, listener: None, connections: vec![connection], nowhere: Outbox::default() })
    }

    pub fn listen(local: SocketAddr) -> io::Result<TcpWire> {
        let listener = TcpListener::bind(local)?;
        listener.set_nonblocking(true)?;
        let local = listener.local_addr()?;
        Ok(TcpWire { local, listener: Some(listener), connections: Vec::new(), nowhere: Outbox::default() })
    }

    /// A dialer is said to listen where it was told to, not where its connection happens to come from.
    pub fn local(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    pub fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let open = self.connections.iter().filter(|one| one.is_open).map(|one| one.stream.as_fd());
        open.chain(self.listener.iter().map(AsFd::as_fd))
    }

    pub fn accept(&mut self) -> io::Result<()> {
        while let Some(listener) = &self.listener {
            match listener.accept() {
                Ok((stream, _)) => self.connections.push(Connection::new(stream)?),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub fn receive(&mut self, connection: usize, inbox: &mut Inbox) -> io::Result<bool> {
        match self.connections.get_mut(connection) {
            Some(connection) if connection.is_open => connection.receive(inbox),
            _ => Ok(false),
        }
    }

    pub fn outbox(&mut self, connection: usize) -> &mut Outbox {
        match self.connections.get_mut(connection) {
            Some(connection) => &mut connection.outbox,
            None => {
                self.nowhere.clear();
                &mut self.nowhere
            }
        }
    }

    pub fn flush(&mut self) {
        self.connections.iter_mut().for_each(Connection::flush);
    }

    /// Connections that the device has closed.
    pub fn closed(&self) -> u64 {
        self.connections.iter().filter(|one| !one.is_open).count() as u64
    }
}

impl Connection {
    fn new(stream: TcpStream) -> io::Result<Connection> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, is_open: true, outbox: Outbox::default(), sent: 0, rest: Vec::new() })
    }

    fn receive(&mut self, inbox: &mut Inbox) -> io::Result<bool> {
        let kept = self.rest.len();
        inbox.bytes.resize(kept + ROOM, 0);
        inbox.bytes[..kept].copy_from_slice(&self.rest);
        let read = match self.stream.read(&mut inbox.bytes[kept..]) {
            Ok(0) => {
                self.is_open = false;
                return Ok(false);
            }
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(_) => {
                self.is_open = false;
                return Ok(false);
            }
        };
        let (at, end) = (wall(), kept + read);
        let mut start = 0;
        while let Some(length) = message_length(&inbox.bytes[start..end]) {
            inbox.messages.push(Arrived { start, end: start + length, at });
            start += length;
        }
        inbox.is_broken |= end - start > LONGEST;
        self.rest.clear();
        self.rest.extend_from_slice(&inbox.bytes[start..end]);
        Ok(read == ROOM)
    }

    /// Sends as much as there is room for; the rest goes with the next one, or nowhere where the device has hung up.
    fn flush(&mut self) {
        while self.is_open && self.sent < self.outbox.bytes.len() {
            match self.stream.write(&self.outbox.bytes[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.is_open = false,
            }
        }
        self.outbox.clear();
        self.sent = 0;
    }
}

/// Of the message at the beginning, once it is there as a whole.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let head = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let field = b"\r\nContent-Length: ";
    let at = memmem::find(&bytes[..head], field)? + field.len();
    let digits = bytes[at..head].iter().take_while(|byte| byte.is_ascii_digit());
    let body = digits.fold(0_usize, |sum, digit| sum.saturating_mul(10).saturating_add(usize::from(digit - b'0')));
    let length = head.saturating_add(body);
    (length <= bytes.len()).then_some(length)
}
