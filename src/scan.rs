//! Looking through short texts for bytes: eight or sixteen at a time.
//!
//! Header lines and values are short: this costs less than calling a search that is made for long texts.

/// A bit in each byte.
const ONES: u64 = u64::MAX / 255;

/// The top bit of each byte below `limit`, which is 128 at most, and perhaps of bytes behind the first such one.
#[inline]
pub const fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(ONES * limit as u64) & !word & (ONES * 128)
}

/// The top bit of each byte that is this one, and perhaps of bytes behind the first such one.
#[inline]
pub const fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ (ONES * byte as u64), 1)
}

/// The top bit of each byte that is above 127.
#[inline]
pub const fn beyond_ascii(word: u64) -> u64 {
    word & (ONES * 128)
}

/// Offset of the first byte from `at` on that `marked` marks by its top bit, whatever it marks behind that. `is` says the
/// same of one byte; it is asked for many at once, without branches.
#[inline(always)]
pub fn first(text: &[u8], at: usize, marked: impl Fn(u64) -> u64, is: impl Fn(u8) -> bool) -> Option<usize> {
    let whole = text.get(at..)?;
    let place_in = |word: &[u8; 8]| match marked(u64::from_le_bytes(*word)) {
        0 => None,
        found => Some(found.trailing_zeros() as usize / 8),
    };
    let (blocks, rest) = whole.as_chunks::<16>();
    // Vector instructions say of 16 bytes whether there is any.
    for (block, number) in blocks.iter().zip(0..) {
        if block.iter().fold(false, |any, byte| any | is(*byte)) {
            let ([low, high], _) = block.as_chunks::<8>() else { return None };
            let found = place_in(low).or_else(|| Some(place_in(high)? + 8))?;
            return Some(at + number * 16 + found);
        }
    }
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        if let Some(found) = place_in(word) {
            return Some(text.len() - rest.len() - 8 + found);
        }
    }
    match whole.last_chunk::<8>() {
        _ if rest.is_empty() => None,
        // The word that ends with the text: what has been looked at already bears no mark.
        Some(word) => place_in(word).map(|found| text.len() - 8 + found),
        None => rest.iter().position(|byte| is(*byte)).map(|found| at + found),
    }
}

/// Offset of the first byte from `at` on that is one of these, three at most.
#[inline(always)]
pub fn find<const N: usize>(bytes: [u8; N], text: &[u8], at: usize) -> Option<usize> {
    const { assert!(N > 0 && N <= 3) };
    // The same again where there are fewer: without a loop the compiler sees that, and vectors are of the text.
    let byte = |at: usize| bytes.get(at).or(bytes.first()).copied().unwrap_or_default();
    let (a, b, c) = (byte(0), byte(1), byte(2));
    let marked = |word| equal(word, a) | equal(word, b) | equal(word, c);
    first(text, at, marked, |byte| (byte == a) | (byte == b) | (byte == c))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_is_found_is_the_first(text in "[ab;,\"<\\x00\\x01\\x7f\u{e9}\u{ff} ]{0,70}", at in 0_usize..80) {
            let text = text.as_bytes();
            let expected = |is: &dyn Fn(u8) -> bool| {
                text.get(at..).and_then(|rest| rest.iter().position(|byte| is(*byte))).map(|found| at + found)
            };
            proptest::prop_assert_eq!(find([b';'], text, at), expected(&|byte| byte == b';'));
            proptest::prop_assert_eq!(find([b'"', b'<', 0], text, at), expected(&|byte| b"\"<\0".contains(&byte)));
            let below_space = first(text, at, |word| below(word, b' '), |byte| byte < b' ');
            proptest::prop_assert_eq!(below_space, expected(&|byte| byte < b' '));
            let high = first(text, at, beyond_ascii, |byte| byte > 127);
            proptest::prop_assert_eq!(high, expected(&|byte| byte > 127));
        }
    }
}
