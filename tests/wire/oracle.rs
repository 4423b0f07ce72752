//! What "forwarded unharmed" means, told without the code under test: the message is cut at its line ends, what a hop
//! must add or change is undone, and every other byte has to be the same, in the same order.

use std::net::SocketAddr;

use super::super::support::{SIDECAR, Sent};
use super::SIDECAR6;

/// Headers that nobody but the sidecar may write or see.
const OURS_ALONE: [&str; 3] = ["call-outcome", "no-answer-timeout", "voicemail-drop"];

/// A message as a plain reader has it: lines that end with CRLF, those that begin with white space go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Without its CRLF.
    pub start: Vec<u8>,
    /// Whole, CRLF and folds included.
    pub fields: Vec<Vec<u8>>,
    pub body: Vec<u8>,
}

impl Parts {
    /// Line ends in front and bytes beyond Content-Length are no part of a message (RFC 3261 §7.5, §18.3).
    pub fn of(mut bytes: &[u8]) -> Parts {
        while let Some(rest) = bytes.strip_prefix(b"\r\n") {
            bytes = rest;
        }
        let end = find(bytes, b"\r\n\r\n").unwrap_or_else(|| panic!("no end of the head: {}", text(bytes)));
        let (head, mut body) = (&bytes[..end + 2], &bytes[end + 4..]);
        let mut lines = Vec::<Vec<u8>>::new();
        let mut rest = head;
        while let Some(at) = find(rest, b"\r\n") {
            let (line, behind) = rest.split_at(at + 2);
            match lines.last_mut().filter(|_| matches!(line[0], b' ' | b'\t')) {
                Some(last) => last.extend_from_slice(line),
                None => lines.push(line.to_vec()),
            }
            rest = behind;
        }
        let start = lines.remove(0);
        let start = start[..start.len() - 2].to_vec();
        let mut parts = Parts { start, fields: lines, body: Vec::new() };
        if let Some(length) = parts.number("content-length", "l") {
            body = body.get(..length).unwrap_or(body);
        }
        parts.body = body.to_vec();
        parts
    }

    pub fn write(&self) -> Vec<u8> {
        [&self.start, &b"\r\n"[..], &self.fields.concat(), b"\r\n", &self.body].concat()
    }

    /// Places of the fields with this full or compact name.
    pub fn places(&self, full: &str, compact: &str) -> Vec<usize> {
        let is = |field: &&Vec<u8>| !name(field).is_empty() && [full, compact].contains(&&*name(field));
        self.fields.iter().enumerate().filter(|(_, field)| is(field)).map(|(at, _)| at).collect()
    }

    pub fn has(&self, full: &str, compact: &str) -> bool {
        !self.places(full, compact).is_empty()
    }

    /// The first field of a name.
    pub fn first(&self, full: &str, compact: &str) -> &[u8] {
        &self.fields[self.places(full, compact)[0]]
    }

    pub fn is_request(&self) -> bool {
        !self.start.to_ascii_lowercase().starts_with(b"sip/2.0 ")
    }

    pub fn method(&self) -> String {
        match self.is_request() {
            true => word(&self.start, 0),
            false => word(value(self.first("cseq", "cseq")), 1),
        }
    }

    fn number(&self, full: &str, compact: &str) -> Option<usize> {
        let at = *self.places(full, compact).first()?;
        String::from_utf8_lossy(value(&self.fields[at])).trim().parse().ok()
    }
}

/// Whether a forwarded request is the one that came but for what a hop does to it. `expected` is the one that came, with
/// a Route of ours perhaps.
pub fn intact(came: &[u8], sent: &Sent, source: SocketAddr) -> Result<(), String> {
    let (mut came, mut went) = (Parts::of(came), Parts::of(&sent.raw));
    let transport = format!("{:?}", sent.transport).to_uppercase();
    let us = if sent.to.is_ipv6() { SIDECAR6 } else { SIDECAR };
    let via = format!("Via: SIP/2.0/{transport} {us};branch=z9hG4bK");
    let top = went.places("via", "v")[0];
    let own = went.fields.remove(top);
    let branch = own.strip_prefix(via.as_bytes()).ok_or_else(|| format!("the topmost Via is {}", text(&own)))?;
    if !branch.strip_suffix(b"\r\n").is_some_and(|branch| branch.iter().all(u8::is_ascii_alphanumeric)) {
        return Err(format!("our Via is {}", text(&own)));
    }
    undo_max_forwards(&mut came, &mut went)?;
    undo_via_marks(&mut came, &mut went, source)?;
    let is_our_record = |field: &Vec<u8>| field.starts_with(format!("Record-Route: <sip:{SIDECAR};").as_bytes());
    went.fields.retain(|field| !is_our_record(field));
    if transport == "TCP" && !came.has("content-length", "l") {
        let added = format!("Content-Length: {}\r\n", went.body.len());
        went.fields.retain(|field| *field != added.as_bytes());
    }
    came.fields.retain(|field| *field != super::OUR_ROUTE.as_bytes() && !OURS_ALONE.contains(&&*name(field)));
    same(&came, &went)
}

/// Whether a forwarded response is the one that came, but for our Via and what we stamp.
pub fn intact_response(came: &[u8], went: &[u8]) -> Result<(), String> {
    let (mut came, mut went) = (Parts::of(came), Parts::of(went));
    let via = came.places("via", "v")[0];
    came.fields.remove(via);
    came.fields.retain(|field| name(field) != OURS_ALONE[0]);
    let stamps = went.places(OURS_ALONE[0], OURS_ALONE[0]);
    let code = word(&came.start, 1).parse::<u16>().unwrap();
    let is_stamped = came.method() == "INVITE" && code >= 200 && ![401, 407, 422].contains(&code);
    if stamps.len() != usize::from(is_stamped) {
        return Err(format!("{} stamps", stamps.len()));
    }
    went.fields.retain(|field| name(field) != OURS_ALONE[0]);
    same(&came, &went)
}

/// A captured response as if it answered a request that we forwarded: with our Via on top.
pub fn response_with_our_via(response: &[u8], forwarded: &[u8]) -> Vec<u8> {
    let mut response = Parts::of(response);
    let ours = Parts::of(forwarded).first("via", "v").to_vec();
    let top = response.places("via", "v")[0];
    response.fields.insert(top, ours);
    response.write()
}

fn undo_max_forwards(came: &mut Parts, went: &mut Parts) -> Result<(), String> {
    let (there, here) = (came.places("max-forwards", ""), went.places("max-forwards", ""));
    let [here] = here[..] else { return Err("not one Max-Forwards".into()) };
    match there[..] {
        [] => match went.fields.remove(here) == b"Max-Forwards: 70\r\n" {
            true => Ok(()),
            false => Err("Max-Forwards is not 70".into()),
        },
        [there] => {
            let hops = came.number("max-forwards", "").ok_or("Max-Forwards is no number")?;
            let field = String::from_utf8(came.fields[there].clone()).unwrap();
            let digits = String::from_utf8_lossy(value(&came.fields[there])).trim().to_owned();
            came.fields[there] = field.replacen(&digits, &(hops - 1).to_string(), 1).into_bytes();
            Ok(())
        }
        _ => Err("several Max-Forwards".into()),
    }
}

/// `received` and `rport` of the topmost Via are the receiver's (RFC 3261 §18.2.1, RFC 3581 §4): there must be the source's
/// address where its host is another, and nothing else may differ.
fn undo_via_marks(came: &mut Parts, went: &mut Parts, source: SocketAddr) -> Result<(), String> {
    let (there, here) = (came.places("via", "v")[0], went.places("via", "v")[0]);
    let ip = source.ip().to_string();
    let (was, is) = (came.fields[there].clone(), went.fields[here].clone());
    let first_of = |field: &[u8]| text(field).split(',').next().unwrap_or_default().to_owned();
    let is_elsewhere = !first_of(&was).contains(&format!(" {ip}"));
    let received = param(&first_of(&is), "received");
    if is_elsewhere && received.as_deref() != Some(&ip) {
        return Err(format!("received is not the source: {}", text(&is)));
    }
    if param(&first_of(&was), "rport").is_some() && param(&first_of(&is), "rport") != Some(source.port().to_string()) {
        return Err(format!("rport is not the source's: {}", text(&is)));
    }
    came.fields[there] = without_marks(&was);
    went.fields[here] = without_marks(&is);
    Ok(())
}

fn without_marks(via: &[u8]) -> Vec<u8> {
    let mut left = via.to_vec();
    for name in [&b";received"[..], b";rport"] {
        let top = find(&left, b",").unwrap_or(left.len());
        if let Some(at) = find(&left[..top].to_ascii_lowercase(), name) {
            let ends = |byte: &u8| matches!(byte, b';' | b',' | b' ' | b'\t' | b'\r');
            let end = left[at + 1..].iter().position(ends).map_or(left.len(), |end| at + 1 + end);
            left.drain(at..end);
        }
    }
    left
}

fn same(came: &Parts, went: &Parts) -> Result<(), String> {
    if came.start != went.start {
        return Err(format!("{}\nbecame\n{}", text(&came.start), text(&went.start)));
    }
    if came.body != went.body {
        return Err(format!("a body of {} bytes became one of {}", came.body.len(), went.body.len()));
    }
    for (before, after) in came.fields.iter().zip(&went.fields) {
        if before != after {
            return Err(format!("{}became\n{}", text(before), text(after)));
        }
    }
    match came.fields.len() == went.fields.len() {
        true => Ok(()),
        false => Err(format!("{} fields became {}", came.fields.len(), went.fields.len())),
    }
}

fn param(value: &str, name: &str) -> Option<String> {
    let params = value.split(';').skip(1).map(str::trim);
    let mut found = params.map(|param| param.split_once('=').unwrap_or((param, "")));
    found.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
}

/// The name of a field in small letters.
fn name(field: &[u8]) -> String {
    let colon = find(field, b":").unwrap_or(0);
    text(&field[..colon]).trim().to_ascii_lowercase()
}

/// The value of a field.
fn value(field: &[u8]) -> &[u8] {
    &field[find(field, b":").map_or(0, |colon| colon + 1)..]
}

fn word(line: &[u8], at: usize) -> String {
    text(line).split_ascii_whitespace().nth(at).unwrap_or_default().to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, what)
}
