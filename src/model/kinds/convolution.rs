//! Convolutions that are chains of smaller ones.

use ndarray::{Array4, Ix4};

use crate::factorize::convolution::{CpConv2d, TuckerConv2d};
use crate::model::extend::{Artifact, Attributes, Stored, malformed};
use crate::{Error, Geometry, Precision, Result};

pub(super) const CP: &str = "cp_convolution";
pub(super) const TUCKER: &str = "tucker_convolution";

/// The geometry; a dilation is stored where it differs from 1. A bias is a separate tensor of the model.
fn describe(kind: &str, geometry: Geometry, has_bias: bool) -> Result<Attributes> {
    if has_bias {
        return Err(Error::Unsupported {
            what: format!("a {kind} with a bias"),
            reason: "a container holds biases as tensors of their own".to_owned(),
        });
    }
    let pair = |[a, b]: [usize; 2]| format!("{a}x{b}");
    let attributes = Attributes::default()
        .with("stride", pair(geometry.stride))
        .with("padding", pair(geometry.padding));
    Ok(match geometry.dilation {
        [1, 1] => attributes,
        dilation => attributes.with("dilation", pair(dilation)),
    })
}

fn geometry(attributes: &Attributes) -> Result<Geometry> {
    let pair = |name: &str| {
        let text = attributes.text(name).unwrap_or_default();
        text.split_once('x')
            .and_then(|(a, b)| Some([a.parse().ok()?, b.parse().ok()?]))
            .ok_or_else(|| malformed(format!("{text} is no {name}")))
    };
    Ok(Geometry {
        stride: pair("stride")?,
        padding: pair("padding")?,
        dilation: match attributes.text("dilation") {
            Some(_) => pair("dilation")?,
            None => [1, 1],
        },
    })
}

/// The links of these names, which have to have the same precision.
fn links(stored: &mut Stored, names: &[&str]) -> Result<(Vec<Array4<f32>>, Precision)> {
    let mut links = Vec::new();
    let mut precision = None;
    for name in names {
        let (link, found) = stored.with_axes::<Ix4>(name)?;
        if *precision.get_or_insert(found) != found {
            return Err(malformed("links of different precisions".to_owned()));
        }
        links.push(link);
    }
    Ok((links, precision.unwrap_or_default()))
}

impl Artifact for CpConv2d<f32> {
    fn kind(&self) -> &'static str {
        CP
    }

    fn attributes(&self) -> Result<Attributes> {
        describe(CP, self.geometry(), self.bias().is_some())
    }

    fn restore(mut stored: Stored) -> Result<Self> {
        let geometry = geometry(&stored.attributes)?;
        let names: &[&str] = if stored.parts.contains_key("depthwise") {
            &["reduce", "depthwise", "expand"]
        } else {
            &["reduce", "vertical", "horizontal", "expand"]
        };
        let (links, precision) = links(&mut stored, names)?;
        stored.finish()?;
        Self::from_parts(&links, None, geometry, precision)
    }
}

impl Artifact for TuckerConv2d<f32> {
    fn kind(&self) -> &'static str {
        TUCKER
    }

    fn attributes(&self) -> Result<Attributes> {
        describe(TUCKER, self.geometry(), self.bias().is_some())
    }

    fn restore(mut stored: Stored) -> Result<Self> {
        let geometry = geometry(&stored.attributes)?;
        let (links, precision) = links(&mut stored, &["reduce", "core", "expand"])?;
        stored.finish()?;
        Self::from_parts(&links, None, geometry, precision)
    }
}
