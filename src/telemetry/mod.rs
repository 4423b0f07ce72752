//! Logs to standard error. What a peer has written can neither begin a line nor steer a terminal: see `lines`.

mod lines;
pub mod messages;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt as format, reload};

use crate::config::{LogFormat, Logging};

/// Changes what is logged while the process runs.
#[derive(Clone, Debug)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

/// Begins to log. Where the process has a subscriber already (tests), that one stays.
pub fn init(logging: &Logging) -> LogLevel {
    let (filter, handle) = reload::Layer::new(filter(logging));
    let registry = tracing_subscriber::registry().with(filter);
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let begun = match logging.format {
        LogFormat::Text => {
            let text = format::layer().fmt_fields(lines::TextFields).with_ansi(is_terminal);
            registry.with(text.with_writer(std::io::stderr)).try_init()
        }
        LogFormat::Json => {
            let json = format::layer().json().with_writer(|| lines::JsonLines(std::io::stderr()));
            registry.with(json).try_init()
        }
    };
    if begun.is_err() {
        tracing::debug!("another subscriber is there");
    }
    LogLevel(handle)
}

impl LogLevel {
    /// Takes on the level of a new configuration.
    pub fn change(&self, logging: &Logging) {
        if let Err(error) = self.0.reload(filter(logging)) {
            tracing::warn!(%error, "log.level stays as it is");
        }
    }
}

/// What becomes of a connection to NATS we tell ourselves, once; its client would at each attempt. A directive of the
/// configuration's own for it goes before this one.
const QUIET: &str = "async_nats=off";

/// The configuration has checked the directive; should it fail all the same, the default is no surprise.
fn filter(logging: &Logging) -> EnvFilter {
    EnvFilter::try_new(format!("{QUIET},{}", logging.level)).unwrap_or_else(|_| EnvFilter::new("info"))
}
