//! One configured source that sends INVITEs as fast as it can, and never an ACK.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::target::{FLOODER, PBX, Target, alone, call_id, drain, receive, socket};
use crate::wire::{Message, PATIENCE};

/// How long it goes on, and how much there is at most.
const TIME: Duration = Duration::from_secs(4);
const MOST: u32 = 200_000;
/// In MiB, of a debug build. Measured: 38 to 55.
const MEMORY: u64 = 160;

/// A server that is busy, whoever calls.
fn busy_server() -> SocketAddr {
    let socket = socket(PBX);
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        loop {
            let Some((message, from)) = receive(&socket, PATIENCE) else { continue };
            if message.code().is_none() && message.method() == "INVITE" {
                socket.send_to(message.response("486 Busy Here", address).as_bytes(), from).unwrap();
            }
        }
    });
    address
}

fn invite(number: u32, local: SocketAddr) -> String {
    format!(
        "INVITE sip:+15550199@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bKf{number}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:1@example.org>;tag=f{number}\r\nTo: <sip:+15550199@example.net>\r\n\
         Call-ID: flood-{number}\r\nCSeq: 1 INVITE\r\nContact: <sip:1@{local}>\r\nContent-Length: 0\r\n\r\n"
    )
}

/// Takes final responses, by the call.
fn take(answers: &mut BTreeMap<String, u16>, message: &Message) {
    let code = message.code().expect("a response");
    if code < 200 {
        return;
    }
    let is_complete = code != 503 || !message.value("Retry-After").is_empty();
    assert!(is_complete, "a refusal says when to come again: {message:?}");
    let before = answers.insert(message.call_id().to_owned(), code);
    assert!(before.is_none_or(|before| before == code), "{before:?} and {code} for one INVITE");
}

/// Sends for a while. Returns the final responses that came meanwhile.
fn flood(socket: &UdpSocket, to: SocketAddr) -> BTreeMap<String, u16> {
    let is_over = AtomicBool::new(false);
    let local = socket.local_addr().unwrap();
    std::thread::scope(|scope| {
        let answers = scope.spawn(|| {
            let mut answers = BTreeMap::new();
            while !is_over.load(Ordering::Relaxed) {
                if let Some((message, _)) = receive(socket, Duration::from_millis(50)) {
                    take(&mut answers, &message);
                }
            }
            answers
        });
        let begun = Instant::now();
        for number in (0..MOST).take_while(|_| begun.elapsed() < TIME) {
            // What the kernel does not take is not there.
            drop(socket.send_to(invite(number, local).as_bytes(), to));
        }
        is_over.store(true, Ordering::Relaxed);
        answers.join().unwrap()
    })
}

/// Floods, and looks at what came of it. Returns how many calls got each code.
fn attack(name: &str, more: &str) -> BTreeMap<u16, usize> {
    let _alone = alone();
    let target = Target::start(name, busy_server(), more);
    let socket = socket(FLOODER);
    let mut answers = flood(&socket, target.site.sip());
    // What is still there is read before what follows.
    target.beside.await_calls(2);
    drain(&socket).iter().for_each(|message| take(&mut answers, message));
    assert_eq!(target.site.metric("sipstamp_accounting_imbalance", &[]), 0);
    let events = target.end(MEMORY);
    let called = events.iter().map(call_id).collect::<BTreeSet<_>>();
    assert_eq!(called.len(), events.len(), "a call is there twice");
    drain(&socket).iter().for_each(|message| take(&mut answers, message));
    assert_eq!(called, answers.keys().cloned().collect(), "each call that began has one answer");
    let code = |event: &serde_json::Value| event["data"]["sip_code"].as_u64().and_then(|code| u16::try_from(code).ok());
    for event in &events {
        assert_eq!(code(event), answers.get(&call_id(event)).copied(), "{event}");
    }
    let mut codes = BTreeMap::new();
    answers.values().for_each(|code| *codes.entry(*code).or_default() += 1);
    println!("{codes:?}");
    codes
}

#[test]
fn a_source_that_floods_costs_others_no_call() {
    let codes = attack("flood", "");
    assert!(codes.keys().all(|code| [486, 503].contains(code)), "{codes:?}");
    assert!(codes.contains_key(&486) && codes.contains_key(&503), "{codes:?}");
}

#[test]
fn a_source_that_floods_has_as_many_calls_as_its_own_limit_says() {
    const LIMIT: usize = 50;
    let begun = Instant::now();
    let codes = attack("own-limit", &format!("[limits]\ncalls_per_second_per_source = {LIMIT}\n"));
    let allowance = LIMIT * (begun.elapsed().as_secs() as usize + 2);
    assert!((1..=allowance).contains(&codes[&486]), "{codes:?}");
}
