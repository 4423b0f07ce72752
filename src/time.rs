//! The two clocks of the core, both arguments: one that only goes forward, one that people read.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on the monotonic clock, in microseconds since an origin that the shell chose. Deadlines
/// are points on this clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

/// A point on the wall clock, in microseconds since the Unix epoch (UTC).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub i64);

/// Both clocks, read together once for each batch of inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub mono: Mono,
    pub wall: Wall,
}

impl Mono {
    /// The time that went by since `earlier`; zero where `earlier` is later.
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Now {
    /// The wall time of a point on the monotonic clock. A call derives all its stamps from one
    /// reading, so that a step of the system's clock cannot reorder them.
    pub fn wall_at(self, mono: Mono) -> Wall {
        let delta = i64::try_from(mono.0).unwrap_or(i64::MAX) - i64::try_from(self.mono.0).unwrap_or(i64::MAX);
        Wall(self.wall.0.saturating_add(delta))
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;

    fn add(self, delta: Duration) -> Mono {
        Mono(self.0.saturating_add(u64::try_from(delta.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Mono {
    type Output = Mono;

    fn sub(self, delta: Duration) -> Mono {
        Mono(self.0.saturating_sub(u64::try_from(delta.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// RFC 3339 in UTC with milliseconds: `2026-11-23T10:00:31.204Z`.
impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.div_euclid(1_000);
        let timestamp = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        write!(f, "{timestamp:.3}")
    }
}

impl serde::Serialize for Wall {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl schemars::JsonSchema for Wall {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "date-time" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_prints_as_rfc3339_with_milliseconds() {
        assert_eq!(Wall(1_795_428_031_204_999).to_string(), "2026-11-23T10:00:31.204Z");
        assert_eq!(Wall(0).to_string(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn wall_times_of_a_call_follow_the_monotonic_clock() {
        let now = Now { mono: Mono(5_000_000), wall: Wall(1_000_000_000) };
        assert_eq!(now.wall_at(Mono(4_000_000)), Wall(999_000_000));
        assert_eq!(now.wall_at(Mono(6_000_000)), Wall(1_001_000_000));
    }
}
