//! `sipstamp tail`: outcomes as they come, a row for each call that ends.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::context::{GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::stream::Stream;
use clap::Args;
use futures_util::StreamExt as _;

use super::{complain, later};
use crate::demo::{Table, is_colour_wanted};
use crate::event::data_of;
use crate::nats::stream::jetstream;
use crate::nats::{Login, Servers};
use crate::text::printable;

/// Longest wait for the server's answers before the first row.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two tries to read on.
const PAUSE: Duration = Duration::from_millis(500);

/// Whose outcomes.
#[derive(Debug, Args)]
pub struct Tail {
    /// The admin API of a sidecar (not in this version)
    #[arg(long, conflicts_with = "nats")]
    url: Option<String>,
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
    let Some(url) = &tail.nats else { return later("tail --url") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(follow(url, tail))) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("error: {}", printable(&error.to_string())));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

async fn follow(url: &str, tail: &Tail) -> io::Result<()> {
    let failed = |what: &str, error: &dyn std::fmt::Display| io::Error::other(format!("{what}: {error}"));
    let credentials = tail.credentials.as_ref().map(|path| {
        let text = std::fs::read_to_string(path).map_err(|error| failed(&path.display().to_string(), &error))?;
        Ok::<_, io::Error>(text + "\n")
    });
    let login = Login { credentials: credentials.transpose()?, ..Login::default() };
    let servers = Servers { urls: vec![url.to_owned()], login, ca_file: tail.ca.clone() };
    let client = servers.connect_once("sipstamp tail").await;
    let client = client.map_err(|error| failed("cannot connect to the NATS server", &error))?;
    let unusable = |error: &dyn std::fmt::Display| failed(&format!("stream {}", tail.stream), error);
    let jetstream = jetstream(client, PATIENCE);
    let mut is_missed = false;
    let stream = loop {
        match jetstream.get_stream(&tail.stream).await {
            Ok(stream) => break stream,
            // A sidecar makes it when it has its first event; what fails while it is waited for may be over then.
            Err(error) if is_missed || is_missing(&error) => {
                if !std::mem::replace(&mut is_missed, true) {
                    complain(&format!("stream {}: not there yet; it is waited for", printable(&tail.stream)));
                }
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(unusable(&error)),
        }
    };
    let mut rows = Rows {
        table: Table::new(io::stdout(), is_colour_wanted()),
        // One that was made meanwhile is shown from its beginning.
        next: if is_missed { 1 } else { stream.cached_info().state.last_sequence + 1 },
        is_begun: false,
    };
    let mut is_told = false;
    loop {
        let begun = rows.next;
        match rows.read(&stream).await? {
            Ended::NotBegun(error) if !rows.is_begun => return Err(unusable(&error)),
            Ended::NotBegun(error) | Ended::Lost(error) if !is_told => {
                complain(&format!("{}; it is tried again", printable(&error)))
            }
            Ended::NotBegun(_) | Ended::Lost(_) => {}
        }
        is_told = rows.next == begun;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether there is no such stream.
fn is_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// What has been shown of a stream.
struct Rows {
    table: Table<io::Stdout>,
    /// The first message that was not read.
    next: u64,
    is_begun: bool,
}

/// Why no more messages come.
enum Ended {
    NotBegun(String),
    Lost(String),
}

impl Rows {
    /// Reads on with a consumer of its own. That lies in the server's memory and ends with it; made again by the client it
    /// would sometimes begin at the beginning.
    async fn read(&mut self, stream: &Stream) -> io::Result<Ended> {
        let deliver_policy = DeliverPolicy::ByStartSequence { start_sequence: self.next };
        let config = pull::OrderedConfig { deliver_policy, ..pull::OrderedConfig::default() };
        let consumer = match stream.create_consumer(config).await {
            Ok(consumer) => consumer,
            Err(error) => return Ok(Ended::NotBegun(error.to_string())),
        };
        let mut messages = match consumer.messages().await {
            Ok(messages) => messages,
            Err(error) => return Ok(Ended::NotBegun(error.to_string())),
        };
        if !std::mem::replace(&mut self.is_begun, true) {
            self.table.head()?;
            io::stdout().flush()?;
        }
        while let Some(message) = messages.next().await {
            let message = match message {
                Ok(message) => message,
                Err(error) => return Ok(Ended::Lost(error.to_string())),
            };
            let Ok(sequence) = message.info().map(|info| info.stream_sequence) else { continue };
            if sequence < self.next {
                continue;
            }
            self.next = sequence + 1;
            // What is no event of ours is passed over; of events only an end has a row.
            if let Ok(call) = data_of(&message.payload) {
                self.table.row(&call)?;
                io::stdout().flush()?;
            }
        }
        Ok(Ended::Lost("the stream's messages have ended".to_owned()))
    }
}
