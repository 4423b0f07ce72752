//! Entries by handles that never match a later tenant of the same place; memory goes back after a peak.
//!
//! Places lie in blocks. A free place in the lowest block is taken first, so that the upper blocks of a peak run empty;
//! empty blocks are freed but for the lowest few, which the next entries would only allocate again.

use std::num::NonZeroU32;

/// Names one entry of one [`Arena`]; stale once the entry is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    index: u32,
    serial: NonZeroU32,
}

/// Entries by handle.
#[derive(Debug)]
pub struct Arena<T> {
    blocks: Vec<Block<T>>,
    /// A bit for each block that has a free place.
    roomy: Vec<u64>,
    /// No word of them below this one has a bit.
    lowest: usize,
    serial: NonZeroU32,
    len: usize,
    /// Blocks that are allocated and empty, [`SPARE`] at most.
    spare: Vec<usize>,
}

/// A run of places that is allocated and freed as a whole.
#[derive(Debug)]
struct Block<T> {
    /// [`PLACES`], or none while the block is freed.
    places: Box<[Option<(NonZeroU32, T)>]>,
    /// A bit for each free place.
    free: u64,
}

/// Places of a block.
const PLACES: usize = 64;
/// Of a word.
const BITS: usize = u64::BITS as usize;
/// Empty blocks that are kept.
const SPARE: usize = 2;

impl Handle {
    /// One that never matches anything.
    pub const NONE: Handle = Handle { index: u32::MAX, serial: NonZeroU32::MAX };

    /// Both halves in one number, to travel outside the core.
    pub fn to_bits(self) -> u64 {
        (u64::from(self.serial.get()) << 32) | u64::from(self.index)
    }

    /// The reverse of [`Handle::to_bits`]; what never was a handle matches nothing.
    pub fn from_bits(bits: u64) -> Handle {
        let serial = NonZeroU32::new((bits >> 32) as u32).unwrap_or(NonZeroU32::MIN);
        Handle { index: (bits & u64::from(u32::MAX)) as u32, serial }
    }

    /// Where its entry lies: nothing else does before that is removed.
    pub fn place(self) -> u32 {
        self.index
    }
}

impl<T> Arena<T> {
    pub fn insert(&mut self, value: T) -> Handle {
        let serial = self.serial.checked_add(1).unwrap_or(NonZeroU32::MIN);
        self.serial = serial;
        self.len += 1;
        let number = self.roomy_block();
        let mut place = 0;
        if let Some(block) = self.blocks.get_mut(number) {
            if block.places.is_empty() {
                block.places = (0..PLACES).map(|_| None).collect();
            } else if block.is_empty() {
                self.spare.retain(|spare| *spare != number);
            }
            place = block.free.trailing_zeros() as usize;
            block.free &= block.free - 1;
            if let Some(slot) = block.places.get_mut(place) {
                *slot = Some((serial, value));
            }
            if block.free == 0 {
                self.mark(number, false);
            }
        }
        Handle { index: (number * PLACES + place) as u32, serial }
    }

    pub fn get(&self, handle: Handle) -> Option<&T> {
        let (number, place) = at(handle.index);
        let (serial, value) = self.blocks.get(number)?.places.get(place)?.as_ref()?;
        (*serial == handle.serial).then_some(value)
    }

    /// The entry that lies at a place.
    pub fn at(&self, place: u32) -> Option<(Handle, &T)> {
        let (number, at) = at(place);
        let (serial, value) = self.blocks.get(number)?.places.get(at)?.as_ref()?;
        Some((Handle { index: place, serial: *serial }, value))
    }

    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut T> {
        let (number, place) = at(handle.index);
        let (serial, value) = self.blocks.get_mut(number)?.places.get_mut(place)?.as_mut()?;
        (*serial == handle.serial).then_some(value)
    }

    #[inline]
    pub fn remove(&mut self, handle: Handle) -> Option<T> {
        self.get(handle)?;
        let (number, place) = at(handle.index);
        let block = self.blocks.get_mut(number)?;
        let (_, value) = block.places.get_mut(place)?.take()?;
        let (was_full, is_empty) = (block.free == 0, block.free | (1 << place) == u64::MAX);
        block.free |= 1 << place;
        self.len -= 1;
        if was_full {
            self.mark(number, true);
        }
        if is_empty {
            self.spare.push(number);
            self.give_back();
        }
        Some(value)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = (Handle, &T)> {
        let blocks = self.blocks.iter().enumerate();
        blocks.flat_map(|(number, block)| {
            let first = (number * PLACES) as u32;
            block.places.iter().zip(first..).filter_map(|(slot, index)| {
                let (serial, value) = slot.as_ref()?;
                Some((Handle { index, serial: *serial }, value))
            })
        })
    }

    /// The lowest block that has a free place; one more where all are full.
    fn roomy_block(&mut self) -> usize {
        while let Some(word) = self.roomy.get(self.lowest) {
            if *word != 0 {
                return self.lowest * BITS + word.trailing_zeros() as usize;
            }
            self.lowest += 1;
        }
        let number = self.blocks.len();
        self.blocks.push(Block { places: Box::default(), free: u64::MAX });
        self.mark(number, true);
        number
    }

    /// Notes whether a block has a free place.
    fn mark(&mut self, number: usize, has_room: bool) {
        let (index, bit) = (number / BITS, 1 << (number % BITS));
        if index >= self.roomy.len() {
            self.roomy.resize(index + 1, 0);
        }
        if let Some(word) = self.roomy.get_mut(index) {
            *word = if has_room { *word | bit } else { *word & !bit };
        }
        if has_room {
            self.lowest = self.lowest.min(index);
        }
    }

    /// A block is empty: frees the highest of its kind where there are enough.
    fn give_back(&mut self) {
        if self.spare.len() <= SPARE {
            return;
        }
        self.spare.sort_unstable();
        if let Some(block) = self.spare.pop().and_then(|number| self.blocks.get_mut(number)) {
            block.places = Box::default();
        }
        while self.blocks.last().is_some_and(|last| last.places.is_empty()) {
            self.blocks.pop();
            self.mark(self.blocks.len(), false);
        }
        if self.blocks.capacity() > 4 * self.blocks.len().max(PLACES) {
            self.blocks.shrink_to(2 * self.blocks.len());
        }
    }
}

impl<T> Block<T> {
    fn is_empty(&self) -> bool {
        self.free == u64::MAX
    }
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        let (blocks, roomy, spare) = (Vec::new(), Vec::new(), Vec::new());
        Arena { blocks, roomy, lowest: 0, serial: NonZeroU32::MIN, len: 0, spare }
    }
}

/// The block that a place is in, and where in it.
fn at(place: u32) -> (usize, usize) {
    let place = place as usize;
    (place / PLACES, place % PLACES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_stale_once_its_place_has_a_new_tenant() {
        let mut arena = Arena::default();
        let first = arena.insert("first");
        assert_eq!(arena.remove(first), Some("first"));
        let second = arena.insert("second");
        assert_eq!(arena.get(first), None);
        assert_eq!(arena.remove(first), None);
        assert_eq!(arena.get(Handle::from_bits(second.to_bits())), Some(&"second"));
        assert_eq!(arena.get(Handle::from_bits(0)), None);
    }

    #[test]
    fn blocks_are_given_back_after_a_peak_whatever_stays() {
        let allocated = |arena: &Arena<i32>| arena.blocks.iter().filter(|block| !block.places.is_empty()).count();
        let mut arena = Arena::default();
        let handles = (0..1_000).map(|number| arena.insert(number)).collect::<Vec<_>>();
        assert_eq!(allocated(&arena), 1_000_usize.div_ceil(PLACES));
        let stays = |number: &usize| *number < 10 || *number == 900;
        for number in (0..1_000).filter(|number| !stays(number)) {
            assert!(arena.remove(handles[number]).is_some());
        }
        assert_eq!((arena.len(), arena.iter().count(), allocated(&arena)), (11, 11, 2 + SPARE));
        assert!((0..1_000).filter(stays).all(|number| arena.get(handles[number]) == Some(&(number as i32))));
        let again = (0..1_000).map(|number| arena.insert(number)).collect::<Vec<_>>();
        assert!(again.iter().zip(0..).all(|(handle, number)| arena.get(*handle) == Some(&number)));
        assert_eq!((arena.len(), arena.spare.len()), (1_011, 0));
    }

    #[test]
    fn what_comes_and_goes_after_a_peak_finds_its_block() {
        let mut arena = Arena::default();
        let peak = (0..10 * PLACES).map(|number| arena.insert(number)).collect::<Vec<_>>();
        // The lowest block runs empty last.
        for handle in peak.into_iter().rev() {
            arena.remove(handle);
        }
        let places = |arena: &Arena<usize>| arena.blocks[0].places.as_ptr();
        let before = places(&arena);
        for number in 0..3 {
            let handle = arena.insert(number);
            assert_eq!((handle.index, places(&arena)), (0, before));
            arena.remove(handle);
        }
        assert_eq!((arena.blocks.len(), arena.spare.len()), (SPARE, SPARE));
    }

    #[test]
    fn the_lowest_free_place_is_taken_first() {
        let mut arena = Arena::default();
        // More blocks than one word has bits.
        let handles = (0..9_000).map(|number| arena.insert(number)).collect::<Vec<_>>();
        for at in [8_900, 150, 4_500, 3] {
            arena.remove(handles[at]);
        }
        assert_eq!([(); 5].map(|()| arena.insert(0).index), [3, 150, 4_500, 8_900, 9_000]);
    }
}
