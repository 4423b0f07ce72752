//! Events of one stream from some place on, for a sink that is behind.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::frame::{Frames, Kind};
use super::load::event;
use super::segment::{self, Name, Stream};
use crate::event::EventKind;

/// Bytes that are read in one go; a frame that is longer is read in a go of its own.
const CHUNK: usize = 256 * 1024;

/// Reads the events of a stream.
#[derive(Debug)]
pub struct Tail {
    directory: PathBuf,
    key: [u8; 16],
    stream: Stream,
    /// The last number that is not wanted.
    after: u64,
    /// The segment, once one was found, and the place in it.
    at: Option<(Name, u64)>,
}

/// An event that the journal keeps.
#[derive(Debug)]
pub struct KeptEvent {
    pub seq: u64,
    pub kind: EventKind,
    pub line: Box<[u8]>,
}

impl Tail {
    /// Those behind the number `after`, in the journal that has this directory and key.
    pub fn new(directory: &Path, key: [u8; 16], stream: Stream, after: u64) -> Tail {
        Tail { directory: directory.to_owned(), key, stream, after, at: None }
    }

    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// The number up to which events were read.
    pub fn reached(&self) -> u64 {
        self.after
    }

    /// The next events: some, or none where no more are written so far.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&mut self) -> io::Result<Vec<KeptEvent>> {
        let mut found = Vec::new();
        loop {
            let names = segment::list(&self.directory)?;
            let mut names = names.into_iter().filter(|name| name.stream == self.stream);
            let (name, offset) = match self.at {
                Some((name, offset)) if name.path(&self.directory).exists() => (name, offset),
                Some((name, _)) => match names.find(|other| *other > name) {
                    Some(next) => (next, segment::HEAD as u64),
                    None => return Ok(found),
                },
                None => match names.next() {
                    Some(first) => (first, segment::HEAD as u64),
                    None => return Ok(found),
                },
            };
            // Looked for before this one is read: what was written to it until then is not passed over. One without frames
            // is a spare: that of the segment which is written, or one that was given up with another.
            let later = names.find(|other| *other > name && has_frames(&other.path(&self.directory)));
            let read = self.read_on(name, offset, &mut found)?;
            self.at = Some((name, offset + read));
            if !found.is_empty() {
                return Ok(found);
            }
            match later {
                // Nothing more is written to a segment that has a successor with frames.
                Some(next) if read == 0 => self.at = Some((next, segment::HEAD as u64)),
                None if read == 0 => return Ok(found),
                _ => {}
            }
        }
    }

    /// Reads on in a segment: how many bytes were used.
    fn read_on(&mut self, name: Name, offset: u64, found: &mut Vec<KeptEvent>) -> io::Result<u64> {
        let file = File::open(name.path(&self.directory))?;
        let available = file.metadata()?.len().saturating_sub(offset) as usize;
        let mut size = CHUNK.min(available);
        loop {
            let mut text = vec![0; size];
            let got = file.read_at(&mut text, offset)?;
            text.truncate(got);
            // What ends with the chunk is not damaged: that shows in what is there of the segment alone.
            let is_part = got == size && size < available;
            let mut frames = if is_part { Frames::of_part(self.key, &text) } else { Frames::of(self.key, &text) };
            let mut used = 0;
            while let Some(frame) = frames.next() {
                used = frames.offset();
                if frame.seq <= self.after || frame.kind != Kind::Event {
                    continue;
                }
                self.after = frame.seq;
                found.extend(event(frame.state).map(|(kind, line)| KeptEvent {
                    seq: frame.seq,
                    kind,
                    line: line.into(),
                }));
            }
            // A batch that is longer than what was read, or damage.
            if used == 0 && is_part {
                size = (size * 2).min(available);
                continue;
            }
            return Ok(used as u64);
        }
    }
}

fn has_frames(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.len() > segment::HEAD as u64)
}
