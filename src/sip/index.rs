//! The index over one message: ranges, and typed access to what was read with them (RFC 3261 §7).

use std::ops::Range;

use bytes::Bytes;

use super::list::Elements;
use super::uri::UriParts;
use super::{Element, HeaderName, Limits, Method, Name, Rejected, Uri, Via, parse};

/// The start line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    Request { method: Method, method_text: Range<usize>, uri: Range<usize> },
    Response { code: u16, phrase: Range<usize> },
}

/// One header field: ranges into the message. Fields tile the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: Name,
    /// Offset of the first byte of the name.
    pub start: u32,
    /// Length of the name as it stands, in bytes.
    pub name_len: u16,
    /// The value without the white space around it; folds inside it stay.
    pub value_start: u32,
    pub value_end: u32,
    /// One past the CRLF that ends the field, folds included.
    pub end: u32,
}

/// CSeq (RFC 3261 §20.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CSeq {
    pub number: u32,
    pub method: Method,
}

/// What every message must have (RFC 3261 §8.1.1), read once when the message is parsed.
#[derive(Clone, Debug)]
pub struct Essentials {
    pub via: Via,
    pub call_id: Range<usize>,
    pub from_tag: Option<Range<usize>>,
    pub to_tag: Option<Range<usize>>,
    pub cseq: CSeq,
    /// The method's bytes in CSeq.
    pub cseq_method: Range<usize>,
}

/// A message: its bytes and where everything is in them.
#[derive(Clone, Debug)]
pub struct Message {
    pub(super) raw: Bytes,
    pub(super) start: Start,
    pub(super) fields: Fields,
    pub(super) firsts: Firsts,
    /// Offset of the first byte of the body.
    pub(super) body: usize,
    pub(super) uri_parts: Option<UriParts>,
    pub(super) essentials: Essentials,
}

/// The fields of a message: in place while there are no more of them than nearly all messages have.
#[derive(Clone, Debug)]
pub(super) struct Fields {
    few: [Field; FEW],
    count: usize,
    /// All of them, once there are more.
    many: Vec<Field>,
}

const FEW: usize = 24;

impl Start {
    const UNREAD: Start = Start::Response { code: 0, phrase: 0..0 };
}

impl Essentials {
    fn none() -> Essentials {
        let cseq = CSeq { number: 0, method: Method::Other };
        Essentials { via: Via::default(), call_id: 0..0, from_tag: None, to_tag: None, cseq, cseq_method: 0..0 }
    }
}

impl Fields {
    fn new() -> Fields {
        const NONE: Field = Field { name: Name::Via, start: 0, name_len: 0, value_start: 0, value_end: 0, end: 0 };
        Fields { few: [NONE; FEW], count: 0, many: Vec::new() }
    }

    #[inline]
    pub(super) fn count(&self) -> usize {
        self.count
    }

    fn clear(&mut self) {
        self.count = 0;
        self.many.clear();
    }

    #[inline]
    pub(super) fn push(&mut self, field: Field) {
        match self.few.get_mut(self.count) {
            Some(place) => *place = field,
            None => {
                if self.many.is_empty() {
                    self.many.extend_from_slice(&self.few);
                }
                self.many.push(field);
            }
        }
        self.count += 1;
    }
}

impl std::ops::Deref for Fields {
    type Target = [Field];

    #[inline]
    fn deref(&self) -> &[Field] {
        self.few.get(..self.count).unwrap_or(&self.many)
    }
}

/// The place of the first field of each header that we read: one more than its index, or 0 where there is none; beyond
/// the reach of a byte it has to be looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Firsts {
    places: [u8; Name::COUNT],
    /// A bit for each header of which there is more than one field.
    repeated: u32,
    /// Of the other headers: a bit for each name, see `bit_of`.
    others: u64,
}

impl Firsts {
    pub(super) fn new() -> Firsts {
        const { assert!(Name::COUNT <= u32::BITS as usize) };
        Firsts { places: [0; Name::COUNT], repeated: 0, others: 0 }
    }

    /// Notes a field; true where it is the first of its name.
    #[inline]
    pub(super) fn note(&mut self, name: Name, index: usize) -> bool {
        match self.places.get_mut(name.index()) {
            Some(place) if *place == 0 => {
                *place = u8::try_from(index + 1).unwrap_or(u8::MAX);
                true
            }
            _ => {
                self.repeated |= 1 << name.index();
                false
            }
        }
    }

    /// Notes a field of another name than those that we read.
    #[inline]
    pub(super) fn note_other(&mut self, name: &[u8]) {
        self.others |= bit_of(name);
    }

    /// Where the fields of a name are, and others among them where there are several.
    #[inline]
    fn range(&self, name: Name, fields: &[Field]) -> Range<usize> {
        match self.of(name, fields) {
            None => 0..0,
            Some(first) if self.repeated & (1 << name.index()) == 0 => first..first + 1,
            Some(first) => first..fields.len(),
        }
    }

    /// The index of the first field of a name.
    pub(super) fn of(&self, name: Name, fields: &[Field]) -> Option<usize> {
        match self.places.get(name.index()).copied()? {
            0 => None,
            u8::MAX => fields.iter().position(|field| field.name == name),
            place => Some(usize::from(place) - 1),
        }
    }
}

/// One of 64 bits by length and first letter, in any case: two names seldom have the same.
pub(super) const fn bit_of(name: &[u8]) -> u64 {
    let first = match name {
        [first, ..] => first.to_ascii_lowercase() as usize,
        [] => 0,
    };
    1 << ((name.len() * 4 + first) % 64)
}

impl Message {
    /// Indexes one whole message (a datagram, or a frame of a stream).
    ///
    /// Takes what RFC 4475 calls valid. Refuses bare CR, bare LF and NUL in the head (but a NUL escaped in a quoted
    /// string), a missing or repeated essential header, differing method in CSeq, a Content-Length that is not a
    /// number, is repeated or exceeds the bytes that are there. Line ends before the start line and bytes beyond
    /// Content-Length are cut off (RFC 3261 §7.5, §18.3).
    pub fn parse(raw: Bytes, limits: &Limits) -> Result<Message, Box<Rejected>> {
        let mut message = Message::default();
        message.read(raw, limits).map(|()| message)
    }

    /// [`Message::parse`] in the place of another message: one is large to be moved.
    pub fn read(&mut self, raw: Bytes, limits: &Limits) -> Result<(), Box<Rejected>> {
        parse::parse(self, raw, limits)
    }

    /// Lets go of the bytes. What is left is of use only to be read again.
    pub fn release(&mut self) {
        self.raw = Bytes::new();
    }

    /// Makes it one that is still to be read.
    pub(super) fn begin(&mut self, raw: Bytes) {
        (self.raw, self.start, self.body) = (raw, Start::UNREAD, 0);
        self.fields.clear();
        (self.firsts, self.uri_parts, self.essentials) = (Firsts::new(), None, Essentials::none());
    }

    /// The whole message as it arrived, from the start line to the last byte of the body.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    pub fn start(&self) -> &Start {
        &self.start
    }

    pub fn is_request(&self) -> bool {
        matches!(self.start, Start::Request { .. })
    }

    /// The request's method; of a response, the method in CSeq.
    pub fn method(&self) -> Method {
        self.essentials.cseq.method
    }

    /// Status code; 0 for a request.
    pub fn code(&self) -> u16 {
        match self.start {
            Start::Response { code, .. } => code,
            Start::Request { .. } => 0,
        }
    }

    /// The Request-URI as it was read; `None` for one of another scheme than SIP's, and for a response.
    pub fn sip_uri(&self) -> Option<Uri<'_>> {
        let parts = self.uri_parts.as_ref()?;
        Some(Uri::of_parts(self.uri(), parts))
    }

    /// The Request-URI; empty for a response.
    pub fn uri(&self) -> &[u8] {
        match &self.start {
            Start::Request { uri, .. } => self.bytes(uri.clone()),
            Start::Response { .. } => &[],
        }
    }

    /// The reason phrase; empty for a request.
    pub fn phrase(&self) -> &[u8] {
        match &self.start {
            Start::Response { phrase, .. } => self.bytes(phrase.clone()),
            Start::Request { .. } => &[],
        }
    }

    pub fn essentials(&self) -> &Essentials {
        &self.essentials
    }

    pub fn call_id(&self) -> &[u8] {
        self.bytes(self.essentials.call_id.clone())
    }

    pub fn from_tag(&self) -> Option<&[u8]> {
        self.essentials.from_tag.clone().map(|tag| self.bytes(tag))
    }

    pub fn to_tag(&self) -> Option<&[u8]> {
        self.essentials.to_tag.clone().map(|tag| self.bytes(tag))
    }

    pub fn cseq(&self) -> CSeq {
        self.essentials.cseq
    }

    /// The topmost Via element.
    pub fn via(&self) -> &Via {
        &self.essentials.via
    }

    pub fn has_more_than_one_via(&self) -> bool {
        !self.essentials.via.element.alone || self.all(Name::Via).nth(1).is_some()
    }

    pub fn body(&self) -> &[u8] {
        self.raw.get(self.body..).unwrap_or_default()
    }

    /// Offset of the empty line that ends the head: where header fields are appended.
    pub fn head_end(&self) -> usize {
        self.body.saturating_sub(2)
    }

    /// Offset of the first header field: where header fields are put in front.
    pub fn head_start(&self) -> usize {
        self.fields.first().map_or(self.head_end(), |field| field.start as usize)
    }

    /// Bytes of a range; empty where the range lies outside (it never does for ranges of this message).
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.raw.get(range).unwrap_or_default()
    }

    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The fields of one header, in order.
    pub fn all(&self, name: Name) -> impl Iterator<Item = &Field> + '_ {
        let fields = self.fields.get(self.firsts.range(name, &self.fields)).unwrap_or_default();
        fields.iter().filter(move |field| field.name == name)
    }

    pub fn first(&self, name: Name) -> Option<&Field> {
        self.fields.get(self.firsts.of(name, &self.fields)?)
    }

    /// The fields of a header by any name, letter case ignored; a header that has a compact form is found by both.
    pub fn named<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a Field> + 'a {
        let fields = if self.may_have(name) { self.fields() } else { &[] };
        fields.iter().filter(move |field| self.is_named(field, name))
    }

    /// Whether it has to be looked for: false where no field has this name, nearly always.
    pub fn may_have(&self, name: &HeaderName) -> bool {
        match name.known() {
            Name::Other => self.firsts.others & name.bits() != 0,
            known => self.firsts.of(known, &self.fields).is_some(),
        }
    }

    pub fn is_named(&self, field: &Field, name: &HeaderName) -> bool {
        name.is(field.name, self.name(field))
    }

    /// A field's name as it stands.
    pub fn name(&self, field: &Field) -> &[u8] {
        self.bytes(field.start as usize..field.start as usize + usize::from(field.name_len))
    }

    /// A field's value without the white space around it.
    pub fn value(&self, field: &Field) -> &[u8] {
        self.bytes(field.value_start as usize..field.value_end as usize)
    }

    /// The comma-separated elements of all fields of a header, quotes and angle brackets respected.
    pub fn elements(&self, name: Name) -> impl Iterator<Item = Element> + '_ {
        let range = self.firsts.range(name, &self.fields);
        let fields = self.fields.get(..range.end).unwrap_or_default();
        Elements::from_field(&self.raw, fields, name, range.start)
    }
}

impl Default for Message {
    /// One that is still to be read.
    fn default() -> Message {
        let (fields, firsts, essentials) = (Fields::new(), Firsts::new(), Essentials::none());
        Message { raw: Bytes::new(), start: Start::UNREAD, fields, firsts, body: 0, uri_parts: None, essentials }
    }
}
