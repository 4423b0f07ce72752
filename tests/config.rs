//! The examples in `config/` load, and each of their keys is really read: what is misspelt, of the wrong
//! type or unknown is refused at its line and column, and makes no second mistake.

#![cfg(test)]

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::LazyLock;

use serde_json::Value;
use sipstamp::config::{ListenKey, Mistakes, Overrides, Settings, parse};
use sipstamp::schema;
use toml::de::{DeTable, DeValue};

const EXAMPLES: [&str; 3] = ["minimal.toml", "site.toml", "full.toml"];
/// Tables whose keys are the user's.
const FREE_TABLES: [&str; 2] = ["capture.labels", "capture.metric_values"];

fn example(name: &str) -> String {
    fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config").join(name)).unwrap()
}

/// `full.toml` with every key that it only shows put into force, on files that exist.
fn complete() -> String {
    // Tests run side by side: the files are written once.
    static COMPLETE: LazyLock<String> = LazyLock::new(write_complete);
    COMPLETE.clone()
}

fn write_complete() -> String {
    let directory = env!("CARGO_TARGET_TMPDIR");
    let files = [
        ("/var/log/sipstamp/events.jsonl", format!("{directory}/config-events.jsonl")),
        ("/etc/sipstamp/mask.key", format!("{directory}/config-mask.key")),
        ("/var/lib/sipstamp/crm.dead.jsonl", format!("{directory}/config-crm.dead.jsonl")),
        ("/etc/sipstamp/webhook.key", format!("{directory}/config-webhook.key")),
        ("/etc/sipstamp/admin.token", format!("{directory}/config-admin.token")),
        ("/etc/sipstamp/nats.password", format!("{directory}/config-nats.password")),
        ("/etc/sipstamp/nats.token", format!("{directory}/config-nats.token")),
        ("/etc/sipstamp/nats.creds", format!("{directory}/config-nats.creds")),
        ("/etc/sipstamp/nats-ca.pem", format!("{directory}/config-nats-ca.pem")),
    ];
    let mut text = String::new();
    for line in example("full.toml").lines() {
        let shown = line.strip_prefix("# ").unwrap_or(line);
        let key = shown.split(" = ").next().unwrap_or_default();
        let is_key = shown.contains(" = ") && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        text.push_str(if is_key || shown.starts_with('[') { shown } else { line });
        text.push('\n');
    }
    for (path, temporary) in files {
        assert!(text.contains(path), "{path}");
        if !temporary.ends_with(".jsonl") {
            fs::write(&temporary, secret(&temporary)).unwrap();
        }
        text = text.replace(path, &temporary);
    }
    text
}

/// What such a file holds.
fn secret(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        // Of the client library's own tests.
        Some("creds") => {
            "-----BEGIN NATS USER JWT-----\neyJ0eXAiOiJqd3QiLCJhbGciOiJlZDI1NTE5In0\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\nSUACH75SWCM5D2JMJM6EKLR2WDARVGZT4QC6LX3AGHSWOMVAKERABBBRWM\n\
             ------END USER NKEY SEED------\n"
        }
        Some("pem") => "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n",
        _ => "c2VjcmV0IGVub3VnaCBmb3IgdGhpcw==\n",
    }
}

fn load(text: &str) -> Result<Settings, Mistakes> {
    parse(text, "f.toml", &Overrides::default(), &|_| None)
}

fn texts() -> Vec<String> {
    EXAMPLES.map(example).into_iter().chain([complete()]).collect()
}

/// A value in a document, with the places of its key and of itself.
struct Entry {
    path: String,
    key: Option<Range<usize>>,
    value: Range<usize>,
    is_table: bool,
}

fn entries(text: &str) -> Vec<Entry> {
    fn table(table: &DeTable<'_>, path: &str, found: &mut Vec<Entry>) {
        for (key, value) in table {
            let path = if path.is_empty() { key.get_ref().to_string() } else { format!("{path}.{}", key.get_ref()) };
            found.push(Entry {
                path: path.clone(),
                key: Some(key.span()),
                value: value.span(),
                is_table: value.get_ref().is_table(),
            });
            within(value.get_ref(), &path, found);
        }
    }
    fn within(value: &DeValue<'_>, path: &str, found: &mut Vec<Entry>) {
        match value {
            DeValue::Table(inner) => table(inner, path, found),
            DeValue::Array(items) => {
                for item in items {
                    let is_table = item.get_ref().is_table();
                    found.push(Entry { path: format!("{path}[]"), key: None, value: item.span(), is_table });
                    within(item.get_ref(), &format!("{path}[]"), found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    table(DeTable::parse(text).unwrap().get_ref(), "", &mut found);
    found
}

fn is_free(path: &str) -> bool {
    FREE_TABLES.iter().any(|free| path.starts_with(free))
}

fn replaced(text: &str, at: &Range<usize>, with: &str) -> String {
    format!("{}{with}{}", &text[..at.start], &text[at.end..])
}

/// The place as an error shows it.
fn place(text: &str, at: usize) -> String {
    let line = text[..at].matches('\n').count() + 1;
    let column = text[..at].chars().rev().take_while(|&c| c != '\n').count() + 1;
    format!("--> f.toml:{line}:{column}\n")
}

/// The text has one mistake, there, in these words.
fn assert_mistake(text: &str, at: usize, words: &str) {
    let mistakes = load(text).expect_err(text);
    let shown = mistakes.to_string();
    assert!(shown.contains(&place(text, at)), "not at {}:\n{shown}", place(text, at));
    assert!(shown.contains(words), "no {words:?} in:\n{shown}");
    assert_eq!(mistakes.count(), 1, "{shown}");
}

#[test]
fn every_example_loads() {
    for name in EXAMPLES {
        let settings = load(&example(name)).unwrap_or_else(|mistakes| panic!("{name}: {mistakes}"));
        assert_eq!(settings.warnings, [""; 0], "{name}");
    }
    load(&complete()).unwrap_or_else(|mistakes| panic!("{mistakes}"));
}

#[test]
fn an_unknown_key_is_refused_in_every_table() {
    let mut tables = 0;
    for text in texts() {
        assert_mistake(&format!("zzzz = 1\n{text}"), 0, "unknown key `zzzz`");
        for entry in entries(&text).iter().filter(|entry| entry.is_table && !is_free(&entry.path)) {
            let at = entry.value.clone();
            let (insert_at, insertion) = match &text[at.clone()] {
                inline if inline.starts_with('{') => (at.start + 1, "zzzz = 1, "),
                header if header.starts_with('[') => (at.end + text[at.end..].find('\n').unwrap() + 1, "zzzz = 1\n"),
                // A parent that has no header of its own.
                _ => continue,
            };
            tables += 1;
            let mutated = replaced(&text, &(insert_at..insert_at), insertion);
            assert_mistake(&mutated, insert_at, "unknown key `");
        }
    }
    assert!(tables > 40, "{tables}");
}

#[test]
fn a_misspelt_key_is_refused_with_the_right_one() {
    let mut keys = 0;
    for text in texts() {
        for entry in entries(&text).iter().filter(|entry| !is_free(&entry.path) || FREE_TABLES.contains(&&*entry.path))
        {
            let Some(key) = entry.key.clone() else { continue };
            let is_parent = entry.is_table && text[entry.value.clone()] == text[key.clone()];
            let spelt = &text[key.clone()];
            // A header stands for its whole path: misspelling it once leaves siblings that spell it right.
            let siblings = text.matches(&format!("[{spelt}")).count() + text.matches(&format!(".{spelt}")).count();
            if is_parent || siblings > 1 {
                continue;
            }
            keys += 1;
            let mutated = replaced(&text, &key, &format!("{spelt}q"));
            assert_mistake(&mutated, key.start, &format!("did you mean `{spelt}`?"));
        }
    }
    assert!(keys > 120, "{keys}");
}

#[test]
fn a_value_of_the_wrong_type_is_refused_in_its_place() {
    let mut values = 0;
    for text in texts() {
        for entry in entries(&text) {
            let at = entry.value;
            if text[at.clone()].starts_with('[') && !text[..at.start].ends_with("= ") || entry.is_table {
                continue;
            }
            values += 1;
            // No key takes a date.
            assert_mistake(&replaced(&text, &at, "2026-11-23"), at.start, "not a datetime");
        }
    }
    assert!(values > 120, "{values}");
}

#[test]
fn a_name_that_is_not_set_is_refused_in_every_string() {
    let mut strings = 0;
    for text in texts() {
        for entry in entries(&text).iter().filter(|entry| text[entry.value.clone()].starts_with('"')) {
            strings += 1;
            let at = entry.value.clone();
            assert_mistake(&replaced(&text, &at, "\"a${NOT_SET}\""), at.start + 2, "`NOT_SET`, which is not set");
        }
    }
    assert!(strings > 90, "{strings}");
}

/// Calls `visit` with every key that is no table, and its schema.
fn schema_keys(schema: &Value, path: &str, visit: &mut dyn FnMut(&str, &Value)) {
    for (key, schema) in schema["properties"].as_object().unwrap() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if schema["properties"].is_object() {
            schema_keys(schema, &path, visit);
        } else if schema["items"]["properties"].is_object() {
            schema_keys(&schema["items"], &format!("{path}[]"), visit);
        } else {
            visit(&path, schema);
        }
    }
}

#[test]
fn the_full_example_shows_every_key_of_the_schema() {
    let text = complete();
    let shown: Vec<String> = entries(&text).into_iter().map(|entry| entry.path).collect();
    let mut keys = 0;
    schema_keys(schema::config().as_value(), "", &mut |path, _| {
        keys += 1;
        assert!(shown.iter().any(|shown| shown == path), "{path}");
    });
    assert!(keys > 60, "{keys}");
}

#[test]
fn the_full_example_gives_every_default() {
    let text = example("full.toml");
    let document: toml::Table = text.parse().unwrap();
    schema_keys(schema::config().as_value(), "", &mut |path, schema| {
        let mut value = Some(&toml::Value::Table(document.clone())).cloned();
        for key in path.split('.') {
            let (key, is_list) = key.strip_suffix("[]").map_or((key, false), |key| (key, true));
            value = value.and_then(|value| value.get(key).cloned());
            if is_list {
                value = value.and_then(|value| value.get(0).cloned());
            }
        }
        if let Some(default) = schema.get("default") {
            assert_eq!(value.map(|value| serde_json::to_value(value).unwrap()).as_ref(), Some(default), "{path}");
        }
    });

    let required = "[dialer]\nsources = ['10.0.1.0/24']\n[[telephony.servers]]\nuri = 'sip:10.0.2.10:5060'\n";
    let [defaults, written] = [required, &text].map(|text| {
        let mut settings = load(text).unwrap();
        settings.listen.iter_mut().for_each(|listen| listen.key = ListenKey::Default);
        format!("{settings:#?}")
    });
    assert_eq!(written, defaults);
}
