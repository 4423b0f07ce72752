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
pub struct Estimates {
    t1: u32,
    t2: u32,
    t4: u32,
    timer_c: u32,
}

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

fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
