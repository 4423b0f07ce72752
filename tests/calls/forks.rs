//! Forks downstream: several early dialogs, several 2xx (case 12).

use crate::support::{DIALER, PBX_A, World, ok, policy, secs};

#[test]
fn every_2xx_is_forwarded_and_the_first_decides() {
    let mut world = World::new(policy());
    let (uac, first) = world.called();
    let second = first.fork("other");
    for uas in [&first, &second] {
        world.send(PBX_A, uas.reply(180));
        assert_eq!(world.take(DIALER, "180").to_tag(), Some(&*uas.tag));
    }
    let (mut one, _) = world.answer(uac.clone(), first);
    let (mut other, _) = world.answer(uac, second);
    world.advance(secs(1));
    world.hang_up(DIALER, PBX_A, other.bye());
    world.none_ended();
    world.advance(secs(10));
    world.hang_up(DIALER, PBX_A, one.bye());
    let ended = world.ended_as("Normal", "answered_bye_caller");
    assert_eq!((ended.to_tag.as_deref(), ended.talk_ms), (Some("callee"), Some(11_000)));
    assert_eq!(ended.anomalies.iter().map(|one| one.label()).collect::<Vec<_>>(), ["extra_2xx"]);
    world.settle();
}

#[test]
fn the_bye_of_one_dialog_among_several_bears_no_cause() {
    let mut world = World::new(policy());
    let (uac, first) = world.called();
    let second = first.fork("other");
    let (mut one, _) = world.answer(uac.clone(), first);
    let (mut other, _) = world.answer(uac, second);
    let (_, answer) = world.hang_up(DIALER, PBX_A, one.bye());
    assert_eq!(answer.stamp(), None);
    let (_, answer) = world.hang_up(DIALER, PBX_A, other.bye());
    assert_eq!(answer.stamp().map(|(outcome, ..)| outcome), Some("Normal"));
    world.ended();
    world.settle();
}

#[test]
fn a_2xx_of_another_dialog_after_the_end_is_forwarded_and_is_no_second_call() {
    let mut world = World::new(policy());
    let (uac, first) = world.called();
    let second = first.fork("other");
    let (mut one, _) = world.answer(uac.clone(), first);
    world.hang_up(DIALER, PBX_A, one.bye());
    world.ended_as("Normal", "answered_bye_caller");
    let (mut other, _) = world.answer(uac, second);
    world.hang_up(DIALER, PBX_A, other.bye());
    world.none_ended();
    world.settle();
}

#[test]
fn answers_of_too_many_forks_that_nobody_wants_are_not_cleared() {
    let mut world = World::new(policy());
    let (uac, uas) = world.ringing();
    world.send(DIALER, uac.cancel());
    world.advance(secs(1));
    world.sent.clear();
    for number in 0..100 {
        world.send(PBX_A, uas.fork(&format!("fork{number}")).reply(200));
    }
    let kinds = world.sent.iter().map(|sent| sent.msg.kind().to_owned()).collect::<Vec<_>>();
    assert_eq!(kinds.iter().filter(|kind| *kind == "ACK").count(), 64);
    assert_eq!(kinds.iter().filter(|kind| *kind == "BYE").count(), 64);
}

#[test]
fn a_2xx_of_another_dialog_after_the_end_is_a_race_and_a_repeated_one_is_none() {
    let mut world = World::new(policy());
    let (uac, first) = world.called();
    let (second, third) = (first.fork("second"), first.fork("third"));
    let (mut uac, first) = world.answer(uac, first);
    world.hang_up(DIALER, PBX_A, uac.bye());
    world.ended_as("Normal", "answered_bye_caller");
    for (uas, races) in [(&first, 0), (&second, 1), (&third, 2), (&second, 2)] {
        for _ in 0..3 {
            world.send(PBX_A, uas.reply(200));
            world.only(DIALER, "200");
            assert_eq!(world.sample("sipstamp_races_total", &[("kind", "late_fork")]), races);
        }
    }
    assert_eq!(world.sample("sipstamp_races_total", &[]), 2);
    world.settle();
}

#[test]
fn a_2xx_of_another_dialog_before_the_end_is_no_race_when_it_comes_again_after_it() {
    let mut world = World::new(policy());
    let (uac, first) = world.called();
    let second = first.fork("second");
    let (mut one, _) = world.answer(uac.clone(), first);
    let (mut other, second) = world.answer(uac, second);
    world.hang_up(DIALER, PBX_A, one.bye());
    world.hang_up(DIALER, PBX_A, other.bye());
    world.ended_as("Normal", "answered_bye_caller");
    world.send(PBX_A, second.reply(200));
    world.only(DIALER, "200");
    assert_eq!(world.sample("sipstamp_races_total", &[]), 0);
    world.settle();
}

#[test]
fn a_call_with_more_dialogs_than_are_followed_ends_all_the_same() {
    let mut world = World::new(policy());
    let (uac, first) = world.called();
    for number in 0..20 {
        let uas = first.fork(&format!("fork-{number}"));
        world.send(PBX_A, uas.reply(180));
        world.take(DIALER, "180");
    }
    let last = first.fork("fork-19");
    let (mut uac, _) = world.answer(uac, last);
    world.hang_up(DIALER, PBX_A, uac.bye());
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn a_2xx_without_a_to_tag_makes_a_call_that_ends() {
    let mut world = World::new(policy());
    let (_, uas) = world.called();
    world.send(PBX_A, uas.reply(200).put("To: <sip:+15550199@10.0.0.1:5060>"));
    world.take(DIALER, "200");
    world.settle();
    assert_eq!(world.ended().outcome.unwrap().label(), "Normal");
}

#[test]
fn a_failure_after_a_2xx_of_another_fork_is_dropped() {
    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    let (mut uac, uas) = world.answer(uac, uas);
    world.send(PBX_A, uas.fork("other").reply(486));
    world.nothing_sent();
    world.send(DIALER, uac.bye());
    let bye = world.take(PBX_A, "BYE");
    world.send(PBX_A, ok(&bye));
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}
