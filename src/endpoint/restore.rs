//! Putting back what the journal kept of an earlier process.
//!
//! A message that the earlier process did not get to send is as one that the network has lost: over UDP the timers that
//! repeat it run on, over TCP it goes out again, with the same branches and tags. Requests that others send again find what
//! they began. Deadlines stay what they were, on the clock that people read.

use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};

use super::wire::TCP_FOR_LARGE;
use super::{Deadline, Endpoint, Owner, RETRY_SOON, Transmit};
use crate::arena::Handle;
use crate::call::{Links, Phase, StoredCall, Uid};
use crate::event::CallState;
use crate::flow::{Flow, Hop};
use crate::outcome::EndCause;
use crate::policy::Policy;
use crate::sip::{Limits, Message, Method};
use crate::stored;
use crate::time::{Now, Wall};
use crate::transaction::client;
use crate::transaction::{Key, StoredClient, StoredServer, StoredServerUser, server};

/// States by their keys, as their records had them.
#[derive(Debug, Default)]
pub struct Stored {
    pub calls: Vec<(u128, Box<[u8]>)>,
    pub servers: Vec<(u128, Box<[u8]>)>,
    pub clients: Vec<(u128, Box<[u8]>)>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Calls that go on, by state.
    pub calls: [usize; CallState::COUNT],
    /// Calls that had to be ended.
    pub ended: usize,
    /// States that could not be read.
    pub unreadable: usize,
}

/// Peers over TCP that restored calls wait for: they come back by themselves, or when something is sent to them.
#[derive(Debug, Default)]
pub(crate) struct LostPeers {
    addresses: HashSet<IpAddr, FixedState>,
    /// INVITEs of theirs that are to be answered.
    invites: Vec<(IpAddr, Handle)>,
}

/// Policies by the sources that events of their calls bear.
type Policies = HashMap<Box<str>, Arc<Policy>, FixedState>;

impl Stored {
    /// What each of `count` workers has to restore: `of_call` tells the worker of a Call-ID. The first counts what nobody can
    /// read.
    pub fn split(self, count: usize, of_call: impl Fn(&[u8]) -> usize) -> Vec<Stored> {
        let mut parts = std::iter::repeat_with(Stored::default).take(count).collect::<Vec<_>>();
        if count == 1 {
            return vec![self];
        }
        let mut of_uid = std::collections::HashMap::new();
        let mut of_server = std::collections::HashMap::new();
        for (uid, state) in self.calls {
            let worker = stored::read::<StoredCall<'_>>(&state).map_or(0, |call| of_call(call.call_id()));
            of_uid.insert(uid, worker);
            if let Some(part) = parts.get_mut(worker) {
                part.calls.push((uid, state));
            }
        }
        // A caller's request that has its 2xx has no text any more; what was made of it may have.
        let mut of_upstream = std::collections::HashMap::new();
        for (_, state) in &self.clients {
            let tx = stored::read::<StoredClient<'_>>(state);
            let upstream = tx.as_ref().and_then(|tx| tx.user.upstream());
            let call_id = tx.and_then(|tx| call_id_of([tx.request()]));
            of_upstream.extend(upstream.zip(call_id).map(|(upstream, id)| (upstream, of_call(&id))));
        }
        for (key, state) in self.servers {
            let worker = stored::read::<StoredServer<'_>>(&state).and_then(|tx| {
                let by_call = match tx.user {
                    StoredServerUser::Call(uid) => of_uid.get(&uid).copied(),
                    _ => None,
                };
                let by_text = || call_id_of(tx.texts()).map(|id| of_call(&id));
                by_call.or_else(by_text).or_else(|| of_upstream.get(&key).copied())
            });
            of_server.extend(worker.map(|worker| (key, worker)));
            if let Some(part) = parts.get_mut(worker.unwrap_or(0)) {
                part.servers.push((key, state));
            }
        }
        for (key, state) in self.clients {
            let worker = stored::read::<StoredClient<'_>>(&state).and_then(|tx| {
                let by_request = tx.user.upstream().and_then(|upstream| of_server.get(&upstream).copied());
                by_request.or_else(|| call_id_of([tx.request()]).map(|id| of_call(&id)))
            });
            if let Some(part) = parts.get_mut(worker.unwrap_or(0)) {
                part.clients.push((key, state));
            }
        }
        parts
    }
}

impl Endpoint {
    /// Puts back what an earlier process kept. Follow it with [`Endpoint::poll_output`].
    pub fn restore(&mut self, now: Now, stored: &Stored) -> Restored {
        self.advance(now);
        let mut restored = Restored::default();
        let mut policies = Policies::default();
        let mut by_uid = HashMap::<u128, Handle, FixedState>::default();
        let mut linked = Vec::new();
        for (uid, state) in &stored.calls {
            let Some(call) = stored::read::<StoredCall<'_>>(state) else {
                restored.unreadable += 1;
                continue;
            };
            let policy = self.policy_of(call.source(), &mut policies);
            let (handle, links) = self.restore_call(Uid(*uid), &call, policy);
            by_uid.insert(*uid, handle);
            linked.push((handle, links));
        }
        let (mut servers, mut relayed) = (Vec::new(), Vec::new());
        for (key, state) in &stored.servers {
            let Some(tx) = stored::read::<StoredServer<'_>>(state) else {
                restored.unreadable += 1;
                continue;
            };
            if tx.is_final() && is_over(tx.end, now) {
                continue;
            }
            let user = match tx.user {
                StoredServerUser::Call(uid) => {
                    by_uid.get(&uid).map_or(server::User::Local, |at| server::User::Call(*at))
                }
                StoredServerUser::Relay(_) => server::User::Relay(None),
                StoredServerUser::Local => server::User::Local,
            };
            let handle = self.restore_server(Key(*key), &tx, user);
            servers.push(handle);
            if let StoredServerUser::Relay(Some(client)) = tx.user {
                relayed.push((handle, Key(client)));
            }
        }
        let mut clients = Vec::new();
        for (key, state) in &stored.clients {
            let Some(tx) = stored::read::<StoredClient<'_>>(state) else {
                restored.unreadable += 1;
                continue;
            };
            let server = |key| self.server_txs.by_key(Key(key));
            if tx.is_final() && is_over(tx.end, now) {
                continue;
            }
            let is_whole = !tx.request().is_empty();
            if let Some(user) = tx.user.restored(is_whole, |uid| by_uid.get(&uid).copied(), server) {
                clients.push(self.restore_client(Key(*key), &tx, user));
            }
        }
        for (server, client) in relayed {
            let client = self.client_txs.by_key(client);
            if let Some(server) = self.server_txs.get_mut(server) {
                server.user = server::User::Relay(client);
            }
        }
        for server in servers {
            let is_orphan = |tx: &server::ServerTx| {
                !tx.is_final() && matches!(tx.user, server::User::Local | server::User::Relay(None))
            };
            // Whoever waits for its answer sends the request again.
            if self.server_txs.get(server).is_some_and(is_orphan) {
                self.remove_server(server);
            }
        }
        for client in clients {
            self.resume_client(client);
        }
        for (handle, links) in linked {
            let state = self.calls.get(handle).map(|call| call.state);
            let is_open = self.resume_call(handle, &links);
            match state.filter(|_| is_open).and_then(|state| restored.calls.get_mut(state.index())) {
                Some(count) => *count += 1,
                None => restored.ended += 1,
            }
        }
        restored
    }

    /// Whether calls wait for peers to come back.
    pub fn awaits_peers(&self) -> bool {
        !self.lost.addresses.is_empty()
    }

    /// A peer is there, by this connection.
    pub(super) fn on_connected(&mut self, flow: &Flow) {
        if self.lost.addresses.is_empty() || flow.connection.is_none() || self.side_of(flow).is_none() {
            return;
        }
        let address = flow.remote.ip().to_canonical();
        if !self.lost.addresses.remove(&address) {
            return;
        }
        let (theirs, others) = std::mem::take(&mut self.lost.invites).into_iter().partition(|(of, _)| *of == address);
        self.lost.invites = others;
        let theirs: Vec<(IpAddr, Handle)> = theirs;
        let replies = theirs.iter().filter_map(|(_, tx)| self.server_txs.get(*tx)).map(|tx| tx.reply.remote);
        let replies = replies.collect::<HashSet<_, FixedState>>();
        if replies.len() > 1 {
            // Several dialers at one address: each has its responses by a connection to where its Via says.
            return;
        }
        for (_, tx) in theirs {
            let Some(server) = self.server_txs.get_mut(tx) else { continue };
            server.path = self.paths.of(Hop { connection: flow.connection, ..*server.path });
            server.reply = self.paths.of(Hop { connection: flow.connection, ..*server.reply });
            let (hop, side) = (*server.reply, server.side);
            // A 2xx to an INVITE is not ours to repeat.
            if !server.last.is_empty() && server.state != server::State::Accepted {
                let bytes = self.out.copy(&server.last);
                self.transmit(Transmit { hop, bytes, side, owner: None, connect_timeout: None });
            }
        }
    }

    /// Whether a call without an answer has a party over TCP that has not come back since the restart.
    pub(crate) fn has_lost_party(&self, handle: Handle) -> bool {
        let Some(setup) = self.calls.get(handle).and_then(|call| call.setup()).filter(|_| self.awaits_peers()) else {
            return false;
        };
        let upstream = self.server_txs.get(setup.upstream).map(|tx| &tx.path);
        let legs = setup.legs.iter().filter_map(|leg| self.client_txs.get(leg.client)).map(|tx| &tx.path);
        upstream
            .into_iter()
            .chain(legs)
            .any(|path| path.transport.is_reliable() && self.lost.addresses.contains(&path.remote.ip().to_canonical()))
    }

    /// A party of a call whose connection ended with the process before.
    fn miss(&mut self, path: Hop, invite: Option<Handle>) {
        if path.transport.is_reliable() {
            let address = path.remote.ip().to_canonical();
            self.lost.addresses.insert(address);
            self.lost.invites.extend(invite.map(|tx| (address, tx)));
        }
    }

    /// The policy of calls whose events bear this source.
    fn policy_of(&self, source: &str, known: &mut Policies) -> Arc<Policy> {
        if source == &*self.policy.source {
            return self.policy.clone();
        }
        let of_source = || Arc::new(Policy { source: source.into(), ..Policy::clone(&self.policy) });
        known.entry(source.into()).or_insert_with(of_source).clone()
    }

    fn restore_call(&mut self, uid: Uid, stored: &StoredCall<'_>, policy: Arc<Policy>) -> (Handle, Links) {
        let (mut call, links) =
            stored.restored(uid, self.now, policy, &mut self.paths, &mut self.places, &mut self.store);
        for dialog in &mut call.dialogs {
            // What was forwarded of a BYE may be lost, so that it comes again: that is no repetition.
            dialog.is_bye_challenged |= dialog.bye_from.is_some();
        }
        let (started, direction, state) = (call.started.mono, call.direction, call.state);
        call.names = self.names_of(&call.identity);
        self.stats.on_call_restored(direction, state);
        let handle = self.calls.insert_whole(call);
        let timers = stored.timers(started);
        let timers = timers.map(|(timer, due)| (timer, self.wheel.insert(due, Deadline::Call(handle, timer))));
        let timers = timers.collect();
        if let Some(call) = self.calls.get_mut(handle) {
            call.timers = timers;
        }
        (handle, links)
    }

    fn restore_server(&mut self, key: Key, stored: &StoredServer<'_>, user: server::User) -> Handle {
        let tx = stored.restored(key, user, &mut self.paths, &mut self.store);
        // A failure that is not acknowledged.
        let is_repeated = tx.state == server::State::Completed && tx.is_invite && !tx.last.is_empty();
        let is_reliable = tx.path.transport.is_reliable();
        let (t1, path, is_final) = (tx.estimates.t1(), *tx.path, tx.is_final());
        let handle = self.server_txs.insert(tx);
        if stored.is_open_invite() {
            self.miss(path, Some(handle));
        }
        let deadline = if is_final { Deadline::ServerEnd(handle) } else { Deadline::ServerTrying(handle) };
        let end = stored.end.map(|end| self.wheel.insert(self.now.mono_at(end), deadline));
        let retransmit = (is_repeated && !is_reliable)
            .then(|| self.wheel.insert(self.now.mono + t1, Deadline::ServerRetransmit(handle)));
        let Some(tx) = self.server_txs.get_mut(handle) else { return handle };
        (tx.end, tx.retransmit) = (end, retransmit);
        tx.interval = u32::try_from(t1.as_millis()).unwrap_or(u32::MAX);
        if is_repeated && is_reliable {
            let (hop, side, bytes) = (*tx.reply, tx.side, self.out.copy(&tx.last));
            self.transmit(Transmit { hop, bytes, side, owner: None, connect_timeout: None });
        }
        handle
    }

    fn restore_client(&mut self, key: Key, stored: &StoredClient<'_>, user: client::User) -> Handle {
        let tx = stored.restored(key, user, &mut self.paths, &mut self.store);
        let path = *tx.path;
        let handle = self.client_txs.insert(tx);
        if !stored.is_final() {
            self.miss(path, None);
        }
        if let Some(tx) = self.client_txs.get_mut(handle) {
            tx.ends_at = stored.end.map(|end| self.now.mono_at(end));
        }
        self.set_client_timer(handle, None);
        handle
    }

    /// Has what may not have gone out sent again.
    fn resume_client(&mut self, tx: Handle) {
        let Some(client) = self.client_txs.get(tx).filter(|client| !client.is_final()) else { return };
        match client.user {
            client::User::Bye { call } => self.await_bye(call, tx),
            client::User::Relay { call: Some(call), .. } if client.note.method == Some(Method::Bye) => {
                self.await_bye(call, tx);
            }
            _ => {}
        }
        let Some(client) = self.client_txs.get_mut(tx) else { return };
        if !client.is_silent() {
            if !client.is_invite && !client.path.transport.is_reliable() {
                // Timer E goes on in Proceeding (RFC 3261 §17.1.2.2).
                let after = client.estimates.t2();
                self.set_client_timer(tx, Some(after));
            }
            self.release_cancel(tx);
            return;
        }
        let (retransmit, _) = client.on_start();
        let (hop, side) = (*client.path, client.side);
        let may_fall_back = client.rare.as_ref().is_some_and(|rare| rare.fallback.is_some());
        let connect_timeout = may_fall_back.then_some(TCP_FOR_LARGE);
        self.set_client_timer(tx, retransmit);
        if !hop.transport.is_reliable() {
            return;
        }
        if let Some(bytes) = self.sent_again(tx) {
            let owner = Some(Owner(tx.to_bits()));
            self.transmit(Transmit { hop, bytes, side, owner, connect_timeout });
        }
    }

    /// Joins a call to its transactions; false where it could not go on.
    fn resume_call(&mut self, handle: Handle, links: &Links) -> bool {
        let legs = links.legs(|key| self.client_txs.by_key(Key(key)));
        let upstream = links.upstream.and_then(|key| self.server_txs.by_key(Key(key)));
        let Some(call) = self.calls.get_mut(handle) else { return false };
        match &mut call.phase {
            Phase::Setup(setup) => {
                let can_go_on = !legs.is_empty() || setup.stopping.is_some();
                setup.legs = legs;
                let Some(upstream) = upstream else {
                    self.emit(handle, EndCause::Restart, self.now.mono);
                    return false;
                };
                setup.upstream = upstream;
                if !can_go_on && !self.try_next(handle) {
                    self.fail_here(handle, EndCause::Restart, 503, RETRY_SOON);
                    return false;
                }
            }
            Phase::Challenged(_) | Phase::Answered | Phase::Ending(_) => {}
        }
        true
    }
}

fn is_over(end: Option<Wall>, now: Now) -> bool {
    end.is_some_and(|end| end <= now.wall)
}

/// The Call-ID of the first of some messages that can be read.
fn call_id_of<'a>(texts: impl IntoIterator<Item = &'a [u8]>) -> Option<Box<[u8]>> {
    let read = |text: &[u8]| Message::parse(bytes::Bytes::copy_from_slice(text), &Limits::NONE).ok();
    texts.into_iter().filter(|text| !text.is_empty()).find_map(read).map(|message| message.call_id().into())
}
