//! The sign as an operation of burn, with the backward pass of taper's straight-through estimator.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, TensorData};
use ndarray::{ArrayView1, ArrayViewMut1};
use taper::quantize::binary::StraightThrough;

/// The operations that burn does not have.
#[backend_extension(Autodiff, Flex)]
pub trait SignBackend: Backend {
    /// +1 where x ≥ 0, else −1; the backward pass passes the gradient on where |x| ≤ 1.
    fn sign(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// The signs of `x`, with the straight-through gradient.
pub fn sign<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as SignBackend>::sign(x.into_dispatch()))
}

impl SignBackend for Flex {
    fn sign(x: FloatTensor<Self>) -> FloatTensor<Self> {
        with_values(x, |values| {
            let signs = StraightThrough.forward(ArrayView1::from(&*values));
            // The values are an activation after BatchNorm: a NaN means that the training diverged.
            let signs = signs.expect("activations are finite");
            values.copy_from_slice(signs.as_slice().expect("a fresh array is contiguous"));
        })
    }
}

impl<C: CheckpointStrategy> SignBackend for Autodiff<Flex, C> {
    fn sign(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = SignBackward
            .prepare::<C>([x.node()])
            .compute_bound()
            .stateful();
        let x = x.into_primitive();
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish(x.clone(), Flex::sign(x)),
            OpsKind::UnTracked(prepared) => prepared.finish(Flex::sign(x)),
        }
    }
}

#[derive(Debug)]
struct SignBackward;

impl Backward<Flex, 1> for SignBackward {
    type State = FlexTensor;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let x = ops.state.into_data();
        unary::<Flex, _>(ops.parents, ops.node, gradients, |gradient| {
            with_values(gradient, |gradient| {
                let x = x.as_slice::<f32>().expect("activations are f32");
                StraightThrough
                    .backward_in_place(ArrayView1::from(x), ArrayViewMut1::from(gradient))
                    .expect("a gradient of the activation's length, finite");
            })
        });
    }
}

/// Applies `change` to the values of `x`.
fn with_values(x: FlexTensor, change: impl FnOnce(&mut [f32])) -> FlexTensor {
    let mut data: TensorData = x.into_data();
    change(
        data.as_mut_slice::<f32>()
            .expect("tensors of this program are f32"),
    );
    FlexTensor::from_data(data)
}
