//! Both clocks, read together.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::time::{Mono, Now, Wall};

/// The origin of the core's monotonic clock; the same for all workers.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    /// What it shows at its origin: the wall time then, so that what happened before the process began has its place on it.
    base: u64,
}

impl Clock {
    pub fn start() -> Clock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { origin: Instant::now(), base: micros(wall) }
    }

    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono: self.mono(), wall: Wall(i64::try_from(micros(wall)).unwrap_or(i64::MAX)) }
    }

    /// How long this thread has worked since it began.
    pub fn worked() -> Duration {
        // Linux has this clock for each thread.
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
    }

    pub fn mono(&self) -> Mono {
        Mono(self.base.saturating_add(micros(self.origin.elapsed())))
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(duration.subsec_micros()))
}
