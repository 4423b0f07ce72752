//! Journals: what is read of any segments was written, in its order; what is unharmed is all there.

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sipstamp::journal::frame::{Batch, Frames};
use sipstamp::journal::segment::{self, CURSORS, Name, Stream};
use sipstamp::journal::{Journal, Kind};

use crate::{Reader, peak};

/// Bytes of a frame beside its state.
const FRAME: usize = 32 + 16;
/// What reading may need beside some times the text.
const MEMORY: usize = 1024 * 1024;

/// What was written under a number.
type Written = HashMap<u64, (Kind, u128, Vec<u8>)>;

pub fn run(data: &[u8]) {
    let key = key_of(data);
    let mut reader = Reader(data);
    let mut written = Written::new();
    let mut text = write(key, &mut reader, &mut written);
    let whole = text.len();
    let is_cut_only = change(&mut text, &mut reader);
    let used = peak::of(|| {
        let read = read(key, &text, &written);
        if is_cut_only {
            assert!(read.1 == 0 && (1..).zip(&read.0).all(|(at, seq)| at == *seq), "a cut took more than its end");
            assert!(text.len() < whole || read.0.len() == written.len());
        }
    });
    assert!(used < MEMORY + 64 * text.len(), "{used} bytes for {}", text.len());
    let of = reader.byte();
    let used = peak::of(|| load(key, &text, of, &written));
    fs::remove_dir_all(directory()).unwrap();
    assert!(used < MEMORY + 64 * text.len(), "{used} bytes for {}", text.len());
}

pub fn seeds() -> Vec<Vec<u8>> {
    let batches: &[u8] =
        &[3, 2, 0, 1, 9, 0, 5, 1, 1, 4, 3, 2, 20, 200, 1, 2, 3, 3, 1, 30, 7, 0, 0, 5, 9, 1, 4, 2, 12, 1];
    let changes: [&[u8]; 7] = [
        &[0],
        &[1, 5, 60, 0, 0],
        &[1, 0, 60, 0, 7, 3],
        &[1, 3, 0, 0, 99],
        &[2, 3, 10, 0, 80, 4, 90, 0, 3],
        &[1, 2, 30, 0, 40],
        &[1, 6, 0, 0, 5, 0x73, 0x70, 0x6a, 0x1a, 9],
    ];
    changes.iter().map(|change| [batches, change].concat()).collect()
}

/// Of the whole input: what is found out about the checksums of one is no use for another.
fn key_of(data: &[u8]) -> [u8; 16] {
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    let half = hasher.finish().to_le_bytes();
    [half, half].concat().try_into().unwrap()
}

/// Some batches of some frames.
fn write(key: [u8; 16], reader: &mut Reader<'_>, written: &mut Written) -> Vec<u8> {
    let mut text = Vec::new();
    let mut batch = Batch::beginning_with(key, 1);
    for _ in 0..reader.byte() % 8 {
        for _ in 0..reader.byte() % 5 {
            let kind = Kind::ALL[usize::from(reader.byte()) % Kind::ALL.len()];
            let of = u128::from(reader.byte() % 4);
            let length = usize::from(reader.byte());
            let mut state = reader.bytes(length % 32).to_vec();
            state.resize(length, reader.byte());
            written.insert(batch.push(kind, of, &[&state[..length / 2], &state[length / 2..]]), (kind, of, state));
        }
        text.extend_from_slice(batch.bytes());
        batch.clear();
    }
    text
}

/// Does harm to a text; true where nothing but its end is missing, if at all.
fn change(text: &mut Vec<u8>, reader: &mut Reader<'_>) -> bool {
    let mut is_cut_only = true;
    for _ in 0..reader.byte() % 8 {
        let (how, place, with) = (reader.byte() % 7, usize::from(reader.two()), reader.byte());
        let place = place % (text.len() + 1);
        let some = place..(place + usize::from(with)).min(text.len());
        is_cut_only &= how == 5;
        match how {
            0 if place < text.len() => text[place] ^= with,
            1 => text.insert(place, with),
            2 => drop(text.drain(some)),
            3 => text.extend_from_within(some),
            4 => {
                let to = usize::from(reader.two()) % (text.len() + 1);
                let copy = text[some].to_vec();
                text.splice(to..to, copy);
            }
            5 => text.truncate(place),
            _ => text.extend_from_slice(reader.bytes(with.into())),
        }
    }
    is_cut_only
}

/// The numbers that are read of a text, and how much of it is damaged.
fn read(key: [u8; 16], text: &[u8], written: &Written) -> (Vec<u64>, u64) {
    let mut frames = Frames::of(key, text);
    let (mut seqs, mut bytes) = (Vec::new(), 0);
    for frame in frames.by_ref() {
        assert!(seqs.last().is_none_or(|last| *last < frame.seq));
        let (kind, key, state) = &written[&frame.seq];
        assert_eq!((frame.kind, frame.key, frame.state), (*kind, *key, &state[..]));
        seqs.push(frame.seq);
        bytes += (FRAME + state.len()) as u64;
    }
    let damage = frames.damage();
    assert_eq!(bytes + damage.bytes + damage.torn, text.len() as u64, "{damage:?}");
    let in_part = Frames::of_part(key, text).map(|frame| frame.seq).collect::<Vec<_>>();
    assert!(seqs.starts_with(&in_part));
    (seqs, damage.bytes + damage.frames)
}

/// The same text as segments of one or two streams, from a directory.
fn load(key: [u8; 16], text: &[u8], of: u8, written: &Written) {
    let directory = directory();
    drop(fs::remove_dir_all(directory));
    fs::create_dir_all(directory).unwrap();
    let digits = key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    fs::write(directory.join("key"), digits).unwrap();
    let (first, second) = text.split_at(text.len() * usize::from(of & 3) / 4);
    let writer = if of & 4 == 0 { 0 } else { CURSORS };
    let names = [(writer, 1, first), (writer, 2, second)];
    for (writer, number, text) in names {
        let name = Name { stream: Stream { run: 1, writer }, number };
        segment::create(directory, name).unwrap().write_all(text).unwrap();
        if of & 8 != 0 {
            spoil_head(&name.path(directory), of);
        }
    }
    let Ok((journal, found)) = Journal::open(directory, None, &["file".into()]) else {
        assert!(of & 8 != 0, "segments with sound heads are not read");
        return;
    };
    drop(journal);
    let maps = [(Kind::Call, &found.calls), (Kind::Server, &found.servers), (Kind::Client, &found.clients)];
    for (kind, latest) in maps {
        for (key, latest) in latest {
            let is_it =
                |(of, its, state): &(Kind, u128, Vec<u8>)| *of == kind && its == key && state[..] == latest.state[..];
            assert!(written.values().any(is_it), "a state that nobody wrote");
        }
    }
    for seq in found.events.values().flatten() {
        assert_eq!(written[seq].0, Kind::Event);
    }
    drop(found.into_stored());
}

fn spoil_head(path: &Path, of: u8) {
    let mut text = fs::read(path).unwrap();
    text[usize::from(of >> 4)] ^= of;
    fs::write(path, text).unwrap();
}

/// One for this process, in memory where there is such a place.
fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        parent.join(format!("sipstamp-fuzz-{}", std::process::id()))
    })
}
