//! The file of dead letters: events that could not be delivered, a JSON object a line.
//!
//! `{"reason":"status 500","attempts":9,"time":"…","event":{…}}`: the event is its line, byte for byte.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

use super::letter::Letter;

/// Where dead letters go.
#[derive(Debug)]
pub struct DeadLetters(PathBuf);

/// Why a letter is dead.
#[derive(Clone, Debug)]
pub struct Death {
    pub reason: String,
    pub attempts: u32,
}

impl DeadLetters {
    pub const fn new(file: PathBuf) -> DeadLetters {
        DeadLetters(file)
    }

    /// Appends letters and sees to it that they are on the disk: from then on nobody else keeps them. The file is opened
    /// each time, so that it may be moved away.
    ///
    /// # Errors
    /// The kernel's; a letter may lie there all the same, and comes again.
    pub fn write<'a>(&self, letters: impl Iterator<Item = (&'a Letter, Death)>) -> io::Result<()> {
        let mut text = Vec::new();
        for (letter, Death { reason, attempts }) in letters {
            let time = jiff::Timestamp::now();
            write!(text, "{{\"reason\":{},\"attempts\":{attempts},", serde_json::Value::from(reason))?;
            write!(text, "\"time\":\"{time:.3}\",\"event\":")?;
            text.extend_from_slice(&letter.body);
            text.extend_from_slice(b"}\n");
        }
        let mut file = OpenOptions::new().create(true).append(true).open(&self.0)?;
        let before = file.metadata()?.len();
        if let Err(error) = file.write_all(&text) {
            // Half a line would spoil the next one; where it cannot be cut off, that one is lost to readers too.
            drop(file.set_len(before));
            return Err(error);
        }
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_dead_letter_is_its_reason_and_the_event_as_it_is() {
        let path = std::env::temp_dir().join(format!("sipstamp-dead-letters-{}", std::process::id()));
        let line = r#"{"id":"a/ended",  "subject":"a","time":"2026-11-24T10:00:31.216Z","é":1.50}"#;
        let letter = Letter::new(line.as_bytes().into(), SystemTime::now()).unwrap();
        let dead = DeadLetters::new(path.clone());
        let death = |attempts| Death { reason: "a \"word\"".to_owned(), attempts };
        dead.write([(&letter, death(1)), (&letter, death(2))].into_iter()).unwrap();
        dead.write([(&letter, death(3))].into_iter()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for (index, dead) in text.lines().enumerate() {
            assert!(dead.ends_with(&format!("\"event\":{line}}}")), "{dead}");
            let dead: serde_json::Value = serde_json::from_str(dead).unwrap();
            assert_eq!((&dead["reason"], &dead["attempts"]), (&"a \"word\"".into(), &(index + 1).into()));
        }
        assert_eq!(text.lines().count(), 3);
    }
}
