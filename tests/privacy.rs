//! What the real process lets out of the numbers and secrets that it is given: calls of every kind through every channel, then
//! a search of all that it has written.

#![cfg(test)]

#[path = "privacy/calls.rs"]
mod calls;
#[path = "sipp/metrics.rs"]
mod metrics;
#[path = "privacy/peers.rs"]
mod peers;
#[path = "sipp/ports.rs"]
#[expect(dead_code, reason = "shared with the SIPp scenarios, which use the rest")]
mod ports;
#[path = "webhook/receiver.rs"]
#[expect(dead_code, reason = "shared with the tests of webhooks, which use the rest")]
mod receiver;
#[path = "nats/server.rs"]
#[expect(dead_code, reason = "shared with the tests of NATS, which use the rest")]
mod server;
#[path = "privacy/site.rs"]
mod site;
#[path = "privacy/traces.rs"]
mod traces;
#[path = "workers/wire.rs"]
#[expect(dead_code, reason = "shared with the tests of workers, which use the rest")]
mod wire;

use calls::make_all;
use site::Site;
use traces::{CHANNELS, Traces};

/// What shows a number: the API, and every sink.
const TELL_OF_CALLS: [&str; 9] = [
    "the events' file",
    "standard output",
    "dead letters",
    "webhook",
    "NATS",
    "GET /v1/calls",
    "GET /v1/calls/{id}",
    "GET /v1/outcomes",
    "GET /v1/events",
];

fn traces_of(name: &str, keys: &str, log: &str) -> Traces {
    let site = Site::start(name, keys, log);
    let seen = make_all(&site);
    let traces = site.end(seen);
    traces.assert_complete();
    traces
}

#[test]
fn masked_in_part_numbers_are_nowhere_with_a_journal_and_at_debug() {
    let traces = traces_of("partial", "mask_numbers = 'partial'\njournal = 'FOLDER/journal'", "level = 'debug'");
    traces.assert_no_numbers(&CHANNELS);
    traces.assert_no_secrets();
    assert!(traces.of("the events' file").contains("\"to\":\"+*********"), "they are masked in part");
    traces.assert_modes();
}

#[test]
fn hashed_numbers_are_nowhere_without_a_journal_and_in_json() {
    let keys = "mask_numbers = 'hash'\nmask_key_file = 'FOLDER/mask.key'";
    let traces = traces_of("hash", keys, "level = 'info'\nformat = 'json'");
    traces.assert_no_numbers(&CHANNELS);
    traces.assert_no_secrets();
    traces.assert_hashes_join();
    for line in traces.of("the log").lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error} in {line}"));
    }
}

#[test]
fn at_trace_no_secret_is_shown_either() {
    let keys = "mask_numbers = 'hash'\nmask_key_file = 'FOLDER/mask.key'\njournal = 'FOLDER/journal'";
    let traces = traces_of("trace", keys, "level = 'trace,async_nats=trace'");
    traces.assert_no_secrets();
    let others: Vec<&str> = CHANNELS.into_iter().filter(|channel| *channel != "the log").collect();
    traces.assert_no_numbers(&others);
}

/// The search itself: without masking it finds a number in each channel that tells of calls, and in no other.
#[test]
fn unmasked_numbers_are_in_every_channel_that_tells_of_calls_and_in_no_other() {
    let traces = traces_of("none", "mask_numbers = 'none'", "level = 'debug'");
    // At debug the log has the Call-IDs.
    let tell = [&TELL_OF_CALLS[..], &["the log"]].concat();
    traces.assert_numbers(&tell);
    let others: Vec<&str> = CHANNELS.into_iter().filter(|channel| !tell.contains(channel)).collect();
    traces.assert_no_numbers(&others);
    traces.assert_no_secrets();
}
