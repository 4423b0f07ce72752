//! The telephony server's half of a call: RFC 3261 §13.3 and §15.1.2.

use std::time::Instant;

use super::calls::{Call, Hold, Server};
use super::check::Lines;
use super::engine::Load;
use super::lanes::Due;
use super::messages::Messages;
use super::tally::Fault;
use super::wire::{Wire, wall};

impl Load {
    pub fn on_request(&mut self, now: Instant, bytes: &[u8], at: u64, connection: usize) {
        if bytes.starts_with(b"SIP/2.0 ") {
            return self.tally.fault(Fault::Misrouted, bytes);
        }
        let Some((number, _)) = self.checker.identify(bytes) else {
            return self.tally.fault(Fault::Malformed, bytes);
        };
        if self.calls.find(number).is_none() {
            self.tally.stray += 1;
            return;
        }
        let fault = match bytes.first_chunk() {
            Some(b"INVI") => self.on_invite(now, number, bytes, at, connection),
            Some(b"ACK ") => self.on_ack(number, bytes),
            Some(b"BYE ") => self.on_bye(number, bytes, connection),
            // A device may cancel what takes too long.
            _ => {
                self.tally.stray += 1;
                None
            }
        };
        if let Some(fault) = fault {
            self.tally.fault(fault, bytes);
        }
    }

    /// Ringing is over.
    pub fn answer(&mut self, now: Instant, number: u32) {
        let Some(call) = self.calls.find(number).filter(|call| call.server == Server::Ringing) else { return };
        call.server = Server::Answered;
        call.answered_at = wall();
        send_latest(&mut self.messages, call, &mut self.server);
        self.lanes.push(now, Due::AnswerAgain(0), number);
    }

    /// The 200 goes out again until its ACK comes; what becomes of the call is the dialer's to say.
    pub fn on_answer_due(&mut self, now: Instant, number: u32, due: Due) {
        let Some(call) = self.calls.find(number).filter(|call| call.server == Server::Answered) else { return };
        let Some(next) = due.next() else { return };
        call.is_repeated = true;
        self.tally.retransmitted += 1;
        send_latest(&mut self.messages, call, &mut self.server);
        self.lanes.push(now, next, number);
    }

    fn on_invite(&mut self, now: Instant, number: u32, bytes: &[u8], at: u64, connection: usize) -> Option<Fault> {
        let call = self.calls.find(number)?;
        let (head, fault) = self.checker.request(bytes, &mut self.messages.invite, number, true);
        if call.server == Server::Unknown {
            call.server = Server::Ringing;
            call.connection = connection;
            call.copied.clear();
            put_lines(&head.vias, &mut call.copied);
            call.routes_at = call.copied.len();
            put_lines(&head.record_routes, &mut call.copied);
            if !call.is_repeated {
                self.invite_delay.add(at.saturating_sub(call.invited_at));
            }
            if call.hold != Hold::Ringing {
                self.lanes.push(now, Due::Answer, number);
            }
        } else {
            self.tally.repeated += 1;
        }
        send_latest(&mut self.messages, call, &mut self.server);
        fault
    }

    fn on_ack(&mut self, number: u32, bytes: &[u8]) -> Option<Fault> {
        let call = self.calls.find(number)?;
        let (_, fault) = self.checker.request(bytes, &mut self.messages.ack, number, false);
        self.tally.repeated += u64::from(call.has_confirmed);
        call.has_confirmed = true;
        if call.server == Server::Answered {
            call.server = Server::Confirmed;
        }
        fault
    }

    fn on_bye(&mut self, number: u32, bytes: &[u8], connection: usize) -> Option<Fault> {
        let call = self.calls.find(number)?;
        let (head, fault) = self.checker.request(bytes, &mut self.messages.bye, number, false);
        self.tally.repeated += u64::from(call.server == Server::Ended);
        call.server = Server::Ended;
        self.scratch.clear();
        put_lines(&head.vias, &mut self.scratch);
        self.messages.ended.write(number, &self.scratch, self.server.outbox(connection));
        fault
    }
}

/// The response that the call is at.
fn send_latest(messages: &mut Messages, call: &Call, server: &mut Wire) {
    let form = match call.server {
        Server::Ringing => &mut messages.ringing,
        Server::Answered | Server::Confirmed => &mut messages.answer,
        Server::Unknown | Server::Ended => return,
    };
    form.write(call.number, &call.copied, server.outbox(call.connection));
}

fn put_lines(lines: &Lines<'_>, out: &mut Vec<u8>) {
    lines.iter().for_each(|line| out.extend_from_slice(line));
}
