//! Answered calls after a restart: their deadlines, what operators and dialers ask of them.

use sipstamp::time::{Mono, Now, Wall};

use super::{DEAD, comes_to_rest, kept, progressive};
use crate::support::{DIALER, PBX_A, World, minutes, ms, ok, policy, secs};

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
fn an_ack_or_bye_of_a_call_recorded_as_ringing_tells_of_its_answer() {
    for first in ["ACK", "BYE of the callee"] {
        let mut world = kept();
        let (uac, uas) = world.ringing();
        let written = world.journal.clone();
        let (mut uac, mut uas) = world.answer_unacknowledged(uac, uas);
        // The machine has lost what was not on its disk yet.
        world.journal = written;
        world.restart(DEAD);
        world.sent.clear();
        match first {
            "ACK" => {
                world.send(DIALER, uac.ack());
                world.only(PBX_A, "ACK");
                // From here on it is as answered as any other.
                world.send(PBX_A, uas.reply(200));
                assert_eq!(world.only(DIALER, "200").stamp().map(|(outcome, ..)| outcome), Some("Normal"));
                world.advance(secs(200));
                world.nothing_sent();
                world.hang_up(DIALER, PBX_A, uac.bye());
                world.ended_as("Normal", "answered_bye_caller");
            }
            _ => {
                world.hang_up(PBX_A, DIALER, uas.bye());
                world.ended_as("Normal", "answered_bye_callee");
            }
        }
        world.advance(secs(200));
        world.nothing_sent();
        world.settle();
    }
}

#[test]
fn an_early_bye_of_the_caller_tells_of_no_answer_after_a_restart_either() {
    for by_callee in [false, true] {
        let mut world = kept();
        let (mut uac, mut uas) = world.called();
        world.send(PBX_A, uas.reply(180));
        uac.learn(&world.take(DIALER, "180"));
        world.restart(DEAD);
        world.sent.clear();
        if by_callee {
            // Nothing was lost: it rings on.
            world.send(PBX_A, uas.reply(180));
            world.take(DIALER, "180");
            world.hang_up(PBX_A, DIALER, uas.bye());
        } else {
            world.hang_up(DIALER, PBX_A, uac.bye());
        }
        world.fail(&uac, &uas, uas.reply(487));
        world.ended_as("CallFailed", "peer_final");
        world.settle();
    }
}

#[test]
fn after_a_bye_of_the_caller_that_nothing_follows_the_call_was_answered() {
    let mut world = kept();
    let (uac, uas) = world.ringing();
    let written = world.journal.clone();
    let (mut uac, _) = world.answer_unacknowledged(uac, uas);
    world.journal = written;
    world.restart(DEAD);
    world.sent.clear();
    world.hang_up(DIALER, PBX_A, uac.bye());
    world.none_ended();
    world.advance(secs(30));
    world.nothing_sent();
    world.ended_as("Normal", "answered_bye_caller");
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
fn a_2xx_of_another_fork_after_the_end_is_told_from_a_repeated_one_after_a_restart() {
    let mut world = kept();
    let (uac, first) = world.ringing();
    let (mut uac, first) = world.answer(uac, first);
    world.hang_up(DIALER, PBX_A, uac.bye());
    world.restart(DEAD);
    for (uas, races) in [(&first, 0), (&first.fork("other"), 1)] {
        world.send(PBX_A, uas.reply(200));
        world.only(DIALER, "200");
        assert_eq!(world.sample("sipstamp_races_total", &[("kind", "late_fork")]), races);
    }
    comes_to_rest(&mut world);
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
