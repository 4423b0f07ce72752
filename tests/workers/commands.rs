//! The admin API does not show that there are several workers.

use std::io::Write;
use std::process::{Command, Stdio};

use super::callee::{Answer, Callee};
use super::caller::Caller;
use super::site::{Site, addresses};

const CALLS: usize = 24;

#[test]
fn a_call_is_found_and_ended_on_whichever_worker_it_is() {
    let callee = Callee::udp([127, 0, 0, 20].into(), Answer::Ringing);
    let site = Site::start("commands", 3, "udp", &addresses(&[&callee]));
    let mut caller = Caller::new(site.udp(site.sip()), "call");
    caller.invite(0..CALLS);
    caller.await_ringing(CALLS);

    let mut listed = Vec::new();
    let mut path = "/v1/calls?state=ringing&limit=7".to_owned();
    loop {
        let (status, page) = site.request("GET", &path);
        assert_eq!(status, 200, "{page}");
        listed
            .extend(page["calls"].as_array().unwrap().iter().map(|call| call["call_uid"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/calls?state=ringing&limit=7&after={next}");
    }
    assert_eq!(listed.len(), CALLS);
    assert!(listed.is_sorted(), "{listed:?}");
    assert_eq!(site.request("GET", "/v1/status").1["counts"]["active"], CALLS);

    for number in 0..CALLS {
        let by_call_id = site.request("GET", &format!("/v1/calls/{}", caller.call_id(number)));
        assert_eq!((by_call_id.0, &by_call_id.1["state"]), (200, &"ringing".into()));
    }
    for uid in &listed {
        assert_eq!(site.request("POST", &format!("/v1/calls/{uid}/voicemail-drop")).0, 409);
        assert_eq!(site.request("POST", &format!("/v1/calls/{uid}/hangup")).0, 202);
    }
    assert_eq!(site.request("POST", "/v1/calls/nobody/voicemail-drop").0, 404);
    assert_eq!(site.request("POST", "/v1/calls/nobody/hangup").0, 404);
    assert_eq!(site.metric("sipstamp_voicemail_drops_total", &[("result", "unknown_call")]), 1);
    assert_eq!(site.metric("sipstamp_voicemail_drops_total", &[("result", "not_answered")]), CALLS as u64);
    caller.acknowledge_refusals(CALLS);
    let events = site.events(CALLS);
    assert!(events.iter().all(|event| event["data"]["end_cause"] == "hung_up"), "{events:?}");
    assert_eq!(site.request("POST", &format!("/v1/calls/{}/voicemail-drop", listed[0])).0, 409);
    assert_eq!(site.metric("sipstamp_voicemail_drops_total", &[("result", "ended")]), 1);
    site.end();
}

#[test]
fn a_drain_waits_for_the_last_call_of_the_last_worker() {
    let callee = Callee::udp([127, 0, 0, 20].into(), Answer::Ringing);
    let mut site = Site::start("drain", 3, "udp", &addresses(&[&callee]));
    let mut caller = Caller::new(site.udp(site.sip()), "call");
    caller.invite(0..CALLS);
    caller.await_ringing(CALLS);
    assert_eq!(site.request("POST", "/v1/drain").0, 202);
    site.signal("-TERM");
    for number in 0..CALLS {
        assert!(site.child.try_wait().unwrap().is_none(), "it has ended with {} calls open", CALLS - number);
        assert_eq!(site.request("POST", &format!("/v1/calls/{}/hangup", caller.call_id(number))).0, 202);
    }
    caller.acknowledge_refusals(CALLS);
    let ended = crate::ports::wait_for("the end", super::wire::PATIENCE, || Ok(site.child.try_wait().unwrap()));
    assert!(ended.unwrap().success());
}

#[test]
fn what_prometheus_gets_passes_its_linter() {
    let callee = Callee::udp([127, 0, 0, 20].into(), Answer::Ok);
    let site = Site::start("metrics", 2, "udp", &addresses(&[&callee]));
    Caller::new(site.udp(site.sip()), "call").make_calls(4, 2, 1);
    site.events(4);
    let linter =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut linter = linter.expect("promtool is installed: `make tools`");
    linter.stdin.take().unwrap().write_all(site.metrics().as_bytes()).unwrap();
    let output = linter.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    site.end();
}
