//! Durations and sizes as operators write them.

use std::fmt;
use std::time::Duration;

/// Why a text is no duration or size.
#[derive(Debug, PartialEq, Eq)]
pub struct NotAQuantity {
    pub what: String,
    pub help: &'static str,
}

/// Shows a duration as it is written in a configuration.
pub struct Written(pub Duration);

const DURATIONS: &[(&str, u64)] = &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
const DURATION_HELP: &str = "a whole number and a unit: `250ms`, `30s`, `5m`, `4h`";
const SIZES: &[(&str, u64)] = &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
const SIZE_HELP: &str = "a whole number and a unit: `512B`, `64KiB`, `64MiB`, `1GiB`";

/// `250ms`, `30s`, `5m`, `4h`.
pub fn duration(text: &str) -> Result<Duration, NotAQuantity> {
    quantity(text, DURATIONS, "duration", DURATION_HELP).map(Duration::from_millis)
}

/// `64KiB`, `64MiB`; in bytes.
pub fn size(text: &str) -> Result<u64, NotAQuantity> {
    quantity(text, SIZES, "size", SIZE_HELP)
}

fn quantity(text: &str, units: &[(&str, u64)], kind: &str, help: &'static str) -> Result<u64, NotAQuantity> {
    let wrong = |what: String| Err(NotAQuantity { what, help });
    let (number, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    if number.is_empty() {
        return wrong(format!("is no {kind}"));
    }
    if unit.is_empty() {
        return wrong(format!("is a {kind} without a unit"));
    }
    let Some(&(_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return wrong(format!("is no {kind}: `{}` is no unit", unit.escape_debug()));
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)) {
        Some(quantity) => Ok(quantity),
        None => wrong(format!("is too large a {kind}")),
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let fits = |(_, factor): &&(&str, u64)| ms != 0 && ms.is_multiple_of(*factor);
        let (unit, factor) = DURATIONS.iter().rev().find(fits).copied().unwrap_or(("s", 1));
        write!(f, "{}{unit}", ms / factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_as_the_interface_writes_them() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("4h"), Ok(Duration::from_secs(14_400)));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("64MiB"), Ok(67_108_864));
    }

    #[test]
    fn what_is_no_quantity_says_why() {
        let why = |text| duration(text).unwrap_err().what;
        assert_eq!(why("30"), "is a duration without a unit");
        assert_eq!(why(""), "is no duration");
        assert_eq!(why("-1s"), "is no duration");
        assert_eq!(why("1.5s"), "is no duration: `.5s` is no unit");
        assert_eq!(why("30 s"), "is no duration: ` s` is no unit");
        assert_eq!(why("99999999999999999999h"), "is too large a duration");
        assert_eq!(why("9999999999999999999h"), "is too large a duration");
        assert_eq!(size("64KB").unwrap_err().what, "is no size: `KB` is no unit");
    }

    #[test]
    fn durations_show_in_the_largest_unit_that_is_exact() {
        let shown = |text| Written(duration(text).unwrap()).to_string();
        assert_eq!(shown("1440m"), "24h");
        assert_eq!(shown("180s"), "3m");
        assert_eq!(shown("181s"), "181s");
        assert_eq!(shown("1500ms"), "1500ms");
        assert_eq!(shown("0ms"), "0s");
    }
}
