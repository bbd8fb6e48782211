//! Storing a binary network as bytes and restoring it.

use ndarray::{Array1, Array2};

use super::super::{BinaryMatrix, Granularity};
use super::{BinaryMlp, SignLayers, Thresholds};
use crate::{Compressed, DType, Error, Float, Part, Precision, Result, Role};

const NAME: &str = "BinaryMlp";

fn malformed(problem: String) -> Error {
    Error::Malformed {
        artifact: NAME,
        problem,
    }
}

/// The number type of a layer's thresholds.
trait Threshold: Copy {
    /// The element type in a file.
    fn dtype() -> DType;
    fn bytes(self) -> Vec<u8>;
    fn read(bytes: &[u8]) -> Vec<Self>;
    /// Whether this is a threshold for sums over `inputs` values.
    fn fits(self, inputs: usize) -> bool;
}

impl<F: Float> Threshold for F {
    fn dtype() -> DType {
        Precision::exact::<F>().dtype()
    }

    fn bytes(self) -> Vec<u8> {
        Precision::exact::<F>().encode([self])
    }

    fn read(bytes: &[u8]) -> Vec<Self> {
        let values = Precision::exact::<F>().decode(bytes);
        values.map(F::from_f64_lossy).collect()
    }

    fn fits(self, _: usize) -> bool {
        // No sum reaches infinity: the sign never changes.
        self.is_finite() || self == F::infinity()
    }
}

/// The thresholds of hidden layers.
#[derive(Debug, Clone, Copy)]
struct Whole(i32);

impl Threshold for Whole {
    fn dtype() -> DType {
        DType::I32
    }

    fn bytes(self) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }

    fn read(bytes: &[u8]) -> Vec<Self> {
        let values = bytes.as_chunks().0.iter();
        values.map(|&x| Self(i32::from_le_bytes(x))).collect()
    }

    fn fits(self, inputs: usize) -> bool {
        let (threshold, inputs) = (i128::from(self.0), inputs as i128);
        (-inputs..=inputs + 1).contains(&threshold)
    }
}

fn part<'a>(name: &'static str, dtype: DType, role: Role, bytes: Vec<u8>) -> Part<'a> {
    Part {
        name,
        dtype,
        shape: vec![bytes.len() / dtype.bytes()],
        role,
        bytes: bytes.into(),
    }
}

fn layer<'a, F: Float, T: Threshold>(
    matrix: &'a BinaryMatrix<F>,
    thresholds: impl Iterator<Item = T>,
    rises: &[bool],
) -> Vec<Part<'a>> {
    let bits = rises.chunks(8).map(|bits| {
        let bits = bits.iter().enumerate();
        bits.fold(0, |byte, (k, &set)| byte | u8::from(set) << k)
    });
    let mut parts = matrix.parts();
    let side = Role::SideInformation;
    parts.push(part(
        "thresholds",
        T::dtype(),
        side,
        thresholds.flat_map(T::bytes).collect(),
    ));
    parts.push(part("rises", DType::U8, side, bits.collect()));
    parts
}

impl<F: Float> BinaryMlp<F> {
    /// Returns the arrays of the network, layer by layer, as the bytes of a file.
    ///
    /// A layer of signs has the parts of its [`BinaryMatrix`], `thresholds`, and `rises`: one bit for each neuron, set if a sum
    /// of at least the threshold gives +1. The last layer has `weights` and `bias`.
    #[must_use]
    pub fn parts(&self) -> Vec<Vec<Part<'_>>> {
        let (matrix, thresholds) = &self.layers.first;
        let values = thresholds.values.iter().copied();
        let mut layers = vec![layer(matrix, values, &thresholds.rises)];
        for (matrix, thresholds) in &self.layers.hidden {
            let values = thresholds.values.iter().map(|&t| Whole(t));
            layers.push(layer(matrix, values, &thresholds.rises));
        }
        let real = Precision::exact::<F>();
        let weights = part(
            "weights",
            real.dtype(),
            Role::Payload,
            real.encode(self.output.iter().copied()),
        );
        let bias = real.encode(self.bias.iter().copied());
        layers.push(vec![
            Part {
                shape: self.output.shape().to_vec(),
                ..weights
            },
            part("bias", real.dtype(), Role::SideInformation, bias),
        ]);
        layers
    }

    /// Restores a network from its [`parts`](Self::parts), the number of inputs of its first layer, and the scaling of each layer
    /// of signs.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for missing or surplus layers and parts, for a part of another type or length than the layers before
    /// it need, for bits that are set after the last neuron, and for numbers that cannot be a threshold, scale, weight or bias.
    ///
    /// ```
    /// use ndarray::{Array1, array};
    /// use taper::Quantizer;
    /// use taper::quantize::binary::{BatchNorm, Binarizer, BinaryMlp};
    ///
    /// let norm = BatchNorm::new(array![1.0, -1.0], Array1::zeros(2), array![0.5, 0.5], Array1::ones(2), 1e-4)?;
    /// let signs = Binarizer::new().quantize(array![[0.2, -0.1], [0.3, 0.4]].view())?;
    /// let network = BinaryMlp::new(vec![(signs, norm)], array![[0.5, 1.0]], array![0.25])?;
    /// let read = BinaryMlp::from_parts(2, &[None], &network.parts())?;
    /// assert_eq!(read, network);
    /// # Ok::<(), taper::Error>(())
    /// ```
    pub fn from_parts(
        inputs: usize,
        scalings: &[Option<Granularity>],
        layers: &[Vec<Part<'_>>],
    ) -> Result<Self> {
        let Some((output, signs)) = layers.split_last() else {
            return Err(malformed("there are no layers".to_owned()));
        };
        if signs.is_empty() || scalings.len() != signs.len() {
            return Err(malformed(format!(
                "{} layers of signs with {} scalings",
                signs.len(),
                scalings.len()
            )));
        }
        let mut width = inputs;
        let mut builder: Option<SignLayers<F>> = None;
        for (parts, &scaling) in signs.iter().zip(scalings) {
            builder = Some(match builder {
                None => SignLayers {
                    first: read_layer(width, scaling, parts)?,
                    hidden: Vec::new(),
                },
                Some(mut builder) => {
                    let (matrix, thresholds) = read_layer::<F, Whole>(width, scaling, parts)?;
                    let values = thresholds.values.into_iter().map(|t| t.0).collect();
                    let rises = thresholds.rises;
                    builder.hidden.push((matrix, Thresholds { values, rises }));
                    builder
                }
            });
            let thresholds = parts.iter().find(|part| part.name == "thresholds");
            let thresholds = thresholds.expect("a layer that was read has thresholds");
            width = thresholds.bytes.len() / thresholds.dtype.bytes();
        }
        let builder = builder.ok_or_else(|| malformed("there are no layers".to_owned()))?;
        let real = Precision::exact::<F>();
        let names = ["weights", "bias"];
        let [weights, bias] = expect(output, names, [real.dtype(); 2])?;
        let read = |part: &Part<'_>| real.decode(&part.bytes).map(F::from_f64_lossy).collect();
        let bias: Array1<F> = Array1::from_vec(read(bias));
        let weights = Array2::from_shape_vec((bias.len(), width), read(weights)).map_err(|_| {
            malformed(format!(
                "{} bytes of output weights for {} classes and {width} neurons",
                weights.bytes.len(),
                bias.len()
            ))
        })?;
        builder
            .output(weights, bias)
            .map_err(|error| malformed(error.to_string()))
    }
}

/// Reads a layer of signs with `inputs` inputs.
fn read_layer<F: Float, T: Threshold>(
    inputs: usize,
    scaling: Option<Granularity>,
    parts: &[Part<'_>],
) -> Result<(BinaryMatrix<F>, Thresholds<T>)> {
    let scales = parts.iter().find(|part| part.name == "scales");
    let precision = scales.map_or(Ok(Precision::default()), |part| {
        Precision::of(part.dtype)
            .ok_or_else(|| malformed(format!("scales of type {:?}", part.dtype)))
    })?;
    let types = (DType::U8, precision.dtype(), T::dtype());
    let (signs, thresholds, rises) = if scaling.is_none() {
        let names = ["signs", "thresholds", "rises"];
        let [signs, thresholds, rises] = expect(parts, names, [types.0, types.2, types.0])?;
        (signs, thresholds, rises)
    } else {
        let names = ["signs", "scales", "thresholds", "rises"];
        let types = [types.0, types.1, types.2, types.0];
        let [signs, _, thresholds, rises] = expect(parts, names, types)?;
        (signs, thresholds, rises)
    };
    let values = T::read(&thresholds.bytes);
    let outputs = values.len();
    if let Some(neuron) = values.iter().position(|t| !t.fits(inputs)) {
        return Err(malformed(format!(
            "the threshold of neuron {neuron} is out of range for {inputs} inputs"
        )));
    }
    let used = outputs % 8;
    if rises.bytes.len() != outputs.div_ceil(8)
        || (used > 0 && rises.bytes.last().is_some_and(|&last| last >> used != 0))
    {
        return Err(malformed(format!(
            "{} bytes of comparisons for {outputs} neurons",
            rises.bytes.len()
        )));
    }
    let bits = rises
        .bytes
        .iter()
        .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    let scales = scales.map_or(Vec::new(), |part| {
        let values = precision.decode(&part.bytes);
        values.map(F::from_f64_lossy).collect()
    });
    // Sums of signs are 32 bits wide.
    if i32::try_from(inputs).is_err() {
        return Err(malformed(format!("a layer of {inputs} inputs")));
    }
    let matrix =
        BinaryMatrix::from_parts([outputs, inputs], &signs.bytes, scaling, precision, scales)?;
    let rises = bits.take(outputs).collect();
    Ok((matrix, Thresholds { values, rises }))
}

/// Returns the parts of these names and types. There must be no others, and each must consist of whole elements.
fn expect<'p, 'b, const N: usize>(
    parts: &'p [Part<'b>],
    names: [&str; N],
    types: [DType; N],
) -> Result<[&'p Part<'b>; N]> {
    let found = || parts.iter().map(|part| part.name).collect::<Vec<_>>();
    if parts.len() != N {
        return Err(malformed(format!("parts {:?}, not {names:?}", found())));
    }
    for (part, (name, dtype)) in parts.iter().zip(names.iter().zip(types)) {
        if part.name != *name {
            return Err(malformed(format!("parts {:?}, not {names:?}", found())));
        }
        if part.dtype != dtype || part.bytes.len() % dtype.bytes() != 0 {
            return Err(malformed(format!(
                "{name} of {} bytes and type {:?}, not {dtype:?}",
                part.bytes.len(),
                part.dtype
            )));
        }
    }
    let all: Vec<&'p Part<'b>> = parts.iter().collect();
    all.try_into()
        .map_err(|_| malformed(format!("parts {:?}, not {names:?}", found())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::binary::Binarizer;
    use crate::quantize::binary::mlp::tests::{norm, random};
    use crate::{Quantizer, Seed};
    use proptest::prelude::*;

    const SCALINGS: [Option<Granularity>; 3] = [
        None,
        Some(Granularity::PerTensor),
        Some(Granularity::PerRow),
    ];

    /// Widths of all layers, inputs first; each layer of signs with a scaling of its own.
    fn network(widths: &[usize], scalings: &[Option<Granularity>], seed: Seed) -> BinaryMlp<f64> {
        let matrix = |k: usize| {
            let params = Binarizer::new()
                .scaling(scalings[k])
                .precision([Precision::F16, Precision::F64][k % 2]);
            let weights = random(seed.derive(k as u64), (widths[k + 1], widths[k]));
            params.quantize(weights.view()).unwrap()
        };
        let norm = |k: usize| norm(seed.derive(100 + k as u64), widths[k + 1]);
        let signs = (0..scalings.len()).map(|k| (matrix(k), norm(k)));
        let last = widths[widths.len() - 2..].to_vec();
        let output = random(seed.derive(200), (last[1], last[0]));
        let bias = random(seed.derive(201), (1, last[1])).row(0).to_owned();
        BinaryMlp::new(signs.collect(), output, bias).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(
            widths in prop::collection::vec(1_usize..80, 3..6),
            kinds in prop::collection::vec(0_usize..3, 4),
            seed in any::<u64>(),
        ) {
            let scalings: Vec<Option<Granularity>> = kinds.iter().take(widths.len() - 2).map(|&k| SCALINGS[k]).collect();
            let network = network(&widths, &scalings, Seed::from(seed));
            let parts = network.parts();
            let read = BinaryMlp::from_parts(widths[0], &scalings, &parts).unwrap();
            prop_assert_eq!(&read, &network);
            prop_assert_eq!(read.parts(), parts);
        }

        // Whatever the bytes are: an error or a network that runs, never a panic.
        #[test]
        fn forged_bytes_are_refused_or_run(layer in 0_usize..3, part in 0_usize..4, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let scalings = [Some(Granularity::PerRow), Some(Granularity::PerTensor)];
            let network = network(&[9, 12, 20, 3], &scalings, Seed::from(5));
            let mut parts = network.parts();
            let count = parts[layer].len();
            let bytes = parts[layer][part % count].bytes.to_mut();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(read) = BinaryMlp::from_parts(9, &scalings, &parts) {
                let x = random(Seed::from(6), (2, 9));
                prop_assert_eq!(read.forward(x.view()).unwrap().dim(), (2, 3));
            }
        }
    }

    #[test]
    fn a_network_that_is_cut_or_does_not_fit_is_refused() {
        let scalings = [Some(Granularity::PerRow), None];
        let network = network(&[9, 12, 21, 3], &scalings, Seed::from(5));
        let parts = network.parts();
        let refused = |inputs, scalings: &[Option<Granularity>], parts: &[Vec<Part<'_>>]| {
            let read = BinaryMlp::<f64>::from_parts(inputs, scalings, parts);
            assert!(matches!(read, Err(Error::Malformed { .. })), "{read:?}");
        };
        for (layer, layer_parts) in parts.iter().enumerate() {
            for part in 0..layer_parts.len() {
                let length = layer_parts[part].bytes.len();
                for end in [0, 1, length / 2, length - 1] {
                    let mut cut = parts.clone();
                    cut[layer][part].bytes.to_mut().truncate(end);
                    refused(9, &scalings, &cut);
                }
                let mut long = parts.clone();
                long[layer][part].bytes.to_mut().push(0);
                refused(9, &scalings, &long);
                let mut missing = parts.clone();
                missing[layer].remove(part);
                refused(9, &scalings, &missing);
                let mut renamed = parts.clone();
                renamed[layer][part].name = "codes";
                refused(9, &scalings, &renamed);
                let mut typed = parts.clone();
                typed[layer][part].dtype = DType::U32;
                refused(9, &scalings, &typed);
            }
        }
        for inputs in [0, 8, 90, usize::MAX] {
            refused(inputs, &scalings, &parts);
        }
        refused(9, &scalings[..1], &parts);
        refused(9, &[Some(Granularity::PerTensor), None], &parts);
        refused(9, &scalings, &parts[1..]);
        refused(9, &[], &parts[2..]);
        refused(9, &scalings, &[]);
    }

    #[test]
    fn numbers_that_cannot_be_are_refused() {
        let network = network(
            &[9, 12, 21, 3],
            &[Some(Granularity::PerRow), None],
            Seed::from(5),
        );
        let with = |layer: usize, name: &str, value: &[u8]| {
            let mut parts = network.parts();
            let part = parts[layer].iter_mut().find(|part| part.name == name);
            let bytes = part.unwrap().bytes.to_mut();
            let end = bytes.len();
            bytes[end - value.len()..].copy_from_slice(value);
            BinaryMlp::<f64>::from_parts(9, &[Some(Granularity::PerRow), None], &parts)
        };
        assert!(with(0, "thresholds", &f64::INFINITY.to_le_bytes()).is_ok());
        assert!(with(1, "thresholds", &13_i32.to_le_bytes()).is_ok());
        assert!(with(1, "thresholds", &(-12_i32).to_le_bytes()).is_ok());
        for wrong in [
            with(0, "thresholds", &f64::NAN.to_le_bytes()),
            with(0, "thresholds", &f64::NEG_INFINITY.to_le_bytes()),
            with(1, "thresholds", &14_i32.to_le_bytes()),
            with(1, "thresholds", &(-13_i32).to_le_bytes()),
            with(0, "rises", &[0xff]),
            with(0, "signs", &[0xff]),
            with(0, "scales", &half::f16::NAN.to_le_bytes()),
            with(0, "scales", &half::f16::NEG_ONE.to_le_bytes()),
            with(2, "weights", &f64::NAN.to_le_bytes()),
            with(2, "bias", &f64::INFINITY.to_le_bytes()),
        ] {
            assert!(matches!(wrong, Err(Error::Malformed { .. })), "{wrong:?}");
        }
    }

    #[test]
    fn parts_hold_every_neuron_and_bits_are_packed() {
        let seed = Seed::from(2);
        let matrix = |k, shape| {
            Binarizer::new()
                .quantize(random(seed.derive(k), shape).view())
                .unwrap()
        };
        let signs = vec![
            (matrix(0, (64, 100)), norm(seed, 64)),
            (matrix(1, (128, 64)), norm(seed, 128)),
        ];
        let network = BinaryMlp::new(signs, Array2::zeros((10, 128)), Array1::zeros(10)).unwrap();
        let sizes: Vec<Vec<usize>> = network
            .parts()
            .iter()
            .map(|parts| parts.iter().map(|part| part.bytes.len()).collect())
            .collect();
        assert_eq!(
            sizes,
            [
                vec![800, 64 * 8, 8],
                vec![1024, 128 * 4, 16],
                vec![10 * 128 * 8, 80]
            ]
        );
    }
}
