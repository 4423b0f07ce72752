//! Headers that are comma-separated lists (RFC 3261 §7.3.1): their elements over all fields.

use std::ops::Range;

use super::lex::{is_lws, quoted_end, skip, trim};
use super::{Field, Name};
use crate::scan::find;

/// One element of a header that is a comma-separated list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Index of its field in the message.
    pub field: usize,
    /// The element without white space around it.
    pub range: Range<usize>,
    /// Whether it is the only one in its field.
    pub alone: bool,
    /// Whether it is the first in its field.
    pub first: bool,
}

/// Walks over the elements of one header. Empty elements are passed over; quotes and angle brackets
/// that do not close reach to the end of their field.
#[derive(Debug)]
pub(super) struct Elements<'a> {
    raw: &'a [u8],
    fields: &'a [Field],
    name: Name,
    field: usize,
    /// Where the next element of the field begins; `None` before the field has been looked at.
    at: Option<usize>,
}

impl<'a> Elements<'a> {
    pub(super) fn new(raw: &'a [u8], fields: &'a [Field], name: Name) -> Self {
        Elements { raw, fields, name, field: 0, at: None }
    }

    /// Those from one field on; earlier fields are not of this name.
    pub(super) fn from_field(raw: &'a [u8], fields: &'a [Field], name: Name, field: usize) -> Self {
        Elements { raw, fields, name, field, at: None }
    }

    /// The elements of one field alone.
    pub(super) fn of_field(raw: &'a [u8], fields: &'a [Field], field: usize) -> Self {
        let name = fields.get(field).map_or(Name::Other, |field| field.name);
        Elements { raw, fields: fields.get(..=field).unwrap_or(fields), name, field, at: None }
    }
}

impl Iterator for Elements<'_> {
    type Item = Element;

    fn next(&mut self) -> Option<Element> {
        loop {
            let field = self.fields.get(self.field)?;
            if field.name == self.name {
                let text = self.raw.get(..field.value_end as usize).unwrap_or_default();
                if self.at.is_none()
                    && let Some(element) = only_element(text, self.field, field)
                {
                    self.at = Some(text.len());
                    return Some(element);
                }
                let start = self.at.unwrap_or_else(|| next_start(text, field.value_start as usize));
                if start < text.len() {
                    let comma = element_end(text, start);
                    let next = next_start(text, comma);
                    let first = self.at.is_none();
                    self.at = Some(next);
                    let alone = first && next >= text.len();
                    return Some(Element { field: self.field, range: trim(text, start..comma), alone, first });
                }
            }
            self.field += 1;
            self.at = None;
        }
    }
}

/// The element of a field without any comma, which most are.
fn only_element(text: &[u8], index: usize, field: &Field) -> Option<Element> {
    let start = field.value_start as usize;
    let is_alone = start < text.len() && find([b','], text, start).is_none();
    is_alone.then_some(Element { field: index, range: start..text.len(), alone: true, first: true })
}

/// Where the next element that is not empty begins, at or behind `at`; the end of the text where there is none.
fn next_start(text: &[u8], at: usize) -> usize {
    skip(text, at, |byte| is_lws(byte) || byte == b',')
}

/// Offset of the comma that ends the element at `at`, or the end of the text.
fn element_end(text: &[u8], mut at: usize) -> usize {
    while let Some(hit) = find([b',', b'"', b'<'], text, at) {
        at = hit;
        let past = match text.get(at) {
            Some(b'"') => quoted_end(text, at),
            Some(b'<') => find([b'>'], text, at).map(|close| close + 1),
            _ => return at,
        };
        let Some(past) = past else { break };
        at = past;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{Limits, Message};

    #[test]
    fn list_elements_are_found_over_all_fields() {
        let lines = "Route: <sip:a,b;x>;y=\"c,\\\",d\" , <sip:c>\r\nX: 1\r\nroute:,\r\n\
            Route: \"e,f\" <sip:d>,,\r\n\t\r\nRoute: <sip:open, <sip:e\r\n";
        let text = format!(
            "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h\r\nFrom: <sip:f@b>\r\nTo: <sip:t@b>\r\nCall-ID: c\r\n\
             CSeq: 1 OPTIONS\r\n{lines}\r\n"
        );
        let message = Message::parse(text.into(), &Limits::standard(1_000)).unwrap();
        let elements: Vec<_> = message.elements(Name::Route).collect();
        let text = |element: &Element| String::from_utf8_lossy(message.bytes(element.range.clone())).into_owned();
        let expected = ["<sip:a,b;x>;y=\"c,\\\",d\"", "<sip:c>", "\"e,f\" <sip:d>", "<sip:open, <sip:e"];
        assert_eq!(elements.iter().map(text).collect::<Vec<_>>(), expected);
        let places: Vec<_> = elements.iter().map(|element| (element.field, element.alone, element.first)).collect();
        assert_eq!(places, [(5, false, true), (5, false, false), (8, true, true), (9, true, true)]);
    }
}
