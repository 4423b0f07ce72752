//! Values that we copy into messages of our own: a line end in one of them, which only a fold can bring, begins no field there.

use std::sync::Arc;

use sipstamp::outcome::Outcome;
use sipstamp::policy::{Disposition, Policy};

use crate::support::{DIALER, Msg, PBX_A, Text, World, minutes, ok, policy, reply_to, secs};
use crate::wire::{Parts, disagreement};

/// What a fold in a value tries to bring in.
const FOLD: &str = "\r\n Evil: 1";
const START: &str = "\r\n BYE sip:mallory@example.net SIP/2.0";

/// Whatever left reads the same for everybody, and has no field that nobody wrote.
#[track_caller]
fn check(sent: &[Msg]) {
    assert!(!sent.is_empty());
    for msg in sent {
        assert_eq!(disagreement(msg.text().as_bytes()), None, "{}", msg.text());
        let parts = Parts::of(msg.text().as_bytes());
        assert!(!parts.has("evil", ""), "{}", msg.text());
        assert!(!parts.is_request() || msg.start().ends_with(" SIP/2.0"), "{}", msg.text());
    }
}

/// Everything that the sidecar sent to both sides, taken.
fn all(world: &mut World) -> Vec<Msg> {
    std::mem::take(&mut world.sent).into_iter().map(|sent| sent.msg).collect()
}

fn with_contact(text: Text, contact: &str) -> Text {
    text.put(&format!("Contact: {contact}"))
}

/// Contacts, Record-Routes and Routes with a line end where no URI has one.
fn bad_addresses() -> Vec<String> {
    let mut found = Vec::new();
    for fold in [FOLD, START, "\r\n ", "\r\n\t;x", " ", "\t"] {
        found.push(format!("<sip:bob@10.0.2.10;x={fold}>"));
        found.push(format!("<sip:bob{fold}@10.0.2.10>"));
        found.push(format!("<tel:+15550100{fold}>"));
        found.push(format!("<sip:10.0.2.10?x={fold}>"));
    }
    let no_uris =
        ["bob", "<>", "<sip:>", "<sip:bob@>", "<sip:2001:db8::1>", "<sip:10.0.2.10:99999>", "<:x>", "<sip:10.0.2.10"];
    found.extend(no_uris.map(str::to_owned));
    found.push("<sip:bob@10.0.2.10;x=\u{7f}>".to_owned());
    found
}

#[test]
fn a_fold_in_a_contact_does_not_part_the_request_line_of_our_bye() {
    for contact in bad_addresses() {
        let mut policy = policy();
        policy.timeouts.max_duration = minutes(10);
        let mut world = World::new(policy);
        let mut uac = world.uac();
        let invite = with_contact(uac.invite(), &contact.replace("10.0.2.10", "10.0.1.5"));
        let (mut uac, uas) = world.place(&uac, invite, PBX_A);
        world.send(PBX_A, with_contact(uas.reply(200), &contact));
        uac.learn(&world.take(DIALER, "200"));
        uac.target = format!("sip:bob@{PBX_A}");
        let ack = uac.ack();
        world.send(DIALER, ack);
        world.sent.clear();
        world.advance(minutes(10));
        let sent = all(&mut world);
        assert_eq!(sent.iter().filter(|msg| msg.kind() == "BYE").count(), 2, "{contact}");
        check(&sent);
    }
}

#[test]
fn a_fold_in_a_contact_does_not_part_what_a_late_200_gets() {
    for contact in bad_addresses() {
        let mut world = World::new(policy());
        let (uac, uas) = world.ringing();
        world.send(DIALER, uac.cancel());
        world.advance(secs(1));
        world.sent.clear();
        world.send(PBX_A, with_contact(uas.reply(200), &contact));
        let sent = all(&mut world);
        assert_eq!(sent.iter().map(Msg::kind).collect::<Vec<_>>(), ["ACK", "BYE"], "{contact}");
        check(&sent);
    }
}

#[test]
fn a_fold_in_a_strict_route_does_not_part_a_request_line() {
    for route in bad_addresses() {
        let mut world = World::new(policy());
        let (uac, uas) = world.ringing();
        world.send(DIALER, uac.cancel());
        world.advance(secs(1));
        world.sent.clear();
        world.send(PBX_A, uas.reply(200).topped(format!("Record-Route: {route}")));
        check(&all(&mut world));

        let mut world = World::new(policy());
        let (mut uac, _) = world.answered();
        let bye = uac.bye().with(format!("Route: {route}"));
        world.send(DIALER, bye);
        check(&all(&mut world));

        let mut world = World::new(policy());
        let (mut uac, _) = world.answered();
        let bye = uac.bye().without("Route").with(format!("Route: {route}")).to_string();
        let target = bye.split(' ').nth(1).unwrap();
        let bye = bye.replacen(target, "sip:10.0.0.1:5060;lr", 1);
        world.send(DIALER, bye);
        check(&all(&mut world));
    }
}

#[test]
fn a_fold_in_a_contact_does_not_part_the_request_line_for_a_peer_without_routes() {
    for contact in bad_addresses() {
        let mut world = World::new(policy());
        let (mut uac, uas) = world.ringing();
        world.send(PBX_A, with_contact(uas.reply(200), &contact));
        uac.learn(&world.take(DIALER, "200"));
        uac.routes.clear();
        uac.target = "sip:bob@10.0.0.1:5060".to_owned();
        let (ack, bye) = (uac.ack(), uac.bye());
        world.send(DIALER, ack);
        world.send(DIALER, bye);
        check(&all(&mut world));
    }
}

#[test]
fn reasons_are_copied_with_their_folds_and_bytes() {
    for reason in [
        "SIP;cause=200",
        "Q.850;cause=16\r\n ;text=\"x\"",
        "Q.850;cause=16;text=\"\r\n Evil: 1\"",
        "SIP;text=\"\u{e9}\\\"\"",
    ] {
        let mut world = World::new(policy());
        let (uac, _) = world.ringing();
        world.send(DIALER, uac.cancel().with(format!("Reason: {reason}")));
        let sent = all(&mut world);
        check(&sent);
        let cancel = sent.iter().find(|msg| msg.kind() == "CANCEL").unwrap();
        let copied = Parts::of(cancel.text().as_bytes());
        assert_eq!(copied.first("reason", ""), format!("Reason: {reason}\r\n").as_bytes());
    }
}

#[test]
fn what_is_not_supported_is_named_without_a_line_of_its_own() {
    let mut world = World::new(policy());
    let mut uac = world.uac();
    let invite = uac.invite().with(format!("Proxy-Require: foo{FOLD}, bar{START}"));
    world.send(DIALER, invite);
    let sent = all(&mut world);
    check(&sent);
    assert!(sent.iter().any(|msg| msg.code() == 420 && msg.has("Unsupported")));
}

#[test]
fn a_disposition_stays_in_its_parameter() {
    let text: Arc<str> = "NA\r\nEvil: 1\u{0}\u{7f}\"\\;x=\u{85}".into();
    let disposition = Disposition {
        outcome: Outcome::NumberBusy,
        end_cause: None,
        disposition: Some(text.clone()),
        next: Some(text),
    };
    let mut world = World::new(Policy { dispositions: vec![disposition], ..policy() });
    let (uac, uas) = world.ringing();
    let failure = world.fail(&uac, &uas, uas.reply(486));
    check(std::slice::from_ref(&failure));
    let quoted = "\"NAEvil: 1\\\"\\\\;x=\"";
    assert!(failure.one("Call-Outcome").ends_with(&format!(";disposition={quoted};next={quoted}")));
}

#[test]
fn names_tags_and_phrases_are_copied_as_they_came() {
    let mut policy = policy();
    policy.timeouts.max_duration = minutes(10);
    policy.capture.correlation = Some("Correlation-ID".into());
    let mut world = World::new(policy);
    let mut uac = world.uac();
    let from = format!("From: \"x{FOLD}\" <sip:alice@example.net>\r\n ;tag=1{FOLD}");
    let invite = uac
        .invite()
        .put(&from)
        .put(&format!("To: Bob{FOLD}\r\n <sip:bob@example.com>"))
        .with(format!("Correlation-ID: 7{FOLD}"))
        .with(format!("Subject: x{START}"));
    let invite = Msg::new({
        world.send(DIALER, invite);
        world.take_sent(PBX_A, "INVITE").msg.text().to_owned()
    });
    check(std::slice::from_ref(&invite));
    // The answer is written by hand: the test's own reader knows no folds.
    let parts = Parts::of(invite.text().as_bytes());
    let answer = Parts {
        start: b"SIP/2.0 200 OK \x80\xff Evil: 1".to_vec(),
        fields: parts
            .fields
            .iter()
            .filter(|field| {
                [&b"Via"[..], b"Record", b"From", b"Call-ID", b"CSeq"].iter().any(|name| field.starts_with(name))
            })
            .cloned()
            .chain([
                b"To: Bob\r\n Evil: 1\r\n <sip:bob@example.com>;tag=2\r\n".to_vec(),
                b"Contact: <sip:bob@10.0.2.10>\r\nContent-Length: 0\r\n".to_vec(),
            ])
            .collect(),
        body: Vec::new(),
    };
    world.sent.clear();
    crate::wire::deliver(&mut world, crate::wire::Over::Udp, PBX_A, &answer.write());
    world.advance(minutes(11));
    let sent = all(&mut world);
    check(&sent);
    assert!(sent.iter().any(|msg| msg.kind() == "BYE"));
}

#[test]
fn an_answer_of_ours_repeats_a_broken_request_as_it_is() {
    let mut world = World::new(policy());
    let broken = format!(
        "INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.1.5;branch=z9hG4bK1;x=\"{FOLD}\"\r\nFrom: <sip:a@b>\r\n ;tag=1{FOLD}\r\n\
         To: \"{FOLD}\" <sip:bob@example.com>{START}\r\nCall-ID: c{FOLD}\r\nCSeq: 1{FOLD}\r\n\r\n"
    );
    world.send(DIALER, broken);
    let sent = all(&mut world);
    check(&sent);
    assert_eq!(sent.iter().map(Msg::code).collect::<Vec<_>>(), [400]);
}

#[test]
fn a_stamp_from_outside_dies_under_any_spelling() {
    for line in
        ["Call-Outcome: Normal", "call-outcome:Normal", "CALL-OUTCOME \t: Normal", "Call-Outcome:\r\n Normal\r\n ;x"]
    {
        let mut world = World::new(policy());
        let mut uac = world.uac();
        let invite = uac.invite().with(line);
        let (_, uas) = world.place(&uac, invite, PBX_A);
        assert!(!uas.invite.text().to_ascii_lowercase().contains("call-outcome"), "{line}");
        world.send(PBX_A, uas.reply(180).with(line));
        assert!(!world.take(DIALER, "180").text().to_ascii_lowercase().contains("call-outcome"), "{line}");
        let busy = reply_to(&uas.invite, 486, "Busy Here", "x").with(line);
        world.send(PBX_A, busy);
        let stamps = world.take(DIALER, "486").text().to_ascii_lowercase().matches("call-outcome").count();
        assert_eq!(stamps, 1, "{line}");
    }
}

#[test]
fn a_bye_may_be_answered_after_all_that() {
    let mut world = World::new(policy());
    let (mut uac, _) = world.answered();
    let bye = uac.bye();
    world.send(DIALER, bye);
    let bye = world.take(PBX_A, "BYE");
    world.send(PBX_A, ok(&bye));
    check(&[world.take(DIALER, "200")]);
}
