//! Sockets to flows and back, without ever waiting: the worker waits for all of them at once.
//!
//! Events are edge-triggered: what an event says is noted, and holds until the socket itself says that it
//! is empty or full. No opinion about SIP beyond framing.

mod bind;
mod errqueue;
mod inherited;
mod mmsg;
mod sockets;
mod steer;
mod tcp;
mod udp;

use mio::Token;

pub use bind::{BindError, Bound, LocalAddresses, addresses_of, bind};
pub use errqueue::Unreachable;
pub use inherited::{Inherited, overlap};
pub use sockets::UdpSockets;
pub use steer::Steering;
pub use tcp::{Accepted, Acceptor, Connections, Failed, Names, NoSeat, SeatLimits, Seats, Taker, TcpFigures};
pub use udp::{BoundUdp, Ends, Refusal, UdpFigures, UdpPorts, UdpSource};

/// What an event is about, as it is written in its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Somebody else woke the worker.
    Mail,
    Udp(usize),
    Acceptor(usize),
    Connection(usize),
}

impl Source {
    pub const fn token(self) -> Token {
        Token(match self {
            Source::Mail => 0,
            Source::Udp(index) => index << 2 | 1,
            Source::Acceptor(index) => index << 2 | 2,
            Source::Connection(index) => index << 2 | 3,
        })
    }

    pub const fn of(token: Token) -> Source {
        let index = token.0 >> 2;
        match token.0 & 3 {
            1 => Source::Udp(index),
            2 => Source::Acceptor(index),
            3 => Source::Connection(index),
            _ => Source::Mail,
        }
    }
}
