//! The sidecar as a process of its own, and what it shows of itself.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use super::callee::Callee;
use super::wire::{PATIENCE, Wire};
use crate::metrics::Scrape;
use crate::ports::{DIALER, Ports, SIDECAR, wait_for};

/// A running sidecar.
pub struct Site {
    pub child: Child,
    folder: PathBuf,
    ports: Ports,
}

impl Site {
    /// With so many workers, in front of these servers.
    pub fn start(name: &str, workers: usize, transport: &str, servers: &[SocketAddr]) -> Site {
        Site::start_on(&[SIDECAR, [127, 0, 0, 2].into()], name, workers, transport, servers)
    }

    /// The same on other addresses for UDP.
    pub fn start_on(listen: &[Ipv4Addr], name: &str, workers: usize, transport: &str, servers: &[SocketAddr]) -> Site {
        let ports = Ports::claim().unwrap();
        let sip = ports.sip;
        let udp = listen.iter().map(|ip| format!("'{ip}:{sip}'")).collect::<Vec<_>>().join(", ");
        let tables = format!(
            "[listen]\nudp = [{udp}]\ntcp = ['{SIDECAR}:{sip}']\n[dialer]\nsources = ['{DIALER}/32']\n\
             [limits]\noverload_delay = '0ms'\n{}",
            tables(transport, servers),
        );
        Site::start_with(&format!("workers-{name}"), ports, workers, &tables, command)
    }

    /// With these tables beside those of events and the API. `command` makes what is run, given the folder.
    pub fn start_with(
        name: &str,
        ports: Ports,
        workers: usize,
        tables: &str,
        command: impl FnOnce(&Path) -> Command,
    ) -> Site {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(&folder).unwrap();
        let text = format!(
            "workers = {workers}\n[events]\nfile = '{}'\n[admin]\nlisten = '{SIDECAR}:{}'\n{tables}",
            folder.join("events.jsonl").display(),
            ports.admin,
        );
        fs::write(folder.join("sipstamp.toml"), text).unwrap();
        let log = fs::File::create(folder.join("log.txt")).unwrap();
        let child = command(&folder).stderr(log).stdout(Stdio::null()).spawn().unwrap();
        let site = Site { child, folder, ports };
        let is_ready = || Ok(site.try_request("GET", "/readyz").filter(|(status, _)| *status == 200));
        wait_for("the sidecar", PATIENCE, is_ready).unwrap_or_else(|error| panic!("{error}: {}", site.log()));
        site
    }

    /// Names other servers in the configuration, and has it read again.
    pub fn serve(&self, transport: &str, servers: &[SocketAddr]) {
        let path = self.folder.join("sipstamp.toml");
        let text = fs::read_to_string(&path).unwrap();
        let (before, _) = text.split_once("[[telephony").unwrap();
        fs::write(&path, format!("{before}{}", tables(transport, servers))).unwrap();
        assert_eq!(self.request("POST", "/v1/reload").0, 200);
    }

    /// What another process says that has the same configuration.
    pub fn start_a_second_one(&self) -> Output {
        command(&self.folder).output().unwrap()
    }

    pub fn sip(&self) -> SocketAddr {
        SocketAddr::from((SIDECAR, self.ports.sip))
    }

    /// Another of its addresses.
    pub fn other_sip(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 2], self.ports.sip))
    }

    /// A way there from the dialer.
    pub fn udp(&self, to: SocketAddr) -> Wire {
        let socket = UdpSocket::bind((DIALER, 0)).unwrap();
        // What comes from another address is not taken.
        socket.connect(to).unwrap();
        Wire::udp(socket, to)
    }

    pub fn tcp(&self) -> Wire {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((DIALER, 0)).into()).unwrap();
        socket.connect(&self.sip().into()).unwrap();
        Wire::tcp(socket.into())
    }

    /// Status and body.
    pub fn request(&self, method: &str, path: &str) -> (u16, Value) {
        let (status, body) = self.try_request(method, path).expect("the admin API answers");
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    /// The sum of all series of a name with this label.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let page = self.metrics();
        let labels: BTreeMap<_, _> = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Scrape::parse(&page).sum(name, &labels).0 as u64
    }

    /// What Prometheus gets.
    pub fn metrics(&self) -> String {
        self.try_request("GET", "/metrics").expect("the admin API answers").1
    }

    /// Waits for so many events, and that all is quiet; no Call-ID may be there twice.
    pub fn events(&self, count: usize) -> Vec<Value> {
        let events = self.all_events(count);
        let ids = events.iter().map(|event| event["data"]["call_id"].as_str().unwrap());
        assert_eq!(ids.collect::<std::collections::BTreeSet<_>>().len(), count, "a call is there twice");
        events
    }

    /// The same, whatever Call-IDs there are.
    pub fn all_events(&self, count: usize) -> Vec<Value> {
        let path = self.folder.join("events.jsonl");
        let lines = || fs::read_to_string(&path).unwrap_or_default().lines().count();
        wait_for(&format!("{count} events"), PATIENCE, || Ok((lines() >= count).then_some(())))
            .unwrap_or_else(|error| panic!("{error}, {} came: {}", lines(), self.log()));
        assert_eq!(self.metric("sipstamp_calls_active", &[]), 0);
        let text = fs::read_to_string(&path).unwrap();
        let events = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
        assert_eq!(events.len(), count);
        assert_eq!(self.metric("sipstamp_call_outcomes_total", &[]), count as u64);
        assert_eq!(self.metric("sipstamp_calls_started_total", &[]), count as u64);
        assert_eq!(self.metric("sipstamp_accounting_imbalance", &[]), 0);
        events
    }

    /// How often each thread has gone to sleep, by the thread's name.
    pub fn sleeps(&self) -> BTreeMap<String, u64> {
        self.threads("status", |status| {
            let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            count.and_then(|count| count.trim().parse().ok())
        })
    }

    /// How long each thread has run, in nanoseconds.
    pub fn work(&self) -> BTreeMap<String, u64> {
        self.threads("schedstat", |text| text.split(' ').next()?.parse().ok())
    }

    fn threads(&self, file: &str, figure: impl Fn(&str) -> Option<u64>) -> BTreeMap<String, u64> {
        let mut figures = BTreeMap::new();
        // A thread may end meanwhile.
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().flatten() {
            let task = task.path();
            let text = fs::read_to_string(task.join(file)).unwrap_or_default();
            let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
            figures.insert(format!("{} {}", name.trim(), task.display()), figure(&text).unwrap_or_default());
        }
        figures
    }

    /// The far ends of its connected UDP sockets, as the kernel shows them.
    pub fn connected_to(&self, remote: SocketAddr) -> bool {
        let SocketAddr::V4(remote) = remote else { return false };
        let shown = |ip: Ipv4Addr, port: u16| format!("{:08X}:{port:04X}", u32::from_ne_bytes(ip.octets()));
        let ends = format!("{} {}", shown(SIDECAR, self.ports.sip), shown(*remote.ip(), remote.port()));
        fs::read_to_string("/proc/net/udp").unwrap().contains(&ends)
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Whether a signal has stopped it.
    pub fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        stat.rsplit(") ").next().is_some_and(|behind_name| behind_name.starts_with('T'))
    }

    /// Ends well after SIGTERM, without a complaint in its log.
    pub fn end(mut self) {
        self.signal("-TERM");
        let ended = wait_for("the sidecar to end", PATIENCE, || Ok(self.child.try_wait().unwrap()));
        assert!(ended.unwrap().success(), "{}", self.log());
        let log = self.log();
        assert!(!log.contains("ERROR") && !log.contains("panicked"), "{log}");
    }

    /// Ends after a second SIGTERM, whatever calls are open.
    pub fn end_at_once(self) {
        self.signal("-TERM");
        // Two signals that it has not looked at are one.
        let is_ready = || self.try_request("GET", "/readyz").is_some_and(|(status, _)| status == 200);
        wait_for("the drain to begin", PATIENCE, || Ok((!is_ready()).then_some(()))).unwrap();
        self.end();
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

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log.txt")).unwrap_or_default()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Addresses of servers.
pub fn addresses(callees: &[&Callee]) -> Vec<SocketAddr> {
    callees.iter().map(|callee| callee.address).collect()
}

/// Runs the configuration in a folder.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sipstamp"));
    command.args(["run", "--config"]).arg(folder.join("sipstamp.toml")).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn tables(transport: &str, servers: &[SocketAddr]) -> String {
    let table = |address| format!("[[telephony.servers]]\nuri = 'sip:{address};transport={transport}'\n");
    servers.iter().map(table).collect()
}
