//! The collection of messages that is no part of the project: where it lies, and what to do where it does not.

use std::path::{Path, PathBuf};

/// A directory of raw messages.
#[derive(Debug)]
pub struct Corpus(PathBuf);

impl Corpus {
    /// One of the sets; `None`, said aloud, where there is none here.
    pub fn open(set: &str) -> Option<Corpus> {
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus");
        let root = std::env::var_os("SIPSTAMP_CORPUS").map_or(beside, PathBuf::from);
        let path = root.join(set);
        if path.is_dir() {
            return Some(Corpus(path));
        }
        eprintln!("SKIPPED: no {}; SIPSTAMP_CORPUS says where the messages are", path.display());
        None
    }

    pub fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.0.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    /// All its messages by their names, in order.
    pub fn all(&self) -> Vec<(String, Vec<u8>)> {
        let mut names = files(&self.0);
        names.retain(|name| name.ends_with(".sip") || name.ends_with(".dat"));
        names.into_iter().map(|name| (name.clone(), self.read(&name))).collect()
    }
}

/// Names of the files in a directory, in order.
fn files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let mut names = entries
        .filter(|entry| entry.path().is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect::<Vec<_>>();
    names.sort();
    names
}
