//! Request-URI, Route, Record-Route: RFC 3261 §16.4 to §16.6, §16.12.

use bytes::Bytes;
use sipstamp::endpoint::Input;
use sipstamp::flow::{Flow, Transport};
use sipstamp::policy::{Listener, Policy};

use crate::support::{DIALER, PBX_A, SIDECAR, Uac, Uas, World, ms, ok, policy, reply_to, secs};

#[test]
fn a_request_uri_that_names_the_sidecar_becomes_the_servers() {
    for (asked, sent) in [
        ("sip:+1555@10.0.0.1:5060", "sip:+1555@10.0.2.10:5060"),
        ("sip:+1555@10.0.0.1", "sip:+1555@10.0.2.10:5060"),
        ("sip:+1555;isub=1@10.0.0.1;user=phone", "sip:+1555;isub=1@10.0.2.10:5060;user=phone"),
        ("sip:+1555@10.0.0.1;transport=tcp;x", "sip:+1555@10.0.2.10:5060;transport=udp;x"),
        ("sip:+1555@carrier.example;transport=tcp", "sip:+1555@carrier.example;transport=tcp"),
        ("sip:+1555@10.0.0.1:5070", "sip:+1555@10.0.0.1:5070"),
        ("tel:+15550199", "tel:+15550199"),
        ("sip:10.0.0.1", "sip:10.0.2.10:5060"),
    ] {
        let mut world = World::new(policy());
        let mut uac = world.uac();
        uac.uri = asked.into();
        let invite = uac.invite();
        let (_, uas) = world.place(&uac, invite, PBX_A);
        assert_eq!(uas.invite.uri(), sent);
        world.settle();
    }
}

#[test]
fn an_advertised_name_is_the_sidecar_too() {
    let mut policy = policy();
    policy.advertise = [None, Some("sbc.example".into())];
    let mut world = World::new(policy);
    let mut uac = world.uac();
    uac.uri = "sip:+1555@SBC.example".into();
    let invite = uac.invite();
    let (_, uas) = world.place(&uac, invite, PBX_A);
    assert_eq!(uas.invite.uri(), "sip:+1555@10.0.2.10:5060");
    assert!(uas.invite.all("Via")[0].starts_with("SIP/2.0/UDP sbc.example:5060;"));
    assert_eq!(uas.invite.all("Record-Route"), ["<sip:sbc.example:5060;lr>", "<sip:10.0.0.1:5060;lr>"]);
    world.settle();
}

#[test]
fn the_invite_bears_our_via_and_record_route() {
    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    let via = uas.invite.all("Via");
    assert!(via[0].starts_with(&format!("SIP/2.0/UDP {SIDECAR};branch=z9hG4bK")), "{via:?}");
    assert_eq!(via[1], format!("SIP/2.0/UDP {DIALER};branch={}", uac.branch));
    assert_eq!(uas.invite.all("Record-Route"), [format!("<sip:{SIDECAR};lr>")]);
    let first = uas.invite.lines().next().unwrap();
    assert!(first.starts_with("Via: SIP/2.0/UDP 10.0.0.1"), "{first}");
    world.settle();
}

#[test]
fn routes_of_an_initial_invite_stay_but_ours() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite = uac.invite().with(format!("Route: <sip:{SIDECAR};lr>, <sip:edge.example;lr>"));
    let (_, uas) = world.place(&uac, invite, PBX_A);
    assert_eq!(uas.invite.all("Route"), ["<sip:edge.example;lr>"]);
    world.settle();
}

fn at(address: &str) -> Listener {
    let address = address.parse().unwrap();
    Listener { transport: Transport::Udp, bound: address, address }
}

#[test]
fn who_has_another_port_of_an_address_of_ours_is_somebody_else() {
    let mut policy = policy();
    policy.listeners.push(at("10.0.2.1:5070"));
    let mut world = World::new(policy);
    let mut uac = world.uac();
    for (uri, is_ours) in [("sip:10.0.2.1:5070", true), ("sip:10.0.2.1:5060", false), ("sip:10.0.0.1:5070", false)] {
        uac.target = uri.into();
        world.send(DIALER, uac.request("OPTIONS"));
        if is_ours {
            world.only(DIALER, "200");
        } else {
            assert_eq!(world.only(PBX_A, "OPTIONS").uri(), uri);
        }
    }
}

#[test]
fn what_leaves_by_tcp_bears_a_port_that_is_listened_on_there() {
    let mut policy = policy();
    let udp = at("10.9.0.1:5070");
    let tcp = [at("10.0.0.1:5060"), udp].map(|one| Listener { transport: Transport::Tcp, ..one });
    policy.listeners = [at("10.0.0.1:5060"), udp].into_iter().chain(tcp).collect();
    policy.servers[0].target.hop.local = udp.address;
    let mut world = World::new(policy);
    let mut uac = world.uac();
    world.send(DIALER, uac.invite().body(&"x".repeat(2_000)));
    let invite = world.take(PBX_A, "INVITE");
    assert!(invite.all("Via")[0].starts_with("SIP/2.0/TCP 10.9.0.1:5070;"), "{invite:?}");
    assert_eq!(invite.all("Record-Route")[0], "<sip:10.9.0.1:5070;transport=tcp;lr>");
}

#[test]
fn a_request_in_a_dialog_that_is_no_call_leaves_by_the_address_that_its_last_route_of_ours_names() {
    let mut policy = policy();
    policy.listeners = vec![at("10.0.0.1:5060"), at("10.9.0.1:5060")];
    policy.servers[0].target.hop.local = "10.9.0.1:5060".parse().unwrap();
    let mut world = World::new(policy);
    let mut uac = world.uac();
    world.send(DIALER, uac.request("SUBSCRIBE"));
    let subscribe = world.take(PBX_A, "SUBSCRIBE");
    assert_eq!(subscribe.all("Record-Route"), ["<sip:10.9.0.1:5060;lr>", "<sip:10.0.0.1:5060;lr>"]);
    world.send(PBX_A, ok(&subscribe).with("Contact: <sip:pbx@10.0.2.10:5060>"));
    uac.learn(&world.take(DIALER, "200"));
    world.send(DIALER, uac.request("SUBSCRIBE"));
    let refresh = world.take_sent(PBX_A, "SUBSCRIBE");
    assert!(refresh.msg.all("Via")[0].contains(" 10.9.0.1:5060;"), "{:?}", refresh.msg);
}

#[test]
fn a_strict_router_in_front_of_us_is_undone() {
    let mut world = World::new(policy());
    let (mut uac, _) = world.answered();
    let bye = uac.bye();
    // The strict router put our URI into the Request-URI and the target to the end of the route.
    let start = format!("BYE {} SIP/2.0", uac.target);
    let strict = bye.without("Route").with(format!("Route: <{}>", uac.target)).to_string();
    world.send(DIALER, strict.replacen(&start, &format!("BYE sip:{SIDECAR};lr SIP/2.0"), 1));
    let bye = world.take(PBX_A, "BYE");
    assert_eq!((bye.uri(), bye.has("Route")), ("sip:pbx@10.0.2.10:5060", false));
    world.send(PBX_A, ok(&bye));
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn a_strict_router_in_front_of_us_is_undone_for_an_ack_too() {
    for further in ["", "<sip:10.0.2.99;lr>, "] {
        let mut world = World::new(policy());
        let (uac, uas) = world.called();
        let (mut uac, _) = world.answer_unacknowledged(uac, uas);
        let ack = uac.ack();
        let start = format!("ACK {} SIP/2.0", uac.target);
        let strict = ack.without("Route").with(format!("Route: {further}<{}>", uac.target)).to_string();
        world.send(DIALER, strict.replacen(&start, &format!("ACK sip:{SIDECAR};lr SIP/2.0"), 1));
        let to = if further.is_empty() { PBX_A } else { "10.0.2.99:5060" };
        let ack = world.only(to, "ACK");
        assert_eq!(ack.uri(), "sip:pbx@10.0.2.10:5060");
        assert_eq!(ack.all("Route").join(", "), further.trim_end_matches(", "));
    }
}

#[test]
fn a_strict_router_behind_us_gets_its_uri_in_the_request_uri() {
    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    world.send(PBX_A, uas.reply(200).topped("Record-Route: <sip:10.0.2.99>"));
    let mut uac = uac;
    uac.learn(&world.take(DIALER, "200"));
    let ack = uac.ack();
    world.send(DIALER, ack);
    let ack = world.take("10.0.2.99:5060", "ACK");
    assert_eq!((ack.uri(), ack.all("Route")), ("sip:10.0.2.99", vec!["<sip:pbx@10.0.2.10:5060>"]));
    // Our own BYE goes the same way.
    world.command(|endpoint, now| endpoint.hang_up(now, "call-1")).unwrap();
    let bye = world.take("10.0.2.99:5060", "BYE");
    assert_eq!((bye.uri(), bye.all("Route")), ("sip:10.0.2.99", vec!["<sip:pbx@10.0.2.10:5060>"]));
    world.settle();
}

#[test]
fn requests_follow_proxies_on_both_sides() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite = uac.invite().with("Record-Route: <sip:10.0.1.77;lr>");
    let (mut uac, uas) = world.place(&uac, invite, PBX_A);
    world.send(PBX_A, uas.reply(200).topped("Record-Route: <sip:10.0.2.99;lr>"));
    let answer = world.take(DIALER, "200");
    assert_eq!(answer.all("Record-Route"), ["<sip:10.0.2.99;lr>", "<sip:10.0.0.1:5060;lr>", "<sip:10.0.1.77;lr>"]);
    uac.learn(&answer);
    uac.routes.remove(0);
    let ack = uac.ack();
    world.send("10.0.1.77:5060", ack);
    let ack = world.take("10.0.2.99:5060", "ACK");
    assert_eq!((ack.uri(), ack.all("Route")), ("sip:pbx@10.0.2.10:5060", vec!["<sip:10.0.2.99;lr>"]));
    world.command(|endpoint, now| endpoint.hang_up(now, "call-1")).unwrap();
    let bye = world.take("10.0.1.77:5060", "BYE");
    assert_eq!((bye.uri(), bye.all("Route")), ("sip:dialer@10.0.1.5:5060", vec!["<sip:10.0.1.77;lr>"]));
    let bye = world.take("10.0.2.99:5060", "BYE");
    assert_eq!(bye.all("Route"), ["<sip:10.0.2.99;lr>"]);
    world.settle();
}

#[test]
fn a_contact_with_a_name_is_resolved_and_the_message_waits() {
    let mut world = World::new(policy());
    let (uac, mut uas) = world.called();
    uas.contact = "<sip:pbx@pbx.example:5070>".into();
    let (mut uac, _) = world.answer_unacknowledged(uac, uas);
    let ack = uac.ack();
    world.send(DIALER, ack);
    world.nothing_sent();
    let (query, name) = world.queries.remove(0);
    assert_eq!(name, "pbx.example");
    world.input(Input::Resolved {
        query,
        addresses: vec!["2001:db8::1".parse().unwrap(), "10.0.2.10".parse().unwrap()],
    });
    assert_eq!(world.only("10.0.2.10:5070", "ACK").uri(), "sip:pbx@pbx.example:5070");
    world.send(DIALER, uac.bye());
    let (query, _) = world.queries.remove(0);
    world.input(Input::Resolved { query, addresses: vec!["10.0.2.10".parse().unwrap()] });
    let bye = world.take("10.0.2.10:5070", "BYE");
    world.send("10.0.2.10:5070", ok(&bye));
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

/// A call whose BYE has to wait for the address of the server's Contact.
fn answered_by_name(policy: Policy) -> (World, Uac, Uas) {
    let mut world = World::new(policy);
    let (uac, mut uas) = world.called();
    uas.contact = "<sip:pbx@pbx.example:5060>".into();
    let (mut uac, uas) = world.answer_unacknowledged(uac, uas);
    world.send(DIALER, uac.ack());
    resolve(&mut world);
    world.take(PBX_A, "ACK");
    (world, uac, uas)
}

fn resolve(world: &mut World) {
    let (query, _) = world.queries.remove(0);
    world.input(Input::Resolved { query, addresses: vec!["10.0.2.10".parse().unwrap()] });
}

#[test]
fn a_bye_that_waits_for_an_address_has_ended_the_call_when_it_came() {
    for is_found in [true, false] {
        let (mut world, mut uac, _) = answered_by_name(policy());
        world.advance(secs(10));
        world.send(DIALER, uac.bye());
        if is_found {
            world.advance(ms(1_500));
            resolve(&mut world);
            let bye = world.take(PBX_A, "BYE");
            world.send(PBX_A, ok(&bye));
            assert_eq!(world.take(DIALER, "200").stamp().map(|(outcome, ..)| outcome), Some("Normal"));
        } else {
            world.advance(secs(5));
            assert_eq!(world.take(DIALER, "503").stamp().map(|(outcome, ..)| outcome), Some("Normal"));
        }
        assert_eq!(world.ended_as("Normal", "answered_bye_caller").talk_ms, Some(10_000));
        world.settle();
    }
}

#[test]
fn a_bye_that_was_early_when_it_came_ends_the_call_when_it_leaves_after_the_2xx() {
    for code in [Some(481), None] {
        let mut world = World::new(policy());
        let (mut uac, mut uas) = world.called();
        uas.contact = "<sip:pbx@pbx.example:5060>".into();
        world.send(PBX_A, uas.reply(180));
        uac.learn(&world.take(DIALER, "180"));
        world.send(DIALER, uac.bye());
        world.send(PBX_A, uas.reply(200));
        world.take(DIALER, "200");
        match code {
            Some(code) => {
                resolve(&mut world);
                let bye = world.take(PBX_A, "BYE");
                world.send(PBX_A, reply_to(&bye, code, "Call Does Not Exist", ""));
                world.take(DIALER, "481");
            }
            None => {
                world.advance(secs(5));
                world.take(DIALER, "503");
            }
        }
        world.ended_as("Normal", "answered_bye_caller");
        world.settle();
    }
}

#[test]
fn of_two_byes_the_first_counts_though_its_address_is_not_known_yet() {
    let (mut world, mut uac, mut uas) = answered_by_name(policy());
    world.send(DIALER, uac.bye());
    world.advance(secs(1));
    world.hang_up(PBX_A, DIALER, uas.bye());
    resolve(&mut world);
    let bye = world.take(PBX_A, "BYE");
    world.send(PBX_A, ok(&bye));
    world.take(DIALER, "200");
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn a_voicemail_drop_counts_though_its_address_is_not_known_yet() {
    let mut policy = policy();
    policy.voicemail_drop.always = true;
    let (mut world, mut uac, mut uas) = answered_by_name(policy);
    world.send(DIALER, uac.bye().with("Voicemail-Drop: true"));
    world.advance(secs(1));
    world.hang_up(PBX_A, DIALER, uas.bye());
    world.advance(secs(2));
    resolve(&mut world);
    world.take_all(PBX_A);
    world.ended_as("VoicemailDrop", "answered_bye_caller");
    world.settle();
}

#[test]
fn a_gateway_whose_name_the_contact_gave_may_end_the_call_itself() {
    let gateway = "192.0.2.50:5070";
    let mut world = World::new(policy());
    let (uac, mut uas) = world.called();
    uas.contact = "<sip:gw@gateway.example:5070>".into();
    let (mut uac, mut uas) = world.answer_unacknowledged(uac, uas);
    world.send(DIALER, uac.ack());
    let (query, _) = world.queries.remove(0);
    world.input(Input::Resolved { query, addresses: vec!["192.0.2.50".parse().unwrap()] });
    world.take(gateway, "ACK");
    uas.address = gateway.into();
    let bye = uas.bye();
    world.hang_up(gateway, DIALER, bye);
    world.ended_as("Normal", "answered_bye_callee");
    world.settle();
}

#[test]
fn a_name_that_is_never_resolved_gets_503() {
    let mut world = World::new(policy());
    let (uac, mut uas) = world.called();
    uas.contact = "<sip:pbx@pbx.example>".into();
    let (mut uac, _) = world.answer_unacknowledged(uac, uas);
    world.send(DIALER, uac.request("INFO"));
    world.advance(secs(5));
    assert_eq!(world.take(DIALER, "503").cseq().1, "INFO");
    assert_eq!(world.sample("sipstamp_sip_rejected_total", &[("reason", "unresolved")]), 1);
    // What comes now is too late.
    let (query, _) = world.queries.remove(0);
    world.input(Input::Resolved { query, addresses: vec!["10.0.2.10".parse().unwrap()] });
    assert_eq!(world.kinds(PBX_A).len(), 0);
    world.settle();
}

#[test]
fn icmp_about_a_bye_ends_the_wait_for_its_answer() {
    let mut world = World::new(policy());
    let (mut uac, _) = world.answered();
    world.send(DIALER, uac.bye());
    let bye = world.take(PBX_A, "BYE");
    let quoted = Bytes::copy_from_slice(bye.text().as_bytes());
    world.input(Input::Unreachable { remote: PBX_A.parse().unwrap(), quoted });
    world.take(DIALER, "503");
    world.ended_as("Normal", "answered_bye_caller");
    world.settle();
}

#[test]
fn a_callee_that_drops_our_record_route_is_still_followed() {
    let mut world = World::new(policy());
    let (uac, mut uas) = world.called();
    world.send(PBX_A, uas.reply(200).without("Record-Route"));
    let mut uac = uac;
    uac.learn(&world.take(DIALER, "200"));
    uac.target = format!("sip:service@{SIDECAR}");
    let ack = uac.ack();
    world.send(DIALER, ack);
    world.take(PBX_A, "ACK");
    let bye = uas.bye().without("Route").to_string();
    let bye = bye.replacen(&format!("BYE sip:dialer@{DIALER}"), &format!("BYE sip:x@{SIDECAR}"), 1);
    world.hang_up(PBX_A, DIALER, bye);
    world.ended_as("Normal", "answered_bye_callee");
    let _: Uas = uas;
    world.settle();
}

#[test]
fn behind_a_wildcard_listener_every_address_that_was_used_is_ours() {
    let mut policy = policy();
    for listener in &mut policy.listeners {
        listener.bound = "0.0.0.0:5060".parse().unwrap();
    }
    let mut world = World::new(policy);
    let other = "10.0.0.9:5060";
    let info = |from: &str, to: &str, routes: [&str; 2], branch: &str| {
        format!(
            "INFO sip:peer@{to} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{branch}\r\nMax-Forwards: 70\r\n\
             Route: <sip:{};lr>, <sip:{};lr>\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=2\r\nCall-ID: {branch}\r\n\
             CSeq: 1 INFO\r\nContent-Length: 0\r\n\r\n",
            routes[0], routes[1]
        )
    };
    let flow = |local: &str, remote: &str| Flow {
        transport: Transport::Udp,
        local: local.parse().unwrap(),
        remote: remote.parse().unwrap(),
        connection: None,
        opened_for: None,
    };
    world.send_on(flow(other, DIALER), info(DIALER, PBX_A, [other, SIDECAR], "there"));
    let there = world.take(PBX_A, "INFO");
    assert!(!there.has("Route"), "{:?}", there.all("Route"));
    world.send_on(flow(SIDECAR, PBX_A), ok(&there));
    world.take(DIALER, "200");
    world.send_on(flow(SIDECAR, PBX_A), info(PBX_A, DIALER, [SIDECAR, other], "back"));
    let back = world.take(DIALER, "INFO");
    assert!(!back.has("Route"), "{:?}", back.all("Route"));
    world.send_on(flow(other, DIALER), ok(&back));
    world.take(PBX_A, "200");
    world.settle();
}
