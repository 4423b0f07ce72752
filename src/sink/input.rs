//! The way of events from the workers to the dispatcher: a list that is exchanged for an empty one, so that
//! neither side asks for memory.
//!
//! The lock is held for as long as it takes to append an event or to exchange two lists.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::event::Event;
use crate::journal::Position;

/// An event, and where the journal keeps it.
pub type Handed = (Event, Option<Position>);

/// Events that a list has room for from the start: what comes between two looks at 40,000 events a second.
const ROOM: usize = 2048;

/// Where a worker hands its events over. The way ends with the last of its clones.
#[derive(Clone, Debug)]
pub struct EventInput(Arc<End>);

/// Where they are taken.
#[derive(Debug)]
pub struct Outlet(Arc<Way>);

/// Makes whoever takes them look up.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Way>);

#[derive(Debug)]
struct End(Arc<Way>);

#[derive(Debug)]
struct Way {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    events: Vec<Handed>,
    /// Whoever takes them sleeps.
    is_awaited: bool,
    is_woken: bool,
    /// One of the ends is gone.
    is_closed: bool,
}

/// Both ends of a way.
pub fn way() -> (EventInput, Outlet) {
    let state = State { events: list(), is_awaited: false, is_woken: false, is_closed: false };
    let way = Arc::new(Way { state: Mutex::new(state), changed: Condvar::new() });
    (EventInput(Arc::new(End(way.clone()))), Outlet(way))
}

/// For [`Outlet::take`].
pub fn list() -> Vec<Handed> {
    Vec::with_capacity(ROOM)
}

impl EventInput {
    /// Hands an event over, once the journal has it; waits for nobody's work.
    pub fn push(&self, event: Event, at: Option<Position>) {
        let way = &self.0.0;
        let is_awaited = {
            let mut state = way.state();
            if state.is_closed {
                // Whoever took them is gone.
                return;
            }
            state.events.push((event, at));
            std::mem::take(&mut state.is_awaited)
        };
        if is_awaited {
            way.changed.notify_one();
        }
    }
}

impl Outlet {
    /// Waits for events, or to be woken. False at the end of the way.
    pub fn wait(&self) -> bool {
        let mut state = self.0.state();
        while state.events.is_empty() && !std::mem::take(&mut state.is_woken) {
            if state.is_closed {
                return false;
            }
            state.is_awaited = true;
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// Exchanges the events that are there for an empty list.
    pub fn take(&self, list: &mut Vec<Handed>) {
        list.clear();
        // What a peak needed.
        list.shrink_to(ROOM);
        std::mem::swap(&mut self.0.state().events, list);
    }

    pub fn waker(&self) -> Waker {
        Waker(self.0.clone())
    }
}

impl Waker {
    pub fn wake(&self) {
        self.0.state().is_woken = true;
        self.0.changed.notify_one();
    }
}

impl Way {
    fn state(&self) -> MutexGuard<'_, State> {
        // A push that panicked has added its event or has not.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.0.state().is_closed = true;
        self.0.changed.notify_one();
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.0.state().is_closed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Uid;
    use crate::event::{EventKind, Summary};
    use crate::flow::Direction;

    fn event(number: u128) -> Event {
        let summary = Summary {
            call: Uid(number),
            direction: Direction::Outbound,
            server: None,
            outcome: None,
            end_cause: None,
            sip_code: None,
            post_dial_delay_ms: None,
            ring_ms: None,
            answer_delay_ms: None,
            talk_ms: None,
        };
        Event { kind: EventKind::Ended, line: bytes::Bytes::new(), summary, names: None }
    }

    #[test]
    fn every_event_of_every_worker_is_taken_in_its_order_until_the_last_input_is_gone() {
        let (input, outlet) = way();
        let workers = [0, 1_000_000].map(|first| {
            let input = input.clone();
            std::thread::spawn(move || (0..3_000).for_each(|number| input.push(event(first + number), None)))
        });
        drop(input);
        let (mut list, mut taken) = (list(), Vec::new());
        while outlet.wait() {
            outlet.take(&mut list);
            taken.extend(list.iter().map(|(event, _)| event.summary.call.0));
        }
        for worker in workers {
            worker.join().unwrap();
        }
        let (one, other) = taken.into_iter().partition::<Vec<_>, _>(|number| *number < 1_000_000);
        assert!(one.into_iter().eq(0..3_000) && other.into_iter().eq(1_000_000..1_003_000));
    }

    #[test]
    fn the_two_lists_go_to_and_fro_and_give_back_what_a_peak_took() {
        let (input, outlet) = way();
        let mut list = list();
        let mut places = std::collections::BTreeSet::new();
        for number in 0..10 {
            input.push(event(number), None);
            outlet.take(&mut list);
            places.insert(list.as_ptr());
        }
        assert_eq!((places.len(), list.len()), (2, 1));
        (0..10 * ROOM as u128).for_each(|number| input.push(event(number), None));
        outlet.take(&mut list);
        assert_eq!(list.len(), 10 * ROOM);
        input.push(event(0), None);
        outlet.take(&mut list);
        assert_eq!(list.len(), 1);
        input.push(event(0), None);
        outlet.take(&mut list);
        assert_eq!(list.capacity(), ROOM);
    }

    #[test]
    fn nothing_waits_for_a_dispatcher_that_is_gone() {
        let (input, outlet) = way();
        drop(outlet);
        input.push(event(0), None);
        assert!(input.0.0.state().events.is_empty());
    }

    #[test]
    fn who_is_woken_looks_once() {
        let (input, outlet) = way();
        outlet.waker().wake();
        assert!(outlet.wait());
        drop(input);
        assert!(!outlet.wait());
    }
}
