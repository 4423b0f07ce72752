//! Lines that wait for one sink, within a limit of memory.

mod hand;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use hand::{Settled, Ticket};
use tokio::sync::Notify;

use super::backlog::{Backlog, Reach, Reader};
use crate::admin::Readiness;
use crate::call::Uid;
use crate::event::EventKind;
use crate::journal::Position;
use crate::journal::segment::Stream;

/// A queue between the dispatcher and one sink's thread.
#[derive(Debug)]
pub struct Queue {
    name: Arc<str>,
    limit: usize,
    /// Told whether this sink works and, without a journal, whether outcomes are kept; a sink of best effort has none.
    readiness: Option<Readiness>,
    state: Mutex<State>,
    /// The sink's thread's alone.
    reader: Mutex<Reader>,
    changed: Condvar,
    /// The same for a sink that does not wait on a thread.
    news: Notify,
}

/// One event for a sink.
#[derive(Clone, Debug)]
pub struct Line {
    pub kind: EventKind,
    pub text: Arc<[u8]>,
    pub keeping: Keeping,
    since: Instant,
    /// Done with, while earlier ones are not.
    is_settled: bool,
}

/// Where a line is kept until it is delivered.
#[derive(Clone, Copy, Debug)]
pub enum Keeping {
    Journal(Position),
    /// Only here: there is no journal, or it could not be written.
    Memory(Unkept),
}

/// Names a line that no journal has; in the order in which they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unkept {
    pub number: u64,
    pub call: Uid,
}

/// What is to be shown of a sink.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub delivered: u64,
    /// Attempts.
    pub failed: u64,
    pub dead_lettered: u64,
    pub pending: u64,
    pub oldest: Duration,
}

/// What a sink's thread does next.
#[derive(Debug)]
pub enum Next {
    Lines(Vec<Line>),
    /// Something beside lines was asked.
    Woken,
    /// Everything is written and nothing more comes, or there is no more time for it. What the journal keeps is left to the
    /// next start.
    Closed,
}

/// Serves a queue for as long as it is there.
#[derive(Debug)]
pub struct Service(Arc<Queue>);

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Line>,
    bytes: usize,
    backlog: Option<Backlog>,
    /// Handed out and not confirmed yet.
    in_hand: usize,
    /// Of these, done with.
    settled: usize,
    /// Lines that lay before the first.
    first: u64,
    delivered: u64,
    failed: u64,
    dead_lettered: u64,
    dropped: [u64; EventKind::COUNT],
    is_woken: bool,
    is_closed: bool,
    /// Somebody writes what the queue gives.
    is_served: bool,
    /// Closed, and not to be waited for longer than this.
    ends: Option<Instant>,
    warned: Option<Instant>,
    /// The last attempt has failed.
    is_failing: bool,
    /// Without a journal: an outcome was dropped, and nothing was delivered since.
    is_losing: bool,
}

/// Lines that are written with one call.
const BATCH: usize = 256;
/// At the end, how long what is being written may take after its time.
const LAST_WRITE: Duration = Duration::from_millis(500);
/// How long to wait before the journal is read again.
const READ_AGAIN: Duration = Duration::from_secs(1);

impl Queue {
    pub fn new(name: Arc<str>, limit: usize, readiness: Option<Readiness>, backlog: Option<Backlog>) -> Queue {
        let state = Mutex::new(State { backlog, ..State::default() });
        Queue { name, limit, readiness, state, reader: Mutex::default(), changed: Condvar::new(), news: Notify::new() }
    }

    /// For who writes what the queue gives: once closed it is waited for.
    pub fn serve(self: Arc<Queue>) -> Service {
        self.state().is_served = true;
        Service(self)
    }

    /// Whether the journal keeps events that the sink has not been given.
    pub fn is_behind(&self) -> bool {
        self.state().backlog.as_ref().is_some_and(|backlog| backlog.next().is_some())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds lines. Beyond the limit those that the journal keeps are left to it. Of others the oldest lifecycle events go
    /// first and outcomes last; each is counted.
    pub fn push(&self, lines: &[Line]) {
        let mut state = self.state();
        for line in lines {
            if !state.leaves(line, self.limit) {
                state.add(line.clone());
                self.make_room(&mut state);
            }
        }
        self.tell();
    }

    fn make_room(&self, state: &mut State) {
        while state.bytes > self.limit && state.lines.len() > 1 {
            // What is in the sink's hand stays.
            let from = state.in_hand.min(state.lines.len());
            // So does what the journal keeps: the sink counts as having been given it, and there is never more than fits.
            let is_kept = |line: &Line| state.backlog.is_some() && line.at().is_some();
            let mut others = state.lines.iter().enumerate().skip(from).filter(|(_, line)| !is_kept(line));
            let lifecycle = others.clone().find(|(_, line)| line.kind != EventKind::Ended);
            let Some((victim, _)) = lifecycle.or_else(|| others.next()) else { break };
            let Some(dropped) = state.lines.remove(victim) else { break };
            state.bytes -= dropped.text.len();
            if let Some(count) = state.dropped.get_mut(dropped.kind.index()) {
                *count += 1;
            }
            if dropped.kind == EventKind::Ended {
                self.tell_kept(state, false);
            }
            if state.warned.is_none_or(|last| last.elapsed() > Duration::from_secs(1)) {
                state.warned = Some(Instant::now());
                tracing::error!(sink = &*self.name, kind = %dropped.kind, "event dropped: events.memory_limit is reached");
            }
        }
    }

    /// Adds what was read from the journal; `before`: how far the sink had come by then.
    fn take_back(&self, state: &mut State, stream: Stream, before: Reach, lines: Vec<Line>) {
        let Some(backlog) = &mut state.backlog else { return };
        let missing = backlog.took(stream, before, lines.iter().filter_map(Line::at).map(|at| at.seq));
        if missing > 0 {
            // Nobody knows of what kind they were: they count as what matters most.
            if let Some(count) = state.dropped.get_mut(EventKind::Ended.index()) {
                *count += missing;
            }
            tracing::error!(sink = &*self.name, missing, "events are missing in the journal");
        }
        for line in lines {
            state.add(line);
        }
    }

    /// Reads on in the journal, without holding the state meanwhile.
    fn read_back<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        stream: Stream,
        before: Reach,
    ) -> (MutexGuard<'a, State>, io::Result<()>) {
        let Some(tail) = state.backlog.as_ref().map(|backlog| backlog.tail(stream, before.given)) else {
            return (state, Ok(()));
        };
        drop(state);
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let read = reader.read(tail);
        drop(reader);
        let mut state = self.state();
        let read = read.map(|lines| self.take_back(&mut state, stream, before, lines));
        if let Err(error) = &read {
            tracing::error!(sink = &*self.name, %error, "the journal cannot be read; events wait");
            state.failed += 1;
        }
        (state, read)
    }

    /// Waits for something to do. The lines stay in the queue until [`Queue::delivered`].
    pub fn next(&self) -> Next {
        let mut state = self.state();
        loop {
            if std::mem::take(&mut state.is_woken) {
                return Next::Woken;
            }
            if state.is_over() {
                return Next::Closed;
            }
            if !state.lines.is_empty() {
                let lines = state.lines.iter().take(BATCH).cloned().collect::<Vec<_>>();
                state.in_hand = lines.len();
                return Next::Lines(lines);
            }
            // What the journal keeps may be the next process's any moment.
            if state.is_closed {
                return Next::Closed;
            }
            if let Some((stream, before)) = state.backlog.as_ref().and_then(Backlog::next) {
                let read;
                (state, read) = self.read_back(state, stream, before);
                if read.is_err() {
                    let waits = |state: &mut State| !state.is_closed;
                    let waited = self.changed.wait_timeout_while(state, READ_AGAIN, waits);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                continue;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The lines that [`Queue::next`] gave are written.
    pub fn delivered(&self) {
        let mut state = self.state();
        let mut to = HashMap::new();
        for _ in 0..std::mem::take(&mut state.in_hand) {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.text.len();
                state.delivered += 1;
                to.extend(line.at().map(|at| (at.stream, at)));
            }
        }
        if let Some(backlog) = &state.backlog {
            to.into_values().for_each(|at| backlog.delivered(at));
        }
        self.tell_health(&mut state, true);
        self.tell_kept(&mut state, true);
        self.changed.notify_all();
    }

    /// They could not be written. Waits before they are tried again; false once there is no use any more.
    pub fn failed(&self, back_off: Duration) -> bool {
        let mut state = self.state();
        state.failed += 1;
        self.tell_health(&mut state, false);
        if state.is_given_up() {
            return false;
        }
        // At the end there is little time left, which is used.
        let left = state.ends.map(|ends| ends.saturating_duration_since(Instant::now()));
        let (wait, was_closed) = (left.map_or(back_off, |left| left.min(back_off)), state.is_closed);
        let waits = |state: &mut State| state.is_closed == was_closed && !state.is_woken;
        let (mut state, _) =
            self.changed.wait_timeout_while(state, wait, waits).unwrap_or_else(PoisonError::into_inner);
        // It looks up once.
        state.is_woken = false;
        !state.is_given_up()
    }

    /// Whether an attempt was a success.
    fn tell_health(&self, state: &mut State, is_well: bool) {
        if state.is_failing == is_well {
            state.is_failing = !is_well;
            if let Some(readiness) = &self.readiness {
                readiness.set_failing(&self.name, !is_well);
            }
        }
    }

    /// Whether outcomes are kept: what the journal keeps is not lost where a sink is dead.
    fn tell_kept(&self, state: &mut State, are_kept: bool) {
        if state.is_losing == are_kept
            && let (None, Some(readiness)) = (&state.backlog, &self.readiness)
        {
            state.is_losing = !are_kept;
            readiness.set_events_kept(&self.name, are_kept);
        }
    }

    /// Makes the sink look up from waiting.
    pub fn wake(&self) {
        self.state().is_woken = true;
        self.tell();
    }

    /// No more lines; those that are there may be written within this time.
    pub fn end(&self, within: Duration) {
        let mut state = self.state();
        state.is_closed = true;
        state.ends.get_or_insert(Instant::now() + within);
        drop(state);
        self.tell();
    }

    /// No more lines; waits until those that are there are written, and who writes has stopped: from here on nothing is.
    /// Returns how many were not written.
    pub fn close(&self, within: Duration) -> usize {
        self.end(within);
        let state = self.state();
        let ends = state.ends.unwrap_or_else(Instant::now);
        let state = self.wait_until(ends, state, |state| !state.lines.is_empty());
        let state = self.wait_until(ends + LAST_WRITE, state, |state| state.is_served);
        // What the journal keeps is delivered after the next start.
        state.lines.iter().filter(|line| line.is_unkept()).count()
    }

    /// Whether lines wait that no journal has.
    pub fn has_unkept(&self) -> bool {
        self.state().lines.iter().any(Line::is_unkept)
    }

    /// Lines that the journal could not take when they came, and which are still to be delivered.
    pub fn unkept(&self) -> Vec<(Unkept, Line)> {
        let state = self.state();
        // A sink of best effort has no place in the journal.
        let lines = state.lines.iter().filter(|line| state.backlog.is_some() && line.is_unkept());
        let unkept = |line: &Line| match line.keeping {
            Keeping::Memory(unkept) => Some((unkept, line.clone())),
            Keeping::Journal(_) => None,
        };
        lines.filter_map(unkept).collect()
    }

    /// The journal has taken these since: one stream of it has them alone, in their order.
    pub fn keep(&self, kept: &BTreeMap<Unkept, Position>) {
        let mut state = self.state();
        let Some((_, last)) = kept.last_key_value() else { return };
        let mut is_delivered = true;
        for line in &mut state.lines {
            if let Keeping::Memory(unkept) = line.keeping
                && let Some(at) = kept.get(&unkept)
            {
                line.keeping = Keeping::Journal(*at);
            }
            is_delivered &= line.at().is_none_or(|at| at.stream != last.stream);
        }
        // Those that this sink has delivered meanwhile are confirmed with the next one; where there is none, here.
        if let Some(backlog) = state.backlog.as_ref().filter(|_| is_delivered) {
            backlog.delivered(*last);
        }
    }

    pub fn figures(&self) -> Figures {
        let state = self.state();
        Figures {
            delivered: state.delivered,
            failed: state.failed,
            dead_lettered: state.dead_lettered,
            pending: (state.lines.len() - state.settled) as u64 + state.backlog.as_ref().map_or(0, Backlog::len),
            oldest: state.lines.front().map(|line| line.since.elapsed()).unwrap_or_default(),
        }
    }

    pub fn dropped(&self, kind: EventKind) -> u64 {
        self.state().dropped.get(kind.index()).copied().unwrap_or_default()
    }

    fn wait_until<'a>(
        &self,
        until: Instant,
        state: MutexGuard<'a, State>,
        waits: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let within = until.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout_while(state, within, |state| waits(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn tell(&self) {
        self.changed.notify_all();
        self.news.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; should it, the figures are still figures.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::ops::Deref for Service {
    type Target = Arc<Queue>;

    fn deref(&self) -> &Arc<Queue> {
        &self.0
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.0.state().is_served = false;
        self.0.tell();
    }
}

#[cfg(test)]
impl Keeping {
    pub const UNKEPT: Keeping = Keeping::Memory(Unkept { number: 0, call: Uid(0) });
}

impl Line {
    pub fn new(kind: EventKind, text: Arc<[u8]>, keeping: Keeping) -> Line {
        Line { kind, text, keeping, since: Instant::now(), is_settled: false }
    }

    /// Where the journal keeps it, if it does.
    fn at(&self) -> Option<Position> {
        match self.keeping {
            Keeping::Journal(at) => Some(at),
            Keeping::Memory(_) => None,
        }
    }

    /// It is lost where it is not delivered before the process ends.
    fn is_unkept(&self) -> bool {
        self.at().is_none() && !self.is_settled
    }
}

impl State {
    fn add(&mut self, line: Line) {
        self.bytes += line.text.len();
        self.lines.push_back(line);
    }

    /// Whether there is no time to write any more.
    fn is_over(&self) -> bool {
        self.is_closed && self.ends.is_some_and(|ends| ends <= Instant::now())
    }

    /// Whether what fails is not tried again: no time is left, or the journal keeps it for the next start.
    fn is_given_up(&self) -> bool {
        self.is_over() || self.is_closed && !self.lines.iter().any(Line::is_unkept)
    }

    /// Whether a line is left to the journal: memory is full, or earlier ones are left to it, or it was read from there.
    fn leaves(&mut self, line: &Line, limit: usize) -> bool {
        let (Some(backlog), Some(at)) = (&mut self.backlog, line.at()) else { return false };
        if backlog.has_given(at) {
            return true;
        }
        let leaves = backlog.next().is_some() || self.bytes + line.text.len() > limit;
        if leaves {
            backlog.leave(at)
        } else {
            backlog.give(at)
        }
        leaves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_from_the_journal_before_it_came_is_not_there_twice() {
        let (notes, _inbox) = std::sync::mpsc::channel();
        let mut backlog =
            Backlog::new(("/nowhere".into(), [0; 16]), "test".into(), notes, &HashMap::new(), &HashMap::new());
        let at = |seq| Position { stream: Stream { run: 1, writer: 0 }, seq };
        backlog.leave(at(1));
        let (stream, before) = backlog.next().unwrap();
        assert_eq!(backlog.took(stream, before, 1..=3), 0);
        assert_eq!((backlog.len(), backlog.next().is_some()), (0, false));
        let queue = Queue::new("test".into(), 1 << 20, None, Some(backlog));
        for seq in 2..=4 {
            let text = seq.to_string().into_bytes();
            queue.push(&[Line::new(EventKind::Ended, text.into(), Keeping::Journal(at(seq)))]);
        }
        let Next::Lines(lines) = queue.next() else { panic!("lines expected") };
        assert_eq!(lines.iter().map(|line| &*line.text).collect::<Vec<_>>(), [b"4"]);
    }

    #[test]
    fn what_the_journal_has_lost_is_counted_and_what_comes_meanwhile_is_not() {
        let (notes, _inbox) = std::sync::mpsc::channel();
        let held = HashMap::from([(Stream { run: 1, writer: 0 }, vec![1, 2, 5])]);
        let journal = ("/nowhere".into(), [0; 16]);
        let mut backlog = Backlog::new(journal, "test".into(), notes, &HashMap::new(), &held);
        let at = |seq| Position { stream: Stream { run: 1, writer: 0 }, seq };
        let (stream, before) = backlog.next().unwrap();
        backlog.leave(at(6));
        assert_eq!(backlog.len(), 4);
        assert_eq!(backlog.took(stream, before, []), 3, "nothing was there; 6 has come since");
        let (stream, before) = backlog.next().unwrap();
        assert_eq!((before.given, backlog.len()), (5, 1));
        backlog.leave(at(8));
        assert_eq!(backlog.took(stream, before, [8]), 1, "6 is lost");
        assert_eq!((backlog.len(), backlog.next().is_some()), (0, false));
        backlog.leave(at(9));
        let (stream, before) = backlog.next().unwrap();
        let queue = Queue::new("test".into(), 1 << 20, None, Some(backlog));
        queue.take_back(&mut queue.state(), stream, before, Vec::new());
        assert_eq!((queue.dropped(EventKind::Ended), queue.figures().pending), (1, 0));
    }

    #[test]
    fn beyond_the_limit_lifecycle_events_go_first_and_outcomes_last() {
        let queue = Queue::new("test".into(), 12, None, None);
        let push = |kind, text: &str| queue.push(&[Line::new(kind, text.as_bytes().into(), Keeping::UNKEPT)]);
        for (kind, text) in [(EventKind::Ended, "aaaa"), (EventKind::Ringing, "bbbb"), (EventKind::Ended, "cccc")] {
            push(kind, text);
        }
        push(EventKind::Ended, "dddd");
        assert_eq!(queue.dropped(EventKind::Ringing), 1);
        push(EventKind::Ended, "eeee");
        assert_eq!(queue.dropped(EventKind::Ended), 1);
        let Next::Lines(lines) = queue.next() else { panic!("lines expected") };
        assert_eq!(lines.iter().map(|line| &*line.text).collect::<Vec<_>>(), [b"cccc", b"dddd", b"eeee"]);
        queue.delivered();
        assert_eq!(queue.figures().delivered, 3);
        assert_eq!(queue.close(Duration::ZERO), 0);
    }

    /// Which happens where the journal could not be written for a while and its sink is dead too.
    #[test]
    fn beyond_the_limit_what_the_journal_keeps_does_not_make_room_for_what_it_does_not() {
        let stream = Stream { run: 1, writer: 0 };
        let (notes, noted) = std::sync::mpsc::channel();
        let backlog =
            Backlog::new(("/nowhere".into(), [0; 16]), "test".into(), notes, &HashMap::new(), &HashMap::new());
        let queue = Queue::new("test".into(), 12, None, Some(backlog));
        let push = |text: &str, seq: Option<u64>| {
            let keeping = seq.map_or(Keeping::UNKEPT, |seq| Keeping::Journal(Position { stream, seq }));
            queue.push(&[Line::new(EventKind::Ended, text.as_bytes().into(), keeping)]);
        };
        for (text, seq) in [("kept", Some(1)), ("lost", None), ("more", Some(2)), ("last", None)] {
            push(text, seq);
        }
        assert_eq!(queue.dropped(EventKind::Ended), 1);
        let Next::Lines(lines) = queue.next() else { panic!("lines expected") };
        assert_eq!(lines.iter().map(|line| &*line.text).collect::<Vec<_>>(), [b"kept", b"more", b"last"]);
        queue.delivered();
        let Ok(crate::journal::Note::Delivered { to, .. }) = noted.recv() else { panic!("a note expected") };
        assert_eq!(to, Position { stream, seq: 2 });
    }

    #[test]
    fn once_closed_what_the_journal_keeps_is_left_to_the_next_start() {
        let directory = std::env::temp_dir().join(format!("sipstamp-closed-queue-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (notes, _inbox) = std::sync::mpsc::channel();
        let held = HashMap::from([(Stream { run: 1, writer: 0 }, vec![1, 2])]);
        let backlog = Backlog::new((directory.clone(), [0; 16]), "test".into(), notes, &HashMap::new(), &held);
        let queue = Queue::new("test".into(), 1 << 20, None, Some(backlog));
        queue.end(Duration::from_secs(3600));
        assert!(matches!(queue.next(), Next::Closed));
        assert_eq!((queue.dropped(EventKind::Ended), queue.figures().pending), (0, 2), "it was not even read");
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn once_its_time_is_over_what_waits_is_not_written_any_more() {
        let queue = Queue::new("test".into(), 1 << 20, None, None);
        queue.push(&[Line::new(EventKind::Ended, b"late".as_slice().into(), Keeping::UNKEPT)]);
        assert_eq!(queue.close(Duration::ZERO), 1);
        assert!(matches!(queue.next(), Next::Closed));
    }

    #[test]
    fn what_nobody_else_keeps_is_tried_again_for_as_long_as_there_is_time_at_the_end() {
        for (keeping, is_tried) in [
            (Keeping::UNKEPT, true),
            (Keeping::Journal(Position { stream: Stream { run: 1, writer: 0 }, seq: 1 }), false),
        ] {
            let queue = Queue::new("test".into(), 1 << 20, None, None);
            queue.push(&[Line::new(EventKind::Ended, b"last".as_slice().into(), keeping)]);
            assert!(matches!(queue.next(), Next::Lines(_)));
            queue.end(Duration::from_millis(100));
            assert_eq!(queue.failed(Duration::from_millis(1)), is_tried);
            // No longer than there is time.
            assert!(!queue.failed(Duration::from_secs(3600)));
        }
    }

    #[test]
    fn who_is_woken_while_it_fails_waits_again_after_that() {
        let queue = Queue::new("test".into(), 1 << 20, None, None);
        let wait = Duration::from_millis(20);
        queue.wake();
        assert!(queue.failed(Duration::from_secs(3600)), "woken");
        let before = Instant::now();
        assert!(queue.failed(wait));
        assert!(before.elapsed() >= wait);
    }

    #[test]
    fn outcomes_are_kept_when_no_sink_loses_any() {
        let readiness = Readiness::new();
        readiness.set_ready();
        let [well, dead] =
            ["file", "webhook:crm"].map(|name| Queue::new(name.into(), 8, Some(readiness.clone()), None));
        let push = |text: &str| {
            let line = Line::new(EventKind::Ended, text.as_bytes().into(), Keeping::UNKEPT);
            [&well, &dead].iter().for_each(|queue| queue.push(std::slice::from_ref(&line)));
        };
        let deliver = |queue: &Queue| {
            assert!(matches!(queue.next(), Next::Lines(_)));
            queue.delivered();
        };
        for text in ["aaaa", "bbbb", "cccc"] {
            push(text);
            deliver(&well);
        }
        assert_eq!((well.dropped(EventKind::Ended), dead.dropped(EventKind::Ended)), (0, 1));
        assert!(readiness.check().unwrap_err().starts_with("events"), "one of them loses outcomes");
        deliver(&dead);
        assert_eq!(readiness.check(), Ok(()));
    }

    #[test]
    fn what_the_journal_takes_late_is_confirmed_to_it_when_it_is_delivered() {
        let stream = Stream { run: 1, writer: 1 };
        let (notes, noted) = std::sync::mpsc::channel();
        let queue = |name: &str| {
            let journal = ("/nowhere".into(), [0; 16]);
            let backlog = Backlog::new(journal, name.into(), notes.clone(), &HashMap::new(), &HashMap::new());
            Queue::new(name.into(), 1 << 20, None, Some(backlog))
        };
        let (done, half, dead) = (queue("done"), queue("half"), queue("dead"));
        let best_effort = Queue::new("stdout".into(), 1 << 20, None, None);
        let unkept = |number| Unkept { number, call: Uid(7) };
        let lines = [1, 2, 3].map(|number| {
            let text = number.to_string().into_bytes().into();
            Line::new(EventKind::Ended, text, Keeping::Memory(unkept(number)))
        });
        for queue in [&done, &dead, &best_effort] {
            queue.push(&lines);
        }
        half.push(&lines[..1]);
        let deliver = |queue: &Queue| {
            let Next::Lines(lines) = queue.next() else { panic!("lines expected") };
            queue.delivered();
            lines.len()
        };
        assert_eq!((deliver(&done), deliver(&half)), (3, 1));
        half.push(&lines[1..]);
        let pending = |queue: &Queue| queue.unkept().iter().map(|(unkept, _)| unkept.number).collect::<Vec<_>>();
        assert_eq!([&done, &half, &dead, &best_effort].map(pending), [vec![], vec![2, 3], vec![1, 2, 3], vec![]]);
        let kept = (1..=3).map(|number| (unkept(number), Position { stream, seq: 10 + number })).collect();
        for queue in [&done, &half, &dead, &best_effort] {
            queue.keep(&kept);
        }
        let confirmed = || {
            let Ok(crate::journal::Note::Delivered { sink, to }) = noted.try_recv() else { return None };
            Some((sink.to_string(), to.seq))
        };
        assert_eq!((confirmed(), confirmed()), (Some(("done".to_owned(), 13)), None));
        assert_eq!([&half, &dead].map(|queue| (queue.has_unkept(), queue.unkept().len())), [(false, 0); 2]);
        assert_eq!(deliver(&half), 2);
        assert_eq!((confirmed(), confirmed()), (Some(("half".to_owned(), 13)), None));
    }
}
