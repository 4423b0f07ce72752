//! Messages that were made or saved to break parsers.

use crate::support::{DIALER, PBX_A, World};
use crate::wire::{Corpus, Over, deliver, policy, still_works};

#[test]
fn of_protos_only_the_reference_invite_is_forwarded() {
    let Some(corpus) = Corpus::open("protos") else { return };
    for (name, bytes) in corpus.all() {
        for over in [Over::Udp, Over::Tcp] {
            let mut world = World::new(policy());
            let fate = deliver(&mut world, over, DIALER, &bytes);
            assert_eq!(fate.forwarded.len(), usize::from(name == "c07-001.sip"), "{name} {over:?}: {}", fate.told);
            still_works(&mut world);
        }
    }
}

#[test]
fn whatever_was_saved_of_others_leaves_the_core_at_work() {
    for set in ["kamailio", "protos", "rfc4475", "rfc5118", "vendor"] {
        let Some(corpus) = Corpus::open(set) else { continue };
        let mut world = World::new(policy());
        for (name, bytes) in corpus.all() {
            for over in [Over::Udp, Over::Tcp] {
                for from in [DIALER, PBX_A, "198.51.100.9:5060"] {
                    let fate = deliver(&mut world, over, from, &bytes);
                    assert!(!fate.told.is_empty(), "{name}");
                }
            }
        }
        still_works(&mut world);
        world.balances();
    }
}
