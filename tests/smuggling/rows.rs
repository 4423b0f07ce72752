//! One row for each way to say two things at once.

use crate::support::{DIALER, World};
use crate::wire::{Over, deliver, policy, still_works, unharmed};

/// What is sent, and what becomes of it: as a datagram; in a stream, a valid request behind it.
struct Row {
    what: &'static str,
    bytes: Vec<u8>,
    udp: &'static str,
    tcp: &'static str,
}

const START: &str = "OPTIONS sip:bob@example.com SIP/2.0\r\n";
const VIA: &str = "Via: SIP/2.0/UDP 10.0.1.5:5060;branch=z9hG4bK-smuggled\r\n";
const FROM: &str = "From: <sip:alice@example.net>;tag=1\r\n";
const TO: &str = "To: <sip:bob@example.com>\r\n";
const CALL_ID: &str = "Call-ID: one@10.0.1.5\r\n";
const CSEQ: &str = "CSeq: 1 OPTIONS\r\n";
const HOPS: &str = "Max-Forwards: 70\r\n";
const LENGTH: &str = "Content-Length: 4\r\n";
const BODY: &str = "\r\nbody";
/// What an attacker would like to have behind the message.
const HIDDEN: &str = "BYE sip:bob@example.com SIP/2.0\r\n\r\n";

/// The valid request behind each message of a stream.
fn next() -> String {
    whole().concat().replace("smuggled", "next").replace("one@", "two@")
}

fn whole() -> Vec<&'static str> {
    vec![START, VIA, FROM, TO, CALL_ID, CSEQ, HOPS, LENGTH, BODY]
}

/// The valid request with one of its pieces put differently.
fn with(piece: &str, put: impl AsRef<[u8]>) -> Vec<u8> {
    let pieces = whole();
    assert!(pieces.contains(&piece));
    pieces.into_iter().flat_map(|one| if one == piece { put.as_ref() } else { one.as_bytes() }).copied().collect()
}

/// The same with something in front of a piece.
fn before(piece: &str, put: impl AsRef<[u8]>) -> Vec<u8> {
    with(piece, [put.as_ref(), piece.as_bytes()].concat())
}

fn check(rows: &[Row]) {
    let mut wrong = Vec::new();
    for Row { what, bytes, udp, tcp } in rows {
        let stream = [bytes, next().as_bytes()].concat();
        for (over, bytes, expected) in [(Over::Udp, bytes, udp), (Over::Tcp, &stream, tcp)] {
            let mut world = World::new(policy());
            let fate = deliver(&mut world, over, DIALER, bytes);
            if fate.told != *expected {
                wrong.push(format!("{what} {over:?}: {}, not {expected}", fate.told));
            }
            if let Err(harm) = unharmed(&fate) {
                wrong.push(format!("{what} {over:?}: {harm}"));
            }
            still_works(&mut world);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn row(what: &'static str, bytes: impl AsRef<[u8]>, udp: &'static str, tcp: &'static str) -> Row {
    Row { what, bytes: bytes.as_ref().to_vec(), udp, tcp }
}

#[test]
fn line_ends_are_crlf_and_nothing_else() {
    check(&[
        row("nothing odd", whole().concat(), "forwarded", "forwarded forwarded"),
        row("LF after the start line", with(START, START.replace('\r', "")), "dropped", "closed"),
        row("CR after the start line", with(START, START.replace('\n', "")), "dropped", "closed"),
        row("LF after a field", with(TO, TO.replace('\r', "")), "dropped", "400 closed"),
        row("CR after a field", with(TO, TO.replace('\n', "")), "dropped", "400 closed"),
        row("LF in a value", before(TO, "X: a\nCall-Outcome: Normal\r\n"), "dropped", "400 closed"),
        row("CR in a value", before(TO, "X: a\rCall-Outcome: Normal\r\n"), "dropped", "400 closed"),
        row("CR CR LF", with(TO, TO.replace('\r', "\r\r")), "dropped", "400 closed"),
        row("CR in the start line", with(START, START.replace(" sip", "\r sip")), "dropped", "closed"),
        row("the head ends with LF LF", with(BODY, "\n\nbody"), "dropped", "400 closed"),
        row("the head ends with CR CR", with(BODY, "\r\rbody"), "dropped", "400 closed"),
    ]);
}

#[test]
fn a_nul_in_the_head_is_refused_but_for_a_quoted_pair() {
    check(&[
        row("in the method", with(START, START.replace("OPT", "OPT\0")), "dropped", "closed"),
        row("in the Request-URI", with(START, START.replace("bob", "b\0b")), "400", "closed"),
        row("in a name", before(TO, "X\0: 1\r\n"), "dropped", "400 closed"),
        row("in a value", before(TO, "X: a\0b\r\n"), "dropped", "400 closed"),
        row("in a quoted string", before(TO, "X: \"a\0b\"\r\n"), "dropped", "dropped forwarded"),
        row("escaped outside of quotes", before(TO, "X: a\\\0b\r\n"), "dropped", "400 closed"),
        row("escaped in a quoted string", before(TO, "X: \"a\\\0b\"\r\n"), "forwarded", "forwarded forwarded"),
        row(
            "where brackets go before quotes",
            before(TO, "Contact: <sip:a;x=\"\\\0\">\r\n"),
            "dropped",
            "dropped forwarded",
        ),
        row("in the body", with(BODY, "\r\nb\0dy"), "forwarded", "forwarded forwarded"),
    ]);
}

#[test]
fn the_length_of_the_body_is_said_once_and_as_a_number() {
    let refused = |what, lines: &str| row(what, with(LENGTH, lines), "400", "400 closed");
    check(&[
        refused("twice the same", "Content-Length: 4\r\nContent-Length: 4\r\n"),
        refused("two that differ", "Content-Length: 4\r\nContent-Length: 0\r\n"),
        refused("full and compact", "Content-Length: 4\r\nl: 4\r\n"),
        refused("full and compact that differ", "l: 0\r\nContent-Length: 4\r\n"),
        refused("in other letters", "CONTENT-LENGTH: 4\r\ncontent-length : 0\r\n"),
        refused("a sign", "Content-Length: +4\r\n"),
        refused("below zero", "Content-Length: -4\r\n"),
        refused("a parameter", "Content-Length: 4;x\r\n"),
        refused("a list", "Content-Length: 4, 4\r\n"),
        refused("hexadecimal", "Content-Length: 0x4\r\n"),
        refused("two numbers in one", "Content-Length: 4 4\r\n"),
        refused("two numbers over a fold", "Content-Length: 4\r\n 0\r\n"),
        refused("nothing", "Content-Length:\r\n"),
        refused("a fold and nothing", "Content-Length:\r\n \r\n"),
        refused("digits beyond ASCII", "Content-Length: \u{664}\r\n"),
        row("beyond 64 bits", with(LENGTH, "Content-Length: 18446744073709551620\r\n"), "400", "513 closed"),
        row("beyond what is there", with(LENGTH, "Content-Length: 5000\r\n"), "400", "waits"),
        row("beyond what may be", with(LENGTH, "Content-Length: 70000\r\n"), "400", "513 closed"),
        row("zeros in front", with(LENGTH, "Content-Length: 00004\r\n"), "forwarded", "forwarded forwarded"),
        row("a fold in front", with(LENGTH, "l:\r\n\t4\r\n"), "forwarded", "forwarded forwarded"),
        row(
            "white space before the colon",
            with(LENGTH, "Content-Length \t: 4\r\n"),
            "forwarded",
            "forwarded forwarded",
        ),
        row("none", with(LENGTH, ""), "forwarded", "400 closed"),
        row("in another field's fold", with(LENGTH, "X: 1\r\n Content-Length: 4\r\n"), "forwarded", "400 closed"),
        row("in the start line's place", [LENGTH, &whole().concat()[START.len()..]].concat(), "dropped", "closed"),
        row("only there", [LENGTH.as_bytes(), &with(LENGTH, "")[START.len()..]].concat(), "dropped", "closed"),
    ]);
}

#[test]
fn what_follows_the_body_is_not_forwarded() {
    let beyond = [whole().concat().as_bytes(), HIDDEN.as_bytes()].concat();
    let mut world = World::new(policy());
    let fate = deliver(&mut world, Over::Udp, DIALER, &beyond);
    assert_eq!(fate.told, "forwarded");
    let went = &fate.forwarded[0].1.raw;
    assert!(went.ends_with(b"Content-Length: 4\r\n\r\nbody"), "{}", String::from_utf8_lossy(went));
    // In a stream it is the next message: here one without Content-Length.
    assert_eq!(deliver(&mut world, Over::Tcp, DIALER, &beyond).told, "dropped closed");
}

#[test]
fn a_message_begins_with_its_start_line() {
    let refused = |what, bytes: Vec<u8>| row(what, bytes, "dropped", "closed");
    check(&[
        row("line ends in front", before(START, "\r\n\r\n\r\n"), "forwarded", "ping forwarded forwarded"),
        refused("a space in front", before(START, " ")),
        refused("a tab in front", before(START, "\t")),
        refused("a line of white space in front", before(START, " \r\n")),
        refused("LF in front", before(START, "\n")),
        refused("CR in front", before(START, "\r")),
        refused("NUL in front", before(START, "\0")),
        refused("a byte order mark in front", before(START, "\u{feff}")),
        row("a fold on the start line", before(VIA, " x\r\n"), "dropped", "closed"),
        row("a fold of white space on it", before(VIA, " \r\n"), "dropped", "closed"),
        row("a field as a fold of it", with(VIA, format!(" {VIA}")), "dropped", "closed"),
        row("two start lines", before(START, START), "dropped", "closed"),
        row("a status line before it", before(START, "SIP/2.0 200 OK\r\n"), "dropped", "closed"),
        row("a status line behind it", before(VIA, "SIP/2.0 200 OK\r\n"), "dropped", "closed"),
        row("a field before it", before(START, "X: 1\r\n"), "dropped", "closed"),
        row("two spaces in it", with(START, START.replace(" sip", "  sip")), "400", "400 forwarded"),
        row("a tab in it", with(START, START.replace(" sip", "\tsip")), "dropped", "dropped forwarded"),
        row("white space at its end", with(START, START.replace('\r', " \r")), "400", "400 forwarded"),
        row("another version behind it", with(START, START.replace('\r', " SIP/3.0\r")), "400", "400 forwarded"),
        row("another version", with(START, START.replace("2.0", "2.1")), "505", "505 forwarded"),
        row("a version with zeros", with(START, START.replace("2.0", "02.0")), "505", "505 forwarded"),
        row(
            "header fields in the Request-URI",
            with(START, START.replace(".com", ".com?Route=%3Csip:a%3E")),
            "400",
            "400 forwarded",
        ),
    ]);
}

#[test]
fn a_header_name_is_a_token() {
    let refused = |what, name: &[u8]| row(what, before(TO, [name, b": 1\r\n"].concat()), "dropped", "400 closed");
    check(&[
        refused("none", b""),
        refused("a space inside", b"X Y"),
        refused("a bracket", b"X("),
        refused("a byte beyond ASCII", b"X\x80"),
        refused("UTF-8", "Xé".as_bytes()),
        refused("DEL", b"X\x7f"),
        refused("a quote", b"\"X\""),
        refused("an at sign", b"X@Y"),
        refused("a control character", b"X\x0b"),
        row("no colon", before(TO, "Call-Outcome Normal\r\n"), "dropped", "400 closed"),
        row("all that a token has", before(TO, "x-.!%*_+`'~9: 1\r\n"), "forwarded", "forwarded forwarded"),
        row("white space before the colon", before(TO, "X \t: 1\r\n"), "forwarded", "forwarded forwarded"),
        row("a fold before the colon", before(TO, "X\r\n : 1\r\n"), "dropped", "400 closed"),
    ]);
}

#[test]
fn a_fold_hides_nothing() {
    let passes = |what, lines: &str| row(what, before(TO, lines), "forwarded", "forwarded forwarded");
    check(&[
        passes("a field in a fold", "X: 1\r\n Call-Outcome: Normal\r\n"),
        passes("a start line in a fold", "X: 1\r\n BYE sip:bob@example.com SIP/2.0\r\n"),
        // White space alone goes on a field as any fold does (RFC 3261 §25.1, LWS); it is not the end of the head.
        passes("a fold of white space", "X: 1\r\n \r\n"),
        passes("folds of white space", "X:\r\n \r\n\t\r\n 1\r\n"),
        passes("a quoted string over a fold", "X: \"a\r\n b: c\"\r\n"),
        passes("an open quote before a fold", "X: \"a\r\n b\r\n"),
        passes("UTF-8 that is none", "X: \u{fffd}\r\n"),
        passes("a line separator of Unicode", "X: a\u{2028}Call-Outcome: b\u{85}c\r\n"),
        row(
            "bytes that are no UTF-8",
            before(TO, b"X: \xc0\x8d\xc0\x8a\xff\xfe\r\n"),
            "forwarded",
            "forwarded forwarded",
        ),
        row("control characters", before(TO, b"X: a\x0b\x0c\x1b[2J\x7fb\r\n"), "forwarded", "forwarded forwarded"),
    ]);
}

#[test]
fn what_there_is_one_of_is_there_once() {
    let refused = |what, piece, line: &str| row(what, before(piece, line), "400", "400 forwarded");
    check(&[
        refused("From twice", FROM, FROM),
        refused("From in two forms", CSEQ, "f: <sip:mallory@example.net>;tag=2\r\n"),
        refused("To twice", TO, TO),
        refused("To in two forms", CSEQ, "t: <sip:mallory@example.net>;tag=2\r\n"),
        refused("Call-ID twice", CALL_ID, CALL_ID),
        refused("Call-ID in two forms", CSEQ, "i: another\r\n"),
        refused("Call-ID in other letters", CSEQ, "call-id : another\r\n"),
        refused("CSeq twice", CSEQ, CSEQ),
        refused("CSeq twice that differ", CSEQ, "cseq: 1 INVITE\r\n"),
        refused("Max-Forwards twice", HOPS, "Max-Forwards: 255\r\n"),
        // Lists may be parted over fields: nothing is hidden there.
        row(
            "Via twice",
            before(FROM, "v: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK-2\r\n"),
            "forwarded",
            "forwarded forwarded",
        ),
        row(
            "Route twice",
            before(FROM, "Route: <sip:192.0.2.1;lr>\r\nRoute: <sip:192.0.2.2;lr>\r\n"),
            "forwarded",
            "forwarded forwarded",
        ),
    ]);
}

#[test]
fn what_is_read_of_a_value_is_read_alike_by_all() {
    let refused = |what, piece, line: &str| row(what, with(piece, line), "400", "400 forwarded");
    check(&[
        refused("an open quote in From", FROM, "From: \"Alice <sip:alice@example.net>;tag=1\r\n"),
        refused("an open bracket in To", TO, "To: <sip:bob@example.com;tag=1\r\n"),
        refused("an open quote in a parameter of To", TO, "To: <sip:bob@example.com>;x=\"a;tag=1\r\n"),
        refused("another method in CSeq", CSEQ, "CSeq: 1 INVITE\r\n"),
        refused("the method in other letters", CSEQ, "CSeq: 1 Options\r\n"),
        refused("CSeq beyond 31 bits", CSEQ, "CSeq: 2147483648 OPTIONS\r\n"),
        refused("CSeq with a sign", CSEQ, "CSeq: +1 OPTIONS\r\n"),
        refused("Max-Forwards with a sign", HOPS, "Max-Forwards: +70\r\n"),
        refused("Max-Forwards beyond 255", HOPS, "Max-Forwards: 256\r\n"),
        refused("Max-Forwards as a list", HOPS, "Max-Forwards: 70, 0\r\n"),
        // Nobody can be answered whose Via cannot be read.
        row(
            "an open quote in the topmost Via",
            with(VIA, "Via: SIP/2.0/UDP 10.0.1.5;x=\"a;branch=z9hG4bK-1\r\n"),
            "dropped",
            "dropped forwarded",
        ),
        refused("two tags in From", FROM, "From: <sip:alice@example.net>;tag=1;tag=2\r\n"),
        refused("two tags in To, one without a value", TO, "To: <sip:bob@example.com>;tag;x;TAG=2\r\n"),
        refused("two branches", VIA, "Via: SIP/2.0/UDP 10.0.1.5:5060;branch=z9hG4bK-a;branch=z9hG4bK-b\r\n"),
        refused("two branches, one empty", VIA, "Via: SIP/2.0/UDP 10.0.1.5:5060;branch=;branch=z9hG4bK-b\r\n"),
        refused("an empty Call-ID", CALL_ID, "Call-ID:\r\n"),
    ]);
}
