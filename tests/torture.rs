//! Messages of our own for each point of RFC 4475 and RFC 5118, through the whole core.

#[cfg(test)]
#[expect(dead_code, unused_imports, reason = "shared with other tests, which use the rest")]
mod support;
#[cfg(test)]
#[expect(dead_code, unused_imports, reason = "shared with other tests, which use the rest")]
mod wire;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sipstamp::sip::Message;

    use super::support::{DIALER, PBX_A, World, reply_to};
    use super::wire::{LIMITS, Over, Parts, deliver, policy, routed, still_works, torture, unharmed};

    #[test]
    fn each_point_of_rfc_4475_and_rfc_5118_is_met() {
        let mut wrong = Vec::new();
        for row in torture() {
            for (over, expected) in [(Over::Udp, row.udp), (Over::Tcp, row.tcp)] {
                let mut world = World::new(policy());
                let fate = deliver(&mut world, over, DIALER, &routed(&row.bytes));
                let name = format!("{}, {} {over:?}", row.section, row.what);
                if fate.told != expected {
                    wrong.push(format!("{name}: {}, not {expected}", fate.told));
                }
                if let Err(harm) = unharmed(&fate) {
                    wrong.push(format!("{name}: {harm}"));
                }
                still_works(&mut world);
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn no_section_is_left_out() {
        let there = torture().iter().map(|row| row.section).collect::<BTreeSet<_>>();
        let numbered = |prefix: &'static str, last: usize| (1..=last).map(move |number| format!("{prefix}.{number}"));
        let all = numbered("3.1.1", 13)
            .chain(numbered("3.1.2", 19))
            .chain(numbered("3.2", 1))
            .chain(numbered("3.3", 15))
            .chain(numbered("3.4", 1))
            .chain(numbered("4", 10));
        for section in all {
            assert!(there.contains(&*section), "{section}");
        }
    }

    /// 3.1.1.12 and 3.1.1.13, where a request of ours asks for them.
    #[test]
    fn any_reason_phrase_reaches_the_caller() {
        for phrase in ["= 2**3 * 5**2 но, \"\\\"", "", " ", "OK\tOK", "100%00"] {
            let mut world = World::new(policy());
            let (_, uas) = world.called();
            world.send(PBX_A, reply_to(&uas.invite, 183, phrase, "callee"));
            assert_eq!(world.take(DIALER, "183").start(), format!("SIP/2.0 183 {phrase}"));
        }
    }

    /// 3.2.1: two clients that know the cookie and nothing else.
    #[test]
    fn requests_whose_branch_is_the_cookie_alone_are_told_apart() {
        let mut world = World::new(policy());
        let of = |call: &str| {
            format!(
                "OPTIONS sip:bea@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.20;branch=z9hG4bK\r\nFrom: <sip:ann@example.net>;tag=1\r\n\
                 To: <sip:bea@example.com>\r\nCall-ID: {call}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
            )
        };
        let mut branches = BTreeSet::new();
        for call in ["one", "two"] {
            let fate = deliver(&mut world, Over::Udp, DIALER, of(call).as_bytes());
            assert_eq!(fate.told, "forwarded");
            branches.insert(fate.forwarded[0].1.msg.branch().to_owned());
            // The same again is a repetition.
            assert_eq!(deliver(&mut world, Over::Udp, DIALER, of(call).as_bytes()).told, "dropped");
        }
        assert_eq!(branches.len(), 2);
    }

    /// 3.1.1.5 and 3.1.1.3: nothing is unescaped on the way to a decision.
    #[test]
    fn an_escaped_method_is_no_invite() {
        let bytes = torture().into_iter().find(|row| row.section == "3.1.1.5").unwrap().bytes;
        let mut world = World::new(policy());
        deliver(&mut world, Over::Udp, DIALER, &bytes);
        assert_eq!(world.endpoint.active_calls(), 0);
    }

    /// 3.3.5: what is not supported is named, and nothing else.
    #[test]
    fn only_what_a_proxy_must_know_is_unsupported() {
        let bytes = torture().into_iter().find(|row| row.section == "3.3.5").unwrap().bytes;
        let mut world = World::new(policy());
        world.send(DIALER, String::from_utf8(bytes).unwrap());
        let answer = world.sent.remove(0);
        assert_eq!(answer.msg.one("Unsupported"), "one, two");
    }

    #[test]
    fn what_is_too_large_is_answered_and_counted() {
        let options = |uri: &str, lines: &str| {
            format!(
                "OPTIONS {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.20;branch=z9hG4bK-own\r\n{lines}From: <sip:ann@example.net>;tag=1\r\n\
                 To: <sip:bea@example.com>\r\nCall-ID: large\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
            )
        };
        let usual = "sip:bea@example.com";
        for (text, udp, tcp) in [
            (options(usual, &format!("X: {}\r\n", "x".repeat(17_000))), "513", "513 closed"),
            (options(usual, &format!("X: {}\r\n", "\r\n x".repeat(5_000))), "513", "513 closed"),
            (options(usual, &"Via: SIP/2.0/UDP 192.0.2.21\r\n".repeat(70)), "513", "513"),
            (options(usual, &"X: 1\r\n".repeat(600)), "513", "513"),
            (options(&format!("sip:{}@example.com", "b".repeat(5_000)), ""), "414", "414"),
        ] {
            for (over, expected) in [(Over::Udp, udp), (Over::Tcp, tcp)] {
                let mut world = World::new(policy());
                assert_eq!(deliver(&mut world, over, DIALER, text.as_bytes()).told, expected, "{}", &text[..60]);
                assert_eq!(world.sample("sipstamp_sip_rejected_total", &[("reason", "too_large")]), 1);
            }
        }
    }

    /// RFC 5118 §4.3 and §4.4: a port stands behind the brackets.
    #[test]
    fn what_is_inside_of_brackets_is_no_port() {
        for (section, host, port) in [
            ("4.3", "[2001:db8:5::20:5080]", None),
            ("4.4", "[2001:db8:5::20]", Some(5080)),
            ("4.1", "[2001:db8:5::20]", None),
        ] {
            let bytes = torture().into_iter().find(|row| row.section == section).unwrap().bytes;
            let message = Message::parse(bytes.into(), &LIMITS).unwrap();
            let uri = message.sip_uri().unwrap();
            assert_eq!((uri.host(), uri.port), (host.as_bytes(), port), "{section}");
        }
    }

    /// 3.4.1: what RFC 2543 leaves out is put in where the next hop needs it.
    #[test]
    fn a_request_of_rfc_2543_gets_its_hops() {
        let bytes = torture().into_iter().find(|row| row.section == "3.4.1").unwrap().bytes;
        let fate = deliver(&mut World::new(policy()), Over::Udp, DIALER, &bytes);
        let went = Parts::of(&fate.forwarded[0].1.raw);
        assert_eq!(went.first("max-forwards", "max-forwards"), b"Max-Forwards: 70\r\n");
        assert!(went.body.ends_with(b"RTP/AVP 0\r\n"));
    }
}
