//! Syntax: what is no TOML, a mistake a place, and nothing twice.

use std::ops::Range;

use toml::de::{DeTable, DeValue, Error};

use super::report::Report;
use super::tree::{Node, Pruned, sift};

/// The document as far as it can be read; values with a syntax error in them are left out.
pub fn parse<'i>(text: &'i str, report: &mut Report, pruned: &mut Pruned) -> DeTable<'i> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut root = root.into_inner();
    if errors.is_empty() {
        return root;
    }
    let mut errors: Vec<(Range<usize>, Error)> =
        errors.into_iter().map(|error| (error.span().unwrap_or(0..0), error)).collect();
    errors.sort_by_key(|(at, _)| at.start);
    let mut swallowed = false;
    sift(&mut root, "", pruned, &mut |_, node| {
        let at = node.span();
        let (inside, outside) = std::mem::take(&mut errors)
            .into_iter()
            .partition::<Vec<_>, _>(|(error, _)| error.start <= at.end && error.end >= at.start);
        errors = outside;
        tell_about_value(node, &inside, report);
        // What is not closed may have taken the following tables with it.
        swallowed |= !inside.is_empty() && text.get(at).is_none_or(|value| value.contains('\n'));
        inside.is_empty()
    });
    let mut last_line = None;
    for (at, error) in errors {
        let line = text.get(..at.start).map(|before| before.matches('\n').count());
        if last_line != Some(line) {
            last_line = Some(line);
            // An error in a header or before the equals sign may have cost a key.
            let before = text.get(..at.start).and_then(|before| before.lines().next_back()).unwrap_or_default();
            swallowed |= !before.contains('=') && error.message() != "duplicate key";
            report.mistake(Some(at), error.message());
        }
    }
    if swallowed {
        pruned.add_anything();
    }
    root
}

/// One error in a value makes others; only the one that explains them is told.
fn tell_about_value(node: &Node<'_>, errors: &[(Range<usize>, Error)], report: &mut Report) {
    let says = |what: &'static str| errors.iter().find(move |(_, error)| error.message().starts_with(what));
    let Some((at, error)) = says("invalid ").or(errors.first()) else { return };
    let is_array = matches!(node.get_ref(), DeValue::Array(_));
    if is_array && says("invalid ").is_none() && says("unclosed array").is_some() {
        let start = node.span().start;
        report.mistake(Some(start..start + 1), "this array is not closed").help("close it with `]`");
    } else if error.message().starts_with("string values must be quoted") {
        let value = report.shown(at.clone()).map(|value| value.trim().to_owned());
        match value.as_deref() {
            Some("") | None => report.mistake(Some(at.clone()), "there is no value"),
            Some(value) => {
                report.mistake(Some(at.clone()), "a string must be quoted").help(format!("write `\"{value}\"`"))
            }
        };
    } else {
        report.mistake(Some(at.clone()), error.message());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        let mut report = Report::new("f", text);
        parse(text, &mut report, &mut Pruned::default());
        let rendered = report.render(false);
        let mut found = Vec::new();
        for line in rendered.lines() {
            if let Some(title) = line.strip_prefix("error: ") {
                found.push(title.to_owned());
            }
            if let (Some(place), Some(last)) = (line.trim_start().strip_prefix("--> "), found.last_mut()) {
                *last = format!("{place} {last}");
            }
        }
        found
    }

    #[test]
    fn each_syntax_error_is_told_once() {
        assert_eq!(lines("a = 1\nb = 2\n"), [""; 0]);
        assert_eq!(lines("a = 30s\nb = 2\n"), ["f:1:5 a string must be quoted"]);
        assert_eq!(lines("a =\nb = 2\n"), ["f:1:4 there is no value"]);
        assert_eq!(lines("a = 30s\n[b]\nc = x\n").len(), 2);
        assert_eq!(lines("a = 1\na = 2\n"), ["f:2:1 duplicate key"]);
    }

    #[test]
    fn what_is_not_closed_makes_one_mistake() {
        assert_eq!(lines("[d]\ns = [\"a\"\nx = 3\n[log]\nl = \"i\"\n"), ["f:2:5 this array is not closed"]);
        assert_eq!(lines("[d]\ns = [\"a\", \"b]\nx = 3\n[log]\nl = \"i\"\n").len(), 1);
        assert_eq!(lines("[log\nlevel = 3\n[b]\n").len(), 1);
    }
}
