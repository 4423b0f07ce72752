//! Which event is tried next, and when: pure, the clock is an argument.
//!
//! - Events of one call go one after the other; others go at once, as many as may be in flight.
//! - An event that has failed waits for itself alone, longer each time: one that its receiver refuses holds up no other.
//! - While the receiver fails, one event is tried at a time, and the waits between them grow: the **gate**. It counts what
//!   says something about the receiver: attempts that did not reach it, and first attempts. The next success opens it.
//! - An event that has got too old and has failed is dead; one that was not tried is dead only where the receiver has failed
//!   for as long, without a success between.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::dead::Death;
use super::letter::Letter;
use super::request::Failure;
use super::retry::back_off;
use crate::sink::queue::Ticket;

/// The events of one sink that are not delivered.
#[derive(Debug)]
pub struct Schedule {
    max_in_flight: usize,
    /// How old an event gets.
    most_age: Option<Duration>,
    began: Instant,
    pending: BTreeMap<Ticket, Pending>,
    /// By call, the latest event that is pending.
    latest: HashMap<Arc<str>, Ticket>,
    in_flight: usize,
    gate: Gate,
}

#[derive(Debug)]
struct Pending {
    letter: Letter,
    /// The event of the same call before this one.
    behind: Option<Ticket>,
    failures: u32,
    reason: Option<String>,
    /// Not before.
    due: Instant,
    dies: Option<Instant>,
    /// Since when it is in flight.
    started: Option<Instant>,
}

#[derive(Debug)]
struct Gate {
    failures: u32,
    /// The first failure since the last success.
    closed: Option<Instant>,
    reason: String,
    /// Attempts that began before say the same again.
    since: Option<Instant>,
    until: Option<Instant>,
}

impl Schedule {
    pub fn new(max_in_flight: usize, most_age: Option<Duration>, now: Instant) -> Schedule {
        let gate = Gate { failures: 0, closed: None, reason: String::new(), since: None, until: None };
        let (pending, latest) = (BTreeMap::new(), HashMap::new());
        Schedule { max_in_flight, most_age, began: now, pending, latest, in_flight: 0, gate }
    }

    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether the receiver takes nothing, as far as is known.
    pub fn is_failing(&self) -> bool {
        self.gate.failures > 0
    }

    /// Adds the next event in the order of the queue.
    pub fn add(&mut self, now: Instant, ticket: Ticket, letter: Letter) {
        let behind = self.latest.insert(letter.call.clone(), ticket);
        // A process that has just begun gives each event its whole time: the receiver was not asked while there was none.
        let age = letter.age.min(now.saturating_duration_since(self.began));
        let dies = self.most_age.map(|most| now + most.saturating_sub(age));
        let pending = Pending { letter, behind, failures: 0, reason: None, due: now, dies, started: None };
        self.pending.insert(ticket, pending);
    }

    /// The next event to be tried; it is in flight from here on.
    pub fn start(&mut self, now: Instant) -> Option<(Ticket, Letter)> {
        if self.is_full() || self.gate.until.is_some_and(|until| now < until) {
            return None;
        }
        let ticket = self.waiting().find(|(_, pending)| pending.due <= now).map(|(ticket, _)| ticket)?;
        let pending = self.pending.get_mut(&ticket)?;
        pending.started = Some(now);
        self.in_flight += 1;
        Some((ticket, pending.letter.clone()))
    }

    pub fn on_delivered(&mut self, ticket: Ticket) {
        self.remove(ticket);
        (self.gate.failures, self.gate.closed, self.gate.until) = (0, None, None);
    }

    pub fn on_failed(&mut self, now: Instant, ticket: Ticket, failure: Failure) {
        let Some(pending) = self.pending.get_mut(&ticket) else { return };
        let Some(started) = pending.started.take() else { return };
        self.in_flight -= 1;
        let asked = failure.retry_after.unwrap_or_default();
        let is_first = pending.failures == 0;
        pending.failures += 1;
        if !failure.is_receivers {
            pending.due = now + back_off(&pending.letter.id, pending.failures).max(asked);
        }
        let gate = &mut self.gate;
        if (is_first || failure.is_receivers) && gate.since.is_none_or(|since| started > since) {
            gate.failures += 1;
            gate.closed.get_or_insert(now);
            gate.since = Some(now);
            gate.until = gate.until.max(Some(now + back_off(&pending.letter.id, gate.failures)));
            gate.reason.clone_from(&failure.reason);
        }
        if failure.retry_after.is_some() {
            gate.until = gate.until.max(Some(now + asked));
        }
        pending.reason = Some(failure.reason);
    }

    /// The events that are dead; [`Schedule::remove`] takes them away.
    pub fn dead(&self, now: Instant) -> Vec<(Ticket, &Letter, Death)> {
        let dead = self.mortal().filter(|(_, dies, _)| *dies <= now);
        dead.map(|(ticket, _, pending)| {
            let reason = pending.reason.as_ref().unwrap_or(&self.gate.reason).clone();
            (ticket, &pending.letter, Death { reason, attempts: pending.failures })
        })
        .collect()
    }

    /// The event is settled.
    pub fn remove(&mut self, ticket: Ticket) {
        let Some(pending) = self.pending.remove(&ticket) else { return };
        self.in_flight -= usize::from(pending.started.is_some());
        let call = &pending.letter.call;
        if self.latest.get(call) == Some(&ticket) {
            self.latest.remove(call);
        }
    }

    /// Gives up everything that is not in flight.
    pub fn give_up(&mut self) -> Vec<Ticket> {
        let waiting = self.pending.iter().filter(|(_, pending)| pending.started.is_none());
        let waiting = waiting.map(|(ticket, _)| *ticket).collect::<Vec<_>>();
        waiting.iter().for_each(|ticket| self.remove(*ticket));
        waiting
    }

    /// When there is something to do, if nothing comes before.
    pub fn next(&self) -> Option<Instant> {
        let start = self.waiting().map(|(_, pending)| pending.due).min().filter(|_| !self.is_full());
        let start = start.map(|due| self.gate.until.map_or(due, |until| until.max(due)));
        start.into_iter().chain(self.mortal().map(|(_, dies, _)| dies)).min()
    }

    fn is_full(&self) -> bool {
        self.in_flight >= if self.is_failing() { 1 } else { self.max_in_flight }
    }

    /// What is not in flight and not behind another event of its call, the oldest first.
    fn waiting(&self) -> impl Iterator<Item = (Ticket, &Pending)> {
        let is_behind = |pending: &Pending| pending.behind.is_some_and(|other| self.pending.contains_key(&other));
        let waiting = self.pending.iter().filter(move |(_, pending)| pending.started.is_none() && !is_behind(pending));
        waiting.map(|(ticket, pending)| (*ticket, pending))
    }

    /// What dies, and when. What only has to wait, since the receiver is slow, does not.
    fn mortal(&self) -> impl Iterator<Item = (Ticket, Instant, &Pending)> {
        // In a long failure there is no time to try each.
        let untried = self.gate.closed.zip(self.most_age).map(|(closed, most)| closed + most);
        let waiting = self.pending.iter().filter(|(_, pending)| pending.started.is_none());
        waiting.filter_map(move |(ticket, pending)| {
            let dies = pending.dies?;
            let dies = if pending.failures > 0 { dies } else { dies.max(untried?) };
            Some((*ticket, dies, pending))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::webhook::retry::{FIRST, LONGEST};

    const MINUTE: Duration = Duration::from_secs(60);

    /// A schedule in virtual time.
    struct Test {
        schedule: Schedule,
        now: Instant,
        next: u64,
    }

    impl Test {
        fn new(max_in_flight: usize, most_age: Option<Duration>) -> Test {
            let now = Instant::now();
            Test { schedule: Schedule::new(max_in_flight, most_age, now), now, next: 0 }
        }

        fn add(&mut self, call: &str) -> u64 {
            self.add_old(call, Duration::ZERO)
        }

        fn add_old(&mut self, call: &str, age: Duration) -> u64 {
            let id = format!("{call}/{}", self.next).into();
            let letter = Letter { id, call: call.into(), age, body: Arc::default() };
            self.schedule.add(self.now, Ticket(self.next), letter);
            self.next += 1;
            self.next - 1
        }

        fn started(&mut self) -> Vec<u64> {
            std::iter::from_fn(|| self.schedule.start(self.now)).map(|(ticket, _)| ticket.0).collect()
        }

        fn fail(&mut self, ticket: u64, is_receivers: bool, retry_after: Option<Duration>) {
            let failure = Failure { reason: "status 500".to_owned(), is_receivers, retry_after };
            self.schedule.on_failed(self.now, Ticket(ticket), failure);
        }

        /// Goes to the next time at which there is something to do: how long that takes.
        fn advance(&mut self) -> Duration {
            let next = self.schedule.next().expect("something is to be done").max(self.now);
            let wait = next - self.now;
            self.now = next;
            wait
        }
    }

    #[test]
    fn events_of_one_call_go_one_after_the_other_and_others_beside() {
        let mut test = Test::new(3, None);
        let [a1, a2, b1, a3, c1, d1] = ["a", "a", "b", "a", "c", "d"].map(|call| test.add(call));
        assert_eq!(test.started(), [a1, b1, c1]);
        test.schedule.on_delivered(Ticket(b1));
        assert_eq!(test.started(), [d1]);
        test.schedule.on_delivered(Ticket(a1));
        assert_eq!(test.started(), [a2]);
        for ticket in [a2, c1, d1] {
            test.schedule.on_delivered(Ticket(ticket));
        }
        assert_eq!(test.started(), [a3]);
        test.schedule.on_delivered(Ticket(a3));
        assert_eq!((test.schedule.len(), test.schedule.next(), test.schedule.latest.len()), (0, None, 0));
    }

    #[test]
    fn an_event_that_is_refused_waits_longer_each_time_and_holds_up_no_other() {
        let mut test = Test::new(8, None);
        let (refused, after_it) = (test.add("a"), test.add("a"));
        assert_eq!(test.started(), [refused]);
        test.fail(refused, false, None);
        // That first failure may be the receiver's: for a moment one event at a time is tried.
        let other = test.add("b");
        assert!(test.started().is_empty());
        assert!(test.advance() <= FIRST);
        assert_eq!(test.started(), [refused]);
        test.fail(refused, false, None);
        assert_eq!(test.started(), [other]);
        test.schedule.on_delivered(Ticket(other));

        let mut waits = Vec::new();
        for _ in 0..12 {
            let other = test.add("b");
            assert_eq!(test.started(), [other]);
            test.schedule.on_delivered(Ticket(other));
            waits.push(test.advance());
            assert_eq!(test.started(), [refused]);
            test.fail(refused, false, None);
        }
        assert!(waits[0] >= FIRST / 2 && waits[0] <= 2 * FIRST, "{waits:?}");
        assert!(waits[11] >= LONGEST / 2 && waits.iter().all(|wait| *wait <= LONGEST), "{waits:?}");
        test.schedule.remove(Ticket(refused));
        assert_eq!(test.started(), [after_it]);
    }

    #[test]
    fn a_receiver_that_is_down_is_tried_by_one_event_at_a_time_and_gets_all_at_once_when_it_is_back() {
        let mut test = Test::new(4, None);
        let all = (0..20).map(|call| test.add(&call.to_string())).collect::<Vec<_>>();
        let first = test.started();
        assert_eq!(first.len(), 4);
        // What was under way at once counts once.
        for ticket in first {
            test.now += Duration::from_millis(1);
            test.fail(ticket, true, None);
        }
        assert!(test.advance() <= FIRST);
        let mut waits = Vec::new();
        for _ in 0..10 {
            assert_eq!(test.started(), all[..1]);
            test.fail(all[0], true, None);
            assert!(test.started().is_empty());
            waits.push(test.advance());
        }
        assert!(waits[9] >= LONGEST / 2 && waits[9] <= LONGEST, "{waits:?}");
        assert_eq!(test.started(), all[..1]);
        test.schedule.on_delivered(Ticket(all[0]));
        // None of them is to blame.
        assert_eq!(test.started(), all[1..5]);
    }

    #[test]
    fn a_receiver_that_asks_for_a_wait_gets_it() {
        let mut test = Test::new(4, None);
        let (first, second) = (test.add("a"), test.add("b"));
        assert_eq!(test.started(), [first, second]);
        test.fail(first, true, Some(10 * MINUTE));
        test.fail(second, true, None);
        assert_eq!(test.advance(), 10 * MINUTE);
        assert_eq!(test.started(), [first]);
        test.schedule.on_delivered(Ticket(first));
        assert_eq!(test.started(), [second]);
    }

    #[test]
    fn an_event_that_fails_for_too_long_is_dead_and_the_next_of_its_call_goes() {
        let mut test = Test::new(4, Some(10 * MINUTE));
        test.now += 60 * MINUTE;
        let (old, next) = (test.add_old("a", 4 * MINUTE), test.add("a"));
        assert_eq!(test.started(), [old]);
        let mut attempts = 0;
        let began = test.now;
        let death = loop {
            test.fail(old, false, None);
            attempts += 1;
            test.advance();
            if let Some((ticket, _, death)) = test.schedule.dead(test.now).into_iter().next() {
                assert_eq!(ticket, Ticket(old));
                break death;
            }
            assert_eq!(test.started(), [old]);
        };
        assert_eq!(test.now - began, 6 * MINUTE);
        assert_eq!((death.attempts, &*death.reason), (attempts, "status 500"));
        test.schedule.remove(Ticket(old));
        test.now += LONGEST;
        assert_eq!(test.started(), [next]);
    }

    #[test]
    fn while_the_receiver_fails_events_die_untried_and_else_none_does() {
        let mut test = Test::new(1, Some(MINUTE));
        test.now += 60 * MINUTE;
        let (first, second) = (test.add_old("a", 2 * MINUTE), test.add_old("b", 2 * MINUTE));
        assert!(test.schedule.dead(test.now).is_empty(), "nothing has failed");
        assert_eq!(test.started(), [first]);
        assert_eq!(test.schedule.next(), None);
        test.fail(first, true, None);
        let died = |test: &Test| {
            let dead = test.schedule.dead(test.now).into_iter();
            dead.map(|(ticket, _, death)| (ticket.0, death.attempts, death.reason)).collect::<Vec<_>>()
        };
        let reason = || "status 500".to_owned();
        assert_eq!(died(&test), [(first, 1, reason())]);
        test.schedule.remove(Ticket(first));
        // It gets its chance, until the receiver has failed for so long.
        test.advance();
        assert_eq!(test.started(), [second]);
        let third = test.add_old("c", 2 * MINUTE);
        test.fail(second, true, None);
        assert_eq!(died(&test), [(second, 1, reason())]);
        test.schedule.remove(Ticket(second));
        test.now += MINUTE;
        assert_eq!(died(&test), [(third, 0, reason())]);
    }

    #[test]
    fn after_a_restart_an_event_has_its_whole_time_again() {
        let mut test = Test::new(1, Some(10 * MINUTE));
        let old = test.add_old("a", 600 * MINUTE);
        assert_eq!(test.started(), [old]);
        test.fail(old, true, None);
        assert!(test.schedule.dead(test.now + 9 * MINUTE).is_empty());
        assert_eq!(test.schedule.dead(test.now + 10 * MINUTE).len(), 1);
    }

    #[test]
    fn what_is_given_up_leaves_what_is_in_flight() {
        let mut test = Test::new(1, None);
        let (first, second, third) = (test.add("a"), test.add("a"), test.add("b"));
        assert_eq!(test.started(), [first]);
        assert_eq!(test.schedule.give_up(), [Ticket(second), Ticket(third)]);
        test.schedule.on_delivered(Ticket(first));
        assert_eq!((test.schedule.len(), test.schedule.in_flight), (0, 0));
    }
}
