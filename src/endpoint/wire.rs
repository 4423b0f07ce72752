//! Transactions at work: what they send, when they send it again, and when they end.

use std::time::Duration;

use bytes::Bytes;

use super::{Deadline, Endpoint, Output, Owner, RecordOf, Transmit};
use crate::arena::Handle;
use crate::flow::{Flow, Hop, Side, Transport};
use crate::kept::Kept;
use crate::outcome::Anomaly;
use crate::policy::Timeouts;
use crate::proxy::make;
use crate::sip::{Limits, Message, Method};
use crate::stats::{RetransmitKind, Way};
use crate::time::Mono;
use crate::transaction::client::{self, Cancel, ClientTx, Fallback, Note, OnResponse};
use crate::transaction::server::{self, OnAck, OnRepeat, ServerTx};
use crate::transaction::{Branch, Estimates, Key};

/// Above this a request goes by TCP where the next hop takes it (RFC 3261 §18.1.1).
pub const LARGE_REQUEST: usize = 1300;
/// A next hop takes TCP if a connection opens within this time.
pub(super) const TCP_FOR_LARGE: Duration = Duration::from_millis(500);
/// For how long it is remembered that one did not.
const UDP_ONLY_FOR: Duration = Duration::from_secs(60);
/// Bit of an owner that names a request without transaction.
const LOOSE: u64 = 1 << 31;
/// Transactions that have nothing more to send end at multiples of this: a wake-up for each would cost more than its end.
const TOGETHER: Duration = Duration::from_millis(16);
/// Our own messages are read back without limits: they were within them when they came.
const OWN: Limits = Limits::NONE;

/// A response to make for a server transaction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reply<'a> {
    pub code: u16,
    pub phrase: Option<&'a str>,
    /// Whole header lines.
    pub extra: &'a str,
}

/// A request to start a client transaction with.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub branch: Branch,
    pub method: Method,
    /// The method as it stands on the wire.
    pub method_text: &'a [u8],
    pub hop: Hop,
    pub side: Side,
    pub bytes: Bytes,
    pub fallback: Option<Box<Fallback>>,
    pub user: client::User,
}

impl Endpoint {
    // -- server transactions --------------------------------------------------------------------

    pub(crate) fn add_server(
        &mut self,
        key: Key,
        flow: &Flow,
        side: Side,
        request: &Message,
        user: server::User,
    ) -> Handle {
        let is_invite = request.method() == Method::Invite;
        let estimates = Estimates::of(&self.policy.timeouts);
        let (path, reply) = (self.paths.of(flow.reply()), reply_hop(request, flow));
        let tx = self.server_txs.insert(ServerTx {
            key,
            is_invite,
            state: if is_invite { server::State::Proceeding } else { server::State::Trying },
            side,
            reply: if reply == *path { path.clone() } else { self.paths.of(reply) },
            path,
            user,
            request: self.store.keep(&[request.raw()]),
            is_outline: false,
            last: Kept::default(),
            stamp: Kept::default(),
            repeats: 0,
            interval: 0,
            retransmit: None,
            end: None,
            estimates,
            is_stored: false,
        });
        if !is_invite {
            // Until Timer E of the client reaches T2: the sum of T1, 2·T1, … below T2 is T2 − T1.
            let wait = estimates.t2().saturating_sub(estimates.t1());
            self.set_server_end(tx, self.now.mono + wait, Deadline::ServerTrying(tx));
        }
        tx
    }

    /// Sends a response that is ready, if the transaction still takes one.
    pub(crate) fn respond(&mut self, tx: Handle, code: u16, bytes: Bytes) {
        let Some(server) = self.server_txs.get_mut(tx).filter(|server| server.takes(code)) else { return };
        let finished = server.on_response(code);
        let (hop, side) = (*server.reply, server.side);
        // A 2xx to an INVITE is repeated by whoever sent it, not by us (RFC 6026 §7.1); a 100 can be made again.
        let is_answer = server.is_invite && (200..300).contains(&code);
        if finished.is_some() || !is_answer {
            let is_kept = code > 100 && !is_answer;
            let last = if is_kept { self.store.keep(&[&bytes]) } else { Kept::default() };
            self.store.release(std::mem::replace(&mut server.last, last));
        }
        if let Some(finished) = finished {
            self.finish_server(tx, finished);
        }
        if code > 100 {
            self.keep_server(tx);
        }
        self.stats.on_response(code, side, Way::Sent);
        self.transmit(Transmit { hop, bytes, side, owner: None, connect_timeout: None });
    }

    /// The first final response has its timers.
    fn finish_server(&mut self, tx: Handle, finished: server::Finished) {
        let Some(server) = self.server_txs.get_mut(tx) else { return };
        self.store.release(std::mem::take(&mut server.request));
        if let Some(interval) = finished.retransmit {
            let due = self.now.mono + interval;
            server.retransmit = Some(self.wheel.insert(due, Deadline::ServerRetransmit(tx)));
        }
        // While Timer G runs, H has its time.
        let end = match finished.retransmit {
            Some(_) => self.now.mono + finished.end,
            None => together(self.now.mono, finished.end),
        };
        self.set_server_end(tx, end, Deadline::ServerEnd(tx));
    }

    /// An INVITE's 2xx has gone through, and nothing is left of it: both its transactions are as after one.
    pub(crate) fn assume_2xx(&mut self, client: Handle, server: Handle) {
        let open = self.server_txs.get_mut(server).filter(|server| !server.is_final());
        if let Some(finished) = open.and_then(|server| server.on_response(200)) {
            if let Some(server) = self.server_txs.get_mut(server) {
                self.store.release(std::mem::take(&mut server.last));
            }
            self.finish_server(server, finished);
            self.keep_server(server);
        }
        let meaning = self.client_txs.get_mut(client).map(|client| client.on_response(200));
        if let Some(OnResponse::Pass { end: Some(end), .. }) = meaning {
            self.set_client_timers(client, None, end);
            self.keep_client(client);
        }
    }

    /// Makes a response and sends it.
    pub(crate) fn reply(&mut self, tx: Handle, reply: Reply<'_>) {
        if let Some(request) = self.request_of(tx) {
            self.reply_to(tx, &request, reply);
        }
    }

    /// The same with the request at hand.
    pub(crate) fn reply_to(&mut self, tx: Handle, request: &Message, reply: Reply<'_>) {
        let Some(server) = self.server_txs.get(tx) else { return };
        // A 100 makes no dialog: it needs no tag.
        let tag = if reply.code > 100 { self.keys.tag(server.key) } else { 0 };
        let made = make::Response { code: reply.code, phrase: reply.phrase, tag, extra: reply.extra };
        let bytes = make::response(request, server.path.remote, made, self.out.piece());
        self.respond(tx, reply.code, bytes);
    }

    /// The request of a server transaction that has no final response yet, read again.
    pub(crate) fn request_of(&mut self, tx: Handle) -> Option<Message> {
        let request = &self.server_txs.get(tx)?.request;
        if request.is_empty() {
            return None;
        }
        Self::own_request(&self.out.copy(request))
    }

    /// A request that came again.
    pub(crate) fn on_repeated_request(&mut self, tx: Handle, message: &Message) {
        let Some(server) = self.server_txs.get_mut(tx) else { return };
        let (hop, side) = (*server.reply, server.side);
        let is_answered = server.on_repeat() == OnRepeat::Answer;
        let (user, repeats) = (server.user, server.repeats);
        let last = if is_answered { copy(&server.last, self.out.piece()) } else { None };
        let is_trying = is_answered && last.is_none();
        self.stats.on_retransmission(side, RetransmitKind::RequestReceived);
        if repeats > MANY {
            let call = match user {
                server::User::Call(call) => Some(call),
                _ if message.method() == Method::Cancel => self.call_of_cancel(message, side),
                // Its way to the other side may have ended before it.
                _ => self.calls.by_dialog(self.keys.dialog_of(message), side, message).map(|(call, _)| call),
            };
            self.note_many(call);
        }
        if let Some(bytes) = last {
            self.stats.on_retransmission(side, RetransmitKind::ResponseSent);
            self.transmit(Transmit { hop, bytes, side, owner: None, connect_timeout: None });
        } else if is_trying {
            self.stats.on_retransmission(side, RetransmitKind::ResponseSent);
            self.reply(tx, Reply { code: 100, ..Reply::default() });
        }
    }

    /// The call whose INVITE a CANCEL takes back.
    fn call_of_cancel(&self, cancel: &Message, side: Side) -> Option<Handle> {
        let invite = self.server_txs.by_key(self.keys.server(cancel, side, true))?;
        match self.server_txs.get(invite)?.user {
            server::User::Call(call) => Some(call),
            server::User::Relay(_) | server::User::Local => None,
        }
    }

    /// An ACK that belongs to a server transaction; true where it goes on to the other side.
    pub(crate) fn on_ack_of(&mut self, tx: Handle) -> bool {
        let Some(server) = self.server_txs.get_mut(tx) else { return true };
        match server.on_ack() {
            OnAck::Confirmed { timer_i } => {
                // Nothing is sent of it any more, and a process that comes after this one can do without it.
                self.store.release(std::mem::take(&mut server.last));
                let stored = std::mem::take(&mut server.is_stored).then_some(server.key.0);
                self.stop_repeating(tx);
                if let Some(key) = stored {
                    self.forget(RecordOf::Server, key);
                }
                self.set_server_end(tx, together(self.now.mono, timer_i), Deadline::ServerEnd(tx));
                false
            }
            OnAck::Absorb => false,
            OnAck::Forward => true,
        }
    }

    /// The response is sent again only when the request comes again.
    pub(crate) fn stop_repeating(&mut self, tx: Handle) {
        if let Some(timer) = self.server_txs.get_mut(tx).and_then(|server| server.retransmit.take()) {
            self.wheel.cancel(timer);
        }
    }

    pub(super) fn on_server_retransmit(&mut self, tx: Handle) {
        let Some(server) = self.server_txs.get_mut(tx) else { return };
        server.retransmit = None;
        let Some(interval) = server.on_retransmit() else { return };
        let (hop, side) = (*server.reply, server.side);
        server.retransmit = Some(self.wheel.insert(self.now.mono + interval, Deadline::ServerRetransmit(tx)));
        if let Some(bytes) = copy(&server.last, self.out.piece()) {
            self.stats.on_retransmission(side, RetransmitKind::ResponseSent);
            self.transmit(Transmit { hop, bytes, side, owner: None, connect_timeout: None });
        }
    }

    pub(super) fn on_server_trying(&mut self, tx: Handle) {
        if let Some(server) = self.server_txs.get_mut(tx) {
            server.end = None;
            if server.state == server::State::Trying {
                self.reply(tx, Reply { code: 100, ..Reply::default() });
            }
        }
    }

    pub(crate) fn remove_server(&mut self, tx: Handle) {
        let Some(server) = self.server_txs.remove(tx) else { return };
        if server.is_stored && !server.is_final() {
            self.forget(RecordOf::Server, server.key.0);
        }
        for kept in [server.request, server.last, server.stamp] {
            self.store.release(kept);
        }
        for timer in [server.retransmit, server.end].into_iter().flatten() {
            self.wheel.cancel(timer);
        }
    }

    fn set_server_end(&mut self, tx: Handle, due: Mono, deadline: Deadline) {
        if let Some(server) = self.server_txs.get_mut(tx) {
            server.end = Some(self.wheel.renew(server.end, due, deadline));
        }
    }

    // -- client transactions --------------------------------------------------------------------

    /// Sends a request and waits for its response.
    pub(crate) fn start_client(&mut self, request: Request<'_>, timeouts: &Timeouts) -> Handle {
        let Request { branch, method, method_text, hop, side, bytes, fallback, user } = request;
        // The INVITE of a leg can be made again.
        let is_leg = matches!(user, client::User::Leg { .. });
        let is_stored = is_leg || matches!(user, client::User::Bye { .. } | client::User::Nobody);
        let connect_timeout = fallback.is_some().then_some(TCP_FOR_LARGE);
        let mut client = ClientTx {
            key: branch.client(method_text),
            loop_hash: branch.loop_hash(),
            is_invite: method == Method::Invite,
            state: client::State::Calling,
            user,
            path: self.paths.of(hop),
            side,
            request: if is_leg { Kept::default() } else { self.store.keep(&[&bytes]) },
            cancel: Cancel::No,
            is_abandoned: false,
            repeats: 0,
            interval: 0,
            timer: None,
            ends_at: None,
            estimates: Estimates::of(timeouts),
            note: Note::default(),
            is_stored,
            rare: fallback.map(|fallback| Box::new(client::Rare { fallback: Some(fallback), ..Default::default() })),
        };
        let (retransmit, timeout) = client.on_start();
        let tx = self.client_txs.insert(client);
        self.set_client_timers(tx, retransmit, timeout);
        if is_stored {
            self.keep_client(tx);
        }
        self.stats.on_request(method, side, Way::Sent);
        self.transmit(Transmit { hop, bytes, side, owner: Some(Owner(tx.to_bits())), connect_timeout });
        tx
    }

    /// A request for which nobody keeps state: an ACK of a 2xx.
    pub(crate) fn send_loose(
        &mut self,
        method: Method,
        hop: Hop,
        side: Side,
        bytes: Bytes,
        fallback: Option<Box<Fallback>>,
    ) {
        self.stats.on_request(method, side, Way::Sent);
        let connect_timeout = fallback.is_some().then_some(TCP_FOR_LARGE);
        let owner = fallback.map(|fallback| {
            let loose = self.loose.insert((*fallback, side));
            self.wheel.insert(self.now.mono + TCP_FOR_LARGE * 4, Deadline::Loose(loose));
            Owner(loose.to_bits() | LOOSE)
        });
        self.transmit(Transmit { hop, bytes, side, owner, connect_timeout });
    }

    /// The transport for a request of this size to a UDP next hop.
    pub(crate) fn transport_for(&self, hop: &Hop, bytes: usize) -> Transport {
        let tcp_is_here = || self.policy.listener(Transport::Tcp, hop.remote.ip()).is_some();
        let refused = || self.udp_only.get(&hop.remote).is_some_and(|until| self.now.mono < *until);
        match hop.transport {
            Transport::Udp if bytes > LARGE_REQUEST && tcp_is_here() && !refused() => Transport::Tcp,
            transport => transport,
        }
    }

    pub(crate) fn on_response(&mut self, flow: &Flow, message: &Message) {
        let branch = message.via().branch.clone().and_then(|range| Branch::read(message.bytes(range)));
        let method_text = message.bytes(message.essentials().cseq_method.clone());
        let found = branch.and_then(|branch| self.client_txs.by_key(branch.client(method_text)));
        let Some((tx, client)) = found.and_then(|tx| self.client_txs.get(tx).map(|client| (tx, client))) else {
            return self.refuse(flow, crate::stats::Refused::UnmatchedResponse);
        };
        let is_from_there = flow.remote.ip() == client.path.remote.ip()
            || (flow.connection.is_some() && flow.connection == client.path.connection);
        let side = client.side;
        if !is_from_there && self.side_of(flow) != Some(side) {
            return self.refuse(flow, crate::stats::Refused::Stranger);
        }
        let Some(client) = self.client_txs.get_mut(tx) else { return };
        if flow.connection.is_some() && flow.connection != client.path.connection {
            client.path = self.paths.of(Hop { connection: flow.connection, ..*client.path });
        }
        self.stats.on_response(message.code(), side, Way::Received);
        let before = client.state;
        let meaning = client.on_response(message.code());
        let is_invite = client.is_invite;
        // A re-INVITE has one dialog: another 2xx is the first one again. Of a call's INVITE it may be another fork's.
        let is_answer_again = before == client::State::Accepted && matches!(client.user, client::User::Relay { .. });
        let rare = client.rare.as_mut();
        if let (Some(rare), OnResponse::Pass { first: true, .. }) = (rare, meaning) {
            // The way over TCP has proved good.
            rare.fallback = None;
        }
        let is_renewed = client.is_stored && matches!(meaning, OnResponse::Pass { end: Some(_), first: false });
        if client.is_stored && client.state != before {
            // An INVITE's final response may come again and want its ACK; another one's is of no more use.
            match client.is_final() && !is_invite {
                true => {
                    let key = client.key.0;
                    self.forget(RecordOf::Client, key);
                }
                false => self.keep_client(tx),
            }
        }
        match meaning {
            OnResponse::Pass { end, first } => {
                if let Some(end) = end {
                    self.set_client_timers(tx, None, end);
                }
                if is_renewed {
                    self.keep_client(tx);
                }
                if is_invite && first && message.code() < 200 {
                    self.release_cancel(tx);
                }
                if is_invite && message.code() >= 300 {
                    self.ack_failure(tx, message);
                }
                if is_answer_again {
                    self.on_repeated_response(tx);
                }
                self.on_client_response(tx, flow, message);
                self.end_if_reliable(tx);
            }
            OnResponse::AckAgain => {
                self.on_repeated_response(tx);
                self.ack_failure(tx, message);
            }
            OnResponse::Contradict => self.on_contradiction(tx, message),
            OnResponse::Absorb => self.on_repeated_response(tx),
        }
    }

    pub(crate) fn on_repeated_response(&mut self, tx: Handle) {
        let Some(client) = self.client_txs.get_mut(tx) else { return };
        client.repeats = client.repeats.saturating_add(1);
        let repeats = client.repeats;
        self.on_repetition(tx, repeats);
    }

    /// A response came again, for the so many-th time.
    pub(crate) fn on_repetition(&mut self, tx: Handle, repeats: u8) {
        let Some(client) = self.client_txs.get(tx) else { return };
        let (side, user) = (client.side, client.user);
        self.stats.on_retransmission(side, RetransmitKind::ResponseReceived);
        if repeats > MANY {
            self.note_many(match user {
                client::User::Leg { call, .. } | client::User::Bye { call } => Some(call),
                client::User::Relay { call, .. } => call,
                client::User::Cancel { .. } | client::User::Nobody => None,
            });
        }
    }

    /// A message of a call came again more than [`MANY`] times.
    fn note_many(&mut self, call: Option<Handle>) {
        if let Some(call) = call {
            self.note_anomaly(call, Anomaly::Retransmissions);
        }
    }

    pub(super) fn on_client_deadline(&mut self, tx: Handle) {
        let Some(client) = self.client_txs.get_mut(tx) else { return };
        client.timer = None;
        if client.ends_at.is_some_and(|end| end <= self.now.mono) {
            client.ends_at = None;
            return if client.is_final() { self.remove_client(tx) } else { self.on_client_timeout(tx) };
        }
        let interval = client.on_retransmit();
        let (hop, side) = (*client.path, client.side);
        self.set_client_timer(tx, interval);
        if interval.is_none() {
            return;
        }
        let Some(bytes) = self.sent_again(tx) else { return };
        self.stats.on_retransmission(side, RetransmitKind::RequestSent);
        self.transmit(Transmit { hop, bytes, side, owner: Some(Owner(tx.to_bits())), connect_timeout: None });
    }

    pub(super) fn on_transport_failed(&mut self, owner: Owner) {
        if owner.0 & LOOSE != 0 {
            if let Some((fallback, side)) = self.loose.remove(Handle::from_bits(owner.0 & !LOOSE)) {
                self.remember_udp_only(fallback.hop);
                self.transmit(Transmit {
                    hop: fallback.hop,
                    bytes: fallback.bytes,
                    side,
                    owner: None,
                    connect_timeout: None,
                });
            }
            return;
        }
        let tx = Handle::from_bits(owner.0);
        let Some(client) = self.client_txs.get_mut(tx).filter(|client| client.is_silent()) else { return };
        let fallback = client.rare.as_mut().and_then(|rare| rare.fallback.take());
        let Some(fallback) = fallback else { return self.on_client_unreachable(tx) };
        let Fallback { hop, bytes } = *fallback;
        client.path = self.paths.of(hop);
        if !client.request.is_empty() {
            let request = self.store.keep(&[&bytes]);
            self.store.release(std::mem::replace(&mut client.request, request));
        }
        let (retransmit, timeout) = client.on_start();
        let side = client.side;
        self.keep_client(tx);
        self.remember_udp_only(hop);
        self.set_client_timers(tx, retransmit, timeout);
        self.transmit(Transmit { hop, bytes, side, owner: Some(owner), connect_timeout: None });
    }

    /// ICMP quotes a datagram of ours: the branch in its topmost Via tells which.
    pub(super) fn on_unreachable(&mut self, remote: std::net::SocketAddr, quoted: &[u8]) {
        if quoted.starts_with(b"SIP/2.0") {
            return;
        }
        let method = quoted.split(|byte| *byte == b' ').next().unwrap_or_default();
        let Some(at) = memchr::memmem::find(quoted, b";branch=z9hG4bK") else { return };
        let branch = quoted.get(at + b";branch=".len()..).unwrap_or_default();
        let end = branch.iter().position(|byte| !byte.is_ascii_alphanumeric()).unwrap_or(branch.len());
        let Some(branch) = branch.get(..end).and_then(Branch::read) else { return };
        let Some(tx) = self.client_txs.by_key(branch.client(method)) else { return };
        let is_it = |client: &&mut ClientTx| client.is_silent() && client.path.remote == remote;
        if self.client_txs.get_mut(tx).as_ref().is_some_and(is_it) {
            self.on_client_unreachable(tx);
        }
    }

    pub(crate) fn remove_client(&mut self, tx: Handle) {
        let Some(client) = self.client_txs.remove(tx) else { return };
        // One that is over by its end needs no word of it.
        if client.is_stored && (!client.is_final() || client.path.transport.is_reliable()) {
            self.forget(RecordOf::Client, client.key.0);
        }
        self.store.release(client.request);
        if let Some(timer) = client.timer {
            self.wheel.cancel(timer);
        }
    }

    /// Replaces both timers of a client transaction.
    fn set_client_timers(&mut self, tx: Handle, retransmit: Option<Duration>, end: Duration) {
        if let Some(client) = self.client_txs.get_mut(tx) {
            let now = self.now.mono;
            client.ends_at = Some(if client.is_final() { together(now, end) } else { now + end });
            self.set_client_timer(tx, retransmit);
        }
    }

    /// Waits for the next retransmission or for the end, whichever comes first.
    pub(super) fn set_client_timer(&mut self, tx: Handle, retransmit: Option<Duration>) {
        let Some(client) = self.client_txs.get_mut(tx) else { return };
        let retransmit_at = retransmit.map(|after| self.now.mono + after);
        match retransmit_at.into_iter().chain(client.ends_at).min() {
            Some(due) => client.timer = Some(self.wheel.renew(client.timer, due, Deadline::Client(tx))),
            None => drop(client.timer.take().and_then(|timer| self.wheel.cancel(timer))),
        }
    }

    /// Asks the far side to stop working on an INVITE: at once where it has answered 1xx, else as soon as it does (RFC 3261 §9.1).
    pub(crate) fn cancel_client(&mut self, tx: Handle, reasons: &str) {
        let Some(client) = self.client_txs.get_mut(tx) else { return };
        if client.is_final() || client.cancel != Cancel::No {
            return;
        }
        client.cancel = Cancel::Held;
        client.rare().reasons = reasons.into();
        let is_silent = client.is_silent();
        self.keep_client(tx);
        if !is_silent {
            self.release_cancel(tx);
        }
    }

    pub(crate) fn transmit(&mut self, transmit: Transmit) {
        self.push(Output::Transmit(transmit));
    }

    /// A request of ours, read back.
    pub(crate) fn own_request(bytes: &Bytes) -> Option<Message> {
        Message::parse(bytes.clone(), &OWN).ok()
    }

    /// Nobody wants the answer to a leg any more. Its INVITE is kept from here on: the caller's may go.
    pub(crate) fn abandon_client(&mut self, tx: Handle) {
        let is_made_again = self.client_txs.get(tx).is_some_and(|client| client.request.is_empty());
        let bytes = if is_made_again { self.sent_again(tx) } else { None };
        let Some(client) = self.client_txs.get_mut(tx) else { return };
        client.is_abandoned = true;
        if let Some(bytes) = bytes {
            client.request = self.store.keep(&[&bytes]);
        }
        self.keep_client(tx);
    }

    /// A request as it was sent, for another time; once an INVITE has failed, its ACK.
    pub(super) fn sent_again(&mut self, tx: Handle) -> Option<Bytes> {
        let client = self.client_txs.get(tx)?;
        match copy(&client.request, self.out.piece()) {
            None => self.leg_again(tx),
            sent => sent,
        }
    }

    /// The same, read back.
    pub(crate) fn sent_request(&mut self, tx: Handle) -> Option<Message> {
        self.sent_again(tx).and_then(|bytes| Self::own_request(&bytes))
    }

    pub(super) fn release_cancel(&mut self, tx: Handle) {
        if self.client_txs.get(tx).is_none_or(|client| client.cancel != Cancel::Held) {
            return;
        }
        let Some(invite) = self.sent_request(tx) else { return };
        let Some(client) = self.client_txs.get_mut(tx) else { return };
        client.cancel = Cancel::Sent { answered: false };
        // They stay until it is answered: after a restart it goes out again.
        let reasons = client.rare().reasons.clone();
        let (hop, side, wait) = (*client.path, client.side, client.estimates.t1() * 64);
        let request = Request {
            branch: client.branch(b"INVITE"),
            method: Method::Cancel,
            method_text: b"CANCEL",
            hop,
            side,
            bytes: make::cancel(&invite, &reasons, self.out.piece()),
            fallback: None,
            user: client::User::Cancel { invite: tx },
        };
        let policy = self.policy.clone();
        self.start_client(request, &policy.timeouts);
        self.set_client_timers(tx, None, wait);
        self.keep_client(tx);
    }

    fn ack_failure(&mut self, tx: Handle, response: &Message) {
        let Some(client) = self.client_txs.get(tx) else { return };
        let (hop, side) = (*client.path, client.side);
        let Some(request) = self.sent_request(tx) else { return };
        let bytes = make::ack_of_failure(&request, response, self.out.piece());
        if request.method() == Method::Invite {
            // For another time the ACK does as well: it has all that an ACK is made of.
            let kept = self.store.keep(&[&bytes]);
            if let Some(client) = self.client_txs.get_mut(tx) {
                self.store.release(std::mem::replace(&mut client.request, kept));
            }
        }
        self.stats.on_request(Method::Ack, side, Way::Sent);
        self.transmit(Transmit { hop, bytes, side, owner: None, connect_timeout: None });
    }

    /// Timer D, K and the like are zero on a stream.
    fn end_if_reliable(&mut self, tx: Handle) {
        let is_over =
            |client: &ClientTx| client.state == client::State::Completed && client.path.transport.is_reliable();
        if self.client_txs.get(tx).is_some_and(is_over) {
            self.remove_client(tx);
        }
    }

    fn remember_udp_only(&mut self, hop: Hop) {
        let now = self.now.mono;
        self.udp_only.retain(|_, until| now < *until);
        self.udp_only.insert(hop.remote, now + UDP_ONLY_FOR);
    }
}

/// More repetitions of one message than this are an anomaly.
pub(crate) const MANY: u8 = 3;

/// When a transaction ends that has nothing more to send: not before its time, and with others.
fn together(now: Mono, after: Duration) -> Mono {
    let due = now + after;
    match due.0.checked_next_multiple_of(TOGETHER.as_micros() as u64) {
        Some(later) if !after.is_zero() => Mono(later),
        _ => due,
    }
}

/// A kept text as bytes to send; `None` where it is empty.
fn copy(kept: &Kept, out: &mut bytes::BytesMut) -> Option<Bytes> {
    if kept.is_empty() {
        return None;
    }
    out.extend_from_slice(kept);
    Some(out.split().freeze())
}

/// Where responses to a request go (RFC 3261 §18.2.2, RFC 3581 §4).
pub(crate) fn reply_hop(request: &Message, flow: &Flow) -> Hop {
    let via = request.via();
    let mut hop = flow.reply();
    let port = via.port.unwrap_or(crate::proxy::route::DEFAULT_PORT);
    if let Some(maddr) = via.maddr.clone().and_then(|range| crate::sip::host_ip(request.bytes(range))) {
        hop.remote = std::net::SocketAddr::new(maddr, port);
    } else if flow.transport.is_reliable() || via.rport.is_none() {
        hop.remote.set_port(port);
    }
    hop
}
