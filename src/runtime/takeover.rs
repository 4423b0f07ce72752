//! One process takes the place of another, without a datagram lost and without a connection refused.
//!
//! The running process listens on a Unix socket in its journal's directory. Asked there, it says which addresses it holds;
//! the other one makes sure that it can have all the rest that it needs, and tells it to hand over. It stops reading, writes
//! what its journal and its sockets have to get, lets go of the journal, and hands over all sockets that it listens on: what
//! comes meanwhile waits in them. Then it ends. The other one restores the calls from the journal and reads on.
//!
//! | successor | running process |
//! |---|---|
//! | `sipstamp takeover 1` | |
//! | | `journal 1 holds udp/192.0.2.1:5060 …`: the journal's version, every socket that it hands over |
//! | `go` | |
//! | | `sipstamp 1` with sockets, as often as that takes, and the end of the stream; or `refused: …` |

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::sync::mpsc::UnboundedSender;

use super::supervisor::Report;
use crate::flow::Transport;
use crate::journal::segment;
use crate::transport::Inherited;

/// The socket's name in the journal's directory.
const NAME: &str = "takeover.sock";
/// What the successor says first: whoever merely connects is none.
const GREETING: &str = "sipstamp takeover 1\n";
/// From here on the running process hands over.
const GO: &str = "go\n";
/// What stands in each message with sockets: a later version may say more.
const WORD: &[u8] = b"sipstamp 1\n";
/// Begins the line that says why nothing is handed over.
const REFUSED: &[u8] = b"refused: ";
/// Sockets that one message can carry, by the kernel's limit.
const MOST: usize = 253;
/// Bytes of a line; some thousand addresses.
const LONGEST: u64 = 65_536;
/// How long either side may take for a line.
const LINE_PATIENCE: Duration = Duration::from_secs(5);
/// How long the running process may take to hand over.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the running process is asked. The socket goes with it.
#[derive(Debug)]
pub(super) struct Door(PathBuf);

/// Who asked, waiting for the sockets.
#[derive(Debug)]
pub(super) struct Successor(UnixStream);

/// A socket that is handed over, by what it is for.
pub(super) type Held = (Transport, SocketAddr);

/// The process that has the journal, which goes on until it is told to hand over.
#[derive(Debug)]
pub(super) struct Predecessor {
    stream: UnixStream,
    /// What it will hand over.
    pub(super) holds: Vec<Held>,
}

impl Door {
    /// Listens in the journal's directory, which is this process's alone while it has the journal. `holds`: the addresses
    /// of what is handed over.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn open(directory: &Path, holds: &[Held], reports: UnboundedSender<Report>) -> io::Result<Door> {
        let path = directory.join(NAME);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        let mut line = format!("journal {} holds", segment::VERSION);
        for (transport, address) in holds {
            // A string takes everything.
            let _ = write!(line, " {}/{address}", transport.label());
        }
        line.push('\n');
        std::thread::Builder::new().name("takeover".into()).spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else {
                    // No descriptors are left, perhaps.
                    std::thread::sleep(LINE_PATIENCE);
                    continue;
                };
                match hear(&stream, &line) {
                    Ok(()) if reports.send(Report::Takeover(Successor(stream))).is_err() => return,
                    Ok(()) => {}
                    Err(error) => tracing::warn!(%error, "somebody connected to {NAME} and did not take over"),
                }
            }
        })?;
        Ok(Door(path))
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // What is left there is replaced by the next process.
        drop(std::fs::remove_file(&self.0));
    }
}

impl Successor {
    /// Hands the sockets over and closes them: from here on they are read by the other process.
    ///
    /// # Errors
    /// Where it is gone.
    pub(super) fn give(self, sockets: Vec<OwnedFd>) -> io::Result<()> {
        for some in sockets.chunks(MOST) {
            let some = some.iter().map(AsFd::as_fd).collect::<Vec<_>>();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !ancillary.push(SendAncillaryMessage::ScmRights(&some)) {
                return Err(io::Error::other("too many sockets"));
            }
            sendmsg(&self.0, &[IoSlice::new(WORD)], &mut ancillary, SendFlags::NOSIGNAL)?;
        }
        // What it does not want is not in the way of what it binds once the stream has ended.
        drop(sockets);
        Ok(())
    }

    /// Says why it gets nothing.
    pub(super) fn refuse(mut self, why: &str) {
        // It may be gone.
        drop(self.0.write_all(&[REFUSED, why.as_bytes(), b"\n"].concat()));
    }
}

impl Predecessor {
    /// Finds the process that has a journal. `None` where there is none.
    ///
    /// # Errors
    /// Where it does not answer, or not as this version does: it goes on.
    pub(super) fn find(directory: &Path) -> io::Result<Option<Predecessor>> {
        let stream = match UnixStream::connect(directory.join(NAME)) {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        stream.set_read_timeout(Some(LINE_PATIENCE))?;
        (&stream).write_all(GREETING.as_bytes())?;
        let line = line(&stream)?;
        let other = || io::Error::other("it answers in a way that this version does not know");
        let (journal, holds) = read_holds(&line).ok_or_else(other)?;
        if journal > segment::VERSION {
            return Err(io::Error::other("its journal is of a later version of sipstamp: start that version"));
        }
        Ok(Some(Predecessor { stream, holds }))
    }

    /// Has it hand over, and waits until it has let go of the journal.
    ///
    /// # Errors
    /// What has become of it then.
    pub(super) fn succeed(mut self) -> Result<Inherited, String> {
        let unknown = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                let seconds = PATIENCE.as_secs();
                format!(
                    "the running process did not hand over within {seconds} s; it may be ending: look for it before you start another"
                )
            }
            _ => format!("the running process: {error}; it may be ending: look for it before you start another"),
        };
        self.stream.set_read_timeout(Some(PATIENCE)).map_err(unknown)?;
        self.stream.write_all(GO.as_bytes()).map_err(unknown)?;
        let mut sockets = Vec::new();
        loop {
            match self.receive(&mut sockets).map_err(unknown)?.as_slice() {
                [] if sockets.is_empty() => {
                    return Err("the running process ended without handing over: start without --takeover".into());
                }
                [] => return Ok(Inherited::of(sockets)),
                WORD => {}
                word if REFUSED.starts_with(word) || word.starts_with(REFUSED) => {
                    let mut why = word.to_owned();
                    self.stream.take(LONGEST).read_to_end(&mut why).map_err(unknown)?;
                    let why = String::from_utf8_lossy(&why);
                    return Err(format!(
                        "the running process goes on: {}",
                        why.trim_start_matches("refused: ").trim_end()
                    ));
                }
                _ => {
                    return Err(
                        "the running process has handed over in a way that this version does not know, and ends: start without --takeover"
                            .into(),
                    );
                }
            }
        }
    }

    /// One message, and its sockets. Nothing once the stream has ended.
    fn receive(&self, sockets: &mut Vec<OwnedFd>) -> io::Result<Vec<u8>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut word = [0; WORD.len()];
        let mut buffers = [IoSliceMut::new(&mut word)];
        let received = recvmsg(&self.stream, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                sockets.extend(descriptors);
            }
        }
        Ok(word.get(..received.bytes).unwrap_or_default().to_vec())
    }
}

/// The journal's version, and what is handed over.
fn read_holds(line: &str) -> Option<(u32, Vec<Held>)> {
    let (journal, holds) = line.strip_prefix("journal ")?.strip_suffix('\n')?.split_once(" holds")?;
    let held = |word: &str| {
        let (transport, address) = word.split_once('/')?;
        let transport = [Transport::Udp, Transport::Tcp].into_iter().find(|one| one.label() == transport)?;
        Some((transport, address.parse().ok()?))
    };
    Some((journal.parse().ok()?, holds.split_ascii_whitespace().map(held).collect::<Option<_>>()?))
}

/// Hears out who has connected, until it wants to be handed over to.
fn hear(mut stream: &UnixStream, holds: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(LINE_PATIENCE))?;
    stream.set_write_timeout(Some(LINE_PATIENCE))?;
    for (word, answer) in [(GREETING, holds), (GO, "")] {
        if line(stream)? != word {
            return Err(io::ErrorKind::InvalidData.into());
        }
        stream.write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// The next line, of a peer that says no more before it is answered.
fn line(stream: &UnixStream) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST)).read_line(&mut line)?;
    Ok(line)
}
