//! Nothing is allocated for a message while calls come and go at an even rate: not to read it, to decide, to write what
//! follows, to tell of the call, nor to receive and to send datagrams.

#[path = "allocations/counting.rs"]
mod counting;
#[path = "../benches/core/exchange.rs"]
#[expect(dead_code, reason = "shared with the benchmarks, which use all of it")]
mod exchange;
#[path = "../benches/load/generator/mod.rs"]
#[expect(dead_code, reason = "the bench chooses profiles by name; these tests do not")]
mod generator;
#[path = "../benches/core/peers.rs"]
mod peers;
#[path = "../benches/core/policy.rs"]
mod policy;
#[path = "sipp/ports.rs"]
#[expect(dead_code, reason = "shared with the SIPp scenarios, which use the rest")]
mod ports;
#[path = "allocations/shell.rs"]
mod shell;

use counting::allocations_of;
use exchange::{Exchange, Kind, Probe, Span};
use policy::{DIALER, SERVER};

/// Counts what is allocated in the core, not by its peers, and where it was first.
#[derive(Debug, Default, PartialEq)]
struct Counter {
    allocations: u64,
    first: Option<Span>,
}

impl Probe for Counter {
    fn run<R>(&mut self, span: Span, work: impl FnOnce() -> R) -> R {
        let (done, count) = allocations_of(work);
        if count > 0 {
            self.allocations += count;
            self.first.get_or_insert(span);
        }
        done
    }
}

#[test]
fn calls_at_an_even_rate_allocate_nothing() {
    let mut exchange = Exchange::new(false);
    let mut warm_up = Counter::default();
    // Until the transactions of as many calls end as begin: for 32 s, at about 100 in a second.
    for _ in 0..6_000 {
        exchange.call(&mut warm_up);
    }
    assert!(warm_up.allocations > 0, "the first call has to allocate: this test counts nothing");
    let mut counter = Counter::default();
    for _ in 0..2_000 {
        exchange.call(&mut counter);
    }
    assert_eq!(counter, Counter::default());
}

#[test]
fn refused_calls_at_an_even_rate_allocate_nothing() {
    let mut exchange = Exchange::new(false);
    let mut warm_up = Counter::default();
    for _ in 0..12_000 {
        refuse(&mut exchange, &mut warm_up);
    }
    let mut counter = Counter::default();
    for _ in 0..2_000 {
        refuse(&mut exchange, &mut counter);
    }
    assert_eq!(counter, Counter::default());
    assert_eq!(exchange.events(), 14_000);
}

/// INVITE, 486, and the ACK of both sides.
fn refuse(exchange: &mut Exchange, probe: &mut impl Probe) {
    let invite = exchange.caller().invite();
    let [_, forwarded] = exchange.deliver(probe, Kind::Invite, DIALER, invite.clone());
    let [ack, busy] = exchange.deliver(probe, Kind::Answer, SERVER, peers::plain(&forwarded, "486 Busy Here"));
    assert!(ack.starts_with("ACK ") && busy.starts_with("SIP/2.0 486 "), "{ack}{busy}");
    let to = format!("To: {}", peers::value(&busy, "To"));
    let untagged = format!("To: {}", peers::value(&invite, "To"));
    let (head, _) = invite.split_once("Content-Type").expect("it has a body");
    let head =
        head.replacen("INVITE sip", "ACK sip", 1).replace("CSeq: 1 INVITE", "CSeq: 1 ACK").replace(&untagged, &to);
    let [] = exchange.deliver(probe, Kind::Ack, DIALER, format!("{head}Content-Length: 0\r\n\r\n"));
}

#[test]
fn an_allocation_is_seen() {
    let (text, count) = allocations_of(|| String::from("x"));
    assert_eq!((text.as_str(), count), ("x", 1));
}
