//! Requests inside a dialog: whichever way they go and however they fail, the outcome stays (section 3).

use crate::support::{DIALER, PBX_A, SIDECAR, World, ms, ok, policy, reply_to, secs};

#[test]
fn failures_inside_a_dialog_never_change_the_outcome() {
    for method in ["INVITE", "UPDATE", "INFO", "REFER", "PRACK", "NOTIFY", "FOO"] {
        for code in [481, 488, 491, 500, 403, 408] {
            let mut world = World::new(policy());
            let (mut uac, mut uas) = world.answered();
            world.send(DIALER, uac.request(method));
            let request = world.take(PBX_A, method);
            world.send(PBX_A, reply_to(&request, code, "No", ""));
            let failure = world.take(DIALER, &code.to_string());
            assert_eq!((failure.stamp(), failure.cseq().1), (None, method));
            world.send(PBX_A, uas.request(method));
            let request = world.take(DIALER, method);
            world.send(DIALER, reply_to(&request, code, "No", ""));
            world.take(PBX_A, &code.to_string());
            world.none_ended();
            world.hang_up(DIALER, PBX_A, uac.bye());
            assert_eq!(world.ended_as("Normal", "answered_bye_caller").anomalies, []);
            world.settle();
        }
    }
}

#[test]
fn a_re_invite_has_its_own_100_ack_and_target() {
    let mut world = World::new(policy());
    let (mut uac, _) = world.answered();
    world.send(DIALER, uac.request("INVITE").with("Contact: <sip:moved@10.0.1.6:5066>"));
    world.take(DIALER, "100");
    let request = world.take(PBX_A, "INVITE");
    assert!(!request.has("Record-Route"), "the route set of a dialog stays");
    world.send(PBX_A, ok(&request).with("Contact: <sip:media@10.0.2.20>"));
    let answer = world.take(DIALER, "200");
    assert_eq!(answer.stamp(), None);
    uac.target = "sip:media@10.0.2.20".into();
    let ack = uac.ack();
    world.send(DIALER, ack);
    world.take("10.0.2.20:5060", "ACK");
    world.advance(secs(2));
    world.nothing_sent();
    // Both targets are known here too.
    world.command(|endpoint, now| endpoint.hang_up(now, "call-1")).unwrap();
    assert_eq!(world.take("10.0.1.6:5066", "BYE").uri(), "sip:moved@10.0.1.6:5066");
    assert_eq!(world.take("10.0.2.20:5060", "BYE").uri(), "sip:media@10.0.2.20");
    world.settle();
}

#[test]
fn a_re_invite_can_be_cancelled() {
    let mut world = World::new(policy());
    let (mut uac, _) = world.answered();
    let reinvite = uac.request("INVITE");
    world.send(DIALER, &reinvite);
    let request = world.take(PBX_A, "INVITE");
    world.send(PBX_A, reply_to(&request, 180, "Ringing", ""));
    world.take_all(DIALER);
    let cancel = reinvite.to_string().replacen("INVITE ", "CANCEL ", 1).replace(" INVITE\r\n", " CANCEL\r\n");
    world.send(DIALER, cancel);
    world.take(DIALER, "200");
    let cancel = world.take(PBX_A, "CANCEL");
    world.send(PBX_A, ok(&cancel));
    world.send(PBX_A, reply_to(&request, 487, "Terminated", ""));
    world.take(PBX_A, "ACK");
    world.take(DIALER, "487");
    world.none_ended();
    world.hang_up(DIALER, PBX_A, uac.bye());
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn re_invites_that_cross_are_both_forwarded() {
    let mut world = World::new(policy());
    let (mut uac, mut uas) = world.answered();
    world.send(DIALER, uac.request("INVITE"));
    world.send(PBX_A, uas.request("INVITE"));
    for address in [PBX_A, DIALER] {
        let request = world.take(address, "INVITE");
        world.send(address, reply_to(&request, 491, "Request Pending", ""));
        world.take(address, "ACK");
    }
    assert_eq!((world.take(DIALER, "491").cseq(), world.take(PBX_A, "491").cseq()), ((2, "INVITE"), (1, "INVITE")));
    world.none_ended();
    world.settle();
}

#[test]
fn an_unanswered_re_invite_gets_408_and_the_call_goes_on() {
    let mut world = World::new(policy());
    let (mut uac, _) = world.answered();
    world.send(DIALER, uac.request("INVITE"));
    world.advance(secs(32));
    let timeout = world.take(DIALER, "408");
    assert_eq!(timeout.stamp(), None);
    world.none_ended();
    world.take_all(PBX_A);
    world.hang_up(DIALER, PBX_A, uac.bye());
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn prack_goes_along_the_early_dialog() {
    let mut world = World::new(policy());
    let (mut uac, uas) = world.called();
    world.send(PBX_A, uas.reply(183).with("Require: 100rel").with("RSeq: 1"));
    uac.learn(&world.take(DIALER, "183"));
    world.send(DIALER, uac.request("PRACK").with("RAck: 1 1 INVITE"));
    let prack = world.take(PBX_A, "PRACK");
    assert_eq!((prack.uri(), prack.has("Route")), ("sip:pbx@10.0.2.10:5060", false));
    world.send(PBX_A, ok(&prack));
    world.take(DIALER, "200");
    world.none_ended();
    world.settle();
}

#[test]
fn an_in_dialog_request_of_no_known_call_follows_our_route() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    (uac.to_tag, uac.target) = (Some("gone".into()), "sip:pbx@10.0.2.10:5060".into());
    uac.routes = vec![format!("<sip:{SIDECAR};lr>"), "<sip:10.0.2.99;lr>".into()];
    world.send(DIALER, uac.bye());
    let bye = world.take("10.0.2.99:5060", "BYE");
    assert_eq!(bye.all("Route"), ["<sip:10.0.2.99;lr>"]);
    assert_eq!(bye.uri(), "sip:pbx@10.0.2.10:5060");
    world.settle();
    assert_eq!(world.sample("sipstamp_calls_started_total", &[]), 0);
}

#[test]
fn an_in_dialog_request_of_no_known_call_without_our_route_gets_481() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    uac.to_tag = Some("gone".into());
    for routes in [vec![], vec!["<sip:10.0.2.99;lr>".to_owned()]] {
        for target in ["sip:service@10.0.0.1:5060", "sip:pbx@10.0.2.10:5060"] {
            (uac.routes, uac.target) = (routes.clone(), target.into());
            world.send(DIALER, uac.bye());
            world.only(DIALER, "481");
        }
    }
    world.settle();
    assert_eq!(world.sample("sipstamp_calls_started_total", &[]), 0);
}

#[test]
fn an_ack_of_no_known_call_follows_our_route() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    (uac.to_tag, uac.target) = (Some("gone".into()), "sip:pbx@10.0.2.10:5060".into());
    uac.routes = vec![format!("<sip:{SIDECAR};lr>")];
    world.send(DIALER, uac.ack());
    world.only(PBX_A, "ACK");
    world.settle();
}

#[test]
fn a_dialer_that_keeps_no_route_set_reaches_the_callee() {
    let mut world = World::new(policy());
    let (mut uac, uas) = world.ringing();
    world.send(PBX_A, uas.reply(200));
    let answer = world.take(DIALER, "200");
    uac.to_tag = answer.to_tag().map(str::to_owned);
    uac.target = format!("sip:service@{SIDECAR}");
    let ack = uac.ack();
    world.send(DIALER, ack);
    assert_eq!(world.take(PBX_A, "ACK").uri(), "sip:pbx@10.0.2.10:5060");
    world.advance(secs(40));
    world.none_ended();
    let (bye, _) = world.hang_up(DIALER, PBX_A, uac.bye());
    assert_eq!(bye.uri(), "sip:pbx@10.0.2.10:5060");
    assert_eq!(world.ended_as("Normal", "answered_bye_caller").anomalies, []);
    world.settle();
}

#[test]
fn a_server_that_keeps_no_route_set_reaches_the_dialer() {
    let mut world = World::new(policy());
    let (_, mut uas) = world.answered();
    let bye = uas.bye().without("Route");
    world.hang_up(PBX_A, DIALER, bye.clone());
    world.ended_as("Normal", "answered_bye_callee");
    drop(bye);
    world.settle();
}

#[test]
fn a_refer_and_its_notify_pass() {
    let mut world = World::new(policy());
    let (mut uac, mut uas) = world.answered();
    world.send(DIALER, uac.request("REFER").with("Refer-To: <sip:+15550111@10.0.0.1>"));
    let refer = world.take(PBX_A, "REFER");
    world.send(PBX_A, reply_to(&refer, 202, "Accepted", ""));
    world.take(DIALER, "202");
    world.send(PBX_A, uas.request("NOTIFY").with("Event: refer"));
    let notify = world.take(DIALER, "NOTIFY");
    world.send(DIALER, ok(&notify));
    world.take(PBX_A, "200");
    world.advance(ms(10));
    world.none_ended();
    world.settle();
}
