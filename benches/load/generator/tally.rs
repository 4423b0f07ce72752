//! What is counted, and what is wrong with messages.

use serde::Serialize;
use serde_json::{Map, Value};

/// A way in which a device breaks what it should pass on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Not a message, or not one of ours.
    Malformed,
    /// On the wrong side, or made of two calls.
    Misrouted,
    /// Another Request-URI, or another method.
    StartLine,
    /// Another status than the server's.
    Status,
    /// Via lines: one is missing, altered, without a branch, not taken off.
    Via,
    RecordRoute,
    /// Route lines are left that named the device.
    Route,
    MaxForwards,
    /// From or To.
    Tag,
    /// Any other header: altered, lost, added.
    Header,
    Body,
    /// The outcome is missing, is another one, or is where it must not be.
    Stamp,
}

impl Fault {
    pub const ALL: [Fault; 12] = [
        Fault::Malformed,
        Fault::Misrouted,
        Fault::StartLine,
        Fault::Status,
        Fault::Via,
        Fault::RecordRoute,
        Fault::Route,
        Fault::MaxForwards,
        Fault::Tag,
        Fault::Header,
        Fault::Body,
        Fault::Stamp,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Fault::Malformed => "malformed",
            Fault::Misrouted => "misrouted",
            Fault::StartLine => "start_line",
            Fault::Status => "status",
            Fault::Via => "via",
            Fault::RecordRoute => "record_route",
            Fault::Route => "route",
            Fault::MaxForwards => "max_forwards",
            Fault::Tag => "tag",
            Fault::Header => "header",
            Fault::Body => "body",
            Fault::Stamp => "stamp",
        }
    }
}

/// Counts of one step of a run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Tally {
    pub started: u64,
    /// Ended by the 200 to the BYE.
    pub completed: u64,
    /// Reached the state that they are to stay in.
    pub held: u64,
    /// Were held and went on.
    pub released: u64,
    /// Ended otherwise: the sum of the next three.
    pub failed: u64,
    /// Nothing came for 64 × T1.
    pub timed_out: u64,
    /// Final responses of the device's own.
    pub refused: u64,
    /// Open when the step's time was over.
    pub unfinished: u64,
    /// Messages that had to be sent again.
    pub retransmitted: u64,
    /// Messages that came again.
    pub repeated: u64,
    /// Ringing that the dialer never heard of, ACKs that the server never got.
    pub unseen: u64,
    /// Messages of calls that were over for longer than the generator remembers, and requests that it did not expect.
    pub stray: u64,
    /// Datagrams that the kernel did not take from us.
    pub unsent: u64,
    /// Connections that the device has closed, since the beginning.
    pub closed: u64,
    pub messages_received: u64,
    #[serde(skip)]
    faults: [u64; Fault::ALL.len()],
    /// The first message with a fault.
    pub example: Option<String>,
}

impl Tally {
    pub fn fault(&mut self, fault: Fault, message: &[u8]) {
        self.faults[fault as usize] += 1;
        if self.example.is_none() {
            self.example = Some(format!("{}:\n{}", fault.name(), String::from_utf8_lossy(message)));
        }
    }

    pub fn faults(&self, fault: Fault) -> u64 {
        self.faults[fault as usize]
    }

    pub fn all_faults(&self) -> u64 {
        self.faults.iter().sum()
    }

    /// The faults that there were, by name.
    pub fn faults_by_name(&self) -> Map<String, Value> {
        let seen = Fault::ALL.into_iter().filter(|fault| self.faults(*fault) > 0);
        seen.map(|fault| (fault.name().to_owned(), self.faults(fault).into())).collect()
    }
}
