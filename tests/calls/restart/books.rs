//! What is told and counted of calls over a restart, also with another configuration.

use std::sync::Arc;

use sipstamp::event::CallState;
use sipstamp::outcome::Outcome;
use sipstamp::policy::{CapturedLabel, Rule, When};

use super::{DEAD, comes_to_rest, kept, outcomes, two_servers};
use crate::support::{DIALER, PBX_A, PBX_B, Uas, World, ms, ok, policy, server};

#[test]
fn calls_of_a_server_that_is_not_configured_any_more_go_on() {
    let only_b = || {
        let mut policy = policy();
        policy.servers = vec![server(1, "pbx-b", PBX_B)];
        Arc::new(policy)
    };
    let mut world = kept();
    let (uac, uas) = world.ringing();
    world.restart_with(DEAD, only_b());
    world.nothing_sent();
    let (mut uac, _) = world.answer(uac, uas);
    world.hang_up(DIALER, PBX_A, uac.bye());
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();

    let mut world = kept();
    let (_, mut uas) = world.answered();
    world.restart_with(DEAD, only_b());
    world.hang_up(PBX_A, DIALER, uas.bye());
    let ended = world.ended_as("Normal", "answered_bye_callee");
    assert_ne!(ended.server.as_deref(), Some("pbx-b"), "another server that has its number is not it");
    world.settle();
}

#[test]
fn what_was_captured_stays_and_rules_are_the_configurations() {
    let mut before = policy();
    let label =
        |name: &str| CapturedLabel { label: name.into(), header: format!("X-{name}").into(), values: Vec::new() };
    before.capture.labels = vec![label("campaign"), label("list")];
    before.rules = vec![Rule {
        name: "old".into(),
        when: When { code: Some((486, 486)), ..When::default() },
        outcome: Outcome::NoAnswer,
    }];
    let mut after = before.clone();
    after.capture.labels = vec![label("tenant"), label("campaign")];
    after.rules[0] = Rule { name: "young".into(), outcome: Outcome::NumberUnobtainable, ..after.rules[0].clone() };
    let mut world = World::with_journal(before);
    let mut uac = world.uac();
    let invite = uac.invite().with("X-campaign: spring").with("X-list: a");
    let (uac, uas) = world.place(&uac, invite, PBX_A);
    world.send(PBX_A, uas.reply(180));
    world.take(DIALER, "180");
    world.restart_with(DEAD, Arc::new(after));
    world.fail(&uac, &uas, uas.reply(486));
    let ended = world.ended_as("NumberUnobtainable", "peer_final");
    assert_eq!(ended.rule.as_deref(), Some("young"));
    let labels = ended.labels.iter().map(|(name, value)| (&**name, &**value)).collect::<Vec<_>>();
    assert_eq!(labels, [("campaign", "spring")], "those that are still configured, by name");
    world.settle();
}

#[test]
fn the_source_is_that_under_which_the_call_began() {
    let mut world = kept();
    let (uac, uas) = world.ringing();
    let mut other = policy();
    other.source = "sipstamp/other".into();
    world.restart_with(DEAD, Arc::new(other));
    world.fail(&uac, &uas, uas.reply(486));
    let (uac, uas) = world.ringing();
    world.fail(&uac, &uas, uas.reply(486));
    let sources = world.events.iter().map(|told| &*told.source).collect::<Vec<_>>();
    assert_eq!(sources, ["sipstamp/test", "sipstamp/other"]);
    world.settle();
}

#[test]
fn a_call_whose_caller_cannot_be_answered_ends_as_restart() {
    let mut world = kept();
    world.ringing();
    world.journal.lose_servers();
    let restored = world.restart(DEAD);
    assert_eq!(restored.ended, 1);
    world.ended_as("CallFailed", "restart");
    world.settle();
}

#[test]
fn a_call_that_no_server_has_ends_as_restart_and_its_caller_is_told() {
    let mut world = kept();
    world.ringing();
    world.journal.lose_clients();
    let restored = world.restart(DEAD);
    assert_eq!(restored.ended, 1);
    let refused = world.take(DIALER, "503");
    assert_eq!(refused.stamp().map(|(outcome, cause, _)| (outcome, cause)), Some(("CallFailed", Some("restart"))));
    world.ended_as("CallFailed", "restart");
    world.settle();
}

#[test]
fn a_call_that_no_server_has_goes_to_the_next_one() {
    let mut world = World::with_journal(two_servers());
    let (uac, _) = world.called();
    world.journal.lose_clients();
    world.restart(DEAD);
    let second = Uas::new(PBX_B, world.only(PBX_B, "INVITE"), "b");
    world.fail(&uac, &second, second.reply(486));
    world.ended_as("NumberBusy", "peer_final");
    world.settle();
}

#[test]
fn however_often_it_is_restarted_nothing_is_counted_twice() {
    let mut world = kept();
    let (mut answered, _) = world.answered();
    let (ringing, rings) = world.ringing();
    let (called, calls) = world.called();
    for _ in 0..5 {
        let restored = world.restart(DEAD);
        assert_eq!((restored.calls, restored.ended), ([1, 1, 1, 0], 0));
        world.balances();
        assert_eq!(world.sample("sipstamp_calls_started_total", &[]), 3);
        assert_eq!(world.sample("sipstamp_calls_active", &[]), 3);
        world.advance(ms(600));
    }
    world.sent.clear();
    world.fail(&ringing, &rings, rings.reply(486));
    world.ended_as("NumberBusy", "peer_final");
    world.fail(&called, &calls, calls.reply(480));
    world.ended_as("NumberUnobtainable", "peer_final");
    world.hang_up(DIALER, PBX_A, answered.bye());
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn a_call_that_has_ended_does_not_come_back() {
    let mut world = kept();
    let (mut uac, _) = world.answered();
    world.hang_up(DIALER, PBX_A, uac.bye());
    let restored = world.restart(DEAD);
    assert_eq!((restored.calls, restored.ended), ([0; CallState::COUNT], 0));
    comes_to_rest(&mut world);
    assert_eq!(outcomes(&world), ["Normal"]);
}

#[test]
fn states_that_cannot_be_read_are_counted_whatever_the_number_of_workers() {
    for workers in [1, 2] {
        let mut stored = sipstamp::endpoint::Stored::default();
        stored.servers.push((1, vec![0xff; 9].into()));
        stored.clients.push((2, vec![0xff; 9].into()));
        let mut world = World::with_journal(policy());
        let parts = stored.split(workers, |_| 0);
        let unreadable: usize = parts.iter().map(|part| world.endpoint.restore(world.now, part).unreadable).sum();
        assert_eq!(unreadable, 2, "{workers} workers");
    }
}

#[test]
fn each_worker_gets_all_that_belongs_to_its_calls() {
    let mut world = kept();
    let (mut uac, _) = world.answered();
    // A re-INVITE that has its 2xx: nothing of the caller's request is kept any more.
    world.send(DIALER, uac.request("INVITE").with(format!("Contact: {}", uac.contact())));
    let invite = world.take(PBX_A, "INVITE");
    world.send(PBX_A, ok(&invite).with("Contact: <sip:pbx@10.0.2.10:5060>"));
    let all = world.journal.stored();
    assert!(!all.servers.is_empty() && !all.clients.is_empty());
    let parts = world.journal.stored().split(2, |_| 1);
    assert_eq!((parts[0].calls.len(), parts[0].servers.len(), parts[0].clients.len()), (0, 0, 0));
}

#[test]
fn of_a_failure_that_is_acknowledged_the_callers_side_is_not_kept() {
    let mut world = kept();
    let (uac, uas) = world.called();
    world.fail(&uac, &uas, uas.reply(486));
    world.command(|endpoint, _| {
        endpoint.store_all();
        while endpoint.store_more(10) {}
    });
    assert_eq!(world.journal.stored().servers.len(), 0);
    world.ended_as("NumberBusy", "peer_final");
    world.settle();
}
