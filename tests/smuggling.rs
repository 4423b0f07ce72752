//! What we read and what the next hop reads is the same: whatever could be read in two ways is refused, or forwarded byte
//! for byte where every way of reading it comes to the same.

#[cfg(test)]
#[path = "smuggling/mod.rs"]
mod attempts;
#[cfg(test)]
#[expect(dead_code, unused_imports, reason = "shared with other tests, which use the rest")]
mod support;
#[cfg(test)]
#[expect(dead_code, unused_imports, reason = "shared with other tests, which use the rest")]
mod wire;
