//! A dialer that makes many calls at once.

use std::collections::HashMap;

use super::wire::{Message, Wire};

/// A dialer with one way to the sidecar.
pub struct Caller {
    wire: Wire,
    /// Begins every Call-ID.
    name: String,
    /// How it writes that header's name.
    call_id: &'static str,
    calls: HashMap<String, Call>,
}

/// What a dialog needs.
#[derive(Default)]
struct Call {
    to: String,
    routes: String,
    target: String,
    /// Responses to INFO that are still to come.
    infos: u32,
    is_over: bool,
}

impl Caller {
    pub fn new(wire: Wire, name: &str) -> Caller {
        Caller { wire, name: name.to_owned(), call_id: "Call-ID", calls: HashMap::new() }
    }

    /// Writes the name of the header Call-ID so.
    pub fn spelling(self, call_id: &'static str) -> Caller {
        Caller { call_id, ..self }
    }

    pub fn call_id(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    /// Sends the INVITEs of calls.
    pub fn invite(&mut self, numbers: std::ops::Range<usize>) {
        for number in numbers {
            let id = self.call_id(number);
            let invite = self.request("INVITE", "sip:+15550199@127.0.0.1", &id, 1, "<sip:+15550199@example.net>", "");
            self.wire.send(&invite);
            self.calls.insert(id, Call::default());
        }
    }

    /// Makes calls, not more than some at a time; in each one a burst of INFOs and a BYE follow the answer.
    pub fn make_calls(&mut self, count: usize, at_once: usize, infos: u32) {
        let mut begun = 0;
        let mut over = 0;
        while over < count {
            let open = begun - over;
            let more = (at_once - open).min(count - begun);
            self.invite(begun..begun + more);
            begun += more;
            let message = self.wire.receive().expect("the connection stays open");
            over += usize::from(self.on_message(&message, infos));
        }
    }

    /// Waits until so many calls ring.
    pub fn await_ringing(&mut self, count: usize) {
        let mut ringing = std::collections::HashSet::new();
        while ringing.len() < count {
            let message = self.wire.receive().expect("the connection stays open");
            if message.code() == Some(180) {
                ringing.insert(message.call_id().to_owned());
            }
        }
    }

    /// Waits until so many calls are answered, and leaves them open.
    pub fn await_answers(&mut self, count: usize) {
        let mut answered = 0;
        while answered < count {
            let message = self.wire.receive().expect("the connection stays open");
            if (message.code(), message.method()) == (Some(200), "INVITE") {
                answered += usize::from(self.on_answer(&message));
            }
        }
    }

    /// Takes the final responses of so many calls that were not answered.
    pub fn acknowledge_refusals(&mut self, count: usize) {
        let mut refused = std::collections::HashSet::new();
        while refused.len() < count {
            let message = self.wire.receive().expect("the connection stays open");
            if message.code().is_some_and(|code| code >= 300) {
                let (id, to) = (message.call_id(), message.value("To"));
                let ack = self.request("ACK", "sip:+15550199@127.0.0.1", id, 1, to, "");
                // It belongs to the INVITE's transaction.
                self.wire.send(&ack.replace(&format!("{id}ACK1"), &format!("{id}INVITE1")));
                refused.insert(id.to_owned());
            }
        }
    }

    /// True where the call has ended by this.
    fn on_message(&mut self, message: &Message, infos: u32) -> bool {
        let id = message.call_id().to_owned();
        match (message.code(), message.method()) {
            (Some(200), "INVITE") => {
                if self.on_answer(message) {
                    self.calls.get_mut(&id).expect("one of ours").infos = infos;
                    (0..infos).for_each(|number| self.in_dialog("INFO", &id, 2 + number));
                    if infos == 0 {
                        self.in_dialog("BYE", &id, 2);
                    }
                }
                false
            }
            (Some(200), "INFO") => {
                let call = self.calls.get_mut(&id).expect("one of ours");
                call.infos -= 1;
                if call.infos == 0 {
                    self.in_dialog("BYE", &id, 2 + infos);
                }
                false
            }
            (Some(200), "BYE") => {
                let call = self.calls.get_mut(&id).expect("one of ours");
                !std::mem::replace(&mut call.is_over, true)
            }
            (Some(100 | 180), _) => false,
            _ => panic!("unexpected: {message:?}"),
        }
    }

    /// Acknowledges it; true where it is not a retransmission.
    fn on_answer(&mut self, message: &Message) -> bool {
        let id = message.call_id();
        let call = self.calls.get_mut(id).expect("one of ours");
        let is_first = call.to.is_empty();
        let routes = message.values("Record-Route").collect::<Vec<_>>();
        call.routes = routes.iter().rev().map(|route| format!("Route: {route}\r\n")).collect();
        call.to = message.value("To").to_owned();
        call.target = message.value("Contact").trim_matches(['<', '>']).to_owned();
        self.in_dialog("ACK", id, 1);
        is_first
    }

    fn in_dialog(&mut self, method: &str, id: &str, cseq: u32) {
        let call = &self.calls[id];
        let request = self.request(method, &call.target, id, cseq, &call.to, &call.routes);
        self.wire.send(&request);
    }

    fn request(&self, method: &str, uri: &str, id: &str, cseq: u32, to: &str, routes: &str) -> String {
        let (transport, local, call_id) = (self.wire.name(), self.wire.local(), self.call_id);
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/{transport} {local};branch=z9hG4bK{id}{method}{cseq}\r\n{routes}\
             Max-Forwards: 70\r\nFrom: <sip:+15550100@example.net>;tag=caller\r\nTo: {to}\r\n{call_id}: {id}\r\n\
             CSeq: {cseq} {method}\r\nContact: <sip:{local}>\r\nContent-Length: 0\r\n\r\n"
        )
    }
}
