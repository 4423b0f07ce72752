//! Seats for connections: so many in all, so many for one source. Whoever comes while all are taken gets the seat of one that
//! asks for nothing, so that connections which only wait keep nobody out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// All seats of a listener; clones share them.
#[derive(Clone, Debug)]
pub struct Seats {
    most: usize,
    most_of_source: usize,
    taken: Arc<Mutex<Taken>>,
}

/// One that is taken, until its last clone is gone.
#[derive(Clone, Debug)]
pub struct Seat(Arc<Held>);

/// A request that is being answered: its connection keeps its seat.
#[derive(Debug)]
pub struct Busy(Arc<Held>);

#[derive(Debug)]
struct Held {
    taken: Arc<Mutex<Taken>>,
    number: u64,
    source: IpAddr,
    told_to_leave: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// In the order in which they came.
    sitting: BTreeMap<u64, Sitting>,
}

#[derive(Debug)]
struct Sitting {
    source: IpAddr,
    has_asked: bool,
    is_busy: bool,
    told_to_leave: Arc<Notify>,
}

impl Seats {
    pub fn new(most: usize, most_of_source: usize) -> Seats {
        Seats { most, most_of_source, taken: Arc::default() }
    }

    /// A seat, and whether another connection has to leave for it. `None` where all that might leave are busy.
    pub fn take(&self, source: IpAddr) -> Option<(Seat, bool)> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = taken.count(source);
        let must_leave = if of_source >= self.most_of_source {
            Some(taken.idle(Some(source))?)
        } else if taken.sitting.len() >= self.most {
            Some(taken.idle(None)?)
        } else {
            None
        };
        if let Some(left) = must_leave.and_then(|number| taken.sitting.remove(&number)) {
            left.told_to_leave.notify_one();
        }
        let number = taken.next;
        taken.next += 1;
        let told_to_leave = Arc::new(Notify::new());
        let sitting = Sitting { source, has_asked: false, is_busy: false, told_to_leave: told_to_leave.clone() };
        taken.sitting.insert(number, sitting);
        let held = Held { taken: self.taken.clone(), number, source, told_to_leave };
        Some((Seat(Arc::new(held)), must_leave.is_some()))
    }
}

impl Seat {
    pub fn source(&self) -> IpAddr {
        self.0.source
    }

    /// Returns once another needs it more.
    pub async fn told_to_leave(&self) {
        self.0.told_to_leave.notified().await;
    }

    /// Keeps it until what is returned is dropped.
    pub fn begin(&self) -> Busy {
        self.0.change(|sitting| (sitting.has_asked, sitting.is_busy) = (true, true));
        Busy(self.0.clone())
    }
}

impl Held {
    fn change(&self, change: impl FnOnce(&mut Sitting)) {
        // One that was told to leave is not there.
        if let Some(sitting) = self.taken().sitting.get_mut(&self.number) {
            change(sitting);
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn count(&self, source: IpAddr) -> usize {
        self.sitting.values().filter(|sitting| sitting.source == source).count()
    }

    /// Who may leave, of one source or of the one that has most: first who has never asked, then who came first.
    fn idle(&self, source: Option<IpAddr>) -> Option<u64> {
        let idle = self.sitting.iter().filter(|(_, sitting)| !sitting.is_busy);
        let idle = idle.filter(|(_, sitting)| source.is_none_or(|source| sitting.source == source));
        let first = idle.min_by_key(|(number, sitting)| {
            (std::cmp::Reverse(self.count(sitting.source)), sitting.has_asked, **number)
        });
        first.map(|(number, _)| *number)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.taken().sitting.remove(&self.number);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.change(|sitting| sitting.is_busy = false);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn must_leave(seat: &Seat) -> bool {
        pin!(seat.told_to_leave()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn who_asks_for_nothing_leaves_first() {
        let seats = Seats::new(3, 3);
        let (busy, asked, silent) =
            (seats.take(ONE).unwrap().0, seats.take(ONE).unwrap().0, seats.take(ONE).unwrap().0);
        let request = busy.begin();
        drop(asked.begin());
        let (fourth, made_room) = seats.take(ONE).unwrap();
        assert!(made_room && must_leave(&silent) && !must_leave(&asked) && !must_leave(&busy));
        let _held = fourth.begin();
        let fifth = seats.take(ONE).unwrap().0;
        assert!(must_leave(&asked));
        let _held = fifth.begin();
        assert!(seats.take(ONE).is_none(), "all are busy");
        drop(request);
        assert!(seats.take(ONE).is_some_and(|(_, made_room)| made_room));
        assert!(must_leave(&busy));
    }

    #[test]
    fn a_source_takes_no_seat_of_another() {
        let seats = Seats::new(3, 2);
        let other = seats.take(OTHER).unwrap().0;
        let crowd: Vec<_> = (0..10).map(|_| seats.take(ONE).unwrap().0).collect();
        assert!(!must_leave(&other));
        assert_eq!(crowd.iter().filter(|seat| must_leave(seat)).count(), 8);
        // All three are taken: who has most makes room.
        let another = seats.take(OTHER).unwrap().0;
        assert!(!must_leave(&other) && must_leave(&crowd[8]));
        drop((another, other));
        assert!(!seats.take(OTHER).unwrap().1, "seats are free again");
    }
}
