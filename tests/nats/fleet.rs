//! Sidecars that answer for each other, and one view of what all of them tell.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

use super::callee::{Answer, Callee};
use super::server::NatsServer;
use super::sidecar::{Sidecar, folder};
use super::wire::PATIENCE;
use crate::ports::{PBX_A, wait_for};

/// Two sidecars behind one NATS server.
struct Fleet {
    server: NatsServer,
    one: Sidecar,
    other: Sidecar,
}

impl Fleet {
    fn start(name: &str, answer: Answer) -> Fleet {
        let folder = folder(name);
        let server = NatsServer::start(&folder);
        let nats = format!("servers = ['{}']", server.url());
        Fleet::of(&folder, server, answer, &nats)
    }

    fn of(folder: &std::path::Path, server: NatsServer, answer: Answer, nats: &str) -> Fleet {
        let callee = Callee::udp(PBX_A, answer);
        let [one, other] = ["one", "other"].map(|name| Sidecar::start(folder, name, &callee, "", nats));
        let fleet = Fleet { server, one, other };
        fleet.await_each_other();
        fleet
    }

    /// Until each is connected: before that it can say of no call that nobody has it.
    fn await_each_other(&self) {
        for sidecar in [&self.one, &self.other] {
            let can_ask = || Ok((sidecar.request("GET", "/v1/calls/nobody").0 == 404).then_some(()));
            wait_for("a sidecar that can ask", PATIENCE, can_ask).unwrap();
        }
    }
}

/// A call that rings at a sidecar: its call_uid.
fn ringing(sidecar: &Sidecar, name: &str) -> String {
    let mut caller = sidecar.caller(name);
    caller.invite(0..1);
    caller.await_ringing(1);
    let (status, call) = sidecar.request("GET", &format!("/v1/calls/{}", caller.call_id(0)));
    assert_eq!(status, 200);
    text(&call, "call_uid").to_owned()
}

/// What it answers once the other has: on a machine that is busy that may take longer than it waits.
fn answer(sidecar: &Sidecar, method: &str, path: &str) -> (u16, Value) {
    let answered = || Ok(Some(sidecar.request(method, path)).filter(|(status, _)| !matches!(status, 404 | 503)));
    wait_for(path, PATIENCE, answered).unwrap_or_else(|error| panic!("{error}: {}", sidecar.log()))
}

fn text<'a>(call: &'a Value, field: &str) -> &'a str {
    call[field].as_str().unwrap_or_else(|| panic!("{field} in {call}"))
}

/// `sipstamp tail`, and the rows that it prints.
struct Tail {
    child: Child,
    rows: Receiver<String>,
}

impl Tail {
    fn start(arguments: [&str; 2]) -> Tail {
        let tail = Tail::spawn(arguments, Stdio::inherit());
        assert!(tail.row().starts_with("time"));
        tail
    }

    fn spawn(arguments: [&str; 2], stderr: Stdio) -> Tail {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sipstamp"));
        command.arg("tail").args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, rows) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Tail { child, rows }
    }

    fn row(&self) -> String {
        self.rows.recv_timeout(PATIENCE).expect("a row in time")
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_call_is_shown_by_any_sidecar() {
    let fleet = Fleet::start("show", Answer::Ringing);
    let uid = ringing(&fleet.one, "show");
    for name in [uid.as_str(), "show-0"] {
        let (status, call) = answer(&fleet.other, "GET", &format!("/v1/calls/{name}"));
        assert_eq!((status, text(&call, "call_uid"), text(&call, "state")), (200, uid.as_str(), "ringing"));
        assert_eq!(call, fleet.one.request("GET", &format!("/v1/calls/{name}")).1);
    }
    assert_eq!(fleet.one.request("POST", &format!("/v1/calls/{uid}/hangup")).0, 202);
    let ended = || Ok((fleet.one.request("GET", "/v1/calls/show-0").1["state"] == "ended").then_some(()));
    wait_for("the end of the call", PATIENCE, ended).unwrap();
    let (status, call) = answer(&fleet.other, "GET", "/v1/calls/show-0");
    assert_eq!((status, text(&call, "state"), text(&call, "end_cause")), (200, "ended", "hung_up"));
    // Lists are each sidecar's own.
    assert_eq!(fleet.other.request("GET", "/v1/outcomes").1["calls"].as_array().unwrap().len(), 0);
}

#[test]
fn a_call_is_hung_up_by_any_sidecar() {
    let fleet = Fleet::start("hangup", Answer::Ringing);
    let uid = ringing(&fleet.one, "hangup");
    let (status, call) = answer(&fleet.other, "POST", "/v1/calls/hangup-0/hangup");
    assert_eq!((status, text(&call, "call_uid")), (202, uid.as_str()));
    let events = fleet.server.events("CALLS", 1);
    assert_eq!(text(&events[0].event["data"], "end_cause"), "hung_up");
    let again = answer(&fleet.other, "POST", "/v1/calls/hangup-0/hangup");
    assert_eq!((again.0, text(&again.1, "detail")), (409, "the call has ended"));
}

#[test]
fn a_voicemail_drop_is_marked_by_any_sidecar() {
    let fleet = Fleet::start("drop", Answer::Ok);
    let mut caller = fleet.one.caller("drop");
    caller.invite(0..1);
    caller.await_answers(1);
    let (status, call) = answer(&fleet.other, "POST", "/v1/calls/drop-0/voicemail-drop");
    assert_eq!((status, text(&call, "call_id")), (200, "drop-0"));
    assert_eq!(answer(&fleet.other, "POST", "/v1/calls/drop-0/hangup").0, 202);
    let events = fleet.server.events("CALLS", 1);
    assert_eq!((events[0].subject.as_str(), text(&events[0].event, "source")), ("calls.VoicemailDrop", "sipstamp/one"));
}

#[test]
fn what_cannot_be_done_is_refused_as_its_own_sidecar_refuses_it() {
    let fleet = Fleet::start("refused", Answer::Ringing);
    ringing(&fleet.one, "refused");
    let path = "/v1/calls/refused-0/voicemail-drop";
    let (here, there) = (fleet.one.request("POST", path), answer(&fleet.other, "POST", path));
    assert_eq!((here.0, &here), (409, &there));
    for (method, path) in
        [("GET", "/v1/calls/x"), ("POST", "/v1/calls/x/hangup"), ("POST", "/v1/calls/x/voicemail-drop")]
    {
        let (status, problem) = fleet.other.request(method, path);
        assert_eq!((status, text(&problem, "detail")), (404, "no call has this call_uid, Call-ID or correlation"));
    }
    assert_eq!(fleet.other.metric("sipstamp_voicemail_drops_total", ("result", "unknown_call")), 1);
}

#[test]
fn a_name_that_two_sidecars_have_is_ambiguous_and_nothing_is_done() {
    let fleet = Fleet::start("twins", Answer::Ringing);
    let uid = ringing(&fleet.one, "twins");
    ringing(&fleet.other, "twins");
    // Who has a call asks nobody: its own is meant.
    assert_eq!(text(&fleet.one.request("GET", "/v1/calls/twins-0").1, "call_uid"), uid);
    let callee = Callee::udp(PBX_A, Answer::Ringing);
    let nats = format!("servers = ['{}']", fleet.server.url());
    let third = Sidecar::start(&folder("twins-third"), "third", &callee, "", &nats);
    let is_ambiguous = || Ok((third.request("GET", "/v1/calls/twins-0").0 == 409).then_some(()));
    wait_for("a sidecar that can ask", PATIENCE, is_ambiguous).unwrap();
    let (status, problem) = third.request("POST", "/v1/calls/twins-0/hangup");
    assert_eq!(status, 409);
    assert!(text(&problem, "detail").starts_with("2 open calls"), "{problem}");
    for sidecar in [&fleet.one, &fleet.other] {
        assert_eq!(text(&sidecar.request("GET", "/v1/calls/twins-0").1, "state"), "ringing");
    }
    assert_eq!(text(&answer(&third, "GET", &format!("/v1/calls/{uid}")).1, "call_uid"), uid);
}

#[test]
fn without_nats_a_sidecar_answers_for_its_own_calls() {
    let mut fleet = Fleet::start("alone", Answer::Ringing);
    let uid = ringing(&fleet.one, "alone");
    fleet.server.kill();
    fleet.one.await_log("the connection to NATS is lost; it is tried again connection=\"sipstamp control\"");
    let own = fleet.one.request("GET", &format!("/v1/calls/{uid}"));
    assert_eq!((own.0, text(&own.1, "state")), (200, "ringing"));
    let unknown = || Ok((fleet.other.request("GET", &format!("/v1/calls/{uid}")).0 == 503).then_some(()));
    wait_for("503", PATIENCE, unknown).unwrap();
    fleet.server.restart();
    fleet.await_each_other();
    assert_eq!(answer(&fleet.other, "POST", &format!("/v1/calls/{uid}/hangup")).0, 202);
}

#[test]
fn the_permissions_in_the_documentation_are_enough() {
    let folder = folder("permissions");
    let text = include_str!("../../docs/fleet.md");
    let (_, block) = text.split_once("```conf\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    // The test itself may everything.
    let block = block.replace("users: [", "users: [ { user: \"test\", password: \"test\" }");
    let server = NatsServer::start_with(&folder, &format!("{block}\nno_auth_user: test"));
    std::fs::write(folder.join("password"), "change me").unwrap();
    let password = folder.join("password");
    let nats = format!("servers = ['{}']\nuser = 'sidecar'\npassword_file = '{}'", server.url(), password.display());
    let fleet = Fleet::of(&folder, server, Answer::Ringing, &nats);
    let hang_up = |name: &str| {
        let uid = ringing(&fleet.one, name);
        assert_eq!(answer(&fleet.other, "POST", &format!("/v1/calls/{uid}/hangup")).0, 202);
    };
    hang_up("first");
    fleet.server.events("CALLS", 1);
    let tail = Tail::start(["--nats", &fleet.server.url().replace("//", "//tail:change%20me%20too@")]);
    hang_up("second");
    assert!(tail.row().contains("hung_up"));
    for sidecar in [&fleet.one, &fleet.other] {
        assert!(!sidecar.log().contains("refused"), "{}", sidecar.log());
    }
}

#[test]
fn a_tail_waits_for_the_stream_and_shows_it_from_its_beginning() {
    let fleet = Fleet::start("tail-first", Answer::Ringing);
    let mut tail = Tail::spawn(["--nats", &fleet.server.url()], Stdio::piped());
    let mut told = String::new();
    BufReader::new(tail.child.stderr.take().unwrap()).read_line(&mut told).unwrap();
    assert_eq!(told, "stream CALLS: not there yet; it is waited for\n");
    let uid = ringing(&fleet.one, "first");
    assert_eq!(fleet.one.request("POST", &format!("/v1/calls/{uid}/hangup")).0, 202);
    assert!(tail.row().starts_with("time"));
    assert!(tail.row().contains("hung_up"));
}

fn hang_up_one(sidecar: &Sidecar, name: &str) {
    let uid = ringing(sidecar, name);
    assert_eq!(sidecar.request("POST", &format!("/v1/calls/{uid}/hangup")).0, 202);
}

#[test]
fn a_tail_of_one_sidecar_shows_the_outcomes_of_that_one() {
    let mut fleet = Fleet::start("tail-one", Answer::Ringing);
    let mut tail = Tail::spawn(["--url", &fleet.one.api()], Stdio::piped());
    let mut told = BufReader::new(tail.child.stderr.take().unwrap()).lines();
    assert!(tail.row().starts_with("time"));
    hang_up_one(&fleet.other, "there");
    fleet.server.events("CALLS", 1);
    hang_up_one(&fleet.one, "here");
    let row = tail.row();
    assert!(row.contains("+15550199") && row.contains("hung_up"), "{row}");
    let another = tail.rows.recv_timeout(std::time::Duration::from_millis(200));
    assert!(another.is_err(), "a row of the other: {another:?}");
    // It goes on when the sidecar is back, without the columns' names.
    fleet.one.kill();
    let lost = told.next().unwrap().unwrap();
    assert!(lost.contains("it is tried again"), "{lost}");
    fleet.one.restart();
    let has_follower = || {
        hang_up_one(&fleet.one, "again");
        Ok(tail.rows.recv_timeout(std::time::Duration::from_secs(1)).ok())
    };
    let row = wait_for("a row of the sidecar that is back", PATIENCE, has_follower).unwrap();
    assert!(row.contains("hung_up"), "{row}");
}

#[test]
fn a_tail_shows_the_outcomes_of_all_from_when_it_began() {
    let mut fleet = Fleet::start("tail", Answer::Ringing);
    hang_up_one(&fleet.one, "before");
    fleet.server.events("CALLS", 1);
    let tail = Tail::start(["--nats", &fleet.server.url()]);
    hang_up_one(&fleet.one, "here");
    let row = tail.row();
    assert!(row.contains("+15550199") && row.contains("hung_up"), "{row}");
    // It comes back as the sidecars do, and shows nothing twice.
    fleet.server.kill();
    fleet.server.restart();
    hang_up_one(&fleet.other, "there");
    fleet.server.events("CALLS", 3);
    assert!(tail.row().contains("hung_up"));
    assert!(tail.rows.try_recv().is_err());
}
