//! Delays in buckets of at most 1/64 of their value, so that a percentile needs no list.

use serde::Serialize;

/// Buckets per power of two.
const FINE: u32 = 6;
const BUCKETS: usize = ((64 - FINE as usize) + 1) << FINE;

/// Counts of delays in ns.
#[derive(Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
}

/// Percentiles in µs.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Percentiles {
    pub count: u64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; BUCKETS], count: 0 }
    }
}

impl Histogram {
    pub fn add(&mut self, nanos: u64) {
        self.counts[bucket(nanos)] += 1;
        self.count += 1;
    }

    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.count = 0;
    }

    pub fn percentiles(&self) -> Percentiles {
        let [p50, p90, p99, max] = [0.5, 0.9, 0.99, 1.0].map(|part| self.percentile(part));
        Percentiles { count: self.count, p50, p90, p99, max }
    }

    fn percentile(&self, part: f64) -> f64 {
        let wanted = (self.count as f64 * part).ceil().max(1.0);
        let mut sum = 0.0;
        let found = self.counts.iter().position(|&count| {
            sum += count as f64;
            sum >= wanted
        });
        found.map_or(0.0, |bucket| middle(bucket) / 1_000.0)
    }
}

fn bucket(nanos: u64) -> usize {
    let exponent = nanos.max(1).ilog2().saturating_sub(FINE);
    (exponent as usize).saturating_mul(1 << FINE) + (nanos >> exponent) as usize
}

/// In ns.
fn middle(bucket: usize) -> f64 {
    let exponent = (bucket >> FINE).saturating_sub(1);
    let mantissa = bucket - (exponent << FINE);
    (mantissa as f64 + 0.5) * (exponent as f64).exp2()
}
