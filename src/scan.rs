//! Looking through short texts for bytes: sixteen at a time.
//!
//! Header lines and values are short: this costs less than calling a search that is made for long texts.

use wide::u8x16;

/// Bytes that are looked at in one go.
const BLOCK: usize = 16;

/// A set of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Set<const N: usize> {
    /// Those in it one by one.
    these: [u8; N],
    /// All below this one are.
    below: u8,
    /// All above 127 are.
    beyond_ascii: bool,
}

/// What is no byte of a token (RFC 3261 §25.1).
#[derive(Clone, Copy, Debug)]
pub struct NotToken;

/// What can be looked for.
pub trait Sought: Copy {
    fn has(self, byte: u8) -> bool;

    /// The top bit of each byte that is sought.
    fn mark(self, block: u8x16) -> u8x16;
}

impl<const N: usize> Set<N> {
    #[inline(always)]
    pub const fn of(these: [u8; N]) -> Set<N> {
        Set { these, below: 0, beyond_ascii: false }
    }

    /// With all below this one.
    #[inline(always)]
    pub const fn and_below(self, below: u8) -> Set<N> {
        Set { below, ..self }
    }

    /// With all above 127.
    #[inline(always)]
    pub const fn and_beyond_ascii(self) -> Set<N> {
        Set { beyond_ascii: true, ..self }
    }
}

impl<const N: usize> Sought for Set<N> {
    #[inline(always)]
    fn has(self, byte: u8) -> bool {
        let is_one = self.these.iter().fold(false, |any, this| any | (byte == *this));
        is_one | (byte < self.below) | (self.beyond_ascii & (byte > 127))
    }

    #[inline(always)]
    fn mark(self, block: u8x16) -> u8x16 {
        let mut marks = if self.beyond_ascii { block } else { u8x16::ZERO };
        if self.below > 0 {
            marks |= block.simd_le(u8x16::splat(self.below - 1));
        }
        self.these.iter().fold(marks, |marks, this| marks | block.simd_eq(u8x16::splat(*this)))
    }
}

/// Whether tokens have this byte (RFC 3261 §25.1).
pub fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || OTHERS_OF_TOKEN.contains(&byte)
}

/// Bytes of tokens beside letters and digits.
const OTHERS_OF_TOKEN: [u8; 10] = *b"-.!%*_+`'~";

impl Sought for NotToken {
    #[inline(always)]
    fn has(self, byte: u8) -> bool {
        !is_of_token(byte)
    }

    #[inline(always)]
    fn mark(self, block: u8x16) -> u8x16 {
        let letters = ((block | u8x16::splat(0x20)) - u8x16::splat(b'a')).simd_le(u8x16::splat(b'z' - b'a'));
        let digits = (block - u8x16::splat(b'0')).simd_le(u8x16::splat(9));
        let others = OTHERS_OF_TOKEN.iter().map(|other| block.simd_eq(u8x16::splat(*other)));
        !others.fold(letters | digits, |marks, other| marks | other)
    }
}

/// A bit for each byte of a block, set where it is sought.
#[inline(always)]
fn bits(block: &[u8; BLOCK], sought: impl Sought) -> u32 {
    sought.mark(u8x16::new(*block)).to_bitmask()
}

/// Offset of the first byte from `at` on that is sought.
#[inline(always)]
pub fn first(text: &[u8], at: usize, sought: impl Sought) -> Option<usize> {
    let (blocks, rest) = text.get(at..)?.as_chunks::<BLOCK>();
    let mut block_at = at;
    for block in blocks {
        let bits = bits(block, sought);
        if bits != 0 {
            return Some(block_at + bits.trailing_zeros() as usize);
        }
        block_at += BLOCK;
    }
    let short = rest.len();
    if short == 0 {
        return None;
    }
    let Some(block) = text.last_chunk::<BLOCK>() else {
        return first_of_few(rest, sought).map(|found| block_at + found);
    };
    // What of it has been looked at already is left out.
    let bits = bits(block, sought) >> (BLOCK - short);
    (bits != 0).then(|| block_at + bits.trailing_zeros() as usize)
}

/// The same of a text that no block fits into.
#[inline(never)]
fn first_of_few(text: &[u8], sought: impl Sought) -> Option<usize> {
    const HALF: usize = BLOCK / 2;
    let (Some(head), Some(tail)) = (text.first_chunk::<HALF>(), text.last_chunk::<HALF>()) else {
        return text.iter().position(|byte| sought.has(*byte));
    };
    // Some of it may be in both.
    let block = u128::from(u64::from_le_bytes(*head)) | u128::from(u64::from_le_bytes(*tail)) << u64::BITS;
    let bits = bits(&block.to_le_bytes(), sought);
    let found = bits.trailing_zeros() as usize;
    (bits != 0).then_some(if found < HALF { found } else { text.len() + found - BLOCK })
}

/// Offset of the first byte from `at` on that is one of these.
#[inline(always)]
pub fn find<const N: usize>(bytes: [u8; N], text: &[u8], at: usize) -> Option<usize> {
    first(text, at, Set::of(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_is_marked_that_is_sought() {
        fn check(sought: impl Sought) {
            for byte in 0..=255 {
                for (length, start) in [(40, 0), (40, 3), (40, 30), (11, 2), (5, 1)] {
                    let expected = sought.has(byte).then_some(start);
                    assert_eq!(first(&vec![byte; length], start, sought), expected, "{byte} {length}");
                }
            }
        }
        check(Set::of(*b"a"));
        check(Set::of(*b"\x00\xff<\""));
        check(Set::of(*b"\x7f").and_below(b' '));
        check(Set::of([]).and_below(255).and_beyond_ascii());
        check(NotToken);
    }

    proptest::proptest! {
        #[test]
        fn what_is_found_is_the_first(text in "[ab;,\"<\\x00\\x01\\x7f\u{e9}\u{ff} ]{0,70}", at in 0_usize..80) {
            let text = text.as_bytes();
            let expected = |is: &dyn Fn(u8) -> bool| {
                text.get(at..).and_then(|rest| rest.iter().position(|byte| is(*byte))).map(|found| at + found)
            };
            proptest::prop_assert_eq!(find([b';'], text, at), expected(&|byte| byte == b';'));
            proptest::prop_assert_eq!(find([b'"', b'<', 0], text, at), expected(&|byte| b"\"<\0".contains(&byte)));
            let below_space = first(text, at, Set::of([]).and_below(b' '));
            proptest::prop_assert_eq!(below_space, expected(&|byte| byte < b' '));
            let high = first(text, at, Set::of([]).and_beyond_ascii());
            proptest::prop_assert_eq!(high, expected(&|byte| byte > 127));
            proptest::prop_assert_eq!(first(text, at, NotToken), expected(&|byte| NotToken.has(byte)));
        }
    }
}
