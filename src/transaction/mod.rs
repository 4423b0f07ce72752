//! Transactions: RFC 3261 §17 with the corrections of RFC 6026.
//!
//! Four small state machines that say what an event means ([`client`], [`server`]); the endpoint owns
//! the transactions, sends what they keep and sets the timers that they name. Keys are keyed hashes,
//! so that whoever chooses branches cannot choose collisions.

pub mod client;
mod key;
pub mod server;
mod stored;

use std::time::Duration;

use crate::policy::Timeouts;

pub use key::{Branch, Key, Keyring, MAGIC_COOKIE};
pub use stored::{StoredClient, StoredClientUser, StoredServer, StoredServerUser};

/// T1, T2, T4 and Timer C of the policy that a request met, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "(u32, u32, u32, u32)")]
pub struct Estimates {
    t1: u32,
    t2: u32,
    t4: u32,
    timer_c: u32,
}

/// Without T1 or T2 a message would be sent again and again at one instant.
#[derive(Clone, Copy, Debug)]
pub struct NoInterval;

impl Estimates {
    pub fn of(timeouts: &Timeouts) -> Estimates {
        let Timeouts { t1, t2, t4, timer_c, .. } = *timeouts;
        let [t1, t2, t4, timer_c] = [t1, t2, t4, timer_c].map(milliseconds);
        Estimates { t1, t2, t4, timer_c }
    }

    pub fn t1(self) -> Duration {
        Duration::from_millis(self.t1.into())
    }

    pub fn t2(self) -> Duration {
        Duration::from_millis(self.t2.into())
    }

    pub fn t4(self) -> Duration {
        Duration::from_millis(self.t4.into())
    }

    pub fn timer_c(self) -> Duration {
        Duration::from_millis(self.timer_c.into())
    }
}

impl TryFrom<(u32, u32, u32, u32)> for Estimates {
    type Error = NoInterval;

    fn try_from((t1, t2, t4, timer_c): (u32, u32, u32, u32)) -> Result<Estimates, NoInterval> {
        if t1 == 0 || t2 == 0 { Err(NoInterval) } else { Ok(Estimates { t1, t2, t4, timer_c }) }
    }
}

impl std::fmt::Display for NoInterval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("T1 or T2 is zero")
    }
}

fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored;

    #[test]
    fn stored_estimates_without_an_interval_are_not_read() {
        let written = |estimates: (u32, u32, u32, u32)| {
            let mut text = Vec::new();
            stored::put(&estimates, &mut text);
            stored::read::<Estimates>(&text)
        };
        let estimates = Estimates::of(&Timeouts::default());
        assert_eq!(written((500, 4_000, 5_000, 181_000)), Some(estimates));
        assert_eq!(written((0, 4_000, 5_000, 181_000)), None);
        assert_eq!(written((500, 0, 5_000, 181_000)), None);
    }
}
