//! What is known of one dialog beyond its call: enough to route inside it and to end it (RFC 3261 §12).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::flow::Side;
use crate::kept::{Kept, Store};
use crate::path::{Path, Paths};
use crate::proxy::route::Routes;
use crate::stored::{Raw, StoredHop};
use crate::transaction::Key;

/// A dialog between caller and callee, told apart by the callee's tag.
#[derive(Debug)]
pub struct Dialog {
    /// Of Call-ID and both tags.
    pub key: Key,
    /// The callee's: value of its To field, URI of its Contact, its routes, one behind the other.
    text: Kept,
    /// Where the parts of the text end.
    ends: [u32; 2],
    /// Its tag in the To field's value.
    tag: (u32, u32),
    pub state: DialogState,
    pub caller: Party,
    pub callee: Party,
    learnt: Option<Box<Learnt>>,
    /// The caller's ACK for the 2xx came.
    pub is_acked: bool,
    /// A BYE before the 2xx: who sent it, and whether it was answered 2xx.
    pub early_bye: Option<(Side, bool)>,
    /// Who sent the first BYE, once the dialog has ended by one.
    pub bye_from: Option<Side>,
    /// That BYE was challenged: the next one of that side is no repetition.
    pub is_bye_challenged: bool,
    /// How often its 2xx has come again; counted anew after a restart.
    pub repeats: u8,
}

/// What few dialogs have to know of their parties beyond what they began with.
#[derive(Debug, Default)]
struct Learnt {
    caller: Whereabouts,
    callee: Whereabouts,
}

#[derive(Debug, Default)]
struct Whereabouts {
    /// The remote target, where a later message has changed it.
    target: Option<Box<[u8]>>,
    /// The address that a name in its Contact or route was found to have.
    resolved: Option<IpAddr>,
}

/// A dialog as the journal has it.
#[derive(Debug, Serialize, Deserialize)]
pub struct StoredDialog<'a> {
    key: u128,
    #[serde(borrow)]
    to: Raw<'a>,
    /// Where the tag is in it.
    tag: (u32, u32),
    contact: Raw<'a>,
    routes: Raw<'a>,
    state: DialogState,
    caller: StoredParty<'a>,
    callee: StoredParty<'a>,
    is_acked: bool,
    early_bye: Option<(Side, bool)>,
    bye_from: Option<Side>,
    is_bye_challenged: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredParty<'a> {
    path: StoredHop,
    cseq: u32,
    #[serde(borrow)]
    target: Option<Raw<'a>>,
    resolved: Option<IpAddr>,
}

/// Where a dialog stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DialogState {
    Early,
    Confirmed,
    Ended,
}

/// One party of a dialog as its messages show it.
#[derive(Debug)]
pub struct Party {
    /// The way of its last message, back.
    pub path: Path,
    /// Highest CSeq number that it has used.
    pub cseq: u32,
    /// Part of the key of its last ACK of a 2xx, and how often that came again: they fit into what would be padding.
    ack: u16,
    ack_repeats: u8,
}

/// The callee as a response shows it.
#[derive(Clone, Copy, Debug)]
pub struct Callee<'a> {
    /// Whole value of the To field.
    pub to: &'a [u8],
    /// In that value; empty where there is none.
    pub tag: &'a [u8],
    /// Empty where there is no Contact.
    pub contact: &'a [u8],
    pub routes: Routes<'a>,
}

impl Party {
    pub fn new(path: Path, cseq: u32) -> Party {
        Party { path, cseq, ack: 0, ack_repeats: 0 }
    }

    /// An ACK of a 2xx came from it. Returns how often it has come before.
    pub fn on_ack(&mut self, key: Key) -> u8 {
        let ack = key.0 as u16;
        self.ack_repeats = if ack == self.ack { self.ack_repeats.saturating_add(1) } else { 0 };
        self.ack = ack;
        self.ack_repeats
    }

    fn stored<'a>(&'a self, learnt: Option<&'a Whereabouts>) -> StoredParty<'a> {
        StoredParty {
            path: (*self.path).into(),
            cseq: self.cseq,
            target: learnt.and_then(|learnt| learnt.target.as_deref()).map(Raw),
            resolved: learnt.and_then(|learnt| learnt.resolved),
        }
    }
}

impl Dialog {
    pub fn new(
        key: Key,
        seen: Callee<'_>,
        state: DialogState,
        caller: Party,
        callee: Party,
        store: &mut Store,
    ) -> Dialog {
        let mut dialog = Dialog {
            key,
            text: Kept::default(),
            ends: [0; 2],
            tag: (0, 0),
            state,
            caller,
            callee,
            learnt: None,
            is_acked: false,
            early_bye: None,
            bye_from: None,
            is_bye_challenged: false,
            repeats: 0,
        };
        dialog.see(seen, store);
        dialog
    }

    /// Takes the callee as a 2xx shows it. One without Contact leaves that as it was.
    pub fn see(&mut self, seen: Callee<'_>, store: &mut Store) {
        if let (false, Some(learnt)) = (seen.contact.is_empty(), &mut self.learnt) {
            learnt.callee.target = None;
        }
        let old = std::mem::take(&mut self.text);
        let known = part(&old, self.ends[0], self.ends[1]);
        let contact = if seen.contact.is_empty() { known } else { seen.contact };
        self.text = store.keep(&[seen.to, contact, seen.routes.0]);
        let to = seen.to.len();
        self.ends = [to as u32, (to + contact.len()) as u32];
        let start = seen.to.windows(seen.tag.len().max(1)).rposition(|window| window == seen.tag).unwrap_or(0);
        self.tag = (start as u32, (start + seen.tag.len()) as u32);
        store.release(old);
    }

    pub fn to(&self) -> &[u8] {
        part(&self.text, 0, self.ends[0])
    }

    pub fn to_tag(&self) -> &[u8] {
        part(&self.text, self.tag.0, self.tag.1)
    }

    pub fn contact(&self) -> &[u8] {
        part(&self.text, self.ends[0], self.ends[1])
    }

    pub fn routes(&self) -> Routes<'_> {
        Routes(part(&self.text, self.ends[1], self.text.len() as u32))
    }

    /// The party on `side`, in a call whose caller is on `caller`.
    pub fn party(&self, side: Side, caller: Side) -> &Party {
        if side == caller { &self.caller } else { &self.callee }
    }

    pub fn party_mut(&mut self, side: Side, caller: Side) -> &mut Party {
        if side == caller { &mut self.caller } else { &mut self.callee }
    }

    /// The remote target of the party on `side`, where it is not the one that it began with.
    pub fn target(&self, side: Side, caller: Side) -> Option<&[u8]> {
        self.learnt.as_ref()?.of(side, caller).target.as_deref()
    }

    /// The address that a name in the Contact or route of the party on `side` was found to have.
    pub fn resolved(&self, side: Side, caller: Side) -> Option<IpAddr> {
        self.learnt.as_ref()?.of(side, caller).resolved
    }

    pub fn set_target(&mut self, side: Side, caller: Side, target: &[u8]) {
        self.learnt.get_or_insert_default().of_mut(side, caller).target = Some(target.into());
    }

    pub fn set_resolved(&mut self, side: Side, caller: Side, address: IpAddr) {
        self.learnt.get_or_insert_default().of_mut(side, caller).resolved = Some(address);
    }

    pub fn stored(&self) -> StoredDialog<'_> {
        let learnt = self.learnt.as_deref();
        StoredDialog {
            key: self.key.0,
            to: Raw(self.to()),
            tag: self.tag,
            contact: Raw(self.contact()),
            routes: Raw(self.routes().0),
            state: self.state,
            caller: self.caller.stored(learnt.map(|learnt| &learnt.caller)),
            callee: self.callee.stored(learnt.map(|learnt| &learnt.callee)),
            is_acked: self.is_acked,
            early_bye: self.early_bye,
            bye_from: self.bye_from,
            is_bye_challenged: self.is_bye_challenged,
        }
    }

    /// Gives back what it kept.
    pub fn release(self, store: &mut Store) {
        store.release(self.text);
    }
}

impl StoredDialog<'_> {
    pub fn restored(&self, paths: &mut Paths, store: &mut Store) -> Dialog {
        let seen = Callee {
            to: self.to.0,
            tag: part(self.to.0, self.tag.0, self.tag.1),
            contact: self.contact.0,
            routes: Routes(self.routes.0),
        };
        let mut party = |party: &StoredParty<'_>| Party::new(paths.of(party.path.into()), party.cseq);
        let (caller, callee) = (party(&self.caller), party(&self.callee));
        let mut dialog = Dialog::new(Key(self.key), seen, self.state, caller, callee, store);
        let whereabouts = |party: &StoredParty<'_>| Whereabouts {
            target: party.target.map(|target| target.0.into()),
            resolved: party.resolved,
        };
        let is_any = |party: &StoredParty<'_>| party.target.is_some() || party.resolved.is_some();
        if is_any(&self.caller) || is_any(&self.callee) {
            let learnt = Learnt { caller: whereabouts(&self.caller), callee: whereabouts(&self.callee) };
            dialog.learnt = Some(Box::new(learnt));
        }
        dialog.is_acked = self.is_acked;
        dialog.early_bye = self.early_bye;
        dialog.bye_from = self.bye_from;
        dialog.is_bye_challenged = self.is_bye_challenged;
        dialog
    }
}

impl Learnt {
    fn of(&self, side: Side, caller: Side) -> &Whereabouts {
        if side == caller { &self.caller } else { &self.callee }
    }

    fn of_mut(&mut self, side: Side, caller: Side) -> &mut Whereabouts {
        if side == caller { &mut self.caller } else { &mut self.callee }
    }
}

fn part(text: &[u8], start: u32, end: u32) -> &[u8] {
    text.get(start as usize..end as usize).unwrap_or_default()
}
