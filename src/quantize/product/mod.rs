//! Product quantization: sub-vectors of the weights become codes into codebooks.
