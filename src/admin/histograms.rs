//! What is observed as it happens: how long packets, rings, answers and talks take.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{Histogram, Label};

use super::families;
use super::metrics::Exposition;
use crate::event::Summary;
use crate::flow::Direction;
use crate::outcome::Outcome;
use crate::policy::ServerId;

/// Handles to all histograms; clones share them.
#[derive(Clone)]
pub struct Histograms {
    exposition: Arc<Exposition>,
    processing: Histogram,
    /// Indexed by outcome, then by direction.
    ring: Vec<Vec<Histogram>>,
    /// Taken once per ended call, by whoever counts it.
    servers: Arc<Mutex<HashMap<ServerId, [Delays; Direction::COUNT]>>>,
}

/// Of one server and direction.
#[derive(Clone)]
struct Delays {
    post_dial: Histogram,
    answer: Histogram,
    talk: Histogram,
}

impl Histograms {
    /// Those without a server exist from here on, the others with [`Histograms::add_server`].
    pub fn new(exposition: Arc<Exposition>) -> Histograms {
        let ring = |outcome: &Outcome| {
            let of = |direction: &Direction| {
                let labels = vec![Label::new("outcome", outcome.label()), Label::new("direction", direction.label())];
                exposition.histogram(families::RING, labels)
            };
            Direction::ALL.iter().map(of).collect()
        };
        Histograms {
            processing: exposition.histogram(families::PROCESSING, Vec::new()),
            ring: Outcome::ALL.iter().map(ring).collect(),
            servers: Arc::default(),
            exposition,
        }
    }

    /// Makes a server's histograms exist, before its first call.
    pub fn add_server(&self, id: ServerId, name: &str) {
        let of = |direction| self.delays(name, direction);
        self.servers().entry(id).or_insert_with(|| [Direction::Outbound, Direction::Inbound].map(of));
    }

    /// `count` datagrams took `seconds` each.
    pub fn processing(&self, seconds: f64, count: usize) {
        self.processing.record_many(seconds, count);
    }

    /// Takes what an ended call tells. One without a server is in no server's histogram.
    pub fn call_ended(&self, call: &Summary) {
        if let (Some(outcome), Some(ms)) = (call.outcome, call.ring_ms)
            && let Some(ring) = self.ring.get(outcome.index()).and_then(|ring| ring.get(call.direction.index()))
        {
            ring.record(seconds(ms));
        }
        let servers = self.servers();
        let Some(directions) = call.server.and_then(|server| servers.get(&server)) else { return };
        let Some(delays) = directions.get(call.direction.index()) else { return };
        let observe = |histogram: &Histogram, ms: Option<u64>| {
            if let Some(ms) = ms {
                histogram.record(seconds(ms));
            }
        };
        observe(&delays.post_dial, call.post_dial_delay_ms);
        observe(&delays.answer, call.answer_delay_ms);
        observe(&delays.talk, call.talk_ms);
    }

    fn servers(&self) -> MutexGuard<'_, HashMap<ServerId, [Delays; Direction::COUNT]>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delays(&self, server: &str, direction: Direction) -> Delays {
        let histogram = |name| {
            let labels = vec![Label::new("server", server.to_owned()), Label::new("direction", direction.label())];
            self.exposition.histogram(name, labels)
        };
        Delays {
            post_dial: histogram(families::POST_DIAL_DELAY),
            answer: histogram(families::ANSWER_DELAY),
            talk: histogram(families::TALK),
        }
    }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}
