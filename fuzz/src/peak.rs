//! How much memory something needs.

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes that were allocated at a time beyond what was before.
pub fn of(what: impl FnOnce()) -> usize {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    what();
    MEMORY.peak_usage().saturating_sub(before)
}
