//! Voicemail drop: three ways to tell it, the conditions, the grace (section 6, case 23).

use sipstamp::endpoint::Refusal;

use crate::support::{DIALER, PBX_A, Uac, Uas, World, ms, ok, policy, reply_to, secs};

/// An answered call that was placed by progressive dialing.
fn progressive(world: &mut World) -> (Uac, Uas) {
    let mut uac = world.uac();
    let invite = uac.invite().with("dialing-mode: Progressive");
    let (uac, uas) = world.place(&uac, invite, PBX_A);
    world.send(PBX_A, uas.reply(180));
    world.take(DIALER, "180");
    world.answer(uac, uas)
}

fn drops(world: &World, result: &str) -> u64 {
    world.sample("sipstamp_voicemail_drops_total", &[("result", result)])
}

#[test]
fn a_drop_by_the_api_turns_the_outcome() {
    for id in ["call-1", "uid"] {
        let mut world = World::new(policy());
        let (mut uac, _) = progressive(&mut world);
        let uid = world.endpoint.call("call-1").unwrap().data.call_uid;
        let id = if id == "uid" { &*uid } else { id };
        let view = world.command(|endpoint, now| endpoint.voicemail_drop(now, id)).unwrap();
        assert_eq!(view.data.call_uid, uid);
        world.command(|endpoint, now| endpoint.voicemail_drop(now, id)).unwrap();
        let (_, answer) = world.hang_up(DIALER, PBX_A, uac.bye());
        assert_eq!(answer.stamp(), Some(("VoicemailDrop", Some("answered_bye_caller"), &*uid)));
        let ended = world.ended_as("VoicemailDrop", "answered_bye_caller");
        assert_eq!((ended.sip_code, ended.dialing_mode.as_deref()), (Some(200), Some("Progressive")));
        assert_eq!((drops(&world, "accepted"), drops(&world, "repeated")), (1, 1));
        world.settle();
    }
}

#[test]
fn a_header_on_the_bye_tells_a_drop() {
    let mut world = World::new(policy());
    let (mut uac, _) = progressive(&mut world);
    let (bye, answer) = world.hang_up(DIALER, PBX_A, uac.bye().with("Voicemail-Drop: TRUE"));
    assert!(!bye.has("Voicemail-Drop"), "the header is not for the server");
    assert_eq!(answer.stamp().map(|(outcome, ..)| outcome), Some("VoicemailDrop"));
    world.ended_as("VoicemailDrop", "answered_bye_caller");
    world.settle();
}

#[test]
fn a_header_on_an_info_tells_a_drop_whatever_the_info_gets() {
    let mut world = World::new(policy());
    let (mut uac, mut uas) = progressive(&mut world);
    world.send(DIALER, uac.request("INFO").with("Voicemail-Drop: true"));
    let info = world.take(PBX_A, "INFO");
    assert!(!info.has("Voicemail-Drop"));
    world.send(PBX_A, reply_to(&info, 415, "Unsupported Media Type", ""));
    world.take(DIALER, "415");
    let (bye, _) = world.hang_up(PBX_A, DIALER, uas.bye());
    assert_eq!(bye.stamp().map(|(outcome, ..)| outcome), Some("VoicemailDrop"));
    world.ended_as("VoicemailDrop", "answered_bye_callee");
    world.settle();
}

#[test]
fn the_header_counts_from_the_dialer_alone_and_with_its_value() {
    let mut world = World::new(policy());
    let (_, mut uas) = progressive(&mut world);
    world.hang_up(PBX_A, DIALER, uas.bye().with("Voicemail-Drop: true"));
    world.advance(secs(2));
    world.ended_as("Normal", "answered_bye_callee");
    let (mut uac, _) = progressive(&mut world);
    world.hang_up(DIALER, PBX_A, uac.bye().with("Voicemail-Drop: no"));
    world.advance(secs(2));
    world.ended_as("Normal", "answered_bye_caller");
    assert_eq!(drops(&world, "accepted"), 0);
    world.settle();
}

#[test]
fn without_trust_the_header_is_removed_and_no_more() {
    let mut policy = policy();
    policy.dialer.trust_headers = false;
    let mut world = World::new(policy);
    let (mut uac, _) = progressive(&mut world);
    let (bye, _) = world.hang_up(DIALER, PBX_A, uac.bye().with("Voicemail-Drop: true"));
    assert!(!bye.has("Voicemail-Drop"));
    world.advance(secs(2));
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn a_refer_or_re_invite_to_the_drop_target_counts_when_it_is_answered_2xx() {
    let pattern = regex::Regex::new("^sip:vmdrop@").unwrap();
    for (method, code, outcome) in [
        ("REFER", 202, "VoicemailDrop"),
        ("REFER", 603, "Normal"),
        ("INVITE", 200, "VoicemailDrop"),
        ("INVITE", 488, "Normal"),
    ] {
        let mut policy = policy();
        policy.voicemail_drop.target_pattern = Some(pattern.clone());
        let mut world = World::new(policy);
        let (mut uac, _) = progressive(&mut world);
        let request = if method == "REFER" {
            uac.request(method).with("Refer-To: \"Drop\" <sip:vmdrop@10.0.2.10>")
        } else {
            uac.target = "sip:vmdrop@10.0.2.10".into();
            uac.request(method)
        };
        world.send(DIALER, request);
        let request = world.take(PBX_A, method);
        world.send(PBX_A, reply_to(&request, code, "So", ""));
        world.take(DIALER, &code.to_string());
        uac.target = "sip:pbx@10.0.2.10".into();
        world.take_all(PBX_A);
        world.hang_up(DIALER, PBX_A, uac.bye());
        world.advance(secs(2));
        world.ended_as(outcome, "answered_bye_caller");
        world.settle();
    }
}

#[test]
fn other_targets_are_no_drop() {
    let mut policy = policy();
    policy.voicemail_drop.target_pattern = Some(regex::Regex::new("^sip:vmdrop@").unwrap());
    let mut world = World::new(policy);
    let (mut uac, _) = progressive(&mut world);
    world.send(DIALER, uac.request("REFER").with("Refer-To: <sip:+15550111@10.0.2.10>"));
    let refer = world.take(PBX_A, "REFER");
    world.send(PBX_A, reply_to(&refer, 202, "Accepted", ""));
    world.take(DIALER, "202");
    world.hang_up(DIALER, PBX_A, uac.bye());
    world.advance(secs(2));
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn a_late_notice_within_the_grace_is_not_lost() {
    let mut world = World::new(policy());
    let (mut uac, _) = progressive(&mut world);
    let (_, answer) = world.hang_up(DIALER, PBX_A, uac.bye());
    assert_eq!(answer.stamp().map(|(outcome, ..)| outcome), Some("Normal"), "provisional");
    world.advance(ms(1_900));
    world.none_ended();
    world.command(|endpoint, now| endpoint.voicemail_drop(now, "call-1")).unwrap();
    world.advance(ms(100));
    let ended = world.ended_as("VoicemailDrop", "answered_bye_caller");
    assert_eq!(ended.talk_ms, Some(0), "it ended with its BYE");
    world.settle();
}

#[test]
fn after_the_grace_the_call_is_unknown() {
    let mut world = World::new(policy());
    let (mut uac, _) = progressive(&mut world);
    world.hang_up(DIALER, PBX_A, uac.bye());
    world.advance(ms(1_999));
    world.none_ended();
    world.advance(ms(1));
    world.ended_as("Normal", "answered_bye_caller");
    let late = world.command(|endpoint, now| endpoint.voicemail_drop(now, "call-1"));
    assert!(matches!(late, Err(Refusal::NotFound)));
    for has_ended in [true, false] {
        world.command(|endpoint, _| endpoint.refuse_voicemail_drop(has_ended));
    }
    assert_eq!((drops(&world, "unknown_call"), drops(&world, "ended")), (1, 1));
    world.settle();
}

#[test]
fn calls_that_are_not_progressive_have_no_grace() {
    let mut world = World::new(policy());
    let (mut uac, _) = world.answered();
    world.hang_up(DIALER, PBX_A, uac.bye());
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn a_drop_is_refused_where_it_cannot_be() {
    // Not answered.
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite = uac.invite().with("Dialing-Mode: progressive");
    let (uac, uas) = world.place(&uac, invite, PBX_A);
    let refused = world.command(|endpoint, now| endpoint.voicemail_drop(now, "call-1"));
    assert!(matches!(refused, Err(Refusal::Conflict(reason)) if reason.contains("not answered")));
    world.fail(&uac, &uas, uas.reply(486));
    world.ended_as("NumberBusy", "peer_final");
    // Not progressive.
    let (mut uac, _) = world.answered();
    let refused = world.command(|endpoint, now| endpoint.voicemail_drop(now, "call-2"));
    assert!(matches!(refused, Err(Refusal::Conflict(reason)) if reason.contains("progressive")));
    world.hang_up(DIALER, PBX_A, uac.bye().with("Voicemail-Drop: true"));
    world.ended_as("Normal", "answered_bye_caller");
    // Inbound.
    let mut uac = Uac::new(PBX_A, "in");
    let invite = uac.invite().with("Dialing-Mode: progressive");
    let (uac, uas) = world.place(&uac, invite, DIALER);
    let (_, mut uas) = world.answer(uac, uas);
    let refused = world.command(|endpoint, now| endpoint.voicemail_drop(now, "in"));
    assert!(matches!(refused, Err(Refusal::Conflict(reason)) if reason.contains("inbound")));
    world.hang_up(DIALER, PBX_A, uas.bye().with("Voicemail-Drop: true"));
    world.ended_as("Normal", "answered_bye_callee");
    assert_eq!((drops(&world, "not_answered"), drops(&world, "not_progressive"), drops(&world, "inbound")), (1, 2, 2));
    assert_eq!(drops(&world, "accepted"), 0);
    world.settle();
}

#[test]
fn always_makes_every_outbound_call_progressive() {
    let mut policy = policy();
    policy.voicemail_drop.always = true;
    let mut world = World::new(policy);
    let (mut uac, _) = world.answered();
    world.hang_up(DIALER, PBX_A, uac.bye().with("Voicemail-Drop: true"));
    world.ended_as("VoicemailDrop", "answered_bye_caller");
    world.settle();
}

#[test]
fn a_drop_that_is_known_at_the_bye_needs_no_grace() {
    let mut world = World::new(policy());
    let (mut uac, _) = progressive(&mut world);
    world.send(DIALER, uac.bye().with("Voicemail-Drop: true"));
    let bye = world.take(PBX_A, "BYE");
    world.none_ended();
    world.send(PBX_A, ok(&bye));
    world.ended_as("VoicemailDrop", "answered_bye_caller");
    world.settle();
}

#[test]
fn a_call_that_comes_again_within_the_grace_has_its_dialog() {
    let mut policy = policy();
    policy.voicemail_drop.always = true;
    let mut world = World::new(policy);
    let (mut first, _) = world.answered();
    world.hang_up(DIALER, PBX_A, first.bye());
    world.none_ended();
    let mut uac = first;
    (uac.cseq, uac.to_tag, uac.target) = (10, None, uac.uri.clone());
    uac.routes.clear();
    let invite = uac.invite();
    let (uac, uas) = world.place(&uac, invite, PBX_A);
    let (mut uac, _) = world.answer(uac, uas);
    world.hang_up(DIALER, PBX_A, uac.bye());
    world.advance(secs(3));
    world.settle();
    let is_odd = |anomaly: &str| world.ended_events().any(|call| call.anomalies.iter().any(|it| it.label() == anomaly));
    assert_eq!((world.ended_events().count(), is_odd("repeated_bye"), is_odd("bye_unanswered")), (2, false, false));
}
