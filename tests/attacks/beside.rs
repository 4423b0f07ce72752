//! Who calls beside an attack: one inbound call after another, each with all of RFC 3261's retransmissions.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::ports::wait_for;
use crate::wire::{Message, Wire};

/// Whence the calls come.
pub const CARRIER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 30);
/// Where they go.
const PLATFORM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 10);
/// From the end of one call to the next.
const PAUSE: Duration = Duration::from_millis(200);
const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
/// Timers B and F, and how long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(32);

/// The caller at work.
pub struct Beside {
    is_over: Arc<AtomicBool>,
    completed: Arc<AtomicUsize>,
    caller: JoinHandle<HashSet<String>>,
}

/// When a message goes out again: T1, 2·T1, … up to a limit.
struct Again {
    at: Instant,
    interval: Duration,
    most: Duration,
}

struct Caller {
    sidecar: SocketAddr,
    by_tcp: bool,
    wire: Wire,
    /// For answers that come again.
    acks: HashMap<String, String>,
}

impl Beside {
    pub fn start(sidecar: SocketAddr, by_tcp: bool) -> Beside {
        let (is_over, completed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (ends, counts) = (is_over.clone(), completed.clone());
        let caller = std::thread::spawn(move || {
            let mut caller = Caller { sidecar, by_tcp, wire: connect(sidecar, by_tcp), acks: HashMap::new() };
            let mut calls = HashSet::new();
            while !ends.load(Ordering::Relaxed) {
                let id = format!("beside-{}", calls.len());
                caller.call(&id);
                calls.insert(id);
                counts.fetch_add(1, Ordering::Relaxed);
                std::thread::park_timeout(PAUSE);
            }
            calls
        });
        Beside { is_over, completed, caller }
    }

    /// Waits until so many more calls are complete.
    pub fn await_calls(&self, more: usize) {
        let until = self.completed.load(Ordering::Relaxed) + more;
        let is_there = || match self.completed.load(Ordering::Relaxed) >= until {
            false if self.caller.is_finished() => Err("the caller beside has failed".to_owned()),
            is_there => Ok(is_there.then_some(())),
        };
        wait_for("calls beside", TIMEOUT * 2, is_there).unwrap();
    }

    /// The Call-IDs of all its calls, each of which was answered and hung up.
    pub fn end(self) -> HashSet<String> {
        self.await_calls(1);
        self.is_over.store(true, Ordering::Relaxed);
        self.caller.join().expect("every call beside completes")
    }
}

/// Whom the calls beside reach: it answers at once, and again until it hears the ACK (RFC 3261 §13.3.1.4).
pub fn platform() -> SocketAddr {
    let socket = UdpSocket::bind((PLATFORM, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut open: HashMap<String, (String, SocketAddr, Again)> = HashMap::new();
        let mut buffer = [0; 4_096];
        loop {
            let now = Instant::now();
            for (answer, from, again) in open.values_mut() {
                if again.is_due(now) {
                    socket.send_to(answer.as_bytes(), *from).unwrap();
                }
            }
            let due = open.values().map(|(_, _, again)| again.at).min().unwrap_or(now + TIMEOUT);
            socket.set_read_timeout(Some(left(now, due))).unwrap();
            let Ok((size, from)) = socket.recv_from(&mut buffer) else { continue };
            let message = Message(String::from_utf8_lossy(&buffer[..size]).into_owned());
            let respond = |status| message.response(status, address);
            let id = message.call_id().to_owned();
            match (message.code(), message.method()) {
                (None, "INVITE") => {
                    socket.send_to(respond("180 Ringing").as_bytes(), from).unwrap();
                    let answer = respond("200 OK");
                    socket.send_to(answer.as_bytes(), from).unwrap();
                    open.insert(id, (answer, from, Again::new(T2)));
                }
                (None, "ACK") => drop(open.remove(&id)),
                (None, _) => {
                    open.remove(&id);
                    socket.send_to(respond("200 OK").as_bytes(), from).unwrap();
                }
                (Some(_), _) => {}
            }
        }
    });
    address
}

impl Caller {
    /// INVITE, 180, 200, ACK, BYE, 200.
    fn call(&mut self, id: &str) {
        if self.by_tcp {
            self.wire = connect(self.sidecar, true);
        }
        let invite = self.request("INVITE", "sip:+15550188@example.net", id, 1, "<sip:+15550188@example.net>", "");
        let answer = self.ask(&invite, id, "INVITE", Duration::MAX);
        let routes = answer.values("Record-Route").collect::<Vec<_>>();
        let routes = routes.iter().rev().map(|route| format!("Route: {route}\r\n")).collect::<String>();
        let target = answer.value("Contact").trim_matches(['<', '>']);
        let ack = self.request("ACK", target, id, 1, answer.value("To"), &routes);
        self.wire.send(&ack);
        self.acks.insert(id.to_owned(), ack);
        let bye = self.request("BYE", target, id, 2, answer.value("To"), &routes);
        self.ask(&bye, id, "BYE", T2);
    }

    /// Sends a request until there is a response (§17.1.1.2, §17.1.2.2), and waits for the 200.
    fn ask(&mut self, request: &str, id: &str, method: &str, most: Duration) -> Message {
        self.wire.send(request);
        let mut again = Again::new(most);
        let mut is_heard = self.by_tcp;
        let give_up = Instant::now() + TIMEOUT;
        loop {
            let now = Instant::now();
            assert!(now < give_up, "{id}: no answer to {method}");
            if !is_heard && again.is_due(now) {
                self.wire.send(request);
            }
            let due = if is_heard { give_up } else { again.at.min(give_up) };
            let Some(message) = receive_within(&mut self.wire, left(now, due)) else { continue };
            match (message.code(), message.method()) {
                (Some(100..200), of) if message.call_id() == id && of == method => is_heard |= method == "INVITE",
                (Some(200), of) if message.call_id() == id && of == method => return message,
                (Some(200), "INVITE") => self.wire.send(&self.acks[message.call_id()]),
                // Of an earlier call.
                (Some(_), _) if message.call_id() != id => {}
                _ => panic!("{id}: not expected to {method}: {message:?}"),
            }
        }
    }

    fn request(&self, method: &str, uri: &str, id: &str, cseq: u32, to: &str, routes: &str) -> String {
        let (transport, local) = (self.wire.name(), self.wire.local());
        let parameter = if self.by_tcp { ";transport=tcp" } else { "" };
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/{transport} {local};branch=z9hG4bK{id}{method}\r\n{routes}\
             Max-Forwards: 70\r\nFrom: <sip:+15550111@example.net>;tag=carrier\r\nTo: {to}\r\nCall-ID: {id}\r\n\
             CSeq: {cseq} {method}\r\nContact: <sip:{local}{parameter}>\r\nContent-Length: 0\r\n\r\n"
        )
    }
}

impl Again {
    fn new(most: Duration) -> Again {
        Again { at: Instant::now() + T1, interval: T1, most }
    }

    /// Whether it is time; the next time is later.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.at <= now;
        if is_due {
            self.interval = (self.interval * 2).min(self.most);
            self.at = now + self.interval;
        }
        is_due
    }
}

fn connect(sidecar: SocketAddr, by_tcp: bool) -> Wire {
    if !by_tcp {
        let socket = UdpSocket::bind((CARRIER, 0)).unwrap();
        socket.connect(sidecar).unwrap();
        return Wire::udp(socket, sidecar);
    }
    Wire::tcp(super::connections::connect(CARRIER, sidecar).expect("a connection for a call beside"))
}

fn receive_within(wire: &mut Wire, time: Duration) -> Option<Message> {
    match wire {
        Wire::Udp(socket, _) => {
            let mut buffer = [0; 4_096];
            socket.set_read_timeout(Some(time)).unwrap();
            let size = socket.recv(&mut buffer).ok()?;
            Some(Message(String::from_utf8_lossy(&buffer[..size]).into_owned()))
        }
        Wire::Tcp(stream, buffer) => {
            if !buffer.windows(4).any(|window| window == b"\r\n\r\n") {
                let mut more = [0; 4_096];
                stream.set_read_timeout(Some(time)).unwrap();
                match stream.read(&mut more) {
                    Ok(size) if size > 0 => buffer.extend_from_slice(&more[..size]),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    closed => panic!("the connection of a call beside is closed: {closed:?}"),
                }
                return None;
            }
            wire.receive()
        }
    }
}

/// Until then; never nothing, which a socket takes for no limit.
fn left(now: Instant, until: Instant) -> Duration {
    until.saturating_duration_since(now).max(Duration::from_millis(1))
}
