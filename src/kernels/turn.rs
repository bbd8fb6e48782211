//! The transposition of bytes.

use super::Level;

/// `to[r * columns + c] = from[c * stride + r]` for all r below `rows` and c below `columns`.
///
/// Column c is the `rows` bytes of `from` from c · `stride` on.
pub(crate) fn turn_bytes(
    level: Level,
    from: &[u8],
    stride: usize,
    rows: usize,
    columns: usize,
    to: &mut [u8],
) {
    if rows * columns == 0 {
        return;
    }
    assert!(rows <= stride && (columns - 1) * stride + rows <= from.len());
    let to = &mut to[..rows * columns];
    let mut done = (0, 0);
    #[cfg(target_arch = "x86_64")]
    if level != Level::Scalar {
        done = (rows / 16 * 16, columns / 16 * 16);
        for c in (0..done.1).step_by(16) {
            for r in (0..done.0).step_by(16) {
                // SAFETY: the lengths are checked above: sixteen rows of sixteen columns are there on both sides.
                unsafe {
                    x86_64::sixteen(
                        from.as_ptr().add(c * stride + r),
                        stride,
                        to.as_mut_ptr().add(r * columns + c),
                        columns,
                    );
                }
            }
        }
    }
    let _ = level;
    for (c, from) in from.chunks(stride).take(columns).enumerate() {
        let first = if c < done.1 { done.0 } else { 0 };
        for (r, &byte) in from[..rows].iter().enumerate().skip(first) {
            to[r * columns + c] = byte;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::x86_64::*;

    /// Transposes sixteen rows of sixteen bytes. Four times, each vector of the first half is interleaved with its counterpart in
    /// the second half. SSE2 is part of x86_64.
    ///
    /// # Safety
    ///
    /// Sixteen bytes must be readable at each multiple of `stride`, and writable at each multiple of `width`, sixteen times.
    #[inline]
    pub(super) unsafe fn sixteen(from: *const u8, stride: usize, to: *mut u8, width: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut rows = [_mm_setzero_si128(); 16];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = _mm_loadu_si128(from.add(i * stride).cast());
            }
            for _ in 0..4 {
                let mut next = rows;
                for i in 0..8 {
                    next[2 * i] = _mm_unpacklo_epi8(rows[i], rows[i + 8]);
                    next[2 * i + 1] = _mm_unpackhi_epi8(rows[i], rows[i + 8]);
                }
                rows = next;
            }
            for (i, row) in rows.into_iter().enumerate() {
                _mm_storeu_si128(to.add(i * width).cast(), row);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_transposes() {
        for (rows, columns, gap) in [
            (0, 3, 0),
            (1, 1, 0),
            (5, 40, 3),
            (16, 16, 0),
            (17, 16, 1),
            (16, 33, 0),
            (48, 64, 16),
            (100, 70, 5),
        ] {
            let stride = rows + gap;
            let from: Vec<u8> = (0..columns * stride)
                .map(|i| (i * 31 % 251) as u8)
                .collect();
            let expected: Vec<u8> = (0..rows * columns)
                .map(|i| from[i % columns * stride + i / columns])
                .collect();
            for level in Level::available() {
                // The last column may end with its last row.
                for end in [from.len(), from.len() - gap] {
                    let mut to = vec![7; rows * columns];
                    turn_bytes(level, &from[..end], stride, rows, columns, &mut to);
                    assert_eq!(to, expected, "{level:?} {rows} {columns} {gap}");
                }
            }
        }
    }
}
