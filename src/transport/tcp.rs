//! Connections: accepted and opened, each with a task that reads and one that writes.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, timeout, timeout_at};

use crate::endpoint::{Owner, Transmit};
use crate::flow::{ConnectionId, Flow, Hop, Side, Transport};
use crate::policy::Listener;
use crate::sip::{Frame, FrameError, Framer, Limits};

/// Longest time for a connection to open where the message does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// Longest time for a message to arrive once its first byte has: a peer that drips bytes is cut off.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(32);
/// Bytes that may wait for a peer that does not read; beyond it the connection is closed.
const MOST_UNSENT: usize = 4 * 1024 * 1024;
/// Room that the reader makes for the next read.
const READ_SIZE: usize = 16 * 1024;
/// The answer to a keep-alive (RFC 5626 §3.5.1).
const PONG: &[u8] = b"\r\n";

/// What happened on a connection, for the loop.
#[derive(Debug)]
pub enum TcpEvent {
    Message {
        flow: Flow,
        bytes: Bytes,
    },
    /// The stream cannot be read on; the connection closes.
    Broken {
        flow: Flow,
        error: FrameError,
    },
    Accepted {
        stream: TcpStream,
        remote: SocketAddr,
        listener: Listener,
    },
    Connected {
        remote: SocketAddr,
        stream: io::Result<TcpStream>,
    },
    Closed(ConnectionId),
    /// What could not be written.
    Unsent(Owner),
}

/// Counts for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpFigures {
    pub open: u64,
    /// Connections refused because there were too many.
    pub refused: u64,
    /// Connections closed because the peer did not read.
    pub stalled: u64,
}

/// Every connection, by name and by peer.
#[derive(Debug)]
pub struct Connections {
    by_id: HashMap<ConnectionId, Connection>,
    by_remote: HashMap<SocketAddr, ConnectionId>,
    opening: HashMap<SocketAddr, Opening>,
    next: u64,
    limits: Limits,
    most: usize,
    events: mpsc::Sender<TcpEvent>,
    listeners: Vec<Listener>,
    figures: TcpFigures,
}

#[derive(Debug)]
struct Connection {
    remote: SocketAddr,
    writer: mpsc::UnboundedSender<Write>,
    unsent: Rc<Cell<usize>>,
    reader: AbortHandle,
}

/// A connection that is being opened, and what waits for it.
#[derive(Debug)]
struct Opening {
    side: Side,
    hop: Hop,
    waiting: Vec<Write>,
}

#[derive(Debug)]
struct Write {
    bytes: Bytes,
    owner: Option<Owner>,
}

/// Accepts for as long as the loop lives.
pub async fn accept(listener: TcpListener, of: Listener, events: mpsc::Sender<TcpEvent>) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                if events.send(TcpEvent::Accepted { stream, remote, listener: of }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // Out of descriptors, most likely: those that wait are taken when some are free again.
                tracing::error!(%error, address = %of.bound, "cannot accept connections");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Connections {
    pub fn new(limits: Limits, most: usize, listeners: Vec<Listener>, events: mpsc::Sender<TcpEvent>) -> Connections {
        Connections {
            by_id: HashMap::new(),
            by_remote: HashMap::new(),
            opening: HashMap::new(),
            next: 0,
            limits,
            most,
            events,
            listeners,
            figures: TcpFigures::default(),
        }
    }

    pub fn figures(&self) -> TcpFigures {
        TcpFigures { open: self.by_id.len() as u64, ..self.figures }
    }

    /// Sends on the hop's connection, else on any to its peer, else on one that is opened for it.
    /// Returns the owner where it cannot be sent at all.
    pub fn send(&mut self, transmit: Transmit) -> Option<Owner> {
        let Transmit { hop, bytes, side, owner, connect_timeout } = transmit;
        let write = Write { bytes, owner };
        let known = hop.connection.filter(|id| self.by_id.contains_key(id));
        if let Some(id) = known.or_else(|| self.by_remote.get(&hop.remote).copied()) {
            return self.write(id, write);
        }
        if let Some(opening) = self.opening.get_mut(&hop.remote) {
            opening.waiting.push(write);
            return None;
        }
        if self.by_id.len() + self.opening.len() >= self.most {
            self.figures.refused += 1;
            return owner;
        }
        self.opening.insert(hop.remote, Opening { side, hop, waiting: vec![write] });
        spawn_local(open(hop, connect_timeout.unwrap_or(CONNECT_TIMEOUT), self.events.clone()));
        None
    }

    /// A peer connected. False where there are too many connections already.
    pub fn on_accepted(&mut self, stream: TcpStream, remote: SocketAddr, listener: Listener) -> bool {
        if self.by_id.len() >= self.most {
            self.figures.refused += 1;
            return false;
        }
        let local =
            stream.local_addr().map_or(listener.address, |local| SocketAddr::new(local.ip(), listener.bound.port()));
        self.add(stream, local, remote, None);
        true
    }

    /// A connection opened, or did not; returns those who hear that it did not.
    pub fn on_connected(&mut self, remote: SocketAddr, stream: io::Result<TcpStream>) -> Vec<Owner> {
        let Some(opening) = self.opening.remove(&remote) else { return Vec::new() };
        match stream {
            Ok(stream) => {
                let local =
                    stream.local_addr().map_or(opening.hop.local, |local| self.known_as(local, opening.hop.local));
                let id = self.add(stream, local, remote, Some(opening.side));
                opening.waiting.into_iter().filter_map(|write| self.write(id, write)).collect()
            }
            Err(error) => {
                tracing::debug!(%error, %remote, "connection did not open");
                opening.waiting.into_iter().filter_map(|write| write.owner).collect()
            }
        }
    }

    /// Whether anything waits to be written, or for a connection to open.
    pub fn is_idle(&self) -> bool {
        self.opening.is_empty() && self.by_id.values().all(|connection| connection.unsent.get() == 0)
    }

    pub fn on_closed(&mut self, id: ConnectionId) {
        let Some(connection) = self.by_id.remove(&id) else { return };
        connection.reader.abort();
        if self.by_remote.get(&connection.remote) == Some(&id) {
            self.by_remote.remove(&connection.remote);
        }
    }

    /// Closes a connection once what waits is written.
    pub fn close(&mut self, id: Option<ConnectionId>) {
        if let Some(id) = id {
            self.on_closed(id);
        }
    }

    fn write(&mut self, id: ConnectionId, write: Write) -> Option<Owner> {
        let connection = self.by_id.get(&id)?;
        let unsent = connection.unsent.get() + write.bytes.len();
        if unsent > MOST_UNSENT {
            tracing::warn!(remote = %connection.remote, "connection closed: the peer does not read");
            self.figures.stalled += 1;
            self.on_closed(id);
            return write.owner;
        }
        connection.unsent.set(unsent);
        connection.writer.send(write).err().and_then(|error| error.0.owner)
    }

    fn add(
        &mut self,
        stream: TcpStream,
        local: SocketAddr,
        remote: SocketAddr,
        opened_for: Option<Side>,
    ) -> ConnectionId {
        self.next += 1;
        let id = ConnectionId(self.next);
        // Without it a small message could wait for the acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        let flow = Flow { transport: Transport::Tcp, local, remote, connection: Some(id), opened_for };
        let (reader, writer) = stream.into_split();
        let (sender, queue) = mpsc::unbounded_channel();
        let unsent = Rc::new(Cell::new(0));
        let pong = sender.clone();
        let reading = spawn_local(read(reader, flow, Framer::new(self.limits), pong, self.events.clone()));
        spawn_local(write_all(writer, id, queue, unsent.clone(), self.events.clone()));
        let connection = Connection { remote, writer: sender, unsent, reader: reading.abort_handle() };
        self.by_id.insert(id, connection);
        self.by_remote.insert(remote, id);
        id
    }

    /// What a connection that we opened is known by: its address, and the port on which we listen.
    fn known_as(&self, local: SocketAddr, wanted: SocketAddr) -> SocketAddr {
        let listener = self
            .listeners
            .iter()
            .find(|listener| listener.transport == Transport::Tcp && listener.bound.is_ipv4() == local.is_ipv4());
        SocketAddr::new(local.ip(), listener.map_or(wanted.port(), |listener| listener.bound.port()))
    }
}

async fn open(hop: Hop, within: Duration, events: mpsc::Sender<TcpEvent>) {
    let stream = match timeout(within, connect(&hop)).await {
        Ok(stream) => stream,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    // Nobody listens once the loop has ended.
    drop(events.send(TcpEvent::Connected { remote: hop.remote, stream }).await);
}

async fn connect(hop: &Hop) -> io::Result<TcpStream> {
    let socket = if hop.remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if !hop.local.ip().is_unspecified() && hop.local.is_ipv4() == hop.remote.is_ipv4() {
        socket.bind(SocketAddr::new(hop.local.ip(), 0))?;
    }
    socket.connect(hop.remote).await
}

async fn read(
    mut reader: OwnedReadHalf,
    flow: Flow,
    mut framer: Framer,
    pong: mpsc::UnboundedSender<Write>,
    events: mpsc::Sender<TcpEvent>,
) {
    let id = flow.connection;
    let mut begun: Option<Instant> = None;
    'connection: loop {
        framer.buffer.reserve(READ_SIZE);
        let deadline = begun.map(|begun| begun + MESSAGE_TIMEOUT);
        let read = match deadline {
            Some(deadline) => timeout_at(deadline, reader.read_buf(&mut framer.buffer)).await.unwrap_or(Ok(0)),
            None => reader.read_buf(&mut framer.buffer).await,
        };
        if !matches!(read, Ok(size) if size > 0) {
            break;
        }
        loop {
            let event = match framer.next() {
                Ok(Some(Frame::Message(bytes))) => TcpEvent::Message { flow, bytes },
                Ok(Some(Frame::Ping)) => {
                    let write = Write { bytes: Bytes::from_static(PONG), owner: None };
                    if pong.send(write).is_err() {
                        break 'connection;
                    }
                    continue;
                }
                Ok(None) => break,
                Err(error) => {
                    drop(events.send(TcpEvent::Broken { flow, error }).await);
                    return;
                }
            };
            begun = None;
            if events.send(event).await.is_err() {
                return;
            }
        }
        begun = if framer.buffer.is_empty() { None } else { begun.or_else(|| Some(Instant::now())) };
    }
    if let Some(id) = id {
        drop(events.send(TcpEvent::Closed(id)).await);
    }
}

async fn write_all(
    mut writer: OwnedWriteHalf,
    id: ConnectionId,
    mut queue: mpsc::UnboundedReceiver<Write>,
    unsent: Rc<Cell<usize>>,
    events: mpsc::Sender<TcpEvent>,
) {
    while let Some(write) = queue.recv().await {
        let result = writer.write_all(&write.bytes).await;
        unsent.set(unsent.get().saturating_sub(write.bytes.len()));
        if result.is_err() {
            queue.close();
            let mut failed = write.owner.into_iter().collect::<Vec<_>>();
            while let Some(write) = queue.recv().await {
                failed.extend(write.owner);
            }
            for owner in failed {
                drop(events.send(TcpEvent::Unsent(owner)).await);
            }
            drop(events.send(TcpEvent::Closed(id)).await);
            return;
        }
    }
}
