//! The files of a journal: their names, their heads, what lies in the directory.
//!
//! A segment is named `RUN-STREAM-NUMBER.log`. Each start of the process is a run; in a run each worker has a stream of
//! its own, and one stream more is of the sinks' cursors. Frames of a stream go on from segment to segment.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The format that is written, and the newest that is read.
pub const VERSION: u32 = 1;
/// Length of a segment's head, in bytes.
pub const HEAD: usize = 32;
const MAGIC: &[u8; 8] = b"sipstamp";
const SUFFIX: &str = ".log";

/// Frames of one worker in one run of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    pub run: u32,
    /// The worker's number; [`CURSORS`] for the sinks.
    pub writer: u32,
}

/// The writer of the sinks' cursors.
pub const CURSORS: u32 = 99_999;

/// Names one segment; ordered as they were begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    pub stream: Stream,
    pub number: u32,
}

/// What the head of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    Ours,
    /// Written by a version of the program that this one is too old for.
    Newer(u32),
    /// Not readable: frames behind it may be.
    Damaged,
}

impl Name {
    pub fn path(self, directory: &Path) -> PathBuf {
        let Name { stream: Stream { run, writer }, number } = self;
        directory.join(format!("{run:010}-{writer:05}-{number:010}{SUFFIX}"))
    }

    fn of(file: &str) -> Option<Name> {
        let mut parts = file.strip_suffix(SUFFIX)?.split('-').map(|part| part.parse().ok());
        let mut next = || parts.next().flatten();
        let name = Name { stream: Stream { run: next()?, writer: next()? }, number: next()? };
        parts.next().is_none().then_some(name)
    }
}

/// Makes a segment that holds its head alone.
///
/// # Errors
/// The kernel's; no file is left then.
pub fn create(directory: &Path, name: Name) -> io::Result<File> {
    let path = name.path(directory);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let written = file.write_all(&head(name));
    if written.is_err() {
        // What went wrong is told; a file that is left over is passed over at the next start.
        drop(std::fs::remove_file(&path));
    }
    written.map(|()| file)
}

/// All segments of a directory, oldest first.
///
/// # Errors
/// The kernel's.
pub fn list(directory: &Path) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        names.extend(entry?.file_name().to_str().and_then(Name::of));
    }
    names.sort_unstable();
    Ok(names)
}

/// Reads the head of a segment's text.
pub fn read_head(text: &[u8], name: Name) -> Head {
    let Some(found) = text.first_chunk::<HEAD>() else { return Head::Damaged };
    if *found == head(name) {
        return Head::Ours;
    }
    let number = |at: usize| found.get(at..at + 4).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b));
    let is_sound =
        found.starts_with(MAGIC) && found.get(..HEAD - 4).is_some_and(|head| crc32fast::hash(head) == number(HEAD - 4));
    if is_sound && number(8) > VERSION { Head::Newer(number(8)) } else { Head::Damaged }
}

/// Magic, version, run, writer, number, four bytes of zero, CRC-32 of all that.
fn head(name: Name) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    let numbers = [VERSION, name.stream.run, name.stream.writer, name.number, 0];
    let bytes = MAGIC.iter().copied().chain(numbers.into_iter().flat_map(u32::to_le_bytes));
    for (place, byte) in head.iter_mut().zip(bytes) {
        *place = byte;
    }
    let sum = crc32fast::hash(&head[..HEAD - 4]).to_le_bytes();
    head[HEAD - 4..].copy_from_slice(&sum);
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: Name = Name { stream: Stream { run: 7, writer: 1 }, number: 12 };

    #[test]
    fn names_are_read_as_they_are_written_and_sort_by_age() {
        let file = |name: Name| name.path(Path::new("")).to_str().unwrap().to_owned();
        assert_eq!(Name::of(&file(NAME)), Some(NAME));
        let later = Name { stream: Stream { run: 10, writer: 0 }, number: 1 };
        assert!(later > NAME && file(later) > file(NAME));
        for other in ["", "key", "lock", "1-2.log", "1-2-3-4.log", "a-b-c.log", "1-2-3"] {
            assert_eq!(Name::of(other), None, "{other}");
        }
    }

    #[test]
    fn a_head_tells_whose_it_is() {
        let text = head(NAME);
        assert_eq!(read_head(&text, NAME), Head::Ours);
        assert_eq!(read_head(&text[..31], NAME), Head::Damaged);
        for bit in 0..HEAD * 8 {
            let mut text = text;
            text[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read_head(&text, NAME), Head::Damaged, "{bit}");
        }
        let mut newer = text;
        newer[8] = 2;
        let sum = crc32fast::hash(&newer[..HEAD - 4]).to_le_bytes();
        newer[HEAD - 4..].copy_from_slice(&sum);
        assert_eq!(read_head(&newer, NAME), Head::Newer(2));
    }
}
