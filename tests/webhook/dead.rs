//! Events that could not be delivered in time.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::receiver::{Act, Receiver, taken};
use super::site::{Site, dead_letter, table};

const DEAD: &str = "dead_letter = { file = 'FOLDER/dead.jsonl', after = '1s' }";

#[test]
fn what_is_refused_for_too_long_goes_to_the_file_and_the_rest_goes_on() {
    let receiver = Receiver::start();
    let refused = Mutex::new(None);
    receiver.rule(move |got| {
        let is_it = got.kind == "answered" && *refused.lock().unwrap().get_or_insert(got.id.clone()) == got.id;
        is_it.then_some(Act::Status("500 Internal Server Error", ""))
    });
    let mut site = Site::start("dead", &table(&receiver, &DEAD.replace("1s", "5s")));
    let events = 4 * site.make_calls(5);
    let file = site.wait_for_file(events);
    site.wait_for_metric("sipstamp_events_dead_lettered_total", 1);
    // The end of the call follows what is dead.
    let got = receiver.wait("the rest", |got| taken(got).len() == events - 1);
    assert_eq!(taken(&got).values().filter(|got| got.kind == "ended").count(), events / 4);
    site.wait_for_metric("sipstamp_events_pending", 0);
    let (reason, event) = dead_letter(&site.dead_letters().concat());
    assert_eq!(reason, "status 500");
    assert!(file.contains(&event) && event.contains("/answered\""), "{event}");
    assert_eq!(site.metric("sipstamp_events_delivered_total"), events as u64 - 1);
    site.end(&[]);
}

#[test]
fn while_the_receiver_is_down_dead_letters_are_complete_and_survive_a_crash() {
    let receiver = Receiver::start();
    receiver.go_down();
    let mut site = Site::start("dead-down", &table(&receiver, DEAD));
    let events = 4 * site.make_calls(200);
    let file = site.wait_for_file(events);
    site.wait_for_metric("sipstamp_events_dead_lettered_total", events as u64);
    site.wait_for_metric("sipstamp_events_pending", 0);
    let dead: BTreeSet<_> = site.dead_letters().iter().map(|line| dead_letter(line).1).collect();
    assert_eq!(dead, file);
    site.kill();
    site.run();
    let more = 4 * site.make_calls(1);
    site.wait_for_file(more);
    receiver.come_back();
    site.wait_for_metric("sipstamp_events_pending", 0);
    site.end(&[]);
    let got = receiver.wait("nothing", |_| true);
    assert!(got.iter().all(|got| !dead.contains(&got.line)), "a dead letter came");
}
