//! Events posted to a receiver, each signed as [Standard Webhooks](https://www.standardwebhooks.com) 1.0 has it.
//!
//! A thread with a runtime of its own for each receiver: one that is dead delays nobody else. [`schedule`] decides which
//! event is tried when ([`retry`]: how long it waits), [`request`] makes one attempt ([`sign`]), [`dead`] keeps what could
//! not be delivered. An event is confirmed once the receiver has taken it, or it lies among the dead letters: at least
//! once. Events of one call come in order. Left out: redirects are not followed, proxies not used.

mod dead;
mod letter;
mod request;
mod retry;
mod schedule;
mod sign;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dead::DeadLetters;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use letter::Letter;
use request::{Answer, Poster};
use schedule::Schedule;

use super::queue::{Queue, Settled, Ticket};
use crate::config::Webhook;

/// Events that are in hand and not delivered. Where its receiver refuses so many, the sink waits; what it has in hand stays
/// in memory beside `events.memory_limit`.
const IN_HAND: usize = 512;
/// After the journal could not be read, or dead letters not be written.
const AGAIN: Duration = Duration::from_secs(1);
/// It is said at most so often that a receiver fails.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// A receiver of events.
#[derive(Debug)]
pub struct WebhookSink {
    poster: Poster,
    max_in_flight: usize,
    most_age: Option<Duration>,
    dead: Option<DeadLetters>,
}

/// One that is served.
struct Work {
    queue: Arc<Queue>,
    schedule: Schedule,
    dead: Option<DeadLetters>,
    /// It has answered 410.
    is_gone: bool,
    /// Not before: the journal is read, dead letters are written.
    again: Option<Instant>,
    warned: Option<Instant>,
    /// It was said that the receiver fails, and not that it takes events again.
    is_said_to_fail: bool,
}

impl WebhookSink {
    /// # Errors
    /// Where there is nothing to verify the receiver's certificate with.
    pub fn open(webhook: &Webhook) -> io::Result<WebhookSink> {
        let dead = webhook.dead_letter.as_ref();
        Ok(WebhookSink {
            poster: Poster::new(webhook)?,
            max_in_flight: webhook.max_in_flight,
            most_age: dead.map(|dead| dead.after),
            dead: dead.map(|dead| DeadLetters::new(dead.file.clone())),
        })
    }

    /// Posts what the queue brings, on a thread of its own.
    ///
    /// # Errors
    /// Where no thread or runtime can be had.
    pub fn start(self, queue: Arc<Queue>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let queue = queue.serve();
        std::thread::Builder::new().name("events.webhook".into()).spawn(move || {
            runtime.block_on(self.run(queue.clone()));
            // A name that is being looked up is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(())
    }

    async fn run(self, queue: Arc<Queue>) {
        let WebhookSink { poster, max_in_flight, most_age, dead } = self;
        let schedule = Schedule::new(max_in_flight, most_age, Instant::now());
        let mut work =
            Work { queue, schedule, dead, is_gone: false, again: None, warned: None, is_said_to_fail: false };
        let mut flights = FuturesUnordered::new();
        loop {
            let ends = work.queue.ends();
            let now = Instant::now();
            if ends.is_some_and(|ends| ends <= now) {
                return;
            }
            if work.again.is_none_or(|again| again <= now) {
                work.again = None;
                work.bury(now);
                work.fill(now);
            }
            while let Some((ticket, letter)) = work.schedule.start(now) {
                let poster = &poster;
                flights.push(async move { (ticket, poster.post(&letter).await) });
            }
            let wake = work.again.or(work.schedule.next()).into_iter().chain(ends).min();
            tokio::select! {
                Some((ticket, answer)) = flights.next() => work.on_answer(ticket, answer),
                () = work.queue.news() => {}
                () = until(wake) => {}
            }
        }
    }
}

impl Work {
    /// Takes as much from the queue as there is room for.
    fn fill(&mut self, now: Instant) {
        loop {
            let room = IN_HAND.saturating_sub(self.schedule.len());
            let Ok(lines) = self.queue.take(room) else {
                self.again = Some(now + AGAIN);
                return;
            };
            if lines.is_empty() {
                return;
            }
            for (ticket, line) in lines {
                match Letter::new(line.text, SystemTime::now()) {
                    Some(letter) if !self.is_gone => self.schedule.add(now, ticket, letter),
                    Some(_) => self.queue.settle(ticket, Settled::Dropped),
                    None => {
                        tracing::error!(sink = self.queue.name(), "what the journal holds is no event; it is dropped");
                        self.queue.settle(ticket, Settled::Dropped);
                    }
                }
            }
        }
    }

    /// Puts events that are too old into the file of dead letters.
    fn bury(&mut self, now: Instant) {
        let Some(file) = &self.dead else { return };
        let dead = self.schedule.dead(now);
        let Some((_, first, death)) = dead.first() else { return };
        let (id, reason) = (first.id.clone(), death.reason.clone());
        let written = file.write(dead.iter().map(|(_, letter, death)| (*letter, death.clone())));
        let tickets = dead.into_iter().map(|(ticket, ..)| ticket).collect::<Vec<_>>();
        let sink = self.queue.name();
        match written {
            Ok(()) => {
                tracing::warn!(sink, events = tickets.len(), %id, reason, "events could not be delivered: dead letters");
                for ticket in tickets {
                    self.schedule.remove(ticket);
                    self.queue.settle(ticket, Settled::DeadLettered);
                }
            }
            Err(error) => {
                tracing::error!(sink, %error, "dead letters cannot be written; they wait");
                self.queue.count_failed();
                self.again = Some(now + AGAIN);
            }
        }
    }

    fn on_answer(&mut self, ticket: Ticket, answer: Answer) {
        let sink = self.queue.name();
        match answer {
            Answer::Delivered => {
                if self.schedule.is_failing() && std::mem::take(&mut self.is_said_to_fail) {
                    tracing::info!(sink, "the receiver takes events again");
                }
                self.schedule.on_delivered(ticket);
                self.queue.settle(ticket, Settled::Delivered);
            }
            Answer::Gone | Answer::Failed(_) if self.is_gone => {
                self.queue.count_failed();
                self.schedule.remove(ticket);
                self.queue.settle(ticket, Settled::Dropped);
            }
            Answer::Gone => {
                self.is_gone = true;
                tracing::error!(
                    sink,
                    "the receiver has answered 410 Gone: it gets no events until the next start, and they are dropped"
                );
                self.queue.count_failed();
                self.schedule.remove(ticket);
                self.queue.settle(ticket, Settled::Dropped);
                for ticket in self.schedule.give_up() {
                    self.queue.settle(ticket, Settled::Dropped);
                }
            }
            Answer::Failed(failure) => {
                let now = Instant::now();
                self.queue.count_failed();
                if self.warned.is_none_or(|last| now - last >= WARN_INTERVAL) {
                    (self.warned, self.is_said_to_fail) = (Some(now), true);
                    tracing::warn!(sink, reason = failure.reason, "an event was not taken; it is tried again");
                } else {
                    tracing::debug!(sink, reason = failure.reason, "an event was not taken; it is tried again");
                }
                self.schedule.on_failed(now, ticket, failure);
            }
        }
    }
}

/// Never, where there is no such time.
async fn until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
