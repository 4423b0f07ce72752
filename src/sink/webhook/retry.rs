//! When a failed attempt is made again: exponential back-off with jitter, and `Retry-After` (RFC 9110 §10.2.3).

use std::hash::Hasher;
use std::time::{Duration, SystemTime};

use siphasher::sip::SipHasher13;

/// The wait after the first failure; it doubles with each further one.
pub const FIRST: Duration = Duration::from_millis(500);
/// The longest wait: for so long after its recovery a receiver may have to wait for an event.
pub const LONGEST: Duration = Duration::from_secs(60);
/// The longest wait that a receiver may ask for.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The wait after so many failures, at least one: between a half and the whole of the doubled first one. Chance is a hash
/// of the event's id, which differs from event to event and from sidecar to sidecar.
pub fn back_off(id: &str, failures: u32) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let half = doubled.min(LONGEST) / 2;
    let mut hasher = SipHasher13::new();
    hasher.write(id.as_bytes());
    hasher.write_u32(failures);
    half + half * (hasher.finish() % 1024) as u32 / 1024
}

/// The wait that a `Retry-After` asks for, in seconds or as a date.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        value.parse().map_or(LONGEST_RETRY_AFTER, Duration::from_secs)
    } else {
        httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_differ() {
        let mut waits = HashSet::new();
        for number in 0..100 {
            let id = format!("01KATS5Q8ZJ6T3M0V9XW4RB{number:03}/ended");
            for failures in 1..40 {
                let wait = back_off(&id, failures);
                let whole = FIRST.saturating_mul(1 << (failures - 1).min(20)).min(LONGEST);
                assert!(wait >= whole / 2 && wait <= whole, "{failures}: {wait:?}");
                waits.insert(wait);
            }
            assert_eq!(back_off(&id, 3), back_off(&id, 3));
        }
        assert!(waits.len() > 1000, "{}", waits.len());
        back_off("", 0);
        back_off("", u32::MAX);
    }

    #[test]
    fn a_receiver_asks_for_a_wait_in_seconds_or_by_a_date() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let seconds = |value| retry_after(value, now).map(|wait| wait.as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds(" 0 "), Some(0));
        assert_eq!(seconds("99999999999999999999999"), Some(3600));
        // All three forms of RFC 9110 §5.6.7, a minute and 23 seconds later.
        for date in ["Sun, 06 Nov 1994 08:51:00 GMT", "Sunday, 06-Nov-94 08:51:00 GMT", "Sun Nov  6 08:51:00 1994"] {
            assert_eq!(seconds(date), Some(83), "{date}");
        }
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:00 GMT"), Some(0));
        assert_eq!(seconds("Sat, 06 Nov 2094 08:49:00 GMT"), Some(3600));
        for wrong in ["", "soon", "-1", "1.5", "Sun, 06 Nov"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
