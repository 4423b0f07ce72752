//! Whether this process shall get calls: `GET /readyz`, `GET /livez`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU8, Ordering};
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
    /// Who cannot keep events: sinks, the journal.
    losing: Mutex<BTreeSet<Arc<str>>>,
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

    /// Whether a sink, or the journal, keeps what happens; so does each at the start.
    pub fn set_events_kept(&self, by: &Arc<str>, are_kept: bool) {
        put(&mut names(&self.flags.losing), by, !are_kept);
    }

    /// Whether a sink's last attempt has failed. Calls are taken all the same: its events wait.
    pub fn set_failing(&self, sink: &Arc<str>, is_failing: bool) {
        put(&mut names(&self.flags.failing), sink, is_failing);
    }

    /// `Err` says why no calls should come here.
    pub fn check(&self) -> Result<(), &'static str> {
        match self.flags.phase.load(Ordering::Relaxed) {
            STARTING => Err("starting: the sockets are not open yet"),
            READY if !names(&self.flags.losing).is_empty() => {
                Err("events can't be kept: see the log and sipstamp_events_pending, sipstamp_events_failed_total")
            }
            READY => Ok(()),
            _ => Err("draining: new calls get 503, open ones go on"),
        }
    }
}

fn names(set: &Mutex<BTreeSet<Arc<str>>>) -> MutexGuard<'_, BTreeSet<Arc<str>>> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts a name into a set, or takes it out.
fn put(set: &mut BTreeSet<Arc<str>>, name: &Arc<str>, is_in: bool) {
    if is_in {
        set.insert(name.clone());
    } else {
        set.remove(name);
    }
}

/// `GET /readyz`: also which sinks fail, where any do.
pub async fn readyz(State(readiness): State<Readiness>) -> Result<Json<Value>, Problem> {
    readiness.check().map_err(Problem::unavailable)?;
    let failing = names(&readiness.flags.failing);
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
    fn lost_events_make_it_unready_until_everybody_keeps_them_again() {
        let readiness = Readiness::new();
        readiness.set_ready();
        let (file, crm) = (Arc::from("file"), Arc::from("webhook:crm"));
        readiness.set_events_kept(&crm, false);
        readiness.set_events_kept(&file, true);
        assert!(readiness.check().unwrap_err().starts_with("events"));
        readiness.set_events_kept(&crm, true);
        assert_eq!(readiness.check(), Ok(()));
    }
}
