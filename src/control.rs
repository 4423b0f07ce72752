//! What the admin API asks of the workers, and how it is answered: one message each way, to the thread
//! that asks all of them and adds up what they say.

use tokio::sync::{mpsc, oneshot};

use crate::endpoint::{Filter, Refusal};
use crate::event::CallView;
use crate::stats::SampleKind;

/// A sample that left the core.
#[derive(Clone, Debug)]
pub struct OwnedSample {
    pub name: &'static str,
    pub kind: SampleKind,
    pub labels: Vec<(String, String)>,
    pub value: u64,
}

/// A histogram that left its worker.
#[derive(Clone, Debug)]
pub struct OwnedHistogram {
    pub name: &'static str,
    pub labels: Vec<(String, String)>,
    /// Upper bounds of all buckets but the last.
    pub bounds: &'static [f64],
    /// Observations in each bucket alone.
    pub counts: Vec<u64>,
    pub sum: f64,
}

/// Everything that is counted or measured.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub samples: Vec<OwnedSample>,
    pub histograms: Vec<OwnedHistogram>,
}

/// What `GET /v1/status` shows of the workers.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Status {
    /// `udp` and `tcp`: the addresses as bound.
    pub listen: std::collections::BTreeMap<&'static str, Vec<std::net::SocketAddr>>,
    pub draining: bool,
    pub calls_active: usize,
    pub servers: Vec<ServerStatus>,
}

/// One server in the status.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ServerStatus {
    pub name: String,
    pub address: std::net::SocketAddr,
    pub transport: &'static str,
    pub up: bool,
}

/// A question or a command; each is answered once.
#[derive(Debug)]
pub enum Ask {
    Figures(oneshot::Sender<Figures>),
    Status(oneshot::Sender<Status>),
    Calls {
        filter: Filter,
        after: Option<String>,
        limit: usize,
        reply: oneshot::Sender<Vec<CallView>>,
    },
    Call {
        id: String,
        reply: oneshot::Sender<Result<CallView, Refusal>>,
    },
    VoicemailDrop {
        id: String,
        reply: oneshot::Sender<Result<CallView, Refusal>>,
    },
    HangUp {
        id: String,
        reply: oneshot::Sender<Result<CallView, Refusal>>,
    },
    Drain(oneshot::Sender<()>),
    /// The configuration file is read again; `Err` holds every mistake, rendered as `check` prints them.
    Reload(oneshot::Sender<Result<(), String>>),
}

/// The way to the workers.
#[derive(Clone, Debug)]
pub struct Control(pub mpsc::Sender<Ask>);
