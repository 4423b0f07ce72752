//! The table: which outcome a final response code gets.

use crate::closed::closed_enum;

closed_enum! {
    /// The eight outcomes. The set is closed for ever: there is no ninth and no "unknown".
    pub enum Outcome {
        /// Answered: the final response is 2xx.
        Normal = "Normal",
        /// 486.
        NumberBusy = "NumberBusy",
        /// Not answered in time, or no response at all.
        NoAnswer = "NoAnswer",
        /// 480, 481.
        NumberUnobtainable = "NumberUnobtainable",
        /// 3xx.
        NumberChanged = "NumberChanged",
        /// 488.
        CallRejected = "CallRejected",
        /// Any other final response.
        CallFailed = "CallFailed",
        /// Answered, and the agent dropped a recorded message on an outbound progressive call.
        VoicemailDrop = "VoicemailDrop",
    }
}

/// The outcome of a final response code. Total: a code outside 200..=699 is a failure like any
/// other that the table does not name.
pub const fn of_code(code: u16) -> Outcome {
    match code {
        200..=299 => Outcome::Normal,
        300..=399 => Outcome::NumberChanged,
        480 | 481 => Outcome::NumberUnobtainable,
        486 => Outcome::NumberBusy,
        488 => Outcome::CallRejected,
        _ => Outcome::CallFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_total_and_closed() {
        for code in 0..=u16::MAX {
            let expected = match code {
                200..=299 => "Normal",
                300..=399 => "NumberChanged",
                480 | 481 => "NumberUnobtainable",
                486 => "NumberBusy",
                488 => "CallRejected",
                _ => "CallFailed",
            };
            assert_eq!(of_code(code).label(), expected, "{code}");
        }
        assert_eq!(Outcome::COUNT, 8);
    }
}
