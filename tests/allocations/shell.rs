//! The way of a datagram through the shell: the real worker on loopback, between the two halves of the load generator.

use std::net::SocketAddr;
use std::time::Duration;

use sipstamp::config::{self, Overrides};
use sipstamp::runtime::{self, Bind, Running};

use crate::counting;
use crate::generator::calls::Hold;
use crate::generator::check::Profile;
use crate::generator::engine::{Load, Report, Settings, Step, Work};
use crate::generator::lanes::Waits;
use crate::ports::{DIALER, PBX_A, Ports, SIDECAR, wait_for};

const PATIENCE: Duration = Duration::from_secs(20);
/// The shortest T1: what is left of a call is gone 3.2 s after its end.
const T1: &str = "50ms";
/// Calls that are open at once before anything is counted, to make room for whatever fewer of them need.
const WARM_UP: u64 = 100;
/// Calls per second.
const AT_ONCE: f64 = 1e6;
/// Two calls so far from each other that nothing is left of any when the second begins.
const PAUSE: (u64, f64) = (2, 0.25);
/// Calls that come together, how many such bursts there are between two pauses, and how often that is. What the calls
/// between two pauses need is less than the core keeps in hand after a peak: so it does not matter how much the machine
/// slows down whom.
const BURST: u64 = 4;
const BURSTS: u64 = 4;
const ROUNDS: u64 = 3;

/// A dialer and a server, and what they have done.
struct Peers {
    load: Load,
    ended: u64,
}

impl Peers {
    fn new(ports: Ports) -> Peers {
        let at = |ip| SocketAddr::from((ip, ports.sip));
        let short = Duration::from_millis(2);
        let settings = Settings {
            device: at(SIDECAR),
            dialer: at(DIALER),
            server: at(PBX_A),
            is_tcp: false,
            profile: Profile { is_proxy: true, record_routes: true, stamps: true },
            waits: Waits { ring: short, talk: short, t1: Duration::from_millis(500), linger: Duration::from_secs(1) },
            series: 11,
        };
        Peers { load: Load::new(&settings).unwrap(), ended: 0 }
    }

    /// Begins calls, or lets those go on that are held; all has to be as it should.
    #[track_caller]
    fn run(&mut self, work: Work, calls: u64, rate: f64) {
        let Report { tally, faults, .. } = self.load.run(&Step { work, calls, rate, drain: PATIENCE }).unwrap();
        assert_eq!((tally.held + tally.completed, tally.failed, &faults), (calls, 0, &Default::default()), "{tally:?}");
        self.ended += tally.completed;
    }
}

/// A sidecar with one worker.
fn start(ports: Ports) -> Running {
    let text = format!(
        "workers = 1\n[listen]\nudp = ['{SIDECAR}:{sip}']\ntcp = []\n[dialer]\nsources = ['{DIALER}/32']\n\
         [[telephony.servers]]\nuri = 'sip:{PBX_A}:{sip}'\n[timeouts]\nt1 = '{T1}'\nt4 = '{T1}'\n\
         [limits]\noverload_delay = '0ms'\n[admin]\nlisten = '{SIDECAR}:{admin}'\n",
        sip = ports.sip,
        admin = ports.admin,
    );
    let settings = config::parse(&text, "test.toml", &Overrides::default(), &|_| None).unwrap();
    runtime::start(settings, Bind::default()).unwrap()
}

/// Waits until so many calls have been told: their lines are in nobody's way any more.
fn await_events(running: &Running, count: u64) {
    let told = || running.recent.newest(usize::MAX).len() as u64;
    wait_for("events", PATIENCE, || Ok((told() == count).then_some(()))).unwrap();
}

#[test]
fn from_datagram_to_datagram_a_worker_allocates_nothing() {
    let ports = Ports::claim().unwrap();
    let mut peers = Peers::new(ports);
    let running = start(ports);
    wait_for("the worker", PATIENCE, || Ok(counting::watch("sip-0").then_some(()))).unwrap();
    for hold in [Hold::Ringing, Hold::Answered] {
        peers.run(Work::Begin(hold), WARM_UP, AT_ONCE);
        peers.run(Work::Release, WARM_UP, AT_ONCE);
    }
    let (warm_up, _) = counting::seen();
    assert!(warm_up > 0, "the first call has to allocate: this test counts nothing");
    peers.run(Work::Begin(Hold::No), PAUSE.0, PAUSE.1);
    counting::seen();
    for _ in 0..ROUNDS {
        for _ in 0..BURSTS {
            await_events(&running, peers.ended);
            peers.run(Work::Begin(Hold::No), BURST, AT_ONCE);
        }
        peers.run(Work::Begin(Hold::No), PAUSE.0, PAUSE.1);
    }
    let (count, first) = counting::seen();
    assert_eq!(count, 0, "the first time:\n{}", first.map(|at| at.to_string()).unwrap_or_default());
    await_events(&running, peers.ended);
    running.stop().unwrap();
}
