//! Messages that others have collected, through the whole core: those of RFC 4475 and RFC 5118, captured ones, malformed
//! ones. They are no part of the project: where they do not lie beside it, these tests say so and pass.

#[cfg(test)]
#[path = "corpus/mod.rs"]
mod sets;
#[cfg(test)]
#[expect(dead_code, unused_imports, reason = "shared with other tests, which use the rest")]
mod support;
#[cfg(test)]
#[expect(dead_code, unused_imports, reason = "shared with other tests, which use the rest")]
mod wire;
