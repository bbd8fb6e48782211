//! The product of rows of unsigned with rows of signed bytes, summed as integers.
//!
//! Few rows are multiplied as they lie in memory, vector by vector along the rows. For many rows that would load more than it
//! multiplies: there, sixteen rows of the unsigned bytes at a time are brought into the order in which they are read.

use super::Level;
use super::placed::Placed;

/// The longest row whose sum surely fits 32 bits: 2³¹ / (255·128), and a multiple of the vectors' length.
pub(crate) const LONGEST: usize = 65_536;
/// Rows of `a` are multiples of that many bytes apart.
pub(crate) const UNIT: usize = 64;

/// Columns that are multiplied at once, where rows of `b` are brought into another order.
const STEP: usize = 16;

/// Rows of bytes, each of which begins `stride` bytes after the one before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a, T> {
    pub(crate) values: &'a [T],
    pub(crate) stride: usize,
}

impl<'a, T> Rows<'a, T> {
    /// How many rows of so many columns there are.
    fn count(self, columns: usize) -> usize {
        match self.values.len().checked_sub(columns) {
            Some(rest) => rest / self.stride.max(columns).max(1) + 1,
            None => 0,
        }
    }

    fn iter(self, columns: usize) -> impl Iterator<Item = &'a [T]> {
        let rows = self.values.chunks(self.stride.max(1));
        rows.filter_map(move |row| row.get(..columns))
    }

    /// The columns from `from` on.
    pub(crate) fn starting_at(self, from: usize) -> Self {
        let values = self.values.get(from..).unwrap_or_default();
        Self { values, ..self }
    }
}

/// Memory for the sixteen rows that are worked on, to be used again.
pub(crate) type Panel = Placed<u8>;

/// `out[i * rows(b) + j]` = Σ b[j]·a[i] over the first `columns` of row i of `a` and row j of `b`.
///
/// Rows of `a` are a multiple of [`UNIT`] apart, and the last is as long as that too. Vectors are loaded without reaching over two
/// lines of the cache where those of `b` are as well, and the first rows lie at the same place of a line.
pub(crate) fn dot_bytes(
    level: Level,
    a: Rows<'_, i8>,
    b: Rows<'_, u8>,
    columns: usize,
    panel: &mut Panel,
    out: &mut [i32],
) {
    assert!(columns > 0 && columns <= LONGEST);
    assert!(columns <= a.stride && columns <= b.stride && a.stride.is_multiple_of(UNIT));
    let (height, width) = (a.count(columns), b.count(columns));
    assert_eq!(out.len(), height * width);
    if out.is_empty() {
        return;
    }
    let read = (height - 1) * a.stride + columns.next_multiple_of(STEP);
    assert!(read <= a.values.len());
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 if is_x86_feature_detected!("avx512vnni") => {
            if height < avx512::PACKED {
                // SAFETY: the processor has what the function is compiled for, and there is a sum for each pair of rows.
                unsafe { avx512::dot(a, b, columns, out) }
            } else {
                // SAFETY: as above.
                unsafe { avx512::dot_packed(a, b, columns, panel, out) }
            }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx2 => {
            if height < avx2::PACKED {
                // SAFETY: as above.
                unsafe { avx2::dot(a, b, columns, out) }
            } else {
                // SAFETY: as above.
                unsafe { avx2::dot_packed(a, b, columns, panel, out) }
            }
        }
        _ => scalar(a, b, columns, out),
    }
    let _ = panel;
}

fn scalar(a: Rows<'_, i8>, b: Rows<'_, u8>, columns: usize, out: &mut [i32]) {
    let width = b.count(columns);
    for (a, out) in a.iter(columns).zip(out.chunks_exact_mut(width.max(1))) {
        for (b, out) in b.iter(columns).zip(out) {
            *out = dot_one(a, b);
        }
    }
}

fn dot_one(a: &[i8], b: &[u8]) -> i32 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| i32::from(a) * i32::from(b))
        .sum()
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{Panel, Rows, STEP, UNIT};
    use crate::kernels::placed::{Placed, place_of};

    /// Rows of `a` from which on it is worth bringing those of `b` into another order.
    pub(super) const PACKED: usize = 8;
    /// Rows of `b` in a panel.
    const PANEL: usize = 16;

    /// The lowest `count` bytes, of 64 at most.
    #[inline(always)]
    fn mask(count: usize) -> u64 {
        if count >= 64 { !0 } else { (1 << count) - 1 }
    }

    /// How many columns there are before a line of the cache begins, if it does so in all rows at once.
    fn head(a: Rows<'_, i8>, b: Rows<'_, u8>, columns: usize) -> usize {
        let place = place_of(b.values);
        let alike = place_of(a.values) == place && b.stride.is_multiple_of(UNIT);
        if alike && place > 0 {
            (UNIT - place).min(columns)
        } else {
            0
        }
    }

    /// 64 bytes; with `MASKED`, those that the mask lets through, and zeros.
    ///
    /// # Safety
    ///
    /// They must be readable.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn load<const MASKED: bool, T>(bytes: *const T, mask: u64) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            if MASKED {
                _mm512_maskz_loadu_epi8(mask, bytes.cast())
            } else {
                _mm512_loadu_si512(bytes.cast())
            }
        }
    }

    /// Some rows of `a` and some of `b`, from given ones on.
    #[derive(Clone, Copy)]
    struct Pair {
        a: *const i8,
        a_stride: usize,
        b: *const u8,
        b_stride: usize,
        columns: usize,
        head: usize,
    }

    impl Pair {
        /// Adds the products of 64 columns to the sums, or of those of them that the mask lets through.
        ///
        /// # Safety
        ///
        /// A rows of `a` and B rows of `b` must have these columns.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        // Loops over constant ranges, which unroll into registers.
        #[allow(clippy::needless_range_loop)]
        unsafe fn step<const MASKED: bool, const A: usize, const B: usize>(
            self,
            column: usize,
            mask: u64,
            sums: &mut [[__m512i; B]; A],
        ) {
            // The codes stay in registers while the rows pass by.
            let mut codes = [_mm512_setzero_si512(); B];
            for j in 0..B {
                // SAFETY: the caller's promise.
                codes[j] =
                    unsafe { load::<MASKED, _>(self.b.add(j * self.b_stride + column), mask) };
            }
            for i in 0..A {
                // SAFETY: as above.
                let row =
                    unsafe { load::<MASKED, _>(self.a.add(i * self.a_stride + column), mask) };
                for j in 0..B {
                    sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], codes[j], row);
                }
            }
        }

        /// # Safety
        ///
        /// A rows of `a` and B rows of `b` must be readable.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        unsafe fn tile<const A: usize, const B: usize>(self) -> [[__m512i; B]; A] {
            let mut sums = [[_mm512_setzero_si512(); B]; A];
            let mut column = self.head;
            // SAFETY: no step goes beyond the last column, and the masks end at it.
            unsafe {
                if self.head > 0 {
                    self.step::<true, A, B>(0, mask(self.head), &mut sums);
                }
                while column + 64 <= self.columns {
                    self.step::<false, A, B>(column, !0, &mut sums);
                    column += 64;
                }
                if column < self.columns {
                    self.step::<true, A, B>(column, mask(self.columns - column), &mut sums);
                }
            }
            sums
        }

        /// One row of each, in four sums: memory is read from one end to the other.
        ///
        /// # Safety
        ///
        /// A row of `a` and one of `b` must be readable.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        unsafe fn line(self) -> __m512i {
            let mut sums = [[[_mm512_setzero_si512()]]; 4];
            let mut column = self.head;
            // SAFETY: as in `tile`.
            unsafe {
                if self.head > 0 {
                    self.step::<true, 1, 1>(0, mask(self.head), &mut sums[0]);
                }
                while column + 256 <= self.columns {
                    for (i, sum) in sums.iter_mut().enumerate() {
                        self.step::<false, 1, 1>(column + 64 * i, !0, sum);
                    }
                    column += 256;
                }
                while column + 64 <= self.columns {
                    self.step::<false, 1, 1>(column, !0, &mut sums[1]);
                    column += 64;
                }
                if column < self.columns {
                    self.step::<true, 1, 1>(column, mask(self.columns - column), &mut sums[2]);
                }
            }
            let [[[a]], [[b]], [[c]], [[d]]] = sums;
            _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d))
        }
    }

    /// Writes the sums of A rows with B rows, each row `width` after the one before.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn write<const A: usize, const B: usize>(
        sums: [[__m512i; B]; A],
        width: usize,
        out: &mut [i32],
    ) {
        for (sums, out) in sums.into_iter().zip(out.chunks_mut(width)) {
            if let ([a, b, c, d], Some(out)) = (&sums[..], out.first_chunk_mut::<4>()) {
                let sums = four_sums([*a, *b, *c, *d]);
                // SAFETY: four numbers.
                unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), sums) };
                continue;
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = _mm512_reduce_add_epi32(sum);
            }
        }
    }

    /// The sums of the lanes of four vectors, together in a third of the instructions of one after the other.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn four_sums(vectors: [__m512i; 4]) -> __m128i {
        let [a, b, c, d] = vectors.map(|v| {
            _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v))
        });
        let sums = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        _mm_add_epi32(
            _mm256_castsi256_si128(sums),
            _mm256_extracti128_si256::<1>(sums),
        )
    }

    /// # Safety
    ///
    /// The processor must have the features, and `out` room for each pair of rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) unsafe fn dot(a: Rows<'_, i8>, b: Rows<'_, u8>, columns: usize, out: &mut [i32]) {
        let (height, width) = (a.count(columns), b.count(columns));
        let head = head(a, b, columns);
        let mut j = 0;
        while j < width {
            let four = j + 4 <= width;
            let mut i = 0;
            while i < height {
                let tall = (height - i).min(4);
                let pair = Pair {
                    a: a.values[i * a.stride..].as_ptr(),
                    a_stride: a.stride,
                    b: b.values[j * b.stride..].as_ptr(),
                    b_stride: b.stride,
                    columns,
                    head,
                };
                let out = &mut out[i * width + j..];
                // SAFETY: as many rows are left as the sizes say.
                unsafe {
                    match (tall, four) {
                        (1, true) => {
                            let line = |j: usize| {
                                let b = pair.b.add(j * b.stride);
                                Pair { b, ..pair }.line()
                            };
                            write::<1, 4>([[line(0), line(1), line(2), line(3)]], width, out);
                        }
                        (2, true) => write::<2, 4>(pair.tile(), width, out),
                        (3, true) => write::<3, 4>(pair.tile(), width, out),
                        (_, true) => write::<4, 4>(pair.tile(), width, out),
                        (1, false) => write::<1, 1>([[pair.line()]], width, out),
                        (2, false) => write::<2, 1>(pair.tile(), width, out),
                        (3, false) => write::<3, 1>(pair.tile(), width, out),
                        (_, false) => write::<4, 1>(pair.tile(), width, out),
                    }
                }
                i += tall;
            }
            j += if four { 4 } else { 1 };
        }
    }

    /// Brings up to sixteen rows of `b` into a panel: for each sixteen columns four vectors, of which lane l of vector v holds
    /// those of row 4·l + v. Bytes of rows and columns that there are not become zeros.
    ///
    /// # Safety
    ///
    /// So many rows of so many columns must be readable, and `panel` have room for sixteen rows of whole steps.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn pack(b: *const u8, stride: usize, rows: usize, columns: usize, panel: *mut u8) {
        let whole = if rows == PANEL { columns / STEP } else { 0 };
        for v in 0..4 {
            let rows_of_vector = [0, 1, 2, 3].map(|l| b.wrapping_add((4 * l + v) * stride));
            let vectors = panel.wrapping_add(v * 64);
            for step in 0..whole {
                // SAFETY: sixteen columns of all rows are there, and the panel has room for four vectors a step.
                unsafe {
                    let lanes =
                        rows_of_vector.map(|row| _mm_loadu_si128(row.add(step * STEP).cast()));
                    _mm512_storeu_si512(vectors.add(step * 256).cast(), side_by_side(lanes));
                }
            }
            for step in whole..columns.div_ceil(STEP) {
                let left = mask((columns - step * STEP).min(STEP)) as u16;
                let lanes = [0, 1, 2, 3].map(|l| {
                    let mask = if 4 * l + v < rows { left } else { 0 };
                    let row = rows_of_vector[l].wrapping_add(step * STEP);
                    // SAFETY: the mask lets through what there is.
                    unsafe { _mm_maskz_loadu_epi8(mask, row.cast()) }
                });
                // SAFETY: as above.
                unsafe { _mm512_storeu_si512(vectors.add(step * 256).cast(), side_by_side(lanes)) };
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn side_by_side([first, second, third, fourth]: [__m128i; 4]) -> __m512i {
        let lower = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(first), second);
        let upper = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(third), fourth);
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(lower), upper)
    }

    /// Sums of A rows of `a` with a panel: those of each row are a vector.
    ///
    /// # Safety
    ///
    /// A rows of `a` must be readable for whole steps, and the panel hold so many.
    ///
    /// `next` is what will be read afterwards: a line of it a step is asked for already.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    // Loops over constant ranges, which unroll into registers.
    #[allow(clippy::needless_range_loop)]
    unsafe fn panel_tile<const A: usize>(
        a: *const i8,
        stride: usize,
        panel: *const u8,
        steps: usize,
        next: *const u8,
    ) -> [__m512i; A] {
        let mut sums = [[_mm512_setzero_si512(); 4]; A];
        for step in 0..steps {
            // Safe from some version of Rust on.
            #[allow(unused_unsafe)]
            // SAFETY: it has no effect on anything but time, wherever it points to.
            unsafe {
                _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(step * UNIT).cast());
            }
            let mut codes = [_mm512_setzero_si512(); 4];
            for v in 0..4 {
                // SAFETY: the caller's promise.
                codes[v] = unsafe { _mm512_loadu_si512(panel.add((4 * step + v) * 64).cast()) };
            }
            for i in 0..A {
                // SAFETY: as above.
                let row = unsafe { _mm_loadu_si128(a.add(i * stride + step * STEP).cast()) };
                let row = _mm512_broadcast_i32x4(row);
                for v in 0..4 {
                    sums[i][v] = _mm512_dpbusd_epi32(sums[i][v], codes[v], row);
                }
            }
        }
        // The four numbers of a lane belong to one row of `b`, those of a vector to rows four apart.
        sums.map(|[a, b, c, d]| {
            let halves =
                |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (ab, cd) = (halves(a, b), halves(c, d));
            _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
        })
    }

    /// # Safety
    ///
    /// The processor must have the features, `out` room for each pair of rows, and rows of `a` be readable for whole steps.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) unsafe fn dot_packed(
        a: Rows<'_, i8>,
        b: Rows<'_, u8>,
        columns: usize,
        panel: &mut Panel,
        out: &mut [i32],
    ) {
        /// As many as there are registers for: 24 sums, 4 vectors of codes and one of a row.
        const TALL: usize = 6;
        let (height, width) = (a.count(columns), b.count(columns));
        let steps = columns.div_ceil(STEP);
        if panel.values().len() < PANEL * STEP * steps {
            *panel = Placed::zeros(PANEL * STEP * steps, 0);
        }
        let panel = panel.values_mut()[..PANEL * STEP * steps].as_mut_ptr();
        for j in (0..width).step_by(PANEL) {
            let rows = (width - j).min(PANEL);
            // SAFETY: so many rows are left, and the panel was made for sixteen of them.
            unsafe {
                pack(
                    b.values[j * b.stride..].as_ptr(),
                    b.stride,
                    rows,
                    columns,
                    panel,
                )
            };
            let mask = mask(rows) as u16;
            let after = b.values.as_ptr().wrapping_add((j + rows) * b.stride);
            let mut i = 0;
            while i < height {
                let tall = (height - i).min(TALL);
                let from = a.values[i * a.stride..].as_ptr();
                let next = after.wrapping_add((i / TALL * steps * UNIT).min(PANEL * b.stride));
                let out = out[i * width + j..(i + tall - 1) * width + j + rows].as_mut_ptr();
                macro_rules! tile {
                    ($rows:literal) => {
                        // SAFETY: so many rows are left of `a`, and as many numbers in each of those of `out`.
                        unsafe {
                            let sums = panel_tile::<$rows>(from, a.stride, panel, steps, next);
                            for (i, sums) in sums.into_iter().enumerate() {
                                _mm512_mask_storeu_epi32(out.add(i * width), mask, sums);
                            }
                        }
                    };
                }
                match tall {
                    1 => tile!(1),
                    2 => tile!(2),
                    3 => tile!(3),
                    4 => tile!(4),
                    5 => tile!(5),
                    _ => tile!(6),
                }
                i += tall;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{Panel, Rows, STEP};
    use crate::kernels::placed::Placed;

    /// Rows of `a` from which on it is worth making numbers of 16 bits of those of `b` first.
    pub(super) const PACKED: usize = 4;
    /// Rows of `b` in a panel.
    const PANEL: usize = 4;
    /// The bytes of a vector.
    const VECTOR: usize = 32;

    /// # Safety
    ///
    /// The processor must have AVX2, and `out` room for each pair of rows.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn dot(a: Rows<'_, i8>, b: Rows<'_, u8>, columns: usize, out: &mut [i32]) {
        let width = b.count(columns);
        for (j, b) in b.iter(columns).enumerate() {
            let (codes, codes_rest) = b.as_chunks::<16>();
            for (i, a) in a.iter(columns).enumerate() {
                let (values, values_rest) = a.as_chunks::<16>();
                let mut sum = _mm256_setzero_si256();
                for (a, b) in values.iter().zip(codes) {
                    // SAFETY: sixteen bytes each.
                    let (a, b) = unsafe {
                        (
                            _mm_loadu_si128(a.as_ptr().cast()),
                            _mm_loadu_si128(b.as_ptr().cast()),
                        )
                    };
                    // As 16-bit numbers: the product of bytes by maddubs would saturate.
                    let product =
                        _mm256_madd_epi16(_mm256_cvtepi8_epi16(a), _mm256_cvtepu8_epi16(b));
                    sum = _mm256_add_epi32(sum, product);
                }
                let mut lanes = [0_i32; 8];
                // SAFETY: eight lanes fit.
                unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
                out[i * width + j] =
                    lanes.iter().sum::<i32>() + super::dot_one(values_rest, codes_rest);
            }
        }
    }

    /// Brings up to four rows of `b` into a panel: for each sixteen columns a vector a row, of numbers of 16 bits. Rows and
    /// columns that there are not become zeros.
    ///
    /// # Safety
    ///
    /// So many rows of so many columns must be readable, and `panel` have room for four rows of whole steps.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn widen(b: *const u8, stride: usize, rows: usize, columns: usize, panel: *mut u8) {
        for row in 0..PANEL {
            for step in 0..columns.div_ceil(STEP) {
                let count = if row < rows {
                    (columns - step * STEP).min(STEP)
                } else {
                    0
                };
                let from = b.wrapping_add(row * stride + step * STEP);
                let mut some = [0_u8; STEP];
                // SAFETY: `count` columns of the row are left; the panel has a vector for each row and step.
                unsafe {
                    let bytes = if count == STEP {
                        _mm_loadu_si128(from.cast())
                    } else {
                        std::ptr::copy_nonoverlapping(from, some.as_mut_ptr(), count);
                        _mm_loadu_si128(some.as_ptr().cast())
                    };
                    let to = panel.add((step * PANEL + row) * VECTOR);
                    _mm256_storeu_si256(to.cast(), _mm256_cvtepu8_epi16(bytes));
                }
            }
        }
    }

    /// Sums of A rows of `a` with the four of a panel.
    ///
    /// # Safety
    ///
    /// A rows of `a` must be readable for whole steps, and the panel hold so many.
    #[inline]
    #[target_feature(enable = "avx2")]
    // Loops over constant ranges, which unroll into registers.
    #[allow(clippy::needless_range_loop)]
    unsafe fn panel_tile<const A: usize>(
        a: *const i8,
        stride: usize,
        panel: *const u8,
        steps: usize,
    ) -> [__m128i; A] {
        let mut sums = [[_mm256_setzero_si256(); PANEL]; A];
        for step in 0..steps {
            let mut rows = [_mm256_setzero_si256(); A];
            for i in 0..A {
                // SAFETY: the caller's promise.
                let bytes = unsafe { _mm_loadu_si128(a.add(i * stride + step * STEP).cast()) };
                rows[i] = _mm256_cvtepi8_epi16(bytes);
            }
            for j in 0..PANEL {
                // SAFETY: as above.
                let codes =
                    unsafe { _mm256_loadu_si256(panel.add((step * PANEL + j) * VECTOR).cast()) };
                for i in 0..A {
                    // The product of bytes by maddubs would saturate.
                    let product = _mm256_madd_epi16(rows[i], codes);
                    sums[i][j] = _mm256_add_epi32(sums[i][j], product);
                }
            }
        }
        sums.map(|[a, b, c, d]| {
            let sums = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
            let upper = _mm256_extracti128_si256::<1>(sums);
            _mm_add_epi32(_mm256_castsi256_si128(sums), upper)
        })
    }

    /// # Safety
    ///
    /// The processor must have AVX2, `out` room for each pair of rows, and rows of `a` be readable for whole steps.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn dot_packed(
        a: Rows<'_, i8>,
        b: Rows<'_, u8>,
        columns: usize,
        panel: &mut Panel,
        out: &mut [i32],
    ) {
        let (height, width) = (a.count(columns), b.count(columns));
        let steps = columns.div_ceil(STEP);
        let room = PANEL * VECTOR * steps;
        if panel.values().len() < room {
            *panel = Placed::zeros(room, 0);
        }
        let panel = panel.values_mut()[..room].as_mut_ptr();
        for j in (0..width).step_by(PANEL) {
            let rows = (width - j).min(PANEL);
            let from = b.values[j * b.stride..].as_ptr();
            // SAFETY: so many rows are left, and the panel was made for four of them.
            unsafe { widen(from, b.stride, rows, columns, panel) };
            let mut write = |i: usize, sums: __m128i| {
                let mut lanes = [0_i32; PANEL];
                // SAFETY: four lanes fit.
                unsafe { _mm_storeu_si128(lanes.as_mut_ptr().cast(), sums) };
                let first = i * width + j;
                out[first..first + rows].copy_from_slice(&lanes[..rows]);
            };
            let mut i = 0;
            while i < height {
                let from = a.values[i * a.stride..].as_ptr();
                // SAFETY: so many rows of `a` are left, for whole steps.
                unsafe {
                    if i + 2 <= height {
                        let [first, second] = panel_tile::<2>(from, a.stride, panel, steps);
                        write(i, first);
                        write(i + 1, second);
                    } else {
                        let [only] = panel_tile::<1>(from, a.stride, panel, steps);
                        write(i, only);
                    }
                }
                i += 2;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;
    use proptest::prelude::*;

    proptest! {
        // Of any sizes, rows with gaps between them, wherever they begin in a line of the cache.
        #[test]
        fn every_level_sums_as_the_naive_loop(columns in 1_usize..600, height in 0_usize..28, width in 0_usize..40, gap in prop_oneof![Just(0), Just(1), 0_usize..70], places in (0_usize..64, 0_usize..64), alike in any::<bool>(), seed in any::<u64>()) {
            let byte = |stream: u64, i: usize| Seed::from(seed).derive(stream).derive(i as u64).value() as u8;
            let a_stride = columns.next_multiple_of(UNIT) + UNIT * (gap % 2);
            let b_stride = if alike { columns.next_multiple_of(UNIT) } else { columns + gap };
            let mut a = Placed::<i8>::zeros(height * a_stride, places.0);
            a.values_mut().iter_mut().enumerate().for_each(|(i, a)| *a = byte(0, i) as i8);
            let mut b = Placed::<u8>::zeros(width * b_stride, if alike { places.0 } else { places.1 });
            b.values_mut().iter_mut().enumerate().for_each(|(i, b)| *b = byte(1, i));
            let a = Rows { values: a.values(), stride: a_stride };
            let b = Rows { values: b.values(), stride: b_stride };
            let from = if columns > UNIT && gap % 3 == 1 { UNIT } else { 0 };
            let columns = columns - from;
            let mut expected = Vec::new();
            for i in 0..height {
                for j in 0..width {
                    let product = |c: usize| i32::from(a.values[i * a_stride + from + c]) * i32::from(b.values[j * b_stride + from + c]);
                    expected.push((0..columns).map(product).sum::<i32>());
                }
            }
            let mut panel = Panel::default();
            for level in Level::available() {
                let mut out = vec![7; height * width];
                dot_bytes(level, a.starting_at(from), b.starting_at(from), columns, &mut panel, &mut out);
                prop_assert_eq!(&out, &expected, "{:?}", level);
            }
        }
    }

    #[test]
    fn the_extremes_do_not_overflow() {
        for rows in [1, 9] {
            let (a, b) = (vec![-128_i8; rows * LONGEST], vec![255_u8; LONGEST]);
            let a = Rows {
                values: &a,
                stride: LONGEST,
            };
            let b = Rows {
                values: &b,
                stride: LONGEST,
            };
            for level in Level::available() {
                let mut out = vec![0; rows];
                dot_bytes(level, a, b, LONGEST, &mut Panel::default(), &mut out);
                assert_eq!(out, vec![-128 * 255 * LONGEST as i32; rows], "{level:?}");
            }
        }
    }
}
