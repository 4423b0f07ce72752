//! JSON lines in a file.
//!
//! A line is never torn and never doubled: what a full disk let through of a batch is remembered, and
//! the rest follows when there is room.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
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
        let asked = reopen.clone();
        std::thread::Builder::new().name("events.file".into()).spawn(move || self.run(&queue, &asked))?;
        Ok(reopen)
    }

    fn run(mut self, queue: &Queue, reopen: &Reopen) {
        let mut text = Vec::new();
        loop {
            match queue.next() {
                Next::Closed => return,
                Next::Woken => self.reopen_if(reopen),
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
                }
            }
        }
    }

    /// Writes all of it, however long that takes; false where the process ends before.
    fn write_all(&mut self, mut rest: &[u8], queue: &Queue, reopen: &Reopen) -> bool {
        let mut back_off = BACK_OFF.0;
        // Between lines the file may be exchanged; in a line it must not be.
        let mut is_between_lines = true;
        while !rest.is_empty() {
            match self.write(rest) {
                Ok(0) => {}
                Ok(size) => {
                    is_between_lines = rest.get(size - 1) == Some(&b'\n');
                    rest = rest.get(size..).unwrap_or_default();
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
            if is_between_lines {
                self.reopen_if(reopen);
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

    fn reopen_if(&mut self, reopen: &Reopen) {
        if !reopen.take() {
            return;
        }
        match append_to(&self.path) {
            Ok((file, is_torn)) => (self.file, self.is_torn) = (file, is_torn),
            Err(error) => {
                tracing::error!(%error, file = %self.path.display(), "the events' file cannot be reopened; the old one is used");
            }
        }
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
