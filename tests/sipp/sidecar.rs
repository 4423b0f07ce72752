//! The sidecar under test: its configuration, process, admin API and events.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value as Json;

use super::agent::last_lines;
use super::config::configuration;
use super::expect::{Scenario, Transport};
use super::metrics::Scrape;
use super::ports::{Ports, SIDECAR, wait_for};

/// A sidecar that is ready.
pub struct Sidecar {
    child: Child,
    folder: PathBuf,
    admin: SocketAddr,
}

/// How long it may take to become ready, to write an event, to end.
const PATIENCE: Duration = Duration::from_secs(10);

impl Sidecar {
    pub fn start(scenario: &Scenario, ports: Ports, transport: Transport, folder: &Path) -> Result<Sidecar, String> {
        let file = folder.join("sipstamp.toml");
        let config = configuration(scenario, ports, transport, folder)?;
        fs::write(&file, config).map_err(|error| format!("{}: {error}", file.display()))?;
        let log = File::create(folder.join("sidecar.log")).map_err(|error| format!("{}: {error}", folder.display()))?;
        let binary = std::env::var("SIPSTAMP_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_sipstamp").to_owned());
        let child = Command::new(&binary)
            .arg("run")
            .arg("--config")
            .arg(&file)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{binary}: {error}"))?;
        let mut sidecar =
            Sidecar { child, folder: folder.to_path_buf(), admin: SocketAddr::from((SIDECAR, ports.admin)) };
        wait_for("the sidecar to be ready", PATIENCE, || {
            if let Some(status) = sidecar.child.try_wait().map_err(|error| error.to_string())? {
                return Err(format!("the sidecar ended with {status} at its start\n{}", sidecar.tail()));
            }
            Ok(sidecar.request("GET", "/readyz").ok().filter(|(status, _)| *status == 200))
        })?;
        Ok(sidecar)
    }

    /// Status and body.
    pub fn request(&self, method: &str, path: &str) -> Result<(u16, String), String> {
        let failed = |error: std::io::Error| format!("{method} {path}: {error}");
        let mut stream = TcpStream::connect_timeout(&self.admin, PATIENCE).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", self.admin)
            .map_err(failed)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(failed)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Ok((status.ok_or_else(|| format!("{method} {path}: no status line in {head:?}"))?, body.to_owned()))
    }

    /// The call as the admin API shows it; `None` where there is none.
    pub fn call(&self, id: &str) -> Result<Option<Json>, String> {
        let (status, body) = self.request("GET", &format!("/v1/calls/{}", percent_encode(id)))?;
        match status {
            200 => serde_json::from_str(&body).map(Some).map_err(|error| format!("GET /v1/calls: {error} in {body}")),
            _ => Ok(None),
        }
    }

    pub fn command(&self, id: &str, command: &str) -> Result<(u16, String), String> {
        self.request("POST", &format!("/v1/calls/{}/{command}", percent_encode(id)))
    }

    pub fn scrape(&self) -> Result<Scrape, String> {
        let (status, body) = self.request("GET", "/metrics")?;
        if status == 200 { Ok(Scrape::parse(&body)) } else { Err(format!("GET /metrics: {status}\n{body}")) }
    }

    /// Every event in the file so far.
    pub fn events(&self) -> Result<Vec<Json>, String> {
        let text = fs::read_to_string(self.folder.join("events.jsonl")).unwrap_or_default();
        let complete = text.rfind('\n').map_or("", |end| text.get(..end).unwrap_or_default());
        complete
            .lines()
            .map(|line| serde_json::from_str(line).map_err(|error| format!("{error} in the event {line}")))
            .collect()
    }

    /// Waits for that many events and for the last call to leave the books.
    pub fn wait_until_idle(&self, events: usize) -> Result<(), String> {
        let what = format!("{events} event(s) and no active call");
        wait_for(&what, PATIENCE, || {
            let scrape = self.scrape()?;
            let sum = |name| scrape.sum(name, &BTreeMap::new()).0;
            let delivered = sum("sipstamp_events_delivered_total") >= events as f64;
            Ok((self.events()?.len() >= events && delivered && sum("sipstamp_calls_active") == 0.0).then_some(()))
        })
    }

    /// SIGTERM: with no call open it must end at once and well.
    pub fn stop(&mut self) -> Result<(), String> {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().map_err(|error| format!("kill: {error}"))?;
        if !sent.success() {
            return Err(format!("kill -TERM {pid}: {sent}"));
        }
        let status = wait_for("the sidecar to end after SIGTERM", PATIENCE, || {
            self.child.try_wait().map_err(|error| error.to_string())
        })?;
        if status.success() { Ok(()) } else { Err(format!("after SIGTERM the sidecar ended with {status}")) }
    }

    /// Lines of its log that must never be there.
    pub fn complaints(&self) -> Vec<String> {
        let is_bad = |line: &&str| line.contains("ERROR") || line.contains("panicked");
        self.log().lines().filter(is_bad).map(|line| format!("in the sidecar's log: {line}")).collect()
    }

    pub fn tail(&self) -> String {
        format!("--- sidecar\n{}", last_lines(&self.log(), 25))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("sidecar.log")).unwrap_or_default()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn percent_encode(id: &str) -> String {
    id.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}
