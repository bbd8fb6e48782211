//! Training a student with one of taper's distillers, inside burn's backward pass.

use burn::tensor::{Device, Tensor, TensorData};
use ndarray::{Array2, ArrayView2};
use taper::Distiller;
use taper::distill::TeacherLogits;

use super::augment::Shift;
use super::inference::Network;
use super::mlp::{Mlp, matrix};
use super::train::{Batch, Objective};
use crate::data::Dataset;

/// A teacher's logits for every view of every image, computed once.
#[derive(Debug)]
pub struct Teacher {
    /// All images in the first view, then all in the second, and so on.
    logits: TeacherLogits,
    images: usize,
}

impl Teacher {
    /// Computes the logits of `teacher` for every view that `shift` makes of the images of `data`, or for the unchanged images, and
    /// stores them in half precision. Calls `after_view` after each view.
    ///
    /// # Errors
    ///
    /// If the images do not fit the teacher, or a logit overflows half precision.
    pub fn new(
        teacher: &Network,
        data: &Dataset,
        shift: Option<&Shift>,
        mut after_view: impl FnMut(),
    ) -> anyhow::Result<Self> {
        let (images, width) = data.images.dim();
        let mut logits = Vec::new();
        let mut moved = Vec::with_capacity(data.images.len());
        for view in 0..shift.map_or(1, Shift::views) {
            let of_view = match shift {
                None => teacher.logits(data.images.view())?,
                Some(shift) => {
                    moved.clear();
                    for image in data.images.rows() {
                        shift.append_view(&image.to_vec(), view, &mut moved);
                    }
                    teacher.logits(ArrayView2::from_shape((images, width), &moved)?)?
                }
            };
            logits.extend(of_view.iter().copied());
            after_view();
        }
        let classes = teacher
            .layers
            .last()
            .map_or(0, |layer| layer.weight.shape().0);
        let logits = ArrayView2::from_shape((logits.len() / classes.max(1), classes), &logits)?;
        Ok(Self {
            logits: TeacherLogits::dense(logits, taper::Precision::F16)?,
            images,
        })
    }

    /// The stored logits.
    pub fn logits(&self) -> &TeacherLogits {
        &self.logits
    }
}

/// The source of a teacher's logits.
pub trait Teaches {
    /// Logits of shape (batch, classes) for the images of a batch.
    ///
    /// # Errors
    ///
    /// If the batch does not fit the teacher.
    fn teach(&self, batch: &Batch) -> anyhow::Result<Array2<f32>>;
}

impl Teaches for Teacher {
    fn teach(&self, batch: &Batch) -> anyhow::Result<Array2<f32>> {
        let indices: Vec<usize> = match batch.views.as_slice() {
            [] => batch.rows.clone(),
            views => {
                let pairs = views.iter().zip(&batch.rows);
                pairs.map(|(view, row)| view * self.images + row).collect()
            }
        };
        Ok(self.logits.batch(&indices)?)
    }
}

/// A network as a teacher that computes its logits for each batch, for images with too many views to store them.
#[derive(Debug)]
pub struct Asked<'a, M>(pub &'a M);

impl<M: Student> Teaches for Asked<'_, M> {
    fn teach(&self, batch: &Batch) -> anyhow::Result<Array2<f32>> {
        let images = batch.images.clone().into_data();
        matrix(self.0.logits(Tensor::from_data(images, &Device::flex())))
    }
}

/// The objective of a student: the labels and a teacher's logits.
pub struct Taught<'a, D> {
    /// The loss.
    pub distiller: D,
    /// The source of the teacher's logits.
    pub teacher: &'a dyn Teaches,
    /// The true classes of all training images.
    pub labels: &'a [usize],
}

impl<D: Distiller<f32>> Taught<'_, D> {
    /// Computes value and gradient with taper's distiller, on arrays.
    fn loss_of(&self, logits: &Tensor<2>, batch: &Batch) -> anyhow::Result<(f32, TensorData)> {
        let student = matrix(logits.clone().detach())?;
        let labels: Vec<usize> = batch.rows.iter().map(|&row| self.labels[row]).collect();
        let teacher = self.teacher.teach(batch)?;
        let (loss, gradient) = self
            .distiller
            .loss(student.view(), teacher.view(), &labels)?;
        let shape = [gradient.nrows(), gradient.ncols()];
        let gradient = TensorData::new(gradient.into_raw_vec_and_offset().0, shape);
        Ok((loss.total, gradient))
    }
}

/// A network that can be a student.
pub trait Student {
    /// The logits, of shape (batch, classes), for `images` of shape (batch, pixels).
    fn logits(&self, images: Tensor<2>) -> Tensor<2>;
}

impl Student for Mlp {
    fn logits(&self, images: Tensor<2>) -> Tensor<2> {
        self.forward(images)
    }
}

impl<D: Distiller<f32>, S: Student> Objective<S> for Taught<'_, D> {
    fn loss(&self, model: &S, batch: &Batch) -> Tensor<1> {
        let logits = model.logits(batch.images.clone());
        match self.loss_of(&logits, batch) {
            Ok((value, gradient)) => inject(logits, value, gradient),
            // The student diverged: the trainer reports step and learning rate.
            Err(_) => logits.sum() * f32::NAN,
        }
    }
}

/// A loss with the value `value` whose backward pass gives exactly `gradient` to `output`.
///
/// The derivative of ⟨output, gradient⟩ with respect to the output is the gradient itself; a constant is added to reach the
/// value. This is how a loss that was computed on plain arrays enters the backward pass of a framework.
pub fn inject(output: Tensor<2>, value: f32, gradient: TensorData) -> Tensor<1> {
    let gradient = Tensor::from_data(gradient, &output.device());
    let product = (output * gradient).sum();
    let rest = product.clone().detach().neg() + value;
    product + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use ndarray::{Array2, array};
    use taper::distill::KnowledgeDistillation;

    #[test]
    fn the_injected_gradient_arrives_unchanged_with_the_value() {
        let student = array![[1.0_f32, -2.0, 0.5], [0.0, 3.0, -1.0]];
        let teacher = array![[2.0_f32, 0.0, 0.0], [1.0, 1.0, -4.0]];
        let (loss, expected) = KnowledgeDistillation::new(3.0)
            .alpha(0.7)
            .loss(student.view(), teacher.view(), &[0, 1])
            .unwrap();
        let device = Device::flex().autodiff();
        let values: Vec<f32> = student.iter().copied().collect();
        let output: Tensor<2> =
            Tensor::from_data(TensorData::new(values, [2, 3]), &device).require_grad();
        let gradient: Vec<f32> = expected.iter().copied().collect();
        let injected = inject(
            output.clone(),
            loss.total,
            TensorData::new(gradient, [2, 3]),
        );
        let gradients = injected.backward();
        let arrived = matrix(output.grad(&gradients).unwrap()).unwrap();
        assert_eq!(arrived, expected);
        let value: f32 = injected.into_scalar();
        // One subtraction and one addition of numbers no larger than the product and the value.
        assert!((value - loss.total).abs() <= 4.0 * f32::EPSILON * (1.0 + loss.total));
    }

    #[test]
    fn every_view_has_its_logits() {
        use super::super::augment::Layout;
        use super::super::inference::{Layer, Weight};
        let shift = Shift {
            pixels: 1,
            layout: Layout {
                channels: 1,
                side: 2,
            },
            background: 0.0,
            mirror: false,
        };
        // A network whose output is its input.
        let network = Network {
            layers: vec![Layer {
                name: "same".to_owned(),
                weight: Weight::Dense(Array2::eye(4)),
                bias: None,
                norm: None,
                relu: false,
            }],
        };
        let data = Dataset {
            images: array![[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]],
            labels: vec![0, 1],
        };
        let teacher = Teacher::new(&network, &data, Some(&shift), || {}).unwrap();
        assert_eq!(teacher.logits().dim(), (18, 4));
        for view in 0..9 {
            for row in 0..2 {
                let mut moved = Vec::new();
                shift.append_view(&data.images.row(row).to_vec(), view, &mut moved);
                let logits: Array2<f32> = teacher.logits().batch(&[view * 2 + row]).unwrap();
                assert_eq!(logits.into_raw_vec_and_offset().0, moved);
            }
        }
    }
}
