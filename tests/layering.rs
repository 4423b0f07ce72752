//! The wall between the core and the shell: the core's sources name nothing that does I/O, reads a
//! clock or makes chance.

use std::fs;
use std::path::{Path, PathBuf};

/// Files and directories of the core, below `src/`.
const CORE: &[&str] = &[
    "arena.rs",
    "call",
    "chunks.rs",
    "closed.rs",
    "endpoint",
    "event",
    "flow.rs",
    "kept.rs",
    "mask",
    "outcome",
    "overload.rs",
    "path.rs",
    "policy.rs",
    "proxy",
    "scan.rs",
    "sip",
    "stats.rs",
    "table.rs",
    "text.rs",
    "time.rs",
    "transaction",
    "wheel.rs",
];
/// What stands on the other side.
const BANNED: &[&str] = &[
    "tokio",
    "std::net::Udp",
    "std::net::Tcp",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "std::fs",
    "std::thread",
    "std::env",
    "std::process",
    "Instant::now",
    "SystemTime",
    "metrics::",
    "counter!(",
    "gauge!(",
    "histogram!(",
    "getrandom",
    "rand::",
    "RandomState",
    "rsip",
    "crate::admin",
    "crate::cli",
    "crate::config",
    "crate::control",
    "crate::demo",
    "crate::nats",
    "crate::recent",
    "crate::runtime",
    "crate::sink",
    "crate::telemetry",
    "crate::transport",
    "crate::web",
];

fn sources(at: &Path, found: &mut Vec<PathBuf>) {
    if at.is_dir() {
        for entry in fs::read_dir(at).unwrap() {
            sources(&entry.unwrap().path(), found);
        }
    } else if at.extension().is_some_and(|extension| extension == "rs") {
        found.push(at.to_owned());
    }
}

#[test]
fn the_core_names_nothing_outside() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for part in CORE {
        let before = files.len();
        sources(&root.join(part), &mut files);
        assert!(files.len() > before, "src/{part} holds no sources: the list in this test is out of date");
    }
    let mut breaches = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        // Tests beside the code may use what they like.
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let is_comment = line.trim_start().starts_with("//");
            for banned in BANNED.iter().filter(|banned| !is_comment && line.contains(**banned)) {
                breaches.push(format!("{}:{}: {banned}", file.display(), number + 1));
            }
        }
    }
    assert!(breaches.is_empty(), "the core reaches outside:\n{}", breaches.join("\n"));
}
