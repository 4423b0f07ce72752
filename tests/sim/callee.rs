//! The called end: RFC 3261 §8.2, §9.2, §13.3, §15.1, with its own mistakes.

use std::net::SocketAddr;

use super::plan::{CalleePlan, OnCancel};
use super::{Job, Sim, Unacknowledged};
use crate::support::{DIALER, Msg, Text, Uas, reply_to};

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    Reply { code: u16, fork: usize },
    HangUp(usize),
    Ask(usize, &'static str),
}

/// Whoever an INVITE without To tag came to.
pub struct Callee {
    pub call: usize,
    pub plan: CalleePlan,
    pub uas: Uas,
    pub dialogs: Vec<CalleeDialog>,
    /// Code of its final response.
    pub code: Option<u16>,
}

pub struct CalleeDialog {
    pub uas: Uas,
    pub is_over: bool,
}

impl Sim {
    pub fn on_request(&mut self, to: SocketAddr, msg: &Msg) {
        match msg.kind() {
            "INVITE" if msg.to_tag().is_none() => self.ring(to, msg),
            "CANCEL" => self.on_cancel(to, msg),
            "BYE" => self.on_bye(to, msg),
            _ => self.on_other(to, msg),
        }
    }

    /// An ACK: of a failure by its branch, of a 2xx by Call-ID, tag and CSeq.
    pub fn on_ack(&mut self, msg: &Msg) {
        let tag = msg.to_tag().unwrap_or_default();
        let of_failure = format!("{} {tag}", msg.branch());
        let of_answer = answer_key(msg, tag);
        for key in [of_failure, of_answer] {
            if let Some(waiting) = self.unacknowledged.get_mut(&key) {
                waiting.is_acknowledged = true;
            }
        }
    }

    pub fn on_callee(&mut self, at: usize, act: Act) {
        match act {
            Act::Reply { code, fork } => self.reply(at, code, fork),
            Act::HangUp(dialog) => self.callee_bye(at, dialog),
            Act::Ask(dialog, method) => {
                let callee = &mut self.callees[at];
                let of = &mut callee.dialogs[dialog];
                if !of.is_over {
                    let text = of.uas.request(method);
                    let (call, from) = (callee.call, callee.uas.address.clone());
                    self.request(call, from, text);
                }
            }
        }
    }

    /// A final response is sent again until its ACK comes; a 2xx without one is followed by a BYE (§13.3.1.4).
    pub fn repeat(&mut self, key: String, interval: u64, until: u64) {
        let Some(waiting) = self.unacknowledged.get(&key) else { return };
        if waiting.is_acknowledged {
            return;
        }
        let (from, text) = (waiting.from.clone(), waiting.text.clone());
        if self.now < until {
            self.send(&from, &text);
            let interval = (interval * 2).min(4_000);
            return self.after(interval, Job::Repeat { key, interval, until });
        }
        let msg = Msg::new(text);
        let given_up = self.callees.iter().position(|callee| {
            callee.dialogs.iter().any(|dialog| {
                msg.code() < 300
                    && Some(&*dialog.uas.tag) == msg.to_tag()
                    && dialog.uas.invite.one("Call-ID") == msg.one("Call-ID")
            })
        });
        if let Some(at) = given_up {
            let dialog = self.callees[at].dialogs.iter().position(|dialog| Some(&*dialog.uas.tag) == msg.to_tag());
            self.callee_bye(at, dialog.unwrap());
        }
    }

    fn ring(&mut self, to: SocketAddr, msg: &Msg) {
        let Some(call) = msg.one("Call-ID").strip_prefix("sim-").map(|call| call.parse::<usize>().unwrap()) else {
            return;
        };
        let attempt = self.callees.iter().filter(|callee| callee.call == call).count();
        let plan = CalleePlan::new(&mut self.rng, attempt);
        let mut uas = Uas::new(&to.to_string(), msg.clone(), &format!("t{}", self.callees.len()));
        if plan.contact_is_a_name && to != DIALER.parse().unwrap() && to.to_string().starts_with("10.0.2.10:") {
            uas.contact = "<sip:pbx@pbx-a.example>".into();
        }
        let at = self.callees.len();
        for (after, code, fork) in plan.replies.clone() {
            self.after(after, Job::Callee { callee: at, act: Act::Reply { code, fork } });
        }
        self.callees.push(Callee { call, plan, uas, dialogs: Vec::new(), code: None });
    }

    fn reply(&mut self, at: usize, code: u16, fork: usize) {
        let callee = &mut self.callees[at];
        let more_2xx = code == 200 && callee.code == Some(200) && callee.dialogs.len() == fork;
        if callee.code.is_some() && !more_2xx {
            return;
        }
        let tag = format!("{}f{fork}", callee.uas.tag);
        let uas = callee.uas.fork(&tag);
        let mut text = uas.reply(code);
        if let Some(seconds) = callee.plan.session_expires.filter(|_| code == 200) {
            text = text.with(format!("Session-Expires: {seconds}"));
        }
        if callee.plan.retry_after && code == 503 {
            text = text.with("Retry-After: 3");
        }
        if let Some(reason) = callee.plan.reason.filter(|_| code >= 300 || code == 183) {
            text = text.with(format!("Reason: {reason}"));
        }
        if code == 183 {
            text = text.body("v=0\r\n");
        }
        let (from, plan) = (callee.uas.address.clone(), callee.plan.clone());
        if code >= 200 {
            callee.code = Some(code);
        }
        if code == 200 {
            callee.dialogs.push(CalleeDialog { uas, is_over: false });
            if let Some(after) = plan.hangs_up {
                self.after(after, Job::Callee { callee: at, act: Act::HangUp(fork) });
            }
            if let (0, Some((after, method))) = (fork, plan.asks) {
                self.after(after, Job::Callee { callee: at, act: Act::Ask(fork, method) });
            }
        }
        let invite = self.callees[at].uas.invite.clone();
        self.answer(&from, &invite, text);
    }

    /// Answers a request, and goes on answering it.
    fn answer(&mut self, from: &str, request: &Msg, text: Text) {
        let text = text.to_string();
        let msg = Msg::new(text.clone());
        let key = (from.parse().unwrap(), request.branch().to_owned(), request.kind().to_owned());
        self.answers.insert(key, Some(text.clone()));
        self.send(from, &text);
        if request.kind() == "INVITE" && msg.code() >= 200 {
            let tag = msg.to_tag().unwrap_or_default();
            let key = if msg.code() < 300 { answer_key(&msg, tag) } else { format!("{} {tag}", request.branch()) };
            let waiting = Unacknowledged { from: from.to_owned(), text, is_acknowledged: false };
            self.unacknowledged.insert(key.clone(), waiting);
            let until = self.now + 32_000;
            self.after(500, Job::Repeat { key, interval: 500, until });
        }
    }

    fn on_cancel(&mut self, to: SocketAddr, msg: &Msg) {
        let from = to.to_string();
        let found = self
            .callees
            .iter()
            .position(|callee| callee.uas.address == from && callee.uas.invite.branch() == msg.branch());
        let Some(at) = found else {
            return self.answer(&from, msg, reply_to(msg, 481, "Nothing To Cancel", "none"));
        };
        let on_cancel = self.callees[at].plan.on_cancel;
        if on_cancel == OnCancel::Ignore {
            return;
        }
        self.answer(&from, msg, reply_to(msg, 200, "OK", "cancel"));
        match on_cancel {
            OnCancel::Terminate => self.reply(at, 487, 0),
            OnCancel::Answer => self.reply(at, 200, 0),
            OnCancel::Acknowledge | OnCancel::Ignore => {}
        }
    }

    fn on_bye(&mut self, to: SocketAddr, msg: &Msg) {
        let from = to.to_string();
        let call_id = msg.one("Call-ID");
        // As the callee's peer wrote it, or the caller's.
        let mut found = None;
        for (at, callee) in self.callees.iter_mut().enumerate() {
            for dialog in &mut callee.dialogs {
                let is_it = dialog.uas.address == from && Some(&*dialog.uas.tag) == msg.to_tag();
                if is_it && dialog.uas.invite.one("Call-ID") == call_id {
                    dialog.is_over = true;
                    found = Some(at);
                }
            }
            let is_early =
                callee.code.is_none() && callee.uas.address == from && callee.uas.invite.one("Call-ID") == call_id;
            if is_early && msg.to_tag().is_some_and(|tag| tag.starts_with(&format!("{}f", callee.uas.tag))) {
                found = Some(at);
            }
        }
        let caller = self.callers.iter_mut().find(|caller| {
            caller.uac.address == from && caller.uac.call_id == call_id && Some(&*caller.uac.tag) == msg.to_tag()
        });
        if let Some(caller) = caller {
            caller.byes.extend(msg.sender_tag().map(str::to_owned));
            let ended = caller.dialogs.iter_mut().filter(|dialog| dialog.uac.to_tag.as_deref() == msg.sender_tag());
            ended.for_each(|dialog| dialog.is_over = true);
        }
        let Some(at) = found else { return self.answer(&from, msg, reply_to(msg, 200, "OK", "")) };
        let code = self.callees[at].plan.on_bye;
        if code != 0 {
            self.answer(&from, msg, reply_to(msg, code, "So", ""));
        }
        if self.callees[at].code.is_none() {
            self.reply(at, 487, 0);
        }
    }

    fn on_other(&mut self, to: SocketAddr, msg: &Msg) {
        let code = self.rng.pick(&[200, 200, 200, 488, 491, 500, 0]);
        if code != 0 {
            self.answer(&to.to_string(), msg, reply_to(msg, code, "So", "x"));
        }
    }

    fn callee_bye(&mut self, at: usize, dialog: usize) {
        let callee = &mut self.callees[at];
        let of = &mut callee.dialogs[dialog];
        if std::mem::replace(&mut of.is_over, true) {
            return;
        }
        let text = of.uas.bye();
        let (call, from) = (callee.call, callee.uas.address.clone());
        self.request(call, from, text);
    }
}

fn answer_key(msg: &Msg, tag: &str) -> String {
    format!("{} {tag} {}", msg.one("Call-ID"), msg.cseq().0)
}
