//! Products of bytes with the instructions of AVX-512 VNNI.

use std::arch::x86_64::*;

use super::{Panel, Rows, STEP, UNIT};
use crate::kernels::placed::place_of;

/// The number of rows of `a` from which it pays to rearrange the rows of `b` first.
pub(super) const PACKED: usize = 8;
/// Rows of `b` in a panel.
const PANEL: usize = 16;

/// A mask of the lowest `count` bytes, at most 64.
#[inline(always)]
fn mask(count: usize) -> u64 {
    if count >= 64 { !0 } else { (1 << count) - 1 }
}

/// The number of columns before the next cache line begins, if it is the same in all rows; otherwise 0.
fn head(a: Rows<'_, i8>, b: Rows<'_, u8>, columns: usize) -> usize {
    let place = place_of(b.values);
    let alike = place_of(a.values) == place && b.stride.is_multiple_of(UNIT);
    if alike && place > 0 {
        (UNIT - place).min(columns)
    } else {
        0
    }
}

/// Loads 64 bytes; with `MASKED`, those that the mask selects, and zeros for the others.
///
/// # Safety
///
/// The loaded bytes must be readable.
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

/// A block of rows of `a` and of rows of `b`, given by the first of each.
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
    /// Adds the products of 64 columns to the sums; with `MASKED`, only of the columns that the mask selects.
    ///
    /// # Safety
    ///
    /// `A` rows of `a` and `B` rows of `b` must have these columns.
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
        // The codes stay in registers for all rows of `a`.
        let mut codes = [_mm512_setzero_si512(); B];
        for j in 0..B {
            // SAFETY: the caller's promise.
            codes[j] = unsafe { load::<MASKED, _>(self.b.add(j * self.b_stride + column), mask) };
        }
        for i in 0..A {
            // SAFETY: as above.
            let row = unsafe { load::<MASKED, _>(self.a.add(i * self.a_stride + column), mask) };
            for j in 0..B {
                sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], codes[j], row);
            }
        }
    }

    /// # Safety
    ///
    /// `A` rows of `a` and `B` rows of `b` must be readable.
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

    /// The product of one row of each, in four sums. Memory is read sequentially.
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

/// Writes the sums of `A` rows with `B` rows; a row of `out` has length `width`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn write<const A: usize, const B: usize>(sums: [[__m512i; B]; A], width: usize, out: &mut [i32]) {
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

/// The sums of the lanes of four vectors. Computed together, they take a third of the instructions.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn four_sums(vectors: [__m512i; 4]) -> __m128i {
    let [a, b, c, d] = vectors
        .map(|v| _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v)));
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
            // SAFETY: `tall` rows of `a` are left, and four rows of `b`, or one.
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

/// Rearranges up to sixteen rows of `b` into a panel: four vectors for each sixteen columns, where lane l of vector v holds the
/// columns of row 4·l + v. Missing rows and columns are filled with zeros.
///
/// # Safety
///
/// `rows` rows of `columns` columns must be readable, and `panel` must have room for sixteen rows of whole steps.
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
                let lanes = rows_of_vector.map(|row| _mm_loadu_si128(row.add(step * STEP).cast()));
                _mm512_storeu_si512(vectors.add(step * 256).cast(), side_by_side(lanes));
            }
        }
        for step in whole..columns.div_ceil(STEP) {
            let left = mask((columns - step * STEP).min(STEP)) as u16;
            let lanes = [0, 1, 2, 3].map(|l| {
                let mask = if 4 * l + v < rows { left } else { 0 };
                let row = rows_of_vector[l].wrapping_add(step * STEP);
                // SAFETY: the mask selects columns of the row only.
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

/// The products of `A` rows of `a` with a panel: a vector of sums for each row.
///
/// # Safety
///
/// `A` rows of `a` must be readable for whole steps, and the panel must have as many steps.
///
/// `next` points to what is read afterwards; each step prefetches a cache line of it.
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
        // Newer versions of Rust declare it safe.
        #[allow(unused_unsafe)]
        // SAFETY: a prefetch of any address is allowed; it changes the time only.
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
    /// The most that fit into the registers: 24 sums, 4 vectors of codes and one of a row.
    const TALL: usize = 6;
    let (height, width) = (a.count(columns), b.count(columns));
    let steps = columns.div_ceil(STEP);
    let panel = panel.room(PANEL * STEP * steps).as_mut_ptr();
    for j in (0..width).step_by(PANEL) {
        let rows = (width - j).min(PANEL);
        // SAFETY: `rows` rows are left, and the panel has room for sixteen.
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
                    // SAFETY: `tall` rows of `a` are left, and `out` has `rows` numbers for each.
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
