//! A sidecar with a journal that is started, killed and started again in one place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::agent::Kind;
use super::metrics::Scrape;
use super::place::Place;
use super::ports::{PBX_A, Ports, SIDECAR, wait_for};

/// How long things may take that ought to happen at once.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Site {
    pub folder: PathBuf,
    pub ports: Ports,
    /// Where the sidecar sees its files.
    place: Option<Place>,
    /// Of SIP, at one address, handed to each process as systemd does: at most two.
    sockets: Vec<UdpSocket>,
}

/// A process at work.
pub struct Sidecar {
    child: Child,
    admin: SocketAddr,
}

impl Site {
    pub fn new(name: &str) -> Site {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("crash").join(name);
        // Left from the run before; it is no mistake if there was none.
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(&folder).unwrap();
        let ports = Ports::claim().unwrap();
        Site { folder, ports, place: None, sockets: Vec::new() }.configured("")
    }

    /// The same in a place of its own.
    pub fn within(self, place: Place) -> Site {
        Site { place: Some(place), ..self }
    }

    /// The same with one or two sockets that outlive its processes.
    pub fn with_sockets(self, count: usize) -> Site {
        let open = || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            setsockopt(&socket, sockopt::ReusePort, &(count > 1)).unwrap();
            socket.bind(&SocketAddr::from((SIDECAR, self.ports.sip)).into()).unwrap();
            socket.into()
        };
        Site { sockets: (0..count).map(|_| open()).collect(), ..self }
    }

    #[track_caller]
    pub fn disk(&mut self) -> &mut Place {
        self.place.as_mut().expect("a place of its own")
    }

    /// Writes the configuration anew: `more` is laid over it. `[events]` and the keys before it are written here.
    pub fn configured(self, more: &str) -> Site {
        let Ports { sip, admin, .. } = self.ports;
        let more = more.parse::<toml::Table>().unwrap();
        let base = format!(
            r#"
            listen = {{ udp = ["{SIDECAR}:{sip}"], tcp = [] }}
            dialer = {{ sources = ["127.0.1.0/24"] }}
            timeouts = {{ no_answer = "10s" }}
            admin = {{ listen = "{SIDECAR}:{admin}" }}
            log = {{ level = "info" }}
            # Built for tests, it would take the queue that a restart leaves for overload.
            limits = {{ overload_delay = "0ms" }}
            [events]
            file = '{folder}/events.jsonl'
            journal = '{folder}/journal'
            [[telephony.servers]]
            name = "pbx-a"
            uri = "sip:{PBX_A}:{sip}"
            "#,
            folder = self.folder.display()
        );
        let mut all = base.parse::<toml::Table>().unwrap();
        for (key, value) in more {
            match (all.get_mut(&key), value) {
                (Some(toml::Value::Table(table)), toml::Value::Table(more)) => table.extend(more),
                (_, value) => drop(all.insert(key, value)),
            }
        }
        fs::write(self.folder.join("sipstamp.toml"), all.to_string()).unwrap();
        self
    }

    /// Starts it, and does not wait.
    pub fn spawn(&self) -> Sidecar {
        self.spawn_with(&[])
    }

    /// Starts another one that takes the place of the one that runs.
    pub fn take_over(&self) -> Sidecar {
        self.spawn_with(&["--takeover"])
    }

    fn spawn_with(&self, arguments: &[&str]) -> Sidecar {
        let log = OpenOptions::new().create(true).append(true).open(self.folder.join("sidecar.log")).unwrap();
        let binary = std::env::var("SIPSTAMP_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_sipstamp").to_owned());
        let mut command = match &self.place {
            Some(place) => place.command(&binary),
            None => Command::new(&binary),
        };
        let mut sockets = self.sockets.iter().map(|socket| OwnedFd::from(socket.try_clone().unwrap()).into());
        if !self.sockets.is_empty() {
            // What systemd hands over begins with descriptor 3.
            let count = self.sockets.len();
            let script =
                format!("exec 3<&0 4<&1 </dev/null >/dev/null; LISTEN_PID=$$ LISTEN_FDS={count} exec \"$0\" \"$@\"");
            command = Command::new("sh");
            command.args(["-c", &script, &binary]);
        }
        let child = command
            .args(["run", "--config"])
            .arg(self.folder.join("sipstamp.toml"))
            .args(arguments)
            .env_remove("RUST_LOG")
            .stdin(sockets.next().unwrap_or_else(Stdio::null))
            .stdout(sockets.next().unwrap_or_else(Stdio::null))
            .stderr(log)
            .spawn()
            .unwrap();
        Sidecar { child, admin: SocketAddr::from((SIDECAR, self.ports.admin)) }
    }

    /// Starts it, and waits until it is ready.
    #[track_caller]
    pub fn start(&self) -> Sidecar {
        let mut sidecar = self.spawn();
        let ready = wait_for("the sidecar to be ready", PATIENCE, || {
            assert!(sidecar.child.try_wait().unwrap().is_none(), "it does not start\n{}", self.log());
            Ok((sidecar.status("/readyz") == Some(200)).then_some(()))
        });
        ready.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
        sidecar
    }

    /// Its log over all runs.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("sidecar.log")).unwrap_or_default()
    }

    /// Each line of the log that must not be there.
    pub fn complaints(&self) -> Vec<String> {
        let is_bad = |line: &&str| line.contains("ERROR") || line.contains("panicked");
        self.log().lines().filter(is_bad).map(str::to_owned).collect()
    }

    /// `data` of each event in the file. A line that a kill tore is there again as a whole.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.join("events.jsonl")).unwrap_or_default();
        let lines = text.lines().collect::<BTreeSet<_>>();
        let mut events = Vec::new();
        for line in text.lines() {
            match serde_json::from_str::<Value>(line) {
                Ok(event) => {
                    assert_eq!(event["type"], "sipstamp.call.ended.v1", "{line}");
                    events.push(event["data"].clone());
                }
                Err(error) => {
                    let whole = lines.range(line..).nth(1);
                    assert!(whole.is_some_and(|whole| whole.starts_with(line)), "{error} in {line}");
                }
            }
        }
        events
    }

    /// Waits until no call is active and every event is written; then each call must have been told once, as what it was.
    #[track_caller]
    pub fn balances(&self, sidecar: &Sidecar, calls: &[(Kind, u32)]) {
        let all = calls.iter().map(|(_, count)| *count as usize).sum::<usize>();
        let settled = wait_for("no active call and all events written", PATIENCE, || {
            let scrape = sidecar.scrape();
            let sum = |name| scrape.sum(name, &BTreeMap::new());
            let is_idle = sum("sipstamp_calls_active").0 == 0.0 && sum("sipstamp_events_pending").0 == 0.0;
            Ok((is_idle && self.events().len() >= all).then_some(()))
        });
        let events = self.events();
        let of = |event: &Value, key: &str| event[key].as_str().unwrap_or("null").to_owned();
        let mut found = BTreeMap::<_, usize>::new();
        for event in &events {
            *found.entry(["request_user", "outcome", "end_cause"].map(|key| of(event, key))).or_default() += 1;
        }
        let expected = calls
            .iter()
            .map(|(kind, count)| ([kind.user, kind.outcome, kind.end_cause].map(str::to_owned), *count as usize));
        assert_eq!(found, expected.collect::<BTreeMap<_, _>>());
        for key in ["call_uid", "call_id"] {
            assert_eq!(events.iter().map(|event| of(event, key)).collect::<BTreeSet<_>>().len(), all, "{key}");
        }
        settled.unwrap();
        assert_eq!(sidecar.sum("sipstamp_accounting_imbalance"), 0.0);
    }
}

impl Sidecar {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }

    /// Its exit code.
    #[track_caller]
    pub fn ended(mut self) -> Option<i32> {
        wait_for("the sidecar to end", PATIENCE, || Ok(self.child.try_wait().unwrap())).unwrap().code()
    }

    /// `None` where nobody answers.
    pub fn status(&self, path: &str) -> Option<u16> {
        let answer = self.request(path)?;
        answer.split(' ').nth(1)?.parse().ok()
    }

    #[track_caller]
    pub fn scrape(&self) -> Scrape {
        Scrape::parse(&self.request("/metrics").expect("no metrics"))
    }

    #[track_caller]
    pub fn sum(&self, name: &str) -> f64 {
        self.scrape().sum(name, &BTreeMap::new()).0
    }

    /// Waits until a metric is as it should be.
    #[track_caller]
    pub fn wait_until(&self, name: &str, is_right: impl Fn(f64) -> bool) {
        wait_for(name, PATIENCE, || Ok(is_right(self.sum(name)).then_some(()))).unwrap();
    }

    #[track_caller]
    pub fn wait_until_status(&self, path: &str, status: u16) {
        wait_for(&format!("{status} to {path}"), PATIENCE, || Ok((self.status(path) == Some(status)).then_some(())))
            .unwrap();
    }

    fn request(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.admin).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.admin).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // Both fail where it has ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
