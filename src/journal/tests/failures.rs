//! Segments and cursors that cannot be written, and files that are gone.

use super::*;

#[test]
fn after_a_failure_segments_follow_each_other_as_before() {
    let place = Place::new("rotation");
    let (mut journal, _) = place.open();
    let mut writer = journal.writer().unwrap();
    let (woken, wakes) = channel();
    let running = journal.start(move |worker| woken.send(worker).unwrap()).unwrap();
    writer.lose_segment();
    push(&mut writer, &Step::Call(1, b"one".to_vec()));
    assert!(!writer.flush());
    wakes.recv_timeout(Duration::from_secs(60)).unwrap();
    let state = vec![7; 1024 * 1024];
    let latest =
        || segment::list(&place.0).unwrap().iter().filter(|name| name.stream.writer == 0).map(|name| name.number).max();
    let before = latest();
    // The keeper may be slower than a loop that does nothing else.
    wait_for("it goes on in other segments", || {
        push(&mut writer, &Step::Call(1, state.clone()));
        assert!(writer.flush());
        if writer.begins_all() {
            writer.ends_all();
        }
        latest() > before.map(|number| number + 3)
    });
    drop(writer);
    running.close();
}

#[test]
fn a_file_that_is_gone_is_noticed_without_further_traffic() {
    let place = Place::new("gone");
    let (mut journal, _) = Journal::open(&place.0, Some(Duration::from_millis(10)), &sinks()).unwrap();
    let mut writer = journal.writer().unwrap();
    let shared = journal.shared();
    let (woken, wakes) = channel();
    let running = journal.start(move |worker| woken.send(worker).unwrap()).unwrap();
    assert!(writer.begins_all());
    writer.ends_all();
    std::fs::remove_dir_all(&place.0).unwrap();
    push(&mut writer, &Step::Call(1, b"one".to_vec()));
    // It is still open.
    assert!(writer.flush());
    let deadline = Duration::from_secs(60);
    assert_eq!(wakes.recv_timeout(deadline), Ok(0));
    assert!(!writer.begins_all());
    assert_eq!(shared.broken().writers.len(), 1);
    while wakes.recv_timeout(deadline) == Ok(0) && !writer.begins_all() {}
    push(&mut writer, &Step::Call(1, b"one".to_vec()));
    writer.ends_all();
    assert_eq!(shared.broken().writers.len(), 0);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&place.0).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700, "it is made again for its user alone");
    drop(writer);
    running.close();
    assert_eq!(place.open().1.calls.len(), 1);
}

#[test]
fn cursors_that_could_not_be_written_are_tried_again_without_further_deliveries() {
    let place = Place::new("cursors-again");
    let (mut journal, _) = place.open();
    let mut writer = journal.writer().unwrap();
    let cursors = Stream { run: 1, writer: segment::CURSORS };
    // In the way of the first.
    let in_the_way = Name { stream: cursors, number: 0 }.path(&place.0);
    std::fs::write(&in_the_way, "").unwrap();
    let shared = journal.shared();
    let running = journal.start(|_| {}).unwrap();
    assert_eq!(shared.errors(), 1);
    push(&mut writer, &Step::Ended(1));
    assert!(writer.flush());
    let written = || {
        let mut names = segment::list(&place.0).unwrap().into_iter().filter(|name| name.stream == cursors);
        names.any(|name| name.path(&place.0).metadata().unwrap().len() > segment::HEAD as u64)
    };
    wait_for("they are tried again", written);
    assert_eq!(shared.errors(), 1);
    drop(writer);
    running.close();
}

fn open_files(directory: &Path) -> usize {
    let links =
        std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.starts_with(directory)).count()
}

#[test]
fn failures_leave_neither_files_nor_descriptors() {
    let place = Place::new("leak");
    let (mut journal, _) = place.open();
    let mut writer = journal.writer().unwrap();
    let (woken, wakes) = channel();
    let running = journal.start(move |worker| woken.send(worker).unwrap()).unwrap();
    for _ in 0..5 {
        writer.lose_segment();
        push(&mut writer, &Step::Call(1, b"one".to_vec()));
        assert!(!writer.flush());
        wakes.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(writer.begins_all());
        push(&mut writer, &Step::Call(1, b"one".to_vec()));
        writer.ends_all();
    }
    // One that is written, its spare where there is one, cursors.
    wait_for("what is not needed is removed", || place.segments().len() <= 3);
    assert!(open_files(&place.0) <= 4, "with the lock");
    drop(writer);
    running.close();
}
