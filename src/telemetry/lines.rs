//! Log lines that hold what peers have written: every character that is not printable is escaped, also those that change the
//! direction of writing.
//!
//! The text format shows `name=value`, as the subscriber's own would, which escapes less. In JSON an escape is JSON's.

use std::fmt::{self, Write as _};
use std::io::{self, Write};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use crate::text::{is_printable, printable};

/// What the lines of a message behind its first begin with, so that none looks like a line of the log.
const CONTINUED: &str = "\n    ";

/// The fields of an event as text.
#[derive(Clone, Copy, Debug)]
pub struct TextFields;

/// Takes whole lines of JSON.
#[derive(Debug)]
pub struct JsonLines<W>(pub W);

struct Fields<'w> {
    writer: Writer<'w>,
    is_first: bool,
    result: fmt::Result,
}

impl<'w> FormatFields<'w> for TextFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut written = Fields { writer, is_first: true, result: Ok(()) };
        fields.record(&mut written);
        written.result
    }
}

impl Fields<'_> {
    fn put(&mut self, name: &str, value: &str) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.writer.write_char(' ')?;
        }
        if name == "message" {
            let mut lines = value.split('\n');
            self.writer.write_str(&printable(lines.next().unwrap_or_default()))?;
            return lines.try_for_each(|line| write!(self.writer, "{CONTINUED}{}", printable(line)));
        }
        let value = printable(value);
        if self.writer.has_ansi_escapes() {
            // Italic, dimmed.
            write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{value}")
        } else {
            write!(self.writer, "{name}={value}")
        }
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let name = field.name();
        // What a crate that logs another way says of itself stands before the fields already.
        if self.result.is_ok() && !name.starts_with("log.") {
            self.result = self.put(name.trim_start_matches("r#"), &format!("{value:?}"));
        }
    }
}

impl<W: Write> Write for JsonLines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let escaped = std::str::from_utf8(line).ok().map(json_escaped);
        self.0.write_all(escaped.as_ref().map_or(line, |line| line.as_bytes()))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// ASCII's control characters are escaped already: what is left of those is ours.
fn json_escaped(line: &str) -> String {
    let mut escaped = String::with_capacity(line.len());
    for c in line.chars() {
        if c == '\n' || is_printable(c) {
            escaped.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // A string takes everything.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::{self as format, MakeWriter};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    const EVIL: &str = "a\x1b[2J\r\n2026-11-26T10:00:00Z ERROR forged\u{202e}\0\u{9b}\x7f\u{e0001}\"\\ü";

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Page {
        type Writer = Page;

        fn make_writer(&self) -> Page {
            self.clone()
        }
    }

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn tell() {
        let error = io::Error::other(EVIL);
        let invalid = String::from_utf8_lossy(b"\xff\xfe");
        tracing::error!(value = EVIL, shown = %EVIL, debug = ?EVIL, %error, invalid = &*invalid, count = 7, "said {EVIL}");
    }

    fn assert_harmless(text: &str) {
        let bad: Vec<char> = text.chars().filter(|c| *c != '\n' && !is_printable(*c)).collect();
        assert!(bad.is_empty(), "{bad:?} in {text}");
    }

    #[test]
    fn a_line_of_text_is_not_broken_by_what_it_holds() {
        let page = Page::default();
        let layer = format::layer().fmt_fields(TextFields).with_ansi(false).with_writer(page.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), tell);
        let text = page.text();
        assert_harmless(&text);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[1].starts_with("    2026-11-26T10:00:00Z ERROR forged\\u{202e}"), "{text}");
        for part in [
            " value=\"a\\u{1b}[2J\\r\\n2026",
            " shown=a\\u{1b}[2J\\r\\n2026",
            " error=a\\u{1b}",
            " count=7",
            "\\\"\\\\ü\"",
        ] {
            assert!(text.contains(part), "no {part} in {text}");
        }
        assert!(text.contains("ERROR sipstamp::telemetry::lines::tests: said a\\u{1b}[2J\\r\n"), "{text}");
    }

    #[test]
    fn a_line_of_json_is_json_and_printable() {
        let page = Page::default();
        let layer = format::layer().json().with_writer({
            let page = page.clone();
            move || JsonLines(page.clone())
        });
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), tell);
        let text = page.text();
        assert_harmless(&text);
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        let fields = &line["fields"];
        assert_eq!((&fields["value"], &fields["shown"]), (&EVIL.into(), &EVIL.into()));
        assert_eq!(fields["message"], format!("said {EVIL}"));
    }
}
