//! Limits, and calls that we refuse ourselves.

use crate::support::{DIALER, PBX_A, World, ms, policy, secs};

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
