//! One SIPp process.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::expect::Transport;
use super::ports::{Ports, SIDECAR, wait_for};
use super::trace::{self, Message};

/// A running, or ended, SIPp.
pub struct Agent {
    /// `uac`, `uas`, `uas2`.
    pub name: &'static str,
    child: Child,
    folder: PathBuf,
    code: Option<i32>,
}

/// How to start one.
pub struct Launch<'a> {
    pub name: &'static str,
    /// Names the call: the n-th is `n-SCENARIO@ADDRESS`.
    pub scenario: &'a str,
    /// None: SIPp's own scenario of that kind.
    pub file: Option<PathBuf>,
    pub address: Ipv4Addr,
    pub ports: Ports,
    pub transport: Transport,
    pub calls: u32,
    pub args: &'a [String],
    /// Where its traces go.
    pub folder: &'a Path,
}

/// SIPp's own limit; the harness waits a little longer.
pub const LIMIT: Duration = Duration::from_secs(40);

/// Says how to install SIPp where it is not there.
pub fn require_sipp() -> Result<(), String> {
    match Command::new("sipp").arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("sipp does not start ({error}); install it with: apt-get install sip-tester")),
    }
}

impl Agent {
    pub fn start(launch: &Launch<'_>) -> Result<Agent, String> {
        let folder = launch.folder.to_path_buf();
        let log = |suffix: &str| folder.join(format!("{}.{suffix}", launch.name));
        let screen = File::create(log("screen")).map_err(|error| format!("{}: {error}", folder.display()))?;
        let is_client = launch.name == "uac";
        let mut command = Command::new("sipp");
        match &launch.file {
            Some(file) => command.arg("-sf").arg(file),
            None => command.args(["-sn", if is_client { "uac" } else { "uas" }]),
        };
        let address = launch.address.to_string();
        let mode = match launch.transport {
            Transport::Udp => "u1",
            Transport::Tcp => "t1",
        };
        command
            .args(["-i", &address, "-p", &launch.ports.sip.to_string(), "-bind_local", "-t", mode])
            .args(["-mi", &address, "-mp", &launch.ports.media.to_string()])
            .args(["-ci", &address, "-cp", &launch.ports.control.to_string()])
            .args(["-m", &launch.calls.to_string(), "-nostdin"])
            .args(["-timeout", &LIMIT.as_secs().to_string(), "-timeout_error"])
            .args(["-trace_msg", "-message_file"])
            .arg(log("messages"))
            .args(["-trace_err", "-error_file"])
            .arg(log("errors"));
        if is_client {
            command
                .args(["-s", "15550199", "-cid_str", &format!("%u-{}@{address}", launch.scenario)])
                .arg(format!("{SIDECAR}:{}", launch.ports.sip));
        }
        let child = command
            .args(launch.args)
            .stdin(Stdio::null())
            .stdout(screen)
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("sipp does not start: {error}"))?;
        let mut agent = Agent { name: launch.name, child, folder, code: None };
        if !is_client {
            agent.wait_until_bound(launch)?;
        }
        Ok(agent)
    }

    /// Its exit code, once it has ended.
    pub fn ended(&mut self) -> Result<Option<i32>, String> {
        if self.code.is_none() {
            let status = self.child.try_wait().map_err(|error| format!("{}: {error}", self.name))?;
            self.code = status.map(|status| status.code().unwrap_or(-1));
        }
        Ok(self.code)
    }

    pub fn messages(&self) -> Vec<Message> {
        trace::read(&self.file("messages"))
    }

    /// What it complained of, and the end of its trace.
    pub fn tail(&self) -> String {
        let errors = fs::read_to_string(self.file("errors")).unwrap_or_default();
        let messages = fs::read(self.file("messages")).unwrap_or_default();
        format!(
            "--- {} errors\n{}--- {} messages\n{}",
            self.name,
            last_lines(&errors, 12),
            self.name,
            last_lines(&String::from_utf8_lossy(&messages), 40)
        )
    }

    fn file(&self, suffix: &str) -> PathBuf {
        self.folder.join(format!("{}.{suffix}", self.name))
    }

    /// `/proc/net` shows the socket without touching it.
    fn wait_until_bound(&mut self, launch: &Launch<'_>) -> Result<(), String> {
        let address = u32::from_le_bytes(launch.address.octets());
        let socket = format!(" {address:08X}:{:04X} ", launch.ports.sip);
        let table = format!("/proc/net/{}", launch.transport);
        let what = format!("{} to bind {}:{}", self.name, launch.address, launch.ports.sip);
        wait_for(&what, Duration::from_secs(10), || {
            if let Some(code) = self.ended()? {
                return Err(format!("{} ended with {code} before it took a call\n{}", self.name, self.tail()));
            }
            let sockets = fs::read_to_string(&table).map_err(|error| format!("{table}: {error}"))?;
            Ok(sockets.contains(&socket).then_some(()))
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.code.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The last `count` lines, each ended.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(count)).map(|line| format!("{}\n", line.trim_end())).collect()
}
