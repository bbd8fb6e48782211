//! Arrays that begin at a chosen offset within a cache line.
//!
//! A vector that crosses two lines takes twice the time to load. An allocation may begin anywhere within a line; these arrays
//! begin where a kernel needs it.

use std::ops::Range;

/// Bytes of a line of the cache.
pub(crate) const LINE: usize = 64;

/// The offset in bytes of the first of these values within its line.
pub(crate) fn place_of<T>(values: &[T]) -> usize {
    values.as_ptr().addr() % LINE
}

/// Values, the first of which is at a chosen offset within a line.
///
/// The offset is for speed only; results may not depend on it.
#[derive(Debug, Default)]
pub(crate) struct Placed<T> {
    padded: Vec<T>,
    inside: Range<usize>,
}

impl<T: Copy + Default> Placed<T> {
    /// `length` zeros that begin `place` bytes after the beginning of a line.
    pub(crate) fn zeros(length: usize, place: usize) -> Self {
        let line = LINE / size_of::<T>().max(1);
        let padded = vec![T::default(); length.saturating_add(2 * line)];
        let start = padded.as_ptr().align_offset(LINE).min(line);
        let start = start + place % LINE / size_of::<T>().max(1);
        let inside = start..start.saturating_add(length);
        Self { padded, inside }
    }

    /// The first `length` values. If there are fewer, new zeros replace all of them, from the beginning of a line on.
    pub(crate) fn room(&mut self, length: usize) -> &mut [T] {
        if self.inside.len() < length {
            *self = Self::zeros(length, 0);
        }
        &mut self.values_mut()[..length]
    }

    pub(crate) fn values(&self) -> &[T] {
        &self.padded[self.inside.clone()]
    }

    pub(crate) fn values_mut(&mut self) -> &mut [T] {
        &mut self.padded[self.inside.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_begin_where_they_should() {
        for length in [0, 1, 63, 64, 100] {
            for place in (0..LINE).step_by(8) {
                let bytes = Placed::<u8>::zeros(length, place);
                assert_eq!(bytes.values().len(), length);
                let numbers = Placed::<f64>::zeros(length, place);
                assert_eq!(numbers.values().len(), length);
                if length > 0 {
                    assert_eq!(place_of(bytes.values()), place);
                    assert_eq!(place_of(numbers.values()), place);
                }
            }
        }
    }

    #[test]
    fn room_is_made_once() {
        let mut bytes = Placed::<u8>::default();
        bytes.room(100).fill(7);
        assert_eq!(place_of(bytes.values()), 0);
        // A smaller request does not change the memory.
        assert_eq!(bytes.room(40), [7; 40]);
        assert_eq!(bytes.values().len(), 100);
        assert_eq!(bytes.room(200).len(), 200);
    }
}
