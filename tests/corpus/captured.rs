//! Messages that real devices have sent: each passes through unharmed.

use crate::support::{DIALER, PBX_A, World, reply_to};
use crate::wire::{
    Corpus, Over, Parts, answers_from, deliver, intact_response, policy, response_with_our_via, routed, unharmed,
};

/// Files of the Kamailio set that are whole and have kept their line ends. The table has sg.sip among them too, two lines
/// of which end with CR CR LF: a CR that stands alone is no line end and no part of a value (RFC 3261 §25.1).
const KAMAILIO: [&str; 6] =
    ["invite01.sip", "invite02.sip", "invite03.sip", "invite04.sip", "invite05.sip", "pingtel.sip"];

fn check(messages: Vec<(String, Vec<u8>)>) {
    let wrong = messages
        .iter()
        .flat_map(|(name, bytes)| [Over::Udp, Over::Tcp].map(|over| (name, over, pass(over, bytes))))
        .filter_map(|(name, over, result)| result.err().map(|error| format!("{name} {over:?}: {error}")))
        .collect::<Vec<_>>();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), messages.len(), wrong.join("\n"));
}

pub(super) fn pass(over: Over, bytes: &[u8]) -> Result<(), String> {
    let parts = Parts::of(bytes);
    let is_exact = parts.has("content-length", "l") && parts.write().len() == bytes.len();
    if over == Over::Tcp && !is_exact {
        // A datagram ends where it ends (RFC 3261 §18.3); in a stream the next message would begin elsewhere.
        return Ok(());
    }
    match (parts.is_request(), &*parts.method()) {
        (true, "CANCEL") => cancel(over, &parts),
        (true, _) => request(over, bytes),
        (false, "CANCEL") => Ok(()),
        (false, _) => response(over, &parts),
    }
}

/// A request, with a Route of ours where it is one inside a dialog.
fn request(over: Over, bytes: &[u8]) -> Result<(), String> {
    let bytes = routed(bytes);
    let fate = deliver(&mut World::new(policy()), over, DIALER, &bytes);
    if fate.told != "forwarded" {
        return Err(fate.told);
    }
    unharmed(&fate)
}

/// A CANCEL is each hop's own (RFC 3261 §16.10): the next one says what the captured one says.
fn cancel(over: Over, parts: &Parts) -> Result<(), String> {
    let mut world = World::new(policy());
    let mut invite = parts.clone();
    let start = String::from_utf8(parts.start.clone()).unwrap().replacen("CANCEL", "INVITE", 1);
    invite.start = start.into_bytes();
    let cseq = invite.places("cseq", "cseq")[0];
    invite.fields[cseq] = String::from_utf8(invite.fields[cseq].clone()).unwrap().replace("CANCEL", "INVITE").into();
    let fate = deliver(&mut world, over, DIALER, &invite.write());
    let [(_, sent)] = &fate.forwarded[..] else { return Err(fate.told) };
    world.send(PBX_A, reply_to(&sent.msg, 180, "Ringing", "callee"));
    world.sent.clear();
    let fate = deliver(&mut world, over, DIALER, &parts.write());
    let [(_, sent)] = &fate.forwarded[..] else { return Err(fate.told) };
    let went = Parts::of(&sent.raw);
    let said = |parts: &Parts| {
        let named = [("from", "f"), ("to", "t"), ("call-id", "i"), ("cseq", "cseq")];
        let fields = named.map(|(full, compact)| parts.first(full, compact).trim_ascii().to_vec());
        (parts.start.clone(), fields)
    };
    match fate.told == "forwarded 200" && said(&went) == said(parts) {
        true => Ok(()),
        false => Err(format!("{} {}", fate.told, sent.msg.text())),
    }
}

/// A response to a request that we forwarded, which had the Via, From, Call-ID and CSeq that the captured one has.
fn response(over: Over, parts: &Parts) -> Result<(), String> {
    let mut world = World::new(policy());
    let method = parts.method();
    let copied = [("via", "v"), ("from", "f"), ("call-id", "i"), ("cseq", "cseq")];
    let mut fields = copied.iter().flat_map(|(full, compact)| parts.places(full, compact)).collect::<Vec<_>>();
    fields.sort_unstable();
    let mut request = Parts {
        start: format!("{method} sip:callee@example.com SIP/2.0").into(),
        fields: fields.into_iter().map(|at| parts.fields[at].clone()).collect(),
        body: Vec::new(),
    };
    request.fields.push(b"To: <sip:callee@example.com>\r\nContent-Length: 0\r\n".to_vec());
    let fate = deliver(&mut world, over, DIALER, &request.write());
    let [(_, sent)] = &fate.forwarded[..] else { return Err(format!("the request: {}", fate.told)) };
    let answer = response_with_our_via(&parts.write(), &sent.raw);
    let back = answers_from(&mut world, over, PBX_A, &answer)?;
    let code = parts.start[8..11].to_vec();
    match &back[..] {
        // Made anew by each hop (RFC 3261 §16.7 step 4).
        [] if code == b"100" => Ok(()),
        [back] => intact_response(&answer, back),
        _ => Err(format!("{} messages came back", back.len())),
    }
}

#[test]
fn captured_messages_pass_through_unharmed() {
    let Some(corpus) = Corpus::open("vendor") else { return };
    check(corpus.all());
}

#[test]
fn messages_of_devices_in_the_kamailio_set_pass_through_unharmed() {
    let Some(corpus) = Corpus::open("kamailio") else { return };
    check(KAMAILIO.map(|name| (name.to_owned(), corpus.read(name))).into());
}
