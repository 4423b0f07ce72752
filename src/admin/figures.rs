//! `GET /metrics`, and the figures behind it.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};

use super::ask::ask;
use super::{App, Problem};
use crate::control::{Ask, OwnedSample};

/// The Prometheus text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All samples: the core's, then the shell's.
pub async fn samples(app: &App) -> Result<Vec<OwnedSample>, Problem> {
    let mut samples = ask(&app.context.control, Ask::Samples).await?;
    samples.extend((app.context.figures)());
    Ok(samples)
}

/// `GET /metrics`
pub async fn scrape(State(app): State<App>) -> Result<([(HeaderName, &'static str); 1], String), Problem> {
    // One at a time: a scrape costs the loop a walk over all series.
    let _turn = app.scrape.lock().await;
    let samples = samples(&app).await?;
    let metrics = app.context.metrics.clone();
    let rendering = tokio::task::spawn_blocking(move || {
        metrics.apply(&samples);
        metrics.render()
    });
    match rendering.await {
        Ok(page) => Ok(([(CONTENT_TYPE, TEXT_FORMAT)], page)),
        Err(_) => {
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be rendered: see the log"))
        }
    }
}
