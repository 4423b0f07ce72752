//! Calls that were open when the process was killed, and another one that goes on with its journal (case 22).

use std::sync::Arc;

use sipstamp::event::CallState;
use sipstamp::outcome::Outcome;
use sipstamp::policy::{CapturedLabel, Policy, Rule, When};
use sipstamp::time::{Mono, Now, Wall};

use crate::support::{DIALER, PBX_A, PBX_B, Uac, Uas, World, minutes, ms, ok, policy, reply_to, secs, server};

/// For how long nobody is there.
const DEAD: std::time::Duration = ms(700);

fn kept() -> World {
    World::with_journal(policy())
}

fn two_servers() -> Policy {
    let mut policy = policy();
    policy.servers.push(server(2, "pbx-b", PBX_B));
    policy
}

/// Lets everything come to its end where calls have ended before the restart too: the books are of one process.
#[track_caller]
fn comes_to_rest(world: &mut World) {
    while let Some(deadline) = world.deadline() {
        world.advance(deadline.since(world.now.mono));
    }
    assert_eq!((world.endpoint.active_calls(), world.endpoint.pending_work()), (0, 0));
    assert_eq!(world.sample("sipstamp_accounting_imbalance", &[]), 0);
    assert_eq!(world.journal.open(), 0);
}

/// An answered call of progressive dialing.
fn progressive(world: &mut World) -> (Uac, Uas) {
    let mut uac = world.uac();
    let invite = uac.invite().with("Dialing-Mode: progressive");
    let (uac, uas) = world.place(&uac, invite, PBX_A);
    world.answer(uac, uas)
}

fn outcomes(world: &World) -> Vec<&'static str> {
    world.ended_events().map(|ended| ended.outcome.unwrap().label()).collect()
}

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
fn an_ack_that_was_lost_comes_with_the_200_again() {
    let mut world = kept();
    let (uac, uas) = world.ringing();
    world.send(PBX_A, uas.reply(200));
    let answer = world.take(DIALER, "200");
    world.restart(DEAD);
    world.nothing_sent();
    world.send(PBX_A, uas.reply(200));
    let again = world.only(DIALER, "200");
    assert_eq!(again.text(), answer.text());
    let mut uac = uac;
    uac.learn(&again);
    let ack = uac.ack();
    world.send(DIALER, ack);
    world.only(PBX_A, "ACK");
    world.hang_up(DIALER, PBX_A, uac.bye());
    assert_eq!(world.ended_as("Normal", "answered_bye_caller").anomalies, []);
    world.settle();
}

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
    world.send(DIALER, uac.cancel());
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
fn a_session_runs_out_when_it_would_have() {
    let mut world = kept();
    let (mut uac, uas) = world.ringing();
    world.send(PBX_A, uas.reply(200).with("Session-Expires: 90"));
    uac.learn(&world.take(DIALER, "200"));
    let ack = uac.ack();
    world.send(DIALER, ack);
    world.take(PBX_A, "ACK");
    world.advance(secs(60));
    world.restart(secs(30));
    world.advance(ms(31_999));
    world.nothing_sent();
    world.advance(ms(1));
    for address in [DIALER, PBX_A] {
        let bye = world.take(address, "BYE");
        world.send(address, ok(&bye));
    }
    assert_eq!(world.ended_as("Normal", "answered_session_expired").talk_ms, Some(122_000));
    world.settle();
}

#[test]
fn a_refresh_of_the_session_counts_after_a_restart() {
    let mut world = kept();
    let (mut uac, uas) = world.ringing();
    world.send(PBX_A, uas.reply(200).with("Session-Expires: 90"));
    uac.learn(&world.take(DIALER, "200"));
    let ack = uac.ack();
    world.send(DIALER, ack);
    world.take(PBX_A, "ACK");
    world.restart(secs(60));
    world.send(DIALER, uac.request("UPDATE"));
    let update = world.take(PBX_A, "UPDATE");
    world.send(PBX_A, ok(&update).with("Session-Expires: 120"));
    world.take(DIALER, "200");
    world.advance(ms(151_999));
    world.nothing_sent();
    world.advance(ms(1));
    for address in [DIALER, PBX_A] {
        let bye = world.take(address, "BYE");
        world.send(address, ok(&bye));
    }
    assert_eq!(world.ended_as("Normal", "answered_session_expired").talk_ms, Some(212_000));
    world.settle();
}

#[test]
fn max_duration_counts_from_the_answer() {
    let mut policy = policy();
    policy.timeouts.max_duration = minutes(10);
    let mut world = World::with_journal(policy);
    world.answered();
    world.advance(minutes(4));
    world.restart(minutes(5));
    world.advance(ms(59_999));
    world.nothing_sent();
    world.advance(ms(1));
    for address in [DIALER, PBX_A] {
        let bye = world.take(address, "BYE");
        world.send(address, ok(&bye));
    }
    assert_eq!(world.ended_as("Normal", "answered_max_duration").talk_ms, Some(600_000));
    world.settle();
}

#[test]
fn an_operator_hangs_up_a_restored_call() {
    let mut world = kept();
    let (_, uas) = world.ringing();
    world.restart(DEAD);
    world.command(|endpoint, now| endpoint.hang_up(now, "call-1")).unwrap();
    world.cancelled(&uas);
    world.only(DIALER, "487");
    world.ended_as("CallFailed", "hung_up");
    world.settle();

    let mut world = kept();
    world.answered();
    world.restart(DEAD);
    world.command(|endpoint, now| endpoint.hang_up(now, "call-1")).unwrap();
    for address in [DIALER, PBX_A] {
        let bye = world.take(address, "BYE");
        world.send(address, ok(&bye));
    }
    world.ended_as("Normal", "answered_hung_up");
    world.settle();
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
fn a_voicemail_drop_is_taken_after_a_restart() {
    let mut world = kept();
    let (mut uac, _) = progressive(&mut world);
    world.restart(DEAD);
    world.command(|endpoint, now| endpoint.voicemail_drop(now, "call-1")).unwrap();
    let (_, answer) = world.hang_up(DIALER, PBX_A, uac.bye());
    assert_eq!(answer.stamp().unwrap().0, "VoicemailDrop");
    world.ended_as("VoicemailDrop", "answered_bye_caller");
    world.settle();
}

#[test]
fn a_voicemail_drop_that_was_taken_stays() {
    let mut world = kept();
    let (mut uac, _) = progressive(&mut world);
    world.command(|endpoint, now| endpoint.voicemail_drop(now, "call-1")).unwrap();
    world.restart(DEAD);
    world.hang_up(DIALER, PBX_A, uac.bye());
    world.ended_as("VoicemailDrop", "answered_bye_caller");
    world.settle();
}

#[test]
fn the_grace_for_a_voicemail_drop_goes_on_and_ends_when_it_would_have() {
    for is_dropped in [true, false] {
        let mut world = kept();
        let (mut uac, _) = progressive(&mut world);
        world.hang_up(DIALER, PBX_A, uac.bye());
        world.none_ended();
        world.restart(DEAD);
        world.none_ended();
        if is_dropped {
            world.command(|endpoint, now| endpoint.voicemail_drop(now, "call-1")).unwrap();
        }
        world.advance(ms(1_299));
        world.none_ended();
        world.advance(ms(1));
        world.ended_as(if is_dropped { "VoicemailDrop" } else { "Normal" }, "answered_bye_caller");
        world.settle();
    }
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

#[test]
fn calls_of_a_server_that_is_not_configured_any_more_go_on() {
    let only_b = || {
        let mut policy = policy();
        policy.servers = vec![server(1, "pbx-b", PBX_B)];
        Arc::new(policy)
    };
    let mut world = kept();
    let (uac, uas) = world.ringing();
    world.restart_with(DEAD, only_b());
    world.nothing_sent();
    let (mut uac, _) = world.answer(uac, uas);
    world.hang_up(DIALER, PBX_A, uac.bye());
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();

    let mut world = kept();
    let (_, mut uas) = world.answered();
    world.restart_with(DEAD, only_b());
    world.hang_up(PBX_A, DIALER, uas.bye());
    let ended = world.ended_as("Normal", "answered_bye_callee");
    assert_ne!(ended.server.as_deref(), Some("pbx-b"), "another server that has its number is not it");
    world.settle();
}

#[test]
fn what_was_captured_stays_and_rules_are_the_configurations() {
    let mut before = policy();
    let label =
        |name: &str| CapturedLabel { label: name.into(), header: format!("X-{name}").into(), values: Vec::new() };
    before.capture.labels = vec![label("campaign"), label("list")];
    before.rules = vec![Rule {
        name: "old".into(),
        when: When { code: Some((486, 486)), ..When::default() },
        outcome: Outcome::NoAnswer,
    }];
    let mut after = before.clone();
    after.capture.labels = vec![label("tenant"), label("campaign")];
    after.rules[0] = Rule { name: "young".into(), outcome: Outcome::NumberUnobtainable, ..after.rules[0].clone() };
    let mut world = World::with_journal(before);
    let mut uac = world.uac();
    let invite = uac.invite().with("X-campaign: spring").with("X-list: a");
    let (uac, uas) = world.place(&uac, invite, PBX_A);
    world.send(PBX_A, uas.reply(180));
    world.take(DIALER, "180");
    world.restart_with(DEAD, Arc::new(after));
    world.fail(&uac, &uas, uas.reply(486));
    let ended = world.ended_as("NumberUnobtainable", "peer_final");
    assert_eq!(ended.rule.as_deref(), Some("young"));
    let labels = ended.labels.iter().map(|(name, value)| (&**name, &**value)).collect::<Vec<_>>();
    assert_eq!(labels, [("campaign", "spring")], "those that are still configured, by name");
    world.settle();
}

#[test]
fn the_source_is_that_under_which_the_call_began() {
    let mut world = kept();
    let (uac, uas) = world.ringing();
    let mut other = policy();
    other.source = "sipstamp/other".into();
    world.restart_with(DEAD, Arc::new(other));
    world.fail(&uac, &uas, uas.reply(486));
    let (uac, uas) = world.ringing();
    world.fail(&uac, &uas, uas.reply(486));
    let sources = world.events.iter().map(|told| &*told.source).collect::<Vec<_>>();
    assert_eq!(sources, ["sipstamp/test", "sipstamp/other"]);
    world.settle();
}

#[test]
fn a_call_whose_caller_cannot_be_answered_ends_as_restart() {
    let mut world = kept();
    world.ringing();
    world.journal.lose_servers();
    let restored = world.restart(DEAD);
    assert_eq!(restored.ended, 1);
    world.ended_as("CallFailed", "restart");
    world.settle();
}

#[test]
fn a_call_that_no_server_has_ends_as_restart_and_its_caller_is_told() {
    let mut world = kept();
    world.ringing();
    world.journal.lose_clients();
    let restored = world.restart(DEAD);
    assert_eq!(restored.ended, 1);
    let refused = world.take(DIALER, "503");
    assert_eq!(refused.stamp().map(|(outcome, cause, _)| (outcome, cause)), Some(("CallFailed", Some("restart"))));
    world.ended_as("CallFailed", "restart");
    world.settle();
}

#[test]
fn a_call_that_no_server_has_goes_to_the_next_one() {
    let mut world = World::with_journal(two_servers());
    let (uac, _) = world.called();
    world.journal.lose_clients();
    world.restart(DEAD);
    let second = Uas::new(PBX_B, world.only(PBX_B, "INVITE"), "b");
    world.fail(&uac, &second, second.reply(486));
    world.ended_as("NumberBusy", "peer_final");
    world.settle();
}

#[test]
fn however_often_it_is_restarted_nothing_is_counted_twice() {
    let mut world = kept();
    let (mut answered, _) = world.answered();
    let (ringing, rings) = world.ringing();
    let (called, calls) = world.called();
    for _ in 0..5 {
        let restored = world.restart(DEAD);
        assert_eq!((restored.calls, restored.ended), ([1, 1, 1, 0], 0));
        world.balances();
        assert_eq!(world.sample("sipstamp_calls_started_total", &[]), 3);
        assert_eq!(world.sample("sipstamp_calls_active", &[]), 3);
        world.advance(ms(600));
    }
    world.sent.clear();
    world.fail(&ringing, &rings, rings.reply(486));
    world.ended_as("NumberBusy", "peer_final");
    world.fail(&called, &calls, calls.reply(480));
    world.ended_as("NumberUnobtainable", "peer_final");
    world.hang_up(DIALER, PBX_A, answered.bye());
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn a_call_that_has_ended_does_not_come_back() {
    let mut world = kept();
    let (mut uac, _) = world.answered();
    world.hang_up(DIALER, PBX_A, uac.bye());
    let restored = world.restart(DEAD);
    assert_eq!((restored.calls, restored.ended), ([0; CallState::COUNT], 0));
    comes_to_rest(&mut world);
    assert_eq!(outcomes(&world), ["Normal"]);
}

#[test]
fn a_clock_that_was_set_meanwhile_ends_no_answered_call_and_breaks_nothing() {
    for hours in [-30 * 24, -1, 1, 3] {
        let mut world = kept();
        let (mut uac, _) = world.answered();
        let (ringing, uas) = world.ringing();
        world.advance(secs(5));
        // The shell's monotonic clock begins with what the other one shows.
        let shift = |micros: i64| micros + hours * 3_600_000_000;
        let mono = u64::try_from(shift(i64::try_from(world.now.mono.0).unwrap())).unwrap_or(1_000);
        world.now = Now { mono: Mono(mono), wall: Wall(shift(world.now.wall.0)) };
        world.restart(DEAD);
        world.advance(ms(0));
        if hours < 0 {
            world.fail(&ringing, &uas, uas.reply(486));
            world.ended_as("NumberBusy", "peer_final");
        } else {
            world.cancelled(&uas);
            world.ended_as("NoAnswer", "no_answer_timer");
        }
        world.sent.clear();
        world.hang_up(DIALER, PBX_A, uac.bye());
        let ended = world.ended_as("Normal", "answered_bye_caller");
        assert!(ended.talk_ms.unwrap() <= (5_700 + hours.max(0) * 3_600_000) as u64, "{:?}", ended.talk_ms);
        world.settle();
    }
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
fn a_2xx_of_another_fork_after_a_restart_is_no_second_call() {
    let mut world = kept();
    let (uac, first) = world.ringing();
    let second = first.fork("other");
    let (mut one, _) = world.answer(uac.clone(), first);
    world.restart(DEAD);
    let (mut other, _) = world.answer(uac, second);
    world.restart(DEAD);
    world.hang_up(DIALER, PBX_A, other.bye());
    world.none_ended();
    world.hang_up(DIALER, PBX_A, one.bye());
    let ended = world.ended_as("Normal", "answered_bye_caller");
    assert_eq!(ended.anomalies.iter().map(|one| one.label()).collect::<Vec<_>>(), ["extra_2xx"]);
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

/// The machine's clock was wrong when the call began, and has been set since.
#[test]
fn a_step_of_the_clock_does_not_shorten_a_call_that_is_restored() {
    let mut world = World::with_journal(policy());
    let (_, uas) = world.ringing();
    world.advance(secs(2));
    world.now.wall.0 += 20_000_000;
    world.send(PBX_A, uas.reply(183));
    world.restart(ms(500));
    world.sent.clear();
    // 15 of the 30 seconds have gone by.
    world.advance(secs(12));
    world.none_ended();
    world.nothing_sent();
}

#[test]
fn states_that_cannot_be_read_are_counted_whatever_the_number_of_workers() {
    for workers in [1, 2] {
        let mut stored = sipstamp::endpoint::Stored::default();
        stored.servers.push((1, vec![0xff; 9].into()));
        stored.clients.push((2, vec![0xff; 9].into()));
        let mut world = World::with_journal(policy());
        let parts = stored.split(workers, |_| 0);
        let unreadable: usize = parts.iter().map(|part| world.endpoint.restore(world.now, part).unreadable).sum();
        assert_eq!(unreadable, 2, "{workers} workers");
    }
}
