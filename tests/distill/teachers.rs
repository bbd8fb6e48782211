//! Stored logits, ensembles, smoothed labels and annealing.

use std::borrow::Cow;

use ndarray::{Array2, ArrayView2, array};
use proptest::prelude::*;
use taper::distill::{
    Anneal, KnowledgeDistillation, TeacherLogits, ensemble_logits, smoothed_labels,
    softened_softmax,
};
use taper::{Compressed, DType, Distiller, Error, Part, Precision};

use super::values;

/// Checks that parts and storage agree, and that the parts rebuild the artifact.
fn assert_artifact(stored: &TeacherLogits) {
    let object: &dyn Compressed<f32> = stored;
    let parts = object.parts();
    let bytes: usize = parts.iter().map(|part| part.bytes.len()).sum();
    assert_eq!(object.storage().bytes(), bytes as u64);
    let again = TeacherLogits::from_parts(stored.dim().into(), &parts).unwrap();
    assert_eq!(&again, stored);
    let all: Vec<usize> = (0..stored.dim().0).collect();
    let dense = object.decompress().unwrap();
    assert_eq!(stored.batch::<f32>(&all).unwrap().into_dyn(), dense);
}

proptest! {
    #[test]
    fn dense_logits_are_rounded_once(
        seed: u64, samples in 1_usize..6, classes in 1_usize..30, spread in 0.1_f64..100.0,
    ) {
        let logits: Array2<f64> = values((samples, classes), spread, seed);
        for (precision, bits) in [(Precision::F16, 11), (Precision::F32, 24), (Precision::F64, 53)] {
            let stored = TeacherLogits::dense(logits.view(), precision).unwrap();
            assert_artifact(&stored);
            let back: Array2<f64> = stored.batch(&(0..samples).collect::<Vec<_>>()).unwrap();
            for (x, y) in logits.iter().zip(&back) {
                // Half a unit in the last place, which is an absolute one below the normal numbers of half precision.
                prop_assert!((x - y).abs() <= x.abs() * 0.5_f64.powi(bits) + 0.5_f64.powi(25));
            }
            let size = Compressed::<f64>::storage(&stored).bytes();
            prop_assert_eq!(size, (samples * classes) as u64 * precision.bits() / 8);
        }
    }

    #[test]
    fn the_largest_keep_their_probabilities(
        seed: u64, classes in 1_usize..40, part in 0.0_f64..1.0, log_temperature in -1.0_f64..4.0,
    ) {
        let samples = 3;
        let logits: Array2<f64> = values((samples, classes), 20.0, seed);
        let k = 1 + (part * classes as f64) as usize;
        let k = k.min(classes);
        let temperature = log_temperature.exp();
        let stored = TeacherLogits::top_k(logits.view(), k, temperature, Precision::F64).unwrap();
        assert_artifact(&TeacherLogits::top_k(logits.view(), k, temperature, Precision::F16).unwrap());
        prop_assert_eq!((stored.kept(), stored.temperature()), (k, Some(temperature)));
        let back: Array2<f64> = stored.batch(&[2, 0, 1]).unwrap();
        let p = softened_softmax(logits.view(), temperature).unwrap();
        let q = softened_softmax(back.view(), temperature).unwrap();
        for (row, sample) in [2, 0, 1].into_iter().enumerate() {
            let mut order: Vec<usize> = (0..classes).collect();
            order.sort_by(|&a, &b| logits[[sample, b]].total_cmp(&logits[[sample, a]]));
            let (kept, rest) = order.split_at(k);
            // Exponents of up to 20/T, each rounded.
            let tolerance = f64::EPSILON * (8.0 + 4.0 * 20.0 / temperature) * classes as f64;
            for &class in kept {
                prop_assert_eq!(back[[row, class]], logits[[sample, class]]);
                prop_assert!((p[[sample, class]] - q[[row, class]]).abs() <= tolerance);
            }
            let mean = rest.iter().map(|&class| p[[sample, class]]).sum::<f64>() / rest.len() as f64;
            for &class in rest {
                prop_assert!((q[[row, class]] - mean).abs() <= tolerance);
            }
        }
        let parts = Compressed::<f64>::parts(&stored);
        prop_assert_eq!(parts.iter().any(|part| part.name == "remainder"), k < classes);
    }
}

#[test]
fn sizes_count_every_part() {
    let logits: Array2<f32> = values((10, 1000), 20.0, 1).mapv(|x| x as f32);
    let stored = TeacherLogits::top_k(logits.view(), 8, 4.0, Precision::F16).unwrap();
    let size = Compressed::<f32>::storage(&stored);
    // 80 classes of 10 bits and logits of 16; 10 remainders of 16 bits, and the temperature.
    assert_eq!(size.payload(), 80 * 10 + 80 * 16);
    assert_eq!(size.side_information(), 10 * 16 + 64);
    assert!(Compressed::<f32>::ratio(&stored) > 100.0);
}

#[test]
fn ties_fall_to_the_lower_class() {
    let stored =
        TeacherLogits::top_k(array![[1.0, 3.0, 3.0, 3.0]].view(), 2, 1.0, Precision::F64).unwrap();
    let back: Array2<f64> = stored.batch(&[0]).unwrap();
    assert_eq!((back[[0, 1]], back[[0, 2]]), (3.0, 3.0));
    assert!(back[[0, 3]] < 3.0 && back[[0, 3]] == back[[0, 0]]);
}

#[test]
fn wrong_logits_are_refused() {
    let logits = array![[1.0_f32, 2.0], [3.0, 70_000.0]];
    let view = logits.view();
    assert!(matches!(
        TeacherLogits::dense(view, Precision::F16),
        Err(Error::Overflow { .. })
    ));
    assert!(TeacherLogits::dense(view, Precision::F32).is_ok());
    let top_k = |k, temperature| TeacherLogits::top_k(view, k, temperature, Precision::F32);
    assert!(matches!(top_k(0, 1.0), Err(Error::Parameter(_))));
    assert!(matches!(top_k(1, 0.0), Err(Error::Parameter(_))));
    assert!(matches!(
        top_k(3, 1.0),
        Err(Error::ExceedsInput {
            value: 3,
            limit: 2,
            ..
        })
    ));
    let nan = array![[f32::NAN, 0.0]];
    for stored in [
        TeacherLogits::dense(nan.view(), Precision::F32),
        TeacherLogits::top_k(nan.view(), 1, 1.0, Precision::F32),
    ] {
        assert!(matches!(stored, Err(Error::NonFinite { .. })));
    }
    let stored = TeacherLogits::dense(view, Precision::F32).unwrap();
    assert!(matches!(
        stored.batch::<f32>(&[2]),
        Err(Error::ExceedsInput {
            value: 2,
            limit: 1,
            ..
        })
    ));
    let huge = TeacherLogits::dense(array![[1e300_f64]].view(), Precision::F64).unwrap();
    assert!(matches!(
        huge.batch::<f32>(&[0]),
        Err(Error::Overflow { .. })
    ));
    let extreme = array![[f64::MAX, f64::MIN, f64::MIN]];
    let kept = TeacherLogits::top_k(extreme.view(), 1, 2.0, Precision::F64).unwrap();
    assert_eq!(kept.batch(&[0]), Ok(extreme));
}

#[test]
fn forged_parts_are_refused() {
    let logits: Array2<f32> = values((3, 6), 9.0, 2).mapv(|x| x as f32);
    let stored = TeacherLogits::top_k(logits.view(), 2, 3.0, Precision::F32).unwrap();
    let parts = Compressed::<f32>::parts(&stored);
    let refused = |change: &dyn Fn(&mut Vec<Part<'_>>)| {
        let mut forged = parts.clone();
        change(&mut forged);
        let error = TeacherLogits::from_parts([3, 6], &forged).unwrap_err();
        assert!(matches!(
            error,
            Error::Malformed {
                artifact: "TeacherLogits",
                ..
            }
        ));
    };
    let index = |name| parts.iter().position(|part| part.name == name).unwrap();
    let names = ["logits", "classes", "remainder", "temperature"];
    for name in names {
        let i = index(name);
        refused(&|parts| drop(parts.remove(i)));
        refused(&|parts| parts.push(parts[i].clone()));
        refused(&|parts| parts[i].bytes.to_mut().truncate(1));
        refused(&|parts| parts[i].bytes.to_mut().push(0));
        refused(&|parts| parts[i].dtype = DType::I32);
        refused(&|parts| parts[i].shape.push(1));
        refused(&|parts| parts[i].name = "unknown");
    }
    // All bits set: a NaN, a class of 7 among 6.
    for name in names {
        refused(&|parts| parts[index(name)].bytes.to_mut().fill(255));
    }
    refused(&|parts| {
        parts[index("temperature")].bytes = Cow::Owned((-1.0_f64).to_le_bytes().into())
    });
    // Classes that do not rise: all zero.
    refused(&|parts| parts[index("classes")].bytes.to_mut().fill(0));
    for shape in [[0, 6], [3, 0], [2, 6], [3, 1], [usize::MAX, usize::MAX]] {
        let forged = TeacherLogits::from_parts(shape, &parts);
        assert!(matches!(forged, Err(Error::Malformed { .. })));
    }
    let nothing = TeacherLogits::from_parts([3, 6], &[]);
    assert!(matches!(nothing, Err(Error::Malformed { .. })));
}

#[test]
fn an_ensemble_has_the_mean_of_the_softened_probabilities() {
    let members: Vec<Array2<f64>> = (0..3).map(|seed| values((4, 7), 15.0, seed)).collect();
    let views: Vec<ArrayView2<'_, f64>> = members.iter().map(|x| x.view()).collect();
    for temperature in [0.5, 1.0, 8.0] {
        let logits = ensemble_logits(&views, temperature).unwrap();
        let p = softened_softmax(logits.view(), temperature).unwrap();
        let mut mean = Array2::<f64>::zeros((4, 7));
        for view in &views {
            mean += &(softened_softmax(*view, temperature).unwrap() / 3.0);
        }
        for (p, mean) in p.iter().zip(&mean) {
            assert!((p - mean).abs() <= 7.0 * 40.0 * f64::EPSILON);
        }
    }
    // The ensemble of one teacher differs from it by a constant for each row.
    let alone = ensemble_logits(&views[..1], 2.0).unwrap();
    let shift = &alone - &members[0];
    for row in shift.rows() {
        assert!(
            row.iter()
                .all(|x| (x - row[0]).abs() <= 64.0 * f64::EPSILON)
        );
    }
    assert!(matches!(
        ensemble_logits::<f64>(&[], 1.0),
        Err(Error::EmptyAxis { .. })
    ));
    assert!(matches!(
        ensemble_logits(&views, -1.0),
        Err(Error::Parameter(_))
    ));
    let other = Array2::<f64>::zeros((4, 6));
    assert!(matches!(
        ensemble_logits(&[views[0], other.view()], 1.0),
        Err(Error::ShapeMismatch { .. })
    ));
}

/// Label smoothing three ways: its definition, its teacher, and a teacher of zeros at α = ε.
#[test]
fn smoothed_labels_are_a_teacher() {
    let (classes, epsilon, labels) = (5, 0.1, [3, 0, 4]);
    let student: Array2<f64> = values((3, classes), 8.0, 5);
    let teacher = smoothed_labels(&labels, classes, epsilon).unwrap();
    let from_teacher = KnowledgeDistillation::new(1.0)
        .alpha(1.0)
        .loss(student.view(), teacher.view(), &labels)
        .unwrap();
    let zeros = Array2::zeros((3, classes));
    let from_zeros = KnowledgeDistillation::new(1.0)
        .alpha(epsilon)
        .loss(student.view(), zeros.view(), &labels)
        .unwrap();
    let log_q = softened_softmax(student.view(), 1.0).unwrap().mapv(f64::ln);
    let mut cross_entropy = 0.0;
    for (row, &label) in log_q.rows().into_iter().zip(&labels) {
        cross_entropy -= (1.0 - epsilon) * row[label] + epsilon / classes as f64 * row.sum();
    }
    let soft = from_teacher.0.soft_cross_entropy().unwrap();
    assert!((soft - cross_entropy / 3.0).abs() <= 64.0 * f64::EPSILON);
    for (a, b) in from_teacher.1.iter().zip(&from_zeros.1) {
        assert!((a - b).abs() <= 16.0 * f64::EPSILON);
    }
    for smoothing in [0.0, 1.5, f64::NAN] {
        let smoothed = smoothed_labels::<f64>(&labels, classes, smoothing);
        assert!(matches!(smoothed, Err(Error::Parameter(_))));
    }
    assert!(matches!(
        smoothed_labels::<f64>(&labels, 4, 0.1),
        Err(Error::ExceedsInput {
            value: 4,
            limit: 3,
            ..
        })
    ));
    for (labels, classes) in [(&[][..], 4), (&[0], 0)] {
        let smoothed = smoothed_labels::<f64>(labels, classes, 0.1);
        assert!(matches!(smoothed, Err(Error::EmptyAxis { .. })));
    }
    // All classes are equally likely.
    let even = smoothed_labels::<f64>(&[0], 4, 1.0).unwrap();
    assert_eq!(even, Array2::from_elem((1, 4), 0.25_f64.ln()));
}

proptest! {
    #[test]
    fn annealing_runs_from_the_first_value_to_the_last(from in 0.1_f64..50.0, to in 0.1_f64..50.0, steps in 2_u32..40) {
        for anneal in [
            Anneal::Constant(from),
            Anneal::Linear { from, to },
            Anneal::Cosine { from, to },
            Anneal::Geometric { from, to },
        ] {
            let end = if anneal == Anneal::Constant(from) { from } else { to };
            prop_assert_eq!(anneal.at(0.0).unwrap(), from);
            prop_assert_eq!(anneal.at(1.0).unwrap(), end);
            let values: Vec<f64> = (0..=steps)
                .map(|i| anneal.at(f64::from(i) / f64::from(steps)).unwrap())
                .collect();
            let slack = 64.0 * f64::EPSILON;
            for pair in values.windows(2) {
                let step = (pair[1] - pair[0]) * (end - from).signum();
                prop_assert!(step >= -slack * from.max(to));
            }
        }
    }
}

#[test]
fn wrong_values_to_anneal_are_refused() {
    for bad in [
        Anneal::Constant(f64::NAN),
        Anneal::Linear {
            from: 1.0,
            to: f64::INFINITY,
        },
        Anneal::Geometric { from: 0.0, to: 1.0 },
        Anneal::Geometric {
            from: 1.0,
            to: -1.0,
        },
    ] {
        assert!(bad.at(0.5).is_err(), "{bad:?}");
    }
    let good = Anneal::Cosine { from: 1.0, to: 0.0 };
    assert_eq!(good.at(1.0), Ok(0.0));
    for progress in [-0.1, 1.1, f64::NAN] {
        assert!(good.at(progress).is_err());
    }
}
