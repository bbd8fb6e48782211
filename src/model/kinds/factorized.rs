//! Matrices and tensors that are products of factors.

use crate::factorize::cp::CpTensor;
use crate::factorize::svd::{LowRankMatrix, SpatialConv2d};
use crate::model::extend::{Artifact, Stored, downcast, malformed};
use crate::{LinearOp, Result};

pub(super) const CP: &str = "cp";
pub(super) const LOW_RANK: &str = "low_rank";
pub(super) const SPATIAL: &str = "spatial_convolution";

impl Artifact for LowRankMatrix<f32> {
    fn kind(&self) -> &'static str {
        LOW_RANK
    }

    fn as_linear(&self) -> Option<&dyn LinearOp<f32>> {
        Some(self)
    }

    fn restore(mut stored: Stored) -> Result<Self> {
        let (left, precision) = stored.matrix("left")?;
        let (right, other) = stored.matrix("right")?;
        let apart = "singular_values";
        let singular_values = stored
            .parts
            .contains_key(apart)
            .then(|| stored.vector(apart))
            .transpose()?;
        let third = singular_values.as_ref().map_or(precision, |s| s.1);
        if other != precision || third != precision {
            return Err(malformed("factors of different precisions".to_owned()));
        }
        stored.finish()?;
        Self::from_parts(left, singular_values.map(|s| s.0), right, precision)
    }
}

impl Artifact for SpatialConv2d<f32> {
    fn kind(&self) -> &'static str {
        SPATIAL
    }

    fn children(&self) -> Vec<(String, &dyn Artifact)> {
        vec![("matrix".to_owned(), self.matrix())]
    }

    fn restore(mut stored: Stored) -> Result<Self> {
        let matrix = downcast(stored.child("matrix")?)?;
        let shape = stored.axes()?;
        stored.finish()?;
        Self::from_parts(shape, matrix)
    }
}

impl Artifact for CpTensor<f32> {
    fn kind(&self) -> &'static str {
        CP
    }

    fn restore(mut stored: Stored) -> Result<Self> {
        let (weights, precision) = stored.vector("weights")?;
        let mut factors = Vec::new();
        for axis in 0..stored.shape.len() {
            let (factor, other) = stored.matrix(&format!("factor_{axis}"))?;
            if other != precision {
                return Err(malformed("factors of different precisions".to_owned()));
            }
            factors.push(factor);
        }
        stored.finish()?;
        Self::from_parts(weights, factors, precision)
    }
}
