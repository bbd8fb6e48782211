//! Image sets.
//!
//! The readers [`mnist`] and [`cifar10`] turn published files into [`Dataset`]s. Their errors are [`DataError`]s.

pub mod cifar10;
mod error;
mod idx;
pub mod mnist;

pub use error::DataError;

use ndarray::{Array2, Axis, s};

/// Images with their labels.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// One flattened, normalized image per row.
    pub images: Array2<f32>,
    /// The class of each image, from 0.
    pub labels: Vec<usize>,
}

impl Dataset {
    /// The number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The first `count` images, or all if there are fewer.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        let count = count.min(self.len());
        Self {
            images: self.images.slice(s![..count, ..]).to_owned(),
            labels: self.labels[..count].to_vec(),
        }
    }

    /// Splits off the last `held_out` images.
    #[must_use]
    pub fn split(mut self, held_out: usize) -> (Self, Self) {
        let at = self.len().saturating_sub(held_out);
        let (images, last) = self.images.view().split_at(Axis(0), at);
        let labels = self.labels.split_off(at);
        (
            Self {
                images: images.to_owned(),
                labels: self.labels,
            },
            Self {
                images: last.to_owned(),
                labels,
            },
        )
    }
}

/// A set of images, split for an experiment.
#[derive(Debug, Clone)]
pub struct Splits {
    /// Training images.
    pub train: Dataset,
    /// Published training images that are not used for training, but to choose parameters.
    pub held_out: Dataset,
    /// Test images, used once for the final figures.
    pub test: Dataset,
}

impl Splits {
    /// Limits the number of images of each part.
    #[must_use]
    pub fn first(&self, train: usize, held_out: usize, test: usize) -> Self {
        Self {
            train: self.train.first(train),
            held_out: self.held_out.first(held_out),
            test: self.test.first(test),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting_keeps_every_image_with_its_label() {
        let set = Dataset {
            images: Array2::from_shape_fn((5, 2), |(i, j)| (2 * i + j) as f32),
            labels: vec![0, 1, 2, 3, 4],
        };
        let (train, held_out) = set.clone().split(2);
        assert_eq!((train.len(), held_out.len()), (3, 2));
        assert_eq!(held_out.labels, [3, 4]);
        assert_eq!(held_out.images, set.images.slice(s![3.., ..]));
        assert_eq!(set.first(9).len(), 5);
        assert!(set.split(9).0.is_empty());
    }
}
