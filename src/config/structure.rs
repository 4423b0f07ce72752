//! The document held against the schema: unknown keys, wrong types, numbers out of range, keys that
//! this version does not have. What is wrong is left out, so that the rest can be typed and checked.

use std::ops::Range;

use serde_json::Value;
use toml::de::{DeInteger, DeTable, DeValue};

use super::conceal::concealed;
use super::nearest::nearest;
use super::report::{At, Finding, Report};
use super::tree::{Node, Pruned, join, retain_elements, retain_entries};

/// What is said of keys and values that a later version will have.
pub const LATER: &str = "not in this version";

/// Leaves only what fits the schema in `root`.
pub fn fit(root: &mut DeTable<'_>, schema: &Value, report: &mut Report, pruned: &mut Pruned) {
    Fit { schema, report }.table(root, schema, "", pruned);
}

struct Fit<'a> {
    /// Of the whole file.
    schema: &'a Value,
    report: &'a mut Report,
}

impl Fit<'_> {
    fn table(&mut self, table: &mut DeTable<'_>, schema: &Value, path: &str, pruned: &mut Pruned) {
        retain_entries(table, path, pruned, |key, path, node, pruned| {
            let name = key.get_ref().as_ref();
            let expected = schema.pointer(&format!("/properties/{}", pointer(name)));
            match expected.or_else(|| schema.get("additionalProperties").filter(|any| any.is_object())) {
                Some(expected) => self.node(node, expected, path, pruned),
                None => {
                    // A key that was only misspelt is not to be called missing too.
                    if let Some(meant) = self.unknown_key(name, schema, path, key.span()) {
                        pruned.add(&format!("{}{meant}", path.strip_suffix(name).unwrap_or_default()));
                    }
                    false
                }
            }
        });
    }

    /// Whether the value may stay.
    fn node(&mut self, node: &mut Node<'_>, schema: &Value, path: &str, pruned: &mut Pruned) -> bool {
        let at = Some(node.span());
        let alternatives = schema.get("anyOf").and_then(Value::as_array);
        let expected = match alternatives {
            Some(alternatives) => alternatives.iter().find(|one| has_type(one, node.get_ref())),
            None => Some(schema).filter(|one| has_type(one, node.get_ref())),
        };
        let Some(expected) = expected else {
            self.wrong_type(node, schema, path);
            return false;
        };
        let later = schema.get("x-later");
        match node.get_mut() {
            DeValue::Table(table) => {
                self.table(table, expected, path, pruned);
                self.required(table, expected, path, at, pruned);
                true
            }
            DeValue::Array(array) => {
                let most = expected.get("maxItems").and_then(Value::as_u64);
                if most.is_some_and(|most| array.len() as u64 > most) && later.is_some() {
                    self.report.mistake(at, format!("`{path}` is {LATER}")).help("leave it empty");
                    return false;
                }
                let items = expected.get("items").unwrap_or(&Value::Null);
                retain_elements(array, path, pruned, |path, element, pruned| self.node(element, items, path, pruned));
                true
            }
            DeValue::Integer(number) => match out_of_range(number, expected) {
                None => true,
                Some(range) => {
                    let finding = if later.is_some() {
                        self.report.mistake(at, format!("`{path} = {number}` is {LATER}"))
                    } else {
                        self.report.mistake(at, format!("`{path}` must be {range}"))
                    };
                    default_help(finding, schema);
                    false
                }
            },
            DeValue::String(text) => {
                let words: Option<Vec<&str>> = expected.get("enum").and_then(Value::as_array).map(|all| words(all));
                match words {
                    Some(words) if !words.contains(&text.as_ref()) => {
                        if later.and_then(Value::as_array).is_some_and(|later| self::words(later).contains(&&**text)) {
                            let finding = self.report.mistake(at, format!("`{path} = \"{text}\"` is {LATER}"));
                            default_help(finding, schema);
                        } else {
                            let finding = self.report.mistake(at, format!("`{path}` must be {}", one_of(&words)));
                            if let Some(near) = nearest(text, words) {
                                finding.help(format!("did you mean `\"{near}\"`?"));
                            }
                        }
                        false
                    }
                    _ => true,
                }
            }
            _ => true,
        }
    }

    /// Names what is missing; the table stays, the rest of it can be checked.
    fn required(&mut self, table: &DeTable<'_>, schema: &Value, path: &str, at: At, pruned: &Pruned) {
        for key in schema.get("required").and_then(Value::as_array).map(|all| words(all)).unwrap_or_default() {
            if !table.contains_key(key) && !pruned.touches(&join(path, key)) {
                let example = schema.pointer(&format!("/properties/{key}")).and_then(example);
                let finding = self.report.mistake(at.clone(), format!("`{path}` needs the key `{key}`"));
                if let Some(example) = example {
                    finding.help(format!("for instance `{key} = {example}`"));
                }
            }
        }
    }

    /// The key that was meant, where there is a near one.
    fn unknown_key<'s>(&mut self, name: &str, schema: &'s Value, path: &str, at: Range<usize>) -> Option<&'s str> {
        let later = schema.get("x-later").and_then(Value::as_array).map(|all| words(all)).unwrap_or_default();
        if later.contains(&name) {
            self.report.mistake(Some(at), format!("`{path}` is {LATER}")).help("leave it out");
            return None;
        }
        let known: Vec<&str> = schema
            .get("properties")
            .and_then(Value::as_object)
            .map(|properties| properties.keys().map(String::as_str).collect())
            .unwrap_or_default();
        let elsewhere = homes(self.schema, name);
        let finding = self.report.mistake(Some(at), format!("unknown key `{path}`"));
        let near = nearest(name, known.iter().copied());
        if let Some(near) = near {
            finding.label(format!("did you mean `{near}`?"));
        } else if let [home] = elsewhere.as_slice() {
            finding.help(format!("`{name}` belongs in `{home}`"));
        } else if !known.is_empty() {
            finding.help(format!("the keys here are {}", list(&known)));
        }
        near
    }

    fn wrong_type(&mut self, node: &Node<'_>, schema: &Value, path: &str) {
        let wanted: Vec<&str> = match schema.get("anyOf").and_then(Value::as_array) {
            Some(alternatives) => alternatives.iter().map(type_name).collect(),
            None => vec![type_name(schema)],
        };
        let found = node.get_ref();
        let title = format!("`{path}` must be {}, not {}", wanted.join(" or "), with_article(found.type_str()));
        let is_list_of_tables = schema.pointer("/items/type").is_some_and(|kind| kind == "object");
        let help = match (found, wanted.as_slice()) {
            (DeValue::Table(_), ["an array"]) if is_list_of_tables => Some(format!("write `[[{path}]]`")),
            (DeValue::Array(_), ["a table"]) => Some(format!("write `[{path}]`")),
            (DeValue::String(text), ["an array"]) => Some(format!("write `[\"{}\"]`", concealed(text).escape_debug())),
            (DeValue::String(text), ["an integer"]) if text.parse::<u64>().is_ok() => {
                Some(format!("write `{text}` without quotes"))
            }
            (DeValue::String(text), ["a boolean"]) if text.parse::<bool>().is_ok() => {
                Some(format!("write `{text}` without quotes"))
            }
            (DeValue::Integer(number), ["a string"]) => match shape(schema) {
                Some(Value::String(shape)) if shape.starts_with(|first: char| first.is_ascii_digit()) => {
                    Some(format!("write it in quotes with a unit, such as `\"{shape}\"`"))
                }
                _ => Some(format!("write `\"{number}\"`")),
            },
            (DeValue::Boolean(value), ["a string"]) => Some(format!("write `\"{value}\"`")),
            _ => shape(schema).map(|shape| format!("for instance `{shape}`")),
        };
        let finding = self.report.mistake(Some(node.span()), title);
        if let Some(help) = help {
            finding.help(help);
        }
    }
}

fn has_type(schema: &Value, value: &DeValue<'_>) -> bool {
    let kind = schema.get("type").and_then(Value::as_str);
    match value {
        DeValue::String(_) => kind == Some("string"),
        DeValue::Integer(_) => kind == Some("integer"),
        DeValue::Boolean(_) => kind == Some("boolean"),
        DeValue::Array(_) => kind == Some("array"),
        DeValue::Table(_) => kind == Some("object"),
        DeValue::Float(_) | DeValue::Datetime(_) => false,
    }
}

fn type_name(schema: &Value) -> &'static str {
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => "a string",
        Some("integer") => "an integer",
        Some("boolean") => "a boolean",
        Some("array") => "an array",
        _ => "a table",
    }
}

fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// The range, in words, if the number is not in it.
fn out_of_range(number: &DeInteger<'_>, schema: &Value) -> Option<String> {
    let bound = |name| schema.get(name).and_then(Value::as_u64);
    let (least, most) = (bound("minimum").unwrap_or(0), bound("maximum").unwrap_or(i64::MAX as u64));
    let value = u64::from_str_radix(number.as_str(), number.radix()).ok();
    if value.is_some_and(|value| (least..=most).contains(&value)) {
        None
    } else if most == i64::MAX as u64 {
        Some(format!("at least {least}"))
    } else {
        Some(format!("between {least} and {most}"))
    }
}

fn default_help(finding: &mut Finding, schema: &Value) {
    if let Some(default) = schema.get("default") {
        finding.help(format!("the default is `{default}`"));
    }
}

/// How a value looks: its default or an example.
fn shape(schema: &Value) -> Option<&Value> {
    schema.get("default").or_else(|| schema.pointer("/examples/0"))
}

fn example(schema: &Value) -> Option<String> {
    let word = || schema.pointer("/enum/0").map(Value::to_string);
    let table = || (type_name(schema) == "a table").then(|| "{ … }".to_owned());
    shape(schema).map(Value::to_string).or_else(word).or_else(table)
}

/// The tables other than that of the user's mistake in which a key of this name stands.
fn homes(schema: &Value, name: &str) -> Vec<String> {
    let mut homes = Vec::new();
    let sections = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    for (section, schema) in sections {
        if schema.pointer(&format!("/properties/{}", pointer(name))).is_some() {
            homes.push(format!("[{section}]"));
        }
        if schema.pointer(&format!("/items/properties/{}", pointer(name))).is_some() {
            homes.push(format!("[[{section}]]"));
        }
        for (list, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if schema.pointer(&format!("/items/properties/{}", pointer(name))).is_some() {
                homes.push(format!("[[{section}.{list}]]"));
            }
        }
    }
    homes
}

fn words(values: &[Value]) -> Vec<&str> {
    values.iter().filter_map(Value::as_str).collect()
}

fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

fn list(keys: &[&str]) -> String {
    keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}

/// A key as a part of a JSON pointer (RFC 6901 §3).
fn pointer(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
