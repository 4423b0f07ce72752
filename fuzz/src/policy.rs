//! Policies by their bits, and who is around the sidecar.

use std::net::SocketAddr;
use std::time::Duration;

use sipstamp::flow::{Hop, Transport};
use sipstamp::mask::MaskNumbers;
use sipstamp::outcome::Outcome;
use sipstamp::policy::{
    Capture, Dialer, Disposition, Limits, Listener, Policy, Rule, Server, ServerId, Stamp, Strangers, Target, Timeouts,
    VoicemailDrop, When,
};

/// Where the sidecar listens, by UDP and TCP.
pub const SIDECAR: &str = "10.0.0.1:5060";
/// Two dialers, three servers, a gateway that only a Contact names, a stranger, and what a name is resolved to.
pub const PEERS: [&str; 8] = [
    "10.0.1.5:5060",
    "10.0.1.6:5080",
    "10.0.2.10:5060",
    "10.0.2.11:5060",
    "10.0.2.12:5060",
    "10.0.3.7:5060",
    "192.0.2.9:5060",
    "198.51.100.4:5060",
];
/// The place of the first dialer among them.
pub const DIALER: usize = 0;
/// The headers that bear an outcome.
pub const STAMPS: [&str; 2] = ["Call-Outcome", "X-Outcome"];

/// Bits 0 and 1: servers; each of the others something that differs from the default. Bit 15 is not ours.
pub fn policy(bits: u16) -> Policy {
    let is = |bit: u32| bits >> bit & 1 == 1;
    let secs = Duration::from_secs;
    let listener = |transport| Listener { transport, bound: address(SIDECAR), address: address(SIDECAR) };
    let server = |(at, name): (u16, &str)| Server {
        id: ServerId(at),
        name: name.into(),
        target: target(PEERS[usize::from(at) + 1], if at == 3 { Transport::Tcp } else { Transport::Udp }),
        priority: if is(2) { 1 } else { u32::from(at) },
        weight: 1,
        sources: Vec::new(),
    };
    let servers = [(1, "pbx-a"), (2, "pbx-b"), (3, "pbx-c")].map(server);
    Policy {
        listeners: vec![listener(Transport::Udp), listener(Transport::Tcp)],
        advertise: [None, is(3).then(|| "sidecar.test".into())],
        dialer: Dialer {
            sources: vec!["10.0.1.0/24".parse().unwrap()],
            target: (!is(4)).then(|| target(PEERS[DIALER], Transport::Udp)),
            trust_headers: !is(5),
        },
        servers: servers.into_iter().take(usize::from(bits & 3).max(1)).collect(),
        timeouts: Timeouts {
            no_answer: secs(if is(6) { 3 } else { 20 }),
            progress: secs(if is(6) { 1 } else { 4 }),
            cancel_grace: Duration::from_millis(if is(7) { 0 } else { 1_000 }),
            auth_retry_window: secs(if is(7) { 2 } else { 32 }),
            max_duration: secs(if is(6) { 60 } else { 150 }),
            dialer_ring_timeout: is(8).then(|| secs(2)),
            ..Timeouts::default()
        },
        stamp: Stamp {
            headers: STAMPS.map(Into::into).to_vec(),
            reason_phrase: is(9),
            to_both: is(10),
            no_response_code: if is(9) { 503 } else { 408 },
            ..Stamp::default()
        },
        voicemail_drop: VoicemailDrop {
            always: is(11),
            target_pattern: is(11).then(|| regex::Regex::new("^sip:vmdrop@").unwrap()),
            ..VoicemailDrop::default()
        },
        capture: Capture { correlation: Some("Correlation-ID".into()), labels: Vec::new() },
        rules: vec![Rule {
            name: "odd".into(),
            when: When { code: Some((500, 504)), ringing: Some(true), ..When::default() },
            outcome: Outcome::NumberBusy,
        }],
        dispositions: vec![Disposition {
            outcome: Outcome::NoAnswer,
            end_cause: None,
            disposition: Some("NA".into()),
            next: Some("next record".into()),
        }],
        limits: Limits {
            calls: if is(12) { 2 } else { 100_000 },
            calls_per_second: u32::from(is(13)),
            ..Limits::default()
        },
        strangers: if is(14) { Strangers::Forbid } else { Strangers::Drop },
        // By these, calls that have started are known.
        lifecycle: true,
        source: "sipstamp/fuzz".into(),
        mask: if is(14) { MaskNumbers::Partial } else { MaskNumbers::None },
    }
}

fn target(text: &str, transport: Transport) -> Target {
    let hop = Hop { transport, local: address(SIDECAR), remote: address(text), connection: None };
    Target { hop, host_port: text.into(), explicit_transport: transport == Transport::Tcp }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
