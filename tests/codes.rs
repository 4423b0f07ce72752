//! Every final response code, with and without ringing before it, in both directions: stamp, event and counter agree
//! on the outcome that this table has.

#[cfg(test)]
#[expect(dead_code, unused_imports, reason = "shared with the tests of behaviours, which use all of it")]
mod support;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::RangeInclusive;

    use sipstamp::outcome::CodeSource;

    use super::support::{DIALER, PBX_A, Uac, World, policy, secs};

    /// Written out by hand: what the product promises.
    const TABLE: [(RangeInclusive<u16>, &str); 8] = [
        (300..=399, "NumberChanged"),
        (400..=479, "CallFailed"),
        (480..=481, "NumberUnobtainable"),
        (482..=485, "CallFailed"),
        (486..=486, "NumberBusy"),
        (487..=487, "CallFailed"),
        (488..=488, "CallRejected"),
        (489..=699, "CallFailed"),
    ];

    /// These ask the caller to try again; the call fails when it does not.
    const CHALLENGES: [u16; 3] = [401, 407, 422];

    fn outcome(code: u16) -> &'static str {
        TABLE.iter().find(|(codes, _)| codes.contains(&code)).unwrap().1
    }

    fn end_cause(code: u16) -> &'static str {
        match code {
            300..=399 => "redirected",
            _ if CHALLENGES.contains(&code) => "auth_failed",
            _ => "peer_final",
        }
    }

    /// One call for each code; the counters are compared after each.
    fn every_code(caller: &str, callee: &str, rings: bool) {
        let mut world = World::new(policy());
        let direction = if caller == DIALER { "outbound" } else { "inbound" };
        let mut counted = BTreeMap::<&str, u64>::new();
        for code in 300..=699 {
            let mut uac = Uac::new(caller, &format!("code-{code}"));
            let invite = uac.invite();
            let (uac, uas) = world.place(&uac, invite, callee);
            if rings {
                world.send(callee, uas.reply(180));
                world.take(caller, "180");
            }
            let failure = world.fail(&uac, &uas, uas.reply(code));
            let is_challenge = CHALLENGES.contains(&code);
            if is_challenge {
                world.none_ended();
                world.advance(secs(32));
            }
            let ended = world.ended_as(outcome(code), end_cause(code));
            assert_eq!((ended.sip_code, ended.code_source), (Some(code), Some(CodeSource::Peer)));
            assert_eq!(ended.had_ringing, rings);
            let stamp = Some((outcome(code), Some(end_cause(code)), &*ended.call_uid));
            assert_eq!(failure.stamp(), stamp.filter(|_| caller == DIALER && !is_challenge), "{code}");
            *counted.entry(outcome(code)).or_default() += 1;
            for name in [
                "Normal",
                "NumberBusy",
                "NoAnswer",
                "NumberUnobtainable",
                "NumberChanged",
                "CallRejected",
                "CallFailed",
                "VoicemailDrop",
            ] {
                let counter =
                    world.sample("sipstamp_call_outcomes_total", &[("outcome", name), ("direction", direction)]);
                assert_eq!(counter, counted.get(name).copied().unwrap_or_default(), "{name} after {code}");
            }
        }
        assert_eq!(counted["NumberChanged"], 100);
        assert_eq!(counted["NumberUnobtainable"], 2);
        assert_eq!(counted["CallFailed"], 296);
        world.settle();
    }

    #[test]
    fn every_code_of_an_outbound_call() {
        every_code(DIALER, PBX_A, false);
    }

    #[test]
    fn every_code_of_an_outbound_call_that_rang() {
        every_code(DIALER, PBX_A, true);
    }

    #[test]
    fn every_code_of_an_inbound_call() {
        every_code(PBX_A, DIALER, false);
    }

    #[test]
    fn every_code_of_an_inbound_call_that_rang() {
        every_code(PBX_A, DIALER, true);
    }

    #[test]
    fn codes_beyond_699_are_not_sip() {
        let mut world = World::new(policy());
        let (_, uas) = world.called();
        for code in [0, 99, 700, 999] {
            world.send(PBX_A, uas.reply(code).to_string().replacen("SIP/2.0 0 ", "SIP/2.0 000 ", 1));
            world.nothing_sent();
        }
        world.none_ended();
        world.settle();
    }
}
