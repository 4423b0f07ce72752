//! A process that has nothing to do does nothing.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::callee::{Answer, Callee};
use super::caller::Caller;
use super::site::{Site, addresses};
use super::wire::PATIENCE;
use crate::ports::wait_for;

/// A stretch in which nothing may wake it: longer than housekeeping usually waits.
const STRETCH: Duration = Duration::from_secs(6);

fn assert_nothing_wakes(site: &Site) {
    let (mut since, mut before) = (Instant::now(), site.sleeps());
    wait_for("a stretch without a wake-up", PATIENCE, || {
        let sleeps = site.sleeps();
        if sleeps != before {
            (since, before) = (Instant::now(), sleeps);
        }
        Ok((since.elapsed() >= STRETCH).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}", site.sleeps()));
}

#[test]
fn an_idle_process_is_not_woken() {
    let callee = Callee::udp([127, 0, 0, 20].into(), Answer::Ringing);
    let site = Site::start("idle", 2, "udp", &addresses(&[&callee]));
    assert_nothing_wakes(&site);
    // With calls that ring nothing is due for half a minute.
    let mut caller = Caller::new(site.udp(site.sip()), "call");
    caller.invite(0..5);
    caller.await_ringing(5);
    assert_nothing_wakes(&site);
    site.end_at_once();
}

/// A debugger, a freezer and a shell's job control interrupt what a process waits for.
#[test]
fn a_wait_that_is_interrupted_again_and_again_ends_all_the_same() {
    let silent = UdpSocket::bind(("127.0.0.20", 0)).unwrap();
    silent.set_nonblocking(true).unwrap();
    let site = Site::start("interrupted", 1, "udp", &[silent.local_addr().unwrap()]);
    Caller::new(site.udp(site.sip()), "call").invite(0..1);
    let mut invites = 0;
    // Far more often than Timer A would fire.
    wait_for("the INVITE to be sent again", PATIENCE, || {
        site.signal("-STOP");
        wait_for("the process to stop", PATIENCE, || Ok(site.is_stopped().then_some(())))?;
        site.signal("-CONT");
        while silent.recv(&mut [0; 2_048]).is_ok() {
            invites += 1;
        }
        Ok((invites > 1).then_some(()))
    })
    .unwrap();
    site.end_at_once();
}
