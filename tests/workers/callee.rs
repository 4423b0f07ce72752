//! A telephony server that answers everything.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};

use super::wire::{Message, Wire};

/// What it answers an INVITE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 180, 200.
    Ok,
    /// 180, and nothing more but 487 for a CANCEL.
    Ringing,
}

/// A server at work, for as long as the test process lives.
#[derive(Clone)]
pub struct Callee {
    pub address: SocketAddr,
    /// INFOs that came behind one with a higher CSeq of the same call.
    pub disorder: Arc<Mutex<Vec<String>>>,
}

impl Callee {
    pub fn udp(ip: Ipv4Addr, answer: Answer) -> Callee {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        let callee = Callee { address: socket.local_addr().unwrap(), disorder: Arc::default() };
        let this = callee.clone();
        std::thread::spawn(move || {
            let mut infos = HashMap::new();
            let mut buffer = [0; 4_096];
            while let Ok((size, from)) = socket.recv_from(&mut buffer) {
                let message = Message(String::from_utf8_lossy(&buffer[..size]).into_owned());
                for text in this.answers(&message, answer, &mut infos) {
                    socket.send_to(text.as_bytes(), from).unwrap();
                }
            }
        });
        callee
    }

    pub fn tcp(ip: Ipv4Addr, answer: Answer) -> Callee {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let callee = Callee { address: listener.local_addr().unwrap(), disorder: Arc::default() };
        let this = callee.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (this, stream) = (this.clone(), stream.unwrap());
                std::thread::spawn(move || {
                    let mut infos = HashMap::new();
                    stream.set_read_timeout(None).unwrap();
                    let mut wire = Wire::Tcp(stream, Vec::new());
                    while let Some(message) = wire.receive() {
                        // All answers at once, as a busy server writes them.
                        let texts = this.answers(&message, answer, &mut infos).concat();
                        wire.send(&texts);
                    }
                });
            }
        });
        callee
    }

    fn answers(&self, message: &Message, answer: Answer, infos: &mut HashMap<String, u32>) -> Vec<String> {
        let respond = |status| message.response(status, self.address);
        if message.code().is_some() {
            return Vec::new();
        }
        match message.method() {
            "INVITE" if answer == Answer::Ok => vec![respond("180 Ringing"), respond("200 OK")],
            "INVITE" => vec![respond("180 Ringing")],
            "CANCEL" => {
                let invite = Message(message.0.replace("CSeq: 1 CANCEL", "CSeq: 1 INVITE"));
                vec![respond("200 OK"), invite.response("487 Request Terminated", self.address)]
            }
            "INFO" => {
                let last = infos.insert(message.call_id().to_owned(), message.cseq()).unwrap_or_default();
                if last > message.cseq() {
                    self.disorder.lock().unwrap().push(format!("{}: {last}, {}", message.call_id(), message.cseq()));
                }
                vec![respond("200 OK")]
            }
            "ACK" => Vec::new(),
            _ => vec![respond("200 OK")],
        }
    }
}
