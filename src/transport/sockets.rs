//! The UDP sockets of the process: the listeners, and a connected one for each configured next hop.
//!
//! With several workers a listener is a socket for each of them, and the kernel brings a call's datagrams to that of its
//! worker ([`Steering`]). There are no connected sockets beside such a listener: the kernel would prefer them,
//! and each of them is read by one worker.
//!
//! A connected socket has its listener's address and port. The kernel lets two sockets have one address
//! only while both allow it (SO_REUSEADDR): they do for as long as the second one is bound, so that a
//! second process is still told that the address is in use.

use std::io;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::errqueue;
use super::inherited::Inherited;
use super::steer::Steering;
use super::udp::{BoundUdp, Ends, UdpSource};
use crate::flow::Transport;
use crate::policy::{Listener, Policy};

/// Asked of the kernel for datagrams that wait: a burst of a thousand calls fits. It may give less.
const BUFFER: usize = 4 * 1024 * 1024;
/// Connected sockets; next hops beyond it are served by the listeners.
const MOST_CONNECTED: usize = 32;

/// All of them, as the workers are told.
#[derive(Debug)]
pub struct UdpSockets {
    sources: Vec<UdpSource>,
    workers: usize,
    /// Sockets are dealt out to the workers one after the other.
    dealt: usize,
}

impl UdpSockets {
    /// Takes bound sockets.
    ///
    /// # Errors
    /// Where the kernel refuses an option that is needed.
    pub fn new(bound: Vec<(Vec<BoundUdp>, Listener)>, workers: usize, steering: Steering) -> io::Result<UdpSockets> {
        let mut sockets = UdpSockets { sources: Vec::new(), workers, dealt: 0 };
        let mut is_small = false;
        for (group, listener) in bound {
            for bound in &group {
                is_small |= prepare(&bound.socket, listener.bound.ip())?;
            }
            if let [first, _, ..] = &group[..] {
                steer(steering, &first.socket, group.len());
                // The program counts from the listener's first socket.
                sockets.dealt = 0;
            }
            for socket in group {
                sockets.add(socket, listener, None);
            }
        }
        if is_small {
            tracing::info!(
                wanted = BUFFER,
                "the kernel gives sockets smaller buffers than wanted: \
                 raise net.core.rmem_max and net.core.wmem_max, or give this process CAP_NET_ADMIN"
            );
        }
        Ok(sockets)
    }

    pub fn sources(&self) -> &[UdpSource] {
        &self.sources
    }

    /// Connects to the next hops of a policy, and gives up what is connected to others. A socket that was handed over with
    /// its datagrams serves on.
    pub fn follow(&mut self, policy: &Policy, inherited: &mut Inherited) {
        let targets = policy.servers.iter().map(|server| &server.target).chain(&policy.dialer.target);
        let hops = targets.map(|target| target.hop).filter(|hop| hop.transport == Transport::Udp);
        let mut wanted = Vec::new();
        for ends in hops.map(|hop| Ends { local: hop.local, remote: hop.remote }) {
            if !wanted.contains(&ends) && wanted.len() < MOST_CONNECTED {
                wanted.push(ends);
            }
        }
        let (kept, gone) = std::mem::take(&mut self.sources)
            .into_iter()
            .partition::<Vec<_>, _>(|source| source.ends.is_none_or(|ends| wanted.contains(&ends)));
        self.sources = kept;
        let wanted = wanted.into_iter().filter_map(|ends| Some((ends, self.listener_for(ends)?))).collect::<Vec<_>>();
        for (ends, listener) in &wanted {
            if let Some(bound) = inherited.take_connected(ends.local, ends.remote) {
                let prepared = prepare(&bound.socket, ends.local.ip()).map(|_| bound);
                self.add_connected(prepared, *listener, *ends);
            }
        }
        // Those that are connected to others share no address with what is bound here.
        inherited.close_udp();
        for (ends, listener) in wanted {
            if self.sources.iter().any(|source| source.ends == Some(ends)) {
                continue;
            }
            let neighbours = self.sources.iter().chain(&gone).filter(|other| other.listener.bound == listener.bound);
            let connected = connect(neighbours.map(|source| &*source.socket), ends);
            self.add_connected(connected.map(BoundUdp::opened), listener, ends);
        }
    }

    /// Gives up what is connected: all datagrams come by the listeners from here on.
    pub fn disconnect(&mut self) {
        self.sources.retain(|source| source.ends.is_none());
    }

    /// The listener that a connected socket may be beside of.
    fn listener_for(&self, ends: Ends) -> Option<Listener> {
        let mut bound = self.sources.iter().filter(|source| source.is_bound_for(ends));
        let listener = bound.next()?.listener;
        bound.next().is_none().then_some(listener)
    }

    fn add_connected(&mut self, bound: io::Result<BoundUdp>, listener: Listener, ends: Ends) {
        match bound {
            Ok(bound) => self.add(bound, listener, Some(ends)),
            Err(error) => tracing::debug!(%error, remote = %ends.remote, "served by the listener's socket"),
        }
    }

    fn add(&mut self, BoundUdp { socket, drops_before }: BoundUdp, listener: Listener, ends: Option<Ends>) {
        let reader = self.dealt % self.workers.max(1);
        self.dealt += 1;
        self.sources.push(UdpSource { socket: Arc::new(socket), listener, ends, reader, drops_before });
    }
}

impl UdpSource {
    /// Whether it listens at the local end.
    fn is_bound_for(&self, ends: Ends) -> bool {
        let bound = self.listener.bound;
        let is_wildcard = bound.ip().is_unspecified() && bound.is_ipv4() == ends.local.is_ipv4();
        self.ends.is_none() && bound.port() == ends.local.port() && (is_wildcard || bound.ip() == ends.local.ip())
    }
}

/// Has the kernel bring a call's datagrams to its worker's socket; without that, workers hand them over.
fn steer(steering: Steering, socket: &UdpSocket, sockets: usize) {
    match steering.attach(socket, u32::try_from(sockets).unwrap_or(u32::MAX)) {
        Ok(reach) if reach < Steering::REACH => tracing::info!(
            reach,
            wanted = Steering::REACH,
            "the kernel looks for a Call-ID in so many bytes of a message only, and workers hand over what it does not \
             find: raise net.core.optmem_max to 131072"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the kernel takes no program: workers hand over each other's datagrams"),
    }
}

/// Sets what every socket needs. True where its buffers are smaller than wanted.
fn prepare(socket: &UdpSocket, bound: IpAddr) -> io::Result<bool> {
    if bound.is_unspecified() {
        // Replies must leave from the address that the request was sent to.
        match bound {
            IpAddr::V4(_) => setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?,
            IpAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
    }
    errqueue::enable(socket, bound)?;
    setsockopt(socket, sockopt::RxqOvfl, &1)?;
    // How long datagrams wait shows whether there is too much to do.
    setsockopt(socket, sockopt::ReceiveTimestampns, &true)?;
    let at = SockRef::from(socket);
    make_room(socket)?;
    if setsockopt(socket, sockopt::SndBufForce, &BUFFER).is_err() {
        at.set_send_buffer_size(BUFFER)?;
    }
    // The kernel counts its own needs too, and doubles what it is asked for.
    Ok(at.recv_buffer_size()?.min(at.send_buffer_size()?) < 2 * BUFFER)
}

/// Asks for a large receive buffer. The first way needs a capability; the second is capped by the kernel. Less is no reason
/// not to start.
fn make_room(socket: &UdpSocket) -> io::Result<()> {
    match setsockopt(socket, sockopt::RcvBufForce, &BUFFER) {
        Err(_) => SockRef::from(socket).set_recv_buffer_size(BUFFER),
        Ok(()) => Ok(()),
    }
}

/// The same for the connections that a socket accepts: what waits there shows how long it waits, and in the peer nobody sees
/// that. Where the kernel gives less, connections keep the buffers that it fits to them, which may become larger.
///
/// # Errors
/// The kernel's.
pub(super) fn make_room_for_connections(socket: &TcpListener) -> io::Result<()> {
    if setsockopt(socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        let probe = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        probe.set_recv_buffer_size(BUFFER)?;
        if probe.recv_buffer_size()? >= 2 * BUFFER {
            SockRef::from(socket).set_recv_buffer_size(BUFFER)?;
        }
    }
    Ok(())
}

/// A socket with the port of its neighbours that is connected to one peer.
fn connect<'a>(neighbours: impl Iterator<Item = &'a UdpSocket> + Clone, ends: Ends) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(ends.local), Type::DGRAM, Some(Protocol::UDP))?;
    if ends.local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    share(neighbours.clone(), &socket, true)?;
    let bound = socket.bind(&ends.local.into());
    share(neighbours, &socket, false)?;
    bound?;
    socket.connect(&ends.remote.into())?;
    let socket: UdpSocket = socket.into();
    prepare(&socket, ends.local.ip())?;
    Ok(socket)
}

/// Whether sockets may have one address.
fn share<'a>(neighbours: impl Iterator<Item = &'a UdpSocket>, socket: &Socket, may: bool) -> io::Result<()> {
    for neighbour in neighbours {
        SockRef::from(neighbour).set_reuse_address(may)?;
    }
    socket.set_reuse_address(may)
}
