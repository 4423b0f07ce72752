//! Connections on loopback, driven by hand: what time it is the tests say.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use mio::{Events, Poll};

use super::*;
use crate::endpoint::Owner;
use crate::flow::Side;

const MESSAGE: &str = "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK1\r\nContent-Length: 0\r\n\r\n";
const NOW: Mono = Mono(1_000_000);

/// A worker as far as connections need one.
struct Bench {
    poll: Poll,
    connections: Connections,
    acceptor: Acceptor,
    listener: Listener,
    taken: Taken,
    /// Whether those who connect are strangers.
    is_strange: bool,
}

#[derive(Default)]
struct Taken {
    messages: Vec<(Flow, Bytes)>,
    broken: Vec<Flow>,
}

impl Taker for Taken {
    fn message(&mut self, flow: Flow, bytes: Bytes) {
        self.messages.push((flow, bytes));
    }

    fn broken(&mut self, flow: Flow, _: FrameError) {
        self.broken.push(flow);
    }
}

impl Bench {
    fn new(most: usize) -> Bench {
        let poll = Poll::new().unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let bound = socket.local_addr().unwrap();
        let listener = Listener { transport: Transport::Tcp, bound, address: bound };
        let limits = Limits::standard(65_535);
        let registry = poll.registry().try_clone().unwrap();
        let seats = Seats::new(SeatLimits { all: most, of_one: 0 });
        let connections = Connections::new(limits, seats, vec![listener], Names::new(0, 1), registry);
        let acceptor = Acceptor::new(socket, listener, 0, poll.registry()).unwrap();
        Bench { poll, connections, acceptor, listener, taken: Taken::default(), is_strange: false }
    }

    /// Takes and does whatever there is until that is enough.
    fn until(&mut self, is_enough: impl Fn(&Bench) -> bool) {
        let mut events = Events::with_capacity(64);
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !is_enough(self) {
            assert!(std::time::Instant::now() < deadline, "waited in vain: {:?}", self.connections);
            let timeout = if self.connections.is_readable() { Duration::ZERO } else { Duration::from_millis(10) };
            self.poll.poll(&mut events, Some(timeout)).unwrap();
            for event in &events {
                match Source::of(event.token()) {
                    Source::Acceptor(_) => self.acceptor.note(),
                    Source::Connection(key) => self.connections.note(key, event, NOW),
                    other => panic!("{other:?}"),
                }
            }
            self.turn(NOW);
        }
    }

    fn turn(&mut self, now: Mono) {
        self.connections.on_deadlines(now);
        let (connections, is_stranger) = (&mut self.connections, self.is_strange);
        self.acceptor.accept(now, |accepted| {
            // What is refused shows in the figures.
            let _ = connections.on_accepted(accepted, is_stranger, now);
        });
        self.connections.read(now, &mut self.taken);
        self.connections.close_broken(now);
        self.connections.flush();
    }

    fn peer(&mut self) -> TcpStream {
        let open = self.connections.figures().open;
        let stream = TcpStream::connect(self.listener.bound).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        self.until(|bench| bench.connections.figures().open == open + 1);
        stream
    }

    fn send(&mut self, remote: SocketAddr, bytes: Bytes, owner: u64) {
        let hop = Hop { transport: Transport::Tcp, local: self.listener.bound, remote, connection: None };
        let connect_timeout = Some(Duration::from_millis(500));
        let transmit = Transmit { hop, bytes, side: Side::Telephony, owner: Some(Owner(owner)), connect_timeout };
        self.connections.send(transmit, 0, NOW);
    }

    fn failed(&mut self) -> Vec<u64> {
        self.connections.take_failed().map(|failed| failed.owner.0).collect()
    }
}

#[test]
fn many_messages_of_one_read_are_taken_in_order_without_a_copy() {
    let mut bench = Bench::new(8);
    let mut peer = bench.peer();
    let texts = (0..50).map(|number| MESSAGE.replace("a@b", &format!("{number}@b"))).collect::<Vec<_>>();
    peer.write_all(texts.concat().as_bytes()).unwrap();
    bench.until(|bench| bench.taken.messages.len() == 50);
    let got = bench.taken.messages.iter().map(|(_, bytes)| std::str::from_utf8(bytes).unwrap());
    assert!(got.eq(texts.iter().map(String::as_str)));
    let places = bench.taken.messages.iter().map(|(_, bytes)| bytes.as_ptr() as usize).collect::<Vec<_>>();
    let apart = places.windows(2).zip(&texts).filter(|(pair, text)| pair[1] - pair[0] == text.len()).count();
    assert!(apart > 40, "they lie side by side as they were read");
}

#[test]
fn when_the_oldest_of_what_is_read_came_is_told_but_not_of_strangers() {
    let now = || Wall(std::time::UNIX_EPOCH.elapsed().unwrap().as_micros() as i64);
    for is_strange in [false, true] {
        let mut bench = Bench::new(64);
        let mut first = bench.peer();
        // The kernel begins to take the time a moment after it was asked to.
        while bench.connections.take_oldest().is_none() {
            let count = bench.taken.messages.len() + 1;
            first.write_all(MESSAGE.as_bytes()).unwrap();
            bench.until(|bench| bench.taken.messages.len() == count);
        }
        bench.taken.messages.clear();
        bench.is_strange = is_strange;
        let mut peers = [bench.peer(), bench.peer()];
        let before = now();
        peers[0].write_all(MESSAGE.as_bytes()).unwrap();
        let between = now();
        peers[1].write_all(MESSAGE.as_bytes()).unwrap();
        bench.until(|bench| bench.taken.messages.len() == 2);
        let oldest = bench.connections.take_oldest();
        assert_eq!(oldest.is_some(), !is_strange);
        assert!(oldest.is_none_or(|at| at >= before && at <= between), "{before:?} {oldest:?} {between:?}");
        assert_eq!(bench.connections.take_oldest(), None);
    }
}

#[test]
fn one_busy_peer_does_not_keep_the_others_waiting() {
    let mut bench = Bench::new(8);
    let (mut busy, mut quiet) = (bench.peer(), bench.peer());
    let flood = MESSAGE.repeat(4_000);
    let writer = std::thread::spawn(move || busy.write_all(flood.as_bytes()).map(|()| busy));
    let quiet_address = quiet.local_addr().unwrap();
    bench.until(|bench| bench.taken.messages.len() > 100);
    quiet.write_all(MESSAGE.as_bytes()).unwrap();
    bench.until(|bench| bench.taken.messages.iter().any(|(flow, _)| flow.remote == quiet_address));
    bench.until(|bench| bench.taken.messages.len() == 4_001);
    writer.join().unwrap().unwrap();
}

#[test]
fn a_ping_is_answered() {
    let mut bench = Bench::new(8);
    let mut peer = bench.peer();
    peer.write_all(b"\r\n\r\n").unwrap();
    peer.set_nonblocking(true).unwrap();
    let pong = std::cell::RefCell::new(Vec::new());
    bench.until(|_| {
        let mut bytes = [0; 8];
        let read = (&peer).read(&mut bytes).unwrap_or(0);
        pong.borrow_mut().extend_from_slice(&bytes[..read]);
        pong.borrow().len() >= 2
    });
    assert_eq!(*pong.borrow(), b"\r\n");
}

#[test]
fn a_peer_that_drips_is_cut_off() {
    let mut bench = Bench::new(8);
    let mut peer = bench.peer();
    peer.write_all(MESSAGE.as_bytes()).unwrap();
    bench.until(|bench| bench.taken.messages.len() == 1);
    assert_eq!(bench.connections.next_deadline(), None);
    peer.write_all(b"OPTIONS sip:a@b").unwrap();
    bench.until(|bench| bench.connections.next_deadline().is_some());
    let deadline = bench.connections.next_deadline().unwrap();
    assert_eq!(deadline, NOW + MESSAGE_TIMEOUT);
    bench.turn(Mono(deadline.0 - 1));
    assert_eq!(bench.connections.figures().open, 1);
    bench.turn(deadline);
    assert_eq!((bench.connections.figures().open, bench.connections.next_deadline()), (0, None));
    assert_eq!(peer.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn what_cannot_be_framed_is_told_and_closed() {
    let mut bench = Bench::new(8);
    let mut peer = bench.peer();
    peer.write_all(format!("{MESSAGE}\u{1}garbage\r\n\r\n{MESSAGE}").as_bytes()).unwrap();
    bench.until(|bench| bench.taken.broken.len() == 1 && bench.connections.figures().open == 0);
    assert_eq!(bench.taken.messages.len(), 1);
}

#[test]
fn a_message_opens_a_connection_that_answers_come_by() {
    let mut bench = Bench::new(8);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let remote = server.local_addr().unwrap();
    for owner in 0..3 {
        bench.send(remote, Bytes::from_static(MESSAGE.as_bytes()), owner);
    }
    bench.until(|bench| bench.connections.is_idle());
    let (mut stream, _) = server.accept().unwrap();
    let mut got = vec![0; 3 * MESSAGE.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got, MESSAGE.repeat(3).as_bytes());
    stream.write_all(MESSAGE.as_bytes()).unwrap();
    bench.until(|bench| bench.taken.messages.len() == 1);
    let flow = bench.taken.messages[0].0;
    assert_eq!((flow.local, flow.opened_for), (bench.listener.bound, Some(Side::Telephony)));
    assert_eq!(bench.failed(), Vec::<u64>::new());
    assert_eq!(bench.connections.next_deadline(), None);
}

#[test]
fn whoever_waits_hears_that_a_connection_is_refused_or_does_not_open_in_time() {
    let mut bench = Bench::new(8);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    bench.send(nobody, Bytes::from_static(b"x"), 1);
    bench.send(nobody, Bytes::from_static(b"y"), 2);
    bench.until(|bench| bench.connections.is_idle());
    assert_eq!(bench.failed(), [1, 2]);

    // A queue of one that is full: the kernel lets the next one wait.
    let server = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    server.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    server.listen(0).unwrap();
    let full = server.local_addr().unwrap().as_socket().unwrap();
    let _first = TcpStream::connect(full).unwrap();
    bench.send(full, Bytes::from_static(b"z"), 3);
    assert_eq!(bench.connections.next_deadline(), Some(NOW + Duration::from_millis(500)));
    bench.turn(NOW + Duration::from_millis(499));
    assert_eq!(bench.failed(), Vec::<u64>::new());
    bench.turn(NOW + Duration::from_millis(500));
    assert_eq!(bench.failed(), [3]);
}

#[test]
fn a_peer_that_does_not_read_is_given_up_and_all_hear_of_it() {
    let mut bench = Bench::new(8);
    let mut peer = bench.peer();
    let remote = peer.local_addr().unwrap();
    let piece = Bytes::from(vec![b'x'; 512 * 1024]);
    let mut owner = 0;
    while bench.connections.figures().stalled == 0 {
        bench.send(remote, piece.clone(), owner);
        bench.connections.flush();
        owner += 1;
        assert!(owner < 100, "nothing limits what waits");
    }
    let mut failed = bench.failed();
    failed.sort_unstable();
    assert!(failed.len() >= 8 && *failed.last().unwrap() == owner - 1, "{failed:?}");
    assert_eq!(bench.connections.figures().open, 0);
    // What had gone before arrives.
    let mut size = 0;
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read) = peer.read(&mut buffer)
        && read > 0
    {
        size += read;
    }
    assert!(size > 0);
}

#[test]
fn what_waits_is_written_when_there_is_room_again_also_after_the_peers_last_word() {
    let mut bench = Bench::new(8);
    let mut peer = bench.peer();
    let remote = peer.local_addr().unwrap();
    let near = bench.connections.slots.iter().next().map(|(_, connection)| &connection.stream).unwrap();
    socket2::SockRef::from(near).set_send_buffer_size(4_096).unwrap();
    let pieces = (0..6_u8).map(|number| Bytes::from(vec![number; 500 * 1024])).collect::<Vec<_>>();
    for piece in &pieces {
        bench.send(remote, piece.clone(), 1);
    }
    bench.connections.flush();
    assert!(!bench.connections.is_idle());
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        peer.read_to_end(&mut all).map(|_| all)
    });
    bench.until(|bench| bench.connections.is_idle());
    assert_eq!(reader.join().unwrap().unwrap(), pieces.concat());
    assert_eq!(bench.failed(), Vec::<u64>::new());
}

#[test]
fn beyond_the_limit_no_connection_is_taken_or_opened() {
    let mut bench = Bench::new(1);
    let peer = bench.peer();
    let mut second = TcpStream::connect(bench.listener.bound).unwrap();
    bench.until(|bench| bench.connections.figures().refused == 1);
    assert_eq!(second.read(&mut [0]).unwrap_or(0), 0);
    bench.send(bench.listener.bound, Bytes::from_static(b"x"), 7);
    assert_eq!((bench.failed(), bench.connections.figures().refused), (vec![7], 2));
    drop(peer);
    bench.until(|bench| bench.connections.figures().open == 0);
    bench.peer();
}

/// Lets time pass, and says whether the connection is still there.
fn is_there_after(bench: &mut Bench, at: Mono) -> bool {
    bench.turn(at);
    bench.connections.figures().open == 1
}

#[test]
fn who_connects_and_says_nothing_is_cut_off() {
    let mut bench = Bench::new(8);
    let _peer = bench.peer();
    assert!(is_there_after(&mut bench, NOW + MESSAGE_TIMEOUT - Duration::from_secs(1)));
    assert!(!is_there_after(&mut bench, NOW + MESSAGE_TIMEOUT));
    assert_eq!(bench.connections.figures().silent, 1);
}

#[test]
fn who_has_spoken_may_be_silent_for_as_long_as_is_configured() {
    let idle = Duration::from_secs(600);
    let mut bench = Bench::new(8);
    bench.connections.set_idle(idle);
    let mut peer = bench.peer();
    peer.write_all(MESSAGE.as_bytes()).unwrap();
    bench.until(|bench| bench.taken.messages.len() == 1);
    assert!(is_there_after(&mut bench, NOW + MESSAGE_TIMEOUT));
    assert!(is_there_after(&mut bench, NOW + idle - Duration::from_secs(1)));
    assert!(!is_there_after(&mut bench, NOW + idle));
}

#[test]
fn without_a_limit_who_has_spoken_may_be_silent_for_ever() {
    let mut bench = Bench::new(8);
    let mut peer = bench.peer();
    peer.write_all(MESSAGE.as_bytes()).unwrap();
    bench.until(|bench| bench.taken.messages.len() == 1);
    assert!(is_there_after(&mut bench, NOW + Duration::from_secs(1_000_000)));
}

#[test]
fn a_stranger_that_has_spoken_is_cut_off_like_one_that_has_not() {
    let mut bench = Bench::new(8);
    bench.is_strange = true;
    bench.connections.set_idle(Duration::from_secs(600));
    let mut peer = bench.peer();
    peer.write_all(MESSAGE.as_bytes()).unwrap();
    bench.until(|bench| bench.taken.messages.len() == 1);
    assert!(!is_there_after(&mut bench, NOW + MESSAGE_TIMEOUT));
}

#[test]
fn pings_that_nobody_reads_the_answers_of_fill_nothing_up() {
    let mut bench = Bench::new(8);
    let mut peer = bench.peer();
    peer.set_nonblocking(true).unwrap();
    // Far more answers than the sockets between hold.
    let pings = b"\r\n\r\n".repeat(64 * 1024);
    let mut sent = 0;
    while sent < 16 * 1024 * 1024 {
        assert_eq!(bench.connections.figures().open, 1, "after {sent} bytes");
        // What was written may end within a ping.
        sent += peer.write(&pings[sent % 4..]).unwrap_or(0);
        bench.turn(NOW);
        let mut events = Events::with_capacity(8);
        bench.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        for event in &events {
            if let Source::Connection(key) = Source::of(event.token()) {
                bench.connections.note(key, event, NOW);
            }
        }
    }
    assert!(bench.connections.unsent <= 2 * connection::MOST_BEFORE_PONG, "{}", bench.connections.unsent);
}
