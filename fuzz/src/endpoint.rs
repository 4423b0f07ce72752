//! The whole core: scripts of messages, time, commands, failures and restarts, with what must hold whatever happens.
//!
//! The vocabulary is [`crate::script`], what peers write [`crate::peer`], what is checked after each step and when all is over
//! [`crate::world`].

use bytes::Bytes;
use sipstamp::endpoint::{Input, Owner, QueryId};
use sipstamp::flow::{Flow, Transport};
use sipstamp::sip::{Message, Method};

use crate::peer;
use crate::policy::PEERS;
use crate::script::Step;
use crate::world::{World, flow_of};
use crate::{LIMITS, Reader};

/// More steps than this find nothing new.
const MOST: usize = 400;

pub fn run(data: &[u8]) {
    let mut reader = Reader(data);
    let mut world = World::new(reader.two());
    for _ in 0..MOST {
        if reader.is_empty() {
            break;
        }
        let step = Step::read(&mut reader);
        world.take(step, &mut reader);
    }
    world.settle();
}

impl World {
    /// One step; of the bytes that follow in the script it may take some.
    pub fn take(&mut self, step: Step, reader: &mut Reader<'_>) {
        match step {
            Step::Request { peer, call, method, target, extra } => {
                let (flow, raw) = peer::request(self, peer, call, method, target, extra);
                self.send(flow, raw);
            }
            Step::Reply { pick, code, tag, extra } => {
                let Some((flow, request)) = self.got(pick, Message::is_request) else { return };
                let (flow, raw) = peer::reply(&flow, &request, code, tag, extra);
                self.send(flow, raw);
            }
            Step::Dialog { pick, method, number, extra } => {
                let makes_dialog = |message: &Message| message.method() == Method::Invite && message.code() != 100;
                let Some((flow, of)) = self.got(pick, makes_dialog) else { return };
                let (flow, raw) = peer::in_dialog(self, &flow, &of, method, number, extra);
                self.send(flow, raw);
            }
            Step::Cancel { pick, extra } => {
                let Some((flow, raw)) = self.said(pick) else { return };
                let Some(request) = Message::parse(raw, &LIMITS).ok().filter(Message::is_request) else { return };
                self.send(flow, peer::on_branch(&request, "CANCEL", extra));
            }
            Step::Acknowledge { pick } => {
                let Some((flow, failure)) = self.got(pick, |message| message.code() >= 200) else { return };
                self.send(flow, peer::on_branch(&failure, "ACK", 0));
            }
            Step::Again { pick } => {
                let Some((flow, raw)) = self.said(pick & 31) else { return };
                let flow = if pick & 128 != 0 { flow_of(usize::from(pick >> 4), false) } else { flow };
                self.send(flow, raw);
            }
            Step::Changed { pick, low, high, how, with } => {
                let Some((flow, raw)) = self.said(pick) else { return };
                self.send(flow, peer::changed(&raw, u16::from_le_bytes([low, high]), how, with));
            }
            Step::Raw { peer, length } => {
                let raw = Bytes::copy_from_slice(reader.bytes(usize::from(length)));
                self.send(flow_of(usize::from(peer & 7), peer & 8 != 0), raw);
            }
            Step::Reflected { pick, how } => {
                let Some((flow, message)) = self.got(pick, |_| true) else { return };
                let (flow, raw) = peer::reflected(self, &flow, &message, how);
                self.send(flow, raw);
            }
            Step::Behave { count } => self.behave(usize::from(count & 15)),
            Step::Deadlines { count } => {
                for _ in 0..count & 31 {
                    self.to_next_deadline();
                }
            }
            Step::Wait { time } => self.wait(microseconds(time)),
            Step::Late { time } => self.jump(microseconds(time)),
            Step::Failed { pick } => {
                let known = picked(&self.owners, pick).filter(|_| pick & 128 == 0);
                self.input(Input::TransportFailed { owner: known.unwrap_or(Owner(u64::from(pick) << 24 | 1)) });
            }
            Step::Unreachable { pick, length } => {
                let is_datagram = |(flow, _): &&(Flow, Message)| flow.transport == Transport::Udp;
                let mut datagrams = self.received.iter().rev().filter(is_datagram);
                let Some((flow, message)) = datagrams.nth(usize::from(pick) % self.received.len().max(1)) else {
                    return;
                };
                let quoted = message.raw().slice(..message.raw().len().min(usize::from(length) * 4));
                self.input(Input::Unreachable { remote: flow.remote, quoted });
            }
            Step::Connected { peer } => self.input(Input::Connected { flow: flow_of(usize::from(peer), true) }),
            Step::Resolved { pick, addresses } => {
                let known = picked(&self.queries, pick).filter(|_| pick & 128 == 0);
                let is_chosen = |at: &usize| addresses >> at & 1 == 1;
                let addresses = (0..PEERS.len()).filter(is_chosen).map(|at| flow_of(at, false).remote.ip()).collect();
                self.input(Input::Resolved { query: known.unwrap_or(QueryId(u64::from(pick))), addresses });
            }
            Step::Policy { low, high } => self.change_policy(u16::from_le_bytes([low, high])),
            Step::Drain {} => self.input(Input::Drain),
            Step::Stop {} => self.input(Input::Stop),
            Step::HangUp { call } => {
                let (now, id) = (self.now, self.call_named(call));
                drop(self.command(|endpoint| endpoint.hang_up(now, &id)));
            }
            Step::VoicemailDrop { call } => {
                let (now, id) = (self.now, self.call_named(call));
                drop(self.command(|endpoint| endpoint.voicemail_drop(now, &id)));
            }
            Step::Restart { when, pause } => match when & 15 {
                0 => self.restart(microseconds(pause)),
                _ if self.journal.is_none() => {}
                count => self.dies_after = Some(usize::from(count) - 1),
            },
        }
    }

    /// All peers answer what came lately: requests but INVITE with 200, final responses to INVITE with ACK.
    fn behave(&mut self, count: usize) {
        let latest = self.received.iter().rev().take(count).cloned().collect::<Vec<_>>();
        for (flow, message) in latest.into_iter().rev() {
            let (flow, raw) = match (message.is_request(), message.method()) {
                (true, Method::Invite | Method::Ack) => continue,
                (true, _) => peer::reply(&flow, &message, 4, 0, 0),
                (false, Method::Invite) if message.code() >= 300 => (flow, peer::on_branch(&message, "ACK", 0)),
                (false, Method::Invite) if message.code() >= 200 => peer::in_dialog(self, &flow, &message, 4, 0, 0),
                (false, _) => continue,
            };
            self.send(flow, raw);
        }
    }

    /// One of the latest messages that the sidecar sent.
    fn got(&self, pick: u8, is: impl Fn(&Message) -> bool) -> Option<(Flow, Message)> {
        let fitting = self.received.iter().rev().filter(|(_, message)| is(message)).collect::<Vec<_>>();
        let (flow, message) = fitting.get(usize::from(pick) % fitting.len().max(1))?;
        Some((*flow, message.clone()))
    }

    /// One of the latest messages that peers sent.
    fn said(&self, pick: u8) -> Option<(Flow, Bytes)> {
        self.sent.iter().nth_back(usize::from(pick) % self.sent.len().max(1)).cloned()
    }

    fn call_named(&self, call: u8) -> String {
        match self.uid(usize::from(call & 15)).filter(|_| call & 128 != 0) {
            Some(uid) => uid.to_owned(),
            None => format!("call-{}", call & 3),
        }
    }
}

/// Of a time in a script.
fn microseconds(time: u8) -> u64 {
    let units = u64::from(time & 127);
    units * if time & 128 == 0 { 10_000 } else { 4_000_000 }
}

fn picked<T: Copy>(latest: &std::collections::VecDeque<T>, pick: u8) -> Option<T> {
    latest.iter().nth_back(usize::from(pick) % latest.len().max(1)).copied()
}

/// Calls as they go, and some in which much happens.
pub fn seeds() -> Vec<Vec<u8>> {
    scripts().iter().map(|(bits, steps)| written(*bits, steps)).collect()
}

pub fn written(bits: u16, steps: &[Step]) -> Vec<u8> {
    let mut script = bits.to_le_bytes().to_vec();
    steps.iter().for_each(|step| step.write(&mut script));
    script
}

pub fn scripts() -> Vec<(u16, Vec<Step>)> {
    let invite = |call| Step::Request { peer: 0, call, method: 0, target: 0, extra: 1 };
    let inbound = Step::Request { peer: 2, call: 1, method: 0, target: 0, extra: 0 };
    let reply = |code| Step::Reply { pick: 0, code, tag: 0, extra: 0 };
    let (ringing, progress, answer, busy, challenge, unavailable) =
        (reply(1), reply(2), reply(4), reply(16), reply(11), reply(21));
    let ack = Step::Dialog { pick: 0, method: 4, number: 0, extra: 0 };
    let bye = Step::Dialog { pick: 0, method: 3, number: 0, extra: 0 };
    let from_callee = Step::Dialog { pick: 2, method: 3, number: 0, extra: 4 };
    let behave = Step::Behave { count: 3 };
    let fork = Step::Reply { pick: 0, code: 4, tag: 1, extra: 0 };
    let cancel = Step::Cancel { pick: 0, extra: 0 };
    let wait = |time| Step::Wait { time };
    let restart = |when| Step::Restart { when, pause: 9 };
    vec![
        (0, vec![invite(0), ringing, answer, ack, wait(129), bye, behave]),
        (0, vec![invite(0), progress, busy, Step::Acknowledge { pick: 0 }]),
        (
            0x0c03,
            vec![
                invite(0),
                unavailable,
                wait(9),
                ringing,
                answer,
                fork,
                ack,
                Step::VoicemailDrop { call: 0 },
                bye,
                answer,
            ],
        ),
        (0x40, vec![invite(0), ringing, cancel, behave, reply(17), behave]),
        (0x40, vec![invite(0), ringing, wait(130), behave, answer, behave]),
        (
            0,
            vec![
                invite(0),
                challenge,
                behave,
                Step::Request { peer: 0, call: 0, method: 16, target: 0, extra: 0 },
                answer,
            ],
        ),
        (0, vec![inbound, ringing, answer, ack, from_callee, behave, Step::HangUp { call: 1 }]),
        (0, vec![invite(0), answer, restart(0), ack, restart(0), bye, restart(1), behave]),
        (2, vec![restart(3), invite(0), ringing, restart(2), answer, Step::Deadlines { count: 9 }, restart(0)]),
        (0x1003, vec![invite(0), invite(1), invite(2), Step::Drain {}, invite(3), Step::Stop {}]),
        (
            0x7ffc,
            vec![invite(0), ringing, Step::Policy { low: 3, high: 0 }, answer, bye, Step::Late { time: 140 }, behave],
        ),
        (
            0,
            vec![
                Step::Request { peer: 0, call: 0, method: 5, target: 5, extra: 0 },
                Step::Resolved { pick: 0, addresses: 0x84 },
                answer,
                Step::Request { peer: 8, call: 1, method: 0, target: 0x25, extra: 128 },
                Step::Failed { pick: 0 },
                Step::Reflected { pick: 0, how: 1 },
                Step::Unreachable { pick: 0, length: 100 },
                Step::Connected { peer: 0 },
            ],
        ),
        (
            0x4000,
            vec![
                Step::Changed { pick: 0, low: 20, high: 0, how: 1, with: b'\r' },
                invite(0),
                Step::Changed { pick: 0, low: 90, high: 0, how: 2, with: 9 },
                Step::Again { pick: 0x90 },
                Step::Raw { peer: 0, length: 0 },
            ],
        ),
    ]
}
