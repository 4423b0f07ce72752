//! What is read: messages of our own, as devices write them and as the grammar allows them, and the corpora where they are.

use crate::wire::{Corpus, torture};

const OWN: [&str; 3] = [
    "INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK776asdhds;rport\r\nMax-Forwards: 70\r\n\
     To: Bob <sip:bob@example.com>\r\nFrom: Alice <sip:alice@example.net>;tag=1928301774\r\nCall-ID: a84b4c76e66710@192.0.2.1\r\n\
     CSeq: 314159 INVITE\r\nContact: <sip:alice@192.0.2.1>\r\nContent-Type: application/sdp\r\nContent-Length: 5\r\n\r\nv=0\r\n",
    "SIP/2.0 180 Ringing\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK776asdhds\r\nTo: Bob <sip:bob@example.com>;tag=a6c85cf\r\n\
     From: Alice <sip:alice@example.net>;tag=1928301774\r\nCall-ID: a84b4c76e66710\r\nContact: <sip:bob@192.0.2.4>\r\n\
     CSeq: 314159 INVITE\r\nContent-Length: 0\r\n\r\n",
    "BYE sip:+15550100@192.0.2.4:5070;transport=tcp SIP/2.0\r\nVia: SIP/2.0/TCP host.example.net;branch=z9hG4bKnashds10\r\n\
     v: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK2\r\nMax-Forwards: 70\r\nf: <sip:bob@example.com>;tag=a6c85cf\r\n\
     To: \"Alice; A.\" <sip:alice@example.net>;tag=1928301774;x=\"y\"\r\nCall-ID: a84b4c76e66710\r\nCSeq: 231 BYE\r\nl: 0\r\n\r\n",
];

/// Those that are always there.
pub fn own() -> Vec<(String, Vec<u8>)> {
    let own = OWN.iter().enumerate().map(|(at, text)| (format!("own {at}"), text.as_bytes().to_vec()));
    own.chain(torture().into_iter().map(|row| (format!("own {}", row.section), row.bytes))).collect()
}

/// Those of the corpora; none where they are not.
pub fn of_the_corpora() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for set in ["rfc4475", "rfc5118", "vendor", "protos", "kamailio"] {
        let messages = Corpus::open(set).map(|corpus| corpus.all()).unwrap_or_default();
        all.extend(messages.into_iter().map(|(name, bytes)| (format!("{set}/{name}"), bytes)));
    }
    all
}
