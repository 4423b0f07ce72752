//! The sidecar as a process, in front of a server that answers, with whatever `[events]` says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::receiver::{Receiver, SECRET};
use crate::callee::{Answer, Callee};
use crate::caller::Caller;
use crate::metrics::Scrape;
use crate::ports::{DIALER, PBX_A, Ports, SIDECAR, wait_for};
use crate::wire::{PATIENCE, Wire};

/// The labels of the sink `webhook:a`.
const A: &[(&str, &str)] = &[("sink", "webhook:a")];

/// A sidecar that can be killed and started again.
pub struct Site {
    pub folder: PathBuf,
    child: Option<Child>,
    ports: Ports,
    environment: Vec<(&'static str, String)>,
    runs: usize,
    calls: usize,
}

impl Site {
    /// `webhooks`: tables, in which `SECRET_FILE` and `FOLDER` are replaced.
    pub fn start(name: &str, webhooks: &str) -> Site {
        Site::start_with(name, "lifecycle = true\n", webhooks, Vec::new())
    }

    /// The same with other keys of `[events]` and variables of the environment.
    pub fn start_with(name: &str, events: &str, webhooks: &str, environment: Vec<(&'static str, String)>) -> Site {
        let ports = Ports::claim().unwrap();
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("webhook-{name}"));
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(&folder).unwrap();
        let callee = Callee::udp(PBX_A, Answer::Ok);
        let secret = folder.join("webhook.key");
        fs::write(&secret, format!("{SECRET}\n")).unwrap();
        let path = folder.display();
        let text = format!(
            "[listen]\nudp = ['{SIDECAR}:{}']\ntcp = []\n[dialer]\nsources = ['{DIALER}/32']\n\
             [[telephony.servers]]\nuri = 'sip:{}'\n[limits]\noverload_delay = '0ms'\n[admin]\nlisten = '{SIDECAR}:{}'\n[log]\nlevel = 'debug'\n\
             [events]\nfile = '{path}/events.jsonl'\njournal = '{path}/journal'\n{events}{}",
            ports.sip,
            callee.address,
            ports.admin,
            webhooks.replace("SECRET_FILE", &secret.display().to_string()).replace("FOLDER", &path.to_string()),
        );
        fs::write(folder.join("sipstamp.toml"), text).unwrap();
        let mut site = Site { folder, child: None, ports, environment, runs: 0, calls: 0 };
        site.run();
        site
    }

    /// Starts the process.
    pub fn run(&mut self) {
        self.runs += 1;
        let log = fs::File::create(self.log_path()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sipstamp"));
        command.args(["run", "--config"]).arg(self.folder.join("sipstamp.toml")).env_remove("RUST_LOG");
        command.envs(self.environment.iter().cloned()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        let is_ready = || Ok(self.request("/readyz").filter(|(status, _)| *status == 200));
        wait_for("the sidecar", PATIENCE, is_ready).unwrap_or_else(|error| panic!("{error}: {}", self.log()));
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
        self.assert_clean(&[]);
    }

    /// Makes calls that are answered and end; returns how many were made so far.
    pub fn make_calls(&mut self, count: usize) -> usize {
        let socket = UdpSocket::bind((DIALER, 0)).unwrap();
        let to = SocketAddr::from((SIDECAR, self.ports.sip));
        socket.connect(to).unwrap();
        Caller::new(Wire::udp(socket, to), &format!("call-{}", self.calls)).make_calls(count, 5, 0);
        self.calls += count;
        self.calls
    }

    /// Waits for so many events in the file: nothing of what a webhook does may keep them from it.
    pub fn wait_for_file(&self, count: usize) -> BTreeSet<String> {
        let path = self.folder.join("events.jsonl");
        let lines = || fs::read_to_string(&path).unwrap_or_default().lines().map(String::from).collect::<Vec<_>>();
        let waited = wait_for(&format!("{count} events"), PATIENCE, || Ok((lines().len() >= count).then_some(())));
        waited.unwrap_or_else(|error| panic!("{error}, {} came: {}", lines().len(), self.log()));
        assert_eq!(lines().len(), count);
        lines().into_iter().collect()
    }

    /// Waits until a figure of the sink `webhook:a` is so high.
    pub fn wait_for_metric(&self, name: &str, value: u64) {
        self.wait_for_sum(name, A, value);
    }

    /// Waits until an attempt has failed.
    pub fn wait_for_a_failure(&self) {
        self.wait_for_figure("sipstamp_events_failed_total", A, "> 0", |failed| failed > 0);
    }

    /// Waits until the sum of a figure is so high.
    pub fn wait_for_sum(&self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.wait_for_figure(name, labels, &format!("= {value}"), |figure| figure == value);
    }

    fn wait_for_figure(&self, name: &str, labels: &[(&str, &str)], what: &str, fits: impl Fn(u64) -> bool) {
        let is_there = || Ok(fits(self.sum(name, labels)).then_some(()));
        wait_for(&format!("{name} {what}"), PATIENCE, is_there)
            .unwrap_or_else(|error| panic!("{error}, it is {}: {}", self.sum(name, labels), self.log()));
    }

    /// A figure of the sink `webhook:a`.
    pub fn metric(&self, name: &str) -> u64 {
        self.sum(name, A)
    }

    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let (_, page) = self.request("/metrics").expect("the admin API answers");
        let labels: BTreeMap<_, _> = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let (sum, series) = Scrape::parse(&page).sum(name, &labels);
        assert!(series > 0, "no {name}");
        sum as u64
    }

    /// Ends it; nothing is left to deliver, and its log has no other complaint than these.
    pub fn end(mut self, complaints: &[&str]) {
        self.terminate();
        self.assert_clean(complaints);
    }

    /// Ends it in order.
    pub fn terminate(&mut self) {
        let mut child = self.child.take().expect("it runs");
        assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        let ended = wait_for("the sidecar to end", PATIENCE, || Ok(child.try_wait().unwrap()));
        assert!(ended.unwrap().success(), "{}", self.log());
    }

    /// The lines of the file of dead letters.
    pub fn dead_letters(&self) -> Vec<String> {
        fs::read_to_string(self.folder.join("dead.jsonl")).unwrap().lines().map(String::from).collect()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// No error but these in the log, and nothing secret.
    fn assert_clean(&self, complaints: &[&str]) {
        let log = self.log();
        for complaint in complaints {
            assert_eq!(log.matches(complaint).count(), 1, "{complaint} in {log}");
        }
        let errors = log.lines().filter(|line| line.contains("ERROR") || line.contains("panicked"));
        let errors = errors.filter(|line| !complaints.iter().any(|complaint| line.contains(complaint)));
        assert_eq!(errors.collect::<Vec<_>>(), [""; 0]);
        for secret in ["T0K3N", "MfKQ9r8G", "v1,"] {
            assert!(!log.contains(secret), "{log}");
        }
    }

    fn request(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect((SIDECAR, self.ports.admin)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {SIDECAR}:{}\r\n\r\n", self.ports.admin).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join(format!("log-{}.txt", self.runs))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A table for this receiver, under the name `a`.
pub fn table(receiver: &Receiver, keys: &str) -> String {
    table_named("a", &receiver.url(), keys)
}

pub fn table_named(name: &str, url: &str, keys: &str) -> String {
    format!("[[events.webhooks]]\nname = '{name}'\nurl = '{url}'\nsecret_file = 'SECRET_FILE'\n{keys}\n")
}

/// The reason and the event's line of a dead letter.
pub fn dead_letter(line: &str) -> (String, String) {
    let letter: Value = serde_json::from_str(line).unwrap();
    let event = line.split_once("\"event\":").unwrap().1.strip_suffix('}').unwrap();
    (letter["reason"].as_str().unwrap().to_owned(), event.to_owned())
}
