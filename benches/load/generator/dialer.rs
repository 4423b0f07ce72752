//! The dialer's half of a call: RFC 3261 §13.2 and §15.1.1.

use std::time::Instant;

use super::calls::{Call, Dialer, Hold};
use super::engine::Load;
use super::lanes::Due;
use super::messages::SERVER_LINE;
use super::tally::Fault;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Completed,
    TimedOut,
    Refused,
    Unfinished,
}

impl Load {
    /// Begins a call. `at`: the wall clock, in ns.
    pub fn invite(&mut self, now: Instant, at: u64, hold: Hold) {
        self.tally.started += 1;
        let Some(call) = self.calls.begin(hold) else {
            self.tally.failed += 1;
            self.tally.unfinished += 1;
            return;
        };
        call.invited_at = at;
        call.is_awaited = true;
        self.awaited += 1;
        self.messages.invite.write(call.number, &[], self.dialer.outbox(0));
        self.lanes.push(now, Due::InviteAgain(0), call.number);
    }

    pub fn on_response(&mut self, now: Instant, bytes: &[u8], at: u64) {
        let Some(status) = status(bytes) else { return self.tally.fault(Fault::Misrouted, bytes) };
        let Some((number, cseq)) = self.checker.identify(bytes) else {
            return self.tally.fault(Fault::Malformed, bytes);
        };
        if self.calls.find(number).is_none() {
            self.tally.stray += 1;
            return;
        }
        match (status, cseq) {
            // A hop's own; to a BYE too, when that takes long (RFC 4320 §4.1).
            (100, _) => self.on_trying(number),
            (180, b'1') => self.on_ringing(number, bytes),
            (200, b'1') => self.on_answer(now, number, bytes, at),
            (200, b'2') => self.on_ended(now, number, bytes),
            _ => self.on_other(now, number, status, cseq, bytes),
        }
    }

    /// The INVITE goes out again, or is given up.
    pub fn on_invite_due(&mut self, now: Instant, number: u32, due: Due) {
        let Some(call) = self.calls.find(number).filter(|call| call.dialer == Dialer::Inviting) else { return };
        let Some(next) = due.next() else { return self.end(now, number, End::TimedOut) };
        if !self.is_tcp {
            call.is_repeated = true;
            self.tally.retransmitted += 1;
            self.messages.invite.write(number, &[], self.dialer.outbox(0));
        }
        self.lanes.push(now, next, number);
    }

    pub fn hang_up(&mut self, now: Instant, number: u32) {
        let Some(call) = self.calls.find(number).filter(|call| call.dialer == Dialer::Answered) else { return };
        call.dialer = Dialer::Ending;
        self.messages.bye.write(number, &call.route, self.dialer.outbox(0));
        self.lanes.push(now, Due::ByeAgain(0), number);
    }

    pub fn on_bye_due(&mut self, now: Instant, number: u32, due: Due) {
        let Some(call) = self.calls.find(number).filter(|call| call.dialer == Dialer::Ending) else { return };
        let Some(next) = due.next() else { return self.end(now, number, End::TimedOut) };
        if !self.is_tcp {
            self.tally.retransmitted += 1;
            self.messages.bye.write(number, &call.route, self.dialer.outbox(0));
        }
        self.lanes.push(now, next, number);
    }

    /// The call is over.
    pub fn end(&mut self, now: Instant, number: u32, end: End) {
        let Some(call) = self.calls.find(number).filter(|call| call.dialer != Dialer::Over) else { return };
        call.dialer = Dialer::Over;
        self.awaited -= u64::from(std::mem::take(&mut call.is_awaited));
        match end {
            End::Completed => {
                self.tally.completed += 1;
                self.tally.unseen += u64::from(!call.has_rung) + u64::from(!call.has_confirmed);
            }
            End::TimedOut => self.tally.timed_out += 1,
            End::Refused => self.tally.refused += 1,
            End::Unfinished => self.tally.unfinished += 1,
        }
        self.tally.failed += u64::from(end != End::Completed);
        self.lanes.push(now, Due::Forget, number);
    }

    fn on_trying(&mut self, number: u32) {
        if let Some(call) = self.calls.find(number)
            && call.dialer == Dialer::Inviting
        {
            call.dialer = Dialer::Proceeding;
        }
    }

    fn on_ringing(&mut self, number: u32, bytes: &[u8]) {
        let Some(call) = self.calls.find(number) else { return };
        let messages = &mut self.messages;
        let routes = call.record_routes();
        let (_, fault) =
            self.checker.response(bytes, &mut messages.ringing, &mut messages.invite, number, routes, false);
        self.tally.repeated += u64::from(call.has_rung);
        call.has_rung = true;
        if call.dialer == Dialer::Inviting {
            call.dialer = Dialer::Proceeding;
        }
        if call.hold == Hold::Ringing && std::mem::take(&mut call.is_awaited) {
            self.awaited -= 1;
            self.tally.held += 1;
            self.held.push_back(number);
        }
        self.note(fault, bytes);
    }

    fn on_answer(&mut self, now: Instant, number: u32, bytes: &[u8], at: u64) {
        let Some(call) = self.calls.find(number) else { return };
        let messages = &mut self.messages;
        let (head, fault) = self.checker.response(
            bytes,
            &mut messages.answer,
            &mut messages.invite,
            number,
            call.record_routes(),
            true,
        );
        if matches!(call.dialer, Dialer::Inviting | Dialer::Proceeding) {
            call.dialer = Dialer::Answered;
            call.route.clear();
            for line in head.record_routes.iter().rev() {
                call.route.extend_from_slice(line.strip_prefix(b"Record-").unwrap_or(line));
            }
            if !call.is_repeated {
                self.answer_delay.add(at.saturating_sub(call.answered_at));
            }
            if call.hold == Hold::Answered {
                self.awaited -= u64::from(std::mem::take(&mut call.is_awaited));
                self.tally.held += 1;
                self.held.push_back(number);
            } else {
                self.lanes.push(now, Due::HangUp, number);
            }
        } else {
            self.tally.repeated += 1;
        }
        messages.ack.write(number, &call.route, self.dialer.outbox(0));
        self.note(fault, bytes);
    }

    fn on_ended(&mut self, now: Instant, number: u32, bytes: &[u8]) {
        let Some(call) = self.calls.find(number) else { return };
        let messages = &mut self.messages;
        let (_, fault) = self.checker.response(bytes, &mut messages.ended, &mut messages.bye, number, &[], true);
        if call.dialer == Dialer::Ending {
            self.end(now, number, End::Completed);
        } else {
            self.tally.repeated += 1;
        }
        self.note(fault, bytes);
    }

    /// A response that the server did not write, or the device altered. The tag does not tell: a device's own response to
    /// a BYE bears it too.
    fn on_other(&mut self, now: Instant, number: u32, status: u16, cseq: u8, bytes: &[u8]) {
        if memchr::memmem::find(bytes, SERVER_LINE.as_bytes()).is_some() {
            self.tally.fault(Fault::Status, bytes);
        }
        if status >= 300 && cseq == b'1' {
            self.acknowledge(number, bytes);
        }
        if status >= 200 {
            self.end(now, number, End::Refused);
        } else {
            self.on_trying(number);
        }
    }

    /// The ACK of a failure: RFC 3261 §17.1.1.3.
    fn acknowledge(&mut self, number: u32, failure: &[u8]) {
        let invite = &mut self.messages.invite;
        let start = invite.start.of(number).strip_prefix(b"INVITE").unwrap_or_default();
        let line = |name: &[u8]| {
            failure.split_inclusive(|byte| *byte == b'\n').find(|line| line.starts_with(name)).unwrap_or_default()
        };
        let (from, to, call_id) = (line(b"From:"), line(b"To:"), line(b"Call-ID:"));
        let (via, branch) = (invite.via.of(number), invite.branch.of(number));
        let head: [&[u8]; 6] = [b"ACK", start, b"\r\n", via, b";rport;", branch];
        let tail: [&[u8]; 5] = [b"\r\n", from, to, call_id, b"CSeq: 1 ACK\r\nContent-Length: 0\r\n\r\n"];
        let parts = head.into_iter().chain(tail).collect::<Vec<_>>();
        self.dialer.outbox(0).push(&parts);
    }

    fn note(&mut self, fault: Option<Fault>, bytes: &[u8]) {
        if let Some(fault) = fault {
            self.tally.fault(fault, bytes);
        }
    }
}

impl Call {
    /// What the server copied.
    fn record_routes(&self) -> &[u8] {
        self.copied.get(self.routes_at..).unwrap_or_default()
    }
}

fn status(bytes: &[u8]) -> Option<u16> {
    let digits = bytes.strip_prefix(b"SIP/2.0 ")?.get(..3)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
