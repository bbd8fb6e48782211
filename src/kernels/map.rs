//! A file as memory.

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// The bytes of `file`, read as they are looked at.
///
/// Nothing in this crate holds a reference into a map longer than it takes to copy or to decode a tensor, and
/// everything that is read from one is checked as if it came from a stranger.
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: a map is read-only and lives as long as the returned value. What the compiler cannot know is that no
    // one else changes or cuts the file while it is mapped: `Source::map` hands this condition on to its
    // caller in its documentation, and `Source::read` is there for whoever cannot promise it.
    unsafe { Mmap::map(file) }
}
