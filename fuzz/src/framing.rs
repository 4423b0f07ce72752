//! Streams: the framer gives the same frames however a stream is cut, and ends them where any reader would.

use bytes::Bytes;
use sipstamp::sip::{Frame, FrameError, Framer, Limits, Message, RejectReason};

use crate::Reader;
use crate::messages;

/// Short, so that it is reached.
const LIMITS: Limits = Limits::standard(1_500);
/// Lengths of pieces that an input begins with.
const CUTS: usize = 8;

pub fn run(data: &[u8]) {
    let mut reader = Reader(data);
    let cuts = reader.bytes(CUTS);
    let stream = reader.0;
    let (whole, _) = frames([stream]);
    let pieces = pieces(stream, cuts);
    assert_eq!(frames(pieces.iter().copied()).0, whole);
    let mut at = stream;
    for frame in &whole {
        at = follows(at, frame);
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    messages::streams().iter().map(|stream| [&[1, 2, 3, 50, 200, 7, 90, 13], stream.as_bytes()].concat()).collect()
}

/// The stream in pieces as long as the bytes of `cuts` say, by turns.
fn pieces<'a>(stream: &'a [u8], cuts: &[u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let mut rest = stream;
    let mut lengths = cuts.iter().map(|length| usize::from(*length) + 1).cycle();
    while let Some(length) = lengths.next().filter(|_| !rest.is_empty()) {
        let (piece, behind) = rest.split_at(length.min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

/// What comes out of a stream, and what is left.
fn frames<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Result<Frame, FrameError>>, usize) {
    let mut framer = Framer::new(LIMITS);
    let mut frames = Vec::new();
    for piece in pieces {
        framer.buffer.extend_from_slice(piece);
        loop {
            match framer.next() {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    assert!(!matches!(frames.last(), Some(Err(_))), "a frame behind an error");
                    frames.push(Ok(frame));
                }
                Err(error) => {
                    match frames.last() {
                        Some(Err(first)) => assert_eq!(*first, error),
                        _ => frames.push(Err(error)),
                    }
                    break;
                }
            }
        }
        if !matches!(frames.last(), Some(Err(_))) {
            assert!(framer.buffer.len() < LIMITS.message_bytes, "it waits for more than a message may have");
        }
    }
    (frames, framer.buffer.len())
}

/// The stream behind a frame, which begins at its start.
fn follows<'a>(stream: &'a [u8], frame: &Result<Frame, FrameError>) -> &'a [u8] {
    let mut rest = stream;
    match frame {
        Ok(Frame::Ping) => {
            while !rest.starts_with(b"\r\n\r\n") {
                rest = rest.strip_prefix(b"\r\n").unwrap();
            }
            &rest[4..]
        }
        Ok(Frame::Message(message)) => {
            while let Some(behind) = rest.strip_prefix(b"\r\n") {
                rest = behind;
            }
            assert_eq!(length_of(message), Some(message.len()));
            is_whole(message);
            rest.strip_prefix(&message[..]).unwrap()
        }
        Err(error) => {
            assert!(error.head.is_empty() || error.head.ends_with(b"\r\n"));
            assert!(error.head.len() <= LIMITS.message_bytes);
            // Whatever is made of it can be answered, or cannot: it does not matter here.
            drop(error.clone().into_rejected());
            rest
        }
    }
}

/// How long a message is to a reader that knows of lines, folds and one header.
fn length_of(message: &[u8]) -> Option<usize> {
    let head = message.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&message[..head]).replace("\r\n ", " ").replace("\r\n\t", " ");
    let mut lengths = text.split("\r\n").skip(1).filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        let name = name.trim_end().to_ascii_lowercase();
        matches!(&*name, "content-length" | "l").then(|| value.trim().parse::<usize>().ok())
    });
    let length = lengths.next()??;
    assert!(lengths.next().is_none());
    Some(head + length)
}

/// The index agrees with the framer about where the message ends.
fn is_whole(message: &Bytes) {
    match Message::parse(message.clone(), &LIMITS) {
        Ok(parsed) => assert_eq!(parsed.raw(), message),
        Err(rejected) => assert_ne!(rejected.reason, RejectReason::BadLength, "{}", rejected.detail),
    }
}
