//! Memory that messages are written to: pieces of one size, taken again when nobody uses them any more.

use std::collections::VecDeque;
use std::mem;

use bytes::{Bytes, BytesMut};

/// Size of a piece: the largest datagram fits.
const CHUNK: usize = 64 * 1024;
/// What of a piece may have been used without a look whether it is used still.
const SOME: usize = 4 * 1024;
/// Pieces that are kept in the hope that what lies in them is given up; the others' owners free them.
const MOST_RESTING: usize = 8;

/// The piece that is filled, and those that were.
#[derive(Debug, Default)]
pub struct Chunks {
    current: BytesMut,
    resting: VecDeque<BytesMut>,
}

impl Chunks {
    /// Sees to it that the piece has this much room. Where some of it was used and nothing is any more it is filled from
    /// its start again: memory that was written a moment ago is still in the processor's caches.
    pub fn make_room(&mut self, room: usize) {
        let is_begun = self.current.is_empty() && self.current.capacity() < CHUNK - SOME;
        if !(is_begun && self.current.try_reclaim(CHUNK)) && self.current.capacity() - self.current.len() < room {
            self.change(room);
        }
    }

    /// To append to, and to split from. What finds no room there gets memory of its own.
    pub fn piece(&mut self) -> &mut BytesMut {
        &mut self.current
    }

    /// A copy that shares its piece with those before and after it.
    pub fn copy(&mut self, bytes: &[u8]) -> Bytes {
        self.make_room(bytes.len());
        self.current.extend_from_slice(bytes);
        self.current.split().freeze()
    }

    fn change(&mut self, room: usize) {
        let size = CHUNK.max(room);
        self.resting.push_back(mem::take(&mut self.current));
        let free = self.resting.iter_mut().position(|chunk| chunk.try_reclaim(size));
        self.current = match free.and_then(|free| self.resting.remove(free)) {
            Some(chunk) => chunk,
            None => BytesMut::with_capacity(size),
        };
        if self.resting.len() > MOST_RESTING {
            self.resting.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills pieces with datagrams that live until `kept` more have come; returns where they began.
    fn places(kept: usize) -> std::collections::BTreeSet<usize> {
        let mut chunks = Chunks::default();
        let mut alive = VecDeque::new();
        let mut places = std::collections::BTreeSet::new();
        for number in 0..2_000_usize {
            let datagram = chunks.copy(&number.to_be_bytes().repeat(100));
            places.insert(datagram.as_ptr() as usize / CHUNK);
            alive.push_back((number, datagram));
            if alive.len() > kept
                && let Some((number, datagram)) = alive.pop_front()
            {
                assert_eq!(datagram, number.to_be_bytes().repeat(100));
            }
        }
        places
    }

    #[test]
    fn what_nobody_uses_is_used_again() {
        // A piece that is not aligned to its size counts twice.
        assert!(places(0).len() <= 2 * 2, "{:?}", places(0));
        assert!(places(100).len() <= 2 * 4, "{:?}", places(100));
    }

    #[test]
    fn what_is_used_is_left_alone() {
        places(1_000);
    }

    #[test]
    fn the_largest_datagram_fits() {
        let mut chunks = Chunks::default();
        assert_eq!(chunks.copy(&[1; 65_535]).len(), 65_535);
        assert_eq!(chunks.copy(&[2; 65_535]).len(), 65_535);
    }
}
