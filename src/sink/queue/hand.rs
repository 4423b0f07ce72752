//! Lines of which a sink has many in hand, each settled by itself, in any order: one that its receiver refuses holds up
//! no other. What is confirmed to the journal is what lies before the oldest line that is not settled.
//!
//! A sink takes lines either this way or in batches, by [`Queue::next`].

use std::collections::HashMap;
use std::io;
use std::time::Instant;

use super::super::backlog::Backlog;
use super::{Line, Queue};

/// Lines that a sink may be ahead of the oldest that is not settled. It bounds what comes again after a crash, and the
/// memory for remembering it, 64 bytes a line. What lies beyond waits: `sipstamp_events_pending` shows it.
const AHEAD: usize = 65_536;

/// A line in a sink's hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(in crate::sink) u64);

/// What has become of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    Delivered,
    /// It lies in the sink's file of dead letters.
    DeadLettered,
    /// Given up.
    Dropped,
}

impl Queue {
    /// Takes up to so many lines more, without waiting.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub fn take(&self, most: usize) -> io::Result<Vec<(Ticket, Line)>> {
        let mut state = self.state();
        let most = most.min(AHEAD.saturating_sub(state.in_hand));
        while most > 0 && state.lines.len() == state.in_hand && !state.is_closed {
            let Some((stream, before)) = state.backlog.as_ref().and_then(Backlog::next) else { break };
            let read;
            (state, read) = self.read_back(state, stream, before);
            read?;
        }
        let first = state.first + state.in_hand as u64;
        let lines = state.lines.iter().skip(state.in_hand).take(most).cloned();
        let lines = (first..).map(Ticket).zip(lines).collect::<Vec<_>>();
        state.in_hand += lines.len();
        Ok(lines)
    }

    /// A line is done with.
    pub fn settle(&self, ticket: Ticket, how: Settled) {
        let mut guard = self.state();
        let state = &mut *guard;
        let index = ticket.0.checked_sub(state.first).and_then(|index| usize::try_from(index).ok());
        let line = index.filter(|index| *index < state.in_hand).and_then(|index| state.lines.get_mut(index));
        let Some(line) = line.filter(|line| !line.is_settled) else { return };
        line.is_settled = true;
        state.settled += 1;
        state.bytes -= line.text.len();
        line.text = Default::default();
        match how {
            Settled::Delivered => state.delivered += 1,
            Settled::DeadLettered => state.dead_lettered += 1,
            Settled::Dropped => {
                if let Some(count) = state.dropped.get_mut(line.kind.index()) {
                    *count += 1;
                }
            }
        }
        let mut to = HashMap::new();
        while state.lines.front().is_some_and(|line| line.is_settled) {
            if let Some(line) = state.lines.pop_front() {
                to.extend(line.at().map(|at| (at.stream, at)));
            }
            state.in_hand -= 1;
            state.settled -= 1;
            state.first += 1;
        }
        if let Some(backlog) = &state.backlog {
            to.into_values().for_each(|at| backlog.delivered(at));
        }
        if how == Settled::Delivered {
            self.tell_health(state, true);
        }
        // In the file of dead letters it is kept too; a receiver that is gone for good keeps nobody from taking calls.
        self.tell_kept(state, true);
        if state.lines.is_empty() {
            self.changed.notify_all();
        }
    }

    /// Counts an attempt that has failed.
    pub fn count_failed(&self) {
        let mut state = self.state();
        state.failed += 1;
        self.tell_health(&mut state, false);
    }

    /// Waits until there may be lines to take, or the end has come nearer.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Once no more lines come: until when those that are there may be delivered. It is over at once when none is.
    pub fn ends(&self) -> Option<Instant> {
        let state = self.state();
        let now = Instant::now();
        state.is_closed.then(|| if state.lines.is_empty() { now } else { state.ends.unwrap_or(now) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::super::Keeping;
    use super::*;
    use crate::event::EventKind;
    use crate::journal::segment::Stream;
    use crate::journal::{Cursors, Note, Position};

    const STREAM: Stream = Stream { run: 1, writer: 0 };

    fn line(seq: u64) -> Line {
        Line::new(
            EventKind::Ended,
            seq.to_string().into_bytes().into(),
            Keeping::Journal(Position { stream: STREAM, seq }),
        )
    }

    #[test]
    fn what_is_confirmed_lies_before_the_oldest_that_is_not_settled() {
        let (notes, inbox) = channel();
        let backlog =
            Backlog::new(("/nowhere".into(), [0; 16]), "webhook:a".into(), notes, &Cursors::new(), &HashMap::new());
        let queue = Queue::new("webhook:a".into(), 1 << 20, None, Some(backlog));
        queue.push(&[line(1), line(2), line(3)]);
        let first = queue.take(2).unwrap();
        assert_eq!(first.iter().map(|(_, line)| &*line.text).collect::<Vec<_>>(), [b"1", b"2"]);
        queue.push(&[line(4)]);
        let more = queue.take(10).unwrap();
        assert_eq!(more.iter().map(|(_, line)| &*line.text).collect::<Vec<_>>(), [b"3", b"4"]);
        assert!(queue.take(10).unwrap().is_empty());

        let confirmed = || {
            inbox.try_iter().map(|note| match note {
                Note::Delivered { to, .. } => to.seq,
                note => panic!("{note:?}"),
            })
        };
        let of = |index: usize| first.iter().chain(&more).nth(index).unwrap().0;
        queue.settle(of(1), Settled::Delivered);
        queue.settle(of(1), Settled::Delivered);
        queue.settle(of(3), Settled::Dropped);
        assert_eq!(confirmed().count(), 0);
        let Figures { delivered, pending, .. } = queue.figures();
        assert_eq!((delivered, pending, queue.dropped(EventKind::Ended)), (1, 2, 1));
        queue.settle(of(0), Settled::Delivered);
        assert_eq!(confirmed().collect::<Vec<_>>(), [2]);
        queue.settle(of(2), Settled::DeadLettered);
        assert_eq!(confirmed().collect::<Vec<_>>(), [4]);
        let Figures { delivered, dead_lettered, pending, .. } = queue.figures();
        assert_eq!((delivered, dead_lettered, pending), (2, 1, 0));
        assert_eq!(queue.close(Duration::ZERO), 0);
    }

    #[test]
    fn what_is_settled_out_of_turn_is_not_left_behind_at_the_end() {
        let queue = Queue::new("webhook:a".into(), 1 << 20, None, None);
        let line = |text: &str| Line::new(EventKind::Ended, text.as_bytes().into(), Keeping::UNKEPT);
        queue.push(&[line("a"), line("b"), line("c")]);
        let taken = queue.take(2).unwrap();
        queue.settle(taken[1].0, Settled::Delivered);
        assert_eq!(queue.close(Duration::ZERO), 2);
        assert!(queue.ends().is_some());
    }

    use super::super::Figures;
}
