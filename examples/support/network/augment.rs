//! Data augmentation: shifted and mirrored images.

use taper::Seed;

use crate::random;

/// The layout of square images with several channels in a row of values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Layout {
    /// The number of channels, stored one after the other.
    pub channels: usize,
    /// Rows and columns.
    pub side: usize,
}

/// Shifts images by up to a number of pixels along each axis; the uncovered pixels become background.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shift {
    /// The largest shift along each axis, in pixels.
    pub pixels: usize,
    /// The shape of the images.
    pub layout: Layout,
    /// The value of the background.
    pub background: f32,
    /// Whether images are mirrored left to right with a probability of one half.
    pub mirror: bool,
}

impl Shift {
    /// The number of different views of an image.
    pub fn views(&self) -> usize {
        let reach = 2 * self.pixels + 1;
        reach * reach * if self.mirror { 2 } else { 1 }
    }

    /// The number of the [view](Self::views) that `seed` selects.
    pub fn draw(&self, seed: Seed) -> usize {
        let reach = 2 * self.pixels + 1;
        let (top, left) = (random::below(seed, 0, reach), random::below(seed, 1, reach));
        let mirrored = usize::from(self.mirror && random::below(seed, 2, 2) == 1);
        (mirrored * reach + top) * reach + left
    }

    /// Appends the view of `image` that `seed` selects to `out`.
    pub fn append(&self, image: &[f32], seed: Seed, out: &mut Vec<f32>) {
        self.append_view(image, self.draw(seed), out);
    }

    /// Appends the view of `image` with the number `view` to `out`.
    pub fn append_view(&self, image: &[f32], view: usize, out: &mut Vec<f32>) {
        let Layout { channels, side } = self.layout;
        let reach = 2 * self.pixels + 1;
        // The origin of the first row and column, in an image framed by `pixels` of background.
        let (top, left) = (view / reach % reach, view % reach);
        let mirrored = view / (reach * reach) == 1;
        let inside = |framed: usize| framed.checked_sub(self.pixels).filter(|&i| i < side);
        for channel in 0..channels {
            for row in 0..side {
                let source = inside(row + top);
                for column in 0..side {
                    let column = if mirrored { side - 1 - column } else { column };
                    let value = source
                        .zip(inside(column + left))
                        .and_then(|(r, c)| image.get((channel * side + r) * side + c));
                    out.push(value.copied().unwrap_or(self.background));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn shift(pixels: usize, mirror: bool) -> Shift {
        Shift {
            pixels,
            layout: Layout {
                channels: 2,
                side: 3,
            },
            background: -1.0,
            mirror,
        }
    }

    fn image() -> Vec<f32> {
        (0..18_u8).map(f32::from).collect()
    }

    fn moved(shift: Shift, seed: u64) -> Vec<f32> {
        let mut out = Vec::new();
        shift.append(&image(), Seed::from(seed), &mut out);
        out
    }

    #[test]
    fn no_shift_leaves_the_image_and_a_mirrored_one_reverses_its_rows() {
        assert_eq!(moved(shift(0, false), 4), image());
        let reversed: Vec<f32> = image()
            .chunks(3)
            .flat_map(|row| row.iter().rev().copied())
            .collect();
        let seen: BTreeSet<bool> = (0..20)
            .map(|seed| {
                let out = moved(shift(0, true), seed);
                assert!(out == image() || out == reversed);
                out == reversed
            })
            .collect();
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn all_nine_shifts_by_one_pixel_occur_and_both_channels_move_alike() {
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let out = moved(shift(1, false), seed);
            assert_eq!(out.len(), 18);
            for (a, b) in out[..9].iter().zip(&out[9..]) {
                assert_eq!(*a == -1.0, *b == -1.0);
                assert!(*a == -1.0 || b - a == 9.0);
            }
            seen.insert(out.iter().map(|&x| x as i32).collect::<Vec<_>>());
        }
        assert_eq!(seen.len(), 9);
    }
}
