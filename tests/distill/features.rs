//! Hints and attention transfer.

use ndarray::{Array1, Array2, Array4, Axis, array, s};
use taper::distill::{AttentionTransfer, HintLoss, HintRegressor};
use taper::{Distiller, Error};

use super::{assert_gradient, values};

#[test]
fn the_hint_loss_has_the_gradient_of_its_value() {
    let (student, teacher) = (values((3, 2, 4), 4.0, 1), values((3, 2, 4), 4.0, 2));
    let distiller = HintLoss::new().weight(0.5);
    let (value, gradient) = distiller.loss(student.view(), teacher.view(), &[]).unwrap();
    assert_gradient(&gradient, &student, 24.0, |s| {
        distiller
            .loss(s.view(), teacher.view(), &[])
            .unwrap()
            .0
            .total
    });
    assert_eq!(value.total, 0.5 * value.soft);
    assert_eq!(value.hard, None);
    let none = distiller.loss(teacher.view(), teacher.view(), &[]).unwrap();
    assert_eq!((none.0.total, none.1.sum()), (0.0, 0.0));
}

#[test]
fn the_regressor_has_the_gradients_of_its_value() {
    let (student, teacher): (Array2<f64>, Array2<f64>) =
        (values((4, 3), 2.0, 3), values((4, 5), 2.0, 4));
    let (weights, bias): (Array2<f64>, Array1<f64>) = (values((5, 3), 2.0, 5), values(5, 2.0, 6));
    let regressor = HintRegressor::new(weights.clone(), bias.clone()).unwrap();
    let (loss, gradient, own) = regressor
        .loss_and_gradients(student.view(), teacher.view())
        .unwrap();
    let value = |weights: &Array2<f64>, bias: &Array1<f64>, student: &Array2<f64>| {
        let regressor = HintRegressor::new(weights.clone(), bias.clone()).unwrap();
        let loss = regressor.loss(student.view(), teacher.view(), &[]).unwrap();
        loss.0.total
    };
    assert_gradient(&gradient, &student, 60.0, |s| value(&weights, &bias, s));
    assert_gradient(&own.weights, &weights, 60.0, |w| value(w, &bias, &student));
    assert_gradient(&own.bias, &bias, 60.0, |b| value(&weights, b, &student));
    let as_distiller = regressor.loss(student.view(), teacher.view(), &[]).unwrap();
    assert_eq!(as_distiller, (loss, gradient));
}

#[test]
fn attention_transfer_has_the_gradient_of_its_value() {
    let student = values((2, 3, 3, 2), 4.0, 7);
    let teacher = values((2, 5, 3, 2), 4.0, 8);
    for exponent in [1.0, 2.0, 3.5] {
        let distiller = AttentionTransfer::new().exponent(exponent).weight(3.0);
        let (value, gradient) = distiller.loss(student.view(), teacher.view(), &[]).unwrap();
        assert_gradient(&gradient, &student, 100.0, |s| {
            distiller
                .loss(s.view(), teacher.view(), &[])
                .unwrap()
                .0
                .total
        });
        assert!((value.total - 3.0 * value.soft).abs() <= 4.0 * f64::EPSILON);
        assert!((0.0..=2.0).contains(&value.soft));
    }
}

/// Attention maps are scaled to length one.
#[test]
fn the_strength_and_sign_of_activations_do_not_change_attention() {
    let (student, teacher) = (values((2, 4, 3, 3), 2.0, 9), values((2, 4, 3, 3), 2.0, 10));
    let distiller = AttentionTransfer::new();
    let (value, _) = distiller.loss(student.view(), teacher.view(), &[]).unwrap();
    for scale in [-4.0, 1e150, 1e-150] {
        let scaled = &student * scale;
        let again = distiller.loss(scaled.view(), teacher.view(), &[]).unwrap();
        assert!((again.0.total - value.total).abs() <= 64.0 * f64::EPSILON);
        // The loss is homogeneous of degree zero, so its gradient is orthogonal to the activations (Euler's theorem).
        let along = (&again.1 * &scaled).sum();
        assert!(along.abs() <= 64.0 * f64::EPSILON, "{along}");
    }
}

#[test]
fn a_student_of_zeros_has_a_loss_and_no_gradient() {
    let student = Array4::<f32>::zeros((1, 2, 2, 2));
    let teacher = Array4::ones((1, 3, 2, 2));
    let (value, gradient) = AttentionTransfer::new()
        .loss(student.view(), teacher.view(), &[])
        .unwrap();
    assert_eq!(value.total, 0.5);
    assert!(gradient.iter().all(|&x| x == 0.0));
}

#[test]
fn views_of_any_strides_give_the_same() {
    let (student, teacher) = (values((4, 3, 2, 5), 2.0, 11), values((4, 3, 2, 5), 2.0, 12));
    let mut turned = student.clone();
    turned.swap_axes(0, 3);
    let turned = turned.as_standard_layout().into_owned();
    let mut view = turned.view();
    view.swap_axes(0, 3);
    let doubled = ndarray::concatenate![Axis(1), teacher, teacher];
    let part = doubled.slice(s![.., 3.., .., ..]);
    let attention = AttentionTransfer::new();
    assert_eq!(
        attention.loss(view, part, &[]),
        attention.loss(student.view(), teacher.view(), &[])
    );
    let hint = HintLoss::new();
    assert_eq!(
        hint.loss(view, part, &[]),
        hint.loss(student.view(), teacher.view(), &[])
    );
}

#[test]
fn errors_name_the_wrong_features() {
    let features = Array4::<f32>::ones((2, 3, 4, 4));
    let view = features.view();
    let attention = AttentionTransfer::new();
    for wrong in [(2, 3, 4, 5), (1, 3, 4, 4)] {
        let wrong = Array4::ones(wrong);
        let error = attention.loss(view, wrong.view(), &[]).unwrap_err();
        assert!(matches!(
            error,
            Error::ShapeMismatch {
                what: "teacher",
                ..
            }
        ));
        let error = HintLoss::new().loss(view, wrong.view(), &[]).unwrap_err();
        assert!(matches!(
            error,
            Error::ShapeMismatch {
                what: "teacher",
                ..
            }
        ));
    }
    let mut bad = features.clone();
    bad[[1, 2, 3, 0]] = f32::NAN;
    assert!(matches!(
        attention.loss(view, bad.view(), &[]),
        Err(Error::NonFinite {
            what: "teacher",
            ..
        })
    ));
    assert!(matches!(
        HintLoss::new().loss(bad.view(), view, &[]),
        Err(Error::NonFinite {
            what: "student",
            ..
        })
    ));
    let none = Array4::<f32>::zeros((2, 0, 4, 4));
    assert!(matches!(
        attention.loss(none.view(), view, &[]),
        Err(Error::EmptyAxis { .. })
    ));
    assert!(AttentionTransfer::new().exponent(0.5).validate().is_err());
    assert!(
        AttentionTransfer::new()
            .weight(f64::NAN)
            .validate()
            .is_err()
    );
    assert!(HintLoss::new().weight(-1.0).validate().is_err());
    let none = ndarray::arr0(1.0);
    assert!(matches!(
        HintLoss::new().loss(none.view(), none.view(), &[]),
        Err(Error::Dimensions { .. })
    ));
    assert!(matches!(
        HintRegressor::new(Array2::<f32>::zeros((2, 3)), Array1::zeros(3)),
        Err(Error::ShapeMismatch { what: "bias", .. })
    ));
    let huge = array![[f32::MAX]];
    let regressor = HintRegressor::new(huge.clone(), array![0.0]).unwrap();
    assert!(matches!(
        regressor.loss(huge.view(), huge.view(), &[]),
        Err(Error::Overflow { .. })
    ));
    assert!(matches!(
        HintLoss::new().loss(huge.view(), (-&huge).view(), &[]),
        Err(Error::Overflow { .. })
    ));
}
