//! Simple user agents: they write what a caller and a callee send, and keep what a dialog needs.

use super::message::{Msg, Text, reply_to};
use super::policy::SIDECAR;

/// The calling half of a call (RFC 3261 §12.1.2).
#[derive(Clone, Debug)]
pub struct Uac {
    /// Address that it sends from, and that its Via and Contact name.
    pub address: String,
    /// As its Via names it.
    pub transport: &'static str,
    pub call_id: String,
    pub tag: String,
    pub uri: String,
    pub cseq: u32,
    pub to_tag: Option<String>,
    pub target: String,
    pub routes: Vec<String>,
    pub branch: String,
    branches: u32,
}

/// The called half of a call, made of the INVITE that it received.
#[derive(Clone, Debug)]
pub struct Uas {
    pub address: String,
    pub transport: &'static str,
    pub invite: Msg,
    pub tag: String,
    pub cseq: u32,
    pub contact: String,
    branches: u32,
}

impl Uac {
    pub fn new(address: &str, call_id: &str) -> Uac {
        let uri = format!("sip:+15550199@{SIDECAR}");
        Uac {
            address: address.to_owned(),
            transport: "UDP",
            call_id: call_id.to_owned(),
            tag: format!("from-{call_id}"),
            target: uri.clone(),
            uri,
            cseq: 1,
            to_tag: None,
            routes: Vec::new(),
            branch: String::new(),
            branches: 0,
        }
    }

    /// The INVITE, on a new branch each time that it is asked for.
    pub fn invite(&mut self) -> Text {
        self.branch = self.next_branch();
        let start = format!("INVITE {} SIP/2.0", self.uri);
        let text = self.dressed(Text::new(start), &self.branch.clone(), self.cseq, "INVITE", None);
        text.with(format!("Contact: {}", self.contact()))
    }

    /// The INVITE again, as after a challenge: one CSeq higher.
    pub fn retry(&mut self) -> Text {
        self.cseq += 1;
        self.invite().with("Proxy-Authorization: Digest username=\"dialer\"")
    }

    pub fn cancel(&self) -> Text {
        let start = format!("CANCEL {} SIP/2.0", self.uri);
        self.dressed(Text::new(start), &self.branch, self.cseq, "CANCEL", None)
    }

    /// The ACK of a failure, on the INVITE's branch (RFC 3261 §17.1.1.3).
    pub fn ack_of(&self, failure: &Msg) -> Text {
        let start = format!("ACK {} SIP/2.0", self.uri);
        self.dressed(Text::new(start), &self.branch, failure.cseq().0, "ACK", failure.to_tag())
    }

    /// Takes tag, target and route set from a response (RFC 3261 §12.1.2).
    pub fn learn(&mut self, response: &Msg) {
        self.to_tag = response.to_tag().map(str::to_owned);
        if let [contact] = response.all("Contact")[..] {
            self.target = bare(contact).to_owned();
        }
        self.routes = elements(&response.all("Record-Route"));
        self.routes.reverse();
    }

    /// The ACK of a 2xx.
    pub fn ack(&mut self) -> Text {
        let number = self.cseq;
        self.in_dialog("ACK", number)
    }

    /// The next request inside the dialog.
    pub fn request(&mut self, method: &str) -> Text {
        self.cseq += 1;
        let number = self.cseq;
        self.in_dialog(method, number)
    }

    pub fn bye(&mut self) -> Text {
        self.request("BYE")
    }

    pub fn contact(&self) -> String {
        format!("<sip:dialer@{}{}>", self.address, transport_param(self.transport))
    }

    fn in_dialog(&mut self, method: &str, number: u32) -> Text {
        let branch = self.next_branch();
        let mut text = Text::new(format!("{method} {} SIP/2.0", self.target));
        for route in &self.routes {
            text = text.with(format!("Route: {route}"));
        }
        let tag = self.to_tag.clone();
        self.dressed(text, &branch, number, method, tag.as_deref())
    }

    fn dressed(&self, text: Text, branch: &str, number: u32, method: &str, to_tag: Option<&str>) -> Text {
        let to_tag = to_tag.map(|tag| format!(";tag={tag}")).unwrap_or_default();
        text.topped(format!("Via: SIP/2.0/{} {};branch={branch}", self.transport, self.address))
            .with("Max-Forwards: 70")
            .with(format!("From: \"Agent\" <sip:+15550100@{}>;tag={}", self.address, self.tag))
            .with(format!("To: <sip:+15550199@{SIDECAR}>{to_tag}"))
            .with(format!("Call-ID: {}", self.call_id))
            .with(format!("CSeq: {number} {method}"))
    }

    fn next_branch(&mut self) -> String {
        self.branches += 1;
        format!("z9hG4bK-{}{}c{}", self.call_id, self.to_tag.as_deref().unwrap_or("-"), self.branches)
    }
}

impl Uas {
    pub fn new(address: &str, invite: Msg, tag: &str) -> Uas {
        Uas {
            address: address.to_owned(),
            transport: "UDP",
            invite,
            tag: tag.to_owned(),
            cseq: 0,
            contact: format!("<sip:pbx@{address}>"),
            branches: 0,
        }
    }

    /// Another callee that a fork reached with the same INVITE.
    pub fn fork(&self, tag: &str) -> Uas {
        Uas { tag: tag.to_owned(), ..self.clone() }
    }

    /// A response to the INVITE; with a Contact where it makes a dialog.
    pub fn reply(&self, code: u16) -> Text {
        let text = reply_to(&self.invite, code, phrase(code), &self.tag);
        let makes_dialog = (101..300).contains(&code);
        if makes_dialog { text.with(format!("Contact: {}", self.contact)) } else { text.without("Record-Route") }
    }

    /// The next request inside the dialog, the other way (RFC 3261 §12.1.1).
    pub fn request(&mut self, method: &str) -> Text {
        self.cseq += 1;
        self.branches += 1;
        let branch = format!("z9hG4bK-{}-{}{}", self.invite.one("Call-ID"), self.tag, self.branches);
        let target = bare(self.invite.one("Contact"));
        let mut text = Text::new(format!("{method} {target} SIP/2.0"))
            .with(format!("Via: SIP/2.0/{} {};branch={branch}", self.transport, self.address));
        for route in elements(&self.invite.all("Record-Route")) {
            text = text.with(format!("Route: {route}"));
        }
        text.with("Max-Forwards: 70")
            .with(format!("From: {};tag={}", self.invite.one("To"), self.tag))
            .with(format!("To: {}", self.invite.one("From")))
            .with(format!("Call-ID: {}", self.invite.one("Call-ID")))
            .with(format!("CSeq: {} {method}", self.cseq))
    }

    pub fn bye(&mut self) -> Text {
        self.request("BYE")
    }
}

fn transport_param(transport: &str) -> &'static str {
    if transport == "TCP" { ";transport=tcp" } else { "" }
}

/// The URI inside angle brackets.
fn bare(value: &str) -> &str {
    value.split('<').nth(1).and_then(|rest| rest.split('>').next()).unwrap_or(value)
}

/// Comma-separated values, in order.
fn elements(values: &[&str]) -> Vec<String> {
    values.iter().flat_map(|value| value.split(',')).map(|value| value.trim().to_owned()).collect()
}

fn phrase(code: u16) -> &'static str {
    match code {
        100 => "Trying",
        180 => "Ringing",
        183 => "Session Progress",
        200 => "OK",
        302 => "Moved Temporarily",
        401 => "Unauthorized",
        407 => "Proxy Authentication Required",
        480 => "Temporarily Unavailable",
        486 => "Busy Here",
        487 => "Request Terminated",
        503 => "Service Unavailable",
        603 => "Decline",
        _ => "Something",
    }
}
