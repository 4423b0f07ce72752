mod messages;
mod mutations;
mod readings;
mod reasons;

use std::collections::BTreeMap;
use std::sync::Mutex;

use mutations::{SplitMix, mutate};
use readings::{Difference, compare};
use reasons::REASONS;

/// How many mutated messages are read.
const MUTATIONS: u64 = 100_000;
/// How many unexplained differences of a thread are shown.
const MOST_SHOWN: usize = 10;
const SEED: u64 = 0x5157_a5e5;
/// They are shared out: each thread mutates by numbers of its own.
const THREADS: u64 = 4;

/// How often each reason explained a difference, and what none of them explains.
#[derive(Default)]
struct Tally {
    explained: BTreeMap<&'static str, usize>,
    unexplained: Vec<String>,
    agreed: usize,
}

impl Tally {
    fn read(&mut self, name: &str, bytes: &[u8]) {
        let differences = compare(bytes);
        self.agreed += usize::from(differences.is_empty());
        for difference in differences {
            match REASONS.iter().find(|reason| (reason.holds)(bytes, &difference)) {
                Some(reason) => *self.explained.entry(reason.name).or_default() += 1,
                None => self.note(name, bytes, &difference),
            }
        }
    }

    fn note(&mut self, name: &str, bytes: &[u8], difference: &Difference) {
        if self.unexplained.len() < MOST_SHOWN {
            self.unexplained.push(format!("{name}: {difference:?}\n{}\n", bytes.escape_ascii()));
        }
    }

    fn add(&mut self, other: Tally) {
        for (name, count) in other.explained {
            *self.explained.entry(name).or_default() += count;
        }
        self.unexplained.extend(other.unexplained);
        self.agreed += other.agreed;
    }
}

#[test]
fn every_disagreement_with_rsip_about_our_messages_is_explained() {
    let tally = explain(&messages::own());
    // No reason is there for nothing.
    let idle = REASONS.iter().map(|reason| reason.name).filter(|name| !tally.explained.contains_key(name));
    assert_eq!(idle.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn every_disagreement_with_rsip_about_the_corpora_is_explained() {
    let messages = messages::of_the_corpora();
    if !messages.is_empty() {
        explain(&messages);
    }
}

/// Reads all of them and mutations of them; what is not explained fails.
fn explain(seeds: &[(String, Vec<u8>)]) -> Tally {
    readings::keep_panics_quiet();
    let whole = Mutex::new(Tally::default());
    for (name, bytes) in seeds {
        whole.lock().unwrap().read(name, bytes);
    }
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let whole = &whole;
            scope.spawn(move || {
                let mut tally = Tally::default();
                for number in (thread..MUTATIONS).step_by(THREADS as usize) {
                    let mut random = SplitMix(SEED ^ (number << 20));
                    let (name, seed) = random.pick(seeds);
                    let (_, other) = random.pick(seeds);
                    let bytes = mutate(&mut random, seed, other);
                    tally.read(&format!("{name}, mutation {number}"), &bytes);
                }
                whole.lock().unwrap().add(tally);
            });
        }
    });
    let tally = whole.into_inner().unwrap();
    eprintln!("{} messages are read alike; {:#?}", tally.agreed, tally.explained);
    assert!(tally.unexplained.is_empty(), "{}", tally.unexplained.join("\n"));
    // The comparison is one: most messages are read by both.
    assert!(tally.agreed > 1_000, "{}", tally.agreed);
    tally
}
