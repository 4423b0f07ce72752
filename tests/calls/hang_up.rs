//! An operator hangs up: case 10c, and after the answer.

use sipstamp::endpoint::Refusal;

use crate::support::{DIALER, PBX_A, World, ms, ok, policy, secs};

#[test]
fn before_the_answer_it_is_cancelled_and_fails() {
    let mut world = World::new(policy());
    let (_, uas) = world.ringing();
    let uid = world.endpoint.call("call-1").unwrap().data.call_uid;
    world.command(|endpoint, now| endpoint.hang_up(now, &uid)).unwrap();
    world.cancelled(&uas);
    let terminated = world.only(DIALER, "487");
    assert_eq!(terminated.stamp().map(|(outcome, cause, _)| (outcome, cause)), Some(("CallFailed", Some("hung_up"))));
    let ended = world.ended_as("CallFailed", "hung_up");
    assert_eq!((ended.sip_code, ended.code_source.unwrap().label()), (Some(487), "peer"));
    world.settle();
}

#[test]
fn before_anything_came_back_the_cancel_is_held() {
    let mut world = World::new(policy());
    let (_, uas) = world.called();
    world.command(|endpoint, now| endpoint.hang_up(now, "call-1")).unwrap();
    world.nothing_sent();
    world.advance(secs(1));
    world.take(DIALER, "487");
    world.ended_as("CallFailed", "hung_up");
    world.take_all(PBX_A);
    world.send(PBX_A, uas.reply(180));
    world.cancelled(&uas);
    world.settle();
}

#[test]
fn a_200_in_the_grace_is_ended_here_and_not_forwarded() {
    let mut world = World::new(policy());
    let (_, uas) = world.ringing();
    world.command(|endpoint, now| endpoint.hang_up(now, "call-1")).unwrap();
    let cancel = world.take(PBX_A, "CANCEL");
    world.send(PBX_A, ok(&cancel));
    world.advance(ms(500));
    world.send(PBX_A, uas.reply(200));
    world.take(PBX_A, "ACK");
    let bye = world.take(PBX_A, "BYE");
    world.send(PBX_A, ok(&bye));
    world.only(DIALER, "487");
    world.ended_as("CallFailed", "hung_up");
    world.settle();
}

#[test]
fn of_hang_up_and_cancel_the_first_decides() {
    let mut world = World::new(policy());
    let (uac, uas) = world.ringing();
    world.command(|endpoint, now| endpoint.hang_up(now, "call-1")).unwrap();
    world.send(DIALER, uac.cancel());
    world.cancelled(&uas);
    world.ended_as("CallFailed", "hung_up");
    world.settle();
}

#[test]
fn while_the_dialer_authenticates_the_call_ends_at_once() {
    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    world.fail(&uac, &uas, uas.reply(407));
    world.command(|endpoint, now| endpoint.hang_up(now, "call-1")).unwrap();
    world.ended_as("CallFailed", "hung_up");
    world.settle();
}

#[test]
fn an_answered_call_gets_a_bye_on_both_sides() {
    let mut world = World::new(policy());
    let (uac, uas) = world.answered();
    world.advance(secs(5));
    world.command(|endpoint, now| endpoint.hang_up(now, "call-1")).unwrap();
    let to_dialer = world.take(DIALER, "BYE");
    let to_server = world.only(PBX_A, "BYE");
    assert_eq!(
        to_dialer.stamp().map(|(outcome, cause, _)| (outcome, cause)),
        Some(("Normal", Some("answered_hung_up")))
    );
    assert!(!to_server.has("Call-Outcome"));
    assert_eq!((to_dialer.uri(), to_server.uri()), ("sip:dialer@10.0.1.5:5060", "sip:pbx@10.0.2.10:5060"));
    assert_eq!((to_dialer.sender_tag(), to_dialer.to_tag()), (Some("callee"), Some(&*uac.tag)));
    assert_eq!((to_server.sender_tag(), to_server.to_tag()), (Some(&*uac.tag), Some("callee")));
    assert_eq!((to_dialer.cseq(), to_server.cseq()), ((1, "BYE"), (2, "BYE")));
    assert_eq!(to_server.all("Via").len(), 1);
    world.none_ended();
    world.send(DIALER, ok(&to_dialer));
    world.none_ended();
    world.send(PBX_A, ok(&to_server));
    let ended = world.ended_as("Normal", "answered_hung_up");
    assert_eq!((ended.talk_ms, ended.ended_by.unwrap().label()), (Some(5_000), "sidecar"));
    assert_eq!(uas.invite.one("Call-ID"), ended.call_id);
    world.settle();
}

#[test]
fn a_call_that_is_over_or_unknown_is_refused() {
    let mut world = World::new(policy());
    assert!(matches!(world.command(|endpoint, now| endpoint.hang_up(now, "call-1")), Err(Refusal::NotFound)));
    let (mut uac, _) = world.answered();
    world.send(DIALER, uac.bye());
    assert!(matches!(world.command(|endpoint, now| endpoint.hang_up(now, "call-1")), Err(Refusal::Conflict(_))));
    world.settle();
    assert!(matches!(world.command(|endpoint, now| endpoint.hang_up(now, "call-1")), Err(Refusal::NotFound)));
}
