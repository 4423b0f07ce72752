//! The real process on loopback: several workers, its sockets, and what it does while nothing happens.

#![cfg(test)]

#[path = "sipp/metrics.rs"]
mod metrics;
#[path = "sipp/ports.rs"]
#[expect(dead_code, reason = "shared with the SIPp scenarios, which use the rest")]
mod ports;
#[path = "workers/mod.rs"]
mod workers;
