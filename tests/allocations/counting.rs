//! The allocator of these tests: it counts for each thread by itself, and for one that is watched by others.

#![expect(unsafe_code, reason = "an allocator that counts can be written in no other way; it hands everything on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::fs;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::unistd::gettid;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// The thread's name for the kernel; 0 until it is asked for.
    static ID: Cell<i32> = const { Cell::new(0) };
    /// What it allocates is of the counting itself.
    static IS_NOTING: Cell<bool> = const { Cell::new(false) };
}

/// The kernel's name of the watched thread; 0 where there is none.
static WATCHED: AtomicI32 = AtomicI32::new(0);
static SEEN: AtomicU64 = AtomicU64::new(0);
static FIRST: Mutex<Option<Backtrace>> = Mutex::new(None);

// SAFETY: everything is the system's allocator; counting touches constant-initialised cells of the thread and atomics, and
// what it allocates itself is not counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is handed on.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    // At the end of a thread there is nothing to count in any more.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
    let watched = WATCHED.load(Ordering::Relaxed);
    if watched != 0 && ID.try_with(own_id) == Ok(watched) {
        note();
    }
}

fn own_id(id: &Cell<i32>) -> i32 {
    if id.get() == 0 {
        id.set(gettid().as_raw());
    }
    id.get()
}

fn note() {
    if IS_NOTING.replace(true) {
        return;
    }
    SEEN.fetch_add(1, Ordering::Relaxed);
    first().get_or_insert_with(Backtrace::force_capture);
    IS_NOTING.set(false);
}

fn first() -> std::sync::MutexGuard<'static, Option<Backtrace>> {
    FIRST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What this thread allocates to do something.
pub fn allocations_of<R>(work: impl FnOnce() -> R) -> (R, u64) {
    let before = ALLOCATIONS.get();
    let done = work();
    (done, ALLOCATIONS.get() - before)
}

/// Watches the thread of this process that has this name, from here on; false where there is none.
pub fn watch(name: &str) -> bool {
    let mut tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let is_meant = |task: &fs::DirEntry| fs::read_to_string(task.path().join("comm")).is_ok_and(|of| of.trim() == name);
    let id = tasks.find(is_meant).and_then(|task| task.file_name().to_str()?.parse().ok());
    WATCHED.store(id.unwrap_or(0), Ordering::Relaxed);
    id.is_some()
}

/// How often the watched thread has allocated since this was asked last, and where for the first time.
pub fn seen() -> (u64, Option<Backtrace>) {
    let first = first().take();
    (SEEN.swap(0, Ordering::Relaxed), first)
}
