//! A journal of its own directory, damaged in every way that a disk or a kill can think of.

mod failures;
mod late;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::segment::Name;
use super::*;
use crate::event::EventKind;

/// A directory that is gone at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("sipstamp-journal-{name}-{}", std::process::id()));
        // Left from a run that was killed; it is no mistake if there was none.
        drop(std::fs::remove_dir_all(&path));
        Place(path)
    }

    fn open(&self) -> (Journal, Found) {
        Journal::open(&self.0, None, &sinks()).unwrap()
    }

    /// Opens it, or tells why not.
    fn refused(&self) -> OpenError {
        Journal::open(&self.0, None, &sinks()).unwrap_err()
    }

    fn segments(&self) -> Vec<PathBuf> {
        segment::list(&self.0).unwrap().into_iter().map(|name| name.path(&self.0)).collect()
    }

    fn size(&self) -> u64 {
        self.segments().iter().map(|path| path.metadata().unwrap().len()).sum()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nobody minds what is left of it.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn sinks() -> Vec<Arc<str>> {
    vec!["file".into()]
}

/// What a reader finds: kind, key, state.
type States = BTreeSet<(u8, u128, Vec<u8>)>;

fn states(found: &Found) -> States {
    let maps = [(0, &found.calls), (1, &found.servers), (2, &found.clients)];
    let all = maps
        .into_iter()
        .flat_map(|(kind, map)| map.iter().map(move |(key, latest)| (kind, *key, latest.state.to_vec())));
    all.collect()
}

/// One thing to write.
#[derive(Clone, Debug)]
enum Step {
    Call(u128, Vec<u8>),
    Server(u128, Vec<u8>),
    Client(u128, Vec<u8>),
    /// An event that is not the last of its call.
    Told(u128),
    Ended(u128),
}

/// What ought to be found.
#[derive(Clone, Debug, Default)]
struct Model {
    states: BTreeMap<(u8, u128), Vec<u8>>,
    events: usize,
}

impl Model {
    fn take(&mut self, step: &Step) {
        match step {
            Step::Call(key, state) => drop(self.states.insert((0, *key), state.clone())),
            Step::Server(key, state) => self.put(1, *key, state),
            Step::Client(key, state) => self.put(2, *key, state),
            Step::Told(_) => self.events += 1,
            Step::Ended(key) => {
                self.events += 1;
                self.states.remove(&(0, *key));
            }
        }
    }

    fn put(&mut self, kind: u8, key: u128, state: &[u8]) {
        if state.is_empty() {
            self.states.remove(&(kind, key));
        } else {
            self.states.insert((kind, key), state.to_vec());
        }
    }

    fn states(&self) -> States {
        self.states.iter().map(|((kind, key), state)| (*kind, *key, state.clone())).collect()
    }
}

fn push(writer: &mut Writer, step: &Step) -> Option<Position> {
    let event = |kind: EventKind| [kind.index() as u8];
    match step {
        Step::Call(key, state) => writer.push(Kind::Call, *key, &[state]),
        Step::Server(key, state) => writer.push(Kind::Server, *key, &[state]),
        Step::Client(key, state) => writer.push(Kind::Client, *key, &[state]),
        Step::Told(key) => writer.push(Kind::Event, *key, &[&event(EventKind::Ringing), b"{}"]),
        Step::Ended(key) => writer.push(Kind::Event, *key, &[&event(EventKind::Ended), b"{}"]),
    }
}

/// Batches of all kinds.
fn batches() -> Vec<Vec<Step>> {
    let state = |text: &str| text.as_bytes().to_vec();
    vec![
        vec![Step::Call(1, state("one")), Step::Server(10, state("invite")), Step::Client(20, state("forwarded"))],
        vec![Step::Call(2, state("two")), Step::Told(1)],
        vec![Step::Client(20, state("ringing"))],
        vec![Step::Server(10, vec![]), Step::Client(20, vec![]), Step::Ended(1)],
        vec![Step::Call(2, state("two, answered")), Step::Server(11, state("bye"))],
    ]
}

/// Writes them: the writer's segment, and after each batch its length and what is to be found then.
fn written(place: &Place) -> (PathBuf, Vec<(u64, Model)>) {
    let (mut journal, _) = place.open();
    let mut writer = journal.writer().unwrap();
    let path = place.segments().remove(0);
    let mut model = Model::default();
    let mut history = vec![(path.metadata().unwrap().len(), model.clone())];
    for batch in batches() {
        for step in &batch {
            assert!(push(&mut writer, step).is_some());
            model.take(step);
        }
        assert!(writer.flush());
        history.push((path.metadata().unwrap().len(), model.clone()));
    }
    (path, history)
}

fn is_seen(damage: Damage) -> bool {
    damage != Damage::default()
}

#[test]
fn what_was_written_is_found() {
    let place = Place::new("found");
    let (_, history) = written(&place);
    let (_, found) = place.open();
    let (_, model) = history.last().unwrap();
    assert_eq!((states(&found), found.damage), (model.states(), Damage::default()));
    assert_eq!(found.events.values().map(Vec::len).sum::<usize>(), model.events);
}

#[test]
fn a_segment_that_ends_anywhere_holds_the_batches_before() {
    let place = Place::new("cut");
    let (path, history) = written(&place);
    let text = std::fs::read(&path).unwrap();
    for length in (0..=text.len()).rev() {
        std::fs::write(&path, &text[..length]).unwrap();
        let (_, found) = place.open();
        let before = history.iter().rfind(|(end, _)| *end <= length as u64);
        let model = before.map(|(_, model)| model.clone()).unwrap_or_default();
        assert_eq!(states(&found), model.states(), "{length}");
        let is_clean = before.is_some_and(|(end, _)| *end == length as u64) || length == 0;
        assert_eq!(is_seen(found.damage), !is_clean, "{length}: {:?}", found.damage);
    }
}

#[test]
fn a_bit_that_flips_anywhere_is_seen_and_invents_nothing() {
    let place = Place::new("flip");
    let (path, history) = written(&place);
    let ever = history.iter().flat_map(|(_, model)| model.states()).collect::<States>();
    let events = history.last().unwrap().1.events;
    let text = std::fs::read(&path).unwrap();
    for bit in 0..text.len() * 8 {
        let mut text = text.clone();
        text[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &text).unwrap();
        let (_, found) = place.open();
        assert!(is_seen(found.damage), "bit {bit}");
        assert!(states(&found).is_subset(&ever), "bit {bit}");
        assert!(found.events.values().map(Vec::len).sum::<usize>() <= events, "bit {bit}");
    }
}

#[test]
fn a_segment_that_is_missing_in_the_middle_is_seen() {
    let place = Place::new("missing");
    let (path, _) = written(&place);
    // Three segments of one stream.
    let text = std::fs::read(&path).unwrap();
    let name = segment::list(&place.0).unwrap().remove(0);
    let head = segment::HEAD;
    let lengths = written(&Place::new("missing-lengths")).1.iter().map(|(end, _)| *end as usize).collect::<Vec<_>>();
    let parts = [(head, lengths[2]), (lengths[2], lengths[3]), (lengths[3], text.len())];
    for spare in place.segments() {
        std::fs::remove_file(spare).unwrap();
    }
    for (number, (from, to)) in (1..).zip(parts) {
        use std::io::Write;
        let mut file = segment::create(&place.0, Name { number, ..name }).unwrap();
        file.write_all(&text[from..to]).unwrap();
    }
    assert_eq!(place.open().1.damage, Damage::default());
    std::fs::remove_file(Name { number: 2, ..name }.path(&place.0)).unwrap();
    assert_eq!(place.open().1.damage, Damage { frames: 1, ..Damage::default() });
}

#[test]
fn a_segment_that_cannot_be_read_or_is_of_a_later_version_stops_the_start() {
    let place = Place::new("unreadable");
    let (path, _) = written(&place);
    let text = std::fs::read(&path).unwrap();
    let mut later = text.clone();
    later[8] = 2;
    let sum = crc32fast::hash(&later[..segment::HEAD - 4]).to_le_bytes();
    later[segment::HEAD - 4..segment::HEAD].copy_from_slice(&sum);
    std::fs::write(&path, &later).unwrap();
    assert!(matches!(place.refused(), OpenError::Newer { version: 2, .. }));
    assert_eq!(std::fs::read(&path).unwrap(), later, "it is left as it is");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(place.refused(), OpenError::Io { path: of, .. } if of == path));
}

#[test]
fn one_directory_is_of_one_process() {
    let place = Place::new("locked");
    let (journal, _) = place.open();
    assert!(matches!(place.refused(), OpenError::Locked(_)));
    drop(journal);
    place.open();
}

#[test]
fn a_key_that_is_none_stops_the_start_and_a_good_one_stays() {
    let place = Place::new("key");
    let key = place.open().1.key;
    assert_eq!(place.open().1.key, key);
    let path = place.0.join(KEY);
    let text = std::fs::read_to_string(&path).unwrap();
    let digits = text.trim_end();
    for other in
        ["", "\n", &digits[1..], &format!("{digits}0"), &format!("+{}", &digits[1..]), &format!("{}g", &digits[1..])]
    {
        std::fs::write(&path, other).unwrap();
        assert!(matches!(place.refused(), OpenError::Key(_)), "{other:?}");
    }
    std::fs::write(&path, [0xff; 32]).unwrap();
    assert!(matches!(place.refused(), OpenError::Io { .. } | OpenError::Key(_)));
    std::fs::write(&path, digits).unwrap();
    written(&place);
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(place.refused(), OpenError::Key(_)), "nothing could be read with another");
    std::fs::write(&path, digits).unwrap();
    assert_eq!(place.open().1.key, key);
}

#[test]
fn files_of_others_in_the_directory_are_left_alone() {
    let place = Place::new("others");
    written(&place);
    let name = place.0.join("notes.log");
    std::fs::write(&name, "mine").unwrap();
    let (_, found) = place.open();
    assert_eq!((found.damage, &*std::fs::read(&name).unwrap()), (Damage::default(), &b"mine"[..]));
}

/// Waits for the keeper, who works behind everybody's back.
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

fn delivered(journal: &Sender<Note>, to: Position) {
    journal.send(Note::Delivered { sink: "file".into(), to }).unwrap();
}

#[test]
fn a_sink_that_never_delivered_gets_the_events_of_the_first_run() {
    let place = Place::new("first-run");
    let (mut journal, _) = place.open();
    let mut writer = journal.writer().unwrap();
    let running = journal.start(|_| {}).unwrap();
    push(&mut writer, &Step::Ended(1)).unwrap();
    writer.flush();
    drop(writer);
    running.close();
    for _ in 0..3 {
        let (mut journal, found) = place.open();
        let behind = |stream: &Stream| found.cursors["file"].get(stream).copied().unwrap_or(0);
        let missing = found.events.iter().flat_map(|(stream, events)| events.iter().filter(|at| **at > behind(stream)));
        assert_eq!(missing.count(), 1);
        let writer = journal.writer().unwrap();
        let running = journal.start(|_| {}).unwrap();
        drop(writer);
        running.close();
    }
}

#[test]
fn a_sink_that_is_added_begins_with_what_comes() {
    let place = Place::new("added");
    written(&place);
    let (_, found) = Journal::open(&place.0, None, &["file".into(), "other".into()]).unwrap();
    let latest =
        found.events.iter().map(|(stream, events)| (*stream, *events.last().unwrap())).collect::<HashMap<_, _>>();
    assert_eq!(found.cursors["other"], latest);
}

#[test]
fn what_nobody_needs_is_removed_and_the_rest_stays() {
    let place = Place::new("bounded");
    let (mut journal, _) = place.open();
    let mut writer = journal.writer().unwrap();
    let notes = journal.notes.0.clone();
    let shared = journal.shared();
    let running = journal.start(|_| {}).unwrap();
    let state = vec![7; 64 * 1024];
    let mut last = None;
    // A worker with twenty calls open and much traffic.
    for turn in 0..6_000_u128 {
        push(&mut writer, &Step::Call(turn % 20, state.clone()));
        last = push(&mut writer, &Step::Told(turn % 20)).or(last);
        assert!(writer.flush());
        if writer.begins_all() {
            for key in 0..20 {
                push(&mut writer, &Step::Call(key, state.clone()));
            }
            writer.ends_all();
            delivered(&notes, last.unwrap());
        }
    }
    wait_for("segments are removed", || shared.bytes() < 100 << 20);
    assert_eq!(shared.errors(), 0);
    drop(writer);
    running.close();
    assert!(place.size() < 100 << 20, "{}", place.size());
    assert_eq!(shared.bytes(), place.size());
    let (_, found) = place.open();
    assert_eq!((found.calls.len(), found.damage), (20, Damage::default()));
}

#[test]
fn what_a_sink_has_not_delivered_stays_and_is_read_in_its_order() {
    let place = Place::new("pending");
    let (mut journal, _) = place.open();
    let mut writer = journal.writer().unwrap();
    let notes = journal.notes.0.clone();
    let running = journal.start(|_| {}).unwrap();
    let state = vec![7; 64 * 1024];
    let mut told = Vec::new();
    for turn in 0..1_500 {
        push(&mut writer, &Step::Call(1, state.clone()));
        if turn % 10 == 0 {
            told.push(push(&mut writer, &Step::Told(turn)).unwrap());
        }
        assert!(writer.flush());
        if writer.begins_all() {
            push(&mut writer, &Step::Call(1, state.clone()));
            writer.ends_all();
        }
    }
    let half = told.len() / 2;
    delivered(&notes, told[half - 1]);
    drop(writer);
    running.close();
    let (journal, found) = place.open();
    let stream = told[0].stream;
    assert_eq!(found.cursors["file"][&stream], told[half - 1].seq);
    let mut tail = Tail::new(&place.0, found.key, stream, told[half - 1].seq);
    let mut read = Vec::new();
    loop {
        let events = tail.read().unwrap();
        if events.is_empty() {
            break;
        }
        read.extend(events.iter().map(|event| event.seq));
    }
    assert_eq!(read, told[half..].iter().map(|at| at.seq).collect::<Vec<_>>());
    drop(journal);
}

#[test]
fn a_batch_that_could_not_be_written_leaves_no_gap() {
    let place = Place::new("gap");
    let (mut journal, _) = place.open();
    let mut writer = journal.writer().unwrap();
    let shared = journal.shared();
    let (woken, wakes) = channel();
    let running = journal.start(move |worker| woken.send(worker).unwrap()).unwrap();
    push(&mut writer, &Step::Call(1, b"one".to_vec()));
    assert!(writer.flush());
    // Its segment is lost: what was in it may be gone.
    writer.lose_segment();
    push(&mut writer, &Step::Call(2, b"two".to_vec()));
    assert_eq!(push(&mut writer, &Step::Told(2)).map(|at| at.seq), Some(3));
    assert!(!writer.flush());
    assert_eq!(shared.broken().writers.len(), 1);
    assert_eq!(wakes.recv_timeout(Duration::from_secs(60)), Ok(0));
    assert!(writer.begins_all(), "everything has to be written out again");
    assert_eq!(shared.broken().writers.len(), 1, "it is not yet");
    push(&mut writer, &Step::Call(1, b"one".to_vec()));
    assert_eq!(push(&mut writer, &Step::Call(2, b"two".to_vec())).map(|at| at.seq), Some(3));
    writer.ends_all();
    assert_eq!((shared.broken().writers.len(), shared.errors()), (0, 1));
    drop(writer);
    running.close();
    let (_, found) = place.open();
    assert_eq!((found.calls.len(), found.damage), (2, Damage::default()));
    assert_eq!(shared.bytes(), place.size());
}

const PATIENCE: Duration = Duration::from_secs(60);

fn fail(writer: &mut Writer) {
    writer.lose_segment();
    push(writer, &Step::Ended(1));
    assert!(!writer.flush());
}

/// The journal keeps messages as they came; a sink that is behind reads it in pieces.
#[test]
fn a_caller_cannot_write_events_for_a_sink_that_is_behind() {
    let place = Place::new("forged");
    let (mut journal, found) = place.open();
    // Those of a journal with another key are nothing, and neither would those of this one be inside of a record.
    for key in [[0; 16], found.key] {
        let mut forged = frame::Batch::beginning_with(key, 1_000_000);
        forged.push(Kind::Event, 666, &[&[EventKind::Ended.index() as u8], b"{\"forged\":true}"]);
        let forged = forged.bytes().to_vec();
        let mut writer = journal.writer().unwrap();
        let piece = 256 * 1024;
        push(&mut writer, &Step::Client(1, vec![0; piece - 1_000]));
        assert!(writer.flush());
        // An INVITE with a body.
        push(&mut writer, &Step::Server(2, [&forged[..], &[0; 4_000]].concat()));
        assert!(writer.flush());
        let at = push(&mut writer, &Step::Told(1)).unwrap();
        assert!(writer.flush());
        let mut tail = Tail::new(&place.0, found.key, at.stream, 0);
        let mut seen = Vec::new();
        loop {
            let events = tail.read().unwrap();
            if events.is_empty() {
                break;
            }
            seen.extend(events.into_iter().map(|event| (event.seq, event.line)));
        }
        assert_eq!(seen, [(3, b"{}"[..].into())]);
    }
}

#[test]
fn events_behind_segments_that_were_given_up_are_read() {
    let place = Place::new("behind-given-up");
    let (mut journal, found) = place.open();
    let mut writer = journal.writer().unwrap();
    let (woken, wakes) = channel();
    let running = journal.start(move |worker| woken.send(worker).unwrap()).unwrap();
    let mut told = Vec::new();
    for _ in 0..3 {
        assert!(writer.begins_all());
        told.extend(push(&mut writer, &Step::Told(1)));
        assert!(writer.ends_all());
        // Its spare is given up with it, and stays for as long as the event does.
        fail(&mut writer);
        assert_eq!(wakes.recv_timeout(PATIENCE), Ok(0));
    }
    let mut tail = Tail::new(&place.0, found.key, told[0].stream, 0);
    let read = || Some(tail.read().unwrap()).filter(|events| !events.is_empty());
    let read = std::iter::from_fn(read).flatten().map(|event| event.seq).collect::<Vec<_>>();
    assert_eq!(read, told.iter().map(|at| at.seq).collect::<Vec<_>>());
    // What is written from here on is read too: nothing that is still to come was passed over.
    assert!(writer.begins_all());
    let last = push(&mut writer, &Step::Told(1)).unwrap();
    assert!(writer.ends_all());
    assert_eq!(tail.read().unwrap().iter().map(|event| event.seq).collect::<Vec<_>>(), [last.seq]);
    drop(writer);
    running.close();
}

#[test]
fn events_behind_damage_are_read() {
    let place = Place::new("behind-damage");
    let (mut journal, found) = place.open();
    let mut writer = journal.writer().unwrap();
    let mut last = None;
    for turn in 0..10 {
        push(&mut writer, &Step::Client(1, vec![turn; 100 * 1024]));
        last = push(&mut writer, &Step::Told(1)).or(last);
        assert!(writer.flush());
    }
    let path = place.segments().remove(0);
    let mut text = std::fs::read(&path).unwrap();
    text[250 * 1024] ^= 1;
    std::fs::write(&path, text).unwrap();
    let mut tail = Tail::new(&place.0, found.key, last.unwrap().stream, 0);
    let mut seen = 0;
    loop {
        match tail.read().unwrap().len() {
            0 => break,
            count => seen += count,
        }
    }
    assert_eq!((seen, tail.reached()), (10, last.unwrap().seq));
}

#[test]
fn a_segment_behind_whose_run_none_can_come_stops_the_start() {
    let place = Place::new("last-run");
    place.open();
    let name = Name { stream: Stream { run: u32::MAX, writer: 0 }, number: 1 };
    segment::create(&place.0, name).unwrap();
    assert!(matches!(place.refused(), OpenError::LastRun(of) if of == name.path(&place.0)));
}

#[test]
fn a_call_that_ended_while_nothing_could_be_written_does_not_rise_again() {
    let place = Place::new("risen");
    let (mut journal, _) = place.open();
    let mut writer = journal.writer().unwrap();
    let (woken, wakes) = channel();
    let running = journal.start(move |worker| woken.send(worker).unwrap()).unwrap();
    push(&mut writer, &Step::Call(1, b"one".to_vec()));
    push(&mut writer, &Step::Server(10, b"invite".to_vec()));
    push(&mut writer, &Step::Client(20, b"forwarded".to_vec()));
    push(&mut writer, &Step::Call(2, b"two".to_vec()));
    // A dead sink: this event holds its segment.
    push(&mut writer, &Step::Told(1));
    assert!(writer.flush());
    writer.lose_segment();
    // The call ends; its sinks get that from memory alone.
    push(&mut writer, &Step::Ended(1));
    assert!(!writer.flush());
    wakes.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(writer.begins_all());
    push(&mut writer, &Step::Call(2, b"two".to_vec()));
    writer.ends_all();
    push(&mut writer, &Step::Call(3, b"three".to_vec()));
    assert!(writer.flush());
    drop(writer);
    running.close();
    let open = [2, 3].into_iter().zip([b"two".to_vec(), b"three".to_vec()]);
    assert_eq!(states(&place.open().1), open.map(|(key, state)| (0, key, state)).collect());
}

/// Runs two workers, each of which writes steps and then, if `is_whole`, all that it has open.
fn run_two(place: &Place, workers: [(&[Step], bool); 2]) {
    let (mut journal, _) = place.open();
    let mut writers = [journal.writer().unwrap(), journal.writer().unwrap()];
    let running = journal.start(|_| {}).unwrap();
    for (writer, (steps, is_whole)) in writers.iter_mut().zip(workers) {
        assert!(writer.begins_all());
        for step in steps {
            push(writer, step);
        }
        assert!(writer.flush());
        if is_whole {
            writer.ends_all();
        }
    }
    drop(writers);
    running.close();
}

#[test]
fn what_an_earlier_run_left_is_over_once_every_worker_has_written_what_is_open() {
    let place = Place::new("risen-runs");
    let state = || b"state".to_vec();
    let open = |place: &Place| place.open().1.calls.into_keys().collect::<BTreeSet<_>>();
    // Events that no sink has delivered hold the segments of all runs.
    let first = [Step::Call(1, state()), Step::Call(2, state()), Step::Told(1)];
    run_two(&place, [(&first, true), (&[Step::Call(3, state()), Step::Told(3)], true)]);
    assert_eq!(open(&place), [1, 2, 3].into());
    // Of these, 2 and 3 end without a trace; one worker has not told yet what is open.
    run_two(&place, [(&[Step::Call(1, state()), Step::Told(1)], true), (&[Step::Told(3)], false)]);
    assert_eq!(open(&place), [1, 2, 3].into());
    run_two(&place, [(&[Step::Told(1)], true), (&[Step::Call(1, state()), Step::Told(3)], true)]);
    assert_eq!(open(&place), [1].into());
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 64, ..Default::default() })]

    /// Over several runs, each of which may lose its end.
    #[test]
    fn what_is_found_is_what_was_written(runs in proptest::collection::vec(run(), 1..4)) {
        let place = Place::new("model");
        let mut model = Model::default();
        for (batches, torn) in runs {
            let (mut journal, found) = place.open();
            proptest::prop_assert_eq!(states(&found), model.states());
            let name = Name { stream: Stream { run: journal.keeper.run, writer: 0 }, number: 1 };
            let mut writer = journal.writer().unwrap();
            let path = name.path(&place.0);
            let mut history = vec![(path.metadata().unwrap().len(), model.clone())];
            for batch in &batches {
                for step in batch {
                    proptest::prop_assert!(push(&mut writer, step).is_some());
                    model.take(step);
                }
                proptest::prop_assert!(writer.flush());
                history.push((path.metadata().unwrap().len(), model.clone()));
            }
            drop((writer, journal));
            let end = history.last().unwrap().0;
            let left = end - torn.min(end - segment::HEAD as u64);
            File::options().write(true).open(&path).unwrap().set_len(left).unwrap();
            model = history.iter().rfind(|(end, _)| *end <= left).unwrap().1.clone();
        }
        let (_, found) = place.open();
        proptest::prop_assert_eq!(states(&found), model.states());
        proptest::prop_assert_eq!(found.events.values().map(Vec::len).sum::<usize>(), model.events);
        proptest::prop_assert!(!found.is_damaged());
    }
}

fn run() -> impl proptest::strategy::Strategy<Value = (Vec<Vec<Step>>, u64)> {
    use proptest::collection::vec;
    use proptest::prelude::*;
    let key = 0..5_u128;
    let state = || vec(any::<u8>(), 0..60);
    let step = prop_oneof![
        (key.clone(), vec(any::<u8>(), 1..60)).prop_map(|(key, state)| Step::Call(key, state)),
        (key.clone(), state()).prop_map(|(key, state)| Step::Server(key, state)),
        (key.clone(), state()).prop_map(|(key, state)| Step::Client(key, state)),
        key.clone().prop_map(Step::Told),
        key.prop_map(Step::Ended),
    ];
    let torn = prop_oneof![Just(0), 0..200_u64];
    (vec(vec(step, 1..5), 0..8), torn)
}
