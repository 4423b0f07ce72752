//! JSON lines in a file.
//!
//! A line is never torn and never doubled: what a full disk let through of a batch is remembered, and
//! the rest follows when there is room. A file that is moved away while it has half a line keeps that, and the whole line
//! is in the one that has its name then.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::queue::{Next, Queue};

/// First and longest wait before a write is tried again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Bytes at a file's end that are looked through for lines which the journal brings again.
const LOOKED_BACK: u64 = 8 * 1024 * 1024;

/// A file that grows at its end.
#[derive(Debug)]
pub struct FileSink {
    path: PathBuf,
    file: File,
    /// It ends in a line that a crash tore, and which could not be ended yet.
    is_torn: bool,
    /// Lines at its end: one that the journal brings again is there already.
    written: HashSet<Box<[u8]>>,
}

/// Asks the sink's thread to open its file again.
#[derive(Debug, Default)]
pub struct Reopen(AtomicBool);

impl Reopen {
    pub fn ask(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

impl FileSink {
    /// Opens the file for appending; it is made where it is missing. `may_repeat`: lines may come that were written before
    /// the process ended, but not confirmed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: &Path, may_repeat: bool) -> io::Result<FileSink> {
        let (file, is_torn) = append_to(path)?;
        let written = if may_repeat { last_lines(path)? } else { HashSet::new() };
        Ok(FileSink { path: path.to_owned(), file, is_torn, written })
    }

    /// Writes what the queue brings, on a thread of its own.
    ///
    /// # Errors
    /// Where no thread can be had.
    pub fn start(self, queue: Arc<Queue>) -> io::Result<Arc<Reopen>> {
        let reopen = Arc::new(Reopen::default());
        let (asked, queue) = (reopen.clone(), queue.serve());
        std::thread::Builder::new().name("events.file".into()).spawn(move || self.run(&queue, &asked))?;
        Ok(reopen)
    }

    fn run(mut self, queue: &Queue, reopen: &Reopen) {
        let mut text = Vec::new();
        loop {
            match queue.next() {
                Next::Closed => return,
                Next::Woken => {
                    self.reopen_if(reopen);
                }
                Next::Lines(lines) => {
                    text.clear();
                    for line in lines {
                        // Where there are none, a line is not even hashed.
                        if !self.written.is_empty() && self.written.remove(&*line.text) {
                            continue;
                        }
                        text.extend_from_slice(&line.text);
                        text.push(b'\n');
                    }
                    if !self.write_all(&text, queue, reopen) {
                        return;
                    }
                    queue.delivered();
                    // Asked in a line.
                    self.reopen_if(reopen);
                }
            }
        }
    }

    /// Writes all of it, however long that takes; false where the process ends before.
    fn write_all(&mut self, text: &[u8], queue: &Queue, reopen: &Reopen) -> bool {
        let mut back_off = BACK_OFF.0;
        // Up to where it is written, and where the line begins that is not wholly written.
        let (mut done, mut line) = (0, 0);
        while let Some(rest) = text.get(done..).filter(|rest| !rest.is_empty()) {
            match self.write(rest) {
                Ok(0) => {}
                Ok(size) => {
                    let end = rest.iter().take(size).rposition(|byte| *byte == b'\n');
                    line = end.map_or(line, |end| done + end + 1);
                    done += size;
                    back_off = BACK_OFF.0;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, file = %self.path.display(), "events cannot be written; they wait");
                }
            }
            if !queue.failed(back_off) {
                return false;
            }
            // In a line the file is exchanged for another one only, which gets that line from its beginning.
            if (done == line || !self.is_in_place()) && self.reopen_if(reopen) {
                done = line;
            }
            back_off = (back_off * 2).min(BACK_OFF.1);
        }
        true
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_torn {
            self.file.write_all(b"\n")?;
            self.is_torn = false;
        }
        self.file.write(bytes)
    }

    /// Opens the file by its name where that is asked; true where it has.
    fn reopen_if(&mut self, reopen: &Reopen) -> bool {
        if !reopen.take() {
            return false;
        }
        match append_to(&self.path) {
            Ok((file, is_torn)) => {
                (self.file, self.is_torn) = (file, is_torn);
                true
            }
            Err(error) => {
                tracing::error!(%error, file = %self.path.display(), "the events' file cannot be reopened; the old one is used");
                false
            }
        }
    }

    /// Whether what is open has the name still.
    fn is_in_place(&self) -> bool {
        let inode =
            |metadata: io::Result<std::fs::Metadata>| metadata.ok().map(|metadata| (metadata.dev(), metadata.ino()));
        inode(self.path.metadata()) == inode(self.file.metadata())
    }
}

/// Opens for appending. A line that a crash tore is ended, so that it spoils only itself; true where that has to wait for
/// room.
fn append_to(path: &Path) -> io::Result<(File, bool)> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let is_torn = is_torn(path).unwrap_or(false) && file.write_all(b"\n").is_err();
    Ok((file, is_torn))
}

/// The lines at the end of a file: far more than are ever written before they are confirmed.
fn last_lines(path: &Path) -> io::Result<HashSet<Box<[u8]>>> {
    let mut file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(HashSet::new());
    }
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(LOOKED_BACK)))?;
    let mut text = Vec::new();
    file.take(LOOKED_BACK).read_to_end(&mut text)?;
    Ok(text.split(|byte| *byte == b'\n').map(Into::into).collect())
}

fn is_torn(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if !file.metadata()?.is_file() || file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventKind;
    use crate::sink::queue::{Keeping, Line};

    #[test]
    fn a_torn_line_spoils_only_itself() {
        let path = std::env::temp_dir().join(format!("sipstamp-torn-line-{}", std::process::id()));
        std::fs::write(&path, "{\"half\":").unwrap();
        FileSink::open(&path, false).unwrap().file.write_all(b"{}\n").unwrap();
        FileSink::open(&path, false).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"half\":\n{}\n");
        std::fs::remove_file(&path).unwrap();
    }

    /// A file that has room for half a line and was moved away meanwhile.
    #[test]
    fn a_line_that_did_not_fit_is_whole_in_the_file_that_has_its_name() {
        let path = std::env::temp_dir().join(format!("sipstamp-half-line-{}", std::process::id()));
        let (full, _far) = std::os::unix::net::UnixStream::pair().unwrap();
        full.set_nonblocking(true).unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(full));
        let sink = FileSink { path: path.clone(), file, is_torn: false, written: HashSet::new() };
        let queue = Arc::new(Queue::new("file".into(), 16 << 20, None, None));
        let line = vec![b'x'; 4 << 20];
        for text in [&b"first"[..], &line, b"last"] {
            queue.push(&[Line::new(EventKind::Ended, text.into(), Keeping::UNKEPT)]);
        }
        let reopen = sink.start(queue.clone()).unwrap();
        let wait_for = |is_so: &dyn Fn() -> bool| {
            let deadline = std::time::Instant::now() + Duration::from_secs(60);
            while !is_so() {
                assert!(std::time::Instant::now() < deadline, "in vain");
                std::thread::yield_now();
            }
        };
        wait_for(&|| queue.figures().failed > 0);
        reopen.ask();
        queue.wake();
        wait_for(&|| queue.figures().delivered == 3);
        assert_eq!(std::fs::read(&path).unwrap(), [&line[..], b"\nlast\n"].concat());
        std::fs::remove_file(&path).unwrap();
    }

    /// Its cursor has to be in the journal before that closes.
    #[test]
    fn a_write_that_is_under_way_at_the_end_is_waited_for() {
        let (near, mut far) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(near));
        let sink = FileSink { path: "/nowhere".into(), file, is_torn: false, written: HashSet::new() };
        let queue = Arc::new(Queue::new("file".into(), 16 << 20, None, None));
        queue.push(&[Line::new(EventKind::Ended, vec![b'x'; 1 << 20].into(), Keeping::UNKEPT)]);
        sink.start(queue.clone()).unwrap();
        // More than there is room for is under way.
        far.read_exact(&mut [0]).unwrap();
        let at_the_end = queue.clone();
        let reader = std::thread::spawn(move || {
            while at_the_end.ends().is_none() {
                std::thread::yield_now();
            }
            far.read_to_end(&mut Vec::new()).unwrap()
        });
        queue.close(Duration::ZERO);
        assert_eq!(queue.figures().delivered, 1);
        assert_eq!(reader.join().unwrap(), 1 << 20);
    }

    #[test]
    fn lines_go_to_the_file_and_after_a_rotation_to_the_one_that_has_its_name() {
        let directory = std::env::temp_dir().join(format!("sipstamp-file-sink-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("events.jsonl");
        let queue = Arc::new(Queue::new("file".into(), 1 << 20, None, None));
        let reopen = FileSink::open(&path, false).unwrap().start(queue.clone()).unwrap();
        queue.push(&[Line::new(EventKind::Ended, b"one".as_slice().into(), Keeping::UNKEPT)]);
        let delivered = |count| {
            let deadline = std::time::Instant::now() + Duration::from_secs(5);
            while queue.figures().delivered < count {
                assert!(std::time::Instant::now() < deadline, "not delivered");
                std::thread::yield_now();
            }
        };
        delivered(1);
        std::fs::rename(&path, directory.join("events.1")).unwrap();
        reopen.ask();
        queue.wake();
        // The order of a wake and a line is the queue's: wakes first.
        queue.push(&[Line::new(EventKind::Ended, b"two".as_slice().into(), Keeping::UNKEPT)]);
        delivered(2);
        assert_eq!(queue.close(Duration::from_secs(5)), 0);
        assert_eq!(std::fs::read_to_string(directory.join("events.1")).unwrap(), "one\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
