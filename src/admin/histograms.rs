//! What is observed as it happens: how long packets, rings, answers and talks take.
//!
//! Plain numbers: those of packets belong to a worker, those of calls to the thread that takes events.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;

use super::families;
use crate::control::OwnedHistogram;
use crate::event::Summary;
use crate::flow::Direction;
use crate::outcome::Outcome;
use crate::policy::ServerId;

/// What ended calls have told; clones share it.
#[derive(Clone, Debug)]
pub struct Histograms {
    /// Taken for each ended call off the way of messages, and for a scrape.
    calls: Arc<Mutex<Calls>>,
}

/// How long one worker takes for messages.
#[derive(Debug)]
pub struct Processing(Buckets);

#[derive(Debug)]
struct Calls {
    /// Indexed by outcome, then by direction.
    ring: Vec<[Buckets; Direction::COUNT]>,
    servers: HashMap<ServerId, Server, foldhash::fast::RandomState>,
}

#[derive(Debug)]
struct Server {
    name: String,
    directions: [Delays; Direction::COUNT],
}

/// Of one server and direction.
#[derive(Debug)]
struct Delays {
    post_dial: Buckets,
    answer: Buckets,
    talk: Buckets,
}

/// Observations by bucket, the last of which has no upper bound.
#[derive(Debug)]
struct Buckets {
    name: &'static str,
    bounds: &'static [f64],
    counts: Box<[u64]>,
    sum: f64,
}

impl Histograms {
    /// Those without a server exist from here on, the others with [`Histograms::add_server`].
    pub fn new() -> Histograms {
        let ring = |_: &Outcome| [Buckets::new(families::RING), Buckets::new(families::RING)];
        let calls = Calls { ring: Outcome::ALL.iter().map(ring).collect(), servers: HashMap::default() };
        Histograms { calls: Arc::new(Mutex::new(calls)) }
    }

    /// Makes a server's histograms exist, before its first call.
    pub fn add_server(&self, id: ServerId, name: &str) {
        let server = || Server { name: name.to_owned(), directions: [Delays::new(), Delays::new()] };
        self.calls().servers.entry(id).or_insert_with(server);
    }

    /// Takes what an ended call tells. One without a server is in no server's histogram.
    pub fn call_ended(&self, call: &Summary) {
        let mut calls = self.calls();
        let direction = call.direction.index();
        if let (Some(outcome), Some(ms)) = (call.outcome, call.ring_ms)
            && let Some(ring) = calls.ring.get_mut(outcome.index()).and_then(|ring| ring.get_mut(direction))
        {
            ring.observe(seconds(ms), 1);
        }
        let Some(server) = call.server.and_then(|server| calls.servers.get_mut(&server)) else { return };
        let Some(delays) = server.directions.get_mut(direction) else { return };
        let observe = |buckets: &mut Buckets, ms: Option<u64>| {
            if let Some(ms) = ms {
                buckets.observe(seconds(ms), 1);
            }
        };
        observe(&mut delays.post_dial, call.post_dial_delay_ms);
        observe(&mut delays.answer, call.answer_delay_ms);
        observe(&mut delays.talk, call.talk_ms);
    }

    /// What was observed so far.
    pub fn snapshot(&self) -> Vec<OwnedHistogram> {
        let calls = self.calls();
        let mut all = Vec::new();
        for (outcome, row) in Outcome::ALL.iter().zip(&calls.ring) {
            for (direction, ring) in Direction::ALL.iter().zip(row) {
                all.push(ring.snapshot(&[("outcome", outcome.label()), ("direction", direction.label())]));
            }
        }
        for server in calls.servers.values() {
            for (direction, delays) in Direction::ALL.iter().zip(&server.directions) {
                let labels = [("server", server.name.as_str()), ("direction", direction.label())];
                all.extend([&delays.post_dial, &delays.answer, &delays.talk].map(|buckets| buckets.snapshot(&labels)));
            }
        }
        all
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        // Nothing panics while it is held; should it, the figures are still figures.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Processing {
    pub fn new() -> Processing {
        Processing(Buckets::new(families::PROCESSING))
    }

    /// `count` messages took `seconds` each.
    pub fn observe(&mut self, seconds: f64, count: u64) {
        self.0.observe(seconds, count);
    }

    pub fn snapshot(&self) -> OwnedHistogram {
        self.0.snapshot(&[])
    }
}

impl Default for Processing {
    fn default() -> Processing {
        Processing::new()
    }
}

impl Default for Histograms {
    fn default() -> Histograms {
        Histograms::new()
    }
}

impl Delays {
    fn new() -> Delays {
        Delays {
            post_dial: Buckets::new(families::POST_DIAL_DELAY),
            answer: Buckets::new(families::ANSWER_DELAY),
            talk: Buckets::new(families::TALK),
        }
    }
}

impl Buckets {
    fn new(name: &'static str) -> Buckets {
        let bounds = families::OBSERVED.iter().find(|family| family.0 == name).map_or(&[][..], |family| family.2);
        Buckets { name, bounds, counts: vec![0; bounds.len() + 1].into_boxed_slice(), sum: 0.0 }
    }

    fn observe(&mut self, value: f64, count: u64) {
        let at = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        if let Some(bucket) = self.counts.get_mut(at) {
            *bucket += count;
        }
        self.sum += value * count as f64;
    }

    fn snapshot(&self, labels: &[(&'static str, &str)]) -> OwnedHistogram {
        OwnedHistogram {
            name: self.name,
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            bounds: self.bounds,
            counts: self.counts.to_vec(),
            sum: self.sum,
        }
    }
}

/// Appends histograms in the Prometheus text format.
pub fn render(page: &mut String, histograms: &[OwnedHistogram]) {
    for (name, help, _) in families::OBSERVED {
        let mut series = histograms.iter().filter(|histogram| histogram.name == *name).collect::<Vec<_>>();
        series.sort_by(|one, other| one.labels.cmp(&other.labels));
        if !series.is_empty() {
            // Writing to a string does not fail.
            let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} histogram");
        }
        for histogram in series {
            let _ = render_one(page, histogram);
        }
    }
}

fn render_one(page: &mut String, histogram: &OwnedHistogram) -> std::fmt::Result {
    let OwnedHistogram { name, labels, bounds, counts, sum } = histogram;
    let labels = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect::<Vec<_>>();
    let labels = labels.join(",");
    let comma = if labels.is_empty() { "" } else { "," };
    let mut total = 0;
    for (at, count) in counts.iter().enumerate() {
        total += count;
        let bound = bounds.get(at).map_or_else(|| "+Inf".to_owned(), f64::to_string);
        writeln!(page, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}")?;
    }
    let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
    writeln!(page, "{name}_sum{labels} {sum}\n{name}_count{labels} {total}")
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}
