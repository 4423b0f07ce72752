//! What all workers' connections share: how many there may be, and how they are named.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::flow::ConnectionId;

/// How many connections the process may have; all workers take of the same.
#[derive(Clone, Debug)]
pub struct Seats {
    taken: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

/// Makes the names of connections; they say whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    pub worker: usize,
    pub workers: usize,
    next: u64,
}

impl Seats {
    pub fn new(most: usize) -> Seats {
        Seats { taken: Arc::default(), most: Arc::new(AtomicUsize::new(most)) }
    }

    /// For connections from here on.
    pub fn set_most(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    pub(super) fn take(&self) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        let free = |taken| (taken < most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).is_ok()
    }

    pub(super) fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Names {
    pub fn new(worker: usize, workers: usize) -> Names {
        Names { worker, workers, next: 0 }
    }

    /// The worker whose connection it is, or was.
    pub fn owner(&self, id: ConnectionId) -> usize {
        if self.workers == 1 { 0 } else { usize::try_from(id.0 % self.workers as u64).unwrap_or(0) }
    }

    pub(super) fn next(&mut self) -> ConnectionId {
        self.next += 1;
        ConnectionId(self.next * self.workers as u64 + self.worker as u64)
    }
}
