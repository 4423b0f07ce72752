//! Calls that were open when the process was killed, and another one that goes on with its journal (case 22).

mod answered;
mod books;
mod requests;
mod setup;
mod tcp;

use sipstamp::policy::Policy;

use crate::support::{PBX_A, PBX_B, Uac, Uas, World, ms, policy, server};

/// For how long nobody is there.
const DEAD: std::time::Duration = ms(700);

fn kept() -> World {
    World::with_journal(policy())
}

fn two_servers() -> Policy {
    let mut policy = policy();
    policy.servers.push(server(2, "pbx-b", PBX_B));
    policy
}

/// Lets everything come to its end where calls have ended before the restart too: the books are of one process.
#[track_caller]
fn comes_to_rest(world: &mut World) {
    while let Some(deadline) = world.deadline() {
        world.advance(deadline.since(world.now.mono));
    }
    assert_eq!((world.endpoint.active_calls(), world.endpoint.pending_work()), (0, 0));
    assert_eq!(world.sample("sipstamp_accounting_imbalance", &[]), 0);
    assert_eq!(world.journal.open(), 0);
}

/// An answered call of progressive dialing.
fn progressive(world: &mut World) -> (Uac, Uas) {
    let mut uac = world.uac();
    let invite = uac.invite().with("Dialing-Mode: progressive");
    let (uac, uas) = world.place(&uac, invite, PBX_A);
    world.answer(uac, uas)
}

fn outcomes(world: &World) -> Vec<&'static str> {
    world.ended_events().map(|ended| ended.outcome.unwrap().label()).collect()
}
