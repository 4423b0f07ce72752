//! The calling end: RFC 3261 §8.1, §9.1, §13.2, §15.1 as far as it goes, with its own mistakes.

use std::net::SocketAddr;

use super::plan::CallerPlan;
use super::rng::Rng;
use super::{Job, Request, Sim};
use crate::support::{DIALER, Msg, PBX_A, SIDECAR, Text, Uac};

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    Call,
    /// Gives up on the INVITE with this CSeq.
    Cancel(u32),
    Retry,
    HangUp(usize),
    Ask(usize, &'static str),
}

pub struct Caller {
    pub plan: CallerPlan,
    pub uac: Uac,
    pub dialogs: Vec<CallerDialog>,
    /// Codes of the final responses that it saw to its INVITEs, in order, each once.
    pub finals: Vec<(String, u16)>,
    pub is_cancelled: bool,
    /// Callee tags of BYEs, which may overtake the answer.
    pub byes: Vec<String>,
    has_heard: bool,
    invites: u32,
    invited_at: u64,
}

pub struct CallerDialog {
    pub uac: Uac,
    pub is_over: bool,
    ack: Option<String>,
}

impl Caller {
    pub fn new(call: usize, rng: &mut Rng) -> Caller {
        let plan = CallerPlan::new(rng);
        let uac = Uac::new(if plan.is_inbound { PBX_A } else { DIALER }, &format!("sim-{call}"));
        Caller {
            plan,
            uac,
            dialogs: Vec::new(),
            finals: Vec::new(),
            is_cancelled: false,
            byes: Vec::new(),
            has_heard: false,
            invites: 0,
            invited_at: 0,
        }
    }
}

impl Sim {
    pub fn on_caller(&mut self, call: usize, act: Act) {
        match act {
            Act::Call | Act::Retry => self.invite(call, act == Act::Retry),
            Act::Cancel(cseq) => self.give_up(call, cseq),
            Act::HangUp(dialog) => self.caller_bye(call, dialog),
            Act::Ask(dialog, method) => {
                let of = &mut self.callers[call].dialogs[dialog];
                if !of.is_over {
                    let text = of.uac.request(method);
                    let contact = format!("Contact: {}", of.uac.contact());
                    self.caller_request(call, text.with(contact));
                }
            }
        }
    }

    /// A response on its way back to whoever asked.
    pub fn on_response(&mut self, to: SocketAddr, msg: &Msg) {
        let key = (msg.branch().to_owned(), msg.cseq().1.to_owned());
        let Some(request) = self.requests.get_mut(&key) else { return };
        assert_eq!(request.from, to.to_string(), "a response that went astray");
        let (call, from) = (request.call, request.from.clone());
        let is_initial = msg.cseq().1 == "INVITE" && !Msg::new(request.text.clone()).one("To").contains(";tag=");
        if msg.code() >= 200 || msg.cseq().1 == "INVITE" {
            request.is_answered = true;
        }
        if is_initial {
            return self.on_invite_response(call, msg);
        }
        if msg.cseq().1 == "INVITE" && msg.code() >= 200 {
            let invite = Msg::new(request.text.clone());
            let text = ack_of(&invite, msg, self.serial);
            self.send(&from, &text.to_string());
        }
    }

    fn invite(&mut self, call: usize, is_retry: bool) {
        let caller = &mut self.callers[call];
        let mut text = match is_retry {
            true if !caller.plan.retries_with_same_cseq => caller.uac.retry(),
            _ => caller.uac.invite(),
        };
        caller.has_heard = false;
        caller.invites += 1;
        caller.invited_at = self.now;
        if caller.plan.is_progressive {
            text = text.with("Dialing-Mode: progressive");
        }
        if let Some(seconds) = caller.plan.no_answer_header {
            text = text.with(format!("No-Answer-Timeout: {seconds}"));
        }
        if caller.plan.is_large {
            text = text.body(&"a=candidate\r\n".repeat(120));
        }
        let cancels = caller.plan.cancels.filter(|_| caller.invites == 1 || caller.plan.retries_with_same_cseq);
        let cseq = caller.uac.cseq;
        if let Some((after, _)) = cancels {
            self.after(after, Job::Caller { call, act: Act::Cancel(cseq) });
        }
        self.caller_request(call, text);
    }

    fn give_up(&mut self, call: usize, cseq: u32) {
        let caller = &mut self.callers[call];
        let has_final = caller.finals.iter().any(|(branch, _)| *branch == caller.uac.branch);
        let has_timed_out = !caller.has_heard && self.now > caller.invited_at + 32_000;
        if has_final || has_timed_out || caller.uac.cseq != cseq || caller.is_cancelled {
            return;
        }
        if let (true, Some(tag)) = (caller.plan.cancels_by_bye, caller.uac.to_tag.clone()) {
            // An answer that crosses it is over at once.
            caller.byes.push(tag);
            let mut early = caller.uac.clone();
            let text = early.bye();
            return self.caller_request(call, text);
        }
        if !caller.has_heard {
            // RFC 3261 §9.1: not before a 1xx.
            return self.after(100, Job::Caller { call, act: Act::Cancel(cseq) });
        }
        caller.is_cancelled = true;
        let reason = caller.plan.cancels.and_then(|(_, reason)| reason);
        let mut text = caller.uac.cancel();
        if let Some(reason) = reason {
            text = text.with(format!("Reason: {reason}"));
        }
        self.caller_request(call, text);
    }

    fn on_invite_response(&mut self, call: usize, msg: &Msg) {
        let caller = &mut self.callers[call];
        let is_current = msg.branch() == caller.uac.branch;
        caller.has_heard |= is_current;
        match msg.code() {
            ..200 => {
                if msg.to_tag().is_some() && is_current {
                    let tag = caller.uac.to_tag.take();
                    caller.uac.learn(msg);
                    if caller.plan.pracks && tag.is_none() && msg.code() == 183 {
                        let mut early = caller.uac.clone();
                        let text = early.request("PRACK");
                        self.caller_request(call, text);
                    }
                }
            }
            200..300 => self.on_answer(call, msg),
            code => {
                let mut uac = caller.uac.clone();
                uac.branch = msg.branch().to_owned();
                let ack = uac.ack_of(msg);
                let address = uac.address.clone();
                let seen = (msg.branch().to_owned(), code);
                let is_new = !caller.finals.contains(&seen);
                if is_new {
                    let other = caller.finals.iter().find(|(branch, _)| *branch == seen.0);
                    assert!(other.is_none(), "{other:?} and then {seen:?}: two final responses to one INVITE");
                    caller.finals.push(seen);
                }
                self.send(&address, &ack.to_string());
                let caller = &mut self.callers[call];
                let may_retry = is_new && is_current && !caller.is_cancelled && caller.invites < 4;
                if may_retry && matches!(code, 401 | 407 | 422) && caller.plan.retries_challenges {
                    let delay = self.rng.within(0, 3_000);
                    caller.uac.to_tag = None;
                    self.after(delay, Job::Caller { call, act: Act::Retry });
                } else if may_retry && (300..400).contains(&code) && caller.plan.follows_redirects {
                    caller.uac.cseq += 1;
                    caller.uac.to_tag = None;
                    self.after(200, Job::Caller { call, act: Act::Call });
                }
            }
        }
    }

    fn on_answer(&mut self, call: usize, msg: &Msg) {
        let caller = &mut self.callers[call];
        let known = caller.dialogs.iter().find(|dialog| dialog.uac.to_tag.as_deref() == msg.to_tag());
        if let Some(known) = known {
            let (ack, address) = (known.ack.clone(), known.uac.address.clone());
            if let Some(ack) = ack {
                self.send(&address, &ack);
            }
            return;
        }
        caller.finals.push((msg.branch().to_owned(), msg.code()));
        let mut uac = caller.uac.clone();
        uac.cseq = msg.cseq().0;
        uac.learn(msg);
        if caller.plan.keeps_no_route {
            uac.routes.clear();
            uac.target = format!("sip:service@{SIDECAR}");
        }
        let ack = caller.plan.acknowledges.then(|| uac.ack().to_string());
        let is_wanted = caller.dialogs.is_empty() && !caller.is_cancelled;
        let (address, plan, dialog) = (uac.address.clone(), caller.plan.clone(), caller.dialogs.len());
        let is_over = uac.to_tag.as_ref().is_some_and(|tag| caller.byes.contains(tag));
        caller.dialogs.push(CallerDialog { uac, is_over, ack: ack.clone() });
        if let Some(ack) = ack {
            self.send(&address, &ack);
        }
        let hangs_up = if is_wanted { plan.hangs_up } else { Some(0) };
        if let Some(after) = hangs_up {
            self.after(after, Job::Caller { call, act: Act::HangUp(dialog) });
        }
        if let (true, Some((after, method))) = (is_wanted, plan.asks) {
            self.after(after, Job::Caller { call, act: Act::Ask(dialog, method) });
        }
    }

    fn caller_bye(&mut self, call: usize, dialog: usize) {
        let caller = &mut self.callers[call];
        let of = &mut caller.dialogs[dialog];
        if std::mem::replace(&mut of.is_over, true) {
            return;
        }
        let mut bye = of.uac.bye();
        if caller.plan.tells_drop_on_bye {
            bye = bye.with("Voicemail-Drop: true");
        }
        self.caller_request(call, bye);
    }

    fn caller_request(&mut self, call: usize, text: Text) {
        let from = self.callers[call].uac.address.clone();
        self.request(call, from, text);
    }

    /// Sends a request and sees to its retransmission.
    pub fn request(&mut self, call: usize, from: String, text: Text) {
        let text = text.to_string();
        let msg = Msg::new(text.clone());
        let (branch, method) = (msg.branch().to_owned(), msg.kind().to_owned());
        self.send(&from, &text);
        let until = self.now + 32_000;
        self.after(500, Job::Retransmit { branch: branch.clone(), method: method.clone(), interval: 500, until });
        self.requests.insert((branch, method), Request { call, from, text, is_answered: false });
    }

    /// Timers A and E.
    pub fn retransmit(&mut self, branch: String, method: String, interval: u64, until: u64) {
        let Some(request) = self.requests.get(&(branch.clone(), method.clone())) else { return };
        if request.is_answered || self.now >= until {
            return;
        }
        let (from, text) = (request.from.clone(), request.text.clone());
        self.send(&from, &text);
        let interval = if method == "INVITE" { interval * 2 } else { (interval * 2).min(4_000) };
        self.after(interval, Job::Retransmit { branch, method, interval, until });
    }
}

/// The ACK of a final response to a re-INVITE.
fn ack_of(invite: &Msg, response: &Msg, serial: u64) -> Text {
    let mut text = Text::new(invite.start().replacen("INVITE", "ACK", 1));
    let via = invite.one("Via");
    let via = if response.code() < 300 { format!("{}-ack{serial}", via) } else { via.to_owned() };
    text = text.with(format!("Via: {via}"));
    for route in invite.all("Route") {
        text = text.with(format!("Route: {route}"));
    }
    text.with("Max-Forwards: 70")
        .with(format!("From: {}", invite.one("From")))
        .with(format!("To: {}", response.one("To")))
        .with(format!("Call-ID: {}", invite.one("Call-ID")))
        .with(format!("CSeq: {} ACK", invite.cseq().0))
}
