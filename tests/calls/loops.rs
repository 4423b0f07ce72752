//! Loops and hops (case 20).

use crate::support::{DIALER, PBX_A, SIDECAR, World, policy};

#[test]
fn a_request_that_comes_back_from_the_same_side_is_a_loop() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    uac.uri = "sip:+15550199@192.0.2.1".into();
    let invite = uac.invite();
    let (_, uas) = world.place(&uac, invite, PBX_A);
    let via = format!("\r\nVia: SIP/2.0/UDP {DIALER};branch=z9hG4bKback\r\nVia:");
    let back = uas.invite.text().replacen("\r\nVia:", &via, 1);
    world.send(DIALER, back);
    world.take(DIALER, "100");
    assert_eq!(world.only(DIALER, "482").stamp(), None);
    assert_eq!(world.sample("sipstamp_sip_rejected_total", &[("reason", "loop")]), 1);
    assert_eq!(world.sample("sipstamp_calls_started_total", &[]), 1);
    world.settle();
}

#[test]
fn a_spiral_to_another_user_is_no_loop() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    uac.uri = "sip:+15550199@192.0.2.1".into();
    let invite = uac.invite();
    let (_, uas) = world.place(&uac, invite, PBX_A);
    let via = format!("\r\nVia: SIP/2.0/UDP {DIALER};branch=z9hG4bKback\r\nVia:");
    let back = uas.invite.text().replacen("\r\nVia:", &via, 1).replacen("+15550199", "+15550177", 1);
    world.send(DIALER, back);
    world.take(DIALER, "100");
    world.take(PBX_A, "INVITE");
    assert_eq!(world.sample("sipstamp_calls_started_total", &[]), 2);
    world.settle();
}

#[test]
fn max_forwards_counts_down_and_is_added_where_it_is_missing() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite = uac.invite().put("Max-Forwards: 12");
    let (_, uas) = world.place(&uac, invite, PBX_A);
    assert_eq!(uas.invite.one("Max-Forwards"), "11");
    let mut uac = world.uac();
    let invite = uac.invite().without("Max-Forwards");
    let (_, uas) = world.place(&uac, invite, PBX_A);
    assert_eq!(uas.invite.one("Max-Forwards"), "70");
    world.settle();
}

#[test]
fn max_breadth_passes_untouched() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite = uac.invite().with("Max-Breadth: 60");
    let (_, uas) = world.place(&uac, invite, PBX_A);
    assert_eq!(uas.invite.one("Max-Breadth"), "60");
    world.settle();
}

#[test]
fn options_with_no_hops_left_are_answered_here() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    uac.target = "sip:somebody@192.0.2.1".into();
    world.send(DIALER, uac.request("OPTIONS").put("Max-Forwards: 0"));
    world.only(DIALER, "200");
    world.send(DIALER, uac.request("MESSAGE").put("Max-Forwards: 0"));
    world.only(DIALER, "483");
    uac.target = format!("sip:{SIDECAR}");
    world.settle();
}
