//! Connections: accepted and opened, read and written without ever waiting.
//!
//! A connection belongs to the worker that its peer's address names. Everything here is done in turns:
//! events are noted, what is readable is read up to a limit each, what waits is written with one call
//! for each connection. Invariant: whoever is named with a message hears of it if it cannot be written.

mod accept;
mod connection;
mod seats;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use bytes::Bytes;
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use nix::sys::socket::{setsockopt, sockopt};
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};

pub use self::accept::{Accepted, Acceptor};
pub use self::connection::Failed;
use self::connection::{Connection, Patience, Phase, Read, Waiting};
pub use self::seats::{Guest, Names, NoSeat, SeatLimits, Seats};
use super::Source;
use crate::endpoint::Transmit;
use crate::flow::{ConnectionId, Flow, Hop, Transport};
use crate::policy::{Listener, listener_at};
use crate::sip::{FrameError, Limits};
use crate::time::{Mono, Wall};

/// Longest time for a connection to open where the message does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// Longest time for a message to arrive once its first byte has, for the first message of a connection that was accepted,
/// for another one of a stranger, and for the last bytes of a connection to leave: a peer that drips bytes, or that
/// takes none, is cut off.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(32);
/// Bytes that may wait for a peer that does not read; beyond it the connection is closed.
const MOST_UNSENT: usize = 4 * 1024 * 1024;
/// The same for all peers of a worker together; beyond it a connection that gets more to send is closed if it has not
/// read what it was sent before.
const MOST_UNSENT_IN_ALL: usize = 64 * 1024 * 1024;

/// Counts for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpFigures {
    pub open: u64,
    /// Connections refused because there were too many.
    pub refused: u64,
    /// Connections closed because the peer did not read.
    pub stalled: u64,
    /// Connections closed because the peer was silent, or a message did not come to its end.
    pub silent: u64,
}

/// What connections tell the worker.
pub trait Taker {
    fn message(&mut self, flow: Flow, bytes: Bytes);
    /// The stream cannot be read on; once what this leads to is written, the connection closes.
    fn broken(&mut self, flow: Flow, error: FrameError);
}

/// One worker's connections, by name and by peer.
#[derive(Debug)]
pub struct Connections {
    slots: Slab<Connection>,
    by_id: HashMap<ConnectionId, usize, foldhash::fast::RandomState>,
    by_remote: HashMap<SocketAddr, usize>,
    deadlines: BTreeSet<(Mono, usize)>,
    /// Those with something to write.
    dirty: Vec<usize>,
    /// Those with something to read.
    readable: Vec<usize>,
    /// Those that close when this turn's output is in their queue.
    doomed: Vec<usize>,
    failed: Vec<Failed>,
    /// Those that are open since this was asked, where anybody asks.
    opened: Option<Vec<Flow>>,
    names: Names,
    limits: Limits,
    /// How long a connection may be silent; zero: for ever.
    idle: Duration,
    /// Bytes that wait to be written on all connections.
    unsent: usize,
    /// When the kernel had what waited longest of what was read since this was asked, but for strangers.
    oldest: Option<Wall>,
    seats: Seats,
    listeners: Vec<Listener>,
    registry: Registry,
    figures: TcpFigures,
}

impl Connections {
    pub fn new(
        limits: Limits,
        seats: Seats,
        listeners: Vec<Listener>,
        names: Names,
        registry: Registry,
    ) -> Connections {
        Connections {
            slots: Slab::new(),
            by_id: HashMap::default(),
            by_remote: HashMap::new(),
            deadlines: BTreeSet::new(),
            dirty: Vec::new(),
            readable: Vec::new(),
            doomed: Vec::new(),
            failed: Vec::new(),
            opened: None,
            names,
            limits,
            idle: Duration::ZERO,
            unsent: 0,
            oldest: None,
            seats,
            listeners,
            registry,
            figures: TcpFigures::default(),
        }
    }

    pub fn figures(&self) -> TcpFigures {
        let open = self.slots.iter().filter(|(_, connection)| connection.phase == Phase::Open).count();
        TcpFigures { open: open as u64, ..self.figures }
    }

    /// For connections from here on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// How long a connection may be silent; zero: for ever. For those that are heard from here on.
    pub fn set_idle(&mut self, idle: Duration) {
        self.idle = idle;
    }

    /// When the kernel had what waited longest of what was read since this was asked, but for strangers.
    pub fn take_oldest(&mut self) -> Option<Wall> {
        self.oldest.take()
    }

    /// Whether a message to this hop would go by a connection that is here.
    pub fn has(&self, hop: &Hop) -> bool {
        hop.connection.is_some_and(|id| self.by_id.contains_key(&id)) || self.by_remote.contains_key(&hop.remote)
    }

    /// Sends on the hop's connection, else on any to its peer, else on one that is opened for it. `from` is the worker
    /// whose message it is.
    pub fn send(&mut self, transmit: Transmit, from: usize, now: Mono) {
        let Transmit { hop, bytes, owner, connect_timeout, side } = transmit;
        let waiting = Waiting { bytes, failed: owner.map(|owner| Failed { worker: from, owner }) };
        let known = hop.connection.and_then(|id| self.by_id.get(&id)).or_else(|| self.by_remote.get(&hop.remote));
        if let Some(key) = known.copied() {
            return self.enqueue(key, waiting);
        }
        if self.seats.take(None).is_err() {
            self.figures.refused += 1;
            return self.failed.extend(waiting.failed);
        }
        match start_to_open(&hop) {
            Ok(stream) => {
                let deadline = now + connect_timeout.unwrap_or(CONNECT_TIMEOUT);
                let flow = Flow {
                    transport: Transport::Tcp,
                    local: hop.local,
                    remote: hop.remote,
                    connection: None,
                    opened_for: Some(side),
                };
                if let Some(key) = self.add(stream, flow, Phase::Opening, None) {
                    self.set_deadline(key, Some(deadline));
                    self.enqueue(key, waiting);
                } else {
                    self.failed.extend(waiting.failed);
                }
            }
            Err(error) => {
                self.seats.give_back(None);
                tracing::debug!(%error, remote = %hop.remote, "connection did not open");
                self.failed.extend(waiting.failed);
            }
        }
    }

    /// A peer connected, which may be a stranger.
    ///
    /// # Errors
    /// The limit that it is beyond.
    pub fn on_accepted(&mut self, accepted: Accepted, is_stranger: bool, now: Mono) -> Result<(), NoSeat> {
        let Accepted { stream, remote, listener } = accepted;
        let guest = Guest { address: remote.ip().to_canonical(), is_stranger };
        self.seats.take(Some(guest)).inspect_err(|_| self.figures.refused += 1)?;
        let local =
            stream.local_addr().map_or(listener.address, |local| SocketAddr::new(local.ip(), listener.bound.port()));
        let flow = Flow { transport: Transport::Tcp, local, remote, connection: None, opened_for: None };
        if let Some(key) = self.add(stream, flow, Phase::Open, Some(guest)) {
            self.set_deadline(key, Some(now + MESSAGE_TIMEOUT));
            self.note_opened(key);
        }
        Ok(())
    }

    /// Notes what an event says of a connection.
    pub fn note(&mut self, key: usize, event: &Event, now: Mono) {
        let Some(connection) = self.slots.get_mut(key) else { return };
        if connection.phase == Phase::Opening {
            if event.is_writable() || event.is_error() {
                self.on_opened(key, now);
            }
            return;
        }
        connection.is_ending |= event.is_read_closed() || event.is_error();
        if event.is_readable() || connection.is_ending {
            self.set_readable(key);
        }
        if event.is_writable() {
            self.unblock(key);
        }
    }

    /// Whether something is known to be there that has not been read.
    pub fn is_readable(&self) -> bool {
        !self.readable.is_empty()
    }

    pub fn next_deadline(&self) -> Option<Mono> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Ends what has taken too long.
    pub fn on_deadlines(&mut self, now: Mono) {
        while let Some((_, key)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            let connection = self.slots.get(key);
            let patience = connection.map_or(Patience::Over, |connection| connection.patience(now, self.idle));
            match patience {
                // It was heard since the deadline was set: not every message moves it.
                Patience::Until(later) => self.set_deadline(key, Some(later)),
                Patience::Endless => self.set_deadline(key, None),
                Patience::Over => {
                    self.figures.silent += u64::from(connection.is_some_and(|one| one.phase == Phase::Open));
                    self.remove(key, "timed out");
                }
            }
        }
    }

    /// Reads a share of each connection that has something; returns the number of messages.
    pub fn read(&mut self, now: Mono, taker: &mut dyn Taker) -> usize {
        let mut messages = 0;
        let mut round = std::mem::take(&mut self.readable);
        for key in round.drain(..) {
            messages += self.read_one(key, now, taker);
        }
        // Those with more to read have come to the list again; the room of the round is kept.
        round.append(&mut self.readable);
        self.readable = round;
        messages
    }

    /// Closes what could not be read on, once what waits is written. To be called when the turn's output is queued.
    pub fn close_broken(&mut self, now: Mono) {
        while let Some(key) = self.doomed.pop() {
            self.finish(key, now);
        }
    }

    /// Writes what waits, as far as there is room.
    pub fn flush(&mut self) {
        while let Some(key) = self.dirty.pop() {
            let Some(connection) = self.slots.get_mut(key) else { continue };
            connection.is_dirty = false;
            if connection.is_blocked {
                continue;
            }
            let before = connection.unsent;
            let written = connection.write();
            self.unsent = (self.unsent + connection.unsent).saturating_sub(before);
            match written {
                Ok(()) if connection.is_blocked => self.watch(key),
                Ok(()) if connection.phase == Phase::Closing => self.remove(key, "closed"),
                Ok(()) => {}
                Err(_) => self.remove(key, "cannot be written to"),
            }
        }
    }

    /// Those whose messages could not be sent.
    pub fn take_failed(&mut self) -> impl Iterator<Item = Failed> {
        self.failed.drain(..)
    }

    /// Connections that are open since this was asked last; from the first time on.
    pub fn take_opened(&mut self) -> Vec<Flow> {
        std::mem::take(self.opened.get_or_insert_default())
    }

    /// Whether nothing waits to be written, nor for a connection to open.
    pub fn is_idle(&self) -> bool {
        self.slots.iter().all(|(_, connection)| connection.phase != Phase::Opening && connection.unsent == 0)
    }

    fn enqueue(&mut self, key: usize, mut waiting: Waiting) {
        let Some(connection) = self.slots.get_mut(key) else { return self.failed.extend(waiting.failed) };
        let is_behind = connection.phase == Phase::Open && connection.is_blocked && self.unsent > MOST_UNSENT_IN_ALL;
        if is_behind || connection.unsent + waiting.bytes.len() > MOST_UNSENT {
            tracing::warn!(remote = %connection.flow.remote, "connection closed: the peer does not read");
            self.figures.stalled += 1;
            self.failed.extend(waiting.failed);
            return self.remove(key, "stalled");
        }
        self.unsent += waiting.bytes.len();
        if connection.is_blocked {
            waiting.unshare();
        }
        connection.push(waiting);
        self.set_dirty(key);
    }

    fn add(&mut self, stream: TcpStream, mut flow: Flow, phase: Phase, guest: Option<Guest>) -> Option<usize> {
        let id = self.names.next();
        flow.connection = Some(id);
        // Without it a small message could wait for the acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        // How long bytes wait shows whether there is too much to do.
        let _ = setsockopt(&stream, sockopt::ReceiveTimestampns, &true);
        let entry = self.slots.vacant_entry();
        let key = entry.key();
        let interest = if phase == Phase::Opening { Interest::WRITABLE } else { Interest::READABLE };
        let token = Source::Connection(key).token();
        if let Err(error) = self.registry.register(&mut SourceFd(&stream.as_raw_fd()), token, interest) {
            tracing::error!(%error, "a connection cannot be watched");
            self.seats.give_back(guest);
            return None;
        }
        entry.insert(Connection::new(stream, id, flow, phase, self.limits, guest));
        self.by_id.insert(id, key);
        self.by_remote.insert(flow.remote, key);
        if phase == Phase::Open {
            // What came before it was registered.
            self.set_readable(key);
        }
        Some(key)
    }

    /// A connection has opened, or has not, or does not say yet.
    fn on_opened(&mut self, key: usize, now: Mono) {
        let Some(connection) = self.slots.get_mut(key) else { return };
        let error = connection.stream.take_error().unwrap_or_else(Some);
        if let Some(error) = error {
            tracing::debug!(%error, remote = %connection.flow.remote, "connection did not open");
            return self.remove(key, "did not open");
        }
        if connection.stream.peer_addr().is_err() {
            return;
        }
        let wanted = connection.flow.local;
        connection.phase = Phase::Open;
        connection.flow.local = match connection.stream.local_addr() {
            Ok(local) => known_as(&self.listeners, local, wanted),
            Err(_) => wanted,
        };
        let deadline = connection.on_opened(now, self.idle);
        self.note_opened(key);
        self.set_deadline(key, deadline);
        self.unblock(key);
        self.set_readable(key);
    }

    fn note_opened(&mut self, key: usize) {
        if let (Some(opened), Some(connection)) = (&mut self.opened, self.slots.get(key)) {
            opened.push(connection.flow);
        }
    }

    fn read_one(&mut self, key: usize, now: Mono, taker: &mut dyn Taker) -> usize {
        let Some(connection) = self.slots.get_mut(key).filter(|connection| connection.is_readable) else { return 0 };
        if connection.phase != Phase::Open {
            connection.is_readable = false;
            return 0;
        }
        let unsent = connection.unsent;
        let mut first = None;
        let (messages, read) = connection.read(&mut first, &mut |flow, bytes| taker.message(flow, bytes));
        let ponged = connection.unsent - unsent;
        let has_ponged = ponged > 0;
        self.unsent += ponged;
        let (flow, is_readable) = (connection.flow, connection.is_readable);
        if !connection.is_stranger() {
            self.oldest = [self.oldest, first].into_iter().flatten().min();
        }
        let deadline = connection.on_read(now, messages, has_ponged, self.idle);
        self.set_deadline(key, deadline);
        if has_ponged {
            self.set_dirty(key);
        }
        match read {
            Read::Open if is_readable => self.readable.push(key),
            Read::Open => {}
            Read::Ended => self.finish(key, now),
            Read::Broken(error) => {
                taker.broken(flow, error);
                self.doomed.push(key);
            }
        }
        messages
    }

    /// Reads no more, and closes when what waits is written.
    fn finish(&mut self, key: usize, now: Mono) {
        let Some(connection) = self.slots.get_mut(key) else { return };
        connection.phase = Phase::Closing;
        connection.is_readable = false;
        let (is_done, id, remote) = (connection.unsent == 0, connection.id, connection.flow.remote);
        self.forget(key, id, remote);
        if is_done {
            return self.remove(key, "closed");
        }
        self.set_deadline(key, Some(now + MESSAGE_TIMEOUT));
        self.set_dirty(key);
    }

    /// Nobody finds it any more.
    fn forget(&mut self, key: usize, id: ConnectionId, remote: SocketAddr) {
        self.by_id.remove(&id);
        if self.by_remote.get(&remote) == Some(&key) {
            self.by_remote.remove(&remote);
        }
    }

    fn remove(&mut self, key: usize, why: &'static str) {
        self.set_deadline(key, None);
        let Some(mut connection) = self.slots.try_remove(key) else { return };
        tracing::debug!(remote = %connection.flow.remote, why, "connection ended");
        self.forget(key, connection.id, connection.flow.remote);
        self.unsent = self.unsent.saturating_sub(connection.unsent);
        self.failed.extend(connection.fail_all());
        // Closing it below ends the watch too.
        drop(self.registry.deregister(&mut SourceFd(&connection.stream.as_raw_fd())));
        self.seats.give_back(connection.guest);
    }

    fn set_deadline(&mut self, key: usize, deadline: Option<Mono>) {
        let Some(connection) = self.slots.get_mut(key) else { return };
        if connection.deadline == deadline {
            return;
        }
        if let Some(old) = std::mem::replace(&mut connection.deadline, deadline) {
            self.deadlines.remove(&(old, key));
        }
        self.deadlines.extend(deadline.map(|deadline| (deadline, key)));
    }

    fn set_readable(&mut self, key: usize) {
        let Some(connection) = self.slots.get_mut(key) else { return };
        if !std::mem::replace(&mut connection.is_readable, true) {
            self.readable.push(key);
        }
    }

    fn set_dirty(&mut self, key: usize) {
        let Some(connection) = self.slots.get_mut(key) else { return };
        if !std::mem::replace(&mut connection.is_dirty, true) {
            self.dirty.push(key);
        }
    }

    fn unblock(&mut self, key: usize) {
        let Some(connection) = self.slots.get_mut(key) else { return };
        if std::mem::replace(&mut connection.is_blocked, false) {
            self.watch(key);
            self.set_dirty(key);
        }
    }

    /// Asks for the events that a connection needs.
    fn watch(&mut self, key: usize) {
        let Some(connection) = self.slots.get(key) else { return };
        let interest = if connection.is_blocked { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let (fd, token) = (connection.stream.as_raw_fd(), Source::Connection(key).token());
        if self.registry.reregister(&mut SourceFd(&fd), token, interest).is_err() {
            self.remove(key, "cannot be watched");
        }
    }
}

fn start_to_open(hop: &Hop) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(hop.remote), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if !hop.local.ip().is_unspecified() && hop.local.is_ipv4() == hop.remote.is_ipv4() {
        socket.bind(&SocketAddr::new(hop.local.ip(), 0).into())?;
    }
    match socket.connect(&hop.remote.into()) {
        Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// What a connection that we opened is known by: its address, and the port on which we listen.
fn known_as(listeners: &[Listener], local: SocketAddr, wanted: SocketAddr) -> SocketAddr {
    let listener = listener_at(listeners, Transport::Tcp, local.ip());
    SocketAddr::new(local.ip(), listener.map_or(wanted.port(), |listener| listener.bound.port()))
}

#[cfg(test)]
mod tests;
