//! Whose message it is: addresses, prefixes, strangers (section 3).

use sipstamp::policy::Strangers;

use crate::support::{DIALER, PBX_A, PBX_B, Uac, World, ms, net, ok, policy, reply_to, server};

#[test]
fn the_longest_prefix_decides() {
    let mut policy = policy();
    policy.dialer.sources = vec![net("10.0.0.0/8")];
    policy.servers[0].sources = vec![net("10.0.9.0/24")];
    let mut world = World::new(policy);
    for (from, direction) in
        [("10.0.9.1:5060", "inbound"), ("10.0.8.1:5060", "outbound"), (PBX_A, "inbound"), ("10.0.2.10:9999", "inbound")]
    {
        let mut uac = Uac::new(from, from);
        let invite = uac.invite();
        world.send(from, invite);
        assert_eq!(world.sample("sipstamp_calls_started_total", &[("direction", direction)]), 1, "{from}");
        world = {
            world.settle();
            let mut policy = world.endpoint.policy().as_ref().clone();
            policy.lifecycle = false;
            World::new(policy)
        };
    }
}

#[test]
fn a_tie_is_the_dialers() {
    let mut policy = policy();
    policy.servers[0].sources = vec![net("10.0.1.0/24")];
    let mut world = World::new(policy);
    world.called();
    assert_eq!(world.sample("sipstamp_calls_started_total", &[("direction", "outbound")]), 1);
    world.settle();
}

#[test]
fn on_a_shared_address_the_servers_port_tells() {
    let mut policy = policy();
    policy.dialer.sources = vec![net("10.0.2.10/32")];
    let mut world = World::new(policy);
    let mut uac = Uac::new(PBX_A, "from-server");
    let invite = uac.invite();
    world.send(PBX_A, invite);
    let mut uac = Uac::new("10.0.2.10:6000", "from-dialer");
    let invite = uac.invite();
    world.send("10.0.2.10:6000", invite);
    assert_eq!(world.sample("sipstamp_calls_started_total", &[("direction", "inbound")]), 1);
    assert_eq!(world.sample("sipstamp_calls_started_total", &[("direction", "outbound")]), 1);
    world.settle();
}

#[test]
fn a_stranger_gets_nothing_or_403_and_makes_no_call() {
    for strangers in [Strangers::Drop, Strangers::Forbid] {
        let mut policy = policy();
        policy.strangers = strangers;
        let mut world = World::new(policy);
        let mut uac = Uac::new("192.0.2.66:5060", "scan");
        let invite = uac.invite();
        world.send("192.0.2.66:5060", invite);
        match strangers {
            Strangers::Drop => world.nothing_sent(),
            Strangers::Forbid => assert!(world.only("192.0.2.66:5060", "403").to_tag().is_some()),
        }
        let ack = uac.ack();
        world.send("192.0.2.66:5060", ack);
        world.nothing_sent();
        assert_eq!(world.sample("sipstamp_calls_started_total", &[]), 0);
        assert_eq!(world.sample("sipstamp_sip_rejected_total", &[("reason", "stranger")]), 2);
        assert_eq!(world.notices[0].reason, "stranger");
        world.settle();
    }
}

#[test]
fn what_a_stranger_gets_goes_where_its_message_came_from_whatever_its_via_names() {
    let from = "192.0.2.66:5080";
    for via in [
        "192.0.2.66:5080;maddr=203.0.113.9",
        "203.0.113.9:5060",
        "203.0.113.9;rport",
        "192.0.2.66:53",
        "192.0.2.66:53;received=203.0.113.9;rport=53",
    ] {
        let mut policy = policy();
        policy.strangers = Strangers::Forbid;
        let mut world = World::new(policy);
        let invite = Uac::new(from, "scan").invite();
        world.send(from, invite.put(&format!("Via: SIP/2.0/UDP {via};branch=z9hG4bKscan")));
        world.only(from, "403");
        world.settle();
    }
}

#[test]
fn a_response_is_taken_from_any_address_of_the_side_that_was_asked() {
    let mut policy = policy();
    policy.servers[0].sources = vec![net("10.0.3.0/24")];
    policy.servers.push(server(2, "pbx-b", PBX_B));
    let mut world = World::new(policy);
    let (_, uas) = world.called();
    for (from, taken) in
        [("10.0.2.10:40000", true), ("10.0.3.7:5060", true), (PBX_B, true), (DIALER, false), ("192.0.2.66:5060", false)]
    {
        world.send(from, uas.reply(183));
        assert_eq!(world.kinds(DIALER), vec!["183"; usize::from(taken)], "{from}");
    }
    assert_eq!(world.sample("sipstamp_sip_rejected_total", &[("reason", "stranger")]), 2);
    world.settle();
}

#[test]
fn the_other_side_takes_no_place_in_the_transactions_of_the_caller() {
    let mut world = World::new(policy());
    let (uac, uas) = world.ringing();
    // It knows the branch, which is in the Via below ours.
    world.send(PBX_A, uac.cancel());
    world.take(PBX_A, "481");
    world.nothing_sent();
    world.send(DIALER, uac.cancel());
    world.cancelled(&uas);
    world.ended_as("CallFailed", "caller_cancel");
    world.settle();

    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    world.send(PBX_A, uas.reply(486));
    world.take(PBX_A, "ACK");
    let busy = world.take(DIALER, "486");
    world.send(PBX_A, uac.ack_of(&busy));
    world.advance(ms(600));
    world.only(DIALER, "486");
    world.send(DIALER, uac.ack_of(&busy));
    world.ended_as("NumberBusy", "peer_final");
    world.settle();
}

#[test]
fn a_response_that_matches_nothing_is_dropped_and_counted() {
    let mut world = World::new(policy());
    let (_, uas) = world.called();
    world.send(PBX_A, uas.reply(180).put("Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKforged"));
    world.nothing_sent();
    assert_eq!(world.sample("sipstamp_sip_rejected_total", &[("reason", "unmatched_response")]), 1);
    world.settle();
}

#[test]
fn a_gateway_that_the_dialog_names_may_send_its_own_bye() {
    for named_by in ["Contact", "Record-Route"] {
        let mut world = World::new(policy());
        let (uac, mut uas) = world.called();
        let mut answer = uas.reply(200);
        if named_by == "Contact" {
            answer = answer.put("Contact: <sip:gw@198.51.100.7:5070>");
        } else {
            answer = answer.topped("Record-Route: <sip:198.51.100.7;lr>");
        }
        world.send(PBX_A, answer);
        world.take(DIALER, "200");
        drop(uac);
        let gateway = "198.51.100.7:5099";
        uas.address = gateway.into();
        world.send(gateway, uas.bye());
        let bye = world.take(DIALER, "BYE");
        world.send(DIALER, ok(&bye));
        world.take(gateway, "200");
        world.ended_as("Normal", "answered_bye_callee");
        world.settle();
    }
}

#[test]
fn somebody_whom_the_dialog_does_not_name_stays_a_stranger() {
    let mut world = World::new(policy());
    let (_, mut uas) = world.answered();
    uas.address = "198.51.100.7:5060".into();
    world.send("198.51.100.7:5060", uas.bye());
    world.nothing_sent();
    world.none_ended();
    world.settle();
}

#[test]
fn an_inbound_call_without_a_dialer_target_gets_404() {
    let mut policy = policy();
    policy.dialer.target = None;
    let mut world = World::new(policy);
    let mut uac = Uac::new(PBX_A, "in");
    let invite = uac.invite();
    world.send(PBX_A, invite);
    world.take(PBX_A, "100");
    let missing = world.only(PBX_A, "404");
    assert!(!missing.has("Call-Outcome"));
    let ended = world.ended_as("CallFailed", "local_reject");
    assert_eq!((ended.sip_code, ended.code_source.unwrap().label()), (Some(404), "local"));
    assert_eq!((ended.server.as_deref(), ended.attempts.len()), (Some("pbx-a"), 0));
    world.settle();
}

#[test]
fn an_inbound_call_names_the_server_it_came_from_and_one_attempt() {
    let mut world = World::new(policy());
    let mut uac = Uac::new(PBX_A, "in");
    let invite = uac.invite();
    let (uac, uas) = world.place(&uac, invite, DIALER);
    assert_eq!(uas.invite.uri(), "sip:+15550199@10.0.1.5:5060");
    world.fail(&uac, &uas, reply_to(&uas.invite, 480, "Away", "d"));
    let ended = world.ended_as("NumberUnobtainable", "peer_final");
    assert_eq!((ended.server.as_deref(), &*ended.attempts[0].server), (Some("pbx-a"), "dialer"));
    assert_eq!(
        world.sample(
            "sipstamp_server_call_outcomes_total",
            &[("server", "pbx-a"), ("direction", "inbound"), ("outcome", "NumberUnobtainable")]
        ),
        1
    );
    world.settle();
}
