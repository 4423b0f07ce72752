//! Writes the seeds of all targets: `seeds DIRECTORY`, into a directory for each.

// The counters in what is linked are libFuzzer's.
use libfuzzer_sys as _;

use std::path::PathBuf;
use std::{env, fs, io};

use sipstamp_fuzz::TARGETS;

fn main() -> io::Result<()> {
    let parent = env::args_os().nth(1).map(PathBuf::from).ok_or_else(|| io::Error::other("seeds DIRECTORY"))?;
    for (target, seeds) in TARGETS {
        let directory = parent.join(target);
        fs::create_dir_all(&directory)?;
        for (number, seed) in seeds().into_iter().enumerate() {
            fs::write(directory.join(format!("{number:03}")), seed)?;
        }
    }
    Ok(())
}
