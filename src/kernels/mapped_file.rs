//! Memory-mapped files: no kernel, but the one call outside of them that needs `unsafe`.
//!
//! `unsafe` is allowed under `kernels/` only, so that one folder holds everything that the compiler cannot check. There is no
//! safe way to map a file: another process may change it while it is mapped.

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// The bytes of `file`, which the system reads when they are first used.
///
/// This crate keeps no reference into a map for longer than it takes to copy or decode a tensor, and checks everything
/// that it reads from one as untrusted input.
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: a map is read-only and lives as long as the returned value. The compiler cannot know that no one else
    // changes or cuts the file while it is mapped: the documentation of `NamedTensors::open` asks this of its caller, and
    // names `from_bytes` for callers that cannot ensure it.
    unsafe { Mmap::map(file) }
}
