//! Compares a message that arrived with the one that was sent: what a device may change is known, all else is a fault.

use memchr::{memchr, memmem};
use smallvec::SmallVec;

use super::messages::{Addresses, Form, Messages};
use super::tally::Fault;
use super::template::{DIGITS, number_at};

/// What a device does to the messages that it passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Adds a Via, takes it off again, and counts Max-Forwards down. Without, every byte stays.
    pub is_proxy: bool,
    pub record_routes: bool,
    /// Writes the outcome on the 200 and on the response to the BYE.
    pub stamps: bool,
}

/// The header that the outcome is in, and what it begins with for a call that was answered and hung up.
const STAMP_NAME: &[u8] = b"Call-Outcome";
const STAMP: &[u8] = b"Call-Outcome: Normal;";

pub type Lines<'m> = SmallVec<[&'m [u8]; 4]>;

/// What of a message does not have to be as it was sent; whole lines, with their ends.
#[derive(Debug, Default)]
pub struct Head<'m> {
    pub start: &'m [u8],
    pub vias: Lines<'m>,
    pub record_routes: Lines<'m>,
    routes: Lines<'m>,
    max_forwards: Lines<'m>,
    stamps: Lines<'m>,
    body: &'m [u8],
    /// In the lines that have to be as they were sent.
    fault: Option<Fault>,
}

/// Judges messages of one run.
#[derive(Debug)]
pub struct Checker {
    profile: Profile,
    device: Vec<u8>,
    dialer_host: Vec<u8>,
    dialer_port: Vec<u8>,
    is_tcp: bool,
    /// The INVITE's request line with the server's address in place of the device's.
    retargeted: Vec<u8>,
    call_id: memmem::Finder<'static>,
    cseq: memmem::Finder<'static>,
    call_id_tail: Vec<u8>,
}

impl Profile {
    pub const NAMES: [&'static str; 4] = ["relay", "stateless", "routing", "stamping"];

    pub fn named(name: &str) -> Option<Profile> {
        let (is_proxy, record_routes, stamps) = match name {
            "relay" => (false, false, false),
            "stateless" => (true, false, false),
            "routing" => (true, true, false),
            "stamping" => (true, true, true),
            _ => return None,
        };
        Some(Profile { is_proxy, record_routes, stamps })
    }
}

impl Checker {
    pub fn new(profile: Profile, addresses: &Addresses, messages: &Messages) -> Checker {
        let Addresses { device, dialer, server, is_tcp, .. } = addresses;
        Checker {
            profile,
            device: device.to_string().into_bytes(),
            dialer_host: dialer.ip().to_string().into_bytes(),
            dialer_port: dialer.port().to_string().into_bytes(),
            is_tcp: *is_tcp,
            retargeted: format!("INVITE sip:+15550199@{server} SIP/2.0\r\n").into_bytes(),
            call_id: memmem::Finder::new(b"\r\nCall-ID: "),
            cseq: memmem::Finder::new(b"\r\nCSeq: "),
            call_id_tail: messages.call_id_tail.clone(),
        }
    }

    /// The number of the call and the first digit of CSeq.
    pub fn identify(&self, message: &[u8]) -> Option<(u32, u8)> {
        let call_id = &message[self.call_id.find(message)? + self.call_id.needle().len()..];
        let number = number_at(call_id)?;
        let cseq = self.cseq.find(message)? + self.cseq.needle().len();
        call_id.get(DIGITS..)?.starts_with(&self.call_id_tail).then_some((number, *message.get(cseq)?))
    }

    /// A request at the server. `is_first`: it is outside of a dialog.
    pub fn request<'m>(
        &self,
        message: &'m [u8],
        form: &mut Form,
        number: u32,
        is_first: bool,
    ) -> (Head<'m>, Option<Fault>) {
        let head = Head::read(message, form.lines.of(number), number);
        let start = head.start.strip_suffix(b"\r\n").unwrap_or_default();
        let is_start = start == form.start.of(number) || (is_first && head.start == self.retargeted);
        let hops = usize::from(self.profile.is_proxy);
        let fault = if !is_start {
            Some(Fault::StartLine)
        } else if let Some(fault) = self.vias(&head.vias, hops, form, number) {
            Some(fault)
        } else if !self.is_record_routed(&head, is_first) {
            Some(Fault::RecordRoute)
        } else if !head.routes.is_empty() {
            Some(Fault::Route)
        } else if !self.is_counted_down(&head) {
            Some(Fault::MaxForwards)
        } else {
            head.fault_of_rest(form, number, 0)
        };
        (head, fault)
    }

    /// A response at the dialer, to a request of the form `request`. `record_routes`: what the server copied.
    pub fn response<'m>(
        &self,
        message: &'m [u8],
        form: &mut Form,
        request: &mut Form,
        number: u32,
        record_routes: &[u8],
        is_stamped: bool,
    ) -> (Head<'m>, Option<Fault>) {
        let head = Head::read(message, form.lines.of(number), number);
        let stamps = usize::from(is_stamped && self.profile.stamps);
        let fault = if head.start.strip_suffix(b"\r\n") != Some(form.start.of(number)) {
            Some(Fault::Status)
        } else if let Some(fault) = self.vias(&head.vias, 0, request, number) {
            Some(fault)
        } else if !is_concatenation(&head.record_routes, record_routes) {
            Some(Fault::RecordRoute)
        } else {
            head.fault_of_rest(form, number, stamps)
        };
        (head, fault)
    }

    /// `hops` Vias of the device, then the dialer's.
    fn vias(&self, vias: &Lines<'_>, hops: usize, request: &mut Form, number: u32) -> Option<Fault> {
        let Some((own, above)) = vias.split_last() else { return Some(Fault::Via) };
        if above.len() != hops || !above.iter().all(|via| self.is_device_via(via)) {
            return Some(Fault::Via);
        }
        self.own_via(own, request, number)
    }

    fn is_device_via(&self, via: &[u8]) -> bool {
        let stem: &[u8] = if self.is_tcp { b"Via: SIP/2.0/TCP " } else { b"Via: SIP/2.0/UDP " };
        let rest = via.strip_prefix(stem).and_then(|rest| rest.strip_prefix(&self.device[..]));
        rest.is_some_and(|rest| rest.starts_with(b";") && memmem::find(rest, b";branch=z9hG4bK").is_some())
    }

    /// The dialer's Via as it was sent; a proxy fills in `rport` (RFC 3581 §4) and may add `received`.
    fn own_via(&self, via: &[u8], request: &mut Form, number: u32) -> Option<Fault> {
        let via = via.strip_suffix(b"\r\n").unwrap_or(via);
        let mut parameters = via.split(|byte| *byte == b';');
        if parameters.next() != Some(request.via.of(number)) {
            return Some(Fault::Via);
        }
        let branch = request.branch.of(number);
        let (mut branches, mut rports) = (0, 0);
        for parameter in parameters {
            match parameter.split(|byte| *byte == b'=').next().unwrap_or_default() {
                b"branch" if parameter == branch => branches += 1,
                b"branch" => return Some(Fault::of_number(parameter, branch, Fault::Via)),
                b"rport" if self.is_rport(parameter) => rports += 1,
                b"received" if self.profile.is_proxy && parameter.ends_with(&self.dialer_host) => {}
                _ => return Some(Fault::Via),
            }
        }
        (branches != 1 || rports != 1).then_some(Fault::Via)
    }

    fn is_rport(&self, parameter: &[u8]) -> bool {
        match parameter.strip_prefix(b"rport=") {
            // The port of a connection is not the one in the Via.
            Some(port) if self.is_tcp => port.iter().all(u8::is_ascii_digit),
            Some(port) => self.profile.is_proxy && port == self.dialer_port,
            None => self.is_tcp || !self.profile.is_proxy,
        }
    }

    fn is_record_routed(&self, head: &Head<'_>, is_first: bool) -> bool {
        match &head.record_routes[..] {
            [] => !(self.profile.record_routes && is_first),
            // In a request of a dialog it changes nothing (RFC 3261 §16.6 step 4).
            lines => {
                let names_device = |line: &&[u8]| memmem::find(line, &self.device).is_some();
                self.profile.record_routes && lines.len() == 1 && lines.iter().all(names_device)
            }
        }
    }

    fn is_counted_down(&self, head: &Head<'_>) -> bool {
        let wanted: &[u8] = if self.profile.is_proxy { b"Max-Forwards: 69\r\n" } else { b"Max-Forwards: 70\r\n" };
        matches!(&head.max_forwards[..], [line] if *line == wanted)
    }
}

impl<'m> Head<'m> {
    /// Puts lines aside that may differ; all others have to be `wanted`, in that order.
    fn read(message: &'m [u8], mut wanted: &[u8], number: u32) -> Head<'m> {
        let mut head = Head::default();
        let mut rest = message;
        (head.start, rest) = cut_line(rest);
        while !rest.is_empty() {
            let (line, after) = cut_line(rest);
            rest = after;
            if line == b"\r\n" {
                head.body = rest;
                break;
            }
            if let Some(left) = wanted.strip_prefix(line) {
                wanted = left;
                continue;
            }
            match name(line) {
                b"Via" => head.vias.push(line),
                b"Record-Route" => head.record_routes.push(line),
                b"Route" => head.routes.push(line),
                b"Max-Forwards" => head.max_forwards.push(line),
                STAMP_NAME => head.stamps.push(line),
                _ => head.on_other_line(line, &mut wanted, number),
            }
        }
        if !wanted.is_empty() {
            head.fault.get_or_insert(Fault::Header);
        }
        head
    }

    fn on_other_line(&mut self, line: &[u8], wanted: &mut &[u8], number: u32) {
        let (in_place, after) = cut_line(wanted);
        let is_altered = name(in_place) == name(line);
        if is_altered {
            *wanted = after;
        }
        let fault = match name(line) {
            b"From" | b"To" if is_altered => {
                let tag = memmem::find(line, b";tag=").map_or(0, |at| at + b";tag=as".len());
                let other = number_at(line.get(tag..).unwrap_or_default());
                let is_of_other = line.len() == in_place.len() && other.is_some_and(|other| other != number);
                if is_of_other { Fault::Misrouted } else { Fault::Tag }
            }
            _ => Fault::Header,
        };
        self.fault.get_or_insert(fault);
    }

    fn fault_of_rest(&self, form: &mut Form, number: u32, stamps: usize) -> Option<Fault> {
        if self.fault.is_some() {
            self.fault
        } else if self.stamps.len() != stamps || !self.stamps.iter().all(|line| line.starts_with(STAMP)) {
            Some(Fault::Stamp)
        } else if self.body != form.body.of(number) {
            Some(Fault::Body)
        } else {
            None
        }
    }
}

impl Fault {
    /// What it is that `seen` stands where `wanted` should: the same with another number is another call's.
    fn of_number(seen: &[u8], wanted: &[u8], otherwise: Fault) -> Fault {
        let differ = seen.iter().zip(wanted).filter(|(left, right)| left != right).count();
        let is_of_other = seen.len() == wanted.len() && differ <= DIGITS;
        if is_of_other { Fault::Misrouted } else { otherwise }
    }
}

/// The first line, with its end, and the rest.
fn cut_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
    bytes.split_at(end)
}

fn name(line: &[u8]) -> &[u8] {
    &line[..memchr(b':', line).unwrap_or(line.len())]
}

fn is_concatenation(lines: &Lines<'_>, whole: &[u8]) -> bool {
    let rest = lines.iter().try_fold(whole, |rest, line| rest.strip_prefix(*line));
    rest.is_some_and(<[u8]>::is_empty)
}
