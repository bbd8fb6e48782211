//! The loss of distillation and its gradient.

use std::path::Path;

use taper::Distiller;
use taper::distill::KnowledgeDistillation;
use taper::ndarray::{Array2, array};

use super::{Arguments, Work};
use crate::Numbers;
use crate::arrays::write_f32;

/// Loss and gradient for a batch of logits, at temperature 4 with a weight of 0.7 for the teacher.
pub struct Loss {
    student: Array2<f32>,
    teacher: Array2<f32>,
    labels: Vec<usize>,
    gradient: Array2<f32>,
    loss: KnowledgeDistillation,
    value: f32,
}

impl Loss {
    pub fn load(arguments: &Arguments) -> anyhow::Result<Self> {
        let student: Array2<f32> = arguments.array("student")?;
        Ok(Self {
            gradient: Array2::zeros(student.dim()),
            student,
            teacher: arguments.array("teacher")?,
            labels: arguments.indices("labels")?,
            loss: KnowledgeDistillation::new(4.0).alpha(0.7),
            value: 0.0,
        })
    }
}

impl Work for Loss {
    fn run(&mut self) -> anyhow::Result<()> {
        let (student, teacher) = (self.student.view(), self.teacher.view());
        let gradient = self.gradient.view_mut();
        self.value = self
            .loss
            .loss_into(student, teacher, &self.labels, gradient)?
            .total;
        Ok(())
    }

    fn save(&self, folder: &Path) -> anyhow::Result<Numbers> {
        write_f32(folder.join("gradient.npy"), &self.gradient)?;
        write_f32(folder.join("value.npy"), &array![self.value])?;
        Ok(Vec::new())
    }
}
