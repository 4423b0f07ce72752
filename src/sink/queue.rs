//! Lines that wait for one sink, within a limit of memory.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::admin::Readiness;
use crate::event::EventKind;

/// A queue between the dispatcher and one sink's thread.
#[derive(Debug)]
pub struct Queue {
    name: &'static str,
    limit: usize,
    /// Told whether outcomes are kept; a sink of best effort has none.
    readiness: Option<Readiness>,
    state: Mutex<State>,
    changed: Condvar,
}

/// What is to be shown of a sink.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub delivered: u64,
    /// Attempts.
    pub failed: u64,
    pub pending: u64,
    pub oldest: Duration,
}

/// What a sink's thread does next.
#[derive(Debug)]
pub enum Next {
    Lines(Vec<Arc<[u8]>>),
    /// Something beside lines was asked.
    Woken,
    /// Everything is written and nothing more comes.
    Closed,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Line>,
    bytes: usize,
    /// Handed out and not confirmed yet.
    in_hand: usize,
    delivered: u64,
    failed: u64,
    dropped: [u64; EventKind::COUNT],
    is_woken: bool,
    is_closed: bool,
    warned: Option<Instant>,
}

#[derive(Debug)]
struct Line {
    kind: EventKind,
    text: Arc<[u8]>,
    since: Instant,
}

/// Lines that are written with one call.
const BATCH: usize = 256;

impl Queue {
    pub fn new(name: &'static str, limit: usize, readiness: Option<Readiness>) -> Queue {
        Queue { name, limit, readiness, state: Mutex::default(), changed: Condvar::new() }
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Adds lines. Beyond the limit the oldest lifecycle events go first and outcomes last; each is counted.
    pub fn push(&self, lines: &[(EventKind, Arc<[u8]>)]) {
        let mut state = self.state();
        let since = Instant::now();
        for (kind, text) in lines {
            state.bytes += text.len();
            state.lines.push_back(Line { kind: *kind, text: text.clone(), since });
            self.make_room(&mut state);
        }
        self.changed.notify_all();
    }

    fn make_room(&self, state: &mut State) {
        while state.bytes > self.limit && state.lines.len() > 1 {
            // What is in the sink's hand stays.
            let from = state.in_hand.min(state.lines.len());
            let lifecycle = state.lines.iter().skip(from).position(|line| line.kind != EventKind::Ended);
            let victim = from + lifecycle.unwrap_or(0);
            let Some(dropped) = state.lines.remove(victim) else { break };
            state.bytes -= dropped.text.len();
            if let Some(count) = state.dropped.get_mut(dropped.kind.index()) {
                *count += 1;
            }
            if let (EventKind::Ended, Some(readiness)) = (dropped.kind, &self.readiness) {
                readiness.set_events_kept(false);
            }
            if state.warned.is_none_or(|last| last.elapsed() > Duration::from_secs(1)) {
                state.warned = Some(Instant::now());
                tracing::error!(sink = self.name, kind = %dropped.kind, "event dropped: events.memory_limit is reached");
            }
        }
    }

    /// Waits for something to do. The lines stay in the queue until [`Queue::delivered`].
    pub fn next(&self) -> Next {
        let mut state = self.state();
        loop {
            if std::mem::take(&mut state.is_woken) {
                return Next::Woken;
            }
            if !state.lines.is_empty() {
                let lines = state.lines.iter().take(BATCH).map(|line| line.text.clone()).collect::<Vec<_>>();
                state.in_hand = lines.len();
                return Next::Lines(lines);
            }
            if state.is_closed {
                return Next::Closed;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The lines that [`Queue::next`] gave are written.
    pub fn delivered(&self) {
        let mut state = self.state();
        for _ in 0..std::mem::take(&mut state.in_hand) {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.text.len();
                state.delivered += 1;
            }
        }
        if let Some(readiness) = &self.readiness {
            readiness.set_events_kept(true);
        }
        self.changed.notify_all();
    }

    /// They could not be written. Waits before they are tried again; false once there is no use any more.
    pub fn failed(&self, back_off: Duration) -> bool {
        let mut state = self.state();
        state.failed += 1;
        if state.is_closed {
            return false;
        }
        let waits = |state: &mut State| !state.is_closed && !state.is_woken;
        let (state, _) =
            self.changed.wait_timeout_while(state, back_off, waits).unwrap_or_else(PoisonError::into_inner);
        !state.is_closed
    }

    /// Makes the sink look up from waiting.
    pub fn wake(&self) {
        self.state().is_woken = true;
        self.changed.notify_all();
    }

    /// No more lines; waits until those that are there are written. Returns how many were not.
    pub fn close(&self, within: Duration) -> usize {
        let mut state = self.state();
        state.is_closed = true;
        self.changed.notify_all();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, within, |state| !state.lines.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        state.lines.len()
    }

    pub fn figures(&self) -> Figures {
        let state = self.state();
        Figures {
            delivered: state.delivered,
            failed: state.failed,
            pending: state.lines.len() as u64,
            oldest: state.lines.front().map(|line| line.since.elapsed()).unwrap_or_default(),
        }
    }

    pub fn dropped(&self, kind: EventKind) -> u64 {
        self.state().dropped.get(kind.index()).copied().unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; should it, the figures are still figures.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_lifecycle_events_go_first_and_outcomes_last() {
        let queue = Queue::new("test", 12, None);
        for (kind, text) in [(EventKind::Ended, "aaaa"), (EventKind::Ringing, "bbbb"), (EventKind::Ended, "cccc")] {
            queue.push(&[(kind, text.as_bytes().into())]);
        }
        queue.push(&[(EventKind::Ended, b"dddd".as_slice().into())]);
        assert_eq!(queue.dropped(EventKind::Ringing), 1);
        queue.push(&[(EventKind::Ended, b"eeee".as_slice().into())]);
        assert_eq!(queue.dropped(EventKind::Ended), 1);
        let Next::Lines(lines) = queue.next() else { panic!("lines expected") };
        assert_eq!(lines.iter().map(|line| &**line).collect::<Vec<_>>(), [b"cccc", b"dddd", b"eeee"]);
        queue.delivered();
        assert_eq!(queue.figures().delivered, 3);
        assert_eq!(queue.close(Duration::ZERO), 0);
    }
}
