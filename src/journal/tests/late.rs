//! Events that no worker could write at their time.

use super::*;
use crate::call::Uid;

/// A journal with one worker's writer and one of late events, and who is woken.
fn with_late(place: &Place) -> (Writer, Late, Running, Receiver<usize>) {
    let (mut journal, _) = place.open();
    let (mut writer, late) = (journal.writer().unwrap(), journal.late().unwrap());
    let (woken, wakes) = channel();
    let running = journal.start(move |writer| woken.send(writer).unwrap()).unwrap();
    assert!(writer.begins_all() && writer.ends_all());
    // That the worker is whole may be why others could be due.
    assert_eq!(wakes.recv_timeout(PATIENCE), Ok(1));
    (writer, late, running, wakes)
}

fn recover(writer: &mut Writer, wakes: &Receiver<usize>) {
    assert_eq!(wakes.recv_timeout(PATIENCE), Ok(0));
    assert!(writer.begins_all() && writer.ends_all());
    assert_eq!(wakes.recv_timeout(PATIENCE), Ok(1));
}

fn late_events<'a>(count: u8) -> impl Iterator<Item = LateEvent<'a>> {
    (0..count).map(|call| LateEvent { call: Uid(call.into()), kind: EventKind::Ended, line: b"{}" })
}

#[test]
fn late_events_are_written_once_all_workers_write_again() {
    let place = Place::new("late");
    let (mut writer, mut late, running, wakes) = with_late(&place);
    assert_eq!((late.due(), running.is_sound()), (None, true));
    fail(&mut writer);
    assert_eq!((late.due(), running.is_sound()), (None, false), "more may come");
    recover(&mut writer, &wakes);
    assert!(!running.is_sound(), "late events are not written");
    let due = late.due().unwrap();
    let written = late.write(due, late_events(200).chain(late_events(200)));
    let stream = Stream { run: 1, writer: 1 };
    assert!(written.len() == 400 && written.iter().all(|at| at.stream == stream) && written.is_sorted());
    assert_eq!((late.due(), running.is_sound()), (None, true));
    drop((writer, late));
    running.close();
    let (_, found) = place.open();
    assert_eq!(found.events[&stream], written.iter().map(|at| at.seq).collect::<Vec<_>>());
    assert_eq!(found.cursors["file"][&stream], 0, "the sink is behind");
}

#[test]
fn late_events_are_owed_by_a_worker_that_failed_before_there_was_their_writer() {
    let place = Place::new("late-before");
    let (mut journal, _) = place.open();
    let mut writer = journal.writer().unwrap();
    fail(&mut writer);
    let mut late = journal.late().unwrap();
    let (woken, wakes) = channel();
    let running = journal.start(move |writer| woken.send(writer).unwrap()).unwrap();
    // It may be woken for what its own beginning wrote too.
    while wakes.recv_timeout(PATIENCE) != Ok(0) {}
    assert!(writer.begins_all() && writer.ends_all());
    assert!(!running.is_sound(), "late events are not written");
    let due = late.due().unwrap();
    assert_eq!(late.write(due, late_events(1)).len(), 1);
    assert!(running.is_sound());
    drop((writer, late));
    running.close();
}

#[test]
fn late_events_are_due_again_where_a_worker_fails_meanwhile() {
    let place = Place::new("late-again");
    let (mut writer, mut late, running, wakes) = with_late(&place);
    fail(&mut writer);
    recover(&mut writer, &wakes);
    let due = late.due().unwrap();
    fail(&mut writer);
    assert_eq!(late.write(due, late_events(1)).len(), 1);
    assert_eq!((late.due(), running.is_sound()), (None, false));
    recover(&mut writer, &wakes);
    // The worker has failed and is well again since: it may have handed over more.
    assert_eq!(late.write(due, late_events(0)).len(), 0);
    assert!(!running.is_sound());
    let due = late.due().unwrap();
    late.write(due, late_events(0));
    assert!(running.is_sound());
    drop((writer, late));
    running.close();
}

#[test]
fn late_events_go_on_in_another_segment_where_theirs_is_lost() {
    let place = Place::new("late-lost");
    let (mut writer, mut late, running, wakes) = with_late(&place);
    late.writer.lose_segment();
    assert_eq!((late.due(), running.is_sound()), (None, false), "it is noticed before it is needed");
    assert_eq!(wakes.recv_timeout(PATIENCE), Ok(1));
    let due = late.due().unwrap();
    assert_eq!(late.write(due, late_events(0)).len(), 0);
    assert!(running.is_sound());
    fail(&mut writer);
    recover(&mut writer, &wakes);
    let due = late.due().unwrap();
    late.writer.lose_segment();
    assert_eq!(late.write(due, late_events(1)).len(), 0);
    assert!(!running.is_sound());
    assert_eq!(wakes.recv_timeout(PATIENCE), Ok(1));
    let due = late.due().unwrap();
    assert_eq!(late.write(due, late_events(1)).len(), 1);
    assert!(running.is_sound());
    drop((writer, late));
    running.close();
    let (_, found) = place.open();
    assert_eq!(found.events[&Stream { run: 1, writer: 1 }].len(), 1);
}
