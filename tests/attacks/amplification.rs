//! One message that is to become many: routes and Vias that name the sidecar or a victim, and peers that send everything back.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::target::{AT_LEISURE, PBX, Target, drain, receive, socket};
use crate::ports::{DIALER, Ports, SIDECAR};
use crate::site::{Site, command};
use crate::wire::Message;

/// In MiB, of a debug build. Measured: 31 to 32.
const MEMORY: u64 = 64;
/// What one message may lead to, at whomever: an INVITE is a 100, an INVITE and the final response, with its ACK.
const MOST: u64 = 4;
/// A request that both ends send back comes to each at least once.
const LEAST_RETURNED: u64 = 2;
/// When nothing has come for so long, all has come.
const QUIET: Duration = Duration::from_millis(40);
/// Somebody who has no part in it.
const VICTIM: Ipv4Addr = Ipv4Addr::new(127, 99, 0, 9);

struct Scene {
    target: Target,
    dialer: UdpSocket,
    server: UdpSocket,
    victim: UdpSocket,
    messages: usize,
}

impl Scene {
    fn start(name: &str, more: &str) -> Scene {
        let [dialer, server, victim] = [DIALER, PBX, VICTIM].map(socket);
        let target = Target::start(name, server.local_addr().unwrap(), more);
        Scene { target, dialer, server, victim, messages: 0 }
    }

    /// Where its own addresses are the dialer's too.
    fn start_among_its_own(name: &str, more: &str) -> Scene {
        let [dialer, server, victim] = [DIALER, PBX, VICTIM].map(socket);
        let own = format!("sources = ['127.0.0.0/28', '127.0.1.0/24']\n{more}");
        let target = Target::start(name, server.local_addr().unwrap(), &own);
        Scene { target, dialer, server, victim, messages: 0 }
    }

    fn victim(&self) -> SocketAddr {
        self.victim.local_addr().unwrap()
    }

    /// A request of the dialer's with these lines behind its own.
    fn request(&mut self, method: &str, uri: &str, lines: &str) -> String {
        let local = self.dialer.local_addr().unwrap();
        self.request_by(method, uri, &format!("{local};rport"), lines)
    }

    fn request_by(&mut self, method: &str, uri: &str, via: &str, lines: &str) -> String {
        self.messages += 1;
        let id = format!("amplified-{}", self.messages);
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {via};branch=z9hG4bK{id}\r\n{lines}\
             From: <sip:a@example.net>;tag=a\r\nTo: <sip:b@example.net>\r\nCall-ID: {id}\r\nCSeq: 1 {method}\r\n\
             Contact: <sip:a@{}>\r\nContent-Length: 0\r\n\r\n",
            self.dialer.local_addr().unwrap()
        )
    }

    /// Sends a message, answers what comes to the server with a 486 or a 200, and returns how many messages came of it,
    /// at the dialer, the server and the victim.
    fn count(&mut self, text: &str) -> [u64; 3] {
        self.dialer.send_to(text.as_bytes(), self.target.site.sip()).unwrap();
        let this = Message(text.to_owned()).call_id().to_owned();
        // Those before may still come again.
        let is_of_this = |message: &Message| message.call_id() == this;
        let mut counts = [0; 3];
        loop {
            let mut is_quiet = true;
            while let Some((message, from)) = receive(&self.server, QUIET) {
                is_quiet = false;
                counts[1] += u64::from(is_of_this(&message));
                let status = if message.method() == "INVITE" { "486 Busy Here" } else { "200 OK" };
                if message.code().is_none() && message.method() != "ACK" {
                    let answer = message.response(status, self.server.local_addr().unwrap());
                    self.server.send_to(answer.as_bytes(), from).unwrap();
                }
            }
            for message in drain(&self.dialer) {
                is_quiet = false;
                counts[0] += u64::from(is_of_this(&message));
                self.acknowledge(text, &message);
            }
            if is_quiet {
                break;
            }
        }
        // Without an answer it comes again.
        let different =
            drain(&self.victim).into_iter().filter(is_of_this).map(|message| message.0).collect::<BTreeSet<_>>();
        counts[2] += different.len() as u64;
        counts
    }

    fn acknowledge(&self, invite: &str, failure: &Message) {
        if failure.method() != "INVITE" || failure.code().is_none_or(|code| code < 300) {
            return;
        }
        let invite = Message(invite.to_owned());
        let ack = format!(
            "ACK sip:b@127.0.0.1 SIP/2.0\r\nVia: {}\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: 1 ACK\r\n\
             Content-Length: 0\r\n\r\n",
            invite.value("Via"),
            failure.value("From"),
            failure.value("To"),
            failure.call_id(),
        );
        self.dialer.send_to(ack.as_bytes(), self.target.site.sip()).unwrap();
    }
}

/// A Route line of so many values, in turn.
fn routes(count: usize, values: &[String]) -> String {
    let values = values.iter().cycle().take(count).cloned().collect::<Vec<_>>();
    format!("Route: {}\r\n", values.join(", "))
}

#[test]
fn routes_that_name_the_sidecar_or_others_make_no_more_of_a_message() {
    let mut scene = Scene::start("routes", AT_LEISURE);
    let port = scene.target.site.sip().port();
    let own = ["127.0.0.1", "127.0.0.2"].map(|ip| format!("<sip:{ip}:{port};lr>"));
    let own_by_tcp = format!("<sip:127.0.0.2:{port};transport=tcp;lr>");
    let strict = format!("<sip:127.0.0.2:{port}>");
    let victim = scene.victim();
    let to_victim = format!("<sip:{victim};lr>");
    let multicast = "<sip:239.1.1.1;maddr=239.1.1.2;ttl=255;lr>".to_owned();
    let shapes = [
        routes(1, &own),
        routes(60, &own),
        routes(60, &[own[0].clone(), own[1].clone(), own_by_tcp.clone()]),
        routes(60, &[own_by_tcp]),
        routes(30, &[strict]),
        routes(30, &[own[0].clone(), to_victim.clone()]),
        routes(30, std::slice::from_ref(&to_victim)),
        routes(5, &[multicast]),
        format!("Record-Route: {to_victim}\r\n").repeat(20),
        format!("Route: {}\r\n", own[1]).repeat(60),
    ];
    let uris = [
        "sip:b@127.0.0.1".to_owned(),
        format!("sip:b@127.0.0.2:{port}"),
        format!("sip:b@127.0.0.1:{port};maddr=127.0.0.2"),
    ];
    for lines in &shapes {
        for uri in &uris {
            for method in ["INVITE", "MESSAGE"] {
                for to in ["", ";tag=unknown"] {
                    let hops = "Max-Forwards: 255\r\n";
                    let text = scene.request(method, uri, &format!("{lines}{hops}"));
                    let text = text.replace("To: <sip:b@example.net>", &format!("To: <sip:b@example.net>{to}"));
                    let counts = scene.count(&text);
                    assert!(counts.iter().sum::<u64>() <= MOST, "{counts:?} of {text}");
                    assert!(counts[2] <= 1, "{counts:?} of {text}");
                }
            }
        }
    }
    drop(scene.target.end(MEMORY));
}

#[test]
fn vias_that_name_others_make_no_more_of_a_message() {
    let mut scene = Scene::start("vias", AT_LEISURE);
    let (victim, local) = (scene.victim(), scene.dialer.local_addr().unwrap());
    let port = victim.port();
    let below = |via: &str| format!("Via: SIP/2.0/UDP {via};branch=z9hG4bKbelow\r\n");
    let shapes = [
        (format!("{local};rport"), below(&victim.to_string()).repeat(60)),
        (format!("{local};rport"), below(&format!("{local};received={VICTIM};rport={port}")).repeat(60)),
        (format!("{local};rport"), below(&format!("{local};maddr={VICTIM};ttl=255")).repeat(60)),
        (format!("{local};rport={port};received={VICTIM}"), String::new()),
        (format!("{VICTIM}:{port};rport"), String::new()),
        (format!("{VICTIM}:{port}"), String::new()),
        (format!("{local};maddr=239.1.1.1;ttl=255"), String::new()),
        (format!("{local};maddr={VICTIM};rport"), String::new()),
    ];
    for (via, lines) in &shapes {
        for method in ["INVITE", "MESSAGE", "CANCEL", "BYE"] {
            for hops in ["Max-Forwards: 255\r\n", "Max-Forwards: 0\r\n", "Max-Forwards: 256\r\n"] {
                let text = scene.request_by(method, "sip:b@127.0.0.1", via, &format!("{lines}{hops}"));
                let counts = scene.count(&text);
                assert!(counts.iter().sum::<u64>() <= MOST, "{counts:?} of {text}");
                assert_eq!(counts[2], 0, "{counts:?} of {text}");
            }
        }
    }
    drop(scene.target.end(MEMORY));
}

/// Messages of SIP that it has sent or received.
fn messages(site: &Site, direction: &str) -> u64 {
    let of = |name| site.metric(name, &[("direction", direction)]);
    of("sipstamp_sip_requests_total") + of("sipstamp_sip_responses_total")
}

/// Sends a message by the first of two sockets, and sends back each request that comes to either. Returns how many that
/// were.
fn echo(sip: SocketAddr, ends: [&UdpSocket; 2], text: &str) -> u64 {
    ends[0].send_to(text.as_bytes(), sip).unwrap();
    let (mut returned, mut seen, mut silence) = (0, BTreeSet::new(), 0);
    loop {
        let mut is_quiet = true;
        for socket in ends {
            while let Some((message, _)) = receive(socket, QUIET) {
                is_quiet = false;
                let is_of_this = text.contains(message.call_id());
                let is_request = is_of_this && message.code().is_none() && message.method() != "ACK";
                if is_request && seen.insert(message.0.clone()) {
                    returned += 1;
                    let via = socket.local_addr().unwrap();
                    let via = format!("\r\nVia: SIP/2.0/UDP {via};branch=z9hG4bK{}-{returned}\r\n", message.call_id());
                    socket.send_to(message.0.replacen("\r\n", &via, 1).as_bytes(), sip).unwrap();
                }
            }
        }
        silence = if is_quiet { silence + 1 } else { 0 };
        // A busy machine may take its time for what must come.
        if silence > 0 && returned >= LEAST_RETURNED || silence > 100 {
            return returned;
        }
    }
}

/// Nobody calls beside here: inbound calls go to the end that sends them back.
#[test]
fn ends_that_send_everything_back_are_stopped_and_get_no_more_than_they_send() {
    let [dialer, server] = [DIALER, PBX].map(socket);
    let [from, to] = [&dialer, &server].map(|end| end.local_addr().unwrap());
    let ports = Ports::claim().unwrap();
    let sip = ports.sip;
    let tables = format!(
        "[listen]\nudp = ['{SIDECAR}:{sip}']\ntcp = ['{SIDECAR}:{sip}']\n[dialer]\nsources = ['{DIALER}/32']\n\
         target = 'sip:{from}'\n{AT_LEISURE}[[telephony.servers]]\nuri = 'sip:{to}'\n"
    );
    let site = Site::start_with("attacks-spirals", ports, 1, &tables, command);
    for method in ["INVITE", "MESSAGE"] {
        for hops in [70, 255] {
            let before = ["received", "sent"].map(|way| messages(&site, way));
            let text = format!(
                "{method} sip:b@{SIDECAR} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bKspiral{hops}{method}\r\n\
                 Max-Forwards: {hops}\r\nFrom: <sip:a@example.net>;tag=a\r\nTo: <sip:b@example.net>\r\n\
                 Call-ID: spiral-{hops}-{method}\r\nCSeq: 1 {method}\r\nContact: <sip:a@{from}>\r\n\
                 Content-Length: 0\r\n\r\n"
            );
            let returned = echo(site.sip(), [&dialer, &server], &text);
            let after = ["received", "sent"].map(|way| messages(&site, way));
            let [received, sent] = [after[0] - before[0], after[1] - before[1]];
            println!("{method}, {hops} hops: {received} received, {sent} sent, {returned} returned");
            assert!((LEAST_RETURNED..=4).contains(&returned), "{method}: {returned} came back before it was stopped");
            // Of those before, some may have been sent again.
            assert!(sent <= received * MOST + 8, "{method}: {sent} for {received}");
        }
    }
    assert_eq!(site.metric("sipstamp_accounting_imbalance", &[]), 0);
    site.end_at_once();
}

#[test]
fn a_sidecar_that_takes_itself_for_a_peer_does_not_talk_to_itself_for_long() {
    let sources = "[timeouts]\nno_answer = '30s'\n";
    let mut scene = Scene::start_among_its_own("itself", sources);
    let port = scene.target.site.sip().port();
    let own = ["127.0.0.1", "127.0.0.2"].map(|ip| format!("<sip:{ip}:{port};lr>"));
    for method in ["INVITE", "MESSAGE"] {
        for to in ["", ";tag=unknown"] {
            for lines in [routes(60, &own), routes(1, &own), String::new()] {
                let uri = format!("sip:b@127.0.0.2:{port}");
                let text = scene.request(method, &uri, &format!("{lines}Max-Forwards: 255\r\n"));
                let text = text.replace("To: <sip:b@example.net>", &format!("To: <sip:b@example.net>{to}"));
                let before = messages(&scene.target.site, "sent");
                let counts = scene.count(&text);
                let sent = messages(&scene.target.site, "sent") - before;
                println!("{method} {to}: {counts:?}, {sent} sent");
                assert!(sent <= 40, "{sent} of {text}");
            }
        }
    }
    drop(scene.target.end(MEMORY));
}
