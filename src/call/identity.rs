//! What the first INVITE of a call said, in one text.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::kept::{Kept, Store};
use crate::policy::Policy;
use crate::proxy::route::{self, Routes};
use crate::sip::{HeaderName, Message, Name, NameAddr, subscriber, tag};
use crate::stored::Raw;
use crate::text::{Line, Put};

use super::Uid;

/// What the first INVITE said; Contact and routes are those of the last one, which came back after a challenge. Texts are
/// as they stood, byte for byte: messages that we make in the call's dialogs bear them.
#[derive(Debug)]
pub struct Identity {
    /// Where each of the parts ends, in the order of [`Part`], and a bit for each that was there, in two bytes each; then the
    /// parts, one behind the other.
    text: Kept,
}

/// The parts of the text.
#[derive(Clone, Copy, Debug)]
enum Part {
    CallId,
    /// Whole value of the From field.
    From,
    /// URI of the Contact.
    Contact,
    /// Record-Route values.
    Routes,
    /// User parts of To and Request-URI.
    To,
    RequestUser,
    Correlation,
    DialingMode,
    /// The uid of the call whose redirect this one follows.
    Parent,
    /// Values of the captured labels that were there: the label's index in the policy, the value's length, both in two
    /// bytes, the value.
    Labels,
}

/// An identity as the journal has it.
#[derive(Debug, Serialize, Deserialize)]
pub struct StoredIdentity<'a> {
    /// But for the labels.
    #[serde(borrow)]
    parts: [Option<Raw<'a>>; PARTS - 1],
    /// By their names: another configuration may have them in another order.
    labels: SmallVec<[(&'a str, Raw<'a>); 2]>,
}

const PARTS: usize = Part::Labels as usize + 1;
/// Values of headers that ride along are cut at this many bytes.
const LONGEST_VALUE: usize = 1024;
/// All parts together; one that would go beyond is left out, which takes an INVITE as long as a datagram.
const LONGEST_TEXT: usize = u16::MAX as usize;

impl Identity {
    /// Reads an INVITE.
    pub fn of(invite: &Message, policy: &Policy, parent: Option<Uid>, store: &mut Store) -> Identity {
        let value_of = |header: &HeaderName| invite.named(header).next().map(|field| cut(invite.value(field)));
        let capture = &policy.capture;
        let from = invite.first(Name::From).map(|field| invite.value(field));
        let to = invite.first(Name::To).and_then(|field| NameAddr::parse(invite.value(field)));
        let contact = contact(invite);
        let routes = recorded(invite);
        let mut labels = Line::<64>::new();
        for (at, label) in (0..u16::MAX).zip(&capture.labels) {
            if let Some(value) = value_of(&label.header) {
                labels.put(&at.to_be_bytes());
                Routes::put(&mut labels, value);
            }
        }
        let parent = parent.map(|parent| parent.0.to_be_bytes());
        let parts: [Option<&[u8]>; PARTS] = [
            Some(invite.call_id()),
            from,
            contact,
            Some(&routes),
            to.and_then(|to| subscriber(to.uri)).map(cut),
            invite.sip_uri().map_or_else(|| subscriber(invite.uri()), |uri| uri.user()).map(cut),
            capture.correlation.as_ref().and_then(value_of),
            value_of(&policy.voicemail_drop.progressive_header),
            parent.as_ref().map(<[u8; 16]>::as_slice),
            Some(&labels),
        ];
        Identity::of_parts(parts, store)
    }

    /// Takes the caller's Contact and routes from the INVITE that comes back after a challenge; what events tell stays the
    /// first one's.
    pub fn renew(&mut self, invite: &Message, store: &mut Store) {
        let routes = recorded(invite);
        let (contact_at, routes_at) = (Part::Contact as usize, Part::Routes as usize);
        let parts = std::array::from_fn(|at| match at {
            at if at == contact_at => contact(invite),
            at if at == routes_at => Some(&*routes),
            at => self.part_at(at),
        });
        let renewed = Identity::of_parts(parts, store);
        std::mem::replace(self, renewed).release(store);
    }

    pub fn call_id(&self) -> &[u8] {
        self.part(Part::CallId).unwrap_or_default()
    }

    pub fn from(&self) -> &[u8] {
        self.part(Part::From).unwrap_or_default()
    }

    pub fn from_tag(&self) -> Option<&[u8]> {
        tag(self.from())
    }

    /// User part of From.
    pub fn from_user(&self) -> Option<&[u8]> {
        subscriber(NameAddr::parse(self.from())?.uri).map(cut)
    }

    /// URI of the caller's Contact; empty where there is none.
    pub fn contact(&self) -> &[u8] {
        self.part(Part::Contact).unwrap_or_default()
    }

    /// What lies between us and the caller.
    pub fn routes(&self) -> Routes<'_> {
        Routes(self.part(Part::Routes).unwrap_or_default())
    }

    /// User part of To.
    pub fn to_user(&self) -> Option<&[u8]> {
        self.part(Part::To)
    }

    /// User part of the Request-URI.
    pub fn request_user(&self) -> Option<&[u8]> {
        self.part(Part::RequestUser)
    }

    pub fn correlation(&self) -> Option<&[u8]> {
        self.part(Part::Correlation)
    }

    pub fn dialing_mode(&self) -> Option<&[u8]> {
        self.part(Part::DialingMode)
    }

    pub fn parent(&self) -> Option<Uid> {
        Some(Uid(u128::from_be_bytes(self.part(Part::Parent)?.try_into().ok()?)))
    }

    /// Values of the captured labels that were there, by the label's index in the policy.
    pub fn labels(&self) -> impl Iterator<Item = (usize, &[u8])> + Clone {
        let mut rest = self.part(Part::Labels).unwrap_or_default();
        std::iter::from_fn(move || {
            let (at, behind) = rest.split_first_chunk::<2>()?;
            let value = Routes(behind).first()?;
            rest = behind.get(2 + value.len()..)?;
            Some((usize::from(u16::from_be_bytes(*at)), value))
        })
    }

    pub fn stored<'a>(&'a self, policy: &'a Policy) -> StoredIdentity<'a> {
        let labels = self.labels().filter_map(|(at, value)| Some((&*policy.capture.labels.get(at)?.label, Raw(value))));
        StoredIdentity { parts: std::array::from_fn(|at| self.part_at(at).map(Raw)), labels: labels.collect() }
    }

    /// Gives back what it kept.
    pub fn release(self, store: &mut Store) {
        store.release(self.text);
    }

    fn of_parts(mut parts: [Option<&[u8]>; PARTS], store: &mut Store) -> Identity {
        let mut head = [[0; 2]; PARTS + 1];
        let [places @ .., bits] = &mut head;
        let (mut present, mut end) = (0_u16, 0);
        for (at, (part, place)) in parts.iter_mut().zip(places).enumerate() {
            *part = part.filter(|part| end + part.len() <= LONGEST_TEXT);
            end += part.map_or(0, <[u8]>::len);
            present |= u16::from(part.is_some()) << at;
            *place = (end as u16).to_ne_bytes();
        }
        *bits = present.to_ne_bytes();
        let mut texts = [head.as_flattened(); PARTS + 1];
        for (text, part) in texts.iter_mut().skip(1).zip(parts) {
            *text = part.unwrap_or_default();
        }
        Identity { text: store.keep(&texts) }
    }

    fn part(&self, part: Part) -> Option<&[u8]> {
        self.part_at(part as usize)
    }

    fn part_at(&self, at: usize) -> Option<&[u8]> {
        let (head, text) = self.text.split_first_chunk::<{ 2 * (PARTS + 1) }>()?;
        let number = |at: usize| head.as_chunks().0.get(at).map(|number| u16::from_ne_bytes(*number));
        let start = at.checked_sub(1).and_then(number).unwrap_or(0);
        let range = usize::from(start)..usize::from(number(at)?);
        (number(PARTS)? & (1 << at) != 0).then(|| text.get(range))?
    }
}

impl StoredIdentity<'_> {
    pub fn call_id(&self) -> &[u8] {
        self.parts.get(Part::CallId as usize).copied().flatten().unwrap_or_default().0
    }

    /// With the labels that `policy` has.
    pub fn restored(&self, policy: &Policy, store: &mut Store) -> Identity {
        let mut labels = Line::<64>::new();
        for (at, label) in (0..u16::MAX).zip(&policy.capture.labels) {
            if let Some((_, value)) = self.labels.iter().find(|(name, _)| *name == &*label.label) {
                labels.put(&at.to_be_bytes());
                Routes::put(&mut labels, value.0);
            }
        }
        let parts = std::array::from_fn(|at| match self.parts.get(at) {
            Some(part) => part.map(|part| part.0),
            None => Some(&*labels),
        });
        Identity::of_parts(parts, store)
    }
}

/// The URI of a message's Contact.
pub(crate) fn contact(message: &Message) -> Option<&[u8]> {
    message.first(Name::Contact)?;
    let element = message.elements(Name::Contact).next()?;
    let uri = route::address(message.raw().get(element.range)?);
    (!uri.is_empty()).then_some(uri)
}

/// The Record-Route values of a message as [`Routes`] has them.
fn recorded(message: &Message) -> Line<64> {
    let mut routes = Line::new();
    for value in route::recorded(message) {
        Routes::put(&mut routes, value);
    }
    routes
}

fn cut(value: &[u8]) -> &[u8] {
    value.get(..LONGEST_VALUE).unwrap_or(value)
}
