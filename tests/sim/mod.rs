//! The simulation: its clock, its network, and the order in which things happen.

mod callee;
mod caller;
mod check;
mod plan;
mod rng;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use sipstamp::endpoint::{Endpoint, Input, Output, Owner, QueryId, Seed, Transmit};
use sipstamp::event::{CallData, EventKind};
use sipstamp::flow::{Flow, Side, Transport};
use sipstamp::policy::Policy;
use sipstamp::sip::{Limits, Message};
use sipstamp::time::{Mono, Now, Wall};

use self::callee::Callee;
use self::caller::Caller;
use self::plan::Network;
pub use self::plan::Weather;
use self::rng::Rng;
use crate::support::{DIALER, Journal, Msg, PBX_A, PBX_B, PBX_C, SIDECAR, minutes, ms, policy, secs, server};

/// Runs of each test, and calls of each run.
const RUNS: u64 = 24;
const CALLS: usize = 40;
const SEED: Seed = Seed { key: [3; 16] };
/// Sooner or later everything is over.
const LONGEST: u64 = 100_000_000;

/// What will happen at some time.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    /// A datagram comes to the sidecar.
    ToSidecar {
        from: SocketAddr,
        text: String,
    },
    /// A datagram comes to somebody else.
    ToPeer {
        to: SocketAddr,
        text: String,
    },
    /// A request of a peer is sent again, unless it is done with.
    Retransmit {
        branch: String,
        method: String,
        interval: u64,
        until: u64,
    },
    /// A final response to an INVITE is sent again until its ACK comes.
    Repeat {
        key: String,
        interval: u64,
        until: u64,
    },
    Caller {
        call: usize,
        act: caller::Act,
    },
    Callee {
        callee: usize,
        act: callee::Act,
    },
    Failed {
        owner: u64,
    },
    Resolved {
        query: u64,
    },
    HangUp {
        call: usize,
    },
    Drop {
        call: usize,
    },
    Reload,
    Drain,
    Stop,
    /// The process is killed: at once, or when it is about to send the next time.
    Kill {
        when_sending: bool,
    },
    /// Another one goes on.
    Start,
}

/// A request of a peer that waits for its response.
pub struct Request {
    pub call: usize,
    pub from: String,
    pub text: String,
    pub is_answered: bool,
}

/// A final response to an INVITE that waits for its ACK.
pub struct Unacknowledged {
    pub from: String,
    pub text: String,
    pub is_acknowledged: bool,
}

pub struct Sim {
    pub endpoint: Endpoint,
    /// Milliseconds.
    pub now: u64,
    pub rng: Rng,
    pub network: Network,
    pub callers: Vec<Caller>,
    pub callees: Vec<Callee>,
    /// By branch and method.
    pub requests: BTreeMap<(String, String), Request>,
    /// By branch of the INVITE and To tag.
    pub unacknowledged: BTreeMap<String, Unacknowledged>,
    /// What was answered to a request, by whom it came to, branch and method: for its repetitions.
    pub answers: BTreeMap<(SocketAddr, String, String), Option<String>>,
    /// Ended calls, by call_uid.
    pub ended: BTreeMap<String, CallData>,
    /// Stamps that went to the dialer: call_uid, outcome, cause.
    pub stamps: BTreeSet<(String, String, Option<String>)>,
    pub is_stopped: bool,
    /// Started calls, where lifecycle events tell of them.
    pub started: BTreeSet<String>,
    pub restarts: u64,
    journal: Journal,
    /// The process is not there.
    is_down: bool,
    is_killed_when_sending: bool,
    dead: Option<SocketAddr>,
    weather: Weather,
    jobs: BinaryHeap<Reverse<(u64, u64, Job)>>,
    serial: u64,
    is_verbose: bool,
}

/// Tells which seed it was.
struct Witness(Weather, u64);

impl Drop for Witness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?} failed: SIM_SEED={} cargo test --test sim shows it again", self.0, self.1);
        }
    }
}

/// All runs of one weather, or the one that the environment names.
pub fn run_all(weather: Weather) {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_RUNS").unwrap_or(RUNS),
    };
    let is_verbose = number("SIM_SEED").is_some();
    for seed in seeds {
        let witness = Witness(weather, seed);
        let mut sim = Sim::new(weather, seed, is_verbose);
        sim.run();
        sim.check();
        drop(witness);
    }
}

impl Sim {
    fn new(weather: Weather, seed: u64, is_verbose: bool) -> Sim {
        let mut rng = Rng::new(seed);
        let network = Network::new(weather, &mut rng);
        let policy = any_policy(weather, &mut rng);
        let now = Now { mono: Mono(0), wall: Wall(0) };
        let mut sim = Sim {
            endpoint: Endpoint::new(now, SEED, Arc::new(policy)),
            now: 0,
            network,
            callers: Vec::new(),
            callees: Vec::new(),
            requests: BTreeMap::new(),
            unacknowledged: BTreeMap::new(),
            answers: BTreeMap::new(),
            ended: BTreeMap::new(),
            stamps: BTreeSet::new(),
            is_stopped: false,
            started: BTreeSet::new(),
            restarts: 0,
            journal: Journal::default(),
            is_down: false,
            is_killed_when_sending: false,
            dead: None,
            weather,
            jobs: BinaryHeap::new(),
            serial: 0,
            is_verbose,
            rng,
        };
        for call in 0..CALLS {
            let at = sim.rng.within(0, 60_000);
            sim.callers.push(Caller::new(call, &mut sim.rng));
            sim.at(at, Job::Caller { call, act: caller::Act::Call });
        }
        match weather {
            Weather::Operators => sim.interfere(),
            Weather::Restarts => sim.plan_restarts(),
            Weather::Calm | Weather::Storm => {}
        }
        sim
    }

    fn interfere(&mut self) {
        for call in 0..CALLS {
            let at = self.rng.within(0, 120_000);
            if self.rng.chance(20) {
                self.at(at, Job::HangUp { call });
            }
            if self.rng.chance(20) {
                self.at(at, Job::Drop { call });
            }
        }
        for (percent, job) in [(50, Job::Reload), (50, Job::Reload), (25, Job::Drain), (20, Job::Stop)] {
            let at = self.rng.within(0, 120_000);
            if self.rng.chance(percent) {
                self.at(at, job);
            }
        }
        if self.rng.chance(30) {
            self.dead = Some(PBX_A.parse().unwrap());
        }
    }

    fn plan_restarts(&mut self) {
        self.endpoint.keep_records();
        for _ in 0..self.rng.within(1, 8) {
            let (at, when_sending) = (self.rng.within(0, 120_000), self.rng.chance(60));
            self.at(at, Job::Kill { when_sending });
        }
    }

    fn kill(&mut self) {
        if std::mem::replace(&mut self.is_down, true) {
            return;
        }
        self.is_killed_when_sending = false;
        let pause = self.rng.pick(&[1, 100, 1_000, 3_000]);
        self.after(pause, Job::Start);
        // What was to be told to it is told to nobody; what is left of it does nothing.
        self.jobs.retain(|Reverse((.., job))| !matches!(job, Job::Failed { .. } | Job::Resolved { .. }));
        self.endpoint = Endpoint::new(self.clock(), SEED, self.endpoint.policy().clone());
    }

    fn start(&mut self) {
        self.is_down = false;
        self.restarts += 1;
        let policy = match self.rng.chance(20) {
            true => Arc::new(any_policy(self.weather, &mut self.rng)),
            false => self.endpoint.policy().clone(),
        };
        let now = self.clock();
        self.endpoint = Endpoint::new(now, SEED, policy);
        self.endpoint.keep_records();
        let restored = self.endpoint.restore(now, &self.journal.stored());
        assert_eq!(restored.unreadable, 0);
        assert_eq!(restored.calls.iter().sum::<usize>() + restored.ended, self.journal.open());
        self.drain();
    }

    fn run(&mut self) {
        loop {
            let deadline = match self.endpoint.poll_output() {
                Output::Idle { deadline } => deadline.map(|deadline| deadline.0.div_ceil(1_000)),
                output => panic!("left behind: {output:?}"),
            };
            let job = self.jobs.peek().map(|Reverse((at, ..))| *at);
            match (deadline, job) {
                (None, None) => return,
                (Some(deadline), job) if job.is_none_or(|job| deadline <= job) => {
                    self.now = self.now.max(deadline);
                    self.input(Input::Timeout);
                }
                (_, Some(at)) => {
                    self.now = self.now.max(at);
                    let Some(Reverse((.., job))) = self.jobs.pop() else { return };
                    self.on_job(job);
                }
                (Some(_), None) => {}
            }
            assert!(self.now < LONGEST, "it does not end");
        }
    }

    fn on_job(&mut self, job: Job) {
        match job {
            Job::ToSidecar { from, text } => self.towards_sidecar(from, text),
            Job::ToPeer { to, text } => self.towards_peer(to, &Msg::new(text)),
            Job::Retransmit { branch, method, interval, until } => self.retransmit(branch, method, interval, until),
            Job::Repeat { key, interval, until } => self.repeat(key, interval, until),
            Job::Caller { call, act } => self.on_caller(call, act),
            Job::Callee { callee, act } => self.on_callee(callee, act),
            Job::Failed { owner } => self.input(Input::TransportFailed { owner: Owner(owner) }),
            Job::Resolved { query } => {
                let addresses = vec![PBX_A.parse::<SocketAddr>().unwrap().ip()];
                self.input(Input::Resolved { query: QueryId(query), addresses });
            }
            Job::HangUp { call } => {
                let (now, id) = (self.clock(), self.callers[call].uac.call_id.clone());
                let _ = self.endpoint.hang_up(now, &id);
                self.drain();
            }
            Job::Drop { call } => {
                let (now, id) = (self.clock(), self.callers[call].uac.call_id.clone());
                let _ = self.endpoint.voicemail_drop(now, &id);
                self.drain();
            }
            Job::Reload => {
                let policy = any_policy(self.weather, &mut self.rng);
                self.input(Input::Policy(Arc::new(policy)));
            }
            Job::Drain => self.input(Input::Drain),
            Job::Kill { when_sending: true } => self.is_killed_when_sending = true,
            Job::Kill { when_sending: false } => self.kill(),
            Job::Start => self.start(),
            Job::Stop => {
                self.is_stopped = true;
                self.input(Input::Stop);
            }
        }
    }

    /// Has something happen `after` so many milliseconds.
    pub fn after(&mut self, after: u64, job: Job) {
        self.at(self.now + after, job);
    }

    fn at(&mut self, at: u64, job: Job) {
        self.serial += 1;
        self.jobs.push(Reverse((at, self.serial, job)));
    }

    /// A datagram of a peer.
    pub fn send(&mut self, from: &str, text: &str) {
        let from: SocketAddr = from.parse().unwrap();
        for delay in self.fate() {
            self.after(delay, Job::ToSidecar { from, text: text.to_owned() });
        }
    }

    /// Delays of the copies of a datagram that arrive.
    fn fate(&mut self) -> Vec<u64> {
        let copies = if self.rng.chance(self.network.loss) {
            0
        } else {
            1 + usize::from(self.rng.chance(self.network.duplication))
        };
        let (least, most) = self.network.delay;
        (0..copies).map(|_| self.rng.within(least, most)).collect()
    }

    fn towards_sidecar(&mut self, from: SocketAddr, text: String) {
        if self.is_down {
            return;
        }
        self.show(&from.to_string(), SIDECAR, &text);
        let local = SIDECAR.parse().unwrap();
        let flow = Flow { transport: Transport::Udp, local, remote: from, connection: None, opened_for: None };
        let limits = Limits::standard(65_535);
        let message = Message::parse(Bytes::from(text), &limits).unwrap();
        self.input(Input::Message { flow, message });
    }

    fn towards_peer(&mut self, to: SocketAddr, msg: &Msg) {
        if !msg.is_request() {
            return self.on_response(to, msg);
        }
        let key = (to, msg.branch().to_owned(), msg.kind().to_owned());
        if msg.kind() == "ACK" {
            return self.on_ack(msg);
        }
        if let Some(answer) = self.answers.get(&key).cloned() {
            if let Some(text) = answer {
                self.send(&to.to_string(), &text);
            }
            return;
        }
        self.answers.insert(key, None);
        self.on_request(to, msg);
    }

    fn input(&mut self, input: Input) {
        if self.is_down {
            return;
        }
        let now = self.clock();
        self.endpoint.handle(now, input);
        self.drain();
    }

    fn clock(&self) -> Now {
        Now { mono: Mono(self.now * 1_000), wall: Wall(self.now as i64 * 1_000) }
    }

    fn drain(&mut self) {
        loop {
            match self.endpoint.poll_output() {
                Output::Transmit(_) if self.is_killed_when_sending => return self.kill(),
                Output::Transmit(transmit) => self.on_transmit(transmit),
                Output::Record(record) => self.journal.take(&record),
                Output::Resolve { query, .. } => {
                    let delay = self.rng.within(1, 2_000);
                    self.after(delay, Job::Resolved { query: query.0 });
                }
                Output::Event(event) if event.kind == EventKind::Ended => {
                    let data = event.data().unwrap();
                    self.journal.end(event.summary.call.0);
                    assert!(self.ended.insert(data.call_uid.clone(), data).is_none(), "a call ended twice");
                }
                Output::Event(event) if event.kind == EventKind::Started => {
                    self.started.insert(event.data().unwrap().call_uid);
                }
                Output::Event(_) | Output::Notice(_) => {}
                Output::Idle { .. } => return,
            }
        }
    }

    fn on_transmit(&mut self, transmit: Transmit) {
        let text = String::from_utf8(transmit.bytes.to_vec()).unwrap();
        let to = transmit.hop.remote;
        self.show(SIDECAR, &to.to_string(), &text);
        let msg = Msg::new(text);
        if transmit.side == Side::Dialer
            && let Some((outcome, cause, uid)) = msg.stamp()
        {
            self.stamps.insert((uid.to_owned(), outcome.to_owned(), cause.map(str::to_owned)));
        }
        // Nobody takes TCP here, and nothing reaches a dead server.
        if transmit.hop.transport == Transport::Tcp || self.dead == Some(to) {
            if let Some(owner) = transmit.owner {
                let delay = self.rng.within(0, 400);
                self.after(delay, Job::Failed { owner: owner.0 });
            }
            return;
        }
        for delay in self.fate() {
            self.after(delay, Job::ToPeer { to, text: msg.text().to_owned() });
        }
    }

    fn show(&self, from: &str, to: &str, text: &str) {
        if self.is_verbose {
            let msg = Msg::new(text);
            let stamp = msg.all("Call-Outcome").join(" ");
            println!("{:>8} {from} > {to} {} {} {:?} {stamp}", self.now, msg.one("Call-ID"), msg.start(), msg.cseq());
        }
    }
}

/// A policy that somebody may have.
fn any_policy(weather: Weather, rng: &mut Rng) -> Policy {
    let mut policy = policy();
    let servers = [server(1, "pbx-a", PBX_A), server(2, "pbx-b", PBX_B), server(3, "pbx-c", PBX_C)];
    policy.servers = servers.into_iter().take(rng.within(1, 3) as usize).collect();
    if rng.chance(40) {
        policy.servers.iter_mut().for_each(|server| server.priority = 1);
    }
    policy.timeouts.no_answer = secs(rng.pick(&[3, 20, 30, 60]));
    policy.timeouts.progress = secs(rng.pick(&[1, 4, 8]));
    policy.timeouts.cancel_grace = ms(rng.pick(&[0, 200, 1_000, 5_000]));
    policy.timeouts.auth_retry_window = secs(rng.pick(&[2, 32]));
    policy.timeouts.max_duration = minutes(rng.within(1, 3));
    policy.timeouts.dialer_ring_timeout = rng.chance(20).then(|| secs(25));
    policy.stamp.to_both = rng.chance(30);
    policy.lifecycle = rng.chance(30) || weather == Weather::Restarts;
    if weather == Weather::Operators {
        policy.limits.calls = rng.pick(&[5, 100_000]);
        policy.limits.calls_per_second = rng.pick(&[0, 0, 2]) as u32;
        policy.voicemail_drop.always = rng.chance(30);
    }
    assert!(DIALER.starts_with("10.0.1."));
    policy
}
