//! Open calls, and the names by which messages and commands find them.

use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashTable};
use smallvec::SmallVec;

use super::{Call, Dialog, Uid};
use crate::arena::Handle;
use crate::flow::Side;
use crate::sip::Message;
use crate::table::{Keyed, Table};
use crate::time::Mono;
use crate::transaction::Key;

/// Keys are keyed hashes already: nobody outside can aim at a bucket.
type Map<T> = HashMap<Key, T, FixedState>;

/// Every open call.
#[derive(Debug, Default)]
pub struct CallTable {
    calls: Table<Call>,
    /// Dialogs by their keys: the call's place and which of its dialogs.
    dialogs: HashTable<(u32, u8)>,
    /// How many dialogs have no tag of the callee's.
    untagged: usize,
    /// How many dialogs have the key of another one: those of a call that came back from the other side (a spiral).
    twins: usize,
    /// Calls that have changed since they were asked for the last time, where anybody asks.
    changed: Vec<Handle>,
    is_tracked: bool,
    /// Halves of the hashes of Call-IDs and correlations, by which the API finds calls, and the call's place.
    names: HashTable<(u32, u32)>,
}

/// Halves of the hashes of a call's Call-ID and correlation; the same twice where there is only one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names([u32; 2]);

/// For how long a call that follows a redirect is recognised as its child.
pub const REDIRECT_WINDOW: Duration = Duration::from_secs(32);

/// Calls that were redirected a short while ago.
#[derive(Debug, Default)]
pub struct Redirects {
    by_key: Map<(Uid, Mono)>,
    order: std::collections::VecDeque<(Mono, Key)>,
}

/// An index with fewer places than this is not worth making smaller.
const LEAST_INDEX: usize = 4096;

impl CallTable {
    /// Adds a call under its key and its names (Call-ID, correlation).
    pub fn insert(&mut self, call: Call) -> Handle {
        let names = call.names;
        let handle = self.calls.insert_beside(call);
        for name in names.iter() {
            self.names.insert_unique(spread(name), (name, handle.place()), |(name, _)| spread(*name));
        }
        handle
    }

    pub fn get(&self, handle: Handle) -> Option<&Call> {
        self.calls.get(handle)
    }

    /// The call is taken for changed.
    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut Call> {
        let call = self.calls.get_mut(handle)?;
        if self.is_tracked && !call.is_changed {
            call.is_changed = true;
            self.changed.push(handle);
        }
        Some(call)
    }

    /// Notes which calls change, from here on.
    pub fn track(&mut self) {
        self.is_tracked = true;
    }

    /// One that has changed and is there.
    pub fn next_changed(&mut self) -> Option<Handle> {
        loop {
            let handle = self.changed.pop()?;
            if let Some(call) = self.calls.get_mut(handle) {
                call.is_changed = false;
                return Some(handle);
            }
        }
    }

    /// Adds a call that has its dialogs already.
    pub fn insert_whole(&mut self, mut call: Call) -> Handle {
        let dialogs = std::mem::take(&mut call.dialogs);
        let handle = self.insert(call);
        for dialog in dialogs {
            self.add_dialog(handle, dialog);
        }
        handle
    }

    /// Takes a call with all its names and dialogs out.
    pub fn remove(&mut self, handle: Handle) -> Option<Call> {
        let call = self.calls.remove(handle)?;
        for name in call.names.iter() {
            if let Ok(found) = self.names.find_entry(spread(name), |known| *known == (name, handle.place())) {
                found.remove();
            }
        }
        for (at, dialog) in (0..).zip(&call.dialogs) {
            self.untagged -= usize::from(dialog.to_tag().is_empty());
            if let Ok(found) = self.dialogs.find_entry(hash(dialog.key), |known| *known == (handle.place(), at)) {
                found.remove();
                let has_twin = self.twins > 0 && self.find(dialog.key).is_some();
                self.twins -= usize::from(has_twin);
            }
        }
        if self.names.capacity() > LEAST_INDEX && self.names.len() < self.names.capacity() / 8 {
            self.names.shrink_to(self.names.len() * 2, |(name, _)| spread(*name));
            let calls = &self.calls;
            self.dialogs.shrink_to(self.dialogs.len() * 2, |at| hash_at(calls, *at));
        }
        Some(call)
    }

    /// Adds a dialog to a call and says which of the call's it is.
    pub fn add_dialog(&mut self, call: Handle, dialog: Dialog) -> Option<u8> {
        let key = dialog.key;
        let is_untagged = dialog.to_tag().is_empty();
        let dialogs = &mut self.get_mut(call)?.dialogs;
        let at = u8::try_from(dialogs.len()).ok()?;
        dialogs.push(dialog);
        self.untagged += usize::from(is_untagged);
        self.twins += usize::from(self.find(key).is_some());
        let calls = &self.calls;
        self.dialogs.insert_unique(hash(key), (call.place(), at), |at| hash_at(calls, *at));
        Some(at)
    }

    /// The dialog with this key that a message from this side belongs to. Of two with one key each has the messages of its
    /// own way: what the caller sends comes to its call from the caller's side. Of two that would do it is the later one's.
    pub fn by_dialog(&self, key: Key, side: Side, message: &Message) -> Option<(Handle, u8)> {
        if self.twins == 0 {
            return self.any_by_dialog(key);
        }
        let is_own = |call: &Call, at: u8| {
            let is_callers = call.dialog(at).is_some_and(|dialog| message.to_tag() == Some(dialog.to_tag()));
            (call.caller_side() == side) == is_callers
        };
        let found = self.dialogs.iter_hash(hash(key)).filter(|known| is_at(&self.calls, **known, key));
        let found = found.filter_map(|(place, at)| Some((self.calls.at(*place)?, *at)));
        let best = found.max_by_key(|((_, call), at)| (is_own(call, *at), call.uid.0, *at));
        best.map(|((handle, _), at)| (handle, at))
    }

    /// Any dialog with this key.
    pub fn any_by_dialog(&self, key: Key) -> Option<(Handle, u8)> {
        let (place, at) = *self.find(key)?;
        self.calls.at(place).map(|(call, _)| (call, at))
    }

    fn find(&self, key: Key) -> Option<&(u32, u8)> {
        self.dialogs.find(hash(key), |known| is_at(&self.calls, *known, key))
    }

    /// Whether any callee answered without a tag, so that a request without To tag may be inside a dialog.
    pub fn has_untagged(&self) -> bool {
        self.untagged > 0
    }

    /// Open calls with this Call-ID, From tag and side.
    pub fn by_key(&self, key: Key) -> impl Iterator<Item = (Handle, &Call)> {
        self.calls.all_by_key(key)
    }

    /// Open calls with this name, and rarely one of another.
    pub fn by_name(&self, name: u64) -> SmallVec<[Handle; 2]> {
        let name = Names::half(name);
        let found = self.names.iter_hash(spread(name)).filter(|(known, _)| *known == name);
        found.filter_map(|(_, place)| self.calls.at(*place).map(|(handle, _)| handle)).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Handle, &Call)> {
        self.calls.iter()
    }

    pub fn len(&self) -> usize {
        self.calls.len()
    }

    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }
}

impl Keyed for Call {
    fn key(&self) -> Key {
        self.key
    }
}

fn hash(key: Key) -> u64 {
    key.0 as u64
}

impl Names {
    /// Of a Call-ID and a correlation, hashed.
    pub fn new(call_id: u64, correlation: Option<u64>) -> Names {
        let call_id = Names::half(call_id);
        Names([call_id, correlation.map_or(call_id, Names::half)])
    }

    fn half(name: u64) -> u32 {
        name as u32
    }

    fn iter(self) -> impl Iterator<Item = u32> {
        let Names([first, second]) = self;
        std::iter::once(first).chain((second != first).then_some(second))
    }
}

/// A half as the hash of its place: both ends of a hash count.
fn spread(half: u32) -> u64 {
    u64::from(half) << 32 | u64::from(half)
}

/// Whether the dialog of a call at a place has this key.
fn is_at(calls: &Table<Call>, (call, at): (u32, u8), key: Key) -> bool {
    calls.at(call).and_then(|(_, call)| call.dialog(at)).is_some_and(|dialog| dialog.key == key)
}

fn hash_at(calls: &Table<Call>, (call, at): (u32, u8)) -> u64 {
    calls.at(call).and_then(|(_, call)| call.dialog(at)).map_or(0, |dialog| hash(dialog.key))
}

impl Redirects {
    pub fn add(&mut self, now: Mono, key: Key, call: Uid) {
        while let Some((until, old)) = self.order.front().copied().filter(|(until, _)| *until <= now) {
            self.order.pop_front();
            if self.by_key.get(&old).is_some_and(|(_, of)| *of == until) {
                self.by_key.remove(&old);
            }
        }
        let until = now + REDIRECT_WINDOW;
        self.by_key.insert(key, (call, until));
        self.order.push_back((until, key));
    }

    /// The call whose redirect an INVITE with this key follows.
    pub fn parent(&self, now: Mono, key: Key) -> Option<Uid> {
        self.by_key.get(&key).filter(|(_, until)| now < *until).map(|(call, _)| *call)
    }
}
