//! What is one call and what is another (section 3).

use crate::support::{DIALER, Msg, PBX_A, Uac, Uas, World, ms, ok, policy, secs};

#[test]
fn a_retransmitted_invite_is_no_second_call() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite = uac.invite();
    world.send(DIALER, &invite);
    world.advance(ms(200));
    world.send(DIALER, &invite);
    assert_eq!(world.kinds(DIALER), ["100", "100"]);
    assert_eq!(world.kinds(PBX_A), ["INVITE"]);
    assert_eq!(world.sample("sipstamp_calls_started_total", &[]), 1);
    assert_eq!(world.sample("sipstamp_sip_retransmissions_total", &[("kind", "request_received")]), 1);
    world.settle();
}

#[test]
fn a_retransmitted_invite_gets_the_last_provisional_response_again() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite = uac.invite();
    let (_, uas) = world.place(&uac, invite.clone(), PBX_A);
    world.send(PBX_A, uas.reply(183));
    let progress = world.take(DIALER, "183");
    world.send(DIALER, invite);
    assert_eq!(world.only(DIALER, "183").text(), progress.text());
    world.settle();
}

#[test]
fn the_same_request_on_another_branch_is_merged() {
    let mut world = World::new(policy());
    let (uac, _) = world.ringing();
    let mut other = uac.clone();
    world.send(DIALER, other.invite());
    world.take(DIALER, "100");
    let merged = world.only(DIALER, "482");
    assert!(!merged.has("Call-Outcome"));
    world.send(DIALER, other.ack_of(&merged));
    assert_eq!(world.sample("sipstamp_calls_started_total", &[]), 1);
    assert_eq!(world.sample("sipstamp_sip_rejected_total", &[("reason", "merged")]), 1);
    world.settle();
}

#[test]
fn another_request_uri_makes_another_call() {
    let mut world = World::new(policy());
    let (uac, first) = world.ringing();
    let mut other = uac.clone();
    other.uri = "sip:+15550177@10.0.0.1:5060".into();
    let invite = other.invite();
    let (other, second) = world.place(&other, invite, PBX_A);
    assert_eq!(world.sample("sipstamp_calls_started_total", &[]), 2);
    world.fail(&uac, &first, first.reply(486));
    let one = world.ended_as("NumberBusy", "peer_final");
    world.fail(&other, &second, second.reply(480));
    let two = world.ended_as("NumberUnobtainable", "peer_final");
    assert_ne!(one.call_uid, two.call_uid);
    world.settle();
}

#[test]
fn a_higher_cseq_while_the_first_rings_makes_another_call() {
    let mut world = World::new(policy());
    let (uac, first) = world.ringing();
    let mut other = uac.clone();
    other.cseq = 2;
    let invite = other.invite();
    let (other, second) = world.place(&other, invite, PBX_A);
    world.fail(&other, &second, second.reply(480));
    world.ended_as("NumberUnobtainable", "peer_final");
    world.fail(&uac, &first, first.reply(486));
    world.ended_as("NumberBusy", "peer_final");
    world.settle();
}

#[test]
fn the_same_call_id_after_the_end_is_a_new_call() {
    let mut world = World::new(policy());
    let (mut uac, uas) = world.called();
    world.fail(&uac, &uas, uas.reply(486));
    let first = world.ended();
    uac.cseq += 1;
    let invite = uac.invite();
    let (uac, uas) = world.place(&uac, invite, PBX_A);
    world.fail(&uac, &uas, uas.reply(486));
    let second = world.ended();
    assert_ne!(first.call_uid, second.call_uid);
    assert_eq!(second.parent_call_uid, None);
    world.settle();
}

#[test]
fn a_call_that_comes_back_from_the_other_side_is_a_second_call() {
    let mut world = World::new(policy());
    let (_, uas) = world.called();
    // The server sends it back, as a spiral to the dialer.
    let mut spiral = uas.invite.text().replace("Max-Forwards: 69", "Max-Forwards: 68");
    let via = format!("\r\nVia: SIP/2.0/UDP {PBX_A};branch=z9hG4bKspiral\r\nVia:");
    spiral = spiral.replacen("\r\nVia:", &via, 1);
    world.send(PBX_A, spiral);
    world.take(PBX_A, "100");
    world.take(DIALER, "INVITE");
    assert_eq!(world.sample("sipstamp_calls_started_total", &[("direction", "outbound")]), 1);
    assert_eq!(world.sample("sipstamp_calls_started_total", &[("direction", "inbound")]), 1);
    world.settle();
}

/// What the server passes on of a request that it got: with its Via on top, without its Route.
fn passed_on(request: &Msg, number: u32) -> String {
    let via = format!("\r\nVia: SIP/2.0/UDP {PBX_A};branch=z9hG4bKspiral{number}\r\nVia:");
    let text = request.text().replacen("\r\nVia:", &via, 1).replacen("Max-Forwards: 69", "Max-Forwards: 68", 1);
    text.replacen("Route: <sip:10.0.2.10;lr>\r\n", "", 1)
}

/// The same of a response: without its own Via.
fn passed_back(response: &Msg) -> String {
    let own = response.lines().find(|line| line.starts_with("Via:")).unwrap();
    response.text().replacen(&format!("{own}\r\n"), "", 1)
}

#[test]
fn both_calls_of_a_spiral_go_on_and_end_with_their_own_messages() {
    for by_caller in [true, false] {
        let mut world = World::new(policy());
        let (mut uac, first) = world.called();
        let invite =
            passed_on(&first.invite, 1).replacen("\r\nVia:", "\r\nRecord-Route: <sip:10.0.2.10;lr>\r\nVia:", 1);
        world.send(PBX_A, invite);
        let mut uas = Uas::new(DIALER, world.take(DIALER, "INVITE"), "callee");
        world.take_all(DIALER);
        world.take_all(PBX_A);
        world.send(DIALER, uas.reply(200));
        let answer = world.take(PBX_A, "200");
        world.send(PBX_A, passed_back(&answer));
        uac.learn(&world.take(DIALER, "200"));
        world.send(DIALER, uac.ack());
        let ack = world.take(PBX_A, "ACK");
        world.send(PBX_A, passed_on(&ack, 2));
        world.only(DIALER, "ACK");
        world.advance(secs(60));
        world.nothing_sent();

        let bye = if by_caller { uac.bye() } else { uas.bye() };
        world.send(DIALER, bye);
        let bye = world.only(PBX_A, "BYE");
        world.send(PBX_A, passed_on(&bye, 3));
        let bye = world.only(DIALER, "BYE");
        world.none_ended();
        world.advance(secs(1));
        world.sent.clear();
        world.send(DIALER, ok(&bye));
        let answer = world.only(PBX_A, "200");
        world.send(PBX_A, passed_back(&answer));
        world.only(DIALER, "200");
        let cause = if by_caller { "answered_bye_caller" } else { "answered_bye_callee" };
        let ended = world.ended_events().map(|call| (call.outcome.unwrap().label(), call.end_cause.unwrap().label()));
        assert_eq!(ended.collect::<Vec<_>>(), [("Normal", cause); 2]);
        assert!(world.ended_events().all(|call| call.anomalies.iter().all(|one| one.label() == "no_18x_before_2xx")));
        world.settle();
    }
}

#[test]
fn several_open_calls_with_one_name_are_told_apart_by_uid() {
    let mut policy = policy();
    policy.capture.correlation = Some("Correlation-ID".into());
    let mut world = World::new(policy);
    for number in 0..2 {
        let mut uac = Uac::new(DIALER, &format!("named-{number}"));
        let invite = uac.invite().with("Correlation-ID: lead-7");
        let (_, uas) = world.place(&uac, invite, PBX_A);
        world.send(PBX_A, uas.reply(180));
    }
    assert!(matches!(world.endpoint.call("lead-7"), Err(sipstamp::endpoint::Refusal::Ambiguous(2))));
    let view = world.endpoint.call("named-1").unwrap();
    assert_eq!(view.data.correlation.as_deref(), Some("lead-7"));
    let uid = view.data.call_uid;
    assert_eq!(world.endpoint.call(&uid).unwrap().data.call_id, "named-1");
    let listed = world.endpoint.calls(Default::default(), None, 1);
    assert_eq!(listed.len(), 1);
    let rest = world.endpoint.calls(Default::default(), Some(&listed[0].data.call_uid), 9);
    assert_eq!(rest.len(), 1);
    world.settle();
}

#[test]
fn headers_that_are_captured_ride_along() {
    let mut policy = policy();
    policy.capture.correlation = Some("Correlation-ID".into());
    policy.capture.labels = vec![sipstamp::policy::CapturedLabel {
        label: "campaign".into(),
        header: "Campaign-ID".into(),
        values: vec!["spring".into()],
    }];
    let mut world = World::new(policy);
    for (value, series) in [("spring", "spring"), ("autumn", "other")] {
        let mut uac = Uac::new(DIALER, value);
        let invite =
            uac.invite().with(format!("campaign-id: {value}")).with("Correlation-ID: x").with("Dialing-Mode: preview");
        let (uac, uas) = world.place(&uac, invite, PBX_A);
        assert!(uas.invite.has("Campaign-ID"), "what is not ours stays");
        world.fail(&uac, &uas, uas.reply(486));
        let ended = world.ended();
        assert_eq!(ended.labels["campaign"], value);
        assert_eq!((ended.correlation.as_deref(), ended.dialing_mode.as_deref()), (Some("x"), Some("preview")));
        assert_eq!(world.sample("sipstamp_call_outcomes_total", &[("campaign", series), ("outcome", "NumberBusy")]), 1);
    }
    world.advance(secs(1));
    world.settle();
}

#[test]
fn only_so_many_calls_are_told_apart_by_less_than_their_call_ids() {
    let mut world = World::new(policy());
    for number in 0..100 {
        let mut uac = Uac::new(DIALER, "one-call-id");
        uac.uri = format!("sip:+1555{number:04}@10.0.0.1:5060");
        uac.branch = format!("z9hG4bK-alike-{number}");
        let invite = uac.invite().put(&format!("Via: SIP/2.0/UDP {DIALER};branch=z9hG4bK-alike-{number}"));
        world.send(DIALER, invite);
    }
    let refused = world.kinds(DIALER).iter().filter(|kind| *kind == "482").count();
    assert_eq!((refused, world.endpoint.active_calls()), (36 - 1, 65));
    world.settle();
}
