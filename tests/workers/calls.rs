//! Many calls on several workers, whatever socket their messages come by.

use std::net::Ipv4Addr;

use super::callee::{Answer, Callee};
use super::caller::Caller;
use super::site::{Site, addresses};
use super::wire::Wire;

/// Calls of each dialer; four of them at once.
const CALLS: usize = 60;
const DIALERS: usize = 4;

/// Each dialer makes its calls; all of them are answered, and each has ended as it must.
fn assert_all_are_accounted_for(site: Site, callees: &[&Callee], wires: Vec<Wire>) {
    let before = site.work();
    std::thread::scope(|scope| {
        for (number, wire) in wires.into_iter().enumerate() {
            scope.spawn(move || Caller::new(wire, &format!("dialer{number}")).make_calls(CALLS, 15, 5));
        }
    });
    let after = site.work();
    let has_worked = |thread: &&String| thread.starts_with("sip-") && after[*thread] > before[*thread] + 2_000_000;
    assert_eq!(before.keys().filter(has_worked).count(), 3, "a worker has had nothing to do: {after:?}");
    let events = site.events(DIALERS * CALLS);
    for event in &events {
        assert_eq!((&event["data"]["outcome"], &event["data"]["ended_by"]), (&"Normal".into(), &"caller".into()));
    }
    for callee in callees {
        assert_eq!(*callee.disorder.lock().unwrap(), Vec::<String>::new(), "INFOs have overtaken each other");
    }
    assert_eq!(site.metric("sipstamp_sip_rejected_total", &[]), 0);
    site.end();
}

#[test]
fn over_udp_each_call_is_accounted_once_and_its_order_is_kept() {
    let (one, other) =
        (Callee::udp([127, 0, 0, 20].into(), Answer::Ok), Callee::udp([127, 0, 0, 21].into(), Answer::Ok));
    let site = Site::start("udp", 3, "udp", &addresses(&[&one, &other]));
    let wires = [site.sip(), site.other_sip(), site.sip(), site.other_sip()].map(|to| site.udp(to)).into();
    assert_all_are_accounted_for(site, &[&one, &other], wires);
}

#[test]
fn over_tcp_each_call_is_accounted_once_and_its_order_is_kept() {
    let (one, other) =
        (Callee::tcp([127, 0, 0, 20].into(), Answer::Ok), Callee::tcp([127, 0, 0, 21].into(), Answer::Ok));
    let site = Site::start("tcp", 3, "tcp", &addresses(&[&one, &other]));
    let wires = (0..DIALERS).map(|_| site.tcp()).collect();
    assert_all_are_accounted_for(site, &[&one, &other], wires);
}

#[test]
fn from_udp_to_tcp_each_call_is_accounted_once() {
    let callee = Callee::tcp(Ipv4Addr::new(127, 0, 0, 20), Answer::Ok);
    let site = Site::start("mixed", 3, "tcp", &addresses(&[&callee]));
    let wires = (0..DIALERS).map(|_| site.udp(site.sip())).collect();
    assert_all_are_accounted_for(site, &[&callee], wires);
}
