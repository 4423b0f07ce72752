//! Configuration in three steps: as written ([`written`]), as checked (`check`), as used ([`Settings`],
//! and [`crate::policy::Policy`] for the core). All mistakes come in one run, each with line and column.
//!
//! On the way from text to [`Settings`] each step leaves out what it found wrong and the next one checks
//! the rest: syntax, `${NAME}`, then the schema of [`written`] (unknown keys, types, ranges), then values.

mod address;
mod check;
mod conceal;
mod environment;
mod key;
mod nearest;
mod report;
mod restart;
mod settings;
mod structure;
mod syntax;
mod tree;
mod units;
mod webhook;
pub mod written;

use std::fs;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

pub use address::network;
pub use check::Overrides;
pub(crate) use conceal::concealed;
pub use environment::Environment;
pub use report::{Mistakes, Report};
pub use restart::restart_needed;
pub use settings::{
    Admin, Events, ListenAddress, ListenKey, Locate, LogFormat, Logging, ServerNames, Settings, SocketLimits,
};
pub use units::{Written, duration};
pub use webhook::{DeadLetter, SigningKeys, Url, Webhook};

/// Settings from a file, or from flags and defaults alone.
pub fn load(path: Option<&Path>, flags: &Overrides, env: Environment<'_>) -> Result<Settings, Mistakes> {
    sound(checked(path, flags, env))
}

/// Settings from a text that the user knows as `name`.
pub fn parse(text: &str, name: &str, flags: &Overrides, env: Environment<'_>) -> Result<Settings, Mistakes> {
    sound(checked_text(text, name, flags, env))
}

/// As [`load`], with all findings: the settings are sound only if the report has no mistakes.
pub fn checked(path: Option<&Path>, flags: &Overrides, env: Environment<'_>) -> (Settings, Report) {
    let Some(path) = path else { return checked_text("", "", flags, env) };
    let name = path.display().to_string();
    match fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => checked_text(&text, &name, flags, env),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                unreadable(&name, &text, Some(at..at + 1), "is not UTF-8, as TOML must be".to_owned())
            }
        },
        Err(error) => unreadable(&name, "", None, format!("cannot be read: {error}")),
    }
}

/// The process's own environment.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn checked_text(text: &str, name: &str, flags: &Overrides, env: Environment<'_>) -> (Settings, Report) {
    let mut report = Report::new(name, text);
    let mut pruned = tree::Pruned::default();
    let mut root = syntax::parse(text, &mut report, &mut pruned);
    environment::expand(&mut root, env, &mut report, &mut pruned);
    structure::fit(&mut root, crate::schema::config().as_value(), &mut report, &mut pruned);
    let typed = written::File::deserialize(toml::Deserializer::from(Spanned::new(0..text.len(), root)));
    let file = typed.unwrap_or_else(|error| {
        // What fits the schema has the types' shape; should they ever differ, serde's word is as good.
        report.mistake(error.span(), error.message());
        pruned.add_anything();
        written::File::default()
    });
    let settings = check::settings(&file, flags, &pruned, &mut report);
    (settings, report)
}

/// The report of a file that is no text; the settings are not to be used.
fn unreadable(name: &str, text: &str, at: report::At, what: String) -> (Settings, Report) {
    let mut report = Report::new(name, text);
    report.mistake(at, format!("{name} {what}"));
    let mut pruned = tree::Pruned::default();
    pruned.add_anything();
    let settings = check::settings(&written::File::default(), &Overrides::default(), &pruned, &mut report);
    (settings, report)
}

fn sound((settings, report): (Settings, Report)) -> Result<Settings, Mistakes> {
    match Mistakes::of(report) {
        Some(mistakes) => Err(mistakes),
        None => Ok(settings),
    }
}
