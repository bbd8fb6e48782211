//! Losses over logits: gradients against finite differences, the published limits, errors.

use ndarray::{Array1, Array2, ArrayView2, Axis, array, s};
use proptest::prelude::*;
use taper::distill::{KnowledgeDistillation, softened_softmax};
use taper::{Distiller, Error, ParamError};

use super::{COMPARISONS, assert_gradient, values};

fn labels(samples: usize, classes: usize) -> Vec<usize> {
    (0..samples).map(|i| (i * 5 + 1) % classes).collect()
}

/// The loss by its definition, with nothing but the standard library.
fn naive(
    student: &Array2<f64>,
    teacher: &Array2<f64>,
    labels: &[usize],
    temperature: f64,
    alpha: f64,
) -> (f64, f64, f64) {
    let softmax = |row: &Array1<f64>| {
        let e = row.mapv(|x| (x - row.fold(f64::MIN, |a, &b| a.max(b))).exp());
        &e / e.sum()
    };
    let (mut kl, mut cross, mut hard) = (0.0, 0.0, 0.0);
    for ((z, v), &y) in student.rows().into_iter().zip(teacher.rows()).zip(labels) {
        let q = softmax(&(&z / temperature));
        let p = softmax(&(&v / temperature));
        kl += p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
        cross -= p.iter().zip(&q).map(|(p, q)| p * q.ln()).sum::<f64>();
        hard -= softmax(&z.to_owned())[y].ln();
    }
    let n = labels.len() as f64;
    let total = alpha * temperature * temperature * kl / n + (1.0 - alpha) * hard / n;
    (total, cross / n, hard / n)
}

#[test]
fn gradients_are_those_of_the_value() {
    let (student, teacher) = (values((5, 7), 8.0, 1), values((5, 7), 8.0, 2));
    let labels = labels(5, 7);
    for temperature in [0.5, 1.0, 3.0, 20.0, 40.0] {
        for alpha in [0.0, 0.3, 1.0] {
            let distiller = KnowledgeDistillation::new(temperature).alpha(alpha);
            let value_at = |z: &Array2<f64>| {
                let loss = distiller.loss(z.view(), teacher.view(), &labels);
                loss.unwrap().0.total
            };
            let (_, gradient) = distiller
                .loss(student.view(), teacher.view(), &labels)
                .unwrap();
            // The size of the value and of its derivatives: T² and 1/T each.
            let scale = 1.0 + temperature * temperature * 8.0 + 8.0 / temperature;
            assert_gradient(&gradient, &student, scale, value_at);
        }
    }
}

#[test]
fn the_parts_of_the_value_are_those_of_the_definition() {
    let (student, teacher) = (values((6, 11), 12.0, 3), values((6, 11), 12.0, 4));
    let labels = labels(6, 11);
    for temperature in [0.7, 1.0, 4.0, 30.0, 100.0] {
        let (total, cross, hard) = naive(&student, &teacher, &labels, temperature, 0.6);
        let (value, _) = KnowledgeDistillation::new(temperature)
            .alpha(0.6)
            .loss(student.view(), teacher.view(), &labels)
            .unwrap();
        // The oracle itself loses ε·T² in its divergence.
        let tolerance = 100.0 * f64::EPSILON * (1.0 + temperature * temperature);
        assert!((value.total - total).abs() <= tolerance * (1.0 + total));
        assert!((value.hard.unwrap() - hard).abs() <= tolerance);
        assert!((value.soft_cross_entropy().unwrap() - cross).abs() <= tolerance);
    }
}

/// Hinton et al., equation 4: at a high temperature distillation matches the logits, with their means subtracted.
#[test]
fn a_high_temperature_matches_logits() {
    let (samples, classes) = (4, 9);
    let (student, teacher) = (
        values((samples, classes), 6.0, 5),
        values((samples, classes), 6.0, 6),
    );
    let centred = |x: &Array2<f64>| x - &x.mean_axis(Axis(1)).unwrap().insert_axis(Axis(1));
    let difference = centred(&student) - centred(&teacher);
    let expected = &difference / (samples * classes) as f64;
    let half_squares = difference.mapv(|d| d * d).sum() / (2 * samples * classes) as f64;
    for temperature in [1e3, 1e5, 1e7] {
        let distiller = KnowledgeDistillation::new(temperature).alpha(1.0);
        let (value, gradient) = distiller.loss(student.view(), teacher.view(), &[]).unwrap();
        // The next term of the series in 1/T, and the rounding of the sums times T.
        let tolerance = 6.0 * 6.0 / temperature + temperature * f64::EPSILON * 36.0;
        for (slope, expected) in gradient.iter().zip(&expected) {
            assert!((slope - expected).abs() <= tolerance / samples as f64);
        }
        assert!((value.total - half_squares).abs() <= 10.0 * tolerance);
        assert_eq!(value.hard, None);
        // Single precision is as accurate as the rounding of its logits allows, at any temperature.
        let single = distiller
            .loss(
                student.mapv(|x| x as f32).view(),
                teacher.mapv(|x| x as f32).view(),
                &[],
            )
            .unwrap();
        for (a, b) in single.1.iter().zip(&gradient) {
            assert!((f64::from(*a) - b).abs() <= 8.0 * 6.0 * f64::from(f32::EPSILON));
        }
    }
}

#[test]
fn without_a_teacher_it_is_cross_entropy() {
    let (student, teacher) = (values((4, 6), 10.0, 7), values((4, 6), 10.0, 8));
    let labels = labels(4, 6);
    let (value, gradient) = KnowledgeDistillation::new(5.0)
        .alpha(0.0)
        .loss(student.view(), teacher.view(), &labels)
        .unwrap();
    let log_q = softened_softmax(student.view(), 1.0).unwrap().mapv(f64::ln);
    let cross: f64 = -labels
        .iter()
        .enumerate()
        .map(|(i, &y)| log_q[[i, y]])
        .sum::<f64>()
        / 4.0;
    assert!((value.total - cross).abs() <= 8.0 * f64::EPSILON * (1.0 + cross));
    let mut expected = softened_softmax(student.view(), 1.0).unwrap();
    for (i, &y) in labels.iter().enumerate() {
        expected[[i, y]] -= 1.0;
    }
    for (slope, expected) in gradient.iter().zip(&expected) {
        assert!((slope - expected / 4.0).abs() <= 8.0 * f64::EPSILON);
    }
}

#[test]
fn a_student_that_matches_has_nothing_to_learn() {
    let teacher = values((3, 50), 20.0, 9);
    // A shift of all logits of a row changes no probability.
    let student = &teacher + &array![[1.0], [-2.0], [5.0]];
    for temperature in [1.0, 6.0, 1e4] {
        let (value, gradient) = KnowledgeDistillation::new(temperature)
            .alpha(1.0)
            .loss(student.view(), teacher.view(), &[])
            .unwrap();
        assert!(value.soft <= 50.0 * 20.0 * f64::EPSILON);
        let largest = gradient.fold(0.0_f64, |a, b| a.max(b.abs()));
        assert!(largest <= 50.0 * 20.0 * f64::EPSILON);
    }
}

#[test]
fn strides_and_threads_change_nothing() {
    // More rows than one thread takes at a time.
    let (student, teacher) = (values((700, 40), 9.0, 10), values((700, 40), 9.0, 11));
    let labels = labels(700, 40);
    for comparison in COMPARISONS {
        let distiller = KnowledgeDistillation::new(2.5)
            .alpha(0.4)
            .comparison(comparison);
        let loss = || {
            distiller
                .loss(student.view(), teacher.view(), &labels)
                .unwrap()
        };
        let expected = loss();
        let turned = student.t().to_owned();
        let mut backwards = teacher.slice(s![..;-1, ..;-1]).to_owned();
        backwards.invert_axis(Axis(0));
        backwards.invert_axis(Axis(1));
        let mut gradient = Array2::zeros((40, 700));
        let value = distiller
            .loss_into(
                turned.t(),
                backwards.view(),
                &labels,
                gradient.view_mut().reversed_axes(),
            )
            .unwrap();
        assert_eq!(value, expected.0);
        assert_eq!(gradient.t(), expected.1);
        #[cfg(feature = "rayon")]
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let again = pool.build().unwrap().install(loss);
            assert_eq!(again, expected, "{comparison:?}, {threads} threads");
        }
    }
}

#[test]
fn the_mean_does_not_depend_on_the_size_of_the_batch() {
    let (student, teacher) = (values((3, 8), 9.0, 12), values((3, 8), 9.0, 13));
    let twice = |x: &Array2<f64>| ndarray::concatenate![Axis(0), *x, *x];
    for comparison in COMPARISONS {
        let distiller = KnowledgeDistillation::new(3.0)
            .alpha(0.5)
            .comparison(comparison);
        let once = distiller
            .loss(student.view(), teacher.view(), &[0, 1, 2])
            .unwrap();
        let both = distiller
            .loss(
                twice(&student).view(),
                twice(&teacher).view(),
                &[0, 1, 2, 0, 1, 2],
            )
            .unwrap();
        let difference = (once.0.total - both.0.total).abs();
        assert!(difference <= 16.0 * f64::EPSILON * once.0.total);
    }
}

#[test]
fn errors_name_wrong_parameters_and_inputs() {
    let z = array![[1.0_f32, 2.0], [3.0, 4.0]];
    let view = z.view();
    for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = KnowledgeDistillation::new(temperature)
            .validate()
            .unwrap_err();
        assert!(matches!(
            error,
            ParamError::OutOfRange {
                name: "temperature",
                ..
            }
        ));
        assert!(softened_softmax(view, temperature).is_err());
    }
    for alpha in [-0.1, 1.1, f64::NAN] {
        let error = KnowledgeDistillation::new(1.0)
            .alpha(alpha)
            .validate()
            .unwrap_err();
        assert!(matches!(
            error,
            ParamError::OutOfRange { name: "alpha", .. }
        ));
    }
    let distiller = KnowledgeDistillation::new(2.0).alpha(0.5);
    let error = |student: ArrayView2<'_, f32>, teacher: ArrayView2<'_, f32>, labels: &[usize]| {
        distiller.loss(student, teacher, labels).unwrap_err()
    };
    let limit = Error::ExceedsInput {
        what: "a label",
        value: 2,
        limit: 1,
    };
    assert_eq!(error(view, view, &[0, 2]), limit);
    assert!(matches!(
        error(view, view, &[0]),
        Error::ShapeMismatch { what: "labels", .. }
    ));
    // Labels are needed unless their weight is zero.
    assert!(matches!(
        error(view, view, &[]),
        Error::ShapeMismatch { what: "labels", .. }
    ));
    assert!(matches!(
        error(view, z.slice(s![.., ..1]), &[0, 1]),
        Error::ShapeMismatch {
            what: "teacher",
            ..
        }
    ));
    let empty = Array2::<f32>::zeros((0, 2));
    assert!(matches!(
        error(empty.view(), empty.view(), &[]),
        Error::EmptyAxis { .. }
    ));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let wrong = array![[1.0, 2.0], [bad, 4.0]];
        let student = error(wrong.view(), view, &[0, 1]);
        assert!(
            matches!(student, Error::NonFinite { what: "student", index, .. } if index == [1, 0])
        );
        let teacher = error(view, wrong.view(), &[0, 1]);
        assert!(matches!(
            teacher,
            Error::NonFinite {
                what: "teacher",
                ..
            }
        ));
        assert!(softened_softmax(wrong.view(), 1.0).is_err());
    }
}

#[test]
fn the_largest_numbers_give_finite_results_or_an_overflow() {
    let max = f32::MAX;
    let extreme = array![[max, -max, 0.0], [-max, max, 1.0]];
    for temperature in [f64::MIN_POSITIVE, 1e-30, 1.0, 1e30, 1e38, f64::MAX] {
        let p = softened_softmax(extreme.view(), temperature).unwrap();
        for row in p.rows() {
            assert!(row.iter().all(|p| (0.0..=1.0).contains(p)));
            assert!((row.sum() - 1.0).abs() <= 3.0 * f32::EPSILON);
        }
        for (student, teacher) in [(&extreme, &extreme), (&extreme, &(-&extreme))] {
            for comparison in COMPARISONS {
                let distiller = KnowledgeDistillation::new(temperature)
                    .alpha(0.5)
                    .comparison(comparison);
                match distiller.loss(student.view(), teacher.view(), &[0, 1]) {
                    Ok((value, gradient)) => {
                        assert!(value.total.is_finite());
                        assert!(gradient.iter().all(|x| x.is_finite()));
                    }
                    Err(error) => assert!(matches!(error, Error::Overflow { .. })),
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn rows_are_distributions(
        seed: u64,
        classes in 1_usize..70,
        spread in 0.0_f64..200.0,
        log_temperature in -3.0_f64..6.0,
    ) {
        let z = values((3, classes), spread, seed).mapv(|x| x as f32);
        let temperature = log_temperature.exp();
        let p = softened_softmax(z.view(), temperature).unwrap();
        let n = classes as f32;
        for (p, z) in p.rows().into_iter().zip(z.rows()) {
            prop_assert!((p.sum() - 1.0).abs() <= 4.0 * n * f32::EPSILON);
            for i in 0..classes {
                // Probabilities have the order of the logits.
                prop_assert!((0..classes).all(|j| z[i] < z[j] || p[i] >= p[j]));
            }
        }
    }

    #[test]
    fn single_and_double_precision_agree(
        seed: u64,
        classes in 2_usize..40,
        log_temperature in -1.0_f64..9.0,
        alpha in 0.0_f64..=1.0,
    ) {
        let temperature = log_temperature.exp();
        let student = values((2, classes), 12.0, seed).mapv(|x| x as f32);
        let teacher = values((2, classes), 12.0, !seed).mapv(|x| x as f32);
        let labels = labels(2, classes);
        let distiller = KnowledgeDistillation::new(temperature).alpha(alpha);
        let single = distiller.loss(student.view(), teacher.view(), &labels).unwrap();
        let double = distiller
            .loss(student.mapv(f64::from).view(), teacher.mapv(f64::from).view(), &labels)
            .unwrap();
        let epsilon = f64::from(f32::EPSILON);
        // Probabilities of at most 1 with a relative error of some ε each, times αT. The quick way is used up to a T of four
        // spreads.
        let tolerance = 16.0 * epsilon * (1.0 + temperature.min(4.0 * 12.0));
        for (a, b) in single.1.iter().zip(&double.1) {
            prop_assert!((f64::from(*a) - b).abs() <= tolerance);
        }
        let total = f64::from(single.0.total);
        let scale = 1.0 + temperature.min(48.0).powi(2);
        prop_assert!((total - double.0.total).abs() <= 64.0 * epsilon * scale * (1.0 + double.0.total));
        prop_assert!(single.0.soft >= 0.0);
    }
}
