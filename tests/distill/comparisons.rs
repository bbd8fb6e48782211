//! The ways to compare student and teacher: gradients against finite differences, limits and invariances, errors.

use ndarray::{Array1, Array2, Axis, array, s};
use proptest::prelude::*;
use taper::distill::{Comparison, KnowledgeDistillation, softened_softmax};
use taper::{Distiller, Error, ParamError};

use super::{COMPARISONS, assert_gradient, values};

const DIST: Comparison = Comparison::Dist {
    inter: 1.0,
    intra: 1.0,
};

fn labels(samples: usize, classes: usize) -> Vec<usize> {
    (0..samples).map(|i| (i * 5 + 1) % classes).collect()
}

/// The distance and its gradient at α = 1, for labels as [`labels`] makes them.
fn distance(
    comparison: Comparison,
    temperature: f64,
    student: &Array2<f64>,
    teacher: &Array2<f64>,
) -> (f64, Array2<f64>) {
    let (value, gradient) = KnowledgeDistillation::new(temperature)
        .alpha(1.0)
        .comparison(comparison)
        .loss(
            student.view(),
            teacher.view(),
            &labels(student.nrows(), student.ncols()),
        )
        .unwrap();
    (value.soft, gradient)
}

fn centred(x: &Array2<f64>) -> Array2<f64> {
    x - &x.mean_axis(Axis(1)).unwrap().insert_axis(Axis(1))
}

/// The rows with mean 0 and mean square 1.
fn standardized(x: &Array2<f64>) -> Array2<f64> {
    let x = centred(x);
    let squares = x.mapv(|x| x * x).mean_axis(Axis(1)).unwrap();
    x / squares.mapv(f64::sqrt).insert_axis(Axis(1))
}

fn kl(p: &Array1<f64>, q: &Array1<f64>) -> f64 {
    p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum()
}

fn correlation(a: &Array1<f64>, b: &Array1<f64>) -> f64 {
    let (a, b) = (a - a.mean().unwrap(), b - b.mean().unwrap());
    a.dot(&b) / (a.dot(&a) * b.dot(&b)).sqrt()
}

/// The distance by its definition.
fn naive(
    comparison: Comparison,
    temperature: f64,
    student: &Array2<f64>,
    teacher: &Array2<f64>,
) -> f64 {
    let soft = |x: &Array2<f64>| softened_softmax(x.view(), temperature).unwrap();
    let (samples, classes) = student.dim();
    let rows =
        |q: &Array2<f64>, p: &Array2<f64>, f: &dyn Fn(usize, Array1<f64>, Array1<f64>) -> f64| {
            (0..samples)
                .map(|i| f(i, q.row(i).to_owned(), p.row(i).to_owned()))
                .sum::<f64>()
                / samples as f64
        };
    let (q, p) = (soft(student), soft(teacher));
    match comparison {
        Comparison::Hinton => rows(&q, &p, &|_, q, p| kl(&p, &q)),
        Comparison::Standardized => {
            let (q, p) = (soft(&standardized(student)), soft(&standardized(teacher)));
            rows(&q, &p, &|_, q, p| kl(&p, &q))
        }
        Comparison::Dkd { target, others } => {
            let labels = labels(samples, classes);
            rows(&q, &p, &|i, q, p| {
                let split = |x: &Array1<f64>| {
                    let label = x[labels[i]];
                    let mut rest = x.to_vec();
                    rest.remove(labels[i]);
                    let rest = Array1::from(rest);
                    (array![label, rest.sum()], &rest / rest.sum())
                };
                let ((pair_q, rest_q), (pair_p, rest_p)) = (split(&q), split(&p));
                target * kl(&pair_p, &pair_q) + others * kl(&rest_p, &rest_q)
            })
        }
        Comparison::Dist { inter, intra } => {
            let across = rows(&q, &p, &|_, q, p| 1.0 - correlation(&q, &p));
            let within: f64 = (0..classes)
                .map(|k| 1.0 - correlation(&q.column(k).to_owned(), &p.column(k).to_owned()))
                .sum();
            inter * across + intra * within / classes as f64
        }
        other => panic!("{other:?} has no definition here"),
    }
}

#[test]
fn gradients_are_those_of_the_value() {
    let (student, teacher) = (values((5, 7), 8.0, 1), values((5, 7), 8.0, 2));
    let labels = labels(5, 7);
    for comparison in COMPARISONS {
        for temperature in [0.7, 1.0, 3.0, 20.0, 40.0] {
            for alpha in [0.3, 1.0] {
                let distiller = KnowledgeDistillation::new(temperature)
                    .alpha(alpha)
                    .comparison(comparison);
                let loss =
                    |z: &Array2<f64>| distiller.loss(z.view(), teacher.view(), &labels).unwrap();
                // The value has a size of T², its derivatives of 1/T each, and weights go up to 8.
                let scale = 8.0 * (1.0 + temperature * temperature * 8.0 + 8.0 / temperature);
                assert_gradient(&loss(&student).1, &student, scale, |z| loss(z).0.total);
            }
        }
    }
}

proptest! {
    #[test]
    fn distances_are_those_of_the_definition(
        seed: u64,
        samples in 2_usize..8,
        classes in 2_usize..12,
        log_temperature in -0.5_f64..3.0,
    ) {
        let student = values((samples, classes), 8.0, seed);
        let teacher = values((samples, classes), 8.0, !seed);
        let temperature = log_temperature.exp();
        for comparison in COMPARISONS {
            let expected = naive(comparison, temperature, &student, &teacher);
            let (found, _) = distance(comparison, temperature, &student, &teacher);
            // The definition has logarithms and centred values of probabilities, whose digits are lost where a row is flat:
            // the spread of its probabilities is of the size 1/T, and they are at least exp(−8/T)/K.
            let smallest = (-8.0 / temperature).exp() / classes as f64;
            let tolerance = 64.0 * f64::EPSILON * (classes as f64 * temperature + 8.0 / smallest);
            prop_assert!((found - expected).abs() <= tolerance * (1.0 + expected), "{comparison:?}: {found} and {expected}");
        }
    }

    #[test]
    fn a_student_that_matches_has_nothing_to_learn(seed: u64, log_temperature in -0.5_f64..16.0) {
        let teacher = values((4, 9), 12.0, seed);
        // A constant for each sample changes no probability.
        let student = &teacher + &values((4, 1), 6.0, !seed);
        let temperature = log_temperature.exp();
        for comparison in COMPARISONS {
            let (soft, gradient) = distance(comparison, temperature, &student, &teacher);
            // The rounding of the logits, ε times their size, over T, and squared, as distances are.
            let rounding = 12.0 * f64::EPSILON;
            prop_assert!(soft <= 64.0 * rounding, "{comparison:?}: {soft}");
            // Correlations have derivatives of the size T² where divergences have 1.
            let size = if let Comparison::Dist { .. } = comparison { temperature * temperature } else { 1.0 };
            // The least standard deviation of a lane, which scales its gradient, is some thousandth.
            prop_assert!(gradient.iter().all(|x| x.abs() <= 1e5 * rounding * (1.0 + size)), "{comparison:?}: {gradient}");
        }
    }

    #[test]
    fn single_and_double_precision_agree(seed: u64, log_temperature in -0.5_f64..9.0) {
        let student = values((4, 9), 12.0, seed).mapv(|x| x as f32);
        let teacher = values((4, 9), 12.0, !seed).mapv(|x| x as f32);
        let labels = labels(4, 9);
        for comparison in COMPARISONS.into_iter().filter(|&comparison| comparison != Comparison::Hinton) {
            let distiller = KnowledgeDistillation::new(log_temperature.exp()).alpha(0.6).comparison(comparison);
            let (value, gradient) = distiller.loss(student.view(), teacher.view(), &labels).unwrap();
            let (exact, exact_gradient) = distiller
                .loss(student.mapv(f64::from).view(), teacher.mapv(f64::from).view(), &labels)
                .unwrap();
            // Both are computed in double precision: the results are rounded once.
            let rounded = |a: f32, b: f64| (f64::from(a) - b).abs() <= f64::from(f32::EPSILON) * b.abs() + f64::from(f32::MIN_POSITIVE);
            prop_assert!(rounded(value.total, exact.total));
            prop_assert!(gradient.iter().zip(&exact_gradient).all(|(&a, &b)| rounded(a, b)));
        }
    }
}

/// At a high temperature probabilities are linear in the logits, and every divergence is half a mean square.
#[test]
fn high_temperatures_compare_the_logits() {
    let (student, teacher) = (values((4, 9), 6.0, 5), values((4, 9), 6.0, 6));
    let (samples, classes) = (4.0, 9.0);
    let labels = labels(4, 9);
    let half_squares = |x: &Array2<f64>| x.mapv(|x| x * x).sum() / 2.0 / samples;
    for temperature in [1e4, 1e6, 1e8] {
        // The next term of the series in 1/T has one more factor of the largest logit over T, and weights are up to 8.
        let tolerance = |expected: f64| (8.0 * 6.0 / temperature + 64.0 * f64::EPSILON) * expected;
        let scaled = |comparison| {
            temperature * temperature * distance(comparison, temperature, &student, &teacher).0
        };
        let expected = half_squares(&(standardized(&student) - standardized(&teacher))) / classes;
        let found = scaled(Comparison::Standardized);
        assert!(
            (found - expected).abs() <= tolerance(expected),
            "{found} and {expected}"
        );

        // The other classes among themselves.
        let rest = |x: &Array2<f64>| {
            let rows: Vec<f64> = labels
                .iter()
                .zip(x.rows())
                .flat_map(|(&y, row)| {
                    row.iter()
                        .enumerate()
                        .filter(move |(k, _)| *k != y)
                        .map(|(_, &x)| x)
                        .collect::<Vec<_>>()
                })
                .collect();
            Array2::from_shape_vec((4, 8), rows).unwrap()
        };
        let expected = half_squares(&(centred(&rest(&student)) - centred(&rest(&teacher)))) / 8.0;
        let found = scaled(Comparison::Dkd {
            target: 0.0,
            others: 1.0,
        });
        assert!(
            (found - expected).abs() <= tolerance(expected),
            "{found} and {expected}"
        );

        // The label against the mean of the others; the probability of a class has a variance of (1/K)(1 − 1/K).
        let lead = |x: &Array2<f64>| {
            let means = rest(x).mean_axis(Axis(1)).unwrap();
            Array2::from_shape_fn((4, 1), |(i, _)| x[[i, labels[i]]] - means[i])
        };
        let variance = (1.0 - 1.0 / classes) / classes;
        let expected = variance * half_squares(&(lead(&student) - lead(&teacher)));
        let found = scaled(Comparison::Dkd {
            target: 1.0,
            others: 0.0,
        });
        assert!(
            (found - expected).abs() <= tolerance(expected),
            "{found} and {expected}"
        );

        // Correlations are those of the centred logits themselves.
        let (z, v) = (centred(&student), centred(&teacher));
        let rows: f64 = (0..4)
            .map(|i| 1.0 - correlation(&z.row(i).to_owned(), &v.row(i).to_owned()))
            .sum();
        let columns: f64 = (0..9)
            .map(|k| 1.0 - correlation(&z.column(k).to_owned(), &v.column(k).to_owned()))
            .sum();
        let expected = rows / samples + columns / classes;
        let (found, _) = distance(DIST, temperature, &student, &teacher);
        // A correlation is a ratio: the relative error of its parts counts some times.
        assert!(
            (found - expected).abs() <= 10.0 * tolerance(1.0 + expected),
            "{found} and {expected}"
        );
    }
}

#[test]
fn the_size_of_the_logits_does_not_change_standardized_ones() {
    let (student, teacher) = (values((6, 9), 6.0, 7), values((6, 9), 6.0, 8));
    let (soft, gradient) = distance(Comparison::Standardized, 2.0, &student, &teacher);
    for scale in [2.0_f64.powi(-40), 0.5, 2.0_f64.powi(300)] {
        // Also a constant for each sample, but for scales at which it would swallow the digits of the logits.
        let (again, slopes) = distance(
            Comparison::Standardized,
            2.0,
            &(&student * scale),
            &(&teacher / scale),
        );
        assert!((again - soft).abs() <= 16.0 * f64::EPSILON * soft);
        // A loss without a scale has a derivative that shrinks as the logits grow.
        for (a, b) in slopes.iter().zip(&gradient) {
            assert!((a * scale - b).abs() <= 64.0 * f64::EPSILON);
        }
        // It is orthogonal to the logits (Euler's theorem) and to a constant.
        for (slopes, z) in slopes.rows().into_iter().zip(student.rows()) {
            assert!((slopes.dot(&z) * scale).abs() <= 64.0 * f64::EPSILON);
            assert!((slopes.sum() * scale).abs() <= 64.0 * f64::EPSILON);
        }
    }
    let shifted = &student + &values((6, 1), 8.0, 9);
    let (again, _) = distance(Comparison::Standardized, 2.0, &shifted, &teacher);
    assert!((again - soft).abs() <= 64.0 * f64::EPSILON * (1.0 + soft));
}

#[test]
fn the_loss_of_hinton_is_the_decoupled_one_with_weights_of_each_sample() {
    let (student, teacher) = (values((6, 9), 8.0, 10), values((6, 9), 8.0, 11));
    let labels = labels(6, 9);
    for temperature in [0.8, 2.0, 10.0, 1e5] {
        let p = softened_softmax(teacher.view(), temperature).unwrap();
        for (i, &label) in labels.iter().enumerate() {
            let row = s![i..=i, ..];
            let loss = |comparison| {
                KnowledgeDistillation::new(temperature)
                    .alpha(1.0)
                    .comparison(comparison)
                    .loss(student.slice(row), teacher.slice(row), &[label])
                    .unwrap()
            };
            let (hinton, gradient) = loss(Comparison::Hinton);
            let (decoupled, same) = loss(Comparison::Dkd {
                target: 1.0,
                others: 1.0 - p[[i, label]],
            });
            // Rounding of probabilities, times T for the gradient; the divergence of flat rows is a square of 1/T, and that of Hinton
            // keeps ε/T of it.
            let tolerance = 64.0 * f64::EPSILON;
            assert!(
                (hinton.soft - decoupled.soft).abs()
                    <= tolerance * (hinton.soft + 1.0 / temperature)
            );
            for (a, b) in gradient.iter().zip(&same) {
                assert!((a - b).abs() <= tolerance * temperature.min(8.0));
            }
        }
    }
}

#[test]
fn with_two_classes_only_the_label_is_left_to_compare() {
    let (student, teacher) = (values((6, 2), 8.0, 12), values((6, 2), 8.0, 13));
    let (hinton, gradient) = distance(Comparison::Hinton, 3.0, &student, &teacher);
    let (soft, same) = distance(
        Comparison::Dkd {
            target: 1.0,
            others: 5.0,
        },
        3.0,
        &student,
        &teacher,
    );
    assert!((soft - hinton).abs() <= 16.0 * f64::EPSILON * (1.0 + hinton));
    for (a, b) in gradient.iter().zip(&same) {
        assert!((a - b).abs() <= 16.0 * f64::EPSILON);
    }
}

#[test]
fn probabilities_mixed_with_equal_ones_keep_their_correlations() {
    let teacher = values((6, 9), 8.0, 14);
    for temperature in [1.0, 4.0] {
        let p = softened_softmax(teacher.view(), temperature).unwrap();
        let student = p.mapv(|p| temperature * (0.3 * p + 0.7 / 9.0).ln());
        let (soft, gradient) = distance(DIST, temperature, &student, &teacher);
        // A squared distance of unit vectors, each rounded.
        assert!(soft <= 64.0 * f64::EPSILON);
        assert!(
            gradient
                .iter()
                .all(|x| x.abs() <= 1e5 * f64::EPSILON * temperature)
        );
        let (divergence, _) = distance(Comparison::Hinton, temperature, &student, &teacher);
        assert!(divergence > 0.01);
    }
}

#[test]
fn equal_probabilities_have_nothing_to_correlate() {
    let some = array![[1.0, 2.0, 4.0], [3.0, -1.0, 0.0]];
    let equal = Array2::from_elem((2, 3), 0.3);
    // The rows and the columns of the student are equal: both correlations count as 0, and nothing says where to go.
    let (soft, gradient) = distance(DIST, 1.0, &equal, &some);
    assert!((soft - 2.0).abs() <= 4.0 * f64::EPSILON);
    assert_eq!(gradient, Array2::<f64>::zeros((2, 3)));
    assert_eq!(distance(DIST, 1.0, &some, &equal).0, 0.0);
    let (_, gradient) = distance(Comparison::Standardized, 1.0, &equal, &some);
    assert_eq!(gradient, Array2::<f64>::zeros((2, 3)));
    // A row of one number that has no exact mean.
    let tenth = Array2::from_elem((1, 7), 0.1);
    let (soft, _) = distance(Comparison::Standardized, 1.0, &tenth, &(&tenth + 0.7));
    assert_eq!(soft, 0.0);
}

#[test]
fn errors_name_too_few_classes_samples_and_labels() {
    let loss = |comparison, z: &Array2<f32>, labels: &[usize]| {
        KnowledgeDistillation::new(2.0)
            .alpha(1.0)
            .comparison(comparison)
            .loss(z.view(), z.view(), labels)
    };
    let [hinton, standardized, dkd, dist] = COMPARISONS;
    let one_class = array![[1.0], [2.0]];
    for comparison in [standardized, dkd, dist] {
        let error = loss(comparison, &one_class, &[0, 0]).unwrap_err();
        let expected = Error::Dimensions {
            what: "student",
            expected: "at least two classes to compare",
            shape: vec![2, 1],
        };
        assert_eq!(error, expected);
    }
    assert!(loss(hinton, &one_class, &[0, 0]).is_ok());
    let one_sample = array![[1.0, 2.0]];
    let error = loss(dist, &one_sample, &[0]).unwrap_err();
    assert!(matches!(error, Error::Dimensions { shape, .. } if shape == [1, 2]));
    let within_samples = Comparison::Dist {
        inter: 1.0,
        intra: 0.0,
    };
    assert!(loss(within_samples, &one_sample, &[]).is_ok());
    let within_classes = Comparison::Dist {
        inter: 0.0,
        intra: 1.0,
    };
    assert!(loss(within_classes, &one_class, &[]).is_ok());
    // Decoupling needs to know the label, whatever its weight.
    let error = loss(dkd, &one_sample, &[]).unwrap_err();
    assert!(matches!(error, Error::ShapeMismatch { what: "labels", .. }));
    assert!(loss(standardized, &one_sample, &[]).is_ok());
    for comparison in COMPARISONS {
        for bad in [f32::NAN, f32::INFINITY] {
            let wrong = array![[1.0, 2.0], [bad, 4.0]];
            let error = loss(comparison, &wrong, &[0, 1]).unwrap_err();
            assert!(
                matches!(error, Error::NonFinite { what: "student", index, .. } if index == [1, 0])
            );
        }
    }
    for bad in [-1.0, f64::NAN, f64::INFINITY] {
        for (expected, comparison) in [
            (
                "target",
                Comparison::Dkd {
                    target: bad,
                    others: 1.0,
                },
            ),
            (
                "others",
                Comparison::Dkd {
                    target: 1.0,
                    others: bad,
                },
            ),
            (
                "inter",
                Comparison::Dist {
                    inter: bad,
                    intra: 1.0,
                },
            ),
            (
                "intra",
                Comparison::Dist {
                    inter: 1.0,
                    intra: bad,
                },
            ),
        ] {
            let error = KnowledgeDistillation::new(1.0)
                .comparison(comparison)
                .validate();
            assert!(matches!(error, Err(ParamError::OutOfRange { name, .. }) if name == expected));
        }
    }
}
