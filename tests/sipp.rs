//! Every folder of `sipp-scenarios` against the real binary, between SIPp processes, over UDP and over TCP.
//!
//! `SIPP_SCENARIO=REGEX` chooses scenarios by name, `SIPSTAMP_BIN=PATH` another binary than the one cargo built.
//! Traces, logs and events of each run stay under `target/tmp/sipp/TRANSPORT/SCENARIO`.

#[cfg(test)]
mod sipp {
    pub mod agent;
    pub mod check;
    pub mod config;
    pub mod expect;
    pub mod metrics;
    pub mod ports;
    pub mod run;
    pub mod sidecar;
    pub mod trace;
    pub mod value;
}

use sipp::expect::{Scenario, Transport};

#[test]
fn scenarios_over_udp() {
    if let Err(report) = sipp::run::all(Transport::Udp) {
        panic!("{report}");
    }
}

#[test]
fn scenarios_over_tcp() {
    if let Err(report) = sipp::run::all(Transport::Tcp) {
        panic!("{report}");
    }
}

#[test]
fn every_scenario_says_what_it_shows() {
    let scenarios = Scenario::all().unwrap();
    assert!(!scenarios.is_empty(), "no folder of sipp-scenarios has an expect.toml");
    let silent: Vec<_> = scenarios.iter().filter(|scenario| !scenario.is_explained()).map(|it| &it.name).collect();
    assert!(silent.is_empty(), "no `shows`, or a scenario file without a comment: {silent:?}");
}
