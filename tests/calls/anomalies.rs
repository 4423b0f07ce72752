//! What was odd on the wire.

use crate::support::{DIALER, PBX_A, World, ms, ok, policy, reply_to};

fn anomalies(world: &mut World) -> Vec<&'static str> {
    world.ended().anomalies.iter().map(|anomaly| anomaly.label()).collect()
}

#[test]
fn more_than_three_retransmissions_of_one_message() {
    for (repeats, odd) in [(3, false), (4, true)] {
        let mut world = World::new(policy());
        let mut uac = world.uac();
        let invite = uac.invite();
        let (uac, uas) = world.place(&uac, invite.clone(), PBX_A);
        for _ in 0..repeats {
            world.send(DIALER, &invite);
        }
        world.take_all(DIALER);
        world.fail(&uac, &uas, uas.reply(486));
        assert_eq!(anomalies(&mut world), vec!["retransmissions"; usize::from(odd)], "{repeats}");
        world.settle();
    }
}

#[test]
fn more_than_three_retransmissions_of_the_answer() {
    let mut world = World::new(policy());
    let (mut uac, uas) = world.ringing();
    for _ in 0..5 {
        world.send(PBX_A, uas.reply(200));
        uac.learn(&world.take(DIALER, "200"));
    }
    let ack = uac.ack();
    world.send(DIALER, ack);
    world.take(PBX_A, "ACK");
    world.hang_up(DIALER, PBX_A, uac.bye());
    assert_eq!(anomalies(&mut world), ["retransmissions"]);
    world.settle();
}

#[test]
fn more_than_three_retransmissions_of_a_request_in_the_dialog() {
    for method in ["INFO", "UPDATE", "INVITE", "BYE"] {
        for (repeats, odd) in [(3, false), (4, true)] {
            for is_answered in [false, true] {
                let mut world = World::new(policy());
                let (mut uac, _) = world.answered();
                let request = uac.request(method);
                world.send(DIALER, &request);
                let forwarded = world.take(PBX_A, method);
                if is_answered && method != "BYE" {
                    world.send(PBX_A, reply_to(&forwarded, 488, "Not Acceptable Here", ""));
                }
                // The last one comes when the transaction towards the server has ended (Timer K).
                for wait in [500, 1_000, 2_000, 4_000].into_iter().take(repeats) {
                    world.advance(ms(if method == "BYE" { 100 } else { wait }));
                    world.send(DIALER, &request);
                }
                if method == "BYE" {
                    world.send(PBX_A, ok(&forwarded));
                } else {
                    world.take_all(PBX_A);
                    world.hang_up(DIALER, PBX_A, uac.bye());
                }
                let expected = vec!["retransmissions"; usize::from(odd)];
                assert_eq!(anomalies(&mut world), expected, "{method}, {repeats}, answered: {is_answered}");
                world.settle();
            }
        }
    }
}

#[test]
fn more_than_three_retransmissions_of_a_cancel() {
    for (repeats, odd) in [(3, false), (4, true)] {
        let mut world = World::new(policy());
        let (uac, uas) = world.ringing();
        for _ in 0..=repeats {
            world.send(DIALER, uac.cancel());
            world.take(DIALER, "200");
        }
        world.cancelled(&uas);
        world.take(DIALER, "487");
        assert_eq!(anomalies(&mut world), vec!["retransmissions"; usize::from(odd)], "{repeats}");
        world.settle();
    }
}

#[test]
fn more_than_three_retransmissions_of_a_request_of_the_server() {
    let mut world = World::new(policy());
    let (mut uac, mut uas) = world.answered();
    let info = uas.request("INFO");
    for _ in 0..5 {
        world.send(PBX_A, &info);
    }
    let forwarded = world.take(DIALER, "INFO");
    world.send(DIALER, ok(&forwarded));
    world.take(PBX_A, "200");
    world.hang_up(DIALER, PBX_A, uac.bye());
    assert_eq!(anomalies(&mut world), ["retransmissions"]);
    world.settle();
}

#[test]
fn more_than_three_retransmissions_of_an_ack() {
    for (repeats, odd) in [(3, false), (4, true)] {
        let mut world = World::new(policy());
        let (uac, uas) = world.ringing();
        let (mut uac, _) = world.answer_unacknowledged(uac, uas);
        let ack = uac.ack();
        for _ in 0..=repeats {
            world.send(DIALER, &ack);
            world.take(PBX_A, "ACK");
        }
        world.hang_up(DIALER, PBX_A, uac.bye());
        assert_eq!(anomalies(&mut world), vec!["retransmissions"; usize::from(odd)], "{repeats}");
        world.settle();
    }
}

#[test]
fn acks_of_several_invites_are_no_retransmissions() {
    let mut world = World::new(policy());
    let (mut uac, _) = world.answered();
    for _ in 0..6 {
        world.send(DIALER, uac.request("INVITE"));
        let invite = world.take(PBX_A, "INVITE");
        world.send(PBX_A, ok(&invite));
        world.take_all(DIALER);
        let ack = uac.ack();
        world.send(DIALER, ack);
        world.take(PBX_A, "ACK");
    }
    world.hang_up(DIALER, PBX_A, uac.bye());
    assert_eq!(anomalies(&mut world), [""; 0]);
    world.settle();
}

#[test]
fn more_than_three_retransmissions_of_the_answer_to_a_re_invite() {
    for (repeats, odd) in [(3, false), (4, true)] {
        let mut world = World::new(policy());
        let (mut uac, _) = world.answered();
        world.send(DIALER, uac.request("INVITE"));
        let invite = world.take(PBX_A, "INVITE");
        for _ in 0..=repeats {
            world.send(PBX_A, ok(&invite));
            world.take(DIALER, "200");
        }
        let ack = uac.ack();
        world.send(DIALER, ack);
        world.take(PBX_A, "ACK");
        world.hang_up(DIALER, PBX_A, uac.bye());
        assert_eq!(anomalies(&mut world), vec!["retransmissions"; usize::from(odd)], "{repeats}");
        world.settle();
    }
}

#[test]
fn a_cseq_that_does_not_grow() {
    let mut world = World::new(policy());
    let (mut uac, _) = world.answered();
    uac.cseq -= 1;
    world.send(DIALER, uac.request("INFO"));
    let info = world.take(PBX_A, "INFO");
    world.send(PBX_A, ok(&info));
    world.take(DIALER, "200");
    world.hang_up(DIALER, PBX_A, uac.bye());
    assert_eq!(anomalies(&mut world), ["cseq_out_of_order"]);
    world.settle();
}

#[test]
fn an_ordinary_call_has_none() {
    let mut world = World::new(policy());
    let (mut uac, mut uas) = world.answered();
    for _ in 0..3 {
        world.send(PBX_A, uas.request("OPTIONS"));
        let options = world.take(DIALER, "OPTIONS");
        world.send(DIALER, ok(&options));
        world.take(PBX_A, "200");
        world.advance(ms(100));
    }
    world.hang_up(DIALER, PBX_A, uac.bye());
    assert_eq!(anomalies(&mut world), [""; 0]);
    world.settle();
}

#[test]
fn retransmissions_of_several_answers_are_counted_apart() {
    let mut world = World::new(policy());
    let (uac, uas) = world.called();
    let mut parties = ["one", "two"].map(|tag| (uac.clone(), uas.fork(tag)));
    for _ in 0..3 {
        for (uac, uas) in &mut parties {
            world.send(PBX_A, uas.reply(200));
            uac.learn(&world.take(DIALER, "200"));
        }
    }
    for (uac, _) in &mut parties {
        world.send(DIALER, uac.ack());
        world.take(PBX_A, "ACK");
    }
    for (uac, _) in &mut parties {
        world.none_ended();
        world.hang_up(DIALER, PBX_A, uac.bye());
    }
    assert!(!anomalies(&mut world).contains(&"retransmissions"));
    world.settle();
}

#[test]
fn zero_is_a_first_number_like_any_other() {
    let mut world = World::new(policy());
    let (_, mut uas) = world.answered();
    let info = uas.request("INFO").put("CSeq: 0 INFO");
    world.send(PBX_A, &info);
    let info = world.take(DIALER, "INFO");
    world.send(DIALER, ok(&info));
    world.take(PBX_A, "200");
    world.hang_up(PBX_A, DIALER, uas.bye());
    assert_eq!(anomalies(&mut world), Vec::<&str>::new());
    world.settle();
}

#[test]
fn a_200_that_crosses_the_cancel_of_a_hang_up_leaves_nothing_to_wait_for() {
    let mut world = World::new(policy());
    let (_, uas) = world.ringing();
    world.command(|endpoint, now| endpoint.hang_up(now, "call-1")).unwrap();
    let cancel = world.take(PBX_A, "CANCEL");
    world.send(PBX_A, uas.reply(200));
    world.send(PBX_A, ok(&cancel));
    world.take(PBX_A, "ACK");
    let bye = world.take(PBX_A, "BYE");
    world.send(PBX_A, ok(&bye));
    assert_eq!(anomalies(&mut world), Vec::<&str>::new());
    world.take_all(DIALER);
    world.settle();
}
