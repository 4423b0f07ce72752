//! How large one message may be. What is larger is answered 513, a Request-URI 414, and counted as `too_large`.

/// Header fields in a head.
pub const FIELDS: usize = 512;
/// One header field, from its name to the CRLF that ends it, folds included, in bytes.
pub const FIELD_BYTES: usize = 16 * 1024;
/// The Request-URI, in bytes (RFC 3261 §21.4.12).
pub const URI_BYTES: usize = 4 * 1024;
/// Via values: one for each hop that Max-Forwards allows at the outset (RFC 3261 §8.1.1.6).
pub const VIAS: usize = 70;

/// What is too large to be read.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Whole message, in bytes.
    pub message_bytes: usize,
    /// Header fields in a head.
    pub fields: usize,
    /// Longest header field, folds included, in bytes.
    pub field_bytes: usize,
    /// Longest Request-URI, in bytes.
    pub uri_bytes: usize,
    /// Via values; where all their fields together are shorter than so many can be, they are not counted.
    pub vias: usize,
}

impl Limits {
    /// For what is ours already.
    pub const NONE: Limits = Limits {
        message_bytes: usize::MAX,
        fields: usize::MAX,
        field_bytes: usize::MAX,
        uri_bytes: usize::MAX,
        vias: usize::MAX,
    };

    /// For what comes from outside: messages of this length, in bytes, and everything else as it is bounded here.
    pub const fn standard(message_bytes: usize) -> Limits {
        Limits { message_bytes, fields: FIELDS, field_bytes: FIELD_BYTES, uri_bytes: URI_BYTES, vias: VIAS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{Message, RejectReason};

    const LIMITS: Limits = Limits { fields: 12, field_bytes: 100, uri_bytes: 40, vias: 5, ..Limits::standard(1_000) };

    /// A request with this Request-URI and these lines before the others.
    fn request(uri: &str, lines: &str) -> String {
        format!(
            "OPTIONS {uri} SIP/2.0\r\n{lines}Via: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:f@b>;tag=1\r\nTo: <sip:t@b>\r\n\
             Call-ID: c\r\nCSeq: 1 OPTIONS\r\n\r\n"
        )
    }

    /// The code that a message gets, 0 where it is taken; and what is wrong.
    fn read(text: String) -> (u16, &'static str) {
        match Message::parse(text.into(), &LIMITS) {
            Ok(_) => (0, ""),
            Err(rejected) => {
                assert_eq!(rejected.reason, RejectReason::TooLarge);
                assert!(rejected.answerable.is_some(), "{}", rejected.detail);
                (rejected.code, rejected.detail)
            }
        }
    }

    #[test]
    fn a_header_field_is_measured_with_its_name_and_folds() {
        let fits = format!("X: {}\r\n", "x".repeat(95));
        let folded = format!("X:{}", "\r\n 1".repeat(24));
        assert_eq!((fits.len(), folded.len()), (100, 98));
        assert_eq!(read(request("sip:a@b", &fits)), (0, ""));
        assert_eq!(read(request("sip:a@b", &format!("{folded}\r\n"))), (0, ""));
        let long = (513, "header field too long");
        assert_eq!(read(request("sip:a@b", &fits.replace("X:", "X:x"))), long);
        assert_eq!(read(request("sip:a@b", &format!("{folded}1\r\n"))), long);
    }

    #[test]
    fn a_request_uri_that_is_too_long_gets_414() {
        let uri = |length: usize| format!("sip:{}@b", "x".repeat(length - 6));
        assert_eq!(read(request(&uri(40), "")), (0, ""));
        assert_eq!(read(request(&uri(41), "")), (414, "Request-URI too long"));
        assert_eq!(read(request(&format!("tel:{}", "5".repeat(37)), "")), (414, "Request-URI too long"));
    }

    #[test]
    fn vias_are_counted_over_all_their_fields() {
        let many = (513, "too many Vias");
        let line = |count: usize| format!("Via: {}\r\n", ["SIP/2.0/UDP h"; 9][..count].join(","));
        let each = |count: usize| "v: SIP/2.0/UDP h\r\n".repeat(count);
        for (lines, expected) in
            [(line(4), (0, "")), (each(3), (0, "")), (line(5), many), (each(5), many), (line(3) + &each(2), many)]
        {
            assert_eq!(read(request("sip:a@b", &lines)), expected, "{lines}");
        }
        assert_eq!(read(request("sip:a@b", &line(4)).replace("From: ", &(line(1) + "From: "))), many);
    }

    #[test]
    fn header_fields_are_counted() {
        assert_eq!(read(request("sip:a@b", &"X: 1\r\n".repeat(7))), (0, ""));
        assert_eq!(read(request("sip:a@b", &"X: 1\r\n".repeat(8))), (513, "too many header fields"));
    }

    #[test]
    fn what_the_standard_allows_is_taken() {
        let vias = format!("{}\r\n", "Via: SIP/2.0/UDP h\r\n".repeat(VIAS - 1).trim_end());
        let field = format!("X: {}\r\n", "x".repeat(FIELD_BYTES - 5));
        let uri = format!("sip:{}@b", "x".repeat(URI_BYTES - 6));
        let fields = "X: 1\r\n".repeat(FIELDS - 5);
        let read = |uri: &str, lines: &str| {
            Message::parse(request(uri, lines).into(), &Limits::standard(65_535)).map_err(|rejected| rejected.detail)
        };
        for lines in [&vias, &field, &fields] {
            assert_eq!(read("sip:a@b", lines).err(), None);
            let above = lines.replacen("X: ", "X: 1\r\nX:  ", 1).replacen("Via: ", "Via: SIP/2.0/UDP h,", 1);
            assert!(read("sip:a@b", &above).is_err());
        }
        assert_eq!(read(&uri, "").err(), None);
        assert!(read(&format!("{uri}b"), "").is_err());
    }
}
