//! Limits, and calls that we refuse ourselves.

use super::transport::tcp;
use crate::support::{DIALER, PBX_A, World, ms, policy, secs};
use sipstamp::endpoint::Input;
use sipstamp::sip::{Framer, Limits};

#[test]
fn beyond_the_limit_of_open_calls_it_is_503_with_retry_after() {
    let mut policy = policy();
    policy.limits.calls = 1;
    let mut world = World::new(policy);
    let (mut first, _) = world.answered();
    let mut uac = world.uac();
    let invite = uac.invite();
    world.send(DIALER, invite);
    // No 100 before it: who has one does not ask again where the 503 is lost.
    let refused = world.only(DIALER, "503");
    assert!(refused.has("Retry-After") && refused.one("Reason").starts_with("Q.850;cause=42"));
    assert_eq!(refused.stamp().map(|(outcome, cause, _)| (outcome, cause)), Some(("CallFailed", Some("overload"))));
    let ended = world.ended_as("CallFailed", "overload");
    assert_eq!((ended.sip_code, ended.code_source.unwrap().label(), ended.server), (Some(503), "local", None));
    // What is inside a dialog passes.
    world.hang_up(DIALER, PBX_A, first.bye());
    world.ended_as("Normal", "answered_bye_caller");
    world.called();
    world.settle();
}

#[test]
fn calls_per_second_are_a_bucket_of_one_second() {
    let mut policy = policy();
    policy.limits.calls_per_second = 10;
    let mut world = World::new(policy);
    for _ in 0..100 {
        let mut uac = world.uac();
        let invite = uac.invite();
        world.send(DIALER, invite);
        world.advance(ms(20));
    }
    let refused = world.sample("sipstamp_call_end_causes_total", &[("end_cause", "overload")]);
    assert!((69..=71).contains(&refused), "a bucket of 10 and 10 more each second: {refused} were refused");
    world.advance(secs(1));
    world.take_all(PBX_A);
    let mut uac = world.uac();
    let invite = uac.invite();
    world.place(&uac, invite, PBX_A);
    world.settle();
}

#[test]
fn hops_that_are_used_up_are_a_call_that_was_refused_here() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite = uac.invite().put("Max-Forwards: 0");
    world.send(DIALER, invite);
    let refused = world.take(DIALER, "483");
    assert_eq!(refused.stamp().map(|(outcome, cause, _)| (outcome, cause)), Some(("CallFailed", Some("local_reject"))));
    let ended = world.ended_as("CallFailed", "local_reject");
    assert_eq!((ended.sip_code, ended.code_source.unwrap().label()), (Some(483), "local"));
    assert_eq!(ended.ended_by.unwrap().label(), "sidecar");
    world.settle();
}

#[test]
fn an_extension_that_proxies_must_know_is_refused_with_420() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite = uac.invite().with("Proxy-Require: foo, bar");
    world.send(DIALER, invite);
    assert_eq!(world.take(DIALER, "420").one("Unsupported"), "foo, bar");
    world.ended_as("CallFailed", "local_reject");
    world.settle();
}

#[test]
fn another_scheme_is_refused_with_416() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    uac.uri = "http://example.com".into();
    let invite = uac.invite();
    world.send(DIALER, invite);
    world.take(DIALER, "416");
    world.ended_as("CallFailed", "local_reject");
    world.settle();
}

#[test]
fn an_unreadable_number_of_hops_is_no_call() {
    for value in ["256", "-1", "many"] {
        let mut world = World::new(policy());
        let mut uac = world.uac();
        let invite = uac.invite().put(&format!("Max-Forwards: {value}"));
        world.send(DIALER, invite);
        assert_eq!(world.take(DIALER, "400").stamp(), None);
        assert_eq!(world.sample("sipstamp_calls_started_total", &[]), 0);
        world.settle();
    }
}

fn is_a_call_that_was_refused(world: &mut World, code: u16) {
    let refused = world.take(DIALER, &code.to_string());
    assert_eq!(refused.stamp().map(|(outcome, cause, _)| (outcome, cause)), Some(("CallFailed", Some("local_reject"))));
    let ended = world.ended_as("CallFailed", "local_reject");
    assert_eq!((ended.sip_code, ended.code_source.unwrap().label()), (Some(code), "local"));
}

#[test]
fn an_invite_that_is_too_large_is_a_call_that_was_refused_here() {
    let uri = format!("sip:{}@example.com", "1".repeat(5_000));
    for (uri, line, code) in [
        (&*uri, "X: 1".to_owned(), 414),
        ("sip:1@example.com", format!("X: {}", "x".repeat(17_000)), 513),
        ("sip:1@example.com", "X: 1\r\n".repeat(600).trim_end().to_owned(), 513),
        ("sip:1@example.com", format!("Subject: {}", "\"x\" ".repeat(16_500)), 513),
    ] {
        let mut world = World::new(policy());
        let mut uac = world.uac();
        let invite =
            uac.invite().with(line).to_string().replacen("INVITE ", &format!("INVITE {uri} SIP/2.0\r\nX-Was: "), 1);
        world.send(DIALER, &invite);
        assert_eq!(world.sample("sipstamp_sip_rejected_total", &[("reason", "too_large")]), 1);
        world.send(DIALER, &invite);
        let first =
            world.take_all(DIALER).into_iter().map(|msg| msg.code()).filter(|code| *code > 100).collect::<Vec<_>>();
        assert_eq!(first, [code, code], "it is repeated");
        world.ended_as("CallFailed", "local_reject");
        world.settle();
    }
}

#[test]
fn an_invite_that_a_stream_brings_and_is_too_large_is_a_call_as_far_as_it_can_be_read() {
    let long = format!("X: {}", "x".repeat(17_000));
    let length = "Content-Length: 0\r\n";
    for (is_call, there, instead) in [
        (true, length, "Content-Length: 70000\r\n".to_owned()),
        (true, length, format!("Content-Length: 5\r\n{long}\r\n")),
        // What is behind the long line is not read.
        (false, "CSeq: ", format!("{long}\r\nCSeq: ")),
    ] {
        let mut world = World::new(policy());
        let mut uac = world.uac();
        let invite = uac.invite().to_string().replace(there, &instead);
        let mut framer = Framer::new(Limits::standard(65_535));
        framer.buffer.extend_from_slice(invite.as_bytes());
        let rejected = Box::new(framer.next().unwrap_err().into_rejected());
        world.input(Input::Broken { flow: tcp(DIALER, 7, None), rejected });
        if is_call {
            is_a_call_that_was_refused(&mut world, 513);
        } else {
            assert_eq!(world.take(DIALER, "513").stamp(), None);
        }
        world.settle();
    }
}

#[test]
fn only_an_invite_that_begins_a_call_is_one_when_it_is_too_large() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite = uac.invite().with(format!("X: {}", "x".repeat(17_000)));
    world.send("192.0.2.66:5060", &invite);
    world.nothing_sent();
    let inside = invite.to_string().replacen("To: ", "To: <sip:in@example.com>;tag=known\r\nX-Was: ", 1);
    world.send(DIALER, inside);
    let options = invite.to_string().replace("INVITE", "OPTIONS");
    world.send(DIALER, options);
    let answers = world.take_all(DIALER);
    assert!(answers.iter().all(|answer| (answer.code(), answer.stamp()) == (513, None)));
    assert_eq!(answers.len(), 2);
    assert_eq!(world.sample("sipstamp_calls_started_total", &[]), 0);
    world.settle();
}

#[test]
fn a_retry_after_a_challenge_that_is_too_large_is_the_same_call() {
    let mut world = World::new(policy());
    let (mut uac, uas) = world.called();
    world.send(PBX_A, uas.reply(401).with("WWW-Authenticate: Digest realm=\"a\", nonce=\"b\""));
    let challenge = world.take(DIALER, "401");
    world.send(DIALER, uac.ack_of(&challenge));
    world.send(DIALER, uac.retry().with(format!("X: {}", "x".repeat(17_000))));
    is_a_call_that_was_refused(&mut world, 513);
    assert_eq!(world.sample("sipstamp_calls_started_total", &[]), 1);
    world.settle();
}
