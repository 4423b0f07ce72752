//! What is done behind the workers: making segments, syncing them, noting how far the sinks have come, removing what
//! nobody needs.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::Shared;
use super::frame::{Batch, Kind};
use super::segment::{self, CURSORS, Name, Stream};
use super::writer::{Position, Segment};

/// Cursors are written this often at most.
const CURSOR_INTERVAL: Duration = Duration::from_millis(50);
/// First and longest wait before a segment is tried again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Length after which the cursors' segment gives way to one that holds the latest alone.
const CURSOR_SEGMENT: u64 = 256 * 1024;

/// What the keeper is told.
#[derive(Debug)]
pub enum Note {
    /// A writer has gone on to its next segment, or has ended.
    Full { segment: Segment, last_event: u64 },
    /// A writer could not write.
    Failed { segment: Segment, last_event: u64 },
    /// A worker has written out all its calls into this segment and those behind it.
    Whole(Name),
    /// A sink has delivered everything up to here.
    Delivered { sink: Arc<str>, to: Position },
    /// The process ends.
    End,
}

/// A segment that is there.
#[derive(Debug)]
struct Known {
    length: u64,
    /// Its latest event, or one before.
    last_event: u64,
}

/// The keeper of one journal, on a thread of its own.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) directory: PathBuf,
    pub(super) run: u32,
    /// `None`: never.
    pub(super) sync: Option<Duration>,
    pub(super) shared: Arc<Shared>,
    /// By worker: where segments are handed over, and the number of the next one.
    writers: Vec<Seat>,
    /// Segments that are not written any more.
    full: BTreeMap<Name, Known>,
    /// By worker: the first segment that its calls need; `None` before they are all written out.
    whole: Vec<Option<u32>>,
    /// By sink and stream: what it has delivered.
    cursors: HashMap<Arc<str>, HashMap<Stream, u64>>,
    cursors_changed: bool,
    cursor_segment: Option<Segment>,
    cursor_number: u32,
    cursor_seq: u64,
}

#[derive(Debug)]
struct Seat {
    spares: Sender<Segment>,
    next_number: u32,
    /// What is synced: the current segment and its spare.
    open: Vec<Segment>,
    /// The writer has no segment; when to try again, after which wait.
    retry: Option<(Instant, Duration)>,
}

impl Keeper {
    pub(super) fn new(directory: PathBuf, run: u32, sync: Option<Duration>, shared: Arc<Shared>) -> Keeper {
        Keeper {
            directory,
            run,
            sync,
            shared,
            writers: Vec::new(),
            full: BTreeMap::new(),
            whole: Vec::new(),
            cursors: HashMap::new(),
            cursors_changed: true,
            cursor_segment: None,
            cursor_number: 0,
            cursor_seq: 1,
        }
    }

    /// A segment of an earlier run.
    pub(super) fn add_old(&mut self, name: Name, length: u64, last_event: u64) {
        self.full.insert(name, Known { length, last_event });
    }

    /// A sink, and how far it has come in each stream that there is.
    pub(super) fn add_sink(&mut self, sink: Arc<str>, cursors: HashMap<Stream, u64>) {
        self.cursors.insert(sink, cursors);
    }

    /// A worker: its first segment.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub(super) fn add_writer(&mut self, spares: Sender<Segment>) -> std::io::Result<Segment> {
        let number = self.writers.len();
        self.writers.push(Seat { spares, next_number: 1, open: Vec::new(), retry: None });
        self.whole.push(None);
        let first = self.create(number)?;
        self.provide(number);
        Ok(first)
    }

    pub(super) fn run(mut self, notes: &Receiver<Note>) {
        let mut next_sync = self.sync.map(|sync| Instant::now() + sync);
        let mut next_cursors = Instant::now();
        loop {
            let retries = self.writers.iter().filter_map(|seat| seat.retry.map(|(at, _)| at));
            let cursors = self.cursors_changed.then_some(next_cursors);
            let sync = next_sync.filter(|_| self.is_dirty());
            let until = retries.chain(cursors).chain(sync).min();
            let note = match until {
                None => notes.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => notes.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match note {
                Ok(Note::End) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(note) => self.on_note(note),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            self.retry(now);
            if self.cursors_changed && now >= next_cursors {
                self.write_cursors();
                self.remove_needless();
                next_cursors = Instant::now() + CURSOR_INTERVAL;
            }
            if next_sync.is_some_and(|at| now >= at) {
                self.sync_all();
                next_sync = self.sync.map(|sync| Instant::now() + sync);
            }
        }
        self.write_cursors();
        if self.sync.is_some() {
            self.sync_all();
        }
        self.remove_needless();
    }
}

impl Keeper {
    fn on_note(&mut self, note: Note) {
        match note {
            Note::Full { segment, last_event } => {
                self.close(segment, last_event, true);
            }
            Note::Failed { segment, last_event } => {
                let writer = segment.name.stream.writer as usize;
                self.close(segment, last_event, false);
                if let Some(seat) = self.writers.get_mut(writer) {
                    seat.retry = Some((Instant::now() + BACK_OFF.0, BACK_OFF.0));
                }
            }
            Note::Whole(name) => {
                if let Some(whole) = self.whole.get_mut(name.stream.writer as usize) {
                    *whole = Some(name.number);
                }
                self.remove_needless();
            }
            Note::Delivered { sink, to } => {
                let cursor = self.cursors.entry(sink).or_default().entry(to.stream).or_default();
                *cursor = to.seq.max(*cursor);
                self.cursors_changed = true;
            }
            Note::End => {}
        }
    }

    /// A writer is done with a segment.
    fn close(&mut self, segment: Segment, last_event: u64, is_whole: bool) {
        if self.sync.is_some() && is_whole {
            self.sync(&segment);
        }
        let writer = segment.name.stream.writer as usize;
        if let Some(seat) = self.writers.get_mut(writer) {
            seat.open.retain(|open| open.name != segment.name);
        }
        self.full.insert(segment.name, Known { length: segment.length, last_event });
        if is_whole {
            self.provide(writer);
        }
        self.remove_needless();
    }

    /// Makes the segment that a writer goes on in next.
    fn provide(&mut self, writer: usize) {
        match self.create(writer) {
            // A writer that has ended takes none.
            Ok(segment) => {
                if let Some(seat) = self.writers.get_mut(writer) {
                    seat.retry = None;
                    drop(seat.spares.send(segment));
                }
            }
            Err(error) => {
                self.shared.failed(None, &error);
                if let Some(seat) = self.writers.get_mut(writer) {
                    let wait = seat.retry.map_or(BACK_OFF.0, |(_, wait)| (wait * 2).min(BACK_OFF.1));
                    seat.retry = Some((Instant::now() + wait, wait));
                }
            }
        }
    }

    fn retry(&mut self, now: Instant) {
        for writer in 0..self.writers.len() {
            if self.writers.get(writer).and_then(|seat| seat.retry).is_some_and(|(at, _)| now >= at) {
                self.provide(writer);
            }
        }
    }

    fn create(&mut self, writer: usize) -> std::io::Result<Segment> {
        let stream = Stream { run: self.run, writer: writer as u32 };
        let Some(seat) = self.writers.get_mut(writer) else { return Err(std::io::Error::other("no such writer")) };
        let name = Name { stream, number: seat.next_number };
        let segment = Segment::new(name, segment::create(&self.directory, name)?);
        seat.next_number += 1;
        seat.open.push(segment.clone());
        self.shared.bytes.fetch_add(segment.length, Ordering::Relaxed);
        Ok(segment)
    }

    fn is_dirty(&self) -> bool {
        self.open().any(|segment| segment.marks.is_dirty.load(Ordering::Acquire))
    }

    fn open(&self) -> impl Iterator<Item = &Segment> {
        self.writers.iter().flat_map(|seat| &seat.open).chain(&self.cursor_segment)
    }

    /// Sees to it that a loss of power takes nothing of what is written so far.
    fn sync_all(&self) {
        for segment in self.open() {
            self.sync(segment);
        }
    }

    fn sync(&self, segment: &Segment) {
        if segment.marks.is_dirty.swap(false, Ordering::AcqRel)
            && let Err(error) = segment.file.sync_data()
        {
            // The kernel has let go of what it could not write: a second sync that succeeds would prove nothing.
            segment.marks.is_lost.store(true, Ordering::Release);
            self.shared.failed(None, &error);
        }
    }

    /// Notes how far the sinks have come.
    fn write_cursors(&mut self) {
        self.cursors_changed = false;
        if let Err(error) = self.try_write_cursors() {
            self.shared.failed(None, &error);
            self.drop_cursor_segment();
        }
    }

    fn try_write_cursors(&mut self) -> std::io::Result<()> {
        if self.cursor_segment.as_ref().is_some_and(|segment| segment.length > CURSOR_SEGMENT) {
            self.drop_cursor_segment();
        }
        if self.cursor_segment.is_none() {
            let name = Name { stream: Stream { run: self.run, writer: CURSORS }, number: self.cursor_number };
            self.cursor_number += 1;
            self.cursor_segment = Some(Segment::new(name, segment::create(&self.directory, name)?));
        }
        let mut batch = Batch::beginning_with(self.cursor_seq);
        for (sink, cursors) in &self.cursors {
            // One that has delivered nothing is known all the same: else it would begin with what comes after a restart.
            let nothing = (Stream { run: 0, writer: 0 }, 0);
            for (stream, seq) in cursors.iter().map(|(stream, seq)| (*stream, *seq)).chain([nothing]) {
                let (run, writer) = (stream.run.to_le_bytes(), stream.writer.to_le_bytes());
                batch.push(Kind::Cursor, 0, &[&run, &writer, &seq.to_le_bytes(), sink.as_bytes()]);
            }
        }
        self.cursor_seq = batch.next_seq();
        if let Some(segment) = &mut self.cursor_segment {
            let bytes = batch.bytes();
            (&*segment.file).write_all(bytes)?;
            segment.length += bytes.len() as u64;
            self.shared.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            segment.marks.is_dirty.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn drop_cursor_segment(&mut self) {
        if let Some(segment) = self.cursor_segment.take() {
            self.full.insert(segment.name, Known { length: segment.length, last_event: 0 });
        }
    }

    /// Removes the segments that hold nothing which a call or a sink needs.
    fn remove_needless(&mut self) {
        let needless = self.full.iter().filter(|(name, known)| !self.is_needed(**name, known));
        let needless = needless.map(|(name, _)| *name).collect::<Vec<_>>();
        if needless.is_empty() {
            return;
        }
        if self.sync.is_some() {
            // What has taken their place has to be there first.
            self.sync_all();
        }
        for name in needless {
            match std::fs::remove_file(name.path(&self.directory)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => self.shared.failed(None, &error),
                _ => {
                    let length = self.full.remove(&name).map_or(0, |known| known.length);
                    self.shared.bytes.fetch_sub(length, Ordering::Relaxed);
                    for cursors in self.cursors.values_mut() {
                        let is_gone =
                            name.stream.run < self.run && !self.full.keys().any(|left| left.stream == name.stream);
                        if is_gone {
                            cursors.remove(&name.stream);
                        }
                    }
                }
            }
        }
    }

    fn is_needed(&self, name: Name, known: &Known) -> bool {
        if name.stream.writer == CURSORS {
            return self.cursor_segment.is_none();
        }
        let by_calls = if name.stream.run == self.run {
            let first = self.whole.get(name.stream.writer as usize).copied().flatten();
            first.is_none_or(|first| name.number >= first)
        } else {
            self.whole.iter().any(Option::is_none)
        };
        let delivered = |cursors: &HashMap<Stream, u64>| cursors.get(&name.stream).copied().unwrap_or(0);
        by_calls || self.cursors.values().any(|cursors| delivered(cursors) < known.last_event)
    }
}
