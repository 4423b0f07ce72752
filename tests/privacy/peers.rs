//! A telephony server that does what the INVITE's `Scenario` asks for, and quotes numbers wherever it can; and a dialer that
//! takes calls.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use crate::wire::Message;

/// Answers for as long as the test process lives.
pub fn serve(ip: Ipv4Addr, port: u16, is_first: bool) {
    let socket = UdpSocket::bind((ip, port)).unwrap();
    let local = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut invites = HashMap::new();
        let mut buffer = [0; 8_192];
        while let Ok((size, from)) = socket.recv_from(&mut buffer) {
            let message = Message(String::from_utf8_lossy(&buffer[..size]).into_owned());
            if message.0.starts_with("INVITE ") {
                invites.insert(message.call_id().to_owned(), message.clone());
            }
            for text in answers(&message, local, is_first, &invites) {
                socket.send_to(text.as_bytes(), from).unwrap();
            }
        }
    });
}

fn answers(message: &Message, local: SocketAddr, is_first: bool, invites: &HashMap<String, Message>) -> Vec<String> {
    let plain = |message: &Message, status: &str| response(message, status, &format!("<sip:{local}>"), "");
    if message.code().is_some() {
        return Vec::new();
    }
    match message.method() {
        "INVITE" => invited(message, local, is_first),
        "ACK" => Vec::new(),
        "CANCEL" => {
            let invite = invites.get(message.call_id()).map(|invite| plain(invite, "487 Request Terminated"));
            [plain(message, "200 OK")].into_iter().chain(invite).collect()
        }
        "REFER" => vec![plain(message, "202 Accepted")],
        _ => vec![plain(message, "200 OK")],
    }
}

fn invited(message: &Message, local: SocketAddr, is_first: bool) -> Vec<String> {
    let number = message.call_id().split('~').next().unwrap_or_default();
    let bare = number.trim_start_matches("+49");
    let contact = format!("<sip:{number}@{local}>");
    let respond = |status: &str, more: &str| response(message, status, &contact, more);
    let ok = || vec![respond("180 Ringing", ""), respond("200 OK", "")];
    let other = number.replace("8761231", "8761232");
    match message.value("Scenario") {
        "busy" => vec![respond(
            &format!("486 Line 0{bare} is busy"),
            &format!("Reason: Q.850;cause=17;text=\"{number}\"\r\n"),
        )],
        "moved" => {
            let contact = format!("<sip:{other}@{local}>, <tel:{other}>");
            vec![response(message, &format!("302 Moved to {}", other.trim_start_matches('+')), &contact, "")]
        }
        "rings" => vec![respond("180 Ringing", "")],
        "auth" => vec![respond("407 Who is it", "Proxy-Authenticate: Digest realm=\"r\", nonce=\"n\"\r\n")],
        "gone" => {
            let dashed = format!("{}-{}", &bare[..3], &bare[3..]);
            vec![respond("480 Gone", &format!("Reason: SIP;cause=480;text=\"<tel:+49-{dashed}> has {other}\"\r\n"))]
        }
        "refuses" => vec![respond("488 Not Acceptable Here", "")],
        "declines" => vec![respond(&format!("603 {number}"), "")],
        "fails over" if is_first => vec![respond(&format!("503 No room for {number}"), "")],
        "silent" => Vec::new(),
        "nowhere" => {
            let contact = format!("<sip:{number}@no-such-host.invalid>");
            vec![response(message, "200 OK", &contact, "")]
        }
        _ => ok(),
    }
}

/// With the number in the To tag.
fn response(message: &Message, status: &str, contact: &str, more: &str) -> String {
    let number = message.call_id().split('~').next().unwrap_or_default();
    let to = match message.value("To") {
        to if to.contains(";tag=") => to.to_owned(),
        to => format!("{to};tag=to-{}", number.trim_start_matches('+')),
    };
    format!(
        "SIP/2.0 {status}\r\n{}{}From: {}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {}\r\nContact: {contact}\r\n{more}\
         Content-Length: 0\r\n\r\n",
        message.lines("Via"),
        message.lines("Record-Route"),
        message.value("From"),
        message.call_id(),
        message.value("CSeq"),
    )
}
