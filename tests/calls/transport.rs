//! Via, rport, connections, sizes: RFC 3261 §18, RFC 3581, case 21.

use sipstamp::endpoint::Input;
use sipstamp::flow::{ConnectionId, Flow, Side, Transport};

use crate::support::{DIALER, PBX_A, SIDECAR, Uac, Uas, World, ms, ok, policy, reply_to, secs, target};

pub(super) fn tcp(remote: &str, connection: u64, opened_for: Option<Side>) -> Flow {
    Flow {
        transport: Transport::Tcp,
        local: SIDECAR.parse().unwrap(),
        remote: remote.parse().unwrap(),
        connection: Some(ConnectionId(connection)),
        opened_for,
    }
}

#[test]
fn received_and_rport_are_filled_in_and_answered_to() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite = uac.invite().put(&format!("Via: SIP/2.0/UDP dialer.example:5999;rport;branch={}", uac.branch));
    world.send("10.0.1.9:33333", invite);
    let trying = world.take("10.0.1.9:33333", "100");
    let via = format!("SIP/2.0/UDP dialer.example:5999;rport=33333;branch={};received=10.0.1.9", uac.branch);
    assert_eq!(trying.one("Via"), via);
    let invite = world.take(PBX_A, "INVITE");
    assert_eq!(invite.all("Via")[1], via);
    world.send(PBX_A, reply_to(&invite, 486, "Busy", "x"));
    assert_eq!(world.take("10.0.1.9:33333", "486").one("Via"), via);
    world.settle();
}

#[test]
fn without_rport_responses_go_to_the_port_of_the_via() {
    for (via, to) in [
        ("10.0.1.9:5999", "10.0.1.9:5999"),
        ("10.0.1.9", "10.0.1.9:5060"),
        ("dialer.example:5999", "10.0.1.9:5999"),
        ("10.0.1.9:5999;maddr=10.0.1.10", "10.0.1.10:5999"),
    ] {
        let mut world = World::new(policy());
        let mut uac = world.uac();
        let invite = uac.invite().put(&format!("Via: SIP/2.0/UDP {via};branch={}", uac.branch));
        world.send("10.0.1.9:33333", invite);
        let trying = world.take(to, "100");
        assert_eq!(trying.one("Via").contains("received=10.0.1.9"), via.starts_with("dialer"), "{via}");
        world.settle();
    }
}

#[test]
fn a_received_that_somebody_forged_is_replaced() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite =
        uac.invite().put(&format!("Via: SIP/2.0/UDP {DIALER};received=192.0.2.66;rport=1;branch={}", uac.branch));
    world.send(DIALER, invite);
    let trying = world.take(DIALER, "100");
    assert!(!trying.one("Via").contains("192.0.2.66"), "{}", trying.one("Via"));
    world.settle();
}

#[test]
fn over_tcp_everything_stays_on_its_connection() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    uac.transport = "TCP";
    let flow = tcp("10.0.1.5:41000", 7, None);
    let invite = uac.invite();
    world.send_on(flow, invite);
    let trying = world.take_sent(DIALER, "100");
    assert_eq!((trying.transport, trying.connection), (Transport::Tcp, Some(ConnectionId(7))));
    let uas = Uas::new(PBX_A, world.take(PBX_A, "INVITE"), "callee");
    assert_eq!(uas.invite.all("Record-Route"), ["<sip:10.0.0.1:5060;lr>", "<sip:10.0.0.1:5060;transport=tcp;lr>"]);
    world.send(PBX_A, uas.reply(200));
    let answer = world.take_sent(DIALER, "200");
    assert_eq!((answer.transport, answer.connection), (Transport::Tcp, Some(ConnectionId(7))));
    uac.learn(&answer.msg);
    let ack = uac.ack();
    world.send_on(flow, ack);
    assert_eq!(world.take_sent(PBX_A, "ACK").transport, Transport::Udp);
    // The server's BYE uses the connection that the dialer used last.
    let mut uas = uas;
    world.send(PBX_A, uas.bye());
    let bye = world.sent.iter().find(|sent| sent.msg.kind() == "BYE").unwrap().clone();
    assert_eq!((bye.transport, bye.connection), (Transport::Tcp, Some(ConnectionId(7))));
    world.send_on(flow, ok(&bye.msg));
    let ended = world.ended_as("Normal", "answered_bye_callee");
    assert_eq!(ended.transport, Transport::Tcp);
    world.settle();
}

#[test]
fn the_other_way_round_the_server_takes_tcp() {
    let mut policy = policy();
    policy.servers[0].target = target(PBX_A, Transport::Tcp);
    let mut world = World::new(policy);
    let mut uac = world.uac();
    let invite = uac.invite();
    world.send(DIALER, invite);
    let sent = world.take_sent(PBX_A, "INVITE");
    assert_eq!((sent.transport, sent.connection, sent.side), (Transport::Tcp, None, Side::Telephony));
    assert!(sent.msg.all("Via")[0].starts_with("SIP/2.0/TCP 10.0.0.1:5060;"));
    assert_eq!(sent.msg.all("Record-Route"), ["<sip:10.0.0.1:5060;transport=tcp;lr>", "<sip:10.0.0.1:5060;lr>"]);
    let flow = tcp(PBX_A, 9, Some(Side::Telephony));
    let mut uas = Uas::new(PBX_A, sent.msg, "callee");
    uas.transport = "TCP";
    uas.contact = format!("<sip:pbx@{PBX_A};transport=tcp>");
    world.send_on(flow, uas.reply(200));
    uac.learn(&world.take(DIALER, "200"));
    let ack = uac.ack();
    world.send(DIALER, ack);
    let ack = world.take_sent(PBX_A, "ACK");
    assert_eq!((ack.transport, ack.connection), (Transport::Tcp, Some(ConnectionId(9))));
    assert!(!ack.msg.has("Route"), "both of ours are gone");
    world.send_on(flow, uas.bye());
    let bye = world.take_sent(DIALER, "BYE");
    assert_eq!((bye.transport, bye.msg.has("Route")), (Transport::Udp, false));
    world.send(DIALER, ok(&bye.msg));
    assert_eq!(world.take_sent(PBX_A, "200").connection, Some(ConnectionId(9)));
    world.ended_as("Normal", "answered_bye_callee");
    world.settle();
}

#[test]
fn a_connection_that_drops_is_no_outcome() {
    let mut policy = policy();
    policy.servers[0].target = target(PBX_A, Transport::Tcp);
    let mut world = World::new(policy);
    let mut uac = world.uac();
    let invite = uac.invite();
    world.send(DIALER, invite);
    world.take(DIALER, "100");
    let sent = world.take_sent(PBX_A, "INVITE");
    let uas = Uas::new(PBX_A, sent.msg, "callee");
    let flow = tcp(PBX_A, 9, Some(Side::Telephony));
    world.send_on(flow, uas.reply(180));
    world.take(DIALER, "180");
    world.input(Input::TransportFailed { owner: sent.owner.unwrap() });
    world.nothing_sent();
    world.none_ended();
    // It comes back on another connection, from which the answer is taken.
    world.send_on(tcp(PBX_A, 10, Some(Side::Telephony)), uas.reply(200));
    uac.learn(&world.take(DIALER, "200"));
    let ack = uac.ack();
    world.send(DIALER, ack);
    assert_eq!(world.take_sent(PBX_A, "ACK").connection, Some(ConnectionId(10)));
    world.settle();
}

#[test]
fn a_message_on_a_connection_that_we_opened_is_its_targets() {
    let mut world = World::new(policy());
    // By its address it would be the dialer's.
    let mut uac = Uac::new("10.0.1.200:5060", "in");
    let invite = uac.invite();
    world.send_on(tcp("10.0.1.200:5060", 3, Some(Side::Telephony)), invite);
    assert_eq!(world.sample("sipstamp_calls_started_total", &[("direction", "inbound")]), 1);
    world.settle();
}

/// An INVITE that is larger than a datagram should be.
fn large(world: &mut World) -> (Uac, String) {
    let mut uac = world.uac();
    let invite = uac.invite().body(&"a=candidate:1 1 UDP 2130706431 10.0.1.5 8998 typ host\r\n".repeat(25)).to_string();
    assert!(invite.len() > 1_300);
    (uac, invite)
}

#[test]
fn a_large_request_goes_by_tcp_where_that_opens() {
    let mut world = World::new(policy());
    let (_, invite) = large(&mut world);
    world.send(DIALER, invite);
    let sent = world.take_sent(PBX_A, "INVITE");
    assert_eq!((sent.transport, sent.connect_timeout), (Transport::Tcp, Some(ms(500))));
    assert!(sent.msg.all("Via")[0].starts_with("SIP/2.0/TCP"));
    assert!(sent.msg.all("Record-Route")[0].contains("transport=tcp"));
    assert_eq!(sent.msg.one("Content-Length"), sent.msg.body().len().to_string());
    world.advance(secs(10));
    assert!(world.sent.iter().all(|sent| sent.msg.kind() != "INVITE"), "no retransmission over TCP");
    world.settle();
}

#[test]
fn a_large_request_goes_by_udp_where_tcp_does_not_open_and_that_is_remembered() {
    let mut world = World::new(policy());
    let (_, invite) = large(&mut world);
    world.send(DIALER, invite);
    let owner = world.take_sent(PBX_A, "INVITE").owner.unwrap();
    world.input(Input::TransportFailed { owner });
    let sent = world.take_sent(PBX_A, "INVITE");
    assert_eq!(sent.transport, Transport::Udp);
    assert!(sent.msg.all("Via")[0].starts_with("SIP/2.0/UDP"));
    assert!(!sent.msg.text().contains("transport=tcp"));
    let uas = Uas::new(PBX_A, sent.msg, "callee");
    world.advance(ms(500));
    assert_eq!(world.take_sent(PBX_A, "INVITE").transport, Transport::Udp);
    world.send(PBX_A, uas.reply(486));
    world.ended_as("NumberBusy", "peer_final");
    for (wait, transport) in [(30, Transport::Udp), (31, Transport::Tcp)] {
        world.advance(secs(wait));
        world.take_all(PBX_A);
        let (_, invite) = large(&mut world);
        world.send(DIALER, invite);
        assert_eq!(world.take_sent(PBX_A, "INVITE").transport, transport);
    }
    world.settle();
}

#[test]
fn a_large_ack_falls_back_to_udp_too() {
    let mut world = World::new(policy());
    let (uac, uas) = world.ringing();
    let (mut uac, _) = world.answer_unacknowledged(uac, uas);
    let ack = uac.ack().body(&"x".repeat(1_400));
    world.send(DIALER, ack);
    let sent = world.take_sent(PBX_A, "ACK");
    assert_eq!(sent.transport, Transport::Tcp);
    world.input(Input::TransportFailed { owner: sent.owner.unwrap() });
    assert_eq!(world.take_sent(PBX_A, "ACK").transport, Transport::Udp);
    world.settle();
}

#[test]
fn a_message_without_content_length_gets_one_on_a_stream() {
    let mut policy = policy();
    policy.servers[0].target = target(PBX_A, Transport::Tcp);
    let mut world = World::new(policy);
    let mut uac = world.uac();
    let invite = uac.invite().to_string().replace("Content-Length: 0\r\n", "") + "v=0";
    world.send(DIALER, invite);
    let sent = world.take(PBX_A, "INVITE");
    assert_eq!((sent.one("Content-Length"), sent.body()), ("3", "v=0"));
    world.settle();
}
