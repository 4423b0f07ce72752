//! `sipstamp demo`: the real sidecar on loopback, with a simulated dialer and a simulated telephony
//! server around it. One call of each outcome, then a slow mix of them.
//!
//! The three are told apart by their addresses, all of 127.0.0.0/8, which is this machine on Linux.

mod agent;
mod scenario;
mod table;

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::agent::Agent;
use self::scenario::{FIRST, MIX, Scenario};
pub(crate) use self::table::{Table, is_colour_wanted};
use crate::config::{self, Overrides};
use crate::event::EventKind;
use crate::outcome::Outcome;
use crate::recent::Told;
use crate::runtime::{self, Bind, Running};

const SIDECAR: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const DIALER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const TELEPHONY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

/// The number that the dialer calls from.
const CALLER: &str = "+15550142";
/// Between the beginnings of the first calls.
const FIRST_PACE: Duration = Duration::from_millis(300);
/// Between the beginnings of the calls after them.
const PACE: Duration = Duration::from_millis(1_500);
/// Longest time in which neither a call begins nor one ends while calls are open.
const PATIENCE: Duration = Duration::from_secs(20);

/// The command line of the demo.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DemoOptions {
    /// End after this many calls; 8 are one of each outcome. Without it: until Ctrl-C.
    #[arg(long, value_name = "N")]
    pub calls: Option<NonZeroUsize>,
}

/// Why the demo could not go on.
#[derive(Debug)]
enum Failure {
    /// No socket on one of the loopback addresses.
    Bind(IpAddr, io::Error),
    /// The sidecar did not start.
    Start(String),
    /// No call ended for so long.
    Stalled(usize),
    /// Standard output is gone.
    Output(io::Error),
}

/// What happened, to be compared at the end.
#[derive(Default)]
struct Books {
    /// By Call-ID: what had to come of the call.
    expected: HashMap<String, Outcome>,
    /// By Call-ID: the outcome in the event.
    events: HashMap<String, Outcome>,
    /// By Call-ID: the outcome in the last stamp that the dialer read.
    stamps: HashMap<String, String>,
}

/// Runs the demo until it has made its calls or until Ctrl-C. Success means that each call had the
/// outcome that it was made for, in its event as in its stamp.
pub fn run(options: DemoOptions) -> ExitCode {
    let mut table = Table::new(io::stdout(), is_colour_wanted());
    let played = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Start(error.to_string()))
        .and_then(|runtime| runtime.block_on(play(options, &mut table)));
    match played {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("sipstamp demo: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all went as it had to.
async fn play<W: Write>(options: DemoOptions, table: &mut Table<W>) -> Result<bool, Failure> {
    let dialer = Agent::bind(DIALER).await.map_err(|error| Failure::Bind(DIALER, error))?;
    let telephony = Agent::bind(TELEPHONY).await.map_err(|error| Failure::Bind(TELEPHONY, error))?;
    let running = start(telephony.address())?;
    let sidecar = running.udp().ok_or_else(|| Failure::Start("it has no UDP address".to_owned()))?;
    table.line(&format!(
        "dialer {} -> sipstamp {sidecar} -> telephony server {}\n",
        dialer.address(),
        telephony.address()
    ))?;
    table.head()?;

    tokio::spawn(telephony.run(|call, invite| drop(tokio::spawn(scenario::answer(call, invite)))));
    tokio::spawn(dialer.clone().run(|_, _| {}));
    let mut books = Books::default();
    let played = place_calls(options.calls, &dialer, sidecar, &running, table, &mut books).await;
    let stopped = running.stop();
    played?;
    stopped.map_err(|error| Failure::Start(error.to_string()))?;
    table.summary()?;
    books.close(table)
}

/// The real sidecar in front of a telephony server.
fn start(telephony: SocketAddr) -> Result<Running, Failure> {
    let text = format!(
        "[listen]\nudp = [\"{SIDECAR}:0\"]\ntcp = []\n\
         [dialer]\nsources = [\"{DIALER}/32\"]\n\
         [[telephony.servers]]\nname = \"simulated\"\nuri = \"sip:{telephony}\"\n\
         [timeouts]\nno_answer = \"2s\"\n\
         [voicemail_drop]\ngrace = \"300ms\"\n\
         [admin]\nlisten = \"{SIDECAR}:0\"\n"
    );
    let settings = config::parse(&text, "demo.toml", &Overrides::default(), &|_| None)
        .map_err(|mistakes| Failure::Start(mistakes.to_string()))?;
    runtime::start(settings, Bind::default()).map_err(|error| Failure::Start(error.to_string()))
}

/// Makes calls and shows them as their events arrive.
async fn place_calls<W: Write>(
    limit: Option<NonZeroUsize>,
    dialer: &Arc<Agent>,
    sidecar: SocketAddr,
    running: &Running,
    table: &mut Table<W>,
    books: &mut Books,
) -> Result<(), Failure> {
    let mut events = running.recent.subscribe();
    let mut calls: JoinSet<(String, Option<String>)> = JoinSet::new();
    let mut scenarios =
        FIRST.iter().chain(MIX.iter().cycle()).take(limit.map_or(usize::MAX, NonZeroUsize::get)).copied().peekable();
    let mut next_call = Instant::now();
    let mut last_change = Instant::now();
    let mut told_where = false;
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    loop {
        let open = books.expected.len().saturating_sub(books.events.len());
        if open == 0 && calls.is_empty() && scenarios.peek().is_none() {
            return Ok(());
        }
        tokio::select! {
            _ = &mut interrupted => return Ok(()),
            () = sleep_until(next_call), if scenarios.peek().is_some() => {
                if let Some(scenario) = scenarios.next() {
                    let call = dialer.call(sidecar, CALLER, scenario.number);
                    books.expected.insert(call.call_id().to_owned(), scenario.outcome);
                    calls.spawn(place(scenario, call));
                }
                next_call += if books.expected.len() < FIRST.len() { FIRST_PACE } else { PACE };
                last_change = Instant::now();
            }
            told = events.recv() => match told {
                Ok(told) => {
                    show(&told, table, books)?;
                    last_change = Instant::now();
                    if !told_where && books.events.len() >= FIRST.len() && scenarios.peek().is_some() {
                        told_where = true;
                        tell_where_to_look(running, table)?;
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Err(Failure::Start("it stopped".to_owned())),
            },
            Some(ended) = calls.join_next() => {
                if let Ok((call_id, Some(stamp))) = ended {
                    books.stamps.insert(call_id, stamp);
                }
            }
            () = sleep_until(last_change + PATIENCE), if open > 0 => return Err(Failure::Stalled(open)),
        }
    }
}

async fn place(scenario: Scenario, call: agent::Call) -> (String, Option<String>) {
    let call_id = call.call_id().to_owned();
    (call_id, scenario.place(call).await)
}

fn show<W: Write>(told: &Told, table: &mut Table<W>, books: &mut Books) -> Result<(), Failure> {
    let Some(data) = told.data().filter(|_| told.kind == EventKind::Ended) else { return Ok(()) };
    if let Some(outcome) = data.outcome {
        books.events.insert(data.call_id.clone(), outcome);
        table.row(&data)?;
    }
    Ok(())
}

fn tell_where_to_look<W: Write>(running: &Running, table: &mut Table<W>) -> Result<(), Failure> {
    let Some(admin) = running.admin else { return Ok(()) };
    table.line(&format!(
        "\nThese were the eight. Calls go on until Ctrl-C; meanwhile look at\n\
         \x20 curl http://{admin}/metrics\n\
         \x20 curl 'http://{admin}/v1/outcomes?limit=8'\n\
         \x20 curl http://{admin}/v1/calls\n"
    ))?;
    Ok(())
}

impl Books {
    /// Compares what had to come of each call with its event and its stamp.
    fn close<W: Write>(&self, table: &mut Table<W>) -> Result<bool, Failure> {
        let mut agreed = true;
        for (call_id, outcome) in &self.events {
            let expected = self.expected.get(call_id);
            if expected != Some(outcome) {
                let expected = expected.map_or("no call", |expected| expected.label());
                table.line(&format!("{call_id}: {expected} was to come, the event says {outcome}"))?;
                agreed = false;
            }
            if let Some(stamp) = self.stamps.get(call_id).filter(|stamp| *stamp != outcome.label()) {
                table.line(&format!("{call_id}: the event says {outcome}, the stamp {stamp}"))?;
                agreed = false;
            }
        }
        if agreed {
            let stamps = self.events.keys().filter(|call_id| self.stamps.contains_key(*call_id)).count();
            let calls = self.events.len();
            table.line(&format!("\nThe dialer read {stamps} stamps in {calls} calls; each agrees with its event."))?;
        }
        Ok(agreed)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Bind(ip, error) => write!(
                f,
                "no UDP socket on {ip}: {error}; the demo needs all of 127.0.0.0/8 to be this machine, as on Linux"
            ),
            Failure::Start(reason) => write!(f, "the sidecar did not start: {reason}"),
            Failure::Stalled(open) => {
                write!(f, "{open} calls are open and none has ended for {} seconds", PATIENCE.as_secs())
            }
            Failure::Output(error) => write!(f, "cannot write to standard output: {error}"),
        }
    }
}
