//! Which server a request goes to: priority, weight, and what servers have said about themselves.

use std::time::Duration;

use smallvec::SmallVec;

use crate::policy::{Policy, Server, ServerId};
use crate::time::Mono;
use crate::transaction::Keyring;

/// Shortest and longest time for which a Retry-After keeps a server at the end of the list: a server
/// may neither be asked again at once nor talk itself out of service.
pub const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// For how long it is known that a server is not there: who asks whether calls make sense is told so no longer, or no call
/// would ever show that it is back.
const KNOWN_FOR: Duration = Duration::from_secs(32);

/// What calls have shown of a server.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerHealth {
    /// When it could not be reached or said nothing at all, and nothing was heard since.
    failed_at: Option<Mono>,
    /// When it answered last.
    heard_at: Option<Mono>,
    /// It asked to be left alone until then.
    pub retry_after: Option<Mono>,
}

impl ServerHealth {
    /// It answered 503 with Retry-After, in seconds.
    pub fn on_retry_after(&mut self, now: Mono, seconds: u64) {
        let (least, most) = RETRY_AFTER;
        self.retry_after = Some(now + Duration::from_secs(seconds).clamp(least, most));
    }

    pub fn on_heard(&mut self, now: Mono) {
        self.failed_at = None;
        self.heard_at = Some(now);
    }

    /// It could not be reached, or has said nothing to what it was asked then; to others it may have since.
    pub fn on_failure(&mut self, now: Mono, asked: Mono) {
        if self.heard_at.is_none_or(|heard| heard < asked) {
            self.failed_at = Some(now);
        }
    }

    /// Whether the last that was tried with it has shown that it is not there.
    pub fn is_down(&self) -> bool {
        self.failed_at.is_some()
    }

    /// Whether it is not there as far as is known now: what was seen long ago may be over.
    pub fn is_known_down(&self, now: Mono) -> bool {
        self.failed_at.is_some_and(|at| now.since(at) < KNOWN_FOR)
    }

    fn is_resting(&self, now: Mono) -> bool {
        self.retry_after.is_some_and(|until| now < until)
    }
}

/// All servers in the order in which a request with this Call-ID tries them: by priority, equal ones by
/// a weighted draw that the Call-ID decides, so that whatever bears the same one finds the same server;
/// those that asked for a rest come last.
pub fn server_order(
    policy: &Policy,
    keys: &Keyring,
    call_id: &[u8],
    health: impl Fn(ServerId) -> ServerHealth,
    now: Mono,
) -> SmallVec<[ServerId; 4]> {
    if let [only] = policy.servers.as_slice() {
        return SmallVec::from_slice(&[only.id]);
    }
    // Weighted rendezvous hashing: the smallest -ln(draw)/weight wins, each with a chance in proportion to its weight.
    let score = |server: &Server| -keys.draw(call_id, server.name.as_bytes()).ln() / f64::from(server.weight.max(1));
    let mut order = policy
        .servers
        .iter()
        .map(|server| (health(server.id).is_resting(now), server.priority, score(server), server.id))
        .collect::<SmallVec<[_; 4]>>();
    order.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2)));
    order.into_iter().map(|(.., id)| id).collect()
}
