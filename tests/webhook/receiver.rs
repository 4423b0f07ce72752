//! A receiver of webhooks that does as it is told.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;
use standardwebhooks::Webhook;

use crate::wire::PATIENCE;

/// What it does with a request. Events that it answers with a 2xx are taken.
#[derive(Clone, Debug)]
pub enum Act {
    /// This status, with these header lines.
    Status(&'static str, &'static str),
    /// Nothing, until the sender closes.
    Hang,
    /// Closes without an answer.
    Close,
    /// Closes in the middle of the answer's head.
    Tear,
}

pub const OK: Act = Act::Status("204 No Content", "");

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Got {
    pub id: String,
    pub call: String,
    pub kind: String,
    pub was_taken: bool,
    /// The body, as text.
    pub line: String,
    /// Of the connection it came on.
    pub connection: usize,
}

/// A receiver at work. Clones are one.
#[derive(Clone)]
pub struct Receiver {
    pub address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    script: Script,
    got: Vec<Got>,
    now: usize,
    most: usize,
    connections: usize,
    streams: Vec<TcpStream>,
    is_down: bool,
    wrong: Vec<String>,
}

type Rule = Box<dyn Fn(&Got) -> Option<Act> + Send>;

#[derive(Default)]
struct Script {
    /// For the next requests, whatever they are.
    next: VecDeque<Act>,
    /// For all requests that it fits, once `next` is used up.
    rule: Option<Rule>,
}

pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

impl Receiver {
    /// On a free port of loopback.
    pub fn start() -> Receiver {
        Receiver::serve(TcpListener::bind("127.0.0.1:0").unwrap(), |stream| Box::new(stream))
    }

    /// The same, with what makes a stream of a connection.
    pub fn serve(listener: TcpListener, wrap: fn(TcpStream) -> Box<dyn Stream>) -> Receiver {
        let receiver = Receiver { address: listener.local_addr().unwrap(), state: Arc::default() };
        let this = receiver.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut state = this.state();
                if state.is_down {
                    // As near to nobody listening as a bound port comes.
                    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                    continue;
                }
                state.connections += 1;
                let connection = state.connections;
                state.streams.push(stream.try_clone().unwrap());
                drop(state);
                let this = this.clone();
                std::thread::spawn(move || this.talk(wrap(stream), connection));
            }
        });
        receiver
    }

    pub fn url(&self) -> String {
        format!("http://{}/hooks/calls?key=T0K3N", self.address)
    }

    /// Does this with the next requests.
    pub fn next(&self, acts: impl IntoIterator<Item = Act>) {
        self.state().script.next.extend(acts);
    }

    /// Does this with every request that the rule fits.
    pub fn rule(&self, rule: impl Fn(&Got) -> Option<Act> + Send + 'static) {
        self.state().script.rule = Some(Box::new(rule));
    }

    /// Takes everything from here on.
    pub fn take_all(&self) {
        self.state().script = Script::default();
    }

    /// Resets every connection, and those that come.
    pub fn go_down(&self) {
        let mut state = self.state();
        state.is_down = true;
        state.streams.drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }

    pub fn come_back(&self) {
        self.state().is_down = false;
    }

    /// Waits until what came says yes.
    pub fn wait(&self, what: &str, is_there: impl Fn(&[Got]) -> bool) -> Vec<Got> {
        let (state, changed) = &*self.state;
        let waits = |state: &mut State| !is_there(&state.got) && state.wrong.is_empty();
        let (state, timeout) = changed.wait_timeout_while(state.lock().unwrap(), 3 * PATIENCE, waits).unwrap();
        assert_eq!(state.wrong, [""; 0]);
        assert!(!timeout.timed_out(), "waited in vain for {what}: {} requests", state.got.len());
        state.got.clone()
    }

    /// Waits until so many different events were taken; each call's came in order. Returns every request.
    pub fn wait_for_events(&self, count: usize) -> Vec<Got> {
        let got = self.wait(&format!("{count} events"), |got| taken(got).len() >= count);
        assert_eq!(taken(&got).len(), count);
        assert_in_order(&got);
        got
    }

    pub fn count(&self) -> usize {
        self.state().got.len()
    }

    /// How many requests were under way at once.
    pub fn most_at_once(&self) -> usize {
        self.state().most
    }

    fn talk(&self, mut stream: Box<dyn Stream>, connection: usize) {
        let mut buffer = Vec::new();
        while let Ok(Some((head, body))) = read_request(&mut stream, &mut buffer) {
            let act = self.on_request(&head, body, connection);
            let went_well = match act {
                Act::Status(status, headers) => {
                    let answer = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\n\r\n");
                    let status =
                        if status.starts_with("204") { answer.replace("Content-Length: 0\r\n", "") } else { answer };
                    self.state().now -= 1;
                    stream.write_all(status.as_bytes()).and_then(|()| stream.flush()).is_ok()
                }
                Act::Hang => {
                    let mut rest = [0; 1];
                    drop(stream.read(&mut rest));
                    self.state().now -= 1;
                    false
                }
                Act::Close | Act::Tear => {
                    if matches!(act, Act::Tear) {
                        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le").and_then(|()| stream.flush()));
                    }
                    self.state().now -= 1;
                    false
                }
            };
            if !went_well {
                return;
            }
        }
    }

    /// Verifies a request and notes it; says what to do.
    fn on_request(&self, head: &str, body: Vec<u8>, connection: usize) -> Act {
        let mut state = self.state();
        state.now += 1;
        state.most = state.most.max(state.now);
        let headers: http::HeaderMap = head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap()))
            .collect();
        if let Err(error) = Webhook::new(SECRET).unwrap().verify(&body, &headers) {
            state.wrong.push(format!("{error}: {head}"));
        }
        let line = String::from_utf8(body).unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let id = text(&event["id"]);
        let is_right = headers["webhook-id"] == *id
            && headers["content-type"] == "application/cloudevents+json"
            && head.starts_with("POST /hooks/calls?key=T0K3N HTTP/1.1\r\n");
        if !is_right {
            state.wrong.push(head.to_owned());
        }
        let kind = id.split('/').nth(1).unwrap_or_default().to_owned();
        let mut got = Got { id, call: text(&event["subject"]), kind, was_taken: false, line, connection };
        let act = state.script.next.pop_front();
        let act = act.or_else(|| state.script.rule.as_ref().and_then(|rule| rule(&got))).unwrap_or(OK);
        got.was_taken = matches!(act, Act::Status(status, _) if status.starts_with('2'));
        state.got.push(got);
        drop(state);
        self.state.1.notify_all();
        act
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap()
    }
}

/// The different events that were taken, by id.
pub fn taken(got: &[Got]) -> BTreeMap<&str, &Got> {
    got.iter().filter(|got| got.was_taken).map(|got| (&*got.id, got)).collect()
}

/// No event comes before an earlier one of its call was taken.
fn assert_in_order(got: &[Got]) {
    const KINDS: [&str; 4] = ["started", "ringing", "answered", "ended"];
    if got.iter().all(|got| got.kind == "ended") {
        return;
    }
    let mut reached: BTreeMap<&str, usize> = BTreeMap::new();
    for got in got {
        let rank = KINDS.iter().position(|kind| *kind == got.kind).expect("a kind of event");
        let reached = reached.entry(&got.call).or_default();
        // One that was taken may come again, while it was not confirmed.
        assert!(rank <= *reached, "{} came too early", got.id);
        if got.was_taken {
            *reached = rank + 1;
        }
    }
}

/// Head and body of the next request; `None` where the sender has closed.
fn read_request(stream: &mut dyn Read, buffer: &mut Vec<u8>) -> io::Result<Option<(String, Vec<u8>)>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end + 2]).into_owned();
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let length: usize = length.unwrap_or_default();
            if buffer.len() >= end + 4 + length {
                let rest = buffer.split_off(end + 4 + length);
                let body = buffer.split_off(end + 4);
                *buffer = rest;
                return Ok(Some((head, body)));
            }
        }
        let mut more = [0; 4_096];
        match stream.read(&mut more)? {
            0 => return Ok(None),
            size => buffer.extend_from_slice(&more[..size]),
        }
    }
}

/// Plain or through TLS.
pub trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}
