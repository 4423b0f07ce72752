//! Calls over TCP outlive their process: connections do not, and peers come back by others.

use std::time::Duration;

use sipstamp::endpoint::Input;
use sipstamp::flow::{ConnectionId, Flow, Transport};

use crate::support::{PBX_A, SIDECAR, Uas, World, ms, policy, secs};

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
