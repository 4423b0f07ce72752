//! Transactions: RFC 3261 §17 with the corrections of RFC 6026.
//!
//! Four small state machines that say what an event means ([`client`], [`server`]); the endpoint owns
//! the transactions, sends what they keep and sets the timers that they name. Keys are keyed hashes,
//! so that whoever chooses branches cannot choose collisions.

pub mod client;
mod key;
pub mod server;

pub use key::{Branch, Key, Keyring, MAGIC_COOKIE};
