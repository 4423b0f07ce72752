//! What is done behind the workers: making segments, syncing them, noting how far the sinks have come, removing what
//! nobody needs.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
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
/// First and longest wait before a segment, or cursors, are tried again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Length after which the cursors' segment gives way to one that holds the latest alone.
const CURSOR_SEGMENT: u64 = 256 * 1024;
/// After a failure, room for this many bytes is proved before a segment is handed over: the first few often find some.
const ROOM: usize = 256 * 1024;

/// What the keeper is told.
#[derive(Debug)]
pub enum Note {
    /// A writer has gone on to its next segment, or has ended.
    Full { segment: Segment, last_event: u64 },
    /// A writer could not write; the spare segment that it had was made when there was room, and is given up too.
    Failed { segment: Segment, spare: Option<Segment>, last_event: u64 },
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

/// Wakes a worker, by its number.
pub(super) struct Wake(pub(super) Box<dyn Fn(usize) + Send>);

impl std::fmt::Debug for Wake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wake")
    }
}

/// The keeper of one journal, on a thread of its own.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) directory: PathBuf,
    pub(super) key: [u8; 16],
    pub(super) run: u32,
    /// `None`: never.
    pub(super) sync: Option<Duration>,
    pub(super) shared: Arc<Shared>,
    /// Makes a worker look for its next segment, which it may otherwise not do for long.
    pub(super) wake: Wake,
    /// By worker: where segments are handed over, and the number of the next one.
    writers: Vec<Seat>,
    /// Segments that are not written any more.
    full: BTreeMap<Name, Known>,
    /// By worker: the first segment that its calls need; `None` before they are all written out.
    whole: Vec<Option<u32>>,
    /// By sink and stream: what it has delivered.
    cursors: HashMap<Arc<str>, HashMap<Stream, u64>>,
    cursors_changed: bool,
    /// How long after an attempt they are written again at the earliest.
    cursors_wait: Duration,
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
    /// Segments that the writer has still to be given: it has one in hand, and one to go on in.
    missing: usize,
    /// They could not be made; when to try again, after which wait.
    retry: Option<(Instant, Duration)>,
}

impl Keeper {
    pub(super) fn new(
        directory: PathBuf,
        key: [u8; 16],
        run: u32,
        sync: Option<Duration>,
        shared: Arc<Shared>,
    ) -> Keeper {
        Keeper {
            directory,
            key,
            run,
            sync,
            shared,
            wake: Wake(Box::new(|_| {})),
            writers: Vec::new(),
            full: BTreeMap::new(),
            whole: Vec::new(),
            cursors: HashMap::new(),
            cursors_changed: true,
            cursors_wait: CURSOR_INTERVAL,
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

    /// A worker: its stream and first segment, which it has to wait for where the disk is full.
    ///
    /// # Errors
    /// Where it cannot be made for another reason.
    pub(super) fn add_writer(&mut self, spares: Sender<Segment>) -> io::Result<(Stream, Option<Segment>)> {
        let number = self.writers.len();
        let stream = Stream { run: self.run, writer: number as u32 };
        self.writers.push(Seat { spares, next_number: 1, open: Vec::new(), missing: 1, retry: None });
        self.whole.push(None);
        for cursors in self.cursors.values_mut() {
            // That it is there tells the next start that the sink has missed nothing of this run.
            cursors.entry(stream).or_insert(0);
        }
        match self.create(number) {
            Ok(first) => {
                self.provide(number);
                Ok((stream, Some(first)))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                self.shared.failed(Some(stream.writer), &error);
                self.try_again(number);
                Ok((stream, None))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn run(mut self, notes: &Receiver<Note>) {
        let mut next_sync = self.sync.map(|sync| Instant::now() + sync);
        let mut next_cursors = Instant::now() + self.cursors_wait;
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
                self.look_after_files();
                self.write_cursors();
                self.remove_needless();
                next_cursors = Instant::now() + self.cursors_wait;
            }
            if next_sync.is_some_and(|at| now >= at) {
                self.look_after_files();
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
            Note::Failed { segment, spare, last_event } => {
                let writer = segment.name.stream.writer as usize;
                for segment in spare.into_iter().chain([segment]) {
                    self.close(segment, last_event, false);
                }
                self.try_again(writer);
            }
            Note::Whole(name) => {
                if let Some(whole) = self.whole.get_mut(name.stream.writer as usize) {
                    *whole = Some(name.number);
                }
                // It may have been the last worker that could not write.
                if let Some(late) = self.shared.late.get().filter(|late| **late != name.stream.writer) {
                    (self.wake.0)(*late as usize);
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
            seat.missing += usize::from(is_whole);
        }
        self.full.insert(segment.name, Known { length: segment.length, last_event });
        if is_whole {
            self.provide(writer);
        }
        self.remove_needless();
    }

    /// A writer has no segment: it is given two after a while.
    fn try_again(&mut self, writer: usize) {
        if let Some(seat) = self.writers.get_mut(writer) {
            seat.missing = 2;
            seat.retry = Some((Instant::now() + BACK_OFF.0, BACK_OFF.0));
        }
    }

    /// Makes the segments that a writer goes on in next.
    fn provide(&mut self, writer: usize) {
        while self.writers.get(writer).is_some_and(|seat| seat.missing > 0) {
            let made = self.create(writer);
            let Some(seat) = self.writers.get_mut(writer) else { return };
            match made {
                Ok(segment) => {
                    seat.missing -= 1;
                    seat.retry = None;
                    // A writer that has ended takes none.
                    drop(seat.spares.send(segment));
                }
                Err(error) => {
                    let wait = seat.retry.map_or(BACK_OFF.0, |(_, wait)| (wait * 2).min(BACK_OFF.1));
                    seat.retry = Some((Instant::now() + wait, wait));
                    return self.shared.failed(None, &error);
                }
            }
        }
    }

    fn retry(&mut self, now: Instant) {
        for writer in 0..self.writers.len() {
            if self.writers.get(writer).and_then(|seat| seat.retry).is_some_and(|(at, _)| now >= at) {
                self.provide(writer);
                (self.wake.0)(writer);
            }
        }
    }

    fn create(&mut self, writer: usize) -> io::Result<Segment> {
        let stream = Stream { run: self.run, writer: writer as u32 };
        let Some(seat) = self.writers.get_mut(writer) else { return Err(io::Error::other("no such writer")) };
        let name = Name { stream, number: seat.next_number };
        let is_retry = seat.retry.is_some();
        if is_retry {
            super::make_directory(&self.directory)?;
            super::restore_key(&self.directory, self.key)?;
        }
        // A number is used once, also where what it named could not be removed.
        seat.next_number += 1;
        let segment = Segment::new(name, segment::create(&self.directory, name)?);
        if is_retry && let Err(error) = prove_room(&segment) {
            // What went wrong is told; a file that is left over is passed over at the next start.
            drop(std::fs::remove_file(name.path(&self.directory)));
            return Err(error);
        }
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
            self.lose(segment, &error);
        }
    }

    /// What a segment holds cannot be relied upon: its writer has to go on in another, however little there is to write.
    fn lose(&self, segment: &Segment, error: &io::Error) {
        if !segment.marks.is_lost.swap(true, Ordering::AcqRel) {
            self.shared.failed(None, error);
            (self.wake.0)(segment.name.stream.writer as usize);
        }
    }

    /// A file that is not in its place any more outlives nothing.
    fn look_after_files(&mut self) {
        let is_gone = |segment: &Segment| !is_in_place(segment, &self.directory);
        for segment in self.writers.iter().flat_map(|seat| &seat.open).filter(|segment| is_gone(segment)) {
            self.lose(segment, &io::Error::new(io::ErrorKind::NotFound, "a file of the journal is gone"));
        }
        if self.cursor_segment.as_ref().is_some_and(is_gone) {
            self.cursor_segment = None;
            self.cursors_changed = true;
        }
    }

    /// Notes how far the sinks have come, and which there are; what cannot be noted is tried again, whether or not anything
    /// is delivered meanwhile.
    pub(super) fn write_cursors(&mut self) {
        let written = self.try_write_cursors();
        self.cursors_changed = written.is_err();
        self.cursors_wait = match written {
            Ok(()) => CURSOR_INTERVAL,
            Err(error) => {
                self.shared.failed(None, &error);
                self.drop_cursor_segment();
                (self.cursors_wait * 2).clamp(BACK_OFF.0, BACK_OFF.1)
            }
        };
    }

    fn try_write_cursors(&mut self) -> io::Result<()> {
        if self.cursor_segment.as_ref().is_some_and(|segment| segment.length > CURSOR_SEGMENT || segment.is_lost()) {
            self.drop_cursor_segment();
        }
        if self.cursor_segment.is_none() {
            let name = Name { stream: Stream { run: self.run, writer: CURSORS }, number: self.cursor_number };
            self.cursor_number += 1;
            let segment = Segment::new(name, segment::create(&self.directory, name)?);
            self.shared.bytes.fetch_add(segment.length, Ordering::Relaxed);
            self.cursor_segment = Some(segment);
        }
        let mut batch = Batch::beginning_with(self.key, self.cursor_seq);
        for (sink, cursors) in &self.cursors {
            // One that has delivered nothing is known all the same: else it would begin with what comes after a restart.
            let nothing = (Stream { run: 0, writer: 0 }, 0);
            for (stream, seq) in cursors.iter().map(|(stream, seq)| (*stream, *seq)).chain([nothing]) {
                let (run, writer) = (stream.run.to_le_bytes(), stream.writer.to_le_bytes());
                batch.push(Kind::Cursor, 0, &[&run, &writer, &seq.to_le_bytes(), sink.as_bytes()]);
            }
        }
        if let Some(segment) = &mut self.cursor_segment {
            let next_seq = batch.next_seq();
            let bytes = batch.bytes();
            (&*segment.file).write_all(bytes)?;
            self.cursor_seq = next_seq;
            segment.length += bytes.len() as u64;
            self.shared.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            segment.marks.is_dirty.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn drop_cursor_segment(&mut self) {
        let Some(segment) = self.cursor_segment.take() else { return };
        // One that nothing was written to is not kept: there is one for each attempt.
        let is_empty = segment.length == segment::HEAD as u64;
        if is_empty && std::fs::remove_file(segment.name.path(&self.directory)).is_ok() {
            self.shared.bytes.fetch_sub(segment.length, Ordering::Relaxed);
        } else {
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
                Err(error) if error.kind() != io::ErrorKind::NotFound => self.shared.failed(None, &error),
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

fn is_in_place(segment: &Segment, directory: &Path) -> bool {
    let inode =
        |metadata: io::Result<std::fs::Metadata>| metadata.ok().map(|metadata| (metadata.dev(), metadata.ino()));
    inode(segment.name.path(directory).metadata()) == inode(segment.file.metadata())
}

fn prove_room(segment: &Segment) -> io::Result<()> {
    segment.file.write_all_at(&vec![0; ROOM], segment.length)?;
    segment.file.set_len(segment.length)
}
