//! SIP as far as these user agents need it: text in, text out, over datagrams or a stream.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A message as text.
#[derive(Clone, Debug)]
pub struct Message(pub String);

impl Message {
    /// The values of all fields of that name, in order.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.0
            .lines()
            .filter_map(move |line| line.split_once(": ").filter(|(field, _)| field.eq_ignore_ascii_case(name)))
            .map(|of| of.1)
    }

    pub fn value<'a>(&'a self, name: &'a str) -> &'a str {
        self.values(name).next().unwrap_or_default()
    }

    pub fn call_id(&self) -> &str {
        self.value("Call-ID")
    }

    /// The code of a response.
    pub fn code(&self) -> Option<u16> {
        self.0.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
    }

    /// The method of a request, or that of a response's CSeq.
    pub fn method(&self) -> &str {
        self.value("CSeq").split(' ').nth(1).unwrap_or_default()
    }

    pub fn cseq(&self) -> u32 {
        self.value("CSeq").split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default()
    }

    /// The fields of that name as lines.
    pub fn lines(&self, name: &str) -> String {
        self.values(name).map(|value| format!("{name}: {value}\r\n")).collect()
    }

    /// The response to this request.
    pub fn response(&self, status: &str, contact: SocketAddr) -> String {
        let to = match self.value("To") {
            to if to.contains(";tag=") => to.to_owned(),
            to => format!("{to};tag=callee"),
        };
        format!(
            "SIP/2.0 {status}\r\n{}{}From: {}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {}\r\nContact: <sip:{contact}>\r\n\
             Content-Length: 0\r\n\r\n",
            self.lines("Via"),
            self.lines("Record-Route"),
            self.value("From"),
            self.call_id(),
            self.value("CSeq"),
        )
    }
}

/// A way to a peer.
pub enum Wire {
    /// What is sent goes to the address.
    Udp(UdpSocket, SocketAddr),
    Tcp(TcpStream, Vec<u8>),
}

impl Wire {
    pub fn udp(socket: UdpSocket, peer: SocketAddr) -> Wire {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Wire::Udp(socket, peer)
    }

    pub fn tcp(stream: TcpStream) -> Wire {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Wire::Tcp(stream, Vec::new())
    }

    pub fn local(&self) -> SocketAddr {
        match self {
            Wire::Udp(socket, _) => socket.local_addr().unwrap(),
            Wire::Tcp(stream, _) => stream.local_addr().unwrap(),
        }
    }

    pub const fn name(&self) -> &'static str {
        match self {
            Wire::Udp(..) => "UDP",
            Wire::Tcp(..) => "TCP",
        }
    }

    pub fn send(&mut self, text: &str) {
        match self {
            Wire::Udp(socket, peer) => drop(socket.send_to(text.as_bytes(), *peer)),
            Wire::Tcp(stream, _) => stream.write_all(text.as_bytes()).unwrap(),
        }
    }

    /// The next message, none of which has a body; `None` when the peer has closed.
    pub fn receive(&mut self) -> Option<Message> {
        match self {
            Wire::Udp(socket, _) => {
                let mut buffer = [0; 4_096];
                let size = socket.recv(&mut buffer).expect("a message comes in time");
                Some(Message(String::from_utf8_lossy(&buffer[..size]).into_owned()))
            }
            Wire::Tcp(stream, buffer) => loop {
                if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                    let rest = buffer.split_off(end + 4);
                    let message = std::mem::replace(buffer, rest);
                    return Some(Message(String::from_utf8_lossy(&message).into_owned()));
                }
                let mut more = [0; 4_096];
                match stream.read(&mut more) {
                    Ok(size) if size > 0 => buffer.extend_from_slice(&more[..size]),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no message came in time"),
                    _ => return None,
                }
            },
        }
    }
}
