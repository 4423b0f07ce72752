//! Prepared bytes into which a call's number is written.

/// What stands for the number in the text that a template is made of.
const PLACE: &str = "{n}";
/// Hexadecimal digits of a number.
pub const DIGITS: usize = 8;

/// Bytes with the number of a call at some places.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: Vec<u8>,
    places: Vec<usize>,
    number: u32,
}

impl Template {
    /// Of a text with `{n}` where the number goes.
    pub fn new(text: &str) -> Template {
        let mut bytes = Vec::with_capacity(text.len() + 16);
        let mut places = Vec::new();
        let mut parts = text.split(PLACE);
        bytes.extend(parts.next().unwrap_or_default().bytes());
        for part in parts {
            places.push(bytes.len());
            bytes.extend([b'0'; DIGITS]);
            bytes.extend(part.bytes());
        }
        Template { bytes, places, number: 0 }
    }

    /// The bytes of the call with this number.
    pub fn of(&mut self, number: u32) -> &[u8] {
        if number != self.number {
            let digits = hex(number);
            for &place in &self.places {
                self.bytes[place..place + DIGITS].copy_from_slice(&digits);
            }
            self.number = number;
        }
        &self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// A number as it is written.
fn hex(number: u32) -> [u8; DIGITS] {
    const CHARACTERS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|at| CHARACTERS[(number >> (28 - 4 * at)) as usize & 15])
}

/// The number that is written at the beginning of these bytes.
pub fn number_at(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.get(..DIGITS)?;
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u32::from(value))
    })
}
