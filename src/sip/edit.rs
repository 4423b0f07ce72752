//! Edits on the original bytes: recorded as offsets, applied once.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::list::Elements;
use super::{Element, Field, Message, Name, Start};

/// Changes to one message, in any order; those at one offset stay in the order they were recorded.
/// Removed ranges do not overlap. Reused: `clear` keeps the buffers.
#[derive(Debug, Default)]
pub struct Edits {
    edits: Vec<Edit>,
    /// What is put in, one text after the other.
    text: Vec<u8>,
}

/// The bytes of `removed` give way to a piece of the text; an insertion removes nothing.
#[derive(Clone, Debug)]
struct Edit {
    removed: Range<usize>,
    text: Range<usize>,
}

impl Edits {
    pub fn clear(&mut self) {
        self.edits.clear();
        self.text.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// Puts `text` before the byte at `at`.
    pub fn insert(&mut self, at: usize, text: &[u8]) {
        self.replace(at..at, text);
    }

    pub fn replace(&mut self, range: Range<usize>, text: &[u8]) {
        let start = self.text.len();
        self.text.extend_from_slice(text);
        self.record(range, start);
    }

    /// Puts the text that `write` appends before the byte at `at`.
    pub fn insert_with(&mut self, at: usize, write: impl FnOnce(&mut Vec<u8>)) {
        self.replace_with(at..at, write);
    }

    /// Puts the text that `write` appends in the place of a range.
    pub fn replace_with(&mut self, range: Range<usize>, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.text.len();
        write(&mut self.text);
        self.record(range, start);
    }

    pub fn remove(&mut self, range: Range<usize>) {
        let start = self.text.len();
        self.record(range, start);
    }

    /// Removes a whole field, its line end included.
    pub fn remove_field(&mut self, field: &Field) {
        self.remove(field.start as usize..field.end as usize);
    }

    /// Removes one element of a list: with the whole field where it is alone, else with the comma
    /// that parts it from its neighbour and the white space around that comma. Elements of one field may be
    /// removed together only through [`Edits::remove_first_elements`].
    pub fn remove_element(&mut self, message: &Message, element: &Element) {
        let Some(field) = message.fields().get(element.field) else { return };
        if element.alone {
            return self.remove_field(field);
        }
        let mut before = None;
        for other in Elements::of_field(message.raw(), message.fields(), element.field) {
            if other.range.start > element.range.start {
                if before.is_none() {
                    return self.remove(field.value_start as usize..other.range.start);
                }
                break;
            }
            if other.range.start < element.range.start {
                before = Some(other.range.end);
            }
        }
        self.remove(before.unwrap_or(element.range.start)..element.range.end);
    }

    /// Removes the first `count` elements of a header (topmost Routes, Vias), over as many fields as they take.
    pub fn remove_first_elements(&mut self, message: &Message, name: Name, count: usize) {
        // Nearly always it is one that is alone in its field.
        if count == 1
            && let Some(element) = message.elements(name).next().filter(|element| element.alone)
            && let Some(field) = message.fields().get(element.field)
        {
            return self.remove_field(field);
        }
        let mut begun: Option<&Field> = None;
        for element in message.elements(name).take(count) {
            let Some(field) = message.fields().get(element.field) else { return };
            if let Some(full) = begun.filter(|_| element.first) {
                self.remove_field(full);
            }
            begun = Some(field);
        }
        // The last field that lost an element keeps those that follow.
        let Some(field) = begun else { return };
        match message.elements(name).nth(count) {
            Some(next) if !next.first => self.remove(field.value_start as usize..next.range.start),
            _ => self.remove_field(field),
        }
    }

    /// Puts another reason phrase into a status line, with the space before it where the line ends
    /// behind its code. A request stays as it is.
    pub fn replace_phrase(&mut self, message: &Message, phrase: &str) {
        let Start::Response { phrase: range, .. } = message.start() else { return };
        let space: &[u8] = if message.bytes(0..range.start).ends_with(b" ") { b"" } else { b" " };
        self.replace_with(range.clone(), |out| {
            out.extend_from_slice(space);
            out.extend_from_slice(phrase.as_bytes());
        });
    }

    /// Applies all edits: the edited message is appended to `out` and split off it.
    pub fn apply(&mut self, message: &Message, out: &mut BytesMut) -> Bytes {
        let raw = message.raw();
        // Texts are in the order of recording: they part edits at one offset.
        let place = |edit: &Edit| (edit.removed.start, edit.text.start, edit.text.end);
        if !self.edits.is_sorted_by_key(place) {
            self.edits.sort_unstable_by_key(place);
        }
        let start = out.len();
        out.reserve(raw.len() + self.text.len());
        let mut copied = 0;
        for edit in &self.edits {
            out.extend_from_slice(raw.get(copied..edit.removed.start).unwrap_or_default());
            out.extend_from_slice(self.text.get(edit.text.clone()).unwrap_or_default());
            copied = copied.max(edit.removed.end);
        }
        out.extend_from_slice(raw.get(copied..).unwrap_or_default());
        if start == 0 { out.split().freeze() } else { out.split_off(start).freeze() }
    }

    fn record(&mut self, removed: Range<usize>, text_start: usize) {
        self.edits.push(Edit { removed, text: text_start..self.text.len() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::Limits;

    /// A message with these header lines in front of the mandatory ones.
    fn message(lines: &str) -> Message {
        let text = format!(
            "OPTIONS sip:a@b SIP/2.0\r\n{lines}Via: SIP/2.0/UDP last;branch=z9hG4bK9\r\nFrom: <sip:f@b>;tag=1\r\nTo: <sip:t@b>\r\n\
             Call-ID: c\r\nCSeq: 1 OPTIONS\r\n\r\nbody"
        );
        Message::parse(text.into(), &Limits::standard(65_535)).unwrap()
    }

    /// The header lines in front of the mandatory ones after the edits.
    fn applied(message: &Message, edits: &mut Edits) -> String {
        let edited = String::from_utf8(edits.apply(message, &mut BytesMut::new()).to_vec()).unwrap();
        let lines = edited.strip_prefix("OPTIONS sip:a@b SIP/2.0\r\n").unwrap();
        let (lines, rest) = lines.split_at(lines.find("From: ").unwrap());
        assert_eq!(rest, "From: <sip:f@b>;tag=1\r\nTo: <sip:t@b>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n\r\nbody");
        lines.strip_suffix("Via: SIP/2.0/UDP last;branch=z9hG4bK9\r\n").unwrap_or(lines).to_owned()
    }

    fn without_first(lines: &str, name: Name, count: usize) -> String {
        let message = message(lines);
        let mut edits = Edits::default();
        edits.remove_first_elements(&message, name, count);
        applied(&message, &mut edits)
    }

    fn without(lines: &str, name: Name, index: usize) -> String {
        let message = message(lines);
        let mut edits = Edits::default();
        edits.remove_element(&message, &message.elements(name).nth(index).unwrap());
        applied(&message, &mut edits)
    }

    #[test]
    fn edits_may_be_recorded_in_any_order() {
        let message = message("");
        let mut edits = Edits::default();
        edits.insert(message.head_end(), b"C: 3\r\n");
        edits.insert(message.head_start(), b"A: 1\r\n");
        edits.replace(0..7, b"INFO");
        edits.insert_with(message.head_start(), |out| out.extend_from_slice(b"B: 2\r\n"));
        let edited = edits.apply(&message, &mut BytesMut::new());
        assert!(edited.starts_with(b"INFO sip:a@b SIP/2.0\r\nA: 1\r\nB: 2\r\nVia: "));
        assert!(edited.ends_with(b"CSeq: 1 OPTIONS\r\nC: 3\r\n\r\nbody"));
        assert_eq!(edited.len(), message.raw().len() + 18 - 3);
    }

    #[test]
    fn many_edits_at_one_offset_stay_in_order() {
        let message = message("");
        let mut edits = Edits::default();
        let mut expected = String::from("OPTIONS sip:a@b SIP/2.0\r\n");
        for number in 0..200 {
            edits.insert(message.head_start(), format!("X: {number}\r\n").as_bytes());
            edits.insert(number % 7, b"");
            expected.push_str(&format!("X: {number}\r\n"));
        }
        assert!(edits.apply(&message, &mut BytesMut::new()).starts_with(expected.as_bytes()));
    }

    #[test]
    fn without_edits_the_message_is_the_same() {
        let message = message("X: 1\r\n 2\r\n");
        assert_eq!(Edits::default().apply(&message, &mut BytesMut::new()), message.raw());
    }

    #[test]
    fn the_first_element_goes_with_the_comma_behind_it() {
        assert_eq!(without_first("Route: <sip:a,b>, <sip:c>\r\n", Name::Route, 1), "Route: <sip:c>\r\n");
        assert_eq!(without("Route: <sip:a,b>, <sip:c>\r\n", Name::Route, 0), "Route: <sip:c>\r\n");
        let folded = "v: SIP/2.0/UDP a ,\r\n  SIP/2.0/UDP b\r\n";
        assert_eq!(without_first(folded, Name::Via, 1), "v: SIP/2.0/UDP b\r\n");
        assert_eq!(without_first("Route:\r\n <sip:a>\t,<sip:b>\r\n", Name::Route, 1), "Route:\r\n <sip:b>\r\n");
    }

    #[test]
    fn a_later_element_goes_with_the_comma_before_it() {
        let routes = "Route: <sip:a> , <sip:b>,<sip:c> \r\n";
        assert_eq!(without(routes, Name::Route, 1), "Route: <sip:a>,<sip:c> \r\n");
        assert_eq!(without(routes, Name::Route, 2), "Route: <sip:a> , <sip:b> \r\n");
    }

    #[test]
    fn an_element_that_is_alone_takes_its_field_along() {
        assert_eq!(without("Route: <sip:a>\r\n ;x\r\nX: 1\r\n", Name::Route, 0), "X: 1\r\n");
        assert_eq!(without("Route: <sip:a>,,\r\nX: 1\r\n", Name::Route, 0), "X: 1\r\n");
    }

    #[test]
    fn first_elements_are_removed_over_several_fields() {
        let routes = "Route: <sip:a>\r\nX: 1\r\nRoute: <sip:b>, <sip:c>\r\nRoute: <sip:d>\r\n";
        assert_eq!(without_first(routes, Name::Route, 0), routes);
        assert_eq!(without_first(routes, Name::Route, 2), "X: 1\r\nRoute: <sip:c>\r\nRoute: <sip:d>\r\n");
        assert_eq!(without_first(routes, Name::Route, 3), "X: 1\r\nRoute: <sip:d>\r\n");
        assert_eq!(without_first(routes, Name::Route, 9), "X: 1\r\n");
    }

    #[test]
    fn a_phrase_stays_apart_from_its_code() {
        for line in ["486 Busy Here", "486 ", "486"] {
            let text = format!(
                "SIP/2.0 {line}\r\nVia: SIP/2.0/UDP h\r\nFrom: <sip:f@b>\r\nTo: <sip:t@b>\r\nCall-ID: c\r\n\
                 CSeq: 1 INVITE\r\n\r\n"
            );
            let message = Message::parse(text.into(), &Limits::standard(1_000)).unwrap();
            let mut edits = Edits::default();
            edits.replace_phrase(&message, "NumberBusy");
            let edited = edits.apply(&message, &mut BytesMut::new());
            assert!(edited.starts_with(b"SIP/2.0 486 NumberBusy\r\nVia: "), "{line}");
        }
    }

    #[test]
    fn a_used_buffer_keeps_what_it_held() {
        let message = message("");
        let mut out = BytesMut::from(&b"before"[..]);
        let mut edits = Edits::default();
        edits.insert(0, b"");
        assert_eq!(edits.apply(&message, &mut out), message.raw());
        assert_eq!(&out[..], b"before");
    }

    #[test]
    fn cleared_edits_are_empty_and_keep_their_buffers() {
        let mut edits = Edits::default();
        edits.insert(0, b"text");
        assert!(!edits.is_empty());
        let capacity = (edits.edits.capacity(), edits.text.capacity());
        edits.clear();
        assert!(edits.is_empty());
        assert_eq!((edits.edits.capacity(), edits.text.capacity()), capacity);
    }
}
