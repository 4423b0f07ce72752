//! More calls than a worker can make: those that it takes complete, the others are told to come again.

use std::time::Duration;

use super::target::{PBX, Target, alone, socket};
use crate::generator::calls::Hold;
use crate::generator::check::Profile;
use crate::generator::engine::{Load, Report, Settings, Step, Work};
use crate::generator::lanes::Waits;
use crate::ports::{DIALER, wait_for};
use crate::site::command;
use crate::wire::PATIENCE;

/// In MiB, of a debug build. Measured: 51.
const MEMORY: u64 = 256;
/// Calls per second from which on the rate is doubled, and up to which.
const RATES: (f64, f64) = (100.0, 25_600.0);
/// How long more is offered than can be done.
const TIME: Duration = Duration::from_secs(3);

fn offer(load: &mut Load, rate: f64, time: Duration) -> Report {
    let calls = (rate * time.as_secs_f64()) as u64;
    let step = Step { work: Work::Begin(Hold::No), calls, rate, drain: Duration::from_secs(40) };
    load.run(&step).unwrap()
}

/// Every call has an end: it is complete, or was refused.
fn assert_all_ended(report: &Report) {
    let tally = &report.tally;
    assert_eq!(tally.completed + tally.refused, tally.started, "{report:?}");
    assert!(report.faults.is_empty(), "{report:?}");
}

/// How many times more than it could make it is offered at most.
const MOST_TIMES: f64 = 12.0;

#[test]
fn beyond_its_capacity_it_completes_what_it_takes_and_refuses_the_rest() {
    overload("overload", 1, false);
}

#[test]
fn so_do_several_workers() {
    overload("overload-workers", 2, false);
}

#[test]
fn so_it_does_over_tcp() {
    overload("overload-tcp", 1, true);
}

fn overload(name: &str, workers: usize, is_tcp: bool) {
    let _alone = alone();
    let server = socket(PBX).local_addr().unwrap();
    let uri = format!("{server}{}", if is_tcp { ";transport=tcp" } else { "" });
    let target = Target::start_as(name, uri, "", workers, false, command);
    let profile = Profile { is_proxy: true, record_routes: true, stamps: true };
    let short = Duration::from_millis(20);
    let waits = Waits { ring: short, talk: short, t1: Duration::from_millis(500), linger: Duration::from_secs(40) };
    let device = target.site.sip();
    let dialer = socket(DIALER).local_addr().unwrap();
    let settings = Settings { device, dialer, server, is_tcp, profile, waits, series: 11 };
    let mut load = Load::new(&settings).unwrap();

    let mut capacity = RATES.0;
    while capacity * 2.0 <= RATES.1 {
        let report = offer(&mut load, capacity * 2.0, Duration::from_millis(500));
        assert_all_ended(&report);
        if report.tally.refused * 10 > report.tally.started {
            break;
        }
        capacity *= 2.0;
    }
    let refused = || target.site.metric("sipstamp_calls_refused_total", &[("limit", "overload_delay")]);
    // What others did to the machine while the capacity was sought may be over: then three times of it are not too many.
    let mut times = 3.0;
    let (before, report) = loop {
        let before = refused();
        let report = offer(&mut load, capacity * times, TIME);
        println!(
            "{capacity} calls per second can be made; at {times} times that, INVITEs take {:?} µs",
            report.invite_delay
        );
        println!("{:?}", report.tally);
        assert_all_ended(&report);
        if report.tally.refused > 0 || times >= MOST_TIMES {
            break (before, report);
        }
        times *= 2.0;
    };
    assert!(report.tally.completed > 0 && report.tally.refused > 0, "{report:?}");
    assert_eq!(report.tally.refused, refused() - before, "whoever was refused was refused for that");
    target.beside.await_calls(1);

    // What is left of it is worked off; then no call is refused any more.
    let is_over = || {
        let report = offer(&mut load, RATES.0, Duration::from_millis(100));
        assert_all_ended(&report);
        Ok((report.tally.refused == 0).then_some(()))
    };
    wait_for("calls to be taken again", PATIENCE, is_over).unwrap();
    let report = offer(&mut load, RATES.0, Duration::from_secs(1));
    assert_all_ended(&report);
    assert_eq!(report.tally.refused, 0, "{report:?}");
    target.end(MEMORY);
}
