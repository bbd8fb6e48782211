//! The course of the learning rate over a training.

use std::f64::consts::PI;

/// A course of the learning rate, relative to its peak.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Schedule {
    /// A constant rate.
    Constant,
    /// A linear rise over the fraction `warmup` of the training, then half a cosine down to zero.
    Cosine {
        /// From 0 to 1.
        warmup: f64,
    },
}

impl Schedule {
    /// The rate relative to the peak at `progress`, from 0 (the first step) to 1 (the last).
    pub fn factor(self, progress: f64) -> f64 {
        match self {
            Self::Constant => 1.0,
            // A rate of exactly zero would waste the first step.
            Self::Cosine { warmup } if progress < warmup => (progress / warmup).max(1e-3),
            Self::Cosine { warmup } => {
                let down = (progress - warmup) / (1.0 - warmup).max(f64::EPSILON);
                0.5 * (1.0 + (PI * down.min(1.0)).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cosine_rises_to_its_peak_and_falls_to_zero() {
        let schedule = Schedule::Cosine { warmup: 0.2 };
        let factors: Vec<f64> = (0..=100)
            .map(|i| schedule.factor(f64::from(i) / 100.0))
            .collect();
        assert!(factors.iter().all(|f| (0.0..=1.0).contains(f)));
        assert!(factors[..=20].windows(2).all(|w| w[0] < w[1]));
        assert!(factors[20..].windows(2).all(|w| w[0] > w[1]));
        assert_eq!(factors[20], 1.0);
        assert!(factors[100] < 1e-12);
        assert_eq!(Schedule::Constant.factor(0.7), 1.0);
    }
}
