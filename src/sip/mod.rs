//! The wire format: RFC 3261 §7, §19, §20, §25.
//!
//! A received message is one [`bytes::Bytes`] and an index over it: header names and byte ranges
//! that tile the head. Nothing is copied, nothing that is not asked for is parsed, and whatever is
//! forwarded is the original bytes plus recorded [`Edits`].

mod edit;
mod frame;
mod index;
mod lex;
mod limits;
mod list;
mod name;
mod parse;
mod peek;
mod reject;
mod start;
mod uri;
mod value;
mod via;

pub use edit::Edits;
pub use frame::{Frame, FrameError, Framer};
pub use index::{CSeq, Essentials, Field, Message, Start};
pub use lex::{has_no_uri_byte, number};
pub use limits::Limits;
pub use list::Element;
pub use name::{HeaderName, Method, Name};
pub use peek::begins_call;
pub use reject::{Answerable, RejectReason, Rejected};
pub use uri::{Uri, scheme, subscriber};
pub use value::{NameAddr, Params, host_ip, seconds, tag, unquoted};
pub use via::Via;
