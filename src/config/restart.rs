//! What a reload cannot change.

use super::settings::{ListenAddress, Settings};
use crate::flow::Transport;

/// The keys that differ and are only read at the start, a line each: `listen.udp needs a restart`.
pub fn restart_needed(old: &Settings, new: &Settings) -> Vec<String> {
    let admin = |settings: &Settings| settings.admin.as_ref().map(|admin| admin.listen);
    let labels = |settings: &Settings| -> Vec<_> {
        settings.template.capture.labels.iter().map(|one| (one.label.clone(), one.header.clone())).collect()
    };
    let values = |settings: &Settings| -> Vec<_> {
        let labels = settings.template.capture.labels.iter().filter(|one| !one.values.is_empty());
        labels.map(|one| (one.label.clone(), one.values.clone())).collect()
    };
    [
        ("listen.udp", addresses(old, Transport::Udp) != addresses(new, Transport::Udp)),
        ("listen.tcp", addresses(old, Transport::Tcp) != addresses(new, Transport::Tcp)),
        ("workers", old.workers != new.workers),
        ("admin.listen", admin(old) != admin(new)),
        ("metrics.listen", old.metrics_listen != new.metrics_listen),
        ("events.source", old.template.source != new.template.source),
        ("events.journal", old.events.journal != new.events.journal),
        ("events.sync", old.events.sync != new.events.sync),
        ("events.file", old.events.file != new.events.file),
        ("events.webhooks", old.events.webhooks != new.events.webhooks),
        ("events.memory_limit", old.events.memory_limit != new.events.memory_limit),
        ("events.stdout", old.events.stdout != new.events.stdout),
        ("events.nats", old.events.nats != new.events.nats),
        ("capture.labels", labels(old) != labels(new)),
        ("capture.metric_values", values(old) != values(new)),
        ("log.format", old.logging.format != new.logging.format),
    ]
    .into_iter()
    .filter(|(_, changed)| *changed)
    .map(|(key, _)| format!("{key} needs a restart"))
    .collect()
}

fn addresses(settings: &Settings, transport: Transport) -> Vec<std::net::SocketAddr> {
    let mut all: Vec<_> = settings
        .listen
        .iter()
        .filter(|one| one.transport == transport)
        .map(|&ListenAddress { address, .. }| address)
        .collect();
    all.sort_unstable();
    all
}
