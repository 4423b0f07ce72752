//! Attacks on the real process, on loopback and bounded: whoever calls beside them does not notice.

#![cfg(test)]

#[path = "workers/callee.rs"]
#[expect(dead_code, reason = "shared with the tests of workers, which use the rest")]
mod callee;
#[path = "../benches/load/generator/mod.rs"]
#[expect(dead_code, reason = "the bench chooses profiles by name; these tests do not")]
mod generator;
#[path = "sipp/metrics.rs"]
mod metrics;
#[path = "sipp/ports.rs"]
#[expect(dead_code, reason = "shared with the SIPp scenarios, which use the rest")]
mod ports;
#[path = "workers/site.rs"]
#[expect(dead_code, reason = "shared with the tests of workers, which use the rest")]
mod site;
#[path = "workers/wire.rs"]
mod wire;

#[path = "attacks/mod.rs"]
mod attacks;
