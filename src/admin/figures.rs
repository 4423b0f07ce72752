//! `GET /metrics`, and the figures behind it.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};

use super::ask::ask;
use super::{App, Problem};
use crate::control::{Ask, Figures};

/// The Prometheus text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All figures: the workers', then those of the sinks and of ended calls.
pub async fn figures(app: &App) -> Result<Figures, Problem> {
    let mut figures = ask(&app.context.control, Ask::Figures).await?;
    let more = (app.context.figures)();
    figures.samples.extend(more.samples);
    figures.samples.extend(app.refusals.samples());
    figures.histograms.extend(more.histograms);
    Ok(figures)
}

/// `GET /metrics`
pub async fn scrape(State(app): State<App>) -> Result<([(HeaderName, &'static str); 1], String), Problem> {
    // One at a time: a scrape costs each worker a walk over all series.
    let _turn = app.scrape.lock().await;
    let figures = figures(&app).await?;
    let metrics = app.context.metrics.clone();
    let rendering = tokio::task::spawn_blocking(move || {
        metrics.apply(figures);
        metrics.render()
    });
    match rendering.await {
        Ok(page) => Ok(([(CONTENT_TYPE, TEXT_FORMAT)], page)),
        Err(_) => {
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be rendered: see the log"))
        }
    }
}
