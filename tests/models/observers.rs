//! Observers of the compression of a whole model.

use std::ops::ControlFlow;
use std::sync::Mutex;

use taper::model::{Budget, CompressOptions, NamedTensors, few_bit_candidates};
use taper::quantize::product::ProductQuantizer;
use taper::{Error, Progress, Stage};

use crate::{model, numbers, recipe};

fn network() -> NamedTensors {
    model(&[
        ("a", numbers(&[16, 16], 1)),
        ("b", numbers(&[16, 16], 2)),
        ("bias", numbers(&[16], 3)),
    ])
}

#[test]
fn progress_names_each_tensor_and_counts_to_the_end() {
    type Seen = (Option<String>, Stage, usize, usize);
    let seen: Mutex<Vec<Seen>> = Mutex::default();
    let observer = |progress: &Progress<'_>| {
        seen.lock().unwrap().push((
            progress.tensor.map(str::to_owned),
            progress.stage,
            progress.iteration,
            progress.max_iterations,
        ));
        ControlFlow::Continue(())
    };
    let network = network();
    let recipe = recipe(vec![ProductQuantizer::with_width(4).centroids(4).into()]);
    let options = CompressOptions::default();
    let free = recipe.compress(&network, &options).unwrap();
    let observed = recipe
        .compress(&network, &options.observer(&observer))
        .unwrap();
    assert_eq!(observed.1, free.1);
    assert_eq!(observed.0.to_bytes(), free.0.to_bytes());
    let check = |seen: Vec<(Option<String>, Stage, usize, usize)>| {
        let model: Vec<_> = seen
            .iter()
            .filter(|(_, stage, ..)| *stage == Stage::Model)
            .map(|(tensor, _, done, count)| (tensor.as_deref(), *done, *count))
            .collect();
        let expected = [
            (Some("a"), 0, 3),
            (Some("b"), 1, 3),
            (Some("bias"), 2, 3),
            (None, 3, 3),
        ];
        assert_eq!(model, expected);
        // Fits stand between their tensor and the next, under its name.
        let mut current = None;
        for (tensor, stage, ..) in &seen {
            if *stage == Stage::Model {
                current.clone_from(tensor);
            }
            assert_eq!(tensor, &current);
        }
        let fits = |name| {
            seen.iter()
                .filter(|(tensor, stage, ..)| {
                    tensor.as_deref() == Some(name) && *stage == Stage::KMeans
                })
                .count()
        };
        assert!(fits("a") > 0 && fits("b") > 0 && fits("bias") == 0);
    };
    check(std::mem::take(&mut *seen.lock().unwrap()));
    // A budget works on several tensors at a time: each is named once, by a number of its own, and its fits bear its name.
    for candidates in [None, Some(few_bit_candidates())] {
        let mut budget = Budget::ratio(3.0).observer(&observer);
        let few_bit = candidates.is_some();
        if let Some(candidates) = candidates {
            budget = budget.candidates(candidates);
        }
        budget.compress(&network).unwrap();
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        let (model, fits): (Vec<_>, Vec<_>) = seen
            .into_iter()
            .partition(|(_, stage, ..)| *stage == Stage::Model);
        let mut first: Vec<_> = model[..4]
            .iter()
            .map(|(tensor, _, done, count)| (*done, *count, tensor.clone()))
            .collect();
        first.sort();
        let numbers: Vec<_> = first
            .iter()
            .map(|&(done, count, _)| (done, count))
            .collect();
        assert_eq!(numbers, [(0, 3), (1, 3), (2, 3), (3, 3)]);
        let mut names: Vec<_> = first.into_iter().map(|(.., tensor)| tensor).collect();
        names.sort();
        let expected = [None, Some("a"), Some("b"), Some("bias")];
        assert_eq!(names, expected.map(|name| name.map(str::to_owned)));
        assert_eq!(few_bit, !fits.is_empty());
        let named = |tensor: &Option<String>| matches!(tensor.as_deref(), Some("a" | "b"));
        assert!(fits.iter().all(|(tensor, ..)| named(tensor)));
    }
}

#[test]
fn an_observer_stops_the_compression_of_a_model() {
    let network = network();
    let recipe = recipe(vec![ProductQuantizer::with_width(4).centroids(4).into()]);
    for end in 0..=3 {
        let stop = |progress: &Progress<'_>| {
            if progress.stage == Stage::Model && progress.iteration == end {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let options = CompressOptions::default().observer(&stop);
        let stopped = recipe.compress(&network, &options);
        assert!(matches!(stopped, Err(Error::Stopped { .. })), "{end}");
        let path = std::env::temp_dir().join(format!("taper-stopped-{}", std::process::id()));
        let stopped = recipe.compress_file(&network, &path, &options);
        assert!(matches!(stopped, Err(Error::Stopped { .. })), "{end}");
        let stopped = Budget::ratio(2.0)
            .observer(&stop)
            .compress_file(&network, &path);
        assert!(matches!(stopped, Err(Error::Stopped { .. })), "{end}");
        assert!(!path.exists(), "a stopped compression leaves no file");
    }
}
