//! Whether this process shall get calls: `GET /readyz`, `GET /livez`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Problem;

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

/// Starting, then ready, then draining, never back; whether events can be kept, and which sinks fail. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    flags: Arc<Flags>,
}

#[derive(Debug, Default)]
struct Flags {
    phase: AtomicU8,
    events_lost: AtomicBool,
    /// Sinks whose last attempt has failed.
    failing: Mutex<BTreeSet<Arc<str>>>,
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

    /// Whether a sink's last attempt has failed. Calls are taken all the same: its events wait.
    pub fn set_failing(&self, sink: &Arc<str>, is_failing: bool) {
        let mut failing = self.failing();
        if is_failing {
            failing.insert(sink.clone());
        } else {
            failing.remove(sink);
        }
    }

    fn failing(&self) -> MutexGuard<'_, BTreeSet<Arc<str>>> {
        self.flags.failing.lock().unwrap_or_else(PoisonError::into_inner)
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

/// `GET /readyz`: also which sinks fail, where any do.
pub async fn readyz(State(readiness): State<Readiness>) -> Result<Json<Value>, Problem> {
    readiness.check().map_err(Problem::unavailable)?;
    let failing = readiness.failing();
    Ok(Json(match failing.is_empty() {
        true => json!({ "status": "ready" }),
        false => json!({ "status": "ready", "failing_sinks": failing.iter().map(|name| &**name).collect::<Vec<_>>() }),
    }))
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

    #[tokio::test]
    async fn a_sink_that_fails_is_named_while_it_does() {
        let readiness = Readiness::new();
        readiness.set_ready();
        let told = || async { readyz(State(readiness.clone())).await.map(|Json(value)| value).ok() };
        assert_eq!(told().await, Some(json!({ "status": "ready" })));
        let (file, crm) = (Arc::from("file"), Arc::from("webhook:crm"));
        readiness.set_failing(&crm, true);
        readiness.set_failing(&file, true);
        assert_eq!(told().await, Some(json!({ "status": "ready", "failing_sinks": ["file", "webhook:crm"] })));
        readiness.set_failing(&file, false);
        assert_eq!(told().await, Some(json!({ "status": "ready", "failing_sinks": ["webhook:crm"] })));
        readiness.set_failing(&crm, false);
        assert_eq!(told().await, Some(json!({ "status": "ready" })));
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
