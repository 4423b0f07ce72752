//! What is shown of numbers in events, answers and logs.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// How many characters of a number stay readable.
const READABLE: usize = 2;

/// What is shown of numbers.
#[derive(Clone, Debug, Default)]
pub enum MaskNumbers {
    #[default]
    None,
    /// All but the last two digits are hidden.
    Partial,
    /// HMAC-SHA256 with this key, in hexadecimal.
    Hash(Arc<[u8]>),
}

/// A number or user as it is shown.
#[derive(Clone, Copy, Debug)]
pub struct Masked<'a>(pub &'a MaskNumbers, pub &'a str);

impl MaskNumbers {
    /// The number as it is shown.
    pub fn masked<'a>(&self, number: Cow<'a, str>) -> Cow<'a, str> {
        match self {
            MaskNumbers::None => number,
            MaskNumbers::Partial => {
                let (plus, digits) = match number.strip_prefix('+') {
                    Some(digits) => ("+", digits),
                    None => ("", &*number),
                };
                let hidden = digits.chars().count().saturating_sub(READABLE);
                let readable: String = digits.chars().skip(hidden).collect();
                Cow::Owned(format!("{plus}{}{readable}", "*".repeat(hidden)))
            }
            MaskNumbers::Hash(key) => match Hmac::<Sha256>::new_from_slice(key) {
                Ok(mut hmac) => {
                    hmac.update(number.as_bytes());
                    let digest = hmac.finalize().into_bytes();
                    Cow::Owned(digest.iter().map(|byte| format!("{byte:02x}")).collect())
                }
                // HMAC takes a key of any length; if it ever does not, nothing may be shown.
                Err(_) => Cow::Owned("*".repeat(number.chars().count())),
            },
        }
    }
}

impl fmt::Display for Masked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.masked(Cow::Borrowed(self.1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_masking_keeps_the_plus_and_the_last_two() {
        let shown = |number| Masked(&MaskNumbers::Partial, number).to_string();
        assert_eq!(shown("+15550100"), "+******00");
        assert_eq!(shown("alice"), "***ce");
        assert_eq!(shown("+12"), "+12");
        assert_eq!(shown("é€ü"), "*€ü");
        assert_eq!(shown(""), "");
    }

    #[test]
    fn hashes_are_those_of_hmac_sha256() {
        // RFC 4231, test case 2.
        let how = MaskNumbers::Hash(b"Jefe".as_slice().into());
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(Masked(&how, "what do ya want for nothing?").to_string(), expected);
    }
}
