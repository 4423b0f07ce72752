//! The policy that tests begin with, and parts to change it by.

use std::net::SocketAddr;
use std::time::Duration;

use sipstamp::flow::{Hop, Transport};
use sipstamp::policy::{
    Capture, Dialer, Limits, Listener, Policy, Server, ServerId, Stamp, Strangers, Target, Timeouts, VoicemailDrop,
};

/// Where the sidecar listens, by UDP and TCP.
pub const SIDECAR: &str = "10.0.0.1:5060";
pub const DIALER: &str = "10.0.1.5:5060";
pub const PBX_A: &str = "10.0.2.10:5060";
pub const PBX_B: &str = "10.0.2.11:5060";
pub const PBX_C: &str = "10.0.2.12:5060";

/// One dialer at [`DIALER`] in 10.0.1.0/24, one server `pbx-a` at [`PBX_A`]; everything else as by default.
pub fn policy() -> Policy {
    let listener = |transport| {
        let address = SIDECAR.parse().unwrap();
        Listener { transport, bound: address, address }
    };
    Policy {
        listeners: vec![listener(Transport::Udp), listener(Transport::Tcp)],
        advertise: [None, None],
        dialer: Dialer {
            sources: vec![net("10.0.1.0/24")],
            target: Some(target(DIALER, Transport::Udp)),
            trust_headers: true,
        },
        servers: vec![server(1, "pbx-a", PBX_A)],
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

/// A server that is reached by UDP; later ones have a higher number and so a later turn.
pub fn server(id: u16, name: &str, address: &str) -> Server {
    Server {
        id: ServerId(id),
        name: name.into(),
        target: target(address, Transport::Udp),
        priority: u32::from(id),
        weight: 1,
        sources: Vec::new(),
    }
}

/// A next hop towards which the sidecar is [`SIDECAR`].
pub fn target(address: &str, transport: Transport) -> Target {
    let remote: SocketAddr = address.parse().unwrap();
    Target {
        hop: Hop { transport, local: SIDECAR.parse().unwrap(), remote, connection: None },
        host_port: address.into(),
        explicit_transport: false,
    }
}

pub fn net(text: &str) -> ipnet::IpNet {
    text.parse().unwrap()
}

pub const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(minutes * 60)
}
