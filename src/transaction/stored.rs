//! Transactions as the journal has them.

use serde::{Deserialize, Serialize};

use super::client::{self, Cancel, ClientTx, Fallback, Forwarded, Note, Rare};
use super::server::{self, ServerTx};
use super::{Estimates, Key};
use crate::arena::Handle;
use crate::flow::Side;
use crate::kept::Store;
use crate::path::Paths;
use crate::sip::Method;
use crate::stored::{Raw, StoredHop};
use crate::time::Wall;

/// A server transaction.
#[derive(Debug, Serialize, Deserialize)]
pub struct StoredServer<'a> {
    is_invite: bool,
    state: server::State,
    side: Side,
    path: StoredHop,
    reply: StoredHop,
    pub user: StoredServerUser,
    #[serde(borrow)]
    request: Raw<'a>,
    is_outline: bool,
    last: Raw<'a>,
    stamp: Raw<'a>,
    estimates: Estimates,
    /// When it ends; before its final response, when a request that is no INVITE gets a 100.
    pub end: Option<Wall>,
}

/// [`server::User`] by keys.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum StoredServerUser {
    Local,
    /// The INVITE of the call with this uid.
    Call(u128),
    /// Forwarded on the client transaction with this key.
    Relay(Option<u128>),
}

/// A client transaction.
#[derive(Debug, Serialize, Deserialize)]
pub struct StoredClient<'a> {
    loop_hash: u64,
    is_invite: bool,
    state: client::State,
    side: Side,
    path: StoredHop,
    pub user: StoredClientUser,
    #[serde(borrow)]
    request: Raw<'a>,
    pub cancel: StoredCancel<'a>,
    is_abandoned: bool,
    estimates: Estimates,
    pub end: Option<Wall>,
    note: StoredNote<'a>,
    /// Where it goes over UDP if TCP does not open, and as what.
    fallback: Option<(StoredHop, Raw<'a>)>,
}

/// [`client::User`] by keys, as far as such transactions are kept.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum StoredClientUser {
    /// A leg: the uid of its call while that is open, the key of the caller's INVITE until that is acknowledged.
    Leg { call: Option<u128>, upstream: Option<u128>, attempt: u8, is_for_us: bool, own_routes: u16 },
    /// A request inside a dialog, forwarded.
    Relay { server: u128, call: Option<u128>, dialog: u8 },
    /// A BYE of ours.
    Bye { call: u128 },
    /// A BYE that clears what came too late.
    Nobody,
}

/// [`Cancel`] with the Reason lines of one that is held, or may not have arrived.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum StoredCancel<'a> {
    No,
    Held(&'a str),
    Sent {
        answered: bool,
    },
    /// Sent, not answered, with its Reason lines.
    Unanswered(&'a str),
}

/// [`Note`] with the target that it speaks of.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct StoredNote<'a> {
    method: Option<Method>,
    has_target: bool,
    is_voicemail_drop: bool,
    from: Option<Side>,
    #[serde(borrow)]
    contact: Option<Raw<'a>>,
}

impl<'a> StoredServer<'a> {
    pub fn of(tx: &'a ServerTx, user: StoredServerUser, end: Option<Wall>) -> StoredServer<'a> {
        StoredServer {
            is_invite: tx.is_invite,
            state: tx.state,
            side: tx.side,
            path: (*tx.path).into(),
            reply: (*tx.reply).into(),
            user,
            request: Raw(&tx.request),
            is_outline: tx.is_outline,
            last: Raw(&tx.last),
            stamp: Raw(&tx.stamp),
            estimates: tx.estimates,
            end,
        }
    }

    pub fn is_final(&self) -> bool {
        !matches!(self.state, server::State::Trying | server::State::Proceeding)
    }

    /// The INVITE has no final response.
    pub fn is_open_invite(&self) -> bool {
        self.is_invite && !self.is_final()
    }

    /// Messages that it holds; they may be empty.
    pub fn texts(&self) -> [&'a [u8]; 2] {
        [self.last.0, self.request.0]
    }

    /// The transaction, without timers.
    pub fn restored(&self, key: Key, user: server::User, paths: &mut Paths, store: &mut Store) -> ServerTx {
        ServerTx {
            key,
            is_invite: self.is_invite,
            state: self.state,
            side: self.side,
            path: paths.of(self.path.into()),
            reply: paths.of(self.reply.into()),
            user,
            request: store.keep(&[self.request.0]),
            is_outline: self.is_outline,
            last: store.keep(&[self.last.0]),
            stamp: store.keep(&[self.stamp.0]),
            repeats: 0,
            interval: 0,
            retransmit: None,
            end: None,
            estimates: self.estimates,
            is_stored: true,
        }
    }
}

impl<'a> StoredClient<'a> {
    pub fn of(tx: &'a ClientTx, user: StoredClientUser, end: Option<Wall>) -> StoredClient<'a> {
        let rare = tx.rare.as_deref();
        let cancel = match tx.cancel {
            Cancel::No => StoredCancel::No,
            Cancel::Held => StoredCancel::Held(rare.map_or("", |rare| &rare.reasons)),
            Cancel::Sent { answered: false } => StoredCancel::Unanswered(rare.map_or("", |rare| &rare.reasons)),
            Cancel::Sent { answered: true } => StoredCancel::Sent { answered: true },
        };
        let Note { method, has_target, is_voicemail_drop, from } = tx.note;
        let contact = rare.and_then(|rare| rare.contact.as_deref()).map(Raw);
        let fallback = rare.and_then(|rare| rare.fallback.as_deref());
        StoredClient {
            loop_hash: tx.loop_hash,
            is_invite: tx.is_invite,
            state: tx.state,
            side: tx.side,
            path: (*tx.path).into(),
            user,
            request: Raw(&tx.request),
            cancel,
            is_abandoned: tx.is_abandoned,
            estimates: tx.estimates,
            end,
            note: StoredNote { method, has_target, is_voicemail_drop, from, contact },
            fallback: fallback.map(|fallback| (fallback.hop.into(), Raw(&fallback.bytes))),
        }
    }

    pub fn is_final(&self) -> bool {
        matches!(self.state, client::State::Completed | client::State::Accepted)
    }

    /// The request as it was sent, or the ACK; may be empty.
    pub fn request(&self) -> &'a [u8] {
        self.request.0
    }

    /// The transaction, without timers. A CANCEL that may not have arrived is as one that is held.
    pub fn restored(&self, key: Key, user: client::User, paths: &mut Paths, store: &mut Store) -> ClientTx {
        let (cancel, reasons) = match self.cancel {
            StoredCancel::No => (Cancel::No, ""),
            StoredCancel::Held(reasons) | StoredCancel::Unanswered(reasons) => (Cancel::Held, reasons),
            StoredCancel::Sent { answered: false } => (Cancel::Held, ""),
            StoredCancel::Sent { answered: true } => (Cancel::Sent { answered: true }, ""),
        };
        let StoredNote { method, has_target, is_voicemail_drop, from, contact } = self.note;
        let rare = Rare {
            reasons: reasons.into(),
            contact: contact.map(|contact| contact.0.into()),
            fallback: self.fallback.map(|(hop, bytes)| {
                Box::new(Fallback { hop: hop.into(), bytes: bytes::Bytes::copy_from_slice(bytes.0) })
            }),
            ..Rare::default()
        };
        ClientTx {
            key,
            loop_hash: self.loop_hash,
            is_invite: self.is_invite,
            state: self.state,
            user,
            path: paths.of(self.path.into()),
            side: self.side,
            request: store.keep(&[self.request.0]),
            cancel,
            is_abandoned: self.is_abandoned,
            repeats: 0,
            interval: 0,
            timer: None,
            ends_at: None,
            estimates: self.estimates,
            note: Note { method, has_target, is_voicemail_drop, from },
            rare: Some(Box::new(rare)),
            is_stored: true,
        }
    }
}

impl StoredClientUser {
    /// Of a leg.
    pub fn leg(call: Option<u128>, upstream: Option<Key>, attempt: u8, how: Forwarded) -> StoredClientUser {
        let Forwarded { is_for_us, own_routes } = how;
        let upstream = upstream.map(|key| key.0);
        StoredClientUser::Leg { call, upstream, attempt, is_for_us, own_routes }
    }

    /// The key of the server transaction that it belongs to.
    pub fn upstream(self) -> Option<u128> {
        match self {
            StoredClientUser::Leg { upstream, .. } => upstream,
            StoredClientUser::Relay { server, .. } => Some(server),
            StoredClientUser::Bye { .. } | StoredClientUser::Nobody => None,
        }
    }

    /// By handles, given where keys lead; `None` where it would have nothing to do. A leg outlives its caller's INVITE: it
    /// `is_whole` where it has the message that it may have to send again.
    pub fn restored(
        self,
        is_whole: bool,
        of_call: impl Fn(u128) -> Option<Handle>,
        server: impl Fn(u128) -> Option<Handle>,
    ) -> Option<client::User> {
        Some(match self {
            StoredClientUser::Leg { call: of, upstream, attempt, is_for_us, own_routes } => {
                let upstream = upstream.and_then(server).or(is_whole.then_some(Handle::NONE))?;
                let how = Forwarded { is_for_us, own_routes };
                client::User::Leg { call: of.and_then(of_call).unwrap_or(Handle::NONE), upstream, attempt, how }
            }
            StoredClientUser::Relay { server: of, call: within, dialog } => {
                client::User::Relay { server: server(of)?, call: within.and_then(of_call), dialog }
            }
            StoredClientUser::Bye { call: of } => client::User::Bye { call: of_call(of)? },
            StoredClientUser::Nobody => client::User::Nobody,
        })
    }
}
