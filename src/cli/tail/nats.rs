//! Outcomes of all sidecars that send to a NATS server.

use std::io;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::context::{GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::stream::Stream;
use futures_util::StreamExt as _;

use super::{PAUSE, Rows, Tail};
use crate::cli::complain;
use crate::nats::stream::jetstream;
use crate::nats::{Login, Servers};
use crate::text::printable;

/// Longest wait for the server's answers before the first row.
const PATIENCE: Duration = Duration::from_secs(5);

/// Shows what comes into a stream from now on.
///
/// # Errors
/// Where there is no server, or it gives no stream; where standard output is closed.
pub async fn follow(url: &str, tail: &Tail) -> io::Result<()> {
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
    let mut reader = Reader {
        rows: Rows::new(),
        // One that was made meanwhile is shown from its beginning.
        next: if is_missed { 1 } else { stream.cached_info().state.last_sequence + 1 },
    };
    let mut is_told = false;
    loop {
        let begun = reader.next;
        match reader.read(&stream).await? {
            Ended::NotBegun(error) if !reader.rows.is_begun => return Err(unusable(&error)),
            Ended::NotBegun(error) | Ended::Lost(error) if !is_told => {
                complain(&format!("{}; it is tried again", printable(&error)))
            }
            Ended::NotBegun(_) | Ended::Lost(_) => {}
        }
        is_told = reader.next == begun;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether there is no such stream.
fn is_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// What has been shown of a stream.
struct Reader {
    rows: Rows,
    /// The first message that was not read.
    next: u64,
}

/// Why no more messages come.
enum Ended {
    NotBegun(String),
    Lost(String),
}

impl Reader {
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
        self.rows.begin()?;
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
            self.rows.show(&message.payload)?;
        }
        Ok(Ended::Lost("the stream's messages have ended".to_owned()))
    }
}
