use super::super::als::tests::{low_rank, never_rise, relative_error};
use super::*;
use crate::Compressed;
use ndarray::{ArrayD, Ix3};

fn all_constraints() -> Vec<Constraint> {
    vec![
        Constraint::None,
        Constraint::NonNegative,
        Constraint::L1(0.5),
        Constraint::Ridge(0.05),
        Constraint::Box {
            low: -0.4,
            high: 0.3,
        },
        Constraint::Smooth(0.05),
    ]
}

#[test]
fn without_constraints_the_fit_agrees_with_als() {
    let tensor = low_rank::<f64>(&[9, 8, 7], 3, 0.2, 1);
    let rank = Rank::Fixed(3);
    let als = CpAls::new(rank)
        .precision(Precision::F64)
        .tolerance(1e-12)
        .max_sweeps(500);
    let admm = CpAdmm::new(rank)
        .precision(Precision::F64)
        .tolerance(1e-12)
        .max_sweeps(500);
    let (als, admm) = (
        als.factorize(tensor.view()).unwrap(),
        admm.factorize(tensor.view()).unwrap(),
    );
    // Both end when a sweep gains less than 1e-12 of the squared error.
    let (a, b) = (
        relative_error(&tensor, &als),
        relative_error(&tensor, &admm),
    );
    assert!((a - b).abs() < 1e-6 * a, "{a} and {b}");
}

#[test]
fn penalties_of_zero_and_wide_boxes_change_nothing() {
    let tensor = low_rank::<f64>(&[9, 8, 7], 3, 0.2, 1);
    let fit = |constraint| {
        let admm = CpAdmm::new(Rank::Fixed(3))
            .all(constraint)
            .tolerance(1e-12)
            .max_sweeps(500);
        relative_error(
            &tensor,
            &admm
                .precision(Precision::F64)
                .factorize(tensor.view())
                .unwrap(),
        )
    };
    let free = fit(Constraint::None);
    for constraint in [
        Constraint::L1(0.0),
        Constraint::Ridge(0.0),
        Constraint::Smooth(0.0),
        Constraint::Box {
            low: -1e3,
            high: 1e3,
        },
    ] {
        let error = fit(constraint);
        // Each fit ends when a sweep gains less than 1e-12 of the squared error.
        assert!(
            (error - free).abs() < 1e-6 * free,
            "{constraint:?}: {error} and {free}"
        );
    }
}

#[test]
fn constraints_hold_exactly_and_objectives_never_rise() {
    for seed in 0..3 {
        let tensor = low_rank::<f32>(&[9, 8, 7], 4, 0.2, seed);
        for constraint in all_constraints() {
            let admm = CpAdmm::new(Rank::Fixed(4)).all(constraint).max_sweeps(40);
            let fit = admm.factorize(tensor.view()).unwrap();
            let report = fit.cp_report();
            never_rise(&report.fit);
            assert!(report.fit.iterations > 1, "{constraint:?}");
            let error = relative_error(&tensor, &fit);
            // Rounding errors of n values add up like √n; each value is a sum of four products.
            let tolerance = 16.0 * f64::from(f32::EPSILON) * (tensor.len() as f64).sqrt();
            assert!(
                (error - report.relative_error).abs() < tolerance,
                "{constraint:?}: {error} and {}",
                report.relative_error
            );
            let values = || fit.factors().iter().flatten().map(|&x| f64::from(x));
            match constraint {
                Constraint::NonNegative => {
                    assert!(values().all(|x| x >= 0.0) && fit.weights().iter().all(|&w| w >= 0.0));
                }
                Constraint::Box { low, high } => {
                    assert!(values().all(|x| (low..=high).contains(&x)))
                }
                Constraint::L1(_) => assert!(values().any(|x| x == 0.0)),
                _ => {}
            }
        }
    }
}

#[test]
fn a_tensor_of_known_nonnegative_rank_is_recovered() {
    let tensor = low_rank::<f64>(&[8, 7, 6], 2, 0.0, 4);
    let factors: Vec<_> = CpAls::new(Rank::Fixed(2))
        .precision(Precision::F64)
        .factorize(tensor.view())
        .unwrap()
        .factors()
        .iter()
        .map(|f| f.mapv(f64::abs))
        .collect();
    let weights = ndarray::array![3.0, 2.0];
    let tensor = CpTensor::from_parts(weights, factors, Precision::F64)
        .unwrap()
        .decompress()
        .unwrap();
    let admm = CpAdmm::new(Rank::Fixed(2))
        .all(Constraint::NonNegative)
        .tolerance(1e-10)
        .max_sweeps(3000);
    let fit = admm
        .precision(Precision::F64)
        .factorize(tensor.view())
        .unwrap();
    // The loss falls linearly. The fit ends when a sweep gains less than 1e-10 of it.
    assert!(
        relative_error(&tensor, &fit) < 1e-3,
        "{}",
        relative_error(&tensor, &fit)
    );
    assert!(fit.cp_report().primal_residual < 1e-2 && fit.cp_report().dual_residual < 1e-2);
}

#[test]
fn the_smoothness_penalty_lowers_the_roughness() {
    let tensor = low_rank::<f64>(&[20, 8, 7], 2, 0.5, 1);
    let roughness = |weight| {
        // The ridge on the other factors keeps the scale from moving to them.
        let admm = CpAdmm::new(Rank::Fixed(2))
            .all(Constraint::Ridge(1.0))
            .mode(0, Constraint::Smooth(weight));
        let fit = admm.factorize(tensor.view()).unwrap();
        let factor = fit.factors()[0].clone();
        let steps = factor
            .rows()
            .into_iter()
            .zip(factor.rows().into_iter().skip(1));
        steps
            .map(|(a, b)| (&a - &b).mapv(|x| x * x).sum())
            .sum::<f64>()
    };
    assert!(roughness(1e3) < 0.5 * roughness(0.0));
}

#[test]
fn each_mode_has_its_own_constraint() {
    let tensor = low_rank::<f32>(&[6, 5, 4], 3, 0.1, 2)
        .into_dimensionality::<Ix3>()
        .unwrap();
    let admm = CpAdmm::new(Rank::Fixed(3)).mode(1, Constraint::NonNegative);
    let fit = admm.factorize(tensor.view()).unwrap();
    assert!(fit.factors()[1].iter().all(|&x| x >= 0.0));
    assert!(fit.factors()[0].iter().any(|&x| x < 0.0));
    assert!(matches!(
        CpAdmm::new(Rank::Fixed(3))
            .mode(3, Constraint::NonNegative)
            .factorize(tensor.view()),
        Err(Error::ExceedsInput {
            value: 3,
            limit: 2,
            ..
        })
    ));
    assert!(
        CpAdmm::new(Rank::Fixed(1))
            .mode(0, Constraint::L1(-1.0))
            .validate()
            .is_err()
    );
    assert!(CpAdmm::new(Rank::Fixed(0)).validate().is_err());
}

#[test]
fn zeros_are_rebuilt_exactly() {
    for constraint in all_constraints() {
        let admm = CpAdmm::new(Rank::Fixed(2)).all(constraint);
        let fit = admm
            .factorize(ArrayD::<f32>::zeros(vec![4, 3, 3]).view())
            .unwrap();
        assert!(
            fit.decompress().unwrap().iter().all(|&x| x == 0.0),
            "{constraint:?}"
        );
    }
}
