//! The end of the process, in order or not, while events wait.

use std::collections::BTreeSet;

use super::receiver::{Act, Receiver};
use super::site::{Site, table};

#[test]
fn after_a_kill_everything_undelivered_comes() {
    let receiver = Receiver::start();
    receiver.go_down();
    let mut site = Site::start("kill", &table(&receiver, ""));
    let events = 4 * site.make_calls(150);
    site.wait_for_file(events);
    // Nothing was ever delivered: the sink is known to the journal all the same.
    site.kill();
    site.run();
    let events = 4 * site.make_calls(10);
    site.wait_for_file(events);
    site.kill();
    receiver.come_back();
    site.run();
    let events = 4 * site.make_calls(5);
    let got = receiver.wait_for_events(events);
    let lines: BTreeSet<_> = got.iter().map(|got| got.line.clone()).collect();
    assert_eq!(lines, site.wait_for_file(events));
    site.wait_for_metric("sipstamp_events_pending", 0);
    site.end(&[]);
}

#[test]
fn a_kill_between_deliveries_loses_nothing() {
    let receiver = Receiver::start();
    let mut site = Site::start("kills", &table(&receiver, ""));
    let mut events = 0;
    for round in 0..5 {
        receiver.rule(move |got| (got.line.len() % 5 == round).then_some(Act::Close));
        events = 4 * site.make_calls(20);
        // Some were delivered, some not, some were not confirmed yet.
        site.wait_for_file(events);
        site.kill();
        site.run();
    }
    receiver.take_all();
    receiver.wait_for_events(events);
    site.wait_for_metric("sipstamp_events_pending", 0);
    site.end(&[]);
}

#[test]
fn an_end_in_order_delivers_what_waits() {
    let receiver = Receiver::start();
    // One at a time: the end comes before they are through.
    let mut site = Site::start("end", &table(&receiver, "max_in_flight = 1"));
    let events = 4 * site.make_calls(30);
    site.end(&[]);
    let got = receiver.wait_for_events(events);
    assert_eq!(got.len(), events);
}

#[test]
fn an_end_in_order_is_not_held_up_by_a_dead_receiver_and_confirms_nothing() {
    let receiver = Receiver::start();
    receiver.rule(|_| Some(Act::Hang));
    let mut site = Site::start("end-dead", &table(&receiver, ""));
    let events = 4 * site.make_calls(10);
    site.wait_for_file(events);
    site.terminate();
    receiver.take_all();
    site.run();
    receiver.wait_for_events(events);
    site.wait_for_metric("sipstamp_events_pending", 0);
    site.end(&[]);
}
