//! Where a message ends: the framer of streams and the index of messages never differ, whatever comes.

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::select;
use sipstamp::sip::{Frame, Framer, Message};

use crate::wire::{LIMITS, Parts};

/// Pieces that a head can be put together of, well or badly.
const PIECES: [&str; 30] = [
    "OPTIONS sip:b@example.com SIP/2.0\r\n",
    "SIP/2.0 200 OK\r\n",
    "Via: SIP/2.0/TCP 192.0.2.1;branch=z9hG4bK1\r\n",
    "v: SIP/2.0/TCP 192.0.2.1, SIP/2.0/UDP 192.0.2.2\r\n",
    "From: <sip:a@example.net>;tag=1\r\n",
    "To: <sip:b@example.com>\r\n",
    "Call-ID: c\r\n",
    "CSeq: 1 OPTIONS\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 5\r\n",
    "l : 2\r\n",
    "l:\r\n 3\r\n",
    "content-length: 99999\r\n",
    "X: Content-Length: 4\r\n",
    "X: \"\r\n",
    " Content-Length: 4\r\n",
    "\tfold\r\n",
    " \r\n",
    "\r\n",
    "\r\n\r\n",
    "\n",
    "\r",
    "\0",
    "l: 1\n",
    "l: +1\r\n",
    "Content-Length\r\n",
    "Content-Length: 1, 1\r\n",
    "body",
    ":",
    "é",
];

/// A request with a body, numbered so that no two are alike.
fn message(number: usize, compact: bool, body: &[u8]) -> Vec<u8> {
    let length = if compact { "l" } else { "Content-Length" };
    let head = format!(
        "MESSAGE sip:b@example.com SIP/2.0\r\nVia: SIP/2.0/TCP 192.0.2.1;branch=z9hG4bK{number}\r\nFrom: <sip:a@example.net>;tag=1\r\n\
         To: <sip:b@example.com>\r\nCall-ID: {number}\r\nCSeq: 1 MESSAGE\r\n{length}: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// The first frame of a stream that has come as a whole.
fn frame(bytes: &[u8]) -> Option<Bytes> {
    let mut framer = Framer::new(LIMITS);
    framer.buffer.extend_from_slice(bytes);
    loop {
        match framer.next() {
            Ok(Some(Frame::Message(message))) => return Some(message),
            Ok(Some(Frame::Ping)) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn as_many_messages_come_out_as_went_in_however_the_stream_is_cut(
        bodies in prop::collection::vec((any::<bool>(), prop::collection::vec(select(PIECES.to_vec()), 0..6)), 1..8),
        cuts in prop::collection::vec(any::<usize>(), 0..40),
    ) {
        let bodies = bodies.into_iter().map(|(compact, pieces)| (compact, pieces.concat())).enumerate();
        let sent = bodies.map(|(at, (compact, body))| message(at, compact, body.as_bytes())).collect::<Vec<_>>();
        let stream = sent.concat();
        let mut cuts = cuts.into_iter().map(|cut| cut % stream.len()).chain([0, stream.len()]).collect::<Vec<_>>();
        cuts.sort_unstable();
        let (mut framer, mut found) = (Framer::new(LIMITS), Vec::new());
        for chunk in cuts.windows(2) {
            framer.buffer.extend_from_slice(&stream[chunk[0]..chunk[1]]);
            while let Some(frame) = framer.next().unwrap() {
                let Frame::Message(bytes) = frame else { panic!("a ping") };
                found.push(bytes.to_vec());
            }
        }
        prop_assert_eq!(found, sent);
    }

    #[test]
    fn the_framer_and_the_index_agree_where_a_message_ends(
        pieces in prop::collection::vec(select(PIECES.to_vec()), 0..8),
        at in any::<usize>(),
        whole in any::<bool>(),
        noise in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let mut bytes = if whole { message(1, false, b"body") } else { Vec::new() };
        let at = at % (bytes.len() + 1);
        bytes.splice(at..at, pieces.concat().into_bytes());
        bytes.extend(noise);
        let (framed, parsed) = (frame(&bytes), Message::parse(bytes.clone().into(), &LIMITS));
        match (&framed, &parsed) {
            (Some(framed), Ok(parsed)) => prop_assert_eq!(framed, parsed.raw()),
            // The framer has left the rest to the index, which must say no to the frame too.
            (Some(framed), Err(_)) => prop_assert!(Message::parse(framed.clone(), &LIMITS).is_err()),
            // A datagram may be without a length, and no stream.
            (None, Ok(parsed)) => prop_assert!(!Parts::of(parsed.raw()).has("content-length", "l")),
            (None, Err(_)) => {}
        }
    }
}
