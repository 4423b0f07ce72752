//! Nobody answers: the no-answer timer (cases 1 to 4) and silence (case 9).

use crate::support::{DIALER, PBX_A, PBX_B, World, minutes, ms, ok, policy, secs, server};

#[test]
fn no_1xx_restarts_the_no_answer_timer() {
    let mut world = World::new(policy());
    let (_, uas) = world.called();
    for _ in 0..29 {
        world.send(PBX_A, uas.reply(180));
        world.take(DIALER, "180");
        world.advance(secs(1));
    }
    world.send(PBX_A, uas.reply(183));
    world.take(DIALER, "183");
    world.advance(ms(999));
    world.nothing_sent();
    world.advance(ms(1));
    world.only(PBX_A, "CANCEL");
}

#[test]
fn no_further_server_restarts_the_no_answer_timer() {
    let mut policy = policy();
    policy.servers.push(server(2, "pbx-b", PBX_B));
    let mut world = World::new(policy);
    let (_, uas) = world.called();
    world.advance(secs(7));
    world.send(PBX_A, uas.reply(503));
    let invite = world.take(PBX_B, "INVITE");
    world.send(PBX_B, crate::support::reply_to(&invite, 180, "Ringing", "b"));
    world.take_all(PBX_A);
    world.take_all(DIALER);
    world.advance(ms(22_999));
    world.nothing_sent();
    world.advance(ms(1));
    world.only(PBX_B, "CANCEL");
}

#[test]
fn a_challenge_stops_the_no_answer_timer_and_the_retry_starts_it_anew() {
    let mut world = World::new(policy());
    let (mut uac, uas) = world.ringing();
    world.advance(secs(20));
    world.fail(&uac, &uas, uas.reply(407));
    world.advance(secs(25));
    world.none_ended();
    let retry = uac.retry();
    let (_, uas) = world.place(&uac, retry, PBX_A);
    world.send(PBX_A, uas.reply(180));
    world.take(DIALER, "180");
    world.advance(ms(29_999));
    world.nothing_sent();
    world.advance(ms(1));
    world.only(PBX_A, "CANCEL");
}

#[test]
fn the_timer_works_in_both_directions() {
    let mut world = World::new(policy());
    let mut uac = crate::support::Uac::new(PBX_A, "in");
    let invite = uac.invite();
    let (_, uas) = world.place(&uac, invite, DIALER);
    world.send(DIALER, uas.reply(180));
    world.take(PBX_A, "180");
    world.advance(secs(30));
    world.cancelled(&uas);
    let timeout = world.take(PBX_A, "408");
    assert!(!timeout.has("Call-Outcome"), "carriers must not see it");
    assert_eq!(timeout.one("Reason"), "Q.850;cause=19;text=\"No answer from user\"");
    world.ended_as("NoAnswer", "no_answer_timer");
    world.settle();
}

#[test]
fn the_cancel_of_an_unanswered_call_names_408_and_19() {
    let mut world = World::new(policy());
    let (_, uas) = world.ringing();
    world.advance(secs(30));
    let cancel = world.cancelled(&uas);
    let reasons = cancel.all("Reason");
    assert!(reasons[0].starts_with("SIP;cause=408") && reasons[1].starts_with("Q.850;cause=19"), "{reasons:?}");
    assert_eq!(cancel.uri(), uas.invite.uri());
    assert_eq!(cancel.cseq(), (uas.invite.cseq().0, "CANCEL"));
    assert_eq!(cancel.all("Via").len(), 1);
}

#[test]
fn the_answer_to_the_caller_waits_for_the_grace_at_most() {
    let mut world = World::new(policy());
    world.ringing();
    world.advance(secs(30));
    let cancel = world.take(PBX_A, "CANCEL");
    world.send(PBX_A, ok(&cancel));
    world.advance(ms(999));
    world.nothing_sent();
    world.advance(ms(1));
    let timeout = world.only(DIALER, "408");
    assert_eq!(timeout.all("Call-Outcome").len(), 1);
    let ended = world.ended_as("NoAnswer", "no_answer_timer");
    assert_eq!((ended.sip_code, ended.code_source.unwrap().label()), (None, "none"));
    assert_eq!(ended.reason, [""; 0]);
    assert_eq!(ended.ended_by.unwrap().label(), "sidecar");
    world.settle();
}

#[test]
fn the_code_for_no_answer_is_configurable() {
    let mut policy = policy();
    policy.stamp.no_answer_code = 480;
    let mut world = World::new(policy);
    let (_, uas) = world.ringing();
    world.advance(secs(30));
    world.cancelled(&uas);
    let timeout = world.take(DIALER, "480");
    assert_eq!(timeout.stamp().map(|(outcome, ..)| outcome), Some("NoAnswer"));
    assert_eq!(world.ended_as("NoAnswer", "no_answer_timer").sip_code, None);
}

#[test]
fn a_200_that_crosses_the_cancel_answers_the_call() {
    let mut world = World::new(policy());
    let (uac, uas) = world.ringing();
    world.advance(secs(30));
    let cancel = world.take(PBX_A, "CANCEL");
    let (mut uac, _) = world.answer(uac, uas);
    world.send(PBX_A, ok(&cancel));
    world.advance(minutes(1));
    world.nothing_sent();
    assert_eq!(world.sample("sipstamp_races_total", &[("kind", "answer_in_grace")]), 1);
    world.hang_up(DIALER, PBX_A, uac.bye());
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn another_final_response_only_ends_the_wait() {
    for code in [486, 603, 500, 302, 401] {
        let mut world = World::new(policy());
        let (_, uas) = world.ringing();
        world.advance(secs(30));
        world.take(PBX_A, "CANCEL");
        world.advance(ms(100));
        world.send(PBX_A, uas.reply(code));
        world.take(PBX_A, "ACK");
        world.only(DIALER, "408");
        let ended = world.ended_as("NoAnswer", "no_answer_timer");
        assert_eq!((ended.sip_code, ended.code_source.unwrap().label()), (None, "none"), "{code}");
        world.settle();
    }
}

#[test]
fn a_200_after_our_408_is_acknowledged_and_ended_here() {
    let mut world = World::new(policy());
    let (uac, uas) = world.ringing();
    world.advance(secs(31));
    world.take(PBX_A, "CANCEL");
    let timeout = world.take(DIALER, "408");
    world.send(DIALER, uac.ack_of(&timeout));
    world.ended_as("NoAnswer", "no_answer_timer");
    let answer = uas.reply(200).topped("Record-Route: <sip:10.0.2.99;lr>");
    world.take_all(PBX_A);
    world.send(PBX_A, &answer);
    let ack = world.take("10.0.2.99:5060", "ACK");
    let bye = world.take("10.0.2.99:5060", "BYE");
    world.nothing_sent();
    for made in [&ack, &bye] {
        assert_eq!(made.uri(), "sip:pbx@10.0.2.10:5060");
        assert_eq!(made.all("Route"), ["<sip:10.0.2.99;lr>"]);
        assert_eq!((made.sender_tag(), made.to_tag()), (uas.invite.sender_tag(), Some("callee")));
        assert_eq!(made.one("Call-ID"), uac.call_id);
    }
    assert_eq!((ack.cseq(), bye.cseq()), ((1, "ACK"), (2, "BYE")));
    // Its retransmission gets the same ACK and no second BYE.
    world.send(PBX_A, &answer);
    assert_eq!(world.only("10.0.2.99:5060", "ACK").text(), ack.text());
    world.send("10.0.2.99:5060", ok(&bye));
    assert_eq!(world.sample("sipstamp_races_total", &[("kind", "late_2xx")]), 1);
    world.settle();
}

#[test]
fn what_clears_a_late_200_goes_round_the_proxies_on_the_callers_side() {
    for code in [None, Some(180)] {
        let mut world = World::new(policy());
        let mut uac = world.uac();
        let invite = uac.invite().with("Record-Route: <sip:10.0.1.77;lr>");
        let (_, uas) = world.place(&uac, invite, PBX_A);
        for code in [100].into_iter().chain(code) {
            world.send(PBX_A, uas.reply(code));
        }
        world.advance(secs(31));
        world.ended_as("NoAnswer", "no_answer_timer");
        world.take_all(PBX_A);
        world.take_all(DIALER);
        world.send(PBX_A, uas.reply(200).topped("Record-Route: <sip:10.0.2.99;lr>"));
        for kind in ["ACK", "BYE"] {
            assert_eq!(world.take("10.0.2.99:5060", kind).all("Route"), ["<sip:10.0.2.99;lr>"], "{code:?}");
        }
        world.nothing_sent();
    }
}

#[test]
fn no_response_whatever_is_told_apart() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite = uac.invite();
    world.send(DIALER, invite);
    world.take(DIALER, "100");
    world.advance(secs(31));
    let kinds = world.kinds(PBX_A);
    assert_eq!(kinds, ["INVITE"; 6], "and no CANCEL: nothing has come from there");
    let timeout = world.take(DIALER, "408");
    assert!(timeout.one("Reason").starts_with("Q.850;cause=18"));
    world.send(DIALER, uac.ack_of(&timeout));
    let ended = world.ended_as("NoAnswer", "no_response");
    assert_eq!((ended.sip_code, ended.code_source.unwrap().label()), (None, "none"));
    assert_eq!(ended.ended_by.unwrap().label(), "network");
    world.settle();
}

#[test]
fn timer_b_ends_a_silent_call_where_it_comes_first() {
    let mut policy = policy();
    policy.timeouts.no_answer = secs(60);
    policy.stamp.no_response_code = 504;
    let mut world = World::new(policy);
    let mut uac = world.uac();
    let invite = uac.invite();
    world.send(DIALER, invite);
    world.advance(ms(31_999));
    assert_eq!(world.kinds(DIALER), ["100"]);
    world.advance(ms(1));
    assert_eq!(world.take(DIALER, "504").stamp().map(|(outcome, ..)| outcome), Some("NoAnswer"));
    assert_eq!(world.kinds(PBX_A), ["INVITE"; 7]);
    world.ended_as("NoAnswer", "no_response");
    world.settle();
}

#[test]
fn a_100_alone_makes_it_no_answer() {
    let mut world = World::new(policy());
    let (_, uas) = world.called();
    world.send(PBX_A, uas.reply(100));
    world.advance(secs(30));
    world.cancelled(&uas);
    world.take(DIALER, "408");
    world.ended_as("NoAnswer", "no_answer_timer");
    world.settle();
}

#[test]
fn the_dialer_may_set_its_own_timeout_for_a_call() {
    for (value, trust, direction, timeout) in [
        ("20", true, "outbound", 20),
        ("0", true, "outbound", 30),
        ("181", true, "outbound", 30),
        ("x", true, "outbound", 30),
        ("20", false, "outbound", 30),
        ("20", true, "inbound", 30),
    ] {
        let mut policy = policy();
        policy.dialer.trust_headers = trust;
        let mut world = World::new(policy);
        let (from, to) = if direction == "outbound" { (DIALER, PBX_A) } else { (PBX_A, DIALER) };
        let mut uac = crate::support::Uac::new(from, "override");
        let invite = uac.invite().with(format!("no-answer-timeout: {value}"));
        let (_, uas) = world.place(&uac, invite, to);
        assert_eq!(uas.invite.has("No-Answer-Timeout"), direction == "inbound");
        world.send(to, uas.reply(180));
        world.take(from, "180");
        world.advance(secs(timeout) - ms(1));
        world.nothing_sent();
        world.advance(ms(1));
        world.only(to, "CANCEL");
        world.settle();
    }
}

#[test]
fn timer_c_is_another_timer_which_each_1xx_starts_anew() {
    let mut policy = policy();
    policy.timeouts.no_answer = secs(180);
    policy.timeouts.timer_c = secs(40);
    let mut world = World::new(policy);
    let (_, uas) = world.ringing();
    world.advance(secs(39));
    world.send(PBX_A, uas.reply(180));
    world.take(DIALER, "180");
    world.advance(ms(39_999));
    world.nothing_sent();
    world.advance(ms(1));
    world.take(PBX_A, "CANCEL");
    world.only(DIALER, "408");
    world.ended_as("NoAnswer", "no_answer_timer");
    world.settle();
}
