//! One connection: what waits to be written, what has been read of it.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Buf, Bytes};

use super::{Guest, MESSAGE_TIMEOUT};
use crate::endpoint::Owner;
use crate::flow::{ConnectionId, Flow};
use crate::sip::{Frame, FrameError, Framer, Limits};
use crate::time::{Mono, Wall};
use crate::transport::mmsg;

/// Room that is made for the next read.
const READ_SIZE: usize = 16 * 1024;
/// Bytes that are read of one connection before the others get their turn.
const MOST_READ: usize = 64 * 1024;
/// Messages that one system call writes.
const MOST_SLICES: usize = 64;
/// Behind so much that waits to be written, keep-alives are not answered: their answers are small, but each has its place.
pub const MOST_BEFORE_PONG: usize = 256;
/// The answer to a keep-alive (RFC 5626 §3.5.1).
const PONG: &[u8] = b"\r\n";

/// A connection that is open, or is being opened or closed.
#[derive(Debug)]
pub struct Connection {
    pub stream: TcpStream,
    pub id: ConnectionId,
    pub flow: Flow,
    /// Whose it is, where it was accepted.
    pub guest: Option<Guest>,
    pub phase: Phase,
    /// When the opening, the message or the closing has taken too long, or to look whether the peer has been silent.
    pub deadline: Option<Mono>,
    /// When a message came last.
    heard: Option<Mono>,
    /// By when the message that has begun must be there.
    whole_by: Option<Mono>,
    /// Something is known to be there that has not been read.
    pub is_readable: bool,
    /// The peer has said that nothing more comes: what is there is read to its end.
    pub is_ending: bool,
    /// The socket has no room for what waits.
    pub is_blocked: bool,
    pub is_dirty: bool,
    /// Bytes that wait to be written.
    pub unsent: usize,
    queue: VecDeque<Waiting>,
    framer: Framer,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Opening,
    Open,
    /// Nothing is read any more; it closes when what waits is written.
    Closing,
}

/// Whether a connection may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    Until(Mono),
    Endless,
    Over,
}

/// Bytes that wait, and who hears if they cannot be written.
#[derive(Debug)]
pub struct Waiting {
    pub bytes: Bytes,
    pub failed: Option<Failed>,
}

/// A transmit that failed, and the worker whose it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    pub worker: usize,
    pub owner: Owner,
}

/// What reading has come to.
#[derive(Debug)]
pub enum Read {
    /// More may come.
    Open,
    /// The peer has closed, or the connection has broken.
    Ended,
    /// The stream cannot be framed any further.
    Broken(FrameError),
}

impl Waiting {
    /// Takes the bytes out of the larger piece of memory that they are a part of, which would else stay for as long as they
    /// wait.
    pub fn unshare(&mut self) {
        self.bytes = Bytes::copy_from_slice(&self.bytes);
    }
}

impl Connection {
    pub fn new(
        stream: TcpStream,
        id: ConnectionId,
        flow: Flow,
        phase: Phase,
        limits: Limits,
        guest: Option<Guest>,
    ) -> Connection {
        Connection {
            stream,
            id,
            flow,
            guest,
            phase,
            deadline: None,
            heard: None,
            whole_by: None,
            is_readable: false,
            is_ending: false,
            is_blocked: phase == Phase::Opening,
            is_dirty: false,
            unsent: 0,
            queue: VecDeque::new(),
            framer: Framer::new(limits),
        }
    }

    pub fn push(&mut self, waiting: Waiting) {
        self.unsent += waiting.bytes.len();
        self.queue.push_back(waiting);
    }

    /// Those who hear that nothing of what waits was written.
    pub fn fail_all(&mut self) -> impl Iterator<Item = Failed> {
        self.unsent = 0;
        self.queue.drain(..).filter_map(|waiting| waiting.failed)
    }

    /// It is open: from here on the peer may be silent for as long as after a message. Returns the deadline to set.
    pub fn on_opened(&mut self, now: Mono, idle: Duration) -> Option<Mono> {
        self.heard = Some(now);
        self.silent_until(idle)
    }

    /// Takes note of what reading has brought. Returns the deadline to set.
    pub fn on_read(&mut self, now: Mono, messages: usize, has_ponged: bool, idle: Duration) -> Option<Mono> {
        let is_stranger = self.is_stranger();
        if messages > 0 || has_ponged && !is_stranger {
            self.heard = Some(now);
        }
        let has_begun = !self.framer.buffer.is_empty();
        self.whole_by = match self.whole_by {
            Some(by) if has_begun && messages == 0 => Some(by),
            _ if has_begun => Some(now + MESSAGE_TIMEOUT),
            _ => None,
        };
        match self.silent_until(idle) {
            // Nothing has come yet.
            None if self.heard.is_none() => self.deadline,
            // Where the one that is set comes first, it is looked at then.
            due => self.deadline.filter(|set| due.is_some_and(|due| *set <= due)).or(due),
        }
    }

    /// For how much longer the peer may be silent, or let wait for the rest of a message.
    pub fn patience(&self, now: Mono, idle: Duration) -> Patience {
        match self.silent_until(idle) {
            Some(due) if due > now => Patience::Until(due),
            // It was silent when that had a limit.
            None if self.phase == Phase::Open && self.heard.is_some() => Patience::Endless,
            _ => Patience::Over,
        }
    }

    fn silent_until(&self, idle: Duration) -> Option<Mono> {
        if self.phase != Phase::Open {
            return None;
        }
        let idle = if self.is_stranger() { MESSAGE_TIMEOUT } else { idle };
        let silent = self.heard.filter(|_| !idle.is_zero()).map(|heard| heard + idle);
        [self.whole_by, silent].into_iter().flatten().min()
    }

    pub fn is_stranger(&self) -> bool {
        self.guest.is_some_and(|guest| guest.is_stranger)
    }

    /// Reads what is there, up to a limit. The number is that of whole messages; `first` is when the kernel had the first of
    /// what was read.
    pub fn read(&mut self, first: &mut Option<Wall>, take: &mut dyn FnMut(Flow, Bytes)) -> (usize, Read) {
        let (mut size, mut messages) = (0, 0);
        while size < MOST_READ {
            self.framer.buffer.reserve(READ_SIZE);
            let room = self.framer.buffer.capacity() - self.framer.buffer.len();
            match mmsg::read(&self.stream, &mut self.framer.buffer) {
                Ok((0, _)) => return (messages, Read::Ended),
                Ok((read, at)) => {
                    size += read;
                    *first = first.or(at);
                    if let Err(error) = self.cut(take, &mut messages) {
                        return (messages, Read::Broken(error));
                    }
                    // Less than there was room for: the rest makes another event, unless that has come already.
                    if read < room && !self.is_ending {
                        self.is_readable = false;
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_readable = false;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return (messages, Read::Ended),
            }
        }
        (messages, Read::Open)
    }

    /// Writes what waits as far as there is room.
    ///
    /// # Errors
    /// What ends the connection.
    pub fn write(&mut self) -> io::Result<()> {
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); MOST_SLICES];
            let count =
                slices.iter_mut().zip(&self.queue).map(|(slice, one)| *slice = IoSlice::new(&one.bytes)).count();
            match (&self.stream).write_vectored(slices.get(..count).unwrap_or_default()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_blocked = true;
                    self.queue.iter_mut().for_each(Waiting::unshare);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes whole messages out of what was read.
    fn cut(&mut self, take: &mut dyn FnMut(Flow, Bytes), messages: &mut usize) -> Result<(), FrameError> {
        while let Some(frame) = self.framer.next()? {
            match frame {
                Frame::Message(bytes) => {
                    *messages += 1;
                    take(self.flow, bytes);
                }
                // Who does not read what is sent does not wait for this either.
                Frame::Ping if self.queue.len() >= MOST_BEFORE_PONG => {}
                Frame::Ping => self.push(Waiting { bytes: Bytes::from_static(PONG), failed: None }),
            }
        }
        Ok(())
    }

    fn advance(&mut self, mut written: usize) {
        self.unsent = self.unsent.saturating_sub(written);
        while let Some(first) = self.queue.front_mut() {
            if first.bytes.len() > written {
                first.bytes.advance(written);
                return;
            }
            written -= first.bytes.len();
            self.queue.pop_front();
        }
    }
}
