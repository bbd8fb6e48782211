//! Files mapped into memory: here because `unsafe` stands in this folder alone.

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// The bytes of `file`, which the system reads when they are used.
///
/// This crate never writes to a file in place: it replaces files, and those who have mapped the old one keep it. Everything
/// that is read from a map is checked like any other input.
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: a map is read-only and lives as long as the returned value. The compiler cannot know that no other
    // process writes to the file or shortens it while it is mapped: the documentation of `Source::map` asks this of the
    // caller, and `Source::read` serves those who cannot promise it.
    unsafe { Mmap::map(file) }
}
