//! Messages out of a stream: framing by Content-Length (RFC 3261 §18.3) and keep-alives (RFC 5626 §3.5.1).

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

use super::lex::{skip, token_end};
use super::parse::{body_length, field_at};
use super::reject::{Fault, RejectReason, Rejected, reject};
use super::{Limits, Name};
use crate::scan::is_of_token;

/// A ping of RFC 5626 §4.4.1; half of it is the line end that may precede a message.
const DOUBLE_CRLF: &[u8] = b"\r\n\r\n";

/// One thing that a stream brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A whole message, for [`super::Message::parse`].
    Message(Bytes),
    /// A double CRLF before a start line: to be answered with a single CRLF. Single CRLFs are skipped silently.
    Ping,
}

/// The stream cannot be read any further: where the next message begins is not known. The connection closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameError {
    pub reason: RejectReason,
    pub detail: &'static str,
    /// The head as far as it was read, in whole lines, so that a 400 or 513 can be made of it before closing.
    pub head: Bytes,
}

/// Cuts a stream into messages. Bytes are appended to `buffer` by the reader.
#[derive(Debug)]
pub struct Framer {
    pub buffer: BytesMut,
    limits: Limits,
    /// How far the buffer has been searched for the end of the head: no byte is looked at twice.
    searched: usize,
    /// Where the line begins that is being searched.
    line: usize,
    /// Where the header field begins that this line belongs to; 0 in the start line.
    field: usize,
    /// Where the Content-Length field begins.
    length_field: Option<usize>,
    /// Length of the message whose head has been read.
    whole: Option<usize>,
}

impl FrameError {
    /// The same as a message that was not taken, with what it needs to be answered.
    pub fn into_rejected(self) -> Rejected {
        reject(self.head, Fault::new(self.reason, self.detail))
    }
}

impl Framer {
    pub fn new(limits: Limits) -> Framer {
        Framer { buffer: BytesMut::new(), limits, searched: 0, line: 0, field: 0, length_field: None, whole: None }
    }

    /// The next frame, or `None` until more bytes are there.
    ///
    /// A message without Content-Length, which only the end of the connection would end, is an error
    /// (RFC 3261 §20.14).
    #[expect(clippy::should_implement_trait, reason = "an iterator's `None` is its end; here more may come")]
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        // Between two messages.
        while self.searched == 0 {
            if self.buffer.starts_with(DOUBLE_CRLF) {
                self.buffer.advance(DOUBLE_CRLF.len());
                return Ok(Some(Frame::Ping));
            }
            if DOUBLE_CRLF.starts_with(&self.buffer) {
                return Ok(None);
            }
            if !self.buffer.starts_with(b"\r\n") {
                break;
            }
            self.buffer.advance(2);
        }
        self.read_head().map_err(|fault| self.error(fault))?;
        match self.whole {
            Some(whole) if whole <= self.buffer.len() => {
                (self.searched, self.line, self.field, self.length_field, self.whole) = (0, 0, 0, None, None);
                Ok(Some(Frame::Message(self.buffer.split_to(whole).freeze())))
            }
            _ => Ok(None),
        }
    }

    /// Reads on to the end of the head and what it says about the body.
    fn read_head(&mut self) -> Result<(), Fault> {
        if self.whole.is_some() {
            return Ok(());
        }
        if !self.buffer.first().is_some_and(|byte| is_of_token(*byte)) {
            return Err(Fault::malformed("no start line where a message should begin"));
        }
        let end = self.buffer.len().min(self.limits.message_bytes);
        while let Some(hit) = memchr(b'\n', self.buffer.get(self.searched..end).unwrap_or_default()) {
            let lf = self.searched + hit;
            self.check_field(lf + 1)?;
            if lf.checked_sub(1).and_then(|cr| self.buffer.get(cr)) != Some(&b'\r') {
                return Err(Fault::malformed("LF without CR in the head"));
            }
            let line = self.line..lf - 1;
            if line.is_empty() {
                self.whole = Some(self.message_length(lf + 1)?);
                return Ok(());
            }
            self.take_line(line)?;
            self.searched = lf + 1;
            self.line = lf + 1;
        }
        self.searched = end;
        self.check_field(end)?;
        if end == self.limits.message_bytes { Err(Fault::too_large("message too long")) } else { Ok(()) }
    }

    /// Refuses a header field that is too long before all of it has come, this line being there up to `end`.
    fn check_field(&mut self, end: usize) -> Result<(), Fault> {
        let is_continued = matches!(self.buffer.get(self.line), None | Some(b' ' | b'\t'));
        if !is_continued {
            self.field = self.line;
        }
        match self.field > 0 && end.saturating_sub(self.field) > self.limits.field_bytes {
            true => Err(Fault::too_large("header field too long")),
            false => Ok(()),
        }
    }

    /// Notes where Content-Length is. A line in which somebody else may see another one ends the stream.
    fn take_line(&mut self, line: Range<usize>) -> Result<(), Fault> {
        let text = self.buffer.get(line.clone()).unwrap_or_default();
        if memchr(b'\r', text).is_some() {
            return Err(Fault::malformed("CR without LF in the head"));
        }
        // In a quoted string it may stand.
        if memchr(0, text).is_some() && memchr(b'"', text).is_none() {
            return Err(Fault::malformed("NUL in the head"));
        }
        if line.start == 0 {
            return if is_of_sip(text) { Ok(()) } else { Err(Fault::malformed("a start line that is not SIP's")) };
        }
        let is_fold = matches!(text.first(), Some(b' ' | b'\t'));
        if is_fold {
            let is_of_start_line = self.field == 0;
            return if is_of_start_line { Err(Fault::malformed("a fold with nothing to continue")) } else { Ok(()) };
        }
        let name_end = token_end(text, 0);
        let colon = skip(text, name_end, |byte| matches!(byte, b' ' | b'\t'));
        if name_end == 0 || text.get(colon) != Some(&b':') {
            return Err(Fault::malformed("a line of the head that is no header field"));
        }
        let name = text.get(..name_end).unwrap_or_default();
        if Name::from_bytes(name) != Name::ContentLength {
            return Ok(());
        }
        match self.length_field.replace(line.start) {
            None => Ok(()),
            Some(_) => Err(Fault::bad_length("Content-Length is repeated")),
        }
    }

    fn message_length(&self, head: usize) -> Result<usize, Fault> {
        let at = self.length_field.ok_or(Fault::bad_length("no Content-Length on a stream"))?;
        let text = self.buffer.get(..head).unwrap_or_default();
        let field = field_at(text, at)?.ok_or(Fault::bad_length("Content-Length cannot be read"))?;
        let body = usize::try_from(body_length(text, &field)?).unwrap_or(usize::MAX);
        let whole = head.saturating_add(body);
        if whole > self.limits.message_bytes { Err(Fault::too_large("message too long")) } else { Ok(whole) }
    }

    fn error(&self, fault: Fault) -> FrameError {
        // A field is whole where the line behind it is known not to continue it.
        let is_open = matches!(self.buffer.get(self.line), None | Some(b' ' | b'\t'));
        let head = self.buffer.get(..if is_open { self.field } else { self.line }).unwrap_or_default();
        FrameError { reason: fault.reason, detail: fault.detail, head: Bytes::copy_from_slice(head) }
    }
}

/// Whether a start line names SIP, at its end or its beginning, in whatever version.
fn is_of_sip(line: &[u8]) -> bool {
    let version = line.trim_ascii_end().rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    [version, line].iter().any(|text| text.get(..4).is_some_and(|name| name.eq_ignore_ascii_case(b"SIP/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: &str = "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK1\r\nFrom: <sip:f@b>;tag=1\r\n\
        To: <sip:t@b>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n";

    fn framer(bytes: &[u8]) -> Framer {
        let mut framer = Framer::new(Limits { field_bytes: 800, ..Limits::standard(1_000) });
        framer.buffer.extend_from_slice(bytes);
        framer
    }

    fn frames(bytes: &[u8]) -> Vec<Result<Frame, FrameError>> {
        let mut framer = framer(bytes);
        let mut frames = Vec::new();
        loop {
            match framer.next() {
                Ok(None) => return frames,
                Ok(Some(frame)) => frames.push(Ok(frame)),
                Err(error) => {
                    frames.push(Err(error));
                    return frames;
                }
            }
        }
    }

    fn fault(bytes: &[u8]) -> (RejectReason, &'static str, usize) {
        match &frames(bytes)[..] {
            [Err(error)] => (error.reason, error.detail, error.head.len()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_that_follow_each_other_are_parted() {
        let first = format!("{OPTIONS}Content-Length: 4\r\n\r\nbody");
        let second = format!("{OPTIONS}l\t:\r\n 0\r\n\r\n");
        let expected = [Ok(Frame::Message(first.clone().into())), Ok(Frame::Message(second.clone().into()))];
        assert_eq!(frames(format!("{first}{second}").as_bytes()), expected);
        assert_eq!(frames(format!("{first}\r\n{second}OPTI").as_bytes()), expected);
    }

    #[test]
    fn a_method_is_no_header() {
        let message = format!("{OPTIONS}Content-Length: 0\r\n\r\n").replace("OPTIONS", "l");
        assert_eq!(frames(message.as_bytes()), [Ok(Frame::Message(message.clone().into()))]);
    }

    #[test]
    fn a_message_is_waited_for_byte_by_byte() {
        let whole = format!("\r\n{OPTIONS}Content-Length: 4\r\n\r\nbody");
        let mut framer = framer(b"");
        for byte in whole.as_bytes() {
            assert_eq!(framer.next(), Ok(None));
            framer.buffer.extend_from_slice(&[*byte]);
        }
        assert_eq!(framer.next(), Ok(Some(Frame::Message(Bytes::copy_from_slice(&whole.as_bytes()[2..])))));
        assert_eq!(framer.next(), Ok(None));
        assert!(framer.buffer.is_empty());
    }

    #[test]
    fn a_double_crlf_is_a_ping_and_a_single_one_nothing() {
        assert_eq!(frames(b"\r\n\r\n\r\n\r\n\r\n"), [Ok(Frame::Ping), Ok(Frame::Ping)]);
        assert_eq!(frames(b"\r\n\r"), []);
        let message = format!("{OPTIONS}Content-Length: 0\r\n\r\n");
        let expected = [Ok(Frame::Ping), Ok(Frame::Message(message.clone().into()))];
        assert_eq!(frames(format!("\r\n\r\n\r\n{message}").as_bytes()), expected);
    }

    #[test]
    fn what_cannot_be_framed_ends_the_stream() {
        let bad = |lines: &str| fault(format!("{OPTIONS}{lines}\r\n").as_bytes());
        let head = OPTIONS.len();
        assert_eq!(bad(""), (RejectReason::BadLength, "no Content-Length on a stream", head));
        assert_eq!(bad("l: 5\r\nContent-length: 5\r\n").0, RejectReason::BadLength);
        assert_eq!(bad("Content-Length: -1\r\n").0, RejectReason::BadLength);
        assert_eq!(bad("Content-Length: 5 5\r\n").0, RejectReason::BadLength);
        assert_eq!(bad("Content-Length 5\r\n").0, RejectReason::Malformed);
        assert_eq!(bad("X: 1\nContent-Length: 5\r\n"), (RejectReason::Malformed, "LF without CR in the head", head));
        for line in ["X: a\rl: 5\r\n", "X\0: 1\r\n", "X y: 1\r\n", "x\r\n", ": 1\r\n", "OPTIONS sip:a@b SIP/2.0\r\n"] {
            assert_eq!(bad(&format!("{line}Content-Length: 0\r\n")).0, RejectReason::Malformed, "{line:?}");
        }
        assert_eq!(bad("X: a\0\r\nContent-Length: 0\r\n").0, RejectReason::Malformed);
        assert!(frames(format!("{OPTIONS}X: \"\\\0\"\r\nl: 0\r\n\r\n").as_bytes())[0].is_ok());
        assert_eq!(fault(b"OPTIONS sip:a@b SIP/2.0\r\n l: 0\r\n\r\n").0, RejectReason::Malformed);
        assert_eq!(fault(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n").0, RejectReason::Malformed);
        assert_eq!(fault(b" OPTIONS").0, RejectReason::Malformed);
        assert_eq!(fault(b"\x16\x03\x01").0, RejectReason::Malformed);
        assert_eq!(fault(b"\rOPTIONS").0, RejectReason::Malformed);
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_has_come() {
        let (reason, _, head) = fault(format!("{OPTIONS}Content-Length: 900\r\n\r\n").as_bytes());
        assert_eq!((reason, head), (RejectReason::TooLarge, OPTIONS.len() + 21));
        let huge = format!("{OPTIONS}Content-Length: 99999999999999999999999\r\n\r\n");
        assert_eq!(fault(huge.as_bytes()).0, RejectReason::TooLarge);
        assert_eq!(fault(format!("{OPTIONS}X: {}", "x".repeat(1_000)).as_bytes()).0, RejectReason::TooLarge);
        let body = 1_000 - OPTIONS.len() - 23;
        let largest = format!("{OPTIONS}Content-Length: {body}\r\n\r\n{}", "x".repeat(body));
        assert_eq!(frames(largest.as_bytes()), [Ok(Frame::Message(largest.clone().into()))]);
    }

    #[test]
    fn a_header_field_that_is_too_long_is_refused_before_it_has_come() {
        let folded = format!("X: 1{}", "\r\n 2".repeat(200));
        for field in [format!("X: {}", "x".repeat(798)), folded] {
            let (reason, detail, end) = fault(format!("{OPTIONS}{}", &field[..801]).as_bytes());
            assert_eq!((reason, detail), (RejectReason::TooLarge, "header field too long"));
            assert_eq!(end, OPTIONS.len());
            assert_eq!(frames(format!("{OPTIONS}{}", &field[..800]).as_bytes()), []);
        }
        let start = OPTIONS.replace("sip:a@b", &format!("sip:{}@b", "a".repeat(810)));
        assert_eq!(frames(&start.as_bytes()[..900]), []);
    }

    #[test]
    fn a_broken_frame_can_be_answered() {
        let Err(error) = framer(format!("{OPTIONS}\r\n").as_bytes()).next() else { panic!("no error") };
        let rejected = error.into_rejected();
        assert_eq!(rejected.code, 400);
        assert_eq!(rejected.answerable.map(|answerable| answerable.lines.len()), Some(5));
    }

    #[test]
    fn the_head_of_an_error_ends_with_a_whole_field() {
        let long = "x".repeat(500);
        let head = |lines: &str| {
            let mut framer = framer(format!("{OPTIONS}{lines}").as_bytes());
            String::from_utf8(framer.next().unwrap_err().head.to_vec()).unwrap()
        };
        assert_eq!(head(&format!("X: {long}\r\n {long}\r\n\r\n")), OPTIONS);
        assert_eq!(head(&format!("X: {long}\r\n {long}")), OPTIONS);
        assert_eq!(head("Content-Length: 5000\r\n\r\n"), format!("{OPTIONS}Content-Length: 5000\r\n"));
        assert_eq!(head("X: 1\r\n 2\r\nbroken\r\n"), format!("{OPTIONS}X: 1\r\n 2\r\n"));
    }
}
