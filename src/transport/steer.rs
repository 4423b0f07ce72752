//! To which of a listener's sockets a datagram comes: to that of the worker that treats its call.
//!
//! With several workers each has a socket of its own at each address (SO_REUSEPORT), and the kernel asks a program which of
//! them a datagram is for. The program finds the Call-ID and hashes it as [`Steering::share`] does. It is classic BPF, which
//! needs no privilege and has no loops: one step for every four bytes in which the name of the header may begin, one for
//! every byte of its value.
//!
//! It knows the name as nearly everybody writes it. What it does not find (the compact form, another case, a Call-ID
//! behind its reach) the kernel deals out by addresses, and who reads that hands it over. So it makes calls cheaper and
//! has no say in who treats them.

use std::io;
use std::net::UdpSocket;

use nix::libc::{
    BPF_ABS, BPF_ADD, BPF_ALU, BPF_B, BPF_IMM, BPF_IND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_LDX,
    BPF_MEM, BPF_MISC, BPF_MOD, BPF_MUL, BPF_RET, BPF_RSH, BPF_ST, BPF_STX, BPF_TAX, BPF_TXA, BPF_W, BPF_X, ENOMEM,
    sock_filter,
};
use siphasher::sip::SipHasher13;

use super::mmsg::choose_by;

/// Bytes of a Call-ID that count: what tells calls apart stands in front.
const HASHED: u32 = 32;
/// Where the line end before a Call-ID may stand at the earliest, about: behind `SIP/2.0 200 OK`.
const FIRST: u32 = 16;
/// Steps of four bytes, for the kernel takes 4,096 instructions. Where it gives programs less memory there are fewer.
const STEPS: u32 = 235;
const FEWEST_STEPS: u32 = 16;
/// What stands where a step looks, if the header's line begins there, or one, two or three bytes before.
const WORDS: [&[u8; 4]; 4] = [b"\nCal", b"Call", b"all-", b"ll-I"];
/// What follows the first of these.
const REST: &[u8; 4] = b"l-ID";
/// No socket: the kernel chooses by addresses.
const NONE: u32 = u32::MAX;

/// How the calls of a process are shared out.
#[derive(Clone, Copy, Debug)]
pub struct Steering {
    /// Odd and secret: nobody outside knows which calls come together.
    factor: u32,
}

impl Steering {
    /// Bytes of a message that are looked at, where the kernel has the memory for it.
    pub const REACH: u32 = FIRST + 4 * STEPS;

    pub fn new(key: &[u8; 16]) -> Steering {
        let hash = SipHasher13::new_with_key(key).hash(b"steering");
        Steering { factor: (hash >> 32) as u32 | 1 }
    }

    /// What a call's worker, and so its socket, is the remainder of.
    pub fn share(self, call_id: &[u8]) -> u32 {
        let counted = call_id.iter().take(HASHED as usize).take_while(|byte| **byte > b' ');
        let hash = counted.fold(0_u32, |hash, byte| hash.wrapping_mul(self.factor).wrapping_add(u32::from(*byte)));
        hash.wrapping_mul(self.factor) >> 16
    }

    /// Has the kernel choose so among `sockets` at the address of this one. Returns how many bytes of a message it looks at.
    ///
    /// # Errors
    /// The kernel's; it deals out by addresses then.
    pub fn attach(self, socket: &UdpSocket, sockets: u32) -> io::Result<u32> {
        let mut steps = STEPS;
        loop {
            match choose_by(socket, &self.program(sockets, steps)) {
                // Up to Linux 6.6 it gives 20 kB, unless net.core.optmem_max says otherwise.
                Err(error) if error.raw_os_error() == Some(ENOMEM) && steps > FEWEST_STEPS => steps -= steps / 8,
                done => return done.map(|()| FIRST + 4 * steps),
            }
        }
    }

    fn program(self, sockets: u32, steps: u32) -> Vec<sock_filter> {
        const STEP: u32 = 15;
        let mut program = Vec::new();
        for step in 0..steps {
            let at = FIRST + 4 * step;
            let [one, two, three, four] = WORDS.map(|word| u32::from_be_bytes(*word));
            // X: where the line end before the name is.
            program.extend([
                statement(BPF_LD | BPF_W | BPF_ABS, at),
                jump(BPF_JEQ, one, 3, 0),
                jump(BPF_JEQ, two, 4, 0),
                jump(BPF_JEQ, three, 5, 0),
                jump(BPF_JEQ, four, 6, 10),
                statement(BPF_LDX | BPF_IMM, at),
                go(5),
                statement(BPF_LDX | BPF_IMM, at - 1),
                go(3),
                statement(BPF_LDX | BPF_IMM, at - 2),
                go(1),
                statement(BPF_LDX | BPF_IMM, at - 3),
                statement(BPF_LD | BPF_W | BPF_IND, 4),
                jump(BPF_JEQ, u32::from_be_bytes(*REST), 0, 1),
                // Past the steps that follow and the answer behind them.
                go(STEP * (steps - step - 1) + 1),
            ]);
        }
        program.push(statement(BPF_RET | BPF_K, NONE));
        // X: where the value begins. Kept in the first place, the hash in the second.
        program.extend([
            statement(BPF_LD | BPF_B | BPF_IND, 8),
            jump(BPF_JEQ, u32::from(b':'), 1, 0),
            statement(BPF_RET | BPF_K, NONE),
            statement(BPF_MISC | BPF_TXA, 0),
            statement(BPF_ALU | BPF_ADD | BPF_K, 9),
            statement(BPF_MISC | BPF_TAX, 0),
            statement(BPF_LD | BPF_B | BPF_IND, 0),
            jump(BPF_JEQ, u32::from(b' '), 0, 3),
            statement(BPF_MISC | BPF_TXA, 0),
            statement(BPF_ALU | BPF_ADD | BPF_K, 1),
            statement(BPF_MISC | BPF_TAX, 0),
            statement(BPF_STX, 0),
            statement(BPF_LD | BPF_IMM, 0),
            statement(BPF_ST, 1),
        ]);
        for byte in 0..HASHED {
            program.extend([
                statement(BPF_LDX | BPF_MEM, 0),
                statement(BPF_LD | BPF_B | BPF_IND, byte),
                jump(BPF_JGE, u32::from(b' ') + 1, 1, 0),
                go(9 * (HASHED - byte - 1) + 5),
                statement(BPF_MISC | BPF_TAX, 0),
                statement(BPF_LD | BPF_MEM, 1),
                statement(BPF_ALU | BPF_MUL | BPF_K, self.factor),
                statement(BPF_ALU | BPF_ADD | BPF_X, 0),
                statement(BPF_ST, 1),
            ]);
        }
        program.extend([
            statement(BPF_LD | BPF_MEM, 1),
            statement(BPF_ALU | BPF_MUL | BPF_K, self.factor),
            statement(BPF_ALU | BPF_RSH | BPF_K, 16),
            statement(BPF_ALU | BPF_MOD | BPF_K, sockets.max(1)),
            statement(BPF_RET | RETURN_A, 0),
        ]);
        program
    }
}

/// `BPF_A`, which the crate does not have.
const RETURN_A: u32 = 0x10;

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn go(instructions: u32) -> sock_filter {
    statement(BPF_JMP | BPF_JA, instructions)
}

/// Over so many instructions where the comparison holds, over so many where it does not.
fn jump(comparison: u32, with: u32, if_so: u8, else_so: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | comparison | BPF_K) as u16, jt: if_so, jf: else_so, k: with }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use nix::sys::socket::{setsockopt, sockopt};
    use socket2::{Domain, Socket, Type};

    use super::*;

    const SOCKETS: u32 = 4;

    /// Sockets at one address, in the order of the kernel.
    fn group(address: &str) -> (Vec<UdpSocket>, SocketAddr) {
        let mut at: SocketAddr = address.parse().unwrap();
        let mut sockets = Vec::new();
        for _ in 0..SOCKETS {
            let socket = Socket::new(Domain::for_address(at), Type::DGRAM, None).unwrap();
            setsockopt(&socket, sockopt::ReusePort, &true).unwrap();
            socket.bind(&at.into()).unwrap();
            let socket = UdpSocket::from(socket);
            at = socket.local_addr().unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            sockets.push(socket);
        }
        (sockets, at)
    }

    /// The number of the socket that a message comes to; nothing else is on its way.
    fn reached(sockets: &[UdpSocket], message: &[u8]) -> usize {
        let mut buffer = [0; 4_096];
        // On the loopback what was sent is there.
        for (number, socket) in sockets.iter().enumerate() {
            socket.set_nonblocking(true).unwrap();
            if let Ok(length) = socket.recv(&mut buffer) {
                assert_eq!(&buffer[..length], message);
                return number;
            }
        }
        panic!("it has not come");
    }

    fn message(before: usize, line: &str) -> String {
        let filler = "Allow-Events: calls, all-ll-ID, \nCall-Info, Call".repeat(before / 48 + 1).replace('\n', "n");
        format!(
            "OPTIONS sip:a@b SIP/2.0\r\nX: {}\r\n{line}\r\nCSeq: 1 OPTIONS\r\nCall-Info: <x>\r\n\r\n",
            &filler[..before]
        )
    }

    #[test]
    fn a_datagram_comes_to_the_socket_that_its_call_id_names_wherever_that_stands() {
        let steering = Steering::new(&[3; 16]);
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (sockets, at) = group(address);
            let reach = steering.attach(&sockets[1], SOCKETS).unwrap();
            let peer = UdpSocket::bind(address).unwrap();
            let mut counts = [0; SOCKETS as usize];
            for number in 0..400_usize {
                let call_id =
                    ["a", "8-32421@127.0.0.1", "call-77@dialer.example.net", "0d1f6b2c-5e40-4b5c-8c1c-6f3b@10.1.2.3"]
                        [number % 4];
                let call_id = format!("{number}{call_id}");
                let colon = [": ", ":", ": "][number % 3];
                let text = message(number * 2, &format!("Call-ID{colon}{call_id}"));
                peer.send_to(text.as_bytes(), at).unwrap();
                let expected = (steering.share(call_id.as_bytes()) % SOCKETS) as usize;
                assert!(2 * number + 60 < reach as usize, "{reach}");
                assert_eq!(reached(&sockets, text.as_bytes()), expected, "{text}");
                counts[expected] += 1;
            }
            assert!(counts.iter().all(|count| *count > 60), "{counts:?}");
        }
    }

    #[test]
    fn what_the_program_does_not_understand_comes_all_the_same() {
        let (sockets, at) = group("127.0.0.1:0");
        Steering::new(&[4; 16]).attach(&sockets[0], SOCKETS).unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let far = message(3_000, "Call-ID: a@b");
        for text in [
            "",
            "\r\n\r\n",
            "OPTIONS sip:a@b SIP/2.0\r\n\r\n",
            "OPTIONS sip:a@b SIP/2.0\r\nCall-ID",
            &far,
            "OPTIONS sip:a@b SIP/2.0\r\nCall-ID:",
            "OPTIONS sip:a@b SIP/2.0\r\nCall-ID: \r\n",
            &message(9, "i: a@b"),
            &message(9, "CALL-ID: a@b"),
            &message(9, "Call-ID : a@b"),
            &message(9, "Call-ID:  a@b"),
        ] {
            peer.send_to(text.as_bytes(), at).unwrap();
            reached(&sockets, text.as_bytes());
        }
    }

    #[test]
    fn calls_are_shared_out_evenly_however_alike_their_call_ids_are() {
        for key in 0..20_u8 {
            let steering = Steering::new(&[key; 16]);
            for workers in [2, 3, 8] {
                let mut counts = vec![0_u32; workers as usize];
                for number in 0..4_000 {
                    let call_id = format!("{number}-2711@10.0.0.1");
                    counts[(steering.share(call_id.as_bytes()) % workers) as usize] += 1;
                }
                let fair = 4_000 / workers;
                assert!(counts.iter().all(|count| count.abs_diff(fair) < fair / 4), "{key} {counts:?}");
            }
        }
    }
}
