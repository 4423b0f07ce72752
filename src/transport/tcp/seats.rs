//! What all workers' connections share: how many there may be, and how they are named.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::closed::closed_enum;
use crate::flow::ConnectionId;

/// Connections of one stranger.
const OF_ONE_STRANGER: usize = 4;
/// Strangers have this part of all connections at most.
const PART_OF_STRANGERS: usize = 8;

/// How many connections the process may have; all workers take of the same.
#[derive(Clone, Debug)]
pub struct Seats(Arc<Mutex<Taken>>);

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub struct SeatLimits {
    pub all: usize,
    /// Of one source address; 0: as many as of all.
    pub of_one: usize,
}

closed_enum! {
    /// Why a connection is refused, by the limit's name.
    pub enum NoSeat {
        All = "limits.tcp_connections",
        OfOne = "limits.tcp_connections_per_source",
        Strangers = "connections of strangers",
        OfOneStranger = "connections of one stranger",
    }
}

/// Who has connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    pub address: IpAddr,
    pub is_stranger: bool,
}

#[derive(Debug)]
struct Taken {
    limits: SeatLimits,
    all: usize,
    strangers: usize,
    by_source: HashMap<IpAddr, usize>,
}

impl Seats {
    pub fn new(limits: SeatLimits) -> Seats {
        Seats(Arc::new(Mutex::new(Taken { limits, all: 0, strangers: 0, by_source: HashMap::new() })))
    }

    /// For connections from here on.
    pub fn set_limits(&self, limits: SeatLimits) {
        self.taken().limits = limits;
    }

    /// A seat for a connection of ours (`None`), or for somebody who has connected.
    pub(super) fn take(&self, guest: Option<Guest>) -> Result<(), NoSeat> {
        let mut taken = self.taken();
        let limits = taken.limits;
        if taken.all >= limits.all {
            return Err(NoSeat::All);
        }
        if let Some(Guest { address, is_stranger }) = guest {
            let of_this = taken.by_source.get(&address).copied().unwrap_or(0);
            if is_stranger && of_this >= OF_ONE_STRANGER {
                return Err(NoSeat::OfOneStranger);
            }
            if is_stranger && taken.strangers >= (limits.all / PART_OF_STRANGERS).max(1) {
                return Err(NoSeat::Strangers);
            }
            if limits.of_one > 0 && of_this >= limits.of_one {
                return Err(NoSeat::OfOne);
            }
            taken.strangers += usize::from(is_stranger);
            *taken.by_source.entry(address).or_default() += 1;
        }
        taken.all += 1;
        Ok(())
    }

    pub(super) fn give_back(&self, guest: Option<Guest>) {
        let mut taken = self.taken();
        taken.all = taken.all.saturating_sub(1);
        if let Some(Guest { address, is_stranger }) = guest {
            taken.strangers = taken.strangers.saturating_sub(usize::from(is_stranger));
            if let Some(count) = taken.by_source.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    taken.by_source.remove(&address);
                }
            }
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the names of connections; they say whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    pub worker: usize,
    pub workers: usize,
    next: u64,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(host: u8, is_stranger: bool) -> Option<Guest> {
        Some(Guest { address: IpAddr::from([192, 0, 2, host]), is_stranger })
    }

    #[test]
    fn strangers_never_take_the_seats_of_others() {
        let seats = Seats::new(SeatLimits { all: 64, of_one: 0 });
        let taken = (0..200).filter(|host| seats.take(guest(*host, true)).is_ok()).count();
        assert_eq!(taken, 8);
        assert_eq!((0..100).filter(|_| seats.take(guest(201, false)).is_ok()).count(), 56);
        assert_eq!(seats.take(None), Err(NoSeat::All));
        seats.give_back(guest(0, true));
        assert_eq!(seats.take(None), Ok(()));
    }

    #[test]
    fn one_source_has_a_limit_of_its_own() {
        let seats = Seats::new(SeatLimits { all: 64, of_one: 6 });
        assert_eq!((0..10).filter(|_| seats.take(guest(1, false)).is_ok()).count(), 6);
        assert_eq!(seats.take(guest(1, false)), Err(NoSeat::OfOne));
        assert_eq!((0..10).filter(|_| seats.take(guest(2, true)).is_ok()).count(), 4);
        assert_eq!(seats.take(guest(2, true)), Err(NoSeat::OfOneStranger));
        for _ in 0..6 {
            seats.give_back(guest(1, false));
        }
        assert_eq!((0..10).filter(|_| seats.take(guest(1, false)).is_ok()).count(), 6);
        assert_eq!(seats.taken().by_source.len(), 2);
    }
}
