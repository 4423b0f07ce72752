//! How states are written for the journal, and read back.
//!
//! What is kept of calls and transactions is described by structures of its own, next to what they describe: names in
//! the place of handles, points of the wall clock in the place of the monotonic one, servers and labels by their names,
//! so that another process with another configuration can make sense of them.

use std::net::SocketAddr;

use serde::de::{Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

use crate::flow::{Hop, Transport};

/// A text, copied as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raw<'a>(pub &'a [u8]);

/// A way, but for its connection: that ends with the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct StoredHop {
    transport: Transport,
    local: SocketAddr,
    remote: SocketAddr,
}

/// Writes a state behind what is in `out`.
pub fn put(state: &impl Serialize, out: &mut Vec<u8>) {
    // A buffer that grows takes whatever is written, and no state has a part that cannot be written.
    drop(postcard::serialize_with_flavor(state, Growing(out)));
}

/// Reads a state; `None` where it is none.
pub fn read<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Option<T> {
    postcard::from_bytes(text).ok()
}

struct Growing<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Growing<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

impl From<Hop> for StoredHop {
    fn from(hop: Hop) -> StoredHop {
        StoredHop { transport: hop.transport, local: hop.local, remote: hop.remote }
    }
}

impl From<StoredHop> for Hop {
    fn from(StoredHop { transport, local, remote }: StoredHop) -> Hop {
        Hop { transport, local, remote, connection: None }
    }
}

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw<'a>, D::Error> {
        struct Borrowed;

        impl<'de> Visitor<'de> for Borrowed {
            type Value = Raw<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Raw<'de>, E> {
                Ok(Raw(bytes))
            }
        }

        deserializer.deserialize_bytes(Borrowed)
    }
}
