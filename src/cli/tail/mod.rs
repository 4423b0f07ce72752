//! `sipstamp tail`: outcomes as they come, a row for each call that ends.

mod feed;
mod nats;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{USAGE, complain};
use crate::demo::{Table, is_colour_wanted};
use crate::event::data_of;
use crate::text::printable;

/// Between two tries to read on.
const PAUSE: Duration = Duration::from_millis(500);

/// Options that say nothing about one sidecar.
const OF_NATS: [&str; 4] = ["nats", "stream", "credentials", "ca"];

/// Whose outcomes.
#[derive(Debug, Args)]
pub struct Tail {
    /// The admin API of a sidecar
    #[arg(long, default_value = "http://127.0.0.1:9060", conflicts_with_all = OF_NATS)]
    url: String,
    /// The file with the API's token, where it has one (`admin.token_file`)
    #[arg(long, value_name = "FILE", conflicts_with_all = OF_NATS)]
    token_file: Option<PathBuf>,
    /// A NATS server, such as nats://127.0.0.1:4222 or tls://USER:PASSWORD@HOST: all sidecars that send there
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
    /// The stream that has the events
    #[arg(long, value_name = "NAME", default_value = "CALLS", requires = "nats")]
    stream: String,
    /// Credentials to log in with
    #[arg(long, value_name = "FILE", requires = "nats")]
    credentials: Option<PathBuf>,
    /// Certificates, in PEM, that are trusted in the place of the system's
    #[arg(long, value_name = "FILE", requires = "nats")]
    ca: Option<PathBuf>,
}

/// Follows until it is interrupted, or nobody reads the rows any more.
pub fn run(tail: &Tail) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.and_then(|runtime| match &tail.nats {
        Some(url) => runtime.block_on(nats::follow(url, tail)),
        None => runtime.block_on(feed::follow(feed::api_of(&tail.url)?, tail.token_file.as_deref())),
    });
    match ended {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {}", printable(&error.to_string())));
            let is_usage = error.kind() == io::ErrorKind::InvalidInput;
            if is_usage { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
        Ok(()) => ExitCode::SUCCESS,
    }
}

/// The rows on standard output.
struct Rows {
    table: Table<io::Stdout>,
    is_begun: bool,
}

impl Rows {
    fn new() -> Rows {
        Rows { table: Table::new(io::stdout(), is_colour_wanted()), is_begun: false }
    }

    /// From here on events come, for the first time or again.
    fn begin(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.is_begun, true) {
            return Ok(());
        }
        self.table.head()?;
        io::stdout().flush()
    }

    /// What is no event of ours is passed over; of events only an end has a row.
    fn show(&mut self, event: &[u8]) -> io::Result<()> {
        match data_of(event) {
            Ok(call) => {
                self.table.row(&call)?;
                io::stdout().flush()
            }
            Err(_) => Ok(()),
        }
    }
}
