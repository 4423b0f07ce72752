//! What the specification of outcomes promises, one behaviour a test, in virtual time.

#[cfg(test)]
#[path = "calls/mod.rs"]
mod behaviours;
#[cfg(test)]
#[expect(dead_code, unused_imports, reason = "shared with the simulation, which uses the rest")]
mod support;
