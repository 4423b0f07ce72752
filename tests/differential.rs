//! The index beside another reader of SIP, `rsip`: whatever the two read differently of a message is explained, one by one.

#[cfg(test)]
#[path = "differential/mod.rs"]
mod beside;
#[cfg(test)]
#[expect(dead_code, unused_imports, reason = "shared with other tests, which use the rest")]
mod support;
#[cfg(test)]
#[expect(dead_code, unused_imports, reason = "shared with other tests, which use the rest")]
mod wire;
