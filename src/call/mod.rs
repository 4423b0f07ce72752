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
mod identity;
mod late;
mod legs;
mod record;
mod setup;
mod stored;
mod table;
mod voicemail;

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use smallvec::SmallVec;

pub use dialog::{Dialog, DialogState};
pub(crate) use end::q850_of;
pub use identity::Identity;
pub(crate) use identity::contact;
pub(crate) use legs::{Outgoing, rewritten_uri};
pub use stored::{Links, StoredCall};
pub use table::{CallTable, Names, Redirects};

use crate::arena::Handle;
use crate::event::CallState;
use crate::flow::{Direction, Side};
use crate::kept::{Boxes, Kept};
use crate::outcome::{Anomaly, CodeSource, EndCause};
use crate::path::Path;
use crate::policy::{Policy, ServerId, Timeouts};
use crate::proxy::route::{self, Host, Routes};
use crate::time::{Mono, Now};
use crate::transaction::Key;
use crate::wheel::TimerKey;

/// One call.
#[derive(Debug)]
pub struct Call {
    pub uid: Uid,
    /// Call-ID, From tag and side: what retries and merged requests have in common with it.
    pub key: Key,
    /// The policy that it began with.
    pub policy: Arc<Policy>,
    pub identity: Identity,
    /// By which the API finds it.
    pub names: Names,
    pub phase: Phase,
    pub started: Now,
    /// The way of the caller's last message.
    pub path: Path,
    pub progress_at: Moment,
    pub ringing_at: Moment,
    pub answered_at: Moment,
    pub attempts: SmallVec<[Attempt; 1]>,
    pub response: Option<FinalResponse>,
    /// Reason fields of the message that ended the call.
    pub reasons: Reasons,
    pub dialogs: SmallVec<[Dialog; 1]>,
    pub timers: SmallVec<[(CallTimer, TimerKey); 3]>,
    /// The server tried last, unless an earlier one's final response decided; of an inbound call, the one it came from.
    pub server: Option<ServerId>,
    pub anomalies: Anomalies,
    pub progress_q850: Option<u16>,
    pub direction: Direction,
    /// As the gauges count it.
    pub state: CallState,
    pub early_media: bool,
    pub is_progressive: bool,
    pub is_voicemail_drop: bool,
    /// The journal has yet to learn how it stands.
    pub is_changed: bool,
}

/// 128 bits that name a call for ever: 48 of time, 80 derived (a ULID).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(Rust, packed(8))]
pub struct Uid(pub u128);

/// When something happened first, if it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment(Option<NonZeroU64>);

/// Values of Reason fields as they stand; hardly any message bears one.
#[derive(Clone, Debug, Default)]
pub struct Reasons(Box<[Box<str>]>);

impl From<Vec<Box<str>>> for Reasons {
    fn from(values: Vec<Box<str>>) -> Reasons {
        Reasons(values.into())
    }
}

impl std::ops::Deref for Reasons {
    type Target = [Box<str>];

    fn deref(&self) -> &[Box<str>] {
        &self.0
    }
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
    /// Where in the INVITE that stands of which responses, CANCEL and ACK are made.
    pub outline: Outline,
    pub legs: Legs,
    /// Servers not tried yet, the next one first.
    pub remaining: SmallVec<[ServerId; 4]>,
    pub stopping: Option<Stopping>,
    /// The journal may lack what came last.
    pub is_restored: bool,
}

/// Places for the parts of calls, that are used again.
#[derive(Debug, Default)]
pub struct Places {
    pub setups: Boxes<Setup>,
    pub endings: Boxes<Ending>,
}

/// Ranges of the start line and of fields, those that follow each other as one.
pub type Outline = SmallVec<[(u32, u32); 4]>;

/// The servers whose answers are awaited.
pub type Legs = SmallVec<[Leg; 1]>;

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
    pub code: Option<u16>,
    pub started: Mono,
    pub ended: Moment,
}

/// The final response that the caller got.
#[derive(Debug)]
pub struct FinalResponse {
    /// `None`: nobody sent one, ours is none.
    pub code: Option<u16>,
    pub source: CodeSource,
    /// The reason phrase, where it is not the usual one of its code, and the To tag, where no dialog has it.
    pub text: Kept,
    /// Length of the phrase in the text.
    pub phrase: Option<u16>,
    /// The dialog that it made, where it is a 2xx.
    pub dialog: Option<u8>,
}

/// Each deadline of a call, with when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
        self.name_of(self.server?)
    }

    /// The name under which a server is recorded.
    pub fn name_of(&self, server: ServerId) -> Option<&str> {
        if server == ServerId::DIALER {
            return Some("dialer");
        }
        self.policy.server(server).map(|server| &*server.name)
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

    /// Whole value of the From or To field that `side` has in a dialog, tag included.
    pub fn value_of<'a>(&'a self, dialog: &'a Dialog, side: Side) -> &'a [u8] {
        if side == self.caller_side() { self.identity.from() } else { dialog.to() }
    }

    /// URI of the Contact that `side` has in a dialog; empty where it has none.
    pub fn target_of<'a>(&'a self, dialog: &'a Dialog, side: Side) -> &'a [u8] {
        if side == self.caller_side() {
            dialog.target(side, self.caller_side()).unwrap_or(self.identity.contact())
        } else {
            dialog.target(side, self.caller_side()).unwrap_or(dialog.contact())
        }
    }

    /// What lies between us and `side` in a dialog.
    pub fn routes_to<'a>(&'a self, dialog: &'a Dialog, side: Side) -> Routes<'a> {
        if side == self.caller_side() { self.identity.routes() } else { dialog.routes() }
    }

    /// Whether the Contact, route set or last way of `side` in a dialog names an address.
    pub fn names(&self, dialog: &Dialog, side: Side, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let leads_there = |uri: &[u8]| {
            route::destination(uri)
                .is_some_and(|to| matches!(to.host, Host::Address(ip) if ip.to_canonical() == address))
        };
        let party = dialog.party(side, self.caller_side());
        party.path.remote.ip().to_canonical() == address
            || dialog.resolved(side, self.caller_side()).is_some_and(|resolved| resolved.to_canonical() == address)
            || leads_there(self.target_of(dialog, side))
            || self.routes_to(dialog, side).iter().any(|value| leads_there(route::address(value)))
    }

    /// Whether a voicemail drop can turn its outcome.
    pub fn awaits_voicemail_drop(&self) -> bool {
        self.direction == Direction::Outbound && self.is_progressive
    }
}

impl Places {
    /// A phase is over.
    pub fn release(&mut self, phase: Phase) {
        match phase {
            Phase::Setup(setup) => self.setups.release(setup),
            Phase::Ending(ending) => self.endings.release(ending),
            Phase::Challenged(_) | Phase::Answered => {}
        }
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

impl Moment {
    pub fn at(moment: Mono) -> Moment {
        // The first microsecond of the clock is no time at which anything happens to a call.
        Moment(Some(NonZeroU64::new(moment.0).unwrap_or(NonZeroU64::MIN)))
    }

    pub fn get(self) -> Option<Mono> {
        self.0.map(|micros| Mono(micros.get()))
    }

    pub fn is_set(self) -> bool {
        self.0.is_some()
    }

    /// Notes the first time.
    pub fn note(&mut self, now: Mono) {
        if self.0.is_none() {
            *self = Moment::at(now);
        }
    }
}

impl Uid {
    /// The uid as text: Crockford's base 32, 26 characters.
    pub fn text(self) -> UidText {
        const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
        let mut text = [b'0'; 26];
        // Twelve digits at a time fit into 64 bits.
        let mut rest = self.0;
        for digits in text.rchunks_mut(12) {
            let mut part = rest as u64;
            for digit in digits.iter_mut().rev() {
                *digit = DIGITS.get(part as usize % 32).copied().unwrap_or(b'0');
                part >>= 5;
            }
            rest >>= 60;
        }
        UidText(text)
    }
}

impl UidText {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A uid as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UidText([u8; 26]);

impl std::ops::Deref for UidText {
    type Target = str;

    fn deref(&self) -> &str {
        // Digits are ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::fmt::Display for Uid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text())
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
