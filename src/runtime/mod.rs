//! The process: start-up, the workers, reload, drain, end.
//!
//! Reading, deciding and sending happen on one thread for each worker ("sip-0", …), with no hand-over
//! where there is one; where there are more, a message goes to the worker that its Call-ID names. Beside
//! them run the supervisor, the admin API and the sinks, each on threads of their own, connected by
//! queues that never make a worker wait. This is the one place that reads clocks.

mod build;
mod clock;
mod commands;
mod descriptors;
mod gate;
mod limiter;
mod mail;
mod reload;
mod resolve;
mod start;
mod supervisor;
mod systemd;
mod takeover;
#[cfg(test)]
mod tests;
mod worker;
mod workers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

pub use start::{Bind, Running, StartError, start};

use crate::config::{self, Overrides};
use crate::telemetry;

/// Exit code of a configuration that cannot be used.
const BAD_CONFIGURATION: u8 = 64;

/// What `sipstamp run` was given.
#[derive(Debug, Default)]
pub struct RunOptions {
    pub config: Option<PathBuf>,
    pub overrides: Overrides,
    /// How long a drain may take; `None`: until the last call has ended.
    pub drain_timeout: Option<Duration>,
    /// Takes the place of the process that has the journal.
    pub takeover: bool,
}

/// Where a reload reads the configuration.
#[derive(Clone, Debug, Default)]
pub struct ReloadSource {
    pub config: Option<PathBuf>,
    pub overrides: Overrides,
}

/// Runs the sidecar until it is told to end.
pub fn run(options: RunOptions) -> ExitCode {
    let settings = match config::load(options.config.as_deref(), &options.overrides, &config::process_environment) {
        Ok(settings) => settings,
        Err(mistakes) => {
            let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            eprintln!("{}", if is_terminal { mistakes.styled().to_string() } else { mistakes.to_string() });
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    let log_level = telemetry::init(&settings.logging);
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let bind = Bind {
        reload: ReloadSource { config: options.config, overrides: options.overrides },
        log_level: Some(log_level),
        handles_signals: true,
        drain_timeout: options.drain_timeout,
        takeover: options.takeover,
        notifies_systemd: true,
    };
    match start(settings, bind) {
        Ok(running) => match running.wait() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(%error, "ended");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(BAD_CONFIGURATION)
        }
    }
}
