//! Files that cannot be written, among calls: SIP goes on, it is said, and nothing is lost once there is room.

use std::fs;
use std::time::Duration;

use super::agent::{Agent, HANGS_UP, Kind};
use super::place::Place;
use super::site::{Sidecar, Site};

const TALK: Duration = Duration::from_secs(2);
/// A call every 50 ms.
const IN_TEN_SECONDS: u32 = 200;
const CALLS: u32 = 300;

fn callers(site: &Site) -> ([Agent; 2], [(Kind, u32); 1]) {
    let server = Agent::server(site, CALLS, TALK);
    ([server, Agent::callers(site, HANGS_UP, CALLS, IN_TEN_SECONDS, TALK)], [(HANGS_UP, CALLS)])
}

/// Waits until so many more calls have begun and ended.
#[track_caller]
fn calls_go_on(sidecar: &Sidecar, count: f64) {
    for metric in ["sipstamp_calls_started_total", "sipstamp_call_outcomes_total"] {
        let before = sidecar.sum(metric);
        sidecar.wait_until(metric, |value| value >= before + count);
    }
}

/// The journal's directory is such a disk.
fn with_disk(name: &str, kibibytes: u32) -> Option<Site> {
    let site = Site::new(name);
    let disk = Place::with_disk(&site.folder.join("journal"), kibibytes)?;
    Some(site.within(disk))
}

/// One call, from its beginning to its end.
fn calls_while_the_disk_is_full(site: &mut Site, sidecar: &Sidecar) {
    site.disk().fill();
    let server = Agent::server(site, 1, TALK);
    let caller = Agent::callers(site, HANGS_UP, 1, 10, TALK);
    sidecar.wait_until_status("/readyz", 503);
    caller.succeeds();
    server.succeeds();
    site.disk().make_room();
    sidecar.wait_until_status("/readyz", 200);
}

#[test]
fn a_full_disk_under_the_journal() {
    let Some(site) = with_disk("full", 32 * 1024) else { return };
    let mut site = site.configured("workers = 2");
    let sidecar = site.start();
    let (agents, calls) = callers(&site);
    calls_go_on(&sidecar, 20.0);
    site.disk().fill();
    sidecar.wait_until_status("/readyz", 503);
    assert!(sidecar.sum("sipstamp_journal_errors_total") > 0.0);
    calls_go_on(&sidecar, 20.0);
    assert_eq!(sidecar.status("/readyz"), Some(503));
    site.disk().make_room();
    sidecar.wait_until_status("/readyz", 200);
    // What has been open all the time is in the journal again too.
    sidecar.kill();
    let sidecar = site.start();
    agents.into_iter().for_each(Agent::succeeds);
    site.balances(&sidecar, &calls);
    assert!(site.complaints().iter().all(|line| line.contains("cannot be written")), "{:#?}", site.complaints());
    assert_eq!(sidecar.sum("sipstamp_journal_errors_total"), 0.0);
}

#[test]
fn a_full_disk_under_the_journal_of_a_process_that_is_idle_afterwards() {
    let Some(mut site) = with_disk("full-idle", 32 * 1024) else { return };
    let sidecar = site.start();
    calls_while_the_disk_is_full(&mut site, &sidecar);
    site.balances(&sidecar, &[(HANGS_UP, 1)]);
}

#[test]
fn what_ended_while_neither_journal_nor_sink_could_be_written_is_in_the_journal_once_that_can() {
    let Some(site) = with_disk("full-late", 32 * 1024) else { return };
    let mut site = site.configured("[events]\nfile = '/dev/full'");
    let sidecar = site.start();
    calls_while_the_disk_is_full(&mut site, &sidecar);
    sidecar.kill();
    let site = site.configured("");
    let sidecar = site.start();
    site.balances(&sidecar, &[(HANGS_UP, 1)]);
}

#[test]
fn a_start_on_a_full_disk_goes_on_with_what_the_journal_holds() {
    let Some(mut site) = with_disk("full-start", 32 * 1024) else { return };
    let sidecar = site.start();
    let talk = Duration::from_secs(20);
    let (server, caller) = (Agent::server(&site, 1, talk), Agent::callers(&site, HANGS_UP, 1, 10, talk));
    sidecar.wait_until("sipstamp_calls_active", |active| active == 1.0);
    site.disk().fill();
    sidecar.kill();
    let sidecar = site.spawn();
    sidecar.wait_until_status("/readyz", 503);
    assert_eq!(sidecar.sum("sipstamp_calls_active"), 1.0);
    site.disk().make_room();
    sidecar.wait_until_status("/readyz", 200);
    sidecar.kill();
    let sidecar = site.start();
    caller.succeeds();
    server.succeeds();
    site.balances(&sidecar, &[(HANGS_UP, 1)]);
}

#[test]
fn a_journal_whose_directory_vanishes() {
    let site = Site::new("vanished");
    let sidecar = site.start();
    let (agents, calls) = callers(&site);
    calls_go_on(&sidecar, 20.0);
    let key = fs::read_to_string(site.folder.join("journal/key")).unwrap();
    fs::rename(site.folder.join("journal"), site.folder.join("away")).unwrap();
    sidecar.wait_until("sipstamp_journal_errors_total", |errors| errors > 0.0);
    calls_go_on(&sidecar, 20.0);
    sidecar.wait_until_status("/readyz", 200);
    assert_eq!(fs::read_to_string(site.folder.join("journal/key")).unwrap(), key);
    sidecar.kill();
    let sidecar = site.start();
    agents.into_iter().for_each(Agent::succeeds);
    site.balances(&sidecar, &calls);
    assert!(site.complaints().iter().all(|line| line.contains("cannot be written")), "{:#?}", site.complaints());
}

#[test]
fn a_journal_on_a_disk_that_is_read_only_is_refused_at_the_start() {
    let Some(mut site) = with_disk("read-only", 1024) else { return };
    site.disk().remount("ro");
    assert_eq!(site.spawn().ended(), Some(64));
    assert!(site.log().contains("events.journal: ") && site.log().contains("Read-only file system"), "{}", site.log());
}

/// The events' file is on a disk without room.
#[test]
fn a_dead_sink_gets_everything_later() {
    let mut site = Site::new("dead-sink");
    let away = site.folder.join("small");
    let Some(disk) = Place::with_disk(&away, 1024) else { return };
    site =
        site.configured(&format!("events.file = '{}/events.jsonl'\nevents.memory_limit = \"64KiB\"", away.display()));
    site = site.within(disk);
    site.disk().fill();
    let sidecar = site.start();
    let (agents, calls) = callers(&site);
    calls_go_on(&sidecar, 40.0);
    // The first process has delivered nothing at all; the second finds room for some, and ends in the middle of a line.
    sidecar.kill();
    site.disk().make_some_room(48);
    let sidecar = site.start();
    calls_go_on(&sidecar, 60.0);
    assert_eq!(sidecar.status("/readyz"), Some(200));
    sidecar.wait_until("sipstamp_events_failed_total", |failed| failed > 0.0);
    sidecar.kill();
    let sidecar = site.start();
    agents.into_iter().for_each(Agent::succeeds);
    sidecar.wait_until("sipstamp_calls_active", |active| active == 0.0);
    assert!(sidecar.sum("sipstamp_events_pending") > f64::from(CALLS) / 2.0);
    site.disk().make_room();
    sidecar.wait_until("sipstamp_events_pending", |pending| pending == 0.0);
    assert_eq!(sidecar.sum("sipstamp_events_dropped_total"), 0.0);
    let outside = site.folder.join("events.jsonl");
    site.disk().run(&format!("cp {}/events.jsonl {}", away.display(), outside.display()));
    site.balances(&sidecar, &calls);
}
