//! Edits: what they do to a message is what a list of lines would come to, and nothing else changes.

use bytes::{Bytes, BytesMut};
use sipstamp::sip::{Edits, Field, Message, Name};

use crate::messages;
use crate::{LIMITS, Reader, WIDE};

/// At most so many edits; what follows their bytes is the message.
const MOST: u8 = 24;
/// What a message must keep.
const ESSENTIAL: [Name; 5] = [Name::Via, Name::From, Name::To, Name::CallId, Name::CSeq];

/// A message as a list of lines, to which the same is done.
struct Lines {
    start: Vec<u8>,
    /// Fields, and what was put in front of each; one place more than there are fields.
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    has_lost_via: bool,
}

pub fn run(data: &[u8]) {
    let mut reader = Reader(data);
    let count = reader.byte() % (MOST + 1);
    let mut orders = Reader(reader.bytes(usize::from(count) * 4));
    let Ok(message) = Message::parse(Bytes::copy_from_slice(reader.0), &LIMITS) else { return };
    let mut lines = Lines::of(&message);
    let mut edits = Edits::default();
    let mut touched = vec![false; message.fields().len()];
    let mut is_started = false;
    while !orders.is_empty() {
        let (order, at, of, with) = (orders.byte(), orders.byte(), orders.byte(), orders.byte());
        let place = usize::from(at) % (message.fields().len() + 1);
        let text = format!("X-{with}: {}\r\n", "x".repeat(usize::from(of)));
        match order % 6 {
            0 => {
                let offset = message.fields().get(place).map_or(message.head_end(), |field| field.start as usize);
                edits.insert(offset, text.as_bytes());
                lines.fields[place].0.extend_from_slice(text.as_bytes());
            }
            1 => {
                edits.insert_with(message.head_start(), |out| out.extend_from_slice(text.as_bytes()));
                lines.fields[0].0.extend_from_slice(text.as_bytes());
            }
            2 => {
                let Some(field) = untouched(&message, place, &mut touched) else { continue };
                edits.remove_field(field);
                lines.fields[place].1.clear();
            }
            3 => {
                let Some(field) = untouched(&message, place, &mut touched) else { continue };
                let (start, end) = (field.value_start as usize, field.value_end as usize);
                // What holds nothing may begin right behind its colon, or at its line end.
                edits.replace(start..end, b"1");
                let line = [message.bytes(field.start as usize..start), b"1", message.bytes(end..field.end as usize)];
                lines.fields[place].1 = line.concat();
            }
            4 if !is_started => {
                is_started = true;
                edits.replace_phrase(&message, "NumberBusy");
                if !message.is_request() {
                    lines.start.truncate(11);
                    lines.start.push(b' ');
                    lines.start.splice(12.., *b"NumberBusy\r\n");
                }
            }
            _ => elements(&message, order, place, usize::from(of), &mut edits, &mut lines, &mut touched),
        }
    }
    let edited = edits.apply(&message, &mut BytesMut::from(&b"before"[..]));
    let expected = lines.text();
    assert_eq!(edited, expected, "{:?}", String::from_utf8_lossy(&expected));
    let reread = Message::parse(edited.clone(), &WIDE);
    // Behind the Vias that went there may be one that cannot be read.
    assert!(reread.is_ok() || lines.has_lost_via, "{:?} in {}", reread.err(), String::from_utf8_lossy(&edited));
}

pub fn seeds() -> Vec<Vec<u8>> {
    let orders: [&[u8]; 4] = [
        &[0, 2, 10, 1, 1, 0, 3, 2, 2, 9, 0, 0, 4, 0, 0, 0],
        &[5, 7, 0, 0, 11, 7, 1, 0],
        &[11, 7, 2, 0, 0, 255, 1, 1],
        &[3, 9, 0, 0, 0, 9, 5, 7, 2, 8, 0, 0],
    ];
    let messages = messages::all();
    let with = |order: &&[u8], message: &String| [&[(order.len() / 4) as u8], *order, message.as_bytes()].concat();
    orders.iter().flat_map(|order| messages.iter().map(move |message| with(order, message))).collect()
}

/// A field that can do without its value and that no edit has met.
fn untouched<'a>(message: &'a Message, place: usize, touched: &mut [bool]) -> Option<&'a Field> {
    let field = message.fields().get(place)?;
    let is_free = !ESSENTIAL.contains(&field.name) && field.name != Name::ContentLength;
    (is_free && !std::mem::replace(touched.get_mut(place)?, true)).then_some(field)
}

/// Removes elements of a list: the first ones or one of them. The other elements, and the other lines, stay.
fn elements(
    message: &Message,
    order: u8,
    place: usize,
    of: usize,
    edits: &mut Edits,
    lines: &mut Lines,
    touched: &mut [bool],
) {
    let Some(name) = message.fields().get(place).map(|field| field.name) else { return };
    let is_list = matches!(name, Name::Via | Name::Route | Name::RecordRoute | Name::Contact | Name::Reason);
    let all = message.elements(name).collect::<Vec<_>>();
    let places = (0..touched.len()).filter(|at| message.fields()[*at].name == name).collect::<Vec<_>>();
    if !is_list || all.is_empty() || places.iter().any(|place| touched[*place]) {
        return;
    }
    let gone = if order & 1 == 0 { 0..of % all.len() } else { of % all.len()..of % all.len() + 1 };
    if name == Name::Via && gone.len() == all.len() {
        return;
    }
    lines.has_lost_via |= name == Name::Via;
    places.iter().for_each(|place| touched[*place] = true);
    if order & 1 == 0 {
        edits.remove_first_elements(message, name, gone.end);
    } else {
        edits.remove_element(message, &all[gone.start]);
    }
    for place in places {
        let field = &message.fields()[place];
        let here = |at: &usize| all[*at].field == place;
        let left = (0..all.len()).filter(here).filter(|at| !gone.contains(at)).collect::<Vec<_>>();
        if left.len() == (0..all.len()).filter(here).count() {
            continue;
        }
        // From the first that stays on for the first ones; else without the one and the comma at its side.
        let (start, end) = (field.value_start as usize, field.value_end as usize);
        let value = match (left.first(), left.iter().position(|at| *at >= gone.end)) {
            (None, _) => {
                lines.fields[place].1.clear();
                continue;
            }
            (_, Some(0)) => message.bytes(all[left[0]].range.start..end).to_vec(),
            (_, next) => {
                let last = left[next.unwrap_or(left.len()) - 1];
                [message.bytes(start..all[last].range.end), message.bytes(all[gone.start].range.end..end)].concat()
            }
        };
        let line = [message.bytes(field.start as usize..start), &value, message.bytes(end..field.end as usize)];
        lines.fields[place].1 = line.concat();
    }
}

impl Lines {
    fn of(message: &Message) -> Lines {
        let line = |field: &Field| message.bytes(field.start as usize..field.end as usize).to_vec();
        let mut fields = message.fields().iter().map(|field| (Vec::new(), line(field))).collect::<Vec<_>>();
        fields.push((Vec::new(), b"\r\n".to_vec()));
        Lines {
            start: message.bytes(0..message.head_start()).to_vec(),
            fields,
            body: message.body().to_vec(),
            has_lost_via: false,
        }
    }

    fn text(&self) -> Vec<u8> {
        let fields = self.fields.iter().flat_map(|(before, line)| [&before[..], line]);
        [&self.start[..]].into_iter().chain(fields).chain([&self.body[..]]).collect::<Vec<_>>().concat()
    }
}
