//! Connections that say nothing, or that drip.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use super::target::{FLOODER, PBX, Target, alone, socket};
use crate::ports::wait_for;
use crate::site::command;
use crate::wire::PATIENCE;

/// Of the configuration's default.
const CONNECTIONS: u64 = 1_024;
const OF_STRANGERS: u64 = CONNECTIONS / 8;
const OF_ONE_STRANGER: u64 = 4;
const OF_ONE_SOURCE: u64 = 64;
const ATTACKERS: u32 = 2_000;
/// A call beside has one at a time, and the one before may not be closed yet.
const BESIDE: u64 = 2;
/// In MiB, of a debug build. Measured: 31 to 34.
const MEMORY: u64 = 64;

pub fn connect(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // Many addresses, few ports of each.
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(socket.into())
}

/// The n-th address that nobody has configured.
fn stranger(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 72, 0, 0)) + number)
}

/// Opens connections, half of which begin a message.
fn open(to: SocketAddr, sources: impl Iterator<Item = Ipv4Addr>) -> Vec<TcpStream> {
    let open = |(number, from)| {
        let mut stream = connect(from, to).expect("the kernel takes the connection");
        if number % 2 == 0 {
            drip(&mut stream);
        }
        stream
    };
    sources.enumerate().map(open).collect()
}

/// One more byte. One that was refused is closed.
fn drip(stream: &mut TcpStream) {
    drop(stream.write(b"I"));
}

fn await_figure(what: &str, figure: impl Fn() -> u64, is_it: impl Fn(u64) -> bool) {
    wait_for(what, PATIENCE, || Ok(is_it(figure()).then_some(())))
        .unwrap_or_else(|error| panic!("{error}: {}", figure()));
}

#[test]
fn connections_that_drip_or_say_nothing_take_no_seats_of_others() {
    let _alone = alone();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(soft.max(8_192)), hard).unwrap();
    let limit = format!("[limits]\ntcp_connections_per_source = {OF_ONE_SOURCE}\n");
    let server = socket(PBX).local_addr().unwrap();
    let target = Target::start_as("loris", server, &limit, 1, true, command);
    let sip = target.site.sip();
    let connected = || target.site.metric("sipstamp_tcp_connections", &[]);
    let refused = || target.dropped("tcp_connections");
    let all = u64::from(ATTACKERS);

    let mut strangers = open(sip, (0..ATTACKERS).map(stranger));
    await_figure("strangers to be refused", refused, |refused| refused >= all - OF_STRANGERS);
    for _ in 0..4 {
        strangers.iter_mut().for_each(drip);
        target.beside.await_calls(1);
        assert!((OF_STRANGERS..=OF_STRANGERS + BESIDE).contains(&connected()), "{}", connected());
    }
    assert_eq!(refused(), all - OF_STRANGERS);

    let mut others = open(sip, std::iter::repeat_n(FLOODER, ATTACKERS as usize));
    let expected = 2 * all - OF_STRANGERS - OF_ONE_SOURCE;
    await_figure("connections of one source to be refused", refused, |refused| refused >= expected);
    for _ in 0..4 {
        others.iter_mut().for_each(drip);
        target.beside.await_calls(1);
        assert!(connected() <= OF_STRANGERS + OF_ONE_SOURCE + BESIDE, "{}", connected());
    }
    assert_eq!(refused(), expected);

    drop((strangers, others));
    await_figure("seats to be given back", connected, |open| open <= BESIDE);
    let one = open(sip, std::iter::repeat_n(stranger(0), 20));
    await_figure("the others of one stranger to be refused", refused, |refused| {
        refused >= expected + 20 - OF_ONE_STRANGER
    });
    target.beside.await_calls(1);
    assert!((OF_ONE_STRANGER..=OF_ONE_STRANGER + BESIDE).contains(&connected()), "{}", connected());
    drop(one);
    assert!(target.end(MEMORY).is_empty());
}

/// The sidecar with so many descriptors; `kind` is an option of `ulimit`.
fn with_descriptors(name: &str, kind: &str, count: u64) -> Target {
    let server = socket(PBX).local_addr().unwrap();
    let shell = |folder: &std::path::Path| {
        let sidecar = command(folder);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit {kind} -n {count} && exec \"$0\" \"$@\"")]);
        shell.arg(sidecar.get_program()).args(sidecar.get_args()).env_remove("RUST_LOG");
        shell
    };
    Target::start_as(name, server, "", 1, false, shell)
}

fn descriptors(target: &Target) -> u64 {
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", target.site.child.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap()
}

#[test]
fn the_process_takes_the_descriptors_that_its_limit_of_connections_needs() {
    let target = with_descriptors("descriptors", "-S", 256);
    assert!(descriptors(&target) > CONNECTIONS, "{}", descriptors(&target));
    assert!(!target.site.log().contains("LimitNOFILE"), "{}", target.site.log());
    target.end(MEMORY);
}

#[test]
fn a_process_that_may_not_have_enough_descriptors_says_so_at_its_start() {
    let target = with_descriptors("few-descriptors", "", 512);
    assert_eq!(descriptors(&target), 512);
    let log = target.site.log();
    assert!(log.contains("WARN") && log.contains("limits.tcp_connections") && log.contains("LimitNOFILE"), "{log}");
    target.end(MEMORY);
}
