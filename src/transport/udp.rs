//! Datagrams, read and sent in batches: one system call for many, in both directions.
//!
//! A socket is read by one worker; with one worker there is, besides the listeners, a connected
//! socket for each configured next hop: what goes there by it needs no route to be looked up, and what
//! comes from there is delivered to it by the kernel.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use bytes::Bytes;
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use slab::Slab;

use super::Source;
use super::errqueue::{self, Unreachable};
use super::mmsg::{BATCH, Outgoing, Received, Receiver, Sender, drops};
use crate::chunks::Chunks;
use crate::endpoint::Owner;
use crate::flow::{Flow, Hop, Transport};
use crate::policy::Listener;
use crate::time::Wall;

/// Datagrams that wait for room in a socket's buffer; beyond it the oldest go.
const MOST_QUEUED: usize = 10_000;
/// How often in a row a send may report what ICMP has left on the socket, each time for another datagram.
const MOST_LEFTOVERS: u32 = 1_000;

/// That of a connected socket.
const BEST_FIT: u8 = 4;

/// A socket and what it is for.
#[derive(Clone, Debug)]
pub struct UdpSource {
    pub socket: Arc<UdpSocket>,
    /// By whose port it sends.
    pub listener: Listener,
    /// Of a connected socket: both ends.
    pub ends: Option<Ends>,
    /// The worker that reads it.
    pub reader: usize,
    /// As of [`BoundUdp`].
    pub drops_before: Option<u32>,
}

/// A socket that is bound.
#[derive(Debug)]
pub struct BoundUdp {
    pub socket: UdpSocket,
    /// Datagrams that the kernel had dropped there when this process got it; `None` where the kernel does not tell.
    pub drops_before: Option<u32>,
}

/// Both ends of a connected socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// A datagram that the kernel refused outright: no route, too long.
#[derive(Debug)]
pub struct Refusal {
    pub remote: SocketAddr,
    pub owner: Option<Owner>,
    pub error: io::Error,
}

/// Counts for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpFigures {
    /// Datagrams that were dropped because a queue was full.
    pub unsent: u64,
    /// Datagrams that the kernel dropped because a socket's buffer was full.
    pub unread: u64,
}

/// The sockets as one worker has them.
pub struct UdpPorts {
    ports: Slab<Port>,
    worker: usize,
    registry: Registry,
    receiver: Receiver,
    sender: Sender,
    chunks: Chunks,
    figures: UdpFigures,
    /// When the kernel took the datagram that waited longest of those read since this was asked.
    oldest: Option<Wall>,
}

struct Port {
    source: UdpSource,
    is_readable: bool,
    has_errors: bool,
    /// The socket has no room; its queue waits for the event that says otherwise.
    is_blocked: bool,
    /// To be sent with the next [`UdpPorts::flush`].
    queue: VecDeque<Queued>,
    /// The kernel's count of drops, as last read; `None` where none was read, and it did not begin with 0.
    drops: Option<u32>,
}

struct Queued {
    hop: Hop,
    bytes: Bytes,
    owner: Option<Owner>,
}

impl UdpPorts {
    /// # Errors
    /// Where a socket cannot be registered.
    pub fn new(sources: &[UdpSource], worker: usize, registry: Registry) -> io::Result<UdpPorts> {
        let mut ports = UdpPorts {
            ports: Slab::new(),
            worker,
            registry,
            receiver: Receiver::new(),
            sender: Sender::new(),
            chunks: Chunks::default(),
            figures: UdpFigures::default(),
            oldest: None,
        };
        for source in sources {
            ports.add(source.clone())?;
        }
        Ok(ports)
    }

    /// Takes on the connected sockets that a new configuration has. What has come by one that it has not is read before.
    pub fn follow(&mut self, sources: &[UdpSource], take: &mut dyn FnMut(Flow, Bytes)) {
        let is_wanted =
            |port: &Port| port.source.ends.is_none() || sources.iter().any(|source| source.ends == port.source.ends);
        let gone = self.ports.iter().filter(|(_, port)| !is_wanted(port)).map(|(key, _)| key).collect::<Vec<_>>();
        for key in gone {
            while self.receive(key, take) {}
            let port = self.ports.remove(key);
            if port.source.reader == self.worker || port.is_blocked {
                // An error leaves an event that nobody takes.
                drop(self.registry.deregister(&mut SourceFd(&port.source.socket.as_raw_fd())));
            }
            // What waits there goes by the listener.
            for Queued { hop, bytes, owner } in port.queue {
                self.enqueue(hop, bytes, owner);
            }
        }
        for source in sources.iter().filter(|source| source.ends.is_some()) {
            let is_known = self.ports.iter().any(|(_, port)| port.source.ends == source.ends);
            if !is_known && let Err(error) = self.add(source.clone()) {
                tracing::warn!(%error, "a connected socket cannot be used");
            }
        }
    }

    /// Notes what an event says of a socket.
    pub fn note(&mut self, key: usize, event: &Event) {
        let Some(port) = self.ports.get_mut(key) else { return };
        // An error may have ended a batch before the socket was empty.
        port.is_readable |= port.source.reader == self.worker && (event.is_readable() || event.is_error());
        port.has_errors |= event.is_error();
        if event.is_writable() && port.is_blocked {
            port.is_blocked = false;
            port.watch(key, self.worker, &self.registry);
        }
    }

    /// Whether something is known to be there that has not been read.
    pub fn is_readable(&self) -> bool {
        self.ports.iter().any(|(_, port)| port.is_readable || port.has_errors)
    }

    /// Reads a batch of each socket that has something.
    pub fn read(&mut self, take: &mut dyn FnMut(Flow, Bytes)) {
        for key in 0..self.ports.capacity() {
            if self.ports.get(key).is_some_and(|port| port.is_readable) {
                self.receive(key, take);
            }
        }
    }

    /// Reads what ICMP has said.
    pub fn read_errors(&mut self, mut take: impl FnMut(Unreachable)) {
        for (_, port) in self.ports.iter_mut().filter(|(_, port)| port.has_errors) {
            port.has_errors = errqueue::read(&port.source.socket, &mut take);
        }
    }

    /// Puts a datagram into the next batch. Beyond the limit the oldest is dropped. False where no socket leads there.
    pub fn enqueue(&mut self, hop: Hop, bytes: Bytes, owner: Option<Owner>) -> bool {
        let Some(port) = port_towards(&mut self.ports, &hop, self.worker) else { return false };
        if port.queue.len() >= MOST_QUEUED {
            port.queue.pop_front();
            self.figures.unsent += 1;
        }
        port.queue.push_back(Queued { hop, bytes, owner });
        true
    }

    /// Sends what waits, as far as there is room; `refused` hears what the kernel refuses. What goes to a server by its
    /// connected socket goes first: the caller waits for its answer, not for our 100.
    pub fn flush(&mut self, refused: &mut dyn FnMut(Refusal)) {
        for key in (0..self.ports.capacity()).rev() {
            if self.ports.get(key).is_some_and(|port| !port.queue.is_empty() && !port.is_blocked) {
                self.flush_one(key, refused);
            }
        }
    }

    /// Whether nothing waits to be sent.
    pub fn is_flushed(&self) -> bool {
        self.ports.iter().all(|(_, port)| port.queue.is_empty())
    }

    pub fn figures(&self) -> UdpFigures {
        self.figures
    }

    /// When the kernel took the datagram that waited longest of those read since this was asked.
    pub fn take_oldest(&mut self) -> Option<Wall> {
        self.oldest.take()
    }

    fn add(&mut self, source: UdpSource) -> io::Result<()> {
        let entry = self.ports.vacant_entry();
        let (is_read, drops) = (source.reader == self.worker, source.drops_before);
        if is_read {
            let token = Source::Udp(entry.key()).token();
            self.registry.register(&mut SourceFd(&source.socket.as_raw_fd()), token, Interest::READABLE)?;
        }
        entry.insert(Port {
            source,
            // What came before the socket was registered.
            is_readable: is_read,
            has_errors: false,
            is_blocked: false,
            queue: VecDeque::new(),
            drops,
        });
        Ok(())
    }

    /// Reads one batch. True where more may be there.
    fn receive(&mut self, key: usize, take: &mut dyn FnMut(Flow, Bytes)) -> bool {
        let Some(port) = self.ports.get_mut(key).filter(|port| port.source.reader == self.worker) else { return false };
        let count = loop {
            match self.receiver.receive(&port.source.socket) {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break 0,
                // What ICMP has left on the socket: it comes by the error queue, and is told here only once.
                Err(_) => {}
            }
        };
        // Fewer than asked for: the socket is empty, and the next datagram makes another event.
        port.is_readable = count == BATCH;
        if count == 0 {
            return false;
        }
        let mut datagrams = self.receiver.datagrams().peekable();
        // Those that the socket had first are read first.
        let first = datagrams.peek().and_then(|datagram| datagram.told.at);
        self.oldest = [self.oldest, first].into_iter().flatten().min();
        for datagram in datagrams {
            if let Some(drops) = datagram.told.drops {
                let since = drops.wrapping_sub(port.drops.unwrap_or(drops));
                // What waited in the socket when it was handed over bears an earlier count.
                if since <= u32::MAX / 2 {
                    port.drops = Some(drops);
                    self.figures.unread += u64::from(since);
                }
            }
            take(port.source.flow(&datagram), self.chunks.copy(datagram.bytes));
        }
        port.is_readable
    }

    fn flush_one(&mut self, key: usize, refused: &mut dyn FnMut(Refusal)) {
        let Some(port) = self.ports.get_mut(key) else { return };
        let mut leftovers = 0;
        while !port.queue.is_empty() {
            let source = &port.source;
            let batch = port.queue.iter().take(BATCH).map(|one| source.outgoing(one));
            match self.sender.send(&source.socket, batch) {
                Ok(count) => {
                    // Nearly always all of it.
                    if count >= port.queue.len() {
                        port.queue.clear();
                    } else {
                        port.queue.drain(..count);
                    }
                    leftovers = 0;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    port.is_blocked = true;
                    return port.watch(key, self.worker, &self.registry);
                }
                // An error that ICMP for an earlier datagram left on the socket is reported once by the next send,
                // which then did not happen: it is tried again. A refused connection is never this datagram's own.
                Err(error) if leftovers == 0 || is_leftover(&error) && leftovers < MOST_LEFTOVERS => leftovers += 1,
                Err(error) => {
                    leftovers = 0;
                    if let Some(Queued { hop, owner, .. }) = port.queue.pop_front() {
                        refused(Refusal { remote: hop.remote, owner, error });
                    }
                }
            }
        }
    }
}

impl Port {
    /// Asks for the events that the port needs.
    fn watch(&self, key: usize, worker: usize, registry: &Registry) {
        let fd = self.source.socket.as_raw_fd();
        let (mut fd, token) = (SourceFd(&fd), Source::Udp(key).token());
        let is_read = self.source.reader == worker;
        let done = match (is_read, self.is_blocked) {
            (true, true) => registry.reregister(&mut fd, token, Interest::READABLE | Interest::WRITABLE),
            (true, false) => registry.reregister(&mut fd, token, Interest::READABLE),
            (false, true) => registry.register(&mut fd, token, Interest::WRITABLE),
            (false, false) => registry.deregister(&mut fd),
        };
        if let Err(error) = done {
            tracing::error!(%error, "a socket cannot be watched");
        }
    }
}

impl BoundUdp {
    /// One that this process has opened.
    pub fn opened(socket: UdpSocket) -> BoundUdp {
        BoundUdp { socket, drops_before: Some(0) }
    }

    /// One that this process was given.
    pub fn inherited(socket: UdpSocket) -> BoundUdp {
        let drops_before = drops(&socket).ok();
        BoundUdp { socket, drops_before }
    }
}

impl UdpSource {
    fn flow(&self, datagram: &Received<'_>) -> Flow {
        let bound = self.ends.map_or(self.listener.bound, |ends| ends.local);
        let ip = if bound.ip().is_unspecified() {
            datagram.told.local.unwrap_or(self.listener.address.ip())
        } else {
            bound.ip()
        };
        Flow {
            transport: Transport::Udp,
            local: SocketAddr::new(ip, bound.port()),
            remote: datagram.remote,
            connection: None,
            opened_for: None,
        }
    }

    fn outgoing<'a>(&self, queued: &'a Queued) -> Outgoing<'a> {
        let is_connected = self.ends.is_some();
        let source = queued.hop.local.ip();
        let is_any = !is_connected && self.listener.bound.ip().is_unspecified() && !source.is_unspecified();
        Outgoing {
            bytes: &queued.bytes,
            remote: (!is_connected).then_some(queued.hop.remote),
            local: is_any.then_some(source),
        }
    }

    /// How well this socket fits a hop: a connected one before its listener, of which the worker's own socket is the best;
    /// any of the family at last.
    fn fitness(&self, hop: &Hop, worker: usize) -> u8 {
        let bound = self.listener.bound;
        match self.ends {
            Some(ends) if ends.remote == hop.remote && ends.local == hop.local => BEST_FIT,
            Some(_) => 0,
            None if bound.port() == hop.local.port() && is_reached_by(bound.ip(), hop.local.ip()) => {
                2 + u8::from(self.reader == worker)
            }
            None => u8::from(bound.is_ipv4() == hop.remote.is_ipv4()),
        }
    }
}

/// The socket to send by: the first of those that fit best.
fn port_towards<'a>(ports: &'a mut Slab<Port>, hop: &Hop, worker: usize) -> Option<&'a mut Port> {
    let mut best = (0, 0);
    for (key, port) in ports.iter() {
        let fitness = port.source.fitness(hop, worker);
        if fitness > best.0 {
            best = (fitness, key);
        }
        if fitness == BEST_FIT {
            break;
        }
    }
    if best.0 > 0 { ports.get_mut(best.1) } else { None }
}

fn is_reached_by(bound: IpAddr, local: IpAddr) -> bool {
    bound == local || bound.is_unspecified() && bound.is_ipv4() == local.is_ipv4()
}

fn is_leftover(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use mio::{Events, Poll};
    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;
    use crate::config::{ListenAddress, ListenKey};
    use crate::transport::{Bound, Inherited, Steering, UdpSockets};

    const LOOPBACK: &str = "127.0.0.1:0";

    fn bound(address: &str) -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    /// One worker with one listener; the socket itself cannot be waited for.
    fn ports() -> (Poll, UdpPorts, SocketAddr, UdpSockets) {
        let (socket, address) = bound(LOOPBACK);
        socket.set_nonblocking(true).unwrap();
        let listener = Listener { transport: Transport::Udp, bound: address, address };
        let sockets =
            UdpSockets::new(vec![(vec![BoundUdp::opened(socket)], listener)], 1, Steering::new(&[1; 16])).unwrap();
        let poll = Poll::new().unwrap();
        let ports = UdpPorts::new(sockets.sources(), 0, poll.registry().try_clone().unwrap()).unwrap();
        (poll, ports, address, sockets)
    }

    fn hop(local: SocketAddr, remote: SocketAddr) -> Hop {
        Hop { transport: Transport::Udp, local, remote, connection: None }
    }

    fn refused(ports: &mut UdpPorts) -> Vec<u64> {
        let mut refused = Vec::new();
        ports.flush(&mut |refusal| refused.extend(refusal.owner.map(|owner| owner.0)));
        refused
    }

    #[test]
    fn what_is_refused_is_reported_alone_and_the_rest_is_sent() {
        let (_poll, mut ports, local, _) = ports();
        let (far, remote) = bound(LOOPBACK);
        let too_long = vec![0; 65_535];
        for (owner, bytes) in [b"zero", &too_long[..], b"two", &too_long[..], b"four"].into_iter().enumerate() {
            let owner = Some(Owner(owner as u64));
            assert!(ports.enqueue(hop(local, remote), Bytes::copy_from_slice(bytes), owner));
        }
        assert_eq!(refused(&mut ports), [1, 3]);
        assert!(ports.is_flushed());
        let mut buffer = [0; 16];
        for expected in [&b"zero"[..], b"two", b"four"] {
            let size = far.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..size], expected);
        }
    }

    #[test]
    fn what_icmp_says_of_one_datagram_costs_no_other_and_names_the_right_peer() {
        let (mut poll, mut ports, local, _) = ports();
        let (far, remote) = bound(LOOPBACK);
        let (gone, nobody) = bound(LOOPBACK);
        drop(gone);
        for number in 0..40_u8 {
            let to = if number % 2 == 0 { nobody } else { remote };
            assert!(ports.enqueue(hop(local, to), Bytes::from(vec![number; 8]), Some(Owner(number.into()))));
        }
        assert_eq!(refused(&mut ports), Vec::<u64>::new());
        let mut buffer = [0; 16];
        for number in (1..40).step_by(2) {
            far.recv(&mut buffer).unwrap();
            assert_eq!(buffer[0], number);
        }
        let mut told = Vec::new();
        let mut events = Events::with_capacity(8);
        while told.len() < 20 {
            poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
            assert!(!events.is_empty(), "{} of 20", told.len());
            events.iter().for_each(|event| ports.note(0, event));
            ports.read_errors(|unreachable| told.push((unreachable.remote, unreachable.quoted[0])));
        }
        assert!(told.iter().all(|(peer, _)| *peer == nobody), "{told:?}");
        assert!(told.iter().map(|(_, number)| *number).eq((0..40).step_by(2)), "{told:?}");
    }

    #[test]
    fn beyond_the_limit_the_oldest_is_dropped_and_counted() {
        let (_poll, mut ports, local, _) = ports();
        let (_far, remote) = bound(LOOPBACK);
        for _ in 0..MOST_QUEUED + 3 {
            ports.enqueue(hop(local, remote), Bytes::from_static(b"x"), None);
        }
        assert_eq!(ports.figures(), UdpFigures { unsent: 3, unread: 0 });
    }

    #[test]
    fn what_the_kernel_dropped_before_a_socket_was_handed_over_is_not_counted_again() {
        let (old, address) = bound(LOOPBACK);
        let (near, _) = bound(LOOPBACK);
        let flood = |socket: &UdpSocket| {
            setsockopt(socket, sockopt::RcvBuf, &4_096).unwrap();
            (0..100).for_each(|_| assert_eq!(near.send_to(&[0; 1_000], address).unwrap(), 1_000));
        };
        setsockopt(&old, sockopt::RxqOvfl, &1).unwrap();
        flood(&old);
        // One that waits there has been given a count, and others are dropped after it.
        old.recv(&mut [0; 1_000]).unwrap();
        flood(&old);
        let mut inherited = Inherited::of([OwnedFd::from(old)]);
        // From here on they are this process's own.
        near.send_to(&[0; 1_000], address).unwrap();
        let listen = ListenAddress { transport: Transport::Udp, address, key: ListenKey::File(0) };
        let Bound { udp, opened, .. } = crate::transport::bind(&[listen], 1, &mut inherited).unwrap();
        assert_eq!(opened, 0);
        let sockets = UdpSockets::new(udp, 1, Steering::new(&[1; 16])).unwrap();
        let poll = Poll::new().unwrap();
        let mut ports = UdpPorts::new(sockets.sources(), 0, poll.registry().try_clone().unwrap()).unwrap();
        // The count comes with a datagram that there is room for.
        let mut read = || {
            let mut count = 0;
            let mut read_all = || {
                ports.ports[0].is_readable = true;
                while ports.is_readable() {
                    ports.read(&mut |_, _| count += 1);
                }
            };
            read_all();
            near.send_to(b"after", address).unwrap();
            read_all();
            (count - 1, ports.figures().unread)
        };
        assert_eq!(read().1, 1);
        flood(&sockets.sources()[0].socket);
        let (kept, unread) = read();
        assert_eq!(unread, 1 + 100 - kept);
    }
}
