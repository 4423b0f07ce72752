//! One record as it stands in a segment.
//!
//! | bytes | |
//! |---|---|
//! | 4 | the magic number |
//! | 4 | length of key and state |
//! | 8 | sequence number, one more than that of the frame before it in its stream |
//! | 1 | [`Kind`] |
//! | 1 | 1 where the batch goes on behind this frame, else 0 |
//! | 2 | zero |
//! | 4 | checksum of the 16 bytes before it |
//! | 8 | checksum of the 20 bytes before it and of key and state |
//! | 16 | key |
//! | | state |
//!
//! Numbers are little-endian. What was written together is a batch and counts as a whole: one that breaks off is as if it had
//! never been.
//!
//! States hold messages as they came, and so whatever a caller likes. Checksums are therefore SipHash-1-3 with a key that is
//! derived from the journal's: nobody else can make a frame. A head has one of its own, so that looking for the next frame
//! behind damage takes time by the length of the text, whatever is in it.

use std::hash::Hasher;

use siphasher::{sip, sip128};

use crate::closed::closed_enum;

/// What a frame begins with.
const MAGIC: u32 = 0x1a6a_7073;
const HEAD: usize = 32;
/// Where the checksums are: of the head, and of all.
const HEAD_SUM: std::ops::Range<usize> = 20..24;
const SUM: std::ops::Range<usize> = 24..HEAD;
const KEY: usize = 16;
/// No frame is longer than this.
const LONGEST: usize = 16 * 1024 * 1024;

closed_enum! {
    /// What a frame is of.
    pub enum Kind {
        /// An open call, as it stands.
        Call = "call",
        /// An event; a call's last one ends it.
        Event = "event",
        /// A server transaction, as it stands; without state it is over.
        Server = "server",
        /// A client transaction, as it stands; without state it is over.
        Client = "client",
        /// How far a sink has come.
        Cursor = "cursor",
        /// All that is open in a stream was written out since a number.
        Whole = "whole",
    }
}

/// A frame that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub seq: u64,
    pub kind: Kind,
    pub key: u128,
    pub state: &'a [u8],
}

/// Frames of one batch, put together to be written in one go.
#[derive(Debug)]
pub struct Batch {
    sums: Sums,
    bytes: Vec<u8>,
    /// Where the last frame begins, whose checksum is still missing.
    last: Option<usize>,
    first_seq: u64,
    next_seq: u64,
}

/// The frames of a text, from its start on. What is damaged is passed over.
#[derive(Debug)]
pub struct Frames<'a> {
    sums: Sums,
    text: &'a [u8],
    /// More may follow behind the text: what is not whole there is no damage.
    is_part: bool,
    at: usize,
    last_seq: u64,
    /// The frame before is of the same batch, which is known to be whole.
    is_in_batch: bool,
    damage: Damage,
}

/// What of a text could not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Bytes in the middle that are no frame.
    pub bytes: u64,
    /// Sequence numbers that are missing in the middle.
    pub frames: u64,
    /// Bytes at the end that are no whole batch: a write was under way when the process ended.
    pub torn: u64,
}

/// Makes checksums.
#[derive(Clone, Copy)]
struct Sums(sip::SipHasher13);

impl Batch {
    /// A batch of the journal with this key, whose first frame has this number.
    pub fn beginning_with(key: [u8; 16], next_seq: u64) -> Batch {
        Batch { sums: Sums::of(key), bytes: Vec::new(), last: None, first_seq: next_seq, next_seq }
    }

    /// Adds a frame, its state given in parts. Returns its number.
    pub fn push(&mut self, kind: Kind, key: u128, state: &[&[u8]]) -> u64 {
        self.seal(true);
        let seq = self.next_seq;
        self.next_seq += 1;
        self.last = Some(self.bytes.len());
        let length = KEY + state.iter().map(|part| part.len()).sum::<usize>();
        self.bytes.extend_from_slice(&MAGIC.to_le_bytes());
        self.bytes.extend_from_slice(&(length as u32).to_le_bytes());
        self.bytes.extend_from_slice(&seq.to_le_bytes());
        self.bytes.extend_from_slice(&[kind.index() as u8, 0, 0, 0]);
        self.bytes.extend_from_slice(&[0; HEAD - HEAD_SUM.start]);
        self.bytes.extend_from_slice(&key.to_le_bytes());
        for part in state {
            self.bytes.extend_from_slice(part);
        }
        seq
    }

    /// The bytes to write: all frames since the last [`Batch::clear`].
    pub fn bytes(&mut self) -> &[u8] {
        self.seal(false);
        &self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// What was in it is written.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.last = None;
        self.first_seq = self.next_seq;
    }

    /// What was in it will not be written: its numbers go to what comes next.
    pub fn give_up(&mut self) {
        self.next_seq = self.first_seq;
        self.clear();
    }

    /// Puts the checksums into the last frame.
    fn seal(&mut self, goes_on: bool) {
        let Some(frame) = self.last.and_then(|at| self.bytes.get_mut(at..)) else { return };
        if let Some(flag) = frame.get_mut(17) {
            *flag = u8::from(goes_on);
        }
        let sum = self.sums.of_head(frame);
        if let Some(place) = frame.get_mut(HEAD_SUM) {
            place.copy_from_slice(&sum);
        }
        let sum = self.sums.of_all(frame);
        if let Some(place) = frame.get_mut(SUM) {
            place.copy_from_slice(&sum);
        }
    }
}

impl<'a> Frames<'a> {
    /// Of a text of the journal with this key.
    pub fn of(key: [u8; 16], text: &'a [u8]) -> Frames<'a> {
        Frames::after(key, text, 0)
    }

    /// Those that follow the frame with a number; 0 where none is known.
    pub fn after(key: [u8; 16], text: &'a [u8], last_seq: u64) -> Frames<'a> {
        let damage = Damage::default();
        Frames { sums: Sums::of(key), text, is_part: false, at: 0, last_seq, is_in_batch: false, damage }
    }

    /// Of the beginning of a text: ends before what is not whole or is damaged, which only all of the text can tell.
    pub fn of_part(key: [u8; 16], text: &'a [u8]) -> Frames<'a> {
        Frames { is_part: true, ..Frames::of(key, text) }
    }

    /// What was passed over so far. Complete once the iterator has ended.
    pub fn damage(&self) -> Damage {
        self.damage
    }

    /// The number of the latest frame.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Where the next frame begins.
    pub fn offset(&self) -> usize {
        self.at
    }

    fn read(&self, at: usize) -> Option<(Frame<'a>, bool, usize)> {
        let text = self.text.get(at..)?;
        let head = text.first_chunk::<HEAD>()?;
        let number =
            |at: usize| head.get(at..at + 4).and_then(|bytes| bytes.first_chunk()).map(|b| u32::from_le_bytes(*b));
        if number(0)? != MAGIC {
            return None;
        }
        let length = number(4)? as usize;
        if !(KEY..=LONGEST).contains(&length) || head.get(HEAD_SUM)? != self.sums.of_head(head) {
            return None;
        }
        let frame = text.get(..HEAD + length)?;
        if head.get(SUM)? != self.sums.of_all(frame) {
            return None;
        }
        let seq = u64::from_le_bytes(*head.get(8..16)?.first_chunk()?);
        let kind = *Kind::ALL.get(usize::from(*head.get(16)?))?;
        let goes_on = *head.get(17)? == 1;
        let (key, state) = frame.get(HEAD..)?.split_first_chunk::<KEY>()?;
        Some((Frame { seq, kind, key: u128::from_le_bytes(*key), state }, goes_on, at + frame.len()))
    }

    /// Whether the batch that begins at `at` is there as a whole, as far as its frames can be read.
    fn is_whole(&self, mut at: usize) -> bool {
        loop {
            match self.read(at) {
                Some((_, false, _)) => return true,
                Some((_, true, next)) => at = next,
                // A frame that is damaged in the middle of a batch takes nothing with it; the end of the text does.
                None => return self.next_frame(at).is_some(),
            }
        }
    }

    /// Where the next frame is that can be read, behind `at`.
    fn next_frame(&self, at: usize) -> Option<usize> {
        if self.is_part {
            return None;
        }
        let magic = MAGIC.to_le_bytes();
        let rest = self.text.get(at + 1..)?;
        memchr::memmem::find_iter(rest, &magic).map(|found| at + 1 + found).find(|at| self.read(*at).is_some())
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        loop {
            if self.at >= self.text.len() {
                return None;
            }
            match self.read(self.at) {
                Some((frame, goes_on, next)) => {
                    if frame.seq <= self.last_seq {
                        // A copy of something earlier: not ours to repeat.
                        self.damage.bytes += (next - self.at) as u64;
                        self.at = next;
                        continue;
                    }
                    if goes_on && !self.is_in_batch && !self.is_whole(next) {
                        if self.is_part {
                            return None;
                        }
                        self.damage.torn += (self.text.len() - self.at) as u64;
                        self.at = self.text.len();
                        return None;
                    }
                    if self.last_seq > 0 {
                        self.damage.frames += frame.seq - self.last_seq - 1;
                    }
                    self.last_seq = frame.seq;
                    self.is_in_batch = goes_on;
                    self.at = next;
                    return Some(frame);
                }
                None if self.is_part => return None,
                None => match self.next_frame(self.at) {
                    Some(next) => {
                        self.is_in_batch = false;
                        self.damage.bytes += (next - self.at) as u64;
                        self.at = next;
                    }
                    None => {
                        self.damage.torn += (self.text.len() - self.at) as u64;
                        self.at = self.text.len();
                    }
                },
            }
        }
    }
}

impl Sums {
    /// With a key of its own: what is derived from the journal's key elsewhere goes out to everybody.
    fn of(key: [u8; 16]) -> Sums {
        let mut derived = sip128::SipHasher13::new_with_key(&key);
        derived.write(b"frames of the journal");
        Sums(sip::SipHasher13::new_with_key(&sip128::Hasher128::finish128(&derived).as_bytes()))
    }

    /// Of a head: all before its checksum but the magic.
    fn of_head(self, frame: &[u8]) -> [u8; 4] {
        let [a, b, c, d, ..] = self.sum([frame.get(4..HEAD_SUM.start)]);
        [a, b, c, d]
    }

    /// Of a whole frame: all but its magic and the checksum itself.
    fn of_all(self, frame: &[u8]) -> [u8; 8] {
        self.sum([frame.get(4..SUM.start), frame.get(HEAD..)])
    }

    fn sum<const COUNT: usize>(self, parts: [Option<&[u8]>; COUNT]) -> [u8; 8] {
        let Sums(mut hasher) = self;
        for part in parts {
            hasher.write(part.unwrap_or_default());
        }
        hasher.finish().to_le_bytes()
    }
}

impl std::fmt::Debug for Sums {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sums")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOURNAL: [u8; 16] = [7; 16];

    /// Three batches: of one frame, of three, of one.
    fn sample() -> Vec<u8> {
        let mut text = Vec::new();
        let mut batch = Batch::beginning_with(JOURNAL, 1);
        for size in [1, 3, 1_u128] {
            for at in 0..size {
                batch.push(Kind::Call, 100 * size + at, &[b"state", &[at as u8; 20]]);
            }
            text.extend_from_slice(batch.bytes());
            batch.clear();
        }
        text
    }

    fn keys(text: &[u8]) -> (Vec<u128>, Damage) {
        let mut frames = Frames::of(JOURNAL, text);
        let keys = frames.by_ref().map(|frame| frame.key).collect();
        (keys, frames.damage())
    }

    const ALL: [u128; 5] = [100, 300, 301, 302, 100];

    #[test]
    fn what_was_written_is_read() {
        let text = sample();
        assert_eq!(keys(&text), (ALL.to_vec(), Damage::default()));
        let second = Frames::of(JOURNAL, &text).nth(1).unwrap();
        assert_eq!((second.seq, second.kind), (2, Kind::Call));
        assert_eq!(second.state, [&b"state"[..], &[0; 20]].concat());
    }

    #[test]
    fn a_batch_that_breaks_off_is_as_if_it_had_never_been() {
        let text = sample();
        let frame = HEAD + KEY + 25;
        for length in 0..text.len() {
            let (found, damage) = keys(&text[..length]);
            let whole = [0, 1, 1, 1, 4][length / frame];
            assert_eq!(found, ALL[..whole], "{length}");
            assert_eq!(damage, Damage { torn: (length - whole * frame) as u64, ..Damage::default() }, "{length}");
        }
    }

    #[test]
    fn a_bit_that_has_flipped_costs_its_frame_and_is_seen() {
        let text = sample();
        let frame = HEAD + KEY + 25;
        for bit in 0..text.len() * 8 {
            let mut text = text.clone();
            text[bit / 8] ^= 1 << (bit % 8);
            let (found, damage) = keys(&text);
            let mut expected = ALL.to_vec();
            expected.remove(bit / 8 / frame);
            assert_eq!(found, expected, "bit {bit}");
            assert_ne!(damage, Damage::default(), "bit {bit}");
        }
    }

    /// A state holds messages as they came: a caller can write in their bodies what it likes.
    #[test]
    fn what_a_caller_writes_is_never_taken_for_a_frame() {
        let mut forged = Batch::beginning_with([0; 16], 1_000);
        forged.push(Kind::Server, 666, &[b"forged"]);
        let forged = forged.bytes().to_vec();
        let mut batch = Batch::beginning_with(JOURNAL, 1);
        batch.push(Kind::Server, 1, &[b"INVITE with a body: ", &forged, b" and more"]);
        let mut text = batch.bytes().to_vec();
        // The write was under way when the power went.
        text.truncate(text.len() - 1);
        assert_eq!(keys(&text).0, []);
    }

    #[test]
    fn a_text_full_of_what_looks_like_heads_is_passed_over_in_its_length() {
        let head = [MAGIC.to_le_bytes(), (8_u32 << 20).to_le_bytes()].concat();
        let mut text = head.repeat(2 << 20);
        let length = text.len() as u64;
        text.extend(sample());
        assert_eq!(keys(&text), (ALL.to_vec(), Damage { bytes: length, ..Damage::default() }));
    }

    #[test]
    fn the_largest_number_is_read_too() {
        let one = |seq: u64| {
            let mut batch = Batch::beginning_with(JOURNAL, 1);
            batch.push(Kind::Call, u128::from(seq), &[b"state"]);
            batch.bytes();
            batch.bytes[8..16].copy_from_slice(&seq.to_le_bytes());
            batch.bytes().to_vec()
        };
        let (last, before, first) = (u64::MAX, u64::MAX - 1, 1);
        let text = [one(first), one(last), one(before), one(first)].concat();
        let damage = Damage { bytes: 2 * one(first).len() as u64, frames: last - 2, torn: 0 };
        assert_eq!(keys(&text), (vec![1, u128::from(last)], damage));
    }

    #[test]
    fn a_part_ends_before_what_only_the_whole_can_tell() {
        let text = sample();
        let frame = HEAD + KEY + 25;
        for length in 0..text.len() {
            let mut frames = Frames::of_part(JOURNAL, &text[..length]);
            let whole = [0, 1, 1, 1, 4][length / frame];
            assert_eq!(frames.by_ref().count(), whole, "{length}");
            assert_eq!((frames.offset(), frames.damage()), (whole * frame, Damage::default()), "{length}");
        }
        let mut damaged = text.clone();
        damaged[2 * frame] ^= 1;
        assert_eq!(Frames::of_part(JOURNAL, &damaged).count(), 1);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_to_its_end(noise in proptest::collection::vec(proptest::num::u8::ANY, 0..200), at in 0..400_usize) {
            let mut text = sample();
            let at = at.min(text.len());
            text.splice(at..at, noise);
            let (found, _) = keys(&text);
            proptest::prop_assert!(found.iter().all(|key| ALL.contains(key)));
        }
    }
}
