//! Draining, the forced exit, and a new policy (case 22a).

use std::sync::Arc;

use sipstamp::endpoint::Input;
use sipstamp::flow::{Flow, Transport};

use crate::support::{DIALER, PBX_A, PBX_B, Uac, World, ms, ok, policy, secs, server};

#[test]
fn while_draining_new_calls_get_503_and_open_ones_go_on() {
    let mut world = World::new(policy());
    let (mut first, _) = world.answered();
    let (uac, uas) = world.ringing();
    world.input(Input::Drain);
    assert!(world.endpoint.is_draining());
    let mut late = world.uac();
    let invite = late.invite();
    world.send(DIALER, invite);
    world.take(DIALER, "100");
    let refused = world.only(DIALER, "503");
    assert!(refused.has("Retry-After"));
    assert!(refused.one("Reason").starts_with("Q.850;cause=42"));
    world.ended_as("CallFailed", "shutdown");
    let (mut second, _) = world.answer(uac, uas);
    for uac in [&mut first, &mut second] {
        world.hang_up(DIALER, PBX_A, uac.bye());
        world.ended_as("Normal", "answered_bye_caller");
    }
    world.settle();
}

#[test]
fn a_forced_exit_ends_every_call() {
    let mut world = World::new(policy());
    let (_, answered) = world.answered();
    let (_, ringing) = world.ringing();
    let (_, silent) = world.called();
    let (challenged, uas) = world.called();
    world.fail(&challenged, &uas, uas.reply(407));
    world.input(Input::Stop);
    assert_eq!(world.take(PBX_A, "CANCEL").one("Call-ID"), ringing.invite.one("Call-ID"));
    for _ in 0..2 {
        assert!(world.take(DIALER, "503").one("Reason").starts_with("Q.850;cause=42"));
    }
    world.nothing_sent();
    let ended = world
        .ended_events()
        .map(|ended| (ended.call_id.clone(), ended.outcome.unwrap().label(), ended.end_cause.unwrap().label()));
    let mut ended = ended.collect::<Vec<_>>();
    ended.sort();
    let of = |id: &str, outcome| (id.to_owned(), outcome, "shutdown");
    assert_eq!(
        ended,
        [of("call-1", "Normal"), of("call-2", "CallFailed"), of("call-3", "CallFailed"), of("call-4", "CallFailed")]
    );
    assert_eq!(world.endpoint.active_calls(), 0);
    drop((answered, silent));
    world.settle();
}

#[test]
fn a_call_whose_bye_is_on_its_way_keeps_its_cause_at_a_forced_exit() {
    let mut world = World::new(policy());
    let (mut uac, _) = world.answered();
    world.send(DIALER, uac.bye());
    let bye = world.take(PBX_A, "BYE");
    world.input(Input::Stop);
    world.ended_as("Normal", "answered_bye_caller");
    world.send(PBX_A, ok(&bye));
    world.take(DIALER, "200");
    world.settle();
}

#[test]
fn what_is_decided_before_a_forced_exit_stays_so() {
    let mut world = World::new(policy());
    let (cancelled, _) = world.ringing();
    world.send(DIALER, cancelled.cancel());
    world.take(DIALER, "200");
    world.take(PBX_A, "CANCEL");
    world.input(Input::Stop);
    world.only(DIALER, "487");
    let ended = world.ended_as("CallFailed", "caller_cancel");
    assert!(ended.anomalies.is_empty(), "nobody was waited for");
    world.settle();

    let mut world = World::new(policy());
    let (_, _) = world.ringing();
    world.advance(secs(30));
    world.take(PBX_A, "CANCEL");
    world.input(Input::Stop);
    world.only(DIALER, "408");
    world.ended_as("NoAnswer", "no_answer_timer");
    world.settle();
}

#[test]
fn a_new_policy_is_for_new_calls() {
    let mut world = World::new(policy());
    let (_, old) = world.ringing();
    let mut changed = policy();
    changed.servers = vec![server(2, "pbx-b", PBX_B)];
    changed.timeouts.no_answer = secs(20);
    changed.stamp.headers = vec!["X-Outcome".into()];
    world.input(Input::Policy(Arc::new(changed)));
    let mut uac = Uac::new(DIALER, "new");
    let invite = uac.invite();
    let (_, new) = world.place(&uac, invite, PBX_B);
    world.send(PBX_B, new.reply(180));
    world.take(DIALER, "180");
    world.advance(secs(20));
    world.cancelled(&new);
    let timeout = world.take(DIALER, "408");
    assert!(timeout.has("X-Outcome") && !timeout.has("Call-Outcome"));
    world.send(DIALER, uac.ack_of(&timeout));
    assert_eq!(world.ended().server.as_deref(), Some("pbx-b"));
    world.advance(ms(9_999));
    world.nothing_sent();
    world.advance(ms(1));
    // Its server is no longer configured, and still answers.
    world.cancelled(&old);
    let timeout = world.take(DIALER, "408");
    assert!(timeout.has("Call-Outcome") && !timeout.has("X-Outcome"));
    assert_eq!(world.ended().server.as_deref(), Some("pbx-a"));
    world.settle();
}

#[test]
fn every_message_is_written_however_many_policies_came_and_went() {
    let mut world = World::new(policy());
    for number in 0..100 {
        world.input(Input::Policy(Arc::new(policy())));
        let mut uac = Uac::new(DIALER, &format!("call-{number}"));
        let mut invite = uac.invite();
        if number == 0 {
            // By TCP, so that there is one more thing to write of ourselves.
            invite = invite.with(format!("X-Padding: {}", "x".repeat(1_400)));
        }
        let (uac, uas) = world.place(&uac, invite, PBX_A);
        world.fail(&uac, &uas, uas.reply(486));
        world.ended();
    }
}

#[test]
fn an_invite_is_sent_again_and_cancelled_as_it_was_sent_first() {
    let mut advertised = policy();
    advertised.advertise = [Some("sbc.example".into()), None];
    let mut world = World::new(advertised);
    let mut uac = world.uac();
    uac.uri = "sip:+15550199@10.0.0.9:5060".into();
    let invite = uac.invite().with("Route: <sip:SBC.example;lr>");
    let (uac, uas) = world.place(&uac, invite, PBX_A);
    assert!(!uas.invite.has("Route"));
    // What names the sidecar is another by then.
    world.input(Input::Policy(Arc::new(policy())));
    let (local, remote) = ("10.0.0.9:5060".parse().unwrap(), DIALER.parse().unwrap());
    let elsewhere = Flow { transport: Transport::Udp, local, remote, connection: None, opened_for: None };
    world.send_on(elsewhere, Uac::new(DIALER, "other").request("OPTIONS"));
    world.take_all(DIALER);
    world.take_all(PBX_A);
    world.advance(ms(500));
    assert_eq!(world.take(PBX_A, "INVITE").text(), uas.invite.text());
    world.send(DIALER, uac.cancel());
    world.send(PBX_A, uas.reply(180));
    let cancel = world.take(PBX_A, "CANCEL");
    assert_eq!((cancel.uri(), cancel.has("Route")), (uas.invite.uri(), false));
}

#[test]
fn an_answered_call_outlives_the_policy_that_it_began_with() {
    let mut world = World::new(policy());
    let (mut uac, _) = world.answered();
    let mut changed = policy();
    changed.servers = vec![server(2, "pbx-b", PBX_B)];
    world.input(Input::Policy(Arc::new(changed)));
    world.hang_up(DIALER, PBX_A, uac.bye());
    assert_eq!(world.ended_as("Normal", "answered_bye_caller").server.as_deref(), Some("pbx-a"));
    world.settle();
}

#[test]
fn a_retry_after_a_new_policy_goes_to_the_server_that_challenged() {
    let mut world = World::new(policy());
    let (mut uac, uas) = world.called();
    world.fail(&uac, &uas, uas.reply(407));
    let mut changed = policy();
    changed.servers = vec![server(2, "pbx-b", PBX_B)];
    world.input(Input::Policy(Arc::new(changed)));
    let retry = uac.retry();
    let (uac, uas) = world.place(&uac, retry, PBX_A);
    world.fail(&uac, &uas, uas.reply(486));
    world.ended_as("NumberBusy", "peer_final");
    world.settle();
}
