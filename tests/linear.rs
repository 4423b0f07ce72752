//! Twice the bytes are twice the work, whatever they are: CPU time of this thread for a message and for one twice as long, the
//! least of several runs each, compared within one run of the test.

#[cfg(test)]
#[expect(dead_code, unused_imports, reason = "shared with other tests, which use the rest")]
mod support;
#[cfg(test)]
#[expect(dead_code, unused_imports, reason = "shared with other tests, which use the rest")]
mod wire;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use nix::time::{ClockId, clock_gettime};
    use sipstamp::endpoint::Input;
    use sipstamp::sip::{Framer, Limits, Message};

    use super::support::{DIALER, World};
    use super::wire::{Over, flow, policy};

    /// Bytes of the shorter message; the longer one has twice as many.
    const BYTES: usize = 32 * 1024;
    /// What is quadratic has four times the work.
    const MOST: f64 = 3.2;
    const RUNS: usize = 9;

    /// What is repeated in a message: the line that it stands in, as what begins it, what is repeated, and what ends it.
    const SHAPES: [(&str, &str, &str, &str); 30] = [
        ("one long field", "X: ", "x", "\r\n"),
        ("many fields", "", "X: 1\r\n", ""),
        ("many compact names", "", "k: 1\r\n", ""),
        ("many Reasons", "", "Reason: Q.850;cause=16\r\n", ""),
        ("many stamps", "", "Call-Outcome: Normal\r\n", ""),
        ("many Routes", "", "Route: <sip:192.0.2.7;lr>\r\n", ""),
        ("many Routes that are ours", "", "Route: <sip:10.0.0.1;lr>\r\n", ""),
        ("many Record-Routes", "", "Record-Route: <sip:192.0.2.7;lr>\r\n", ""),
        ("many Vias below", "", "v: SIP/2.0/UDP 192.0.2.7;branch=z9hG4bKx\r\n", ""),
        ("commas in a Via", "Via: SIP/2.0/UDP 192.0.2.7", ",", "\r\n"),
        ("Vias in one field", "Via: SIP/2.0/UDP 192.0.2.7", ",S/2/U h;branch=z9hG4bKx", "\r\n"),
        ("parameters of a Via", "Via: SIP/2.0/UDP 192.0.2.7", ";a", "\r\n"),
        ("commas in a Route", "Route: <sip:192.0.2.7;lr>", ",", "\r\n"),
        ("Routes of ours in one field", "Route: <sip:10.0.0.1;lr>", ",<sip:10.0.0.1;lr>", "\r\n"),
        ("commas in a Contact", "Contact: <sip:ann@192.0.2.7>", ",", "\r\n"),
        ("Contacts in one field", "Contact: <sip:ann@192.0.2.7>", ",<sip:a>", "\r\n"),
        ("open brackets", "Contact: ", "<", "\r\n"),
        ("brackets that close", "Contact: ", "<>", "\r\n"),
        ("quotes in quotes", "Contact: \"", "\\\"", "\" <sip:ann@192.0.2.7>\r\n"),
        ("many quotes", "Contact: ", "\"a\"", "\r\n"),
        ("backslashes behind an open quote", "Route: \"", "\\\\", "\r\n"),
        ("open quotes in many fields", "", "Route: \"\r\n", ""),
        ("folds", "X: a", "\r\n b", "\r\n"),
        ("folds of white space", "X: a", "\r\n ", "\r\n"),
        ("white space at the end", "X: a", " ", "\r\n"),
        ("white space before the colon", "X", " ", ": a\r\n"),
        ("escaped NULs", "X: \"", "\\\0", "\"\r\n"),
        ("strings with an escaped NUL", "X: ", "\"\\\0\"", "\r\n"),
        ("extensions that are not supported", "Proxy-Require: a", ",b", "\r\n"),
        ("parameters of a Session-Expires", "Session-Expires: 90", ";a=\"b\"", "\r\n"),
    ];

    fn invite(line: &str) -> String {
        format!(
            "INVITE sip:bea@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.1.5:5060;branch=z9hG4bK1\r\n{line}From: <sip:ann@example.net>;tag=1\r\n\
             To: <sip:bea@example.com>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
        )
    }

    /// CPU time that this thread has had.
    fn spent() -> Duration {
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
    }

    /// The least time that some work took.
    fn cost(mut work: impl FnMut()) -> f64 {
        let runs = (0..RUNS).map(|_| {
            let before = spent();
            work();
            spent() - before
        });
        runs.min().unwrap().as_secs_f64()
    }

    /// How many times the work is as much for twice the bytes.
    fn ratio(work: impl Fn(usize)) -> f64 {
        let (once, twice) = (cost(|| work(BYTES)), cost(|| work(2 * BYTES)));
        twice / once
    }

    fn check(what: &str, work: impl Fn(usize)) {
        // What else the machine does can spoil a measurement, not three of them.
        let ratios = (0..3).map(|_| ratio(&work)).take_while(|ratio| *ratio >= MOST).collect::<Vec<_>>();
        assert!(ratios.len() < 3, "{what}: {ratios:?}");
    }

    #[test]
    fn a_message_is_read_and_forwarded_in_linear_time() {
        for (what, begin, middle, end) in SHAPES {
            let text = |bytes: usize| invite(&format!("{begin}{}{end}", middle.repeat(bytes / middle.len())));
            let texts = [BYTES, 2 * BYTES].map(|bytes| (bytes, Bytes::from(text(bytes))));
            check(what, |bytes| {
                let raw = texts.iter().find(|(of, _)| *of == bytes).unwrap().1.clone();
                let mut world = World::new(policy());
                let message =
                    Message::parse(raw, &Limits::NONE).unwrap_or_else(|rejected| panic!("{what}: {}", rejected.detail));
                world.input(Input::Message { flow: flow(Over::Udp, DIALER), message });
                assert!(!world.sent.is_empty());
            });
        }
    }

    #[test]
    fn a_message_that_is_refused_is_answered_in_linear_time() {
        for (what, begin, middle, end) in SHAPES {
            let text =
                |bytes: usize| invite(&format!("{begin}{}{end}From: twice\r\n", middle.repeat(bytes / middle.len())));
            let texts = [BYTES, 2 * BYTES].map(|bytes| (bytes, Bytes::from(text(bytes))));
            check(what, |bytes| {
                let raw = texts.iter().find(|(of, _)| *of == bytes).unwrap().1.clone();
                let rejected = Message::parse(raw, &Limits::NONE).unwrap_err();
                World::new(policy()).input(Input::Broken { flow: flow(Over::Udp, DIALER), rejected });
            });
        }
    }

    #[test]
    fn a_stream_is_framed_in_linear_time_however_small_its_pieces_are() {
        for (what, begin, middle, end) in SHAPES {
            check(what, |bytes| {
                let text = invite(&format!("{begin}{}{end}", middle.repeat(bytes / middle.len())));
                let mut framer = Framer::new(Limits::NONE);
                let mut messages = 0;
                for piece in text.as_bytes().chunks(7) {
                    framer.buffer.extend_from_slice(piece);
                    while framer.next().unwrap().is_some() {
                        messages += 1;
                    }
                }
                assert_eq!(messages, 1, "{what}");
            });
        }
    }

    #[test]
    fn quadratic_work_would_be_seen() {
        let rest_of_each = |bytes: usize| {
            let text = vec![b'a'; bytes / 16];
            let found = (0..text.len()).filter(|at| text[*at..].contains(&b'b')).count();
            assert_eq!(found, 0);
        };
        assert!((0..3).any(|_| ratio(rest_of_each) >= MOST));
    }

    #[test]
    fn line_ends_before_a_message_are_passed_over_in_linear_time() {
        check("a datagram", |bytes| {
            let text = "\r\n".repeat(bytes / 2) + &invite("");
            Message::parse(text.into(), &Limits::NONE).unwrap();
        });
        check("a stream", |bytes| {
            let mut framer = Framer::new(Limits::NONE);
            framer.buffer.extend_from_slice("\r\n".repeat(bytes / 2).as_bytes());
            framer.buffer.extend_from_slice(invite("").as_bytes());
            while framer.next().unwrap().is_some() {}
            assert!(framer.buffer.is_empty());
        });
    }

    #[test]
    fn a_request_uri_is_read_in_linear_time() {
        for (begin, middle, end) in [
            ("sip:a@example.com", ";a", ""),
            ("sip:", "a", "@example.com"),
            ("sip:", ":", "@example.com"),
            ("sip:", "a.", ""),
        ] {
            check(begin, |bytes| {
                let uri = format!("{begin}{}{end}", middle.repeat(bytes / middle.len()));
                let text = invite("").replacen("sip:bea@example.com", &uri, 1);
                let message =
                    Message::parse(text.into(), &Limits::NONE).unwrap_or_else(|rejected| panic!("{}", rejected.detail));
                let mut world = World::new(policy());
                world.input(Input::Message { flow: flow(Over::Udp, DIALER), message });
            });
        }
    }
}
