//! A value with a lower and an upper bound.

use std::fmt;

/// A value that lies from `lower` to `upper`.
///
/// ```
/// use taper::limit::Bounds;
///
/// let bounds = Bounds { lower: 1.0, upper: 2.0 };
/// assert_eq!(format!("{bounds:.1}"), "1.0 to 2.0");
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// The value is no smaller.
    pub lower: f64,
    /// The value is no larger.
    pub upper: f64,
}

impl Bounds {
    /// A value that is known exactly.
    pub(super) fn exactly(value: f64) -> Self {
        Self {
            lower: value,
            upper: value,
        }
    }

    /// The distance between the two bounds.
    pub(super) fn width(&self) -> f64 {
        self.upper - self.lower
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.lower, f)?;
        f.write_str(" to ")?;
        fmt::Display::fmt(&self.upper, f)
    }
}
