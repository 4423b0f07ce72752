//! Messages as text: written by hand, read back line by line, independent of the code under test.

use std::fmt;

/// A message to send, line by line.
#[derive(Clone, Debug)]
pub struct Text {
    start: String,
    lines: Vec<String>,
    body: String,
}

/// A message as the sidecar sent it.
#[derive(Clone)]
pub struct Msg {
    text: String,
}

impl Text {
    pub fn new(start: impl Into<String>) -> Text {
        Text { start: start.into(), lines: Vec::new(), body: String::new() }
    }

    /// Adds a header line at the end.
    pub fn with(mut self, line: impl Into<String>) -> Text {
        self.lines.push(line.into());
        self
    }

    /// Adds a header line at the top.
    pub fn topped(mut self, line: impl Into<String>) -> Text {
        self.lines.insert(0, line.into());
        self
    }

    /// Takes all lines of a header out.
    pub fn without(mut self, header: &str) -> Text {
        self.lines.retain(|line| !is_named(line, header));
        self
    }

    /// Replaces all lines of a header by this one, in the first one's place.
    pub fn put(mut self, line: &str) -> Text {
        let header = line.split(':').next().unwrap().to_owned();
        let at = self.lines.iter().position(|line| is_named(line, &header)).unwrap_or(self.lines.len());
        self = self.without(&header);
        self.lines.insert(at, line.to_owned());
        self
    }

    pub fn body(mut self, body: &str) -> Text {
        self.body = body.to_owned();
        self.with("Content-Type: application/sdp")
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\r\n", self.start)?;
        self.lines.iter().try_for_each(|line| write!(f, "{line}\r\n"))?;
        write!(f, "Content-Length: {}\r\n\r\n{}", self.body.len(), self.body)
    }
}

impl Msg {
    pub fn new(text: impl Into<String>) -> Msg {
        Msg { text: text.into() }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn start(&self) -> &str {
        self.text.split("\r\n").next().unwrap()
    }

    pub fn is_request(&self) -> bool {
        !self.start().starts_with("SIP/2.0 ")
    }

    /// Method of a request, code of a response: what tests call a message by.
    pub fn kind(&self) -> &str {
        let mut words = self.start().split(' ');
        let first = words.next().unwrap();
        if self.is_request() { first } else { words.next().unwrap() }
    }

    pub fn code(&self) -> u16 {
        if self.is_request() { 0 } else { self.kind().parse().unwrap() }
    }

    pub fn phrase(&self) -> &str {
        self.start().splitn(3, ' ').nth(2).unwrap()
    }

    pub fn uri(&self) -> &str {
        self.start().split(' ').nth(1).unwrap()
    }

    /// Header lines in order.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        let head = self.text.split("\r\n\r\n").next().unwrap();
        head.split("\r\n").skip(1)
    }

    /// Values of all lines of a header.
    pub fn all<'a>(&'a self, header: &'a str) -> Vec<&'a str> {
        let named = self.lines().filter(|line| is_named(line, header));
        named.map(|line| line.split_once(':').unwrap().1.trim()).collect()
    }

    /// The value of a header that stands there once.
    #[track_caller]
    pub fn one<'a>(&'a self, header: &'a str) -> &'a str {
        match self.all(header)[..] {
            [one] => one,
            ref values => panic!("{} of {header} in\n{}", values.len(), self.text),
        }
    }

    pub fn has(&self, header: &str) -> bool {
        !self.all(header).is_empty()
    }

    pub fn body(&self) -> &str {
        self.text.split_once("\r\n\r\n").unwrap().1
    }

    pub fn cseq(&self) -> (u32, &str) {
        let (number, method) = self.one("CSeq").split_once(' ').unwrap();
        (number.parse().unwrap(), method)
    }

    /// The branch of the topmost Via.
    pub fn branch(&self) -> &str {
        param(self.all("Via")[0], "branch").unwrap()
    }

    pub fn sender_tag(&self) -> Option<&str> {
        param(self.one("From"), "tag")
    }

    pub fn to_tag(&self) -> Option<&str> {
        param(self.one("To"), "tag")
    }

    /// Outcome, cause and id of the stamp, where there is one.
    pub fn stamp(&self) -> Option<(&str, Option<&str>, &str)> {
        let value = *self.all("Call-Outcome").first()?;
        let outcome = value.split(';').next().unwrap();
        Some((outcome, param(value, "cause"), param(value, "id")?))
    }
}

impl fmt::Debug for Msg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.start())
    }
}

/// A response to any request, with its Via, From, To, Call-ID, CSeq and Record-Route fields; `tag` goes to a To without one.
pub fn reply_to(request: &Msg, code: u16, phrase: &str, tag: &str) -> Text {
    let mut text = Text::new(format!("SIP/2.0 {code} {phrase}"));
    for name in ["Via", "Record-Route", "From", "To", "Call-ID", "CSeq"] {
        for value in request.all(name) {
            let tagged = name == "To" && code > 100 && param(value, "tag").is_none() && !tag.is_empty();
            let end = if tagged { format!(";tag={tag}") } else { String::new() };
            text = text.with(format!("{name}: {value}{end}"));
        }
    }
    text
}

/// 200 to any request.
pub fn ok(request: &Msg) -> Text {
    reply_to(request, 200, "OK", "")
}

fn is_named(line: &str, header: &str) -> bool {
    line.split(':').next().is_some_and(|name| name.trim().eq_ignore_ascii_case(header))
}

fn param<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value.split(';').skip(1).find_map(|param| param.split_once('=').filter(|(found, _)| *found == name)).map(|(_, v)| v)
}
