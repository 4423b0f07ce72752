//! Sockets to flows and back.
//!
//! Everything here lives on the thread of the loop: datagrams are read and sent in place, each
//! connection has a task for reading and one for writing beside it. No opinion about SIP beyond framing.

mod bind;
mod errqueue;
mod tcp;
mod udp;

pub use bind::{BindError, Bound, LocalAddresses, bind};
pub use errqueue::{Unreachable, watch};
pub use tcp::{Connections, TcpEvent, TcpFigures, accept};
pub use udp::{Datagram, UdpPort};
