//! The policy of the measured core: what the smallest configuration gives.

use std::net::SocketAddr;

use sipstamp::flow::{Hop, Transport};
use sipstamp::policy::{
    Capture, Dialer, Limits, Listener, Policy, Server, ServerId, Stamp, Strangers, Target, Timeouts, VoicemailDrop,
};

pub const SIDECAR: &str = "10.0.0.1:5060";
pub const DIALER: &str = "10.0.1.5:5060";
pub const SERVER: &str = "10.0.2.10:5060";

/// One dialer, one server, both by UDP; everything else as by default.
pub fn policy() -> Policy {
    let address = address(SIDECAR);
    let listener = |transport| Listener { transport, bound: address, address };
    Policy {
        listeners: vec![listener(Transport::Udp), listener(Transport::Tcp)],
        advertise: [None, None],
        dialer: Dialer {
            sources: vec!["10.0.1.0/24".parse().expect("a network")],
            target: Some(target(DIALER)),
            trust_headers: true,
        },
        servers: vec![Server {
            id: ServerId(1),
            name: "pbx-a".into(),
            target: target(SERVER),
            priority: 1,
            weight: 1,
            sources: Vec::new(),
        }],
        timeouts: Timeouts::default(),
        stamp: Stamp::default(),
        voicemail_drop: VoicemailDrop::default(),
        capture: Capture::default(),
        rules: Vec::new(),
        dispositions: Vec::new(),
        limits: Limits::default(),
        strangers: Strangers::Drop,
        lifecycle: false,
        source: "sipstamp/test".into(),
        mask: Default::default(),
    }
}

pub fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn target(remote: &str) -> Target {
    let hop = Hop { transport: Transport::Udp, local: address(SIDECAR), remote: address(remote), connection: None };
    Target { hop, host_port: remote.into(), explicit_transport: false }
}
