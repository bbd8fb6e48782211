//! How far values lie from their prediction, estimated from those coded before.
//!
//! Rows and columns of a layer differ in scale: the column of an input that is nearly always zero stays as it was
//! initialized, an output of little influence has small weights. Magnitudes of coded neighbours as contexts are those of
//! DeepCABAC (S. Wiedemann et al., "DeepCABAC: A universal compression algorithm for deep neural networks", 2020,
//! doi:10.1109/JSTSP.2020.2969554, arXiv:1907.11900); here they are running means.

/// Levels of scale, four an octave.
pub(super) const LEVELS: usize = 96;

/// The mean distance that a level stands for, in sixteenths of a step.
pub(super) fn mean(level: usize) -> u32 {
    match level as u32 {
        level @ 0..4 => level.max(1),
        level => (4 + level % 4) << (level / 4 - 1),
    }
}

/// The level of a distance in 256ths of a step.
fn level(distance: u32) -> i32 {
    let sixteenths = distance >> 4;
    if sixteenths < 4 {
        return sixteenths as i32;
    }
    let octave = sixteenths.ilog2();
    (4 * (octave - 1) + ((sixteenths >> (octave - 2)) & 3)) as i32
}

/// The level whose mean is nearest below the mean of `distances`, which are in steps.
pub(super) fn first_level(distances: impl Iterator<Item = u32>) -> u8 {
    let (mut sum, mut count) = (0_u64, 0_u64);
    for distance in distances {
        sum += u64::from(distance);
        count += 1;
    }
    let mean = (sum << 8) / count.max(1);
    level(mean.min(1 << 24) as u32).clamp(0, LEVELS as i32 - 1) as u8
}

/// `mean`, moved towards `value` by `rate` in 2⁻¹⁶.
fn moved(mean: u32, value: u32, rate: u32) -> u32 {
    let by = (i64::from(value) - i64::from(mean)) * i64::from(rate);
    (i64::from(mean) + (by >> 16)) as u32
}

/// Running means of distances, in 256ths of a step: of each column, of the row, of all.
#[derive(Debug, Clone)]
pub(super) struct Activity {
    columns: Vec<u32>,
    row: u32,
    all: u32,
    last: [u32; 2],
    /// Rows before this one, and the prior.
    rows: u32,
    rate: u32,
}

impl Activity {
    /// Rows that a column remembers.
    const MEMORY: u32 = 64;

    /// Creates means that all begin with that of `level`.
    pub(super) fn new(columns: usize, level: u8) -> Self {
        let first = mean(level.into()) << 4;
        let mut new = Self {
            columns: vec![first; columns],
            row: first,
            all: first,
            last: [first; 2],
            rows: 1,
            rate: 0,
        };
        new.next_row();
        new
    }

    pub(super) fn next_row(&mut self) {
        self.row = self.all;
        self.last = [self.all; 2];
        self.rows = (self.rows + 1).min(Self::MEMORY);
        self.rate = (1 << 16) / self.rows;
    }

    /// The level expected in a column: of the geometric mean of what column and row tell, and a little of what the last two
    /// distances are relative to all.
    #[inline]
    pub(super) fn level(&self, column: usize) -> usize {
        let column = self.columns[column];
        let last = self.last[0] / 2 + self.last[1] / 2;
        let sum = 4 * level(column) + 4 * level(self.row) + level(last) - level(self.all);
        (sum >> 3).clamp(0, LEVELS as i32 - 1) as usize
    }

    #[inline]
    pub(super) fn record(&mut self, column: usize, distance: u32) {
        let mean = &mut self.columns[column];
        *mean = moved(*mean, distance, self.rate);
        self.row = moved(self.row, distance, 1 << 11);
        self.all = moved(self.all, distance, 1 << 8);
        self.last = [distance, self.last[0]];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_those_of_their_means() {
        for i in 0..LEVELS {
            assert_eq!(level(mean(i) << 4), i.max(1) as i32);
            assert!(i == 0 || mean(i) >= mean(i - 1));
        }
        assert_eq!(level(0), 0);
        assert!(level(u32::MAX) >= LEVELS as i32);
        assert_eq!(first_level([3, 5].into_iter()), level(4 << 8) as u8);
        assert_eq!(first_level(std::iter::empty()), 0);
    }

    #[test]
    fn scales_of_rows_and_columns_are_told_apart() {
        let mut activity = Activity::new(64, first_level([1].into_iter()));
        for row in 0..200 {
            for column in 0..64 {
                if row >= 100 && column == 40 {
                    // Three octaves from one column to another one are one and a half of their mean with the row.
                    let levels = [0, 3].map(|column| activity.level(column) as i32);
                    assert!((4..=8).contains(&(levels[1] - levels[0])), "{levels:?}");
                }
                activity.record(column, 256 << (row % 3 + column % 4));
            }
            activity.next_row();
        }
    }
}
