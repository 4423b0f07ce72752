//! What the fuzzing targets do with their bytes, and the seeds that they begin with.
//!
//! Each module is one target: `run` takes arbitrary bytes and panics where the library breaks a promise, `seeds` gives inputs
//! that are worth changing. The binaries in `fuzz_targets/` hand over what libFuzzer makes up, and nothing else.

pub mod config;
pub mod edits;
pub mod endpoint;
pub mod framing;
pub mod index;
pub mod journal;
pub mod messages;
pub mod peak;
pub mod peer;
pub mod policy;
pub mod restore;
pub mod script;
pub mod typed;
pub mod world;

use sipstamp::sip::Limits;

/// What messages are read with: as the program does.
pub const LIMITS: Limits = Limits::standard(65_535);
/// What we wrote ourselves may be of any length.
pub const WIDE: Limits = Limits::NONE;

/// A target's inputs to begin with.
pub type Seeds = fn() -> Vec<Vec<u8>>;

/// All targets by name.
pub const TARGETS: [(&str, Seeds); 8] = [
    ("index", index::seeds),
    ("framing", framing::seeds),
    ("typed", typed::seeds),
    ("edits", edits::seeds),
    ("config", config::seeds),
    ("journal", journal::seeds),
    ("restore", restore::seeds),
    ("endpoint", endpoint::seeds),
];

/// Bytes of an input, one after the other: where it ends, zeros follow.
#[derive(Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn two(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// So many bytes, or as many as there are.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
