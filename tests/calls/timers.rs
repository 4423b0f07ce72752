//! Retransmissions: timers A, B, E, F, G, H and the ends of transactions (RFC 3261 §17).

use sipstamp::time::Mono;

use crate::support::{DIALER, PBX_A, World, ms, ok, policy, reply_to, secs};

/// When messages of a kind went to an address, in milliseconds since `from`; taken.
fn times(world: &mut World, address: &str, kind: &str, from: Mono) -> Vec<u128> {
    let to = address.parse().unwrap();
    let (taken, rest) = world.sent.drain(..).partition::<Vec<_>, _>(|sent| sent.to == to && sent.msg.kind() == kind);
    world.sent = rest;
    taken.iter().map(|sent| sent.at.since(from).as_millis()).collect()
}

#[test]
fn timer_a_doubles_until_something_comes_back() {
    let mut world = World::new(policy());
    let from = world.now.mono;
    let mut uac = world.uac();
    let invite = uac.invite();
    world.send(DIALER, invite);
    world.advance(secs(20));
    let invites = world.sent.iter().filter(|sent| sent.msg.kind() == "INVITE").map(|sent| sent.msg.text().to_owned());
    let invites = invites.collect::<Vec<_>>();
    assert!(invites.iter().all(|invite| *invite == invites[0]), "the same bytes");
    assert_eq!(times(&mut world, PBX_A, "INVITE", from), [0, 500, 1_500, 3_500, 7_500, 15_500]);
    world.settle();
}

#[test]
fn transactions_end_together() {
    let mut world = World::new(policy());
    for _ in 0..40 {
        let (mut uac, _) = world.answered();
        world.hang_up(DIALER, PBX_A, uac.bye());
        world.ended_as("Normal", "answered_bye_caller");
        world.advance(ms(1));
    }
    let all = world.endpoint.pending_work();
    assert!(all >= 40 * 4, "{all}");
    let mut wakes = 0;
    while let Some(deadline) = world.deadline() {
        world.advance(deadline.since(world.now.mono));
        wakes += 1;
    }
    // What takes 40 ms to begin takes three or four times 16 ms to end: Timer K, and J, L and M.
    assert!(wakes <= 8, "{wakes} for {all}");
    world.settle();
}

#[test]
fn a_1xx_stops_timer_a() {
    let mut world = World::new(policy());
    let (_, uas) = world.called();
    world.advance(ms(600));
    world.take(PBX_A, "INVITE");
    world.send(PBX_A, uas.reply(100));
    world.advance(secs(10));
    world.nothing_sent();
    world.settle();
}

#[test]
fn t1_scales_everything() {
    let mut policy = policy();
    policy.timeouts.t1 = ms(50);
    let mut world = World::new(policy);
    let from = world.now.mono;
    let mut uac = world.uac();
    let invite = uac.invite();
    world.send(DIALER, invite);
    world.advance(secs(10));
    assert_eq!(times(&mut world, PBX_A, "INVITE", from), [0, 50, 150, 350, 750, 1_550, 3_150]);
    assert_eq!(times(&mut world, DIALER, "408", from)[0], 3_200);
    world.ended_as("NoAnswer", "no_response");
    world.settle();
}

#[test]
fn timer_e_doubles_up_to_t2_and_goes_on_slowly_after_a_1xx() {
    let mut world = World::new(policy());
    let (mut uac, _) = world.answered();
    let from = world.now.mono;
    world.send(DIALER, uac.request("INFO"));
    world.advance(secs(12));
    assert_eq!(times(&mut world, PBX_A, "INFO", from), [0, 500, 1_500, 3_500, 7_500, 11_500]);
    world.settle();

    let mut world = World::new(policy());
    let (mut uac, _) = world.answered();
    let from = world.now.mono;
    world.send(DIALER, uac.request("INFO"));
    let info = world.take(PBX_A, "INFO");
    world.send(PBX_A, reply_to(&info, 100, "Trying", ""));
    world.advance(secs(9));
    assert_eq!(times(&mut world, PBX_A, "INFO", from), [500, 4_500, 8_500]);
    world.send(PBX_A, ok(&info));
    world.take(DIALER, "200");
    world.advance(secs(40));
    assert_eq!(times(&mut world, PBX_A, "INFO", from), [0; 0]);
    world.settle();
}

#[test]
fn timer_g_repeats_a_failure_until_its_ack() {
    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    let from = world.now.mono;
    world.send(PBX_A, uas.reply(486));
    world.advance(secs(12));
    let busy = world.sent.iter().find(|sent| sent.msg.kind() == "486").unwrap().msg.clone();
    assert_eq!(times(&mut world, DIALER, "486", from), [0, 500, 1_500, 3_500, 7_500, 11_500]);
    world.send(DIALER, uac.ack_of(&busy));
    world.advance(secs(30));
    assert_eq!(times(&mut world, DIALER, "486", from), [0; 0]);
    world.settle();
}

#[test]
fn timer_h_gives_up_on_an_ack_that_never_comes() {
    let mut world = World::new(policy());
    let (_, uas) = world.called();
    let from = world.now.mono;
    world.send(PBX_A, uas.reply(486));
    world.advance(secs(120));
    assert_eq!(times(&mut world, DIALER, "486", from).last(), Some(&31_500));
    world.settle();
}

#[test]
fn a_cancel_is_retransmitted_until_it_is_answered() {
    let mut world = World::new(policy());
    let (uac, _) = world.ringing();
    let from = world.now.mono;
    world.send(DIALER, uac.cancel());
    world.advance(secs(2));
    assert_eq!(times(&mut world, PBX_A, "CANCEL", from), [0, 500, 1_500]);
    world.settle();
}

#[test]
fn nothing_is_retransmitted_over_tcp() {
    let mut policy = policy();
    policy.servers[0].target = crate::support::target(PBX_A, sipstamp::flow::Transport::Tcp);
    let mut world = World::new(policy);
    let from = world.now.mono;
    let mut uac = world.uac();
    let invite = uac.invite();
    world.send(DIALER, invite);
    world.advance(secs(20));
    assert_eq!(times(&mut world, PBX_A, "INVITE", from), [0]);
    world.settle();
    world.ended_as("NoAnswer", "no_response");
}

#[test]
fn rfc_2543_branches_match_by_their_fields() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let old = |text: String| text.replace("z9hG4bK-", "");
    let invite = old(uac.invite().to_string());
    world.send(DIALER, &invite);
    world.take(DIALER, "100");
    let uas = crate::support::Uas::new(PBX_A, world.take(PBX_A, "INVITE"), "old");
    world.send(DIALER, &invite);
    world.only(DIALER, "100");
    world.send(PBX_A, uas.reply(180));
    world.take(DIALER, "180");
    world.send(DIALER, old(uac.cancel().to_string()));
    world.take(DIALER, "200");
    world.cancelled(&uas);
    let terminated = world.take(DIALER, "487");
    world.send(DIALER, old(uac.ack_of(&terminated).to_string()));
    world.advance(secs(10));
    world.nothing_sent();
    world.ended_as("CallFailed", "caller_cancel");
    world.settle();
}
