//! The real process with a journal, a file and webhooks: what a receiver may do, each event arrives there, signed, in the
//! order of its call, and the file is told whatever the receiver does.

#![cfg(test)]

#[path = "workers/callee.rs"]
#[expect(dead_code, reason = "shared with the workers' tests, which use the rest")]
mod callee;
#[path = "workers/caller.rs"]
#[expect(dead_code, reason = "shared with the workers' tests, which use the rest")]
mod caller;
#[path = "sipp/metrics.rs"]
mod metrics;
#[path = "sipp/ports.rs"]
#[expect(dead_code, reason = "shared with the SIPp scenarios, which use the rest")]
mod ports;
#[path = "webhook/mod.rs"]
mod webhook;
#[path = "workers/wire.rs"]
#[expect(dead_code, reason = "shared with the workers' tests, which use the rest")]
mod wire;
