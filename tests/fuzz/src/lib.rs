//! What all fuzz targets share: a bound on memory.
//!
//! "Nothing is allocated for bytes that did not arrive" is a promise of every decoder here. Each
//! input may therefore make a check allocate so many bytes at a time, and no more:
//! [`FIXED_BYTES`] and [`BYTES_PER_BYTE`] for each of its own. Whatever is above is a finding.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// What a check may hold whatever its input is: messages of assertions, empty sessions, tables.
pub const FIXED_BYTES: usize = 1 << 20;
/// What it may hold per byte of input. The largest amplification is one of 64 bytes of memory for 5
/// on the wire (an empty User Property); a check holds some copies of what was decoded.
pub const BYTES_PER_BYTE: usize = 256;

/// The system's allocator, counting what this thread holds.
struct Counting;

thread_local! {
    static HELD_BYTES: Cell<usize> = const { Cell::new(0) };
    static ALLOWED_BYTES: Cell<usize> = const { Cell::new(usize::MAX) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts, and stops the process if that is too much: the allocator must not unwind.
fn hold(bytes: usize) {
    let held = HELD_BYTES.get().wrapping_add(bytes);
    HELD_BYTES.set(held);
    // What was allocated before a check and is freed within it may bring this below zero.
    // The report of a finding may take what it needs.
    if (held as isize) > 0 && held > ALLOWED_BYTES.get() && !std::thread::panicking() {
        ALLOWED_BYTES.set(usize::MAX);
        eprintln!("an input made the check hold {held} bytes, the last allocation was of {bytes}");
        std::process::abort();
    }
}

fn release(bytes: usize) {
    HELD_BYTES.set(HELD_BYTES.get().wrapping_sub(bytes));
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches no memory of the
// caller and does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        hold(layout.size());
        // SAFETY: the caller's promise about `layout`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        release(layout.size());
        // SAFETY: the caller's promise about `memory` and `layout`.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        release(layout.size());
        hold(bytes);
        // SAFETY: the caller's promise about `memory`, `layout` and `bytes`.
        unsafe { System.realloc(memory, layout, bytes) }
    }
}

/// Runs one check, which panics at a finding, within its memory.
pub fn run(check: fn(&[u8]), input: &[u8]) {
    HELD_BYTES.set(0);
    ALLOWED_BYTES.set(FIXED_BYTES + BYTES_PER_BYTE * input.len());
    check(input);
    ALLOWED_BYTES.set(usize::MAX);
}
