//! Requests that are on their way when the process is killed.

use crate::support::{DIALER, PBX_A, World, ms, ok, policy};

#[test]
fn a_bye_is_answered_by_the_response_that_comes_after_the_restart() {
    let mut world = World::with_journal(policy());
    let (mut uac, _uas) = world.answered();
    let bye = uac.bye();
    world.send(DIALER, bye);
    let bye = world.take(PBX_A, "BYE");
    world.restart(ms(100));
    world.nothing_sent();
    world.advance(ms(500));
    let again = world.take(PBX_A, "BYE");
    assert_eq!(again.text(), bye.text());
    world.send(PBX_A, ok(&bye));
    world.take(DIALER, "200");
    let call = world.ended_as("Normal", "answered_bye_caller");
    assert!(call.anomalies.is_empty());
    world.settle();
}
