//! The smallest pieces of the grammar (RFC 3261 §25.1): white space, tokens, quoted strings, line ends.
//!
//! All offsets are absolute in the text given; a caller that wants to stop earlier gives a shorter text.

use std::ops::Range;

use memchr::{memchr2, memchr3};

use crate::scan::{NotToken, Set, first};

/// What stands in a head where it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadByte {
    Cr,
    Lf,
}

impl BadByte {
    pub(super) const fn detail(self) -> &'static str {
        match self {
            BadByte::Cr => "CR without LF in the head",
            BadByte::Lf => "LF without CR in the head",
        }
    }
}

/// White space inside a value; CR and LF occur there only as parts of a fold.
pub(super) const fn is_lws(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// A byte of a host's name; they may hold `_` and bytes beyond ASCII, as they occur.
#[expect(clippy::indexing_slicing, reason = "the table has a place for every byte")]
pub(super) const fn is_of_host(byte: u8) -> bool {
    HOST[byte as usize]
}

/// Which bytes those are: each byte of every host is asked for.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const HOST: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let as_u8 = byte as u8;
        table[byte] = as_u8.is_ascii_alphanumeric() || byte > 127 || matches!(as_u8, b'-' | b'.' | b'_');
        byte += 1;
    }
    table
};

/// Offset of the first byte from `at` on that does not satisfy `is`.
pub(super) fn skip(text: &[u8], at: usize, is: impl Fn(u8) -> bool) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    at + rest.iter().position(|byte| !is(*byte)).unwrap_or(rest.len())
}

/// Offset of the first byte from `at` on that no token has; the end of the text where there is none.
#[inline]
pub(super) fn token_end(text: &[u8], at: usize) -> usize {
    first(text, at, NotToken).unwrap_or(text.len())
}

pub(super) fn skip_lws(text: &[u8], at: usize) -> usize {
    skip(text, at, is_lws)
}

/// The range without white space at both ends; an empty one stays where its text ended.
pub(super) fn trim(text: &[u8], range: Range<usize>) -> Range<usize> {
    let inside = text.get(range.clone()).unwrap_or_default();
    let end = range.start + inside.iter().rposition(|byte| !is_lws(*byte)).map_or(0, |last| last + 1);
    let start = skip_lws(text.get(..end).unwrap_or_default(), range.start);
    start..end
}

pub(super) fn trimmed(text: &[u8]) -> &[u8] {
    text.get(trim(text, 0..text.len())).unwrap_or_default()
}

/// One past the quote that closes the quoted string which opens at `at`; `None` where it does not close.
pub(super) fn quoted_end(text: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        if text.get(at) == Some(&b'"') {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// Whether every NUL in a field's value is a quoted pair inside a quoted string, the one place where
/// the grammar has it (RFC 4475 §3.1.1.2), and a quoted string to whoever looks for brackets first, too.
pub(super) fn has_only_quoted_nuls(value: &[u8]) -> bool {
    let mut at = 0;
    while let Some(hit) = memchr3(b'"', b'<', 0, value.get(at..).unwrap_or_default()) {
        at += hit;
        let end = match value.get(at) {
            Some(b'"') => quoted_end(value, at).filter(|end| nuls_are_escaped(value.get(at..*end).unwrap_or_default())),
            Some(b'<') => bracket_end(value, at),
            _ => None,
        };
        let Some(end) = end else { return false };
        at = end;
    }
    true
}

/// One past the bracket that closes the one at `at`, where neither a quote nor a NUL is between them.
fn bracket_end(value: &[u8], at: usize) -> Option<usize> {
    let end = at + memchr3(b'"', b'>', 0, value.get(at..)?)?;
    (value.get(end) == Some(&b'>')).then_some(end + 1)
}

fn nuls_are_escaped(string: &[u8]) -> bool {
    let mut bytes = string.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            0 => return false,
            _ => {}
        }
    }
    true
}

/// Offset of the CR of the CRLF that ends the line, searched from `at` on; `None` where the text ends
/// first. NULs are stepped over and set `nul`: only the caller knows what they stand in.
pub(super) fn line_end(text: &[u8], mut at: usize, nul: &mut bool) -> Result<Option<usize>, BadByte> {
    while let Some(hit) = low_byte(text, at) {
        at = hit;
        match (text.get(at), text.get(at + 1)) {
            (Some(b'\r'), Some(b'\n')) => return Ok(Some(at)),
            (Some(b'\r'), _) => return Err(BadByte::Cr),
            (Some(b'\n'), _) => return Err(BadByte::Lf),
            (Some(0), _) => *nul = true,
            _ => {}
        }
        at += 1;
    }
    Ok(None)
}

/// Offset of the first byte from `at` on that is not above CR: the line ends, NUL and what hardly ever occurs.
#[inline]
pub(super) fn low_byte(text: &[u8], at: usize) -> Option<usize> {
    first(text, at, Set::of([]).and_below(b'\r' + 1))
}

/// Offset of the first byte from `at` on that is a semicolon, a comma, a quote, white space or another control; the end of
/// the text where there is none.
#[inline]
pub(super) fn plain_end(text: &[u8], at: usize) -> usize {
    first(text, at, Set::of(*b";,\"").and_below(b' ' + 1)).unwrap_or(text.len())
}

/// Whether a text holds a byte that no URI has: a control, a space, an angle bracket or a quote.
pub fn has_no_uri_byte(text: &[u8]) -> bool {
    first(text, 0, Set::of(*b"\x7f<>\"").and_below(b' ' + 1)).is_some()
}

/// A decimal number of digits only, saturating; `None` where there is another byte or none at all.
pub fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    if text.len() <= 19 {
        // No sum of so few digits is too large.
        let sum = text.iter().try_fold(0, |sum: u64, byte| match byte.wrapping_sub(b'0') {
            digit @ 0..=9 => Some(sum * 10 + u64::from(digit)),
            _ => None,
        });
        return sum;
    }
    text.iter().try_fold(0_u64, |sum, byte| {
        byte.is_ascii_digit().then(|| sum.saturating_mul(10).saturating_add(u64::from(byte - b'0')))
    })
}

/// A port: 1 to 65535.
#[inline]
pub(super) fn port(text: &[u8]) -> Option<u16> {
    // With zeros in front it may be longer.
    if (1..=5).contains(&text.len()) {
        let sum = text.iter().try_fold(0, |sum: u32, byte| match byte.wrapping_sub(b'0') {
            digit @ 0..=9 => Some(sum * 10 + u32::from(digit)),
            _ => None,
        });
        return sum.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    }
    number(text).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_trimmed_at_both_ends() {
        assert_eq!(trim(b"  a b\r\n ", 0..8), 2..5);
        assert_eq!(trim(b"ab", 0..2), 0..2);
        assert!(trim(b" \t ", 0..3).is_empty());
        assert!(trim(b"", 0..0).is_empty());
    }

    #[test]
    fn a_quoted_string_ends_at_the_first_quote_that_is_not_escaped() {
        assert_eq!(quoted_end(br#""a\"b" c"#, 0), Some(6));
        assert_eq!(quoted_end(br#""a\\" c"#, 0), Some(5));
        assert_eq!(quoted_end(br#""a\""#, 0), None);
        assert_eq!(quoted_end(br#""a\"#, 0), None);
    }

    #[test]
    fn a_line_ends_at_crlf_only() {
        let mut nul = false;
        assert_eq!(line_end(b"ab\r\ncd", 0, &mut nul), Ok(Some(2)));
        assert_eq!(line_end(b"abcd", 0, &mut nul), Ok(None));
        assert_eq!(line_end(b"ab\ncd\r\n", 0, &mut nul), Err(BadByte::Lf));
        assert_eq!(line_end(b"ab\rcd\r\n", 0, &mut nul), Err(BadByte::Cr));
        assert!(!nul);
        assert_eq!(line_end(b"a\0b\r\n", 0, &mut nul), Ok(Some(3)));
        assert!(nul);
    }

    #[test]
    fn a_nul_is_allowed_as_a_quoted_pair_only() {
        assert!(has_only_quoted_nuls(b"\"a\\\0b\" <sip:x>"));
        assert!(!has_only_quoted_nuls(b"\"a\0b\" <sip:x>"));
        assert!(!has_only_quoted_nuls(b"a\\\0b"));
        assert!(!has_only_quoted_nuls(b"\"a\\\0"));
        assert!(has_only_quoted_nuls(b"<sip:a>, \"a\\\0b\" <sip:x>"));
        for two_readings in [&b"<a\"> \"b\" \\\0\" <sip:x>"[..], b"<a\"b\"> \"\\\0\"", b"<a\0>", b"< \"a\\\0b\""] {
            assert!(!has_only_quoted_nuls(two_readings), "{two_readings:?}");
        }
    }

    #[test]
    fn a_plain_text_ends_at_the_first_byte_that_parts_it() {
        let plain: Vec<u8> = (b'!'..=255).filter(|byte| !b";,\"".contains(byte)).collect();
        for ends in [&b";"[..], b",", b"\"", b" ", b"\t", b"\r", b"\0", b"\x1f"] {
            for length in 0..40 {
                let text = [&plain[length..2 * length + 3], ends, b";,\" tail"].concat();
                assert_eq!(plain_end(&text, 0), length + 3, "{ends:?} {length}");
                assert_eq!(plain_end(&text, length), length + 3);
            }
        }
        assert_eq!(plain_end(&plain, 0), plain.len());
        assert_eq!((plain_end(b"", 0), plain_end(b"ab", 2)), (0, 2));
    }

    #[test]
    fn numbers_are_digits_only_and_saturate() {
        assert_eq!(number(b"0068"), Some(68));
        assert_eq!(number(b"99999999999999999999999"), Some(u64::MAX));
        assert_eq!(number(b"-1"), None);
        assert_eq!(number(b""), None);
        assert_eq!(port(b"65535"), Some(65535));
        assert_eq!(port(b"65536"), None);
        assert_eq!(port(b"0"), None);
    }
}
