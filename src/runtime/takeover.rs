//! One process takes the place of another, without a datagram lost and without a connection refused.
//!
//! The running process listens on a Unix socket in its journal's directory. Asked there, it stops reading, writes what
//! its journal and its sockets have to get, lets go of the journal, and hands over all sockets that it listens on: what
//! comes meanwhile waits in them. Then it ends. The other one restores the calls from the journal and reads on.

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
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
use crate::transport::Inherited;

/// The socket's name in the journal's directory.
const NAME: &str = "takeover.sock";
/// What stands in the one message, with the sockets: a later version may say more.
const WORD: &[u8] = b"sipstamp 1\n";
/// Sockets that one message can carry, by the kernel's limit.
const MOST: usize = 253;
/// How long the running process may take to hand over.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the running process is asked. The socket goes with it.
#[derive(Debug)]
pub(super) struct Door(PathBuf);

/// Who asked, waiting for the sockets.
#[derive(Debug)]
pub(super) struct Successor(UnixStream);

impl Door {
    /// Listens in the journal's directory, which is this process's alone while it has the journal.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn open(directory: &Path, reports: UnboundedSender<Report>) -> io::Result<Door> {
        let path = directory.join(NAME);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::thread::Builder::new().name("takeover".into()).spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                if reports.send(Report::Takeover(Successor(stream))).is_err() {
                    return;
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
    /// Hands the sockets over: from here on they are read by the other process.
    ///
    /// # Errors
    /// Where it is gone.
    pub(super) fn give(self, sockets: &[OwnedFd]) -> io::Result<()> {
        let sockets = sockets.iter().take(MOST).map(AsFd::as_fd).collect::<Vec<_>>();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&sockets)) {
            return Err(io::Error::other("too many sockets"));
        }
        sendmsg(&self.0, &[IoSlice::new(WORD)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// Asks the process that has a journal for its sockets, and waits until it has let go of the journal. `None` where
/// there is no such process.
///
/// # Errors
/// Where it does not answer, or not as this version does.
pub(super) fn ask(directory: &Path) -> io::Result<Option<Inherited>> {
    let stream = match UnixStream::connect(directory.join(NAME)) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0; WORD.len()];
    let received = recvmsg(&stream, &mut [IoSliceMut::new(&mut word)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut sockets = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            sockets.extend(descriptors);
        }
    }
    if received.bytes == 0 {
        return Err(io::Error::other("the running process ended without handing over"));
    }
    if word != WORD {
        return Err(io::Error::other("the running process hands over in a way that this version does not know"));
    }
    // It ends when it has closed its end.
    (&stream).read_to_end(&mut Vec::new())?;
    Ok(Some(Inherited::of(sockets)))
}
