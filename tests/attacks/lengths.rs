//! Heads as long as they may be, in every shape: twice the size takes about twice the time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use super::connections::connect;
use super::target::{AT_LEISURE, PBX, Target, alone, receive, socket};
use crate::ports::DIALER;
use crate::wire::{Message, PATIENCE};

/// Bytes of the smaller head; the other one has twice as many.
const SIZE: usize = 30_000;
/// Messages of a run, and runs of each size. The shortest run counts: the others were disturbed.
const MESSAGES: usize = 8;
const RUNS: usize = 3;
/// Time of the larger head over that of the smaller one. Linear is 2, quadratic 4.
const MOST: f64 = 3.0;
/// Below this a run tells nothing, in ns for a message.
const LEAST: u64 = 20_000;
/// In MiB, of a debug build. Measured: 67 to 85.
const MEMORY: u64 = 192;

/// Lines of a head that together have about so many bytes.
type Shape = fn(usize) -> String;

/// So many repetitions of a text as make that many bytes.
fn filled(size: usize, text: &str) -> String {
    text.repeat(size / text.len())
}

fn list(name: &str, size: usize, value: &str) -> String {
    let value = format!("{value}, ");
    format!("{name}: {}\r\n", filled(size, &value).trim_end_matches(", "))
}

const SHAPES: [(&str, Shape); 18] = [
    ("one long field", |size| format!("Subject: {}\r\n", filled(size, "a"))),
    ("one long name", |size| format!("{}: a\r\n", filled(size, "a"))),
    ("many fields", |size| {
        let value = filled(size / 400, "b");
        (0..400).map(|number| format!("X-{number}: {value}\r\n")).collect()
    }),
    ("more fields than there may be", |size| filled(size, "X: y\r\n")),
    ("many Vias", |size| list("Via", size, "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKa")),
    ("many Routes", |size| list("Route", size, "<sip:192.0.2.1;lr>")),
    ("many Contacts", |size| list("Contact", size, "<sip:a@192.0.2.1>")),
    ("many Record-Routes", |size| list("Record-Route", size, "<sip:192.0.2.1;lr>")),
    ("many own Routes", |size| list("Route", size, "<sip:127.0.0.2:5060;lr>")),
    ("folds", |size| format!("Subject: a{}\r\n", filled(size, "\r\n a"))),
    ("escapes in quotes", |size| format!("Contact: \"{}\" <sip:a@192.0.2.1>\r\n", filled(size, "\\\""))),
    ("quotes that do not close", |size| format!("Contact: {}\r\n", filled(size, "\"a\\\\\" <\""))),
    ("brackets", |size| format!("Route: {}\r\n", filled(size, "<sip:a<"))),
    ("commas", |size| format!("Route: {}\r\n", filled(size, ","))),
    ("semicolons", |size| format!("Via: SIP/2.0/UDP 192.0.2.1{}\r\n", filled(size, ";a"))),
    ("comments", |size| format!("Via: SIP/2.0/UDP 192.0.2.1 {}\r\n", filled(size, "("))),
    ("Proxy-Requires", |size| list("Proxy-Require", size, "a")),
    ("a long User-Agent", |size| format!("User-Agent: {}\r\n", filled(size, "sipvicious-sundayddr-"))),
];

/// Where something else is long than a field of its own.
const LONG_PARTS: [&str; 5] = ["uri", "tag", "call-id", "branch", "parameters"];

fn request(number: usize, lines: &str, long: Option<(&str, usize)>) -> String {
    let part = |name| match long {
        Some((of, size)) if of == name => filled(size, "a"),
        _ => String::new(),
    };
    let parameters = match long {
        Some(("parameters", size)) => filled(size, ";a=b"),
        _ => String::new(),
    };
    format!(
        "MESSAGE sip:{}a@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {DIALER};rport;branch=z9hG4bK{number}{}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:a@example.net>;tag=a{}{parameters}\r\nTo: <sip:b@example.net>\r\n\
         Call-ID: {number}{}\r\nCSeq: 1 MESSAGE\r\n{lines}Content-Length: 0\r\n\r\n",
        part("uri"),
        part("branch"),
        part("tag"),
        part("call-id"),
    )
}

/// By what the messages come.
enum Way {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

struct Scene {
    target: Target,
    way: Way,
    sent: usize,
}

/// A server that answers, by UDP alone: what is long stays in datagrams.
fn server() -> SocketAddr {
    let socket = socket(PBX);
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        loop {
            let Some((message, from)) = receive(&socket, PATIENCE) else { continue };
            if message.code().is_none() {
                socket.send_to(message.response("200 OK", address).as_bytes(), from).unwrap();
            }
        }
    });
    address
}

impl Scene {
    fn start(name: &str, by_tcp: bool) -> Scene {
        let target = Target::start(name, server(), AT_LEISURE);
        let way = if by_tcp { Way::Tcp(dial(target.site.sip())) } else { Way::Udp(socket(DIALER)) };
        Scene { target, way, sent: 0 }
    }

    /// Sends a request, and one behind it that is answered at once: then the first has been dealt with.
    fn exchange(&mut self, text: &str) {
        let fence =
            request(self.sent, "", None).replace("MESSAGE sip:a@", "OPTIONS sip:").replace("MESSAGE", "OPTIONS");
        let sip = self.target.site.sip();
        match &mut self.way {
            Way::Udp(socket) => {
                for message in [text, &fence] {
                    socket.send_to(message.as_bytes(), sip).unwrap();
                }
                let is_fence = |message: &Message| message.method() == "OPTIONS";
                while !is_fence(&receive(socket, PATIENCE).expect("an answer").0) {}
            }
            Way::Tcp(stream) => {
                // It may be refused before it has ended.
                let is_open = stream.write_all(text.as_bytes()).is_ok() && stream.write_all(fence.as_bytes()).is_ok();
                if !is_open || !reads_on(stream, b"1 OPTIONS") {
                    *stream = dial(sip);
                }
            }
        }
    }

    /// CPU time of the worker for a message, in ns.
    fn cost(&mut self, lines: &str, long: Option<(&str, usize)>) -> u64 {
        let run = |scene: &mut Scene| {
            let before = scene.worked();
            for _ in 0..MESSAGES {
                scene.sent += 1;
                let text = request(scene.sent, lines, long);
                scene.exchange(&text);
            }
            (scene.worked() - before) / MESSAGES as u64
        };
        (0..RUNS).map(|_| run(self)).min().unwrap()
    }

    fn worked(&self) -> u64 {
        let work = self.target.site.work();
        work.iter().filter(|(thread, _)| thread.starts_with("sip-")).map(|(_, work)| work).sum()
    }

    fn is_linear(&mut self, name: &str, cost: impl Fn(&mut Scene, usize) -> u64) {
        let [small, large] = [SIZE, 2 * SIZE].map(|size| cost(self, size));
        let ratio = large as f64 / small.max(LEAST) as f64;
        println!("{name}: {small} ns, {large} ns, {ratio:.1}");
        assert!(ratio < MOST, "{name}: {small} ns, {large} ns");
    }

    fn attack(mut self) {
        for (name, shape) in SHAPES {
            self.is_linear(name, |scene, size| scene.cost(&shape(size), None));
        }
        for part in LONG_PARTS {
            self.is_linear(part, |scene, size| scene.cost("", Some((part, size))));
        }
        assert!(self.target.end(MEMORY).is_empty());
    }
}

fn dial(sip: SocketAddr) -> TcpStream {
    let stream = connect(DIALER, sip).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads until this has come; false where the stream ends before.
fn reads_on(stream: &mut TcpStream, wanted: &[u8]) -> bool {
    let (mut seen, mut more) = (Vec::new(), vec![0; 65_536]);
    loop {
        match stream.read(&mut more) {
            Ok(size) if size > 0 => seen.extend_from_slice(&more[..size]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("the stream neither goes on nor ends")
            }
            _ => return false,
        }
        if memchr::memmem::find(&seen, wanted).is_some() {
            return true;
        }
    }
}

#[test]
fn over_udp_twice_the_length_takes_about_twice_the_time() {
    let _alone = alone();
    Scene::start("lengths-udp", false).attack();
}

#[test]
fn over_tcp_twice_the_length_takes_about_twice_the_time() {
    let _alone = alone();
    Scene::start("lengths-tcp", true).attack();
}
