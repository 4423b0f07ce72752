//! A block of free ports per run, and waiting for things to come about.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub const SIDECAR: Ipv4Addr = Ipv4Addr::LOCALHOST;
pub const DIALER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 10);
pub const PBX_A: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 20);
pub const PBX_B: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 21);

/// Ports that one run has for itself, below those that the system hands out.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// SIP, on every address, both transports.
    pub sip: u16,
    /// The admin API.
    pub admin: u16,
    /// SIPp's control socket.
    pub control: u16,
    /// SIPp's media sockets: this one and the next but one.
    pub media: u16,
}

const FIRST: u16 = 12_000;
const BLOCK: u16 = 8;
const BLOCKS: u16 = 2_400;

impl Ports {
    /// The next block whose SIP and admin ports nobody holds.
    pub fn claim() -> Result<Ports, String> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Two test processes on one machine begin at different blocks.
        let offset = u16::try_from(std::process::id() % u32::from(BLOCKS)).unwrap_or(0);
        for _ in 0..BLOCKS {
            let block = (offset + NEXT.fetch_add(1, Ordering::Relaxed)) % BLOCKS;
            let sip = FIRST + block * BLOCK;
            let ports = Ports { sip, admin: sip + 1, control: sip + 2, media: sip + 4 };
            if ports.are_free() {
                return Ok(ports);
            }
        }
        Err(format!("no free ports from {FIRST} on"))
    }

    fn are_free(self) -> bool {
        let everyone = [SIDECAR, DIALER, PBX_A, PBX_B];
        everyone.iter().all(|&ip| UdpSocket::bind((ip, self.sip)).is_ok() && TcpListener::bind((ip, self.sip)).is_ok())
            && TcpListener::bind((SIDECAR, self.admin)).is_ok()
    }
}

/// Asks until there is an answer; says what was waited for when `limit` has passed.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut question: impl FnMut() -> Result<Option<T>, String>,
) -> Result<T, String> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = question()? {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            return Err(format!("waited {limit:?} in vain for {what}"));
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
