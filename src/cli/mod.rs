//! The command line: what can be asked, and who answers. Exit codes: 0, 1 (failed while running),
//! 64 (bad configuration or command line; nothing was bound).

mod check;
mod explain;
mod tail;

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::config::{self, Mistakes, Overrides};
use crate::runtime::RunOptions;
use crate::{demo, runtime, schema};

/// Exit code of a bad configuration or command line (`EX_USAGE` of sysexits.h).
pub const USAGE: u8 = 64;

/// A SIP sidecar that gives every call between a dialer and a telephony server exactly one outcome
#[derive(Debug, Parser)]
#[command(name = "sipstamp", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the sidecar (SIGTERM drains, SIGHUP reloads)
    Run(Run),
    /// Say what is wrong with a configuration: every mistake in one run
    Check {
        /// The configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Run the sidecar on loopback between a simulated dialer and telephony server, one call of every outcome
    Demo(demo::DemoOptions),
    /// Follow outcomes as they come
    Tail(tail::Tail),
    /// Outcomes, rates and delays out of event files (not in this version)
    Report {
        /// Event files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Write a page instead of text
        #[arg(long, value_name = "OUT")]
        html: Option<PathBuf>,
    },
    /// Say which outcome a response code gets, and by which rule
    Explain {
        /// Code of a final response
        #[arg(value_parser = clap::value_parser!(u16).range(100..=699))]
        code: u16,
        /// A configuration with rules and dispositions
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print a JSON Schema
    Schema {
        /// Of what
        what: What,
    },
}

/// How the sidecar is run; what is given here overrides the file.
#[derive(Debug, Args)]
pub struct Run {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address to listen on, UDP and TCP both; in the place of listen.udp and listen.tcp
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<SocketAddr>,
    /// Network or address of the dialer; in the place of dialer.sources
    #[arg(long, value_name = "CIDR", value_parser = network)]
    pub dialer: Vec<IpNet>,
    /// Telephony server, SIP URI or host:port; in the place of telephony.servers
    #[arg(long, value_name = "ADDR")]
    pub server: Vec<String>,
    /// How long a drain may take before open calls are given up, such as 90s
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub drain_timeout: Option<Duration>,
    /// Take the place of the running sidecar with the same journal, without losing a datagram
    #[arg(long)]
    pub takeover: bool,
}

/// What has a schema.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum What {
    /// The configuration
    Config,
    /// One event
    Event,
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => dispatch(cli.command),
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
            // Nobody is left to hear that standard output or error is closed.
            drop(error.print());
            code
        }
    }
}

fn dispatch(command: Command) -> ExitCode {
    match command {
        Command::Run(run) => runtime::run(RunOptions {
            config: run.config,
            overrides: Overrides { listen: run.listen, dialer: run.dialer, servers: run.server },
            drain_timeout: run.drain_timeout,
            takeover: run.takeover,
        }),
        Command::Check { config } => check::run(&config),
        Command::Demo(options) => demo::run(options),
        Command::Tail(tail) => tail::run(&tail),
        Command::Report { .. } => later("report"),
        Command::Explain { code, config } => explain::run(code, config.as_deref()),
        Command::Schema { what } => {
            let schema = match what {
                What::Config => schema::config(),
                What::Event => schema::event(),
            };
            print(&format!("{:#}", schema.as_value()))
        }
    }
}

fn later(what: &str) -> ExitCode {
    complain(&format!("error: `sipstamp {what}` is not in this version"));
    ExitCode::from(USAGE)
}

/// Every mistake on standard error.
fn refuse(mistakes: &Mistakes) -> ExitCode {
    let text = if io::stderr().is_terminal() { mistakes.styled() } else { mistakes.to_string() };
    complain(&text);
    ExitCode::from(USAGE)
}

fn complain(text: &str) {
    // With standard error closed there is nobody to tell.
    drop(writeln!(io::stderr(), "{text}"));
}

/// A reader that closes the pipe has read enough; any other failure is one.
fn print(text: &str) -> ExitCode {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    config::network(text).map(|(net, _)| net).ok_or_else(|| "an address or a network, such as 10.0.1.0/24".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    config::duration(text).map_err(|wrong| format!("it {}: {}", wrong.what, wrong.help))
}
