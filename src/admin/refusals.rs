//! What is not let in: counted, and logged now and then.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::closed::closed_enum;
use crate::control::OwnedSample;
use crate::stats::SampleKind;

closed_enum! {
    /// Why a connection or a request was refused.
    pub enum Refused {
        /// No token, or a wrong one.
        Unauthorized = "unauthorized",
        /// A foreign Host, or a command from a page.
        Forbidden = "forbidden",
        /// Head or body.
        TooLarge = "too_large",
        /// A request that did not come to its end.
        Timeout = "timeout",
        /// Too many connections: one that asked for nothing had to go, or the newest.
        Connections = "connections",
    }
}

/// Counts of refusals.
#[derive(Debug, Default)]
pub struct Refusals {
    counts: [AtomicU64; Refused::COUNT],
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    last: Option<Instant>,
    suppressed: u64,
}

/// Between two lines in the log.
const SILENCE: Duration = Duration::from_secs(10);

impl Refusals {
    pub fn note(&self, source: IpAddr, why: Refused) {
        if let Some(count) = self.counts.get(why.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.last.is_some_and(|last| last.elapsed() < SILENCE) {
            told.suppressed += 1;
            return;
        }
        let suppressed = std::mem::take(&mut told.suppressed);
        told.last = Some(Instant::now());
        tracing::warn!(remote = %source, reason = why.label(), suppressed, "refused by the admin API");
    }

    pub fn samples(&self) -> impl Iterator<Item = OwnedSample> {
        Refused::ALL.iter().zip(&self.counts).map(|(why, count)| OwnedSample {
            name: "sipstamp_admin_refused_total",
            kind: SampleKind::Counter,
            labels: vec![("reason".to_owned(), why.label().to_owned())],
            value: count.load(Ordering::Relaxed),
        })
    }
}
