//! The messages of RFC 4475 and RFC 5118.

use crate::support::{DIALER, World};
use crate::wire::{Corpus, Over, deliver, policy, routed, still_works, unharmed};

/// What becomes of one file.
struct Row {
    file: &'static str,
    section: &'static str,
    udp: &'static str,
    tcp: &'static str,
}

const fn row(file: &'static str, section: &'static str, udp: &'static str, tcp: &'static str) -> Row {
    Row { file, section, udp, tcp }
}

const RFC4475: [Row; 50] = [
    row("wsinv.dat", "3.1.1.1", "forwarded", "forwarded"),
    row("intmeth.dat", "3.1.1.2", "forwarded", "forwarded"),
    row("esc01.dat", "3.1.1.3", "forwarded", "forwarded"),
    row("escnull.dat", "3.1.1.4", "forwarded", "forwarded"),
    row("esc02.dat", "3.1.1.5", "forwarded", "forwarded"),
    row("lwsdisp.dat", "3.1.1.6", "forwarded", "forwarded"),
    row("longreq.dat", "3.1.1.7", "forwarded", "forwarded"),
    // Two messages of a stream; the body of the second one is longer than its Content-Length.
    row("dblreq.dat", "3.1.1.8", "forwarded", "forwarded forwarded closed"),
    row("semiuri.dat", "3.1.1.9", "forwarded", "forwarded"),
    row("transports.dat", "3.1.1.10", "forwarded", "forwarded"),
    row("mpart01.dat", "3.1.1.11", "forwarded", "forwarded"),
    // No request of ours asks for them; see below for where one does.
    row("unreason.dat", "3.1.1.12", "dropped", "dropped"),
    row("noreason.dat", "3.1.1.13", "dropped", "dropped"),
    row("badinv01.dat", "3.1.2.1", "400", "400"),
    row("clerr.dat", "3.1.2.2", "400", "waits"),
    row("ncl.dat", "3.1.2.3", "400", "400 closed"),
    row("scalar02.dat", "3.1.2.4", "400", "400"),
    row("scalarlg.dat", "3.1.2.5", "dropped", "dropped"),
    row("quotbal.dat", "3.1.2.6", "400", "400"),
    row("ltgtruri.dat", "3.1.2.7", "400", "400"),
    row("lwsruri.dat", "3.1.2.8", "400", "400"),
    row("lwsstart.dat", "3.1.2.9", "400", "400"),
    row("trws.dat", "3.1.2.10", "400", "400"),
    row("escruri.dat", "3.1.2.11", "400", "400"),
    // Neither Date nor the Contact of a REGISTER is a proxy's to read.
    row("baddate.dat", "3.1.2.12", "forwarded", "forwarded"),
    row("regbadct.dat", "3.1.2.13", "forwarded", "forwarded"),
    // The table has 400 for these two. Both sections allow an element to be liberal, and a proxy that changes neither To
    // nor From has nothing to infer: no other tag is read here than there.
    row("badaspec.dat", "3.1.2.14", "forwarded", "forwarded"),
    row("variants/baddn-complete.dat", "3.1.2.15", "forwarded", "forwarded"),
    // The archive's file of the same message has no empty line at its end.
    row("baddn.dat", "3.1.2.15", "400", "waits"),
    row("badvers.dat", "3.1.2.16", "505", "505"),
    // 501 is for a method that nobody knows; a proxy knows none (§16.3), so both are bad requests.
    row("mismatch01.dat", "3.1.2.17", "400", "400"),
    row("mismatch02.dat", "3.1.2.18", "400", "400"),
    row("bigcode.dat", "3.1.2.19", "dropped", "dropped"),
    // The branch is the cookie alone: the request is told from others as RFC 2543 has it (§17.2.3).
    row("badbranch.dat", "3.2.1", "forwarded", "forwarded"),
    row("insuf.dat", "3.3.1", "400", "400"),
    row("unkscm.dat", "3.3.2", "416", "416"),
    row("novelsc.dat", "3.3.3", "416", "416"),
    row("unksm2.dat", "3.3.4", "forwarded", "forwarded"),
    row("bext01.dat", "3.3.5", "420", "420"),
    row("invut.dat", "3.3.6", "forwarded", "forwarded"),
    row("regaut01.dat", "3.3.7", "forwarded", "forwarded"),
    row("multi01.dat", "3.3.8", "400", "400"),
    row("mcl01.dat", "3.3.9", "400", "400 closed"),
    row("bcast.dat", "3.3.10", "dropped", "dropped"),
    // An OPTIONS that has no hop left is for whom it has reached (RFC 3261 §11).
    row("zeromf.dat", "3.3.11", "200", "200"),
    row("cparam01.dat", "3.3.12", "forwarded", "forwarded"),
    row("cparam02.dat", "3.3.13", "forwarded", "forwarded"),
    row("regescrt.dat", "3.3.14", "forwarded", "forwarded"),
    row("sdp01.dat", "3.3.15", "forwarded", "forwarded"),
    row("inv2543.dat", "3.4.1", "forwarded", "400 closed"),
];

const RFC5118: [Row; 12] = [
    row("ipv6-good.dat", "4.1", "forwarded", "forwarded"),
    row("ipv6-bad.dat", "4.2", "400", "400"),
    row("port-ambiguous.dat", "4.3", "forwarded", "forwarded"),
    row("port-unambiguous.dat", "4.4", "forwarded", "forwarded"),
    row("via-received-param-with-delim.dat", "4.5", "forwarded", "forwarded"),
    row("via-received-param-no-delim.dat", "4.5", "forwarded", "forwarded"),
    // Of three the Content-Length is short of the body: cut in a datagram (RFC 3261 §18.3), stray bytes in a stream, which
    // are no beginning of a message.
    row("ipv6-in-sdp.dat", "4.6", "forwarded", "forwarded closed"),
    row("mult-ip-in-header.dat", "4.7", "forwarded", "forwarded"),
    row("mult-ip-in-sdp.dat", "4.8", "forwarded", "forwarded closed"),
    row("ipv4-mapped-ipv6.dat", "4.9", "forwarded", "forwarded closed"),
    row("ipv6-bug-abnf-3-colons.dat", "4.10", "forwarded", "forwarded"),
    row("ipv6-correct-abnf-2-colons.dat", "4.10", "forwarded", "forwarded"),
];

/// Responses that are forwarded where a request of ours asked for them.
const RESPONSES: [&str; 2] = ["unreason.dat", "noreason.dat"];

fn check(set: &str, rows: &[Row]) {
    let Some(corpus) = Corpus::open(set) else { return };
    for (name, _) in corpus.all() {
        assert!(rows.iter().any(|row| row.file == name), "{name} has no row");
    }
    let mut wrong = Vec::new();
    for Row { file, section, udp, tcp } in rows {
        for (over, expected) in [(Over::Udp, udp), (Over::Tcp, tcp)] {
            let bytes = routed(&corpus.read(file));
            let fate = pass(over, &bytes);
            if fate != Ok((*expected).to_owned()) {
                wrong.push(format!("{file} ({section}) {over:?}: {fate:?}, not {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What becomes of a message, and whether it is whole where it is forwarded.
fn pass(over: Over, bytes: &[u8]) -> Result<String, String> {
    let mut world = World::new(policy());
    let fate = deliver(&mut world, over, DIALER, bytes);
    unharmed(&fate)?;
    still_works(&mut world);
    Ok(fate.told)
}

#[test]
fn torture_messages_of_rfc_4475_meet_their_fate() {
    check("rfc4475", &RFC4475);
}

#[test]
fn odd_reason_phrases_of_rfc_4475_pass_through_unharmed() {
    let Some(corpus) = Corpus::open("rfc4475") else { return };
    for file in RESPONSES {
        for over in [Over::Udp, Over::Tcp] {
            assert_eq!(super::captured::pass(over, &corpus.read(file)), Ok(()), "{file}");
        }
    }
}

#[test]
fn ipv6_messages_of_rfc_5118_meet_their_fate() {
    check("rfc5118", &RFC5118);
}
