//! Client transactions: RFC 3261 §17.1, with Accepted of RFC 6026 §7.2.

use std::time::Duration;

use bytes::Bytes;

use super::{Branch, Estimates, Key, milliseconds};
use crate::arena::Handle;
use crate::flow::{Hop, Side};
use crate::kept::Kept;
use crate::path::Path;
use crate::sip::Method;
use crate::time::Mono;
use crate::wheel::TimerKey;

/// Where a client transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum State {
    /// Nothing has come back. Calling for INVITE, Trying for the rest.
    Calling,
    Proceeding,
    /// 3xx–6xx to an INVITE, any final response to the rest.
    Completed,
    /// 2xx to an INVITE.
    Accepted,
}

/// Who waits for the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// A leg of a call that has no final response yet.
    Leg { call: Handle, upstream: Handle, attempt: u8, how: Forwarded },
    /// A forwarded request: the server transaction that it came on; the call and dialog that it is in.
    Relay { server: Handle, call: Option<Handle>, dialog: u8 },
    /// A BYE of ours that ends a call's dialog.
    Bye { call: Handle },
    /// A CANCEL of ours, for this INVITE.
    Cancel { invite: Handle },
    /// Nobody: a BYE that clears what came too late.
    Nobody,
}

/// What the caller's INVITE named of us when it was forwarded. It may be something else later, by another policy, and
/// what is made of the INVITE then must match what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// The Request-URI.
    pub is_for_us: bool,
    /// Route values at the top.
    pub own_routes: u16,
}

/// What became of the wish to cancel an INVITE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancel {
    No,
    /// Waits for a 1xx (RFC 3261 §9.1); the Reason lines that it will bear are in [`Rare::reasons`] until it is answered.
    Held,
    Sent {
        answered: bool,
    },
}

/// Over UDP after all, if TCP does not open in time (RFC 3261 §18.1.1).
#[derive(Clone, Debug)]
pub struct Fallback {
    pub hop: Hop,
    pub bytes: Bytes,
}

/// What few client transactions need.
#[derive(Debug, Default)]
pub struct Rare {
    pub fallback: Option<Box<Fallback>>,
    /// To tags (hashed) of 2xx that were cleared here, each with its ACK and where that goes; of an INVITE that has failed,
    /// those of 2xx that were dropped, without ACK.
    pub answered: Vec<(u64, Hop, Box<[u8]>)>,
    /// Whole Reason lines of a CANCEL that is held, or not answered yet.
    pub reasons: Box<str>,
    /// The new remote target of who sent the request.
    pub contact: Option<Box<[u8]>>,
}

/// A request of ours that waits for its response.
#[derive(Debug)]
pub struct ClientTx {
    pub key: Key,
    /// Of its branch.
    pub loop_hash: u64,
    pub is_invite: bool,
    pub state: State,
    pub user: User,
    pub path: Path,
    pub side: Side,
    /// The request as sent; empty for the leg of a call: that is made again from the caller's INVITE while that is kept.
    /// Once an INVITE has failed, the ACK.
    pub request: Kept,
    pub cancel: Cancel,
    /// Nobody wants its answer any more: a 2xx is cleared with ACK and BYE.
    pub is_abandoned: bool,
    /// How often a response came again.
    pub repeats: u8,
    /// Current interval of Timer A or E, in milliseconds.
    pub interval: u32,
    /// For what is due first: the next retransmission or the end.
    pub timer: Option<TimerKey>,
    pub ends_at: Option<Mono>,
    pub estimates: Estimates,
    /// What a forwarded request will change in its dialog once it is answered 2xx.
    pub note: Note,
    pub rare: Option<Box<Rare>>,
    /// The journal keeps it: it is the INVITE of a call, a request inside its dialogs, or a BYE of ours.
    pub is_stored: bool,
}

/// What a request inside a dialog asks for, to be done when it is answered 2xx.
#[derive(Clone, Copy, Debug, Default)]
pub struct Note {
    pub method: Option<Method>,
    /// It bears the sender's new remote target, which is in [`Rare::contact`].
    pub has_target: bool,
    /// A REFER or re-INVITE to the voicemail drop's target.
    pub is_voicemail_drop: bool,
    /// The side that sent it.
    pub from: Option<Side>,
}

/// What a response means to its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnResponse {
    /// Hand it on; the timer that ends the transaction from here.
    Pass {
        end: Option<Duration>,
        first: bool,
    },
    /// A final response to an INVITE, again: send the ACK again.
    AckAgain,
    /// A 2xx to an INVITE that has failed.
    Contradict,
    Absorb,
}

impl ClientTx {
    /// Nothing has come back yet.
    pub fn is_silent(&self) -> bool {
        self.state == State::Calling
    }

    /// A final response has come.
    pub fn is_final(&self) -> bool {
        matches!(self.state, State::Completed | State::Accepted)
    }

    /// The branch that it was sent with.
    pub fn branch(&self, method: &[u8]) -> Branch {
        Branch::of(self.key, method, self.loop_hash)
    }

    pub fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Interval of the first retransmission (Timer A, E) and the time after which silence is failure (B, F).
    pub fn on_start(&mut self) -> (Option<Duration>, Duration) {
        let t1 = self.estimates.t1();
        self.interval = milliseconds(t1);
        ((!self.path.transport.is_reliable()).then_some(t1), t1 * 64)
    }

    /// Timer A or E fired: the next interval, if the request is sent again.
    pub fn on_retransmit(&mut self) -> Option<Duration> {
        let t2 = milliseconds(self.estimates.t2());
        match (self.state, self.is_invite) {
            (State::Calling, true) => self.interval = self.interval.saturating_mul(2),
            (State::Calling, false) => self.interval = self.interval.saturating_mul(2).min(t2),
            (State::Proceeding, false) => self.interval = t2,
            _ => return None,
        }
        Some(Duration::from_millis(self.interval.into()))
    }

    pub fn on_response(&mut self, code: u16) -> OnResponse {
        let reliable = self.path.transport.is_reliable();
        let (t1, t4) = (self.estimates.t1(), self.estimates.t4());
        match self.state {
            State::Completed if code >= 300 && self.is_invite => OnResponse::AckAgain,
            State::Completed if code >= 200 && self.is_invite => OnResponse::Contradict,
            State::Completed => OnResponse::Absorb,
            State::Accepted if (200..300).contains(&code) => OnResponse::Pass { end: None, first: false },
            State::Accepted => OnResponse::Absorb,
            State::Calling | State::Proceeding if code < 200 => {
                let first = self.state == State::Calling;
                self.state = State::Proceeding;
                // Timer C, which each 1xx but 100 starts anew (§16.7 step 2); from the CANCEL on 64·T1 are what is left (§9.1).
                let is_cancelled = matches!(self.cancel, Cancel::Sent { .. });
                let has_timer_c = self.is_invite && !is_cancelled && (first || code > 100);
                let end = has_timer_c.then_some(self.estimates.timer_c());
                OnResponse::Pass { end, first }
            }
            State::Calling | State::Proceeding if !self.is_invite => {
                self.state = State::Completed;
                OnResponse::Pass { end: Some(if reliable { Duration::ZERO } else { t4 }), first: true }
            }
            State::Calling | State::Proceeding if code < 300 => {
                self.state = State::Accepted;
                OnResponse::Pass { end: Some(t1 * 64), first: true }
            }
            State::Calling | State::Proceeding => {
                self.state = State::Completed;
                // Timer D: at least 32 s on unreliable transports.
                let end = if reliable { Duration::ZERO } else { (t1 * 64).max(Duration::from_secs(32)) };
                OnResponse::Pass { end: Some(end), first: true }
            }
        }
    }
}

impl crate::table::Keyed for ClientTx {
    fn key(&self) -> Key {
        self.key
    }
}
