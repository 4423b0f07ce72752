//! Datagrams of sources that nobody has configured, most of them made up.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};

use super::target::{PBX, Target, alone, drain, socket};

/// What is read of all strangers together, per second and worker.
const READ_OF_STRANGERS: u32 = 1_000;
/// Datagrams that the calls beside an attack send at most.
const OF_CALLS_BESIDE: u64 = 1_000;
/// In MiB, of a debug build. Measured: 31.
const MEMORY: u64 = 64;

/// Sends as if from any address of 127.0.0.0/8; what comes back to any of them is seen.
struct Spoofer {
    socket: UdpSocket,
    /// Ports that nobody has sent from, at all addresses.
    victim: UdpSocket,
}

impl Spoofer {
    fn new() -> Spoofer {
        Spoofer { socket: socket(Ipv4Addr::UNSPECIFIED), victim: socket(Ipv4Addr::UNSPECIFIED) }
    }

    fn victim(&self) -> u16 {
        self.victim.local_addr().unwrap().port()
    }

    fn send(&self, number: u32, to: SocketAddr, text: &str) {
        let SocketAddr::V4(to) = to else { unreachable!("all of this is IPv4") };
        let source = u32::from(source(number)).to_be();
        let info = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: source },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let part = [IoSlice::new(text.as_bytes())];
        let spoof = [ControlMessage::Ipv4PacketInfo(&info)];
        let to = SockaddrIn::from(to);
        sendmsg(self.socket.as_raw_fd(), &part, &spoof, MsgFlags::empty(), Some(&to)).unwrap();
    }
}

/// The n-th address that nobody has configured.
fn source(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 64, 0, 0)) + number)
}

fn invite(number: u32, via: &str) -> String {
    format!(
        "INVITE sip:+15550199@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {via};branch=z9hG4bKs{number}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:1@example.org>;tag=s{number}\r\nTo: <sip:+15550199@example.net>\r\n\
         Call-ID: spoofed-{number}\r\nCSeq: 1 INVITE\r\nContact: <sip:1@{via}>\r\nContent-Length: 0\r\n\r\n"
    )
}

/// Datagrams that the kernel has dropped before any socket, on all processors since the machine started.
fn dropped_before_sockets() -> u64 {
    let table = std::fs::read_to_string("/proc/net/softnet_stat").unwrap();
    let dropped = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    table.lines().filter_map(dropped).sum()
}

/// Sends so many INVITEs, and lets a call beside complete now and then.
fn flood(target: &Target, spoofer: &Spoofer, count: u32, text: impl Fn(u32) -> String) {
    for number in 0..count {
        if number % (count / 8) == count / 16 {
            target.beside.await_calls(1);
        }
        spoofer.send(number, target.site.sip(), &text(number));
    }
    // It is read after all of the flood, which came by the same socket.
    target.beside.await_calls(2);
}

#[test]
fn two_hundred_thousand_spoofed_invites_cost_little_and_get_nothing() {
    const COUNT: u32 = 200_000;
    let _alone = alone();
    let target = Target::start("spoofed", socket(PBX).local_addr().unwrap(), "");
    let spoofer = Spoofer::new();
    let before = dropped_before_sockets();
    flood(&target, &spoofer, COUNT, |number| invite(number, &format!("{}:{}", source(number), spoofer.victim())));
    let (refused, unread) = (target.rejected("stranger"), target.dropped("strangers"));
    let by_kernel = target.dropped("udp_receive_buffer");
    let lost = dropped_before_sockets() - before;
    println!("{refused} refused, {unread} not read, {by_kernel} dropped by the socket, {lost} before it");
    assert!((1..=target.allowance(READ_OF_STRANGERS)).contains(&refused), "{refused}");
    let (accounted, sent) = (refused + unread + by_kernel, u64::from(COUNT));
    assert!(accounted + lost >= sent, "{accounted} of {sent} are accounted for");
    // What the socket has dropped may be of the calls beside.
    assert!(accounted <= sent + by_kernel.min(OF_CALLS_BESIDE), "{accounted} of {sent} are accounted for");
    assert!(drain(&spoofer.socket).is_empty() && drain(&spoofer.victim).is_empty(), "strangers were sent something");
    assert!(target.end(MEMORY).is_empty(), "strangers' INVITEs have begun calls");
}

#[test]
fn where_strangers_get_403_each_goes_to_where_its_message_came_from() {
    const COUNT: u32 = 20_000;
    let _alone = alone();
    let server = socket(PBX).local_addr().unwrap();
    let target = Target::start("forbidden", server, "[security]\nstrangers = '403'\n");
    let spoofer = Spoofer::new();
    let victim = spoofer.victim();
    flood(&target, &spoofer, COUNT, |number| {
        let own = source(number);
        let via = match number % 4 {
            0 => format!("{own}:{victim}"),
            1 => format!("{own};maddr=127.99.0.7:{victim}"),
            2 => format!("{own}:{victim};maddr=127.99.0.7"),
            _ => format!("127.99.0.7:{victim};rport;received=127.99.0.8"),
        };
        invite(number, &via)
    });
    let answers = drain(&spoofer.socket);
    assert!(answers.iter().all(|answer| answer.code() == Some(403)));
    let refused = target.rejected("stranger");
    println!("{} answers, {refused} refused, {} broken", answers.len(), target.rejected("bad_header"));
    assert!(refused <= target.allowance(READ_OF_STRANGERS), "{refused}");
    assert_eq!(answers.len() as u64, refused, "one answer for each that was read");
    let ids = answers.iter().map(|answer| answer.call_id().to_owned()).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(ids.len(), answers.len(), "one was answered twice");
    assert!(drain(&spoofer.victim).is_empty(), "somebody was sent an answer who has not asked");
    assert!(target.end(MEMORY).is_empty());
}
