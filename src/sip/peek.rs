//! What a message seems to be, by a look at its head that costs less than reading it: for when there is no time to read.

use super::Name;
use super::lex::token_end;

/// Whether this looks like an INVITE that begins a new call: without a tag in To, and without an answer to a challenge,
/// which would make it an old one. A head that is written in an unusual way does not.
pub fn begins_call(raw: &[u8]) -> bool {
    if !raw.starts_with(b"INVITE ") {
        return false;
    }
    let mut has_plain_to = false;
    for line in raw.split(|byte| *byte == b'\n').skip(1).take_while(|line| !matches!(line, [] | [b'\r'])) {
        let name = line.get(..token_end(line, 0)).unwrap_or_default();
        match Name::from_bytes(name) {
            Name::To if contains_tag(line) => return false,
            Name::To => has_plain_to = true,
            _ if is_credentials(name) => return false,
            _ if name.is_empty() => return false,
            _ => {}
        }
    }
    has_plain_to
}

fn contains_tag(line: &[u8]) -> bool {
    line.windows(3).any(|word| word.eq_ignore_ascii_case(b"tag"))
}

fn is_credentials(name: &[u8]) -> bool {
    [&b"Authorization"[..], b"Proxy-Authorization"].iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_invite_is_told_from_others() {
        let invite = |to: &str| format!("INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h\r\n{to}\r\nl: 6\r\n\r\nTo:tag");
        assert!(begins_call(invite("To: <sip:a@b>").as_bytes()));
        assert!(begins_call(invite("t:sip:a@b").as_bytes()));
        for to in [
            "To: <sip:a@b>;tag=1",
            "to : sip:a@b; TAG = 1",
            "X: 1",
            "To: <sip:a@b>\r\n ;tag=1",
            "To: <sip:a@b>\r\nproxy-authorization: Digest x",
            "To: <sip:a@b>\r\nAuthorization: Digest x",
        ] {
            assert!(!begins_call(invite(to).as_bytes()), "{to}");
        }
        assert!(!begins_call(invite("To: <sip:a@b>").replace("INVITE", "OPTIONS").as_bytes()));
        assert!(!begins_call(b"SIP/2.0 200 OK\r\nTo: <sip:a@b>\r\n\r\n"));
        assert!(!begins_call(b"INVITE "));
    }
}
