//! Requests that begin no call: inside a dialog along its route set, outside of one to a server.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::route::{self, Host};
use super::target::{ServerHealth, server_order};
use crate::arena::Handle;
use crate::call::{DialogState, Outgoing, contact, q850_of, rewritten_uri};
use crate::endpoint::{Arrival, Deadline, Endpoint, Output, OwnRoutes, QueryId, Reply, Request};
use crate::flow::{Flow, Hop, Side, Transport};
use crate::kept::Kept;
use crate::outcome::{Anomaly, EndCause};
use crate::policy::{Listener, ServerId};
use crate::proxy::forward;
use crate::sip::{Message, Method, Name, Start};
use crate::stats::Refused;
use crate::text::Line;
use crate::transaction::client::{self, Cancel};
use crate::transaction::{Key, server};

/// Longest time that a request waits for the name of its next hop.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(5);
/// Requests that wait for a name at the same time.
const MOST_PENDING: usize = 1_000;

/// A request that waits for a name to be resolved.
#[derive(Debug)]
pub(crate) struct Pending {
    relayed: Relayed,
    message: Message,
}

/// Where a request goes.
#[derive(Debug)]
struct Way {
    /// But for the address, where there is a name.
    hop: Hop,
    name: Option<Box<str>>,
    /// What the Request-URI becomes.
    uri: Option<Line<128>>,
    /// A Route line to add at the end; the topmost Route goes then.
    route: Option<Vec<u8>>,
}

/// A request on its way to the other side.
#[derive(Debug)]
pub(crate) struct Relayed {
    /// `None` for an ACK.
    tx: Option<Handle>,
    key: Key,
    flow: Flow,
    side: Side,
    loop_hash: u64,
    own_routes: OwnRoutes,
    /// What the Request-URI becomes.
    uri: Option<Line<128>>,
    /// A Route line to add at the end, for a strict router.
    route: Option<Vec<u8>>,
    /// The way, but for the address where a name has to be resolved.
    hop: Hop,
    dialog: Option<(Handle, u8)>,
    heard: Heard,
}

/// What a request has changed in its dialog when it came.
#[derive(Debug, Default)]
struct Heard {
    note: client::Note,
    /// It is a BYE that ends the dialog.
    ends_dialog: bool,
    /// What it bears of the call's end, for as long as it has not gone out.
    stamp: Kept,
}

impl Relayed {
    /// A request whose way is not known yet.
    fn new(at: &Arrival<'_>) -> Relayed {
        let Arrival { tx, key, flow, side, loop_hash, own_routes, .. } = *at;
        let (tx, hop) = (Some(tx), flow.reply());
        Relayed {
            tx,
            key,
            flow: *flow,
            side,
            loop_hash,
            own_routes,
            uri: None,
            route: None,
            hop,
            dialog: None,
            heard: Heard::default(),
        }
    }
}

/// What our 503 bears whose next hop cannot be reached: the reason, and the lines of a stamp.
fn unreachable_lines(stamp: &[u8]) -> String {
    let reason = q850_of(EndCause::TransportError).unwrap_or_default();
    [reason, &String::from_utf8_lossy(stamp)].concat()
}

impl Endpoint {
    /// OPTIONS, REGISTER, SUBSCRIBE, … outside of a dialog.
    pub(crate) fn relay_out_of_dialog(&mut self, at: &Arrival<'_>) {
        let (policy, message) = (self.policy.clone(), at.message);
        let target = match at.side {
            Side::Telephony => policy.dialer.target.as_ref(),
            Side::Dialer => {
                let order =
                    server_order(&policy, &self.keys, message.call_id(), |id| self.health_of(id), self.now.mono);
                order.first().and_then(|id| policy.server(*id)).map(|server| &server.target)
            }
        };
        let Some(target) = target else {
            self.stats.on_rejected(Refused::NoTarget.label());
            return self.reply_to(at.tx, message, Reply { code: 404, ..Reply::default() });
        };
        let uri = rewritten_uri(message, self.ourselves(&policy, at.flow.local), target);
        let relayed = Relayed { uri, hop: target.hop, ..Relayed::new(at) };
        self.relay(relayed, message);
    }

    pub(crate) fn relay_in_dialog(&mut self, at: &Arrival<'_>) {
        let mut relayed = Relayed { dialog: self.calls.by_dialog(at.dialog, at.side, at.message), ..Relayed::new(at) };
        let way = self.way(&relayed, at.message);
        relayed.heard = self.hear(&relayed, at.message);
        match way {
            Ok(way) => self.follow(relayed, way, at.message),
            Err(code) => self.fail_relayed(relayed, at.message, code),
        }
    }

    /// The ACK of a 2xx, or one that belongs to nothing (RFC 3261 §16: forwarded without a transaction).
    pub(crate) fn forward_ack(&mut self, flow: &Flow, side: Side, key: Key, message: &Message) {
        if forward::max_forwards(message) == Some(0) {
            return self.stats.on_rejected(Refused::TooManyHops.label());
        }
        let unrouted = self.unroute_strictly(message, flow.local);
        let message = unrouted.as_ref().unwrap_or(message);
        let own_routes = self.own_routes(message, flow.local);
        let dialog_key = self.keys.dialog_of(message);
        let loop_hash = self.loop_hash_of(message, dialog_key, side, own_routes);
        let dialog = self.calls.by_dialog(dialog_key, side, message);
        if let Some((call, dialog)) = dialog {
            self.infer_answer(call, dialog);
            self.on_dialog_ack(call, dialog, side, key);
        }
        let (flow, hop) = (*flow, flow.reply());
        let (uri, route, heard) = (None, None, Heard::default());
        let relayed = Relayed { tx: None, key, flow, side, loop_hash, own_routes, uri, route, hop, dialog, heard };
        match self.way(&relayed, message) {
            Ok(way) => self.follow(relayed, way, message),
            Err(_) => self.stats.on_rejected(Refused::StrayAck.label()),
        }
    }

    pub(crate) fn on_resolved(&mut self, query: QueryId, addresses: &[IpAddr]) {
        let Some(mut pending) = self.pending.remove(Handle::from_bits(query.0)) else { return };
        let transport = pending.relayed.hop.transport;
        let reachable = addresses.iter().find(|address| self.policy.listener(transport, **address).is_some());
        match reachable {
            Some(address) => {
                let relayed = &mut pending.relayed;
                relayed.hop.remote.set_ip(*address);
                if relayed.hop.local.is_ipv4() != address.is_ipv4() {
                    relayed.hop.local = self.local_for(transport, *address).unwrap_or(relayed.hop.local);
                }
                if let Some((call, dialog)) = relayed.dialog {
                    self.name_party(call, dialog, relayed.side.opposite(), *address);
                }
                self.relay(pending.relayed, &pending.message);
            }
            None => self.fail_pending(pending),
        }
    }

    pub(crate) fn on_unresolved(&mut self, pending: Handle) {
        if let Some(pending) = self.pending.remove(pending) {
            self.fail_pending(pending);
        }
    }

    /// The request that waits was cancelled.
    pub(crate) fn drop_pending_of(&mut self, tx: Handle) {
        let waiting = self.pending.iter().find(|(_, pending)| pending.relayed.tx == Some(tx)).map(|(handle, _)| handle);
        if let Some(pending) = waiting {
            if let Some(dropped) = self.pending.remove(pending) {
                self.store.release(dropped.relayed.heard.stamp);
            }
            self.reply(tx, Reply { code: 487, ..Reply::default() });
        }
    }

    pub(crate) fn health_of(&self, server: ServerId) -> ServerHealth {
        self.health.get(&server).copied().unwrap_or_default()
    }

    // -- what comes back ------------------------------------------------------------------------

    /// A response that its client transaction let through.
    pub(crate) fn on_client_response(&mut self, tx: Handle, flow: &Flow, message: &Message) {
        let Some(client) = self.client_txs.get_mut(tx) else { return };
        match client.user {
            client::User::Leg { upstream, .. } => self.on_leg_response(tx, upstream, flow, message),
            client::User::Relay { server, call, dialog } => {
                self.on_relay_response(tx, server, call, dialog, flow, message)
            }
            client::User::Bye { call } => {
                if message.code() >= 200 {
                    self.on_bye_done(call, tx, Some(message.code()));
                }
            }
            client::User::Cancel { invite } => {
                if let Some(cancelled) = self.client_txs.get_mut(invite).filter(|_| message.code() >= 200) {
                    cancelled.cancel = Cancel::Sent { answered: true };
                    cancelled.rare().reasons = Box::default();
                    self.keep_client(invite);
                }
            }
            client::User::Nobody => {}
        }
    }

    /// Nothing came back in time.
    pub(crate) fn on_client_timeout(&mut self, tx: Handle) {
        let Some(client) = self.client_txs.get(tx) else { return };
        let (user, is_silent, is_invite) = (client.user, client.is_silent(), client.is_invite);
        let (is_abandoned, is_bye) = (client.is_abandoned, client.note.method == Some(Method::Bye));
        match user {
            client::User::Leg { call, .. } => {
                // Its call may go on with another server.
                if client.cancel == (Cancel::Sent { answered: false }) {
                    self.note_anomaly(call, Anomaly::ResponseToCancelMissing);
                }
                if is_abandoned {
                    return self.remove_client(tx);
                }
                // Timer C: what rings too long is cancelled (RFC 3261 §16.8).
                if !is_silent && !self.is_cancelled(tx) {
                    self.cancel_client(tx, "");
                    self.abandon_client(tx);
                    return self.on_leg_timeout(call, tx, is_silent);
                }
                self.on_leg_timeout(call, tx, is_silent);
            }
            client::User::Relay { server, call, .. } => {
                if is_invite && !is_silent && !self.is_cancelled(tx) {
                    return self.cancel_client(tx, "");
                }
                if let Some(call) = call.filter(|_| is_bye) {
                    self.on_bye_done(call, tx, None);
                }
                if is_invite {
                    self.reply(server, Reply { code: 408, ..Reply::default() });
                } else {
                    // RFC 4320 §4.2: no 408 for what is no INVITE; the transaction just ends.
                    self.remove_server(server);
                }
            }
            client::User::Bye { call } => self.on_bye_done(call, tx, None),
            client::User::Cancel { .. } | client::User::Nobody => {}
        }
        self.remove_client(tx);
    }

    /// The next hop cannot be reached, and nothing had come back.
    pub(crate) fn on_client_unreachable(&mut self, tx: Handle) {
        let Some(client) = self.client_txs.get(tx) else { return };
        match client.user {
            client::User::Leg { .. } if client.is_abandoned => {}
            client::User::Leg { call, .. } => self.on_leg_unreachable(call, tx),
            client::User::Relay { server, call, .. } => {
                let is_bye = client.note.method == Some(Method::Bye);
                let stamp = self.server_txs.get_mut(server).map(|server| std::mem::take(&mut server.stamp));
                let extra = unreachable_lines(stamp.as_deref().unwrap_or_default());
                self.reply(server, Reply { code: 503, phrase: None, extra: &extra });
                if let Some(stamp) = stamp {
                    self.store.release(stamp);
                }
                if let Some(call) = call.filter(|_| is_bye) {
                    self.on_bye_done(call, tx, None);
                }
            }
            client::User::Bye { call } => self.on_bye_done(call, tx, None),
            client::User::Cancel { .. } | client::User::Nobody => {}
        }
        self.remove_client(tx);
    }

    fn on_relay_response(
        &mut self,
        tx: Handle,
        server: Handle,
        call: Option<Handle>,
        dialog: u8,
        flow: &Flow,
        message: &Message,
    ) {
        let code = message.code();
        if code == 100 {
            return;
        }
        let client = self.client_txs.get_mut(tx).filter(|_| code >= 200);
        let note = client
            .map(|client| (std::mem::take(&mut client.note), client.rare.as_mut().and_then(|rare| rare.contact.take())))
            .filter(|(note, _)| note.from.is_some());
        let bye_from =
            note.as_ref().filter(|(note, _)| note.method == Some(Method::Bye)).and_then(|(note, _)| note.from);
        let bye = call.zip(bye_from);
        if let Some((call, from)) = bye {
            self.on_early_bye_answered(call, dialog, from, code);
        }
        let Some(upstream) = self.server_txs.get_mut(server) else { return };
        let transport = upstream.reply.transport;
        // The final response bears it, and is repeated as it is.
        let mut stamp = if code >= 200 { std::mem::take(&mut upstream.stamp) } else { Kept::default() };
        // One that crossed the 2xx has ended the call only now.
        if let (Some((call, from)), true) = (bye, stamp.is_empty()) {
            stamp = self.ending_stamp(call, from);
        }
        let policy = match call.and_then(|call| self.calls.get(call)) {
            Some(call) => call.policy.clone(),
            None => self.policy.clone(),
        };
        let stamped = (!stamp.is_empty()).then_some(&*stamp);
        let change = forward::ResponseChange { policy: &policy, stamp: stamped, phrase: None, transport };
        let bytes = forward::response(message, &change, &mut self.edits, self.out.piece());
        self.store.release(stamp);
        self.respond(server, code, bytes);
        if let (Some(call), Some((note, contact))) = (call, note) {
            self.on_dialog_response(call, dialog, tx, (note, contact.as_deref()), flow, message);
        }
    }

    fn is_cancelled(&self, tx: Handle) -> bool {
        self.client_txs.get(tx).is_some_and(|client| client.cancel != Cancel::No)
    }

    // -- the way there --------------------------------------------------------------------------

    /// Sends a request along its way, once that has an address.
    fn follow(&mut self, mut relayed: Relayed, way: Way, message: &Message) {
        (relayed.uri, relayed.route, relayed.hop) = (way.uri, way.route, way.hop);
        relayed.own_routes.count += usize::from(relayed.route.is_some());
        match way.name {
            Some(name) if self.pending.len() < MOST_PENDING => self.resolve(relayed, message, name),
            Some(_) => self.fail_relayed(relayed, message, 503),
            None => self.relay(relayed, message),
        }
    }

    /// Where a request that has a To tag goes: its next Route, else its Request-URI, else the other party of its dialog.
    fn way(&self, relayed: &Relayed, message: &Message) -> Result<Way, u16> {
        let last = relayed.dialog.and_then(|(call, dialog)| {
            let call = self.calls.get(call)?;
            let (dialog, side) = (call.dialog(dialog)?, relayed.side.opposite());
            Some((*dialog.party(side, call.caller_side()).path, call.target_of(dialog, side)))
        });
        let OwnRoutes { count, has_more } = relayed.own_routes;
        let is_routed = count > 0 || last.is_some();
        let next = if has_more && is_routed { message.elements(Name::Route).nth(count) } else { None };
        let next = next.map(|element| message.raw().get(element.range).unwrap_or_default());
        let (mut new_uri, mut route) = (None, None);
        let (own_uri, ourselves) = (message.sip_uri(), self.ourselves(&self.policy, relayed.flow.local));
        let uri = match next {
            Some(next) => {
                let uri = route::address(next);
                if !route::is_loose(next) {
                    // A strict router: its URI goes into the Request-URI, the target to the end of the route (§16.6 step 6).
                    new_uri = Some(Line::from_slice(uri));
                    route = Some([b"Route: <", message.uri(), b">\r\n"].concat());
                }
                uri
            }
            None if own_uri.as_ref().is_some_and(|uri| ourselves.are_in(uri)) => {
                // A peer that keeps no route set sends to where it sent the INVITE.
                let target = last.map(|(_, target)| target).filter(|target| !target.is_empty()).ok_or(481u16)?;
                new_uri = Some(Line::from_slice(target));
                target
            }
            None if is_routed => message.uri(),
            None => return Err(481),
        };
        let to = match own_uri.filter(|own| own.text == uri) {
            Some(own) => route::destination_of(&own),
            None => route::destination(uri),
        };
        let to = to.ok_or(if last.is_some() { 503u16 } else { 481 })?;
        let last = last.map(|(hop, _)| hop);
        let transport = to.transport.or(last.map(|hop| hop.transport)).unwrap_or(Transport::Udp);
        let known = last.filter(|hop| hop.transport == transport);
        let (address, name) = match to.host {
            Host::Address(address) => (Some(address), None),
            Host::Name(name) => (None, Some(name)),
        };
        let local = match (known, address) {
            (Some(hop), Some(address)) if hop.local.is_ipv4() == address.is_ipv4() => Some(hop.local),
            (Some(hop), None) => Some(hop.local),
            (_, Some(address)) => {
                let by_route = self.named_by_route(message, count, transport);
                let local = by_route.filter(|local| local.is_ipv4() == address.is_ipv4());
                local.or_else(|| self.local_for(transport, address))
            }
            (None, None) => self.policy.listeners.iter().find(|one| one.transport == transport).map(|one| one.address),
        };
        let local = local.ok_or(503u16)?;
        let connection = known.and_then(|hop| hop.connection);
        let remote = SocketAddr::new(address.unwrap_or(local.ip()), to.port);
        // The connection that its side last used needs no address.
        let name = name.filter(|_| connection.is_none());
        Ok(Way { hop: Hop { transport, local, remote, connection }, name, uri: new_uri, route })
    }

    fn resolve(&mut self, relayed: Relayed, message: &Message, name: Box<str>) {
        if let Some(server) = relayed.tx.and_then(|tx| self.server_txs.get_mut(tx)) {
            server.user = server::User::Relay(None);
        }
        let pending = self.pending.insert(Pending { relayed, message: message.clone() });
        self.wheel.insert(self.now.mono + RESOLVE_PATIENCE, Deadline::Pending(pending));
        self.push(Output::Resolve { query: QueryId(pending.to_bits()), name });
    }

    /// A name in a party's Contact or route has this address: requests may come from there.
    fn name_party(&mut self, call: Handle, dialog: u8, side: Side, address: IpAddr) {
        let Some(call) = self.calls.get_mut(call) else { return };
        let caller = call.caller_side();
        if let Some(dialog) = call.dialog_mut(dialog) {
            dialog.set_resolved(side, caller, address);
        }
    }

    fn fail_pending(&mut self, pending: Pending) {
        self.stats.on_rejected(Refused::Unresolved.label());
        self.fail_relayed(pending.relayed, &pending.message, 503);
    }

    /// Tells the call of a request inside its dialog, as it comes: what it means does not wait for its way.
    fn hear(&mut self, relayed: &Relayed, message: &Message) -> Heard {
        let mut heard = Heard::default();
        let (Some((call, dialog)), Some(tx)) = (relayed.dialog, relayed.tx) else { return heard };
        let is_callees = self.calls.get(call).is_some_and(|call| call.callee_side() == relayed.side);
        if message.method() == Method::Bye && is_callees {
            self.infer_answer(call, dialog);
        }
        heard.note = self.on_dialog_request(call, dialog, relayed.side, &relayed.flow, message);
        if message.method() == Method::Bye {
            self.hear_bye(&mut heard, tx, (call, dialog), relayed.side, message);
        }
        heard
    }

    /// A BYE that was early when it came, and waited: where the 2xx has come since, it ends the dialog as it leaves.
    fn hear_again(&mut self, relayed: &mut Relayed, message: &Message) {
        let (Some((call, dialog)), Some(tx)) = (relayed.dialog, relayed.tx) else { return };
        let of = self.calls.get(call).and_then(|call| call.dialog(dialog));
        let is_since = of.is_some_and(|of| {
            of.state == DialogState::Confirmed && of.early_bye == Some((relayed.side, false)) && of.bye_from.is_none()
        });
        if is_since && message.method() == Method::Bye {
            self.store.release(std::mem::take(&mut relayed.heard.stamp));
            self.hear_bye(&mut relayed.heard, tx, (call, dialog), relayed.side, message);
        }
    }

    fn hear_bye(&mut self, heard: &mut Heard, tx: Handle, (call, dialog): (Handle, u8), side: Side, message: &Message) {
        heard.ends_dialog = self.on_bye(call, dialog, side, message);
        heard.stamp = self.ending_stamp(call, side.opposite());
        let for_answer = self.ending_stamp(call, side);
        if let Some(server) = self.server_txs.get_mut(tx) {
            self.store.release(std::mem::replace(&mut server.stamp, for_answer));
        }
    }

    /// Answers a request that has no way; a BYE has ended its dialog all the same (§15).
    fn fail_relayed(&mut self, mut relayed: Relayed, message: &Message, code: u16) {
        self.hear_again(&mut relayed, message);
        self.store.release(relayed.heard.stamp);
        let Some(tx) = relayed.tx else { return };
        let stamp = self.server_txs.get_mut(tx).map(|server| std::mem::take(&mut server.stamp)).unwrap_or_default();
        let extra = match code {
            503 => unreachable_lines(&stamp),
            _ => String::from_utf8_lossy(&stamp).into_owned(),
        };
        self.reply_to(tx, message, Reply { code, extra: &extra, ..Reply::default() });
        self.store.release(stamp);
        if let Some((call, _)) = relayed.dialog {
            self.emit_if_over(call);
        }
    }

    /// Sends a request whose way is known.
    fn relay(&mut self, mut relayed: Relayed, message: &Message) {
        self.hear_again(&mut relayed, message);
        let to = relayed.side.opposite();
        let Heard { note, ends_dialog, stamp } = relayed.heard;
        let policy = match relayed.dialog.and_then(|(call, _)| self.calls.get(call)) {
            Some(call) => call.policy.clone(),
            None => self.policy.clone(),
        };
        let mut lines = std::mem::take(&mut self.lines);
        lines.clear();
        lines.extend_from_slice(relayed.route.as_deref().unwrap_or_default());
        lines.extend_from_slice(&stamp);
        self.store.release(stamp);
        let branch = match relayed.tx {
            Some(_) => self.keys.branch(relayed.key, 0, relayed.loop_hash),
            None => self.keys.ack_branch(relayed.key, relayed.loop_hash),
        };
        // A subscriber's route set is that of the NOTIFY (RFC 6665 §4.4.1).
        let records = match message.method() {
            Method::Subscribe | Method::Refer | Method::Invite => message.to_tag().is_none(),
            Method::Notify => relayed.dialog.is_none(),
            _ => false,
        };
        let outgoing = Outgoing {
            branch,
            uri: relayed.uri.as_deref(),
            own_routes: relayed.own_routes.count,
            records,
            stamp: (!lines.is_empty()).then_some(&lines),
            to,
        };
        let (hop, bytes, fallback) = self.outgoing(message, &relayed.flow.reply(), relayed.hop, &policy, outgoing);
        self.lines = lines;
        let Some(tx) = relayed.tx else { return self.send_loose(Method::Ack, hop, to, bytes, fallback) };
        let method_text = match message.start() {
            Start::Request { method_text, .. } => message.bytes(method_text.clone()),
            Start::Response { .. } => &[],
        };
        let (call, dialog) = relayed.dialog.map_or((None, 0), |(call, dialog)| (Some(call), dialog));
        let user = client::User::Relay { server: tx, call, dialog };
        let request = Request { branch, method: message.method(), method_text, hop, side: to, bytes, fallback, user };
        let client = self.start_client(request, &policy.timeouts);
        let is_stored = call.is_some();
        if let Some(started) = self.client_txs.get_mut(client) {
            started.is_stored = is_stored;
            started.note = note;
            // A re-INVITE or UPDATE, answered 2xx, gives its sender a new remote target.
            if let (true, Some(target)) = (note.has_target, contact(message)) {
                started.rare().contact = Some(target.into());
            }
        }
        if let Some(server) = self.server_txs.get_mut(tx) {
            server.user = server::User::Relay(Some(client));
            server.is_stored = is_stored;
        }
        if is_stored {
            self.keep_server(tx);
            self.keep_client(client);
        }
        if let (true, Some(call)) = (ends_dialog, call) {
            self.await_bye(call, client);
        }
    }

    /// Our address in the last of our own Routes, which is the one towards where the request goes (RFC 5658 §4.1).
    fn named_by_route(&self, message: &Message, own_routes: usize, transport: Transport) -> Option<SocketAddr> {
        let last = message.elements(Name::Route).nth(own_routes.checked_sub(1)?)?;
        let named = route::destination(route::address(message.raw().get(last.range)?))?;
        let Host::Address(address) = named.host else { return None };
        let is_it = |one: &&Listener| {
            let bound = one.bound;
            let is_there = bound.ip() == address || bound.ip().is_unspecified();
            one.transport == transport && bound.port() == named.port && is_there
        };
        self.policy.listeners.iter().find(is_it).map(|one| SocketAddr::new(address, one.bound.port()))
    }

    /// Our address towards a peer where no flow tells it.
    fn local_for(&self, transport: Transport, peer: IpAddr) -> Option<SocketAddr> {
        let listener = self.policy.listener(transport, peer)?;
        Some(SocketAddr::new(listener.address.ip(), listener.bound.port()))
    }
}
