//! A world around the pure core in virtual time: a policy, user agents that write raw messages, and what each address received.

mod agent;
mod journal;
mod message;
mod policy;
mod world;

pub use agent::{Uac, Uas};
pub use journal::Journal;
pub use message::{Msg, Text, ok, reply_to};
pub use policy::{DIALER, PBX_A, PBX_B, PBX_C, SIDECAR, minutes, ms, net, policy, secs, server, target};
pub use world::{Sent, World};
