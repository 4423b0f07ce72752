//! The calls that are open, by number.

use std::collections::VecDeque;

/// Bits of a number that say where the call is kept; the others count how often the place was used.
const PLACE_BITS: u32 = 18;

/// Where a call is for the dialer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialer {
    /// INVITE sent, nothing heard.
    Inviting,
    /// A provisional response has come: the INVITE is not sent again.
    Proceeding,
    Answered,
    /// BYE sent.
    Ending,
    /// Over, well or not: only what is repeated can come.
    Over,
}

/// Where a call is for the telephony server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    Unknown,
    Ringing,
    /// 200 sent, no ACK yet.
    Answered,
    Confirmed,
    Ended,
}

/// Where a call stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    No,
    Ringing,
    Answered,
}

/// One call, both ends of it.
#[derive(Debug)]
pub struct Call {
    pub number: u32,
    pub dialer: Dialer,
    pub server: Server,
    pub hold: Hold,
    pub has_rung: bool,
    /// The ACK has come to the server.
    pub has_confirmed: bool,
    /// The step that began it is not over for it.
    pub is_awaited: bool,
    /// Sent more than once: says nothing about delays.
    pub is_repeated: bool,
    /// The server's connection that the INVITE came by.
    pub connection: usize,
    /// When the INVITE and the 200 left, in ns of the wall clock.
    pub invited_at: u64,
    pub answered_at: u64,
    /// Via and Record-Route lines of the INVITE, as the server got them, and where the latter begin.
    pub copied: Vec<u8>,
    pub routes_at: usize,
    /// Route lines of the dialer's requests.
    pub route: Vec<u8>,
}

/// Open calls. A number is not used again for a long time.
#[derive(Debug, Default)]
pub struct Calls {
    places: Vec<Call>,
    free: VecDeque<u32>,
}

impl Call {
    fn new(number: u32) -> Call {
        Call {
            number,
            dialer: Dialer::Over,
            server: Server::Ended,
            hold: Hold::No,
            has_rung: false,
            has_confirmed: false,
            is_awaited: false,
            is_repeated: false,
            connection: 0,
            invited_at: 0,
            answered_at: 0,
            copied: Vec::new(),
            routes_at: 0,
            route: Vec::new(),
        }
    }
}

impl Calls {
    /// A new call; `None` where too many are open.
    pub fn begin(&mut self, hold: Hold) -> Option<&mut Call> {
        let place = match self.free.pop_front() {
            Some(place) => place,
            None => {
                let place = u32::try_from(self.places.len()).ok().filter(|place| place >> PLACE_BITS == 0)?;
                self.places.push(Call::new(place));
                place
            }
        };
        let call = self.places.get_mut(place as usize)?;
        call.number = call.number.wrapping_add(1 << PLACE_BITS);
        (call.dialer, call.server, call.hold) = (Dialer::Inviting, Server::Unknown, hold);
        (call.has_rung, call.has_confirmed, call.is_repeated) = (false, false, false);
        Some(call)
    }

    /// The call of this number, if there still is one.
    pub fn find(&mut self, number: u32) -> Option<&mut Call> {
        let place = number & ((1 << PLACE_BITS) - 1);
        self.places.get_mut(place as usize).filter(|call| call.number == number)
    }

    pub fn forget(&mut self, number: u32) {
        if let Some(call) = self.find(number) {
            // From here on the number finds nothing.
            call.number = call.number.wrapping_add(1 << PLACE_BITS);
            call.dialer = Dialer::Over;
            self.free.push_back(number & ((1 << PLACE_BITS) - 1));
        }
    }

    /// Every call that is not over.
    pub fn open(&mut self) -> impl Iterator<Item = &mut Call> {
        self.places.iter_mut().filter(|call| call.dialer != Dialer::Over)
    }
}
