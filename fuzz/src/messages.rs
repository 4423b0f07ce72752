//! Messages to begin with: plain ones, and valid ones that are written as nobody expects.

/// Header lines that no message can do without, of an INVITE's response too.
const ESSENTIAL: &str = "Via: SIP/2.0/UDP 10.0.1.5:5060;branch=z9hG4bK-seed-1;rport\r\nMax-Forwards: 70\r\n\
    From: \"Agent\" <sip:+15550100@10.0.1.5>;tag=caller\r\nTo: <sip:+15550199@10.0.0.1>\r\nCall-ID: seed-1@10.0.1.5\r\n";

/// Whole messages.
pub fn all() -> Vec<String> {
    let request = |start: &str, lines: &str| format!("{start} SIP/2.0\r\n{ESSENTIAL}{lines}");
    let response = |start: &str, lines: &str| format!("SIP/2.0 {start}\r\n{ESSENTIAL}{lines}");
    vec![
        request(
            "INVITE sip:+15550199@10.0.0.1:5060",
            "CSeq: 1 INVITE\r\nContact: <sip:agent@10.0.1.5;transport=tcp>\r\nContent-Type: application/sdp\r\n\
             Content-Length: 5\r\n\r\nv=0\r\n",
        ),
        request(
            "INVITE tel:+15550199",
            "CSeq: 2147483647 INVITE\r\nRoute: <sip:10.0.0.1;lr>, \"a, b\" <sip:h;x=\"y,z\">\r\nSession-Expires: \
             1800;refresher=uac\r\nDialing-Mode: progressive\r\nNo-Answer-Timeout: 20\r\nl: 0\r\n\r\n",
        ),
        request("OPTIONS sip:[2001:db8::1]:5060;transport=udp?x=y", "CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"),
        request("REGISTER sips:example.test", "CSeq: 7 REGISTER\r\nContact: *\r\nExpires: 0\r\n\r\n"),
        request("BYE sip:a;b=c:d@h_1.test", "CSeq: 3 BYE\r\nReason: Q.850;cause=16;text=\"a \\\"b\\\"; c\", SIP;cause=200\r\n\r\n"),
        request("REFER sip:vmdrop@10.0.0.1", "CSeq: 3 REFER\r\nr: <sip:vmdrop@10.0.0.1?Replaces=1>\r\n\r\n"),
        request("NEW!method urn:x", "CSeq: 4 NEW!method\r\nX-Odd: \"\\\0\"\r\nX-Empty:\r\nX-Fold: a\r\n  b\r\n\t\r\n\r\nbody"),
        response("180 Ringing", "CSeq: 1 INVITE\r\nRecord-Route: <sip:10.0.0.1;lr>\r\nContact: <sip:b@10.0.2.10>\r\n\r\n"),
        response("200 OK", "CSeq: 1 INVITE\r\nCall-Outcome: NumberBusy;cause=peer_final;id=forged\r\nContent-Length: 0\r\n\r\n"),
        response("486 ", "CSeq: 1 INVITE\r\nRetry-After: 120 (busy);duration=60\r\nReason: Q.850;cause=17\r\n\r\n"),
        response("603 Network Blocked", "CSeq: 1 INVITE\r\nReason: SIP;cause=603;text=\"v=analytics1\"\r\n\r\n"),
        odd(),
        "\r\n\r\nACK sip:h SIP/2.0\r\nv: SIP/2.0/TCP a;branch=z9hG4bK1;received=192.0.2.1;maddr=h , SIP / 2.0 / UDP [::1]:1\r\n\
         f: sip:a@b;tag=1\r\nt: sip:c\r\ni: x\r\nCSeq: 0 ACK\r\n\r\n"
            .to_owned(),
    ]
}

/// Broken in one way each.
pub fn broken() -> Vec<String> {
    let whole = all().swap_remove(0);
    [
        ("SIP/2.0\r\n", "SIP/3.0\r\n"),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: 5", "Content-Length: 5\r\nl: 5"),
        ("From: ", "From : \r\n "),
        ("CSeq: 1 INVITE", "CSeq: 1 BYE"),
        ("Max-Forwards: 70\r\n", "Max-Forwards: 70\n"),
        ("Call-ID", "Call ID"),
        ("To: <sip", "To: \"<sip"),
        ("Via: ", "Via: SIP/2.0/UDP , "),
    ]
    .iter()
    .map(|(from, to)| whole.replacen(from, to, 1))
    .collect()
}

/// Streams of messages and keep-alives.
pub fn streams() -> Vec<String> {
    let lengthy = |text: &String| text.contains("Content-Length: ") || text.contains("\r\nl: ");
    let all = all().into_iter().filter(lengthy).collect::<Vec<_>>();
    let pinged = all.iter().map(|message| format!("\r\n\r\n{message}\r\n")).collect::<String>();
    vec![all.concat(), pinged, broken().concat(), all.iter().cloned().chain(broken()).collect()]
}

/// Valid, with white space, folds, cases and short names wherever the grammar has room for them.
fn odd() -> String {
    "INVITE sip:vivekg@chair-dnrc.test;unknownparam SIP/2.0\r\nTO :\r\n sip:c@h ;   tag    = 98x\r\n\
     from   : \"J \\\\\\\"\" <sip:j@h>\r\n  ;\r\n  tag = 98\r\nMaX-fOrWaRdS: 0068\r\nCall-ID: a.b@192.0.2.1\r\n\
     cseq: 0009\r\n  INVITE\r\nVia  : SIP  /   2.0\r\n /UDP\r\n    192.0.2.2;branch=z9hG4bK390\r\ns :\r\n\
     v:  SIP  / 2.0  / TCP     h.test   ;\r\n  branch  =   z9hG4bK9ikj8  ,\r\n SIP  /    2.0   / UDP  192.168.255.111   ; branch=\r\n\
      z9hG4bK30239\r\nm:\"Quoted \\\"\" <sip:j@h>;x=\"a;b\"\r\nl: 3\r\nNewFangled:   x\r\n cont ;;,,;;,;\r\n\r\nabc"
        .to_owned()
}
