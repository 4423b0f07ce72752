//! Text that outlives the message that it came in, in buffers that are used again.
//!
//! A message is a slice of a large chunk that is shared with other messages: to hold on to a few bytes of it would
//! hold all of the chunk. What is kept is copied out, into a buffer of the next larger of some sizes. Buffers that are
//! done with wait for the next text of their size, so that nothing is allocated while calls come and go at an even
//! rate; those of a peak are freed.

use std::ops::Deref;

/// A text that is kept. [`Store::release`] takes it back; one that is merely dropped is freed.
#[derive(Default)]
pub struct Kept {
    /// The text, bytes that are free, and in the last two how many these are; empty where the text is. Of one of
    /// [`SIZES`], or beyond the largest of just the size that this takes.
    buffer: Box<[u8]>,
}

/// Where texts are kept, and buffers that wait.
#[derive(Debug, Default)]
pub struct Store {
    classes: [Class; SIZES.len()],
}

/// Buffers of one size.
#[derive(Debug, Default)]
struct Class {
    waiting: Vec<Box<[u8]>>,
    in_use: usize,
}

/// In steps of a quarter, so that a fifth is wasted at most.
const SIZES: [usize; 24] = [
    16, 32, 48, 64, 80, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048,
    4096,
];
/// The class whose size is the smallest that holds so many sixteenths, rounded up.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const CLASSES: [u8; SIXTEENTHS] = {
    let mut classes = [0; SIXTEENTHS];
    let (mut sixteenths, mut class) = (0, 0);
    while sixteenths < SIXTEENTHS {
        if SIZES[class] < sixteenths * 16 {
            class += 1;
        }
        classes[sixteenths] = class as u8;
        sixteenths += 1;
    }
    classes
};
const SIXTEENTHS: usize = match SIZES.last() {
    Some(largest) => *largest / 16 + 1,
    None => 0,
};
/// At the end of a buffer: how many bytes before are free, less than the step to the largest size.
const FREE: usize = size_of::<u16>();
/// Buffers of each size that may wait, whatever is in use.
const WAITING: usize = 64;

impl Store {
    /// A copy of the parts, one behind the other.
    pub fn keep(&mut self, parts: &[&[u8]]) -> Kept {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        let mut buffer = self.buffer(len);
        if let Some((mut rest, free)) = buffer.split_last_chunk_mut() {
            *free = ((rest.len() - len) as u16).to_ne_bytes();
            for part in parts.iter().filter(|part| !part.is_empty()) {
                let Some((place, behind)) = rest.split_at_mut_checked(part.len()) else { break };
                place.copy_from_slice(part);
                rest = behind;
            }
        }
        Kept { buffer }
    }

    /// A text is done with.
    #[inline]
    pub fn release(&mut self, kept: Kept) {
        if !kept.buffer.is_empty() {
            self.take_back(kept);
        }
    }

    fn take_back(&mut self, kept: Kept) {
        let Some(class) = class_of(kept.buffer.len()).and_then(|class| self.classes.get_mut(class)) else { return };
        class.in_use = class.in_use.saturating_sub(1);
        wait(&mut class.waiting, kept.buffer, class.in_use);
    }

    fn buffer(&mut self, len: usize) -> Box<[u8]> {
        if len == 0 {
            return Box::default();
        }
        let needed = len + FREE;
        let at = CLASSES.get(needed.div_ceil(16)).copied().map(usize::from);
        let (Some(size), Some(class)) = (at.and_then(|at| SIZES.get(at)), at.and_then(|at| self.classes.get_mut(at)))
        else {
            return vec![0; needed].into_boxed_slice();
        };
        class.in_use += 1;
        class.waiting.pop().unwrap_or_else(|| vec![0; *size].into_boxed_slice())
    }
}

/// Boxes of one type that are used again.
#[derive(Debug)]
pub struct Boxes<T> {
    waiting: Vec<Box<T>>,
    in_use: usize,
}

impl<T> Boxes<T> {
    pub fn put(&mut self, value: T) -> Box<T> {
        self.in_use += 1;
        match self.waiting.pop() {
            Some(mut place) => {
                *place = value;
                place
            }
            None => Box::new(value),
        }
    }

    /// A value is done with; what it holds is dropped when its box is used again, or with it.
    pub fn release(&mut self, done: Box<T>) {
        self.in_use = self.in_use.saturating_sub(1);
        wait(&mut self.waiting, done, self.in_use);
    }
}

impl<T> Default for Boxes<T> {
    fn default() -> Self {
        Boxes { waiting: Vec::new(), in_use: 0 }
    }
}

/// As many as come and go with the calls wait; a peak's are freed as it ebbs away.
fn wait<T>(waiting: &mut Vec<T>, done: T, in_use: usize) {
    let most = WAITING + in_use / 4;
    if waiting.len() < most {
        waiting.push(done);
    } else {
        waiting.truncate(most);
        if waiting.capacity() > 4 * most {
            waiting.shrink_to(2 * most);
        }
    }
}

fn class_of(size: usize) -> Option<usize> {
    let class = usize::from(*CLASSES.get(size / 16)?);
    (SIZES.get(class) == Some(&size)).then_some(class)
}

impl Deref for Kept {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let text = self.buffer.split_last_chunk::<FREE>();
        text.and_then(|(rest, free)| rest.get(..rest.len() - usize::from(u16::from_ne_bytes(*free))))
            .unwrap_or_default()
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kept").field(&String::from_utf8_lossy(self)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_text_is_what_was_given() {
        let mut store = Store::default();
        for len in [0, 1, 29, 30, 31, 32, 33, 900, 2_045, 2_046, 4_093, 4_094, 4_096, 4_097, 60_000] {
            let text = vec![b'x'; len];
            let kept = store.keep(&[&text, b"", b"!"]);
            assert_eq!(*kept, [&text[..], b"!"].concat());
            store.release(kept);
        }
        assert!(store.keep(&[]).is_empty());
    }

    #[test]
    fn buffers_are_used_again_and_those_of_a_peak_are_freed() {
        let mut store = Store::default();
        let first = store.keep(&[&[b'a'; 50]]);
        let address = first.as_ptr();
        store.release(first);
        let second = store.keep(&[&[b'b'; 60]]);
        assert_eq!((second.as_ptr(), &*second), (address, &[b'b'; 60][..]));
        let peak = (0..10_000).map(|_| store.keep(&[&[b'c'; 64]])).collect::<Vec<_>>();
        for kept in peak {
            store.release(kept);
        }
        let class = &store.classes[class_of(64).unwrap()];
        assert_eq!(class.in_use, 1);
        assert!(class.waiting.len() <= WAITING + 1 && class.waiting.capacity() <= 8 * WAITING);
    }
}
