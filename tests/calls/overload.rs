//! New calls that are refused: what their callers see, and what they cost.

use std::time::Duration;

use sipstamp::endpoint::Input;
use sipstamp::overload::Lag;
use sipstamp::policy::Policy;

use crate::support::{DIALER, PBX_A, Uac, World, ms, net, ok, policy, secs};

/// Messages wait for so long, and ever longer.
fn overload(world: &mut World) {
    for step in 0..4 {
        lag(world, 30 + step, 10 * step);
        world.advance(ms(10));
    }
    assert!(world.endpoint.is_overloaded());
}

fn lag(world: &mut World, delay: u64, worked: u64) {
    world.input(Input::Lag(Lag { delay: ms(delay), worked: ms(worked), ..Lag::default() }));
}

/// With room for so many calls.
fn narrow(calls: usize) -> Policy {
    let mut policy = policy();
    policy.limits.calls = calls;
    policy
}

#[test]
fn while_messages_wait_too_long_new_calls_are_refused_and_others_go_on() {
    let mut world = World::new(policy());
    let (ringing, callee) = world.ringing();
    let (mut answered, _) = world.answered();
    overload(&mut world);
    let mut uac = world.uac();
    let invite = uac.invite();
    world.send(DIALER, invite);
    let refused = world.only(DIALER, "503");
    assert!(refused.has("Retry-After") && refused.one("Reason").starts_with("Q.850;cause=42"));
    world.send(DIALER, uac.ack_of(&refused));
    world.nothing_sent();
    world.ended_as("CallFailed", "overload");
    world.send(PBX_A, callee.reply(486));
    world.take(PBX_A, "ACK");
    let busy = world.take(DIALER, "486");
    world.send(DIALER, ringing.ack_of(&busy));
    world.ended_as("NumberBusy", "peer_final");
    world.hang_up(DIALER, PBX_A, answered.bye());
    world.ended_as("Normal", "answered_bye_caller");
    assert_eq!(world.sample("sipstamp_calls_refused_total", &[("limit", "overload_delay")]), 1);
    lag(&mut world, 6, 100);
    world.called();
    world.settle();
}

#[test]
fn where_even_refusing_takes_too_long_some_calls_are_made() {
    let mut world = World::new(policy());
    overload(&mut world);
    for step in 4..8 {
        lag(&mut world, 200 + step, 10 * step);
        world.advance(ms(10));
    }
    for _ in 0..34 {
        let invite = world.uac().invite();
        world.send(DIALER, invite);
    }
    let refused = world.kinds(DIALER).iter().filter(|kind| *kind == "503").count();
    assert_eq!((refused, world.endpoint.active_calls()), (32, 2));
    assert_eq!(world.sample("sipstamp_calls_refused_total", &[("limit", "overload_delay")]), 32);
    world.settle();
}

#[test]
fn a_caller_that_comes_back_after_a_challenge_is_no_new_call() {
    for limit in ["calls", "lag"] {
        let mut world = World::new(narrow(1));
        let (mut uac, callee) = world.called();
        world.send(PBX_A, callee.reply(407).with("Proxy-Authenticate: Digest realm=\"a\", nonce=\"b\""));
        world.take(PBX_A, "ACK");
        let challenge = world.take(DIALER, "407");
        world.send(DIALER, uac.ack_of(&challenge));
        if limit == "lag" {
            overload(&mut world);
        }
        let retry = uac.retry();
        world.place(&uac, retry, PBX_A);
        assert_eq!(world.sample("sipstamp_calls_refused_total", &[]), 0, "{limit}");
        world.settle();
    }
}

#[test]
fn a_refusal_is_repeated_when_it_is_asked_for_and_never_else() {
    let mut world = World::new(narrow(1));
    world.called();
    let mut uac = world.uac();
    let invite = uac.invite();
    world.send(DIALER, invite.clone());
    let first = world.take(DIALER, "503");
    world.sent.clear();
    world.advance(secs(20));
    assert!(!world.kinds(DIALER).contains(&"503".to_owned()));
    world.send(DIALER, invite);
    assert_eq!(world.take(DIALER, "503").lines().collect::<Vec<_>>(), first.lines().collect::<Vec<_>>());
    world.ended_as("CallFailed", "overload");
    world.send(DIALER, uac.cancel());
    assert_eq!(world.take(DIALER, "200").cseq().1, "CANCEL");
    world.settle();
}

#[test]
fn a_refusal_is_remembered_over_a_restart() {
    let mut world = World::with_journal(narrow(1));
    world.called();
    let mut uac = world.uac();
    let invite = uac.invite();
    world.send(DIALER, invite.clone());
    let first = world.take(DIALER, "503");
    world.restart(ms(300));
    world.sent.clear();
    world.send(DIALER, invite);
    assert_eq!(world.only(DIALER, "503").lines().collect::<Vec<_>>(), first.lines().collect::<Vec<_>>());
    world.ended_as("CallFailed", "overload");
}

#[test]
fn a_source_that_floods_does_not_cost_the_others_their_calls() {
    let mut policy = policy();
    policy.dialer.sources.push(net("10.0.3.0/24"));
    let mut world = World::new(policy);
    let other = "10.0.3.5:5060";
    for second in 0..3 {
        for number in 0..50 {
            let mut uac = Uac::new(DIALER, &format!("flood-{second}-{number}"));
            let invite = uac.invite();
            world.send(DIALER, invite);
        }
        if second == 0 {
            overload(&mut world);
        }
        let mut uac = Uac::new(other, &format!("other-{second}"));
        let invite = uac.invite();
        world.send(other, invite);
        world.take(other, "100");
        world.sent.clear();
        world.advance(secs(1));
    }
    assert_eq!(world.sample("sipstamp_calls_refused_total", &[("limit", "overload_delay")]), 100);
}

#[test]
fn each_source_may_have_a_limit_of_its_own() {
    let mut policy = policy();
    policy.dialer.sources.push(net("10.0.3.0/24"));
    policy.limits.calls_per_second_per_source = 5;
    let mut world = World::new(policy);
    let mut refused = |from: &str| {
        for number in 0..8 {
            let mut uac = Uac::new(from, &format!("{from}-{number}"));
            let invite = uac.invite();
            world.send(from, invite);
        }
        world.kinds(from).iter().filter(|kind| *kind == "503").count()
    };
    assert_eq!(refused(DIALER), 3);
    assert_eq!(refused("10.0.3.5:5060"), 3);
    assert_eq!(world.sample("sipstamp_calls_refused_total", &[("limit", "calls_per_second_per_source")]), 6);
}

#[test]
fn beyond_the_limit_of_transactions_what_belongs_to_calls_goes_on() {
    let mut policy = policy();
    policy.limits.transactions = 4;
    let mut world = World::new(policy);
    let (mut first, _) = world.answered();
    for number in 0..3 {
        let mut uac = Uac::new(DIALER, &format!("options-{number}"));
        let options = uac.request("OPTIONS");
        world.send(DIALER, options);
        let asked = world.take(PBX_A, "OPTIONS");
        world.send(PBX_A, ok(&asked));
        world.take(DIALER, "200");
    }
    let mut uac = Uac::new(DIALER, "one-more");
    let options = uac.request("OPTIONS");
    world.send(DIALER, options);
    assert!(world.only(DIALER, "503").has("Retry-After"));
    let mut uac = world.uac();
    let invite = uac.invite();
    world.send(DIALER, invite);
    world.only(DIALER, "503");
    world.ended_as("CallFailed", "overload");
    assert_eq!(world.sample("sipstamp_calls_refused_total", &[("limit", "transactions")]), 1);
    world.hang_up(DIALER, PBX_A, first.bye());
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn at_half_as_many_transactions_again_no_new_call_is_taken() {
    let mut policy = policy();
    policy.limits.transactions = 2;
    let mut world = World::new(policy);
    for _ in 0..10 {
        let mut uac = world.uac();
        let invite = uac.invite();
        world.send(DIALER, invite);
    }
    assert_eq!(world.sample("sipstamp_calls_started_total", &[]), 3);
    assert_eq!(world.sample("sipstamp_sip_rejected_total", &[("reason", "no_room")]), 7);
    world.settle();
}

#[test]
fn only_the_side_that_asked_can_cancel() {
    let mut world = World::new(policy());
    let (uac, callee) = world.ringing();
    // The server knows the dialer's branch: its Via stands below ours.
    world.send(PBX_A, uac.cancel());
    let refused = world.sent.drain(..).map(|sent| sent.msg.kind().to_owned()).collect::<Vec<_>>();
    assert_eq!(refused, ["481"]);
    world.send(PBX_A, callee.reply(200));
    world.take(DIALER, "200");
    assert_eq!(world.sample("sipstamp_sip_rejected_total", &[("reason", "unmatched_cancel")]), 1);
}

#[test]
fn tools_that_look_for_servers_are_counted_apart_and_never_answered() {
    let mut policy = policy();
    policy.strangers = sipstamp::policy::Strangers::Forbid;
    let mut world = World::new(policy);
    let stranger = "192.0.2.66:5060";
    for (number, agent) in ["friendly-scanner", "SIPVicious 0.3", "Zoiper"].into_iter().enumerate() {
        let mut uac = Uac::new(stranger, &format!("scan-{number}"));
        let options = uac.request("OPTIONS").with(format!("User-Agent: {agent}"));
        world.send(stranger, options);
    }
    assert_eq!(world.kinds(stranger), ["403"]);
    let rejected = |reason| world.sample("sipstamp_sip_rejected_total", &[("reason", reason)]);
    assert_eq!((rejected("scanner"), rejected("stranger")), (2, 1));
}

#[test]
fn a_burst_after_a_pause_is_taken() {
    let mut world = World::new(policy());
    for step in 0..30_u64 {
        lag(&mut world, 300 - step * 10, step * 10);
        let mut uac = world.uac();
        let invite = uac.invite();
        world.send(DIALER, invite);
        world.advance(Duration::from_millis(10));
    }
    assert_eq!(world.sample("sipstamp_calls_refused_total", &[]), 0);
}
