//! Calls over TCP outlive their process: connections do not, and peers come back by others.

use std::time::Duration;

use sipstamp::endpoint::Input;
use sipstamp::flow::{ConnectionId, Flow, Transport};

use crate::support::{PBX_A, SIDECAR, Uas, World, ms, ok, policy, secs};

fn tcp(from: &str, connection: u64) -> Flow {
    Flow {
        transport: Transport::Tcp,
        local: SIDECAR.parse().unwrap(),
        remote: from.parse().unwrap(),
        connection: Some(ConnectionId(connection)),
        opened_for: None,
    }
}

const EPHEMERAL: &str = "10.0.1.5:40001";
const LATER: &str = "10.0.1.5:40002";

/// A call from a dialer over TCP that rings when the sidecar is killed.
fn ringing() -> (World, Uas) {
    let mut world = World::with_journal(policy());
    let mut uac = world.uac();
    uac.transport = "TCP";
    world.send_on(tcp(EPHEMERAL, 1), uac.invite());
    let uas = Uas::new(PBX_A, world.take(PBX_A, "INVITE"), "callee");
    world.send(PBX_A, uas.reply(180));
    world.sent.clear();
    (world, uas)
}

#[test]
fn an_answer_goes_by_the_connection_that_the_dialer_has_come_back_by() {
    let (mut world, uas) = ringing();
    world.restart(ms(100));
    world.sent.clear();
    world.input(Input::Connected { flow: tcp(LATER, 7) });
    let again = world.sent.pop().unwrap();
    assert_eq!((again.msg.kind(), again.connection), ("180", Some(ConnectionId(7))));
    world.send(PBX_A, uas.reply(200));
    let answer = world.sent.pop().unwrap();
    assert_eq!((answer.msg.kind(), answer.connection), ("200", Some(ConnectionId(7))));
    assert_eq!(answer.msg.stamp().map(|(outcome, ..)| outcome), Some("Normal"));
    assert_eq!(world.endpoint.active_calls(), 1);
}

#[test]
fn nothing_is_repeated_to_a_dialer_that_comes_back_after_the_answer() {
    let (mut world, uas) = ringing();
    world.restart(ms(100));
    world.send(PBX_A, uas.reply(200));
    world.sent.clear();
    world.input(Input::Connected { flow: tcp(LATER, 7) });
    world.nothing_sent();
    world.send(PBX_A, uas.reply(200));
    assert_eq!(world.sent.pop().unwrap().connection, Some(ConnectionId(7)), "the server's repeated 200 goes there");
}

#[test]
fn a_call_whose_dialer_does_not_come_back_has_failed_by_the_restart() {
    let (mut world, uas) = ringing();
    world.restart(secs(2));
    world.sent.clear();
    world.advance(secs(27));
    world.none_ended();
    world.advance(Duration::from_millis(1_100));
    world.cancelled(&uas);
    let call = world.ended_as("CallFailed", "restart");
    assert_eq!(call.sip_code, Some(487));
    world.settle();
}

#[test]
fn whatever_its_server_says_to_the_cancel_it_has_failed_by_the_restart() {
    for code in [302, 480, 486, 603] {
        let (mut world, uas) = ringing();
        world.restart(secs(2));
        world.sent.clear();
        world.advance(secs(27));
        world.advance(ms(1_100));
        let cancel = world.take(PBX_A, "CANCEL");
        world.send(PBX_A, ok(&cancel));
        world.send(PBX_A, uas.reply(code));
        world.ended_as("CallFailed", "restart");
        world.take_all(PBX_A);
        world.settle();
    }
}

#[test]
fn a_call_whose_dialer_is_back_and_that_nobody_answers_is_no_answer() {
    let (mut world, uas) = ringing();
    world.restart(secs(2));
    world.input(Input::Connected { flow: tcp(LATER, 7) });
    world.sent.clear();
    world.advance(secs(28));
    world.cancelled(&uas);
    world.ended_as("NoAnswer", "no_answer_timer");
    world.settle();
}

#[test]
fn two_dialers_behind_one_address_get_their_own_responses() {
    let mut world = World::with_journal(policy());
    let flows = [tcp("10.0.1.5:40001", 1), tcp("10.0.1.5:40002", 2)];
    let mut legs = Vec::new();
    for (flow, port) in flows.into_iter().zip([5061, 5062]) {
        let mut uac = world.uac();
        uac.transport = "TCP";
        let via = format!("Via: SIP/2.0/TCP 10.0.1.5:{port};branch={}", uac.branch);
        let invite = uac.invite().put(&via);
        world.send_on(flow, invite);
        let uas = Uas::new(PBX_A, world.take(PBX_A, "INVITE"), "callee");
        world.send(PBX_A, uas.reply(180));
        legs.push(uas);
    }
    world.restart(ms(100));
    world.sent.clear();
    // The first one is back; the second follows.
    world.input(Input::Connected { flow: tcp("10.0.1.5:40011", 7) });
    world.input(Input::Connected { flow: tcp("10.0.1.5:40012", 8) });
    world.sent.clear();
    world.send(PBX_A, legs[1].reply(486));
    let last = world.sent.iter().find(|sent| sent.msg.kind() == "486").unwrap();
    assert_ne!(last.connection, Some(ConnectionId(7)));
}

/// A server over TCP fails a call.
#[test]
fn what_has_failed_over_tcp_is_forgotten() {
    let mut policy = policy();
    policy.servers[0].target = crate::support::target(PBX_A, Transport::Tcp);
    let mut world = World::with_journal(policy);
    let mut uac = world.uac();
    let invite = uac.invite();
    world.send(crate::support::DIALER, invite);
    let mut uas = Uas::new(PBX_A, world.take_sent(PBX_A, "INVITE").msg, "callee");
    uas.transport = "TCP";
    let flow = Flow { opened_for: Some(sipstamp::flow::Side::Telephony), ..tcp(PBX_A, 9) };
    world.send_on(flow, uas.reply(180));
    world.send_on(flow, uas.reply(486));
    let last = world.take(crate::support::DIALER, "486");
    world.send(crate::support::DIALER, uac.ack_of(&last));
    world.settle();
    let stored = world.journal.stored();
    assert_eq!((stored.calls.len(), stored.servers.len(), stored.clients.len()), (0, 0, 0), "nothing is open");
}
