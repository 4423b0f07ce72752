//! One SIPp process that behaves as a user agent does: what it did not expect it leaves alone, and copies of what ended a
//! call it answers for a while.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::ports::{PBX_A, SIDECAR, wait_for};
use super::site::Site;

/// SIPp's own limit; whoever waits for it waits a little longer.
const LIMIT: Duration = Duration::from_secs(110);

pub struct Agent {
    name: &'static str,
    child: Child,
    folder: PathBuf,
}

/// Calls of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// File of its scenario.
    pub scenario: &'static str,
    /// User part of the Request-URI: what the server does is in it.
    pub user: &'static str,
    pub outcome: &'static str,
    pub end_cause: &'static str,
    /// Of a hundred calls.
    pub share: u32,
}

pub const HANGS_UP: Kind =
    Kind { scenario: "hangs-up", user: "answers", outcome: "Normal", end_cause: "answered_bye_caller", share: 30 };

/// Every way to end.
pub const KINDS: [Kind; 6] = [
    HANGS_UP,
    Kind { scenario: "hung-up", user: "hung-up", outcome: "Normal", end_cause: "answered_bye_callee", share: 25 },
    Kind { scenario: "busy", user: "busy", outcome: "NumberBusy", end_cause: "peer_final", share: 15 },
    Kind { scenario: "declined", user: "declined", outcome: "CallFailed", end_cause: "peer_final", share: 10 },
    Kind { scenario: "cancels", user: "rings-cancelled", outcome: "CallFailed", end_cause: "caller_cancel", share: 10 },
    Kind {
        scenario: "unanswered",
        user: "rings-unanswered",
        outcome: "NoAnswer",
        end_cause: "no_answer_timer",
        share: 10,
    },
];

impl Agent {
    /// The telephony server, for that many calls.
    pub fn server(site: &Site, calls: u32, talk: Duration) -> Agent {
        let mut agent = Agent::start(site, "server", PBX_A, calls, talk, &[]);
        let socket = format!(" {:08X}:{:04X} ", u32::from_le_bytes(PBX_A.octets()), site.ports.sip);
        wait_for("the server to bind", Duration::from_secs(10), || {
            assert!(agent.child.try_wait().unwrap().is_none(), "{}", agent.errors());
            Ok(fs::read_to_string("/proc/net/udp").unwrap().contains(&socket).then_some(()))
        })
        .unwrap();
        agent
    }

    /// Callers that place so many calls of a kind, at so many in ten seconds. Each kind has an address of its own.
    pub fn callers(site: &Site, kind: Kind, calls: u32, in_ten_seconds: u32, talk: Duration) -> Agent {
        let place = KINDS.iter().position(|other| other.user == kind.user).unwrap();
        let (rate, period) = (in_ten_seconds.to_string(), "10000".to_owned());
        let target = format!("{SIDECAR}:{}", site.ports.sip);
        // A rate of less than one a period is none to SIPp.
        let args = ["-s", kind.user, "-r", &rate, "-rp", &period, "-l", "5000", &target];
        Agent::start(site, kind.scenario, Ipv4Addr::new(127, 0, 1, 1 + place as u8), calls, talk, &args)
    }

    fn start(site: &Site, name: &'static str, address: Ipv4Addr, calls: u32, talk: Duration, args: &[&str]) -> Agent {
        let scenario = format!("{}/tests/crash/sipp/{name}.xml", env!("CARGO_MANIFEST_DIR"));
        let (address, ports) = (address.to_string(), site.ports);
        let log = |suffix: &str| site.folder.join(format!("{name}.{suffix}"));
        let child = Command::new("sipp")
            .args(["-sf", &scenario, "-i", &address, "-p", &ports.sip.to_string(), "-bind_local", "-t", "u1"])
            .args(["-ci", &address, "-cp", &ports.control.to_string()])
            .args(["-mi", &address, "-mp", &ports.media.to_string()])
            .args(["-m", &calls.to_string(), "-d", &talk.as_millis().to_string(), "-nostdin"])
            .args(["-timeout", &LIMIT.as_secs().to_string(), "-timeout_error"])
            .args(["-default_behaviors", "all,-abortunexp,-bye"])
            .args(["-max_retrans", "10", "-buff_size", "4194304"])
            .args(["-trace_err", "-error_file"])
            .arg(log("errors"))
            .args(["-trace_msg", "-message_file"])
            .arg(log("messages"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(File::create(log("screen")).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .expect("sipp does not start; install it with: apt-get install sip-tester");
        Agent { name, child, folder: site.folder.clone() }
    }

    /// Waits until all its calls have ended, none of them failed.
    #[track_caller]
    pub fn succeeds(mut self) {
        let ended = wait_for(&format!("{} to end", self.name), LIMIT + Duration::from_secs(10), || {
            Ok(self.child.try_wait().unwrap())
        });
        assert_eq!(ended.unwrap().code(), Some(0), "calls of {} have failed\n{}", self.name, self.errors());
    }

    fn errors(&self) -> String {
        let errors = fs::read(self.folder.join(format!("{}.errors", self.name))).unwrap_or_default();
        String::from_utf8_lossy(&errors).lines().take(40).map(|line| format!("{line}\n")).collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Both fail where it has ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
