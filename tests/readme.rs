//! The documents say what the code does: configurations load, names exist, links lead somewhere.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;
use sipstamp::config::{self, Overrides};
use sipstamp::event::{CallData, CallState};
use sipstamp::outcome::{Anomaly, CodeSource, EndCause, EndedBy, Outcome};

/// A document of the project.
struct Document {
    path: PathBuf,
    text: String,
}

impl Document {
    fn read(path: impl AsRef<Path>) -> Document {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Document { path, text }
    }

    /// All that are for users.
    fn all() -> Vec<Document> {
        let docs = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")).expect("docs/ is there");
        let docs = docs.map(|entry| entry.expect("docs/ can be read").path());
        let mut paths: Vec<PathBuf> = docs.chain(["README.md".into(), "CONTRIBUTING.md".into()]).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
        paths.sort();
        paths.into_iter().map(Document::read).collect()
    }

    /// The blocks that are marked with a language, each with the number of its first line.
    fn blocks(&self, language: &str) -> Vec<(usize, String)> {
        let mut blocks = Vec::new();
        let mut block: Option<(bool, usize, String)> = None;
        for (number, line) in self.text.lines().enumerate() {
            match (line.trim_start().strip_prefix("```"), block.take()) {
                (Some(marked), None) => block = Some((marked == language, number + 2, String::new())),
                (Some(_), Some((wanted, first, text))) => blocks.extend(wanted.then_some((first, text))),
                (None, Some((wanted, first, text))) => block = Some((wanted, first, text + line + "\n")),
                (None, None) => {}
            }
        }
        assert!(block.is_none(), "{}: a block has no end", self.path.display());
        blocks
    }

    fn has_code(&self, text: &str) -> bool {
        self.text.contains(&format!("`{text}`"))
    }
}

#[test]
fn every_configuration_loads() {
    let mut loaded = 0;
    for document in Document::all() {
        for (line, text) in document.blocks("toml") {
            let name = format!("{}:{line}", document.path.display());
            // The file for events is opened, wherever the tests run.
            let text = text.replace("/var/log/sipstamp", env!("CARGO_TARGET_TMPDIR"));
            if let Err(mistakes) = config::parse(&text, &name, &Overrides::default(), &|_| None) {
                panic!("{name}\n{mistakes}");
            }
            loaded += 1;
        }
    }
    assert!(loaded >= 5, "only {loaded} configurations were found");
}

#[test]
fn every_configuration_key_is_documented() {
    let output = Command::new(env!("CARGO_BIN_EXE_sipstamp")).args(["schema", "config"]).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).expect("the schema is JSON");
    let mut keys = BTreeSet::new();
    collect_keys(&schema, &mut keys);
    assert!(keys.contains("no_answer"), "{keys:?}");
    let document = Document::read("docs/configuration.md");
    let is_documented = |key: &str| {
        let key = regex::escape(key);
        Regex::new(&format!(r"`\[*([a-z_]+\.)*{key}(\.[a-z_]+)*\]*`")).expect("a pattern").is_match(&document.text)
    };
    let missing: Vec<&String> = keys.iter().filter(|key| !is_documented(key)).collect();
    assert!(missing.is_empty(), "not in docs/configuration.md: {missing:?}");
}

fn collect_keys(schema: &serde_json::Value, keys: &mut BTreeSet<String>) {
    if let Some(properties) = schema.get("properties").and_then(|properties| properties.as_object()) {
        keys.extend(properties.keys().cloned());
    }
    match schema {
        serde_json::Value::Object(fields) => fields.values().for_each(|field| collect_keys(field, keys)),
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect_keys(item, keys)),
        _ => {}
    }
}

#[test]
fn documented_metrics_are_those_of_the_code() {
    let metric = Regex::new("sipstamp_[a-z_0-9]+").expect("a pattern");
    let mut documented = BTreeSet::new();
    for document in Document::all() {
        documented.extend(metric.find_iter(&document.text).map(|name| name.as_str().to_owned()));
    }
    let mut sources = String::new();
    read_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut sources);
    let known: BTreeSet<&str> = metric.find_iter(&sources).map(|name| name.as_str()).collect();
    assert!(documented.len() > 20, "{documented:?}");
    for name in &documented {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        assert!(known.contains(name.as_str()) || known.contains(family), "{name} is in no source file");
    }
}

fn read_sources(directory: &Path, sources: &mut String) {
    for entry in fs::read_dir(directory).expect("src/ can be read") {
        let path = entry.expect("src/ can be read").path();
        if path.is_dir() {
            read_sources(&path, sources);
        } else {
            sources.push_str(&fs::read_to_string(&path).expect("sources are text"));
        }
    }
}

#[test]
fn alert_rules_pass_promtool() {
    let mut checked = 0;
    let documents = ["docs/metrics.md", "docs/hardening.md"].map(|name| (name, Document::read(name)));
    let blocks = documents
        .iter()
        .flat_map(|(name, document)| document.blocks("yaml").into_iter().map(move |block| (name, block)));
    for (name, (line, rules)) in blocks {
        if !rules.starts_with("groups:") {
            continue;
        }
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("docs-rules.yml");
        fs::write(&file, rules).expect("the target directory can be written");
        let output = Command::new("promtool").args(["check", "rules"]).arg(&file).output();
        let output = output.expect("promtool is installed: `make tools`");
        assert!(output.status.success(), "{name}:{line}: {output:?}");
        checked += 1;
    }
    assert_eq!(checked, 2);
}

#[test]
fn outcomes_document_names_every_value() {
    let document = Document::read("docs/outcomes.md");
    let labels = Outcome::ALL.iter().map(|outcome| outcome.label());
    let labels = labels
        .chain(EndCause::ALL.iter().map(|cause| cause.label()))
        .chain(Anomaly::ALL.iter().map(|anomaly| anomaly.label()))
        .chain(CodeSource::ALL.iter().map(|source| source.label()))
        .chain(EndedBy::ALL.iter().map(|who| who.label()));
    for label in labels {
        assert!(document.has_code(label), "{label} is not in docs/outcomes.md");
    }
    let readme = Document::read("README.md");
    for outcome in Outcome::ALL {
        assert!(readme.has_code(outcome.label()), "{outcome} is not in README.md");
    }
    let api = Document::read("docs/api.md");
    for state in CallState::ALL {
        assert!(api.has_code(state.label()), "{state} is not in docs/api.md");
    }
}

#[test]
fn the_table_of_end_causes_says_who_ended_the_call() {
    let document = Document::read("docs/outcomes.md");
    for cause in EndCause::ALL {
        let start = format!("| `{cause}` |");
        let row = document.text.lines().find(|line| line.starts_with(&start));
        let row = row.unwrap_or_else(|| panic!("{cause} has no row in docs/outcomes.md"));
        assert!(row.contains(&format!("| {} |", cause.ended_by())), "{row}");
    }
}

#[test]
fn the_example_event_has_exactly_the_fields_of_the_schema() {
    let document = Document::read("docs/events.md");
    let (line, example) = document.blocks("json").into_iter().next().expect("docs/events.md has an example");
    let example: serde_json::Value =
        serde_json::from_str(&example).unwrap_or_else(|error| panic!("docs/events.md:{line}: {error}"));
    let schema = serde_json::to_value(schemars::schema_for!(CallData)).expect("a schema is JSON");
    let keys = |value: &serde_json::Value| -> BTreeSet<String> {
        value.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default()
    };
    assert_eq!(keys(&example["data"]), keys(&schema["properties"]));
    for field in keys(&schema["properties"]) {
        assert!(document.has_code(&field), "{field} is not in the table of docs/events.md");
    }
}

#[test]
fn json_examples_can_be_read() {
    for document in Document::all() {
        for (line, text) in document.blocks("json") {
            if let Err(error) = serde_json::from_str::<serde_json::Value>(&text) {
                panic!("{}:{line}: {error}", document.path.display());
            }
        }
    }
}

#[test]
fn links_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)\s]*)\)").expect("a pattern");
    let mut followed = 0;
    for document in Document::all() {
        for target in link.captures_iter(&document.text).filter_map(|found| found.get(1)).map(|found| found.as_str()) {
            if target.starts_with("https://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { document.path.clone() } else { document.path.with_file_name(file) };
            assert!(path.exists(), "{}: {target} leads nowhere", document.path.display());
            let is_there = anchor.is_empty() || anchors(&Document::read(&path).text).contains(anchor);
            assert!(is_there, "{}: {target} has no such heading", document.path.display());
            followed += 1;
        }
    }
    assert!(followed > 20, "only {followed} links were found");
}

/// The anchors that headings get: lower case, blanks as hyphens, no other punctuation.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    let anchor = |heading: &str| {
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>().replace(' ', "-")
    };
    headings.map(anchor).collect()
}
