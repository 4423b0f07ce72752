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

impl Now {
    /// The point on the monotonic clock of a wall time; the reverse of [`Now::wall_at`].
    pub fn mono_at(self, wall: Wall) -> Mono {
        let delta = wall.0.saturating_sub(self.wall.0);
        Mono(self.mono.0.saturating_add_signed(delta))
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

/// A point on the wall clock as text: RFC 3339 in UTC with milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallText([u8; 24]);

impl Wall {
    /// `2026-11-23T10:00:31.204Z`; what lies outside the years 0 to 9999 shows as the nearer end.
    pub fn text(self) -> WallText {
        const DAY: u64 = 86_400_000;
        let ms = self.0.div_euclid(1_000).clamp(FIRST, LAST).abs_diff(FIRST);
        let (year, month, day) = date((ms / DAY) as u32);
        let of_day = (ms % DAY) as u32;
        let (minutes, ms) = (of_day / 60_000, of_day % 60_000);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let [y1, y2, y3, y4, _, m1, m2, _, d1, d2, _, h1, h2, _, n1, n2, _, s1, s2, _, f1, f2, f3, _] = &mut text;
        [*y1, *y2] = two_digits(year / 100);
        [*y3, *y4] = two_digits(year % 100);
        [*m1, *m2] = two_digits(month);
        [*d1, *d2] = two_digits(day);
        [*h1, *h2] = two_digits(minutes / 60);
        [*n1, *n2] = two_digits(minutes % 60);
        [*s1, *s2] = two_digits(ms / 1_000);
        [*f1, *f2] = two_digits(ms % 1_000 / 10);
        *f3 = b'0' + (ms % 10) as u8;
        WallText(text)
    }
}

impl WallText {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A number below 100.
fn two_digits(number: u32) -> [u8; 2] {
    TWO_DIGITS.get(number as usize).copied().unwrap_or_default()
}

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const TWO_DIGITS: [[u8; 2]; 100] = {
    let mut table = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        table[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    table
};

/// The first millisecond of the year 0 and the last one of the year 9999.
const FIRST: i64 = -62_167_219_200_000;
const LAST: i64 = 253_402_300_799_999;

/// Year, month and day of a number of days since the first of the year 0. Years are counted from March, so that the leap
/// day is the last one; 400 of them have 146,097 days, and one such time is added to begin before the year 0.
const fn date(days: u32) -> (u32, u32, u32) {
    let shifted = days + 146_097 - 60;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let (month, next) = if from_march < 10 { (from_march + 3, 0) } else { (from_march - 9, 1) };
    (era * 400 + year + next - 400, month, day)
}

impl std::ops::Deref for WallText {
    type Target = str;

    fn deref(&self) -> &str {
        // Digits are ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl serde::Serialize for Wall {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl<'de> serde::Deserialize<'de> for Wall {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Wall, D::Error> {
        let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
        let timestamp = text.parse::<jiff::Timestamp>().map_err(serde::de::Error::custom)?;
        Ok(Wall(timestamp.as_microsecond()))
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
        assert_eq!(Wall(i64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Wall(i64::MIN).to_string(), "0000-01-01T00:00:00.000Z");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        // Every hour and some of a day over more than 400 years.
        for hour in (-4_000_000..4_000_000_i64).step_by(19) {
            let ms = hour * 3_600_000 + hour.rem_euclid(3_600_000);
            let expected = jiff::Timestamp::from_millisecond(ms).unwrap();
            assert_eq!(Wall(ms * 1_000).to_string(), format!("{expected:.3}"));
        }
    }

    #[test]
    fn wall_times_of_a_call_follow_the_monotonic_clock() {
        let now = Now { mono: Mono(5_000_000), wall: Wall(1_000_000_000) };
        assert_eq!(now.wall_at(Mono(4_000_000)), Wall(999_000_000));
        assert_eq!(now.wall_at(Mono(6_000_000)), Wall(1_001_000_000));
    }
}
