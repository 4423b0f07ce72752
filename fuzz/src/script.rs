//! Scripts for the core: what may happen to it, each step in a few bytes.
//!
//! To let something else happen, add a step here and what it does to [`World::take`]. A parameter is a byte
//! whose meaning stands in its step; steps that pick something pick it among the latest, 0 being the newest. What a byte has no
//! use for is taken modulo what there is, so that every text is a script.
//!
//! [`World::take`]: crate::world::World::take

use crate::Reader;

/// Makes the steps, and how they are read and written: the first byte is their place in this list.
macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $field:ident),* })*) => {
        #[derive(Clone, Copy, Debug)]
        pub enum Step {
            $($(#[$doc])* $name { $($(#[$of])* $field: u8),* }),*
        }

        impl Step {
            pub fn read(reader: &mut Reader<'_>) -> Step {
                type Read = fn(&mut Reader<'_>) -> Step;
                const ALL: &[Read] = &[$(|_reader| Step::$name { $($field: _reader.byte()),* }),*];
                let step = usize::from(reader.byte());
                ALL[step % ALL.len()](reader)
            }

            pub fn write(&self, out: &mut Vec<u8>) {
                let mut step = 0;
                $(
                    if let Step::$name { $($field),* } = self {
                        out.extend_from_slice(&[step, $(*$field),*]);
                    }
                    step += 1;
                )*
                // Behind the last step nobody asks for the next number.
                let _ = step;
            }
        }
    };
}

steps! {
    /// A request that belongs to no dialog, or claims to.
    Request {
        /// Who sends it.
        peer,
        /// Low bits: Call-ID and From tag; the others: its branch, so that it may repeat another.
        call,
        /// Bits: method, number in CSeq.
        method,
        /// Bits: Request-URI, Route.
        target,
        /// Bits: header lines.
        extra
    }
    /// A response to a request that the sidecar forwarded or made.
    Reply {
        pick,
        code,
        /// Low bits: To tag; bit 7: from somebody else's address.
        tag,
        /// Bits: header lines.
        extra
    }
    /// A request inside a dialog: the caller's, by a response that it got, or the callee's, by an INVITE that it got.
    Dialog {
        pick,
        /// Bits: method, To tag.
        method,
        /// Low bits: how much is added to the number in CSeq; the others: its branch.
        number,
        extra
    }
    /// A CANCEL of a request that a peer sent.
    Cancel {
        pick,
        extra
    }
    /// An ACK to a failure that a peer got.
    Acknowledge { pick }
    /// Something that a peer sent comes again: bit 7: from another address.
    Again { pick }
    /// The same with a byte changed.
    Changed {
        pick,
        /// Where, in two bytes.
        low,
        high,
        /// What is done there: replaced, put in, removed, doubled up to the line end, …
        how,
        with
    }
    /// Bytes of any kind: they follow.
    Raw {
        peer,
        length
    }
    /// What the sidecar sent comes back to it from where it went; a request with another Via on top or without.
    Reflected { pick, how }
    /// All peers do what they should with what they got lately: 200 to requests but INVITE, ACK to final responses.
    Behave { count }
    /// Time goes on from deadline to deadline, so many of them.
    Deadlines { count }
    /// Time goes on by so many units of 10 ms, or with bit 7 by so many of 4 s.
    Wait { time }
    /// The clock jumps; whatever was due in between comes at once.
    Late { time }
    /// A transmit that somebody waits for could not be sent; bit 7: an owner that is none.
    Failed { pick }
    /// ICMP about a datagram; so much of it is quoted.
    Unreachable {
        pick,
        length
    }
    Connected { peer }
    /// A name is resolved: bits choose its addresses. Bit 7 of the pick: a query that is none.
    Resolved {
        pick,
        addresses
    }
    /// Another configuration.
    Policy {
        low,
        high
    }
    Drain {}
    Stop {}
    /// An operator's hang-up; bit 7: by call_uid.
    HangUp { call }
    VoicemailDrop { call }
    /// The process ends, at once or with bit 7 when it has sent so many messages of what comes next; another one goes on.
    Restart {
        /// Bits 0 to 3: how many messages it still sends.
        when,
        /// As in [`Step::Wait`].
        pause
    }
}
