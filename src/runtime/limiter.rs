//! Log lines that a stranger can cause: one per source and second at most, in a table of fixed size, and not many in all.

use std::net::IpAddr;
use std::time::Duration;

use crate::overload::fits;
use crate::time::Mono;

/// Sources that are told apart; others share a place with them.
const PLACES: usize = 1024;
const INTERVAL: Duration = Duration::from_secs(1);
/// Lines per second about all sources together, where it is to be seen who they are.
pub const MANY_LINES: u32 = 20;
/// Where one says it of all.
pub const FEW_LINES: u32 = 1;

/// Who was logged when.
#[derive(Debug)]
pub struct Limiter {
    places: Vec<Option<Place>>,
    /// When the next line fits.
    all: Mono,
    /// Lines per second about all sources together.
    in_all: u32,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    last: Mono,
    suppressed: u64,
}

impl Limiter {
    pub fn new(in_all: u32) -> Limiter {
        Limiter { places: vec![None; PLACES], all: Mono::default(), in_all }
    }

    /// Whether a line about this source may be written now, and how many were not since the last one.
    pub fn admit(&mut self, source: IpAddr, now: Mono) -> Option<u64> {
        let place = self.places.get_mut(place_of(source))?;
        match place {
            Some(place) if now.since(place.last) < INTERVAL => {
                place.suppressed += 1;
                None
            }
            place if !fits(&mut self.all, self.in_all, now, true) => {
                let unseen = Place { last: Mono::default(), suppressed: 0 };
                place.get_or_insert(unseen).suppressed += 1;
                None
            }
            _ => {
                let suppressed = place.map_or(0, |place| place.suppressed);
                *place = Some(Place { last: now, suppressed: 0 });
                Some(suppressed)
            }
        }
    }
}

fn place_of(source: IpAddr) -> usize {
    let fold =
        |bytes: &[u8]| bytes.iter().fold(0usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let hash = match source {
        IpAddr::V4(address) => fold(&address.octets()),
        IpAddr::V6(address) => fold(&address.octets()),
    };
    hash % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_sources_have_not_many_lines() {
        let mut limiter = Limiter::new(MANY_LINES);
        let start = Mono(1);
        let sources = (0..PLACES as u32).map(|number| IpAddr::from(number.to_be_bytes()));
        assert_eq!(sources.filter(|source| limiter.admit(*source, start).is_some()).count(), MANY_LINES as usize);
        let silenced = IpAddr::from(1_000_u32.to_be_bytes());
        assert_eq!(limiter.admit(silenced, start + INTERVAL), Some(1));
    }

    #[test]
    fn one_line_a_second_for_each_source() {
        let mut limiter = Limiter::new(MANY_LINES);
        let start = Mono(1);
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        assert_eq!(limiter.admit(one, start), Some(0));
        assert_eq!(limiter.admit(one, start), None);
        assert_eq!(limiter.admit(other, start), Some(0));
        assert_eq!(limiter.admit(one, start + INTERVAL), Some(1));
    }
}
