//! `[events.nats]`: URLs, names and subjects; secrets are read. Whether the servers are there is seen later: they may come
//! and go.

use std::ops::Range;
use std::path::PathBuf;

use super::Checker;
use crate::config::address;
use crate::config::key::Key;
use crate::config::report::{At, Given};
use crate::config::written;
use crate::nats::subject::{Template, covers};
use crate::nats::{Login, Nats, Servers};

const STREAM: &str = "CALLS";
const SUBJECT: &str = "calls.{outcome}";
const CONTROL: &str = "sipstamp.control";
const SCHEMES: [&str; 2] = ["nats://", "tls://"];

impl Checker<'_> {
    /// `None` where the sink could not be opened with it.
    pub(super) fn nats(&mut self, written: &written::Nats, at: At) -> Option<Nats> {
        let urls = self.urls(&written.servers, at.clone());
        let stream = match written.stream.given("events.nats.stream") {
            Some(given) => self.stream(&given),
            None => Some(STREAM.to_owned()),
        };
        let subject = match written.subject.given("events.nats.subject") {
            Some(given) => self.subject(&given),
            None => Template::parse(SUBJECT).ok(),
        };
        let control = match written.control_subject.given("events.nats.control_subject") {
            Some(given) if given.text.is_empty() => None,
            Some(given) => self.prefix(&given),
            None => Some(CONTROL.to_owned()),
        };
        if let (Some(subject), Some(control)) = (&subject, &control) {
            let (wildcard, question) = (subject.wildcard(), format!("{control}.call"));
            if covers(&wildcard, &question) {
                let what = format!(
                    "`events.nats.subject` takes what the sidecars ask each other: `{wildcard}` has `{question}` too, and the stream would keep it"
                );
                let at = written.subject.at().or(written.control_subject.at()).or(at);
                self.report
                    .mistake(at, what)
                    .help("begin it otherwise, such as `calls.{outcome}`, or set `control_subject`");
            }
        }
        let login = self.login(written);
        let ca_file = written.ca_file.given("events.nats.ca_file").and_then(|given| self.certificates(&given));
        Some(Nats { servers: Servers { urls, login, ca_file }, stream: stream?, subject: subject?, control })
    }

    fn urls(&mut self, key: &Key<Vec<Key<String>>>, at: At) -> Vec<String> {
        let items = key.value().map(Vec::as_slice).unwrap_or_default();
        if items.is_empty() && !self.pruned.touches("events.nats.servers") && key.value().is_some() {
            self.report.mistake(key.at().or(at), "`events.nats.servers` is empty: there is nowhere to connect to");
        }
        let given = |(index, item)| Key::given(item, format!("events.nats.servers[{index}]"));
        items.iter().enumerate().filter_map(given).filter_map(|given| self.server_url(&given)).collect()
    }

    /// A URL without what belongs elsewhere.
    fn server_url(&mut self, given: &Given<'_>) -> Option<String> {
        let Some((scheme, rest)) =
            SCHEMES.iter().find_map(|scheme| given.text.strip_prefix(scheme).map(|rest| (scheme, rest)))
        else {
            given
                .mistake(self.report, "is no URL of a NATS server")
                .help("such as `nats://10.0.3.1:4222`, or `tls://…`");
            return None;
        };
        let start = scheme.len();
        if let Some(login) = rest.rfind('@') {
            given
                .mistake_at(self.report, start..start + login + 1, "has a login, which would be shown in logs")
                .help("use `user` and `password_file`, or `token_file`");
            return None;
        }
        match address::next_hop_or_host(rest) {
            Ok(_) => Some(given.text.to_owned()),
            Err(wrong) => {
                let Range { start: from, end } = wrong.part;
                given.mistake_at(self.report, start + from..start + end, wrong.what);
                None
            }
        }
    }

    fn stream(&mut self, given: &Given<'_>) -> Option<String> {
        let is_good = |c: char| c.is_ascii_graphic() && !".*>/\\".contains(c);
        if given.text.is_empty() || !given.text.chars().all(is_good) {
            given
                .mistake(self.report, "is no name of a stream")
                .help("such as `CALLS`; it has no spaces and none of `.`, `*`, `>`, `/`, `\\`");
            return None;
        }
        Some(given.text.to_owned())
    }

    fn subject(&mut self, given: &Given<'_>) -> Option<Template> {
        match Template::parse(given.text) {
            Ok(template) => Some(template),
            Err(wrong) => {
                given.mistake_at(self.report, wrong.part, wrong.what).help("such as `calls.{outcome}`");
                None
            }
        }
    }

    /// A subject without placeholders.
    fn prefix(&mut self, given: &Given<'_>) -> Option<String> {
        if given.text.contains('{') {
            given.mistake(self.report, "takes no placeholders").help("such as `sipstamp.control`");
            return None;
        }
        self.subject(given).map(|template| template.to_string())
    }

    fn login(&mut self, written: &written::Nats) -> Login {
        if written.user.value().is_none()
            && let Some(given) = written.password_file.given("events.nats.password_file")
            && !self.pruned.touches("events.nats.user")
        {
            given.mistake(self.report, "is the password of nobody").help("add `user`, or use `token_file`");
        }
        let mut secret = |key: &Key<String>, name: &str| key.given(name).and_then(|given| self.text(&given));
        Login {
            user: written.user.value().cloned(),
            password: secret(&written.password_file, "events.nats.password_file"),
            token: secret(&written.token_file, "events.nats.token_file"),
            credentials: written
                .credentials_file
                .given("events.nats.credentials_file")
                .and_then(|given| self.credentials(&given)),
        }
    }

    fn text(&mut self, given: &Given<'_>) -> Option<String> {
        let text = String::from_utf8(self.secret(given)?).ok();
        if text.is_none() {
            given.mistake(self.report, "names a file that is no text");
        }
        text
    }

    fn credentials(&mut self, given: &Given<'_>) -> Option<String> {
        // Without the end of its last line it would not be understood.
        let text = self.text(given)? + "\n";
        // The error could quote the file.
        if async_nats::ConnectOptions::with_credentials(&text).is_err() {
            given
                .mistake(self.report, "names a file that holds no credentials")
                .help("as `nsc generate creds` writes it");
            return None;
        }
        Some(text)
    }

    fn certificates(&mut self, given: &Given<'_>) -> Option<PathBuf> {
        let contents = self.contents(given)?;
        if !String::from_utf8_lossy(&contents).contains("-----BEGIN CERTIFICATE-----") {
            given.mistake(self.report, "names a file without a certificate in PEM");
            return None;
        }
        Some(PathBuf::from(given.text))
    }
}
