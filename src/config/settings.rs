//! The configuration as it is used: checked, with every name resolved, every secret read.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::webhook::Webhook;
use crate::flow::{Side, Transport};
use crate::nats::Nats;
use crate::policy::{Listener, Policy, ServerId};

/// What the shell needs of a configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: Vec<ListenAddress>,
    /// Threads that handle calls.
    pub workers: usize,
    pub admin: Option<Admin>,
    /// `[metrics] listen`: /metrics, /livez and /readyz alone, without a token.
    pub metrics_listen: Option<SocketAddr>,
    pub events: Events,
    pub sockets: SocketLimits,
    pub logging: Logging,
    /// The policy as far as it does not depend on bound sockets: `listeners` is empty and each
    /// target's `hop.local` is unspecified until [`Settings::policy`] fills them in.
    pub template: Policy,
    /// Start-up warnings, a line each: overlaps of sources, a short `no_answer`, …
    pub warnings: Vec<String>,
}

/// An address to listen on; the port may be 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    pub transport: Transport,
    pub address: SocketAddr,
    pub key: ListenKey,
}

/// What made us listen there, to be named where the address is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenKey {
    /// This element of `listen.udp` or `listen.tcp`.
    File(usize),
    /// Nothing: the default of `listen.udp` or `listen.tcp`.
    Default,
    /// `--listen`.
    Flag,
}

/// The admin API.
#[derive(Clone)]
pub struct Admin {
    pub listen: SocketAddr,
    /// The bearer token, where one is needed.
    pub token: Option<String>,
}

/// What becomes of events.
#[derive(Clone, Debug)]
pub struct Events {
    /// Directory of the journal.
    pub journal: Option<PathBuf>,
    /// How often it is written to the disk itself; `None`: never.
    pub sync: Option<Duration>,
    pub file: Option<PathBuf>,
    pub stdout: bool,
    pub webhooks: Vec<Webhook>,
    /// Bytes of events that may wait for a sink.
    pub memory_limit: usize,
    pub nats: Option<Nats>,
}

/// Limits that belong to sockets.
#[derive(Clone, Copy, Debug)]
pub struct SocketLimits {
    pub message_bytes: usize,
    pub tcp_connections: usize,
    /// 0: no limit.
    pub tcp_connections_per_source: usize,
    /// Zero: for ever.
    pub tcp_idle: Duration,
}

/// Logs.
#[derive(Clone, Debug)]
pub struct Logging {
    /// A filter directive: `info`, `sipstamp=debug`, …
    pub level: String,
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Gives server names their ids, the same ones for as long as the process lives.
#[derive(Clone, Debug, Default)]
pub struct ServerNames {
    ids: HashMap<Arc<str>, ServerId>,
}

/// What only the socket layer knows when a policy is made.
pub trait Locate {
    /// The local address that routing chooses towards `remote`, with the port of the listener for
    /// `transport`; `None` where no listener of that family is there.
    fn local_towards(&mut self, transport: Transport, remote: SocketAddr) -> Option<SocketAddr>;
}

impl ServerNames {
    /// The id of a name; the first server's is 1.
    pub fn id(&mut self, name: &Arc<str>) -> ServerId {
        let next = ServerId(u16::try_from(self.ids.len() + 1).unwrap_or(u16::MAX));
        *self.ids.entry(name.clone()).or_insert(next)
    }
}

impl ListenAddress {
    /// The key to name in a message: `listen.udp[0]`, `listen.tcp`, `--listen`.
    pub fn key(&self) -> String {
        match self.key {
            ListenKey::File(index) => format!("listen.{}[{index}]", self.transport),
            ListenKey::Default => format!("listen.{}", self.transport),
            ListenKey::Flag => "--listen".to_owned(),
        }
    }
}

impl Settings {
    /// What is asked for at the admin API, where anything is.
    pub fn admin_token(&self) -> Option<&str> {
        self.admin.as_ref()?.token.as_deref()
    }

    /// The policy for the core, with what the sockets know filled in.
    pub fn policy(&self, listeners: Vec<Listener>, locate: &mut dyn Locate, names: &mut ServerNames) -> Policy {
        let mut policy = self.template.clone();
        policy.listeners = listeners;
        let targets = policy.servers.iter_mut().map(|server| {
            server.id = names.id(&server.name);
            &mut server.target
        });
        for target in targets.chain(&mut policy.dialer.target) {
            if let Some(local) = locate.local_towards(target.hop.transport, target.hop.remote) {
                target.hop.local = local;
            }
        }
        policy
    }

    /// The host that a side's messages name us by, where it is configured.
    pub fn advertised(&self, side: Side) -> Option<&str> {
        self.template.advertise.get(side.index()).and_then(Option::as_deref)
    }

    /// Whether an address is this machine's alone.
    pub fn is_loopback(address: IpAddr) -> bool {
        address.to_canonical().is_loopback()
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        f.debug_struct("Admin").field("listen", &self.listen).field("token", &token).finish()
    }
}
