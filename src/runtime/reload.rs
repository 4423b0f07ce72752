//! The configuration read again, and taken on by all workers or by none. It is read by one at a time: what was read first
//! is never taken on last.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::build::{seats_of, sip_limits};
use super::clock::Clock;
use super::supervisor::Supervisor;
use super::workers::share;
use super::{ReloadSource, descriptors};
use crate::config::{self, Settings};
use crate::endpoint::Input;
use crate::policy::Policy;
use crate::transport::Inherited;

/// Where to say how it went.
type Reply = oneshot::Sender<Result<(), String>>;

/// A configuration that was read, and who asked for it.
pub(super) struct Loaded {
    settings: Result<Settings, String>,
    replies: Vec<Reply>,
}

/// Reloads under way.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    is_reading: bool,
    /// Who has asked since: the file may be another one by now.
    next: Option<Vec<Reply>>,
}

/// How the last one went.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReloadFigures {
    pub(super) successful: bool,
    /// Seconds since the epoch.
    pub(super) at: u64,
}

impl ReloadFigures {
    /// A configuration has been taken on.
    pub(super) fn taken(clock: &Clock) -> ReloadFigures {
        let at = u64::try_from(clock.now().wall.0.div_euclid(1_000_000)).unwrap_or(0);
        ReloadFigures { successful: true, at }
    }
}

impl Supervisor {
    /// Has the configuration read, once that is not under way.
    pub(super) fn begin_reload(&mut self, reply: Option<Reply>) {
        self.reloads.next.get_or_insert_default().extend(reply);
        self.read_next();
    }

    /// Reads the configuration on another thread: names in it may take their time to resolve.
    fn read_next(&mut self) {
        let Some(replies) = self.reloads.next.take_if(|_| !self.reloads.is_reading) else { return };
        self.reloads.is_reading = true;
        let ReloadSource { config, overrides } = self.bind.reload.clone();
        let loads = self.loads.clone();
        spawn_local(async move {
            let load = move || config::load(config.as_deref(), &overrides, &config::process_environment);
            let settings = match tokio::task::spawn_blocking(load).await {
                Ok(loaded) => loaded.map_err(|mistakes| mistakes.to_string()),
                Err(error) => Err(error.to_string()),
            };
            // Nobody waits once the process ends.
            drop(loads.send(Loaded { settings, replies }));
        });
    }

    pub(super) async fn on_loaded(&mut self, Loaded { settings, replies }: Loaded) {
        let done = match settings {
            Ok(settings) => self.swap(settings).await,
            Err(mistakes) => Err(mistakes),
        };
        self.reload.successful = done.is_ok();
        if let Err(mistakes) = &done {
            tracing::warn!("the configuration is refused, nothing has changed:\n{mistakes}");
        }
        for reply in replies {
            // Whoever asked may have gone.
            drop(reply.send(done.clone()));
        }
        self.reloads.is_reading = false;
        self.read_next();
    }

    /// A whole valid configuration is swapped in, or nothing changes.
    async fn swap(&mut self, settings: Settings) -> Result<(), String> {
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
        self.token.set(settings.admin_token());
        self.settings = settings;
        self.policy = Arc::new(policy);
        self.sockets.follow(&self.policy, &mut Inherited::default());
        descriptors::allow(&self.settings);
        self.seats.set_limits(seats_of(&self.settings));
        self.take_on().await;
        self.reload = ReloadFigures::taken(&self.clock);
        tracing::info!("configuration reloaded");
        Ok(())
    }

    /// Has the workers take on what is configured, and waits until they have.
    async fn take_on(&self) {
        let (policy, sources) = (self.policy.clone(), self.sockets.sources().to_vec());
        let (limits, idle, workers) =
            (sip_limits(&self.settings), self.settings.sockets.tcp_idle, self.workers.count());
        let job = move |worker: &mut super::worker::Worker| {
            worker.core.limits = limits;
            worker.connections.set_limits(limits);
            worker.connections.set_idle(idle);
            worker.core.gate.forget();
            let policy = share_of(&policy, worker.core.post.me, workers);
            worker.handle(Input::Policy(policy));
            worker.follow(&sources);
        };
        self.workers.ask(job).await;
    }
}

/// A worker's own policy: its share of the limits over all calls.
pub(super) fn share_of(policy: &Arc<Policy>, worker: usize, workers: usize) -> Arc<Policy> {
    if workers == 1 {
        return policy.clone();
    }
    Arc::new(Policy { limits: share(policy.limits, worker, workers), ..Policy::clone(policy) })
}
