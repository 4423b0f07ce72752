//! One message that is to become many: routes and Vias that name the sidecar or a victim, and peers that send everything back.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::target::{PBX, Target, drain, receive, socket};
use crate::ports::DIALER;
use crate::wire::Message;

/// In MiB, of a debug build. Measured: 28 to 32.
const MEMORY: u64 = 64;
/// What one message may lead to, at whomever: an INVITE is a 100, an INVITE and the final response, with its ACK.
const MOST: u64 = 4;
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

    /// Messages of SIP that it has sent or received.
    fn messages(&self, direction: &str) -> u64 {
        let of = |name| self.target.site.metric(name, &[("direction", direction)]);
        of("sipstamp_sip_requests_total") + of("sipstamp_sip_responses_total")
    }
}

/// A Route line of so many values, in turn.
fn routes(count: usize, values: &[String]) -> String {
    let values = values.iter().cycle().take(count).cloned().collect::<Vec<_>>();
    format!("Route: {}\r\n", values.join(", "))
}

#[test]
fn routes_that_name_the_sidecar_or_others_make_no_more_of_a_message() {
    let mut scene = Scene::start("routes", "");
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
    let mut scene = Scene::start("vias", "");
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

/// Sends a message, has both ends send back each request that they get, and returns messages that the sidecar received
/// and sent because of it, and how many of them were requests that one end got.
fn echo(scene: &mut Scene, text: &str) -> [u64; 3] {
    let sip = scene.target.site.sip();
    let before = ["received", "sent"].map(|way| scene.messages(way));
    scene.dialer.send_to(text.as_bytes(), sip).unwrap();
    let (mut returned, mut seen) = (0, BTreeSet::new());
    loop {
        let mut is_quiet = true;
        for socket in [&scene.server, &scene.dialer] {
            while let Some((message, _)) = receive(socket, QUIET) {
                is_quiet = false;
                if message.code().is_none() && message.method() != "ACK" && seen.insert(message.0.clone()) {
                    assert!(returned < 100, "it does not stop");
                    returned += 1;
                    let via = socket.local_addr().unwrap();
                    let via = format!("\r\nVia: SIP/2.0/UDP {via};branch=z9hG4bKback{returned}\r\n");
                    let again = message.0.replacen("\r\n", &via, 1);
                    socket.send_to(again.as_bytes(), sip).unwrap();
                }
            }
        }
        if is_quiet {
            break;
        }
    }
    let after = ["received", "sent"].map(|way| scene.messages(way));
    [after[0] - before[0], after[1] - before[1], returned]
}

#[test]
fn ends_that_send_everything_back_are_stopped_and_get_no_more_than_they_send() {
    // Some of these calls nobody answers, or acknowledges: that is to take as little time as it may.
    let mut scene = Scene::start("spirals", "[timeouts]\nt1 = '50ms'\n");
    let port = scene.target.site.sip().port();
    for method in ["INVITE", "MESSAGE"] {
        for uri in ["sip:b@127.0.0.1".to_owned(), format!("sip:b@127.0.0.2:{port}")] {
            let text = scene.request(method, &uri, "Max-Forwards: 255\r\n");
            let [received, sent, returned] = echo(&mut scene, &text);
            println!("{method}: {received} received, {sent} sent, {returned} returned");
            assert!(returned <= 16, "{method}: {returned} came back before it was stopped");
            assert!(sent <= received * MOST, "{method}: {sent} for {received}");
        }
    }
    drop(scene.target.end(MEMORY));
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
                let before = scene.messages("sent");
                let counts = scene.count(&text);
                let sent = scene.messages("sent") - before;
                println!("{method} {to}: {counts:?}, {sent} sent");
                assert!(sent <= 40, "{sent} of {text}");
            }
        }
    }
    drop(scene.target.end(MEMORY));
}
