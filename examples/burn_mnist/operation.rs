//! Decompression as an operation of burn: forward from the parameters of an artifact to the dense weight, backward from the gradient of
//! the weight to that of the parameters.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, TensorData};
use ndarray::{ArrayView1, ArrayViewD, IxDyn};
use taper::{LinearOp, Trainable};

/// A compressed matrix that multiplies and can be trained: product-quantized, low-rank, sparse, ….
pub trait Matrix: LinearOp<f32> + Trainable<f32> {}

impl<M: LinearOp<f32> + Trainable<f32>> Matrix for M {}

/// An artifact that a network and its operations share.
#[derive(Debug, Clone)]
pub struct Stored(Arc<Mutex<dyn Matrix>>);

impl Stored {
    pub fn new(matrix: impl Matrix + 'static) -> Self {
        Self(Arc::new(Mutex::new(matrix)))
    }

    pub fn lock(&self) -> MutexGuard<'_, dyn Matrix + 'static> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The operation, as an extension of burn's backends.
#[backend_extension(Autodiff, Flex)]
pub trait DecompressBackend: Backend {
    /// The dense weight (out, in) of `matrix` with these parameters.
    fn decompress(parameters: FloatTensor<Self>, matrix: Stored) -> FloatTensor<Self>;
}

/// The dense weight (out, in) of `matrix` with these parameters.
pub fn decompress(parameters: Tensor<1>, matrix: &Stored) -> Tensor<2> {
    let parameters = parameters.into_dispatch();
    Tensor::from_dispatch(<Dispatch as DecompressBackend>::decompress(
        parameters,
        matrix.clone(),
    ))
}

impl DecompressBackend for Flex {
    fn decompress(parameters: FloatTensor<Self>, matrix: Stored) -> FloatTensor<Self> {
        let data = parameters.into_data();
        let parameters = data.as_slice::<f32>().expect("parameters are f32");
        let mut matrix = matrix.lock();
        matrix
            .set_parameters(ArrayView1::from(parameters))
            .expect("the number of parameters of the matrix, finite unless the training diverged");
        let weight = matrix.decompress().expect("a dense weight");
        let shape = weight.shape().to_vec();
        FlexTensor::from_data(TensorData::new(weight.into_iter().collect(), shape))
    }
}

impl<C: CheckpointStrategy> DecompressBackend for Autodiff<Flex, C> {
    fn decompress(parameters: FloatTensor<Self>, matrix: Stored) -> FloatTensor<Self> {
        let prepared = DecompressBackward
            .prepare::<C>([parameters.node()])
            .compute_bound()
            .stateful();
        let weight = Flex::decompress(parameters.into_primitive(), matrix.clone());
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish(matrix, weight),
            OpsKind::UnTracked(prepared) => prepared.finish(weight),
        }
    }
}

#[derive(Debug)]
struct DecompressBackward;

impl Backward<Flex, 1> for DecompressBackward {
    type State = Stored;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let matrix = ops.state;
        unary::<Flex, _>(ops.parents, ops.node, gradients, |gradient| {
            let data = gradient.into_data();
            let values = data.as_slice::<f32>().expect("gradients are f32");
            let matrix = matrix.lock();
            let dense = ArrayViewD::from_shape(IxDyn(matrix.shape()), values);
            let gradient = matrix
                .gradient(dense.expect("a gradient of the weight's shape"))
                .expect("a finite gradient");
            let count = gradient.len();
            FlexTensor::from_data(TensorData::new(gradient.to_vec(), [count]))
        });
    }
}
