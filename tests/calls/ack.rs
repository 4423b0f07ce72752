//! The ACK of a 2xx: forwarded, repeated, or lost (case 13).

use crate::support::{DIALER, PBX_A, World, ms, ok, policy, secs};

#[test]
fn a_2xx_is_repeated_end_to_end_with_the_same_stamp() {
    let mut world = World::new(policy());
    let (mut uac, uas) = world.ringing();
    let mut answers = Vec::new();
    for _ in 0..3 {
        world.send(PBX_A, uas.reply(200));
        answers.push(world.only(DIALER, "200"));
        world.advance(ms(500));
    }
    assert!(answers.iter().all(|answer| answer.text() == answers[0].text()));
    let uid = world.endpoint.call("call-1").unwrap().data.call_uid;
    assert_eq!(answers[0].all("Call-Outcome"), [format!("Normal;id={uid}")]);
    uac.learn(&answers[0]);
    let first = uac.ack();
    world.send(DIALER, &first);
    let acks = [world.only(PBX_A, "ACK")];
    world.send(DIALER, &first);
    assert_eq!(world.only(PBX_A, "ACK").text(), acks[0].text());
    assert_eq!(acks[0].uri(), "sip:pbx@10.0.2.10:5060");
    assert!(!acks[0].has("Route"));
    assert_eq!(acks[0].one("Max-Forwards"), "69");
    world.settle();
}

#[test]
fn without_ack_the_servers_own_bye_ends_the_call() {
    let mut world = World::new(policy());
    let (_, mut uas) = world.ringing();
    world.send(PBX_A, uas.reply(200));
    world.take(DIALER, "200");
    world.advance(secs(32));
    world.nothing_sent();
    let (bye, _) = world.hang_up(PBX_A, DIALER, uas.bye());
    assert_eq!(bye.stamp().map(|(outcome, cause, _)| (outcome, cause)), Some(("Normal", Some("answered_bye_callee"))));
    let ended = world.ended_as("Normal", "answered_bye_callee");
    assert_eq!(ended.anomalies.iter().map(|one| one.label()).collect::<Vec<_>>(), ["missing_ack"]);
    world.settle();
}

#[test]
fn without_ack_and_bye_both_sides_get_one_from_here() {
    let mut world = World::new(policy());
    let (_, uas) = world.ringing();
    world.send(PBX_A, uas.reply(200));
    world.take(DIALER, "200");
    world.advance(ms(35_999));
    world.nothing_sent();
    world.advance(ms(1));
    let bye = world.take(DIALER, "BYE");
    world.send(DIALER, ok(&bye));
    let bye = world.only(PBX_A, "BYE");
    world.send(PBX_A, ok(&bye));
    let ended = world.ended_as("Normal", "answered_no_ack");
    assert_eq!(ended.anomalies.iter().map(|one| one.label()).collect::<Vec<_>>(), ["missing_ack"]);
    assert_eq!(ended.ended_by.unwrap().label(), "sidecar");
    world.settle();
}

#[test]
fn a_second_2xx_without_ack_costs_only_its_own_dialog() {
    let mut world = World::new(policy());
    let (uac, uas) = world.ringing();
    let (mut uac, uas) = world.answer(uac, uas);
    let other = uas.fork("other");
    world.send(PBX_A, other.reply(200));
    world.take(DIALER, "200");
    world.advance(secs(36));
    for address in [DIALER, PBX_A] {
        let bye = world.take(address, "BYE");
        let tag = if address == DIALER { bye.sender_tag() } else { bye.to_tag() };
        assert_eq!(tag, Some("other"));
        assert_eq!(bye.stamp(), None);
        world.send(address, ok(&bye));
    }
    world.none_ended();
    world.advance(secs(60));
    world.hang_up(DIALER, PBX_A, uac.bye());
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn the_ack_of_a_failure_stays_on_its_hop() {
    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    let busy = world.fail(&uac, &uas, uas.reply(486));
    world.nothing_sent();
    world.send(DIALER, uac.ack_of(&busy));
    world.nothing_sent();
    world.settle();
}

#[test]
fn a_stray_ack_is_dropped() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    uac.to_tag = Some("nobody".into());
    world.send(DIALER, uac.ack());
    world.nothing_sent();
    assert_eq!(world.sample("sipstamp_sip_rejected_total", &[("reason", "stray_ack")]), 1);
    world.settle();
}
