//! What a proxy does to messages: RFC 3261 §16, for next hops that are configured or named by a dialog.
//!
//! [`route`] reads where a message wants to go, [`forward`] records the edits that a hop makes,
//! [`make`] writes the messages that originate here. `relay` carries whatever is not the INVITE of
//! a call.

pub mod forward;
pub mod make;
mod own;
mod relay;
pub mod route;
mod target;

pub use own::OwnTexts;
pub(crate) use relay::Pending;
pub(crate) use target::{ServerHealth, server_order};
