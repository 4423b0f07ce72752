//! What the dialer does next (section 8).

use sipstamp::outcome::{EndCause, Outcome};
use sipstamp::policy::Disposition;

use crate::support::{DIALER, PBX_A, World, policy, secs};

fn mapped(outcome: Outcome, end_cause: Option<EndCause>, disposition: &str, next: Option<&str>) -> Disposition {
    Disposition { outcome, end_cause, disposition: Some(disposition.into()), next: next.map(Into::into) }
}

fn world() -> World {
    let mut policy = policy();
    policy.dispositions = vec![
        mapped(Outcome::NoAnswer, None, "NA", Some("next_record")),
        mapped(Outcome::NoAnswer, Some(EndCause::NoResponse), "dead trunk", Some("stay")),
        mapped(Outcome::Normal, None, "SALE", None),
    ];
    World::new(policy)
}

#[test]
fn an_outcome_is_mapped_in_stamp_and_event() {
    let mut world = world();
    let (_, uas) = world.ringing();
    world.advance(secs(30));
    world.cancelled(&uas);
    let timeout = world.take(DIALER, "408");
    let ended = world.ended_as("NoAnswer", "no_answer_timer");
    let stamp = format!("NoAnswer;cause=no_answer_timer;id={};disposition=NA;next=next_record", ended.call_uid);
    assert_eq!(timeout.one("Call-Outcome"), stamp);
    assert_eq!((ended.disposition.as_deref(), ended.next.as_deref()), (Some("NA"), Some("next_record")));
    world.settle();
}

#[test]
fn a_mapping_with_the_end_cause_wins_and_is_quoted_where_it_must_be() {
    let mut world = world();
    world.called();
    world.advance(secs(31));
    let timeout = world.take(DIALER, "408");
    assert!(timeout.one("Call-Outcome").ends_with(";disposition=\"dead trunk\";next=stay"));
    assert_eq!(world.ended_as("NoAnswer", "no_response").disposition.as_deref(), Some("dead trunk"));
    world.settle();
}

#[test]
fn the_stamp_of_a_2xx_carries_none() {
    let mut world = world();
    let (mut uac, uas) = world.ringing();
    world.send(PBX_A, uas.reply(200));
    let answer = world.take(DIALER, "200");
    assert!(!answer.one("Call-Outcome").contains("disposition"));
    uac.learn(&answer);
    let (_, answer) = world.hang_up(DIALER, PBX_A, uac.bye());
    assert!(answer.one("Call-Outcome").ends_with(";disposition=SALE"));
    let ended = world.ended();
    assert_eq!((ended.disposition.as_deref(), ended.next), (Some("SALE"), None));
    world.settle();
}

#[test]
fn what_is_not_mapped_has_none() {
    let mut world = world();
    let (uac, uas) = world.called();
    let busy = world.fail(&uac, &uas, uas.reply(486));
    assert!(!busy.one("Call-Outcome").contains("disposition"));
    assert_eq!(world.ended().disposition, None);
    world.settle();
}
