//! What the admin API and signals ask of the loop.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::ReloadSource;
use super::driver::{Driver, Loaded, seconds};
use super::start::{counter, gauge};
use crate::config::{self, Settings};
use crate::control::{Ask, OwnedSample, ServerStatus, Status};
use crate::endpoint::Input;
use crate::policy::{Listener, Policy};

impl Driver {
    pub(super) fn on_ask(&mut self, ask: Ask) {
        // Whoever asked may have gone: then nobody reads the answer.
        let now = self.clock.now();
        match ask {
            Ask::Samples(reply) => drop(reply.send(self.samples())),
            Ask::Status(reply) => drop(reply.send(self.status())),
            Ask::Calls { filter, after, limit, reply } => {
                drop(reply.send(self.endpoint.calls(filter, after.as_deref(), limit)));
            }
            Ask::Call { id, reply } => {
                drop(reply.send(self.endpoint.call(&id)));
            }
            Ask::VoicemailDrop { id, reply } => {
                drop(reply.send(self.endpoint.voicemail_drop(now, &id)));
            }
            Ask::HangUp { id, reply } => {
                drop(reply.send(self.endpoint.hang_up(now, &id)));
            }
            Ask::Drain(reply) => {
                self.drain();
                let _ = reply.send(());
            }
            Ask::Reload(reply) => self.begin_reload(Some(reply)),
        }
    }

    fn samples(&self) -> Vec<OwnedSample> {
        let mut samples = Vec::new();
        self.endpoint.samples(&mut |sample| {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            let labels = sample.labels.iter().map(owned).collect();
            samples.push(OwnedSample { name: sample.name, kind: sample.kind, labels, value: sample.value });
        });
        let tcp = self.connections.figures();
        let dropped = self.udp.iter().map(|port| port.dropped).sum();
        samples.push(gauge("sipstamp_config_last_reload_successful", u64::from(self.reload.successful)));
        samples.push(gauge("sipstamp_config_last_reload_success_timestamp_seconds", self.reload.at));
        samples.push(gauge("sipstamp_tcp_connections", tcp.open));
        samples.push(counter("sipstamp_transport_dropped_total", "udp_send_queue", dropped));
        samples.push(counter("sipstamp_transport_dropped_total", "tcp_connections", tcp.refused));
        samples.push(counter("sipstamp_transport_dropped_total", "tcp_stalled", tcp.stalled));
        samples
    }

    fn status(&self) -> Status {
        let mut listen = std::collections::BTreeMap::<&'static str, Vec<SocketAddr>>::new();
        for Listener { transport, bound, .. } in &self.locals.0 {
            listen.entry(transport.label()).or_default().push(*bound);
        }
        let policy: &Policy = self.endpoint.policy();
        let servers =
            self.endpoint.servers_up().into_iter().zip(&policy.servers).map(|((name, up), server)| ServerStatus {
                name: name.to_string(),
                address: server.target.hop.remote,
                transport: server.target.hop.transport.label(),
                up,
            });
        Status {
            listen,
            draining: self.endpoint.is_draining(),
            calls_active: self.endpoint.active_calls(),
            servers: servers.collect(),
        }
    }

    /// Reads the configuration beside the loop: names in it may take their time to resolve.
    pub(super) fn begin_reload(&mut self, reply: Option<oneshot::Sender<Result<(), String>>>) {
        let ReloadSource { config, overrides } = self.bind.reload.clone();
        let loads = self.loads.clone();
        spawn_local(async move {
            let load = move || config::load(config.as_deref(), &overrides, &config::process_environment);
            let settings = match tokio::task::spawn_blocking(load).await {
                Ok(loaded) => loaded.map_err(|mistakes| mistakes.to_string()),
                Err(error) => Err(error.to_string()),
            };
            // Nobody waits once the loop has ended.
            drop(loads.send(Loaded { settings, reply }));
        });
    }

    pub(super) fn on_loaded(&mut self, Loaded { settings, reply }: Loaded) {
        let done = settings.and_then(|settings| self.swap(settings));
        self.reload.successful = done.is_ok();
        if let Err(mistakes) = &done {
            tracing::warn!("the configuration is refused, nothing has changed:\n{mistakes}");
        }
        if let Some(reply) = reply {
            // Whoever asked may have gone.
            drop(reply.send(done));
        }
    }

    /// A whole valid configuration is swapped in, or nothing changes.
    fn swap(&mut self, settings: Settings) -> Result<(), String> {
        let keys = config::restart_needed(&self.settings, &settings);
        if !keys.is_empty() {
            return Err(keys.join("\n"));
        }
        let policy = settings.policy(self.locals.0.clone(), &mut self.locals, &mut self.names);
        for server in &policy.servers {
            self.histograms.add_server(server.id, &server.name);
        }
        if let Some(level) = &self.bind.log_level {
            level.change(&settings.logging);
        }
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        self.limits.message_bytes = settings.sockets.message_bytes;
        self.settings = settings;
        self.handle(Input::Policy(Arc::new(policy)));
        self.reload.at = seconds(self.clock.now().wall);
        tracing::info!("configuration reloaded");
        Ok(())
    }
}
