//! Two messages in a stream, or one inside the other, and lengths that lie: what the callee gets is what we have read.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::connections::connect;
use super::target::{AT_LEISURE, PBX, Target};
use crate::ports::{DIALER, wait_for};
use crate::wire::{Message, PATIENCE};

/// In MiB, of a debug build. Measured: 31.
const MEMORY: u64 = 64;
/// What no message that reaches the callee may have in its head.
const SMUGGLED: &str = "smuggled";

/// A server that takes connections, answers 200, and keeps each message by its Call-ID.
#[derive(Clone)]
struct Callee {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    bodies: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

/// What becomes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It can be used further.
    Open,
    /// The same behind a message that gets this code.
    OpenAfter(u16),
    /// A 400, or what else this code says, then the end.
    Refused(u16),
    /// Without a word.
    Closed,
    /// The sender ends it.
    Cut,
}

/// A stream, the bodies of the messages that are in it by our reading, and its end.
struct Case {
    name: &'static str,
    stream: Vec<u8>,
    messages: Vec<(&'static str, Vec<u8>)>,
    end: End,
}

impl End {
    fn code(self) -> Option<u16> {
        match self {
            End::Refused(code) | End::OpenAfter(code) => Some(code),
            End::Open | End::Closed | End::Cut => None,
        }
    }
}

impl Callee {
    fn start() -> Callee {
        let listener = TcpListener::bind((PBX, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let callee = Callee { address, heads: Arc::default(), bodies: Arc::default() };
        let this = callee.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (this, stream) = (this.clone(), stream.unwrap());
                std::thread::spawn(move || this.serve(stream));
            }
        });
        callee
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        while let Some((head, body)) = next(&mut stream, &mut buffer) {
            let message = Message(head.clone());
            self.heads.lock().unwrap().push(head);
            self.bodies.lock().unwrap().insert(message.call_id().to_owned(), body);
            if message.code().is_none() {
                stream.write_all(message.response("200 OK", self.address).as_bytes()).unwrap();
            }
        }
    }

    fn body(&self, call_id: &str) -> Option<Vec<u8>> {
        self.bodies.lock().unwrap().get(call_id).cloned()
    }
}

/// The next message by the shortest reading that there is: a head up to the empty line, a body as long as its one
/// Content-Length says.
fn next(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    loop {
        // Pongs, and what may stand between messages.
        while buffer.starts_with(b"\r\n") {
            buffer.drain(..2);
        }
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end + 4]).into_owned();
            let unfolded = head.replace("\r\n ", " ");
            let fields = unfolded.lines().filter_map(|line| line.split_once(':'));
            let named = |name: &str| matches!(name.trim().to_ascii_lowercase().as_str(), "content-length" | "l");
            let lengths = fields.filter(|(name, _)| named(name)).map(|(_, value)| value.trim().to_owned());
            let lengths = lengths.collect::<Vec<_>>();
            let [length] = &lengths[..] else { panic!("{lengths:?} as lengths: {head}") };
            let whole = end + 4 + length.parse::<usize>().unwrap_or_else(|_| panic!("length {length:?}: {head}"));
            if buffer.len() >= whole {
                let rest = buffer.split_off(whole);
                let message = std::mem::replace(buffer, rest);
                return Some((head, message[end + 4..].to_vec()));
            }
        }
        let mut more = [0; 16_384];
        match stream.read(&mut more) {
            Ok(size) if size > 0 => buffer.extend_from_slice(&more[..size]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("the stream neither goes on nor ends")
            }
            _ => return None,
        }
    }
}

fn message(id: &str, length: &str, body: &str) -> String {
    format!(
        "MESSAGE sip:+15550199@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP {DIALER}:5060;branch=z9hG4bK{id}\r\n\
         From: <sip:a@example.net>;tag=a\r\nTo: <sip:b@example.net>\r\nCall-ID: {id}\r\nCSeq: 1 MESSAGE\r\n\
         Max-Forwards: 70\r\nSubject: a\r\nContent-Type: text/plain\r\n{length}\r\n{body}"
    )
}

fn plain(id: &str, body: &str) -> String {
    message(id, &format!("Content-Length: {}\r\n", body.len()), body)
}

fn case(name: &'static str, stream: impl Into<Vec<u8>>, ids: &[(&'static str, &str)], end: End) -> Case {
    let messages = ids.iter().map(|(id, body)| (*id, body.as_bytes().to_vec())).collect();
    Case { name, stream: stream.into(), messages, end }
}

/// A message whose head has this length field, before another one.
fn lying(name: &'static str, length: &str) -> Case {
    let stream = message("lying", length, "body") + &plain("smuggled-behind", "");
    case(name, stream, &[], End::Refused(400))
}

fn lengths_that_lie() -> Vec<Case> {
    let inner = plain("smuggled-inner", "");
    let short = message("short", "Content-Length: 2\r\n", "body") + &plain("smuggled-behind", "");
    let long = message("long", &format!("Content-Length: {}\r\n", 4 + inner.len()), "body") + &inner;
    vec![
        // What is left of the body begins another method than that of its CSeq.
        case("too short", short, &[("short", "bo")], End::OpenAfter(400)),
        // It swallows what follows; that is the sender's loss.
        case("too long", long, &[("long", &format!("body{inner}"))], End::Open),
        lying("twice the same", "Content-Length: 4\r\nContent-Length: 4\r\n"),
        lying("twice differing", "Content-Length: 4\r\nContent-Length: 0\r\n"),
        lying("full and compact", "Content-Length: 4\r\nl: 0\r\n"),
        lying("compact and full", "l: 0\r\nContent-Length: 4\r\n"),
        lying("two cases", "content-length: 0\r\nCONTENT-LENGTH: 4\r\n"),
        lying("white space before the colon", "Content-Length : 4\r\nContent-Length\t: 0\r\n"),
        lying("positive", "Content-Length: +4\r\n"),
        lying("negative", "Content-Length: -1\r\n"),
        lying("hexadecimal", "Content-Length: 0x4\r\n"),
        lying("with a fraction", "Content-Length: 4.0\r\n"),
        lying("a list", "Content-Length: 4, 4\r\n"),
        lying("two numbers", "Content-Length: 4 0\r\n"),
        lying("with a parameter", "Content-Length: 4;a=0\r\n"),
        lying("quoted", "Content-Length: \"4\"\r\n"),
        lying("empty", "Content-Length:\r\n"),
        lying("none", ""),
        lying("digits of another script", "Content-Length: \u{664}\r\n"),
        case("beyond 64 bits", message("large", "l: 18446744073709551620\r\n", "body"), &[], End::Refused(513)),
        lying("folded into two", "Content-Length: 4\r\n 0\r\n"),
        lying("in a fold of another field", "Subject: a\r\n Content-Length: 4\r\n"),
        lying("in a name that is none", "Content-Length\u{0}: 4\r\n"),
        case("folded", message("folded", "Content-Length:\r\n 4\r\n", "body"), &[("folded", "body")], End::Open),
        case("compact", message("compact", "l:4\r\n", "body"), &[("compact", "body")], End::Open),
        case("zeros in front", message("zeros", "Content-Length: 0004\r\n", "body"), &[("zeros", "body")], End::Open),
        case("too much", message("large", "Content-Length: 70000\r\n", "body"), &[], End::Refused(513)),
    ]
}

fn messages_in_messages() -> Vec<Case> {
    let inner = plain("smuggled-inner", "");
    let nested = plain("nested", &inner);
    let with_lines = format!("\r\n\r\n{inner}\r\n\r\n");
    let two = plain("first", "one") + &plain("second", "two");
    let cut = plain("smuggled-cut", "body");
    vec![
        case("a message as a body", nested, &[("nested", &inner)], End::Open),
        case("empty lines around it", plain("lined", &with_lines), &[("lined", &with_lines)], End::Open),
        case("two at once", two, &[("first", "one"), ("second", "two")], End::Open),
        case(
            "pings between them",
            format!("\r\n\r\n{}\r\n\r\n\r\n\r\n{}\r\n", plain("ping-1", "x"), plain("ping-2", "")),
            &[("ping-1", "x"), ("ping-2", "")],
            End::Open,
        ),
        case("half of one", &cut[..cut.len() / 2], &[], End::Cut),
        case("all but the last byte", &cut[..cut.len() - 1], &[], End::Cut),
    ]
}

fn line_ends() -> Vec<Case> {
    let whole = plain("broken-lines", "body");
    let smuggled = plain("smuggled-behind", "");
    let breaks = |name, from: &str, to: &str, end| {
        assert!(whole.contains(from), "{name}");
        case(name, whole.replacen(from, to, 1) + &smuggled, &[], end)
    };
    let broken = |name, from: &str, to: &str| breaks(name, from, to, End::Refused(400));
    // Where nothing is known yet that an answer needs.
    let hopeless = |name, from: &str, to: &str| breaks(name, from, to, End::Closed);
    vec![
        broken("LF alone", "Max-Forwards: 70\r\n", "Max-Forwards: 70\n"),
        broken("LF alone in a field", "Subject: a\r\n", "Subject: a\nContent-Length: 0\r\n"),
        broken("CR alone in a field", "Subject: a\r\n", "Subject: a\rContent-Length: 0\r\n"),
        broken("CR CR LF", "Max-Forwards: 70\r\n", "Max-Forwards: 70\r\r\n"),
        broken("LF LF at the end of the head", "\r\n\r\nbody", "\n\nbody"),
        broken("CR CR at the end of the head", "\r\n\r\nbody", "\r\rbody"),
        broken("NUL in a field", "Subject: a", "Subject: a\0"),
        broken("NUL in a name", "Max-Forwards", "Max-\0Forwards"),
        broken("NUL alone", "Subject", "\0: 1\r\nSubject"),
        broken("a field without a colon", "Max-Forwards: 70", "Max-Forwards 70"),
        broken("a second start line", "Subject: a", "MESSAGE sip:smuggled@127.0.0.1 SIP/2.0"),
        broken("line ends of Unicode", "Subject: a\r\n", "Subject: a\r\n\u{2028}Content-Length: 0\u{85}\r\n"),
        hopeless("space before the start line", "MESSAGE sip", " MESSAGE sip"),
        hopeless("two start lines", "SIP/2.0\r\n", "SIP/2.0\r\nMESSAGE sip:smuggled@127.0.0.1 SIP/2.0\r\n"),
        hopeless("a fold of the start line", "SIP/2.0\r\n", "SIP/2.0\r\n Via: smuggled\r\n"),
        hopeless("a start line of HTTP", " SIP/2.0\r\n", " HTTP/1.1\r\n"),
    ]
}

struct Scene {
    target: Target,
    callee: Callee,
    fences: usize,
}

impl Scene {
    fn start(name: &str) -> Scene {
        let callee = Callee::start();
        let target = Target::start(name, format_args!("{};transport=tcp", callee.address), AT_LEISURE);
        Scene { target, callee, fences: 0 }
    }

    fn connect(&self) -> TcpStream {
        let stream = connect(DIALER, self.target.site.sip()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A message by another connection is answered: whatever came before has been dealt with.
    fn fence(&mut self) {
        self.fences += 1;
        let id = format!("fence-{}", self.fences);
        let mut stream = self.connect();
        stream.write_all(plain(&id, "").as_bytes()).unwrap();
        let (answer, _) = next(&mut stream, &mut Vec::new()).expect("other connections go on");
        assert!(answer.starts_with("SIP/2.0 200"), "{answer}");
    }

    fn play(&mut self, case: &Case, write: impl Fn(&mut TcpStream, &[u8])) {
        let mut stream = self.connect();
        write(&mut stream, &case.stream);
        for (id, body) in &case.messages {
            let got = wait_for(id, PATIENCE, || Ok(self.callee.body(id)))
                .unwrap_or_else(|error| panic!("{}: {error}", case.name));
            assert_eq!(&got, body, "{}", case.name);
        }
        if case.end == End::Cut {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let mut codes = codes(&mut stream, case);
        // Our own answer does not wait for the callee's.
        codes.sort_unstable();
        let mut expected = vec![200; case.messages.len()];
        expected.extend(case.end.code());
        assert_eq!(codes, expected, "{}", case.name);
        self.fence();
        let heads = self.callee.heads.lock().unwrap();
        assert!(!heads.iter().any(|head| head.contains(SMUGGLED)), "{}: {heads:#?}", case.name);
        assert_eq!(heads.len(), case.messages.len() + 1, "{}: {heads:#?}", case.name);
        drop(heads);
        self.callee.heads.lock().unwrap().clear();
        self.callee.bodies.lock().unwrap().clear();
    }
}

/// The final responses that come: to the end of the stream where it has one, else as many as there are messages.
fn codes(stream: &mut TcpStream, case: &Case) -> Vec<u16> {
    let (mut codes, mut buffer) = (Vec::new(), Vec::new());
    let is_open = matches!(case.end, End::Open | End::OpenAfter(_));
    let most = case.messages.len() + usize::from(case.end.code().is_some());
    while !is_open || codes.len() < most {
        let Some((head, _)) = next(stream, &mut buffer) else {
            assert!(!is_open, "{}: the connection has been closed", case.name);
            return codes;
        };
        codes.push(Message(head.clone()).code().unwrap_or_else(|| panic!("{}: {head}", case.name)));
    }
    codes
}

#[test]
fn lengths_that_lie_smuggle_nothing() {
    let mut scene = Scene::start("lying-lengths");
    for case in lengths_that_lie() {
        scene.play(&case, |stream, bytes| stream.write_all(bytes).unwrap());
    }
    assert!(scene.target.end(MEMORY).is_empty());
}

#[test]
fn messages_in_messages_stay_there() {
    let mut scene = Scene::start("nested");
    for case in messages_in_messages() {
        scene.play(&case, |stream, bytes| stream.write_all(bytes).unwrap());
    }
    assert!(scene.target.end(MEMORY).is_empty());
}

#[test]
fn line_ends_that_others_may_take_for_some_end_the_connection() {
    let mut scene = Scene::start("line-ends");
    for case in line_ends() {
        scene.play(&case, |stream, bytes| stream.write_all(bytes).unwrap());
    }
    assert!(scene.target.end(MEMORY).is_empty());
}

#[test]
fn how_a_stream_is_cut_into_segments_changes_nothing() {
    let mut scene = Scene::start("segments");
    for case in lengths_that_lie().into_iter().chain(messages_in_messages()).chain(line_ends()).step_by(5) {
        scene.play(&case, |stream, bytes| {
            for byte in bytes {
                // Once refused, the rest finds nobody.
                if stream.write_all(&[*byte]).is_err() {
                    return;
                }
            }
        });
    }
    assert!(scene.target.end(MEMORY).is_empty());
}
