//! SIPp's message trace, read back: what an agent sent and received, byte for byte.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use regex::bytes::Regex;

/// One message of a trace.
#[derive(Clone, Debug)]
pub struct Message {
    pub received: bool,
    pub start_line: String,
    /// Name and value, as they stood, unfolded lines only.
    pub headers: Vec<(String, String)>,
}

static ENTRY: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?m)^(?:UDP|TCP) message (sent|received) [\[(](\d+)(?:\] bytes :| bytes\):)\n\n").ok()
});

/// Every message in the order of the trace; none where there is no file.
pub fn read(path: &Path) -> Vec<Message> {
    let bytes = fs::read(path).unwrap_or_default();
    let mut messages = Vec::new();
    let mut at = 0;
    while let Some(found) = ENTRY.as_ref().and_then(|entry| entry.captures_at(&bytes, at)) {
        let start = found.get(0).map_or(bytes.len(), |all| all.end());
        let length = found.get(2).and_then(|it| std::str::from_utf8(it.as_bytes()).ok()).and_then(|it| it.parse().ok());
        let end = bytes.len().min(start + length.unwrap_or(0));
        let received = found.get(1).is_some_and(|it| it.as_bytes() == b"received");
        if let Some(message) = bytes.get(start..end).and_then(|text| Message::parse(text, received)) {
            messages.push(message);
        }
        at = end;
    }
    messages
}

impl Message {
    /// `BYE`, `200 BYE`: the method, after the code if it is a response.
    pub fn kind(&self) -> String {
        match self.code() {
            Some(code) => format!("{code} {}", self.cseq().1),
            None => self.start_line.split(' ').next().unwrap_or_default().to_owned(),
        }
    }

    /// The status code of a response.
    pub fn code(&self) -> Option<u16> {
        self.start_line.strip_prefix("SIP/2.0 ")?.split(' ').next()?.parse().ok()
    }

    /// The reason phrase of a response.
    pub fn phrase(&self) -> &str {
        self.start_line.splitn(3, ' ').nth(2).unwrap_or_default()
    }

    /// Number and method.
    pub fn cseq(&self) -> (u32, &str) {
        let value = self.header("CSeq").unwrap_or_default();
        let (number, method) = value.split_once(' ').unwrap_or_default();
        (number.trim().parse().unwrap_or(0), method.trim())
    }

    pub fn call_id(&self) -> &str {
        self.header("Call-ID").unwrap_or_default()
    }

    /// Whether it belongs to no dialog.
    pub fn is_initial(&self) -> bool {
        !self.header("To").unwrap_or_default().contains(";tag=")
    }

    /// The first value of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// All values of that name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn parse(bytes: &[u8], received: bool) -> Option<Message> {
        let text = String::from_utf8_lossy(bytes);
        let head = text.split("\r\n\r\n").next()?;
        let mut lines = head.split("\r\n").skip_while(|line| line.is_empty());
        let start_line = lines.next()?.to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim_end().to_owned(), value.trim_start().to_owned()))
            .collect();
        Some(Message { received, start_line, headers })
    }
}
