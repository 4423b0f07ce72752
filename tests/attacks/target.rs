//! The sidecar that is attacked, and what is asked of it afterwards.

use std::cell::Cell;
use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::beside::{Beside, platform};
use crate::ports::{DIALER, Ports, SIDECAR, wait_for};
use crate::site::{Site, command};
use crate::wire::{Message, PATIENCE};

/// A telephony server that attacks may use.
pub const PBX: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 20);
/// A dialer of the configured range beside [`DIALER`].
pub const FLOODER: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 5);
/// Nobody whom the configuration names.
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 99, 0, 1);
/// Log lines per second that strangers can cause, and what a start says.
const LOG_LINES: (f64, usize) = (20.0, 60);

/// A sidecar under attack, with a caller beside.
pub struct Target {
    pub site: Site,
    pub beside: Beside,
    begun: Instant,
    _part: Part,
}

/// What attacks share, but for those that have it alone.
static MACHINE: RwLock<()> = RwLock::new(());

thread_local! {
    /// Parts that the test on this thread has: who has one waits for no other.
    static PARTS: Cell<usize> = const { Cell::new(0) };
}

/// A part of the machine, or all of it.
pub struct Part {
    _shared: Option<RwLockReadGuard<'static, ()>>,
    _alone: Option<RwLockWriteGuard<'static, ()>>,
}

impl Part {
    fn take(is_all: bool) -> Part {
        let is_first = PARTS.replace(PARTS.get() + 1) == 0;
        let shared = (is_first && !is_all).then(|| MACHINE.read().unwrap_or_else(PoisonError::into_inner));
        let alone = (is_first && is_all).then(|| MACHINE.write().unwrap_or_else(PoisonError::into_inner));
        Part { _shared: shared, _alone: alone }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        PARTS.set(PARTS.get() - 1);
    }
}

/// While this lives, no other attack has anything of the machine.
pub fn alone() -> Part {
    Part::take(true)
}

/// For tests of something else: built for tests, and on a busy machine, the process has little capacity.
pub const AT_LEISURE: &str = "[limits]\noverload_delay = '0ms'\n";

impl Target {
    /// In front of this server. `more` are tables, and before them perhaps the dialer's sources. The calls beside come by
    /// UDP.
    pub fn start(name: &str, server: impl Display, more: &str) -> Target {
        Target::start_as(name, server, more, 1, false, command)
    }

    pub fn start_as(
        name: &str,
        server: impl Display,
        more: &str,
        workers: usize,
        by_tcp: bool,
        command: impl FnOnce(&Path) -> Command,
    ) -> Target {
        let part = Part::take(false);
        let ports = Ports::claim().unwrap();
        let tables = tables(ports.sip, server, platform(), more);
        let site = Site::start_with(&format!("attacks-{name}"), ports, workers, &tables, command);
        let beside = Beside::start(site.sip(), by_tcp);
        Target { site, beside, begun: Instant::now(), _part: part }
    }

    pub fn rejected(&self, reason: &str) -> u64 {
        self.site.metric("sipstamp_sip_rejected_total", &[("reason", reason)])
    }

    pub fn dropped(&self, reason: &str) -> u64 {
        self.site.metric("sipstamp_transport_dropped_total", &[("reason", reason)])
    }

    /// How often something that has a limit per second may have happened since the start.
    pub fn allowance(&self, per_second: u32) -> u64 {
        (f64::from(per_second) * (self.begun.elapsed().as_secs_f64() + 2.0)) as u64
    }

    /// What the attack had to leave alone: the calls beside, the memory, the log. Returns the events of other calls.
    pub fn end(self, most_memory: u64) -> Vec<Value> {
        let Target { site, beside, begun, _part } = self;
        let beside = beside.end();
        wait_for("the last call to end", PATIENCE, || {
            Ok((site.metric("sipstamp_calls_active", &[]) == 0).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error}: {}", site.log()));
        let all = site.all_events(usize::try_from(site.metric("sipstamp_calls_started_total", &[])).unwrap());
        let (theirs, others) = all.into_iter().partition::<Vec<_>, _>(|event| beside.contains(&call_id(event)));
        assert_eq!(theirs.len(), beside.len(), "calls beside are lost, or are there twice");
        for event in &theirs {
            assert_eq!((&event["data"]["outcome"], &event["data"]["ended_by"]), (&"Normal".into(), &"caller".into()));
        }
        let memory = peak_memory(&site);
        println!("{} calls beside, {memory} MiB at most", beside.len());
        assert!(memory <= most_memory, "{memory} MiB");
        let lines = site.log().lines().count();
        let seconds = begun.elapsed().as_secs_f64() + 1.0;
        assert!(lines <= (LOG_LINES.0 * seconds) as usize + LOG_LINES.1, "{lines} lines: {}", site.log());
        // Whoever floods acknowledges nothing: it need not wait for that.
        site.end_at_once();
        others
    }
}

pub fn call_id(event: &Value) -> String {
    event["data"]["call_id"].as_str().unwrap().to_owned()
}

/// A socket at any port of an address, with room for much.
pub fn socket(ip: Ipv4Addr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    let of = socket2::SockRef::from(&socket);
    drop(of.set_recv_buffer_size(8 << 20));
    drop(of.set_send_buffer_size(8 << 20));
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The next message; `None` where none comes in time.
pub fn receive(socket: &UdpSocket, within: Duration) -> Option<(Message, SocketAddr)> {
    let mut buffer = vec![0; 65_536];
    socket.set_read_timeout(Some(within.max(Duration::from_millis(1)))).unwrap();
    let (size, from) = socket.recv_from(&mut buffer).ok()?;
    Some((Message(String::from_utf8_lossy(&buffer[..size]).into_owned()), from))
}

/// All messages that are there.
pub fn drain(socket: &UdpSocket) -> Vec<Message> {
    std::iter::from_fn(|| receive(socket, Duration::from_millis(1))).map(|(message, _)| message).collect()
}

/// The largest memory that the process has had, in MiB.
fn peak_memory(site: &Site) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", site.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

fn tables(sip: u16, server: impl Display, platform: SocketAddr, more: &str) -> String {
    let carrier = super::beside::CARRIER;
    let of_dialer = format!("sources = ['{DIALER}/32', '127.0.1.0/24']");
    let sources = if more.starts_with("sources") { "" } else { &of_dialer };
    format!(
        "[listen]\nudp = ['{SIDECAR}:{sip}', '127.0.0.2:{sip}']\ntcp = ['{SIDECAR}:{sip}', '127.0.0.2:{sip}']\n\
         [dialer]\ntarget = 'sip:{platform}'\n{sources}\n{more}\n\
         [[telephony.servers]]\nuri = 'sip:{server}'\nsources = ['{carrier}/32']\n"
    )
}
