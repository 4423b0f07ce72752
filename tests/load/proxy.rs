//! A stateless proxy that record-routes and stamps, and spoils what it is told to.

use std::net::{SocketAddr, UdpSocket};
use std::thread::JoinHandle;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Invite,
    Ringing,
    Answer,
    Ack,
    Bye,
    Ended,
}

/// Does something to a message that is about to leave: alone in the list, which is what will leave.
pub trait Spoil: FnMut(Kind, &mut Vec<String>) + Send + 'static {}

impl<F: FnMut(Kind, &mut Vec<String>) + Send + 'static> Spoil for F {}

/// Before a message: it goes to where it came from.
pub const BACK: &str = "BACK ";
const STOP: &[u8] = b"STOP";

/// A proxy that has its address.
pub struct Proxy<S> {
    socket: UdpSocket,
    spoil: S,
}

/// A proxy at work.
pub struct Running {
    address: SocketAddr,
    thread: JoinHandle<()>,
}

impl<S: Spoil> Proxy<S> {
    pub fn bind(spoil: S) -> Proxy<S> {
        Proxy { socket: UdpSocket::bind("127.0.0.1:0").unwrap(), spoil }
    }

    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    pub fn run(mut self, dialer: SocketAddr, server: SocketAddr) -> Running {
        let address = self.address();
        let thread = std::thread::spawn(move || {
            let mut bytes = vec![0; 65_536];
            loop {
                let (count, from) = self.socket.recv_from(&mut bytes).unwrap();
                if &bytes[..count] == STOP {
                    return;
                }
                let text = String::from_utf8(bytes[..count].to_vec()).unwrap();
                if kind_of(&text) == Kind::Ack && !text.contains("\r\nRoute:") {
                    // Of a failure of the proxy's own: it goes no further.
                    continue;
                }
                let (kind, to) = (kind_of(&text), if from == dialer { server } else { dialer });
                let mut passing = vec![if from == dialer { request(&text, address, dialer) } else { response(&text) }];
                (self.spoil)(kind, &mut passing);
                for message in passing {
                    match message.strip_prefix(BACK) {
                        Some(message) => self.socket.send_to(message.as_bytes(), from).unwrap(),
                        None => self.socket.send_to(message.as_bytes(), to).unwrap(),
                    };
                }
            }
        });
        Running { address, thread }
    }
}

impl Running {
    pub fn stop(self) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(STOP, self.address).unwrap();
        self.thread.join().expect("the proxy is not at fault");
    }
}

/// The first line of this name, without its end.
pub fn line(message: &str, name: &str) -> String {
    let is_named = |line: &&str| line.split(':').next() == Some(name);
    message.split("\r\n").find(is_named).expect("the header is there").to_owned()
}

/// Without the first line of this name.
pub fn remove(message: &str, name: &str) -> String {
    message.replacen(&format!("{}\r\n", line(message, name)), "", 1)
}

/// With another value in the first line of this name.
pub fn replace(message: &str, name: &str, value: &str) -> String {
    message.replacen(&line(message, name), &format!("{name}: {value}"), 1)
}

fn kind_of(message: &str) -> Kind {
    match (message.get(..4), message.contains("\r\nCSeq: 2 ")) {
        (Some("INVI"), _) => Kind::Invite,
        (Some("ACK "), _) => Kind::Ack,
        (Some("BYE "), _) => Kind::Bye,
        (_, true) => Kind::Ended,
        _ if message.starts_with("SIP/2.0 180") => Kind::Ringing,
        _ => Kind::Answer,
    }
}

fn request(message: &str, proxy: SocketAddr, dialer: SocketAddr) -> String {
    let is_first = message.starts_with("INVITE");
    let branch = message.split(";branch=z9hG4bK").nth(1).and_then(|rest| rest.split("\r\n").next()).unwrap();
    let via = format!("Via: SIP/2.0/UDP {proxy};branch=z9hG4bK-proxy{branch}\r\nVia:");
    let message = message.replacen(";rport;", &format!(";rport={};", dialer.port()), 1);
    let message = replace(&message, "Max-Forwards", "69").replacen("Via:", &via, 1);
    if is_first {
        message.replacen("Via:", &format!("Record-Route: <sip:{proxy};lr>\r\nVia:"), 1)
    } else if message.contains("\r\nRoute:") {
        remove(&message, "Route")
    } else {
        message
    }
}

fn response(message: &str) -> String {
    let message = remove(message, "Via");
    let stamp = if message.starts_with("SIP/2.0 200") { "Call-Outcome: Normal;id=1\r\n" } else { "" };
    message.replacen("\r\n\r\n", &format!("\r\n{stamp}\r\n"), 1)
}
