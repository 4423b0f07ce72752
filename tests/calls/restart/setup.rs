//! Calls without an answer: what they wait for, and what comes after a restart.

use sipstamp::event::CallState;
use sipstamp::policy::Policy;

use super::{DEAD, comes_to_rest, kept, outcomes, two_servers};
use crate::support::{DIALER, PBX_A, PBX_B, Uas, World, ms, ok, policy, secs, server};

#[test]
fn a_2xx_that_comes_after_the_restart_is_stamped() {
    for is_ringing in [true, false] {
        let mut world = kept();
        let (uac, uas) = if is_ringing { world.ringing() } else { world.called() };
        let uid = world.endpoint.call("call-1").unwrap().data.call_uid;
        world.restart(DEAD);
        if !is_ringing {
            world.advance(ms(500));
            assert_eq!(world.only(PBX_A, "INVITE").text(), uas.invite.text());
        }
        world.nothing_sent();
        world.send(PBX_A, uas.reply(200));
        let answer = world.only(DIALER, "200");
        assert_eq!(answer.stamp(), Some(("Normal", None, &*uid)));
        let mut uac = uac;
        uac.learn(&answer);
        let ack = uac.ack();
        world.send(DIALER, ack);
        world.only(PBX_A, "ACK");
        world.hang_up(DIALER, PBX_A, uac.bye());
        let ended = world.ended_as("Normal", "answered_bye_caller");
        let delay = if is_ringing { 700 } else { 1_200 };
        assert_eq!((ended.call_uid, ended.answer_delay_ms), (uid, Some(delay)));
        world.settle();
    }
}

#[test]
fn a_failure_that_comes_after_the_restart_is_stamped() {
    let mut world = kept();
    let (uac, uas) = world.ringing();
    let uid = world.endpoint.call("call-1").unwrap().data.call_uid;
    world.restart(DEAD);
    let failure = world.fail(&uac, &uas, uas.reply(486));
    assert_eq!(failure.stamp(), Some(("NumberBusy", Some("peer_final"), &*uid)));
    assert_eq!(world.ended_as("NumberBusy", "peer_final").attempts[0].sip_code, Some(486));
    world.settle();
}

#[test]
fn a_failure_that_is_not_acknowledged_is_sent_again_and_told_once() {
    let mut world = kept();
    let (uac, uas) = world.ringing();
    world.send(PBX_A, uas.reply(486));
    world.take(PBX_A, "ACK");
    let failure = world.take(DIALER, "486");
    world.ended_as("NumberBusy", "peer_final");
    world.restart(DEAD);
    world.advance(ms(500));
    assert_eq!(world.only(DIALER, "486").text(), failure.text());
    world.send(PBX_A, uas.reply(486));
    world.only(PBX_A, "ACK");
    world.send(DIALER, uac.ack_of(&failure));
    world.advance(secs(2));
    world.nothing_sent();
    comes_to_rest(&mut world);
    assert_eq!(outcomes(&world), ["NumberBusy"]);
}

#[test]
fn a_failure_that_comes_again_is_acknowledged_after_the_caller_has_done_so() {
    let mut world = kept();
    let (uac, uas) = world.ringing();
    world.fail(&uac, &uas, uas.reply(486));
    world.ended_as("NumberBusy", "peer_final");
    world.restart(DEAD);
    world.nothing_sent();
    world.send(PBX_A, uas.reply(486));
    world.only(PBX_A, "ACK");
    comes_to_rest(&mut world);
    assert_eq!(outcomes(&world), ["NumberBusy"]);
}

#[test]
fn a_200_after_our_487_is_acknowledged_and_ended_here() {
    let mut world = kept();
    let (uac, uas) = world.ringing();
    world.send(DIALER, uac.cancel());
    world.advance(secs(1));
    let terminated = world.take(DIALER, "487");
    world.send(DIALER, uac.ack_of(&terminated));
    world.sent.clear();
    let restored = world.restart(DEAD);
    assert_eq!((restored.calls, restored.ended), ([0; CallState::COUNT], 0));
    // The CANCEL was not answered.
    world.only(PBX_A, "CANCEL");
    world.send(PBX_A, uas.reply(200));
    world.take(PBX_A, "ACK");
    let bye = world.take(PBX_A, "BYE");
    world.send(PBX_A, ok(&bye));
    comes_to_rest(&mut world);
    assert_eq!(outcomes(&world), ["CallFailed"]);
}

#[test]
fn a_487_after_our_408_is_acknowledged() {
    let mut world = kept();
    let (uac, uas) = world.ringing();
    world.advance(secs(31));
    let refused = world.take(DIALER, "408");
    world.send(DIALER, uac.ack_of(&refused));
    world.sent.clear();
    world.restart(DEAD);
    world.cancelled(&uas);
    comes_to_rest(&mut world);
    assert_eq!(outcomes(&world), ["NoAnswer"]);
}

#[test]
fn an_invite_that_is_sent_again_finds_its_call() {
    let mut world = kept();
    let mut uac = world.uac();
    let invite = uac.invite();
    let (uac, uas) = world.place(&uac, invite.clone(), PBX_A);
    world.restart(DEAD);
    world.advance(ms(500));
    world.take(PBX_A, "INVITE");
    world.send(DIALER, invite);
    world.only(DIALER, "100");
    world.fail(&uac, &uas, uas.reply(404));
    world.ended();
    world.settle();
}

#[test]
fn a_restored_call_can_be_cancelled() {
    let mut world = kept();
    let (uac, uas) = world.ringing();
    world.restart(DEAD);
    world.send(DIALER, uac.cancel());
    world.take(DIALER, "200");
    world.cancelled(&uas);
    let terminated = world.only(DIALER, "487");
    world.send(DIALER, uac.ack_of(&terminated));
    world.ended_as("CallFailed", "caller_cancel");
    world.settle();
}

#[test]
fn a_cancel_under_way_goes_out_again() {
    let mut world = kept();
    let (uac, uas) = world.ringing();
    world.send(DIALER, uac.cancel().with("Reason: Q.850;cause=16"));
    world.take(DIALER, "200");
    let cancel = world.take(PBX_A, "CANCEL");
    world.restart(DEAD);
    world.advance(secs(1));
    let again = world.sent.iter().filter(|sent| sent.msg.kind() == "CANCEL").map(|sent| sent.msg.text().to_owned());
    assert!(again.clone().count() > 0 && again.clone().all(|text| text == cancel.text()), "{again:?}");
    world.sent.clear();
    world.send(PBX_A, ok(&cancel));
    world.send(PBX_A, uas.reply(487));
    world.take(PBX_A, "ACK");
    world.ended_as("CallFailed", "caller_cancel");
    world.settle();
}

/// The same server, by another name, at another address, or not at all.
fn configured_otherwise() -> [Policy; 3] {
    [vec![server(1, "pbx-a2", PBX_A)], vec![server(1, "pbx-a", PBX_B)], vec![server(1, "pbx-b", PBX_B)]]
        .map(|servers| Policy { servers, ..policy() })
}

#[test]
fn a_call_is_ended_at_the_server_that_rings_whatever_is_configured_since() {
    for policy in configured_otherwise() {
        let mut world = kept();
        let (uac, uas) = world.ringing();
        world.restart_with(DEAD, policy.clone().into());
        world.send(DIALER, uac.cancel());
        world.take(DIALER, "200");
        let cancel = world.cancelled(&uas);
        assert_eq!(cancel.uri(), uas.invite.uri());
        world.ended_as("CallFailed", "caller_cancel");
        world.settle();

        let mut world = kept();
        let (uac, uas) = world.ringing();
        world.restart_with(DEAD, policy.clone().into());
        world.fail(&uac, &uas, uas.reply(486));
        world.ended_as("NumberBusy", "peer_final");
        world.settle();

        let mut world = kept();
        let (uac, uas) = world.called();
        world.restart_with(DEAD, policy.into());
        world.advance(ms(500));
        assert_eq!(world.only(PBX_A, "INVITE").uri(), uas.invite.uri());
        world.send(DIALER, uac.cancel());
        world.advance(secs(1));
        world.send(PBX_A, uas.reply(200));
        world.take(PBX_A, "ACK");
        let bye = world.take(PBX_A, "BYE");
        world.send(PBX_A, ok(&bye));
        world.ended_as("CallFailed", "caller_cancel");
        world.settle();
    }
}

#[test]
fn a_server_that_is_the_last_one_since_the_restart_has_the_time_of_a_last_one() {
    let mut world = World::with_journal(two_servers());
    let (uac, uas) = world.called();
    world.restart_with(DEAD, policy().into());
    world.advance(secs(12));
    world.sent.clear();
    world.send(PBX_A, uas.reply(180));
    world.take(DIALER, "180");
    let (mut uac, _) = world.answer(uac, uas);
    world.hang_up(DIALER, PBX_A, uac.bye());
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn timer_c_goes_on_from_the_last_1xx() {
    let mut policy = policy();
    policy.timeouts.timer_c = secs(60);
    policy.timeouts.no_answer = secs(120);
    let mut world = World::with_journal(policy);
    let (_, uas) = world.ringing();
    world.advance(secs(40));
    world.send(PBX_A, uas.reply(183));
    world.restart(ms(500));
    world.sent.clear();
    world.advance(secs(59));
    world.nothing_sent();
    world.advance(ms(500));
    world.take(PBX_A, "CANCEL");
}

#[test]
fn a_cancel_that_was_held_goes_out_when_something_comes_back() {
    let mut world = kept();
    let (uac, uas) = world.called();
    world.send(DIALER, uac.cancel());
    world.take(DIALER, "200");
    world.nothing_sent();
    world.restart(ms(100));
    world.send(PBX_A, uas.reply(180));
    world.cancelled(&uas);
    world.take_all(DIALER);
    world.ended_as("CallFailed", "caller_cancel");
    world.settle();
}

#[test]
fn the_no_answer_deadline_stays() {
    let mut world = kept();
    let (_, uas) = world.ringing();
    world.advance(secs(10));
    world.restart(secs(5));
    world.advance(ms(14_999));
    world.nothing_sent();
    world.advance(ms(1));
    world.cancelled(&uas);
    assert_eq!(world.only(DIALER, "408").stamp().unwrap().0, "NoAnswer");
    assert_eq!(world.ended_as("NoAnswer", "no_answer_timer").ring_ms, Some(30_000));
    world.settle();
}

#[test]
fn a_no_answer_deadline_that_passed_while_nobody_was_there_is_kept_at_once() {
    let mut world = kept();
    let (_, uas) = world.ringing();
    world.restart(secs(45));
    world.nothing_sent();
    world.advance(ms(0));
    world.cancelled(&uas);
    world.take(DIALER, "408");
    world.ended_as("NoAnswer", "no_answer_timer");
    world.settle();
}

#[test]
fn silence_of_the_only_server_ends_when_it_would_have() {
    let mut world = kept();
    let (_, uas) = world.called();
    world.advance(secs(20));
    world.take_all(PBX_A);
    world.restart(secs(5));
    world.advance(ms(500));
    assert_eq!(world.only(PBX_A, "INVITE").text(), uas.invite.text());
    world.advance(ms(4_499));
    world.take_all(PBX_A);
    world.none_ended();
    world.advance(ms(1));
    world.advance(secs(1));
    world.take(DIALER, "408");
    assert_eq!(outcomes(&world).len(), 1);
    world.settle();
}

#[test]
fn a_retry_after_a_challenge_is_the_same_call() {
    let mut world = kept();
    let (mut uac, uas) = world.called();
    let uid = world.endpoint.call("call-1").unwrap().data.call_uid;
    world.fail(&uac, &uas, uas.reply(407));
    world.restart(DEAD);
    world.nothing_sent();
    let retry = uac.retry();
    let (uac, again) = world.place(&uac, retry, PBX_A);
    let (mut uac, _) = world.answer(uac, again);
    world.hang_up(DIALER, PBX_A, uac.bye());
    let ended = world.ended_as("Normal", "answered_bye_caller");
    assert_eq!(ended.attempts.iter().map(|one| one.sip_code).collect::<Vec<_>>(), [Some(407), Some(200)]);
    assert_eq!(ended.call_uid, uid);
    world.settle();
}

#[test]
fn a_retry_under_way_is_the_same_call() {
    let mut world = kept();
    let (mut uac, uas) = world.called();
    world.fail(&uac, &uas, uas.reply(407));
    let retry = uac.retry();
    let (uac, again) = world.place(&uac, retry.clone(), PBX_A);
    world.restart(DEAD);
    world.advance(ms(500));
    assert_eq!(world.only(PBX_A, "INVITE").text(), again.invite.text());
    world.send(DIALER, retry);
    world.only(DIALER, "100");
    world.fail(&uac, &again, again.reply(486));
    assert_eq!(world.ended_as("NumberBusy", "peer_final").attempts.len(), 2);
    world.settle();
}

#[test]
fn without_a_retry_a_challenged_call_ends_when_it_would_have() {
    let mut world = kept();
    let (uac, uas) = world.called();
    world.fail(&uac, &uas, uas.reply(407));
    world.advance(secs(10));
    world.restart(secs(10));
    world.advance(ms(11_999));
    world.none_ended();
    world.advance(ms(1));
    world.ended_as("CallFailed", "auth_failed");
    world.settle();
}

#[test]
fn the_second_server_is_asked_after_a_restart() {
    let mut world = World::with_journal(two_servers());
    let (uac, first) = world.called();
    world.restart(DEAD);
    world.advance(ms(500));
    world.take(PBX_A, "INVITE");
    world.send(PBX_A, first.reply(503));
    world.take(PBX_A, "ACK");
    let second = Uas::new(PBX_B, world.only(PBX_B, "INVITE"), "b");
    world.restart(DEAD);
    world.advance(ms(500));
    assert_eq!(world.only(PBX_B, "INVITE").text(), second.invite.text());
    world.fail(&uac, &second, second.reply(486));
    let ended = world.ended_as("NumberBusy", "peer_final");
    let attempts = ended.attempts.iter().map(|one| (&*one.server, one.sip_code));
    assert_eq!(attempts.collect::<Vec<_>>(), [("pbx-a", Some(503)), ("pbx-b", Some(486))]);
    world.settle();
}

#[test]
fn a_silent_server_is_given_up_when_it_would_have_been() {
    let mut world = World::with_journal(two_servers());
    world.called();
    world.advance(secs(3));
    world.take_all(PBX_A);
    world.restart(secs(2));
    world.advance(ms(2_999));
    assert!(world.kinds(PBX_B).is_empty());
    world.take_all(PBX_A);
    world.advance(ms(1));
    let second = Uas::new(PBX_B, world.take(PBX_B, "INVITE"), "b");
    world.restart(secs(1));
    world.sent.clear();
    world.send(PBX_B, second.reply(486));
    world.take(DIALER, "486");
    world.ended_as("NumberBusy", "peer_final");
    world.settle();
}

fn large(world: &mut World) -> String {
    let mut uac = world.uac();
    uac.invite().body(&"a=candidate:1 1 UDP 2130706431 10.0.1.5 8998 typ host\r\n".repeat(25)).to_string()
}

#[test]
fn a_large_invite_that_fell_back_to_udp_goes_on_there() {
    let mut world = World::with_journal(policy());
    let invite = large(&mut world);
    world.send(DIALER, invite);
    let owner = world.take_sent(PBX_A, "INVITE").owner.unwrap();
    world.input(sipstamp::endpoint::Input::TransportFailed { owner });
    let first = world.take_sent(PBX_A, "INVITE");
    assert_eq!(first.transport, sipstamp::flow::Transport::Udp);
    world.sent.clear();
    world.restart(ms(200));
    world.advance(secs(1));
    let again = world.take_sent(PBX_A, "INVITE");
    assert_eq!((again.transport, again.msg.text()), (sipstamp::flow::Transport::Udp, first.msg.text()));
}

#[test]
fn a_large_invite_that_waits_for_tcp_still_falls_back_to_udp() {
    let mut world = World::with_journal(policy());
    let invite = large(&mut world);
    world.send(DIALER, invite);
    world.sent.clear();
    world.restart(ms(200));
    let owner = world.take_sent(PBX_A, "INVITE").owner.unwrap();
    world.input(sipstamp::endpoint::Input::TransportFailed { owner });
    world.none_ended();
    assert_eq!(world.take_sent(PBX_A, "INVITE").transport, sipstamp::flow::Transport::Udp);
}
