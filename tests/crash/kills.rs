//! Killed among calls, and started again: SIPp notices nothing, and every call is told once.

use std::time::{Duration, Instant};

use super::agent::{Agent, KINDS, Kind};
use super::server::NatsServer;
use super::site::{Sidecar, Site};

/// Of a run, what is random.
struct Dice(u64);

impl Dice {
    /// As `SIPSTAMP_CRASH_SEED` says, else by chance.
    fn thrown(test: &str) -> Dice {
        let by_chance = || {
            u64::from(std::process::id()) << 20 | u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_micros())
        };
        let seed = std::env::var("SIPSTAMP_CRASH_SEED").ok().map(|text| text.parse().expect("a number"));
        let seed = seed.unwrap_or_else(by_chance);
        eprintln!("{test}: SIPSTAMP_CRASH_SEED={seed}");
        Dice(seed.wrapping_mul(2).wrapping_add(1))
    }

    /// splitmix64.
    fn between(&mut self, from: u64, to: u64) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_millis(from + (z ^ (z >> 31)) % (to - from))
    }
}

/// Calls of all kinds, the server first.
fn callers(site: &Site, calls: u32, a_second: u32, talk: Duration) -> (Vec<Agent>, Vec<(Kind, u32)>) {
    let calls = KINDS.map(|kind| (kind, calls * kind.share / 100));
    let all = calls.iter().map(|(_, count)| count).sum();
    let mut agents = vec![Agent::server(site, all, talk)];
    agents.extend(calls.map(|(kind, count)| Agent::callers(site, kind, count, a_second * kind.share / 10, talk)));
    (agents, calls.to_vec())
}

fn let_pass(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

#[test]
fn killed_at_any_moment_it_loses_no_call_and_tells_none_twice() {
    let mut dice = Dice::thrown("killed");
    let site = Site::new("killed");
    let nats = NatsServer::start(&site.folder);
    // A 200 is sent again after 0.5, 1, 2, 4, 4, … seconds: nobody may be there for all of those that come in time.
    let events = format!("events.nats = {{ servers = ['{}'] }}\ntimeouts = {{ no_answer = '20s' }}", nats.url());
    let site = site.configured(&events);
    let mut sidecar = site.start();
    let (agents, calls) = callers(&site, 2_500, 100, Duration::from_secs(13));
    for _ in 0..20 {
        let_pass(dice.between(100, 2_200));
        sidecar.kill();
        let_pass(dice.between(10, 300));
        // It may be killed while it starts.
        sidecar = site.spawn();
    }
    agents.into_iter().for_each(Agent::succeeds);
    site.balances(&sidecar, &calls);
    assert_eq!(site.complaints(), [""; 0]);
    // Once each in the stream too.
    let all = calls.iter().map(|(_, count)| *count as usize).sum();
    nats.events("CALLS", all);
}

#[test]
fn processes_that_take_over_from_each_other_lose_no_call() {
    take_over_from_each_other(Site::new("takeover"));
}

#[test]
fn processes_with_several_workers_that_take_over_from_each_other_lose_no_call() {
    take_over_from_each_other(Site::new("takeover-workers").configured("workers = 2"));
}

fn take_over_from_each_other(site: Site) {
    let mut sidecar = site.start();
    let (agents, calls) = callers(&site, 600, 60, Duration::from_secs(4));
    for _ in 0..4 {
        let_pass(Duration::from_secs(2));
        let successor = site.take_over();
        assert_eq!(sidecar.ended(), Some(0));
        sidecar = successor;
    }
    agents.into_iter().for_each(Agent::succeeds);
    site.balances(&sidecar, &calls);
    assert_eq!(site.complaints(), [""; 0]);
}

#[test]
fn restarts_with_a_socket_of_systemd_lose_no_call() {
    restart_with(Site::new("systemd").configured("workers = 2").with_sockets(1));
}

#[test]
fn restarts_with_a_socket_of_systemd_for_each_worker_lose_no_call() {
    let sidecar = restart_with(Site::new("systemd-each").configured("workers = 2").with_sockets(2));
    assert_eq!(sidecar.sum("sipstamp_worker_handovers_total"), 0.0);
}

/// Returns the last of the processes.
fn restart_with(site: Site) -> Sidecar {
    let mut sidecar = site.start();
    let (agents, calls) = callers(&site, 600, 60, Duration::from_secs(4));
    for _ in 0..4 {
        let_pass(Duration::from_secs(2));
        sidecar.terminate();
        assert_eq!(sidecar.ended(), Some(0));
        let_pass(Duration::from_millis(300));
        sidecar = site.spawn();
    }
    agents.into_iter().for_each(Agent::succeeds);
    site.balances(&sidecar, &calls);
    assert!(!site.log().contains("draining"), "{}", site.log());
    assert_eq!(site.complaints(), [""; 0]);
    sidecar
}

#[test]
fn calls_find_their_workers_however_many_there_are_after_the_start() {
    let mut dice = Dice::thrown("workers");
    let mut site = Site::new("workers").configured("workers = 2");
    let mut sidecar = site.start();
    let (agents, calls) = callers(&site, 600, 40, Duration::from_secs(6));
    for workers in [1, 2, 3, 1, 2] {
        let_pass(dice.between(1_500, 3_000));
        sidecar.kill();
        site = site.configured(&format!("workers = {workers}"));
        sidecar = site.spawn();
    }
    agents.into_iter().for_each(Agent::succeeds);
    site.balances(&sidecar, &calls);
    assert_eq!(site.complaints(), [""; 0]);
}

#[test]
fn calls_that_a_drain_waits_for_outlive_its_end() {
    let site = Site::new("drained");
    let sidecar = site.start();
    let (agents, calls) = callers(&site, 200, 100, Duration::from_secs(9));
    sidecar.wait_until("sipstamp_calls_started_total", |started| started == 200.0);
    sidecar.terminate();
    sidecar.wait_until_status("/readyz", 503);
    assert!(sidecar.sum("sipstamp_calls_active") > 100.0);
    sidecar.kill();
    let sidecar = site.start();
    agents.into_iter().for_each(Agent::succeeds);
    site.balances(&sidecar, &calls);
    sidecar.terminate();
    assert_eq!(sidecar.ended(), Some(0));
    assert_eq!(site.complaints(), [""; 0]);
}

#[test]
fn calls_that_a_forced_exit_leaves_go_on_after_the_next_start() {
    let site = Site::new("forced");
    let sidecar = site.start();
    let (agents, calls) = callers(&site, 200, 100, Duration::from_secs(9));
    sidecar.wait_until("sipstamp_calls_started_total", |started| started == 200.0);
    sidecar.terminate();
    sidecar.wait_until_status("/readyz", 503);
    sidecar.terminate();
    assert_eq!(sidecar.ended(), Some(0));
    let sidecar = site.start();
    agents.into_iter().for_each(Agent::succeeds);
    site.balances(&sidecar, &calls);
    assert_eq!(site.complaints(), [""; 0]);
}
