//! The least that a device can do: it copies what it reads, and nothing else. The yardstick of `make bench`.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use socket2::SockRef;

/// Larger than any datagram of the generator, and what a connection is read by.
const ROOM: usize = 64 * 1024;

/// Asked for as the socket's receive buffer, so that a moment without a processor costs no datagram.
const BUFFER: usize = 4 * 1024 * 1024;

/// `recvfrom` and `sendto` between two peers, until the process is ended.
pub fn datagrams(socket: &UdpSocket, dialer: SocketAddr, server: SocketAddr) -> io::Result<()> {
    SockRef::from(socket).set_recv_buffer_size(BUFFER)?;
    let mut bytes = vec![0; ROOM];
    loop {
        match socket.recv_from(&mut bytes) {
            Ok((count, from)) => {
                let to = if from == dialer { server } else { dialer };
                // What cannot be sent is lost, as anywhere on the way.
                let _ = socket.send_to(&bytes[..count], to);
            }
            // What ICMP said about an earlier datagram.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error),
        }
    }
}

/// One connection from the dialer, one to the server, and a copying thread for each direction.
pub fn streams(listener: &TcpListener, server: SocketAddr) -> io::Result<()> {
    let (left, _) = listener.accept()?;
    let right = TcpStream::connect(server)?;
    for stream in [&left, &right] {
        stream.set_nodelay(true)?;
    }
    let (back_from, back_to) = (right.try_clone()?, left.try_clone()?);
    let back = std::thread::spawn(move || copy(back_from, back_to));
    copy(left, right)?;
    back.join().unwrap_or(Ok(()))
}

fn copy(mut from: TcpStream, mut to: TcpStream) -> io::Result<()> {
    let mut bytes = vec![0; ROOM];
    loop {
        match from.read(&mut bytes)? {
            0 => return to.shutdown(std::net::Shutdown::Write),
            count => to.write_all(&bytes[..count])?,
        }
    }
}
