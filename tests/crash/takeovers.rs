//! Takeovers that do not come about: the running process goes on.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::agent::{Agent, HANGS_UP};
use super::place::Place;
use super::ports::wait_for;
use super::site::{PATIENCE, Site};

#[test]
fn a_process_whose_journal_cannot_be_written_hands_nothing_over() {
    let site = Site::new("takeover-full");
    let Some(disk) = Place::with_disk(&site.folder.join("journal"), 32 * 1024) else { return };
    let mut site = site.within(disk);
    let sidecar = site.start();
    site.disk().fill();
    let talk = Duration::from_secs(8);
    let (server, caller) = (Agent::server(&site, 20, talk), Agent::callers(&site, HANGS_UP, 20, 100, talk));
    sidecar.wait_until_status("/readyz", 503);
    assert_eq!(site.take_over().ended(), Some(64));
    assert!(site.log().contains("the running process goes on: its journal cannot be written"), "{}", site.log());
    site.disk().make_room();
    sidecar.wait_until_status("/readyz", 200);
    let successor = site.take_over();
    assert_eq!(sidecar.ended(), Some(0));
    caller.succeeds();
    server.succeeds();
    site.balances(&successor, &[(HANGS_UP, 20)]);
}

#[test]
fn a_forced_exit_whose_journal_cannot_be_written_gives_calls_up_and_says_so() {
    let site = Site::new("forced-full");
    let Some(disk) = Place::with_disk(&site.folder.join("journal"), 32 * 1024) else { return };
    let mut site = site.within(disk);
    let sidecar = site.start();
    site.disk().fill();
    let talk = Duration::from_secs(20);
    let _agents = (Agent::server(&site, 20, talk), Agent::callers(&site, HANGS_UP, 20, 100, talk));
    sidecar.wait_until_status("/readyz", 503);
    sidecar.wait_until("sipstamp_calls_active", |active| active == 20.0);
    sidecar.terminate();
    wait_for("the drain", PATIENCE, || Ok(site.log().contains("draining").then_some(()))).unwrap();
    sidecar.terminate();
    assert_eq!(sidecar.ended(), Some(0));
    assert!(site.log().contains("open calls are given up"), "{}", site.log());
    let told = site.events().iter().map(|event| event["end_cause"].clone()).collect::<Vec<_>>();
    assert_eq!(told, ["shutdown"; 20]);
}

#[test]
fn who_connects_and_does_not_ask_ends_nothing() {
    let site = Site::new("takeover-asked");
    let sidecar = site.start();
    let door = site.folder.join("journal/takeover.sock");
    for word in ["", "GET / HTTP/1.1\r\n\r\n", "sipstamp takeover 1\nnot yet\n"] {
        let mut stream = UnixStream::connect(&door).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(word.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // Whatever is answered, then the end. A reset is an end too.
        drop(stream.read_to_end(&mut Vec::new()));
    }
    assert_eq!(sidecar.status("/readyz"), Some(200));
    let successor = site.take_over();
    assert_eq!(sidecar.ended(), Some(0));
    successor.wait_until_status("/readyz", 200);
    assert!(door.exists());
    assert_eq!(site.complaints(), [""; 0]);
}

#[test]
fn a_successor_that_could_not_start_does_not_ask() {
    let mut site = Site::new("takeover-refused");
    let sidecar = site.start();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let http = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for (mistake, said) in [
        (format!("listen.udp = ['{}']", taken.local_addr().unwrap()), "listen.udp[0]: cannot listen"),
        (format!("admin.listen = '{}'", http.local_addr().unwrap()), "admin.listen: cannot listen"),
        (format!("metrics.listen = '0.0.0.0:{}'", site.ports.admin), "overlaps with `admin.listen`"),
    ] {
        site = site.configured(&mistake);
        assert_eq!(site.take_over().ended(), Some(64), "{mistake}");
        assert!(site.log().contains(said), "{}", site.log());
        assert_eq!(sidecar.status("/readyz"), Some(200), "{mistake}");
    }
}

#[test]
fn a_successor_may_have_other_addresses_on_the_same_ports() {
    let mut site = Site::new("takeover-readdressed");
    let sidecar = site.start();
    let (sip, other) = (site.ports.sip, site.ports.control);
    let any = format!(
        "listen.udp = ['0.0.0.0:{sip}']\n[[telephony.servers]]\nname = 'pbx-a'\nuri = 'sip:127.0.0.20:{other}'"
    );
    site = site.configured(&any);
    let successor = site.take_over();
    assert_eq!(sidecar.ended(), Some(0));
    successor.wait_until_status("/readyz", 200);
    assert_eq!(site.complaints(), [""; 0]);
    assert!(fs::exists(site.folder.join("journal/takeover.sock")).unwrap());
}
