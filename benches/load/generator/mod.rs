//! The dialer and the telephony server around a device under test, in one thread: an open-loop load generator that
//! checks every message it gets.
//!
//! A call is INVITE → 180 → 200 → ACK → BYE → 200. Calls begin on schedule, whatever comes back. Messages are made from
//! prepared bytes into which a call's number is written, and what arrives is compared with the very bytes that left the
//! other side, line by line; only what a device of its [`Profile`](check::Profile) has to change may differ.
//!
//! Left out: authentication, CANCEL, re-INVITE, and a TCP connection that has to be opened again.

pub mod calls;
pub mod check;
pub mod dialer;
pub mod engine;
pub mod histogram;
pub mod lanes;
pub mod messages;
pub mod server;
pub mod tally;
pub mod tcp;
pub mod template;
pub mod udp;
pub mod wire;
