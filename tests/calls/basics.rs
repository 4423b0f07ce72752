//! The everyday calls: answered, busy, not answered, cancelled.

use crate::support::{DIALER, PBX_A, World, ms, policy, secs};

#[test]
fn an_answered_call_that_the_dialer_ends_is_normal() {
    let mut world = World::new(policy());
    let (mut uac, _) = world.answered();
    world.advance(secs(10));
    let (bye, ok) = world.hang_up(DIALER, PBX_A, uac.bye());
    assert!(!bye.has("Call-Outcome"));
    let ended = world.ended();
    assert_eq!(ok.all("Call-Outcome"), [format!("Normal;cause=answered_bye_caller;id={}", ended.call_uid)]);
    assert_eq!(ended.outcome.unwrap().label(), "Normal");
    assert_eq!(ended.end_cause.unwrap().label(), "answered_bye_caller");
    assert_eq!((ended.sip_code, ended.talk_ms), (Some(200), Some(10_000)));
    assert_eq!(world.sample("sipstamp_call_outcomes_total", &[("outcome", "Normal"), ("direction", "outbound")]), 1);
    world.nothing_sent();
    world.settle();
}

#[test]
fn an_answered_call_that_the_server_ends_is_normal() {
    let mut world = World::new(policy());
    let (_, mut uas) = world.answered();
    let (bye, ok) = world.hang_up(PBX_A, DIALER, uas.bye());
    let ended = world.ended();
    assert_eq!(bye.all("Call-Outcome"), [format!("Normal;cause=answered_bye_callee;id={}", ended.call_uid)]);
    assert!(!ok.has("Call-Outcome"));
    assert_eq!(ended.end_cause.unwrap().label(), "answered_bye_callee");
    world.settle();
}

#[test]
fn a_busy_number_is_number_busy() {
    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    let busy = world.fail(&uac, &uas, uas.reply(486));
    let ended = world.ended();
    assert_eq!(busy.all("Call-Outcome"), [format!("NumberBusy;cause=peer_final;id={}", ended.call_uid)]);
    assert_eq!(ended.outcome.unwrap().label(), "NumberBusy");
    assert_eq!(ended.sip_code, Some(486));
    world.nothing_sent();
    world.settle();
}

#[test]
fn a_call_that_nobody_answers_is_no_answer() {
    let mut world = World::new(policy());
    let (uac, uas) = world.ringing();
    world.advance(ms(29_999));
    world.nothing_sent();
    world.advance(ms(1));
    let cancel = world.take(PBX_A, "CANCEL");
    assert_eq!(cancel.all("Reason").len(), 2);
    world.send(PBX_A, crate::support::ok(&cancel));
    world.send(PBX_A, uas.reply(487));
    world.take(PBX_A, "ACK");
    let timeout = world.take(DIALER, "408");
    world.send(DIALER, uac.ack_of(&timeout));
    let ended = world.ended();
    assert_eq!(timeout.all("Call-Outcome"), [format!("NoAnswer;cause=no_answer_timer;id={}", ended.call_uid)]);
    assert_eq!(timeout.all("Reason").len(), 1);
    assert_eq!(ended.outcome.unwrap().label(), "NoAnswer");
    assert_eq!((ended.sip_code, ended.code_source.unwrap().label()), (None, "none"));
    world.settle();
}

#[test]
fn a_cancelled_call_has_failed() {
    let mut world = World::new(policy());
    let (uac, uas) = world.ringing();
    world.send(DIALER, uac.cancel());
    world.take(DIALER, "200");
    let cancel = world.take(PBX_A, "CANCEL");
    world.send(PBX_A, crate::support::ok(&cancel));
    world.send(PBX_A, uas.reply(487));
    world.take(PBX_A, "ACK");
    let terminated = world.take(DIALER, "487");
    world.send(DIALER, uac.ack_of(&terminated));
    let ended = world.ended();
    assert_eq!(terminated.all("Call-Outcome"), [format!("CallFailed;cause=caller_cancel;id={}", ended.call_uid)]);
    assert_eq!(ended.outcome.unwrap().label(), "CallFailed");
    world.nothing_sent();
    world.settle();
}

#[test]
fn a_call_to_the_dialer_is_inbound() {
    let mut world = World::new(policy());
    let mut uac = crate::support::Uac::new(PBX_A, "in");
    let invite = uac.invite();
    let (uac, uas) = world.place(&uac, invite, DIALER);
    let (_, mut uas) = world.answer(uac, uas);
    let (_, ok) = world.hang_up(DIALER, PBX_A, uas.bye());
    assert!(ok.has("Call-ID"));
    let ended = world.ended();
    assert_eq!(ended.direction.label(), "inbound");
    assert_eq!(ended.end_cause.unwrap().label(), "answered_bye_callee");
    world.settle();
}
