//! When new calls are refused because there is too much to do, and whose.
//!
//! A worker is overloaded when messages have waited longer than they may for some time, and the wait does not
//! get shorter. It then refuses new calls (503 with Retry-After) until the wait is short again, and goes on
//! with those that it has: local overload control as RFC 6357 §5 sorts it, with hysteresis, and with nothing to
//! agree on with the peer. A burst, or a pause in which the process did not run, makes messages wait too, but
//! is worked off; so neither is taken for overload. Nor is it one that strangers send more than can be read: to refuse
//! calls for that would do what they are after.
//!
//! Where refusing all does not help either, since refusals alone are more than can be made, one new call in
//! seventeen is taken: some calls are made however many are offered.
//!
//! Who offers much less than its equal share is refused nothing: one source that floods does not cost
//! the others their calls.

use std::net::IpAddr;
use std::time::Duration;

use crate::time::Mono;

/// For how long messages must have waited too long, without the wait getting shorter.
const WINDOW: Duration = Duration::from_millis(20);
/// Of that, how much the worker must have worked: else it was kept from running, and new calls are not the cause.
const WORK: Duration = Duration::from_millis(10);
/// Messages of strangers that weigh as much as one of somebody who is served: hardly any of them is looked at.
const STRANGERS: u64 = 16;
/// A measurement that comes later than this after the one before begins anew.
const GAP: Duration = Duration::from_millis(100);
/// New calls are taken again when the wait is this part of what it may be.
const SHORT: u32 = 4;
/// Where messages wait for more than this many times as long as they may, and ever longer, while all new calls are refused,
/// refusing is in vain.
const LONG: u32 = 4;
/// Of so many new calls one is taken then. A prime: trunks that take turns have theirs each.
const TAKEN: u64 = 17;
/// Sources that are told apart; others share a place with them.
const PLACES: usize = 1024;
/// What each source offers is counted by this and the interval before.
const INTERVAL: Duration = Duration::from_secs(1);
/// A source is light while it offers less than this part of an equal share.
const LIGHT: u64 = 4;

/// How long what comes next has waited to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    pub delay: Duration,
    /// How long the worker has worked since it began, as the clock of its thread counts.
    pub worked: Duration,
    /// Messages that it has handled since it began, but for those of strangers.
    pub served: u64,
    /// Messages of strangers that have come to it since it began, whether they were read or not.
    pub strangers: u64,
}

/// Whether new calls are refused for overload.
#[derive(Debug, Default)]
pub(crate) struct Overload {
    /// Since when messages have been waiting too long.
    since: Option<(Mono, Lag)>,
    last: Mono,
    is_shedding: bool,
    /// Whether refusing all does not help.
    is_in_vain: bool,
    /// How often it was asked whether to refuse while it did not.
    asked_in_vain: u64,
}

impl Overload {
    /// Takes a measurement. `limit` is how long a message may wait; zero is for ever.
    pub(crate) fn observe(&mut self, now: Mono, lag: Lag, limit: Duration) {
        self.is_in_vain &= lag.delay > limit * LONG;
        if now.since(std::mem::replace(&mut self.last, now)) > GAP {
            self.since = None;
        }
        if lag.delay <= limit / SHORT || limit.is_zero() {
            self.since = None;
            self.is_shedding = false;
        } else if lag.delay <= limit {
            // Neither begins nor ends anything.
            self.since = None;
        } else {
            let (begin, first) = *self.since.get_or_insert((now, lag));
            if now.since(begin) >= WINDOW && lag.worked.saturating_sub(first.worked) >= WORK {
                let is_growing = lag.delay >= first.delay;
                self.is_in_vain = self.is_shedding && is_growing && lag.delay > limit * LONG;
                self.is_shedding = (self.is_shedding || is_growing) && lag.is_by_those_served(first);
                self.since = Some((now, lag));
            }
        }
    }

    /// Whether short waits matter too.
    pub(crate) fn is_watching(&self) -> bool {
        self.is_shedding || self.since.is_some()
    }

    pub(crate) fn is_shedding(&self) -> bool {
        self.is_shedding
    }

    /// Whether an INVITE is refused that may begin a call, as far as that depends on how long messages wait.
    pub(crate) fn refuses(&mut self) -> bool {
        if !self.is_shedding || !self.is_in_vain {
            return self.is_shedding;
        }
        self.asked_in_vain += 1;
        !self.asked_in_vain.is_multiple_of(TAKEN)
    }
}

impl Lag {
    /// Whether most of the work since `first` was for those who are served.
    fn is_by_those_served(self, first: Lag) -> bool {
        let (served, strangers) =
            (self.served.saturating_sub(first.served), self.strangers.saturating_sub(first.strangers));
        strangers <= served.saturating_mul(STRANGERS)
    }
}

/// What each source has offered lately, in a table of fixed size.
#[derive(Debug)]
pub(crate) struct Sources {
    places: Box<[Place]>,
    /// Number of the interval that is being counted.
    interval: u64,
    /// Of all sources, in the interval before and in this one.
    offered: [u64; 2],
    /// How many sources offered something.
    active: [u64; 2],
}

/// A source, or several that share a place.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    interval: u64,
    offered: [u64; 2],
    /// When its next new call fits its own limit.
    next_call_at: Mono,
}

impl Default for Sources {
    fn default() -> Self {
        Sources {
            places: vec![Place::default(); PLACES].into_boxed_slice(),
            interval: 0,
            offered: [0; 2],
            active: [0; 2],
        }
    }
}

impl Sources {
    /// A source offers a new call. True where it is light beside the others.
    pub(crate) fn offer(&mut self, source: IpAddr, now: Mono) -> bool {
        let interval = now.0 / u64::try_from(INTERVAL.as_micros()).unwrap_or(1);
        let behind = interval - std::mem::replace(&mut self.interval, interval);
        roll(&mut self.offered, behind);
        roll(&mut self.active, behind);
        let Some(place) = self.places.get_mut(place_of(source)) else { return false };
        roll(&mut place.offered, interval - std::mem::replace(&mut place.interval, interval));
        let [before, current] = &mut place.offered;
        *current += 1;
        let (own, is_first) = (*before + *current, *current == 1);
        let [offered_before, offered] = &mut self.offered;
        *offered += 1;
        let all = *offered_before + *offered;
        let [active_before, active] = &mut self.active;
        *active += u64::from(is_first);
        own * (*active_before).max(*active) * LIGHT < all
    }

    /// Whether a new call of this source keeps within `per_second`; 0 is no limit. It counts if `takes`.
    pub(crate) fn admits(&mut self, source: IpAddr, per_second: u32, now: Mono, takes: bool) -> bool {
        match self.places.get_mut(place_of(source)) {
            Some(place) => fits(&mut place.next_call_at, per_second, now, takes),
            None => true,
        }
    }
}

/// Whether another one fits a bucket of one second's worth that fills evenly (GCRA); if it is taken, it counts.
pub(crate) fn fits(next: &mut Mono, per_second: u32, now: Mono, takes: bool) -> bool {
    if per_second == 0 {
        return true;
    }
    let interval = Duration::from_secs(1) / per_second;
    let burst = Duration::from_secs(1) - interval;
    let due = (*next).max(now);
    let fits = due.since(now) <= burst;
    if fits && takes {
        *next = due + interval;
    }
    fits
}

/// Moves counts on by some intervals.
fn roll(counts: &mut [u64; 2], behind: u64) {
    *counts = match behind {
        0 => *counts,
        1 => [counts[1], 0],
        _ => [0; 2],
    };
}

/// Sources are configured ones: nobody chooses an address to share a place with another.
fn place_of(source: IpAddr) -> usize {
    let fold = |bytes: &[u8]| bytes.iter().fold(0_usize, |hash, byte| hash.wrapping_mul(31) ^ usize::from(*byte));
    let hash = match source.to_canonical() {
        IpAddr::V4(address) => fold(&address.octets()),
        IpAddr::V6(address) => fold(&address.octets()),
    };
    hash % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = ms(24);

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// What comes of measurements: when, how long messages had waited, how long the worker had worked, all in ms.
    fn sheds(measurements: &[(u64, u64, u64)]) -> Vec<bool> {
        let mut overload = Overload::default();
        let observe = |(at, delay, worked): &(u64, u64, u64)| {
            let lag = Lag { delay: ms(*delay), worked: ms(*worked), ..Lag::default() };
            overload.observe(Mono(1) + ms(*at), lag, LIMIT);
            overload.is_shedding()
        };
        measurements.iter().map(observe).collect()
    }

    #[test]
    fn a_wait_that_grows_is_overload_until_it_is_short() {
        let measured = [(0, 10, 0), (10, 25, 10), (20, 32, 20), (30, 38, 30), (40, 20, 40), (50, 7, 50), (60, 6, 60)];
        assert_eq!(sheds(&measured), [false, false, false, true, true, true, false]);
    }

    #[test]
    fn a_burst_that_is_worked_off_is_none() {
        assert_eq!(sheds(&[(0, 300, 0), (25, 250, 25), (50, 200, 50), (75, 150, 75), (400, 5, 400)]), [false; 5]);
    }

    #[test]
    fn a_process_that_does_not_run_is_none() {
        assert_eq!(sheds(&[(0, 30, 0), (100, 130, 1), (200, 230, 2), (300, 330, 3)]), [false; 4]);
    }

    #[test]
    fn waits_within_the_limit_change_nothing() {
        assert_eq!(sheds(&[(0, 24, 0), (100, 24, 100), (200, 24, 200)]), [false; 3]);
        assert_eq!(sheds(&[(0, 25, 0), (10, 24, 10), (20, 25, 20), (30, 25, 30)]), [false; 4]);
    }

    #[test]
    fn a_wait_that_strangers_cause_is_none() {
        let sheds = |strangers: u64| {
            let mut overload = Overload::default();
            let observe = |step: u64| {
                let lag = Lag { delay: ms(30 + step), worked: ms(step), served: step, strangers: strangers * step };
                overload.observe(Mono(1) + ms(step), lag, LIMIT);
                overload.is_shedding()
            };
            (0..100).any(observe)
        };
        assert!(sheds(0) && sheds(STRANGERS) && !sheds(STRANGERS + 1));
    }

    #[test]
    fn who_is_served_is_taken_on_again_when_strangers_are_what_makes_messages_wait() {
        let mut overload = Overload::default();
        let mut lag = Lag { delay: ms(30), ..Lag::default() };
        for (step, strangers, is_shedding) in [(0, 0, false), (25, 0, true), (50, 0, true), (75, 999, false)] {
            (lag.worked, lag.served, lag.strangers) = (ms(step), step, strangers);
            overload.observe(Mono(1) + ms(step), lag, LIMIT);
            assert_eq!(overload.is_shedding(), is_shedding, "{step}");
        }
    }

    #[test]
    fn where_refusing_all_does_not_help_some_are_taken() {
        let mut overload = Overload::default();
        let mut taken = |at: u64, delay: Duration| {
            overload.observe(Mono(1) + ms(at), Lag { delay, worked: ms(at), ..Lag::default() }, LIMIT);
            (0..TAKEN * 10).filter(|_| !overload.refuses()).count()
        };
        let all = usize::try_from(TAKEN * 10).unwrap();
        let long = LIMIT * LONG;
        assert_eq!(taken(0, long + ms(1)), all, "nothing is known yet");
        assert_eq!(taken(30, long + ms(2)), 0, "nothing has been refused yet");
        assert_eq!(taken(60, long + ms(3)), 10);
        assert_eq!(taken(70, long + ms(2)), 10, "too soon to tell");
        assert_eq!(taken(90, long + ms(2)), 0, "it gets shorter");
        assert_eq!(taken(120, long + ms(5)), 10);
        assert_eq!(taken(130, long), 0, "it is not in vain any more");
        assert_eq!(taken(160, ms(1)), all);
    }

    #[test]
    fn without_a_limit_nothing_is_overload() {
        let mut overload = Overload::default();
        for at in 0..10 {
            let lag = Lag { delay: ms(500 + at), worked: ms(at * 100), ..Lag::default() };
            overload.observe(Mono(1) + ms(at * 100), lag, Duration::ZERO);
            assert!(!overload.is_shedding());
        }
    }

    #[test]
    fn who_offers_little_beside_others_is_light() {
        let (flood, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut sources = Sources::default();
        let mut now = Mono(5_000_000);
        for number in 0..20_000_u32 {
            now = now + Duration::from_micros(100);
            assert!(!sources.offer(flood, now));
            // The first that others offer may come before there is anything to compare it to.
            if number % 1_000 == 999 {
                assert!(sources.offer(other, now), "{number}");
            }
        }
    }

    #[test]
    fn equal_sources_are_refused_alike() {
        let mut sources = Sources::default();
        let addresses = (1..=4).map(|host| IpAddr::from([192, 0, 2, host])).collect::<Vec<_>>();
        let now = Mono(7_000_000);
        let light = (0..4_000).filter(|number| {
            let source = addresses.get(number % 4).copied().unwrap();
            sources.offer(source, now + Duration::from_millis(*number as u64))
        });
        assert!(light.count() < 40);
    }

    #[test]
    fn a_source_has_a_limit_of_its_own() {
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut sources = Sources::default();
        let now = Mono(1);
        let taken = (0..20).filter(|_| sources.admits(one, 10, now, true)).count();
        assert_eq!(taken, 10);
        assert!(sources.admits(other, 10, now, true));
        assert!(sources.admits(one, 10, now + ms(100), false));
        assert!(sources.admits(one, 10, now + ms(100), true));
        assert!(!sources.admits(one, 10, now + ms(100), true));
        assert!(sources.admits(one, 0, now, true));
    }
}
