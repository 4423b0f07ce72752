//! `[timeouts]`: ranges, and what must fit together.

use std::time::Duration;

use super::Checker;
use crate::config::key::Key;
use crate::config::units::Written;
use crate::config::written;
use crate::policy::Timeouts;

/// Below this several regulators take an outbound call for not offered at all.
const SHORTEST_RINGING: Duration = Duration::from_secs(15);
/// Bound of what has no range of its own.
const DAY: Duration = Duration::from_secs(24 * 3600);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const MILLISECOND: Duration = Duration::from_millis(1);

impl Checker<'_> {
    pub(super) fn timeouts(&mut self, written: &written::Timeouts, servers: usize) -> Timeouts {
        let default = Timeouts::default();
        let three_minutes = 3 * MINUTE;
        let timeouts = Timeouts {
            no_answer: self.duration(
                &written.no_answer,
                "timeouts.no_answer",
                SECOND..=three_minutes,
                default.no_answer,
            ),
            no_answer_header: match written.no_answer_header.given("timeouts.no_answer_header") {
                None => default.no_answer_header,
                Some(given) if given.text.is_empty() => None,
                Some(given) => self.own_header(&given),
            },
            progress: self.duration(&written.progress, "timeouts.progress", SECOND..=MINUTE, default.progress),
            cancel_grace: self.duration(
                &written.cancel_grace,
                "timeouts.cancel_grace",
                Duration::ZERO..=32 * SECOND,
                default.cancel_grace,
            ),
            auth_retry_window: self.duration(
                &written.auth_retry_window,
                "timeouts.auth_retry_window",
                SECOND..=2 * MINUTE,
                default.auth_retry_window,
            ),
            max_duration: self.duration(
                &written.max_duration,
                "timeouts.max_duration",
                MINUTE..=DAY,
                default.max_duration,
            ),
            dialer_ring_timeout: self.optional_duration(
                &written.dialer_ring_timeout,
                "timeouts.dialer_ring_timeout",
                SECOND..=three_minutes,
            ),
            t1: self.duration(&written.t1, "timeouts.t1", 50 * MILLISECOND..=2 * SECOND, default.t1),
            t2: self.duration(&written.t2, "timeouts.t2", MILLISECOND..=DAY, default.t2),
            t4: self.duration(&written.t4, "timeouts.t4", MILLISECOND..=DAY, default.t4),
            timer_c: self.duration(&written.timer_c, "timeouts.timer_c", MILLISECOND..=DAY, default.timer_c),
        };
        self.in_order(("t1", &written.t1, timeouts.t1), ("t2", &written.t2, timeouts.t2));
        let no_answer = ("no_answer", &written.no_answer, timeouts.no_answer);
        self.in_order(no_answer, ("timer_c", &written.timer_c, timeouts.timer_c));
        self.doubts(written, &timeouts, servers);
        timeouts
    }

    /// The second must not be below the first. Says so where both are sound and the user wrote at least one.
    fn in_order(&mut self, low: (&str, &Key<String>, Duration), high: (&str, &Key<String>, Duration)) {
        let ((low_name, low_key, low), (high_name, high_key, high)) = (low, high);
        if high >= low {
            return;
        }
        let (at, other) = match high_key.at() {
            Some(at) => (Some(at), low_key.at()),
            None => (low_key.at(), None),
        };
        let title = format!("`timeouts.{high_name}` ({}) must not be below `{low_name}`", Written(high));
        self.report.mistake(at, title).also(other, format!("{low_name} is {}", Written(low)));
    }

    fn doubts(&mut self, written: &written::Timeouts, timeouts: &Timeouts, servers: usize) {
        let no_answer = timeouts.no_answer;
        if no_answer < SHORTEST_RINGING {
            let title = format!("`timeouts.no_answer` is {}", Written(no_answer));
            self.report
                .warning(written.no_answer.at(), title)
                .help("several regulators require that an outbound call rings for at least 15s");
        }
        if servers > 1 && timeouts.progress >= no_answer {
            let title = format!("`timeouts.progress` ({}) is not below `no_answer`", Written(timeouts.progress));
            self.report
                .warning(written.progress.at().or(written.no_answer.at()), title)
                .help("a call to a server that is silent will never be tried at another one");
        }
        if let Some(ring) = timeouts.dialer_ring_timeout.filter(|&ring| ring >= no_answer) {
            let title = format!("`timeouts.dialer_ring_timeout` ({}) is not below `no_answer`", Written(ring));
            self.report
                .warning(written.dialer_ring_timeout.at(), title)
                .help("the no-answer timer will always be first, unless the dialer overrides it");
        }
    }
}
