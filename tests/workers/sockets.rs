//! The sockets: connected ones, errors that come by ICMP, drops, and who else may have the port.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use super::callee::{Answer, Callee};
use super::caller::Caller;
use super::site::{Site, addresses};
use super::wire::PATIENCE;
use crate::ports::{DIALER, wait_for};

/// Nobody's call: the kernel chooses a worker by the addresses, and the same one each time.
const LONG: [u8; 1_000] = [b'x'; 1_000];

/// An address at which nobody listens.
fn nobody(ip: Ipv4Addr) -> SocketAddr {
    UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap()
}

#[test]
fn a_socket_is_connected_to_each_server_that_is_configured() {
    let one = Callee::udp([127, 0, 0, 20].into(), Answer::Ok);
    let other = Callee::udp([127, 0, 0, 21].into(), Answer::Ok);
    let third = Callee::udp([127, 0, 0, 23].into(), Answer::Ok);
    let site = Site::start("connected", 1, "udp", &addresses(&[&one, &third]));
    assert!(site.connected_to(one.address) && site.connected_to(third.address));
    assert!(!site.connected_to(other.address));
    Caller::new(site.udp(site.sip()), "before").make_calls(20, 5, 1);
    site.serve("udp", &addresses(&[&third, &other]));
    assert!(site.connected_to(third.address));
    assert!(site.connected_to(other.address));
    assert!(!site.connected_to(one.address));
    Caller::new(site.udp(site.sip()), "after").make_calls(20, 5, 1);
    site.events(40);
    site.end();
}

#[test]
fn a_wildcard_listener_answers_from_where_it_was_asked() {
    let callee = Callee::udp([127, 0, 0, 20].into(), Answer::Ok);
    for workers in [1, 2] {
        let name = format!("wildcard-{workers}");
        let site = Site::start_on(&[Ipv4Addr::UNSPECIFIED], &name, workers, "udp", &addresses(&[&callee]));
        // With several each reads its own calls' datagrams.
        assert_eq!(site.connected_to(callee.address), workers == 1);
        for (name, to) in [("one", site.sip()), ("other", site.other_sip())] {
            Caller::new(site.udp(to), &format!("{name}{workers}")).make_calls(20, 5, 2);
        }
        site.events(40);
        assert_eq!(site.metric("sipstamp_worker_handovers_total", &[]), 0);
        site.end();
    }
}

#[test]
fn a_second_process_on_the_same_port_is_refused() {
    let callee = Callee::udp([127, 0, 0, 20].into(), Answer::Ok);
    for workers in [1, 2] {
        let site = Site::start(&format!("second-{workers}"), workers, "udp", &addresses(&[&callee]));
        let second = site.start_a_second_one();
        let told = String::from_utf8_lossy(&second.stderr).into_owned();
        assert_eq!(second.status.code(), Some(64), "{told}");
        assert!(told.contains("listen.udp[0]") && told.contains("another process listens there"), "{told}");
        site.end();
    }
}

#[test]
fn a_server_that_is_not_there_costs_no_other_call_anything() {
    let dead = nobody([127, 0, 0, 22].into());
    let alive = Callee::udp([127, 0, 0, 20].into(), Answer::Ok);
    for workers in [1, 3] {
        let site = Site::start(&format!("dead-{workers}"), workers, "udp", &[dead, alive.address]);
        assert_eq!(site.connected_to(dead), workers == 1);
        let mut caller = Caller::new(site.udp(site.sip()), &format!("call{workers}"));
        caller.make_calls(60, 20, 3);
        let events = site.events(60);
        assert!(events.iter().all(|event| event["data"]["outcome"] == "Normal"), "{events:?}");
        assert!(site.metric("sipstamp_attempts_total", &[("result", "transport_error")]) > 0);
        assert_eq!(site.metric("sipstamp_sip_retransmissions_total", &[("kind", "request_sent")]), 0);
        site.end();
    }
}

#[test]
fn datagrams_that_the_kernel_drops_are_counted() {
    let callee = Callee::udp([127, 0, 0, 20].into(), Answer::Ok);
    let site = Site::start("drops", 2, "udp", &addresses(&[&callee]));
    let dropped = || site.metric("sipstamp_transport_dropped_total", &[("reason", "udp_receive_buffer")]);
    assert_eq!(dropped(), 0);
    let socket = UdpSocket::bind((DIALER, 0)).unwrap();
    site.signal("-STOP");
    for _ in 0..20_000 {
        // More than any buffer holds that it may have.
        socket.send_to(&LONG, site.sip()).unwrap();
    }
    site.signal("-CONT");
    wait_for("drops to be counted", PATIENCE, || {
        // The kernel tells with the next datagram that comes to the same worker.
        socket.send_to(&LONG, site.sip()).unwrap();
        Ok((dropped() > 0).then_some(()))
    })
    .unwrap();
    Caller::new(site.udp(site.sip()), "after").make_calls(10, 5, 1);
    site.events(10);
}
