//! Sizes and errors of a tensor in trellis codes, over the step.

use super::allocate::RatePoint;

/// Points between two powers of two of the step.
const OCTAVE: i32 = 16;

/// Points of a curve, estimated at some steps and interpolated between them.
#[derive(Debug, Clone)]
pub(super) struct Curve {
    /// The step at level 0.
    unit: f64,
    measured: Vec<Measured>,
    /// Places that have been fitted.
    fitted: Vec<usize>,
    /// What the last fit had of the bytes and of the error estimated there.
    bytes: f64,
    error: f64,
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    /// 16 log₂ of the step in units.
    level: i32,
    bytes: f64,
    error: f64,
}

impl Curve {
    /// The levels at which a curve is estimated: steps of 2.4 to 2^−11.5 times the root mean square of the weights.
    pub(super) const LEVELS: &[i32] = &[20, 8, -4, -16, -28, -40, -56, -80, -112, -144, -184];
    /// Fewer levels, for fits that take long.
    pub(super) const FEW_LEVELS: &[i32] = &[20, -4, -28, -56, -112, -184];
    /// The number of states of estimates. Another number changes all points of a curve by nearly the same factors.
    pub(super) const STATES: usize = 8;

    pub(super) fn new(unit: f64) -> Self {
        Self {
            unit,
            measured: Vec::new(),
            fitted: Vec::new(),
            bytes: 1.0,
            error: 1.0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.measured.is_empty()
    }

    /// Adds an estimate; levels fall.
    pub(super) fn add(&mut self, level: i32, bytes: f64, error: f64) {
        self.measured.push(Measured {
            level,
            bytes,
            error,
        });
    }

    /// The step of a level.
    pub(super) fn step_at(&self, level: i32) -> f64 {
        // By multiplications alone: the step is the same on every machine.
        const ROOT: f64 = 1.044_273_782_427_413_8;
        let whole = self.unit * 2.0_f64.powi(level.div_euclid(OCTAVE));
        (0..level.rem_euclid(OCTAVE)).fold(whole, |step, _| step * ROOT)
    }

    /// The levels of all places.
    fn levels(&self) -> impl Iterator<Item = i32> {
        let ends = self.measured.first().zip(self.measured.last());
        ends.into_iter()
            .flat_map(|(first, last)| (last.level..=first.level).rev())
    }

    /// The step of a place, where it has not been fitted.
    pub(super) fn to_fit(&self, place: usize) -> Option<f64> {
        if self.fitted.contains(&place) {
            return None;
        }
        self.levels().nth(place).map(|level| self.step_at(level))
    }

    /// The estimated points of all places.
    pub(super) fn points(&self) -> impl Iterator<Item = RatePoint> {
        self.levels().map(|level| {
            let (bytes, error) = self.between(level);
            RatePoint {
                bytes: (bytes * self.bytes).ceil() as u64,
                error: error * self.error,
            }
        })
    }

    /// Bytes are linear between estimates, errors geometric.
    fn between(&self, level: i32) -> (f64, f64) {
        let above = self.measured.iter().take_while(|m| m.level > level).count();
        let next = self.measured[above];
        if next.level == level {
            return (next.bytes, next.error);
        }
        let last = self.measured[above - 1];
        let part = f64::from(last.level - level) / f64::from(last.level - next.level);
        let bytes = last.bytes + part * (next.bytes - last.bytes);
        let error = if last.error > 0.0 && next.error > 0.0 {
            last.error * (next.error / last.error).powf(part)
        } else {
            last.error + part * (next.error - last.error)
        };
        (bytes, error)
    }

    /// Corrects the curve by the point that the fit at a place has.
    pub(super) fn correct(&mut self, place: usize, fit: Option<RatePoint>) {
        self.fitted.push(place);
        let level = self.levels().nth(place);
        let (Some(level), Some(fit)) = (level, fit) else {
            return;
        };
        let (bytes, error) = self.between(level);
        self.bytes = fit.bytes as f64 / bytes;
        if error > 0.0 && fit.error > 0.0 {
            self.error = fit.error / error;
        } else if fit.error > 0.0 {
            // The sample had no error: errors are squares of steps.
            self.error = 1.0;
            for m in &mut self.measured {
                let octaves = f64::from(m.level - level) / f64::from(OCTAVE);
                m.error = fit.error * (2.0 * octaves).exp2();
            }
        }
    }
}
