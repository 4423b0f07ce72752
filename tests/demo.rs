//! `sipstamp demo`, as a user runs it.

#![cfg(test)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use sipstamp::outcome::Outcome;

/// A demo that goes on until it is ended, and its admin API.
struct Demo {
    child: Child,
    output: BufReader<ChildStdout>,
    /// What it printed up to where it says where to look.
    printed: String,
    admin: SocketAddr,
}

impl Demo {
    /// Comes back when the first eight calls have ended.
    fn start() -> Demo {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_sipstamp"))
            .arg("demo")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the demo starts");
        let mut output = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        let mut printed = String::new();
        // Ends with the address, or with the demo, which gives up by itself when its calls stall.
        while !printed.contains("/v1/calls\n") {
            let read = output.read_line(&mut printed).expect("its output is text");
            assert!(read > 0, "the demo ended after\n{printed}");
        }
        let admin = printed
            .split_once("curl http://")
            .and_then(|(_, rest)| rest.split_once("/metrics"))
            .and_then(|(address, _)| address.parse().ok());
        let admin = admin.unwrap_or_else(|| panic!("no address of /metrics in\n{printed}"));
        Demo { child, output, printed, admin }
    }

    /// The body of a page.
    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).expect("the admin API is there");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).expect("the answer has a body")
    }

    /// Presses Ctrl-C; how it ended, and what it printed after the start.
    fn interrupt(mut self) -> (ExitStatus, String) {
        let sent = std::process::Command::new("kill")
            .args(["-INT", &self.child.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(sent.success());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).expect("its output is text");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return (status, rest);
            }
            assert!(Instant::now() < deadline, "the demo closed its output but does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The rows of the table: lines that begin with a time.
fn rows(printed: &str) -> Vec<Vec<&str>> {
    let is_time = |text: &str| text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
    printed
        .lines()
        .map(|line| line.split_whitespace().collect())
        .filter(|row: &Vec<_>| row.first().is_some_and(|first| is_time(first)))
        .collect()
}

#[test]
fn eight_calls_have_one_of_each_outcome() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sipstamp"));
    let ended = command.args(["demo", "--calls", "8"]).timeout(Duration::from_secs(60)).assert().success();
    let printed = String::from_utf8_lossy(&ended.get_output().stdout).into_owned();
    let rows = rows(&printed);
    assert_eq!(rows.len(), Outcome::COUNT, "{printed}");
    for outcome in Outcome::ALL {
        assert_eq!(rows.iter().filter(|row| row[2] == outcome.label()).count(), 1, "{outcome} in\n{printed}");
    }
    assert!(printed.contains("8 stamps in 8 calls; each agrees"), "{printed}");
    assert!(!printed.contains('\x1b'), "colour without a terminal:\n{printed}");
}

#[test]
fn without_a_number_of_calls_it_goes_on_until_interrupted() {
    let demo = Demo::start();
    let eight = rows(&demo.printed).len();
    assert_eq!(eight, 8, "{}", demo.printed);
    let ended: serde_json::Value = serde_json::from_str(&demo.get("/v1/outcomes?limit=8")).expect("JSON");
    let calls = ended["calls"].as_array().expect("a list");
    assert_eq!(calls.len(), 8, "{ended}");
    assert!(calls.iter().all(|call| call["state"] == "ended"), "{ended}");
    let metrics = demo.get("/metrics");
    let imbalance = metrics.lines().find(|line| line.starts_with("sipstamp_accounting_imbalance "));
    assert_eq!(imbalance, Some("sipstamp_accounting_imbalance 0"));
    let (status, rest) = demo.interrupt();
    assert!(status.success(), "{status}");
    assert!(rest.contains("outcome             calls"), "no summary in\n{rest}");
}

#[test]
fn a_number_of_calls_that_is_none_is_refused() {
    for number in ["many", "0"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sipstamp"));
        let refused = command.args(["demo", "--calls", number]).timeout(Duration::from_secs(60)).assert().code(64);
        let error = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
        assert!(error.contains("--calls"), "{error}");
    }
}

#[test]
fn every_metric_that_is_shown_is_documented() {
    let page = Demo::start().get("/metrics");
    let families: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(families.contains(&"sipstamp_call_outcomes_total"), "{page}");
    let document = include_str!("../docs/metrics.md");
    for family in families.into_iter().filter(|family| family.starts_with("sipstamp_")) {
        assert!(document.contains(&format!("`{family}`")), "{family} is not in docs/metrics.md");
    }
}
