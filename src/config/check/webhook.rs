//! `[[events.webhooks]]`: where events are posted. Secrets are read, and never shown.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::Uri;

use super::{Checker, number};
use crate::config::report::{At, Given};
use crate::config::settings::Settings;
use crate::config::webhook::{DeadLetter, SigningKeys, Url, Webhook};
use crate::config::written;

const TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(5 * 60);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_IN_FLIGHT: usize = 8;
const AFTER: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(720 * 3600);
const DEFAULT_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Characters of a name: it is a label.
const LONGEST_NAME: usize = 64;
/// Bytes of a key that Standard Webhooks asks for.
const LEAST_KEY: usize = 24;
/// Some write the padding, some do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Checker<'_> {
    pub(super) fn webhooks(&mut self, written: &written::Events) -> Vec<Webhook> {
        let mut names = Vec::new();
        let mut webhooks = Vec::new();
        for (index, item) in written.webhooks.iter().enumerate() {
            let Some(one) = item.value() else { continue };
            let path = format!("events.webhooks[{index}]");
            let name = one.name.given(format!("{path}.name")).and_then(|given| self.webhook_name(given, &mut names));
            let url = one.url.given(format!("{path}.url")).and_then(|given| self.url(&given));
            let keys = one.secret_file.given(format!("{path}.secret_file")).and_then(|given| self.keys(&given));
            let timeout = self.duration(&one.timeout, &format!("{path}.timeout"), TIMEOUT, DEFAULT_TIMEOUT);
            let dead_letter = self.dead_letter(&one.dead_letter, &path, written, item.at());
            if let (Some(name), Some(url), Some(keys)) = (name, url, keys) {
                let max_in_flight = number(&one.max_in_flight, MAX_IN_FLIGHT);
                webhooks.push(Webhook { name, url, keys, timeout, max_in_flight, dead_letter });
            }
        }
        webhooks
    }

    /// A name that no webhook has yet.
    fn webhook_name(&mut self, given: Given<'_>, names: &mut Vec<(Arc<str>, At)>) -> Option<Arc<str>> {
        let is_label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if given.text.is_empty() || given.text.len() > LONGEST_NAME || !given.text.bytes().all(is_label) {
            let what = format!("must be a name of at most {LONGEST_NAME} letters, digits, `_`, `-` and `.`");
            given.mistake(self.report, what).help("such as `crm`");
            return None;
        }
        if let Some((name, first)) = names.iter().find(|(other, _)| &**other == given.text) {
            let what = format!("is taken: another webhook is `{name}`");
            given.mistake(self.report, what).also(first.clone(), "here first");
            return None;
        }
        let name: Arc<str> = given.text.into();
        names.push((name.clone(), given.at));
        Some(name)
    }

    fn url(&mut self, given: &Given<'_>) -> Option<Url> {
        let uri: Uri = match given.text.parse() {
            Ok(uri) => uri,
            Err(error) => {
                let error: http::uri::InvalidUri = error;
                given.mistake(self.report, "is no URL").label(error.to_string());
                return None;
            }
        };
        let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            given
                .mistake(self.report, "must be a URL with `https://`")
                .help("such as `https://crm.example/hooks/calls`");
            return None;
        };
        if authority.as_str().contains('@') {
            given
                .mistake(self.report, "must have no user name or password in it")
                .help("the signature says who sends; its secret belongs in `secret_file`");
            return None;
        }
        if scheme == "http" {
            if !is_loopback(authority.host()) {
                given
                    .mistake(self.report, "is plain http beyond loopback: everybody on the way could read it")
                    .help("write `https://`");
                return None;
            }
            given.warning(self.report, "is plain http: whoever can listen on this machine's loopback reads along");
        }
        Some(Url(uri))
    }

    /// One key a line.
    fn keys(&mut self, given: &Given<'_>) -> Option<SigningKeys> {
        let text = self.secret(given)?;
        let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
        let mut keys = Vec::new();
        for line in lines {
            match key(line) {
                Ok(key) => keys.push(key),
                Err(what) => {
                    given
                        .mistake(self.report, what)
                        .help("for instance `echo whsec_$(head -c 32 /dev/urandom | base64)`");
                    return None;
                }
            }
        }
        if keys.iter().any(|key| key.len() < LEAST_KEY) {
            let what = format!("names a file with a secret of less than {LEAST_KEY} bytes: it could be guessed");
            given.warning(self.report, what);
        }
        Some(SigningKeys::new(keys))
    }

    fn dead_letter(
        &mut self,
        written: &written::DeadLetter,
        path: &str,
        events: &written::Events,
        at: At,
    ) -> Option<DeadLetter> {
        let path = format!("{path}.dead_letter");
        let after = self.duration(&written.after, &format!("{path}.after"), AFTER, DEFAULT_AFTER);
        let Some(given) = written.file.given(format!("{path}.file")) else {
            if written.after.value().is_some() && !self.pruned.touches(&format!("{path}.file")) {
                self.report
                    .mistake(written.after.at().or(at), format!("`{path}` needs the key `file`"))
                    .help("for instance `file = \"/var/lib/sipstamp/crm.dead.jsonl\"`");
            }
            return None;
        };
        if events.file.value().map(String::as_str) == Some(given.text) {
            given.mistake(self.report, "is `events.file` too").also(events.file.at(), "here first");
            return None;
        }
        self.writable(&given, &events.journal).map(|file| DeadLetter { file, after })
    }
}

/// The bytes that a line of the file stands for. What is wrong is said without a word of it.
fn key(line: &[u8]) -> Result<Vec<u8>, &'static str> {
    if line.starts_with(b"whsk_") || line.starts_with(b"whpk_") {
        return Err("names a file with an asymmetric key: `whsec_` is the prefix of a secret");
    }
    match line.strip_prefix(b"whsec_") {
        None => Ok(line.to_vec()),
        Some(text) => match BASE64.decode(text) {
            Ok(key) if !key.is_empty() => Ok(key),
            _ => Err("names a file with a secret that is not `whsec_` and base64"),
        },
    }
}

/// Whether only this machine is meant.
fn is_loopback(host: &str) -> bool {
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    ip.map_or_else(|_| host.eq_ignore_ascii_case("localhost"), Settings::is_loopback)
}
