//! Messages that cannot be read.

use crate::support::{DIALER, World, policy};

#[test]
fn a_broken_request_is_answered_and_is_no_call() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite = uac.invite().put("CSeq: 1 BYE");
    world.send(DIALER, invite);
    let refused = world.only(DIALER, "400");
    assert!(refused.to_tag().is_some(), "a response above 100 has a To tag");
    assert_eq!(refused.one("Call-ID"), "call-1");
    assert_eq!(world.sample("sipstamp_sip_rejected_total", &[("reason", "bad_header")]), 1);
    assert_eq!(world.sample("sipstamp_calls_started_total", &[]), 0);
    world.settle();
}

#[test]
fn another_version_gets_505() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite = uac.invite().to_string().replacen("SIP/2.0", "SIP/3.0", 1);
    world.send(DIALER, invite);
    world.only(DIALER, "505");
    world.settle();
}

#[test]
fn a_broken_request_of_a_stranger_gets_nothing() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite = uac.invite().put("CSeq: 1 BYE");
    world.send("192.0.2.66:5060", invite);
    world.nothing_sent();
    assert_eq!(world.notices.len(), 1);
    world.settle();
}

#[test]
fn noise_is_counted_and_nothing_else() {
    let mut world = World::new(policy());
    for noise in ["", "\r\n\r\n", "\0\0\0\0", "INVITE", "GET / HTTP/1.1\r\n\r\n", "SIP/2.0 200 OK\r\n\r\n"] {
        world.send(DIALER, noise);
        world.nothing_sent();
    }
    assert_eq!(world.sample("sipstamp_sip_rejected_total", &[]), 6);
    world.settle();
}
