//! The API over real sockets on loopback, with a loop that answers from a list.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::mpsc;

use super::metrics::{Exposition, Histograms, Processing};
use super::{AdminHandle, Context, Readiness, Sockets, Token, serve};
use crate::control::{Ask, Control, Figures, OwnedSample, ServerStatus, Status};
use crate::endpoint::Refusal;
use crate::event::{CallState, CallView};
use crate::recent::Recent;
use crate::recent::tests::{call_data, push_ended};
use crate::stats::SampleKind;

const DEADLINE: Duration = Duration::from_secs(10);

/// The API with a fake loop behind it.
struct Api {
    handle: AdminHandle,
    recent: Recent,
    readiness: Readiness,
    /// What the workers were asked, in short.
    asked: Arc<Mutex<Vec<String>>>,
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Api {
    fn start() -> Api {
        Api::with_token(None)
    }

    fn with_token(token: Option<&str>) -> Api {
        let listener = || Some(TcpListener::bind("127.0.0.1:0").unwrap());
        let (sender, asks) = mpsc::channel(8);
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = asked.clone();
        std::thread::spawn(move || fake_loop(asks, &log));
        let metrics = Arc::new(Exposition::new());
        let context = Context {
            control: Control(sender),
            recent: Recent::new(10),
            readiness: Readiness::new(),
            metrics,
            figures: Arc::new(|| {
                let histograms = Histograms::new();
                histograms.add_server(crate::policy::ServerId(1), "pbx-a");
                Figures { samples: sink_figures(), histograms: histograms.snapshot() }
            }),
            nats: None,
        };
        let (recent, readiness) = (context.recent.clone(), context.readiness.clone());
        let sockets = Sockets { admin: listener(), metrics: listener() };
        let handle = serve(sockets, Token::new(token), context).unwrap();
        Api { handle, recent, readiness, asked }
    }

    fn admin(&self) -> SocketAddr {
        self.handle.addresses().admin.unwrap()
    }

    fn metrics(&self) -> SocketAddr {
        self.handle.addresses().metrics.unwrap()
    }

    fn get(&self, target: &str) -> Reply {
        exchange(self.admin(), "GET", target, "")
    }

    fn post(&self, target: &str) -> Reply {
        exchange(self.admin(), "POST", target, "Content-Length: 0\r\n")
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let is_meant = |line: &&str| line.split_once(':').is_some_and(|(field, _)| field.eq_ignore_ascii_case(name));
        self.head.lines().find(is_meant).and_then(|line| line.split_once(':')).map(|(_, value)| value.trim())
    }

    /// The detail of a problem with this status.
    fn problem(&self, status: u16) -> String {
        assert_eq!((self.status, self.header("content-type")), (status, Some("application/problem+json")));
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], "about:blank");
        assert!(problem["title"].is_string());
        problem["detail"].as_str().unwrap().to_owned()
    }

    fn uids(&self) -> Vec<String> {
        assert_eq!(self.status, 200, "{}", self.body);
        let calls = self.json()["calls"].as_array().unwrap().clone();
        calls.iter().map(|call| call["call_uid"].as_str().unwrap().to_owned()).collect()
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn exchange(address: SocketAddr, method: &str, target: &str, headers: &str) -> Reply {
    let mut stream = connect(address);
    let request = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head: head.to_owned(), body: body.to_owned() }
}

fn open_call(uid: &str) -> CallView {
    CallView { state: CallState::Ringing, data: call_data(uid, &format!("id of {uid}")) }
}

/// Knows the open calls U1 to U5, of which U2 can't be a voicemail drop, and two calls that are named `twice`.
fn fake_loop(mut asks: mpsc::Receiver<Ask>, asked: &Mutex<Vec<String>>) {
    let find = |id: &str| match id {
        "U1" | "U2" | "a/b@c d" => Ok(open_call(if id.len() == 2 { id } else { "U1" })),
        "twice" => Err(Refusal::Ambiguous(2)),
        _ => Err(Refusal::NotFound),
    };
    let note = |text: String| asked.lock().unwrap().push(text);
    while let Some(ask) = asks.blocking_recv() {
        match ask {
            Ask::Figures(reply) => {
                note("samples".into());
                let histograms = vec![Processing::new().snapshot()];
                reply.send(Figures { samples: core_figures(), histograms }).unwrap();
            }
            Ask::Status(reply) => {
                let address: SocketAddr = "127.0.0.1:5060".parse().unwrap();
                let server = ServerStatus { name: "pbx-a".into(), address, transport: "udp", up: true };
                let listen = BTreeMap::from([("udp", vec![address])]);
                reply.send(Status { listen, draining: false, calls_active: 3, servers: vec![server] }).unwrap();
            }
            Ask::Calls { filter, after, limit, reply } => {
                note(format!("calls {:?} {:?} {after:?} {limit}", filter.state, filter.direction));
                let calls = ["U1", "U2", "U3", "U4", "U5"].into_iter().filter(|uid| Some(*uid) > after.as_deref());
                reply.send(calls.take(limit).map(open_call).collect()).unwrap();
            }
            Ask::Call { id, reply } => reply.send(find(&id)).unwrap(),
            Ask::VoicemailDrop { id, reply } => {
                note(format!("drop {id}"));
                let answer = if id == "U2" { Err(Refusal::Conflict("the call is not progressive")) } else { find(&id) };
                reply.send(answer).unwrap();
            }
            Ask::HangUp { id, reply } => {
                note(format!("hang up {id}"));
                reply.send(find(&id)).unwrap();
            }
            Ask::Drain(reply) => {
                note("drain".into());
                reply.send(()).unwrap();
            }
            Ask::Reload(reply) => {
                let mistakes = "sipstamp.toml:3:1: unknown key `modus`\nsipstamp.toml:9:1: no server";
                let reloads = asked.lock().unwrap().iter().filter(|asked| *asked == "reload").count();
                note("reload".into());
                reply.send(if reloads == 0 { Ok(()) } else { Err(mistakes.into()) }).unwrap();
            }
        }
    }
}

fn sample(name: &'static str, kind: SampleKind, labels: &[(&str, &str)], value: u64) -> OwnedSample {
    let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    OwnedSample { name, kind, labels, value }
}

fn core_figures() -> Vec<OwnedSample> {
    let outbound = ("direction", "outbound");
    vec![
        sample("sipstamp_calls_started_total", SampleKind::Counter, &[outbound], 12),
        sample("sipstamp_call_outcomes_total", SampleKind::Counter, &[("outcome", "Normal"), outbound], 9),
        sample("sipstamp_call_outcomes_total", SampleKind::Counter, &[("outcome", "CallFailed"), outbound], 0),
        sample("sipstamp_calls_active", SampleKind::Gauge, &[("state", "ringing"), outbound], 3),
    ]
}

fn sink_figures() -> Vec<OwnedSample> {
    vec![
        sample("sipstamp_events_delivered_total", SampleKind::Counter, &[("sink", "file")], 9),
        sample("sipstamp_events_pending", SampleKind::Gauge, &[("sink", "file")], 1),
    ]
}

#[test]
fn probes_tell_whether_calls_may_come() {
    let api = Api::start();
    assert_eq!(api.get("/livez").status, 200);
    assert!(api.get("/readyz").problem(503).starts_with("starting"));
    api.readiness.set_ready();
    assert_eq!(api.get("/readyz").status, 200);
    assert_eq!(exchange(api.metrics(), "GET", "/readyz", "").status, 200);
    assert_eq!(api.asked(), Vec::<String>::new());
    api.handle.stop();
}

#[test]
fn an_unknown_path_is_a_problem() {
    let api = Api::start();
    for path in ["/", "/openapi.json", "/v1", "/v1/calls/", "/v1/calls/U1/answer", "/V1/status"] {
        assert!(!api.get(path).problem(404).contains(path));
    }
}

#[test]
fn a_wrong_method_is_a_problem_that_names_the_right_ones_and_does_nothing() {
    let api = Api::start();
    for (method, path, allow) in [
        ("POST", "/v1/calls", "GET,HEAD"),
        ("DELETE", "/v1/calls/U1", "GET,HEAD"),
        ("POST", "/metrics", "GET,HEAD"),
        ("GET", "/v1/drain", "POST"),
        ("GET", "/v1/reload", "POST"),
        ("GET", "/v1/calls/U1/hangup", "POST"),
        ("GET", "/v1/calls/U1/voicemail-drop", "POST"),
    ] {
        let reply = exchange(api.admin(), method, path, "");
        reply.problem(405);
        assert_eq!(reply.header("allow"), Some(allow), "{method} {path}");
    }
    assert_eq!(api.asked(), Vec::<String>::new());
}

#[test]
fn open_calls_come_in_pages() {
    let api = Api::start();
    let first = api.get("/v1/calls?limit=2");
    assert_eq!(first.uids(), ["U1", "U2"]);
    assert_eq!(first.json()["next"], "U2");
    assert_eq!(first.json()["calls"][0]["state"], "ringing");
    let last = api.get("/v1/calls?limit=3&after=U2&state=ringing&direction=outbound");
    assert_eq!(last.uids(), ["U3", "U4", "U5"]);
    assert_eq!(last.json()["next"], Value::Null);
    assert_eq!(api.asked(), ["calls None None None 3", "calls Some(Ringing) Some(Outbound) Some(\"U2\") 4"]);
}

#[test]
fn ended_calls_can_be_listed_too() {
    let api = Api::start();
    for uid in ["E1", "E2", "E3"] {
        push_ended(&api.recent, call_data(uid, "same"));
    }
    let first = api.get("/v1/calls?state=ended&limit=2");
    assert_eq!((first.uids(), first.json()["next"].as_str()), (vec!["E1".into(), "E2".into()], Some("E2")));
    assert_eq!(first.json()["calls"][0]["state"], "ended");
    assert_eq!(api.get("/v1/calls?state=ended&after=E2").uids(), ["E3"]);
    assert_eq!(api.get("/v1/calls?state=ended&direction=inbound").uids(), Vec::<String>::new());
    assert_eq!(api.get("/v1/outcomes?limit=2").uids(), ["E3", "E2"]);
    assert_eq!(api.asked(), Vec::<String>::new());
}

#[test]
fn a_bad_query_is_a_problem_that_says_what_is_wrong() {
    let api = Api::start();
    assert!(api.get("/v1/calls?limit=0").problem(400).contains("limit"));
    assert!(api.get("/v1/calls?state=lost").problem(400).contains("setup, ringing, answered, ended"));
    assert!(api.get("/v1/calls?stat=ended").problem(400).contains("\"stat\""));
    assert!(api.get("/v1/outcomes?after=U1").problem(400).contains("only limit"));
    api.get("/v1/calls/%FF").problem(400);
    assert_eq!(api.asked(), Vec::<String>::new());
}

#[test]
fn a_call_is_shown_whether_open_or_ended() {
    let api = Api::start();
    push_ended(&api.recent, call_data("E1", "ended@host"));
    let open = api.get("/v1/calls/a%2Fb%40c%20d").json();
    assert_eq!((&open["call_uid"], &open["state"]), (&"U1".into(), &"ringing".into()));
    let ended = api.get("/v1/calls/ended@host").json();
    assert_eq!((&ended["call_uid"], &ended["state"]), (&"E1".into(), &"ended".into()));
    assert_eq!(ended["outcome"], "NoAnswer");
    assert_eq!(ended["answered_at"], Value::Null);
    assert!(api.get("/v1/calls/twice").problem(409).contains("2 open calls"));
    api.get("/v1/calls/nobody").problem(404);
}

#[test]
fn a_voicemail_drop_is_done_or_refused_with_the_reason() {
    let api = Api::start();
    push_ended(&api.recent, call_data("E1", "ended"));
    let done = api.post("/v1/calls/U1/voicemail-drop");
    assert_eq!((done.status, &done.json()["call_uid"]), (200, &"U1".into()));
    assert_eq!(api.post("/v1/calls/U2/voicemail-drop").problem(409), "the call is not progressive");
    assert_eq!(api.post("/v1/calls/E1/voicemail-drop").problem(409), "the call has ended");
    api.post("/v1/calls/twice/voicemail-drop").problem(409);
    api.post("/v1/calls/nobody/voicemail-drop").problem(404);
    assert_eq!(api.asked(), ["drop U1", "drop U2", "drop E1", "drop twice", "drop nobody"]);
}

#[test]
fn a_hang_up_is_accepted_or_refused() {
    let api = Api::start();
    push_ended(&api.recent, call_data("E1", "ended"));
    let accepted = api.post("/v1/calls/a%2Fb%40c%20d/hangup");
    assert_eq!((accepted.status, &accepted.json()["state"]), (202, &"ringing".into()));
    assert_eq!(api.post("/v1/calls/ended/hangup").problem(409), "the call has ended");
    api.post("/v1/calls/nobody/hangup").problem(404);
    assert_eq!(api.asked(), ["hang up a/b@c d", "hang up ended", "hang up nobody"]);
}

#[test]
fn draining_makes_it_unready() {
    let api = Api::start();
    api.readiness.set_ready();
    assert_eq!(api.post("/v1/drain").status, 202);
    assert!(api.get("/readyz").problem(503).starts_with("draining"));
    assert_eq!(api.get("/livez").status, 200);
    assert_eq!(api.asked(), ["drain"]);
}

#[test]
fn a_refused_reload_tells_every_mistake() {
    let api = Api::start();
    assert_eq!(api.post("/v1/reload").status, 200);
    let refused = api.post("/v1/reload");
    refused.problem(422);
    let mistakes = refused.json()["mistakes"].as_str().unwrap().to_owned();
    assert_eq!(mistakes.lines().count(), 2, "{mistakes}");
}

#[test]
fn the_status_shows_addresses_counts_sinks_and_servers() {
    let api = Api::start();
    let status = api.get("/v1/status").json();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert!(status["revision"].is_string() && status["uptime_seconds"].is_u64());
    assert_eq!(status["listen"]["udp"][0], "127.0.0.1:5060");
    assert_eq!(status["listen"]["admin"][0], api.admin().to_string());
    assert_eq!(status["listen"]["metrics"][0], api.metrics().to_string());
    assert_eq!(status["counts"], serde_json::json!({ "active": 3, "started": 12, "ended": 9 }));
    assert_eq!(status["sinks"], serde_json::json!([{ "sink": "file", "delivered": 9, "pending": 1 }]));
    assert_eq!(status["servers"][0]["name"], "pbx-a");
    assert_eq!(status["draining"], false);
}

#[test]
fn both_listeners_serve_metrics_but_only_one_anything_else() {
    let api = Api::with_token(Some("secret"));
    let page = exchange(api.metrics(), "GET", "/metrics", "");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/plain; version=0.0.4; charset=utf-8")));
    for line in [
        "sipstamp_call_outcomes_total{outcome=\"CallFailed\",direction=\"outbound\"} 0",
        "sipstamp_events_pending{sink=\"file\"} 1",
        "sipstamp_talk_seconds_count{server=\"pbx-a\",direction=\"inbound\"} 0",
    ] {
        assert!(page.body.lines().any(|found| found == line), "{line} is not in\n{}", page.body);
    }
    exchange(api.metrics(), "GET", "/v1/status", "").problem(404);
    exchange(api.metrics(), "POST", "/v1/drain", "").problem(404);
    let denied = api.get("/metrics");
    denied.problem(401);
    assert_eq!(denied.header("www-authenticate"), Some("Bearer"));
    assert_eq!(exchange(api.admin(), "GET", "/metrics", "Authorization: Bearer secret\r\n").status, 200);
    assert_eq!(api.get("/livez").status, 200);
    assert_eq!(api.asked(), ["samples", "samples"]);
}

#[test]
fn a_host_that_is_not_this_machine_is_refused() {
    let api = Api::start();
    let mut stream = connect(api.admin());
    stream.write_all(b"POST /v1/drain HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert_eq!(api.asked(), Vec::<String>::new());
}

#[test]
fn events_are_fed_as_they_come_until_the_stop() {
    let api = Api::start();
    let mut stream = BufReader::new(connect(api.admin()));
    write!(stream.get_mut(), "GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).unwrap(), 0, "{head}");
    }
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/event-stream"), "{head}");

    push_ended(&api.recent, call_data("E1", "a"));
    let mut event = String::new();
    while !event.ends_with("\n\n") {
        assert_ne!(stream.read_line(&mut event).unwrap(), 0, "{event}");
    }
    let (_, told) = event.split_once("event: sipstamp.call.ended.v1\nid: E1/ended\ndata: ").unwrap();
    let told: serde_json::Value = serde_json::from_str(told).unwrap();
    assert_eq!((&told["id"], &told["data"]["call_id"]), (&"E1/ended".into(), &"a".into()));

    push_ended(&api.recent, call_data("E2", "b"));
    api.handle.stop();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("id: E2/ended\n"), "{rest:?}");
    assert!(rest.ends_with("0\r\n\r\n"), "the feed ends as a whole: {rest:?}");
}

#[test]
fn too_many_feeds_are_refused_and_everything_else_goes_on() {
    let api = Api::start();
    let mut feeds = Vec::new();
    for _ in 0..super::feed::FEEDS {
        let mut feed = connect(api.admin());
        feed.write_all(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut first = [0; 12];
        feed.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        feeds.push(feed);
    }
    assert!(api.get("/v1/events").problem(503).contains("feeds"));
    assert_eq!(api.get("/v1/calls/U1").status, 200);

    drop(feeds);
    let deadline = Instant::now() + DEADLINE;
    let is_free = || {
        let mut feed = connect(api.admin());
        feed.write_all(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut first = [0; 12];
        feed.read_exact(&mut first).unwrap();
        &first == b"HTTP/1.1 200"
    };
    while !is_free() {
        assert!(Instant::now() < deadline, "a feed that is gone keeps its seat");
    }
}

#[test]
fn after_a_stop_nothing_listens() {
    let api = Api::start();
    let address = api.admin();
    assert_eq!(api.get("/livez").status, 200);
    api.handle.stop();
    assert!(TcpStream::connect(address).is_err());
}
