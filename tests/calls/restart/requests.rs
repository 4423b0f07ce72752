//! Requests inside dialogs that are on their way when the process is killed, or come after it.

use sipstamp::event::CallState;

use super::{DEAD, comes_to_rest, kept, outcomes};
use crate::support::{DIALER, PBX_A, Uac, Uas, World, ms, ok, policy, reply_to, secs};

#[test]
fn either_side_hangs_up_a_restored_call() {
    for (from, to, cause) in [(DIALER, PBX_A, "answered_bye_caller"), (PBX_A, DIALER, "answered_bye_callee")] {
        let mut world = kept();
        let (mut uac, mut uas) = world.answered();
        let uid = world.endpoint.call("call-1").unwrap().data.call_uid;
        world.advance(secs(10));
        let restored = world.restart(DEAD);
        assert_eq!((restored.calls[CallState::Answered.index()], restored.ended), (1, 0));
        world.nothing_sent();
        let bye = if from == DIALER { uac.bye() } else { uas.bye() };
        let (bye, answer) = world.hang_up(from, to, bye);
        let stamped = if from == DIALER { answer } else { bye };
        assert_eq!(stamped.stamp(), Some(("Normal", Some(cause), &*uid)));
        let ended = world.ended_as("Normal", cause);
        assert_eq!((ended.call_uid, ended.talk_ms, ended.had_ringing), (uid, Some(10_700), true));
        world.settle();
    }
}

#[test]
fn a_bye_under_way_is_forwarded_again_when_it_comes_again_and_ends_the_call_once() {
    for from_caller in [true, false] {
        let mut world = kept();
        let (mut uac, mut uas) = world.answered();
        let (from, to) = if from_caller { (DIALER, PBX_A) } else { (PBX_A, DIALER) };
        let bye = if from_caller { uac.bye() } else { uas.bye() };
        world.send(from, bye.clone());
        let first = world.take(to, "BYE");
        world.restart(DEAD);
        world.send(from, bye.clone());
        world.advance(ms(500));
        let again = world.only(to, "BYE");
        assert_eq!(again.text(), first.text());
        world.send(to, ok(&again));
        let answer = world.only(from, "200");
        let stamped = if from_caller { &answer } else { &again };
        assert_eq!(stamped.stamp().unwrap().0, "Normal");
        world.send(from, bye);
        assert_eq!(world.only(from, "200").text(), answer.text());
        world.ended_as("Normal", if from_caller { "answered_bye_caller" } else { "answered_bye_callee" });
        world.settle();
    }
}

#[test]
fn a_bye_under_way_that_does_not_come_again_ends_the_call_when_it_would_have() {
    let mut world = kept();
    let (mut uac, _) = world.answered();
    world.send(DIALER, uac.bye());
    world.take(PBX_A, "BYE");
    world.restart(DEAD);
    world.advance(ms(1_299));
    world.none_ended();
    world.advance(ms(1));
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn a_bye_that_comes_again_after_its_call_was_told_still_reaches_the_other_side() {
    let mut world = kept();
    let (mut uac, _) = world.answered();
    let bye = uac.bye();
    world.send(DIALER, bye.clone());
    let first = world.take(PBX_A, "BYE");
    world.restart(secs(3));
    world.advance(ms(0));
    world.ended_as("Normal", "answered_bye_caller");
    world.send(DIALER, bye);
    world.advance(ms(500));
    let again = world.take(PBX_A, "BYE");
    assert_eq!((again.cseq(), again.uri()), (first.cseq(), first.uri()));
    world.send(PBX_A, ok(&again));
    world.take(DIALER, "200");
    world.settle();
}

#[test]
fn a_bye_whose_200_was_lost_with_the_process_is_answered_200() {
    let mut world = kept();
    let (mut uac, _) = world.answered();
    let bye = uac.bye();
    let (_, answer) = world.hang_up(DIALER, PBX_A, bye.clone());
    world.ended_as("Normal", "answered_bye_caller");
    world.restart(DEAD);
    world.nothing_sent();
    world.send(DIALER, bye);
    assert_eq!(world.only(DIALER, "200").text(), answer.text());
    comes_to_rest(&mut world);
    assert_eq!(outcomes(&world), ["Normal"]);
}

#[test]
fn after_a_bye_whose_forwarding_was_lost_the_other_side_may_hang_up() {
    let mut world = kept();
    let (mut uac, mut uas) = world.answered();
    world.send(DIALER, uac.bye());
    world.take(PBX_A, "BYE");
    world.restart(DEAD);
    world.hang_up(PBX_A, DIALER, uas.bye());
    world.advance(secs(2));
    assert_eq!(world.ended().outcome.unwrap().label(), "Normal");
    world.settle();
}

#[test]
fn a_re_invite_passes_a_restored_call() {
    for is_from_caller in [true, false] {
        let mut world = kept();
        let (mut uac, mut uas) = world.answered();
        world.restart(DEAD);
        let (from, to) = if is_from_caller { (DIALER, PBX_A) } else { (PBX_A, DIALER) };
        let invite = if is_from_caller { uac.request("INVITE") } else { uas.request("INVITE") };
        world.send(from, invite.with(format!("Contact: <sip:x@{from}>")));
        world.take(from, "100");
        let request = world.only(to, "INVITE");
        world.send(to, ok(&request).with(format!("Contact: <sip:y@{to}>")));
        assert_eq!(world.only(from, "200").stamp(), None);
        if is_from_caller {
            let ack = uac.ack();
            world.send(from, ack);
            world.only(to, "ACK");
        }
        world.hang_up(DIALER, PBX_A, uac.bye());
        world.ended_as("Normal", "answered_bye_caller");
        world.settle();
    }
}

#[test]
fn a_re_invite_under_way_goes_on() {
    for is_rung in [true, false] {
        let mut world = kept();
        let (mut uac, _) = world.answered();
        let invite = uac.request("INVITE").with(format!("Contact: {}", uac.contact()));
        world.send(DIALER, invite.clone());
        world.take(DIALER, "100");
        let request = world.take(PBX_A, "INVITE");
        if is_rung {
            world.send(PBX_A, reply_to(&request, 100, "Trying", ""));
        }
        world.restart(DEAD);
        if !is_rung {
            world.advance(ms(500));
            assert_eq!(world.take(PBX_A, "INVITE").text(), request.text());
        }
        world.nothing_sent();
        world.send(DIALER, invite);
        world.only(DIALER, "100");
        world.send(PBX_A, ok(&request).with("Contact: <sip:pbx@10.0.2.10:5060>"));
        world.only(DIALER, "200");
        let ack = uac.ack();
        world.send(DIALER, ack);
        world.only(PBX_A, "ACK");
        world.hang_up(DIALER, PBX_A, uac.bye());
        world.ended_as("Normal", "answered_bye_caller");
        world.settle();
    }
}

#[test]
fn byes_of_ours_that_are_not_answered_go_out_again() {
    let mut world = kept();
    world.answered();
    world.command(|endpoint, now| endpoint.hang_up(now, "call-1")).unwrap();
    let (to_caller, to_callee) = (world.take(DIALER, "BYE"), world.take(PBX_A, "BYE"));
    world.restart(DEAD);
    world.advance(ms(500));
    for (address, first) in [(DIALER, to_caller), (PBX_A, to_callee)] {
        let again = world.take(address, "BYE");
        assert_eq!((again.cseq(), again.branch()), (first.cseq(), first.branch()));
        world.send(address, ok(&again));
    }
    world.nothing_sent();
    world.ended_as("Normal", "answered_hung_up");
    world.settle();
}

#[test]
fn a_call_to_the_dialer_goes_on() {
    let mut world = kept();
    let mut uac = Uac::new(PBX_A, "inbound");
    let invite = uac.invite();
    world.send(PBX_A, invite);
    world.take(PBX_A, "100");
    let uas = Uas::new(DIALER, world.take(DIALER, "INVITE"), "dialer");
    world.send(DIALER, uas.reply(180));
    world.take(PBX_A, "180");
    world.restart(DEAD);
    world.nothing_sent();
    let (mut uac, _) = world.answer(uac, uas);
    world.restart(DEAD);
    let (bye, _) = world.hang_up(PBX_A, DIALER, uac.bye());
    assert_eq!(bye.stamp().unwrap().0, "Normal");
    let ended = world.ended_as("Normal", "answered_bye_caller");
    assert_eq!((ended.direction.label(), ended.server.as_deref()), ("inbound", Some("pbx-a")));
    world.settle();
}

#[test]
fn an_early_dialog_is_known_after_a_restart() {
    let mut world = kept();
    let (mut uac, uas) = world.called();
    world.send(PBX_A, uas.reply(183).with("Require: 100rel").with("RSeq: 1"));
    uac.learn(&world.take(DIALER, "183"));
    world.restart(DEAD);
    world.send(DIALER, uac.request("PRACK").with("RAck: 1 1 INVITE"));
    let prack = world.only(PBX_A, "PRACK");
    world.send(PBX_A, ok(&prack));
    world.only(DIALER, "200");
    uac.cseq = 1;
    let (mut uac, _) = world.answer(uac, uas);
    uac.cseq = 2;
    world.hang_up(DIALER, PBX_A, uac.bye());
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

/// Timer E goes on in Proceeding (RFC 3261 §17.1.2.2): nobody else would have a lost final response sent again.
#[test]
fn a_bye_that_was_answered_100_is_still_sent_again_after_a_restart() {
    let mut world = World::with_journal(policy());
    let (mut uac, _) = world.answered();
    let bye = uac.bye();
    world.send(DIALER, bye);
    let first = world.take(PBX_A, "BYE");
    world.send(PBX_A, reply_to(&first, 100, "Trying", ""));
    world.sent.clear();
    // The 200 is lost.
    world.restart(ms(500));
    world.advance(secs(5));
    world.take(PBX_A, "BYE");
}

#[test]
fn a_bye_is_answered_by_the_response_that_comes_after_the_restart() {
    let mut world = World::with_journal(policy());
    let (mut uac, _uas) = world.answered();
    let bye = uac.bye();
    world.send(DIALER, bye);
    let bye = world.take(PBX_A, "BYE");
    world.restart(ms(100));
    world.nothing_sent();
    world.advance(ms(500));
    let again = world.take(PBX_A, "BYE");
    assert_eq!(again.text(), bye.text());
    world.send(PBX_A, ok(&bye));
    world.take(DIALER, "200");
    let call = world.ended_as("Normal", "answered_bye_caller");
    assert!(call.anomalies.is_empty());
    world.settle();
}
