//! What a call comes to: the eight outcomes, why it ended, and the pure functions that decide.
//!
//! Nothing in here knows of a message's bytes, a transaction or a clock.

mod cause;
mod decide;
mod reason;
mod stamp;
mod table;

pub use cause::{Anomaly, CodeSource, EndCause, EndedBy};
pub use decide::{Decision, Facts, decide};
pub use reason::{Reason, is_blocked, q850, ring_timeout_or_elsewhere};
pub use stamp::{final_stamp, provisional_stamp};
pub use table::{Outcome, of_code};
