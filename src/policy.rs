//! What the operator wants, as the core uses it: checked, resolved and free of files and names.
//!
//! The shell makes one of a configuration; the core never changes it. An open call keeps the policy
//! that it began with.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use regex::Regex;

use crate::flow::{Direction, Hop, Side, Transport};
use crate::mask::MaskNumbers;
use crate::outcome::{EndCause, Outcome};
use crate::sip::HeaderName;

/// Everything that a configuration says to the core.
#[derive(Clone, Debug)]
pub struct Policy {
    pub listeners: Vec<Listener>,
    /// Host for Via and Record-Route per side, indexed by [`Side::index`]; `None`: the address
    /// that the packet leaves from.
    pub advertise: [Option<Box<str>>; Side::COUNT],
    pub dialer: Dialer,
    /// In the order of the configuration; never empty.
    pub servers: Vec<Server>,
    pub timeouts: Timeouts,
    pub stamp: Stamp,
    pub voicemail_drop: VoicemailDrop,
    pub capture: Capture,
    pub rules: Vec<Rule>,
    pub dispositions: Vec<Disposition>,
    pub limits: Limits,
    pub strangers: Strangers,
    /// Whether `call.started`, `call.ringing` and `call.answered` are told too.
    pub lifecycle: bool,
    /// `source` of the events: the sidecar's name.
    pub source: Arc<str>,
    /// What events and answers show of numbers.
    pub mask: MaskNumbers,
}

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    pub transport: Transport,
    /// As bound: the address may be a wildcard, the port is never 0.
    pub bound: SocketAddr,
    /// Never a wildcard: what a peer reaches us by where nothing better is known.
    pub address: SocketAddr,
}

/// The dialer.
#[derive(Clone, Debug)]
pub struct Dialer {
    pub sources: Vec<IpNet>,
    /// Where calls from the telephony server go; without one they get 404.
    pub target: Option<Target>,
    /// Whether its headers may override timeouts and ask for a voicemail drop.
    pub trust_headers: bool,
}

/// A configured next hop, resolved.
#[derive(Clone, Debug)]
pub struct Target {
    /// The way there: `local` is the listening address that routing chooses towards it, `connection`
    /// is `None`.
    pub hop: Hop,
    /// `host` or `host:port` as the URI in the configuration has it: what a Request-URI gets that named us.
    pub host_port: Box<str>,
    /// Whether the URI says `transport=`.
    pub explicit_transport: bool,
}

/// Names a server for the lifetime of the process, also across reloads. Zero is the dialer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u16);

impl ServerId {
    /// The dialer, which stands where a server stands in an inbound call.
    pub const DIALER: ServerId = ServerId(0);
    /// One that a restored call was sent to and that is not configured any more.
    pub const UNKNOWN: ServerId = ServerId(u16::MAX);
}

/// A telephony server.
#[derive(Clone, Debug)]
pub struct Server {
    pub id: ServerId,
    pub name: Arc<str>,
    pub target: Target,
    /// Lower is tried first.
    pub priority: u32,
    /// Share among those of equal priority; at least 1.
    pub weight: u32,
    /// Who else is this server; its own address always is.
    pub sources: Vec<IpNet>,
}

/// Section 5 of the specification of outcomes; ranges are checked by the configuration.
#[derive(Clone, Debug)]
pub struct Timeouts {
    pub no_answer: Duration,
    pub no_answer_header: Option<HeaderName>,
    pub progress: Duration,
    pub cancel_grace: Duration,
    pub auth_retry_window: Duration,
    pub max_duration: Duration,
    pub dialer_ring_timeout: Option<Duration>,
    /// RFC 3261 §17.1.1.1: estimate of the round trip.
    pub t1: Duration,
    /// Longest interval between retransmissions of non-INVITE requests and of INVITE responses.
    pub t2: Duration,
    /// How long a message may stay in the network.
    pub t4: Duration,
    /// RFC 3261 §16.6 step 11.
    pub timer_c: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            no_answer: Duration::from_secs(30),
            no_answer_header: Some("No-Answer-Timeout".into()),
            progress: Duration::from_secs(8),
            cancel_grace: Duration::from_secs(1),
            auth_retry_window: Duration::from_secs(32),
            max_duration: Duration::from_secs(4 * 3600),
            dialer_ring_timeout: None,
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
            timer_c: Duration::from_secs(181),
        }
    }
}

/// How the outcome is written on messages.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// Header names; at least one.
    pub headers: Vec<HeaderName>,
    /// Whether the outcome is the final response's reason phrase too.
    pub reason_phrase: bool,
    /// Whether the telephony server sees it too.
    pub to_both: bool,
    pub no_answer_code: u16,
    pub no_response_code: u16,
}

impl Default for Stamp {
    fn default() -> Self {
        Stamp {
            headers: vec!["Call-Outcome".into()],
            reason_phrase: false,
            to_both: false,
            no_answer_code: 408,
            no_response_code: 408,
        }
    }
}

/// Section 6 of the specification of outcomes.
#[derive(Clone, Debug)]
pub struct VoicemailDrop {
    pub header: HeaderName,
    pub value: Box<str>,
    pub progressive_header: HeaderName,
    pub progressive_value: Box<str>,
    pub always: bool,
    pub target_pattern: Option<Regex>,
    pub grace: Duration,
}

impl Default for VoicemailDrop {
    fn default() -> Self {
        VoicemailDrop {
            header: "Voicemail-Drop".into(),
            value: "true".into(),
            progressive_header: "Dialing-Mode".into(),
            progressive_value: "progressive".into(),
            always: false,
            target_pattern: None,
            grace: Duration::from_secs(2),
        }
    }
}

/// INVITE headers that ride along in the event.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    pub correlation: Option<HeaderName>,
    pub labels: Vec<CapturedLabel>,
}

/// A header whose value is a label in the event and, with `values`, in metrics.
#[derive(Clone, Debug)]
pub struct CapturedLabel {
    pub label: Box<str>,
    pub header: HeaderName,
    /// The values that metrics show; others count as `other`. Empty: not in metrics.
    pub values: Vec<Box<str>>,
}

/// Section 7 of the specification of outcomes: overrides the table.
#[derive(Clone, Debug)]
pub struct Rule {
    pub name: Arc<str>,
    pub when: When,
    pub outcome: Outcome,
}

/// What a rule tests: all of what is given. At least one is.
#[derive(Clone, Debug, Default)]
pub struct When {
    /// Inclusive: a single code is a range of one.
    pub code: Option<(u16, u16)>,
    pub server: Option<Box<str>>,
    pub direction: Option<Direction>,
    pub q850: Option<u16>,
    /// Lower case; compared to the reason phrase.
    pub reason_contains: Option<Box<str>>,
    pub progress_q850: Option<u16>,
    pub ringing: Option<bool>,
    /// At least this long after the INVITE.
    pub after: Option<Duration>,
    /// Less than this long after the INVITE.
    pub before: Option<Duration>,
}

/// Section 8 of the specification of outcomes: what the dialer does next.
#[derive(Clone, Debug)]
pub struct Disposition {
    pub outcome: Outcome,
    /// With one, it wins over the bare outcome.
    pub end_cause: Option<EndCause>,
    pub disposition: Option<Arc<str>>,
    pub next: Option<Arc<str>>,
}

/// What is too much.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open calls.
    pub calls: usize,
    /// New calls per second; 0: no limit.
    pub calls_per_second: u32,
    /// The same for each source address.
    pub calls_per_second_per_source: u32,
    /// Requests that are being answered, those that were answered lately included.
    pub transactions: usize,
    /// How long messages may wait to be read before new calls are refused; zero: for ever.
    pub overload_delay: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            calls: 100_000,
            calls_per_second: 0,
            calls_per_second_per_source: 0,
            transactions: 2_000_000,
            overload_delay: Duration::from_millis(25),
        }
    }
}

/// What a stranger's request gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strangers {
    Drop,
    /// 403.
    Forbid,
}

/// Whose address it is, by configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    pub side: Side,
    /// The server, where it is one.
    pub server: Option<ServerId>,
}

impl Policy {
    /// Whose address this is: a server's own address and port, else the longest prefix over all
    /// `sources`, where a server's host counts as a whole address and a tie is the dialer's.
    pub fn source(&self, remote: SocketAddr) -> Option<Source> {
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        if let Some(server) = self.servers.iter().find(|server| server.target.hop.remote == remote) {
            return Some(Source { side: Side::Telephony, server: Some(server.id) });
        }
        let longest =
            |nets: &[IpNet]| nets.iter().filter(|net| net.contains(&remote.ip())).map(IpNet::prefix_len).max();
        let dialer = longest(&self.dialer.sources);
        let server = self
            .servers
            .iter()
            .filter_map(|server| {
                let own = (server.target.hop.remote.ip() == remote.ip()).then(|| IpNet::from(remote.ip()).prefix_len());
                longest(&server.sources).max(own).map(|prefix| (prefix, server.id))
            })
            .reduce(|best, other| if other.0 > best.0 { other } else { best });
        match (dialer, server) {
            (None, None) => None,
            (Some(dialer), Some((prefix, id))) if prefix > dialer => {
                Some(Source { side: Side::Telephony, server: Some(id) })
            }
            (None, Some((_, id))) => Some(Source { side: Side::Telephony, server: Some(id) }),
            (Some(_), _) => Some(Source { side: Side::Dialer, server: None }),
        }
    }

    /// A server by its id; `None` once it is no longer configured.
    pub fn server(&self, id: ServerId) -> Option<&Server> {
        self.servers.iter().find(|server| server.id == id)
    }

    /// The server that is recorded under a name.
    pub fn server_named(&self, name: &str) -> Option<ServerId> {
        if name == "dialer" {
            return Some(ServerId::DIALER);
        }
        self.servers.iter().find(|server| &*server.name == name).map(|server| server.id)
    }

    /// A listener for a transport in the family of `peer`.
    pub fn listener(&self, transport: Transport, peer: IpAddr) -> Option<&Listener> {
        self.listeners
            .iter()
            .find(|listener| listener.transport == transport && listener.address.is_ipv4() == peer.is_ipv4())
    }
}

/// The listener for a transport by which an address of ours is reached: its own, else that of all addresses, else another one of
/// its family.
pub fn listener_at(listeners: &[Listener], transport: Transport, local: IpAddr) -> Option<&Listener> {
    let local = local.to_canonical();
    let nearness = |listener: &&Listener| {
        let bound = listener.bound.ip().to_canonical();
        (bound == local, bound.is_unspecified())
    };
    let of_family =
        |one: &&Listener| one.transport == transport && one.address.ip().to_canonical().is_ipv4() == local.is_ipv4();
    // Of equals the first: the last maximum of the reverse.
    listeners.iter().rev().filter(of_family).max_by_key(nearness)
}

impl Capture {
    /// In how many ways the labels that metrics show can be combined, `other` included; 1 without any.
    pub fn combinations(&self) -> usize {
        self.in_metrics().map(|(_, label)| label.values.len() + 1).product()
    }

    /// The combination of a call's label values, given by the labels' positions.
    pub fn combination<'a>(&self, values: impl Iterator<Item = (usize, &'a [u8])> + Clone) -> usize {
        self.in_metrics().fold(0, |combination, (at, label)| {
            let value = values.clone().find(|(of, _)| *of == at).map(|(_, value)| value);
            let listed = label.values.iter().position(|listed| Some(listed.as_bytes()) == value);
            combination * (label.values.len() + 1) + listed.unwrap_or(label.values.len())
        })
    }

    /// Label names and values of a combination.
    pub fn labels_of(&self, combination: usize) -> Vec<(&str, &str)> {
        let mut rest = combination;
        let mut labels = self
            .in_metrics()
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .map(|(_, label)| {
                let count = label.values.len() + 1;
                let value = label.values.get(rest % count).map_or("other", |value| &**value);
                rest /= count;
                (&*label.label, value)
            })
            .collect::<Vec<_>>();
        labels.reverse();
        labels
    }

    fn in_metrics(&self) -> impl Iterator<Item = (usize, &CapturedLabel)> {
        self.labels.iter().enumerate().filter(|(_, label)| !label.values.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_combinations_count_there_and_back() {
        let label = |label: &str, values: &[&str]| CapturedLabel {
            label: label.into(),
            header: "X".into(),
            values: values.iter().map(|value| Box::from(*value)).collect(),
        };
        let labels = vec![label("campaign", &["spring", "summer"]), label("free", &[]), label("team", &["red"])];
        let capture = Capture { correlation: None, labels };
        assert_eq!(capture.combinations(), 6);
        let of = |values: &[(usize, &str)]| {
            let values = values.iter().map(|(at, value)| (*at, value.as_bytes()));
            capture.labels_of(capture.combination(values))
        };
        assert_eq!(of(&[(0, "summer"), (2, "red")]), [("campaign", "summer"), ("team", "red")]);
        assert_eq!(of(&[(0, "winter"), (1, "x")]), [("campaign", "other"), ("team", "other")]);
    }
}
