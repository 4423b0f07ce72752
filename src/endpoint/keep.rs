//! What the journal has to know: each call and each transaction of a call that has changed, as it stands.
//!
//! Changes are noted as they happen and put out as [`Record`]s before anything else, once for all that a batch of inputs has
//! changed: whoever writes them before it sends has kept what the other end is about to learn.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Endpoint, Output};
use crate::arena::Handle;
use crate::call::StoredCall;
use crate::stored;
use crate::time::Mono;
use crate::transaction::client::{self, ClientTx};
use crate::transaction::server::{self, ServerTx};
use crate::transaction::{StoredClient, StoredClientUser, StoredServer, StoredServerUser};

/// The state of something open, to be kept in the place of its earlier ones.
#[derive(Clone, Debug)]
pub struct Record {
    pub of: RecordOf,
    /// Of a call its uid, of a transaction its key.
    pub key: u128,
    /// Empty where a transaction is over.
    pub state: Bytes,
}

/// What a record is of. Calls end by their event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordOf {
    Call,
    Server,
    Client,
}

/// What has changed since outputs were taken the last time.
#[derive(Debug, Default)]
pub(crate) struct Keeping {
    is_on: bool,
    /// Transactions, each as often as it has changed; calls note it themselves.
    changed: Vec<(RecordOf, Handle)>,
    /// Records and events: they come before everything else.
    first: VecDeque<Output>,
    /// What is left to write of all that is open.
    all: Vec<(RecordOf, Handle)>,
}

impl Keeping {
    pub(crate) fn push(&mut self, output: Output) {
        self.first.push_back(output);
    }

    pub(crate) fn pop(&mut self) -> Option<Output> {
        self.first.pop_front()
    }
}

impl Endpoint {
    /// Puts out a [`Record`] of whatever changes, from here on.
    pub fn keep_records(&mut self) {
        self.keeping.is_on = true;
        self.calls.track();
    }

    /// Begins to put out records of everything that is open.
    pub fn store_all(&mut self) {
        let calls = self.calls.iter().map(|(handle, _)| (RecordOf::Call, handle));
        let servers =
            self.server_txs.iter().filter(|(_, tx)| tx.is_stored).map(|(handle, _)| (RecordOf::Server, handle));
        let clients =
            self.client_txs.iter().filter(|(_, tx)| tx.is_stored).map(|(handle, _)| (RecordOf::Client, handle));
        self.keeping.all = calls.chain(servers).chain(clients).collect();
    }

    /// Goes on with it, some at a time; false where all is put out.
    pub fn store_more(&mut self, count: usize) -> bool {
        for _ in 0..count {
            let Some((of, handle)) = self.keeping.all.pop() else { return false };
            self.store(of, handle);
        }
        !self.keeping.all.is_empty()
    }

    /// A server transaction of a call has changed.
    pub(crate) fn keep_server(&mut self, tx: Handle) {
        self.note_changed(RecordOf::Server, tx);
    }

    /// A client transaction of a call has changed.
    pub(crate) fn keep_client(&mut self, tx: Handle) {
        self.note_changed(RecordOf::Client, tx);
    }

    fn note_changed(&mut self, of: RecordOf, tx: Handle) {
        if self.keeping.is_on {
            self.keeping.changed.push((of, tx));
        }
    }

    /// A transaction of a call is over.
    pub(crate) fn forget(&mut self, of: RecordOf, key: u128) {
        if self.keeping.is_on {
            self.keeping.push(Output::Record(Record { of, key, state: Bytes::new() }));
        }
    }

    /// Puts out what has changed.
    pub(crate) fn put_out_changes(&mut self) {
        if !self.keeping.is_on {
            return;
        }
        while let Some(call) = self.calls.next_changed() {
            self.store(RecordOf::Call, call);
        }
        let mut changed = std::mem::take(&mut self.keeping.changed);
        changed.sort_unstable_by_key(|(of, tx)| (*of, tx.to_bits()));
        changed.dedup();
        for (of, tx) in changed.drain(..) {
            self.store(of, tx);
        }
        // Its room is used again.
        self.keeping.changed = changed;
    }

    /// Puts out the state of something, if it is still there.
    fn store(&mut self, of: RecordOf, handle: Handle) {
        let mut state = std::mem::take(&mut self.lines);
        state.clear();
        let key = match of {
            RecordOf::Call => self.calls.get(handle).map(|call| {
                let server_key = |tx| self.server_txs.get(tx).map(|tx| tx.key);
                let client_key = |tx| self.client_txs.get(tx).map(|tx| tx.key);
                stored::put(
                    &StoredCall::of(call, server_key, client_key, |timer| self.wheel.due(timer), self.now),
                    &mut state,
                );
                call.uid.0
            }),
            RecordOf::Server => self.server_txs.get(handle).filter(|tx| tx.is_stored).map(|tx| {
                stored::put(&StoredServer::of(tx, self.stored_server_user(tx), self.end_of(tx.end)), &mut state);
                tx.key.0
            }),
            RecordOf::Client => self.client_txs.get(handle).filter(|tx| tx.is_stored).and_then(|tx| {
                let user = self.stored_client_user(tx)?;
                stored::put(&StoredClient::of(tx, user, tx.ends_at.map(|end| self.now.wall_at(end))), &mut state);
                Some(tx.key.0)
            }),
        };
        if let Some(key) = key {
            let state = self.told.copy(&state);
            self.keeping.push(Output::Record(Record { of, key, state }));
        }
        self.lines = state;
    }

    fn end_of(&self, timer: Option<crate::wheel::TimerKey>) -> Option<crate::time::Wall> {
        timer.and_then(|timer| self.wheel.due(timer)).map(|due: Mono| self.now.wall_at(due))
    }

    fn stored_server_user(&self, tx: &ServerTx) -> StoredServerUser {
        match tx.user {
            server::User::Call(call) => match self.calls.get(call) {
                Some(call) => StoredServerUser::Call(call.uid.0),
                None => StoredServerUser::Local,
            },
            server::User::Relay(client) => {
                StoredServerUser::Relay(client.and_then(|tx| self.client_txs.get(tx)).map(|tx| tx.key.0))
            }
            server::User::Local => StoredServerUser::Local,
        }
    }

    /// `None` where the request that it belongs to is gone.
    fn stored_client_user(&self, tx: &ClientTx) -> Option<StoredClientUser> {
        let uid = |call: Handle| self.calls.get(call).map(|call| call.uid.0);
        match tx.user {
            client::User::Leg { call, upstream, attempt, how } => {
                let upstream = self.server_txs.get(upstream).map(|server| server.key);
                Some(StoredClientUser::leg(uid(call), upstream, attempt, how))
            }
            client::User::Relay { server, call, dialog } => {
                let server = self.server_txs.get(server)?.key.0;
                Some(StoredClientUser::Relay { server, call: call.and_then(uid), dialog })
            }
            client::User::Bye { call } => Some(StoredClientUser::Bye { call: uid(call)? }),
            client::User::Nobody => Some(StoredClientUser::Nobody),
            client::User::Cancel { .. } => None,
        }
    }
}
