//! What a dialer and a telephony server write, made of what the core sent them.

use super::policy::{DIALER, SERVER, SIDECAR};

/// Size of the INVITE with its SDP, in bytes.
pub const INVITE_BYTES: usize = 900;

/// The dialer's half of one call.
pub struct Caller {
    number: u32,
}

impl Caller {
    pub fn new(number: u32) -> Caller {
        Caller { number }
    }

    /// The first request: always of [`INVITE_BYTES`].
    pub fn invite(&self) -> String {
        let bare = self.invite_with("");
        let name =
            "-".repeat(INVITE_BYTES.checked_sub(bare.len()).expect("the INVITE has room for its session's name"));
        self.invite_with(&name)
    }

    /// A request inside the dialog that `answer`, as it came to the dialer, made.
    pub fn in_dialog(&self, method: &str, cseq: u32, answer: &str) -> String {
        let number = self.number;
        let target = value(answer, "Contact").trim_matches(['<', '>']);
        let routes = fields(answer, "Record-Route").map(|field| field.replacen("Record-", "", 1)).collect::<Vec<_>>();
        let routes = routes.into_iter().rev().collect::<String>();
        let from = value(answer, "From");
        let to = value(answer, "To");
        let call_id = value(answer, "Call-ID");
        format!(
            "{method} {target} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {DIALER};rport;branch=z9hG4bK-{number:08x}-{method}\r\n\
             Max-Forwards: 70\r\n{routes}From: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\n\
             CSeq: {cseq} {method}\r\nUser-Agent: Dialer/7.2\r\nContent-Length: 0\r\n\r\n"
        )
    }

    /// The ACK of a failure, on the INVITE's branch.
    pub fn ack_of_failure(&self, failure: &str) -> String {
        let number = self.number;
        let [from, to, call_id] = ["From", "To", "Call-ID"].map(|name| value(failure, name));
        format!(
            "ACK sip:+15550199@{SIDECAR} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {DIALER};rport;branch=z9hG4bK-{number:08x}-INVITE\r\n\
             Max-Forwards: 70\r\nFrom: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: 1 ACK\r\n\
             Content-Length: 0\r\n\r\n"
        )
    }

    fn invite_with(&self, session: &str) -> String {
        let number = self.number;
        let body = sdp("10.0.1.5", session);
        format!(
            "INVITE sip:+15550199@{SIDECAR} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {DIALER};rport;branch=z9hG4bK-{number:08x}-INVITE\r\n\
             Max-Forwards: 70\r\n\
             From: \"Outbound\" <sip:+15550100@10.0.1.5>;tag=as{number:08x}\r\n\
             To: <sip:+15550199@{SIDECAR}>\r\n\
             Call-ID: {number:08x}-5fd3-4c6e-9d0a-6a1e44b7c001@10.0.1.5\r\n\
             CSeq: 1 INVITE\r\n\
             Contact: <sip:dialer@{DIALER}>\r\n\
             User-Agent: Dialer/7.2\r\n\
             Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, NOTIFY, INFO, UPDATE\r\n\
             Supported: replaces, timer\r\n\
             Dialing-Mode: predictive\r\n\
             Campaign-ID: spring\r\n\
             Content-Type: application/sdp\r\n\
             Content-Length: {:03}\r\n\r\n{body}",
            body.len()
        )
    }
}

/// The server's 180 to an INVITE.
pub fn ringing(invite: &str) -> String {
    reply(invite, "180 Ringing", &format!("Contact: <sip:+15550199@{SERVER}>\r\n"), "")
}

/// The server's 200 to an INVITE.
pub fn answer(invite: &str) -> String {
    let more = format!(
        "Contact: <sip:+15550199@{SERVER}>\r\nAllow: INVITE, ACK, CANCEL, OPTIONS, BYE, UPDATE\r\n\
         Supported: timer\r\nContent-Type: application/sdp\r\n"
    );
    reply(invite, "200 OK", &more, &sdp("10.0.2.10", "-"))
}

/// A response without anything of its own.
pub fn plain(request: &str, status: &str) -> String {
    reply(request, status, "", "")
}

/// The value of a header that stands there once.
pub fn value<'a>(message: &'a str, header: &'a str) -> &'a str {
    let field = fields(message, header).next().expect("the header is there");
    field.split_once(':').map(|(_, value)| value.trim()).unwrap_or_default()
}

fn reply(request: &str, status: &str, more: &str, body: &str) -> String {
    let mut text = format!("SIP/2.0 {status}\r\n");
    for header in ["Via", "Record-Route", "From", "To", "Call-ID", "CSeq"] {
        for field in fields(request, header) {
            let is_untagged = header == "To" && !field.contains(";tag=");
            text.push_str(field.trim_end());
            text.push_str(if is_untagged { ";tag=1928301774\r\n" } else { "\r\n" });
        }
    }
    format!("{text}{more}Server: PBX/20.9\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Whole lines, line ends included.
fn fields<'a>(message: &'a str, header: &'a str) -> impl Iterator<Item = &'a str> {
    let head = message.split_inclusive("\r\n").take_while(|line| *line != "\r\n");
    head.filter(move |line| line.split(':').next() == Some(header))
}

fn sdp(address: &str, session: &str) -> String {
    format!(
        "v=0\r\no=- 1764000000 1 IN IP4 {address}\r\ns={session}\r\nc=IN IP4 {address}\r\nt=0 0\r\n\
         m=audio 20000 RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\n\
         a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=sendrecv\r\n"
    )
}
