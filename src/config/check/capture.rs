//! `[capture]`: headers that become fields of the event, and labels of metrics.

use super::Checker;
use crate::config::key::Key;
use crate::config::report::Given;
use crate::config::written;
use crate::policy::{Capture, CapturedLabel};
use crate::sip::HeaderName;

/// Label names that the product's own metrics or Prometheus have a use for.
const RESERVED: &[&str] = &["outcome", "direction", "server", "le", "job", "instance"];
/// The header that names a call in the dialer's own records, unless another one is configured.
const CORRELATION: &str = "Correlation-ID";
/// Headers that no event may tell.
const SECRET: &[&str] = &["Authorization", "Proxy-Authorization"];
/// What metrics call values that are not listed.
const OTHER: &str = "other";
/// Combinations of listed values; each is a time series per outcome and direction.
const MOST_COMBINATIONS: usize = 1_000;

impl Checker<'_> {
    pub(super) fn capture(&mut self, written: &written::Capture) -> Capture {
        let correlation = match written.correlation.given("capture.correlation") {
            None => Some(CORRELATION.into()),
            Some(given) if given.text.is_empty() => None,
            Some(given) => self.captured(&given),
        };
        let mut labels = Vec::new();
        for (label, header) in &written.labels.0 {
            let Some(name) = label.given("capture.labels") else { continue };
            let sound = self.label_name(&name);
            let header = header.given(format!("capture.labels.{}", name.text)).and_then(|given| self.captured(&given));
            if let (true, Some(header)) = (sound, header) {
                labels.push(CapturedLabel { label: name.text.into(), header, values: Vec::new() });
            }
        }
        let mut combinations = 1_usize;
        for (label, values) in &written.metric_values.0 {
            let Some(name) = label.given("capture.metric_values") else { continue };
            let is_label = written.labels.0.iter().any(|(other, _)| other.value() == label.value());
            if !is_label && !self.pruned.touches(&format!("capture.labels.{}", name.text)) {
                name.mistake(self.report, format!("has `{}`, which is no label", name.text))
                    .help(format!("give it a header in `capture.labels`: `{} = \"Header-Name\"`", name.text));
            }
            let values = self.label_values(name.text, values);
            combinations = combinations.saturating_mul(values.len() + 1);
            if let Some(label) = labels.iter_mut().find(|one| *one.label == *name.text) {
                label.values = values;
            }
        }
        if combinations > MOST_COMBINATIONS {
            let at = written.metric_values.0.first().and_then(|(label, _)| label.at());
            let title = format!(
                "`capture.metric_values` makes {combinations} combinations, at most {MOST_COMBINATIONS} are allowed"
            );
            let help = "each is a time series per outcome and direction; list fewer values (`other` counts as one)";
            self.report.mistake(at, title).help(help);
        }
        Capture { correlation, labels }
    }

    /// A header that events may tell.
    fn captured(&mut self, given: &Given<'_>) -> Option<HeaderName> {
        let header = self.header(given)?;
        if SECRET.iter().any(|secret| secret.eq_ignore_ascii_case(&header)) {
            given.mistake(self.report, format!("is `{header}`, which holds credentials"));
            return None;
        }
        Some(header)
    }

    fn label_name(&mut self, given: &Given<'_>) -> bool {
        let name = given.text;
        let mut bytes = name.bytes();
        let starts_well = bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_');
        if !starts_well || !bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            given
                .mistake(self.report, format!("has `{}`, which is no label name", name.escape_debug()))
                .help("letters, digits and underscores, no digit at the start");
            return false;
        }
        if name.starts_with("__") || RESERVED.contains(&name) {
            given.mistake(self.report, format!("has `{name}`, a name that metrics have another use for"));
            return false;
        }
        true
    }

    fn label_values(&mut self, label: &str, written: &Key<Vec<Key<String>>>) -> Vec<Box<str>> {
        let path = format!("capture.metric_values.{label}");
        let items = written.value().map(Vec::as_slice).unwrap_or_default();
        if items.is_empty() && !self.pruned.touches(&path) {
            self.report.mistake(written.at(), format!("`{path}` lists no value"));
        }
        let mut values: Vec<Box<str>> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let Some(given) = item.given(format!("{path}[{index}]")) else { continue };
            if given.text == OTHER {
                given.mistake(self.report, "is `other`, which is what all values that are not listed count as");
            } else if given.text.is_empty() || given.text.chars().any(char::is_control) {
                given.mistake(self.report, "must be the value of a header: not empty, no control characters");
            } else if values.iter().any(|value| **value == *given.text) {
                given.mistake(self.report, "stands there twice");
            } else {
                values.push(given.text.into());
            }
        }
        values
    }
}
