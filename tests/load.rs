//! The load generator of `make bench` can fail: each way in which a proxy can spoil calls is caught, under a counter of
//! its own. The proxy stands in this process, between the generator's two halves.

#[path = "../benches/load/generator/mod.rs"]
#[expect(dead_code, reason = "the bench chooses profiles by name; these tests do not")]
mod generator;
#[path = "../benches/load/relay.rs"]
mod relay;

#[path = "load/proxy.rs"]
mod proxy;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use generator::calls::Hold;
use generator::check::Profile;
use generator::engine::{Load, Report, Settings, Step, Work};
use generator::lanes::Waits;
use proxy::{Kind, Proxy, Spoil, remove, replace};

const CALLS: u64 = 8;
/// No message is sent again within a test.
const NEVER: Duration = Duration::from_secs(60);
/// The system chooses the port.
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const STAMPING: Profile = Profile { is_proxy: true, record_routes: true, stamps: true };

/// The calls of one step through a proxy that spoils some messages.
fn calls_with_t1(t1: Duration, spoil: impl Spoil) -> Report {
    let proxy = Proxy::bind(spoil);
    let mut load = Load::new(&settings(proxy.address(), t1, STAMPING, false)).expect("the generator can start");
    let [dialer, server] = load.ends();
    let running = proxy.run(dialer, server);
    let report = load.run(&step()).expect("the step can be run");
    running.stop();
    report
}

fn calls(spoil: impl Spoil) -> Report {
    calls_with_t1(NEVER, spoil)
}

fn settings(device: SocketAddr, t1: Duration, profile: Profile, is_tcp: bool) -> Settings {
    let short = Duration::from_millis(2);
    let waits = Waits { ring: short, talk: short, t1, linger: Duration::from_secs(1) };
    Settings { device, dialer: ANY, server: ANY, is_tcp, profile, waits, series: 7 }
}

fn step() -> Step {
    work(Work::Begin(Hold::No))
}

fn work(work: Work) -> Step {
    Step { work, calls: CALLS, rate: 1000.0, drain: Duration::from_secs(10) }
}

/// The third message of this kind is spoilt; that and nothing else is found, where the server copies it also in what
/// it answers.
#[track_caller]
fn is_caught(kind: Kind, fault: &str, edit: impl Fn(&str) -> String + Send + 'static) {
    let report = calls(third(kind, move |passing: &mut Vec<String>| {
        let altered = edit(&passing[0]);
        assert_ne!(altered, passing[0], "the message is altered");
        passing[0] = altered;
    }));
    assert_eq!(report.faults.keys().collect::<Vec<_>>(), [fault], "{:?}", report.tally.example);
    assert!(matches!(report.faults[fault].as_u64(), Some(1..=3)), "{:?}", report.faults);
}

/// Spoils the third message of this kind.
fn third(kind: Kind, mut spoil: impl FnMut(&mut Vec<String>) + Send + 'static) -> impl Spoil {
    let mut seen = 0;
    move |this: Kind, passing: &mut Vec<String>| {
        seen += u32::from(this == kind);
        if this == kind && seen == 3 {
            spoil(passing);
        }
    }
}

fn is_clean(report: &Report) -> bool {
    let tally = &report.tally;
    tally.completed == CALLS
        && report.faults.is_empty()
        && tally.failed + tally.retransmitted + tally.repeated + tally.unseen + tally.stray == 0
}

#[test]
fn a_proxy_that_does_its_job_passes() {
    let report = calls(|_: Kind, _: &mut Vec<String>| {});
    assert!(is_clean(&report), "{report:?}");
    assert_eq!(report.invite_delay.count, CALLS);
}

#[test]
fn calls_stay_where_they_are_held_and_are_ended_when_they_are_released() {
    for hold in [Hold::Ringing, Hold::Answered] {
        let proxy = Proxy::bind(|_: Kind, _: &mut Vec<String>| {});
        let mut load = Load::new(&settings(proxy.address(), NEVER, STAMPING, false)).unwrap();
        let [dialer, server] = load.ends();
        let running = proxy.run(dialer, server);
        let [held, others, released] =
            [work(Work::Begin(hold)), step(), Step { calls: 2 * CALLS, ..work(Work::Release) }]
                .map(|step| load.run(&step).unwrap());
        running.stop();
        assert_eq!((held.tally.started, held.tally.held, held.tally.completed), (CALLS, CALLS, 0), "{hold:?}");
        assert!(is_clean(&others), "{hold:?}: {others:?}");
        // Twice as many were to be ended as are held.
        assert_eq!((released.tally.started, released.tally.released), (0, CALLS), "{hold:?}");
        assert!(is_clean(&released) && held.faults.is_empty(), "{hold:?}: {released:?}");
    }
}

#[test]
fn released_calls_whose_byes_are_dropped_fail() {
    let proxy = Proxy::bind(|kind: Kind, passing: &mut Vec<String>| {
        if kind == Kind::Bye {
            passing.clear();
        }
    });
    let mut load = Load::new(&settings(proxy.address(), Duration::from_millis(5), STAMPING, false)).unwrap();
    let [dialer, server] = load.ends();
    let running = proxy.run(dialer, server);
    let [_, released] = [Work::Begin(Hold::Answered), Work::Release].map(|this| load.run(&work(this)).unwrap());
    running.stop();
    assert_eq!((released.tally.completed, released.tally.failed, released.tally.timed_out), (0, CALLS, CALLS));
}

#[test]
fn bytes_that_are_only_copied_pass() {
    let profile = Profile { is_proxy: false, record_routes: false, stamps: false };
    let socket = UdpSocket::bind(ANY).unwrap();
    let mut load = Load::new(&settings(socket.local_addr().unwrap(), NEVER, profile, false)).unwrap();
    let [dialer, server] = load.ends();
    thread::spawn(move || relay::datagrams(&socket, dialer, server));
    let report = load.run(&step()).unwrap();
    assert!(is_clean(&report), "{report:?}");
}

#[test]
fn bytes_that_are_only_copied_pass_over_tcp() {
    let profile = Profile { is_proxy: false, record_routes: false, stamps: false };
    let listener = TcpListener::bind(ANY).unwrap();
    let mut load = Load::new(&settings(listener.local_addr().unwrap(), NEVER, profile, true)).unwrap();
    let [_, server] = load.ends();
    let relay = thread::spawn(move || relay::streams(&listener, server));
    let report = load.run(&step()).unwrap();
    assert!(is_clean(&report), "{report:?}");
    drop(load);
    let _ = relay.join().expect("the relay ends with the connections");
}

#[test]
fn a_proxy_where_bytes_should_only_be_copied_is_caught() {
    let profile = Profile { is_proxy: false, record_routes: false, stamps: false };
    let proxy = Proxy::bind(|_: Kind, _: &mut Vec<String>| {});
    let mut load = Load::new(&settings(proxy.address(), NEVER, profile, false)).unwrap();
    let [dialer, server] = load.ends();
    let running = proxy.run(dialer, server);
    let report = load.run(&step()).unwrap();
    running.stop();
    assert!(report.faults["via"].as_u64() >= Some(CALLS), "{:?}", report.faults);
}

#[test]
fn a_dropped_ringing_is_missed() {
    let report = calls(third(Kind::Ringing, Vec::clear));
    assert_eq!((report.tally.completed, report.tally.unseen), (CALLS, 1));
}

#[test]
fn a_dropped_invite_is_sent_again() {
    let report = calls_with_t1(Duration::from_millis(200), third(Kind::Invite, Vec::clear));
    assert_eq!(report.tally.completed, CALLS);
    assert!(report.tally.retransmitted >= 1, "{report:?}");
}

#[test]
fn a_dropped_ack_makes_the_answer_come_again() {
    // The answer is sent again before the call is hung up, after 2 ms.
    let report = calls_with_t1(Duration::from_millis(1), third(Kind::Ack, Vec::clear));
    assert!(report.tally.retransmitted >= 1, "{report:?}");
}

#[test]
fn calls_whose_messages_are_all_dropped_fail() {
    let report = calls_with_t1(Duration::from_millis(5), |kind: Kind, passing: &mut Vec<String>| {
        if kind == Kind::Bye {
            passing.clear();
        }
    });
    assert_eq!((report.tally.completed, report.tally.failed, report.tally.timed_out), (0, CALLS, CALLS));
}

#[test]
fn a_repeated_message_is_counted() {
    for kind in [Kind::Invite, Kind::Ringing, Kind::Answer, Kind::Ack, Kind::Bye] {
        let report = calls(third(kind, |passing: &mut Vec<String>| passing.push(passing[0].clone())));
        assert_eq!(report.tally.completed, CALLS, "{kind:?}");
        assert!(report.tally.repeated >= 1, "{kind:?}: {report:?}");
        assert!(report.faults.is_empty(), "{kind:?}: {report:?}");
    }
}

#[test]
fn an_altered_body_is_caught() {
    is_caught(Kind::Invite, "body", |message| message.replacen("m=audio 20000", "m=audio 20001", 1));
    is_caught(Kind::Answer, "body", |message| message.replacen("a=ptime:20", "a=ptime:30", 1));
}

#[test]
fn a_body_cut_short_is_caught() {
    is_caught(Kind::Invite, "body", |message| message.trim_end_matches("a=sendrecv\r\n").to_owned());
}

#[test]
fn two_calls_that_are_mixed_up_are_caught() {
    let mut kept: Option<String> = None;
    let report = calls(move |kind: Kind, passing: &mut Vec<String>| {
        if kind != Kind::Answer {
            return;
        }
        match kept.take() {
            None => kept = passing.pop(),
            Some(other) => {
                let this = passing.remove(0);
                let (left, right) = (proxy::line(&this, "Call-ID"), proxy::line(&other, "Call-ID"));
                passing.push(this.replacen(&left, &right, 1));
                passing.push(other.replacen(&right, &left, 1));
            }
        }
    });
    assert_eq!(report.faults.keys().collect::<Vec<_>>(), ["misrouted"], "{:?}", report.tally.example);
    assert_eq!(report.faults["misrouted"], CALLS);
}

#[test]
fn a_message_that_goes_back_to_its_sender_is_caught() {
    for kind in [Kind::Invite, Kind::Answer] {
        let report = calls_with_t1(
            Duration::from_millis(200),
            third(kind, |passing: &mut Vec<String>| {
                passing[0].insert_str(0, proxy::BACK);
            }),
        );
        assert_eq!(report.faults.keys().collect::<Vec<_>>(), ["misrouted"], "{:?}", report.tally.example);
    }
}

#[test]
fn a_lost_via_is_caught() {
    // The proxy's own.
    is_caught(Kind::Invite, "via", |message| remove(message, "Via"));
    is_caught(Kind::Bye, "via", |message| remove(message, "Via"));
    // The dialer's, on the way back.
    is_caught(Kind::Answer, "via", |message| remove(message, "Via"));
}

#[test]
fn a_via_that_stays_on_a_response_is_caught() {
    is_caught(Kind::Ringing, "via", |message| message.replacen("Via: ", "Via: SIP/2.0/UDP 127.0.0.1\r\nVia: ", 1));
}

#[test]
fn a_branch_without_the_cookie_is_caught() {
    is_caught(Kind::Ack, "via", |message| message.replacen(";branch=z9hG4bK", ";branch=", 1));
}

#[test]
fn an_rport_that_is_not_filled_in_is_caught() {
    is_caught(Kind::Invite, "via", |message| {
        let via = message.split("\r\n").find(|line| line.contains(";rport=")).unwrap();
        let port = via.split(";rport=").nth(1).unwrap().split(';').next().unwrap();
        message.replacen(&format!(";rport={port}"), ";rport", 1)
    });
}

#[test]
fn a_dropped_record_route_is_caught() {
    is_caught(Kind::Answer, "record_route", |message| remove(message, "Record-Route"));
    let report = calls(third(Kind::Invite, |passing: &mut Vec<String>| {
        passing[0] = remove(&passing[0], "Record-Route");
    }));
    assert_eq!(report.faults.keys().collect::<Vec<_>>(), ["record_route"]);
}

#[test]
fn a_route_that_stays_is_caught() {
    is_caught(Kind::Ack, "route", |message| {
        message.replacen("Max-Forwards", "Route: <sip:127.0.0.1;lr>\r\nMax-Forwards", 1)
    });
}

#[test]
fn a_hop_that_is_not_counted_is_caught() {
    is_caught(Kind::Bye, "max_forwards", |message| replace(message, "Max-Forwards", "70"));
    is_caught(Kind::Invite, "max_forwards", |message| remove(message, "Max-Forwards"));
}

#[test]
fn an_altered_tag_is_caught() {
    is_caught(Kind::Invite, "tag", |message| message.replacen(";tag=as", ";tag=xs", 1));
    is_caught(Kind::Answer, "tag", |message| message.replacen(";tag=ts", ";tag=xs", 1));
    is_caught(Kind::Bye, "tag", |message| message.replacen(";tag=ts", ";tag=ts-", 1));
}

#[test]
fn another_header_that_is_altered_or_lost_or_added_is_caught() {
    is_caught(Kind::Invite, "header", |message| replace(message, "Campaign-ID", "autumn"));
    is_caught(Kind::Invite, "header", |message| remove(message, "Dialing-Mode"));
    is_caught(Kind::Answer, "header", |message| message.replacen("Server:", "X-Added: 1\r\nServer:", 1));
    is_caught(Kind::Ended, "header", |message| message.replacen("CSeq: 2 BYE", "CSeq: 2  BYE", 1));
}

#[test]
fn headers_in_another_order_are_caught() {
    is_caught(Kind::Invite, "header", |message| {
        let moved = format!("{}\r\n", proxy::line(message, "Supported"));
        let without = message.replacen(&moved, "", 1);
        without.replacen("From:", &format!("{moved}From:"), 1)
    });
}

#[test]
fn another_request_line_is_caught() {
    is_caught(Kind::Bye, "start_line", |message| message.replacen("BYE sip:+15550199@", "BYE sip:+15550198@", 1));
}

#[test]
fn a_changed_status_is_caught() {
    is_caught(Kind::Ringing, "status", |message| message.replacen("180 Ringing", "183 Session Progress", 1));
    is_caught(Kind::Answer, "status", |message| message.replacen("200 OK", "200 Fine", 1));
    let report = calls(third(Kind::Answer, |passing: &mut Vec<String>| {
        passing[0] = passing[0].replacen("200 OK", "486 Busy Here", 1);
    }));
    assert_eq!((report.tally.failed, report.tally.refused), (1, 1));
    assert_eq!(report.faults["status"], 1);
}

#[test]
fn a_response_of_the_proxys_own_fails_the_call() {
    let report = calls(third(Kind::Answer, |passing: &mut Vec<String>| {
        passing[0] = remove(&passing[0].replacen("200 OK", "503 Service Unavailable", 1), "Server");
    }));
    assert_eq!((report.tally.completed, report.tally.refused), (CALLS - 1, 1));
    assert!(report.faults.is_empty(), "{:?}", report.tally.example);
}

#[test]
fn a_stamp_that_is_forged_or_missing_is_caught() {
    is_caught(Kind::Answer, "stamp", |message| replace(message, "Call-Outcome", "NumberBusy;id=1"));
    is_caught(Kind::Answer, "stamp", |message| remove(message, "Call-Outcome"));
    is_caught(Kind::Ended, "stamp", |message| remove(message, "Call-Outcome"));
    is_caught(Kind::Answer, "stamp", |message| {
        message.replacen("Call-Outcome", "Call-Outcome: Normal;id=2\r\nCall-Outcome", 1)
    });
}

#[test]
fn a_stamp_where_it_must_not_be_is_caught() {
    is_caught(Kind::Bye, "stamp", |message| message.replacen("From:", "Call-Outcome: Normal;id=1\r\nFrom:", 1));
    is_caught(Kind::Ringing, "stamp", |message| message.replacen("From:", "Call-Outcome: Normal;id=1\r\nFrom:", 1));
}

#[test]
fn what_is_no_message_is_caught() {
    is_caught(Kind::Ringing, "malformed", |message| remove(message, "Call-ID") + "x");
}
