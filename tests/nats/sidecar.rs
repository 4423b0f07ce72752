//! A sidecar with a journal and a NATS sink, as a process of its own that can be killed and started again.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::callee::Callee;
use super::caller::Caller;
use super::wire::{PATIENCE, Wire};
use crate::metrics::Scrape;
use crate::ports::{DIALER, Ports, SIDECAR, wait_for};

pub struct Sidecar {
    child: Option<Child>,
    folder: PathBuf,
    ports: Ports,
}

/// An empty folder of a test's own.
pub fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("nats-{name}"));
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).unwrap();
    folder
}

impl Sidecar {
    /// In front of a telephony server; `nats` are the keys of `[events.nats]`, `events` more of `[events]`.
    pub fn start(folder: &Path, name: &str, callee: &Callee, events: &str, nats: &str) -> Sidecar {
        let ports = Ports::claim().unwrap();
        let folder = folder.join(name);
        fs::create_dir_all(&folder).unwrap();
        let Ports { sip, admin, .. } = ports;
        let text = format!(
            "[listen]\nudp = ['{SIDECAR}:{sip}']\ntcp = []\n[dialer]\nsources = ['{DIALER}/32']\n\
             [[telephony.servers]]\nuri = 'sip:{}'\n[voicemail_drop]\nalways = true\ngrace = '0s'\n\
             [events]\nsource = 'sipstamp/{name}'\njournal = '{}'\n{events}\n[events.nats]\n{nats}\n\
             [limits]\noverload_delay = '0ms'\n[admin]\nlisten = '{SIDECAR}:{admin}'\n",
            callee.address,
            folder.join("journal").display(),
        );
        fs::write(folder.join("sipstamp.toml"), text).unwrap();
        let mut sidecar = Sidecar { child: None, folder, ports };
        sidecar.restart();
        sidecar
    }

    pub fn restart(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.folder.join("log.txt")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sipstamp"));
        command.args(["run", "--config"]).arg(self.folder.join("sipstamp.toml")).env_remove("RUST_LOG");
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let is_ready = || Ok(self.try_request("GET", "/readyz").filter(|(status, _)| *status == 200));
        wait_for("the sidecar", PATIENCE, is_ready).unwrap_or_else(|error| panic!("{error}: {}", self.log()));
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// A dialer with a way here.
    pub fn caller(&self, name: &str) -> Caller {
        let to = SocketAddr::from((SIDECAR, self.ports.sip));
        let socket = UdpSocket::bind((DIALER, 0)).unwrap();
        socket.connect(to).unwrap();
        Caller::new(Wire::udp(socket, to), name)
    }

    /// The URL of its admin API.
    pub fn api(&self) -> String {
        format!("http://{SIDECAR}:{}", self.ports.admin)
    }

    /// Status and body.
    pub fn request(&self, method: &str, path: &str) -> (u16, Value) {
        let (status, body) = self.try_request(method, path).expect("the admin API answers");
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    /// The sum of all series of a name with this label.
    pub fn metric(&self, name: &str, label: (&str, &str)) -> u64 {
        let (_, page) = self.try_request("GET", "/metrics").expect("the admin API answers");
        Scrape::parse(&page).sum(name, &[(label.0.to_owned(), label.1.to_owned())].into()).0 as u64
    }

    /// Waits until a metric of the NATS sink has a value that will do.
    pub fn await_metric(&self, name: &str, will_do: impl Fn(u64) -> bool) {
        let has_it = || Ok(will_do(self.metric(name, ("sink", "nats"))).then_some(()));
        wait_for(name, PATIENCE, has_it).unwrap_or_else(|error| panic!("{error}: {}", self.log()));
    }

    pub fn await_log(&self, text: &str) {
        let is_there = || Ok(self.log().contains(text).then_some(()));
        wait_for(text, PATIENCE, is_there).unwrap_or_else(|error| panic!("{error}: {}", self.log()));
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log.txt")).unwrap_or_default()
    }

    fn try_request(&self, method: &str, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect((SIDECAR, self.ports.admin)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: {SIDECAR}:{}\r\nContent-Length: 0\r\n\r\n", self.ports.admin)
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.kill();
        // Not where an assertion has failed: that one is to be read.
        if !std::thread::panicking() {
            let log = self.log();
            assert!(!log.contains("ERROR") && !log.contains("panicked"), "{log}");
        }
    }
}
