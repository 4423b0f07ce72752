//! Which server a request goes to: priority, weight, and what servers have said about themselves.

use std::time::Duration;

use smallvec::SmallVec;

use crate::policy::{Policy, Server, ServerId};
use crate::time::Mono;
use crate::transaction::Keyring;

/// Shortest and longest time for which a Retry-After keeps a server at the end of the list: a server
/// may neither be asked again at once nor talk itself out of service.
pub const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// What calls have shown of a server.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerHealth {
    /// The last contact was a transport error, and nothing was heard since.
    pub is_down: bool,
    /// It asked to be left alone until then.
    pub retry_after: Option<Mono>,
}

impl ServerHealth {
    /// It answered 503 with Retry-After, in seconds.
    pub fn on_retry_after(&mut self, now: Mono, seconds: u64) {
        let (least, most) = RETRY_AFTER;
        self.retry_after = Some(now + Duration::from_secs(seconds).clamp(least, most));
    }

    pub fn on_heard(&mut self) {
        self.is_down = false;
    }

    pub fn on_transport_error(&mut self) {
        self.is_down = true;
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
