//! What a call costs that a limit refuses, beside one that is answered: the core's time for both, by turns. Prints a ratio;
//! nothing fails by a time.

use std::time::{Duration, Instant};

use super::exchange::{Exchange, Probe, Span};
use super::policy;

/// Calls of each kind in a round.
const CALLS: u32 = 5_000;
const ROUNDS: u32 = 5;

/// Adds up what the pieces of work take.
#[derive(Default)]
struct Timed(Duration);

impl Probe for Timed {
    fn run<R>(&mut self, _: Span, work: impl FnOnce() -> R) -> R {
        let began = Instant::now();
        let result = work();
        self.0 += began.elapsed();
        result
    }
}

pub fn measure() {
    let mut refusing = policy::policy();
    refusing.limits.calls = 0;
    let (mut whole, mut refused) = (Exchange::new(false), Exchange::under(refusing, false));
    let (mut of_whole, mut of_refused) = (Timed::default(), Timed::default());
    for _ in 0..ROUNDS {
        (0..CALLS).for_each(|_| whole.call(&mut of_whole));
        (0..CALLS).for_each(|_| refused.refused(&mut of_refused));
    }
    let per_call = |timed: &Timed| timed.0.as_secs_f64() * 1e6 / f64::from(ROUNDS * CALLS);
    let (whole, refused) = (per_call(&of_whole), per_call(&of_refused));
    println!("answered: {whole:.1} µs, refused: {refused:.1} µs: {:.2} of it", refused / whole);
}
