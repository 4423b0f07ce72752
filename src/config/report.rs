//! What is wrong or doubtful in a configuration, and how it is shown: each finding with its place, a
//! caret and how to mend it.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::conceal::concealed;

/// Bytes of the file; `None` for what stands in no file.
pub type At = Option<Range<usize>>;

/// All findings about one file.
#[derive(Clone, Debug)]
pub struct Report {
    name: String,
    text: String,
    /// The text as it may be shown, each byte in its place.
    shown: String,
    findings: Vec<Finding>,
}

/// The place of what is missing from a file.
pub const FILE: At = Some(0..0);

/// One thing to mend.
#[derive(Clone, Debug)]
pub struct Finding {
    fatal: bool,
    title: String,
    at: At,
    label: Option<String>,
    also: Vec<(Range<usize>, String)>,
    help: Option<String>,
}

/// A text to check, with its place and the name of its key.
#[derive(Clone, Debug)]
pub struct Given<'a> {
    pub key: Cow<'a, str>,
    pub at: At,
    pub text: &'a str,
}

/// Why a configuration was refused: every mistake in it. Never empty.
#[derive(Clone, Debug)]
pub struct Mistakes(Report);

impl Mistakes {
    /// `None` where the report has only warnings.
    pub(crate) fn of(report: Report) -> Option<Mistakes> {
        (report.mistakes() > 0).then_some(Mistakes(report))
    }

    /// How many there are; at least 1.
    pub fn count(&self) -> usize {
        self.0.mistakes()
    }

    /// As `Display`, with colours for a terminal.
    pub fn styled(&self) -> String {
        self.0.render(true)
    }
}

impl Report {
    /// An empty one about `text`, which the user knows as `name`.
    pub fn new(name: &str, text: &str) -> Report {
        Report { name: name.to_owned(), text: text.to_owned(), shown: concealed(text), findings: Vec::new() }
    }

    /// Adds what makes the configuration unusable.
    pub fn mistake(&mut self, at: At, title: impl Into<String>) -> &mut Finding {
        self.add(true, at, title.into())
    }

    /// Adds what is allowed but doubtful.
    pub fn warning(&mut self, at: At, title: impl Into<String>) -> &mut Finding {
        self.add(false, at, title.into())
    }

    /// How many mistakes there are, warnings not counted.
    pub fn mistakes(&self) -> usize {
        self.findings.iter().filter(|finding| finding.fatal).count()
    }

    /// The warnings, a line each: `FILE:LINE:COLUMN: what`.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<&Finding> = self.findings.iter().filter(|finding| !finding.fatal).collect();
        warnings.sort_by_key(|finding| finding.place());
        warnings.into_iter().map(|finding| self.one_line(finding)).collect()
    }

    /// The place of a part of a value: exact where the value is written as it reads, else the whole value.
    pub fn within(&self, given: &Given<'_>, part: Range<usize>) -> At {
        let at = given.at.clone()?;
        let raw = self.text.get(at.clone())?;
        match raw.match_indices(given.text).map(|(start, _)| at.start + start).next() {
            Some(start) if !given.text.is_empty() => Some(start + part.start..start + part.end),
            _ => Some(at),
        }
    }

    /// A part of the text, as it may be shown.
    pub fn shown(&self, part: Range<usize>) -> Option<&str> {
        self.shown.get(part)
    }

    /// Every finding in the order of the file, then how many mistakes there are.
    pub fn render(&self, styled: bool) -> String {
        let renderer = if styled { Renderer::styled() } else { Renderer::plain() };
        let mut findings: Vec<&Finding> = self.findings.iter().collect();
        findings.sort_by_key(|finding| finding.place());
        let mut rendered: Vec<String> =
            findings.into_iter().map(|finding| renderer.render(&[self.group(finding)])).collect();
        let about = if self.name.is_empty() { String::new() } else { format!("{}: ", self.name) };
        match self.mistakes() {
            0 => {}
            1 => rendered.push(format!("{about}1 mistake")),
            count => rendered.push(format!("{about}{count} mistakes")),
        }
        rendered.join("\n\n")
    }

    fn add(&mut self, fatal: bool, at: At, title: String) -> &mut Finding {
        let at = at.map(|at| self.visible(at));
        let finding = Finding { fatal, title, at, label: None, also: Vec::new(), help: None };
        self.findings.push(finding);
        let last = self.findings.len() - 1;
        #[expect(clippy::indexing_slicing, reason = "the finding was pushed on the line before")]
        &mut self.findings[last]
    }

    /// Within the text and on boundaries of characters, so that no place can upset the renderer.
    fn visible(&self, at: Range<usize>) -> Range<usize> {
        let floor = |mut index: usize| {
            index = index.min(self.text.len());
            while !self.text.is_char_boundary(index) {
                index -= 1;
            }
            index
        };
        let start = floor(at.start);
        start..floor(at.end).max(start)
    }

    fn group<'a>(&'a self, finding: &'a Finding) -> Group<'a> {
        let level = if finding.fatal { Level::ERROR } else { Level::WARNING };
        let title = level.primary_title(finding.title.as_str());
        let group = match &finding.at {
            Some(_) if self.name.is_empty() => Group::with_title(title),
            None => Group::with_title(title),
            // There is nothing to show of an empty file.
            Some(_) if self.text.is_empty() => title.element(Origin::path(self.name.as_str()).line(1).char_column(1)),
            Some(at) => {
                let primary = AnnotationKind::Primary.span(at.clone()).label(finding.label.as_deref());
                let context = finding
                    .also
                    .iter()
                    .map(|(at, label)| AnnotationKind::Context.span(self.visible(at.clone())).label(label.as_str()));
                title.element(
                    Snippet::source(self.shown.as_str())
                        .path(self.name.as_str())
                        .annotation(primary)
                        .annotations(context),
                )
            }
        };
        match &finding.help {
            Some(help) => group.element(Level::HELP.message(help.as_str())),
            None => group,
        }
    }

    fn one_line(&self, finding: &Finding) -> String {
        let help = finding.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
        match finding.at.as_ref().and_then(|at| self.text.get(..at.start)) {
            None => format!("{}{help}", finding.title),
            Some(before) => {
                let line = before.matches('\n').count() + 1;
                let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
                format!("{}:{line}:{column}: {}{help}", self.name, finding.title)
            }
        }
    }
}

impl Finding {
    /// What is said at the caret; where there is none, it ends the title.
    pub fn label(&mut self, label: impl Into<String>) -> &mut Finding {
        let label = label.into();
        match self.at {
            Some(_) => self.label = Some(label),
            None => self.title = format!("{}: {label}", self.title),
        }
        self
    }

    /// Another place that has to do with it.
    pub fn also(&mut self, at: At, label: impl Into<String>) -> &mut Finding {
        self.also.extend(at.map(|at| (at, label.into())));
        self
    }

    /// How to mend it.
    pub fn help(&mut self, help: impl Into<String>) -> &mut Finding {
        self.help = Some(help.into());
        self
    }

    fn place(&self) -> Option<usize> {
        self.at.as_ref().map(|at| at.start)
    }
}

impl Given<'_> {
    /// Adds a mistake about the whole text: `key` in backticks, then `what`.
    pub fn mistake<'r>(&self, report: &'r mut Report, what: impl fmt::Display) -> &'r mut Finding {
        report.mistake(self.at.clone(), format!("`{}` {what}", self.key))
    }

    /// Adds a mistake about a part of the text.
    pub fn mistake_at<'r>(
        &self,
        report: &'r mut Report,
        part: Range<usize>,
        what: impl fmt::Display,
    ) -> &'r mut Finding {
        let at = report.within(self, part);
        report.mistake(at, format!("`{}` {what}", self.key))
    }

    /// Adds a warning about the whole text.
    pub fn warning<'r>(&self, report: &'r mut Report, what: impl fmt::Display) -> &'r mut Finding {
        report.warning(self.at.clone(), format!("`{}` {what}", self.key))
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.render(false))
    }
}

impl std::error::Error for Mistakes {}
