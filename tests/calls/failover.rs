//! Several servers, and servers that cannot be reached: cases 10, 10b and 18.

use bytes::Bytes;
use sipstamp::endpoint::Input;
use sipstamp::outcome::Outcome;
use sipstamp::policy::{Rule, When};

use crate::support::{DIALER, PBX_A, PBX_B, PBX_C, Uac, Uas, World, ms, ok, policy, reply_to, secs, server};

fn two_servers() -> World {
    let mut policy = policy();
    policy.servers.push(server(2, "pbx-b", PBX_B));
    World::new(policy)
}

fn three_servers() -> World {
    let mut policy = policy();
    policy.servers.push(server(2, "pbx-b", PBX_B));
    policy.servers.push(server(3, "pbx-c", PBX_C));
    World::new(policy)
}

#[test]
fn a_hard_transport_error_ends_the_call_with_503() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite = uac.invite();
    world.send(DIALER, invite);
    world.take(DIALER, "100");
    let owner = world.take_sent(PBX_A, "INVITE").owner.unwrap();
    world.input(Input::TransportFailed { owner });
    let failure = world.only(DIALER, "503");
    assert!(failure.one("Reason").starts_with("Q.850;cause=38"));
    let ended = world.ended_as("CallFailed", "transport_error");
    assert_eq!((ended.sip_code, ended.code_source.unwrap().label()), (Some(503), "local"));
    assert_eq!(ended.ended_by.unwrap().label(), "network");
    assert_eq!(ended.attempts[0].sip_code, None);
    assert_eq!(world.sample("sipstamp_server_up", &[("server", "pbx-a")]), 0);
    world.settle();
}

#[test]
fn icmp_unreachable_before_any_response_is_a_transport_error() {
    let mut world = World::new(policy());
    let (_, uas) = world.called();
    let quoted = Bytes::copy_from_slice(&uas.invite.text().as_bytes()[..200]);
    world.input(Input::Unreachable { remote: PBX_A.parse().unwrap(), quoted });
    world.only(DIALER, "503");
    world.ended_as("CallFailed", "transport_error");
    world.settle();
}

#[test]
fn icmp_unreachable_after_a_response_or_towards_the_caller_is_ignored() {
    let mut world = World::new(policy());
    let (_, uas) = world.called();
    world.send(PBX_A, uas.reply(100));
    let quoted = Bytes::copy_from_slice(uas.invite.text().as_bytes());
    world.input(Input::Unreachable { remote: PBX_A.parse().unwrap(), quoted });
    world.nothing_sent();
    world.send(PBX_A, uas.reply(180));
    let ringing = world.take(DIALER, "180");
    let quoted = Bytes::copy_from_slice(ringing.text().as_bytes());
    world.input(Input::Unreachable { remote: DIALER.parse().unwrap(), quoted });
    world.nothing_sent();
    world.none_ended();
    world.settle();
}

#[test]
fn a_503_makes_the_next_server_try() {
    for code in [500, 502, 503, 504] {
        let mut world = two_servers();
        let (uac, first) = world.called();
        world.send(PBX_A, first.reply(code));
        world.take(PBX_A, "ACK");
        let second = Uas::new(PBX_B, world.only(PBX_B, "INVITE"), "b");
        assert_ne!(first.invite.branch(), second.invite.branch());
        assert_eq!(second.invite.cseq(), (1, "INVITE"));
        assert_eq!(second.invite.uri(), "sip:+15550199@10.0.2.11:5060");
        world.advance(secs(1));
        world.fail(&uac, &second, second.reply(486));
        let ended = world.ended_as("NumberBusy", "peer_final");
        assert_eq!(ended.server.as_deref(), Some("pbx-b"));
        let attempts = ended.attempts.iter().map(|one| (&*one.server, one.sip_code, one.duration_ms));
        assert_eq!(attempts.collect::<Vec<_>>(), [("pbx-a", Some(code), 0), ("pbx-b", Some(486), 1_000)]);
        assert_eq!(world.sample("sipstamp_attempts_total", &[("result", "failed")]), 2);
        world.settle();
    }
}

#[test]
fn an_unreachable_server_makes_the_next_one_try() {
    let mut world = two_servers();
    let mut uac = world.uac();
    let invite = uac.invite();
    world.send(DIALER, invite);
    let owner = world.take_sent(PBX_A, "INVITE").owner.unwrap();
    world.input(Input::TransportFailed { owner });
    let uas = Uas::new(PBX_B, world.take(PBX_B, "INVITE"), "b");
    world.answer(uac, uas);
    world.settle();
}

#[test]
fn without_an_18x_in_time_the_next_server_gets_its_turn() {
    let mut world = two_servers();
    let (uac, first) = world.called();
    world.send(PBX_A, first.reply(100));
    world.advance(ms(7_999));
    world.nothing_sent();
    world.advance(ms(1));
    world.cancelled(&first);
    let second = Uas::new(PBX_B, world.only(PBX_B, "INVITE"), "b");
    world.send(PBX_B, second.reply(100));
    world.advance(secs(20));
    world.nothing_sent();
    world.fail(&uac, &second, second.reply(480));
    let ended = world.ended_as("NumberUnobtainable", "peer_final");
    let attempts = ended.attempts.iter().map(|one| (&*one.server, one.sip_code, one.duration_ms));
    assert_eq!(attempts.collect::<Vec<_>>(), [("pbx-a", None, 8_000), ("pbx-b", Some(480), 20_000)]);
    world.settle();
}

#[test]
fn an_18x_ends_the_wait_for_progress() {
    for code in [180, 183] {
        let mut world = two_servers();
        let (_, first) = world.called();
        world.send(PBX_A, first.reply(100));
        world.advance(secs(7));
        world.send(PBX_A, first.reply(code));
        world.take(DIALER, &code.to_string());
        world.advance(secs(20));
        world.nothing_sent();
        world.settle();
    }
}

#[test]
fn the_cancel_of_a_server_that_was_given_up_is_held_until_it_speaks() {
    let mut world = two_servers();
    let (_, first) = world.called();
    world.advance(secs(8));
    assert!(world.kinds(PBX_A).iter().all(|kind| kind == "INVITE"));
    world.take(PBX_B, "INVITE");
    world.send(PBX_A, first.reply(180));
    world.cancelled(&first);
    assert_eq!(world.kinds(DIALER), [""; 0], "and its 180 is not forwarded");
    world.settle();
}

#[test]
fn a_2xx_from_a_server_that_was_given_up_wins_and_cancels_the_others() {
    let mut world = two_servers();
    let (uac, first) = world.called();
    world.advance(secs(8));
    let second = Uas::new(PBX_B, world.take(PBX_B, "INVITE"), "b");
    world.send(PBX_B, second.reply(180));
    world.take(DIALER, "180");
    world.take_all(PBX_A);
    let (mut uac, first) = world.answer(uac, first);
    world.cancelled(&second);
    world.nothing_sent();
    world.hang_up(DIALER, &first.address, uac.bye());
    let ended = world.ended_as("Normal", "answered_bye_caller");
    assert_eq!(ended.server.as_deref(), Some("pbx-a"));
    let codes = ended.attempts.iter().map(|one| one.sip_code).collect::<Vec<_>>();
    assert_eq!(codes, [Some(200), None]);
    world.settle();
}

#[test]
fn a_second_servers_2xx_is_acknowledged_and_ended_here() {
    let mut world = two_servers();
    let (uac, first) = world.called();
    world.advance(secs(8));
    let second = Uas::new(PBX_B, world.take(PBX_B, "INVITE"), "b");
    world.take_all(PBX_A);
    let (mut uac, _) = world.answer(uac, second);
    world.send(PBX_A, first.reply(200));
    world.take(PBX_A, "ACK");
    let bye = world.only(PBX_A, "BYE");
    world.send(PBX_A, ok(&bye));
    world.hang_up(DIALER, PBX_B, uac.bye());
    let ended = world.ended_as("Normal", "answered_bye_caller");
    assert_eq!(ended.server.as_deref(), Some("pbx-b"));
    assert_eq!(ended.anomalies.iter().map(|one| one.label()).collect::<Vec<_>>(), ["late_2xx", "no_18x_before_2xx"]);
    world.settle();
}

#[test]
fn the_last_attempt_decides_503_then_silence_is_no_response() {
    let mut world = two_servers();
    let (_, first) = world.called();
    world.send(PBX_A, first.reply(503));
    world.advance(secs(31));
    world.take(DIALER, "408");
    let ended = world.ended_as("NoAnswer", "no_response");
    assert_eq!((ended.sip_code, ended.server.as_deref()), (None, Some("pbx-b")));
    world.settle();
}

#[test]
fn the_last_attempt_decides_silence_then_503_is_peer_final() {
    let mut world = two_servers();
    let (uac, _) = world.called();
    world.advance(secs(8));
    let second = Uas::new(PBX_B, world.take(PBX_B, "INVITE"), "b");
    world.fail(&uac, &second, second.reply(503));
    assert_eq!(world.ended_as("CallFailed", "peer_final").sip_code, Some(503));
    world.settle();
}

#[test]
fn the_last_attempt_decides_100_then_silence_is_no_response() {
    let mut world = two_servers();
    let (_, first) = world.called();
    world.send(PBX_A, first.reply(100));
    world.advance(secs(8));
    world.cancelled(&first);
    world.advance(secs(23));
    world.take(DIALER, "408");
    world.ended_as("NoAnswer", "no_response");
    world.settle();
}

#[test]
fn timer_b_of_a_server_that_was_given_up_makes_nobody_try() {
    let mut policy = policy();
    policy.timeouts.no_answer = secs(180);
    policy.timeouts.progress = secs(20);
    policy.servers.push(server(2, "pbx-b", PBX_B));
    policy.servers.push(server(3, "pbx-c", PBX_C));
    let mut world = World::new(policy);
    world.called();
    world.advance(secs(20));
    let second = world.take(PBX_B, "INVITE");
    world.send(PBX_B, reply_to(&second, 100, "Trying", ""));
    world.advance(secs(19));
    assert_eq!(world.kinds(PBX_C), [""; 0], "it is the second one's turn");
    world.advance(secs(1));
    assert_eq!(world.kinds(PBX_C), ["INVITE"]);
    world.settle();
}

#[test]
fn nobody_else_is_tried_after_a_cancel() {
    let mut world = two_servers();
    let (uac, first) = world.ringing();
    world.send(DIALER, uac.cancel());
    world.take(PBX_A, "CANCEL");
    world.send(PBX_A, first.reply(503));
    assert_eq!(world.kinds(PBX_B), [""; 0]);
    world.ended_as("CallFailed", "caller_cancel");
    world.settle();
}

#[test]
fn nobody_else_is_tried_after_the_no_answer_timer() {
    let mut world = two_servers();
    let (_, first) = world.ringing();
    world.advance(secs(30));
    world.take(PBX_A, "CANCEL");
    world.send(PBX_A, first.reply(503));
    assert_eq!(world.kinds(PBX_B), [""; 0]);
    world.ended_as("NoAnswer", "no_answer_timer");
    world.settle();
}

/// The first server shows no progress and is given up; the second one rings.
fn second_rings(world: &mut World) -> (Uas, Uas) {
    let (_, first) = world.called();
    world.send(PBX_A, first.reply(100));
    world.advance(secs(8));
    world.take(PBX_A, "CANCEL");
    let second = Uas::new(PBX_B, world.take(PBX_B, "INVITE"), "b");
    world.send(PBX_B, second.reply(180));
    world.take(DIALER, "180");
    (first, second)
}

#[test]
fn a_6xx_stops_every_other_branch() {
    let mut world = three_servers();
    let (first, second) = second_rings(&mut world);
    world.send(PBX_A, first.reply(603));
    world.cancelled(&second);
    assert_eq!(world.take(DIALER, "603").stamp().map(|(outcome, ..)| outcome), Some("CallFailed"));
    assert_eq!(world.kinds(PBX_C), [""; 0]);
    world.ended_as("CallFailed", "peer_final");
    world.settle();
}

#[test]
fn a_6xx_from_a_server_that_was_given_up_is_booked_on_that_server() {
    let mut policy = policy();
    policy.servers.push(server(2, "pbx-b", PBX_B));
    let of_a = When { server: Some("pbx-a".into()), ..When::default() };
    policy.rules.push(Rule { name: "pbx-a".into(), when: of_a, outcome: Outcome::NumberBusy });
    let mut world = World::new(policy);
    let (first, second) = second_rings(&mut world);
    world.advance(secs(1));
    world.send(PBX_A, first.reply(603));
    world.cancelled(&second);
    world.take(DIALER, "603");
    let ended = world.ended_as("NumberBusy", "peer_final");
    assert_eq!((ended.server.as_deref(), ended.sip_code), (Some("pbx-a"), Some(603)));
    let attempts = ended.attempts.iter().map(|one| (&*one.server, one.sip_code, one.duration_ms));
    assert_eq!(attempts.collect::<Vec<_>>(), [("pbx-a", Some(603), 9_000), ("pbx-b", None, 1_000)]);
    let sample = |name, label, value| world.sample(name, &[("server", "pbx-a"), (label, value)]);
    assert_eq!(sample("sipstamp_final_responses_total", "code", "603"), 1);
    assert_eq!(sample("sipstamp_server_call_outcomes_total", "outcome", "NumberBusy"), 1);
    assert_eq!(sample("sipstamp_attempts_total", "result", "timeout"), 1, "as which it was counted");
    assert_eq!(sample("sipstamp_attempts_total", "result", "failed"), 0);
    world.settle();
}

#[test]
fn a_6xx_from_a_server_that_was_given_up_decides_nothing_after_the_no_answer_timer() {
    let mut world = two_servers();
    let (first, _) = second_rings(&mut world);
    world.advance(secs(22));
    world.send(PBX_A, first.reply(603));
    let ended = world.ended_as("NoAnswer", "no_answer_timer");
    assert_eq!(ended.server.as_deref(), Some("pbx-b"));
    assert_eq!(ended.attempts.iter().map(|one| one.sip_code).collect::<Vec<_>>(), [None, None]);
    world.settle();
}

#[test]
fn a_server_that_says_nothing_is_down_until_it_does() {
    let up = |world: &World| world.sample("sipstamp_server_up", &[("server", "pbx-a")]);
    let mut world = two_servers();
    let (uac, first) = world.called();
    world.advance(secs(8));
    assert_eq!(up(&world), 0, "it had its turn");
    assert_eq!(world.sample("sipstamp_attempts_total", &[("server", "pbx-a"), ("result", "no_response")]), 1);
    world.take_all(PBX_A);
    let second = Uas::new(PBX_B, world.take(PBX_B, "INVITE"), "b");
    world.send(PBX_A, first.reply(100));
    assert_eq!(up(&world), 1);
    world.cancelled(&first);
    world.fail(&uac, &second, second.reply(486));
    world.ended_as("NumberBusy", "peer_final");
    world.settle();
}

#[test]
fn a_server_that_answers_others_meanwhile_is_not_down() {
    let mut world = World::new(policy());
    world.called();
    world.advance(secs(20));
    world.take_all(PBX_A);
    let mut other = world.uac();
    let invite = other.invite();
    let (uac, uas) = world.place(&other, invite, PBX_A);
    world.fail(&uac, &uas, uas.reply(486));
    world.ended_as("NumberBusy", "peer_final");
    world.advance(secs(11));
    world.ended_as("NoAnswer", "no_response");
    assert_eq!(world.sample("sipstamp_server_up", &[("server", "pbx-a")]), 1);
    world.settle();
}

#[test]
fn a_late_answer_shows_that_a_server_is_there() {
    let mut world = World::new(policy());
    let (_, uas) = world.called();
    world.advance(secs(31));
    world.ended_as("NoAnswer", "no_response");
    assert_eq!(world.sample("sipstamp_server_up", &[("server", "pbx-a")]), 0);
    world.send(PBX_A, uas.reply(100));
    assert_eq!(world.sample("sipstamp_server_up", &[("server", "pbx-a")]), 1);
    world.settle();
}

#[test]
fn a_server_that_is_given_up_and_ignores_its_cancel_is_odd() {
    for (answers, late) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut policy = policy();
        policy.timeouts.no_answer = secs(90);
        policy.servers.push(server(2, "pbx-b", PBX_B));
        let mut world = World::new(policy);
        let (uac, first) = world.called();
        world.send(PBX_A, first.reply(100));
        world.advance(secs(8));
        let second = Uas::new(PBX_B, world.take(PBX_B, "INVITE"), "b");
        if answers {
            world.cancelled(&first);
        }
        // The other one is asked meanwhile, or has answered.
        let wait = if late { (secs(50), secs(1)) } else { (secs(1), secs(40)) };
        world.send(PBX_B, second.reply(180));
        world.take(DIALER, "180");
        world.advance(wait.0);
        let (mut uac, _) = world.answer(uac.clone(), second);
        world.advance(wait.1);
        world.take_all(PBX_A);
        world.hang_up(DIALER, PBX_B, uac.bye());
        let ended = world.ended_as("Normal", "answered_bye_caller");
        let anomalies = ended.anomalies.iter().map(|one| one.label()).collect::<Vec<_>>();
        assert_eq!(anomalies.contains(&"response_to_cancel_missing"), !answers, "{anomalies:?}");
        world.settle();
    }
}

#[test]
fn a_server_that_rings_on_after_its_cancel_is_odd_all_the_same() {
    let mut world = two_servers();
    let (uac, first) = world.called();
    world.send(PBX_A, first.reply(100));
    world.advance(secs(8));
    let second = Uas::new(PBX_B, world.take(PBX_B, "INVITE"), "b");
    for _ in 0..20 {
        world.send(PBX_A, first.reply(183));
        world.advance(ms(500));
    }
    world.take_all(PBX_A);
    world.take_all(DIALER);
    let (mut uac, _) = world.answer(uac, second);
    world.advance(secs(32));
    world.take_all(PBX_A);
    world.hang_up(DIALER, PBX_B, uac.bye());
    let ended = world.ended_as("Normal", "answered_bye_caller");
    assert!(ended.anomalies.iter().any(|one| one.label() == "response_to_cancel_missing"));
    world.settle();
}

#[test]
fn a_given_up_server_that_speaks_after_the_cancel_may_still_answer() {
    for code in [100, 180, 183] {
        let mut world = two_servers();
        let (uac, first) = world.called();
        world.advance(secs(8));
        let second = Uas::new(PBX_B, world.take(PBX_B, "INVITE"), "b");
        world.take_all(PBX_A);
        world.send(DIALER, uac.cancel());
        world.take(DIALER, "200");
        world.advance(ms(200));
        world.send(PBX_A, first.reply(code));
        let cancel = world.take(PBX_A, "CANCEL");
        world.send(PBX_A, ok(&cancel));
        world.advance(ms(400));
        let (mut uac, _) = world.answer(uac, first);
        world.hang_up(DIALER, PBX_A, uac.bye());
        world.ended_as("Normal", "answered_bye_caller");
        world.send(PBX_B, second.reply(487));
        world.take_all(PBX_B);
        world.settle();
    }
}

#[test]
fn that_no_server_is_there_is_known_for_a_while() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let options = |world: &mut World, uac: &mut Uac| {
        world.send(DIALER, uac.request("OPTIONS").to_string().replacen("sip:+15550199@", "sip:", 1));
        world.take_all(DIALER).pop().unwrap().code()
    };
    assert_eq!(options(&mut world, &mut uac), 200);
    world.called();
    world.advance(secs(31));
    world.ended_as("NoAnswer", "no_response");
    assert_eq!(options(&mut world, &mut uac), 503);
    world.advance(secs(32));
    // Or nobody would call again, who asks before, and it would never be heard again.
    assert_eq!(options(&mut world, &mut uac), 200);
    assert_eq!(world.sample("sipstamp_server_up", &[("server", "pbx-a")]), 0);
    world.settle();
}

#[test]
fn a_server_that_fails_after_early_media_gives_way_to_the_next() {
    let mut world = two_servers();
    let (uac, first) = world.called();
    world.send(PBX_A, first.reply(183).body("v=0\r\n"));
    world.take(DIALER, "183");
    world.send(PBX_A, first.reply(503));
    world.take(PBX_A, "ACK");
    let second = Uas::new(PBX_B, world.take(PBX_B, "INVITE"), "b");
    world.nothing_sent();
    let (mut uac, _) = world.answer(uac, second);
    world.hang_up(DIALER, PBX_B, uac.bye());
    assert!(world.ended_as("Normal", "answered_bye_caller").had_early_media);
    world.settle();
}

#[test]
fn retry_after_moves_a_server_to_the_end_of_the_list() {
    let mut world = two_servers();
    let (_, first) = world.called();
    world.send(PBX_A, first.reply(503).with("Retry-After: 60"));
    let second = Uas::new(PBX_B, world.take(PBX_B, "INVITE"), "b");
    world.send(PBX_B, second.reply(486));
    world.ended_as("NumberBusy", "peer_final");
    let mut uac = world.uac();
    let invite = uac.invite();
    let (_, uas) = world.place(&uac, invite, PBX_B);
    world.send(PBX_B, uas.reply(503));
    world.take(PBX_A, "INVITE");
    world.advance(secs(61));
    let mut uac = world.uac();
    let invite = uac.invite();
    world.place(&uac, invite, PBX_A);
    world.settle();
}

#[test]
fn the_last_server_left_is_always_tried() {
    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    world.fail(&uac, &uas, uas.reply(503).with("Retry-After: 300"));
    world.ended();
    world.called();
    world.settle();
}
