//! States of a journal: whatever they hold, the core takes or leaves them, and works.

use std::sync::Arc;

use bytes::Bytes;
use sipstamp::endpoint::{Endpoint, Input, Output, Seed, Stored};
use sipstamp::sip::Message;
use sipstamp::time::{Mono, Now, Wall};

use crate::policy::{PEERS, policy};
use crate::world::{World, flow_of};
use crate::{LIMITS, Reader, endpoint, messages, peak};

/// Bytes before each state: what it is of, its key, its length.
const HEAD: usize = 1 + 16 + 2;
/// As far as time goes, and memory.
const DEADLINES: usize = 1_000;
const MOST_AT_ONCE: usize = 500;
const MEMORY: usize = 8 * 1024 * 1024;

pub fn run(data: &[u8]) {
    let mut reader = Reader(data);
    let bits = reader.two() & !0x3000;
    let mut stored = Stored::default();
    while reader.0.len() > HEAD {
        let of = reader.byte();
        let key = u128::from_le_bytes(reader.bytes(16).try_into().unwrap());
        let length = reader.two();
        let state = reader.bytes(length.into()).into();
        match of % 3 {
            0 => stored.calls.push((key, state)),
            1 => stored.servers.push((key, state)),
            _ => stored.clients.push((key, state)),
        }
    }
    let now = Now { mono: Mono(1_000_000_000), wall: Wall(1_795_428_000_000_000) };
    let used = peak::of(|| {
        let mut endpoint = Endpoint::new(now, Seed { key: [3; 16] }, Arc::new(policy(bits)));
        endpoint.keep_records();
        let restored = endpoint.restore(now, &stored);
        assert!(restored.calls.iter().sum::<usize>() + restored.ended + restored.unreadable >= stored.calls.len());
        works(&mut endpoint, now);
    });
    assert!(used < MEMORY + 64 * data.len(), "{used} bytes for {}", data.len());
    for part in stored.split(3, |call_id| call_id.len() % 3) {
        drop(part);
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (bits, steps) in endpoint::scripts().into_iter().filter(|(bits, _)| bits & 0x8000 == 0) {
        let mut world = World::new(bits);
        for step in steps {
            world.take(step, &mut Reader(&[]));
            let Stored { calls, servers, clients } = world.journal.as_ref().unwrap().stored();
            let mut seed = bits.to_le_bytes().to_vec();
            for (of, states) in [calls, servers, clients].iter().enumerate() {
                for (key, state) in states {
                    let length = u16::try_from(state.len()).unwrap();
                    seed.push(of as u8);
                    seed.extend_from_slice(&key.to_le_bytes());
                    seed.extend_from_slice(&length.to_le_bytes());
                    seed.extend_from_slice(state);
                }
            }
            seeds.push(seed);
        }
    }
    seeds.dedup();
    seeds
}

/// A call goes through, time goes on, the books balance.
fn works(endpoint: &mut Endpoint, mut now: Now) {
    drain(endpoint);
    let invite = Bytes::from(messages::all().swap_remove(0));
    let message = Message::parse(invite, &LIMITS).unwrap();
    endpoint.handle(now, Input::Message { flow: flow_of(0, false), message });
    let (sent, mut deadline) = drain(endpoint);
    assert!(sent.iter().any(|to| PEERS[2..5].contains(&to.as_str())), "the INVITE went nowhere");
    let mut at_once = 0;
    for _ in 0..DEADLINES {
        let Some(due) = deadline else { break };
        at_once = if due <= now.mono { at_once + 1 } else { 0 };
        assert!(at_once < MOST_AT_ONCE, "time stands still");
        let mono = due.max(now.mono);
        now = Now { mono, wall: now.wall_at(mono) };
        endpoint.handle(now, Input::Timeout);
        deadline = drain(endpoint).1;
    }
    endpoint.samples(&mut |sample| {
        assert!(sample.name != "sipstamp_accounting_imbalance" || sample.value == 0);
    });
}

/// Whom something was sent to, and when to come back.
fn drain(endpoint: &mut Endpoint) -> (Vec<String>, Option<Mono>) {
    let mut sent = Vec::new();
    loop {
        match endpoint.poll_output() {
            Output::Transmit(transmit) => sent.push(transmit.hop.remote.to_string()),
            Output::Event(event) => drop(event.data().unwrap()),
            Output::Idle { deadline } => return (sent, deadline),
            Output::Resolve { .. } | Output::Record(_) | Output::Notice(_) => {}
        }
    }
}
