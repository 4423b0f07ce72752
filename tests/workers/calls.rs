//! Many calls on several workers, whatever socket their messages come by.

use std::net::Ipv4Addr;

use super::callee::{Answer, Callee};
use super::caller::Caller;
use super::site::{Site, addresses};
use super::wire::Wire;

/// Calls of each dialer; four of them at once.
const CALLS: usize = 60;
const DIALERS: usize = 4;

/// How dialers write the name of the header Call-ID: as the kernel knows it, and as it does not.
const USUAL: &str = "Call-ID";
const UNUSUAL: &str = "CALL-ID";

/// Each dialer makes its calls; all of them are answered, and each has ended as it must. Returns how many messages
/// a worker has read for another.
fn assert_all_are_accounted_for(site: Site, callees: &[&Callee], wires: Vec<Wire>, call_id: &'static str) -> u64 {
    let before = site.work();
    std::thread::scope(|scope| {
        for (number, wire) in wires.into_iter().enumerate() {
            let caller = Caller::new(wire, &format!("dialer{number}")).spelling(call_id);
            scope.spawn(move || { caller }.make_calls(CALLS, 15, 5));
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
    let handed_over = site.metric("sipstamp_worker_handovers_total", &[]);
    site.end();
    handed_over
}

#[test]
fn over_udp_each_call_is_accounted_once_and_its_order_is_kept() {
    let (one, other) =
        (Callee::udp([127, 0, 0, 20].into(), Answer::Ok), Callee::udp([127, 0, 0, 21].into(), Answer::Ok));
    let site = Site::start("udp", 3, "udp", &addresses(&[&one, &other]));
    let wires = [site.sip(), site.other_sip(), site.sip(), site.other_sip()].map(|to| site.udp(to)).into();
    let handed_over = assert_all_are_accounted_for(site, &[&one, &other], wires, USUAL);
    assert_eq!(handed_over, 0, "the kernel has not brought each datagram to its worker");
}

#[test]
fn over_udp_what_the_kernel_does_not_understand_is_handed_over() {
    let callee = Callee::udp([127, 0, 0, 20].into(), Answer::Ok);
    let site = Site::start("unusual", 3, "udp", &addresses(&[&callee]));
    let wires = (0..DIALERS).map(|_| site.udp(site.sip())).collect();
    assert!(assert_all_are_accounted_for(site, &[&callee], wires, UNUSUAL) > 0);
}

#[test]
fn over_tcp_each_call_is_accounted_once_and_its_order_is_kept() {
    let (one, other) =
        (Callee::tcp([127, 0, 0, 20].into(), Answer::Ok), Callee::tcp([127, 0, 0, 21].into(), Answer::Ok));
    let site = Site::start("tcp", 3, "tcp", &addresses(&[&one, &other]));
    let wires = (0..DIALERS).map(|_| site.tcp()).collect();
    assert!(assert_all_are_accounted_for(site, &[&one, &other], wires, USUAL) > 0);
}

#[test]
fn from_udp_to_tcp_each_call_is_accounted_once() {
    let callee = Callee::tcp(Ipv4Addr::new(127, 0, 0, 20), Answer::Ok);
    let site = Site::start("mixed", 3, "tcp", &addresses(&[&callee]));
    let wires = (0..DIALERS).map(|_| site.udp(site.sip())).collect();
    assert!(assert_all_are_accounted_for(site, &[&callee], wires, USUAL) > 0);
}
