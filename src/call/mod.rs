//! One call from its INVITE to its end.
//!
//! A call is in one [`Phase`]; each phase holds only what is valid in it. Walk one through:
//! an INVITE makes a call in [`Phase::Setup`], with a leg for each server tried. A challenge puts it
//! into [`Phase::Challenged`] until the caller tries again. A failure ends it there and then; a 2xx
//! makes it [`Phase::Answered`], with one [`Dialog`] for each To tag. The BYE of its last dialog, or what
//! stands in a BYE's place, makes it [`Phase::Ending`]: decided, but open until the BYE is answered and
//! a late voicemail drop can no longer come. Then the call is consumed by the one function that counts
//! and tells it (`record`).

mod answered;
mod dialog;
mod end;
mod late;
mod legs;
mod record;
mod setup;
mod table;
mod voicemail;

use std::sync::Arc;

use smallvec::SmallVec;

pub use dialog::{Dialog, DialogState, Party};
pub(crate) use end::q850_of;
pub(crate) use legs::{Outgoing, rewritten_uri};
pub use table::{CallTable, Redirects};

use crate::arena::Handle;
use crate::event::CallState;
use crate::flow::{Direction, Flow, Side};
use crate::outcome::{Anomaly, CodeSource, EndCause};
use crate::policy::{Policy, ServerId, Timeouts};
use crate::time::{Mono, Now};
use crate::transaction::Key;
use crate::wheel::TimerKey;

/// One call.
#[derive(Debug)]
pub struct Call {
    pub uid: Uid,
    /// Call-ID, From tag and side: what retries and merged requests have in common with it.
    pub key: Key,
    pub direction: Direction,
    /// The policy that it began with.
    pub policy: Arc<Policy>,
    pub identity: Box<Identity>,
    pub phase: Phase,
    /// As the gauges count it.
    pub state: CallState,
    pub started: Now,
    /// The caller's last flow.
    pub flow: Flow,
    pub progress_at: Option<Mono>,
    pub ringing_at: Option<Mono>,
    pub answered_at: Option<Mono>,
    pub early_media: bool,
    pub progress_q850: Option<u16>,
    pub attempts: SmallVec<[Attempt; 1]>,
    /// The server tried last; of an inbound call, the one it came from.
    pub server: Option<ServerId>,
    pub response: Option<FinalResponse>,
    /// Reason fields of the message that ended the call.
    pub reasons: Vec<Box<str>>,
    pub anomalies: Anomalies,
    pub is_progressive: bool,
    pub is_voicemail_drop: bool,
    pub dialogs: SmallVec<[Dialog; 1]>,
    pub timers: SmallVec<[(CallTimer, TimerKey); 3]>,
}

/// 128 bits that name a call for ever: 48 of time, 80 derived (a ULID).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(pub u128);

/// What the first INVITE said.
#[derive(Debug)]
pub struct Identity {
    /// As it stood, byte for byte: messages that we make in the call's dialogs bear it.
    pub call_id: Box<[u8]>,
    pub from_tag: Option<Box<[u8]>>,
    /// User parts of From, To and Request-URI.
    pub from: Option<Box<str>>,
    pub to: Option<Box<str>>,
    pub request_user: Option<Box<str>>,
    pub correlation: Option<Box<str>>,
    pub dialing_mode: Option<Box<str>>,
    pub parent: Option<Uid>,
    /// Values of the captured labels that were there, by the label's index in the policy.
    pub labels: SmallVec<[(usize, Box<str>); 2]>,
    pub to_tag: Option<Box<str>>,
}

/// Where a call stands, with what that takes.
#[derive(Debug)]
pub enum Phase {
    Setup(Box<Setup>),
    /// 401, 407 or 422 went to the caller.
    Challenged(Challenged),
    Answered,
    Ending(Box<Ending>),
}

/// Before the final response.
#[derive(Debug)]
pub struct Setup {
    /// The caller's INVITE.
    pub upstream: Handle,
    pub cseq: u32,
    pub legs: SmallVec<[Leg; 1]>,
    /// Servers not tried yet, the next one first.
    pub remaining: SmallVec<[ServerId; 4]>,
    pub stopping: Option<Stopping>,
}

/// One server that was asked.
#[derive(Clone, Copy, Debug)]
pub struct Leg {
    pub client: Handle,
    pub attempt: u8,
    /// Its turn is over; another server is asked.
    pub is_given_up: bool,
}

/// The call is being stopped before an answer; a leg may still answer within the grace.
#[derive(Debug)]
pub struct Stopping {
    pub cause: EndCause,
    pub since: Mono,
}

/// The caller has to ask again.
#[derive(Clone, Copy, Debug)]
pub struct Challenged {
    pub at: Mono,
    pub cseq: u32,
    /// The server that challenged gets the next INVITE.
    pub server: Option<ServerId>,
}

/// Decided, not yet told.
#[derive(Debug)]
pub struct Ending {
    pub cause: EndCause,
    pub at: Mono,
    /// BYEs whose answers are awaited.
    pub awaited: SmallVec<[Handle; 2]>,
    /// A voicemail drop may still come.
    pub is_in_grace: bool,
}

/// A server that was asked, as the record shows it.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub server: ServerId,
    pub name: Arc<str>,
    pub started: Mono,
    pub ended: Option<Mono>,
    pub code: Option<u16>,
}

/// The final response that the caller got.
#[derive(Clone, Debug)]
pub struct FinalResponse {
    /// `None`: nobody sent one, ours is none.
    pub code: Option<u16>,
    pub source: CodeSource,
    pub phrase: Option<Box<str>>,
}

/// Each deadline of a call, with when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallTimer {
    /// `no_answer` after the INVITE was forwarded. Nothing restarts it.
    NoAnswer,
    /// `progress` after a server was asked, unless it is the last.
    Progress,
    /// `cancel_grace` after the call is stopped.
    CancelGrace,
    /// `auth_retry_window` after a challenge.
    AuthWindow,
    /// `max_duration` after the answer.
    MaxDuration,
    /// 64·T1 and some more after a 2xx.
    Ack(u8),
    /// 64·T1 after the session of a dialog ran out.
    Session(u8),
    /// 4·T1 after a BYE.
    ByeAnswer,
    /// `voicemail_drop.grace` after the end.
    DropGrace,
}

/// A set of [`Anomaly`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Anomalies(u16);

impl Call {
    pub fn timeouts(&self) -> &Timeouts {
        &self.policy.timeouts
    }

    pub fn caller_side(&self) -> Side {
        self.direction.caller_side()
    }

    pub fn callee_side(&self) -> Side {
        self.caller_side().opposite()
    }

    /// Whether messages to `side` bear the stamp.
    pub fn stamps(&self, side: Side) -> bool {
        side == Side::Dialer || self.policy.stamp.to_both
    }

    /// The name of [`Call::server`].
    pub fn server_name(&self) -> Option<&str> {
        let server = self.server?;
        let tried = self.attempts.iter().rev().find(|attempt| attempt.server == server);
        match tried {
            Some(attempt) => Some(&attempt.name),
            None => self.policy.server(server).map(|server| &*server.name),
        }
    }

    pub fn setup(&self) -> Option<&Setup> {
        match &self.phase {
            Phase::Setup(setup) => Some(setup),
            _ => None,
        }
    }

    pub fn setup_mut(&mut self) -> Option<&mut Setup> {
        match &mut self.phase {
            Phase::Setup(setup) => Some(setup),
            _ => None,
        }
    }

    pub fn dialog_mut(&mut self, dialog: u8) -> Option<&mut Dialog> {
        self.dialogs.get_mut(usize::from(dialog))
    }

    pub fn dialog(&self, dialog: u8) -> Option<&Dialog> {
        self.dialogs.get(usize::from(dialog))
    }

    /// Whether a voicemail drop can turn its outcome.
    pub fn awaits_voicemail_drop(&self) -> bool {
        self.direction == Direction::Outbound && self.is_progressive
    }
}

impl Anomalies {
    pub fn add(&mut self, anomaly: Anomaly) {
        self.0 |= 1 << anomaly.index();
    }

    pub fn iter(self) -> impl Iterator<Item = Anomaly> {
        Anomaly::ALL.iter().copied().filter(move |anomaly| self.0 & (1 << anomaly.index()) != 0)
    }
}

impl std::fmt::Display for Uid {
    /// Crockford's base 32, 26 characters.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
        (0..26).rev().try_for_each(|place| {
            let digit = (self.0 >> (place * 5)) & 31;
            let character = DIGITS.get(digit as usize).copied().unwrap_or(b'0');
            f.write_str(char::from(character).encode_utf8(&mut [0; 4]))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_print_as_ulids_and_sort_by_time() {
        assert_eq!(Uid(0).to_string(), "00000000000000000000000000");
        assert_eq!(Uid(u128::MAX).to_string(), "7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
        let (early, late) = (Uid(1_700_000_000_000 << 80), Uid(1_700_000_000_001 << 80));
        assert!(early < late && early.to_string() < late.to_string());
    }
}
