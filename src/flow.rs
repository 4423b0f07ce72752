//! Where a message came from and where it goes, without a socket in sight.

use std::net::SocketAddr;

use crate::closed::closed_enum;

closed_enum! {
    /// A transport of RFC 3261 §18.
    pub enum Transport {
        Udp = "udp",
        Tcp = "tcp",
    }
}

closed_enum! {
    /// One of the two sides between which the sidecar stands.
    pub enum Side {
        Dialer = "dialer",
        Telephony = "telephony",
    }
}

closed_enum! {
    /// The way of a call: `outbound` begins at the dialer.
    pub enum Direction {
        Outbound = "outbound",
        Inbound = "inbound",
    }
}

impl Transport {
    /// Whether the transport delivers by itself, so that nothing is retransmitted (RFC 3261 §17).
    pub const fn is_reliable(self) -> bool {
        matches!(self, Transport::Tcp)
    }

    /// The name as a Via spells it: `UDP`, `TCP`.
    pub const fn via_name(self) -> &'static str {
        match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
        }
    }
}

impl Side {
    /// The other of the two sides.
    pub const fn opposite(self) -> Side {
        match self {
            Side::Dialer => Side::Telephony,
            Side::Telephony => Side::Dialer,
        }
    }
}

impl Direction {
    /// The direction of a call that begins on `side`.
    pub const fn from_caller(side: Side) -> Direction {
        match side {
            Side::Dialer => Direction::Outbound,
            Side::Telephony => Direction::Inbound,
        }
    }

    /// The side on which a call of this direction begins.
    pub const fn caller_side(self) -> Side {
        match self {
            Direction::Outbound => Side::Dialer,
            Direction::Inbound => Side::Telephony,
        }
    }
}

/// Names one connection for the lifetime of the process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// How a message reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub transport: Transport,
    /// The address that we are known by on this flow: the IP address that the packet was sent to
    /// (also where the socket is bound to a wildcard) and the port that we listen on (also on a
    /// connection that we opened, whose own port is ephemeral).
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// The connection it arrived on; `None` for datagrams.
    pub connection: Option<ConnectionId>,
    /// On a connection that we opened: the side for which we did.
    pub opened_for: Option<Side>,
}

impl Flow {
    /// The way back.
    pub fn reply(&self) -> Hop {
        Hop { transport: self.transport, local: self.local, remote: self.remote, connection: self.connection }
    }
}

/// Where a message shall go. The shell uses `connection` while it is open, else any open one to
/// `remote`, else connects to `remote`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hop {
    pub transport: Transport,
    /// The listening address to send from (UDP) or to be known by (TCP).
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub connection: Option<ConnectionId>,
}
