//! What happened lately: the newest ended calls, and each event as it comes for whoever listens.
//!
//! One thread pushes, the admin API reads. Nothing here ever makes the pusher wait for a reader: a
//! listener that is too slow loses the oldest events and is told how many.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

use crate::event::{CallData, CallState, CallView, EventKind, Names, data_of};
use crate::flow::Direction;

/// How many ended calls are kept, unless a test wants fewer.
pub const CAPACITY: usize = 1_000;
/// How many events a listener may be behind before it misses some.
pub(crate) const BACKLOG: usize = 1_024;

/// The newest ended calls and the feed of events; clones share both.
#[derive(Clone, Debug)]
pub struct Recent {
    capacity: usize,
    state: Arc<Mutex<State>>,
}

/// An event as the sinks write it.
#[derive(Clone, Debug)]
pub struct Told {
    pub kind: EventKind,
    /// The CloudEvent in its JSON form, one line without the line feed.
    pub line: Arc<[u8]>,
    /// Where the line has them masked.
    pub names: Option<Arc<Names>>,
}

impl Told {
    /// What it says of the call; `None` does not occur.
    pub fn data(&self) -> Option<CallData> {
        data_of(&self.line).ok()
    }
}

/// A call that has ended, and its names where they are masked in it.
type Ended = (CallData, Option<Arc<Names>>);

#[derive(Debug)]
struct State {
    /// Oldest first.
    ended: VecDeque<Told>,
    /// `None` once closed.
    feed: Option<broadcast::Sender<Told>>,
}

impl Recent {
    /// Keeps the last `capacity` ended calls.
    pub fn new(capacity: usize) -> Recent {
        let state = State { ended: VecDeque::with_capacity(capacity), feed: Some(broadcast::Sender::new(BACKLOG)) };
        Recent { capacity, state: Arc::new(Mutex::new(state)) }
    }

    /// Takes an event that the sinks get too: hands it to who listens, and keeps it if it ends a call.
    pub fn push(&self, told: Told) {
        let mut state = self.state();
        if told.kind == EventKind::Ended {
            while state.ended.len() >= self.capacity.max(1) {
                state.ended.pop_front();
            }
            state.ended.push_back(told.clone());
        }
        if let Some(feed) = &state.feed {
            // An error only says that nobody listens.
            let _ = feed.send(told);
        }
    }

    /// Every event from here on. After [`Recent::close`] it ends at once.
    pub fn subscribe(&self) -> broadcast::Receiver<Told> {
        match &self.state().feed {
            Some(feed) => feed.subscribe(),
            None => broadcast::channel(1).1,
        }
    }

    /// Ends the feed: listeners get what was pushed, then the end. Ended calls can still be asked for.
    pub fn close(&self) {
        self.state().feed = None;
    }

    /// The newest ended call with this call_uid, else with this Call-ID or correlation.
    pub fn find(&self, id: &str) -> Option<CallView> {
        let calls = self.newest_first();
        let is_named = |(data, names): &&Ended| {
            let is_shown = data.call_id == id || data.correlation.as_deref() == Some(id);
            is_shown || names.as_ref().is_some_and(|names| names.have(id))
        };
        let found = calls.iter().find(|(data, _)| data.call_uid == id).or_else(|| calls.iter().find(is_named));
        found.map(|(data, _)| view(data.clone()))
    }

    /// The calls that ended last, newest first.
    pub fn newest(&self, limit: usize) -> Vec<CallView> {
        let newest: Vec<Told> = self.state().ended.iter().rev().take(limit).cloned().collect();
        newest.iter().filter_map(Told::data).map(view).collect()
    }

    /// Ended calls in the order of their call_uid, from behind `after` on.
    pub fn page(&self, direction: Option<Direction>, after: Option<&str>, limit: usize) -> Vec<CallView> {
        let is_wanted = |data: &CallData| {
            direction.is_none_or(|wanted| data.direction == wanted)
                && after.is_none_or(|after| data.call_uid.as_str() > after)
        };
        let mut calls: Vec<CallData> =
            self.newest_first().into_iter().map(|(data, _)| data).filter(is_wanted).collect();
        calls.sort_by(|one, other| one.call_uid.cmp(&other.call_uid));
        calls.into_iter().take(limit).map(view).collect()
    }

    /// Every ended call, read off its line: who asks pays for it, not who pushes.
    fn newest_first(&self) -> Vec<Ended> {
        let ended: Vec<Told> = self.state().ended.iter().rev().cloned().collect();
        ended.into_iter().filter_map(|told| Some((told.data()?, told.names))).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave the ring half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Recent {
    fn default() -> Recent {
        Recent::new(CAPACITY)
    }
}

fn view(data: CallData) -> CallView {
    CallView { state: CallState::Ended, data }
}

#[cfg(test)]
pub(crate) mod tests {
    use tokio::sync::broadcast::error::TryRecvError;

    use super::*;
    use crate::flow::Transport;
    use crate::outcome::{CodeSource, EndCause, EndedBy, Outcome};
    use crate::time::Wall;

    /// A call that nobody answered.
    pub(crate) fn call_data(uid: &str, call_id: &str) -> CallData {
        CallData {
            call_uid: uid.into(),
            call_id: call_id.into(),
            parent_call_uid: None,
            direction: Direction::Outbound,
            dialing_mode: None,
            outcome: Some(Outcome::NoAnswer),
            sip_code: None,
            code_source: Some(CodeSource::None),
            reason_phrase: None,
            end_cause: Some(EndCause::NoAnswerTimer),
            blocked: false,
            q850: None,
            progress_q850: None,
            reason: Vec::new(),
            rule: None,
            disposition: None,
            next: None,
            from: Some("+15550100".into()),
            to: Some("+15550199".into()),
            request_user: Some("+15550199".into()),
            from_tag: Some("9fxced76sl".into()),
            to_tag: None,
            correlation: Some(format!("correlation of {call_id}")),
            labels: Default::default(),
            server: Some("pbx-a".into()),
            transport: Transport::Udp,
            attempts: Vec::new(),
            had_ringing: true,
            had_early_media: false,
            started_at: Wall(1_795_428_000_000_000),
            ringing_at: Some(Wall(1_795_428_000_812_000)),
            answered_at: None,
            ended_at: Some(Wall(1_795_428_030_002_000)),
            post_dial_delay_ms: Some(812),
            ring_ms: Some(29_190),
            answer_delay_ms: None,
            talk_ms: None,
            ended_by: Some(EndedBy::Sidecar),
            anomalies: Vec::new(),
        }
    }

    fn line(kind: EventKind, data: &CallData) -> String {
        serde_json::json!({ "id": format!("{}/{kind}", data.call_uid), "data": data }).to_string()
    }

    /// Tells `recent` that a call has ended.
    pub(crate) fn push_ended(recent: &Recent, data: CallData) {
        let line = line(EventKind::Ended, &data).into_bytes().into();
        recent.push(Told { kind: EventKind::Ended, line, names: None });
    }

    fn uids(calls: &[CallView]) -> Vec<&str> {
        calls.iter().map(|call| call.data.call_uid.as_str()).collect()
    }

    #[test]
    fn the_ring_keeps_the_newest() {
        let recent = Recent::new(2);
        for uid in ["A", "B", "C"] {
            push_ended(&recent, call_data(uid, uid));
        }
        assert_eq!(uids(&recent.newest(10)), ["C", "B"]);
        assert_eq!(uids(&recent.newest(1)), ["C"]);
        assert!(recent.find("A").is_none());
    }

    #[test]
    fn a_call_is_found_by_uid_before_call_id_and_correlation_and_the_newest_wins() {
        let recent = Recent::new(10);
        push_ended(&recent, call_data("A", "same"));
        push_ended(&recent, call_data("B", "same"));
        push_ended(&recent, call_data("C", "A"));
        let found = |id: &str| recent.find(id).map(|call| call.data.call_uid);
        assert_eq!(found("A").as_deref(), Some("A"));
        assert_eq!(found("same").as_deref(), Some("B"));
        assert_eq!(found("correlation of same").as_deref(), Some("B"));
        assert_eq!(found("nobody"), None);
    }

    #[test]
    fn a_call_is_found_by_names_that_it_does_not_show() {
        let recent = Recent::new(10);
        let told = |uid, names| Told {
            kind: EventKind::Ended,
            line: line(EventKind::Ended, &call_data(uid, "******00")).into_bytes().into(),
            names,
        };
        let names = Names { call_id: "15550100".into(), correlation: Some("lead 15550100".into()) };
        recent.push(told("A", Some(Arc::new(names))));
        recent.push(told("B", None));
        let found = |id: &str| recent.find(id).map(|call| call.data.call_uid);
        assert_eq!(found("15550100").as_deref(), Some("A"));
        assert_eq!(found("lead 15550100").as_deref(), Some("A"));
        assert_eq!(found("******00").as_deref(), Some("B"));
        assert_eq!(found("15550101"), None);
    }

    #[test]
    fn a_page_goes_by_uid_from_behind_the_cursor() {
        let recent = Recent::new(10);
        for uid in ["C", "A", "D", "B"] {
            push_ended(&recent, call_data(uid, uid));
        }
        let inbound = CallData { direction: Direction::Inbound, ..call_data("AA", "AA") };
        push_ended(&recent, inbound);
        assert_eq!(uids(&recent.page(None, None, 2)), ["A", "AA"]);
        assert_eq!(uids(&recent.page(None, Some("AA"), 2)), ["B", "C"]);
        assert_eq!(uids(&recent.page(Some(Direction::Inbound), None, 9)), ["AA"]);
    }

    #[test]
    fn only_ended_calls_are_kept_but_all_events_are_fed() {
        let recent = Recent::new(10);
        let mut feed = recent.subscribe();
        recent.push(Told { kind: EventKind::Ringing, line: b"line".as_slice().into(), names: None });
        assert_eq!(&*feed.try_recv().unwrap().line, b"line");
        assert!(recent.newest(10).is_empty());
    }

    #[test]
    fn closing_delivers_what_was_pushed_and_then_the_end() {
        let recent = Recent::new(10);
        let mut feed = recent.subscribe();
        push_ended(&recent, call_data("A", "a"));
        recent.close();
        assert_eq!(feed.try_recv().unwrap().data().unwrap().call_uid, "A");
        assert_eq!(feed.try_recv().unwrap_err(), TryRecvError::Closed);
        assert_eq!(recent.subscribe().try_recv().unwrap_err(), TryRecvError::Closed);
        assert!(recent.find("A").is_some());
    }
}
