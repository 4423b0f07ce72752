//! What outlives the process: open calls, their transactions, events that are not delivered yet, how far each sink has come.
//!
//! One log in one directory, append-only and checksummed ([`frame`]), in segments ([`segment`]), with a stream for each
//! worker, and one for events that a worker could not write when they came (`late`). Before a worker sends what it has
//! decided in a turn, it writes the records of that turn with one `write`: from there on they outlive the process
//! (`writer`). Everything else is done behind the workers' backs (`keeper`): making segments, syncing, removing those that
//! neither an open call nor a pending event needs. At the start `load` reads what is left; `tail` reads events for a sink
//! that memory cannot hold any more.
//!
//! A record replaces the earlier one of the same call or transaction, so that nothing has to be put together from parts.
//! When as much has been written as makes it worth while, each worker writes out all its open calls again, and what
//! lies before is not needed for calls any more. It may stay for an event that a sink has not delivered; a record says that
//! nothing is open in it, since what ended while nothing could be written left none of its own.
//!
//! Beside the segments lie `key`, under which branches and tags are derived, so that those of a restored call are the
//! same; and `lock`, held for as long as the process lives.

pub mod frame;
mod keeper;
mod late;
mod load;
pub mod segment;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use frame::{Damage, Kind};
pub use keeper::Note;
use keeper::{Keeper, Wake};
pub use late::{Due, Late, LateEvent};
pub use load::{Found, Latest};
pub use tail::Tail;
pub use writer::{Position, Writer};

use crate::admin::Readiness;
use crate::control::OwnedSample;
use crate::sink::Kept;
use crate::stats::SampleKind;
use segment::Stream;

/// The journal of one process.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    keeper: Keeper,
    notes: (Sender<Note>, Receiver<Note>),
    shared: Arc<Shared>,
    /// Held until the process ends.
    lock: File,
}

/// A journal at work.
#[derive(Debug)]
pub struct Running {
    notes: Sender<Note>,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
    /// Held until the process ends.
    _lock: File,
}

/// What is to be shown of a journal, and whether it can be written.
#[derive(Debug, Default)]
pub struct Shared {
    bytes: AtomicU64,
    errors: AtomicU64,
    /// How many there are.
    writers: AtomicU32,
    /// Bytes that could not be read at the start.
    unreadable: AtomicU64,
    broken: Mutex<Broken>,
    /// The writer of late events.
    late: OnceLock<u32>,
    readiness: Mutex<Option<Readiness>>,
}

/// What is not written.
#[derive(Debug, Default)]
struct Broken {
    /// Writers that have no segment, or have not written out what came meanwhile. Where it is any of them, it is also the one
    /// of late events.
    writers: Vec<u32>,
    /// How often one has failed.
    failures: u64,
}

/// Why a journal cannot be used.
#[derive(Debug)]
pub enum OpenError {
    /// What was tried, and the kernel's answer.
    Io { path: PathBuf, error: io::Error },
    /// Another process has it.
    Locked(PathBuf),
    /// Written by a later version of the program.
    Newer { path: PathBuf, version: u32 },
    /// The key is not one, or is gone.
    Key(PathBuf),
    /// No run comes after that of this segment.
    LastRun(PathBuf),
}

/// Where the key lies, and the lock.
const KEY: &str = "key";
const LOCK: &str = "lock";

impl Journal {
    /// Opens the journal of a directory, which is made where it is missing, and reads what is in it. `sync`: how often it
    /// is written to the disk; `sinks`: by name, whose events it keeps.
    ///
    /// # Errors
    /// Where the directory or what is in it cannot be used.
    pub fn open(directory: &Path, sync: Option<Duration>, sinks: &[Arc<str>]) -> Result<(Journal, Found), OpenError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| OpenError::Io { path, error }
        };
        make_directory(directory).map_err(io(directory))?;
        let path = directory.join(LOCK);
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(io(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked(directory.to_owned())),
            Err(TryLockError::Error(error)) => return Err(OpenError::Io { path, error }),
        }
        let names = segment::list(directory).map_err(io(directory))?;
        let key = key(directory, names.is_empty())?;
        let run = match names.last() {
            Some(last) => last.stream.run.checked_add(1).ok_or_else(|| OpenError::LastRun(last.path(directory)))?,
            None => 1,
        };
        let mut found = load::load(directory, &names, key)?;
        let shared = Arc::new(Shared::default());
        let mut keeper = Keeper::new(directory.to_owned(), key, run, sync, shared.clone());
        for old in &found.segments {
            shared.bytes.fetch_add(old.length, Ordering::Relaxed);
            keeper.add_old(old.name, old.length, old.last_event);
        }
        let Damage { bytes, torn, .. } = found.damage;
        shared.unreadable.store(bytes + torn, Ordering::Relaxed);
        found.keep_sinks(sinks);
        for (sink, cursors) in &found.cursors {
            keeper.add_sink(sink.clone(), cursors.clone());
        }
        Ok((Journal { directory: directory.to_owned(), keeper, notes: channel(), shared, lock }, found))
    }

    /// The writer of the next worker.
    ///
    /// # Errors
    /// Where its first segment cannot be made. A full disk is none: it is waited for, as later.
    pub fn writer(&mut self) -> io::Result<Writer> {
        let (spares, spare) = channel();
        let first = self.keeper.add_writer(spares)?;
        self.shared.writers.fetch_add(1, Ordering::Relaxed);
        Ok(Writer::new(first, self.keeper.key, spare, self.notes.0.clone(), self.shared.clone()))
    }

    /// The writer of events that came while a worker could not write them. To be asked for once all workers have theirs.
    ///
    /// # Errors
    /// As [`Journal::writer`].
    pub fn late(&mut self) -> io::Result<Late> {
        let late = Late::new(self.writer()?, self.shared.clone());
        self.shared.late.get_or_init(|| late.number());
        // One may have failed before there was this one.
        self.shared.broken().owe_late(self.shared.late.get());
        Ok(late)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// What sinks need of it.
    pub fn kept<'a>(&'a self, found: &'a Found) -> Kept<'a> {
        Kept { directory: &self.directory, notes: self.notes.0.clone(), found }
    }

    /// Starts the keeper's thread. `wake` makes a worker, by its number, look for its next segment; the number behind the
    /// last worker's is that of late events.
    ///
    /// # Errors
    /// Where no thread can be had.
    pub fn start(self, wake: impl Fn(usize) + Send + 'static) -> io::Result<Running> {
        let (notes, inbox) = self.notes;
        let (mut keeper, shared) = (self.keeper, self.shared);
        keeper.wake = Wake(Box::new(wake));
        // Before there is any event: a sink that the journal does not know begins with what comes.
        keeper.write_cursors();
        let thread = std::thread::Builder::new().name("journal".into()).spawn(move || keeper.run(&inbox))?;
        Ok(Running { notes, shared, thread, _lock: self.lock })
    }
}

impl Running {
    /// As [`Shared::is_sound`].
    pub fn is_sound(&self) -> bool {
        self.shared.is_sound()
    }

    /// Ends it, once workers and sinks have ended.
    pub fn close(self) {
        // An error says that the keeper has ended.
        drop(self.notes.send(Note::End));
        drop(self.thread.join());
    }
}

impl Shared {
    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Attempts to write, sync or make a segment that have failed.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Whether it has all that is open and all events: each worker can write, and what came while it could not is written.
    pub fn is_sound(&self) -> bool {
        self.broken().writers.is_empty()
    }

    /// Whom to tell whether it can be written.
    pub fn report_to(&self, readiness: Readiness) {
        *self.readiness.lock().unwrap_or_else(PoisonError::into_inner) = Some(readiness);
    }

    pub fn samples(&self) -> [OwnedSample; 3] {
        let sample = |name, kind, value| OwnedSample { name, kind, labels: Vec::new(), value };
        [
            sample("sipstamp_journal_bytes", SampleKind::Gauge, self.bytes()),
            sample("sipstamp_journal_errors_total", SampleKind::Counter, self.errors()),
            sample("sipstamp_journal_unreadable_bytes", SampleKind::Gauge, self.unreadable.load(Ordering::Relaxed)),
        ]
    }

    fn set_kept(&self, is_kept: bool) {
        if let Some(readiness) = &*self.readiness.lock().unwrap_or_else(PoisonError::into_inner) {
            readiness.set_events_kept(&"journal".into(), is_kept);
        }
    }

    fn failed(&self, writer: Option<u32>, error: &io::Error) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let mut broken = self.broken();
        broken.failures += u64::from(writer.is_some());
        let is_first = broken.writers.is_empty();
        if let Some(writer) = writer.filter(|writer| !broken.writers.contains(writer)) {
            broken.writers.push(writer);
            broken.owe_late(self.late.get());
            self.set_kept(false);
            if is_first {
                tracing::error!(%error, "the journal cannot be written: calls go on, but would not survive the process; make room, or mend the disk");
            }
        } else {
            tracing::warn!(%error, "the journal could not be kept up");
        }
    }

    /// A worker writes again, and has written out all its calls. Late events are to be written next.
    fn recovered(&self, writer: u32) {
        if self.late.get() != Some(&writer) {
            let mut broken = self.broken();
            broken.writers.retain(|other| *other != writer);
            self.tell_if_sound(&broken);
        }
    }

    /// Whether late events are all that is not written.
    fn late_due(&self, late: u32) -> Option<Due> {
        let broken = self.broken();
        (*broken.writers == [late]).then_some(Due(broken.failures))
    }

    /// Those that were due are written. Where a worker has failed since, there may be more.
    fn late_written(&self, late: u32, due: Due) {
        let mut broken = self.broken();
        if *broken.writers == [late] && broken.failures == due.0 {
            broken.writers.clear();
            self.tell_if_sound(&broken);
        }
    }

    fn tell_if_sound(&self, broken: &Broken) {
        if broken.writers.is_empty() {
            self.set_kept(true);
            tracing::info!("the journal is written again");
        }
    }

    fn broken(&self) -> std::sync::MutexGuard<'_, Broken> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broken {
    /// Where anything is broken, late events have to be written too.
    fn owe_late(&mut self, late: Option<&u32>) {
        if let Some(late) = late.filter(|late| !self.writers.is_empty() && !self.writers.contains(late)) {
            self.writers.push(*late);
        }
    }
}

/// The key of a directory: sixteen bytes in hexadecimal; made where it is missing and nothing was written with it yet.
fn key(directory: &Path, is_new: bool) -> Result<[u8; 16], OpenError> {
    let path = directory.join(KEY);
    match std::fs::read_to_string(&path) {
        Ok(text) => read_key(text.trim_end()).ok_or(OpenError::Key(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_new => Err(OpenError::Key(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_key(directory, &path).map_err(|error| OpenError::Io { path, error })
        }
        Err(error) => Err(OpenError::Io { path, error }),
    }
}

fn read_key(text: &str) -> Option<[u8; 16]> {
    let is_key = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok().filter(|_| is_key)?;
    Some(number.to_be_bytes())
}

/// A key from the system's random source: this process's own, or a journal's.
///
/// # Errors
/// Where there is none.
pub fn random_key() -> io::Result<[u8; 16]> {
    let mut key = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    Ok(key)
}

fn make_key(directory: &Path, path: &Path) -> io::Result<[u8; 16]> {
    let key = random_key()?;
    write_key(directory, path, key)?;
    Ok(key)
}

/// Makes a directory that is missing, for its user alone.
fn make_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Writes the key again where its file is gone.
fn restore_key(directory: &Path, key: [u8; 16]) -> io::Result<()> {
    let path = directory.join(KEY);
    if path.exists() { Ok(()) } else { write_key(directory, &path, key) }
}

fn write_key(directory: &Path, path: &Path, key: [u8; 16]) -> io::Result<()> {
    // Under its name only once it is on the disk: half a key would be none.
    let unfinished = directory.join("key.new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&unfinished)?;
    writeln!(file, "{:032x}", u128::from_be_bytes(key))?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenError::Io { path, error } => {
                write!(
                    f,
                    "{}: {error}; the journal's directory must be readable and writable for this user",
                    path.display()
                )
            }
            OpenError::Locked(path) => write!(
                f,
                "{}: another process uses this journal; end that one, take over from it with --takeover, or give this one a directory of its own",
                path.display()
            ),
            OpenError::Newer { path, version } => write!(
                f,
                "{}: written by a later version of sipstamp (format {version}, this one reads up to {}); start that version, or give this one another directory",
                path.display(),
                segment::VERSION
            ),
            OpenError::Key(path) => write!(
                f,
                "{}: missing, or not 32 hexadecimal digits; restore it, or remove the directory's files: neither open calls nor events can be restored then",
                path.display()
            ),
            OpenError::LastRun(path) => {
                write!(f, "{}: no segment of sipstamp's own has such a number; move it elsewhere", path.display())
            }
        }
    }
}

impl std::error::Error for OpenError {}

/// Cursors of one sink: the last number that it has delivered, by stream.
pub type Cursors = HashMap<Stream, u64>;
