//! Reading a journal at the start.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::frame::{Damage, Frame, Frames, Kind};
use super::segment::{self, CURSORS, Head, Name, Stream};
use super::{Cursors, OpenError, Position};
use crate::endpoint::Stored;
use crate::event::EventKind;

/// What a journal holds.
#[derive(Debug, Default)]
pub struct Found {
    /// Under which branches and tags were derived.
    pub key: [u8; 16],
    /// Of what is open, by key.
    pub calls: HashMap<u128, Latest>,
    pub servers: HashMap<u128, Latest>,
    pub clients: HashMap<u128, Latest>,
    pub cursors: HashMap<Arc<str>, Cursors>,
    /// The numbers of events, by stream.
    pub events: HashMap<Stream, Vec<u64>>,
    pub(super) segments: Vec<Old>,
    /// The writers of the latest run that have written out all that is open.
    whole: HashSet<Stream>,
    pub damage: Damage,
}

/// The latest state of something, and where it was written.
#[derive(Debug)]
pub struct Latest {
    pub state: Box<[u8]>,
    at: Position,
}

/// A segment of an earlier run.
#[derive(Debug)]
pub(super) struct Old {
    pub(super) name: Name,
    pub(super) length: u64,
    /// The latest event in it or before it in its stream.
    pub(super) last_event: u64,
}

pub(super) fn load(directory: &Path, names: &[Name], key: [u8; 16]) -> Result<Found, OpenError> {
    let mut found = Found { key, ..Found::default() };
    let mut last_seqs = Cursors::new();
    for name in names {
        let path = name.path(directory);
        let text = std::fs::read(&path).map_err(|error| OpenError::Io { path: path.clone(), error })?;
        match segment::read_head(&text, *name) {
            Head::Newer(version) => return Err(OpenError::Newer { path, version }),
            Head::Ours => {}
            Head::Damaged => found.damage.bytes += segment::HEAD.min(text.len()) as u64,
        }
        let last_seq = last_seqs.entry(name.stream).or_default();
        let mut frames = Frames::after(key, text.get(segment::HEAD..).unwrap_or_default(), *last_seq);
        for frame in frames.by_ref() {
            found.take(name.stream, &frame);
        }
        *last_seq = frames.last_seq();
        found.damage += frames.damage();
        let last_event = found.latest_event(name.stream);
        found.segments.push(Old { name: *name, length: text.len() as u64, last_event });
    }
    Ok(found)
}

impl Found {
    /// Whether something could not be read.
    pub fn is_damaged(&self) -> bool {
        self.damage.bytes > 0 || self.damage.frames > 0
    }

    /// What is open, for the core.
    pub fn into_stored(self) -> Stored {
        let list = |map: HashMap<u128, Latest>| map.into_iter().map(|(key, latest)| (key, latest.state)).collect();
        Stored { calls: list(self.calls), servers: list(self.servers), clients: list(self.clients) }
    }

    /// Forgets sinks that are not configured any more. One that the journal does not know begins with what comes.
    pub(super) fn keep_sinks(&mut self, sinks: &[Arc<str>]) {
        self.cursors.retain(|sink, _| sinks.contains(sink));
        for sink in sinks {
            let latest = || self.events.iter().map(|(stream, events)| (*stream, events.last().copied().unwrap_or(0)));
            self.cursors.entry(sink.clone()).or_insert_with(|| latest().collect());
        }
        for cursors in self.cursors.values_mut() {
            cursors.retain(|stream, _| self.segments.iter().any(|old| old.name.stream == *stream));
        }
    }

    fn latest_event(&self, stream: Stream) -> u64 {
        self.events.get(&stream).and_then(|events| events.last()).copied().unwrap_or(0)
    }

    fn take(&mut self, stream: Stream, frame: &Frame<'_>) {
        let at = Position { stream, seq: frame.seq };
        let put = |map: &mut HashMap<u128, Latest>| match frame.state {
            [] => drop(map.remove(&frame.key)),
            state => drop(map.insert(frame.key, Latest { state: state.into(), at })),
        };
        match frame.kind {
            Kind::Call => put(&mut self.calls),
            Kind::Server => put(&mut self.servers),
            Kind::Client => put(&mut self.clients),
            Kind::Event => {
                self.events.entry(stream).or_default().push(frame.seq);
                if event(frame.state).is_some_and(|(kind, _)| kind == EventKind::Ended) {
                    self.calls.remove(&frame.key);
                }
            }
            Kind::Cursor if stream.writer == CURSORS => {
                if let Some((sink, of, seq)) = cursor(frame.state) {
                    self.cursors.entry(sink.into()).or_default().insert(of, seq);
                }
            }
            Kind::Cursor => {}
            Kind::Whole => {
                if let Some((since, writers)) = whole(frame.state) {
                    self.forget(stream, since, writers);
                }
            }
        }
    }

    /// A writer, one of so many in its run, has written out all that is open since a number: what was not among it is over,
    /// also where no record says so because none could be written.
    fn forget(&mut self, stream: Stream, since: u64, writers: u32) {
        self.whole.retain(|other| other.run == stream.run);
        self.whole.insert(stream);
        // What an earlier run has left may be open in any of them.
        let is_all = self.whole.len() == writers as usize;
        let is_open = |Position { stream: of, seq }: Position| {
            if of.run == stream.run { of != stream || seq >= since } else { !is_all }
        };
        for map in [&mut self.calls, &mut self.servers, &mut self.clients] {
            map.retain(|_, latest| is_open(latest.at));
        }
    }
}

/// The kind and the line of an event's state.
pub(super) fn event(state: &[u8]) -> Option<(EventKind, &[u8])> {
    let (kind, line) = state.split_first()?;
    Some((*EventKind::ALL.get(usize::from(*kind))?, line))
}

/// Since which number, and how many writers there are.
fn whole(state: &[u8]) -> Option<(u64, u32)> {
    let (since, writers) = state.split_first_chunk()?;
    Some((u64::from_le_bytes(*since), u32::from_le_bytes(*writers.first_chunk()?)))
}

fn cursor(state: &[u8]) -> Option<(&str, Stream, u64)> {
    let (run, rest) = state.split_first_chunk()?;
    let (writer, rest) = rest.split_first_chunk()?;
    let (seq, sink) = rest.split_first_chunk()?;
    let stream = Stream { run: u32::from_le_bytes(*run), writer: u32::from_le_bytes(*writer) };
    Some((std::str::from_utf8(sink).ok()?, stream, u64::from_le_bytes(*seq)))
}

impl std::ops::AddAssign for Damage {
    fn add_assign(&mut self, other: Damage) {
        self.bytes += other.bytes;
        self.frames = self.frames.saturating_add(other.frames);
        self.torn += other.torn;
    }
}
