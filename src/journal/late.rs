//! Events that came while a worker could not write them.
//!
//! They lie in memory, where sinks take them as any others. Once all workers write again, those that a sink has still to
//! deliver are written into a stream of their own, as the workers' open calls are into theirs; only then does the journal
//! hold all that it ought to.

use std::sync::Arc;

use super::Shared;
use super::frame::Kind;
use super::writer::{Position, Writer};
use crate::call::Uid;
use crate::event::EventKind;

/// Events that are written with one call.
const AT_ONCE: usize = 256;

/// Writes late events.
#[derive(Debug)]
pub struct Late {
    pub(super) writer: Writer,
    shared: Arc<Shared>,
}

/// An event to be written.
#[derive(Clone, Copy, Debug)]
pub struct LateEvent<'a> {
    pub call: Uid,
    pub kind: EventKind,
    pub line: &'a [u8],
}

/// Every worker writes again; how often one had failed by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due(pub(super) u64);

impl Late {
    pub(super) fn new(mut writer: Writer, shared: Arc<Shared>) -> Late {
        if writer.begins_all() {
            // Its stream is one of those in which nothing is open.
            writer.ends_all();
        }
        Late { writer, shared }
    }

    pub(super) fn number(&self) -> u32 {
        self.writer.number()
    }

    /// Whether late events are to be written: all that there will be have been handed over by now.
    pub fn due(&mut self) -> Option<Due> {
        self.writer.leave_lost();
        if !self.writer.has_segment() {
            return None;
        }
        self.shared.late_due(self.number())
    }

    /// Writes those that are not delivered. Returns where they lie: all of them, or the first ones where it fails, and then
    /// it is due again once it can succeed.
    pub fn write<'a>(&mut self, due: Due, events: impl IntoIterator<Item = LateEvent<'a>>) -> Vec<Position> {
        let (mut written, mut pushed) = (Vec::new(), Vec::new());
        self.writer.owe_all();
        if !self.writer.begins_all() {
            return written;
        }
        for LateEvent { call, kind, line } in events {
            let Some(at) = self.writer.push(Kind::Event, call.0, &[&[kind.index() as u8], line]) else {
                return written;
            };
            pushed.push(at);
            if pushed.len() >= AT_ONCE {
                if !self.writer.flush() {
                    return written;
                }
                written.append(&mut pushed);
            }
        }
        if !self.writer.flush() {
            return written;
        }
        written.append(&mut pushed);
        if self.writer.ends_all() {
            self.shared.late_written(self.number(), due);
        }
        written
    }
}
