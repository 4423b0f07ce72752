//! The far side says no: cases 8, 10a, 17, 18, and what the event keeps of it.

use crate::support::{DIALER, PBX_A, World, policy, secs};

#[test]
fn a_408_from_the_far_side_is_a_code_like_any_other() {
    let mut world = World::new(policy());
    let (uac, uas) = world.ringing();
    world.fail(&uac, &uas, uas.reply(408));
    let ended = world.ended_as("CallFailed", "peer_final");
    assert_eq!((ended.sip_code, ended.code_source.unwrap().label()), (Some(408), "peer"));
    world.settle();
}

#[test]
fn a_503_with_nothing_left_to_try_is_forwarded_as_it_is() {
    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    let failure = world.fail(&uac, &uas, uas.reply(503).with("Retry-After: 7"));
    assert_eq!((failure.phrase(), failure.one("Retry-After")), ("Service Unavailable", "7"));
    world.ended_as("CallFailed", "peer_final");
    world.settle();
}

#[test]
fn a_redirect_is_forwarded_and_never_followed() {
    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    let moved = world.fail(&uac, &uas, uas.reply(302).with("Contact: <sip:other@192.0.2.1>"));
    assert_eq!(moved.one("Contact"), "<sip:other@192.0.2.1>");
    let ended = world.ended_as("NumberChanged", "redirected");
    assert_eq!(ended.ended_by.unwrap().label(), "callee");
    world.nothing_sent();
    world.settle();
}

#[test]
fn a_call_that_follows_a_redirect_names_its_parent() {
    for (wait, has_parent) in [(0, true), (31, true), (33, false)] {
        let mut world = World::new(policy());
        let (mut uac, uas) = world.called();
        world.fail(&uac, &uas, uas.reply(302));
        let first = world.ended();
        world.advance(crate::support::secs(wait));
        world.take_all(DIALER);
        uac.uri = "sip:other@192.0.2.1".into();
        uac.cseq += 1;
        let invite = uac.invite();
        let (uac, uas) = world.place(&uac, invite, PBX_A);
        assert_eq!(uas.invite.uri(), "sip:other@192.0.2.1");
        world.fail(&uac, &uas, uas.reply(486));
        let second = world.ended_as("NumberBusy", "peer_final");
        assert_ne!(first.call_uid, second.call_uid);
        assert_eq!(second.parent_call_uid, has_parent.then_some(first.call_uid), "after {wait} s");
        world.settle();
    }
}

#[test]
fn the_event_keeps_code_phrase_and_reasons() {
    let mut world = World::new(policy());
    let (uac, uas) = world.ringing();
    let lines = ["SIP;cause=486", "Q.850;cause=17;text=\"User busy\""];
    let busy = uas.reply(486).with(format!("Reason: {}", lines[0])).with(format!("Reason: {}", lines[1]));
    let busy = world.fail(&uac, &uas, busy);
    assert_eq!(busy.all("Reason"), lines);
    let ended = world.ended_as("NumberBusy", "peer_final");
    assert_eq!((ended.sip_code, ended.reason_phrase.as_deref()), (Some(486), Some("Busy Here")));
    assert_eq!((ended.q850, ended.reason), (Some(17), lines.map(str::to_owned).to_vec()));
    assert_eq!((ended.to_tag.as_deref(), ended.from_tag.as_deref()), (Some("callee"), Some("from-call-1")));
    assert_eq!((ended.from.as_deref(), ended.to.as_deref()), (Some("+15550100"), Some("+15550199")));
    assert_eq!(ended.server.as_deref(), Some("pbx-a"));
    assert_eq!(ended.ended_by.unwrap().label(), "callee");
    world.settle();
}

#[test]
fn calls_that_are_refused_as_unwanted_are_blocked() {
    for (code, phrase, reason, blocked) in [
        (607, "Unwanted", "", true),
        (608, "Rejected", "", true),
        (603, "Network Blocked", "", true),
        (603, "Decline", "Q.850;cause=21;text=\"v=analytics1;url=https://x.example\"", true),
        (603, "Decline", "", false),
        (486, "Network Blocked", "", false),
    ] {
        let mut world = World::new(policy());
        let (uac, uas) = world.called();
        let mut failure = crate::support::reply_to(&uas.invite, code, phrase, "callee");
        if !reason.is_empty() {
            failure = failure.with(format!("Reason: {reason}"));
        }
        world.fail(&uac, &uas, failure);
        assert_eq!(world.ended().blocked, blocked, "{code} {phrase} {reason}");
        world.settle();
    }
}

#[test]
fn a_retransmitted_failure_is_acknowledged_again_and_not_counted() {
    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    let busy = world.fail(&uac, &uas, uas.reply(486));
    let ended = world.ended();
    world.send(PBX_A, uas.reply(486));
    world.only(PBX_A, "ACK");
    assert_eq!(busy.stamp().map(|(.., id)| id), Some(&*ended.call_uid));
    assert_eq!(world.sample("sipstamp_final_responses_total", &[("code", "486")]), 1);
    world.settle();
}

#[test]
fn a_2xx_after_the_servers_own_failure_is_dropped_and_counted_once() {
    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    world.fail(&uac, &uas, uas.reply(486));
    world.ended_as("NumberBusy", "peer_final");
    let count = |world: &World| world.sample("sipstamp_races_total", &[("kind", "answer_after_failure")]);
    for (tag, races) in [("callee", 1), ("other", 2), ("callee", 2)] {
        for _ in 0..3 {
            world.send(PBX_A, uas.fork(tag).reply(200));
            world.nothing_sent();
            assert_eq!(count(&world), races);
        }
    }
    world.send(PBX_A, uas.reply(486));
    world.only(PBX_A, "ACK");
    assert_eq!(world.sample("sipstamp_races_total", &[]), 2);
    world.settle();
}

#[test]
fn an_invite_that_comes_again_after_its_failure_is_a_call_that_hears_its_answers() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite = uac.invite();
    for code in [503, 486] {
        let (uac, uas) = world.place(&uac, invite.clone(), PBX_A);
        world.fail(&uac, &uas, uas.reply(code));
        assert_eq!(world.ended().sip_code, Some(code));
        // The caller's transaction has ended by then (Timer I), the one towards the server has not (Timer D).
        world.advance(secs(6));
    }
    world.settle();
}
