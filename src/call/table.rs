//! Open calls, and the names by which messages and commands find them.

use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use super::{Call, Uid};
use crate::arena::{Arena, Handle};
use crate::time::Mono;
use crate::transaction::Key;

/// Keys are keyed hashes already: nobody outside can aim at a bucket.
type Map<T> = HashMap<Key, T, FixedState>;
type Handles = SmallVec<[Handle; 1]>;

/// Every open call.
#[derive(Debug, Default)]
pub struct CallTable {
    calls: Arena<Box<Call>>,
    by_key: Map<Handles>,
    by_dialog: Map<(Handle, u8)>,
    by_name: Map<Handles>,
}

/// For how long a call that follows a redirect is recognised as its child.
pub const REDIRECT_WINDOW: Duration = Duration::from_secs(32);

/// Calls that were redirected a short while ago.
#[derive(Debug, Default)]
pub struct Redirects {
    by_key: Map<(Uid, Mono)>,
    order: std::collections::VecDeque<(Mono, Key)>,
}

impl CallTable {
    /// Adds a call under its key and its names (Call-ID, correlation).
    pub fn insert(&mut self, call: Box<Call>, names: &[Key]) -> Handle {
        let key = call.key;
        let handle = self.calls.insert(call);
        self.by_key.entry(key).or_default().push(handle);
        for name in names {
            self.by_name.entry(*name).or_default().push(handle);
        }
        handle
    }

    pub fn get(&self, handle: Handle) -> Option<&Call> {
        self.calls.get(handle).map(|call| &**call)
    }

    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut Call> {
        self.calls.get_mut(handle).map(|call| &mut **call)
    }

    /// Takes a call and all its names out.
    pub fn remove(&mut self, handle: Handle, names: &[Key], dialogs: &[Key]) -> Option<Box<Call>> {
        let call = self.calls.remove(handle)?;
        forget(&mut self.by_key, call.key, handle);
        for name in names {
            forget(&mut self.by_name, *name, handle);
        }
        for dialog in dialogs {
            if self.by_dialog.get(dialog).is_some_and(|(owner, _)| *owner == handle) {
                self.by_dialog.remove(dialog);
            }
        }
        Some(call)
    }

    pub fn add_dialog(&mut self, key: Key, call: Handle, dialog: u8) {
        self.by_dialog.insert(key, (call, dialog));
    }

    pub fn by_dialog(&self, key: Key) -> Option<(Handle, u8)> {
        self.by_dialog.get(&key).copied()
    }

    /// Open calls with this Call-ID, From tag and side.
    pub fn by_key(&self, key: Key) -> &[Handle] {
        self.by_key.get(&key).map_or(&[], SmallVec::as_slice)
    }

    /// Open calls with this Call-ID or correlation.
    pub fn by_name(&self, key: Key) -> &[Handle] {
        self.by_name.get(&key).map_or(&[], SmallVec::as_slice)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Handle, &Call)> {
        self.calls.iter().map(|(handle, call)| (handle, &**call))
    }

    pub fn len(&self) -> usize {
        self.calls.len()
    }

    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }
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

fn forget(map: &mut Map<Handles>, key: Key, handle: Handle) {
    if let Some(handles) = map.get_mut(&key) {
        handles.retain(|one| *one != handle);
        if handles.is_empty() {
            map.remove(&key);
        }
    }
}
