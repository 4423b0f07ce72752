//! The messages of a call, as they are sent and as they have to arrive.

use std::net::SocketAddr;

use super::template::Template;
use super::wire::Outbox;

/// A line in all responses of the server, and in no response that a device makes.
pub const SERVER_LINE: &str = "Server: PBX/20.9\r\n";
/// Size of an INVITE with its SDP, in bytes.
const INVITE_BYTES: usize = 900;

/// Who talks to whom, by what.
#[derive(Debug, Clone)]
pub struct Addresses {
    pub device: SocketAddr,
    pub dialer: SocketAddr,
    pub server: SocketAddr,
    pub is_tcp: bool,
    /// Sets the calls of this process apart from those of another one: branches and Call-IDs must never come again.
    pub series: u32,
}

/// A message of one kind.
#[derive(Debug)]
pub struct Form {
    head: Template,
    /// What follows the lines that depend on what was received.
    tail: Template,
    /// The request or status line, as it was sent.
    pub start: Template,
    /// The lines that have to pass unaltered: all but the first, Via and Max-Forwards.
    pub lines: Template,
    pub body: Template,
    /// The dialer's Via up to its parameters, and its branch; in requests only.
    pub via: Template,
    pub branch: Template,
}

/// All kinds.
#[derive(Debug)]
pub struct Messages {
    pub invite: Form,
    pub ack: Form,
    pub bye: Form,
    pub ringing: Form,
    pub answer: Form,
    pub ended: Form,
    /// Behind the number in a Call-ID.
    pub call_id_tail: Vec<u8>,
}

impl Form {
    fn new(head: &str, tail: &str) -> Form {
        let text = format!("{head}{tail}");
        let (fields, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = fields.split("\r\n");
        let start = lines.next().unwrap_or_default();
        let (touched, passing): (Vec<_>, Vec<_>) =
            lines.partition(|line| line.starts_with("Via:") || line.starts_with("Max-Forwards:"));
        let via = touched.iter().find(|line| line.starts_with("Via:")).copied().unwrap_or_default();
        let passing = passing.iter().map(|line| format!("{line}\r\n")).collect::<String>();
        Form {
            head: Template::new(head),
            tail: Template::new(tail),
            start: Template::new(start),
            lines: Template::new(&passing),
            body: Template::new(body),
            via: Template::new(via.split(';').next().unwrap_or_default()),
            branch: Template::new(via.rsplit(';').next().unwrap_or_default()),
        }
    }

    /// Writes the message of a call with `middle`, whole lines, in its place.
    pub fn write(&mut self, number: u32, middle: &[u8], out: &mut Outbox) {
        out.push(&[self.head.of(number), middle, self.tail.of(number)]);
    }

    /// Bytes of the message without a middle.
    pub fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }
}

impl Messages {
    pub fn new(addresses: &Addresses) -> Messages {
        let Addresses { device, dialer, server, series, .. } = addresses;
        let parameter = if addresses.is_tcp { ";transport=tcp" } else { "" };
        let from = format!("From: \"Outbound\" <sip:+15550100@{dialer}>;tag=as{{n}}{series:08x}\r\n");
        let to = format!("To: <sip:+15550199@{device}>");
        let to_tagged = format!("{to};tag=ts{{n}}{series:08x}\r\n");
        let call_id_tail = format!("-{series:08x}-4c6e-9d0a-6a1e44b7c001@{}\r\n", dialer.ip());
        let call_id = format!("Call-ID: {{n}}{call_id_tail}");
        let contact = format!("sip:+15550199@{server}{parameter}");
        let contact_line = format!("Contact: <{contact}>\r\n");
        let answer = format!("{contact_line}Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, UPDATE\r\nSupported: timer\r\n");
        let request = |method: &str, uri: &str| request_head(addresses, method, uri);
        let dialog = format!("{from}{to_tagged}{call_id}");
        let in_dialog =
            |cseq: &str| format!("{dialog}CSeq: {cseq}\r\nUser-Agent: Dialer/7.2\r\nContent-Length: 0\r\n\r\n");
        let reply = |status: &str, cseq: &str, more: &str, body: &str| {
            let tail = format!("{dialog}CSeq: {cseq}\r\n{more}{SERVER_LINE}{}", with_length(body));
            Form::new(&format!("SIP/2.0 {status}\r\n"), &tail)
        };
        Messages {
            invite: invite(addresses, &format!("{from}{to}\r\n{call_id}"), parameter),
            ack: Form::new(&request("ACK", &contact), &in_dialog("1 ACK")),
            bye: Form::new(&request("BYE", &contact), &in_dialog("2 BYE")),
            ringing: reply("180 Ringing", "1 INVITE", &contact_line, ""),
            answer: reply("200 OK", "1 INVITE", &answer, &sdp(&server.ip().to_string(), "-")),
            ended: reply("200 OK", "2 BYE", "", ""),
            call_id_tail: call_id_tail.into_bytes(),
        }
    }
}

/// The request line, Via and Max-Forwards. The branch is the last parameter of the Via.
fn request_head(addresses: &Addresses, method: &str, uri: &str) -> String {
    let Addresses { dialer, series, is_tcp, .. } = addresses;
    let transport = if *is_tcp { "TCP" } else { "UDP" };
    format!(
        "{method} {uri} SIP/2.0\r\n\
         Via: SIP/2.0/{transport} {dialer};rport;branch=z9hG4bK-{series:08x}-{{n}}-{method}\r\n\
         Max-Forwards: 70\r\n"
    )
}

/// Always of [`INVITE_BYTES`]: the session's name fills up.
fn invite(addresses: &Addresses, dialog: &str, parameter: &str) -> Form {
    let Addresses { device, dialer, .. } = addresses;
    let head = request_head(addresses, "INVITE", &format!("sip:+15550199@{device}"));
    let fields = format!(
        "{dialog}CSeq: 1 INVITE\r\nContact: <sip:dialer@{dialer}{parameter}>\r\nUser-Agent: Dialer/7.2\r\n\
         Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, NOTIFY, INFO, UPDATE\r\nSupported: replaces, timer\r\n\
         Dialing-Mode: predictive\r\nCampaign-ID: spring\r\n"
    );
    let form = |session: &str| {
        let body = sdp(&dialer.ip().to_string(), session);
        Form::new(&head, &format!("{fields}{}", with_length(&body)))
    };
    let missing = INVITE_BYTES.saturating_sub(form("").len());
    form(&"-".repeat(missing.max(1)))
}

fn with_length(body: &str) -> String {
    let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
    format!("{kind}Content-Length: {}\r\n\r\n{body}", Template::new(body).len())
}

/// The number of the call stands in it too, so that a body in the wrong message is seen.
fn sdp(address: &str, session: &str) -> String {
    format!(
        "v=0\r\no=call-{{n}} 1764000000 1 IN IP4 {address}\r\ns={session}\r\nc=IN IP4 {address}\r\nt=0 0\r\n\
         m=audio 20000 RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\n\
         a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=sendrecv\r\n"
    )
}
