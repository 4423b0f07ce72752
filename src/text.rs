//! Small pieces of text without the formatting machinery: what is written into every message.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

/// Text that is put together on the stack.
pub type Line<const N: usize> = SmallVec<[u8; N]>;

/// Whatever bytes can be appended to.
pub trait Put {
    fn put(&mut self, bytes: &[u8]);

    /// A number in decimal.
    fn put_number(&mut self, number: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = number;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            at -= 1;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.put(digits.get(at..).unwrap_or_default());
    }

    /// A number as hexadecimal digits, leading zeros included.
    fn put_hex(&mut self, number: u64) {
        let mut digits = [0; 16];
        for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(number.to_be_bytes()) {
            *pair = HEX.get(usize::from(byte)).copied().unwrap_or_default();
        }
        self.put(&digits);
    }

    /// An IP address; IPv6 without brackets.
    fn put_address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                // At most three digits and a dot each.
                let mut text = [0; 16];
                let mut end = 0;
                for octet in address.octets() {
                    let (digits, length) = OCTETS.get(usize::from(octet)).copied().unwrap_or_default();
                    if let Some(place) = text.get_mut(end..end + digits.len()) {
                        place.copy_from_slice(&digits);
                    }
                    end += usize::from(length);
                }
                self.put(text.get(..end - 1).unwrap_or_default());
            }
            IpAddr::V6(address) => self.put(address.to_string().as_bytes()),
        }
    }

    /// Host and port as SIP spells them: IPv6 in brackets.
    fn put_host_port(&mut self, address: SocketAddr) {
        match address.ip() {
            IpAddr::V4(_) => self.put_address(address.ip()),
            IpAddr::V6(_) => {
                self.put(b"[");
                self.put_address(address.ip());
                self.put(b"]");
            }
        }
        self.put(b":");
        self.put_number(address.port().into());
    }
}

/// Whether a character can do nothing to who reads it: no control, no change of direction, nothing that hides in another.
pub fn is_printable(c: char) -> bool {
    matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1
}

/// A text that a peer wrote, for people: what is not printable is escaped as in Rust.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_printable) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_printable(c) { shown.push(c) } else { shown.extend(c.escape_debug()) }
    }
    shown.into()
}

/// Each octet in decimal with a dot behind it, and how long that is.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const OCTETS: [([u8; 4], u8); 256] = {
    let mut table = [([0; 4], 0); 256];
    let mut octet = 0;
    while octet < 256 {
        let [a, b, c] = [b'0' + (octet / 100) as u8, b'0' + (octet / 10 % 10) as u8, b'0' + (octet % 10) as u8];
        table[octet] = match octet {
            0..10 => ([c, b'.', 0, 0], 2),
            10..100 => ([b, c, b'.', 0], 3),
            _ => ([a, b, c, b'.'], 4),
        };
        octet += 1;
    }
    table
};

/// The two digits of each byte.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const HEX: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    table
};

impl<const N: usize> Put for Line<N> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Put for bytes::BytesMut {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_formatting_makes_of_it() {
        for number in [0, 7, 10, 5060, u64::from(u32::MAX), u64::MAX] {
            let mut line = Line::<32>::new();
            line.put_number(number);
            line.put_hex(number);
            assert_eq!(line.as_slice(), format!("{number}{number:016x}").as_bytes());
        }
        for address in ["10.0.0.1:5060", "255.255.255.255:1", "0.9.99.100:7", "127.10.20.1:80", "[2001:db8::1]:65535"] {
            let address = address.parse::<SocketAddr>().unwrap();
            let mut line = Line::<64>::new();
            line.put_host_port(address);
            assert_eq!(line.as_slice(), address.to_string().as_bytes());
        }
    }
}
