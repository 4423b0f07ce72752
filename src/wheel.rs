//! One ordered index of deadlines: a hierarchical timer wheel.
//!
//! Insert and cancel cost the same whatever the number of timers; the next deadline is found through
//! bitmaps, so that 100,000 waiting calls cost nothing per tick.
//!
//! Three levels of 4096 slots: of a millisecond (4 s ahead), of 4 s (4.6 h ahead), of 4.6 h (795 days ahead).
//! A timer is filed by how far ahead it is, and again at most once a level when its slot comes near; one
//! beyond the last level waits in its furthest slot and is filed again from there.

use std::cell::Cell;

use crate::arena::{Arena, Handle};
use crate::time::Mono;

/// Slots of a level. Its bitmap is of 64 words, so that one word more says which of them are not zero.
const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 12;
const WORDS: usize = SLOTS / 64;
const LEVELS: usize = 3;
/// Timers of a slot that are looked through for the earliest. With more of them in a slot of seconds or hours, and the
/// earliest cancelled, its tick stands for the next one's: thousands are not looked through to sleep a little longer.
const MOST_LOOKED_AT: u32 = 128;

/// Names one timer in its wheel until it fires or is cancelled; never matches another one later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerKey(Handle);

/// Timers that carry a `T`. Resolution is one millisecond; a timer never fires early.
#[derive(Debug)]
pub struct Wheel<T> {
    now: Mono,
    /// Milliseconds: no timer that is filed is due before, no slot before it is used.
    tick: u64,
    levels: [Level; LEVELS],
    timers: Arena<Timer<T>>,
    /// No timer is due before this tick; the earliest one is due at it, where that is known.
    bound: Cell<u64>,
    is_exact: Cell<bool>,
}

/// Slots of one width, each a list of timers.
#[derive(Debug)]
struct Level {
    /// Ticks are shifted by this much to number slots.
    shift: u32,
    slots: Box<[Slot]>,
    /// A bit for each slot that holds a timer, and one for each word that is not zero.
    words: [u64; WORDS],
    summary: u64,
}

#[derive(Clone, Debug)]
struct Slot {
    head: Option<Handle>,
    tail: Option<Handle>,
    /// No tick in the slot is earlier; one is this, where that is known.
    earliest: Cell<u64>,
    is_exact: Cell<bool>,
    len: u32,
}

#[derive(Debug)]
struct Timer<T> {
    value: T,
    tick: u64,
    previous: Option<Handle>,
    next: Option<Handle>,
    level: u8,
    /// Of the slot in its level.
    position: u16,
}

impl<T> Wheel<T> {
    /// An empty wheel that stands at `now`.
    pub fn new(now: Mono) -> Self {
        Wheel {
            now,
            tick: now.0 / 1_000,
            levels: [Level::new(0), Level::new(1), Level::new(2)],
            timers: Arena::default(),
            bound: Cell::new(u64::MAX),
            is_exact: Cell::new(true),
        }
    }

    /// A deadline in the past fires at the next `pop`.
    pub fn insert(&mut self, deadline: Mono, value: T) -> TimerKey {
        let tick = self.tick_of(deadline);
        let (level, position) = self.place_of(tick);
        let previous = self.levels.get(level).and_then(|level| level.slots.get(position)).and_then(|slot| slot.tail);
        let (next, level, position) = (None, level as u8, position as u16);
        let timer = self.timers.insert(Timer { value, tick, previous, next, level, position });
        self.append(timer, previous, tick, (level.into(), position.into()));
        TimerKey(timer)
    }

    /// A timer with another deadline and value in the place of one that is set; else one more.
    pub fn renew(&mut self, key: Option<TimerKey>, deadline: Mono, value: T) -> TimerKey {
        let Some((key, timer)) = key.and_then(|key| Some((key, self.timers.get(key.0)?))) else {
            return self.insert(deadline, value);
        };
        let links = Links::of(timer);
        self.unlink(links);
        self.file(key.0, self.tick_of(deadline), Some(value));
        key
    }

    /// Takes a timer out; `None` where it has fired or was cancelled.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let timer = self.timers.remove(key.0)?;
        self.unlink(Links::of(&timer));
        Some(timer.value)
    }

    /// When a timer fires; `None` where it has fired or was cancelled.
    pub fn due(&self, key: TimerKey) -> Option<Mono> {
        self.timers.get(key.0).map(|timer| Mono(timer.tick.saturating_mul(1_000)))
    }

    /// A point in time before which `pop` has nothing; `None` when empty. It has something then, unless the timer was
    /// cancelled that was the earliest of very many.
    pub fn next_deadline(&self) -> Option<Mono> {
        if !self.is_exact.replace(true) {
            self.bound.set(self.earliest().unwrap_or(u64::MAX));
        }
        let bound = self.bound.get();
        (bound != u64::MAX).then(|| Mono(bound.saturating_mul(1_000)))
    }

    /// The next timer whose deadline has come, earliest millisecond first. Call until `None`.
    pub fn pop(&mut self, now: Mono) -> Option<T> {
        self.now = self.now.max(now);
        let target = self.now.0 / 1_000;
        if target < self.bound.get() {
            return None;
        }
        self.is_exact.set(false);
        loop {
            let [fine, wider @ ..] = &self.levels;
            let due = fine.first(self.tick).filter(|due| *due <= target);
            // The nearest slot of the wider levels: what is in it may be due before the rest.
            let slots = wider.iter().zip(1..).filter_map(|(level, index)| Some((level.first(self.tick)?, index)));
            let near = slots.min();
            match (due, near) {
                (Some(due), near) if near.is_none_or(|(start, _)| due < start) => {
                    self.tick = due;
                    return self.fire();
                }
                (_, Some((start, level))) if start <= target => {
                    self.tick = start;
                    self.refile(level);
                }
                _ => {
                    self.tick = target;
                    self.bound.set(target + 1);
                    return None;
                }
            }
        }
    }

    pub fn len(&self) -> usize {
        self.timers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the first timer of the current tick.
    fn fire(&mut self) -> Option<T> {
        let timer = self.levels.first()?.slot(self.tick)?.head?;
        let timer = self.timers.remove(timer)?;
        self.unlink(Links::of(&timer));
        Some(timer.value)
    }

    fn tick_of(&self, deadline: Mono) -> u64 {
        // An empty wheel has not turned since.
        if deadline <= self.now { self.now.0 / 1_000 } else { deadline.0.div_ceil(1_000) }
    }

    /// The finest level that reaches as far as a tick, and the slot there; beyond the last level the furthest one.
    fn place_of(&self, tick: u64) -> (usize, usize) {
        let ahead = |level: &Level| (tick >> level.shift) - (self.tick >> level.shift);
        let index = self.levels.iter().position(|level| ahead(level) < SLOTS as u64).unwrap_or(LEVELS - 1);
        let shift = index as u32 * SLOT_BITS;
        (index, position((tick >> shift).min((self.tick >> shift) + SLOTS as u64 - 1)))
    }

    fn earliest(&self) -> Option<u64> {
        let mut earliest = None;
        for level in &self.levels {
            let mut next = level.first(self.tick);
            while let Some(start) = next {
                if earliest.is_some_and(|known| known <= start) {
                    break;
                }
                let in_slot = level.earliest_in(start, &self.timers);
                earliest = earliest.into_iter().chain(in_slot).min();
                // A timer in its own slot is earlier than any in a further slot.
                let own = in_slot.is_some_and(|tick| tick >> level.shift == start >> level.shift);
                next = if own { None } else { level.first_behind(self.tick, start) };
            }
        }
        earliest
    }

    /// Puts a timer that is in no slot into the one of a tick, with another value where there is one.
    fn file(&mut self, handle: Handle, tick: u64, value: Option<T>) {
        let (level, position) = self.place_of(tick);
        let previous = self.levels.get(level).and_then(|level| level.slots.get(position)).and_then(|slot| slot.tail);
        let Some(timer) = self.timers.get_mut(handle) else { return };
        (timer.tick, timer.level, timer.position) = (tick, level as u8, position as u16);
        (timer.previous, timer.next) = (previous, None);
        if let Some(value) = value {
            timer.value = value;
        }
        self.append(handle, previous, tick, (level, position));
    }

    /// Makes a timer the last of its slot, behind the one that is.
    fn append(&mut self, handle: Handle, previous: Option<Handle>, tick: u64, (level, position): (usize, usize)) {
        if let Some(level) = self.levels.get_mut(level) {
            level.append(position, handle, tick);
        }
        if let Some(previous) = previous.and_then(|previous| self.timers.get_mut(previous)) {
            previous.next = Some(handle);
        }
        if tick < self.bound.get() {
            self.bound.set(tick);
            self.is_exact.set(true);
        }
    }

    /// Takes a timer out of its slot.
    fn unlink(&mut self, Links { previous, next, tick, level, position }: Links) {
        if let Some(previous) = previous.and_then(|previous| self.timers.get_mut(previous)) {
            previous.next = next;
        }
        if let Some(next) = next.and_then(|next| self.timers.get_mut(next)) {
            next.previous = previous;
        }
        if let Some(level) = self.levels.get_mut(level) {
            level.unlink(position, previous, next, tick);
        }
        if tick <= self.bound.get() {
            self.is_exact.set(false);
        }
    }

    /// Files the timers of the slot that has come near again.
    fn refile(&mut self, index: usize) {
        let Some(level) = self.levels.get_mut(index) else { return };
        let mut handle = level.clear(self.tick >> level.shift);
        while let Some(timer) = handle.and_then(|handle| self.timers.get(handle)) {
            let (next, tick) = (timer.next, timer.tick);
            if let Some(handle) = handle {
                self.file(handle, tick, None);
            }
            handle = next;
        }
    }
}

/// Where a timer is filed.
struct Links {
    previous: Option<Handle>,
    next: Option<Handle>,
    tick: u64,
    level: usize,
    position: usize,
}

impl Links {
    fn of<T>(timer: &Timer<T>) -> Links {
        let Timer { previous, next, tick, level, position, .. } = *timer;
        Links { previous, next, tick, level: level.into(), position: position.into() }
    }
}

impl Level {
    fn new(index: u32) -> Level {
        let slot = Slot { head: None, tail: None, earliest: Cell::new(0), is_exact: Cell::new(true), len: 0 };
        Level { shift: index * SLOT_BITS, slots: vec![slot; SLOTS].into(), words: [0; WORDS], summary: 0 }
    }

    /// The first tick of the first slot that holds a timer, the current slot included.
    fn first(&self, now: u64) -> Option<u64> {
        let number = now >> self.shift;
        self.find(number).map(|found| found << self.shift)
    }

    /// As [`Level::first`], behind the slot that begins at `start`.
    fn first_behind(&self, now: u64, start: u64) -> Option<u64> {
        let number = (start >> self.shift) + 1;
        self.find(number).filter(|found| *found < (now >> self.shift) + SLOTS as u64).map(|found| found << self.shift)
    }

    /// The number of the first slot in use from `number` on, all the way round.
    fn find(&self, number: u64) -> Option<u64> {
        if self.summary == 0 {
            return None;
        }
        let from = position(number);
        let (word, bit) = (from / 64, from % 64);
        let here = self.words.get(word)? & (u64::MAX << bit);
        let found = if here == 0 {
            // Later words first; if there are none, from the start, where the first one's own lower bits come last.
            let later = self.summary & (u64::MAX << word) & !(1 << word);
            let word = if later == 0 { self.summary } else { later }.trailing_zeros() as usize;
            word * 64 + self.words.get(word)?.trailing_zeros() as usize
        } else {
            word * 64 + here.trailing_zeros() as usize
        };
        Some(number + ((found + SLOTS - from) % SLOTS) as u64)
    }

    fn slot(&self, number: u64) -> Option<&Slot> {
        self.slots.get(position(number))
    }

    fn earliest_in<T>(&self, start: u64, timers: &Arena<Timer<T>>) -> Option<u64> {
        let slot = self.slot(start >> self.shift)?;
        if !slot.is_exact.get() && slot.len <= MOST_LOOKED_AT {
            let mut earliest = u64::MAX;
            let mut handle = slot.head;
            while let Some(timer) = handle.and_then(|handle| timers.get(handle)) {
                earliest = earliest.min(timer.tick);
                handle = timer.next;
            }
            slot.earliest.set(earliest);
            slot.is_exact.set(true);
        }
        Some(slot.earliest.get())
    }

    /// Puts a timer at the end of a slot's list.
    fn append(&mut self, position: usize, timer: Handle, tick: u64) {
        let Some(slot) = self.slots.get_mut(position) else { return };
        let last = slot.tail.replace(timer);
        slot.len += 1;
        if last.is_none() || tick < slot.earliest.get() {
            slot.earliest.set(tick);
            slot.is_exact.set(true);
        }
        if last.is_none() {
            slot.head = Some(timer);
            self.mark(position, true);
        }
    }

    fn unlink(&mut self, position: usize, previous: Option<Handle>, next: Option<Handle>, tick: u64) {
        let Some(slot) = self.slots.get_mut(position) else { return };
        if previous.is_none() {
            slot.head = next;
        }
        if next.is_none() {
            slot.tail = previous;
        }
        slot.len = slot.len.saturating_sub(1);
        if slot.earliest.get() == tick {
            slot.is_exact.set(false);
        }
        if slot.head.is_none() {
            self.mark(position, false);
        }
    }

    /// Empties a slot and says which timer was its first.
    fn clear(&mut self, number: u64) -> Option<Handle> {
        let position = position(number);
        self.mark(position, false);
        let slot = self.slots.get_mut(position)?;
        slot.tail = None;
        slot.len = 0;
        slot.head.take()
    }

    fn mark(&mut self, position: usize, used: bool) {
        let (index, bit) = (position / 64, 1 << (position % 64));
        let Some(word) = self.words.get_mut(index) else { return };
        *word = if used { *word | bit } else { *word & !bit };
        let bit = 1 << index;
        self.summary = if *word == 0 { self.summary & !bit } else { self.summary | bit };
    }
}

/// Where a slot is kept, given its number counted from the origin of time.
const fn position(number: u64) -> usize {
    (number % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000;

    #[test]
    fn a_timer_fires_at_its_millisecond_and_not_before() {
        let mut wheel = Wheel::new(Mono(5 * MS));
        wheel.insert(Mono(7 * MS + 1), "late");
        wheel.insert(Mono(7 * MS), "early");
        assert_eq!(wheel.next_deadline(), Some(Mono(7 * MS)));
        assert_eq!(wheel.pop(Mono(7 * MS - 1)), None);
        assert_eq!(wheel.pop(Mono(7 * MS)), Some("early"));
        assert_eq!(wheel.pop(Mono(7 * MS)), None);
        assert_eq!(wheel.next_deadline(), Some(Mono(8 * MS)));
        assert_eq!(wheel.pop(Mono(8 * MS)), Some("late"));
        assert_eq!((wheel.next_deadline(), wheel.len()), (None, 0));
    }

    #[test]
    fn a_deadline_in_the_past_fires_at_the_next_pop() {
        let mut wheel = Wheel::new(Mono(0));
        assert_eq!(wheel.pop(Mono(1_500)), None);
        wheel.insert(Mono(1_400), ());
        assert!(wheel.next_deadline().is_some_and(|deadline| deadline <= Mono(1_500)));
        assert_eq!(wheel.pop(Mono(1_500)), Some(()));
    }

    #[test]
    fn a_key_names_its_timer_only() {
        let mut wheel = Wheel::new(Mono(0));
        let first = wheel.insert(Mono(MS), 1);
        assert_eq!(wheel.cancel(first), Some(1));
        assert_eq!(wheel.cancel(first), None);
        let second = wheel.insert(Mono(MS), 2);
        assert_ne!(first, second);
        assert_eq!(wheel.cancel(first), None);
        assert_eq!(wheel.pop(Mono(MS)), Some(2));
        assert_eq!(wheel.cancel(second), None);
        assert!(wheel.is_empty());
    }

    #[test]
    fn the_next_deadline_is_exact_however_far() {
        let mut wheel = Wheel::new(Mono(123 * MS));
        for days in [3_000, 800, 49, 1] {
            let deadline = Mono(days * 86_400_000 * MS + 7 * MS);
            wheel.insert(deadline, days);
            assert_eq!(wheel.next_deadline(), Some(deadline), "{days} days");
        }
        for days in [1, 49, 800, 3_000] {
            let deadline = wheel.next_deadline().unwrap();
            assert_eq!(wheel.pop(Mono(deadline.0 - 1)), None, "{days} days");
            assert_eq!(wheel.pop(deadline), Some(days));
        }
    }

    #[test]
    fn a_timer_beyond_the_last_level_does_not_hide_an_earlier_one() {
        let day = 86_400_000 * MS;
        let mut wheel = Wheel::new(Mono(0));
        wheel.insert(Mono(2_000 * day), "far");
        assert_eq!(wheel.pop(Mono(300 * day)), None);
        wheel.insert(Mono(1_000 * day), "nearer");
        assert_eq!(wheel.next_deadline(), Some(Mono(1_000 * day)));
        assert_eq!(wheel.pop(Mono(1_000 * day)), Some("nearer"));
        assert_eq!(wheel.next_deadline(), Some(Mono(2_000 * day)));
    }

    #[test]
    fn one_pop_catches_up_with_a_long_silence_in_order() {
        let mut wheel = Wheel::new(Mono(0));
        for tick in [20_000_000, 5_000, 1, 4_096, 4_095, 16_777_216, 5_000, 8_192] {
            wheel.insert(Mono(tick * MS), tick);
        }
        let fired: Vec<u64> = std::iter::from_fn(|| wheel.pop(Mono(30_000_000 * MS))).collect();
        assert_eq!(fired, [1, 4_095, 4_096, 5_000, 5_000, 8_192, 16_777_216, 20_000_000]);
    }

    #[test]
    fn the_next_deadline_costs_the_same_with_many_timers_in_a_slot() {
        let mut wheel = Wheel::new(Mono(0));
        let far = |number: u64| Mono(32_000 * MS + number * 10);
        let keys = (0..100_000).map(|number| wheel.insert(far(number), number)).collect::<Vec<_>>();
        for key in &keys[..90_000] {
            wheel.cancel(*key);
            // Looking through what is left each time would take hours.
            assert!(wheel.next_deadline().is_some_and(|deadline| deadline >= far(0)));
        }
        assert_eq!(wheel.pop(Mono(far(90_000).0 - MS)), None);
        assert_eq!(wheel.next_deadline(), Some(far(90_000)));
        assert_eq!(wheel.pop(far(90_000)), Some(90_000));
    }

    #[test]
    fn a_timer_may_be_given_another_deadline() {
        let mut wheel = Wheel::new(Mono(0));
        let key = wheel.renew(None, Mono(MS), 1);
        assert_eq!(wheel.renew(Some(key), Mono(9_000 * MS), 2), key);
        assert_eq!((wheel.next_deadline(), wheel.len()), (Some(Mono(9_000 * MS)), 1));
        assert_eq!(wheel.pop(Mono(9_000 * MS)), Some(2));
        let another = wheel.renew(Some(key), Mono(9_001 * MS), 3);
        assert_ne!(another, key);
        assert_eq!(wheel.cancel(key), None);
        assert_eq!(wheel.cancel(another), Some(3));
    }

    #[test]
    fn what_is_due_at_once_is_due_now_also_where_nothing_was_before() {
        let mut wheel = Wheel::new(Mono(0));
        assert_eq!(wheel.pop(Mono(5_000)), None);
        wheel.insert(Mono(5_000), 1);
        assert_eq!(wheel.next_deadline(), Some(Mono(5_000)));
        assert_eq!(wheel.pop(Mono(5_000)), Some(1));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64),
        Renew(usize, u64),
        Cancel(usize),
        Advance(u64),
        ToDeadline,
    }

    fn delay() -> impl Strategy<Value = u64> {
        let ms = prop_oneof![0..70_u64, 0..9_000_u64, 0..40_000_000_u64, 0..200_000_000_000_u64];
        (ms, 0..1_000_u64).prop_map(|(ms, micros)| ms * MS + micros)
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => delay().prop_map(Step::Insert),
            2 => (any::<usize>(), delay()).prop_map(|(choice, delay)| Step::Renew(choice, delay)),
            2 => any::<usize>().prop_map(Step::Cancel),
            1 => delay().prop_map(Step::Advance),
            2 => Just(Step::ToDeadline),
        ]
    }

    proptest! {
        #[test]
        fn the_wheel_behaves_as_an_ordered_map(
            origin in 0..1_u64 << 40,
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let mut now = Mono(origin);
            let mut wheel = Wheel::new(now);
            // Deadline in milliseconds and insertion number, to the key.
            let mut model: BTreeMap<(u64, usize), TimerKey> = BTreeMap::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(delay) => {
                        let deadline = now + Duration::from_micros(delay);
                        let tick = if delay == 0 { now.0 / MS } else { deadline.0.div_ceil(MS) };
                        model.insert((tick, number), wheel.insert(deadline, (tick, number)));
                    }
                    Step::Renew(choice, delay) if !model.is_empty() => {
                        let timer = *model.keys().nth(choice % model.len()).unwrap();
                        let key = model.remove(&timer).unwrap();
                        let deadline = now + Duration::from_micros(delay);
                        let tick = if delay == 0 { now.0 / MS } else { deadline.0.div_ceil(MS) };
                        prop_assert_eq!(wheel.renew(Some(key), deadline, (tick, number)), key);
                        model.insert((tick, number), key);
                    }
                    Step::Cancel(choice) if !model.is_empty() => {
                        let timer = *model.keys().nth(choice % model.len()).unwrap();
                        let key = model.remove(&timer).unwrap();
                        prop_assert_eq!(wheel.cancel(key), Some(timer));
                    }
                    Step::Renew(..) | Step::Cancel(_) => {}
                    Step::Advance(delay) => now = now + Duration::from_micros(delay),
                    Step::ToDeadline => now = now.max(wheel.next_deadline().unwrap_or(now)),
                }
                let mut last = 0;
                if !matches!(step, Step::Insert(_) | Step::Renew(..) | Step::Cancel(_)) {
                    while let Some(fired) = wheel.pop(now) {
                        prop_assert!(fired.0 >= last && fired.0 <= now.0 / MS);
                        last = fired.0;
                        prop_assert!(model.remove(&fired).is_some());
                    }
                }
                let earliest = model.keys().next().map(|(tick, _)| Mono(tick * MS));
                prop_assert_eq!(wheel.next_deadline(), earliest);
                prop_assert_eq!(wheel.len(), model.len());
            }
        }
    }
}
