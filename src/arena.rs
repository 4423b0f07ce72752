//! A slab whose handles never match a later tenant of the same slot.

use slab::Slab;

/// Names one entry of one [`Arena`]; stale once the entry is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    index: u32,
    serial: u32,
}

/// Entries by handle.
#[derive(Debug)]
pub struct Arena<T> {
    slots: Slab<(u32, T)>,
    serial: u32,
}

impl Handle {
    /// Both halves in one number, to travel outside the core.
    pub fn to_bits(self) -> u64 {
        (u64::from(self.serial) << 32) | u64::from(self.index)
    }

    /// The reverse of [`Handle::to_bits`].
    pub fn from_bits(bits: u64) -> Handle {
        Handle { index: (bits & u64::from(u32::MAX)) as u32, serial: (bits >> 32) as u32 }
    }
}

impl<T> Arena<T> {
    pub fn insert(&mut self, value: T) -> Handle {
        self.serial = self.serial.wrapping_add(1);
        let index = self.slots.insert((self.serial, value));
        Handle { index: index as u32, serial: self.serial }
    }

    pub fn get(&self, handle: Handle) -> Option<&T> {
        self.slots.get(handle.index as usize).and_then(|(serial, value)| (*serial == handle.serial).then_some(value))
    }

    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut T> {
        let slot = self.slots.get_mut(handle.index as usize);
        slot.and_then(|(serial, value)| (*serial == handle.serial).then_some(value))
    }

    pub fn remove(&mut self, handle: Handle) -> Option<T> {
        self.get(handle)?;
        self.slots.try_remove(handle.index as usize).map(|(_, value)| value)
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Handle, &T)> {
        self.slots.iter().map(|(index, (serial, value))| (Handle { index: index as u32, serial: *serial }, value))
    }
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Arena { slots: Slab::new(), serial: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_stale_once_its_slot_has_a_new_tenant() {
        let mut arena = Arena::default();
        let first = arena.insert("first");
        assert_eq!(arena.remove(first), Some("first"));
        let second = arena.insert("second");
        assert_eq!(arena.get(first), None);
        assert_eq!(arena.remove(first), None);
        assert_eq!(arena.get(Handle::from_bits(second.to_bits())), Some(&"second"));
    }
}
