//! Readers that are laxer than the grammar, each in a way that some next hop may be. A message is safe to forward if all of
//! them find the same header fields, the same end of the head and the same length of the body.

use super::oracle::{Parts, find};

/// Which bytes end a line for a reader.
const LINE_ENDS: [&[&[u8]]; 3] = [&[b"\r\n"], &[b"\r\n", b"\n"], &[b"\r\n", b"\n", b"\r"]];

/// Why two readers differ about a message; `None` where all agree.
pub fn disagreement(bytes: &[u8]) -> Option<String> {
    let strict = read(bytes, LINE_ENDS[0]);
    for ends in &LINE_ENDS[1..] {
        let lax = read(bytes, ends);
        if lax != strict {
            return Some(format!("{strict:?}\nor, by {ends:?},\n{lax:?}"));
        }
    }
    let parts = Parts::of(bytes);
    if parts.fields.iter().chain([&parts.start]).any(|line| has_open_nul(line)) {
        return Some("a NUL that is not escaped".into());
    }
    if parts.places("content-length", "l").len() > 1 {
        return Some("two Content-Lengths".into());
    }
    if parts.places("content-length", "l").len() == 1 && parts.body.len() != bytes.len() - head_of(bytes) {
        return Some("the body is not as long as Content-Length".into());
    }
    let words = parts.start.split(|byte| *byte == b' ').collect::<Vec<_>>();
    let is_plain = |word: &&[u8]| !word.is_empty() && word.iter().all(|byte| *byte > b' ' && *byte != 127);
    match parts.is_request() && !(words.len() == 3 && words.iter().all(is_plain)) {
        true => Some(format!("the start line is {:?}", String::from_utf8_lossy(&parts.start))),
        false => None,
    }
}

/// Names of the fields, and how long the head is.
fn read(bytes: &[u8], ends: &[&[u8]]) -> (Vec<String>, usize) {
    let (mut names, mut at) = (Vec::new(), 0);
    loop {
        let rest = &bytes[at..];
        let next = (0..rest.len()).find_map(|from| {
            let end = ends.iter().find(|end| rest[from..].starts_with(end))?;
            Some((from, from + end.len()))
        });
        let Some((line, end)) = next else { return (names, bytes.len()) };
        at += end;
        let line = &rest[..line];
        if line.is_empty() {
            return (names, at);
        }
        if !matches!(line[0], b' ' | b'\t') {
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            names.push(String::from_utf8_lossy(name).trim().to_ascii_lowercase());
        }
    }
}

fn head_of(bytes: &[u8]) -> usize {
    find(bytes, b"\r\n\r\n").map_or(bytes.len(), |end| end + 4)
}

/// Whether a NUL stands anywhere but behind a backslash.
fn has_open_nul(line: &[u8]) -> bool {
    line.iter().enumerate().any(|(at, byte)| *byte == 0 && (at == 0 || line[at - 1] != b'\\'))
}
