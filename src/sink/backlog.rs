//! What a sink has not been given yet of the events that the journal keeps.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use super::queue::{Keeping, Line};
use crate::journal::segment::Stream;
use crate::journal::{Cursors, Note, Position, Tail};

/// A sink's place in the journal.
#[derive(Debug)]
pub struct Backlog {
    directory: PathBuf,
    key: [u8; 16],
    sink: Arc<str>,
    notes: Sender<Note>,
    streams: BTreeMap<Stream, Reach>,
}

/// How far a sink has come in a stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reach {
    /// The last event that the sink was given.
    pub given: u64,
    /// The last event that there is.
    latest: u64,
    /// Events between them.
    behind: u64,
}

/// Reads on where a sink is behind.
#[derive(Debug, Default)]
pub struct Reader(Option<Tail>);

impl Backlog {
    /// Of a sink that has delivered `cursors` of what the journal in a directory, with a key, holds.
    pub fn new(
        (directory, key): (PathBuf, [u8; 16]),
        sink: Arc<str>,
        notes: Sender<Note>,
        cursors: &Cursors,
        held: &HashMap<Stream, Vec<u64>>,
    ) -> Backlog {
        let mut backlog = Backlog { directory, key, sink, notes, streams: BTreeMap::new() };
        for (stream, events) in held {
            let given = cursors.get(stream).copied().unwrap_or(0);
            let latest = events.last().copied().unwrap_or(0);
            let behind = events.iter().filter(|event| **event > given).count() as u64;
            backlog.streams.insert(*stream, Reach { given, latest, behind });
        }
        backlog
    }

    /// Events that the sink was not given.
    pub fn len(&self) -> u64 {
        self.streams.values().map(|reach| reach.behind).sum()
    }

    /// Where to read on; `None` where the sink was given everything.
    pub fn next(&self) -> Option<(Stream, Reach)> {
        // Streams of earlier runs come first: what a call told then is told before what it tells later.
        self.streams.iter().find(|(_, reach)| reach.given < reach.latest).map(|(stream, reach)| (*stream, *reach))
    }

    /// An event has come that the sink is given from memory.
    pub fn give(&mut self, at: Position) {
        self.streams.insert(at.stream, Reach { given: at.seq, latest: at.seq, behind: 0 });
    }

    /// An event has come that the sink will read from the journal.
    pub fn leave(&mut self, at: Position) {
        let reach = self.streams.entry(at.stream).or_default();
        reach.latest = at.seq;
        reach.behind += 1;
    }

    /// Whether the sink has it: what is read goes beyond what has come by then.
    pub fn has_given(&self, at: Position) -> bool {
        self.streams.get(&at.stream).is_some_and(|reach| reach.given >= at.seq)
    }

    /// Events with these numbers were read for the sink, or the journal has no more of the stream. `before`: what
    /// [`Backlog::next`] gave before it was read. Returns how many the journal ought to have had and has not.
    pub fn took(&mut self, stream: Stream, before: Reach, numbers: impl IntoIterator<Item = u64>) -> u64 {
        let reach = self.streams.entry(stream).or_default();
        let mut last = None;
        for number in numbers {
            last = Some(number);
            // What is read goes beyond what has come by then.
            reach.behind = reach.behind.saturating_sub(u64::from(number <= reach.latest));
        }
        let missing = match last {
            // What has come since may be there by now.
            None => before.behind,
            Some(last) if last >= reach.latest => reach.behind,
            Some(_) => 0,
        };
        reach.given = last.unwrap_or(before.latest).max(reach.given);
        reach.behind -= missing.min(reach.behind);
        missing
    }

    /// The sink has delivered everything up to here.
    pub fn delivered(&self, to: Position) {
        // Nobody listens once everything ends.
        drop(self.notes.send(Note::Delivered { sink: self.sink.clone(), to }));
    }

    /// Reads a stream behind a number.
    pub fn tail(&self, stream: Stream, after: u64) -> Tail {
        Tail::new(&self.directory, self.key, stream, after)
    }
}

impl Reader {
    /// The next events where this tail begins.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub fn read(&mut self, anew: Tail) -> io::Result<Vec<Line>> {
        let stream = anew.stream();
        // The one before is there already, where nothing came between.
        let before = self.0.take().filter(|tail| (tail.stream(), tail.reached()) == (stream, anew.reached()));
        let tail = self.0.insert(before.unwrap_or(anew));
        let events = tail.read()?;
        let lines = events
            .into_iter()
            .map(|event| {
                Line::new(event.kind, event.line.into(), Keeping::Journal(Position { stream, seq: event.seq }))
            })
            .collect();
        Ok(lines)
    }
}
