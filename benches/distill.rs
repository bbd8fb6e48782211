//! The distillation loss with its gradient: 4096 × 1000 logits, and a batch of digits.

use criterion::{Criterion, criterion_group, criterion_main};
use ndarray::{Array2, ArrayView2};
use taper::Distiller;
use taper::distill::{KnowledgeDistillation, softened_softmax};

/// Logits without structure, of a spread as networks have.
fn logits(samples: usize, classes: usize, seed: u64) -> Array2<f32> {
    Array2::from_shape_fn((samples, classes), |(i, j)| {
        let stream = (i * classes + j) as u64;
        taper::Seed::from(seed).uniform(stream) as f32 * 10.0
    })
}

fn distill(c: &mut Criterion) {
    for (samples, classes) in [(4096, 1000), (128, 10)] {
        let (student, teacher) = (logits(samples, classes, 1), logits(samples, classes, 2));
        let labels: Vec<usize> = (0..samples).map(|i| i * 7 % classes).collect();
        let mut gradient = Array2::zeros(student.dim());
        let mut group = c.benchmark_group(format!("distill {samples}x{classes}"));
        for (name, temperature) in [("loss and gradient", 4.0), ("flat, T = 1e4", 1e4)] {
            let loss = KnowledgeDistillation::new(temperature).alpha(0.7);
            group.bench_function(name, |b| {
                b.iter(|| {
                    loss.loss_into(student.view(), teacher.view(), &labels, gradient.view_mut())
                });
            });
        }
        let loss = KnowledgeDistillation::new(4.0).alpha(0.7);
        group.bench_function("loss and gradient, allocating", |b| {
            b.iter(|| loss.loss(student.view(), teacher.view(), &labels));
        });
        let view: ArrayView2<'_, f32> = student.view();
        group.bench_function("softened softmax", |b| {
            b.iter(|| softened_softmax(view, 4.0))
        });
        group.finish();
    }
}

criterion_group!(benches, distill);
criterion_main!(benches);
