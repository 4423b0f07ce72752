//! Server transactions: RFC 3261 §17.2, with Accepted of RFC 6026 §7.1.
//!
//! Timer I is T4 on every transport, where §17.2.1 lets it be zero on reliable ones: a CANCEL may cross the failure of its
//! INVITE there too, and is to find an INVITE that has been answered (§9.2), not none.

use std::time::Duration;

use super::{Estimates, Key, milliseconds};
use crate::arena::Handle;
use crate::flow::Side;
use crate::kept::Kept;
use crate::path::Path;
use crate::wheel::TimerKey;

/// Where a server transaction stands. `Trying` and `Accepted` are those of non-INVITE and INVITE alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum State {
    Trying,
    Proceeding,
    /// A 3xx–6xx to the INVITE, or any final response to another request, went out.
    Completed,
    /// The ACK for it came. What is left absorbs further ones, and a CANCEL finds it; it holds no text.
    Confirmed,
    /// A 2xx to the INVITE went out; more may follow (RFC 6026).
    Accepted,
}

/// Who decides what the transaction answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// Answered here, nobody waits.
    Local,
    /// The INVITE of a call.
    Call(Handle),
    /// Forwarded on one client transaction.
    Relay(Option<Handle>),
}

/// A request that waits for its response, or absorbs its retransmissions.
#[derive(Debug)]
pub struct ServerTx {
    pub key: Key,
    pub is_invite: bool,
    pub state: State,
    pub side: Side,
    /// How the request came.
    pub path: Path,
    /// Where responses go (RFC 3261 §18.2.2).
    pub reply: Path,
    pub user: User,
    /// The request as it came: until the final response, to make responses from.
    pub request: Kept,
    /// Of the request only the start line and the fields that responses need are left.
    pub is_outline: bool,
    /// The last response but 100, for retransmissions. Of an INVITE that was answered, the hashed To tags of its 2xx: those
    /// are repeated by who sent them.
    pub last: Kept,
    /// Header lines for the final response of this transaction; of an INVITE that was answered, the call's uid, of which
    /// they are made for each 2xx.
    pub stamp: Kept,
    /// How often the request came again.
    pub repeats: u8,
    /// Current interval of Timer G, in milliseconds.
    pub interval: u32,
    pub retransmit: Option<TimerKey>,
    pub end: Option<TimerKey>,
    pub estimates: Estimates,
    /// The journal keeps it: it is the INVITE of a call, or a request inside its dialogs.
    pub is_stored: bool,
}

/// What to do about a request that came again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRepeat {
    /// Send the last response again.
    Answer,
    Absorb,
}

/// What to do about an ACK that has the transaction's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnAck {
    /// It was for a 3xx–6xx: stop retransmitting, end after Timer I.
    Confirmed {
        timer_i: Duration,
    },
    Absorb,
    /// It is for a 2xx: not this transaction's business (RFC 6026 §7.1).
    Forward,
}

/// Which timers to set once a final response went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Timer G, on unreliable transports.
    pub retransmit: Option<Duration>,
    /// Timer H, J or L.
    pub end: Duration,
}

impl ServerTx {
    /// A final response has gone out before.
    pub fn is_final(&self) -> bool {
        matches!(self.state, State::Completed | State::Confirmed | State::Accepted)
    }

    /// Whether a response may still go out: more 2xx after a 2xx to an INVITE, else one final one.
    pub fn takes(&self, code: u16) -> bool {
        match self.state {
            State::Trying | State::Proceeding => true,
            State::Accepted => (200..300).contains(&code),
            State::Completed | State::Confirmed => false,
        }
    }

    /// A response goes out. Returns the timers of the first final one.
    pub fn on_response(&mut self, code: u16) -> Option<Finished> {
        let reliable = self.path.transport.is_reliable();
        if code < 200 {
            self.state = State::Proceeding;
            return None;
        }
        if self.is_final() {
            return None;
        }
        let t64 = self.estimates.t1() * 64;
        if !self.is_invite {
            self.state = State::Completed;
            let end = if reliable { Duration::ZERO } else { t64 };
            return Some(Finished { retransmit: None, end });
        }
        if code < 300 {
            self.state = State::Accepted;
            return Some(Finished { retransmit: None, end: t64 });
        }
        self.state = State::Completed;
        self.interval = milliseconds(self.estimates.t1());
        let retransmit = (!reliable).then(|| self.estimates.t1());
        Some(Finished { retransmit, end: t64 })
    }

    /// Timer G fired: the next interval, if it goes on.
    pub fn on_retransmit(&mut self) -> Option<Duration> {
        if self.state != State::Completed {
            return None;
        }
        self.interval = self.interval.saturating_mul(2).min(milliseconds(self.estimates.t2()));
        Some(Duration::from_millis(self.interval.into()))
    }

    pub fn on_repeat(&mut self) -> OnRepeat {
        self.repeats = self.repeats.saturating_add(1);
        match self.state {
            State::Proceeding | State::Completed => OnRepeat::Answer,
            State::Trying | State::Confirmed | State::Accepted => OnRepeat::Absorb,
        }
    }

    pub fn on_ack(&mut self) -> OnAck {
        match self.state {
            State::Completed if self.is_invite => {
                self.state = State::Confirmed;
                OnAck::Confirmed { timer_i: self.estimates.t4() }
            }
            State::Accepted => OnAck::Forward,
            _ => OnAck::Absorb,
        }
    }
}

impl crate::table::Keyed for ServerTx {
    fn key(&self) -> Key {
        self.key
    }
}
