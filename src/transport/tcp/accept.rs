//! Listening sockets.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry};

use crate::policy::Listener;
use crate::time::Mono;
use crate::transport::Source;
use crate::transport::sockets::make_room_for_connections;

/// Connections that are accepted before anything else gets its turn.
const MOST_AT_ONCE: usize = 64;
/// After a refusal of the kernel (out of descriptors, most likely), when the next attempt is made.
const PAUSE: Duration = Duration::from_millis(100);

/// A listening socket as its worker has it.
#[derive(Debug)]
pub struct Acceptor {
    socket: TcpListener,
    listener: Listener,
    is_ready: bool,
    /// Not before.
    paused_until: Option<Mono>,
}

/// A peer has connected.
#[derive(Debug)]
pub struct Accepted {
    pub stream: TcpStream,
    pub remote: SocketAddr,
    pub listener: Listener,
}

impl Acceptor {
    /// The `index`-th of a worker.
    ///
    /// # Errors
    /// Where it cannot be registered, or refuses an option.
    pub fn new(socket: TcpListener, listener: Listener, index: usize, registry: &Registry) -> io::Result<Acceptor> {
        let token = Source::Acceptor(index).token();
        make_room_for_connections(&socket)?;
        registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Acceptor { socket, listener, is_ready: true, paused_until: None })
    }

    /// An event says that somebody waits.
    pub fn note(&mut self) {
        self.is_ready = true;
    }

    /// When to come again: at once, or at the end of a pause.
    pub fn next_deadline(&self) -> Option<Mono> {
        if self.is_ready { Some(self.paused_until.unwrap_or(Mono(0))) } else { None }
    }

    /// Accepts who waits.
    pub fn accept(&mut self, now: Mono, mut take: impl FnMut(Accepted)) {
        if !self.is_ready || self.paused_until.is_some_and(|until| now < until) {
            return;
        }
        self.paused_until = None;
        for _ in 0..MOST_AT_ONCE {
            match self.socket.accept() {
                Ok((stream, remote)) => {
                    if stream.set_nonblocking(true).is_ok() {
                        take(Accepted { stream, remote, listener: self.listener });
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_ready = false;
                    return;
                }
                // The peer has gone before its turn.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::error!(%error, address = %self.listener.bound, "cannot accept connections");
                    self.paused_until = Some(now + PAUSE);
                    return;
                }
            }
        }
    }
}
