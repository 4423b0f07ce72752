//! Ways that messages go, one copy of each.
//!
//! Thousands of calls share a few pairs of addresses: what remembers where its messages go holds a pointer to the pair.

use std::ops::Deref;
use std::rc::Rc;

use foldhash::fast::FixedState;
use hashbrown::HashSet;

use crate::flow::Hop;

/// A way that is shared by all who go it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Path(Rc<Hop>);

/// Every way in use.
#[derive(Debug)]
pub struct Paths {
    known: HashSet<Path, FixedState>,
    /// Those asked for last: most messages go one of them.
    latest: [Option<Path>; LATEST],
    turn: usize,
    /// At this many, those that nobody goes any more are forgotten.
    sweep_at: usize,
}

const LATEST: usize = 4;
/// Fewer ways than this are not worth a sweep.
const LEAST_SWEEP: usize = 1024;

impl Paths {
    /// The one copy of a way.
    pub fn of(&mut self, hop: Hop) -> Path {
        if let Some(path) = self.latest.iter().flatten().find(|path| *path.0 == hop) {
            return path.clone();
        }
        let path = match self.known.get(&hop) {
            Some(path) => path.clone(),
            None => self.add(hop),
        };
        self.turn = (self.turn + 1) % LATEST;
        if let Some(place) = self.latest.get_mut(self.turn) {
            *place = Some(path.clone());
        }
        path
    }

    fn add(&mut self, hop: Hop) -> Path {
        if self.known.len() >= self.sweep_at {
            self.known.retain(|path| Rc::strong_count(&path.0) > 1);
            self.known.shrink_to(LEAST_SWEEP);
            self.sweep_at = (self.known.len() * 2).max(LEAST_SWEEP);
        }
        let path = Path(Rc::new(hop));
        self.known.insert(path.clone());
        path
    }
}

impl Default for Paths {
    fn default() -> Paths {
        Paths { known: HashSet::default(), latest: Default::default(), turn: 0, sweep_at: LEAST_SWEEP }
    }
}

impl Deref for Path {
    type Target = Hop;

    fn deref(&self) -> &Hop {
        &self.0
    }
}

impl std::borrow::Borrow<Hop> for Path {
    fn borrow(&self) -> &Hop {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Transport;

    fn hop(port: u16) -> Hop {
        let address = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        Hop { transport: Transport::Udp, local: address(5060), remote: address(port), connection: None }
    }

    #[test]
    fn equal_ways_are_one() {
        let mut paths = Paths::default();
        for port in (1..20).chain(1..20) {
            let (one, other) = (paths.of(hop(port)), paths.of(hop(port)));
            assert!(Rc::ptr_eq(&one.0, &other.0));
            assert_eq!(*one, hop(port));
        }
        assert_eq!(paths.known.len(), 19);
    }

    #[test]
    fn ways_that_nobody_goes_are_forgotten() {
        let mut paths = Paths::default();
        let kept = paths.of(hop(2));
        for port in 1_000..20_000 {
            paths.of(hop(port));
        }
        assert!(paths.known.len() <= LEAST_SWEEP);
        assert!(Rc::ptr_eq(&kept.0, &paths.of(hop(2)).0));
    }
}
