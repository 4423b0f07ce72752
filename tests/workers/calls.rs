//! Many calls on several workers, whatever socket their messages come by.

use std::net::{Ipv4Addr, UdpSocket};

use super::callee::{Answer, Callee};
use super::caller::Caller;
use super::site::{Site, addresses};
use super::wire::{PATIENCE, Wire};
use crate::ports::DIALER;

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

/// What is too large for one worker to take is another one's call all the same: it is known when it comes again.
#[test]
fn a_call_that_is_refused_for_its_size_is_with_its_worker() {
    let callee = Callee::udp([127, 0, 0, 20].into(), Answer::Ok);
    let site = Site::start("large", 3, "udp", &addresses(&[&callee]));
    let socket = UdpSocket::bind((DIALER, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let via = socket.local_addr().unwrap();
    for number in 0..20 {
        // The second one is found by the kernel, which sees no Call-ID behind so much.
        for length in [17_000, 10] {
            let request = |method: &str, to: &str, length: usize| {
                let padding = "x".repeat(length);
                format!(
                    "{method} sip:+15550199@example.net SIP/2.0\r\nVia: SIP/2.0/UDP {via};branch=z9hG4bK{number}\r\nX: {padding}\r\n\
                     Max-Forwards: 70\r\nFrom: <sip:a@x>;tag=1\r\n{to}\r\nCall-ID: large-{number}\r\nCSeq: 1 {method}\r\n\
                     Contact: <sip:a@{via}>\r\nContent-Length: 0\r\n\r\n",
                )
            };
            socket.send_to(request("INVITE", "To: <sip:b@x>", length).as_bytes(), site.sip()).unwrap();
            let mut answer = [0; 2_048];
            while !answer.starts_with(b"SIP/2.0 513") {
                socket.recv(&mut answer).unwrap();
            }
            let answer = String::from_utf8_lossy(&answer);
            let to = answer.lines().find(|line| line.starts_with("To: ")).unwrap();
            if length < 100 {
                socket.send_to(request("ACK", to, length).as_bytes(), site.sip()).unwrap();
            }
        }
    }
    let events = site.events(20);
    assert!(events.iter().all(|event| event["data"]["sip_code"] == 513), "{events:?}");
    assert_eq!(site.metric("sipstamp_calls_started_total", &[]), 20);
    site.end();
}
