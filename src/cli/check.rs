//! `sipstamp check`: every mistake and every doubt, each with line, column and caret.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

use super::{complain, print, refuse};
use crate::config::{self, Mistakes, Overrides};

/// Findings on standard error; `FILE: ok` on standard output where there is no mistake.
pub fn run(path: &Path) -> ExitCode {
    let (_, report) = config::checked(Some(path), &Overrides::default(), &config::process_environment);
    let warnings = report.render(io::stderr().is_terminal());
    match Mistakes::of(report) {
        Some(mistakes) => refuse(&mistakes),
        None => {
            if !warnings.is_empty() {
                complain(&warnings);
            }
            print(&format!("{}: ok", path.display()))
        }
    }
}
