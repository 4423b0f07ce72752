//! The BYE: early, crossing, challenged, refused, unanswered (cases 14 and 15).

use sipstamp::endpoint::Input;

use crate::support::{DIALER, PBX_A, World, ms, ok, policy, reply_to, secs};

fn anomalies(ended: &sipstamp::event::CallData) -> Vec<&'static str> {
    ended.anomalies.iter().map(|one| one.label()).collect()
}

#[test]
fn a_bye_before_the_ack_ends_an_answered_call() {
    let mut world = World::new(policy());
    let (mut uac, uas) = world.ringing();
    world.send(PBX_A, uas.reply(200));
    uac.learn(&world.take(DIALER, "200"));
    world.hang_up(DIALER, PBX_A, uac.bye());
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn an_early_bye_is_forwarded_and_the_failure_decides() {
    let mut world = World::new(policy());
    let (mut uac, uas) = world.called();
    world.send(PBX_A, uas.reply(180));
    uac.learn(&world.take(DIALER, "180"));
    let (_, answer) = world.hang_up(DIALER, PBX_A, uac.bye());
    assert_eq!(answer.stamp(), None);
    world.none_ended();
    world.fail(&uac, &uas, uas.reply(487));
    assert_eq!(world.ended_as("CallFailed", "peer_final").sip_code, Some(487));
    world.settle();
}

#[test]
fn a_2xx_after_an_answered_early_bye_ends_the_call_at_once() {
    let mut world = World::new(policy());
    let (mut uac, uas) = world.called();
    world.send(PBX_A, uas.reply(180));
    uac.learn(&world.take(DIALER, "180"));
    world.hang_up(DIALER, PBX_A, uac.bye());
    world.send(PBX_A, uas.reply(200));
    world.take(DIALER, "200");
    assert_eq!(world.ended_as("Normal", "answered_bye_caller").talk_ms, Some(0));
    world.settle();
}

#[test]
fn a_2xx_that_crosses_an_early_bye_ends_the_call_when_that_is_answered() {
    let mut world = World::new(policy());
    let (mut uac, uas) = world.called();
    world.send(PBX_A, uas.reply(180));
    uac.learn(&world.take(DIALER, "180"));
    world.send(DIALER, uac.bye());
    let bye = world.take(PBX_A, "BYE");
    world.send(PBX_A, uas.reply(200));
    world.take(DIALER, "200");
    world.none_ended();
    world.send(PBX_A, ok(&bye));
    let answer = world.take(DIALER, "200");
    let stamp = answer.stamp().map(|(outcome, cause, _)| (outcome, cause));
    assert_eq!(stamp, Some(("Normal", Some("answered_bye_caller"))));
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn a_refused_bye_has_ended_the_call_all_the_same() {
    let mut world = World::new(policy());
    let (mut uac, _) = world.answered();
    world.send(DIALER, uac.bye());
    let bye = world.take(PBX_A, "BYE");
    world.none_ended();
    world.send(PBX_A, reply_to(&bye, 481, "Call Does Not Exist", ""));
    let answer = world.take(DIALER, "481");
    assert_eq!(
        answer.stamp().map(|(outcome, cause, _)| (outcome, cause)),
        Some(("Normal", Some("answered_bye_caller")))
    );
    assert_eq!(anomalies(&world.ended_as("Normal", "answered_bye_caller")), ["bye_refused"]);
    world.settle();
}

#[test]
fn the_event_waits_for_the_answer_to_the_bye_four_t1_at_most() {
    let mut world = World::new(policy());
    let (mut uac, _) = world.answered();
    world.advance(secs(3));
    world.send(DIALER, uac.bye());
    world.advance(ms(1_999));
    world.none_ended();
    assert_eq!(world.endpoint.active_calls(), 1);
    world.advance(ms(1));
    let ended = world.ended_as("Normal", "answered_bye_caller");
    assert_eq!((ended.talk_ms, anomalies(&ended)), (Some(3_000), vec!["bye_unanswered"]));
    world.settle();
}

#[test]
fn an_unanswered_bye_is_never_answered_here() {
    let mut world = World::new(policy());
    let (mut uac, _) = world.answered();
    world.send(DIALER, uac.bye());
    world.settle();
    let kinds = world.kinds(DIALER);
    assert!(kinds.iter().all(|kind| kind == "100"), "{kinds:?}");
}

#[test]
fn the_503_to_a_bye_that_cannot_be_sent_is_stamped() {
    let mut world = World::new(policy());
    let (mut uac, _) = world.answered();
    world.send(DIALER, uac.bye());
    let owner = world.take_sent(PBX_A, "BYE").owner.unwrap();
    world.input(Input::TransportFailed { owner });
    let refused = world.only(DIALER, "503");
    assert!(refused.one("Reason").starts_with("Q.850;cause=38"));
    let stamp = refused.stamp().map(|(outcome, cause, _)| (outcome, cause));
    assert_eq!(stamp, Some(("Normal", Some("answered_bye_caller"))));
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn other_requests_without_an_answer_are_no_unanswered_bye() {
    for method in ["INFO", "OPTIONS", "UPDATE", "INVITE"] {
        for fails in [false, true] {
            let mut world = World::new(policy());
            let (mut uac, _) = world.answered();
            world.send(DIALER, uac.request(method));
            let owner = world.take_sent(PBX_A, method).owner.unwrap();
            if fails {
                world.input(Input::TransportFailed { owner });
                assert_eq!(world.take(DIALER, "503").stamp(), None);
            }
            world.advance(secs(33));
            world.take_all(PBX_A);
            world.hang_up(DIALER, PBX_A, uac.bye());
            assert_eq!(anomalies(&world.ended_as("Normal", "answered_bye_caller")), [""; 0], "{method}");
            world.settle();
        }
    }
}

#[test]
fn a_challenged_bye_has_ended_the_call_and_the_second_is_forwarded() {
    let mut world = World::new(policy());
    let (mut uac, _) = world.answered();
    world.send(DIALER, uac.bye());
    let bye = world.take(PBX_A, "BYE");
    world.send(PBX_A, reply_to(&bye, 407, "Proxy Authentication Required", "").with("Proxy-Authenticate: Digest"));
    world.take(DIALER, "407");
    let ended = world.ended_as("Normal", "answered_bye_caller");
    assert_eq!(anomalies(&ended), [""; 0]);
    world.hang_up(DIALER, PBX_A, uac.bye());
    world.none_ended();
    world.settle();
}

#[test]
fn byes_that_cross_are_one_end_and_both_are_forwarded() {
    let mut world = World::new(policy());
    let (mut uac, mut uas) = world.answered();
    world.send(DIALER, uac.bye());
    let first = world.take(PBX_A, "BYE");
    world.send(PBX_A, uas.bye());
    let second = world.take(DIALER, "BYE");
    world.send(PBX_A, ok(&first));
    world.send(DIALER, ok(&second));
    world.take(DIALER, "200");
    world.take(PBX_A, "200");
    world.ended_as("Normal", "answered_bye_caller");
    assert_eq!(world.sample("sipstamp_races_total", &[("kind", "bye_glare")]), 1);
    world.settle();
}

#[test]
fn a_retransmitted_bye_is_one_bye() {
    let mut world = World::new(policy());
    let (mut uac, _) = world.answered();
    let bye = uac.bye();
    world.send(DIALER, &bye);
    world.send(DIALER, &bye);
    let forwarded = world.only(PBX_A, "BYE");
    world.send(PBX_A, ok(&forwarded));
    let answer = world.take(DIALER, "200");
    world.send(DIALER, &bye);
    assert_eq!(world.only(DIALER, "200").text(), answer.text());
    assert_eq!(anomalies(&world.ended_as("Normal", "answered_bye_caller")), [""; 0]);
    world.settle();
}

#[test]
fn a_second_bye_from_one_side_is_an_anomaly() {
    let mut world = World::new(policy());
    let (mut uac, _) = world.answered();
    world.send(DIALER, uac.bye());
    world.send(DIALER, uac.bye());
    world.settle();
    assert_eq!(anomalies(&world.ended()), ["bye_unanswered", "repeated_bye"]);
}

#[test]
fn the_reasons_of_the_bye_are_kept() {
    let mut world = World::new(policy());
    let (_, mut uas) = world.answered();
    world.hang_up(PBX_A, DIALER, uas.bye().with("Reason: Q.850;cause=16;text=\"Normal call clearing\""));
    let ended = world.ended_as("Normal", "answered_bye_callee");
    assert_eq!((ended.q850, ended.reason.len()), (Some(16), 1));
    assert_eq!(ended.ended_by.unwrap().label(), "callee");
    world.settle();
}

#[test]
fn a_bye_whose_way_cannot_be_found_ends_the_call_all_the_same() {
    let mut world = World::new(policy());
    let (uac, mut uas) = world.called();
    uas.contact = "<tel:+15550199>".into();
    let (mut uac, _) = world.answer_unacknowledged(uac, uas);
    world.send(DIALER, uac.bye());
    world.advance(secs(10));
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn a_bye_for_a_contact_whose_name_has_no_address_ends_the_call() {
    let mut world = World::new(policy());
    let (uac, mut uas) = world.called();
    uas.contact = "<sip:pbx@pbx.example.invalid>".into();
    let (mut uac, _) = world.answer_unacknowledged(uac, uas);
    world.send(DIALER, uac.bye());
    world.advance(secs(10));
    world.take(DIALER, "503");
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}
