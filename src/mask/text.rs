//! Numbers inside other texts of a call: a dialer's key that holds the number it dials, a carrier's phrase that quotes it.

use std::borrow::Cow;
use std::ops::Range;

use smallvec::SmallVec;

use super::{MaskNumbers, canonical, decoded, escape, is_separator};

/// Fewer digits are no number, but an extension or a code.
const LEAST_DIGITS: usize = 5;
/// So many digits from the end of a number name it too: who dials inside the country or the town writes no more.
const TAIL: usize = 7;
/// More digits has no number; of a longer one the last count.
const MOST_DIGITS: usize = 32;
/// Separators between two digits of one number.
const WIDEST_GAP: usize = 3;

/// What a text is, and so what in it is taken for a number. The call's own are wherever they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Call-ID, tags, correlation: nothing else.
    Id,
    /// Values of headers: also users of URIs, and what begins with `+`.
    Value,
    /// Reasons in words: also any seven digits in a row.
    Prose,
}

/// The numbers of one call, as they are shown wherever its texts name them.
#[derive(Debug)]
pub struct Numbers<'a> {
    mask: &'a MaskNumbers,
    own: SmallVec<[Own; 3]>,
}

#[derive(Debug)]
struct Own {
    /// Without its plus.
    bare: String,
    /// The digits by which it is found in texts: the most in a row, since a user may be a prefix and a number.
    digits: Range<usize>,
    shown: String,
}

/// A digit of a text.
#[derive(Debug)]
struct Digit {
    value: u8,
    at: Range<usize>,
    gap: Gap,
}

/// What is between a digit and the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Gap {
    None,
    Separators,
    /// With a dot among them, as in an IP address.
    Dots,
    Else,
}

/// A part of a text that is not shown.
#[derive(Debug)]
struct Part {
    at: Range<usize>,
    /// Which of the call's own it is.
    own: Option<usize>,
    /// All digits of that one.
    is_whole: bool,
}

impl<'a> Numbers<'a> {
    /// Of the user parts that a call has. `None` where nothing is to be masked.
    pub fn of(mask: &'a MaskNumbers, users: [Option<&[u8]>; 3]) -> Option<Numbers<'a>> {
        if !mask.is_on() {
            return None;
        }
        let forms = users.into_iter().flatten().map(|user| canonical(&String::from_utf8_lossy(user)).into_owned());
        let forms = forms.collect::<SmallVec<[String; 3]>>();
        let mut own = SmallVec::<[Own; 3]>::new();
        // With a plus first: it stands for the same number without.
        for form in forms.iter().filter(|form| form.starts_with('+')).chain(&forms) {
            let bare = form.trim_start_matches('+');
            if own.iter().all(|other| other.bare != bare) {
                own.push(Own {
                    bare: bare.to_owned(),
                    digits: longest_run(bare),
                    shown: mask.masked(form).into_owned(),
                });
            }
        }
        Some(Numbers { mask, own })
    }

    /// A user part as it is shown.
    pub fn user(&self, user: &[u8]) -> String {
        let user = String::from_utf8_lossy(user);
        let form = canonical(&user);
        let own = self.own.iter().find(|own| own.bare == form.trim_start_matches('+'));
        match (own, self.mask) {
            (Some(own), MaskNumbers::Hash(_)) => own.shown.clone(),
            _ => self.mask.masked(&form).into_owned(),
        }
    }

    /// A text with the numbers in it as they are shown.
    pub fn hide<'t>(&self, text: &'t [u8], kind: Kind) -> Cow<'t, str> {
        let text = String::from_utf8_lossy(text);
        let digits = digits(text.as_bytes());
        let mut parts = self.own_in(&text, &digits);
        if kind != Kind::Id {
            parts.extend(users(&text));
            parts.extend(runs(&text, &digits, kind));
        }
        if parts.is_empty() {
            return text;
        }
        let mut hidden = String::with_capacity(text.len());
        let mut end = 0;
        for part in merged(parts) {
            hidden.push_str(text.get(end..part.at.start).unwrap_or_default());
            self.put(&mut hidden, text.get(part.at.clone()).unwrap_or_default(), part.own);
            end = part.at.end;
        }
        hidden.push_str(text.get(end..).unwrap_or_default());
        hidden.into()
    }

    fn put(&self, out: &mut String, part: &str, own: Option<usize>) {
        match own.and_then(|own| self.own.get(own)) {
            Some(own) if decoded(part).starts_with('+') => out.push_str(&own.shown),
            Some(own) => out.push_str(own.shown.trim_start_matches('+')),
            None => out.push_str(&self.mask.masked(part.split([';', ':']).next().unwrap_or_default())),
        }
    }

    /// Where the call's own numbers stand, or their ends.
    fn own_in(&self, text: &str, digits: &[Digit]) -> Vec<Part> {
        let mut parts = Vec::new();
        for (index, own) in self.own.iter().enumerate().filter(|(_, own)| own.is_number()) {
            let number = own.digits();
            let number = number.get(number.len().saturating_sub(MOST_DIGITS)..).unwrap_or_default();
            for last in 0..digits.len() {
                let Some(before) = digits.get(..=last) else { continue };
                let mut is_joined = true;
                let pairs = before.iter().rev().zip(number.iter().rev());
                let alike = pairs.take_while(|(digit, wanted)| {
                    let is_alike = is_joined && digit.value == **wanted;
                    is_joined = digit.gap != Gap::Else;
                    is_alike
                });
                let count = alike.count();
                if count < number.len().min(TAIL) {
                    continue;
                }
                if let (Some(first), Some(last)) = (digits.get(last + 1 - count), digits.get(last)) {
                    let at = behind_plus(text, first.at.start)..last.at.end;
                    parts.push(Part { at, own: Some(index), is_whole: count == number.len() });
                }
            }
        }
        parts
    }
}

impl Own {
    fn digits(&self) -> &[u8] {
        self.bare.as_bytes().get(self.digits.clone()).unwrap_or_default()
    }

    fn is_number(&self) -> bool {
        self.digits.len() >= LEAST_DIGITS
    }
}

fn longest_run(text: &str) -> Range<usize> {
    let runs = text.as_bytes().chunk_by(|one, next| one.is_ascii_digit() == next.is_ascii_digit());
    let mut longest = 0..0;
    let mut start = 0;
    for run in runs {
        let end = start + run.len();
        if run.first().is_some_and(u8::is_ascii_digit) && run.len() > longest.len() {
            longest = start..end;
        }
        start = end;
    }
    longest
}

/// All digits of a text, escaped ones too.
fn digits(text: &[u8]) -> Vec<Digit> {
    let mut found = Vec::new();
    let (mut at, mut gap, mut width) = (0, Gap::Else, 0);
    while let Some(&plain) = text.get(at) {
        let escaped = text.get(at..).and_then(escape);
        let (byte, end) = escaped.map_or((plain, at + 1), |byte| (byte, at + 3));
        if byte.is_ascii_digit() {
            found.push(Digit { value: byte, at: at..end, gap });
            (gap, width) = (Gap::None, 0);
        } else if gap != Gap::Else && is_separator(byte) && width < WIDEST_GAP {
            let between = if byte == b'.' { Gap::Dots } else { Gap::Separators };
            gap = if gap < between { between } else { gap };
            width += 1;
        } else {
            gap = Gap::Else;
        }
        at = end;
    }
    found
}

/// Users of `sip:`, `sips:` and `tel:` URIs, with what else stands before the host. Of URIs with nothing between them the first
/// takes the others with it.
fn users(text: &str) -> Vec<Part> {
    let is_end = |c: char| c.is_whitespace() || matches!(c, '<' | '>' | '"');
    let mut parts = Vec::new();
    let mut start = 0;
    for piece in text.split_inclusive(is_end) {
        let word = piece.trim_end_matches(is_end);
        let host = word.rfind('@');
        let mut end = 0;
        for (colon, _) in word.match_indices(':') {
            let (scheme, rest) = word.split_at(colon);
            let scheme = scheme.rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
            let user = colon + 1;
            let user_end = if user < end {
                None
            } else if scheme.eq_ignore_ascii_case("tel") {
                Some(rest.find([';', ',', '?']).map_or(word.len(), |length| colon + length))
            } else if scheme.eq_ignore_ascii_case("sip") || scheme.eq_ignore_ascii_case("sips") {
                host
            } else {
                None
            };
            if let Some(user_end) = user_end.filter(|user_end| *user_end > user) {
                parts.push(Part { at: start + user..start + user_end, own: None, is_whole: false });
                end = user_end;
            }
        }
        start += piece.len();
    }
    parts
}

/// Digits in a row that are a number by themselves.
fn runs(text: &str, digits: &[Digit], kind: Kind) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut add = |run: &[Digit], is_number: &dyn Fn(usize) -> bool| {
        if let [first, .., last] = run {
            let start = behind_plus(text, first.at.start);
            if run.len() >= LEAST_DIGITS && start < first.at.start || is_number(run.len()) {
                parts.push(Part { at: start..last.at.end, own: None, is_whole: false });
            }
        }
    };
    digits.chunk_by(|_, next| next.gap < Gap::Else).for_each(|run| add(run, &|_| false));
    if kind == Kind::Prose {
        digits.chunk_by(|_, next| next.gap < Gap::Dots).for_each(|run| add(run, &|count| count >= TAIL));
    }
    parts
}

/// Where the plus stands that belongs to digits from `start` on, else `start`.
fn behind_plus(text: &str, start: usize) -> usize {
    let before = text.as_bytes().get(..start).unwrap_or_default();
    match before {
        [.., b'+'] => start - 1,
        [.., b'%', b'2', b'B' | b'b'] => start - 3,
        _ => start,
    }
}

/// In their order, those that touch each other as one.
fn merged(mut parts: Vec<Part>) -> Vec<Part> {
    parts.sort_by_key(|part| part.at.start);
    let mut merged: Vec<Part> = Vec::with_capacity(parts.len());
    for part in parts {
        match merged.last_mut() {
            Some(last) if part.at.start < last.at.end => {
                last.at.end = last.at.end.max(part.at.end);
                if part.own.is_some() && (last.own.is_none() || part.is_whole && !last.is_whole) {
                    (last.own, last.is_whole) = (part.own, part.is_whole);
                }
            }
            _ => merged.push(part),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::MaskKey;

    fn partial(text: &str, kind: Kind) -> String {
        let users = [Some(b"+15550100".as_slice()), Some(b"%2B4930901820"), Some(b"alice")];
        Numbers::of(&MaskNumbers::Partial, users).unwrap().hide(text.as_bytes(), kind).into_owned()
    }

    #[test]
    fn the_calls_own_numbers_are_hidden_wherever_they_stand() {
        for (text, shown) in [
            ("15550100", "******00"),
            ("+15550100", "+******00"),
            ("lead-15550100-7", "lead-******00-7"),
            ("1-555-0100@host", "******00@host"),
            ("%2B1%355-(50)100;x", "+******00;x"),
            ("id0015550100", "id00******00"),
            ("call 030 90 18 20", "call 0********20"),
            ("9001555010099", "900******0099"),
            ("15550100+4930901820", "******00+********20"),
            ("nothing 1555 0101", "nothing 1555 0101"),
            ("", ""),
        ] {
            assert_eq!(partial(text, Kind::Id), shown, "{text}");
        }
    }

    #[test]
    fn a_value_hides_users_of_uris_and_what_begins_with_a_plus() {
        for (text, shown) in [
            ("\"Bob\" <sip:+49891234567;phone-context=x:pw@h>;p=1", "\"Bob\" <sip:+*********67@h>;p=1"),
            ("<tel:555-0123;x=y>, <SIPS:bob@h>", "<tel:*****23;x=y>, <SIPS:*ob@h>"),
            ("sip:example.com:5060", "sip:example.com:5060"),
            ("moved +49 89 1234567.", "moved +*********67."),
            ("spring-20261126", "spring-20261126"),
            ("sip:+15550100:pw@h", "sip:+******00@h"),
        ] {
            assert_eq!(partial(text, Kind::Value), shown, "{text}");
        }
    }

    #[test]
    fn in_prose_seven_digits_in_a_row_are_a_number() {
        for (text, shown) in [
            ("Number changed to 089 1234567", "Number changed to ********67"),
            ("SIP;cause=486;text=\"192.168.100.20 busy\"", "SIP;cause=486;text=\"192.168.100.20 busy\""),
            ("Q.850;cause=17", "Q.850;cause=17"),
        ] {
            assert_eq!(partial(text, Kind::Prose), shown, "{text}");
        }
    }

    #[test]
    fn one_number_has_one_hash_in_all_texts_of_a_call() {
        let mask = MaskNumbers::Hash(MaskKey::new(b"0123456789abcdef".as_slice()));
        let users = [Some(b"15550100".as_slice()), Some(b"+1-555-0100"), None];
        let numbers = Numbers::of(&mask, users).unwrap();
        let hash = mask.masked("+15550100").into_owned();
        assert_eq!(numbers.user(b"15550100"), hash);
        assert_eq!(numbers.user(b"+1-555-0100"), hash);
        assert_eq!(numbers.hide(b"%2B15550100", Kind::Id), hash);
        assert_eq!(numbers.hide(b"lead 1 555 0100!", Kind::Id), format!("lead {hash}!"));
        assert_eq!(numbers.hide(b"<sip:15550100@h>", Kind::Value), format!("<sip:{hash}@h>"));
        let users = [Some(b"*6715550100".as_slice()), Some(b"15550100"), None];
        let numbers = Numbers::of(&mask, users).unwrap();
        assert_eq!(numbers.hide(b"15550100", Kind::Id), numbers.user(b"15550100"), "the one that it is");
    }

    #[test]
    fn a_user_that_is_a_prefix_and_a_number_hides_the_number() {
        for user in ["*6715550100", "9915550100", "trunk-2-15550100", "15550100#", "+15550100*7"] {
            let numbers = Numbers::of(&MaskNumbers::Partial, [Some(user.as_bytes()), None, None]).unwrap();
            let hidden = numbers.hide(b"lead-15550100", Kind::Id);
            assert!(hidden.starts_with("lead-*") && !hidden.contains("5550"), "{user}: {hidden}");
        }
    }

    #[test]
    fn no_text_upsets_it_and_nothing_of_a_number_stays() {
        let own = "15550100".repeat(200);
        let numbers = Numbers::of(&MaskNumbers::Partial, [Some(own.as_bytes()), None, None]).unwrap();
        let (schemes, separators) = ("sip:".repeat(20_000), "1-".repeat(20_000));
        for text in [&own, &schemes, &separators, "%", "%1", "+", "é1+é", "1%2B", "::sip:@", "tel:", "5\u{202e}5550100"]
        {
            for kind in [Kind::Id, Kind::Value, Kind::Prose] {
                assert!(!numbers.hide(text.as_bytes(), kind).contains("5550100"), "{text}");
            }
        }
        assert_eq!(numbers.hide(b"\xff15550100", Kind::Id).chars().next(), Some('\u{fffd}'));
    }
}
