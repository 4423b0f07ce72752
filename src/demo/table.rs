//! The demo's output: a row per call, a count per outcome.

use std::io::{self, IsTerminal, Write};

use crate::event::CallData;
use crate::outcome::Outcome;
use crate::text::printable;

/// Writes rows as calls end, and remembers what it wrote.
pub struct Table<W> {
    out: W,
    colour: bool,
    counts: [usize; Outcome::COUNT],
}

impl<W: Write> Table<W> {
    pub fn new(out: W, colour: bool) -> Table<W> {
        Table { out, colour, counts: [0; Outcome::COUNT] }
    }

    /// A line as it is.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }

    /// The names of the columns.
    pub fn head(&mut self) -> io::Result<()> {
        self.columns(["time", "number", "outcome", "code", "cause", "ring", "talk"], None)
    }

    /// A call that ended. One without an outcome is no such call and is passed over.
    pub fn row(&mut self, call: &CallData) -> io::Result<()> {
        let Some(outcome) = call.outcome else { return Ok(()) };
        if let Some(count) = self.counts.get_mut(outcome.index()) {
            *count += 1;
        }
        let ended_at = call.ended_at.map(|time| time.to_string()).unwrap_or_default();
        self.columns(
            [
                ended_at.get(11..19).unwrap_or("-"),
                &printable(call.to.as_deref().unwrap_or("-")),
                outcome.label(),
                &call.sip_code.map_or_else(|| "-".to_owned(), |code| code.to_string()),
                call.end_cause.map_or("-", |cause| cause.label()),
                &seconds(call.ring_ms),
                &seconds(call.talk_ms),
            ],
            Some(outcome),
        )
    }

    /// How many calls got which outcome.
    pub fn summary(&mut self) -> io::Result<()> {
        writeln!(self.out, "\n{:<18}  {:>5}", "outcome", "calls")?;
        for outcome in Outcome::ALL {
            let count = self.counts.get(outcome.index()).copied().unwrap_or_default();
            let name = self.painted(&format!("{:<18}", outcome.label()), Some(*outcome));
            writeln!(self.out, "{name}  {count:>5}")?;
        }
        writeln!(self.out, "{:<18}  {:>5}", "all", self.ended())
    }

    /// How many rows there are.
    pub fn ended(&self) -> usize {
        self.counts.iter().sum()
    }

    fn columns(&mut self, cells: [&str; 7], outcome: Option<Outcome>) -> io::Result<()> {
        let [time, number, name, code, cause, ring, talk] = cells;
        let name = self.painted(&format!("{name:<18}"), outcome);
        let line = format!("{time:<8}  {number:<12}  {name}  {code:>4}  {cause:<20}  {ring:>6}  {talk:>6}");
        writeln!(self.out, "{}", line.trim_end())
    }

    /// Colour goes round the padded text: terminals count escape sequences as nothing, padding does not.
    fn painted(&self, text: &str, outcome: Option<Outcome>) -> String {
        match outcome {
            Some(outcome) if self.colour => format!("\x1b[{}m{text}\x1b[0m", colour(outcome)),
            _ => text.to_owned(),
        }
    }
}

/// Whether standard output is a terminal whose user did not switch colour off (`NO_COLOR`).
pub fn is_colour_wanted() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The number of an ANSI colour: green, yellow, red.
const fn colour(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Normal | Outcome::VoicemailDrop => 32,
        Outcome::NumberBusy | Outcome::NoAnswer | Outcome::NumberChanged => 33,
        Outcome::NumberUnobtainable | Outcome::CallRejected | Outcome::CallFailed => 31,
    }
}

fn seconds(milliseconds: Option<u64>) -> String {
    match milliseconds {
        Some(ms) => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::EndCause;
    use crate::recent::tests::call_data;
    use crate::time::Wall;

    fn printed(colour: bool) -> String {
        let mut table = Table::new(Vec::new(), colour);
        table.head().unwrap();
        table.row(&call_data("A", "a")).unwrap();
        let answered = CallData {
            outcome: Some(Outcome::Normal),
            sip_code: Some(200),
            end_cause: Some(EndCause::AnsweredByeCaller),
            talk_ms: Some(61_250),
            ended_at: Some(Wall(1_795_428_031_204_000)),
            ..call_data("B", "b")
        };
        table.row(&answered).unwrap();
        table.row(&CallData { outcome: None, ..call_data("C", "c") }).unwrap();
        table.summary().unwrap();
        assert_eq!(table.ended(), 2);
        String::from_utf8(table.out).unwrap()
    }

    #[test]
    fn rows_stand_under_their_heads() {
        let text = printed(false);
        let lines: Vec<&str> = text.lines().take(3).collect();
        let [head, unanswered, answered] = lines[..] else { panic!("{text}") };
        assert!(answered.starts_with("10:00:31  +15550199"), "{answered}");
        for (name, value) in [("outcome", "Normal"), ("cause", "answered_bye_caller")] {
            assert_eq!(head.find(name), answered.find(value), "{text}");
        }
        for (name, value) in [("code", "200"), ("talk", "61.2 s")] {
            let end = |line: &str, cell: &str| line.find(cell).map(|start| start + cell.len());
            assert_eq!(end(head, name), end(answered, value), "{text}");
        }
        assert_eq!((head.len(), answered.len()), (unanswered.len(), unanswered.len()), "{text}");
    }

    #[test]
    fn a_number_cannot_steer_the_terminal() {
        let mut table = Table::new(Vec::new(), false);
        table.row(&CallData { to: Some("1\x1b[2J\u{202e}2".into()), ..call_data("A", "a") }).unwrap();
        let text = String::from_utf8(table.out).unwrap();
        assert!(text.contains("1\\u{1b}[2J\\u{202e}2"), "{text:?}");
    }

    #[test]
    fn the_summary_counts_rows_and_names_all_outcomes() {
        let text = printed(false);
        let counts: Vec<(&str, &str)> =
            text.lines().skip_while(|line| !line.is_empty()).skip(2).filter_map(|line| line.split_once(' ')).collect();
        assert_eq!(counts.len(), Outcome::COUNT + 1);
        let count = |name: &str| counts.iter().find(|(label, _)| *label == name).map(|(_, count)| count.trim());
        assert_eq!((count("NoAnswer"), count("Normal"), count("NumberBusy")), (Some("1"), Some("1"), Some("0")));
        assert_eq!(count("all"), Some("2"));
    }

    #[test]
    fn colour_is_there_only_where_it_is_wanted_and_moves_nothing() {
        assert!(!printed(false).contains('\x1b'));
        let coloured = printed(true);
        assert!(coloured.contains("\x1b[32mNormal"));
        let bare =
            ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"].iter().fold(coloured, |text, code| text.replace(code, ""));
        assert_eq!(bare, printed(false));
    }
}
