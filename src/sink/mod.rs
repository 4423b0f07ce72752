//! What becomes of events: each sink has a queue and a thread of its own, so that a dead one delays
//! nobody else, and nothing here ever makes a worker wait.

mod backlog;
mod file;
mod input;
mod nats;
mod queue;
mod stdout;
mod webhook;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;

use backlog::Backlog;
pub use file::FileSink;
pub use input::EventInput;
use input::{Handed, Outlet};
use queue::{Keeping, Line, Queue, Unkept};
use webhook::WebhookSink;

use crate::admin::Readiness;
use crate::admin::metrics::Histograms;
use crate::config::Events;
use crate::control::OwnedSample;
use crate::event::{Event, EventKind, data_of};
use crate::journal::{Cursors, Due, Found, Late, LateEvent, Note};
use crate::recent::{Recent, Told};
use crate::stats::SampleKind;

/// Between two looks for events under load: what comes meanwhile is taken in one go.
const GATHER: Duration = Duration::from_millis(50);

/// The names of sinks.
const FILE: &str = "file";
const NATS: &str = "nats";

/// The sinks of a configuration whose events the journal keeps, by name.
pub fn kept_names(events: &Events) -> Vec<Arc<str>> {
    let file = events.file.iter().map(|_| FILE.into());
    let webhooks = events.webhooks.iter().map(|webhook| webhook.sink().into());
    let nats = events.nats.iter().map(|_| NATS.into());
    file.chain(webhooks).chain(nats).collect()
}

/// All sinks of one process.
#[derive(Debug)]
pub struct Sinks {
    input: Option<EventInput>,
    /// Until it is started.
    dispatch: Option<Dispatch>,
    dispatcher: Option<JoinHandle<()>>,
    queues: Vec<Arc<Queue>>,
    file: Option<Arc<file::Reopen>>,
}

/// What sinks need of the journal.
#[derive(Clone, Debug)]
pub struct Kept<'a> {
    pub directory: &'a Path,
    pub notes: Sender<Note>,
    pub found: &'a Found,
}

/// Why a sink cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    File {
        path: PathBuf,
        error: io::Error,
    },
    Webhook {
        name: Arc<str>,
        error: io::Error,
    },
    /// Threads, descriptors.
    System(io::Error),
}

/// The figures of all sinks, for whoever renders metrics.
#[derive(Clone, Debug)]
pub struct SinkFigures(Vec<Arc<Queue>>);

/// Whether the sinks of a configuration could be opened, while another process has them. That the file can be has been
/// seen when the configuration was read.
///
/// # Errors
/// As [`Sinks::open`].
pub fn check(events: &Events) -> Result<(), OpenError> {
    for webhook in &events.webhooks {
        WebhookSink::open(webhook).map_err(|error| OpenError::Webhook { name: webhook.name.clone(), error })?;
    }
    Ok(())
}

impl Sinks {
    /// Opens the sinks that are configured.
    ///
    /// # Errors
    /// Where one of them cannot be opened.
    pub fn open(
        events: &Events,
        kept: Option<&Kept<'_>>,
        recent: Recent,
        readiness: &Readiness,
        histograms: Histograms,
    ) -> Result<Sinks, OpenError> {
        let mut queues = Vec::new();
        let mut file = None;
        let queue = |name: &str| {
            let backlog = kept.map(|kept| kept.backlog(name));
            Arc::new(Queue::new(name.into(), events.memory_limit, Some(readiness.clone()), backlog))
        };
        if let Some(path) = &events.file {
            let queue = queue(FILE);
            let sink = FileSink::open(path, queue.is_behind());
            let sink = sink.map_err(|error| OpenError::File { path: path.to_owned(), error })?;
            file = Some(sink.start(queue.clone())?);
            queues.push(queue);
        }
        for webhook in &events.webhooks {
            let queue = queue(&webhook.sink());
            let sink = WebhookSink::open(webhook);
            let sink = sink.map_err(|error| OpenError::Webhook { name: webhook.name.clone(), error })?;
            sink.start(queue.clone())?;
            queues.push(queue);
        }
        if events.stdout {
            let queue = Arc::new(Queue::new("stdout".into(), events.memory_limit, None, None));
            stdout::start(queue.clone())?;
            queues.push(queue);
        }
        if let Some(settings) = &events.nats {
            let queue = queue(NATS);
            nats::start(settings.clone(), queue.clone())?;
            queues.push(queue);
        }
        let (input, outlet) = input::way();
        let dispatch = Some(Dispatch { outlet, queues: queues.clone(), recent, histograms, late: None, unkept: 0 });
        Ok(Sinks { input: Some(input), dispatch, dispatcher: None, queues, file })
    }

    /// Begins to give them events. `late`: where the journal takes what a worker could not write. Returns what makes it look
    /// whether that is due.
    ///
    /// # Errors
    /// Where no thread can be had.
    pub fn start(&mut self, late: Option<Late>) -> io::Result<impl Fn() + Send + 'static> {
        let dispatch = self.dispatch.take().ok_or_else(|| io::Error::other("the sinks are started"))?;
        let waker = dispatch.outlet.waker();
        let thread = std::thread::Builder::new().name("events".into());
        self.dispatcher = Some(thread.spawn(move || Dispatch { late, ..dispatch }.run())?);
        Ok(move || waker.wake())
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

    /// Writes what waits, as far as that goes within some time, once every [`EventInput`] is gone: `kept` where a journal
    /// has all of it, else `unkept`. Returns how many events were left behind.
    pub fn close(mut self, kept: Duration, unkept: Duration) -> usize {
        self.input = None;
        if let Some(dispatcher) = self.dispatcher.take() {
            drop(dispatcher.join());
        }
        let within = if self.queues.iter().any(|queue| queue.has_unkept()) { unkept } else { kept };
        // The time is one for all: a dead sink takes none of another's.
        self.queues.iter().for_each(|queue| queue.end(within));
        self.queues.iter().map(|queue| queue.close(within)).sum()
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> OpenError {
        OpenError::System(error)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::File { path, error } => write!(
                f,
                "events.file: cannot write {}: {error}; make its directory and let this user write there",
                path.display()
            ),
            OpenError::Webhook { name, error } => write!(f, "events.webhooks: `{name}` cannot be served: {error}"),
            OpenError::System(error) => write!(f, "cannot start: {error}"),
        }
    }
}

impl std::error::Error for OpenError {}

impl Kept<'_> {
    fn backlog(&self, sink: &str) -> Backlog {
        let none = Cursors::new();
        let cursors = self.found.cursors.get(sink).unwrap_or(&none);
        let journal = (self.directory.to_owned(), self.found.key);
        Backlog::new(journal, sink.into(), self.notes.clone(), cursors, &self.found.events)
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
            put("sipstamp_events_dead_lettered_total", SampleKind::Counter, figures.dead_lettered);
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

/// Gives each sink the events that workers hand over.
#[derive(Debug)]
struct Dispatch {
    outlet: Outlet,
    queues: Vec<Arc<Queue>>,
    recent: Recent,
    histograms: Histograms,
    late: Option<Late>,
    /// How many lines no journal had.
    unkept: u64,
}

impl Dispatch {
    /// Takes events as they come, and those that come while it is at it in one go: a thread that is woken for each event
    /// would cost more than all that it does.
    fn run(mut self) {
        let (mut events, mut lines) = (input::list(), Vec::new());
        while self.outlet.wait() {
            // Asked before they are taken: what a worker could not write, it has handed over before it writes again.
            let due = self.late.as_mut().and_then(Late::due);
            self.outlet.take(&mut events);
            lines.extend(events.drain(..).map(|handed| self.line(handed)));
            for queue in &self.queues {
                queue.push(&lines);
            }
            lines.clear();
            if let Some(due) = due {
                self.write_late(due);
            }
            std::thread::sleep(GATHER);
        }
    }

    fn line(&mut self, (event, at): Handed) -> Line {
        if event.kind == EventKind::Ended {
            self.histograms.call_ended(&event.summary);
            tell(&event);
        }
        // A copy: the line itself lies in memory that the worker wants back.
        let line: Arc<[u8]> = event.line.as_ref().into();
        self.recent.push(Told { kind: event.kind, line: line.clone(), names: event.names.map(Arc::from) });
        let keeping = match at {
            Some(at) => Keeping::Journal(at),
            None => {
                self.unkept += 1;
                Keeping::Memory(Unkept { number: self.unkept, call: event.summary.call })
            }
        };
        Line::new(event.kind, line, keeping)
    }

    /// Has the journal keep what it could not when it came, and a sink has still to deliver.
    fn write_late(&mut self, due: Due) {
        let Some(late) = &mut self.late else { return };
        let lines = self.queues.iter().flat_map(|queue| queue.unkept()).collect::<BTreeMap<_, _>>();
        let events = lines.iter().map(|(Unkept { call, .. }, line)| LateEvent {
            call: *call,
            kind: line.kind,
            line: &line.text,
        });
        let written = late.write(due, events);
        let kept = lines.into_keys().zip(written).collect();
        for queue in &self.queues {
            queue.keep(&kept);
        }
    }
}

/// How a call was decided, in a line.
fn tell(ended: &Event) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    // What the line has masked stays so.
    let Ok(call) = data_of(&ended.line) else { return };
    let attempts = call.attempts.iter().map(|attempt| match attempt.sip_code {
        Some(code) => format!("{} {code}", attempt.server),
        None => format!("{} -", attempt.server),
    });
    tracing::debug!(
        call_id = %call.call_id,
        call_uid = %call.call_uid,
        direction = call.direction.label(),
        outcome = call.outcome.map(|outcome| outcome.label()),
        end_cause = call.end_cause.map(|cause| cause.label()),
        code = call.sip_code,
        attempts = %attempts.collect::<Vec<_>>().join(", "),
        rule = call.rule,
        anomalies = %call.anomalies.iter().map(|anomaly| anomaly.label()).collect::<Vec<_>>().join(", "),
        "call ended"
    );
}
