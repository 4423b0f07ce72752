//! `/v1/status`, `/v1/drain`, `/v1/reload`: the process as a whole.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use super::ask::{ask, reload};
use super::figures::figures;
use super::{App, Problem, VERSION, revision};
use crate::control::{Ask, OwnedSample, ServerStatus};

/// The answer to `GET /v1/status`.
#[derive(Debug, Serialize)]
pub struct StatusView {
    version: &'static str,
    revision: &'static str,
    uptime_seconds: u64,
    draining: bool,
    /// `udp`, `tcp`, `admin`, `metrics`: the addresses as bound.
    listen: BTreeMap<&'static str, Vec<SocketAddr>>,
    counts: Counts,
    sinks: Vec<SinkStatus>,
    servers: Vec<ServerStatus>,
}

/// Calls since the start of the process.
#[derive(Debug, Serialize)]
struct Counts {
    active: usize,
    started: u64,
    ended: u64,
}

/// A sink and its figures: `delivered`, `pending`, `oldest_pending_seconds`, `failed`, …
#[derive(Debug, Serialize)]
struct SinkStatus {
    sink: String,
    #[serde(flatten)]
    figures: BTreeMap<&'static str, u64>,
}

/// `GET /v1/status`
pub async fn status(State(app): State<App>) -> Result<Json<StatusView>, Problem> {
    let status = ask(&app.context.control, Ask::Status).await?;
    let samples = figures(&app).await?.samples;
    let mut listen = status.listen;
    listen.extend(app.addresses.named().map(|(name, address)| (name, vec![address])));
    Ok(Json(StatusView {
        version: VERSION,
        revision: revision(),
        uptime_seconds: app.begun.elapsed().as_secs(),
        draining: status.draining,
        listen,
        counts: Counts {
            active: status.calls_active,
            started: sum(&samples, "sipstamp_calls_started_total"),
            ended: sum(&samples, "sipstamp_call_outcomes_total"),
        },
        sinks: sinks(&samples),
        servers: status.servers,
    }))
}

/// `POST /v1/drain`
pub async fn drain(State(app): State<App>) -> Result<(StatusCode, Json<Value>), Problem> {
    ask(&app.context.control, Ask::Drain).await?;
    app.context.readiness.set_draining();
    Ok((StatusCode::ACCEPTED, Json(json!({ "status": "draining" }))))
}

/// `POST /v1/reload`
pub async fn reload_configuration(State(app): State<App>) -> Result<Json<Value>, Problem> {
    match reload(&app.context.control).await? {
        Ok(()) => Ok(Json(json!({ "status": "reloaded" }))),
        Err(mistakes) => {
            let detail = "the configuration was refused, the one in use stays: see mistakes";
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail).with_mistakes(mistakes))
        }
    }
}

fn sum(samples: &[OwnedSample], name: &str) -> u64 {
    samples.iter().filter(|sample| sample.name == name).map(|sample| sample.value).sum()
}

fn sinks(samples: &[OwnedSample]) -> Vec<SinkStatus> {
    let mut sinks: BTreeMap<&str, BTreeMap<&'static str, u64>> = BTreeMap::new();
    for sample in samples {
        let Some(figure) = sample.name.strip_prefix("sipstamp_events_") else { continue };
        let Some((_, sink)) = sample.labels.iter().find(|(name, _)| name == "sink") else { continue };
        let figure = figure.strip_suffix("_total").unwrap_or(figure);
        sinks.entry(sink).or_default().insert(figure, sample.value);
    }
    sinks.into_iter().map(|(sink, figures)| SinkStatus { sink: sink.to_owned(), figures }).collect()
}
