//! Bar charts as SVG.

use std::path::Path;

use anyhow::{anyhow, ensure};
use plotters::prelude::*;

/// A bar chart from 0 to 100 percent: one group per label, one bar per series in each group.
#[derive(Debug, Clone)]
pub struct Bars {
    /// The title.
    pub title: String,
    /// The label of the vertical axis.
    pub label: String,
    /// The names below the groups.
    pub groups: Vec<String>,
    /// The name of each series, and its height in each group in percent.
    pub series: Vec<(String, Vec<f64>)>,
}

impl Bars {
    /// Writes the picture to `path`.
    ///
    /// # Errors
    ///
    /// If there are no bars, or the file cannot be written.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        ensure!(
            !self.groups.is_empty() && !self.series.is_empty(),
            "there are no bars to draw"
        );
        self.draw(path)
            .map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))
    }

    fn draw(&self, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::new(path, (860, 540)).into_drawing_area();
        root.fill(&WHITE)?;
        let count = self.groups.len();
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, ("sans-serif", 20))
            .margin(16)
            .x_label_area_size(32)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..count as f64, 0.0..100.0)?;
        // The label is below the middle of its group.
        let name = |at: &f64| {
            let group = self.groups.get(*at as usize);
            group
                .filter(|_| at.fract() > 0.4)
                .cloned()
                .unwrap_or_default()
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(BLACK.mix(0.06))
            .x_labels(2 * count + 1)
            .x_label_formatter(&name)
            .y_desc(&self.label)
            .axis_desc_style(("sans-serif", 15))
            .label_style(("sans-serif", 13))
            .draw()?;
        let width = 0.8 / self.series.len() as f64;
        for (i, (name, heights)) in self.series.iter().enumerate() {
            let color = Palette99::pick(i).to_rgba();
            let bars = heights.iter().enumerate().map(|(group, &height)| {
                let left = group as f64 + 0.1 + i as f64 * width;
                Rectangle::new([(left, 0.0), (left + width, height)], color.filled())
            });
            chart.draw_series(bars)?.label(name).legend(move |(x, y)| {
                Rectangle::new([(x, y - 5), (x + 10, y + 5)], color.filled())
            });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .label_font(("sans-serif", 14))
            .draw()?;
        root.present()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn svg_contains_all_labels() {
        let path = std::env::temp_dir().join(format!("taper-bars-{}.svg", std::process::id()));
        let mut bars = Bars {
            title: "Lost".into(),
            label: "channels, %".into(),
            groups: vec!["conv1".into(), "conv2".into()],
            series: vec![("half".into(), vec![10.0, 90.0])],
        };
        bars.save(&path).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for text in ["Lost", "channels, %", "conv1", "conv2", "half"] {
            assert!(svg.contains(text), "{text}");
        }
        std::fs::remove_file(&path).unwrap();
        bars.series.clear();
        assert!(bars.save(&path).is_err());
    }
}
