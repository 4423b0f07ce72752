//! What makes two messages one transaction, and the names that the sidecar derives.

use siphasher::sip128::SipHasher13;

use crate::flow::Side;
use crate::sip::{Message, Method, Name};
use crate::text::Put;

/// Start of every branch of RFC 3261 (§8.1.1.7).
pub const MAGIC_COOKIE: &[u8] = b"z9hG4bK";

/// A transaction, a call or a dialog by its keyed hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(Rust, packed(8))]
pub struct Key(pub u128);

/// Length of a branch of ours: the cookie, 128 bits of its own, 64 for loops.
#[cfg(test)]
const BRANCH: usize = 7 + 32 + 16;

/// A branch of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Derived from the request that is forwarded: nobody else can make it.
    own: u128,
    /// For loops (RFC 5393 §4.2).
    loop_hash: u64,
}

impl Branch {
    /// A branch that a message bears, where it is one of ours by its form.
    pub fn read(text: &[u8]) -> Option<Branch> {
        let (high, rest) = text.strip_prefix(MAGIC_COOKIE)?.split_first_chunk::<16>()?;
        let (low, rest) = rest.split_first_chunk::<16>()?;
        let loop_hash = rest.split_first_chunk::<16>().filter(|(_, rest)| rest.is_empty())?.0;
        let own = (u128::from(number_of(high)?) << 64) | u128::from(number_of(low)?);
        Some(Branch { own, loop_hash: number_of(loop_hash)? })
    }

    /// The client transaction with this branch (RFC 3261 §17.1.3); a CANCEL has the branch of its INVITE and another
    /// method.
    pub fn client(self, method: &[u8]) -> Key {
        Key(self.own ^ fold(method))
    }

    /// The branch of a client transaction, given back by [`Branch::client`]'s key.
    pub fn of(key: Key, method: &[u8], loop_hash: u64) -> Branch {
        Branch { own: key.0 ^ fold(method), loop_hash }
    }

    pub fn loop_hash(self) -> u64 {
        self.loop_hash
    }

    pub fn put(self, out: &mut impl Put) {
        out.put(MAGIC_COOKIE);
        out.put_hex((self.own >> 64) as u64);
        out.put_hex(self.own as u64);
        out.put_hex(self.loop_hash);
    }
}

/// Tells methods apart; a branch is unique but for its CANCEL, so that nobody can gain by a collision.
fn fold(method: &[u8]) -> u128 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    method.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME)).into()
}

/// Sixteen hexadecimal digits as [`Put::put_hex`] writes them; another spelling is not ours.
fn number_of(digits: &[u8; 16]) -> Option<u64> {
    let (high, low) = digits.split_first_chunk::<8>()?;
    Some((half_of(*high)? << 32) | half_of(low.try_into().ok()?)?)
}

/// Eight of them, all at once.
fn half_of(digits: [u8; 8]) -> Option<u64> {
    const ONES: u64 = u64::MAX / 255;
    let text = u64::from_be_bytes(digits);
    // A letter ends in 1 to 6 where the digit is 10 to 15, and has this bit, which no decimal digit has.
    let values = (text & (ONES * 15)) + ((text >> 6) & ONES) * 9;
    // Back again: 16 and more are none, the others must give the same text.
    let is_letter = ((values + ONES * (128 - 10)) >> 7) & ONES;
    let again = values + ONES * u64::from(b'0') + is_letter * u64::from(b'a' - b'0' - 10);
    if again != text || values & (ONES * 0xf0) != 0 {
        return None;
    }
    let pairs = (values | (values >> 4)) & 0x00ff_00ff_00ff_00ff;
    let quads = (pairs | (pairs >> 8)) & 0x0000_ffff_0000_ffff;
    Some((quads | (quads >> 16)) & 0xffff_ffff)
}

/// Hashes under the secret of this sidecar. Everything that it makes up (branches, tags, call_uids) is
/// derived with it: the same input gives the same name, and nobody else can make one.
#[derive(Clone, Debug)]
pub struct Keyring {
    hasher: SipHasher13,
    /// What makes the branch of a first attempt, or of an ACK, of its request's key.
    first_branch: u128,
    ack_branch: u128,
}

/// What a hash is for: equal parts under another purpose give another hash. Their order is part of what a restart, and
/// another version, has to find again.
#[derive(Clone, Copy)]
enum Purpose {
    Server,
    Dialog,
    Name,
    Branch,
    Loop,
    Tag,
    Choice,
    Uid,
    AckBranch,
}

impl Keyring {
    pub fn new(key: &[u8; 16]) -> Keyring {
        let hasher = SipHasher13::new_with_key(key);
        let mut keyring = Keyring { hasher, first_branch: 0, ack_branch: 0 };
        keyring.first_branch = keyring.hash(Purpose::Branch, &[]);
        keyring.ack_branch = keyring.hash(Purpose::AckBranch, &[]);
        keyring
    }

    /// The server transaction that a request of this side belongs to (RFC 3261 §17.2.3); an ACK and, with
    /// `of_cancelled`, a CANCEL belong to their INVITE's. The other side, which has seen the branch, has no part in it.
    pub fn server(&self, request: &Message, side: Side, of_cancelled: bool) -> Key {
        Key(self.server_of_any(request, of_cancelled).0 ^ side.index() as u128)
    }

    fn server_of_any(&self, request: &Message, of_cancelled: bool) -> Key {
        let via = request.via();
        let cseq = request.cseq();
        let branch = via.branch.clone().map(|range| request.bytes(range)).unwrap_or_default();
        let method = match cseq.method {
            Method::Ack => b"INVITE",
            Method::Cancel if of_cancelled => b"INVITE",
            _ => request.bytes(request.essentials().cseq_method.clone()),
        };
        let host = request.bytes(via.host.clone());
        let port = via.port.unwrap_or(0).to_be_bytes();
        if has_cookie(branch) {
            return Key(self.hash(Purpose::Server, &[branch, host, &port, method]));
        }
        // RFC 2543 clients: §17.2.3 compares these one by one.
        let number = cseq.number.to_be_bytes();
        let from_tag = request.from_tag().unwrap_or_default();
        let top_via = request.bytes(via.element.range.clone());
        Key(self.hash(Purpose::Server, &[request.uri(), from_tag, request.call_id(), &number, top_via, method]))
    }

    /// A dialog by Call-ID and both tags, in either order; of a request without To tag, what it begins.
    pub fn dialog(&self, call_id: &[u8], one: &[u8], other: &[u8]) -> Key {
        let (first, second) = if one <= other { (one, other) } else { (other, one) };
        Key(self.hash(Purpose::Dialog, &[call_id, first, second]))
    }

    /// The same of a message.
    pub fn dialog_of(&self, message: &Message) -> Key {
        self.dialog(message.call_id(), message.from_tag().unwrap_or_default(), message.to_tag().unwrap_or_default())
    }

    /// The call that an INVITE without To tag begins, or comes back to: its Call-ID, From tag and side, given the first
    /// two by [`Keyring::dialog_of`].
    pub fn call(dialog: Key, side: Side) -> Key {
        Key(dialog.0 ^ side.index() as u128)
    }

    /// A name by which the API finds calls: a Call-ID or a correlation value.
    pub fn name(&self, name: &[u8]) -> u64 {
        self.hash(Purpose::Name, &[name]) as u64
    }

    /// Our branch for the `attempt`-th forwarding of a request, with the loop hash at its end
    /// (RFC 5393 §4.2). Nobody can make one who has not seen one of the same request:
    /// the key is a hash that leaves the sidecar in no other form.
    pub fn branch(&self, upstream: Key, attempt: u32, loop_hash: u64) -> Branch {
        let own = match attempt {
            0 => upstream.0 ^ self.first_branch,
            _ => self.hash(Purpose::Branch, &[&upstream.0.to_be_bytes(), &attempt.to_be_bytes()]),
        };
        Branch { own, loop_hash }
    }

    /// Our branch for an ACK, given the key of its INVITE. No response comes to it.
    pub fn ack_branch(&self, invite: Key, loop_hash: u64) -> Branch {
        Branch { own: invite.0 ^ self.ack_branch, loop_hash }
    }

    /// What a request must have in common with itself to be a loop: RFC 5393 §4.2.1 with the side, so that
    /// what comes back from the other side is a spiral. `dialog` stands for its Call-ID and tags, `routed` are the Route
    /// fields behind our own. A hash that is quicker would be too weak: with foldhash the same request of the other side had
    /// the same hash in one process of 26.
    pub fn loop_hash(&self, request: &Message, dialog: Key, side: Side, routed: &[u8]) -> u64 {
        let number = request.cseq().number.to_be_bytes();
        let proxy_require = request.first(Name::ProxyRequire).map(|field| request.value(field)).unwrap_or_default();
        let side = [side.index() as u8];
        self.hash(Purpose::Loop, &[&side, request.uri(), &dialog.0.to_be_bytes(), &number, routed, proxy_require])
            as u64
    }

    /// The To tag of a response that we make.
    pub fn tag(&self, transaction: Key) -> u64 {
        self.hash(Purpose::Tag, &[&transaction.0.to_be_bytes()]) as u64
    }

    /// A number from 0 to 1, never 0, that a Call-ID draws for a server.
    pub fn draw(&self, call_id: &[u8], server: &[u8]) -> f64 {
        let hash = self.hash(Purpose::Choice, &[call_id, server]) as u64;
        ((hash >> 11) as f64 + 1.0) / (1u64 << 53) as f64
    }

    /// The low 80 bits of a call_uid.
    pub fn uid(&self, key: Key, serial: u64) -> u128 {
        self.hash(Purpose::Uid, &[&key.0.to_be_bytes(), &serial.to_be_bytes()]) & ((1 << 80) - 1)
    }

    fn hash(&self, purpose: Purpose, parts: &[&[u8]]) -> u128 {
        let hash_in =
            |buffer: &mut [u8]| join(buffer, purpose, parts).map_or(0, |text| self.hasher.hash(text).as_u128());
        match parts.iter().map(|part| part.len() + 4).sum::<usize>() + 1 {
            ..=128 => hash_in(&mut [0; 128]),
            129..=384 => hash_in(&mut [0; 384]),
            length => hash_in(&mut vec![0; length]),
        }
    }
}

/// The parts as one text, to be hashed in one go: each with its length, so that no two lists of parts are the same text.
/// `None` where the buffer is too short.
fn join<'a>(buffer: &'a mut [u8], purpose: Purpose, parts: &[&[u8]]) -> Option<&'a [u8]> {
    *buffer.first_mut()? = purpose as u8;
    let mut at = 1;
    for part in parts {
        buffer.get_mut(at..at + 4)?.copy_from_slice(&(part.len() as u32).to_be_bytes());
        at += 4;
        buffer.get_mut(at..at + part.len())?.copy_from_slice(part);
        at += part.len();
    }
    buffer.get(..at)
}

/// Whether a branch is one of RFC 3261; the cookie is compared without case, as all parameters are (§7.3.1).
fn has_cookie(branch: &[u8]) -> bool {
    branch.get(..MAGIC_COOKIE.len()).is_some_and(|start| start.eq_ignore_ascii_case(MAGIC_COOKIE)) && branch.len() > 7
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Line;

    #[test]
    fn a_dialog_has_one_key_whoever_asks() {
        let keys = Keyring::new(&[7; 16]);
        assert_eq!(keys.dialog(b"id", b"a", b"b"), keys.dialog(b"id", b"b", b"a"));
        assert_ne!(keys.dialog(b"id", b"a", b"b"), keys.dialog(b"ida", b"", b"b"));
    }

    #[test]
    fn branches_are_derived_and_bear_their_loop_hash() {
        let keys = Keyring::new(&[7; 16]);
        let branch = keys.branch(Key(1), 0, 0xabc);
        let ack = keys.ack_branch(Key(1), 0xabc);
        assert!(
            [branch, keys.branch(Key(1), 1, 0xabc), keys.branch(Key(2), 0, 0xabc)].iter().all(|other| *other != ack)
        );
        assert_ne!(ack, keys.ack_branch(Key(2), 0xabc));
        assert_eq!(branch, keys.branch(Key(1), 0, 0xabc));
        assert_ne!(branch, keys.branch(Key(1), 1, 0xabc));
        assert_ne!(branch, Keyring::new(&[8; 16]).branch(Key(1), 0, 0xabc));
        let mut text = Line::<BRANCH>::new();
        branch.put(&mut text);
        assert_eq!(text.len(), BRANCH);
        assert_eq!(Branch::read(&text), Some(branch));
        assert_eq!(branch.loop_hash(), 0xabc);
        for other in [&b"z9hG4bK1"[..], b"", &text.to_ascii_uppercase(), &[&text[..], b"0"].concat(), &text[1..]] {
            assert_eq!(Branch::read(other), None);
        }
    }

    #[test]
    fn a_loop_is_told_by_all_that_makes_a_request_go_where_it_goes() {
        let request = |uri: &str, number: u32, lines: &str| {
            let text = format!(
                "OPTIONS {uri} SIP/2.0\r\nVia: SIP/2.0/UDP h\r\nFrom: <sip:f@b>\r\nTo: <sip:t@b>\r\nCall-ID: c\r\n\
                 CSeq: {number} OPTIONS\r\n{lines}\r\n"
            );
            Message::parse(text.into(), &crate::sip::Limits::NONE).unwrap()
        };
        let plain = request("sip:a@b", 1, "");
        let [next, other, required, odd] = [
            request("sip:a@b", 2, ""),
            request("sip:a@c", 1, ""),
            request("sip:a@b", 1, "Proxy-Require: x\r\n"),
            request("sip:a@b", 1, "X: 1\r\n"),
        ];
        // A weak hash is weak under some keys only.
        for key in 0..1_000_u128 {
            let keys = Keyring::new(&(key * 0x9e37_79b9_7f4a_7c15).to_be_bytes());
            let hash =
                |request: &Message, dialog, side, routed: &[u8]| keys.loop_hash(request, Key(dialog), side, routed);
            let hashes = [
                hash(&plain, 1, Side::Dialer, b""),
                hash(&plain, 2, Side::Dialer, b""),
                hash(&plain, 1, Side::Telephony, b""),
                hash(&plain, 1, Side::Dialer, b"<sip:r>\n"),
                hash(&next, 1, Side::Dialer, b""),
                hash(&other, 1, Side::Dialer, b""),
                hash(&required, 1, Side::Dialer, b""),
            ];
            let different: std::collections::BTreeSet<_> = hashes.iter().collect();
            assert_eq!(different.len(), hashes.len(), "{key}: {hashes:?}");
            assert_eq!(hash(&odd, 1, Side::Dialer, b""), hashes[0]);
        }
    }

    #[test]
    fn digits_are_read_as_they_are_written_and_no_others() {
        for position in 0..16 {
            for byte in 0..=u8::MAX {
                let mut digits = *b"0123456789abcdef";
                digits[position] = byte;
                let text = std::str::from_utf8(&digits)
                    .ok()
                    .filter(|_| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
                assert_eq!(number_of(&digits), text.map(|text| u64::from_str_radix(text, 16).unwrap()), "{digits:?}");
            }
        }
    }

    #[test]
    fn a_cancel_is_another_transaction_than_its_invite() {
        let branch = Keyring::new(&[7; 16]).branch(Key(1), 0, 5);
        assert_ne!(branch.client(b"INVITE"), branch.client(b"CANCEL"));
        assert_eq!(Branch::of(branch.client(b"INVITE"), b"INVITE", 5), branch);
    }

    #[test]
    fn long_parts_are_hashed_as_short_ones_are() {
        let keys = Keyring::new(&[7; 16]);
        let (long, other) = ([b'a'; 2000], [b'b'; 2000]);
        assert_eq!(keys.name(&long), keys.name(&long));
        assert_ne!(keys.name(&long), keys.name(&other));
        assert_ne!(keys.dialog(&long, b"x", b"y"), keys.dialog(&long, b"xy", b""));
    }

    #[test]
    fn draws_lie_between_zero_and_one() {
        let keys = Keyring::new(&[7; 16]);
        for id in 0..1000u32 {
            let draw = keys.draw(&id.to_be_bytes(), b"pbx-a");
            assert!(draw > 0.0 && draw <= 1.0);
        }
    }
}
