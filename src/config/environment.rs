//! `${NAME}` and `${NAME:-default}` in strings.

use std::borrow::Cow;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::report::{Given, Report};
use super::tree::{Pruned, sift};

/// The environment: the value of a name, `None` where it is not set.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A part of a text that has no value.
#[derive(Debug, PartialEq, Eq)]
struct Unset {
    part: Range<usize>,
    what: String,
    help: String,
}

/// Puts values in the place of names in every string under `root`; a string with a name that has no
/// value is left out.
pub fn expand(root: &mut DeTable<'_>, env: Environment<'_>, report: &mut Report, pruned: &mut Pruned) {
    sift(root, "", pruned, &mut |path, node| {
        let at = node.span();
        let DeValue::String(text) = node.get_mut() else { return true };
        if !text.contains("${") {
            return true;
        }
        match expanded(text, env) {
            Ok(value) => {
                *text = Cow::Owned(value);
                true
            }
            Err(unset) => {
                let given = Given { key: path.into(), at: Some(at), text };
                for Unset { part, what, help } in unset {
                    given.mistake_at(report, part, what).help(help);
                }
                false
            }
        }
    });
}

fn expanded(text: &str, env: Environment<'_>) -> Result<String, Vec<Unset>> {
    let mut value = String::with_capacity(text.len());
    let mut unset = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let start = text.len() - after.len() - 2;
        if let Some(before) = before.strip_suffix('$') {
            value.push_str(before);
            value.push_str("${");
            rest = after;
            continue;
        }
        value.push_str(before);
        let Some((inside, after)) = after.split_once('}') else {
            let help = "write `$${` for a literal `${`".to_owned();
            unset.push(Unset { part: start..start + 2, what: "has a `${` without its `}`".to_owned(), help });
            rest = after;
            continue;
        };
        let part = start..text.len() - after.len();
        match resolved(inside, env) {
            Ok(resolved) => value.push_str(&resolved),
            Err((what, help)) => unset.push(Unset { part, what, help }),
        }
        rest = after;
    }
    value.push_str(rest);
    if unset.is_empty() { Ok(value) } else { Err(unset) }
}

fn resolved(inside: &str, env: Environment<'_>) -> Result<String, (String, String)> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let mut bytes = name.bytes();
    let starts_well = bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_');
    if !starts_well || !bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        let what = format!("names no environment variable: `{}`", name.escape_debug());
        return Err((what, "write `${NAME}`, or `$${` for a literal `${`".to_owned()));
    }
    match (env(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err((
            format!("needs the environment variable `{name}`, which is not set"),
            format!("set it, or give a default: `${{{name}:-default}}`"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("pbx".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn names_and_defaults_are_replaced() {
        let value = |text| expanded(text, &env).unwrap();
        assert_eq!(value("sip:${HOST}:${PORT:-5060}"), "sip:pbx:5060");
        assert_eq!(value("${EMPTY:-x}${EMPTY}${HOST:-y}"), "xpbx");
        assert_eq!(value("$${HOST} costs $5 or $HOST$"), "${HOST} costs $5 or $HOST$");
        assert_eq!(value("${A:-}"), "");
    }

    #[test]
    fn what_has_no_value_is_found_with_its_place() {
        let parts = |text| {
            let parts = expanded(text, &env).unwrap_err().into_iter().map(|unset| (unset.part.start, unset.part.end));
            parts.collect::<Vec<_>>()
        };
        assert_eq!(parts("a${NOPE}b${HOST}${NADA}"), [(1, 8), (16, 23)]);
        assert_eq!(parts("x${"), [(1, 3)]);
        assert_eq!(parts("${1A} ${}"), [(0, 5), (6, 9)]);
    }
}
