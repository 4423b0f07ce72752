//! Mutations of messages, the same in every run.

/// Steele, Lea and Flood's generator: good enough to mutate by, and the same everywhere.
pub struct SplitMix(pub u64);

impl SplitMix {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// What is spliced in: whatever parts, ends, quotes or repeats something.
const TOKENS: [&[u8]; 48] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n ",
    b"\r\n\t",
    b"\r\n\r\n",
    b"\0",
    b" ",
    b"\t",
    b"  ",
    b":",
    b";",
    b",",
    b"\"",
    b"\\",
    b"\\\"",
    b"<",
    b">",
    b"@",
    b"?",
    b"=",
    b"/",
    b"[",
    b"]",
    b"%00",
    b"\x80",
    b"\xff",
    "é".as_bytes(),
    b"SIP/2.0",
    b"sip:",
    b"sips:",
    b"tel:",
    b";tag=x",
    b";tag",
    b";branch=z9hG4bKx",
    b";lr",
    b"Content-Length: 0\r\n",
    b"l: 3\r\n",
    b"Via: SIP/2.0/UDP 192.0.2.9\r\n",
    b"f: <sip:x@example.net>\r\n",
    b"Call-ID: other\r\n",
    b"CSeq: 2 BYE\r\n",
    b"INVITE",
    b"invite",
    b"2147483648",
    b"-1",
    b"[2001:db8::1]",
    b"X",
];

/// One to three changes to a message.
pub fn mutate(random: &mut SplitMix, message: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = message.to_vec();
    for _ in 0..=random.below(3) {
        change(random, &mut bytes, other);
    }
    bytes
}

fn change(random: &mut SplitMix, bytes: &mut Vec<u8>, other: &[u8]) {
    // Nearly always in the head: bodies are carried and not read.
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").map_or(bytes.len(), |end| end + 4);
    let at = random.below(head + 1);
    match random.below(9) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = random.next() as u8,
        2 => drop(bytes.splice(at..at, random.pick(&TOKENS).iter().copied())),
        3 => {
            let token = random.pick(&TOKENS);
            let end = (at + token.len()).min(bytes.len());
            bytes.splice(at..end, token.iter().copied());
        }
        4 => drop(bytes.drain(at..(at + 1 + random.below(4)).min(bytes.len()))),
        kind => {
            let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
            let (one, another) = (random.below(lines.len()), random.below(lines.len()));
            match kind {
                5 if !lines.is_empty() => drop(lines.remove(one)),
                6 if !lines.is_empty() => lines.insert(another, lines[one].clone()),
                7 if !lines.is_empty() => lines.swap(one, another),
                _ => {
                    let foreign = other.split_inclusive(|byte| *byte == b'\n').collect::<Vec<_>>();
                    lines.insert(one, random.pick(&foreign).to_vec());
                }
            }
            *bytes = lines.concat();
        }
    }
}
