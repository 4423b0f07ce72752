//! What is shown of numbers in events, answers and logs.
//!
//! A number is the user part of a URI. How it is written does not matter: `%2B1555…`, `+1-555-…` and `001555…` are shown as
//! `+1555…` is. Where a call's numbers stand in its other texts is the matter of [`Numbers`].

mod text;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, Mac};
use sha2::Sha256;

pub use text::{Kind, Numbers};

/// How many characters of a number stay readable.
const READABLE: usize = 2;
/// Digits behind a `00` that make it an international prefix.
const LEAST_INTERNATIONAL: usize = 5;

/// What is shown of numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MaskNumbers {
    #[default]
    None,
    /// All but the last two digits are hidden.
    Partial,
    /// HMAC-SHA256 with this key, in hexadecimal.
    Hash(MaskKey),
}

/// The key of hashes. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct MaskKey(Arc<[u8]>);

impl MaskNumbers {
    pub const fn is_on(&self) -> bool {
        !matches!(self, MaskNumbers::None)
    }

    /// A user part as it is shown.
    pub fn masked<'a>(&self, user: &'a str) -> Cow<'a, str> {
        match self {
            MaskNumbers::None => user.into(),
            MaskNumbers::Partial => partial(&canonical(user)).into(),
            MaskNumbers::Hash(key) => key.hash(&canonical(user)).into(),
        }
    }
}

impl MaskKey {
    pub fn new(key: impl Into<Arc<[u8]>>) -> MaskKey {
        MaskKey(key.into())
    }

    fn hash(&self, text: &str) -> String {
        match Hmac::<Sha256>::new_from_slice(&self.0) {
            Ok(mut hmac) => {
                hmac.update(text.as_bytes());
                hmac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
            }
            // HMAC takes a key of any length; if it ever does not, nothing may be shown.
            Err(_) => "*".repeat(text.chars().count()),
        }
    }
}

/// A user part without escapes; a number also without what separates its digits, and with `+` for `00`.
fn canonical(user: &str) -> Cow<'_, str> {
    let decoded = decoded(user);
    let digits = decoded.strip_prefix('+').unwrap_or(&decoded);
    let is_number = digits.bytes().any(|byte| byte.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_digit() || is_separator(byte) || matches!(byte, b'*' | b'#'));
    if !is_number {
        return decoded;
    }
    let bare: String = decoded.chars().filter(|c| u8::try_from(*c).is_ok_and(|byte| !is_separator(byte))).collect();
    match bare.strip_prefix("00") {
        Some(number) if number.len() >= LEAST_INTERNATIONAL => format!("+{number}").into(),
        _ => bare.into(),
    }
}

fn partial(number: &str) -> String {
    let (plus, digits) = match number.strip_prefix('+') {
        Some(digits) => ("+", digits),
        None => ("", number),
    };
    let hidden = digits.chars().count().saturating_sub(READABLE);
    let readable: String = digits.chars().skip(hidden).collect();
    format!("{plus}{}{readable}", "*".repeat(hidden))
}

/// Escapes (RFC 3986 §2.1) replaced by what they stand for.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let (byte, behind) = match escape(rest) {
            Some(byte) => (byte, rest.get(3..).unwrap_or_default()),
            None => (*first, behind),
        };
        bytes.push(byte);
        rest = behind;
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

/// The byte that a text begins with an escape of.
fn escape(text: &[u8]) -> Option<u8> {
    let [b'%', high, low] = *text.first_chunk::<3>()? else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// What people put between digits: RFC 3966's visual separators, and spaces.
const fn is_separator(byte: u8) -> bool {
    matches!(byte, b'-' | b'.' | b'(' | b')' | b' ')
}

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_masking_keeps_the_plus_and_the_last_two() {
        let shown = |number| MaskNumbers::Partial.masked(number);
        assert_eq!(shown("+15550100"), "+******00");
        assert_eq!(shown("alice"), "***ce");
        assert_eq!(shown("+12"), "+12");
        assert_eq!(shown("é€ü"), "*€ü");
        assert_eq!(shown(""), "");
    }

    #[test]
    fn hashes_are_those_of_hmac_sha256() {
        // RFC 4231, test case 2.
        let how = MaskNumbers::Hash(MaskKey::new(b"Jefe".as_slice()));
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(how.masked("what do ya want for nothing?"), expected);
    }

    #[test]
    fn a_number_is_shown_alike_however_it_is_written() {
        let hash = MaskNumbers::Hash(MaskKey::new(b"0123456789abcdef".as_slice()));
        for number in ["%2B15550100", "%2b1%35550100", "+1-555-0100", "+1.(555).0100", "0015550100"] {
            assert_eq!(hash.masked(number), hash.masked("+15550100"), "{number}");
            assert_eq!(MaskNumbers::Partial.masked(number), "+******00", "{number}");
        }
        assert_ne!(hash.masked("15550100"), hash.masked("+15550100"), "it may be another's");
        assert_eq!(canonical("j.doe-2"), "j.doe-2");
        assert_eq!(canonical("a%20b%"), "a b%");
        assert_eq!(canonical("001"), "001");
    }

    #[test]
    fn a_key_is_not_shown() {
        let how = MaskNumbers::Hash(MaskKey::new(b"S3CR3T".as_slice()));
        assert_eq!(format!("{how:?}"), "Hash(…)");
    }
}
