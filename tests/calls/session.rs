//! Calls whose BYE never comes: session timer and longest duration (case 16).

use crate::support::{DIALER, PBX_A, Uas, World, minutes, ms, ok, policy, reply_to, secs};

fn with_session(expires: &str) -> (World, crate::support::Uac, Uas) {
    let mut world = World::new(policy());
    let (mut uac, uas) = world.ringing();
    world.send(PBX_A, uas.reply(200).with(expires));
    uac.learn(&world.take(DIALER, "200"));
    let ack = uac.ack();
    world.send(DIALER, ack);
    world.take(PBX_A, "ACK");
    (world, uac, uas)
}

fn both_get_a_bye(world: &mut World) {
    for address in [DIALER, PBX_A] {
        let bye = world.take(address, "BYE");
        world.send(address, ok(&bye));
    }
    world.nothing_sent();
}

#[test]
fn a_session_that_runs_out_is_ended_64_t1_later() {
    for header in ["Session-Expires: 90;refresher=uas", "x: 90"] {
        let (mut world, ..) = with_session(header);
        world.advance(ms(121_999));
        world.nothing_sent();
        world.advance(ms(1));
        both_get_a_bye(&mut world);
        let ended = world.ended_as("Normal", "answered_session_expired");
        assert_eq!((ended.talk_ms, ended.ended_by.unwrap().label()), (Some(122_000), "sidecar"));
        world.settle();
    }
}

#[test]
fn a_refresh_starts_the_session_anew() {
    for method in ["INVITE", "UPDATE"] {
        let (mut world, mut uac, _) = with_session("Session-Expires: 90");
        world.advance(secs(60));
        world.send(DIALER, uac.request(method).with(format!("Contact: {}", uac.contact())));
        let refresh = world.take(PBX_A, method);
        world.send(
            PBX_A,
            reply_to(&refresh, 200, "OK", "").with("Session-Expires: 120").with("Contact: <sip:pbx@10.0.2.10:5060>"),
        );
        world.take(DIALER, "200");
        if method == "INVITE" {
            let ack = uac.ack();
            world.send(DIALER, ack);
            world.take(PBX_A, "ACK");
        }
        world.take_all(DIALER);
        world.advance(ms(151_999));
        world.nothing_sent();
        world.advance(ms(1));
        both_get_a_bye(&mut world);
        world.ended_as("Normal", "answered_session_expired");
        world.settle();
    }
}

#[test]
fn a_2xx_without_session_expires_switches_the_timer_off() {
    let (mut world, mut uac, _) = with_session("Session-Expires: 90");
    world.send(DIALER, uac.request("UPDATE"));
    let update = world.take(PBX_A, "UPDATE");
    world.send(PBX_A, ok(&update));
    world.take(DIALER, "200");
    world.advance(minutes(60));
    world.nothing_sent();
    world.settle();
    world.ended_as("Normal", "answered_max_duration");
}

#[test]
fn a_failed_refresh_leaves_the_timer_as_it_is() {
    let (mut world, mut uac, _) = with_session("Session-Expires: 90");
    world.advance(secs(60));
    world.send(DIALER, uac.request("UPDATE"));
    let update = world.take(PBX_A, "UPDATE");
    world.send(PBX_A, reply_to(&update, 422, "Session Interval Too Small", ""));
    world.take(DIALER, "422");
    world.advance(secs(62));
    both_get_a_bye(&mut world);
    world.ended_as("Normal", "answered_session_expired");
    world.settle();
}

#[test]
fn the_session_timer_is_per_dialog() {
    let (mut world, mut uac, uas) = with_session("Session-Expires: 90");
    let second = uas.fork("other");
    let (mut other, _) = world.answer(uac.clone(), second);
    world.advance(secs(122));
    for address in [DIALER, PBX_A] {
        let bye = world.take(address, "BYE");
        world.send(address, ok(&bye));
    }
    world.none_ended();
    world.hang_up(DIALER, PBX_A, other.bye());
    world.ended_as("Normal", "answered_bye_caller");
    uac.bye();
    world.settle();
}

#[test]
fn max_duration_ends_a_call_with_a_bye_to_each_side() {
    let mut policy = policy();
    policy.timeouts.max_duration = minutes(10);
    let mut world = World::new(policy);
    world.answered();
    world.advance(minutes(10) - ms(1));
    world.nothing_sent();
    world.advance(ms(1));
    // Each is independent of the other: the server is silent, the dialer answers.
    let bye = world.take(DIALER, "BYE");
    assert_eq!(
        bye.stamp().map(|(outcome, cause, _)| (outcome, cause)),
        Some(("Normal", Some("answered_max_duration")))
    );
    world.send(DIALER, ok(&bye));
    world.advance(secs(2));
    let ended = world.ended_as("Normal", "answered_max_duration");
    assert_eq!(ended.talk_ms, Some(600_000));
    assert_eq!(ended.anomalies.iter().map(|one| one.label()).collect::<Vec<_>>(), ["bye_unanswered"]);
    world.settle();
    assert!(world.kinds(PBX_A).len() > 5, "the BYE is retransmitted");
}
