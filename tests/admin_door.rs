//! The door of the admin API, at the real process: who is let in, what is refused, and that nobody who only waits keeps another
//! out.

#![cfg(test)]

#[path = "sipp/metrics.rs"]
mod metrics;
#[path = "sipp/ports.rs"]
#[expect(dead_code, reason = "shared with the SIPp scenarios, which use the rest")]
mod ports;

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use metrics::Scrape;
use ports::{DIALER, PBX_A, Ports, SIDECAR, wait_for};

const PATIENCE: Duration = Duration::from_secs(20);
const TOKEN: &str = "a-token-of-enough-letters";
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 5);

/// A sidecar whose admin API listens where `[admin]` says; `PORT` and `TOKEN_FILE` are replaced in it.
struct Door {
    child: Child,
    ports: Ports,
    folder: PathBuf,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Door {
    fn start(name: &str, admin: &str) -> Door {
        let (ports, folder, mut command) = prepare(name, admin);
        let log = fs::File::create(folder.join("log.txt")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let door = Door { child, ports, folder };
        wait_for("the sidecar", PATIENCE, || Ok(door.try_ask("GET /readyz", "").filter(|answer| answer.status == 200)))
            .unwrap_or_else(|error| panic!("{error}: {}", door.log()));
        door
    }

    fn admin(&self) -> SocketAddr {
        SocketAddr::from((SIDECAR, self.ports.admin))
    }

    /// What is answered to a request line without its end, with these header lines.
    fn ask(&self, request: &str, headers: &str) -> Answer {
        self.try_ask(request, headers).expect("an answer")
    }

    fn try_ask(&self, request: &str, headers: &str) -> Option<Answer> {
        let host = if headers.contains("Host: ") { String::new() } else { format!("Host: {}\r\n", self.admin()) };
        self.send(SIDECAR, &format!("{request} HTTP/1.1\r\n{host}{headers}Connection: close\r\n\r\n"))
    }

    /// From an address of loopback.
    fn send(&self, from: Ipv4Addr, text: &str) -> Option<Answer> {
        let mut stream = connect(from, self.admin()).ok()?;
        // Who is refused need not have read it all.
        drop(stream.write_all(text.as_bytes()));
        let mut bytes = Vec::new();
        drop(stream.read_to_end(&mut bytes));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, head: head.to_lowercase(), body: body.to_owned() })
    }

    fn refused(&self, reason: &str) -> u64 {
        let page = self.ask("GET /metrics", &format!("Authorization: Bearer {TOKEN}\r\n")).body;
        // Between the sizes of chunks.
        let labels = BTreeMap::from([("reason".to_owned(), reason.to_owned())]);
        Scrape::parse(&page).sum("sipstamp_admin_refused_total", &labels).0 as u64
    }

    fn is_draining(&self) -> bool {
        let status = self.ask("GET /v1/status", &format!("Authorization: Bearer {TOKEN}\r\n"));
        assert_eq!(status.status, 200, "{}", status.body);
        status.body.contains("\"draining\":true")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log.txt")).unwrap_or_default()
    }
}

/// Ended with the test, however that ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn prepare(name: &str, admin: &str) -> (Ports, PathBuf, Command) {
    let ports = Ports::claim().unwrap();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("admin-door-{name}"));
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).unwrap();
    let token = folder.join("admin.token");
    fs::write(&token, TOKEN).unwrap();
    let admin = admin.replace("PORT", &ports.admin.to_string()).replace("TOKEN_FILE", &token.display().to_string());
    let text = format!(
        "[listen]\nudp = ['{SIDECAR}:{0}']\ntcp = []\n[dialer]\nsources = ['{DIALER}/32']\n\
         [[telephony.servers]]\nuri = 'sip:{PBX_A}:{0}'\n{admin}",
        ports.sip
    );
    fs::write(folder.join("sipstamp.toml"), text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sipstamp"));
    command.args(["run", "--config"]).arg(folder.join("sipstamp.toml")).env_remove("RUST_LOG");
    (ports, folder, command)
}

fn connect(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect(&to.into())?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

#[test]
fn beyond_loopback_it_does_not_start_without_a_token() {
    let (_, _, mut command) = prepare("open", "[admin]\nlisten = '0.0.0.0:PORT'");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("beyond loopback, and there is no token"));
}

#[test]
fn with_a_token_nothing_but_the_probes_is_open_and_refusals_are_counted() {
    let door = Door::start("token", "[admin]\nlisten = '0.0.0.0:PORT'\ntoken_file = 'TOKEN_FILE'");
    for path in ["/metrics", "/v1/status", "/v1/calls", "/v1/calls/a", "/v1/outcomes", "/v1/events", "/nothing", "/"] {
        assert_eq!(door.ask(&format!("GET {path}"), "").status, 401, "{path}");
        assert_eq!(door.ask(&format!("GET {path}"), "Authorization: Bearer wrong\r\n").status, 401, "{path}");
    }
    for path in ["/v1/drain", "/v1/reload", "/v1/calls/a/hangup", "/v1/calls/a/voicemail-drop"] {
        assert_eq!(door.ask(&format!("POST {path}"), "").status, 401, "{path}");
    }
    assert_eq!(door.ask("GET /livez", "").status, 200);
    assert_eq!(door.refused("unauthorized"), 20);
    assert!(!door.is_draining());
    let log = door.log();
    assert_eq!(log.matches("refused by the admin API").count(), 1, "{log}");
    assert!(!log.contains(TOKEN), "{log}");
}

#[test]
fn only_a_post_changes_anything_and_none_that_a_page_elsewhere_can_make() {
    let door = Door::start("commands", "[admin]\nlisten = '127.0.0.1:PORT'");
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "FOO"] {
        for path in ["/v1/drain", "/v1/reload", "/v1/calls/a/hangup", "/v1/calls/a/voicemail-drop"] {
            assert_eq!(door.ask(&format!("{method} {path}"), "").status, 405, "{method} {path}");
        }
    }
    for headers in [
        "Origin: https://evil.example\r\n",
        "Origin: null\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
        "Content-Type: text/plain\r\nContent-Length: 0\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: multipart/form-data; boundary=x\r\n",
        "Host: rebound.example\r\n",
    ] {
        assert_eq!(door.ask("POST /v1/drain", headers).status, 403, "{headers}");
    }
    assert_eq!(door.ask("GET /v1/status", "Host: rebound.example:9060\r\n").status, 403);
    assert!(!door.is_draining());
    assert_eq!(door.refused("forbidden"), 9);
    assert_eq!(door.ask("POST /v1/drain", "").status, 202);
    assert!(door.is_draining());
}

#[test]
fn every_answer_tells_a_browser_to_make_nothing_of_it() {
    let door = Door::start("headers", "[admin]\nlisten = '127.0.0.1:PORT'");
    for (request, headers) in
        [("GET /livez", ""), ("GET /v1/status", ""), ("GET /%3Cscript%3E", ""), ("GET /livez", "Host: x\r\n")]
    {
        let answer = door.ask(request, headers);
        for header in [
            "x-content-type-options: nosniff",
            "content-security-policy: default-src 'none'; frame-ancestors 'none'",
            "cache-control: no-store",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(answer.head.contains(header), "no {header} for {request} in {}", answer.head);
        }
        assert!(!answer.head.contains("access-control-"), "{}", answer.head);
        assert!(!answer.body.contains("script"), "{}", answer.body);
    }
}

#[test]
fn heads_and_bodies_beyond_their_limits_are_refused_and_counted() {
    let door = Door::start("limits", "[admin]\nlisten = '127.0.0.1:PORT'");
    let long = "a".repeat(20 * 1024);
    assert_eq!(door.ask("GET /livez", &format!("X: {long}\r\n")).status, 431);
    assert_eq!(door.ask(&format!("GET /{long}"), "").status, 431);
    assert_eq!(door.ask("GET /livez", &"X: a\r\n".repeat(80)).status, 431);
    assert_eq!(door.ask("POST /v1/drain", "Content-Length: 16385\r\n").status, 413);
    let chunks = format!("400\r\n{}\r\n", "a".repeat(1024)).repeat(64);
    let head = format!("POST /v1/drain HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n", door.admin());
    let answer = door.send(SIDECAR, &format!("{head}Connection: close\r\n\r\n{chunks}0\r\n\r\n"));
    // Whoever writes on may be cut off before it reads.
    assert!(answer.is_none_or(|answer| answer.status == 413));
    assert!(!door.is_draining());
    assert_eq!(door.refused("too_large"), 5);
}

#[test]
fn a_crowd_that_never_finishes_its_requests_keeps_nobody_out() {
    let door = Door::start("crowd", "[admin]\nlisten = '127.0.0.1:PORT'");
    let mut crowd = Vec::new();
    for number in 0..400 {
        let mut stream = connect(OTHER, door.admin()).unwrap();
        let text = match number % 4 {
            0 => String::new(),
            1 => "GET /metrics HTTP/1.1\r\nHost: 127".to_owned(),
            2 => format!("POST /v1/drain HTTP/1.1\r\nHost: {}\r\nContent-Length: 9000\r\n\r\nslowly", door.admin()),
            _ => format!("GET /livez HTTP/1.1\r\nHost: {}\r\n\r\n", door.admin()),
        };
        drop(stream.write_all(text.as_bytes()));
        crowd.push(stream);
    }
    for _ in 0..20 {
        assert_eq!(door.ask("GET /metrics", "").status, 200);
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", door.admin());
        assert_eq!(door.send(OTHER, &request).expect("an answer to one of the crowd").status, 200);
    }
    // One source has 64 seats.
    assert!(door.refused("connections") >= 336, "{}", door.refused("connections"));
    assert!(!door.is_draining());
}

#[test]
fn feeds_have_seats_of_their_own_and_leave_room_for_all_else() {
    let door = Door::start("feeds", "[admin]\nlisten = '127.0.0.1:PORT'");
    let request = format!("GET /v1/events HTTP/1.1\r\nHost: {}\r\n\r\n", door.admin());
    let open = |_| {
        let mut stream = connect(SIDECAR, door.admin()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        stream
    };
    let mut feeds: Vec<TcpStream> = (0..32).map(open).collect();
    assert_eq!(door.ask("GET /v1/events", "").status, 503);
    // A crowd takes no seat of a feed.
    let crowd: Vec<_> = (0..200).map(|_| connect(SIDECAR, door.admin()).unwrap()).collect();
    assert_eq!(door.ask("GET /metrics", "").status, 200);
    for feed in &mut feeds {
        feed.set_nonblocking(true).unwrap();
        let mut rest = Vec::new();
        let ended = feed.read_to_end(&mut rest);
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::WouldBlock, "a feed has ended");
    }
    drop((feeds, crowd));
    wait_for("a seat for a feed", PATIENCE, || {
        let mut stream = connect(SIDECAR, door.admin()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut status = [0; 12];
        Ok((stream.read_exact(&mut status).is_ok() && &status == b"HTTP/1.1 200").then_some(()))
    })
    .unwrap();
}

#[test]
fn the_listener_for_metrics_answers_any_name_and_nothing_but_metrics() {
    let ports = "[metrics]\nlisten = '0.0.0.0:PORT'\n[admin]\nlisten = ''";
    let door = Door::start("metrics", ports);
    assert_eq!(door.ask("GET /metrics", "Host: sidecar-7.example\r\n").status, 200);
    for path in ["/v1/status", "/v1/calls", "/v1/events", "/"] {
        assert_eq!(door.ask(&format!("GET {path}"), "").status, 404, "{path}");
    }
    assert_eq!(door.ask("POST /v1/drain", "").status, 404);
}

#[test]
fn a_reload_takes_another_token_on() {
    let door = Door::start("rotated", "[admin]\nlisten = '127.0.0.1:PORT'\ntoken_file = 'TOKEN_FILE'");
    let status = |request: &str, token: &str| door.ask(request, &format!("Authorization: Bearer {token}\r\n")).status;
    let other = "another-token-of-enough-letters";
    fs::write(door.folder.join("admin.token"), other).unwrap();
    assert_eq!((status("GET /v1/status", TOKEN), status("GET /v1/status", other)), (200, 401));
    assert_eq!(status("POST /v1/reload", TOKEN), 200);
    assert_eq!((status("GET /v1/status", TOKEN), status("GET /v1/status", other)), (401, 200));
}

#[test]
fn a_feed_ends_with_its_token_and_with_no_other_reload() {
    let door = Door::start("feed-rotated", "[admin]\nlisten = '127.0.0.1:PORT'\ntoken_file = 'TOKEN_FILE'");
    let authorization = format!("Authorization: Bearer {TOKEN}\r\n");
    let mut feed = connect(SIDECAR, door.admin()).unwrap();
    write!(feed, "GET /v1/events HTTP/1.1\r\nHost: {}\r\n{authorization}Connection: close\r\n\r\n", door.admin())
        .unwrap();
    let mut status = [0; 12];
    feed.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    feed.set_nonblocking(true).unwrap();
    let mut read_on = || feed.read_to_end(&mut Vec::new()).map_err(|error| error.kind());

    assert_eq!(door.ask("POST /v1/reload", &authorization).status, 200);
    assert_eq!(door.ask("GET /v1/status", &authorization).status, 200);
    assert_eq!(read_on(), Err(ErrorKind::WouldBlock), "the token is the same");
    fs::write(door.folder.join("admin.token"), "another-token-of-enough-letters").unwrap();
    assert_eq!(door.ask("POST /v1/reload", &authorization).status, 200);
    wait_for("the end of the feed", PATIENCE, || Ok(read_on().is_ok().then_some(()))).unwrap();
}

#[test]
fn a_tail_is_told_how_to_be_let_in() {
    let door = Door::start("tail", "[admin]\nlisten = '127.0.0.1:PORT'\ntoken_file = 'TOKEN_FILE'");
    let url = format!("http://{}", door.admin());
    let wrong = door.folder.join("wrong");
    fs::write(&wrong, "another-token-of-enough-letters").unwrap();
    let refused = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sipstamp"));
        let output = command.args(["tail", "--url"]).args(arguments).stdin(Stdio::null()).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
        String::from_utf8(output.stderr).unwrap()
    };
    let told = refused(&[&url]);
    assert!(told.contains("--token-file FILE"), "{told}");
    let told = refused(&[&url, "--token-file", wrong.to_str().unwrap()]);
    assert!(told.contains("is another"), "{told}");
    let told =
        refused(&[&format!("{url}/elsewhere"), "--token-file", door.folder.join("admin.token").to_str().unwrap()]);
    assert!(told.contains("/elsewhere/v1/events: "), "{told}");

    // With the token it follows, until another one is asked for that it does not have.
    let mut command = Command::new(env!("CARGO_BIN_EXE_sipstamp"));
    let old = door.folder.join("old");
    fs::copy(door.folder.join("admin.token"), &old).unwrap();
    command.args(["tail", "--url", &url, "--token-file"]).arg(old);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tail = Ended(command.spawn().unwrap());
    let mut head = [0; 5];
    tail.0.stdout.take().unwrap().read_exact(&mut head).unwrap();
    assert_eq!(&head, b"time ");
    fs::copy(&wrong, door.folder.join("admin.token")).unwrap();
    assert_eq!(door.ask("POST /v1/reload", &format!("Authorization: Bearer {TOKEN}\r\n")).status, 200);
    let status = wait_for("the end of the tail", PATIENCE, || Ok(tail.0.try_wait().unwrap())).unwrap();
    assert_eq!(status.code(), Some(1));
    let mut told = String::new();
    tail.0.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(told.contains("the sidecar has ended the feed") && told.contains("is another"), "{told}");
}
