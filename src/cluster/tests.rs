//! The laws of clustering, held against loops that say what is meant.

use ndarray::{Array1, Array2, ArrayView2, Axis, array, s};
use proptest::prelude::*;
use rand::Rng;

use super::optimal::OptimalScalar;
use super::*;
use crate::{Error, ParamError, power};

pub(super) fn random<F: Float>(points: usize, axes: usize, seed: u64) -> Array2<F> {
    let mut rng = Seed::from(seed).rng();
    // The sum of uniform numbers: round, like weights.
    Array2::from_shape_simple_fn((points, axes), || {
        F::from_f64_lossy((0..4).map(|_| rng.gen_range(-0.5..0.5)).sum())
    })
}

/// Small whole numbers, on which all arithmetic is exact and ties are many.
fn whole(points: usize, axes: usize, seed: u64) -> Array2<f32> {
    let mut rng = Seed::from(seed).rng();
    Array2::from_shape_simple_fn((points, axes), || rng.gen_range(-4..=4) as f32)
}

fn squared_distance<F: Float>(x: ArrayView1<'_, F>, c: ArrayView1<'_, F>) -> f64 {
    let squares = x
        .iter()
        .zip(c)
        .map(|(x, c)| (x.as_f64() - c.as_f64()).powi(2));
    squares.sum()
}

fn naive_assign<F: Float>(points: ArrayView2<'_, F>, centroids: ArrayView2<'_, F>) -> Vec<u32> {
    let nearest = |x: ArrayView1<'_, F>| {
        let mut best = (f64::INFINITY, 0);
        for (c, centroid) in centroids.outer_iter().enumerate() {
            let distance = squared_distance(x, centroid);
            if distance < best.0 {
                best = (distance, c as u32);
            }
        }
        best.1
    };
    points.outer_iter().map(nearest).collect()
}

fn naive_loss<F: Float>(
    points: ArrayView2<'_, F>,
    weights: Option<ArrayView1<'_, F>>,
    result: &Clustering<F>,
) -> f64 {
    let (mut sum, mut mass) = (0.0, 0.0);
    for (i, row) in points.outer_iter().enumerate() {
        let weight = weights.map_or(1.0, |w| w[i].as_f64());
        sum += weight * squared_distance(row, result.centroids.row(result.assignments[i] as usize));
        mass += weight;
    }
    sum / mass
}

/// What holds for every result.
fn check_laws<F: Float>(
    points: ArrayView2<'_, F>,
    weights: Option<ArrayView1<'_, F>>,
    result: &Clustering<F>,
) {
    let losses = &result.report.losses;
    assert!(
        losses.windows(2).all(|pair| pair[1] <= pair[0]),
        "{losses:?}"
    );
    let naive = naive_loss(points, weights, result);
    // Sums of n rounded terms, all positive.
    let tolerance = points.len() as f64 * f64::EPSILON * naive;
    assert!(
        (result.report.loss().unwrap() - naive).abs() <= tolerance,
        "{losses:?} {naive}"
    );
    assert_eq!(
        assign(points, result.centroids.view()).unwrap(),
        result.assignments
    );
}

fn members<F>(result: &Clustering<F>) -> Vec<usize> {
    let mut members = vec![0; result.centroids.nrows()];
    for &cluster in &result.assignments {
        members[cluster as usize] += 1;
    }
    members
}

fn kmeans() -> KMeans {
    KMeans::new()
}

#[test]
fn assignments_equal_the_naive_loop_where_arithmetic_is_exact() {
    for axes in [1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 32, 40] {
        for clusters in [1, 2, 3, 10, 50, 65] {
            let points = whole(333, axes, axes as u64);
            let centroids = whole(clusters, axes, 100 + clusters as u64);
            let expected = naive_assign(points.view(), centroids.view());
            assert_eq!(
                assign(points.view(), centroids.view()),
                Ok(expected.clone())
            );
            let (points, centroids) = (points.mapv(f64::from), centroids.mapv(f64::from));
            assert_eq!(assign(points.view(), centroids.view()), Ok(expected));
        }
    }
}

/// The distance to the assigned centroid is the least but for the rounding of squares, wherever the points lie
/// and whatever their size.
fn assigned_is_nearest<F: Float>(offset: f64, size: f64) {
    let (points, centroids) = (random::<f64>(500, 8, 1), random::<f64>(40, 8, 2));
    let place = |x: f64| F::from_f64_lossy((x + offset) * size);
    let (points, centroids) = (points.mapv(place), centroids.mapv(place));
    let assignments = assign(points.view(), centroids.view()).unwrap();
    for (x, &cluster) in points.outer_iter().zip(&assignments) {
        let least = centroids
            .outer_iter()
            .map(|c| squared_distance(x, c))
            .fold(f64::INFINITY, f64::min);
        let found = squared_distance(x, centroids.row(cluster as usize));
        // Eleven roundings at most of terms no larger than the squared diameter 8 · 4² of the points.
        let tolerance = 11.0 * F::epsilon().as_f64() * 128.0 * size * size;
        assert!(
            found <= least + tolerance,
            "{offset} {size}: {found} {least}"
        );
    }
}

#[test]
fn assigned_is_nearest_anywhere_and_at_any_size() {
    for offset in [0.0, 3.0, -1000.0] {
        for size in [1.0, 1e-30, 1e-15, 1e15, 1e30] {
            assigned_is_nearest::<f32>(offset, size);
        }
        for size in [1.0, 1e-120, 1e120] {
            assigned_is_nearest::<f64>(offset, size);
        }
    }
}

#[test]
fn one_iteration_is_that_of_the_naive_loop() {
    for axes in [1, 3, 8, 11] {
        let points = random::<f32>(700, axes, 3);
        let weights = random::<f32>(700, 1, 4).mapv(f32::abs).remove_axis(Axis(1));
        let start = points.slice(s![..20, ..]).mapv(f64::from);
        let one = KMeans::new()
            .seeding(Seeding::Given(start.clone()))
            .max_iterations(1)
            .cluster(
                points.view(),
                Some(weights.view()),
                20,
                Seed::default(),
                None,
            )
            .unwrap();
        let assignments = naive_assign(points.mapv(f64::from).view(), start.view());
        for c in 0..20 {
            let (mut sum, mut mass) = (Array1::<f64>::zeros(axes), 0.0);
            for i in (0..700).filter(|&i| assignments[i] == c) {
                let weight = f64::from(weights[i]);
                sum.scaled_add(weight, &points.row(i).mapv(f64::from));
                mass += weight;
            }
            for (found, expected) in one.centroids.row(c as usize).iter().zip(sum / mass) {
                // The means are rounded to single precision.
                assert!(
                    (f64::from(*found) - expected).abs()
                        <= f64::from(f32::EPSILON) * expected.abs()
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn laws_hold(points in 1_usize..600, axes in 1_usize..20, clusters in 1_usize..40, seed: u64,
                 seeding in prop_oneof![Just(Seeding::PlusPlus), Just(Seeding::Greedy), Just(Seeding::Random)],
                 coarse: bool, weighted: bool) {
        let data = if coarse { whole(points, axes, seed) } else { random(points, axes, seed) };
        let weights = weighted.then(|| whole(points, 1, seed ^ 1).mapv(f32::abs).remove_axis(Axis(1)));
        let weights = weights.as_ref().map(|w| w.view());
        let usable = weights.filter(|w| w.sum() > 0.0);
        let result = KMeans::new().seeding(seeding).cluster(data.view(), weights, clusters, Seed::from(seed), None).unwrap();
        check_laws(data.view(), usable, &result);
        let mut distinct: Vec<Vec<u32>> = data.outer_iter().enumerate()
            .filter(|(i, _)| usable.is_none_or(|w| w[*i] > 0.0))
            .map(|(_, row)| row.iter().map(|x| (x + 0.0).to_bits()).collect()).collect();
        distinct.sort();
        distinct.dedup();
        if distinct.len() >= clusters {
            prop_assert!(members(&result).iter().all(|&count| count > 0));
        } else {
            prop_assert_eq!(result.report.loss(), Some(0.0));
        }
    }
}

#[test]
fn results_do_not_depend_on_strides_or_threads() {
    let points = random::<f32>(9000, 6, 5);
    let expected = kmeans()
        .cluster(points.view(), None, 30, Seed::from(1), None)
        .unwrap();
    let transposed = points.t().as_standard_layout().into_owned();
    let wide = Array2::from_shape_fn((9000, 12), |(i, j)| {
        if j % 2 == 0 {
            points[[i, j / 2]]
        } else {
            f32::NAN
        }
    });
    let reversed = points.slice(s![..;-1, ..]).to_owned();
    for view in [
        transposed.t(),
        wide.slice(s![.., ..;2]),
        reversed.slice(s![..;-1, ..]),
    ] {
        assert_eq!(
            kmeans()
                .cluster(view, None, 30, Seed::from(1), None)
                .unwrap(),
            expected
        );
        assert_eq!(
            assign(view, expected.centroids.view()).unwrap(),
            expected.assignments
        );
    }
    #[cfg(feature = "rayon")]
    for threads in [1, 2, 4] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let found = pool.install(|| kmeans().cluster(points.view(), None, 30, Seed::from(1), None));
        assert_eq!(found.unwrap(), expected);
    }
}

#[test]
fn groups_are_clustered_as_alone() {
    let matrix = random::<f32>(300, 24, 6);
    let groups: Vec<_> = matrix.axis_chunks_iter(Axis(1), 8).collect();
    let weights = random::<f32>(3, 300, 7).mapv(f32::abs);
    let weights: Vec<_> = weights.outer_iter().collect();
    let seed = Seed::from(8);
    let together = kmeans()
        .cluster_groups(&groups, Some(&weights), 9, seed, None)
        .unwrap();
    for (g, found) in together.iter().enumerate() {
        let alone = kmeans().cluster(groups[g], Some(weights[g]), 9, seed.derive(g as u64), None);
        assert_eq!(alone.as_ref(), Ok(found));
    }
    let missing = kmeans().cluster_groups(&groups, Some(&weights[1..]), 9, seed, None);
    assert!(matches!(missing, Err(Error::ShapeMismatch { .. })));
}

#[test]
fn the_better_restart_is_kept_and_more_never_hurt() {
    let points = random::<f32>(500, 4, 9);
    let loss = |restarts| {
        let result =
            KMeans::new()
                .restarts(restarts)
                .cluster(points.view(), None, 25, Seed::from(3), None);
        result.unwrap().report.loss().unwrap()
    };
    let losses: Vec<f64> = [1, 2, 4, 8].into_iter().map(loss).collect();
    assert!(losses.windows(2).all(|pair| pair[1] <= pair[0]));
    assert!(losses[3] < losses[0]);
}

#[test]
fn weights_count_like_repeated_points() {
    let points = whole(60, 3, 10);
    let counts: Vec<usize> = (0..60).map(|i| i % 4).collect();
    let weights: Array1<f32> = counts.iter().map(|&count| count as f32).collect();
    let repeated: Vec<usize> = (0..60)
        .flat_map(|i| std::iter::repeat_n(i, counts[i]))
        .collect();
    let start = points.slice(s![..7, ..]).mapv(f64::from);
    let clusterer = KMeans::new().seeding(Seeding::Given(start));
    let weighted = clusterer
        .cluster(
            points.view(),
            Some(weights.view()),
            7,
            Seed::default(),
            None,
        )
        .unwrap();
    let plain = clusterer
        .cluster(
            points.select(Axis(0), &repeated).view(),
            None,
            7,
            Seed::default(),
            None,
        )
        .unwrap();
    assert_eq!(weighted.centroids, plain.centroids);
    check_laws(points.view(), Some(weights.view()), &weighted);
}

#[test]
fn pruned_weights_leave_no_cluster_empty() {
    // Nine of ten sub-vectors are zero, and all centroids start there.
    let mut points = random::<f32>(1000, 8, 11);
    for (i, mut row) in points.outer_iter_mut().enumerate() {
        if i % 10 != 0 {
            row.fill(0.0);
        }
    }
    for seeding in [
        Seeding::Given(Array2::zeros((50, 8))),
        Seeding::Random,
        Seeding::PlusPlus,
    ] {
        let result = KMeans::new()
            .seeding(seeding)
            .cluster(points.view(), None, 50, Seed::from(1), None)
            .unwrap();
        check_laws(points.view(), None, &result);
        assert!(members(&result).iter().all(|&count| count > 0));
    }
}

#[test]
fn distinct_points_closer_than_rounding_leave_no_cluster_empty() {
    let points = Array2::from_shape_fn((40, 1), |(i, _)| 1.0 + f32::EPSILON * i as f32);
    let result = kmeans()
        .cluster(points.view(), None, 39, Seed::from(1), None)
        .unwrap();
    assert!(members(&result).iter().all(|&count| count > 0));
    let losses = &result.report.losses;
    assert!(
        losses.windows(2).all(|pair| pair[1] <= pair[0]),
        "{losses:?}"
    );
}

#[test]
fn as_many_clusters_as_points_are_exact() {
    let points = array![
        [1.0_f64, 2.0],
        [0.0, -0.0],
        [1.0, 2.0],
        [-0.0, 0.0],
        [2.0, 3.0]
    ];
    let result = kmeans()
        .cluster(points.view(), None, 5, Seed::default(), None)
        .unwrap();
    assert_eq!(result.assignments, [0, 1, 0, 1, 2]);
    assert_eq!(result.report.losses, [0.0]);
    assert_eq!(
        result.centroids.slice(s![..3, ..]),
        points.select(Axis(0), &[0, 1, 4])
    );
    assert_eq!(
        result.centroids.slice(s![3.., ..]),
        points.select(Axis(0), &[0, 1])
    );
    // Points without weight take what room is left.
    let weights = array![0.0, 0.0, 0.0, 1.0, 1.0];
    let result = kmeans()
        .cluster(
            points.view(),
            Some(weights.view()),
            2,
            Seed::default(),
            None,
        )
        .unwrap();
    assert_eq!(result.assignments, [1, 0, 1, 0, 1]);
    assert_eq!(result.report.losses, [0.0]);
}

#[test]
fn wrong_inputs_are_errors() {
    let points = random::<f32>(10, 2, 12);
    let run = |points: &Array2<f32>, weights: Option<Array1<f32>>, clusters| {
        let weights = weights.as_ref().map(|w| w.view());
        kmeans().cluster(points.view(), weights, clusters, Seed::default(), None)
    };
    assert!(matches!(
        run(&points, None, 0),
        Err(Error::Parameter(ParamError::Zero { .. }))
    ));
    assert!(matches!(
        run(&Array2::zeros((0, 2)), None, 1),
        Err(Error::EmptyAxis { .. })
    ));
    assert!(matches!(
        run(&Array2::zeros((2, 0)), None, 1),
        Err(Error::EmptyAxis { .. })
    ));
    let mut bad = points.clone();
    bad[[3, 1]] = f32::NAN;
    assert!(matches!(run(&bad, None, 2), Err(Error::NonFinite { .. })));
    assert!(matches!(
        run(&points, Some(Array1::ones(9)), 2),
        Err(Error::ShapeMismatch { .. })
    ));
    let negative = run(&points, Some(Array1::from_elem(10, -1.0)), 2);
    assert!(matches!(
        negative,
        Err(Error::Parameter(ParamError::OutOfRange { .. }))
    ));
    let infinite = run(&points, Some(Array1::from_elem(10, f32::INFINITY)), 2);
    assert!(matches!(infinite, Err(Error::NonFinite { .. })));
    let huge = Array2::from_elem((3, 2), 1e200);
    let result = kmeans().cluster(huge.view(), None, 2, Seed::default(), None);
    assert!(matches!(result, Err(Error::Overflow { .. })));
    let given = KMeans::new().seeding(Seeding::Given(Array2::zeros((3, 2))));
    let result = given.cluster(points.view(), None, 2, Seed::default(), None);
    assert!(matches!(result, Err(Error::ShapeMismatch { .. })));
    assert!(assign(points.view(), Array2::zeros((3, 1)).view()).is_err());
    for params in [
        KMeans::new().max_iterations(0),
        KMeans::new().restarts(0),
        KMeans::new().tolerance(f64::NAN),
        KMeans::new().tolerance(1.0),
    ] {
        assert!(params.validate().is_err());
    }
}

/// Compares the clusters of points · 2^`k` and weights · 2^`m` with those of points and weights.
fn assert_scales<F: Float>(engine: &dyn Clusterer<F>, axes: usize, seed: u64, k: i32, m: i32) {
    let points = random::<F>(150, axes, seed);
    let weights = random::<F>(150, 1, seed + 1).column(0).mapv(|w| w.abs());
    let run = |k: i32, m: Option<i32>| {
        let points = power::scaled(&points.view(), k);
        let weights = m.map(|m| power::scaled(&weights.view(), m));
        let weights = weights.as_ref().map(|w| w.view());
        engine
            .cluster(points.view(), weights, 9, Seed::from(seed), None)
            .unwrap()
    };
    for m in [None, Some(m)] {
        let (before, after) = (run(0, m.map(|_| 0)), run(k, m));
        assert_eq!(after.assignments, before.assignments);
        assert_eq!(after.centroids, power::scaled(&before.centroids.view(), k));
        let losses = before.report.losses.iter();
        let losses: Vec<f64> = losses.map(|&x| power::times(x, 2 * k)).collect();
        assert_eq!(after.report.losses, losses);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn points_times_a_power_of_two_give_the_same_clusters(
        axes in 1_usize..5, seed in 0_u64..1000, k in -60_i32..=60, m in -60_i32..=60,
    ) {
        for seeding in [Seeding::PlusPlus, Seeding::Greedy, Seeding::Random] {
            let kmeans = KMeans::new().seeding(seeding);
            assert_scales::<f32>(&kmeans, axes, seed, k, m);
            assert_scales::<f64>(&kmeans, axes, seed, k, m);
        }
        assert_scales::<f32>(&OptimalScalar, 1, seed, k, m);
        assert_scales::<f64>(&OptimalScalar, 1, seed, k, m);
    }
}

/// Values that are tiny beside the largest keep centroids of their own.
#[test]
fn tiny_points_beside_large_ones_are_told_apart() {
    let points = array![[1.0_f32], [-0.5], [1e-12], [-5e-13], [1.0], [1e-12]];
    let kmeans = KMeans::new().cluster(points.view(), None, 4, Seed::default(), None);
    let result = kmeans.unwrap();
    for (i, point) in points.rows().into_iter().enumerate() {
        assert_eq!(result.centroids.row(result.assignments[i] as usize), point);
    }
    assert_eq!(
        assign(points.view(), result.centroids.view()).unwrap(),
        result.assignments
    );
}

#[test]
fn weights_of_any_size_are_fine_and_none_at_all_means_uniform() {
    let points = random::<f64>(100, 2, 13);
    let plain = kmeans()
        .cluster(points.view(), None, 5, Seed::from(2), None)
        .unwrap();
    for weight in [0.0, 1.0, 2_f64.powi(1000), 2_f64.powi(-1000)] {
        let weights = Array1::from_elem(100, weight);
        let result = kmeans().cluster(points.view(), Some(weights.view()), 5, Seed::from(2), None);
        assert_eq!(result.unwrap(), plain, "{weight}");
    }
}
