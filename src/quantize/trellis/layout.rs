//! How a matrix of trellis codes is laid out in bytes: what belongs to rows and columns, the values of numbers, the codes.

use super::machine::Machine;
use crate::packing::PackedCodes;
use crate::{Error, Float, Result};

/// The widest codes.
pub(crate) const MAX_BITS: u32 = 16;
/// The most classes, the one of zeros among them.
pub(crate) const MOST_CLASSES: usize = 16;
/// Numbers from −4 to 4 have a value of their own in each class.
pub(crate) const REACH: i32 = 4;
/// Values of a class that are stored.
pub(crate) const POINTS: usize = 2 * REACH as usize + 1;
/// Parts of a step that stored values are multiples of.
pub(crate) const FRACTION: i32 = 32;
/// Levels of a row or a column, 0 to 15.
pub(crate) const LEVELS: u8 = 16;

pub(super) const NAME: &str = "TrellisMatrix";

pub(super) fn malformed(problem: impl Into<String>) -> Error {
    Error::Malformed {
        artifact: NAME,
        problem: problem.into(),
    }
}

/// A row or a column of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Line {
    /// Its share of the class of a weight; 0 for a line of zeros.
    pub(crate) scale: u8,
    /// Its step is the step of the matrix times 2 to the power −`step` / 4.
    pub(crate) step: u8,
}

/// What codes stand for: where paths run, and the steps and classes of all weights.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Layout {
    /// The number of states of the machine.
    pub(crate) states: usize,
    /// Whether paths run down the columns. They run along the rows otherwise.
    pub(crate) down: bool,
    /// Bits of a code.
    pub(crate) bits: u32,
    /// The sum of the scales of row and column that belongs to class 0, which may be negative.
    pub(crate) base: i8,
    pub(crate) rows: Vec<Line>,
    pub(crate) columns: Vec<Line>,
    /// For each class how far the values of the numbers −4 to 4 are from 2k + 1/2, in 32nds of a step.
    pub(crate) points: Vec<[i8; POINTS]>,
}

impl Layout {
    /// The bytes before those of lines.
    pub(crate) const HEAD: usize = 5;

    /// The number of paths, and the length of each.
    pub(crate) fn paths(&self) -> (usize, usize) {
        let (rows, columns) = (self.rows.len(), self.columns.len());
        if self.down {
            (columns, rows)
        } else {
            (rows, columns)
        }
    }

    /// The lines that paths follow, one for each, and the lines that they cross.
    pub(crate) fn lines(&self) -> (&[Line], &[Line]) {
        if self.down {
            (&self.columns, &self.rows)
        } else {
            (&self.rows, &self.columns)
        }
    }

    /// The class of a weight: 0 where row or column is zero.
    #[inline(always)]
    pub(crate) fn class(&self, a: Line, b: Line) -> usize {
        if a.scale == 0 || b.scale == 0 {
            return 0;
        }
        let sum = i32::from(a.scale) + i32::from(b.scale) - i32::from(self.base);
        sum.clamp(1, self.points.len() as i32 - 1) as usize
    }

    /// The bytes of a matrix of this layout.
    pub(crate) fn to_bytes(&self, codes: &PackedCodes) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.head_bytes() + codes.bytes().len());
        bytes.extend([
            self.states.ilog2() as u8,
            u8::from(self.down),
            self.bits as u8,
            self.points.len() as u8,
            self.base as u8,
        ]);
        let lines = self.rows.iter().chain(&self.columns);
        bytes.extend(lines.map(|line| line.scale | line.step << 4));
        bytes.extend(self.points.iter().flatten().map(|&point| point as u8));
        bytes.extend(codes.bytes());
        bytes
    }

    /// The bytes before the codes.
    pub(crate) fn head_bytes(&self) -> usize {
        let lines = self.rows.len() + self.columns.len();
        Self::HEAD + lines + POINTS * self.points.len()
    }

    /// The layout at the start of `bytes`, for a matrix of that shape, and the bytes of its codes.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] where it is not one that `to_bytes` writes.
    pub(crate) fn parse([rows, columns]: [usize; 2], bytes: &[u8]) -> Result<(Self, &[u8])> {
        let ends = || malformed("its codes end early");
        let (&head, rest) = bytes.split_first_chunk().ok_or_else(ends)?;
        let [states, down, bits, classes, base]: [u8; Self::HEAD] = head;
        let sound = (3..=8).contains(&states)
            && down <= 1
            && (1..=MAX_BITS).contains(&bits.into())
            && (2..=MOST_CLASSES).contains(&classes.into())
            && rows > 0
            && columns > 0;
        if !sound {
            return Err(malformed(format!(
                "there is no matrix of {rows} by {columns} codes of {bits} bits in {classes} classes by paths of direction {down} \
                 through 2^{states} states"
            )));
        }
        let lines = rows.checked_add(columns).ok_or_else(ends)?;
        let (lines, rest) = rest.split_at_checked(lines).ok_or_else(ends)?;
        let (points, codes) = rest
            .split_at_checked(POINTS * usize::from(classes))
            .ok_or_else(ends)?;
        let lines: Vec<Line> = lines
            .iter()
            .map(|&byte| Line {
                scale: byte & (LEVELS - 1),
                step: byte >> 4,
            })
            .collect();
        let points = points.as_chunks::<POINTS>().0.iter();
        let layout = Self {
            states: 1 << states,
            down: down == 1,
            bits: bits.into(),
            base: base as i8,
            rows: lines[..rows].to_vec(),
            columns: lines[rows..].to_vec(),
            points: points
                .map(|points| points.map(|point| point as i8))
                .collect(),
        };
        let in_half_a_step = |point: &i8| (-FRACTION / 2..FRACTION / 2).contains(&(*point).into());
        if !layout.points.iter().flatten().all(in_half_a_step) {
            return Err(malformed("a value is more than half a step off"));
        }
        Ok((layout, codes))
    }

    /// The code of number `number`.
    pub(crate) fn code(bits: u32, number: i32) -> u32 {
        (number + (1 << (bits - 1))) as u32
    }

    /// The number of a code.
    #[inline(always)]
    pub(crate) fn number(bits: u32, code: u32) -> i32 {
        code as i32 - (1 << (bits - 1))
    }

    /// The value of a number of a class in 32nds of a step, on the even grid. On the odd grid it is negated.
    #[inline(always)]
    pub(crate) fn value(points: &[i8; POINTS], number: i32) -> i32 {
        let point = points[(number.clamp(-REACH, REACH) + REACH) as usize];
        2 * FRACTION * number + FRACTION / 2 + i32::from(point)
    }
}

/// 2 to the power −`quarters` / 4.
pub(crate) fn quarter_power(quarters: u32) -> f64 {
    const ROOTS: [f64; 4] = [
        1.0,
        0.840_896_415_253_714_6,
        std::f64::consts::FRAC_1_SQRT_2,
        0.594_603_557_501_360_5,
    ];
    ROOTS[quarters as usize % 4] / (1_u64 << (quarters / 4)) as f64
}

impl Layout {
    /// Writes the weights of path `path` with these numbers, for a matrix of that step.
    pub(super) fn dequantize<F: Float>(
        &self,
        path: usize,
        step: f64,
        numbers: &[i32],
        out: &mut [F],
    ) {
        let machine =
            Machine::new(self.states).expect("a layout has a number of states that there is");
        let (along, across) = self.lines();
        let line = along[path];
        let (classes, steps) = self.of_line(line, step);
        let mut state = 0;
        for ((out, &number), other) in out.iter_mut().zip(numbers).zip(across) {
            let value = Self::value(&self.points[classes[usize::from(other.scale)]], number);
            let value = if state & 1 == 1 { -value } else { value };
            *out = F::from_f64_lossy(steps[usize::from(other.step)] * f64::from(value));
            state = machine.next(state, number);
        }
    }

    /// The classes of a line by the scale of the line across, and its steps in 32nds by the step of that line.
    fn of_line(&self, line: Line, step: f64) -> ([usize; LEVELS as usize], [f64; LEVELS as usize]) {
        let classes = std::array::from_fn(|scale| {
            let other = Line {
                scale: scale as u8,
                step: 0,
            };
            self.class(line, other)
        });
        let steps = std::array::from_fn(|level| {
            let step = step * quarter_power(u32::from(line.step) + level as u32);
            step / f64::from(FRACTION)
        });
        (classes, steps)
    }
}
