//! Networks: trained with burn, then used as plain arrays.
//!
//! - [`train`]: the training loop, for any burn module and any [`Objective`](train::Objective); its
//!   [`schedule`], its [`checkpoint`]s and the shifted images of [`augment`];
//! - [`distill`]: training a student with one of taper's distillers;
//! - [`mlp`]: the fully connected network of several experiments; [`conv`]: a convolutional one, whose layers may be chains of smaller
//!   layers;
//! - [`convolution`]: the 3×3 convolution as an operation of burn;
//! - [`vgg`]: VGG-11 with batch normalization, whole or pruned;
//! - [`inference`]: a trained network without a framework; each weight is a dense matrix or a [`taper::LinearOp`];
//! - [`statistics`]: mean and variance of BatchNorm, re-estimated after weights were replaced;
//! - [`product`]: the dense matrix product.

pub mod augment;
pub mod checkpoint;
pub mod conv;
pub mod convolution;
pub mod distill;
pub mod inference;
pub mod mlp;
pub mod product;
pub mod schedule;
pub mod statistics;
pub mod train;
pub mod vgg;
