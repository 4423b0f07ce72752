//! The end of a stream: a worker puts its frames together during a turn and writes them before it sends anything.
//!
//! Where a write fails, the worker goes on without its journal until the keeper has made a segment that can be written;
//! then it writes out every call that is open.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};

use super::Shared;
use super::frame::{Batch, Kind};
use super::keeper::Note;
use super::segment::{self, Name, Stream};

/// A segment is followed by another once it is longer than this.
const SEGMENT: u64 = 16 * 1024 * 1024;
/// Bytes after which all calls are written out again, so that earlier segments can go: this many at least, and this many
/// times what it took the last time.
const LEAST_GROWTH: u64 = 32 * 1024 * 1024;
const GROWTH: u64 = 4;

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub stream: Stream,
    pub seq: u64,
}

/// Writes one stream.
#[derive(Debug)]
pub struct Writer {
    stream: Stream,
    batch: Batch,
    /// `None` while nothing can be written.
    segment: Option<Segment>,
    spare: Receiver<Segment>,
    keeper: Sender<Note>,
    shared: Arc<Shared>,
    /// The latest event that is written.
    last_event: u64,
    /// The latest event that is not written yet.
    batched_event: Option<u64>,
    /// Bytes since all calls were written out.
    growth: u64,
    /// What that took.
    all: u64,
    /// All calls are being written out, since this segment was the current one and this number the next.
    writing_all: Option<(u32, u64)>,
    is_all_due: bool,
    /// It could not write: what is open has to be written out before anything is said to be kept again.
    is_behind: bool,
}

/// A segment that is written.
#[derive(Clone, Debug)]
pub struct Segment {
    pub(super) name: Name,
    pub(super) file: Arc<File>,
    pub(super) length: u64,
    pub(super) marks: Arc<Marks>,
}

/// What writer and keeper tell each other of a segment.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Written since it was synced.
    pub(super) is_dirty: AtomicBool,
    /// A sync has failed: what the segment holds cannot be relied upon.
    pub(super) is_lost: AtomicBool,
}

impl Segment {
    pub(super) fn new(name: Name, file: File) -> Segment {
        Segment { name, file: Arc::new(file), length: segment::HEAD as u64, marks: Arc::default() }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.marks.is_lost.load(Ordering::Acquire)
    }
}

impl Writer {
    pub(super) fn new(
        (stream, first): (Stream, Option<Segment>),
        key: [u8; 16],
        spare: Receiver<Segment>,
        keeper: Sender<Note>,
        shared: Arc<Shared>,
    ) -> Writer {
        Writer {
            stream,
            batch: Batch::beginning_with(key, 1),
            is_behind: first.is_none(),
            segment: first,
            spare,
            keeper,
            shared,
            last_event: 0,
            batched_event: None,
            growth: 0,
            all: 0,
            writing_all: None,
            is_all_due: true,
        }
    }

    pub(super) fn number(&self) -> u32 {
        self.stream.writer
    }

    /// As the keeper does after a sync that has failed.
    #[cfg(test)]
    pub(super) fn lose_segment(&self) {
        if let Some(segment) = &self.segment {
            segment.marks.is_lost.store(true, Ordering::Release);
        }
    }

    /// Adds a record to what the next [`Writer::flush`] writes; `None` while nothing can be written.
    pub fn push(&mut self, kind: Kind, key: u128, state: &[&[u8]]) -> Option<Position> {
        if !self.has_segment() {
            return None;
        }
        let seq = self.batch.push(kind, key, state);
        if kind == Kind::Event {
            self.batched_event = Some(seq);
        }
        Some(Position { stream: self.stream, seq })
    }

    /// Writes what was pushed: from here on it outlives the process. False where it could not be written, nor ever will.
    pub fn flush(&mut self) -> bool {
        if self.batch.is_empty() {
            return true;
        }
        if let Some(segment) = &mut self.segment {
            if segment.is_lost() {
                return self.give_up(&lost());
            }
            let bytes = self.batch.bytes();
            match write(&segment.file, bytes) {
                Ok(()) => {
                    segment.length += bytes.len() as u64;
                    self.growth += bytes.len() as u64;
                    self.shared.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    segment.marks.is_dirty.store(true, Ordering::Release);
                    self.last_event = self.batched_event.take().unwrap_or(self.last_event);
                    if segment.length >= SEGMENT {
                        self.take_spare();
                    }
                }
                Err(error) => return self.give_up(&error),
            }
        }
        self.batch.clear();
        true
    }

    /// Whether every open call is to be written out, beginning here.
    pub fn begins_all(&mut self) -> bool {
        self.leave_lost();
        if !self.has_segment() {
            return false;
        }
        let most = LEAST_GROWTH.max(GROWTH * self.all);
        let is_due = self.is_all_due || self.growth > most;
        let Some(segment) = self.segment.as_ref().filter(|_| is_due && self.writing_all.is_none()) else {
            return false;
        };
        self.writing_all = Some((segment.name.number, self.batch.next_seq()));
        self.is_all_due = false;
        self.growth = 0;
        true
    }

    /// All that is open is to be written out.
    pub(super) fn owe_all(&mut self) {
        self.is_all_due = true;
    }

    /// Every call that was open then is written out: what lies before is not needed for calls. False where that failed.
    pub fn ends_all(&mut self) -> bool {
        self.flush();
        let (Some((number, since)), true) = (self.writing_all.take(), self.segment.is_some()) else { return false };
        // Workers begin once all writers are there.
        let writers = self.shared.writers.load(Ordering::Relaxed);
        self.push(Kind::Whole, 0, &[&since.to_le_bytes(), &writers.to_le_bytes()]);
        if !self.flush() {
            return false;
        }
        self.all = self.growth;
        if std::mem::take(&mut self.is_behind) {
            self.shared.recovered(self.stream.writer);
        }
        // Nobody listens once everything ends.
        drop(self.keeper.send(Note::Whole(Name { stream: self.stream, number })));
        true
    }

    /// Gives up a segment that cannot be relied upon.
    pub(super) fn leave_lost(&mut self) {
        if self.segment.as_ref().is_some_and(Segment::is_lost) {
            self.give_up(&lost());
        }
    }

    /// Whether something can be written, perhaps in a segment that was made meanwhile.
    pub(super) fn has_segment(&mut self) -> bool {
        self.segment.is_some() || self.take_spare()
    }

    /// Goes on in the segment that the keeper has made; false where there is none.
    fn take_spare(&mut self) -> bool {
        let Ok(next) = self.spare.try_recv() else { return false };
        match self.segment.replace(next) {
            Some(full) => drop(self.keeper.send(Note::Full { segment: full, last_event: self.last_event })),
            None => {
                self.is_all_due = true;
                self.writing_all = None;
            }
        }
        true
    }

    /// Goes on without a segment. Always false.
    fn give_up(&mut self, error: &io::Error) -> bool {
        self.shared.failed(Some(self.stream.writer), error);
        self.is_behind = true;
        self.batch.give_up();
        self.batched_event = None;
        let Some(segment) = self.segment.take() else { return false };
        // Half a batch is worth nothing; if it cannot be cut off, reading passes it over.
        drop(segment.file.set_len(segment.length));
        // A segment that was made when there was room is no proof that there is some.
        let spare = self.spare.try_recv().ok();
        drop(self.keeper.send(Note::Failed { segment, spare, last_event: self.last_event }));
        false
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.flush();
        if let Some(segment) = self.segment.take() {
            drop(self.keeper.send(Note::Full { segment, last_event: self.last_event }));
        }
    }
}

/// The keeper has told why.
fn lost() -> io::Error {
    io::Error::other("the segment is lost")
}

fn write(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)
}
