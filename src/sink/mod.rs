//! What becomes of events: each sink has a queue and a thread of its own, so that a dead one delays
//! nobody else, and nothing here ever makes a worker wait.

mod file;
mod input;
mod queue;
mod stdout;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

pub use file::FileSink;
pub use input::EventInput;
use input::Outlet;
use queue::Queue;

use crate::admin::Readiness;
use crate::admin::metrics::Histograms;
use crate::config::Events;
use crate::control::OwnedSample;
use crate::event::{EventKind, Summary};
use crate::recent::{Recent, Told};
use crate::stats::SampleKind;

/// At the end, for how long sinks may take to write what waits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two looks for events under load: what comes meanwhile is taken in one go.
const GATHER: Duration = Duration::from_millis(25);

/// All sinks of one process.
#[derive(Debug)]
pub struct Sinks {
    input: Option<EventInput>,
    dispatcher: Option<JoinHandle<()>>,
    queues: Vec<Arc<Queue>>,
    file: Option<Arc<file::Reopen>>,
}

/// The figures of all sinks, for whoever renders metrics.
#[derive(Clone, Debug)]
pub struct SinkFigures(Vec<Arc<Queue>>);

impl Sinks {
    /// Opens the sinks that are configured.
    ///
    /// # Errors
    /// Where the events' file cannot be opened.
    pub fn open(events: &Events, recent: Recent, readiness: &Readiness, histograms: Histograms) -> io::Result<Sinks> {
        let mut queues = Vec::new();
        let mut file = None;
        if let Some(path) = &events.file {
            let queue = Arc::new(Queue::new("file", events.memory_limit, Some(readiness.clone())));
            file = Some(FileSink::open(path)?.start(queue.clone())?);
            queues.push(queue);
        }
        if events.stdout {
            let queue = Arc::new(Queue::new("stdout", events.memory_limit, None));
            stdout::start(queue.clone())?;
            queues.push(queue);
        }
        let (input, outlet) = input::way();
        let to = queues.clone();
        let dispatcher = std::thread::Builder::new()
            .name("events".into())
            .spawn(move || dispatch(&outlet, &to, &recent, &histograms))?;
        Ok(Sinks { input: Some(input), dispatcher: Some(dispatcher), queues, file })
    }

    /// A way in, for one worker; `None` once closed.
    pub fn input(&self) -> Option<EventInput> {
        self.input.clone()
    }

    /// The events' file is opened again by its name: logrotate moved it.
    pub fn reopen(&self) {
        if let Some(file) = &self.file {
            file.ask();
        }
        for queue in &self.queues {
            queue.wake();
        }
    }

    pub fn figures(&self) -> SinkFigures {
        SinkFigures(self.queues.clone())
    }

    /// Writes what waits, as far as that goes within a few seconds, once every [`EventInput`] is gone. Returns how many
    /// events were left behind.
    pub fn close(mut self) -> usize {
        self.input = None;
        if let Some(dispatcher) = self.dispatcher.take() {
            drop(dispatcher.join());
        }
        self.queues.iter().map(|queue| queue.close(FLUSH_TIMEOUT)).sum()
    }
}

impl SinkFigures {
    pub fn samples(&self) -> Vec<OwnedSample> {
        let mut samples = Vec::new();
        for queue in &self.0 {
            let figures = queue.figures();
            let sink = || vec![("sink".to_owned(), queue.name().to_owned())];
            let mut put = |name, kind, value| samples.push(OwnedSample { name, kind, labels: sink(), value });
            put("sipstamp_events_delivered_total", SampleKind::Counter, figures.delivered);
            put("sipstamp_events_failed_total", SampleKind::Counter, figures.failed);
            put("sipstamp_events_pending", SampleKind::Gauge, figures.pending);
            put("sipstamp_events_oldest_pending_seconds", SampleKind::Gauge, figures.oldest.as_secs());
        }
        for kind in EventKind::ALL {
            let value = self.0.iter().map(|queue| queue.dropped(*kind)).sum();
            let labels = vec![("kind".to_owned(), kind.label().to_owned())];
            let name = "sipstamp_events_dropped_total";
            samples.push(OwnedSample { name, kind: SampleKind::Counter, labels, value });
        }
        samples
    }
}

/// Takes events as they come, and those that come while it is at it in one go: a thread that is woken for each event
/// would cost more than all that it does.
fn dispatch(outlet: &Outlet, queues: &[Arc<Queue>], recent: &Recent, histograms: &Histograms) {
    let (mut events, mut lines) = (input::list(), Vec::new());
    while outlet.take(&mut events) {
        for event in events.drain(..) {
            if event.kind == EventKind::Ended {
                count(&event.summary, histograms);
            }
            // A copy: the line itself lies in memory that the worker wants back.
            let line: Arc<[u8]> = event.line.as_ref().into();
            recent.push(Told { kind: event.kind, line: line.clone() });
            lines.push((event.kind, line));
        }
        for queue in queues {
            queue.push(&lines);
        }
        lines.clear();
        std::thread::sleep(GATHER);
    }
}

fn count(ended: &Summary, histograms: &Histograms) {
    histograms.call_ended(ended);
    tracing::debug!(
        outcome = ended.outcome.map(|outcome| outcome.label()),
        end_cause = ended.end_cause.map(|cause| cause.label()),
        code = ended.sip_code,
        direction = ended.direction.label(),
        call_uid = %ended.call,
        "call ended"
    );
}
