//! Whose bytes are read at all: decided by the address that they come from, before any work is done for them.
//!
//! What a configured source sends is always read. Strangers, of whom nobody needs to be served, and whose
//! addresses over UDP may be made up, have so many messages per second that a scan shows in the log and
//! in the counters, and a flood costs next to nothing. Somebody in between is who was sent something lately: a party of a
//! call that the call itself has named. It is not affected by what strangers send, and has as many messages as a gateway
//! needs.

use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::overload::fits;
use crate::policy::Policy;
use crate::time::Mono;

/// Messages per second that are read of one stranger.
pub(super) const OF_ONE_STRANGER: u32 = 20;
/// Messages per second that are read of all strangers together, by each worker.
pub(super) const OF_ALL_STRANGERS: u32 = 1_000;
/// Messages per second that are read of somebody who was sent something, by each worker.
pub(super) const OF_ONE_PEER: u32 = 500;
/// For how long who was sent something is no stranger: as long as a call may last.
const PEER_FOR: Duration = Duration::from_secs(24 * 3600);
/// Strangers that are told apart; others share a place with them.
const PLACES: usize = 4096;
/// Configured sources that are recognised without a search.
const KNOWN: usize = 8;

/// Addresses that something was sent to and that are not configured: all workers' together, in a table of fixed size in which
/// an address may take another's place.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    /// Of each place a part of the address's hash, and when it was last sent something, in seconds.
    places: Arc<[AtomicU64]>,
    /// Nobody can choose addresses that share a place with another's.
    hasher: RandomState,
}

/// What strangers have sent lately.
#[derive(Debug)]
pub(super) struct Gate {
    /// When the next message of a stranger in this place is read.
    places: Box<[Mono]>,
    all: Mono,
    peers: Peers,
    /// Configured sources that have been heard of.
    known: SmallVec<[SocketAddr; KNOWN]>,
    /// Messages of strangers that were read.
    pub(super) read: u64,
    /// Messages of strangers that were not.
    pub(super) unread: u64,
    /// Whose the last of them was, since that was asked.
    refused: Option<IpAddr>,
}

impl Peers {
    pub(super) fn new() -> Peers {
        Peers { places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(), hasher: RandomState::default() }
    }

    fn note(&self, address: IpAddr, now: Mono) {
        let (place, tag) = self.place(address);
        if let Some(place) = place {
            place.store(tag | seconds(now), Ordering::Relaxed);
        }
    }

    fn have(&self, address: IpAddr, now: Mono) -> bool {
        let (place, tag) = self.place(address);
        let known = place.map_or(0, |place| place.load(Ordering::Relaxed));
        let (of, at) = (known & TAG, known & !TAG);
        known != 0 && of == tag && seconds(now).saturating_sub(at) < PEER_FOR.as_secs()
    }

    fn place(&self, address: IpAddr) -> (Option<&AtomicU64>, u64) {
        let hash = self.hasher.hash_one(address.to_canonical());
        (self.places.get(usize::try_from(hash % PLACES as u64).unwrap_or(0)), hash & TAG)
    }
}

/// The upper half of a place of [`Peers`].
const TAG: u64 = !(u32::MAX as u64);

fn seconds(at: Mono) -> u64 {
    (at.0 / 1_000_000) & !TAG
}

impl Gate {
    pub(super) fn new(peers: Peers) -> Gate {
        Gate {
            places: vec![Mono::default(); PLACES].into_boxed_slice(),
            all: Mono::default(),
            peers,
            known: SmallVec::new(),
            read: 0,
            unread: 0,
            refused: None,
        }
    }

    /// Another configuration may have other sources.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }

    /// Something is sent to this address.
    pub(super) fn note_sent(&mut self, remote: SocketAddr, policy: &Policy, now: Mono) {
        if !self.is_configured(remote, policy) {
            self.peers.note(remote.ip(), now);
        }
    }

    fn is_configured(&mut self, remote: SocketAddr, policy: &Policy) -> bool {
        if self.known.contains(&remote) {
            return true;
        }
        let is_configured = policy.source(remote).is_some();
        if is_configured {
            if self.known.len() == KNOWN {
                self.known.clear();
            }
            self.known.push(remote);
        }
        is_configured
    }

    /// Whether a message from this address is read.
    pub(super) fn admits(&mut self, remote: SocketAddr, policy: &Policy, now: Mono) -> bool {
        if self.is_configured(remote, policy) {
            return true;
        }
        let hash = self.peers.hasher.hash_one(network(remote.ip()));
        let Some(place) = self.places.get_mut(usize::try_from(hash % PLACES as u64).unwrap_or(0)) else { return false };
        let admits = if self.peers.have(remote.ip(), now) {
            fits(place, OF_ONE_PEER, now, true)
        } else {
            // Who has sent too much takes nothing from the others.
            fits(place, OF_ONE_STRANGER, now, true) && fits(&mut self.all, OF_ALL_STRANGERS, now, true)
        };
        if admits {
            self.read += 1;
        } else {
            self.unread += 1;
            self.refused = Some(remote.ip());
        }
        admits
    }

    /// Whose message was not read last, where there was one since this was asked.
    pub(super) fn take_refused(&mut self) -> Option<IpAddr> {
        self.refused.take()
    }
}

/// What one stranger has of addresses: of IPv6 a whole network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::from((u128::from(address) >> 64 << 64).to_be_bytes()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    /// With a dialer at 10.0.1.0/24.
    fn policy() -> Policy {
        let overrides = config::Overrides {
            dialer: vec!["10.0.1.0/24".parse().unwrap()],
            servers: vec!["10.0.2.10:5060".into()],
            ..Default::default()
        };
        config::load(None, &overrides, &|_| None).unwrap_or_else(|mistakes| panic!("{mistakes}")).template
    }

    /// Addresses with the same one share what they may send.
    fn place_of(gate: &Gate, remote: SocketAddr) -> u64 {
        gate.peers.hasher.hash_one(network(remote.ip())) % PLACES as u64
    }

    #[test]
    fn a_stranger_has_so_many_messages_and_a_configured_source_all() {
        let (mut gate, policy, now) = (Gate::new(Peers::new()), policy(), Mono(1));
        let configured = "10.0.1.5:5060".parse().unwrap();
        let stranger = "192.0.2.66:5060".parse().unwrap();
        let mut others = (67..).map(|host| SocketAddr::from(([192, 0, 2, host], 9)));
        let other = others.find(|other| place_of(&gate, *other) != place_of(&gate, stranger)).unwrap();
        assert_eq!((0..1_000).filter(|_| gate.admits(stranger, &policy, now)).count(), OF_ONE_STRANGER as usize);
        assert!((0..1_000).all(|_| gate.admits(configured, &policy, now)));
        assert!(gate.admits(other, &policy, now));
        assert!(gate.admits(stranger, &policy, now + Duration::from_millis(50)));
        assert_eq!(gate.unread, 1_000 - u64::from(OF_ONE_STRANGER));
    }

    #[test]
    fn all_strangers_together_have_so_many() {
        let (mut gate, policy, now) = (Gate::new(Peers::new()), policy(), Mono(1));
        let spoofed = (0..20_000_u32).map(|number| SocketAddr::from((number.to_be_bytes().map(|byte| byte | 128), 9)));
        assert_eq!(spoofed.filter(|from| gate.admits(*from, &policy, now)).count(), OF_ALL_STRANGERS as usize);
    }

    #[test]
    fn who_was_sent_something_is_read_whatever_strangers_send() {
        let (peers, policy, now) = (Peers::new(), policy(), Mono(1_000_000));
        let (mut sending, mut reading) = (Gate::new(peers.clone()), Gate::new(peers));
        let gateway = "192.0.2.80:5060".parse().unwrap();
        sending.note_sent(gateway, &policy, now);
        // Who shares the gateway's place takes from what it has.
        let its_place = place_of(&reading, gateway);
        let spoofed = (0..20_000_u32).map(|number| SocketAddr::from((number.to_be_bytes().map(|byte| byte | 128), 9)));
        let spoofed = spoofed.filter(|from| place_of(&sending, *from) != its_place);
        assert!(spoofed.map(|from| reading.admits(from, &policy, now)).any(|admits| !admits));
        assert_eq!((0..1_000).filter(|_| reading.admits(gateway, &policy, now)).count(), OF_ONE_PEER as usize);
        let later = now + PEER_FOR;
        assert_eq!((0..1_000).filter(|_| reading.admits(gateway, &policy, later)).count(), OF_ONE_STRANGER as usize);
    }

    #[test]
    fn a_network_of_ipv6_is_one_stranger() {
        let (mut gate, policy, now) = (Gate::new(Peers::new()), policy(), Mono(1));
        let hosts = (0..100_u16).map(|host| SocketAddr::from(([0x2001, 0xdb8, 0, 7, 0, 0, 1, host], 5060)));
        assert_eq!(hosts.filter(|from| gate.admits(*from, &policy, now)).count(), OF_ONE_STRANGER as usize);
    }

    #[test]
    fn what_is_configured_may_change() {
        let (mut gate, mut policy, now) = (Gate::new(Peers::new()), policy(), Mono(1));
        let source = "10.0.1.5:5060".parse().unwrap();
        assert!(gate.admits(source, &policy, now));
        policy.dialer.sources.clear();
        gate.forget();
        assert_eq!((0..100).filter(|_| gate.admits(source, &policy, now)).count(), OF_ONE_STRANGER as usize);
    }
}
