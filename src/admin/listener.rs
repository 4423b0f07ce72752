//! Connections of one listener: so many, each for so long, with heads of so many bytes. One that comes too late or asks for
//! too much is closed; the others do not notice.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep};

use super::refusals::{Refusals, Refused};
use super::seats::{Seat, Seats};

/// Bytes of a request's head.
const HEAD: usize = 16 * 1024;
/// Fields in it.
const FIELDS: usize = 64;
/// After a failure to accept: descriptors have run out, and are not back at once.
const PAUSE: Duration = Duration::from_secs(1);

/// What a listener grants its connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at the same time. One more takes the place of one that asks for nothing, or is closed.
    pub connections: usize,
    /// The same for one source address.
    pub connections_of_source: usize,
    /// Longest time from a request's first byte, or from the connection's start, to the answer's first.
    pub request: Duration,
    /// Longest time after the last byte written in which neither a request comes nor more can be written.
    pub idle: Duration,
}

impl Default for Limits {
    /// A request outlasts the longest question to the workers; idle outlasts a scrape interval of one minute. One source has
    /// room for all event feeds and more.
    fn default() -> Limits {
        Limits {
            connections: 128,
            connections_of_source: 64,
            request: Duration::from_secs(15),
            idle: Duration::from_secs(75),
        }
    }
}

/// A connection that ends by itself when its time is over.
struct Connection {
    stream: TcpStream,
    limits: Limits,
    deadline: Pin<Box<Sleep>>,
    /// Whether the last thing that happened was a write.
    is_answered: bool,
    seat: Seat,
    refusals: Arc<Refusals>,
}

/// Serves what comes until it is told to stop, then finishes the answers under way.
///
/// # Errors
/// The system does not take the listener; call it inside a runtime.
pub async fn serve(
    listener: std::net::TcpListener,
    limits: Limits,
    routes: Router,
    refusals: Arc<Refusals>,
    stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let seats = Seats::new(limits.connections, limits.connections_of_source);
    let mut connections = JoinSet::new();
    loop {
        let (stream, peer) = tokio::select! {
            () = told_to_stop(stopped.clone()) => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "a connection to the admin API is not accepted");
                    sleep(PAUSE).await;
                    continue;
                }
            },
        };
        let source = peer.ip().to_canonical();
        let seat = seats.take(source);
        if seat.as_ref().is_none_or(|(_, made_room)| *made_room) {
            refusals.note(source, Refused::Connections);
        }
        if let Some((seat, _)) = seat {
            let connection = Connection::new(stream, limits, seat, refusals.clone());
            connections.spawn(connection.serve(routes.clone(), stopped.clone()));
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// Returns when the process wants to end.
pub async fn told_to_stop(mut stopped: watch::Receiver<bool>) {
    // An error says that the handle was dropped: that is a stop too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

impl Connection {
    fn new(stream: TcpStream, limits: Limits, seat: Seat, refusals: Arc<Refusals>) -> Connection {
        let deadline = Box::pin(sleep(limits.request));
        Connection { stream, limits, deadline, is_answered: false, seat, refusals }
    }

    async fn serve(self, routes: Router, stopped: watch::Receiver<bool>) {
        let (seat, refusals) = (self.seat.clone(), self.refusals.clone());
        let routes = TowerToHyperService::new(routes);
        let service = service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(seat.clone());
            routes.call(request)
        });
        let mut http = http1::Builder::new();
        // The deadline of the connection is stricter than the one for heads.
        http.timer(TokioTimer::new()).max_buf_size(HEAD).max_headers(FIELDS);
        let mut serving = pin!(http.serve_connection(TokioIo::new(self), service));
        let mut is_stopping = false;
        loop {
            tokio::select! {
                ended = serving.as_mut() => {
                    if ended.is_err_and(|error| error.is_parse_too_large()) {
                        refusals.note(seat.source(), Refused::TooLarge);
                    }
                    return;
                }
                () = seat.told_to_leave() => return,
                () = told_to_stop(stopped.clone()), if !is_stopping => {
                    is_stopping = true;
                    serving.as_mut().graceful_shutdown();
                }
            }
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    fn grant(&mut self, time: Duration) {
        self.deadline.as_mut().reset(Instant::now() + time);
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // First, so that bytes that trickle in buy no time.
        if let Poll::Ready(error) = self.poll_deadline(cx) {
            if !self.is_answered {
                self.refusals.note(self.seat.source(), Refused::Timeout);
            }
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
    use std::convert::Infallible;
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpStream as Client};

    use axum::body::Body;
    use axum::routing::get;
    use futures_util::StreamExt as _;
    use futures_util::stream::{iter, pending};
    use tokio::runtime::Builder;

    use super::super::Token;
    use super::*;
    use crate::admin::guard::{self, Guard};

    const REQUEST: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    const LONG: Duration = Duration::from_secs(3_600);

    fn limits(request: Duration, idle: Duration) -> Limits {
        Limits { connections: 8, connections_of_source: 8, request, idle }
    }

    /// A server with these limits; it ends when the sender is dropped.
    fn server(limits: Limits) -> (watch::Sender<bool>, SocketAddr) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let refusals = Arc::<Refusals>::default();
        let guard = Guard::new(address, Token::default(), refusals.clone());
        let routes = Router::new()
            .route("/livez", get(|| async { "alive" }))
            .route("/never", get(std::future::pending::<()>))
            .route(
                "/stream",
                get(|| async { Body::from_stream(iter([Ok::<_, Infallible>("begun")]).chain(pending())) }),
            )
            .layer(axum::middleware::from_fn_with_state(guard, guard::admit));
        let (end, ended) = watch::channel(false);
        std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, limits, routes, refusals, ended)).unwrap();
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
        let (_end, address) = server(limits(Duration::from_millis(50), LONG));
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
        let (_end, address) = server(limits(LONG, Duration::from_millis(50)));
        let mut client = connect(address);
        client.write_all(REQUEST).unwrap();
        let answer = rest(client);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("alive"), "{answer}");
    }

    #[test]
    fn each_request_has_its_own_time() {
        let (_end, address) = server(limits(Duration::from_millis(50), LONG));
        let mut client = connect(address);
        client.write_all(REQUEST).unwrap();
        let mut first = [0; 12];
        client.read_exact(&mut first).unwrap();
        client.write_all(b"GET /li").unwrap();
        assert!(rest(client).ends_with("alive"), "the second request is never whole");
    }

    #[test]
    fn connections_that_wait_keep_nobody_out() {
        let (_end, address) = server(limits(LONG, LONG));
        let mut crowd: Vec<_> = (0..200).map(|_| connect(address)).collect();
        for client in &mut crowd {
            // Those that had to go do not hear it.
            let _ = client.write_all(b"GET /livez HTTP/1.1\r\nHost: local");
        }
        let mut client = connect(address);
        client.write_all(REQUEST).unwrap();
        let mut first = [0; 12];
        client.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        assert_eq!(rest(crowd.remove(0)), "");
    }

    #[test]
    fn where_all_are_busy_nobody_is_let_in() {
        let (_end, address) = server(Limits { connections: 1, ..limits(LONG, LONG) });
        let mut busy = connect(address);
        busy.write_all(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"begun\r\n") {
            let mut byte = [0];
            busy.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        let mut other = connect(address);
        // It may have been closed already: what is read of it tells.
        let _ = other.write_all(REQUEST);
        assert_eq!(rest(other), "");
        busy.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        assert_eq!(busy.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock, "the stream goes on");
    }

    #[test]
    fn heads_and_bodies_have_a_longest_length() {
        let (_end, address) = server(limits(LONG, LONG));
        let answer = |request: String| {
            let mut client = connect(address);
            // The answer may come, and the end, before all of it is written.
            let _ = client.write_all(request.as_bytes());
            rest(client).lines().next().unwrap_or_default().to_owned()
        };
        let with =
            |head: &str| answer(format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}\r\n"));
        assert_eq!(with(""), "HTTP/1.1 200 OK");
        assert_eq!(with(&format!("X: {}\r\n", "a".repeat(12 * 1024))), "HTTP/1.1 200 OK");
        let too_long = "HTTP/1.1 431 Request Header Fields Too Large";
        assert_eq!(with(&format!("X: {}\r\n", "a".repeat(20 * 1024))), too_long);
        assert_eq!(with(&"X: a\r\n".repeat(100)), too_long);
        let chunk = |length: usize| format!("{length:x}\r\n{}\r\n", "a".repeat(length));
        let chunks =
            |count: usize| with(&format!("Transfer-Encoding: chunked\r\n\r\n{}0\r\n", chunk(1_024).repeat(count)));
        assert_eq!(chunks(16), "HTTP/1.1 200 OK");
        assert_eq!(chunks(17), "HTTP/1.1 413 Payload Too Large");
    }
}
