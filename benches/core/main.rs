//! Whole calls through the pure core, for instruction counts: `.ci/instructions` runs this under callgrind.
//!
//! Every piece of work is done inside a marker, a function that is never inlined; what the peers around the core cost
//! lies outside of them. Run by hand it only shows that the calls go through. `JOURNAL=1` has what they leave in a journal
//! put together too, `RESTORE=1` times how calls are restored, `REFUSED=1` how calls are refused.

mod exchange;
mod markers;
mod peers;
mod policy;
mod refuse;
mod restore;

use exchange::Exchange;
use markers::{Marked, Unmarked};

/// Calls before the counted ones: more than are alive in some transaction at any time, so that what ends is as much as
/// what begins.
const WARM_UP: u32 = 3_500;
/// Counted calls, where the environment names no other number.
const CALLS: u32 = 500;

fn main() {
    if std::env::var_os("RESTORE").is_some() {
        return restore::measure_all();
    }
    if std::env::var_os("REFUSED").is_some() {
        return refuse::measure();
    }
    let calls = std::env::var("CALLS").map_or(CALLS, |calls| calls.parse().expect("CALLS is a number"));
    let mut exchange = Exchange::new(std::env::var_os("JOURNAL").is_some());
    for _ in 0..WARM_UP {
        exchange.call(&mut Unmarked);
    }
    for _ in 0..calls {
        exchange.call(&mut Marked);
    }
    assert_eq!(exchange.events(), u64::from(WARM_UP + calls), "one event for each call");
    println!("{calls} calls");
    if let Some(journal) = exchange.journal() {
        let per_call = |sum: u64| sum as f64 / f64::from(WARM_UP + calls);
        println!("journal: {:.1} records, {:.0} bytes per call", per_call(journal.records), per_call(journal.bytes));
    }
}
