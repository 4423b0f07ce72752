//! The load generator and the raw relay of `make bench`; `.ci/bench` starts them.
//!
//! `calls` reads steps from standard input, one a line (`calls=5000 rate=1000`), and answers each with a line of JSON.
//! Exit codes: 0; 1 where a message broke a check or a call failed; 2 where it could not run.

mod generator;
mod relay;

use std::io::{self, BufRead, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use generator::calls::Hold;
use generator::check::Profile;
use generator::engine::{Load, Report, Settings, Step, Work};
use generator::lanes::Waits;
use serde_json::{Value, json};

/// How long an ended call answers what is repeated.
const LINGER: Duration = Duration::from_secs(1);

#[derive(Debug, Parser)]
#[command(about = "Calls through a device under test, every message checked; and a raw relay to compare with")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// What cargo says to every benchmark: there is nothing to do
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make calls: one step a line on standard input, `calls=N rate=PER_SECOND [hold=ringing|answered] [drain=SECONDS]`, or
    /// `release=N rate=PER_SECOND [drain=SECONDS]` for calls that are held: they are answered and hung up
    Calls(Calls),
    /// Copy between two peers
    Relay {
        #[arg(long)]
        listen: SocketAddr,
        #[command(flatten)]
        ends: Ends,
    },
}

#[derive(Debug, Args)]
struct Ends {
    /// Where calls come from
    #[arg(long)]
    dialer: SocketAddr,
    /// Where calls go to
    #[arg(long)]
    server: SocketAddr,
    #[arg(long)]
    tcp: bool,
}

#[derive(Debug, Args)]
struct Calls {
    /// What is under test
    #[arg(long)]
    device: SocketAddr,
    #[command(flatten)]
    ends: Ends,
    /// What the device does to messages
    #[arg(long, default_value = "stamping", value_parser = profile)]
    profile: Profile,
    /// Time from 180 to 200, in ms
    #[arg(long, default_value_t = 20)]
    ring: u64,
    /// Time from ACK to BYE, in ms
    #[arg(long, default_value_t = 20)]
    talk: u64,
    /// RFC 3261's estimate of the round trip, in ms
    #[arg(long, default_value_t = 500)]
    t1: u64,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Some(Command::Calls(calls)) => make_calls(&calls),
        Some(Command::Relay { listen, ends }) => relay(listen, &ends).map(|()| true),
        None => Ok(true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::from(2)
        }
    }
}

fn profile(name: &str) -> Result<Profile, String> {
    Profile::named(name).ok_or_else(|| format!("one of {}", Profile::NAMES.join(", ")))
}

fn relay(listen: SocketAddr, ends: &Ends) -> io::Result<()> {
    if ends.tcp {
        relay::streams(&TcpListener::bind(listen)?, ends.server)
    } else {
        relay::datagrams(&UdpSocket::bind(listen)?, ends.dialer, ends.server)
    }
}

/// `false` where something was wrong.
fn make_calls(calls: &Calls) -> io::Result<bool> {
    // Timers of the kernel are otherwise some 50 µs late.
    nix::sys::prctl::set_timerslack(1)?;
    let waits = Waits {
        ring: Duration::from_millis(calls.ring),
        talk: Duration::from_millis(calls.talk),
        t1: Duration::from_millis(calls.t1),
        linger: LINGER,
    };
    let mut load = Load::new(&Settings {
        device: calls.device,
        dialer: calls.ends.dialer,
        server: calls.ends.server,
        is_tcp: calls.ends.tcp,
        profile: calls.profile,
        waits,
        series: series(),
    })?;
    let [dialer, server] = load.ends();
    eprintln!("calls from {dialer} to {server} by way of {}", calls.device);
    let mut is_clean = true;
    for line in io::stdin().lock().lines() {
        let step = step(&line?).map_err(io::Error::other)?;
        let before = run_time()?;
        let report = load.run(&step)?;
        let used = run_time()?.saturating_sub(before);
        if let Some(example) = &report.tally.example {
            eprintln!("a message that breaks a check, {example}");
        }
        is_clean &= report.tally.all_faults() == 0 && report.tally.failed == 0;
        print(&report, used)?;
    }
    Ok(is_clean)
}

fn print(report: &Report, cpu: u64) -> io::Result<()> {
    let mut line = serde_json::to_value(report)?;
    if let Value::Object(fields) = &mut line {
        let per_call = cpu as f64 / 1_000.0 / (report.tally.started + report.tally.released).max(1) as f64;
        fields.insert("generator_us_per_call".into(), json!(per_call));
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn step(line: &str) -> Result<Step, String> {
    let mut step = Step { work: Work::Begin(Hold::No), calls: 0, rate: 100.0, drain: Duration::from_secs(5) };
    for word in line.split_whitespace() {
        let bad = || format!("{word:?} in {line:?}: no such thing");
        let (key, value) = word.split_once('=').ok_or_else(bad)?;
        match key {
            "calls" => step.calls = value.parse().map_err(|_| bad())?,
            "release" => {
                step.work = Work::Release;
                step.calls = value.parse().map_err(|_| bad())?;
            }
            "rate" => step.rate = value.parse().ok().filter(|rate: &f64| *rate > 0.0).ok_or_else(bad)?,
            "drain" => step.drain = value.parse().map(Duration::from_secs).map_err(|_| bad())?,
            "hold" => {
                step.work = Work::Begin(match value {
                    "no" => Hold::No,
                    "ringing" => Hold::Ringing,
                    "answered" => Hold::Answered,
                    _ => return Err(bad()),
                });
            }
            _ => return Err(bad()),
        }
    }
    Ok(step)
}

/// Another one for each process.
fn series() -> u32 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    (since.as_secs() as u32).rotate_left(16) ^ since.subsec_nanos() ^ std::process::id()
}

/// What this thread has used of a processor, in ns.
fn run_time() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/schedstat")?;
    Ok(text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}
