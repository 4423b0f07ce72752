//! The real process with a journal: killed among calls, and with its files in the way.
//!
//! `SIPSTAMP_CRASH_SEED=N` chooses when it is killed. Traces, log, journal and events of the latest run stay under
//! `target/tmp/crash`.

#![cfg(test)]

#[path = "crash/agent.rs"]
mod agent;
#[path = "crash/faults.rs"]
mod faults;
#[path = "crash/kills.rs"]
mod kills;
#[path = "sipp/metrics.rs"]
mod metrics;
#[path = "crash/place.rs"]
mod place;
#[path = "sipp/ports.rs"]
mod ports;
#[path = "nats/server.rs"]
#[expect(dead_code, reason = "shared with the tests of NATS, which use the rest")]
mod server;
#[path = "crash/site.rs"]
mod site;
#[path = "crash/takeovers.rs"]
mod takeovers;
#[path = "workers/wire.rs"]
#[expect(dead_code, reason = "shared with the tests of workers, which use the rest")]
mod wire;
