//! The admin API: HTTP/1.1 on a thread of its own, with one question to the workers per request.
//!
//! | route | what it does |
//! |---|---|
//! | `GET /livez`, `GET /readyz` | whether the process lives, and shall get calls |
//! | `GET /metrics` | the Prometheus text format |
//! | `GET /v1/status` | addresses, version, counts, sinks, servers |
//! | `GET /v1/calls?state=&direction=&limit=&after=` | open calls, or the ones that ended last |
//! | `GET /v1/calls/{id}` | one call, by call_uid, Call-ID or correlation |
//! | `POST /v1/calls/{id}/voicemail-drop` | marks it as a voicemail drop |
//! | `POST /v1/calls/{id}/hangup` | ends it |
//! | `GET /v1/outcomes?limit=` | the calls that ended last, newest first |
//! | `GET /v1/events` | each event as it comes |
//! | `POST /v1/drain`, `POST /v1/reload` | no more new calls; the configuration read again |
//!
//! With `[events.nats]` the three routes of one call ask other sidecars for what this one does not know.
//!
//! A listener for metrics has the first three alone, without a token. Nothing is changed by a GET or HEAD. Limits are in
//! `listener`, who is let in is in `guard`.
//! Errors are problem details (RFC 9457).

mod ask;
mod calls;
mod families;
mod feed;
mod figures;
mod fleet;
mod guard;
mod histograms;
mod listener;
pub mod metrics;
mod problem;
mod process;
mod query;
mod readiness;
mod refusals;
mod seats;
mod server;
mod status;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::FromRef;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tokio::sync::{Mutex, Semaphore, watch};

use self::fleet::Fleet;
use self::guard::Guard;
use self::metrics::Exposition;
pub use self::problem::Problem;
pub use self::readiness::Readiness;
use self::refusals::Refusals;
pub use self::server::{AdminHandle, serve};
use crate::control::{Control, Figures};
use crate::nats::Nats;
use crate::recent::Recent;

/// The version in `Cargo.toml`.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The listeners, bound before anything starts so that a taken port is a mistake of the configuration.
#[derive(Debug, Default)]
pub struct Sockets {
    pub admin: Option<std::net::TcpListener>,
    /// `/metrics`, `/livez` and `/readyz` alone, without a token.
    pub metrics: Option<std::net::TcpListener>,
}

/// Who may use the admin API: the bearer token; none: everybody who reaches it. Clones share it.
#[derive(Clone, Default)]
pub struct Token(watch::Sender<Option<Box<str>>>);

impl Token {
    pub fn new(token: Option<&str>) -> Token {
        Token(watch::Sender::new(token.map(Box::from)))
    }

    /// From here on another one is asked for. What goes on for whoever knew the one before ends, unless they are the same.
    pub fn set(&self, token: Option<&str>) {
        self.0.send_if_modified(|current| {
            let is_other = current.as_deref() != token;
            if is_other {
                *current = token.map(Box::from);
            }
            is_other
        });
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// What the API shows and commands.
#[derive(Clone)]
pub struct Context {
    pub control: Control,
    pub recent: Recent,
    pub readiness: Readiness,
    pub metrics: Arc<Exposition>,
    /// Figures that the workers do not have: those of the sinks and of ended calls.
    pub figures: Arc<dyn Fn() -> Figures + Send + Sync>,
    /// By which other sidecars are asked.
    pub nats: Option<Nats>,
}

/// Where the API listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    pub admin: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
}

/// What every handler sees.
#[derive(Clone)]
struct App {
    context: Context,
    addresses: Addresses,
    begun: Instant,
    /// Held by the scrape whose turn it is.
    scrape: Arc<Mutex<()>>,
    /// A seat per event feed.
    feeds: Arc<Semaphore>,
    fleet: Option<Fleet>,
    refusals: Arc<Refusals>,
}

impl App {
    fn new(context: Context, addresses: Addresses) -> App {
        let feeds = Arc::new(Semaphore::new(feed::FEEDS));
        let fleet = Fleet::new(context.nats.clone());
        App {
            context,
            addresses,
            begun: Instant::now(),
            scrape: Arc::default(),
            feeds,
            fleet,
            refusals: Arc::default(),
        }
    }

    /// The routes of the admin listener.
    fn admin(self, guard: Guard) -> Router {
        let routes = probes()
            .route("/v1/status", get(status::status))
            .route("/v1/calls", get(calls::list))
            .route("/v1/calls/{id}", get(calls::show))
            .route("/v1/calls/{id}/voicemail-drop", post(calls::voicemail_drop))
            .route("/v1/calls/{id}/hangup", post(calls::hang_up))
            .route("/v1/outcomes", get(calls::outcomes))
            .route("/v1/events", get(feed::events))
            .route("/v1/drain", post(status::drain))
            .route("/v1/reload", post(status::reload_configuration));
        self.finish(routes, guard)
    }

    /// The routes of the listener for metrics.
    fn metrics(self, guard: Guard) -> Router {
        self.finish(probes(), guard)
    }

    fn finish(self, routes: Router<App>, guard: Guard) -> Router {
        routes
            .fallback(unknown_path)
            .method_not_allowed_fallback(wrong_method)
            .layer(from_fn_with_state(guard, guard::admit))
            .with_state(self)
    }
}

impl Addresses {
    /// Those that there are, with their names.
    fn named(self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        [("admin", self.admin), ("metrics", self.metrics)]
            .into_iter()
            .filter_map(|(name, address)| Some((name, address?)))
    }
}

/// The commit that this was built from, where the build has told.
fn revision() -> &'static str {
    option_env!("SIPSTAMP_REVISION").unwrap_or("unknown")
}

fn probes() -> Router<App> {
    Router::new()
        .route("/livez", get(readiness::livez))
        .route("/readyz", get(readiness::readyz))
        .route("/metrics", get(figures::scrape))
}

async fn unknown_path() -> Problem {
    Problem::not_found("there is nothing at this path")
}

async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path can't be asked with this method: see Allow")
}

impl FromRef<App> for Readiness {
    fn from_ref(app: &App) -> Readiness {
        app.context.readiness.clone()
    }
}
