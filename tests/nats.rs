//! Events and questions over a real nats-server: what becomes of events when it or the sidecar is killed, and how sidecars
//! answer for each other.

#![cfg(test)]

#[path = "sipp/metrics.rs"]
mod metrics;
#[path = "sipp/ports.rs"]
#[expect(dead_code, reason = "shared with the SIPp scenarios, which use the rest")]
mod ports;

#[path = "nats"]
mod nats {
    #[path = "../workers/callee.rs"]
    #[expect(dead_code, reason = "shared with the tests of workers, which use the rest")]
    pub mod callee;
    #[path = "../workers/caller.rs"]
    #[expect(dead_code, reason = "shared with the tests of workers, which use the rest")]
    pub mod caller;
    mod events;
    mod fleet;
    pub mod server;
    pub mod sidecar;
    #[path = "../workers/wire.rs"]
    #[expect(dead_code, reason = "shared with the tests of workers, which use the rest")]
    pub mod wire;
}
