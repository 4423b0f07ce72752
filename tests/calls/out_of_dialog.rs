//! Requests that are no calls: OPTIONS, REGISTER, MESSAGE and whatever else there is (section 3).

use sipstamp::endpoint::Input;

use crate::support::{DIALER, PBX_A, PBX_B, SIDECAR, Uac, World, ms, ok, policy, reply_to, secs, server};

#[test]
fn other_methods_are_forwarded_both_ways_and_are_no_calls() {
    let mut world = World::new(policy());
    for method in ["REGISTER", "MESSAGE", "SUBSCRIBE", "NOTIFY", "PUBLISH", "OPTIONS", "FOO"] {
        for (from, to) in [(DIALER, PBX_A), (PBX_A, DIALER)] {
            let mut uac = Uac::new(from, &format!("{method}-{from}"));
            world.send(from, uac.request(method));
            let request = world.take(to, method);
            assert_eq!(request.uri(), format!("sip:+15550199@{to}"));
            assert_eq!(request.has("Record-Route"), matches!(method, "SUBSCRIBE" | "NOTIFY"));
            world.send(to, reply_to(&request, 404, "Not Found", "x"));
            assert_eq!(world.only(from, "404").all("Via").len(), 1);
        }
    }
    assert_eq!(world.sample("sipstamp_calls_started_total", &[]), 0);
    assert_eq!(world.sample("sipstamp_sip_requests_total", &[("method", "other"), ("direction", "received")]), 2);
    world.settle();
}

#[test]
fn a_notify_makes_the_route_of_its_subscription() {
    let mut world = World::new(policy());
    let mut notifier = Uac::new(PBX_A, "subscribed");
    notifier.to_tag = Some("subscriber".into());
    notifier.target = format!("sip:dialer@{DIALER}");
    notifier.routes = vec![format!("<sip:{SIDECAR};lr>")];
    world.send(PBX_A, notifier.request("NOTIFY"));
    let notify = world.take(DIALER, "NOTIFY");
    assert_eq!(notify.all("Record-Route"), [format!("<sip:{SIDECAR};lr>")]);
    world.send(DIALER, ok(&notify));
    world.take(PBX_A, "200");
    // Inside a call the route is there.
    let (_, mut uas) = world.answered();
    world.send(PBX_A, uas.request("NOTIFY"));
    assert!(!world.take(DIALER, "NOTIFY").has("Record-Route"));
    world.settle();
}

#[test]
fn options_that_name_the_sidecar_without_a_user_are_answered_here() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    uac.target = format!("sip:{SIDECAR}");
    world.send(DIALER, uac.request("OPTIONS"));
    let answer = world.only(DIALER, "200");
    assert!(answer.one("Allow").contains("INVITE"));
    assert!(answer.to_tag().is_some());
    world.input(Input::Drain);
    world.send(DIALER, uac.request("OPTIONS"));
    assert!(world.only(DIALER, "503").has("Retry-After"));
    world.settle();
}

#[test]
fn options_get_503_while_every_server_is_known_to_be_down() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite = uac.invite();
    world.send(DIALER, invite);
    let owner = world.take_sent(PBX_A, "INVITE").owner.unwrap();
    world.input(Input::TransportFailed { owner });
    world.ended();
    world.take_all(DIALER);
    let mut probe = world.uac();
    probe.target = format!("sip:{SIDECAR}");
    world.send(DIALER, probe.request("OPTIONS"));
    world.only(DIALER, "503");
    // It speaks again, and is up.
    let (_, uas) = world.called();
    world.send(PBX_A, uas.reply(100));
    world.send(DIALER, probe.request("OPTIONS"));
    world.only(DIALER, "200");
    world.settle();
}

#[test]
fn a_challenged_register_comes_back_to_its_challenger() {
    let mut policy = policy();
    policy.servers.push(server(2, "pbx-b", PBX_B));
    policy.servers.iter_mut().for_each(|server| server.priority = 1);
    let mut world = World::new(policy);
    let mut found = std::collections::BTreeSet::new();
    for number in 0..20 {
        let mut uac = Uac::new(DIALER, &format!("register-{number}"));
        let mut servers = Vec::new();
        for _ in 0..3 {
            world.send(DIALER, uac.request("REGISTER"));
            let server = if world.sent.iter().any(|sent| sent.to == PBX_A.parse().unwrap()) { PBX_A } else { PBX_B };
            let request = world.take(server, "REGISTER");
            world.send(server, reply_to(&request, 401, "Unauthorized", "x"));
            world.take(DIALER, "401");
            servers.push(server);
        }
        assert!(servers.iter().all(|server| *server == servers[0]), "{servers:?}");
        found.insert(servers[0]);
    }
    assert_eq!(found.len(), 2, "equal servers share");
    world.settle();
}

#[test]
fn no_408_is_made_for_what_is_no_invite() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    world.send(DIALER, uac.request("MESSAGE"));
    world.advance(secs(60));
    assert_eq!(world.kinds(DIALER), ["100"]);
    assert_eq!(world.kinds(PBX_A).len(), 11, "Timer E: 0.5, 1.5, 3.5, 7.5, ... 31.5 s");
    world.settle();
}

#[test]
fn a_100_for_what_is_no_invite_comes_after_t2_less_t1() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let request = uac.request("MESSAGE");
    world.send(DIALER, &request);
    world.advance(ms(3_499));
    assert_eq!(world.kinds(DIALER), [""; 0]);
    world.send(DIALER, &request);
    assert_eq!(world.kinds(DIALER), [""; 0], "nothing to say again yet");
    world.advance(ms(1));
    let trying = world.take(DIALER, "100");
    world.send(DIALER, &request);
    assert_eq!(world.only_to(DIALER, "100").text(), trying.text());
    let message = world.take(PBX_A, "MESSAGE");
    world.send(PBX_A, ok(&message));
    world.take(DIALER, "200");
    world.settle();
}

#[test]
fn an_unreachable_server_gets_the_requester_503() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    world.send(DIALER, uac.request("MESSAGE"));
    let owner = world.take_sent(PBX_A, "MESSAGE").owner.unwrap();
    world.input(Input::TransportFailed { owner });
    world.only(DIALER, "503");
    world.settle();
}
