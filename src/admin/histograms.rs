//! What is observed as it happens: how long packets, rings, answers and talks take.
//!
//! Plain numbers that belong to one worker; at a scrape those of all workers are added up.

use std::fmt::Write as _;

use hashbrown::HashMap;

use super::families;
use crate::control::OwnedHistogram;
use crate::event::CallData;
use crate::flow::Direction;
use crate::outcome::Outcome;

/// All histograms of one worker.
#[derive(Debug)]
pub struct Histograms {
    processing: Buckets,
    /// Indexed by outcome, then by direction.
    ring: Vec<[Buckets; Direction::COUNT]>,
    /// By name.
    servers: HashMap<String, [Delays; Direction::COUNT], foldhash::fast::RandomState>,
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
    /// Those without a server exist from here on, the others with [`Histograms::add_server`] or the server's first call.
    pub fn new() -> Histograms {
        let ring = |_: &Outcome| [Buckets::new(families::RING), Buckets::new(families::RING)];
        Histograms {
            processing: Buckets::new(families::PROCESSING),
            ring: Outcome::ALL.iter().map(ring).collect(),
            servers: HashMap::default(),
        }
    }

    /// Makes a server's histograms exist before its first call.
    pub fn add_server(&mut self, server: &str) {
        self.delays(server);
    }

    /// `count` messages took `seconds` each.
    pub fn processing(&mut self, seconds: f64, count: u64) {
        self.processing.observe(seconds, count);
    }

    /// Takes what an ended call tells. One without a server is in no server's histogram.
    pub fn call_ended(&mut self, call: &CallData) {
        if let (Some(outcome), Some(ms)) = (call.outcome, call.ring_ms)
            && let Some(ring) = self.ring.get_mut(outcome.index()).and_then(|ring| ring.get_mut(call.direction.index()))
        {
            ring.observe(seconds(ms), 1);
        }
        let Some(server) = &call.server else { return };
        let Some(delays) = self.delays(server).get_mut(call.direction.index()) else { return };
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
        let mut all = vec![self.processing.snapshot(&[])];
        for (outcome, row) in Outcome::ALL.iter().zip(&self.ring) {
            for (direction, ring) in Direction::ALL.iter().zip(row) {
                all.push(ring.snapshot(&[("outcome", outcome.label()), ("direction", direction.label())]));
            }
        }
        for (server, row) in &self.servers {
            for (direction, delays) in Direction::ALL.iter().zip(row) {
                let labels = [("server", server.as_str()), ("direction", direction.label())];
                all.extend([&delays.post_dial, &delays.answer, &delays.talk].map(|buckets| buckets.snapshot(&labels)));
            }
        }
        all
    }

    fn delays(&mut self, server: &str) -> &mut [Delays; Direction::COUNT] {
        self.servers.entry_ref(server).or_insert_with(|| [Delays::new(), Delays::new()])
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
