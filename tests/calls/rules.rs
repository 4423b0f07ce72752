//! Rules against carriers that mis-code (section 7).

use sipstamp::flow::Direction;
use sipstamp::outcome::Outcome;
use sipstamp::policy::{Rule, When};

use crate::support::{DIALER, PBX_A, Text, World, policy, reply_to, secs};

fn rule(name: &str, when: When, outcome: Outcome) -> Rule {
    Rule { name: name.into(), when, outcome }
}

/// The outcome and the rule of a call that rang for `ringing_for` seconds, if it did, and then failed.
fn outcome(
    rules: Vec<Rule>,
    ringing_for: Option<u64>,
    failure: impl Fn(Text) -> Text,
    code: u16,
) -> (String, Option<String>) {
    let mut policy = policy();
    policy.rules = rules;
    let mut world = World::new(policy);
    let (uac, uas) = world.called();
    if let Some(seconds) = ringing_for {
        world.send(PBX_A, uas.reply(180).with("Reason: Q.850;cause=31"));
        world.take(DIALER, "180");
        world.advance(secs(seconds));
    }
    let failed = world.fail(&uac, &uas, failure(reply_to(&uas.invite, code, "Service Unavailable", "x")));
    let ended = world.ended();
    let told = ended.outcome.unwrap().label().to_owned();
    assert_eq!(failed.stamp().map(|(outcome, ..)| outcome), Some(&*told), "the stamp agrees");
    assert_eq!(ended.end_cause.unwrap().label(), "peer_final", "the cause stays");
    world.settle();
    (told, ended.rule)
}

#[test]
fn each_test_of_a_rule_passes_and_fails() {
    let unobtainable = ("NumberUnobtainable".to_owned(), Some("x".to_owned()));
    let failed = ("CallFailed".to_owned(), None);
    let tests: Vec<(When, bool)> = vec![
        (When { code: Some((503, 503)), ..When::default() }, true),
        (When { code: Some((500, 599)), ..When::default() }, true),
        (When { code: Some((500, 502)), ..When::default() }, false),
        (When { server: Some("pbx-a".into()), ..When::default() }, true),
        (When { server: Some("pbx-b".into()), ..When::default() }, false),
        (When { direction: Some(Direction::Outbound), ..When::default() }, true),
        (When { direction: Some(Direction::Inbound), ..When::default() }, false),
        (When { q850: Some(1), ..When::default() }, true),
        (When { q850: Some(2), ..When::default() }, false),
        (When { reason_contains: Some("unavail".into()), ..When::default() }, true),
        (When { reason_contains: Some("busy".into()), ..When::default() }, false),
        (When { progress_q850: Some(31), ..When::default() }, true),
        (When { progress_q850: Some(1), ..When::default() }, false),
        (When { ringing: Some(true), ..When::default() }, true),
        (When { ringing: Some(false), ..When::default() }, false),
        (When { after: Some(secs(5)), ..When::default() }, true),
        (When { after: Some(secs(6)), ..When::default() }, false),
        (When { before: Some(secs(6)), ..When::default() }, true),
        (When { before: Some(secs(5)), ..When::default() }, false),
        (When { code: Some((503, 503)), q850: Some(2), ..When::default() }, false),
        (When { code: Some((503, 503)), q850: Some(1), ringing: Some(true), ..When::default() }, true),
    ];
    for (when, matches) in tests {
        let text = format!("{when:?}");
        let rules = vec![rule("x", when, Outcome::NumberUnobtainable)];
        let found = outcome(rules, Some(5), |failure| failure.with("Reason: Q.850;cause=1"), 503);
        assert_eq!(found, if matches { unobtainable.clone() } else { failed.clone() }, "{text}");
    }
}

#[test]
fn the_first_match_wins() {
    let when = || When { code: Some((503, 503)), ..When::default() };
    let rules = vec![
        rule("none", When { code: Some((600, 699)), ..When::default() }, Outcome::Normal),
        rule("first", when(), Outcome::NumberBusy),
        rule("second", when(), Outcome::NoAnswer),
    ];
    assert_eq!(outcome(rules, None, |failure| failure, 503), ("NumberBusy".to_owned(), Some("first".to_owned())));
}

#[test]
fn a_code_test_fails_where_there_is_no_code() {
    let mut policy = policy();
    policy.rules = vec![
        rule("code", When { code: Some((0, 999)), ..When::default() }, Outcome::CallFailed),
        rule("busy tone", When { progress_q850: Some(17), ..When::default() }, Outcome::NumberBusy),
    ];
    let mut world = World::new(policy);
    let (_, uas) = world.called();
    world.send(PBX_A, uas.reply(183).with("Reason: Q.850;cause=17"));
    world.advance(secs(30));
    world.cancelled(&uas);
    let timeout = world.take(DIALER, "408");
    assert_eq!(
        timeout.stamp().map(|(outcome, cause, _)| (outcome, cause)),
        Some(("NumberBusy", Some("no_answer_timer")))
    );
    assert_eq!(world.ended_as("NumberBusy", "no_answer_timer").rule.as_deref(), Some("busy tone"));
    world.settle();
}

#[test]
fn rules_never_see_an_answered_a_cancelled_or_a_refused_call() {
    let mut policy = policy();
    policy.rules = vec![rule("all", When { after: Some(secs(0)), ..When::default() }, Outcome::NumberChanged)];
    let mut world = World::new(policy);
    let (mut uac, _) = world.answered();
    world.hang_up(DIALER, PBX_A, uac.bye());
    assert_eq!(world.ended_as("Normal", "answered_bye_caller").rule, None);
    let (uac, uas) = world.ringing();
    world.send(DIALER, uac.cancel());
    world.cancelled(&uas);
    assert_eq!(world.ended_as("CallFailed", "caller_cancel").rule, None);
    let (uac, uas) = world.ringing();
    world.send(DIALER, uac.cancel().with("Reason: Q.850;cause=19"));
    world.cancelled(&uas);
    world.ended_as("NumberChanged", "dialer_ring_timeout");
    world.input(sipstamp::endpoint::Input::Drain);
    let mut uac = world.uac();
    let invite = uac.invite();
    world.send(DIALER, invite);
    assert_eq!(world.ended_as("CallFailed", "shutdown").rule, None);
    world.settle();
}

#[test]
fn a_rule_sees_silence_and_redirects_too() {
    let mut policy = policy();
    policy.rules = vec![rule("all", When { ringing: Some(false), ..When::default() }, Outcome::NumberUnobtainable)];
    let mut world = World::new(policy);
    let (uac, uas) = world.called();
    world.fail(&uac, &uas, uas.reply(302));
    world.ended_as("NumberUnobtainable", "redirected");
    world.called();
    world.advance(secs(31));
    world.ended_as("NumberUnobtainable", "no_response");
    world.settle();
}
