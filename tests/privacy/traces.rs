//! All that a process has written, by channel, and the search of it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sipstamp::outcome::Outcome;

/// In every number of a call, and nowhere else.
pub const MARK: &str = "876123";

pub const ADMIN_TOKEN: &str = "C4N4RY-admin-token";
pub const MASK_KEY: &str = "C4N4RY-mask-key-of-enough-bytes";
pub const NATS_PASSWORD: &str = "C4N4RY-nats-password";
pub const URL_SECRET: &str = "C4N4RY-url";
pub const SIP_SECRET: &str = "C4N4RY-digest";
/// Of every secret above, and of the webhook's.
const SECRETS: [&str; 4] = ["C4N4RY", "MfKQ9r8G", "31c290f6bf0f", "v1,"];

/// Where a process writes.
pub const CHANNELS: [&str; 14] = [
    "the log",
    "the events' file",
    "standard output",
    "dead letters",
    "webhook",
    "NATS",
    "metrics",
    "status",
    "GET /v1/calls",
    "GET /v1/calls/{id}",
    "GET /v1/outcomes",
    "GET /v1/events",
    "pages",
    "problems",
];

#[derive(Default)]
pub struct Traces {
    texts: BTreeMap<&'static str, String>,
    pub folder: PathBuf,
}

impl Traces {
    pub fn add(&mut self, channel: &'static str, text: &str) {
        assert!(CHANNELS.contains(&channel), "{channel}");
        let all = self.texts.entry(channel).or_default();
        all.push_str(text);
        all.push('\n');
    }

    pub fn of(&self, channel: &str) -> &str {
        self.texts.get(channel).map_or("", String::as_str).trim()
    }

    /// Something came by every channel, and calls ended in every way.
    pub fn assert_complete(&self) {
        for channel in CHANNELS {
            assert!(!self.of(channel).is_empty(), "nothing in {channel}");
        }
        let events = self.of("the events' file");
        for outcome in Outcome::ALL.iter().map(|outcome| outcome.label()) {
            assert!(events.contains(&format!("\"outcome\":\"{outcome}\"")), "no {outcome} in {events}");
        }
        for cause in [
            "answered_bye_caller",
            "answered_hung_up",
            "no_answer_timer",
            "no_response",
            "caller_cancel",
            "redirected",
            "peer_final",
            "auth_failed",
            "overload",
        ] {
            assert!(events.contains(&format!("\"end_cause\":\"{cause}\"")), "no {cause} in {events}");
        }
        assert!(events.contains("\"direction\":\"inbound\""), "{events}");
    }

    pub fn assert_no_numbers(&self, channels: &[&str]) {
        for channel in channels {
            let text = self.of(channel);
            if let Some(line) = text.lines().find(|line| shows_number(line)) {
                panic!("a number in {channel}: {line}");
            }
        }
    }

    pub fn assert_numbers(&self, channels: &[&str]) {
        for channel in channels {
            assert!(self.of(channel).lines().any(shows_number), "no number in {channel}: {}", self.of(channel));
        }
    }

    pub fn assert_no_secrets(&self) {
        for (channel, text) in &self.texts {
            // What a peer is sent is signed.
            for secret in SECRETS {
                if let Some(line) = text.lines().find(|line| line.contains(secret)) {
                    panic!("{secret} in {channel}: {line}");
                }
            }
        }
    }

    /// The number that was dialled has one hash in every field that bears it.
    pub fn assert_hashes_join(&self) {
        let mut count = 0;
        for line in self.of("the events' file").lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| event["data"][key].as_str().unwrap_or_default().to_owned();
            let to = text("to");
            if text("correlation").starts_with("lead/") {
                assert!(to.len() == 64 && text("correlation") == format!("lead/{to}"), "{line}");
                assert_eq!((text("request_user"), text("call_id").starts_with(&to)), (to, true), "{line}");
                count += 1;
            }
        }
        assert!(count > 10, "{count}");
    }

    /// Of what may hold numbers as they are.
    pub fn assert_modes(&self) {
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let journal = self.folder.join("journal");
        assert_eq!(mode(&journal), 0o700);
        let mut is_number_kept = false;
        for entry in std::fs::read_dir(&journal).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            is_number_kept |= shows_number(&String::from_utf8_lossy(&std::fs::read(&path).unwrap()));
        }
        assert!(is_number_kept, "calls could not go on after a restart");
    }
}

/// However it is written.
fn shows_number(line: &str) -> bool {
    let mut digits = line.to_owned();
    for separator in ["%2B", "%2b", "%20", "-", ".", " ", "(", ")", "+"] {
        digits = digits.replace(separator, "");
    }
    digits.contains(MARK)
}

#[test]
fn a_number_is_found_however_it_is_written() {
    for text in ["49876123100", "x+49-876-123-100", "%2B49876(123)100", "8.7.6 1-2-3"] {
        assert!(shows_number(text), "{text}");
    }
    assert!(!shows_number("87612 x 3"));
}
