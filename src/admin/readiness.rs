//! Whether this process shall get calls: `GET /readyz`, `GET /livez`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Problem;

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

/// Starting, then ready, then draining, never back; and whether events can be kept. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    flags: Arc<Flags>,
}

#[derive(Debug, Default)]
struct Flags {
    phase: AtomicU8,
    events_lost: AtomicBool,
}

impl Readiness {
    /// Starting, with events kept.
    pub fn new() -> Readiness {
        Readiness::default()
    }

    /// The sockets are open and the workers run.
    pub fn set_ready(&self) {
        self.flags.phase.fetch_max(READY, Ordering::Relaxed);
    }

    /// No new calls from here on.
    pub fn set_draining(&self) {
        self.flags.phase.fetch_max(DRAINING, Ordering::Relaxed);
    }

    /// Whether a sink or the journal takes what happens; `true` at the start.
    pub fn set_events_kept(&self, kept: bool) {
        self.flags.events_lost.store(!kept, Ordering::Relaxed);
    }

    /// `Err` says why no calls should come here.
    pub fn check(&self) -> Result<(), &'static str> {
        match self.flags.phase.load(Ordering::Relaxed) {
            STARTING => Err("starting: the sockets are not open yet"),
            READY if self.flags.events_lost.load(Ordering::Relaxed) => {
                Err("events can't be kept: see the log and sipstamp_events_pending, sipstamp_events_failed_total")
            }
            READY => Ok(()),
            _ => Err("draining: new calls get 503, open ones go on"),
        }
    }
}

/// `GET /readyz`
pub async fn readyz(State(readiness): State<Readiness>) -> Result<Json<Value>, Problem> {
    readiness.check().map(|()| Json(json!({ "status": "ready" }))).map_err(Problem::unavailable)
}

/// `GET /livez`: that this is answered is all it says.
pub async fn livez() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_never_goes_back() {
        let readiness = Readiness::new();
        assert!(readiness.check().unwrap_err().starts_with("starting"));
        readiness.set_ready();
        assert_eq!(readiness.check(), Ok(()));
        readiness.set_draining();
        readiness.set_ready();
        assert!(readiness.check().unwrap_err().starts_with("draining"));
    }

    #[test]
    fn lost_events_make_it_unready_until_they_are_kept_again() {
        let readiness = Readiness::new();
        readiness.set_ready();
        readiness.set_events_kept(false);
        assert!(readiness.check().unwrap_err().starts_with("events"));
        readiness.set_events_kept(true);
        assert_eq!(readiness.check(), Ok(()));
    }
}
