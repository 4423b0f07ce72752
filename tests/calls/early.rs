//! Before the answer: 180, 183, 199 and what they tell (case 11).

use crate::support::{DIALER, PBX_A, World, ms, policy, reply_to, secs};

#[test]
fn early_media_without_ringing_is_progress_and_no_answer() {
    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    world.advance(ms(812));
    world.send(PBX_A, uas.reply(183).body("v=0\r\n"));
    assert_eq!(world.take(DIALER, "183").body(), "v=0\r\n");
    assert_eq!(world.sample("sipstamp_calls_active", &[("state", "setup")]), 1);
    world.advance(secs(5));
    let (mut uac, _) = world.answer(uac, uas);
    world.advance(secs(3));
    world.hang_up(DIALER, PBX_A, uac.bye());
    let ended = world.ended_as("Normal", "answered_bye_caller");
    assert!(ended.had_early_media && !ended.had_ringing);
    assert_eq!((ended.post_dial_delay_ms, ended.ring_ms, ended.ringing_at), (Some(812), None, None));
    assert_eq!((ended.answer_delay_ms, ended.talk_ms), (Some(5_812), Some(3_000)));
    assert_eq!(ended.anomalies, []);
    world.settle();
}

#[test]
fn ringing_is_a_180() {
    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    world.advance(ms(500));
    world.send(PBX_A, uas.reply(180));
    assert_eq!(world.sample("sipstamp_calls_active", &[("state", "ringing"), ("direction", "outbound")]), 1);
    assert_eq!(world.sample("sipstamp_server_calls_active", &[("state", "ringing"), ("server", "pbx-a")]), 1);
    world.advance(secs(2));
    world.fail(&uac, &uas, uas.reply(486));
    let ended = world.ended_as("NumberBusy", "peer_final");
    assert!(ended.had_ringing && !ended.had_early_media);
    assert_eq!((ended.post_dial_delay_ms, ended.ring_ms), (Some(500), Some(2_000)));
    assert_eq!(ended.talk_ms, None);
    world.settle();
}

#[test]
fn a_199_is_forwarded_and_is_none_of_it() {
    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    world.send(PBX_A, reply_to(&uas.invite, 199, "Early Dialog Terminated", "callee"));
    world.take(DIALER, "199");
    world.fail(&uac, &uas, uas.reply(480));
    let ended = world.ended_as("NumberUnobtainable", "peer_final");
    assert!(!ended.had_ringing && !ended.had_early_media);
    assert_eq!(ended.post_dial_delay_ms, None);
    world.settle();
}

#[test]
fn the_cause_of_the_last_18x_that_bore_one_is_kept() {
    let mut world = World::new(policy());
    let (_, uas) = world.called();
    world.send(PBX_A, uas.reply(183).with("Reason: Q.850;cause=1"));
    world.send(PBX_A, uas.reply(183).with("Reason: Q.850;cause=17;text=\"User busy\""));
    world.send(PBX_A, uas.reply(183));
    world.take_all(DIALER);
    world.advance(secs(31));
    let ended = world.ended_as("NoAnswer", "no_answer_timer");
    assert_eq!((ended.progress_q850, ended.q850), (Some(17), None));
    world.settle();
}

#[test]
fn a_100_is_made_here_and_none_is_forwarded() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite = uac.invite().with("Timestamp: 54");
    world.send(DIALER, invite);
    let trying = world.take(DIALER, "100");
    assert_eq!((trying.one("Timestamp"), trying.to_tag()), ("54", None));
    let invite = world.take(PBX_A, "INVITE");
    world.send(PBX_A, reply_to(&invite, 100, "Trying", ""));
    world.nothing_sent();
    world.settle();
}

#[test]
fn provisional_responses_bear_no_stamp() {
    let mut world = World::new(policy());
    let (_, uas) = world.called();
    for code in [180, 183] {
        world.send(PBX_A, uas.reply(code));
        assert!(!world.take(DIALER, &code.to_string()).has("Call-Outcome"));
    }
    world.settle();
}

#[test]
fn an_answer_without_ringing_before_it_is_an_anomaly() {
    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    world.advance(ms(70));
    let (mut uac, _) = world.answer(uac, uas);
    world.hang_up(DIALER, PBX_A, uac.bye());
    let ended = world.ended();
    assert_eq!(ended.anomalies.iter().map(|one| one.label()).collect::<Vec<_>>(), ["no_18x_before_2xx"]);
    assert_eq!(ended.post_dial_delay_ms, Some(70));
    world.settle();
}

#[test]
fn lifecycle_events_are_told_where_they_are_wanted() {
    let mut policy = policy();
    policy.lifecycle = true;
    let mut world = World::new(policy);
    let (mut uac, _) = world.answered();
    world.hang_up(DIALER, PBX_A, uac.bye());
    let kinds = world.events.iter().map(|event| event.kind.label()).collect::<Vec<_>>();
    assert_eq!(kinds, ["started", "ringing", "answered", "ended"]);
    let outcomes = world.events.iter().map(|event| event.data.outcome.is_some()).collect::<Vec<_>>();
    assert_eq!(outcomes, [false, false, false, true]);
    world.settle();
}
