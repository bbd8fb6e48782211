//! Curves as SVG.
//!
//! Text stays text in the SVG, so that drawing needs no installed font.

use std::ops::Range;
use std::path::Path;

use anyhow::{anyhow, ensure};
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

/// Colours that colour-blind readers can distinguish, from M. Okabe and K. Ito, "Color universal design", 2008.
const COLORS: [(u8, u8, u8); 7] = [
    (0x40, 0x40, 0x40),
    (0xe6, 0x9f, 0x00),
    (0x00, 0x9e, 0x73),
    (0x00, 0x72, 0xb2),
    (0x56, 0xb4, 0xe9),
    (0xd5, 0x5e, 0x00),
    (0xcc, 0x79, 0xa7),
];

/// The scale of an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Equal differences have equal lengths.
    Linear,
    /// Equal ratios have equal lengths.
    Log,
}

/// An axis.
#[derive(Debug, Clone)]
pub struct Axis {
    /// The label, with the unit.
    pub label: String,
    /// The scale.
    pub scale: Scale,
    /// The range; that of the data if `None`.
    pub range: Option<Range<f64>>,
}

impl Axis {
    /// Creates an axis with the range of the data.
    pub fn new(label: impl Into<String>, scale: Scale) -> Self {
        Self {
            label: label.into(),
            scale,
            range: None,
        }
    }

    /// The range of all `values`, with a margin at both ends.
    fn range_of(&self, values: impl Iterator<Item = f64>) -> anyhow::Result<Range<f64>> {
        if let Some(range) = &self.range {
            return Ok(range.clone());
        }
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| {
            (low.min(x), high.max(x))
        });
        ensure!(
            low.is_finite() && high.is_finite(),
            "no finite value for the axis {}",
            self.label
        );
        Ok(match self.scale {
            Scale::Linear => {
                let room = 0.05 * (high - low).max(1e-9 * high.abs()).max(f64::MIN_POSITIVE);
                low - room..high + room
            }
            Scale::Log => {
                ensure!(
                    low > 0.0,
                    "the logarithmic axis {} has values of 0 or below",
                    self.label
                );
                low / 1.1..high * 1.1
            }
        })
    }
}

/// How the points of a series are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Points joined by a line.
    Line,
    /// Points alone.
    Points,
    /// A dashed line without points, for published figures and limits.
    Dashed,
}

/// A named series of points.
#[derive(Debug, Clone)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// The mark of the points.
    pub mark: Mark,
    /// Its points (x, y).
    pub points: Vec<(f64, f64)>,
    /// The number of the colour; the index of the series if `None`.
    pub color: Option<usize>,
}

impl Series {
    /// Creates a series.
    pub fn new(
        name: impl Into<String>,
        mark: Mark,
        points: impl IntoIterator<Item = (f64, f64)>,
    ) -> Self {
        Self {
            name: name.into(),
            mark,
            points: points.into_iter().collect(),
            color: None,
        }
    }

    /// Sets the number of the colour. Related series share one.
    #[must_use]
    pub fn color(mut self, number: usize) -> Self {
        self.color = Some(number);
        self
    }
}

/// A plot of several series over the same axes.
#[derive(Debug, Clone)]
pub struct Plot {
    /// The title.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The series.
    pub series: Vec<Series>,
}

impl Plot {
    /// Writes the picture to `path`.
    ///
    /// # Errors
    ///
    /// If there is no finite point, a logarithmic axis has a value that is not positive, or the file cannot be written.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let points = || {
            let all = self.series.iter().flat_map(|series| &series.points);
            all.filter(|(x, y)| x.is_finite() && y.is_finite())
        };
        let x = self.x.range_of(points().map(|p| p.0))?;
        let y = self.y.range_of(points().map(|p| p.1))?;
        match (self.x.scale, self.y.scale) {
            (Scale::Linear, Scale::Linear) => self.draw(path, x, y),
            (Scale::Log, Scale::Linear) => self.draw(path, x.log_scale(), y),
            (Scale::Linear, Scale::Log) => self.draw(path, x, y.log_scale()),
            (Scale::Log, Scale::Log) => self.draw(path, x.log_scale(), y.log_scale()),
        }
        .map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))
    }

    fn draw<X, Y>(&self, path: &Path, x: X, y: Y) -> Result<(), Box<dyn std::error::Error>>
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let root = SVGBackend::new(path, (860, 540)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, ("sans-serif", 20))
            .margin(16)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d(x, y)?;
        let label = |value: &f64| short(*value);
        chart
            .configure_mesh()
            .light_line_style(BLACK.mix(0.06))
            .y_max_light_lines(1)
            .x_desc(&self.x.label)
            .y_desc(&self.y.label)
            .x_label_formatter(&label)
            .y_label_formatter(&label)
            .axis_desc_style(("sans-serif", 15))
            .label_style(("sans-serif", 13))
            .draw()?;
        for (i, series) in self.series.iter().enumerate() {
            let (red, green, blue) = COLORS[series.color.unwrap_or(i) % COLORS.len()];
            let color = RGBColor(red, green, blue).to_rgba();
            let points = || series.points.iter().copied();
            if series.mark != Mark::Dashed {
                chart
                    .draw_series(points().map(|at| Circle::new(at, 4, color.filled())))?
                    .label(&series.name)
                    .legend(move |(x, y)| Circle::new((x + 10, y), 4, color.filled()));
            }
            match series.mark {
                Mark::Line => {
                    chart.draw_series(LineSeries::new(points(), color.stroke_width(2)))?;
                }
                Mark::Dashed => {
                    chart
                        .draw_series(DashedLineSeries::new(points(), 6, 4, color.stroke_width(2)))?
                        .label(&series.name)
                        .legend(move |(x, y)| {
                            PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2))
                        });
                }
                Mark::Points => {}
            }
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .label_font(("sans-serif", 14))
            .draw()?;
        root.present()?;
        Ok(())
    }
}

/// A number without trailing zeros.
fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    match text.trim_end_matches('0').trim_end_matches('.') {
        "" | "-" | "-0" => "0".into(),
        text => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(x: Scale, y: Scale) -> Plot {
        Plot {
            title: "Accuracy over size".into(),
            x: Axis::new("times smaller", x),
            y: Axis::new("accuracy, %", y),
            series: vec![
                Series::new(
                    "measured",
                    Mark::Line,
                    [(1.0, 98.0), (10.0, 97.0), (100.0, 60.0)],
                ),
                Series::new("published", Mark::Dashed, [(1.0, 98.3), (9.0, 96.6)]),
                Series::new("best", Mark::Points, [(25.0, 97.9)]).color(9),
            ],
        }
    }

    #[test]
    fn every_pair_of_scales_is_drawn_with_its_labels_as_text() {
        let path = std::env::temp_dir().join(format!("taper-plot-{}.svg", std::process::id()));
        for x in [Scale::Linear, Scale::Log] {
            for y in [Scale::Linear, Scale::Log] {
                plot(x, y).save(&path).unwrap();
                let svg = std::fs::read_to_string(&path).unwrap();
                assert!(svg.trim_end().ends_with("</svg>"));
                for text in [
                    "times smaller",
                    "accuracy, %",
                    "measured",
                    "published",
                    "best",
                ] {
                    assert!(svg.contains(text), "{text}");
                }
            }
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn nothing_to_draw_and_logarithms_of_zero_are_errors() {
        let path = std::env::temp_dir().join("taper-plot-never-written.svg");
        let mut empty = plot(Scale::Linear, Scale::Linear);
        empty.series.clear();
        assert!(empty.save(&path).is_err());
        let mut zero = plot(Scale::Log, Scale::Linear);
        zero.series[0].points[0].0 = 0.0;
        assert!(zero.save(&path).is_err());
        assert!(!path.exists());
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [98.5, 10.0, 0.25, 0.0].map(short),
            ["98.5", "10", "0.25", "0"]
        );
    }
}
