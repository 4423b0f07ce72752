//! The caller gives up before the answer: cases 5 to 7.

use super::transport::tcp;
use crate::support::{DIALER, PBX_A, Uas, World, ms, ok, policy, secs};

#[test]
fn a_cancel_is_answered_at_once_and_its_reasons_go_along() {
    let mut world = World::new(policy());
    let (uac, uas) = world.ringing();
    let reasons = ["SIP;cause=487;text=\"ORIGINATOR_CANCEL\"", "X.1;cause=7"];
    world.send(DIALER, uac.cancel().with(format!("Reason: {}", reasons[0])).with(format!("Reason: {}", reasons[1])));
    let answer = world.take(DIALER, "200");
    assert_eq!(answer.cseq(), (1, "CANCEL"));
    assert!(!answer.has("Call-Outcome"));
    assert_eq!(world.cancelled(&uas).all("Reason"), reasons);
    world.only(DIALER, "487");
    assert_eq!(world.ended_as("CallFailed", "caller_cancel").reason, reasons);
    world.settle();
}

#[test]
fn the_cancel_is_held_until_something_has_come_back() {
    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    world.send(DIALER, uac.cancel().with("Reason: X.1;cause=7"));
    world.only(DIALER, "200");
    world.advance(ms(100));
    world.nothing_sent();
    world.send(PBX_A, uas.reply(180));
    world.take(DIALER, "180");
    assert_eq!(world.cancelled(&uas).all("Reason"), ["X.1;cause=7"]);
    world.only(DIALER, "487");
    world.ended_as("CallFailed", "caller_cancel");
    world.settle();
}

#[test]
fn a_100_releases_the_held_cancel_and_the_grace_counts() {
    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    world.send(DIALER, uac.cancel());
    world.only(DIALER, "200");
    world.advance(ms(400));
    world.send(PBX_A, uas.reply(100));
    let cancel = world.only(PBX_A, "CANCEL");
    world.send(PBX_A, ok(&cancel));
    world.advance(ms(300));
    world.send(PBX_A, uas.reply(200));
    world.only(DIALER, "200");
    world.none_ended();
    world.settle();
}

#[test]
fn any_other_failure_of_a_cancelled_leg_is_forwarded_and_changes_nothing() {
    for code in [486, 404, 503, 302, 603] {
        let mut world = World::new(policy());
        let (uac, uas) = world.ringing();
        world.send(DIALER, uac.cancel());
        world.take(DIALER, "200");
        world.send(PBX_A, uas.reply(code));
        let failure = world.take(DIALER, &code.to_string());
        assert_eq!(
            failure.stamp().map(|(outcome, cause, _)| (outcome, cause)),
            Some(("CallFailed", Some("caller_cancel")))
                .filter(|_| code != 486 && code != 302)
                .or(failure.stamp().map(|(outcome, cause, _)| (outcome, cause)))
        );
        let ended = world.ended();
        assert_eq!(ended.outcome.unwrap().label(), "CallFailed", "{code}");
        assert_eq!(ended.end_cause.unwrap().label(), "caller_cancel");
        assert_eq!((ended.sip_code, ended.code_source.unwrap().label()), (Some(code), "peer"));
        world.settle();
    }
}

#[test]
fn a_challenge_to_a_cancelled_leg_opens_no_window() {
    let mut world = World::new(policy());
    let (uac, uas) = world.ringing();
    world.send(DIALER, uac.cancel());
    world.take(DIALER, "200");
    world.send(PBX_A, uas.reply(407));
    assert!(world.take(DIALER, "407").has("Call-Outcome"));
    world.ended_as("CallFailed", "caller_cancel");
    world.settle();
}

#[test]
fn a_200_within_the_grace_is_an_answer() {
    let mut world = World::new(policy());
    let (uac, uas) = world.ringing();
    world.send(DIALER, uac.cancel());
    world.take(DIALER, "200");
    world.advance(ms(900));
    let (mut uac, _) = world.answer(uac, uas);
    world.hang_up(DIALER, PBX_A, uac.bye());
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn without_a_final_response_in_the_grace_487_is_made_here() {
    let mut world = World::new(policy());
    let (uac, _) = world.ringing();
    world.send(DIALER, uac.cancel());
    let cancel = world.take(PBX_A, "CANCEL");
    world.take(DIALER, "200");
    world.send(PBX_A, ok(&cancel));
    world.advance(ms(999));
    world.nothing_sent();
    world.advance(ms(1));
    let terminated = world.only(DIALER, "487");
    assert_eq!(
        terminated.stamp().map(|(outcome, cause, _)| (outcome, cause)),
        Some(("CallFailed", Some("caller_cancel")))
    );
    let ended = world.ended_as("CallFailed", "caller_cancel");
    assert_eq!((ended.sip_code, ended.code_source.unwrap().label()), (Some(487), "local"));
    assert_eq!(ended.anomalies, []);
    world.settle();
}

#[test]
fn an_unanswered_cancel_is_an_anomaly() {
    let mut world = World::new(policy());
    let (uac, _) = world.ringing();
    world.send(DIALER, uac.cancel());
    world.advance(secs(1));
    let labels = world.ended().anomalies.iter().map(|anomaly| anomaly.label()).collect::<Vec<_>>();
    assert_eq!(labels, ["response_to_cancel_missing"]);
    world.settle();
}

#[test]
fn a_late_1xx_triggers_the_held_cancel_after_the_call_is_over() {
    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    world.send(DIALER, uac.cancel());
    world.take(DIALER, "200");
    world.advance(secs(1));
    world.take(DIALER, "487");
    world.ended_as("CallFailed", "caller_cancel");
    world.take_all(PBX_A);
    world.send(PBX_A, uas.reply(180));
    world.cancelled(&uas);
    assert_eq!(world.kinds(DIALER).iter().filter(|kind| *kind != "487").count(), 0);
    world.settle();
}

#[test]
fn a_late_200_after_our_487_is_acknowledged_and_ended_here() {
    let mut world = World::new(policy());
    let (uac, uas) = world.ringing();
    world.send(DIALER, uac.cancel());
    world.advance(secs(1));
    let terminated = world.take(DIALER, "487");
    world.send(DIALER, uac.ack_of(&terminated));
    world.take_all(DIALER);
    world.take_all(PBX_A);
    world.send(PBX_A, uas.reply(200));
    world.take(PBX_A, "ACK");
    let bye = world.only(PBX_A, "BYE");
    world.send(PBX_A, ok(&bye));
    world.ended_as("CallFailed", "caller_cancel");
    world.settle();
}

#[test]
fn the_callers_own_ring_timeout_is_no_answer() {
    for reason in
        ["Q.850;cause=18", "Q.850;cause=19;text=\"No answer\"", "Q.850;cause=102", "SIP;cause=408", "SIP;cause=480"]
    {
        let mut world = World::new(policy());
        let (uac, uas) = world.ringing();
        world.send(DIALER, uac.cancel().with(format!("Reason: {reason}")));
        world.cancelled(&uas);
        let terminated = world.take(DIALER, "487");
        assert_eq!(
            terminated.stamp().map(|(outcome, cause, _)| (outcome, cause)),
            Some(("NoAnswer", Some("dialer_ring_timeout")))
        );
        let ended = world.ended_as("NoAnswer", "dialer_ring_timeout");
        assert_eq!(ended.ended_by.unwrap().label(), "caller");
        world.settle();
    }
}

#[test]
fn a_cancel_later_than_the_dialers_ring_timeout_is_no_answer() {
    for (after, direction, outcome) in
        [(20, "outbound", "CallFailed"), (26, "outbound", "NoAnswer"), (26, "inbound", "CallFailed")]
    {
        let mut policy = policy();
        policy.timeouts.dialer_ring_timeout = Some(secs(25));
        let mut world = World::new(policy);
        let (from, to) = if direction == "outbound" { (DIALER, PBX_A) } else { (PBX_A, DIALER) };
        let mut uac = crate::support::Uac::new(from, "ring");
        let invite = uac.invite();
        let (_, uas) = world.place(&uac, invite, to);
        world.send(to, uas.reply(180));
        world.advance(secs(after));
        world.send(from, uac.cancel());
        world.cancelled(&uas);
        assert_eq!(world.ended().outcome.unwrap().label(), outcome, "{after} {direction}");
        world.settle();
    }
}

#[test]
fn a_call_that_somebody_else_took_is_answered_elsewhere() {
    for reason in ["SIP;cause=200;text=\"Call completed elsewhere\"", "Q.850;cause=26"] {
        let mut world = World::new(policy());
        let (uac, uas) = world.ringing();
        world.send(DIALER, uac.cancel().with(format!("Reason: {reason}")));
        world.cancelled(&uas);
        world.ended_as("CallFailed", "answered_elsewhere");
        world.settle();
    }
}

#[test]
fn a_cancel_after_the_final_response_has_no_effect() {
    let mut world = World::new(policy());
    let (uac, uas) = world.ringing();
    let (mut answered, _) = world.answer(uac.clone(), uas);
    world.send(DIALER, uac.cancel());
    world.only(DIALER, "200");
    world.hang_up(DIALER, PBX_A, answered.bye());
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn a_cancel_after_an_acknowledged_failure_has_no_effect() {
    for transport in ["UDP", "TCP"] {
        for code in [302, 407, 486, 603] {
            let mut world = World::new(policy());
            let mut uac = world.uac();
            uac.transport = transport;
            let flow = tcp(DIALER, 7, None);
            let send = |world: &mut World, text| match transport {
                "TCP" => world.send_on(flow, text),
                _ => world.send(DIALER, text),
            };
            send(&mut world, uac.invite());
            let uas = Uas::new(PBX_A, world.take(PBX_A, "INVITE"), "callee");
            world.send(PBX_A, uas.reply(code));
            let failure = world.take(DIALER, &code.to_string());
            send(&mut world, uac.ack_of(&failure));
            world.take_all(DIALER);
            world.take_all(PBX_A);
            world.advance(ms(4_900));
            send(&mut world, uac.ack_of(&failure));
            world.nothing_sent();
            send(&mut world, uac.cancel());
            let answer = world.only(DIALER, "200");
            assert_eq!(answer.cseq(), (1, "CANCEL"), "{code} over {transport}");
            world.settle();
            assert_eq!(world.ended().sip_code, Some(code));
        }
    }
}

#[test]
fn a_cancel_after_an_acknowledged_failure_of_ours_has_no_effect_over_tcp() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    uac.transport = "TCP";
    let flow = tcp(DIALER, 7, None);
    let invite = uac.invite().put("Max-Forwards: 0");
    world.send_on(flow, invite);
    let failure = world.take(DIALER, "483");
    world.send_on(flow, uac.ack_of(&failure));
    world.take_all(DIALER);
    world.send_on(flow, uac.cancel());
    assert_eq!(world.only(DIALER, "200").cseq(), (1, "CANCEL"));
    // Transactions end together with others, a little later than they may.
    world.advance(secs(5) + ms(16));
    world.send_on(flow, uac.cancel());
    world.only(DIALER, "481");
    world.settle();
}

#[test]
fn a_cancel_that_matches_nothing_gets_481() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    uac.invite();
    world.send(DIALER, uac.cancel());
    world.only(DIALER, "481");
    assert_eq!(world.sample("sipstamp_sip_rejected_total", &[("reason", "unmatched_cancel")]), 1);
    world.settle();
}

#[test]
fn a_retransmitted_cancel_is_answered_again_and_goes_out_once() {
    let mut world = World::new(policy());
    let (uac, _) = world.ringing();
    world.send(DIALER, uac.cancel());
    world.send(DIALER, uac.cancel());
    assert_eq!(world.kinds(DIALER), ["200", "200"]);
    world.only(PBX_A, "CANCEL");
    world.settle();
}

#[test]
fn of_cancel_and_no_answer_the_first_decides() {
    let mut world = World::new(policy());
    let (uac, uas) = world.ringing();
    world.advance(ms(29_500));
    world.send(DIALER, uac.cancel());
    world.advance(ms(600));
    world.cancelled(&uas);
    world.ended_as("CallFailed", "caller_cancel");
    world.settle();

    let mut world = World::new(policy());
    let (uac, uas) = world.ringing();
    world.advance(ms(30_100));
    world.send(DIALER, uac.cancel());
    world.cancelled(&uas);
    world.take(DIALER, "408");
    world.ended_as("NoAnswer", "no_answer_timer");
    world.settle();
}
