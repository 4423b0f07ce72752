//! Entries that are found by handle and by key.
//!
//! The index holds places alone, each hashed by the key that the entry there bears. Keys are keyed hashes already: nobody
//! outside can aim at a bucket, and their own bits serve as the hash.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::arena::{Arena, Handle};
use crate::transaction::Key;

/// What bears its key.
pub trait Keyed {
    fn key(&self) -> Key;
}

/// Entries by handle and by key.
#[derive(Debug)]
pub struct Table<T> {
    entries: Arena<T>,
    /// Places of entries.
    index: HashTable<u32>,
}

/// An index with fewer places than this is not worth making smaller.
const LEAST_INDEX: usize = 4096;

impl<T: Keyed> Table<T> {
    /// Adds an entry that is the one with its key from here on: an older one is found by its handle alone.
    pub fn insert(&mut self, value: T) -> Handle {
        let key = value.key();
        let handle = self.entries.insert(value);
        let entries = &self.entries;
        let is_it = |place: &u32| entries.at(*place).is_some_and(|(_, entry)| entry.key() == key);
        match self.index.entry(hash(key), is_it, |place| hash_at(entries, *place)) {
            Entry::Occupied(mut older) => *older.get_mut() = handle.place(),
            Entry::Vacant(vacant) => drop(vacant.insert(handle.place())),
        }
        handle
    }

    /// Adds an entry to those that have its key.
    #[inline]
    pub fn insert_beside(&mut self, value: T) -> Handle {
        let key = value.key();
        let handle = self.entries.insert(value);
        let entries = &self.entries;
        self.index.insert_unique(hash(key), handle.place(), |place| hash_at(entries, *place));
        handle
    }

    /// The entry with a key; any where several are beside each other.
    pub fn by_key(&self, key: Key) -> Option<Handle> {
        let is_it = |place: &u32| self.entries.at(*place).is_some_and(|(_, entry)| entry.key() == key);
        let place = self.index.find(hash(key), is_it)?;
        self.entries.at(*place).map(|(handle, _)| handle)
    }

    /// All entries with a key, in any order.
    pub fn all_by_key(&self, key: Key) -> impl Iterator<Item = (Handle, &T)> {
        let entry = |place: &u32| self.entries.at(*place);
        self.index.iter_hash(hash(key)).filter_map(entry).filter(move |(_, entry)| entry.key() == key)
    }

    /// The entry that lies at a place.
    pub fn at(&self, place: u32) -> Option<(Handle, &T)> {
        self.entries.at(place)
    }

    pub fn get(&self, handle: Handle) -> Option<&T> {
        self.entries.get(handle)
    }

    /// The entry must keep its key.
    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut T> {
        self.entries.get_mut(handle)
    }

    #[inline]
    pub fn remove(&mut self, handle: Handle) -> Option<T> {
        let removed = self.entries.remove(handle)?;
        if let Ok(found) = self.index.find_entry(hash(removed.key()), |known| *known == handle.place()) {
            found.remove();
        }
        if self.index.capacity() > LEAST_INDEX && self.index.len() < self.index.capacity() / 8 {
            let entries = &self.entries;
            let most = self.index.len() * 2;
            self.index.shrink_to(most, |place| hash_at(entries, *place));
        }
        Some(removed)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Handle, &T)> {
        self.entries.iter()
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { entries: Arena::default(), index: HashTable::new() }
    }
}

fn hash(key: Key) -> u64 {
    key.0 as u64
}

fn hash_at<T: Keyed>(entries: &Arena<T>, place: u32) -> u64 {
    entries.at(place).map_or(0, |(_, entry)| hash(entry.key()))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Keyed for u128 {
        fn key(&self) -> Key {
            Key(self % 1_000_000)
        }
    }

    #[test]
    fn entries_are_found_by_their_keys_while_they_are_there() {
        let mut table = Table::default();
        let handles = (0..20_000_u128).map(|number| table.insert(number)).collect::<Vec<_>>();
        for (number, handle) in (0..).zip(&handles) {
            assert_eq!(table.by_key(Key(number)), Some(*handle));
        }
        for handle in &handles[10..] {
            assert!(table.remove(*handle).is_some());
            assert_eq!(table.remove(*handle), None);
        }
        assert_eq!((table.by_key(Key(9)), table.by_key(Key(10))), (Some(handles[9]), None));
        assert!(table.index.capacity() <= LEAST_INDEX);
    }

    #[test]
    fn several_entries_may_have_one_key() {
        let mut table = Table::default();
        let (one, other) = (table.insert_beside(5), table.insert_beside(1_000_005));
        let mut found = table.all_by_key(Key(5)).map(|(handle, _)| handle).collect::<Vec<_>>();
        found.sort_by_key(|handle| handle.to_bits());
        assert_eq!(found, [one, other]);
        table.remove(one);
        assert_eq!(table.by_key(Key(5)), Some(other));
        assert_eq!(table.all_by_key(Key(6)).count(), 0);
    }

    #[test]
    fn the_latest_entry_with_a_key_is_the_one() {
        let mut table = Table::default();
        let (older, latest) = (table.insert(5), table.insert(1_000_005));
        assert_eq!((table.by_key(Key(5)), table.get(older)), (Some(latest), Some(&5)));
        assert_eq!(table.remove(older), Some(5));
        assert_eq!(table.by_key(Key(5)), Some(latest));
        table.remove(latest);
        assert_eq!((table.by_key(Key(5)), table.index.len()), (None, 0));
    }
}
