//! A call as the journal has it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::dialog::StoredDialog;
use super::identity::StoredIdentity;
use super::{
    Anomalies, Attempt, Call, CallTimer, Challenged, Ending, FinalResponse, Leg, Moment, Names, Phase, Places, Reasons,
    Setup, Stopping, Uid,
};
use crate::arena::Handle;
use crate::event::CallState;
use crate::flow::Direction;
use crate::kept::Store;
use crate::outcome::{CodeSource, EndCause};
use crate::path::Paths;
use crate::policy::{Policy, ServerId};
use crate::stored::{Raw, StoredHop};
use crate::time::{Mono, Now, Wall};
use crate::transaction::Key;

/// An open call.
#[derive(Debug, Serialize, Deserialize)]
pub struct StoredCall<'a> {
    key: u128,
    /// Of its events, whatever the next process calls itself.
    #[serde(borrow)]
    source: &'a str,
    started: Wall,
    /// When it was written, and how old the call was then: the wall clock may have been set before.
    written: Wall,
    age: u64,
    direction: Direction,
    path: StoredHop,
    identity: StoredIdentity<'a>,
    progress_at: Since,
    ringing_at: Since,
    answered_at: Since,
    attempts: SmallVec<[StoredAttempt<'a>; 2]>,
    response: Option<StoredResponse<'a>>,
    reasons: SmallVec<[&'a str; 2]>,
    server: Option<&'a str>,
    anomalies: u16,
    progress_q850: Option<u16>,
    state: CallState,
    early_media: bool,
    is_progressive: bool,
    is_voicemail_drop: bool,
    phase: StoredPhase<'a>,
    dialogs: SmallVec<[StoredDialog<'a>; 1]>,
    /// With when they are due, in microseconds since the call began.
    timers: SmallVec<[(CallTimer, u64); 4]>,
}

/// Microseconds since the call began; `None` where it has not happened.
type Since = Option<u64>;

#[derive(Debug, Serialize, Deserialize)]
struct StoredAttempt<'a> {
    server: &'a str,
    code: Option<u16>,
    started: u64,
    ended: Since,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredResponse<'a> {
    code: Option<u16>,
    source: CodeSource,
    #[serde(borrow)]
    text: Raw<'a>,
    phrase: Option<u16>,
    dialog: Option<u8>,
}

/// [`Phase`] with transactions by their keys.
#[derive(Debug, Serialize, Deserialize)]
enum StoredPhase<'a> {
    Setup {
        upstream: u128,
        cseq: u32,
        outline: SmallVec<[(u32, u32); 4]>,
        /// Client transaction, attempt, whether it is given up.
        legs: SmallVec<[(u128, u8, bool); 2]>,
        #[serde(borrow)]
        remaining: SmallVec<[&'a str; 2]>,
        stopping: Option<(EndCause, u64)>,
    },
    Challenged {
        at: u64,
        cseq: u32,
        server: Option<&'a str>,
    },
    Answered,
    Ending {
        cause: EndCause,
        at: u64,
        is_in_grace: bool,
    },
}

/// What the keys of a restored call lead to.
#[derive(Debug, Default)]
pub struct Links {
    pub upstream: Option<u128>,
    /// Client transaction, attempt, whether it is given up.
    pub legs: SmallVec<[(u128, u8, bool); 2]>,
}

impl<'a> StoredCall<'a> {
    /// The call at hand; `server_key` and `client_key` tell the keys of its transactions, `due` when a timer fires.
    pub fn of(
        call: &'a Call,
        server_key: impl Fn(Handle) -> Option<Key>,
        client_key: impl Fn(Handle) -> Option<Key>,
        due: impl Fn(crate::wheel::TimerKey) -> Option<Mono>,
        now: Now,
    ) -> StoredCall<'a> {
        let since = |moment: Mono| u64::try_from(moment.since(call.started.mono).as_micros()).unwrap_or(u64::MAX);
        let name = |server: ServerId| call.name_of(server).unwrap_or_default();
        let attempts = call.attempts.iter().map(|attempt| StoredAttempt {
            server: name(attempt.server),
            code: attempt.code,
            started: since(attempt.started),
            ended: attempt.ended.get().map(since),
        });
        let response = call.response.as_ref().map(|response| StoredResponse {
            code: response.code,
            source: response.source,
            text: Raw(&response.text),
            phrase: response.phrase,
            dialog: response.dialog,
        });
        let phase = match &call.phase {
            Phase::Setup(setup) => StoredPhase::Setup {
                upstream: server_key(setup.upstream).map_or(0, |key| key.0),
                cseq: setup.cseq,
                outline: setup.outline.clone(),
                legs: setup
                    .legs
                    .iter()
                    .filter_map(|leg| Some((client_key(leg.client)?.0, leg.attempt, leg.is_given_up)))
                    .collect(),
                remaining: setup.remaining.iter().map(|server| name(*server)).collect(),
                stopping: setup.stopping.as_ref().map(|stopping| (stopping.cause, since(stopping.since))),
            },
            Phase::Challenged(Challenged { at, cseq, server }) => {
                StoredPhase::Challenged { at: since(*at), cseq: *cseq, server: server.map(name) }
            }
            Phase::Answered => StoredPhase::Answered,
            Phase::Ending(ending) => {
                StoredPhase::Ending { cause: ending.cause, at: since(ending.at), is_in_grace: ending.is_in_grace }
            }
        };
        StoredCall {
            key: call.key.0,
            source: &call.policy.source,
            started: call.started.wall,
            written: now.wall,
            age: since(now.mono),
            direction: call.direction,
            path: (*call.path).into(),
            identity: call.identity.stored(&call.policy),
            progress_at: call.progress_at.get().map(since),
            ringing_at: call.ringing_at.get().map(since),
            answered_at: call.answered_at.get().map(since),
            attempts: attempts.collect(),
            response,
            reasons: call.reasons.iter().map(|reason| &**reason).collect(),
            server: call.server_name(),
            anomalies: call.anomalies.0,
            progress_q850: call.progress_q850,
            state: call.state,
            early_media: call.early_media,
            is_progressive: call.is_progressive,
            is_voicemail_drop: call.is_voicemail_drop,
            phase,
            dialogs: call.dialogs.iter().map(|dialog| dialog.stored()).collect(),
            timers: call.timers.iter().filter_map(|(timer, key)| Some((*timer, since(due(*key)?)))).collect(),
        }
    }

    pub fn source(&self) -> &str {
        self.source
    }

    pub fn call_id(&self) -> &[u8] {
        self.identity.call_id()
    }

    pub fn state(&self) -> CallState {
        self.state
    }

    /// The timers and when they are due, for a call that began at `started`.
    pub fn timers(&self, started: Mono) -> impl Iterator<Item = (CallTimer, Mono)> + '_ {
        self.timers.iter().map(move |(timer, since)| (*timer, at(started, *since)))
    }

    /// The call without timers and transactions, and the keys of these.
    pub fn restored(
        &self,
        uid: Uid,
        now: Now,
        policy: Arc<Policy>,
        paths: &mut Paths,
        places: &mut Places,
        store: &mut Store,
    ) -> (Call, Links) {
        let started = Now { mono: now.mono_at(self.written) - Duration::from_micros(self.age), wall: self.started };
        let moment = |since: Since| since.map_or(Moment::default(), |since| Moment::at(at(started.mono, since)));
        let mut links = Links::default();
        let phase = match &self.phase {
            StoredPhase::Setup { upstream, cseq, outline, legs, remaining, stopping } => {
                links = Links { upstream: Some(*upstream), legs: legs.clone() };
                let stopping = stopping.map(|(cause, since)| Stopping { cause, since: at(started.mono, since) });
                Phase::Setup(places.setups.put(Setup {
                    is_restored: true,
                    upstream: Handle::NONE,
                    cseq: *cseq,
                    outline: outline.clone(),
                    legs: SmallVec::new(),
                    remaining: remaining.iter().filter_map(|name| policy.server_named(name)).collect(),
                    stopping,
                }))
            }
            StoredPhase::Challenged { at: since, cseq, server } => Phase::Challenged(Challenged {
                at: at(started.mono, *since),
                cseq: *cseq,
                server: server.and_then(|name| policy.server_named(name)),
            }),
            StoredPhase::Answered => Phase::Answered,
            StoredPhase::Ending { cause, at: since, is_in_grace } => Phase::Ending(places.endings.put(Ending {
                cause: *cause,
                at: at(started.mono, *since),
                awaited: SmallVec::new(),
                is_in_grace: *is_in_grace,
            })),
        };
        let attempts = self.attempts.iter().map(|attempt| Attempt {
            server: policy.server_named(attempt.server).unwrap_or(ServerId::UNKNOWN),
            code: attempt.code,
            started: at(started.mono, attempt.started),
            ended: moment(attempt.ended),
        });
        let response = self.response.as_ref().map(|response| FinalResponse {
            code: response.code,
            source: response.source,
            text: store.keep(&[response.text.0]),
            phrase: response.phrase,
            dialog: response.dialog,
        });
        let call = Call {
            uid,
            key: Key(self.key),
            identity: self.identity.restored(&policy, store),
            names: Names::default(),
            phase,
            started,
            path: paths.of(self.path.into()),
            progress_at: moment(self.progress_at),
            ringing_at: moment(self.ringing_at),
            answered_at: moment(self.answered_at),
            attempts: attempts.collect(),
            response,
            reasons: Reasons::from(self.reasons.iter().map(|reason| Box::from(*reason)).collect::<Vec<_>>()),
            dialogs: self.dialogs.iter().map(|dialog| dialog.restored(paths, store)).collect(),
            timers: SmallVec::new(),
            server: self.server.and_then(|name| policy.server_named(name)),
            anomalies: Anomalies(self.anomalies),
            progress_q850: self.progress_q850,
            direction: self.direction,
            state: self.state,
            early_media: self.early_media,
            is_progressive: self.is_progressive,
            is_voicemail_drop: self.is_voicemail_drop,
            is_changed: false,
            policy,
        };
        (call, links)
    }
}

impl Links {
    /// The legs whose transactions are there.
    pub fn legs(&self, client: impl Fn(u128) -> Option<Handle>) -> super::Legs {
        let leg = |(key, attempt, is_given_up): &(u128, u8, bool)| {
            Some(Leg { client: client(*key)?, attempt: *attempt, is_given_up: *is_given_up })
        };
        self.legs.iter().filter_map(leg).collect()
    }
}

fn at(started: Mono, since: u64) -> Mono {
    started + Duration::from_micros(since)
}
