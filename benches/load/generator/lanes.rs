//! What is due later. Every wait of a kind is equally long, so each kind is a queue.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Times that a message is sent again at most, RFC 3261 §17.1.
const STEPS: usize = 10;

/// What is to be done for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// The server answers.
    Answer,
    /// The dialer hangs up.
    HangUp,
    /// The INVITE is sent again (timer A), the n-th time, or given up (timer B).
    InviteAgain(u8),
    /// The same for the 200 that no ACK came for (§13.3.1.4).
    AnswerAgain(u8),
    /// The same for BYE (timers E and F).
    ByeAgain(u8),
    /// Nothing can come for it any more.
    Forget,
}

/// How long things take.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    pub ring: Duration,
    pub talk: Duration,
    pub t1: Duration,
    /// How long an ended call answers what is repeated.
    pub linger: Duration,
}

/// Everything that is due.
#[derive(Debug)]
pub struct Lanes {
    waits: Waits,
    lanes: Vec<VecDeque<(Instant, u32)>>,
}

impl Due {
    fn lane(self) -> usize {
        match self {
            Due::Answer => 0,
            Due::HangUp => 1,
            Due::Forget => 2,
            Due::InviteAgain(step) => 3 + usize::from(step),
            Due::AnswerAgain(step) => 4 + STEPS + usize::from(step),
            Due::ByeAgain(step) => 5 + 2 * STEPS + usize::from(step),
        }
    }

    fn of_lane(lane: usize) -> Due {
        let step = |first: usize| u8::try_from(lane - first).unwrap_or(0);
        match lane {
            0 => Due::Answer,
            1 => Due::HangUp,
            2 => Due::Forget,
            _ if lane < 4 + STEPS => Due::InviteAgain(step(3)),
            _ if lane < 5 + 2 * STEPS => Due::AnswerAgain(step(4 + STEPS)),
            _ => Due::ByeAgain(step(5 + 2 * STEPS)),
        }
    }

    /// The same again after one more try; `None` when it is time to give up.
    pub fn next(self) -> Option<Due> {
        match self {
            // 64 × T1 have passed after waits of 1, 2, 4, … 32 and 1.
            Due::InviteAgain(step) if step < 6 => Some(Due::InviteAgain(step + 1)),
            // And after 1, 2, 4 and then 8 at a time.
            Due::AnswerAgain(step) if usize::from(step) < STEPS => Some(Due::AnswerAgain(step + 1)),
            Due::ByeAgain(step) if usize::from(step) < STEPS => Some(Due::ByeAgain(step + 1)),
            _ => None,
        }
    }
}

impl Lanes {
    pub fn new(waits: Waits) -> Lanes {
        Lanes { waits, lanes: vec![VecDeque::new(); Due::ByeAgain(0).lane() + STEPS + 1] }
    }

    pub fn wait(&self, due: Due) -> Duration {
        let Waits { ring, talk, t1, linger } = self.waits;
        match due {
            Due::Answer => ring,
            Due::HangUp => talk,
            Due::Forget => linger,
            Due::InviteAgain(6) => t1,
            Due::InviteAgain(step) => t1 * (1 << step),
            Due::AnswerAgain(step) | Due::ByeAgain(step) => t1 * (1 << step.min(3)),
        }
    }

    pub fn push(&mut self, now: Instant, due: Due, number: u32) {
        let at = now + self.wait(due);
        self.lanes[due.lane()].push_back((at, number));
    }

    /// The next thing that is due.
    pub fn pop(&mut self, now: Instant) -> Option<(Due, u32)> {
        for (lane, queue) in self.lanes.iter_mut().enumerate() {
            if queue.front().is_some_and(|(at, _)| *at <= now) {
                return queue.pop_front().map(|(_, number)| (Due::of_lane(lane), number));
            }
        }
        None
    }

    pub fn next(&self) -> Option<Instant> {
        self.lanes.iter().filter_map(|queue| queue.front()).map(|(at, _)| *at).min()
    }
}
