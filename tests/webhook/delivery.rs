//! What a receiver may answer, and that everything comes all the same.

use std::collections::{BTreeMap, BTreeSet};

use super::receiver::{Act, OK, Receiver, taken};
use super::site::{Site, table, table_named};

#[test]
fn every_event_is_delivered_once_as_it_stands_in_the_file() {
    let receiver = Receiver::start();
    let mut site = Site::start("once", &table(&receiver, "max_in_flight = 3"));
    let events = 4 * site.make_calls(30);
    let got = receiver.wait_for_events(events);
    let lines: BTreeSet<_> = got.iter().map(|got| got.line.clone()).collect();
    assert_eq!(lines, site.wait_for_file(events));
    site.wait_for_metric("sipstamp_events_delivered_total", events as u64);
    assert_eq!(site.metric("sipstamp_events_failed_total"), 0);
    assert_eq!(site.metric("sipstamp_events_pending"), 0);
    assert_eq!(got.len(), events, "one came twice");
    assert!((1..=3).contains(&receiver.most_at_once()));
    let connections: BTreeSet<_> = got.iter().map(|got| got.connection).collect();
    assert!(connections.len() <= 6, "connections are used again: {}", connections.len());
    site.end(&[]);
}

#[test]
fn several_requests_are_under_way_and_each_call_keeps_its_order() {
    let receiver = Receiver::start();
    // What hangs is in flight; others go on beside it.
    receiver.rule(|got| (got.kind == "started").then_some(Act::Hang));
    let mut site = Site::start("beside", &table(&receiver, "max_in_flight = 4\ntimeout = '2s'"));
    let events = 4 * site.make_calls(6);
    let got = receiver.wait("four at once", |got| got.len() >= 4);
    assert_eq!(got[..4].iter().map(|got| &got.call).collect::<BTreeSet<_>>().len(), 4);
    site.wait_for_file(events);
    receiver.take_all();
    receiver.wait_for_events(events);
    assert_eq!(receiver.most_at_once(), 4);
    site.wait_for_metric("sipstamp_events_pending", 0);
    site.end(&[]);
}

#[test]
fn whatever_the_receiver_does_instead_the_event_comes_again() {
    let receiver = Receiver::start();
    let acts = [
        Act::Status("500 Internal Server Error", ""),
        Act::Close,
        Act::Status("302 Found", "Location: http://127.0.0.1:1/elsewhere\r\n"),
        Act::Tear,
        Act::Status("307 Temporary Redirect", "Location: /hooks/calls\r\n"),
        Act::Status("400 Bad Request", ""),
        Act::Hang,
        Act::Status("503 Service Unavailable", "Retry-After: 0\r\n"),
        Act::Status("429 Too Many Requests", "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n"),
    ];
    let failures = acts.len();
    receiver.next(acts);
    let mut site = Site::start_with("whatever", "", &table(&receiver, "timeout = '1s'"), Vec::new());
    let calls = site.make_calls(3);
    site.wait_for_file(calls);
    let got = receiver.wait_for_events(calls);
    assert_eq!(got.len(), calls + failures);
    site.wait_for_metric("sipstamp_events_delivered_total", calls as u64);
    assert_eq!(site.metric("sipstamp_events_failed_total"), failures as u64);
    site.end(&[]);
}

#[test]
fn a_receiver_that_is_down_gets_everything_when_it_is_back() {
    let receiver = Receiver::start();
    let other = Receiver::start();
    let tables = table(&receiver, "") + &table_named("other", &other.url(), "");
    let mut site = Site::start("down", &tables);
    let before = 4 * site.make_calls(2);
    receiver.wait_for_events(before);
    // An answer that is lost on the way would make the event come twice.
    site.wait_for_metric("sipstamp_events_delivered_total", before as u64);
    receiver.go_down();
    let events = 4 * site.make_calls(20);
    // Nobody else is delayed.
    site.wait_for_file(events);
    other.wait_for_events(events);
    site.wait_for_metric("sipstamp_events_pending", (events - before) as u64);
    assert!(site.sum("sipstamp_events_failed_total", &[("sink", "webhook:other")]) == 0);
    receiver.come_back();
    let got = receiver.wait_for_events(events);
    assert_eq!(got.len(), events, "one came twice");
    site.wait_for_metric("sipstamp_events_pending", 0);
    assert!(site.metric("sipstamp_events_failed_total") > 0);
    assert!(site.log().contains("the receiver takes events again"));
    site.end(&[]);
}

#[test]
fn an_event_that_is_refused_holds_up_only_its_call() {
    let receiver = Receiver::start();
    let first = std::sync::Mutex::new(None);
    receiver.rule(move |got| {
        let mut first = first.lock().unwrap();
        let refused = first.get_or_insert_with(|| got.id.clone());
        (got.id == *refused).then_some(Act::Status("422 Unprocessable Content", ""))
    });
    let mut site = Site::start("refused", &table(&receiver, ""));
    let events = 4 * site.make_calls(10);
    let got = receiver.wait("the others", |got| taken(got).len() == events - 4);
    assert!(taken(&got).values().all(|taken| taken.call != got[0].call));
    receiver.take_all();
    receiver.wait_for_events(events);
    site.wait_for_metric("sipstamp_events_pending", 0);
    site.end(&[]);
}

#[test]
fn a_receiver_that_is_gone_is_asked_no_more_and_keeps_nothing() {
    let receiver = Receiver::start();
    receiver.next([OK, Act::Status("410 Gone", "")]);
    let mut site = Site::start("gone", &table(&receiver, "max_in_flight = 1"));
    for _ in 0..2 {
        let events = 4 * site.make_calls(5);
        site.wait_for_file(events);
        site.wait_for_sum("sipstamp_events_dropped_total", &[], events as u64 - 1);
        site.wait_for_metric("sipstamp_events_pending", 0);
    }
    assert_eq!(receiver.count(), 2);
    assert_eq!(site.metric("sipstamp_events_delivered_total"), 1);
    let kinds = ["started", "ringing", "answered", "ended"];
    let dropped: BTreeMap<_, _> =
        kinds.iter().map(|kind| (*kind, site.sum("sipstamp_events_dropped_total", &[("kind", kind)]))).collect();
    assert_eq!(dropped["ended"], 10);
    site.end(&["the receiver has answered 410 Gone"]);
}
