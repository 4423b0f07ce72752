//! A listener that lets only so many in, and connections that don't stay for nothing.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// What a listener grants its connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at the same time; others wait in the listen queue.
    pub connections: usize,
    /// Longest time from a request's first byte, or from the connection's start, to the answer's first.
    pub request: Duration,
    /// Longest time after the last byte written in which neither a request comes nor more can be written.
    pub idle: Duration,
}

impl Default for Limits {
    /// A request outlasts the longest question to the workers; idle outlasts a scrape interval of one minute.
    fn default() -> Limits {
        Limits { connections: 64, request: Duration::from_secs(15), idle: Duration::from_secs(75) }
    }
}

/// A TCP listener with [`Limits`].
pub struct Limited {
    listener: TcpListener,
    limits: Limits,
    seats: Arc<Semaphore>,
}

/// A connection that ends by itself when its time is over.
pub struct Connection {
    stream: TcpStream,
    limits: Limits,
    deadline: Pin<Box<Sleep>>,
    /// Whether the last thing that happened was a write.
    is_answered: bool,
    _seat: Option<OwnedSemaphorePermit>,
}

impl Limited {
    /// Takes a listener that is bound; call it inside a runtime.
    pub fn new(listener: TcpListener, limits: Limits) -> Limited {
        Limited { listener, limits, seats: Arc::new(Semaphore::new(limits.connections)) }
    }
}

impl Connection {
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    fn grant(&mut self, time: Duration) {
        self.deadline.as_mut().reset(Instant::now() + time);
    }
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed: there always is a seat.
        let seat = self.seats.clone().acquire_owned().await.ok();
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        let deadline = Box::pin(sleep(self.limits.request));
        (Connection { stream, limits: self.limits, deadline, is_answered: false, _seat: seat }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // First, so that bytes that trickle in buy no time.
        if let Poll::Ready(error) = self.poll_deadline(cx) {
            return Poll::Ready(Err(error));
        }
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        if std::mem::take(&mut self.is_answered) {
            let time = self.limits.request;
            self.grant(time);
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Ready(result) => {
                let time = self.limits.idle;
                self.grant(time);
                self.is_answered = true;
                Poll::Ready(result)
            }
            Poll::Pending => self.poll_deadline(cx).map(Err),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream as Client;

    use axum::Router;
    use axum::routing::get;
    use tokio::runtime::Builder;
    use tokio::sync::oneshot;

    use super::*;

    const REQUEST: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    const LONG: Duration = Duration::from_secs(3_600);

    /// A server with these limits; it ends when the sender is dropped.
    fn server(limits: Limits) -> (oneshot::Sender<()>, SocketAddr) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let routes =
            Router::new().route("/livez", get(|| async { "alive" })).route("/never", get(std::future::pending::<()>));
        let (end, ended) = oneshot::channel();
        std::thread::spawn(move || {
            Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let listener = Limited::new(TcpListener::from_std(listener).unwrap(), limits);
                tokio::spawn(axum::serve(listener, routes).into_future());
                let _: Result<(), _> = ended.await;
            });
        });
        (end, address)
    }

    fn connect(address: SocketAddr) -> Client {
        let client = Client::connect(address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client
    }

    /// Everything until the server closes.
    fn rest(mut client: Client) -> String {
        let mut text = Vec::new();
        // A reset is an end too.
        let _ = client.read_to_end(&mut text).map_err(|error| assert_ne!(error.kind(), io::ErrorKind::WouldBlock));
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_request_that_does_not_come_to_its_end_is_not_waited_for() {
        let (_end, address) = server(Limits { connections: 8, request: Duration::from_millis(50), idle: LONG });
        assert_eq!(rest(connect(address)), "");
        let mut trickle = connect(address);
        trickle.write_all(b"GET /livez HTTP/1.1\r\nHost: local").unwrap();
        trickle.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let is_open = |client: &mut Client| {
            client.write_all(b"h").is_ok()
                && client.read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        };
        let bytes = (0..1_000).take_while(|_| is_open(&mut trickle)).count();
        assert!((1..1_000).contains(&bytes), "{bytes} bytes bought time");
        let mut unanswered = connect(address);
        unanswered.write_all(b"GET /never HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        assert_eq!(rest(unanswered), "");
    }

    #[test]
    fn a_connection_that_stays_idle_is_closed_after_its_answer() {
        let (_end, address) = server(Limits { connections: 8, request: LONG, idle: Duration::from_millis(50) });
        let mut client = connect(address);
        client.write_all(REQUEST).unwrap();
        let answer = rest(client);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("alive"), "{answer}");
    }

    #[test]
    fn each_request_has_its_own_time() {
        let (_end, address) = server(Limits { connections: 8, request: Duration::from_millis(50), idle: LONG });
        let mut client = connect(address);
        client.write_all(REQUEST).unwrap();
        let mut first = [0; 12];
        client.read_exact(&mut first).unwrap();
        client.write_all(b"GET /li").unwrap();
        assert!(rest(client).ends_with("alive"), "the second request is never whole");
    }

    #[test]
    fn beyond_the_limit_a_connection_waits_for_another_to_close() {
        let (_end, address) = server(Limits { connections: 1, request: LONG, idle: LONG });
        let mut first = connect(address);
        first.write_all(REQUEST).unwrap();
        let mut byte = [0];
        first.read_exact(&mut byte).unwrap();
        let mut second = connect(address);
        second.write_all(REQUEST).unwrap();
        second.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(second.read_exact(&mut byte).is_err(), "the only seat is taken");
        drop(first);
        second.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        second.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"H");
    }
}
