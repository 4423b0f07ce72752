//! How long it takes to restore open calls: reading the journal, putting them back. Prints milliseconds; nothing fails by
//! a time.

use std::sync::Arc;
use std::time::Instant;

use sipstamp::endpoint::{Endpoint, Output, Seed};
use sipstamp::journal::Journal;

use super::exchange::Exchange;
use super::markers::Unmarked;
use super::policy;

pub fn measure_all() {
    println!("{:>8} {:10} {:>12} {:>12} {:>14}", "calls", "state", "read, ms", "restore, ms", "bytes per call");
    for calls in [10_000, 100_000] {
        for (state, is_answered) in [("ringing", false), ("answered", true)] {
            measure(calls, state, is_answered);
        }
    }
}

fn measure(calls: usize, state: &str, is_answered: bool) {
    let directory = std::env::temp_dir().join(format!("sipstamp-restore-{}", std::process::id()));
    let (mut journal, _) = Journal::open(&directory, None, &[]).expect("a journal");
    let mut exchange = Exchange::new(true);
    exchange.write_to(journal.writer().expect("a segment"));
    let running = journal.start(|_| {}).expect("a thread");
    for _ in 0..calls {
        exchange.open(&mut Unmarked, is_answered);
    }
    let now = exchange.now();
    drop(exchange);
    running.close();
    let size = std::fs::read_dir(&directory).expect("a directory").map(|file| file.expect("a file").metadata());
    let size = size.map(|metadata| metadata.expect("metadata").len()).sum::<u64>();
    let began = Instant::now();
    let (_journal, found) = Journal::open(&directory, None, &[]).expect("the journal again");
    let stored = found.into_stored();
    let read = began.elapsed();
    let mut endpoint = Endpoint::new(now, Seed { key: [7; 16] }, Arc::new(policy::policy()));
    let began = Instant::now();
    endpoint.keep_records();
    let restored = endpoint.restore(now, &stored);
    while !matches!(endpoint.poll_output(), Output::Idle { .. }) {}
    let put_back = began.elapsed();
    assert_eq!(restored.calls.iter().sum::<usize>(), calls, "{restored:?}");
    println!(
        "{calls:8} {state:10} {:12.0} {:12.0} {:14.0}",
        read.as_secs_f64() * 1e3,
        put_back.as_secs_f64() * 1e3,
        size as f64 / calls as f64
    );
    drop(std::fs::remove_dir_all(&directory));
}
