//! The program: everything is in the library.

use std::process::ExitCode;

/// It gives the memory of a peak back, which the system's keeps between what is still in use.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sipstamp::cli::main()
}
