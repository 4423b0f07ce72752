//! What the real process logs among peers that write control characters, forged lines and no UTF-8.

#![cfg(test)]

#[path = "sipp/ports.rs"]
#[expect(dead_code, reason = "shared with the SIPp scenarios, which use the rest")]
mod ports;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ports::{DIALER, PBX_A, Ports, SIDECAR, wait_for};

const PATIENCE: Duration = Duration::from_secs(20);
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
/// Clears a screen, forges a line, turns the writing round.
const EVIL: &str = "\x1b[2J\x07\0\r\n2026-01-01T00:00:00.000000Z ERROR forged: \u{202e}\u{9b}1m\x7f";

/// The same on one line.
const AGENT: &str = "\x1b[2J\u{202e}";

/// A NATS server that greets with that, and says so again as its error.
fn nats() -> SocketAddr {
    let listener = TcpListener::bind((SIDECAR, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let info = serde_json::json!({
                "server_id": "a", "server_name": EVIL, "version": "2.10.0", "go": "", "host": "h", "port": 1, "proto": 1,
                "max_payload": 1_000_000, "client_id": 1, "headers": true, "jetstream": true, "client_ip": "127.0.0.1",
            });
            write!(stream, "INFO {info}\r\n").unwrap();
            let mut buffer = [0; 4_096];
            while let Ok(size @ 1..) = stream.read(&mut buffer) {
                if buffer[..size].windows(4).any(|part| part == b"PING") {
                    // An error of one line; it is not told twice.
                    let line = EVIL.replace("\r\n", " ");
                    drop(write!(stream, "PONG\r\n-ERR '{line}'\r\n"));
                }
            }
        }
    });
    address
}

/// A receiver of webhooks whose answers are no HTTP.
fn receiver() -> SocketAddr {
    let listener = TcpListener::bind((SIDECAR, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            drop(stream.read(&mut [0; 4_096]));
            drop(write!(stream, "HTTP/1.1 500 {EVIL}\r\nLocation: {EVIL}\r\nContent-Length: 9\r\n\r\n{EVIL}"));
        }
    });
    address
}

fn folder_of(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("log-lines-{name}"));
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A process with this configuration, and the file of its log.
fn start(folder: &Path, text: &str) -> (Child, PathBuf) {
    let config = folder.join("sipstamp.toml");
    fs::write(&config, text).unwrap();
    let path = folder.join("log.txt");
    let child = Command::new(env!("CARGO_BIN_EXE_sipstamp"))
        .args(["run", "--config"])
        .arg(&config)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&path).unwrap())
        .spawn()
        .unwrap();
    (child, path)
}

/// Waits until a log has this.
fn has_logged(path: &Path, what: &str) {
    let is_there = || Ok(fs::read_to_string(path).unwrap_or_default().contains(what).then_some(()));
    wait_for(what, PATIENCE, is_there).unwrap_or_else(|error| panic!("{error}: {}", fs::read_to_string(path).unwrap()));
}

/// The log of a process that all of them have talked to.
fn log_of(name: &str, format: &str) -> String {
    let Ports { sip, admin, .. } = Ports::claim().unwrap();
    let folder = folder_of(name);
    fs::write(folder.join("webhook.key"), "a secret of more than twenty-four bytes").unwrap();
    let text = format!(
        "[listen]\nudp = ['{SIDECAR}:{sip}']\ntcp = ['{SIDECAR}:{sip}']\n[dialer]\nsources = ['{DIALER}/32']\n\
         [[telephony.servers]]\nuri = 'sip:{PBX_A}:{sip}'\n[admin]\nlisten = '{SIDECAR}:{admin}'\n\
         [log]\nlevel = 'debug,sipstamp::message=trace,async_nats=debug'\nformat = '{format}'\n[limits]\ncalls = 1\noverload_delay = '0ms'\n\
         [[events.webhooks]]\nname = 'a'\nurl = 'http://{}/'\nsecret_file = '{}'\n[events.nats]\nservers = ['nats://{}']\n",
        receiver(),
        folder.join("webhook.key").display(),
        nats(),
    );
    let (mut child, path) = start(&folder, &text);
    let has_logged = |what: &str| has_logged(&path, what);
    has_logged("the admin API listens");
    has_logged("NATS has refused something");
    talk_sip(SocketAddr::from((SIDECAR, sip)));
    has_logged("message refused");
    has_logged("an event was not taken");
    talk_http(SocketAddr::from((SIDECAR, admin)));
    // A mistake that quotes what it is about.
    fs::write(
        folder.join("sipstamp.toml"),
        text.replace("[limits]", "[log\u{202e}\x1b]\nlevel = \"\x1b\u{202e}\"\n[limits]"),
    )
    .unwrap();
    assert!(Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap().success());
    has_logged("the configuration is refused");
    child.kill().unwrap();
    child.wait().unwrap();
    String::from_utf8(fs::read(&path).unwrap()).unwrap()
}

fn talk_sip(sidecar: SocketAddr) {
    for from in [DIALER, STRANGER] {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        let local = socket.local_addr().unwrap();
        for text in [
            format!("INVITE sip:{EVIL}@x SIP/2.0\r\nCall-ID: {EVIL}\r\n\r\n"),
            format!("{EVIL}\r\n\r\n"),
            format!("SIP/2.0 200 {EVIL}\r\nVia: SIP/2.0/UDP {EVIL}\r\n\r\n"),
            // Refused for there are too many: its event goes to the receiver.
            format!(
                "INVITE sip:+15550199@example.net SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK1\r\nMax-Forwards: 0\r\n\
                 From: <sip:a@x>;tag=1\r\nTo: <sip:b@x>\r\nCall-ID: a\r\nCSeq: 1 INVITE\r\nContact: <sip:a@{local}>\r\n\
                 User-Agent: {AGENT}\r\nContent-Length: 0\r\n\r\n"
            ),
        ] {
            socket.send_to(text.as_bytes(), sidecar).unwrap();
        }
        socket.send_to(b"INVITE \xff\xfe\x1b SIP/2.0\r\n\r\n", sidecar).unwrap();
    }
}

fn talk_http(admin: SocketAddr) {
    for request in ["GET /\x1b[2J\u{202e} HTTP/1.1\r\n\r\n", "GET /%1b%0d%0aforged HTTP/1.0\r\nHost: \x1b[2J\r\n\r\n"] {
        let mut stream = TcpStream::connect(admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        drop(stream.read_to_end(&mut Vec::new()));
    }
}

fn assert_printable(log: &str) {
    let is_good = |c: char| c == '\n' || matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1;
    if let Some(line) = log.lines().find(|line| !line.chars().all(is_good)) {
        panic!("{line:?}");
    }
    assert!(log.contains("forged"), "nothing evil came: {log}");
}

#[test]
fn text_has_no_line_and_no_character_that_a_peer_has_made() {
    let log = log_of("text", "text");
    assert_printable(&log);
    for line in log.lines().filter(|line| !line.starts_with("    ")) {
        let (time, rest) = line.split_once(' ').unwrap_or_else(|| panic!("{line}"));
        let level = rest.trim_start().split(' ').next().unwrap();
        assert!(time.ends_with('Z') && !time.starts_with("2026-01-01T00:00:00"), "{line}");
        assert!(["TRACE", "DEBUG", "INFO", "WARN"].contains(&level), "{line}");
    }
}

#[test]
fn json_is_json_and_has_no_such_character_either() {
    let log = log_of("json", "json");
    assert_printable(&log);
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["timestamp"].is_string() && line["level"] != "ERROR", "{line}");
    }
}

#[test]
fn calls_are_told_at_debug_and_messages_at_trace_but_for_credentials() {
    for level in ["info", "debug", "trace"] {
        let Ports { sip, .. } = Ports::claim().unwrap();
        let text = format!(
            "[listen]\nudp = ['{SIDECAR}:{sip}']\ntcp = []\n[dialer]\nsources = ['{DIALER}/32']\n[admin]\nlisten = ''\n\
             [[telephony.servers]]\nuri = 'sip:{PBX_A}:{sip}'\n[log]\nlevel = '{level}'\n"
        );
        let (mut child, path) = start(&folder_of(level), &text);
        has_logged(&path, "listening");
        let socket = UdpSocket::bind((DIALER, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let invite = format!(
            "INVITE sip:+15550199@example.net SIP/2.0\r\nVia: SIP/2.0/UDP {};branch=z9hG4bK1\r\nMax-Forwards: 0\r\n\
             From: <sip:a@x>;tag=1\r\nTo: <sip:b@x>\r\nCall-ID: one@dialer\r\nCSeq: 7 INVITE\r\n\
             Proxy-Authorization: Digest response=\"53c7e7\"\r\nContent-Length: 0\r\n\r\n",
            socket.local_addr().unwrap()
        );
        socket.send_to(invite.as_bytes(), (SIDECAR, sip)).unwrap();
        let mut answer = [0; 2_048];
        while !answer.starts_with(b"SIP/2.0 483") {
            socket.recv(&mut answer).unwrap();
        }
        if level != "info" {
            has_logged(&path, "call ended");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let log = fs::read_to_string(&path).unwrap();
        let has = |parts: &[&str]| log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        let ended = ["DEBUG", "call ended ", "call_id=one@dialer", "outcome=\"CallFailed\"", "code=483"];
        assert_eq!(has(&ended), level != "info", "{log}");
        for part in [
            "    INVITE sip:+15550199@example.net SIP/2.0",
            "    Proxy-Authorization:(not shown)",
            "    Call-Outcome: CallFailed;cause=local_reject;id=",
            "TRACE sipstamp::message: received",
        ] {
            assert_eq!(has(&[part]), level == "trace", "{part}: {log}");
        }
        assert_eq!(has(&["transport=\"udp\"", "call_id=one@dialer"]), level == "trace", "{log}");
        assert!(!log.contains("53c7e7"), "{log}");
    }
}
