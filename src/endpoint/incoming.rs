//! Requests as they arrive: whose they are, whether they are known, and who treats them.

use std::net::SocketAddr;

use super::{Endpoint, Notice, Output, OwnRoutes, Reply, Transmit};
use crate::arena::Handle;
use crate::flow::{Flow, Side};
use crate::policy::{Strangers, Target};
use crate::proxy::{forward, make, route};
use crate::sip::{Message, Method, Name, Rejected, Start, scheme};
use crate::stats::{Refused, Way};
use crate::text::{Line, Put};
use crate::transaction::{Branch, Key, server};

/// A new request, past the door.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<'a> {
    pub tx: Handle,
    pub key: Key,
    pub flow: &'a Flow,
    pub side: Side,
    pub message: &'a Message,
    /// Of Call-ID and tags.
    pub dialog: Key,
    pub own_routes: OwnRoutes,
    /// Of the Via, for loops and for our branch.
    pub loop_hash: u64,
    /// The code that it gets, whatever it asks for.
    pub refused: Option<u16>,
}

impl Endpoint {
    pub(super) fn on_request(&mut self, flow: &Flow, message: &Message) {
        let method = message.method();
        let Some(side) = self.side_of(flow).or_else(|| self.side_of_dialog(flow, message)) else {
            return self.on_stranger(flow, message);
        };
        self.stats.on_request(method, side, Way::Received);
        let key = self.keys.server(message, side, false);
        let known = self.server_txs.by_key(key);
        match (method, known) {
            (Method::Ack, Some(tx)) if !self.on_ack_of(tx) => {}
            (Method::Ack, _) => self.forward_ack(flow, side, key, message),
            (_, Some(tx)) => self.on_repeated_request(tx, message),
            (Method::Cancel, None) => self.on_cancel(flow, side, key, message),
            (_, None) => self.on_new_request(flow, side, key, message, None),
        }
    }

    pub(super) fn on_broken(&mut self, flow: Flow, rejected: &Rejected) {
        let side = self.side_of(&flow);
        self.stats.on_rejected(rejected.reason.label());
        self.push(Output::Notice(Notice {
            remote: flow.remote,
            reason: rejected.reason.label(),
            detail: rejected.detail,
        }));
        let (Some(side), Some(answerable)) = (side, &rejected.answerable) else { return };
        let invite = rejected.beyond_limits().filter(|request| request.method() == Method::Invite);
        if let Some(invite) = invite.filter(|invite| invite.to_tag().is_none()) {
            // It can be read: it is a call as any other.
            self.stats.on_request(Method::Invite, side, Way::Received);
            let key = self.keys.server(&invite, side, false);
            return match self.server_txs.by_key(key) {
                Some(tx) => self.on_repeated_request(tx, &invite),
                None => self.on_new_request(&flow, side, key, &invite, Some(rejected.code)),
            };
        }
        let tag = self.keys.name(&answerable.raw);
        let made = make::Response { code: rejected.code, phrase: None, tag, extra: "" };
        let bytes = make::response_to_broken(answerable, flow.remote, made, self.out.piece());
        let mut hop = flow.reply();
        if flow.connection.is_none() && answerable.via.rport.is_none() {
            hop.remote.set_port(answerable.via.port.unwrap_or(route::DEFAULT_PORT));
        }
        self.stats.on_response(rejected.code, side, Way::Sent);
        self.transmit(Transmit { hop, bytes, side, owner: None, connect_timeout: None });
    }

    /// Whose flow it is by configuration: on a connection that we opened, its target's.
    pub(crate) fn side_of(&self, flow: &Flow) -> Option<Side> {
        flow.opened_for.or_else(|| self.policy.source(flow.remote).map(|source| source.side))
    }

    /// Something was refused: counted, and told at most once per source and second.
    pub(crate) fn refuse(&mut self, flow: &Flow, why: Refused) {
        self.stats.on_rejected(why.label());
        let detail = match why {
            Refused::Stranger => "not from a configured source",
            Refused::Scanner => "not from a configured source, and names a tool that looks for SIP servers",
            _ => return,
        };
        self.push(Output::Notice(Notice { remote: flow.remote, reason: why.label(), detail }));
    }

    /// What a new request must pass (RFC 3261 §16.3); else the code that it gets, and header lines.
    pub(crate) fn validate(&self, message: &Message) -> Result<(), (u16, String)> {
        let is_known_scheme = match message.sip_uri() {
            Some(uri) => !uri.secure,
            None => scheme(message.uri()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"tel")),
        };
        if !is_known_scheme {
            return Err((416, String::new()));
        }
        if forward::max_forwards(message) == Some(0) {
            return Err((483, String::new()));
        }
        if message.first(Name::ProxyRequire).is_none() {
            return Ok(());
        }
        let unsupported = message
            .elements(Name::ProxyRequire)
            .map(|element| String::from_utf8_lossy(message.bytes(element.range)).into_owned())
            .collect::<Vec<_>>();
        if !unsupported.is_empty() {
            return Err((420, format!("Unsupported: {}\r\n", unsupported.join(", "))));
        }
        Ok(())
    }

    /// The same for an INVITE that begins a call.
    pub(crate) fn validate_call(&self, at: &Arrival<'_>) -> Result<(), (u16, String)> {
        match at.refused {
            Some(code) => Err((code, String::new())),
            None => self.validate(at.message),
        }
    }

    pub(crate) fn dialer_target(&self) -> Option<&Target> {
        self.policy.dialer.target.as_ref()
    }

    /// `refused`: the code that it gets at once, being too large.
    fn on_new_request(&mut self, flow: &Flow, side: Side, key: Key, message: &Message, refused: Option<u16>) {
        let dialog = self.keys.dialog_of(message);
        // Inside a dialog whose callee gave no tag there is none either.
        let is_untagged = message.to_tag().is_none();
        let is_initial = is_untagged && !(self.calls.has_untagged() && self.calls.any_by_dialog(dialog).is_some());
        if !self.has_room(flow, message, is_initial) {
            return;
        }
        if is_initial
            && message.method() == Method::Invite
            && let Some(limit) = self.limit_of_new_call(flow, side, dialog, message)
        {
            let tx = self.add_server(key, flow, side, message, server::User::Local);
            let own_routes = OwnRoutes::default();
            let at = Arrival { tx, key, flow, side, message, dialog, own_routes, loop_hash: 0, refused };
            return self.refuse_call(limit, &at);
        }
        let unrouted = self.unroute_strictly(message, flow.local);
        let message = unrouted.as_ref().unwrap_or(message);
        let own_routes = self.own_routes(message, flow.local);
        let loop_hash = self.loop_hash_of(message, dialog, side, own_routes);
        let tx = self.add_server(key, flow, side, message, server::User::Local);
        let at = Arrival { tx, key, flow, side, message, dialog, own_routes, loop_hash, refused };
        if message.method() == Method::Invite {
            self.reply_to(tx, message, Reply { code: 100, ..Reply::default() });
        }
        let hops = forward::max_forwards(message);
        if message.first(Name::MaxForwards).is_some() && hops.is_none_or(|hops| hops > 255) {
            self.stats.on_rejected(Refused::BadMaxForwards.label());
            return self.reply_to(
                tx,
                message,
                Reply { code: 400, phrase: Some("Bad Max-Forwards"), ..Reply::default() },
            );
        }
        if is_looping(message, loop_hash) {
            self.stats.on_rejected(Refused::Loop.label());
            return self.reply_to(tx, message, Reply { code: 482, ..Reply::default() });
        }
        match message.method() {
            Method::Invite if is_initial => self.on_initial_invite(&at),
            _ if let Some(code) = refused => self.reply_to(tx, message, Reply { code, ..Reply::default() }),
            Method::Options if self.is_for_us(message, flow.local) => self.answer_options(&at),
            _ => match self.validate(message) {
                Err((code, extra)) => self.reply_to(tx, message, Reply { code, phrase: None, extra: &extra }),
                Ok(()) if is_initial => self.relay_out_of_dialog(&at),
                Ok(()) => self.relay_in_dialog(&at),
            },
        }
    }

    /// Whether there is room for another transaction. Without, a request outside of a dialog gets 503; new calls are refused
    /// up to one and a half times the limit, what belongs to open ones is taken up to twice.
    fn has_room(&mut self, flow: &Flow, message: &Message, is_initial: bool) -> bool {
        let (open, limit) = (self.transactions(), self.policy.limits.transactions);
        if open < limit {
            return true;
        }
        let is_refused = is_initial && message.method() != Method::Invite;
        let most = if is_initial { limit.saturating_add(limit / 2) } else { limit.saturating_mul(2) };
        if !is_refused && open < most {
            return true;
        }
        self.stats.on_rejected(Refused::NoRoom.label());
        if is_refused {
            self.reply_without_state(flow, message, Reply { code: 503, phrase: None, extra: RETRY_SOON });
        }
        false
    }

    /// Transactions of the kind of which there are more.
    pub(crate) fn transactions(&self) -> usize {
        self.server_txs.len().max(self.client_txs.len())
    }

    /// Answers as RFC 3261 §8.2.7 has it: nothing is remembered.
    fn reply_without_state(&mut self, flow: &Flow, message: &Message, reply: Reply<'_>) {
        let Reply { code, phrase, extra } = reply;
        let side = self.side_of(flow);
        // What a stranger's Via names may be somebody who has asked for nothing.
        let hop = if side.is_some() { super::wire::reply_hop(message, flow) } else { flow.reply() };
        let side = side.unwrap_or(Side::Dialer);
        let tag = self.keys.tag(self.keys.server(message, side, false));
        let made = make::Response { code, phrase, tag, extra };
        let bytes = make::response(message, flow.remote, made, self.out.piece());
        self.transmit(Transmit { hop, bytes, side, owner: None, connect_timeout: None });
    }

    /// A CANCEL is answered here, whatever it meets (RFC 3261 §16.10). Only the side that asked can take it back.
    fn on_cancel(&mut self, flow: &Flow, side: Side, key: Key, message: &Message) {
        let invite = self.server_txs.by_key(self.keys.server(message, side, true));
        let found = invite
            .and_then(|invite| self.server_txs.get(invite).map(|server| (invite, server.user, server.is_final())));
        let Some((invite, user, is_final)) = found else {
            self.stats.on_rejected(Refused::UnmatchedCancel.label());
            return self.reply_without_state(flow, message, Reply { code: 481, ..Reply::default() });
        };
        let reasons = reason_fields(message);
        let tx = self.add_server(key, flow, side, message, server::User::Local);
        self.reply_to(tx, message, Reply { code: 200, ..Reply::default() });
        if is_final {
            return;
        }
        match user {
            server::User::Call(call) => self.on_caller_cancel(call, reasons.into()),
            server::User::Relay(Some(client)) => self.cancel_client(client, &reason_lines(&reasons)),
            server::User::Relay(None) => self.drop_pending_of(invite),
            server::User::Local => {}
        }
    }

    fn on_stranger(&mut self, flow: &Flow, message: &Message) {
        if is_scanner(message) {
            // An answer is what it looks for.
            return self.refuse(flow, Refused::Scanner);
        }
        self.refuse(flow, Refused::Stranger);
        if self.policy.strangers == Strangers::Forbid && message.method() != Method::Ack {
            self.reply_without_state(flow, message, Reply { code: 403, ..Reply::default() });
        }
    }

    /// A request inside a dialog may come from an address that its side named there.
    fn side_of_dialog(&self, flow: &Flow, message: &Message) -> Option<Side> {
        let (call, dialog) = self.calls.any_by_dialog(self.keys.dialog_of(message))?;
        let call = self.calls.get(call)?;
        let dialog = call.dialog(dialog)?;
        [call.caller_side(), call.callee_side()].into_iter().find(|side| call.names(dialog, *side, flow.remote.ip()))
    }

    /// Undoes what a strict router did (RFC 3261 §16.4): the last Route becomes the Request-URI. `None` where none did.
    pub(crate) fn unroute_strictly(&mut self, message: &Message, local: SocketAddr) -> Option<Message> {
        if !self.ourselves(&self.policy, local).are_strictly_routed(message) {
            return None;
        }
        let (Some(last), Start::Request { uri, .. }) = (message.elements(Name::Route).last(), message.start()) else {
            return None;
        };
        let target = route::address(message.bytes(last.range.clone()));
        self.edits.clear();
        self.edits.replace(uri.clone(), target);
        self.edits.remove_element(message, &last);
        let bytes = self.edits.apply(message, self.out.piece());
        Self::own_request(&bytes)
    }

    fn is_for_us(&self, message: &Message, local: SocketAddr) -> bool {
        let ourselves = self.ourselves(&self.policy, local);
        let is_for_us = message.sip_uri().is_some_and(|uri| uri.user.is_none() && ourselves.are_in(&uri));
        is_for_us || forward::max_forwards(message) == Some(0)
    }

    fn answer_options(&mut self, at: &Arrival<'_>) {
        let any_server_is_up =
            self.policy.servers.iter().any(|server| !self.health_of(server.id).is_known_down(self.now.mono));
        if self.is_draining || !any_server_is_up {
            return self.reply_to(at.tx, at.message, Reply { code: 503, phrase: None, extra: RETRY_SOON });
        }
        let extra = "Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, PRACK, UPDATE, INFO, REFER, SUBSCRIBE, NOTIFY, MESSAGE, REGISTER, PUBLISH\r\nAccept: application/sdp\r\n";
        self.reply_to(at.tx, at.message, Reply { code: 200, phrase: None, extra });
    }
}

/// What a 503 of ours asks for: seconds that a dialer waits before it tries again.
pub(crate) const RETRY_SOON: &str = "Retry-After: 5\r\n";

/// What tools that look for SIP servers call themselves, where they do not care to hide it: parts of a User-Agent, in
/// lower case.
const SCANNERS: &[&str] = &[
    "friendly-scanner",
    "gulp",
    "iwar",
    "pplsip",
    "sip-scan",
    "sipcli",
    "siparmyknife",
    "siper",
    "sipsak",
    "sipvicious",
    "sivus",
    "smap",
    "sundayddr",
    "vaxsipuseragent",
    "voiper",
];

fn is_scanner(message: &Message) -> bool {
    message.first(Name::UserAgent).is_some_and(|field| {
        let agent = String::from_utf8_lossy(message.value(field)).to_ascii_lowercase();
        SCANNERS.iter().any(|scanner| agent.contains(scanner))
    })
}

/// Values of the Reason fields as they stand.
pub(crate) fn reason_fields(message: &Message) -> Vec<Box<str>> {
    let text = |field| String::from_utf8_lossy(message.value(field)).into_owned().into_boxed_str();
    message.all(Name::Reason).map(text).collect()
}

/// The same as whole lines.
pub(crate) fn reason_lines(reasons: &[Box<str>]) -> String {
    reasons.iter().fold(String::new(), |lines, reason| lines + "Reason: " + reason + "\r\n")
}

fn is_looping(message: &Message, loop_hash: u64) -> bool {
    // All but the topmost: that is the sender's.
    message.has_more_than_one_via()
        && message.elements(Name::Via).skip(1).any(|element| {
            crate::sip::Via::parse_at(message.raw(), element)
                .and_then(|via| Branch::read(message.bytes(via.branch?)))
                .is_some_and(|branch| branch.loop_hash() == loop_hash)
        })
}

/// The Route values behind our own.
pub(crate) fn routes_behind(message: &Message, own: OwnRoutes) -> Line<128> {
    let mut all = Line::new();
    for element in message.elements(Name::Route).skip(own.count) {
        all.put(message.bytes(element.range));
        all.put(b"\n");
    }
    all
}
