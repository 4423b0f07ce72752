//! What the admin API asks: put to every worker, answered as one.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::task::spawn_local;

use super::supervisor::Supervisor;
use super::worker::Worker;
use super::workers::{Workers, add_figures, find_one};
use crate::control::{Ask, Figures, OwnedSample, ServerStatus, Status};
use crate::endpoint::{Filter, Refusal};
use crate::event::CallView;
use crate::policy::Listener;
use crate::stats::SampleKind;

/// What is done with a call.
type Command = fn(&mut Worker, &str) -> Result<CallView, Refusal>;

impl Supervisor {
    pub(super) async fn on_ask(&mut self, ask: Ask) {
        let workers = self.workers.clone();
        // Whoever asked may have gone: then nobody reads the answer.
        match ask {
            Ask::Figures(reply) => {
                let own = self.own_samples();
                spawn_local(async move { drop(reply.send(figures(&workers, own).await)) });
            }
            Ask::Status(reply) => {
                let listen = self.listen();
                let targets = self.policy.servers.iter().map(|server| server.target.hop).collect::<Vec<_>>();
                spawn_local(async move {
                    let mut status = status(&workers, listen).await;
                    for (server, hop) in status.servers.iter_mut().zip(targets) {
                        (server.address, server.transport) = (hop.remote, hop.transport.label());
                    }
                    drop(reply.send(status));
                });
            }
            Ask::Calls { filter, after, limit, reply } => {
                spawn_local(async move {
                    drop(reply.send(calls(&workers, filter, after, limit).await));
                });
            }
            Ask::Call { id, reply } => {
                spawn_local(async move {
                    drop(reply.send(find(&workers, &id).await.map(|(_, view)| view)));
                });
            }
            Ask::VoicemailDrop { id, reply } => {
                let drop_it: Command = |worker, id| worker.core.endpoint.voicemail_drop(worker.core.now, id);
                let recent = self.recent.clone();
                spawn_local(async move {
                    let dropped = command(&workers, id.clone(), drop_it).await;
                    if matches!(dropped, Err(Refusal::NotFound)) {
                        let has_ended = recent.find(&id).is_some();
                        workers.ask_one(0, move |worker| worker.core.endpoint.refuse_voicemail_drop(has_ended)).await;
                    }
                    drop(reply.send(dropped));
                });
            }
            Ask::HangUp { id, reply } => {
                let hang_up: Command = |worker, id| worker.core.endpoint.hang_up(worker.core.now, id);
                spawn_local(async move { drop(reply.send(command(&workers, id, hang_up).await)) });
            }
            Ask::Drain(reply) => {
                self.drain().await;
                let _ = reply.send(());
            }
            Ask::Reload(reply) => self.begin_reload(Some(reply)),
        }
    }

    fn own_samples(&self) -> Vec<OwnedSample> {
        vec![
            gauge("sipstamp_config_last_reload_successful", u64::from(self.reload.successful)),
            gauge("sipstamp_config_last_reload_success_timestamp_seconds", self.reload.at),
        ]
    }

    fn listen(&self) -> BTreeMap<&'static str, Vec<SocketAddr>> {
        let mut listen = BTreeMap::<_, Vec<_>>::new();
        for Listener { transport, bound, .. } in &self.locals.0 {
            listen.entry(transport.label()).or_default().push(*bound);
        }
        listen
    }
}

impl Worker {
    fn figures(&mut self) -> Figures {
        let mut samples = Vec::new();
        self.core.endpoint.samples(&mut |sample| {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            let labels = sample.labels.iter().map(owned).collect();
            samples.push(OwnedSample { name: sample.name, kind: sample.kind, labels, value: sample.value });
        });
        let (tcp, udp) = (self.connections.figures(), self.udp.figures());
        samples.push(gauge("sipstamp_tcp_connections", tcp.open));
        samples.push(dropped("udp_send_queue", udp.unsent));
        samples.push(dropped("udp_receive_buffer", udp.unread));
        samples.push(dropped("tcp_connections", tcp.refused));
        samples.push(dropped("tcp_silent", tcp.silent));
        samples.push(dropped("tcp_stalled", tcp.stalled));
        samples.push(dropped("strangers", self.core.gate.unread));
        samples.push(dropped("overload", self.core.unread));
        samples.push(dropped("worker_queue", self.core.post.dropped));
        samples.push(counter("sipstamp_worker_handovers_total", self.core.post.handed_over));
        samples.push(gauge("sipstamp_overloaded_workers", u64::from(self.core.endpoint.is_overloaded())));
        samples.push(counter("sipstamp_overloads_total", self.overloads));
        Figures { samples, histograms: vec![self.processing.snapshot()] }
    }
}

async fn figures(workers: &Workers, own: Vec<OwnedSample>) -> Figures {
    let all = workers.ask(Worker::figures).await;
    let mut figures = add_figures(all.into_iter().flatten().collect());
    figures.samples.extend(own);
    figures
}

/// Without what the workers do not know: where a server is.
async fn status(workers: &Workers, listen: BTreeMap<&'static str, Vec<SocketAddr>>) -> Status {
    let of_worker = |worker: &mut Worker| {
        let endpoint = &worker.core.endpoint;
        (endpoint.is_draining(), endpoint.active_calls(), endpoint.servers_up())
    };
    let mut status = Status { listen, draining: false, calls_active: 0, servers: Vec::new() };
    for (is_draining, calls, servers) in workers.ask(of_worker).await.into_iter().flatten() {
        status.draining |= is_draining;
        status.calls_active += calls;
        for (at, (name, up)) in servers.into_iter().enumerate() {
            match status.servers.get_mut(at) {
                Some(server) => server.up &= up,
                None => {
                    let (address, transport) = (SocketAddr::from(([0, 0, 0, 0], 0)), "");
                    status.servers.push(ServerStatus { name: name.to_string(), address, transport, up });
                }
            }
        }
    }
    status
}

async fn calls(workers: &Workers, filter: Filter, after: Option<String>, limit: usize) -> Vec<CallView> {
    let of_worker = move |worker: &mut Worker| worker.core.endpoint.calls(filter, after.as_deref(), limit);
    let mut calls = workers.ask(of_worker).await.into_iter().flatten().flatten().collect::<Vec<_>>();
    calls.sort_by(|one, other| one.data.call_uid.cmp(&other.data.call_uid));
    calls.truncate(limit);
    calls
}

/// An open call, and whose it is.
async fn find(workers: &Workers, id: &str) -> Result<(usize, CallView), Refusal> {
    let wanted = id.to_owned();
    let answers = workers.ask(move |worker: &mut Worker| worker.core.endpoint.call(&wanted)).await;
    find_one(id, answers.into_iter().map(|answer| answer.unwrap_or(Err(Refusal::NotFound))).collect())
}

/// Has the worker do it that has the call.
async fn command(workers: &Workers, id: String, command: Command) -> Result<CallView, Refusal> {
    let (worker, view) = find(workers, &id).await?;
    let id = view.data.call_uid;
    workers.ask_one(worker, move |worker| command(worker, &id)).await.unwrap_or(Err(Refusal::NotFound))
}

/// A count that belongs to the process rather than to calls.
fn counter(name: &'static str, value: u64) -> OwnedSample {
    OwnedSample { name, kind: SampleKind::Counter, labels: Vec::new(), value }
}

/// A gauge that belongs to the process rather than to calls.
fn gauge(name: &'static str, value: u64) -> OwnedSample {
    OwnedSample { name, kind: SampleKind::Gauge, labels: Vec::new(), value }
}

/// Given up by the socket layer.
fn dropped(reason: &str, value: u64) -> OwnedSample {
    let labels = vec![("reason".to_owned(), reason.to_owned())];
    OwnedSample { name: "sipstamp_transport_dropped_total", kind: SampleKind::Counter, labels, value }
}
