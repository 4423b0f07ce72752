//! Events in a NATS JetStream stream.
//!
//! A window of events is under way at the same time; they count as delivered, in their order, once all of a batch are
//! acknowledged. What was not acknowledged is sent again, with the same `Nats-Msg-Id`: at least once. A window never holds
//! two events of one call, so those are stored in their order even where part of a window is lost.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::queue::{Line, Next, Queue};
use crate::nats::stream::{is_gone, jetstream, prepare};
use crate::nats::subject::Facts;
use crate::nats::{Connection, Nats};

/// First and longest wait before events are sent again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Longest wait for an acknowledgement.
const PATIENCE: Duration = Duration::from_secs(5);
/// Beside the one that waits for events: names are looked up on them.
const BLOCKING_THREADS: usize = 4;

/// The name of the connection, as the server shows it.
const NAME: &str = "sipstamp events";

/// Sends what the queue brings, on a thread of its own.
///
/// # Errors
/// Where no thread can be had.
pub fn start(nats: Nats, queue: Arc<Queue>) -> io::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build()?;
    let queue = queue.serve();
    let run = move || {
        // Who serves the queue has ended before the runtime has, which waits for names that are looked up.
        runtime.block_on(async move {
            match nats.servers.connect(NAME).await {
                Ok(connection) => Sink::new(nats, connection, queue.clone()).run().await,
                // The configuration was checked: this does not occur.
                Err(error) => tracing::error!(%error, "events cannot go to NATS; they wait"),
            }
        });
    };
    std::thread::Builder::new().name("events.nats".into()).spawn(run)?;
    Ok(())
}

struct Sink {
    nats: Nats,
    queue: Arc<Queue>,
    client: async_nats::Client,
    losses: watch::Receiver<u64>,
    jetstream: Context,
    /// The stream was seen to be there, and to take the events.
    is_prepared: bool,
    /// Why the last attempt failed.
    waits_for: Option<String>,
}

/// An event as it is sent.
struct Message {
    subject: String,
    id: String,
    call: String,
    payload: Bytes,
    is_stored: bool,
}

impl Sink {
    fn new(nats: Nats, connection: Connection, queue: Arc<Queue>) -> Sink {
        let Connection { client, losses } = connection;
        let jetstream = jetstream(client.clone(), PATIENCE);
        Sink { nats, queue, client, losses, jetstream, is_prepared: false, waits_for: None }
    }

    async fn run(mut self) {
        loop {
            let queue = self.queue.clone();
            // The connection is kept up by this thread meanwhile.
            match spawn_blocking(move || queue.next()).await {
                Ok(Next::Woken) => {}
                Ok(Next::Lines(lines)) => {
                    let mut messages = lines.iter().filter_map(|line| self.message(line)).collect::<Vec<_>>();
                    if !self.store(&mut messages).await {
                        return;
                    }
                    self.queue.delivered();
                }
                Ok(Next::Closed) | Err(_) => return,
            }
        }
    }

    /// Has all of them stored, however long that takes; false where the process ends before.
    async fn store(&mut self, mut rest: &mut [Message]) -> bool {
        let mut back_off = BACK_OFF.0;
        while !rest.is_empty() {
            let (window, later) = rest.split_at_mut(window(rest));
            rest = later;
            while let Err(reason) = self.publish(window).await {
                self.tell(Some(reason));
                let queue = self.queue.clone();
                if !spawn_blocking(move || queue.failed(back_off)).await.unwrap_or(false) {
                    return false;
                }
                back_off = (back_off * 2).min(BACK_OFF.1);
            }
            self.tell(None);
            back_off = BACK_OFF.0;
        }
        true
    }

    /// Logs why events wait, once for each reason, and that they do not wait any more.
    fn tell(&mut self, reason: Option<String>) {
        if self.waits_for == reason {
            return;
        }
        match &reason {
            Some(reason) => tracing::warn!(reason, "events cannot go to NATS; they wait"),
            None => tracing::info!("events go to NATS again"),
        }
        self.waits_for = reason;
    }

    /// Sends what is not stored yet, and waits for the acknowledgements.
    async fn publish(&mut self, window: &mut [Message]) -> Result<(), String> {
        if self.client.connection_state() != State::Connected {
            return Err("there is no connection".to_owned());
        }
        self.losses.mark_unchanged();
        if !self.is_prepared {
            prepare(&self.jetstream, &self.nats).await.map_err(|error| error.to_string())?;
            self.is_prepared = true;
        }
        let mut sent = Vec::new();
        for message in window.iter_mut().filter(|message| !message.is_stored) {
            let publish = PublishMessage::build()
                .payload(message.payload.clone())
                .message_id(&message.id)
                .expected_stream(&self.nats.stream);
            let ack = self.jetstream.send_publish(message.subject.clone(), publish).await;
            sent.push(async {
                ack?.await?;
                message.is_stored = true;
                Ok::<_, async_nats::jetstream::context::PublishError>(())
            });
        }
        tokio::select! {
            biased;
            acks = join_all(sent) => {
                let Some(error) = acks.into_iter().find_map(Result::err) else { return Ok(()) };
                self.is_prepared &= !is_gone(error.kind());
                Err(error.to_string())
            }
            // No acknowledgement finds its way back then.
            _ = self.losses.changed() => Err("the connection was lost".to_owned()),
        }
    }

    fn message(&self, line: &Line) -> Option<Message> {
        // `None` does not occur: the core wrote the line.
        let facts = serde_json::from_slice::<Facts<'_>>(&line.text).ok()?;
        Some(Message {
            subject: self.nats.subject.subject(line.kind, &facts),
            id: facts.id.into_owned(),
            call: facts.subject.into_owned(),
            payload: Bytes::from_owner(line.text.clone()),
            is_stored: false,
        })
    }
}

/// How many of the next ones may be under way together: up to the second of a call.
fn window(messages: &[Message]) -> usize {
    let mut calls = HashSet::new();
    messages.iter().take_while(|message| calls.insert(&*message.call)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_no_two_events_of_one_call() {
        let messages = |calls: &str| {
            let message = |call: char| Message {
                subject: String::new(),
                id: String::new(),
                call: call.into(),
                payload: Bytes::new(),
                is_stored: false,
            };
            calls.chars().map(message).collect::<Vec<_>>()
        };
        for (calls, expected) in [("", 0), ("a", 1), ("abc", 3), ("aa", 1), ("abcb", 3)] {
            assert_eq!(window(&messages(calls)), expected, "{calls}");
        }
    }
}
