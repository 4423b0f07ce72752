//! Where the stamp is, where it is not, and that nobody can forge it (section 2).

use crate::support::{DIALER, PBX_A, Uac, World, ok, policy, reply_to, secs};

#[test]
fn forged_stamps_are_removed_from_both_sides() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let forged = ["Call-Outcome: Normal;id=forged", "call-outcome : VoicemailDrop"];
    let invite = uac.invite().with(forged[0]).with(forged[1]);
    let (uac, uas) = world.place(&uac, invite, PBX_A);
    assert!(!uas.invite.has("Call-Outcome"));
    world.send(PBX_A, uas.reply(180).with(forged[0]));
    assert!(!world.take(DIALER, "180").has("Call-Outcome"));
    world.send(PBX_A, uas.reply(200).with(forged[0]).topped(forged[1]));
    let answer = world.take(DIALER, "200");
    let uid = world.endpoint.call("call-1").unwrap().data.call_uid;
    assert_eq!(answer.all("Call-Outcome"), [format!("Normal;id={uid}")]);
    let mut uac = uac;
    uac.learn(&answer);
    let ack = uac.ack().with(forged[0]);
    world.send(DIALER, ack);
    assert!(!world.take(PBX_A, "ACK").has("Call-Outcome"));
    world.send(DIALER, uac.request("INFO").with(forged[1]));
    let info = world.take(PBX_A, "INFO");
    assert!(!info.has("Call-Outcome"));
    world.send(PBX_A, ok(&info).with(forged[0]));
    assert!(!world.take(DIALER, "200").has("Call-Outcome"));
    world.send(DIALER, uac.bye().with(forged[0]));
    let bye = world.take(PBX_A, "BYE");
    assert!(!bye.has("Call-Outcome"));
    world.send(PBX_A, ok(&bye).with(forged[0]));
    assert_eq!(world.take(DIALER, "200").all("Call-Outcome").len(), 1);
    world.ended();
    world.settle();
}

#[test]
fn forged_stamps_are_removed_outside_of_calls_too() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    world.send(DIALER, uac.request("MESSAGE").with("Call-Outcome: Normal"));
    let message = world.take(PBX_A, "MESSAGE");
    assert!(!message.has("Call-Outcome"));
    world.send(PBX_A, reply_to(&message, 404, "Not Found", "x").with("Call-Outcome: Normal"));
    assert!(!world.take(DIALER, "404").has("Call-Outcome"));
    world.settle();
}

#[test]
fn every_retransmission_bears_the_same_stamp() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite = uac.invite();
    let (_, uas) = world.place(&uac, invite.clone(), PBX_A);
    world.send(PBX_A, uas.reply(486));
    world.take(PBX_A, "ACK");
    let first = world.take(DIALER, "486");
    // Timer G, and an answer to the INVITE that comes again.
    world.advance(secs(2));
    world.send(DIALER, invite);
    let again = world.take_all(DIALER);
    assert_eq!(again.len(), 3);
    assert!(again.iter().all(|busy| busy.text() == first.text()), "{again:?}");
    assert!(first.has("Call-Outcome"));
    world.settle();
}

#[test]
fn the_header_may_have_several_names() {
    let mut policy = policy();
    policy.stamp.headers = vec!["X-Call-Outcome".into(), "P-Outcome".into()];
    let mut world = World::new(policy);
    let (uac, uas) = world.called();
    let busy = world.fail(&uac, &uas, uas.reply(486).with("P-Outcome: Normal").with("Call-Outcome: mine"));
    let uid = world.ended().call_uid;
    for name in ["X-Call-Outcome", "P-Outcome"] {
        assert_eq!(busy.all(name), [format!("NumberBusy;cause=peer_final;id={uid}")]);
    }
    assert_eq!(busy.one("Call-Outcome"), "mine", "a header of that name is nothing to us then");
    world.settle();
}

#[test]
fn the_outcome_may_be_the_reason_phrase() {
    let mut policy = policy();
    policy.stamp.reason_phrase = true;
    let mut world = World::new(policy);
    let (uac, uas) = world.called();
    assert_eq!(world.fail(&uac, &uas, uas.reply(486)).start(), "SIP/2.0 486 NumberBusy");
    assert_eq!(world.ended().reason_phrase.as_deref(), Some("Busy Here"));
    let (uac, uas) = world.ringing();
    world.send(PBX_A, uas.reply(200));
    assert_eq!(world.take(DIALER, "200").start(), "SIP/2.0 200 Normal");
    world.send(PBX_A, uas.reply(200));
    assert_eq!(world.take(DIALER, "200").start(), "SIP/2.0 200 Normal");
    let (_, uas) = world.ringing();
    world.advance(secs(30));
    world.send(PBX_A, uas.reply(487));
    assert_eq!(world.take(DIALER, "408").start(), "SIP/2.0 408 NoAnswer");
    drop(uac);
    world.settle();
}

#[test]
fn an_inbound_call_bears_no_stamp_but_its_bye_to_the_dialer_does() {
    let mut world = World::new(policy());
    let mut uac = Uac::new(PBX_A, "in");
    let invite = uac.invite();
    let (uac, uas) = world.place(&uac, invite, DIALER);
    world.send(DIALER, uas.reply(200));
    let answer = world.take(PBX_A, "200");
    assert!(!answer.has("Call-Outcome"));
    let mut uac = uac;
    uac.learn(&answer);
    let ack = uac.ack();
    world.send(PBX_A, ack);
    let (bye, answer) = world.hang_up(PBX_A, DIALER, uac.bye());
    assert_eq!(bye.stamp().map(|(outcome, cause, _)| (outcome, cause)), Some(("Normal", Some("answered_bye_caller"))));
    assert!(!answer.has("Call-Outcome"));
    world.ended_as("Normal", "answered_bye_caller");

    let mut uac = Uac::new(PBX_A, "in-busy");
    let invite = uac.invite();
    let (uac, uas) = world.place(&uac, invite, DIALER);
    assert!(!world.fail(&uac, &uas, uas.reply(486)).has("Call-Outcome"));
    world.ended_as("NumberBusy", "peer_final");
    world.settle();
}

#[test]
fn the_telephony_server_sees_stamps_where_that_is_wanted() {
    let mut policy = policy();
    policy.stamp.to_both = true;
    let mut world = World::new(policy);
    let mut uac = Uac::new(PBX_A, "in");
    let invite = uac.invite();
    let (uac, uas) = world.place(&uac, invite, DIALER);
    assert!(world.fail(&uac, &uas, uas.reply(486)).has("Call-Outcome"));
    world.ended();
    let (mut uac, _) = world.answered();
    let (bye, answer) = world.hang_up(DIALER, PBX_A, uac.bye());
    assert!(bye.has("Call-Outcome") && answer.has("Call-Outcome"));
    world.ended();
    world.settle();
}

#[test]
fn what_passes_is_otherwise_the_same_byte_for_byte() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let odd = ["X-Odd :  two   spaces ", "Subject: folded\r\n  here", "k: 100rel , timer", "x-lower: \u{e4}\u{20ac}"];
    let invite = odd.iter().fold(uac.invite(), |invite, line| invite.with(*line)).body("v=0\r\n\r\nx");
    let (_, uas) = world.place(&uac, invite, PBX_A);
    for line in odd {
        assert!(uas.invite.text().contains(&format!("\r\n{line}\r\n")), "{line}");
    }
    assert_eq!(uas.invite.body(), "v=0\r\n\r\nx");
    world.settle();
}
