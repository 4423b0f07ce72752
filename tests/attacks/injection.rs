//! Messages of those who have no part in a call and guess everything right, and of those who have one and forge.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::Value;

use super::target::{AT_LEISURE, PBX, STRANGER, Target, call_id, drain, receive, socket};
use crate::ports::DIALER;
use crate::wire::{Message, PATIENCE};

/// In MiB, of a debug build. Measured: 30 to 32.
const MEMORY: u64 = 64;
const CALL: &str = "attacked";

/// Both ends of a call, and others.
struct Scene {
    target: Target,
    dialer: UdpSocket,
    server: UdpSocket,
    stranger: UdpSocket,
    /// As the server got it.
    invite: Message,
    /// As the dialer got it.
    answer: Message,
}

/// A request as one would write it who has seen all of the dialog. `tags`: of From and To.
struct Forged<'a> {
    method: &'a str,
    uri: &'a str,
    via: SocketAddr,
    branch: &'a str,
    tags: [&'a str; 2],
    routes: &'a str,
    cseq: u32,
    more: &'a str,
}

impl Forged<'_> {
    fn text(&self) -> String {
        let Forged { method, uri, via, branch, tags: [from, to], routes, cseq, more } = self;
        let to = if to.is_empty() { String::new() } else { format!(";tag={to}") };
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {via};branch={branch}\r\n{routes}Max-Forwards: 70\r\n\
             From: <sip:a@example.net>;tag={from}\r\nTo: <sip:b@example.net>{to}\r\nCall-ID: {CALL}\r\n\
             CSeq: {cseq} {method}\r\nContact: <sip:evil@{via}>\r\n{more}Content-Length: 0\r\n\r\n"
        )
    }
}

/// The branch of the topmost Via.
fn branch(message: &Message) -> String {
    let via = message.value("Via");
    let (_, branch) = via.split_once(";branch=").unwrap();
    branch.split(';').next().unwrap().to_owned()
}

fn routes(message: &Message, is_reversed: bool) -> String {
    let mut values = message.values("Record-Route").collect::<Vec<_>>();
    if is_reversed {
        values.reverse();
    }
    values.iter().map(|route| format!("Route: {route}\r\n")).collect()
}

fn contact(message: &Message) -> &str {
    message.value("Contact").trim_matches(['<', '>'])
}

impl Scene {
    /// A call that rings; `more` are lines of its INVITE.
    fn ringing(name: &str, tables: &str, more: &str) -> Scene {
        let [dialer, server, stranger] = [DIALER, PBX, STRANGER].map(socket);
        let target = Target::start(name, server.local_addr().unwrap(), &format!("{tables}{AT_LEISURE}"));
        let local = dialer.local_addr().unwrap();
        let invite = Forged { method: "INVITE", cseq: 1, more, ..own(local, "sip:+15550199@127.0.0.1", "z9hG4bKown1") };
        dialer.send_to(invite.text().as_bytes(), target.site.sip()).unwrap();
        let (invite, from) = receive(&server, PATIENCE).expect("the INVITE");
        assert_eq!(from, target.site.sip());
        let empty = Message(String::new());
        let scene = Scene { target, dialer, server, stranger, invite, answer: empty };
        scene.respond("180 Ringing", "");
        scene.expect_at_dialer(180);
        scene
    }

    /// The same once the server has answered.
    fn answered(name: &str, tables: &str, more: &str) -> Scene {
        let mut scene = Scene::ringing(name, tables, more);
        scene.answer();
        scene
    }

    fn answer(&mut self) {
        self.respond("200 OK", "Call-Outcome: VoicemailDrop;id=forged\r\n");
        self.answer = self.expect_at_dialer(200);
        let ack = self.dialer_request("ACK", 1, "");
        self.send(&self.dialer, &ack);
        let (ack, _) = receive(&self.server, PATIENCE).expect("the ACK");
        assert_eq!(ack.method(), "ACK");
    }

    /// Hangs up from the dialer's side.
    fn hang_up(&self, more: &str) {
        let bye = self.dialer_request("BYE", 2, more);
        self.send(&self.dialer, &bye);
        let (bye, from) = receive(&self.server, PATIENCE).expect("the BYE");
        assert_eq!((bye.method(), bye.value("Call-Outcome"), bye.value("Voicemail-Drop")), ("BYE", "", ""));
        let response = bye.response("200 OK", self.server.local_addr().unwrap());
        self.server.send_to(response.as_bytes(), from).unwrap();
        self.expect_at_dialer(200);
    }

    /// The event of the only call that is not beside.
    fn end(self) -> Value {
        let events = self.target.end(MEMORY);
        assert_eq!(events.iter().map(call_id).collect::<Vec<_>>(), [CALL]);
        events.into_iter().next().unwrap()["data"].take()
    }

    fn send(&self, from: &UdpSocket, text: &str) {
        from.send_to(text.as_bytes(), self.target.site.sip()).unwrap();
    }

    /// Answers the INVITE as the server does.
    fn respond(&self, status: &str, more: &str) {
        let response = self.response(status).replace("Content-Length", &format!("{more}Content-Length"));
        self.send(&self.server, &response);
    }

    fn response(&self, status: &str) -> String {
        self.invite.response(status, self.server.local_addr().unwrap())
    }

    fn expect_at_dialer(&self, code: u16) -> Message {
        loop {
            let (message, _) = receive(&self.dialer, PATIENCE).unwrap_or_else(|| panic!("no {code}"));
            match message.code() {
                Some(100) => {}
                seen => {
                    assert_eq!(seen, Some(code), "{message:?}");
                    return message;
                }
            }
        }
    }

    fn dialer_request(&self, method: &str, cseq: u32, more: &str) -> String {
        let routes = routes(&self.answer, true);
        let branch = format!("z9hG4bKown{method}{cseq}");
        let local = self.dialer.local_addr().unwrap();
        let tags = ["caller", "callee"];
        Forged { method, cseq, more, routes: &routes, tags, ..own(local, contact(&self.answer), &branch) }.text()
    }

    /// Everything that somebody may send, in both directions of the dialog, with this socket's address in its Via.
    fn forgeries(&self, from: &UdpSocket) -> Vec<String> {
        let via = from.local_addr().unwrap();
        let (to_server, to_dialer) = (routes(&self.answer, true), routes(&self.invite, false));
        let server_uri = format!("sip:{}", self.server.local_addr().unwrap());
        let mut all = Vec::new();
        for (tags, routes, uri) in [
            (["caller", "callee"], &to_server, server_uri.as_str()),
            (["callee", "caller"], &to_dialer, contact(&self.invite)),
        ] {
            for method in ["BYE", "INFO", "INVITE", "ACK", "UPDATE", "REFER", "CANCEL", "PRACK"] {
                for (cseq, branch) in [(1, "z9hG4bKown1"), (2, "z9hG4bKguess")] {
                    let more = "Voicemail-Drop: true\r\nCall-Outcome: NumberBusy;id=1\r\nNo-Answer-Timeout: 1\r\n";
                    all.push(Forged { method, uri, via, branch, tags, routes, cseq, more }.text());
                }
            }
        }
        all
    }

    /// The CANCEL of the INVITE as its sender would write it, but for who sends it.
    fn cancel(&self) -> String {
        let local = self.dialer.local_addr().unwrap();
        Forged { method: "CANCEL", cseq: 1, ..own(local, "sip:+15550199@127.0.0.1", "z9hG4bKown1") }.text()
    }

    /// Nothing has come of it to either end, and nothing is still to come.
    fn nothing_happens(&self) {
        self.target.beside.await_calls(1);
        let seen = [&self.dialer, &self.server, &self.stranger].map(drain);
        assert!(seen.iter().all(Vec::is_empty), "{seen:?}");
        assert_eq!(self.target.site.request("GET", &format!("/v1/calls/{CALL}")).0, 200);
    }
}

/// A request of the dialer's.
fn own<'a>(via: SocketAddr, uri: &'a str, branch: &'a str) -> Forged<'a> {
    Forged { method: "", uri, via, branch, tags: ["caller", ""], routes: "", cseq: 1, more: "" }
}

#[test]
fn what_strangers_inject_into_a_ringing_call_does_nothing() {
    let mut scene = Scene::ringing("inject-ringing", "", "");
    let mut forgeries = scene.forgeries(&scene.stranger);
    forgeries.push(scene.cancel());
    forgeries.extend(["200 OK", "183 Early", "486 Busy Here", "603 Decline"].map(|status| scene.response(status)));
    // As many as are read of one stranger at once, then as many again.
    for few in forgeries.chunks(15) {
        few.iter().for_each(|text| scene.send(&scene.stranger, text));
        (0..5).for_each(|_| scene.target.beside.await_calls(1));
    }
    scene.nothing_happens();
    assert_eq!(scene.target.rejected("stranger"), forgeries.len() as u64, "every one of them was read");
    scene.answer();
    scene.hang_up("");
    let event = scene.end();
    assert_eq!((&event["outcome"], &event["end_cause"]), (&"Normal".into(), &"answered_bye_caller".into()));
    assert_eq!((&event["anomalies"], &event["attempts"].as_array().map(Vec::len)), (&Value::Array(vec![]), &Some(1)));
}

#[test]
fn what_strangers_inject_into_an_answered_call_does_nothing() {
    let scene = Scene::answered("inject-answered", "", "");
    let mut forgeries = scene.forgeries(&scene.stranger);
    forgeries.extend(["200 OK", "500 Error", "503 Gone"].map(|status| scene.response(status)));
    for few in forgeries.chunks(15) {
        few.iter().for_each(|text| scene.send(&scene.stranger, text));
        (0..5).for_each(|_| scene.target.beside.await_calls(1));
    }
    scene.nothing_happens();
    assert_eq!(scene.target.rejected("stranger"), forgeries.len() as u64, "every one of them was read");
    scene.hang_up("");
    let event = scene.end();
    assert_eq!((&event["outcome"], &event["end_cause"]), (&"Normal".into(), &"answered_bye_caller".into()));
    assert_eq!(event["anomalies"], Value::Array(vec![]));
}

#[test]
fn a_side_neither_answers_for_the_other_nor_takes_back_what_the_other_asked() {
    let mut scene = Scene::ringing("wrong-side", "", "");
    for status in ["200 OK", "486 Busy Here"] {
        scene.send(&scene.dialer, &scene.response(status));
    }
    scene.nothing_happens();
    assert_eq!(scene.target.rejected("stranger"), 2);
    scene.send(&scene.server, &scene.cancel());
    // The 481 goes to the port in the dialer's Via, where the server does not listen.
    scene.nothing_happens();
    assert_eq!(scene.target.rejected("unmatched_cancel"), 1);
    scene.answer();
    scene.hang_up("");
    let event = scene.end();
    assert_eq!((&event["outcome"], &event["end_cause"]), (&"Normal".into(), &"answered_bye_caller".into()));
}

#[test]
fn a_stranger_with_the_sidecars_own_branch_ends_nothing() {
    let mut scene = Scene::ringing("own-branch", "", "");
    // A CANCEL and an ACK on the branch that the sidecar has made, and requests that look like its own.
    let branch = branch(&scene.invite);
    let sip = scene.target.site.sip();
    for method in ["CANCEL", "ACK", "BYE", "INVITE"] {
        let forged = Forged { method, ..own(sip, "sip:+15550199@127.0.0.1", &branch) };
        scene.send(&scene.stranger, &forged.text());
        scene.send(&scene.stranger, &Forged { tags: ["caller", "callee"], ..forged }.text());
    }
    scene.nothing_happens();
    scene.answer();
    scene.hang_up("");
    assert_eq!(scene.end()["outcome"], "Normal");
}

#[test]
fn headers_that_a_side_forges_do_what_they_may_and_no_more() {
    const FORGED: &str = "Call-Outcome: VoicemailDrop;id=forged\r\nVoicemail-Drop: true\r\n";
    // (the INVITE's lines, who hangs up, the outcome)
    for (name, invite, by_dialer, outcome) in [
        ("forged-plain", "", true, "Normal"),
        ("forged-progressive", "Dialing-Mode: progressive\r\n", true, "VoicemailDrop"),
        ("forged-by-server", "Dialing-Mode: progressive\r\n", false, "Normal"),
    ] {
        let scene = Scene::answered(name, "[voicemail_drop]\ngrace = '0s'\n", &format!("{invite}{FORGED}"));
        assert_eq!((scene.invite.value("Call-Outcome"), scene.invite.values("Call-Outcome").count()), ("", 0));
        assert_eq!(scene.answer.values("Call-Outcome").count(), 1);
        assert!(scene.answer.value("Call-Outcome").starts_with("Normal;"), "{:?}", scene.answer);
        if by_dialer {
            scene.hang_up(FORGED);
        } else {
            let local = scene.server.local_addr().unwrap();
            let routes = routes(&scene.invite, false);
            let (uri, tags) = (contact(&scene.invite), ["callee", "caller"]);
            let bye = Forged { method: "BYE", tags, routes: &routes, more: FORGED, ..own(local, uri, "z9hG4bKserver") };
            scene.send(&scene.server, &bye.text());
            let (bye, from) = receive(&scene.dialer, PATIENCE).expect("the BYE");
            let stamps = bye.values("Call-Outcome").collect::<Vec<_>>();
            assert!(matches!(stamps[..], [stamp] if stamp.starts_with("Normal;")), "{bye:?}");
            let response = bye.response("200 OK", scene.dialer.local_addr().unwrap());
            scene.dialer.send_to(response.as_bytes(), from).unwrap();
            let (response, _) = receive(&scene.server, PATIENCE).expect("the response to the BYE");
            assert_eq!((response.code(), response.values("Call-Outcome").count()), (Some(200), 0));
        }
        assert_eq!(scene.end()["outcome"], outcome, "{name}");
    }
}

#[test]
fn no_answer_timeouts_of_the_telephony_side_and_of_strangers_are_ignored() {
    let mut scene = Scene::ringing("forged-timeout", "[timeouts]\nno_answer = '60s'\n", "");
    let timeout = "No-Answer-Timeout: 1\r\n";
    // On whatever answers the INVITE, and on an INVITE of somebody else's of the same name.
    scene.respond("183 Session Progress", timeout);
    let forwarded = scene.expect_at_dialer(183);
    assert_eq!(forwarded.value("No-Answer-Timeout"), "1", "it is a header like any other there");
    let via = scene.stranger.local_addr().unwrap();
    let invite = Forged { method: "INVITE", more: timeout, ..own(via, "sip:+15550199@127.0.0.1", "z9hG4bKown1") };
    scene.send(&scene.stranger, &invite.text());
    // Longer than it says.
    assert!(receive(&scene.dialer, Duration::from_millis(1_500)).is_none());
    scene.nothing_happens();
    scene.answer();
    scene.hang_up("");
    let event = scene.end();
    assert_eq!((&event["outcome"], &event["end_cause"]), (&"Normal".into(), &"answered_bye_caller".into()));
}
