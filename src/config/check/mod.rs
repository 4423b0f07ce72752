//! From what is written to what is used: every value checked, defaults filled in, names resolved,
//! secrets read. A value that is wrong makes a mistake and is replaced by its default, so that one run
//! finds all there is to mend.

mod capture;
mod header;
mod listen;
mod nats;
mod outcome;
mod peers;
mod shell;
mod signals;
mod timeouts;
mod webhook;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;

use super::key::Key;
use super::report::Report;
use super::settings::{Settings, SocketLimits};
use super::tree::Pruned;
use super::units::{self, Written};
use super::written::File;
use crate::policy::{Limits, Policy, Strangers};

/// `limits.overload_delay`, where it is not zero.
const OVERLOAD_DELAY: RangeInclusive<Duration> = Duration::from_millis(5)..=Duration::from_secs(10);
/// `limits.tcp_idle`, where it is not zero: a peer that waits for a response is silent for 32 s.
const TCP_IDLE: RangeInclusive<Duration> = Duration::from_secs(32)..=Duration::from_secs(24 * 3600);

/// What the command line says in the place of the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--listen`: for UDP and TCP both.
    pub listen: Vec<SocketAddr>,
    /// `--dialer`: in the place of `dialer.sources`.
    pub dialer: Vec<IpNet>,
    /// `--server`: in the place of `telephony.servers`; SIP URIs or `host:port`.
    pub servers: Vec<String>,
}

/// Makes the settings of what is written; they are sound only if the report has no mistakes at the end.
pub fn settings(file: &File, flags: &Overrides, pruned: &Pruned, report: &mut Report) -> Settings {
    let mut checker = Checker { report, pruned };
    let listen = checker.listen(&file.listen, flags);
    let advertise = checker.advertise(&file.listen);
    let dialer = checker.dialer(file.dialer.value(), file.dialer.at(), flags, &listen);
    let servers = checker.servers(file.telephony.value(), file.telephony.at(), flags, &listen);
    checker.warn_of_overlaps(&dialer, &servers);
    let timeouts = checker.timeouts(&file.timeouts, servers.len());
    let stamp = checker.stamp(&file.stamp);
    let voicemail_drop = checker.voicemail_drop(&file.voicemail_drop);
    let capture = checker.capture(&file.capture);
    checker.stamp_is_nobody_elses(file, &stamp);
    let limits = Limits::default();
    let template = Policy {
        listeners: Vec::new(),
        advertise,
        rules: checker.rules(&file.outcome.rules, servers.iter().map(|(server, _)| &*server.name)),
        dialer,
        servers: servers.into_iter().map(|(server, _)| server).collect(),
        timeouts,
        stamp,
        voicemail_drop,
        capture,
        dispositions: checker.dispositions(&file.dispositions),
        limits: Limits {
            calls: number(&file.limits.calls, limits.calls),
            calls_per_second: number(&file.limits.calls_per_second, limits.calls_per_second),
            calls_per_second_per_source: number(
                &file.limits.calls_per_second_per_source,
                limits.calls_per_second_per_source,
            ),
            transactions: number(&file.limits.transactions, limits.transactions),
            overload_delay: checker.duration_or_zero(
                &file.limits.overload_delay,
                "limits.overload_delay",
                OVERLOAD_DELAY,
                limits.overload_delay,
            ),
        },
        strangers: match file.security.strangers.value().map(String::as_str) {
            Some("403") => Strangers::Forbid,
            _ => Strangers::Drop,
        },
        lifecycle: file.events.lifecycle.value().copied().unwrap_or(false),
        source: checker.event_source(&file.events),
        mask: checker.mask(&file.events),
    };
    let (admin, metrics_listen) = checker.admin(&file.admin, &file.metrics, &listen);
    Settings {
        listen: listen.addresses,
        workers: number(&file.workers, 1),
        admin,
        metrics_listen,
        events: checker.events(&file.events),
        sockets: SocketLimits {
            message_bytes: number(&file.limits.message_bytes, 65_535),
            tcp_connections: number(&file.limits.tcp_connections, 1024),
            tcp_connections_per_source: number(&file.limits.tcp_connections_per_source, 0),
            tcp_idle: checker.duration_or_zero(
                &file.limits.tcp_idle,
                "limits.tcp_idle",
                TCP_IDLE,
                Duration::from_secs(3600),
            ),
        },
        logging: checker.logging(&file.log),
        template,
        warnings: report.warnings(),
    }
}

/// Checks and remembers what it found; its methods stand with the sections that they check.
struct Checker<'a> {
    report: &'a mut Report,
    pruned: &'a Pruned,
}

impl Checker<'_> {
    /// A duration within a range, else its default.
    fn duration(
        &mut self,
        key: &Key<String>,
        name: &str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        self.optional_duration(key, name, range).unwrap_or(default)
    }

    /// The same, where zero means that there is no limit.
    fn duration_or_zero(
        &mut self,
        key: &Key<String>,
        name: &str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let is_zero = key.value().and_then(|text| units::duration(text).ok()).is_some_and(|given| given.is_zero());
        if is_zero { Duration::ZERO } else { self.duration(key, name, range, default) }
    }

    fn optional_duration(
        &mut self,
        key: &Key<String>,
        name: &str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let given = key.given(name)?;
        match units::duration(given.text) {
            Ok(duration) if range.contains(&duration) => Some(duration),
            Ok(_) => {
                let what = format!("must be between {} and {}", Written(*range.start()), Written(*range.end()));
                given.mistake(self.report, what);
                None
            }
            Err(wrong) => {
                given.mistake(self.report, wrong.what).help(wrong.help);
                None
            }
        }
    }
}

/// A number that the schema has bounded.
fn number<T: TryFrom<u64>>(key: &Key<u64>, default: T) -> T {
    key.value().and_then(|&number| T::try_from(number).ok()).unwrap_or(default)
}

fn flag(key: &Key<bool>, default: bool) -> bool {
    key.value().copied().unwrap_or(default)
}
