//! Authentication and negotiation: 401, 407, 422 and the INVITE that comes back (section 3).

use crate::support::{DIALER, PBX_A, PBX_B, Uas, World, ms, ok, policy, secs, server};

#[test]
fn a_challenge_is_forwarded_unstamped_and_the_retry_is_the_same_call() {
    for code in [401, 407, 422] {
        let mut world = World::new(policy());
        let (mut uac, uas) = world.called();
        let challenge = world.fail(&uac, &uas, uas.reply(code).with("Proxy-Authenticate: Digest realm=\"x\""));
        assert!(!challenge.has("Call-Outcome"));
        assert_eq!(challenge.one("Proxy-Authenticate"), "Digest realm=\"x\"");
        world.none_ended();
        assert_eq!(world.sample("sipstamp_calls_active", &[]), 1);
        world.advance(secs(1));
        let retry = uac.retry();
        let (uac, again) = world.place(&uac, retry, PBX_A);
        assert_eq!(again.invite.cseq(), (2, "INVITE"));
        assert_ne!(again.invite.branch(), uas.invite.branch());
        let (mut uac, _) = world.answer(uac, again);
        world.hang_up(DIALER, PBX_A, uac.bye());
        let ended = world.ended_as("Normal", "answered_bye_caller");
        assert_eq!(ended.attempts.iter().map(|one| one.sip_code).collect::<Vec<_>>(), [Some(code), Some(200)]);
        assert_eq!(ended.answer_delay_ms, Some(1_000));
        assert_eq!(world.sample("sipstamp_calls_started_total", &[]), 1);
        world.settle();
    }
}

#[test]
fn a_retry_may_have_the_same_cseq_on_a_new_branch() {
    let mut world = World::new(policy());
    let (mut uac, uas) = world.called();
    world.fail(&uac, &uas, uas.reply(407));
    let again = uac.invite();
    let (uac, uas) = world.place(&uac, again, PBX_A);
    world.fail(&uac, &uas, uas.reply(486));
    assert_eq!(world.ended_as("NumberBusy", "peer_final").attempts.len(), 2);
    assert_eq!(world.sample("sipstamp_calls_started_total", &[]), 1);
    world.settle();
}

#[test]
fn without_a_retry_the_call_ends_after_the_window() {
    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    world.advance(ms(250));
    world.fail(&uac, &uas, uas.reply(407).with("Reason: Q.850;cause=57"));
    world.advance(ms(31_999));
    world.none_ended();
    world.advance(ms(1));
    let ended = world.ended_as("CallFailed", "auth_failed");
    assert_eq!((ended.sip_code, ended.code_source.unwrap().label()), (Some(407), "peer"));
    assert_eq!((ended.q850, ended.ended_by.unwrap().label()), (Some(57), "caller"));
    assert_eq!(ended.ended_at.unwrap().0 - ended.started_at.0, 250_000, "it ended with the challenge");
    world.settle();
}

#[test]
fn the_window_is_configurable_and_a_second_challenge_opens_another() {
    let mut policy = policy();
    policy.timeouts.auth_retry_window = secs(5);
    let mut world = World::new(policy);
    let (mut uac, uas) = world.called();
    world.fail(&uac, &uas, uas.reply(407));
    world.advance(secs(4));
    let retry = uac.retry();
    let (uac, uas) = world.place(&uac, retry, PBX_A);
    world.fail(&uac, &uas, uas.reply(407));
    world.advance(ms(4_999));
    world.none_ended();
    world.advance(ms(1));
    assert_eq!(world.ended_as("CallFailed", "auth_failed").attempts.len(), 2);
    world.settle();
}

#[test]
fn the_retry_goes_to_the_server_that_challenged() {
    let mut policy = policy();
    policy.servers.push(server(2, "pbx-b", PBX_B));
    let mut world = World::new(policy);
    let (mut uac, first) = world.called();
    world.send(PBX_A, first.reply(503));
    let second = Uas::new(PBX_B, world.take(PBX_B, "INVITE"), "b");
    world.take_all(PBX_A);
    world.fail(&uac, &second, second.reply(407));
    let retry = uac.retry();
    let (uac, again) = world.place(&uac, retry, PBX_B);
    world.nothing_sent();
    // It challenged; there is nobody else to ask when it fails.
    world.fail(&uac, &again, again.reply(503));
    assert_eq!(world.ended_as("CallFailed", "peer_final").attempts.len(), 3);
    world.settle();
}

#[test]
fn where_the_server_that_challenged_fails_the_retry_goes_to_one_that_was_not_tried() {
    for silent in [false, true] {
        let mut policy = policy();
        policy.servers.push(server(2, "pbx-b", PBX_B));
        let mut world = World::new(policy);
        let (mut uac, first) = world.called();
        world.fail(&uac, &first, first.reply(407));
        let retry = uac.retry();
        let (mut uac, again) = world.place(&uac, retry, PBX_A);
        match silent {
            true => world.advance(secs(8)),
            false => world.send(PBX_A, again.reply(503)),
        }
        let second = Uas::new(PBX_B, world.take(PBX_B, "INVITE"), "b");
        assert!(second.invite.has("Proxy-Authorization"));
        world.take_all(PBX_A);
        // It wants an answer of its own.
        world.fail(&uac, &second, second.reply(407));
        let retry = uac.retry();
        let (uac, second) = world.place(&uac, retry, PBX_B);
        let (mut uac, _) = world.answer(uac, second);
        world.hang_up(DIALER, PBX_B, uac.bye());
        let ended = world.ended_as("Normal", "answered_bye_caller");
        let servers = ended.attempts.iter().map(|attempt| &*attempt.server).collect::<Vec<_>>();
        assert_eq!(servers, ["pbx-a", "pbx-a", "pbx-b", "pbx-b"]);
        assert_eq!(world.sample("sipstamp_calls_started_total", &[]), 1);
        world.settle();
    }
}

#[test]
fn a_retry_is_no_new_call_for_limits_and_draining() {
    let mut policy = policy();
    policy.limits.calls = 1;
    let mut world = World::new(policy);
    let (mut uac, uas) = world.called();
    world.fail(&uac, &uas, uas.reply(407));
    world.input(sipstamp::endpoint::Input::Drain);
    let retry = uac.retry();
    let (uac, uas) = world.place(&uac, retry, PBX_A);
    world.answer(uac, uas);
    world.settle();
}

#[test]
fn a_new_invite_after_the_window_is_a_new_call() {
    let mut world = World::new(policy());
    let (mut uac, uas) = world.called();
    world.fail(&uac, &uas, uas.reply(407));
    world.advance(secs(33));
    world.ended_as("CallFailed", "auth_failed");
    let retry = uac.retry();
    let (uac, uas) = world.place(&uac, retry, PBX_A);
    world.fail(&uac, &uas, uas.reply(486));
    world.ended_as("NumberBusy", "peer_final");
    assert_eq!(world.sample("sipstamp_calls_started_total", &[]), 2);
    world.settle();
}

#[test]
fn a_caller_is_reached_where_its_retry_says() {
    let mut world = World::new(policy());
    let (mut uac, uas) = world.called();
    world.fail(&uac, &uas, uas.reply(407));
    let retry = uac.retry().put("Contact: <sip:dialer@10.0.1.6:5070>").with("Record-Route: <sip:10.0.1.77;lr>");
    let (_, uas) = world.place(&uac, retry, PBX_A);
    world.send(PBX_A, uas.reply(200));
    world.take(DIALER, "200");
    world.command(|endpoint, now| endpoint.hang_up(now, "call-1")).unwrap();
    let bye = world.take("10.0.1.77:5060", "BYE");
    assert_eq!((bye.uri(), bye.all("Route")), ("sip:dialer@10.0.1.6:5070", vec!["<sip:10.0.1.77;lr>"]));
    assert!(!world.take(PBX_A, "BYE").has("Route"));
}

#[test]
fn an_early_dialog_from_before_the_challenge_goes_on_with_the_numbers_of_the_retry() {
    let mut world = World::new(policy());
    let (mut uac, uas) = world.called();
    world.send(PBX_A, uas.reply(183));
    world.take(DIALER, "183");
    world.fail(&uac, &uas, uas.reply(407).with("Proxy-Authenticate: Digest realm=\"a\", nonce=\"b\""));
    let retry = uac.retry();
    let (uac, uas) = world.place(&uac, retry, PBX_A);
    // The same callee: it has the same tag.
    let invite = uas.invite.cseq().0;
    world.answer(uac, uas);
    world.command(|endpoint, now| endpoint.hang_up(now, "call-1")).unwrap();
    let bye = world.take(PBX_A, "BYE");
    assert!(bye.cseq().0 > invite, "{bye:?}");
    world.send(PBX_A, ok(&bye));
    let bye = world.take(DIALER, "BYE");
    world.send(DIALER, ok(&bye));
    world.ended_as("Normal", "answered_hung_up");
    world.settle();
}
