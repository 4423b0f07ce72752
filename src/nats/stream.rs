//! The stream that keeps events: made where it is missing, never altered where it is there.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::context::{GetStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, Context, ErrorCode};

use super::Nats;
use super::subject::covers;

/// For how long a stream that is made here knows message ids again; JetStream's own default.
pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Why the stream cannot be used.
#[derive(Debug)]
pub enum StreamError {
    /// It is there, but does not take the events' subjects.
    Subject { takes: Vec<String>, wanted: String },
    /// NATS's answer, or that there was none.
    Nats(String),
}

/// Makes the stream where it is missing, else sees that it takes the events' subjects.
///
/// # Errors
/// Where it does not, and where the server refuses or does not answer.
pub async fn prepare(jetstream: &Context, nats: &Nats) -> Result<(), StreamError> {
    let wanted = nats.subject.wildcard();
    match jetstream.get_stream(&nats.stream).await {
        Ok(stream) => {
            let takes = &stream.cached_info().config.subjects;
            match takes.iter().any(|pattern| covers(pattern, &wanted)) {
                true => Ok(()),
                false => Err(StreamError::Subject { takes: takes.clone(), wanted }),
            }
        }
        Err(error) if is_missing(&error.kind()) => {
            jetstream.create_stream(new_stream(nats)).await.map_err(|error| StreamError::Nats(error.to_string()))?;
            tracing::info!(stream = nats.stream, subjects = wanted, "the stream is made");
            Ok(())
        }
        Err(error) => Err(StreamError::Nats(error.to_string())),
    }
}

/// Whether an event could not be stored because the stream is gone, or is not what it was.
pub fn is_gone(kind: PublishErrorKind) -> bool {
    matches!(kind, PublishErrorKind::StreamNotFound | PublishErrorKind::Other)
}

fn new_stream(nats: &Nats) -> Config {
    Config {
        name: nats.stream.clone(),
        description: Some("Outcomes of calls, by sipstamp".to_owned()),
        subjects: vec![nats.subject.wildcard()],
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        // No event is dropped for another: should somebody set limits, a full stream refuses, and events wait in the journal.
        discard: DiscardPolicy::New,
        duplicate_window: DUPLICATE_WINDOW,
        ..Config::default()
    }
}

fn is_missing(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// JetStream over a connection, with an end to the waiting.
pub fn jetstream(client: async_nats::Client, patience: Duration) -> Context {
    jetstream::context::ContextBuilder::new().timeout(patience).ack_timeout(patience).build(client)
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamError::Subject { takes, wanted } => write!(
                f,
                "the stream takes [{}], which does not cover {wanted}: add it to the stream's subjects, or change events.nats.subject",
                takes.join(", ")
            ),
            StreamError::Nats(error) => f.write_str(error),
        }
    }
}
