//! `[events]`, `[admin]`, `[metrics]`, `[log]`: what the shell uses. Files are opened, secrets read.

use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::listen::{Listening, are_at_odds};
use super::{Checker, flag};
use crate::config::key::Key;
use crate::config::nearest::nearest;
use crate::config::report::{At, Given};
use crate::config::settings::{Admin, Events, LogFormat, Logging, Settings};
use crate::config::units;
use crate::config::written;
use crate::flow::Transport;
use crate::mask::{MaskKey, MaskNumbers};

const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9060);
const MEMORY_LIMIT: usize = 64 << 20;
const LEAST_MEMORY: u64 = 64 << 10;
const MOST_MEMORY: u64 = 64 << 30;
const SYNC: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);
const DEFAULT_SYNC: Duration = Duration::from_secs(1);
/// Bytes of `events.mask_key_file`, and characters of `admin.token_file`.
const LEAST_MASK_KEY: usize = 16;
const LEAST_TOKEN: usize = 16;
const MAKE_KEY: &str = "a file with a random key: `head -c 32 /dev/urandom | base64 > mask.key`";
/// The mode bits by which everybody may read a file.
const READABLE_BY_ALL: u32 = 0o004;
const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

impl Checker<'_> {
    pub(super) fn events(&mut self, written: &written::Events) -> Events {
        Events {
            journal: written.journal.given("events.journal").and_then(|given| self.directory(&given)),
            sync: self.sync(&written.sync),
            file: written.file.given("events.file").and_then(|given| self.writable(&given, &written.journal)),
            stdout: flag(&written.stdout, false),
            webhooks: self.webhooks(written),
            memory_limit: self.memory_limit(&written.memory_limit).unwrap_or(MEMORY_LIMIT),
            nats: written.nats.value().and_then(|nats| self.nats(nats, written.nats.at())),
        }
    }

    pub(super) fn mask(&mut self, written: &written::Events) -> MaskNumbers {
        match written.mask_numbers.value().map(String::as_str) {
            Some("partial") => MaskNumbers::Partial,
            Some("hash") => self.hash(written),
            _ => MaskNumbers::None,
        }
    }

    /// The `source` of the events.
    pub(super) fn event_source(&mut self, written: &written::Events) -> Arc<str> {
        let given = written.source.given("events.source");
        given.and_then(|given| self.source(&given)).unwrap_or_else(default_source).into()
    }

    /// The admin API, and the address for metrics alone.
    pub(super) fn admin(
        &mut self,
        admin: &written::Admin,
        metrics: &written::Metrics,
        sip: &Listening,
    ) -> (Option<Admin>, Option<SocketAddr>) {
        let listen = match admin.listen.given("admin.listen") {
            None => Some(ADMIN),
            Some(given) if given.text.is_empty() => None,
            Some(given) => self.socket(&given, true),
        };
        let token = admin.token_file.given("admin.token_file").and_then(|given| self.token(&given));
        if let Some(listen) = listen.filter(|listen| !Settings::is_loopback(listen.ip()))
            && admin.token_file.value().is_none()
            && !self.pruned.touches("admin.token_file")
        {
            self.report
                .mistake(
                    admin.listen.at(),
                    format!("`admin.listen` is {listen}, beyond loopback, and there is no token"),
                )
                .help("give it `token_file`, or listen on 127.0.0.1; for metrics alone there is [metrics]");
        }
        let given = metrics.listen.given("metrics.listen").filter(|given| !given.text.is_empty());
        let metrics_listen = given.and_then(|given| self.socket(&given, true));
        self.taken(listen, "admin.listen", admin.listen.at(), sip, None);
        self.taken(metrics_listen, "metrics.listen", metrics.listen.at(), sip, listen);
        (listen.map(|listen| Admin { listen, token }), metrics_listen)
    }

    pub(super) fn logging(&mut self, written: &written::Log) -> Logging {
        let level = written.level.given("log.level");
        Logging {
            level: level.and_then(|given| self.level(&given)).unwrap_or_else(|| "info".to_owned()),
            format: match written.format.value().map(String::as_str) {
                Some("json") => LogFormat::Json,
                _ => LogFormat::Text,
            },
        }
    }

    /// Says where an address is taken by another key of this file.
    fn taken(&mut self, own: Option<SocketAddr>, key: &str, at: At, sip: &Listening, admin: Option<SocketAddr>) {
        let Some(own) = own else { return };
        let tcp = sip.addresses.iter().filter(|one| one.transport == Transport::Tcp);
        let tcp = tcp.map(|one| (one.key(), one.address));
        let mut others = tcp.chain(admin.map(|admin| ("admin.listen".to_owned(), admin)));
        // All addresses of IPv6 are all of IPv4 too where HTTP listens.
        let is_at_odds = |other: SocketAddr| {
            are_at_odds(own, other) || is_any_v6(own) && own.port() != 0 && own.port() == other.port()
        };
        match others.find(|(_, other)| is_at_odds(*other)) {
            Some((key_of, other)) if other == own => {
                self.report.mistake(at, format!("`{key}` is {own}, and so is `{key_of}`"));
            }
            Some((key_of, other)) => {
                self.report
                    .mistake(at, format!("`{key}` is {own}, which overlaps with `{key_of}`, {other}"))
                    .help("all addresses of the machine hold each of them: choose another port");
            }
            None => {}
        }
    }

    fn source(&mut self, given: &Given<'_>) -> Option<String> {
        if given.text.is_empty() || given.text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            given.mistake(self.report, "must be a URI reference without spaces").help("such as `sipstamp/host-7`");
            return None;
        }
        Some(given.text.to_owned())
    }

    fn memory_limit(&mut self, key: &Key<String>) -> Option<usize> {
        let given = key.given("events.memory_limit")?;
        match units::size(given.text) {
            Ok(size) if (LEAST_MEMORY..=MOST_MEMORY).contains(&size) => usize::try_from(size).ok(),
            Ok(_) => {
                given.mistake(self.report, "must be between 64KiB and 64GiB");
                None
            }
            Err(wrong) => {
                given.mistake(self.report, wrong.what).help(wrong.help);
                None
            }
        }
    }

    /// A directory that is there or can be made.
    fn directory(&mut self, given: &Given<'_>) -> Option<PathBuf> {
        let path = PathBuf::from(given.text);
        if given.text.is_empty() || path.exists() && !path.is_dir() {
            given.mistake(self.report, "is no directory").help("such as `/var/lib/sipstamp`");
            return None;
        }
        Some(path)
    }

    /// How often the journal is synced; `None`: never.
    fn sync(&mut self, key: &Key<String>) -> Option<Duration> {
        match key.value().map(String::as_str) {
            Some("never") => None,
            _ => Some(self.duration(key, "events.sync", SYNC, DEFAULT_SYNC)),
        }
    }

    /// Opens the file as its sink will; it is made if it is missing. In the journal's directory it may lie before that is made.
    pub(super) fn writable(&mut self, given: &Given<'_>, journal: &Key<String>) -> Option<PathBuf> {
        let path = PathBuf::from(given.text);
        let journal = journal.value().map(Path::new).filter(|journal| !journal.exists());
        if journal.is_some() && path.parent() == journal {
            return Some(path);
        }
        match OpenOptions::new().append(true).create(true).open(&path) {
            Ok(_) => Some(path),
            Err(error) => {
                given.mistake(self.report, "cannot be opened for writing").label(error.to_string());
                None
            }
        }
    }

    fn hash(&mut self, written: &written::Events) -> MaskNumbers {
        let Some(given) = written.mask_key_file.given("events.mask_key_file") else {
            if !self.pruned.touches("events.mask_key_file") {
                self.report
                    .mistake(written.mask_numbers.at(), "`events.mask_numbers = \"hash\"` needs `mask_key_file`")
                    .help(MAKE_KEY);
            }
            return MaskNumbers::None;
        };
        match self.secret(&given) {
            Some(key) if key.len() >= LEAST_MASK_KEY => MaskNumbers::Hash(MaskKey::new(key)),
            Some(_) => {
                let what = format!("names a file with less than {LEAST_MASK_KEY} bytes: such a key can be guessed");
                given.mistake(self.report, what).help(MAKE_KEY);
                MaskNumbers::None
            }
            None => MaskNumbers::None,
        }
    }

    fn token(&mut self, given: &Given<'_>) -> Option<String> {
        let token = String::from_utf8(self.secret(given)?).ok();
        let token = token.filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic()));
        if token.is_none() {
            given.mistake(
                self.report,
                "names a file whose token has spaces or characters that no HTTP header can carry",
            );
        }
        if token.as_ref().is_some_and(|token| token.len() < LEAST_TOKEN) {
            let what = format!("names a file whose token has less than {LEAST_TOKEN} characters: it can be guessed");
            given.mistake(self.report, what).help("such as `head -c 32 /dev/urandom | base64 > admin.token`");
        }
        token
    }

    /// What a file holds that nobody else should read, without white space around it.
    pub(super) fn secret(&mut self, given: &Given<'_>) -> Option<Vec<u8>> {
        let secret = self.contents(given)?;
        let mode = fs::metadata(given.text).map_or(0, |metadata| metadata.permissions().mode());
        if mode & READABLE_BY_ALL != 0 {
            given.warning(self.report, "names a file that everybody on this machine may read: `chmod o-r` it");
        }
        Some(secret)
    }

    /// What a file holds, without white space around it.
    pub(super) fn contents(&mut self, given: &Given<'_>) -> Option<Vec<u8>> {
        match fs::read(given.text) {
            Ok(contents) if contents.trim_ascii().is_empty() => {
                given.mistake(self.report, "names a file that is empty");
                None
            }
            Ok(contents) => Some(contents.trim_ascii().to_vec()),
            Err(error) => {
                given.mistake(self.report, "cannot be read").label(error.to_string());
                None
            }
        }
    }

    /// A bare word that is no level would be taken for the name of a module, and nothing else be logged.
    fn level(&mut self, given: &Given<'_>) -> Option<String> {
        let mut start = 0;
        for directive in given.text.split(',') {
            let part = start..start + directive.len();
            start = part.end + 1;
            let word = directive.trim();
            let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
            let is_word = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if is_word && !is_level(word) {
                let finding = given.mistake_at(self.report, part, format!("has `{word}`, which is no level"));
                match nearest(word, LEVELS.iter().copied()) {
                    Some(near) => finding.help(format!("did you mean `{near}`?")),
                    None => finding.help(format!("{}, or a directive such as `sipstamp=debug`", LEVELS.join(", "))),
                };
                return None;
            }
        }
        match EnvFilter::try_new(given.text) {
            Ok(_) => Some(given.text.to_owned()),
            Err(error) => {
                given.mistake(self.report, "is no filter").label(error.to_string());
                None
            }
        }
    }
}

fn is_any_v6(address: SocketAddr) -> bool {
    address.is_ipv6() && address.ip().is_unspecified()
}

fn default_source() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    format!("sipstamp/{}", if host.is_empty() { "localhost" } else { host })
}
