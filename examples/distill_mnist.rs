//! Distillation on MNIST: what a student with one hidden layer of 100 learns from a teacher with two of 1200.
//!
//! G. Hinton, O. Vinyals and J. Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531. `--loss` chooses a
//! later loss instead. With `--transfer`, the students also see shifted copies of the training images, which the teacher labels; a control
//! sees the same images with their true labels.
//!
//! Temperature and weight are chosen on the last 10,000 training images; the test images are used once, after all students are trained.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use clap::{Parser, ValueEnum};
use ndarray::Array2;
use serde::Serialize;
use support::args::Common;
use support::data::{Dataset, Splits, mnist};
use support::json;
use support::network::augment::{Layout, Shift};
use support::network::checkpoint::Checkpoint;
use support::network::distill::{Taught, Teacher};
use support::network::inference::Network;
use support::network::mlp::{CrossEntropy, Mlp};
use support::network::train::Training;
use support::plot::{Axis, Mark, Plot, Scale, Series};
use support::progress::bar;
use support::report::Report;
use support::table::{Table, bytes};
use taper::distill::{Comparison, KnowledgeDistillation};
use taper::{Compressed, Seed};

support::fast_allocator!();

/// Published errors on the 10,000 test images: of the teacher, of the student alone, of the taught student.
const PUBLISHED_TEACHER: usize = 202;
const PUBLISHED_ALONE: usize = 380;
const PUBLISHED_TAUGHT: [(f64, usize); 2] = [(3.0, 347), (10.0, 359)];

/// Pixels by which the images of the teacher are shifted, as in the paper.
const TEACHER_SHIFT: usize = 2;

/// Pixels by which the copies of the transfer set are shifted.
const TRANSFER_SHIFT: usize = 1;

#[derive(Debug, Parser)]
#[command(
    about = "A student with one hidden layer of 100 learns MNIST from a teacher with two of 1200"
)]
struct Args {
    #[command(flatten)]
    common: Common,

    /// Five seeds and five temperatures, as on the page in docs/results.
    #[arg(long)]
    full: bool,

    /// The temperatures to choose from.
    #[arg(long, value_delimiter = ',', value_name = "T,…")]
    temperatures: Option<Vec<f64>>,

    /// The weights of the teacher's loss to choose from, each in [0, 1].
    #[arg(long, value_delimiter = ',', value_name = "α,…")]
    alphas: Option<Vec<f64>>,

    /// How the students are compared with the teacher.
    #[arg(long, value_enum, default_value_t = Loss::Hinton)]
    loss: Loss,

    /// Shifted copies of each training image that only the teacher labels; none by default, 4 with --full.
    #[arg(long, value_name = "N", conflicts_with = "shift")]
    transfer: Option<usize>,

    /// Number of students of each kind. Students with the same number differ only in the teacher.
    #[arg(long, value_name = "N")]
    seeds: Option<usize>,

    /// Passes of the teacher over the training images.
    #[arg(long, value_name = "N")]
    teacher_epochs: Option<usize>,

    /// Pixels by which the images of all students are shifted at random.
    #[arg(long, default_value_t = 0, value_name = "PIXELS")]
    shift: usize,

    /// Also teaches a student without images of this digit, and measures its errors on the digit.
    #[arg(long, value_name = "DIGIT", value_parser = clap::value_parser!(u8).range(0..10))]
    leave_out: Option<u8>,

    /// A folder for the trained teacher; the next run loads it from there.
    #[arg(long, value_name = "FOLDER")]
    checkpoint: Option<std::path::PathBuf>,
}

/// The losses to choose from, with the weights of their papers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
enum Loss {
    /// Hinton et al. 2015.
    Hinton,
    /// Logit standardization, Sun et al. 2024.
    Standardized,
    /// Decoupled distillation, Zhao et al. 2022.
    Dkd,
    /// Correlations, Huang et al. 2022.
    Dist,
}

impl Loss {
    fn comparison(self) -> Comparison {
        match self {
            Self::Hinton => Comparison::Hinton,
            Self::Standardized => Comparison::Standardized,
            Self::Dkd => Comparison::Dkd {
                target: 1.0,
                others: 8.0,
            },
            Self::Dist => Comparison::Dist {
                inter: 1.0,
                intra: 1.0,
            },
        }
    }
}

/// What a student learns from.
#[derive(Debug, Clone, Copy)]
enum Lesson {
    /// The training images and their labels.
    Alone,
    /// The training images and the transfer set, all with their true labels.
    Control,
    /// The same images, with the teacher's logits; the labels of the transfer set are the teacher's too.
    Taught(KnowledgeDistillation),
}

#[derive(Debug, Serialize)]
struct Figures {
    seed: u64,
    epochs: usize,
    teacher_epochs: usize,
    shift: usize,
    loss: Loss,
    /// Shifted copies of each training image.
    transfer: usize,
    teacher_errors: usize,
    teacher_held_out_errors: usize,
    teacher_logits_bytes: u64,
    student_alone_errors: Vec<usize>,
    student_alone_held_out_errors: Vec<usize>,
    /// Of students that see the transfer set with its true labels; empty without a transfer set.
    control_errors: Vec<usize>,
    control_held_out_errors: Vec<usize>,
    rows: Vec<Row>,
    best: Row,
    fewer_errors_percent: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<LeftOut>,
}

/// Students with one temperature and weight: errors on the test images and on the held-out images.
#[derive(Debug, Clone, Serialize)]
struct Row {
    temperature: f64,
    alpha: f64,
    errors: Vec<usize>,
    held_out_errors: Vec<usize>,
}

/// Errors of students trained without a digit, on the test images of that digit.
#[derive(Debug, Serialize)]
struct LeftOut {
    digit: u8,
    images: usize,
    alone_errors: usize,
    taught_errors: usize,
    /// With a constant added to the digit's logit, chosen on the held-out images.
    taught_errors_with_bias: usize,
    bias: f32,
    /// On all test images, with the constant.
    all_errors_with_bias: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut report = Report::new("distill_mnist");
    let quick = args.common.quick;
    let pick = |quick_list: &[f64], normal: &[f64], full: &[f64]| {
        let list = if quick {
            quick_list
        } else if args.full {
            full
        } else {
            normal
        };
        list.to_vec()
    };
    let all = [1.0, 2.0, 3.0, 4.0, 10.0];
    let temperatures = args
        .temperatures
        .clone()
        .unwrap_or_else(|| pick(&[3.0], &[3.0, 10.0], &all));
    let alphas = args
        .alphas
        .clone()
        .unwrap_or_else(|| pick(&[0.9], &[0.9, 1.0], &[0.9, 1.0]));
    let seeds = args
        .seeds
        .unwrap_or(if args.full {
            5
        } else {
            1 + usize::from(!quick)
        })
        .max(1);
    let mut distillers = Vec::new();
    for &temperature in &temperatures {
        for &alpha in &alphas {
            let distiller = KnowledgeDistillation::new(temperature).alpha(alpha);
            distillers.push(distiller.comparison(args.loss.comparison()));
        }
    }
    let mut data = mnist::load()?;
    if quick {
        data = data.first(5_000, 2_000, 2_000);
    }

    let school = School::new(&args, data)?;
    let mut lessons = vec![Lesson::Alone];
    if school.transfer > 0 {
        lessons.push(Lesson::Control);
    }
    let others = lessons.len() * seeds;
    lessons.extend(distillers.iter().copied().map(Lesson::Taught));
    let students = school.students(&lessons, seeds)?;
    let (others, taught) = students.split_at(others);
    let (alone, control) = others.split_at(seeds);
    let held_out = |network: &Network| errors(network, &school.data.held_out);
    let held_out_errors = |networks: &[Network]| {
        networks
            .iter()
            .map(held_out)
            .collect::<anyhow::Result<Vec<_>>>()
    };
    let mut rows = Vec::new();
    for (distiller, networks) in distillers.iter().zip(taught.chunks(seeds)) {
        rows.push(Row {
            temperature: distiller.temperature,
            alpha: distiller.alpha,
            errors: Vec::new(),
            held_out_errors: held_out_errors(networks)?,
        });
    }
    let best = (0..rows.len())
        .min_by(|&a, &b| mean(&rows[a].held_out_errors).total_cmp(&mean(&rows[b].held_out_errors)));
    let best =
        best.ok_or_else(|| anyhow::anyhow!("there is no temperature or no weight to choose from"))?;
    let left_out = args
        .leave_out
        .map(|digit| school.leave_out(digit, rows[best].temperature))
        .transpose()?;

    // Everything is chosen; from here on the test images are used.
    let on_test = |network: &Network| errors(network, &school.data.test);
    let test_errors = |networks: &[Network]| {
        networks
            .iter()
            .map(on_test)
            .collect::<anyhow::Result<Vec<_>>>()
    };
    for (row, networks) in rows.iter_mut().zip(taught.chunks(seeds)) {
        row.errors = test_errors(networks)?;
    }
    let student_alone_errors = test_errors(alone)?;
    let fewer = 1.0 - mean(&rows[best].errors) / mean(&student_alone_errors);
    let figures = Figures {
        seed: args.common.seed,
        epochs: school.epochs,
        teacher_epochs: school.teacher_epochs,
        shift: args.shift,
        loss: args.loss,
        transfer: school.transfer,
        teacher_errors: on_test(&school.teacher)?,
        teacher_held_out_errors: held_out(&school.teacher)?,
        teacher_logits_bytes: Compressed::<f32>::storage(school.said.logits()).bytes(),
        student_alone_errors,
        student_alone_held_out_errors: held_out_errors(alone)?,
        control_errors: test_errors(control)?,
        control_held_out_errors: held_out_errors(control)?,
        best: rows[best].clone(),
        rows,
        fewer_errors_percent: 100.0 * fewer,
        left_out,
    };
    tell(&mut report, &figures, school.data.test.len());
    report.finish(args.common.markdown.as_deref())?;
    if let Some(path) = &args.common.json {
        json::write(path, &figures)?;
    }
    if let Some(path) = &args.common.plot {
        plot(&figures, school.data.test.len()).save(path)?;
    }
    Ok(())
}

/// The trained teacher, its logits, and the common settings of the students.
struct School<'a> {
    args: &'a Args,
    data: Splits,
    teacher: Network,
    /// The training images and the transfer set, with true labels.
    seen: Dataset,
    /// The teacher's logits for these images.
    said: Teacher,
    /// The labels of these images for taught students: those of the transfer set are the teacher's.
    labels: Vec<usize>,
    transfer: usize,
    epochs: usize,
    teacher_epochs: usize,
}

impl<'a> School<'a> {
    /// Trains the teacher, and computes its logits for every image that a student can see.
    fn new(args: &'a Args, data: Splits) -> anyhow::Result<Self> {
        let common = &args.common;
        let teacher_epochs = args
            .teacher_epochs
            .unwrap_or(if common.quick { 6 } else { 20 });
        let training = Training {
            epochs: teacher_epochs,
            batch: 250,
            seed: common.seed("teacher's training"),
            shift: shift(TEACHER_SHIFT),
            checkpoint: args
                .checkpoint
                .clone()
                .map(|folder| Checkpoint { folder, every: 1 }),
            ..Training::default()
        };
        let model = Mlp::new(
            &[mnist::PIXELS, 1200, 1200, mnist::CLASSES],
            common.seed("teacher"),
        )?;
        let (model, _) = training.run(model, &CrossEntropy::default(), &data.train, |model| {
            Ok(Some(model.export()?.accuracy(&data.held_out)?))
        })?;
        let teacher = model.export()?;
        let transfer = if args.shift > 0 {
            0
        } else {
            args.transfer.unwrap_or(if args.full { 4 } else { 0 })
        };
        let seen = with_copies(&data.train, transfer, common.seed("transfer set"));
        let shift = shift(args.shift);
        let bar = bar("logits", shift.map_or(1, |shift| shift.views()));
        let said = Teacher::new(&teacher, &seen, shift.as_ref(), || bar.inc(1))?;
        bar.finish();
        let images = data.train.len();
        let mut labels = data.train.labels.clone();
        let copies = seen.images.slice(ndarray::s![images.., ..]);
        if transfer > 0 {
            labels.extend(teacher.predict(copies)?);
        }
        Ok(Self {
            args,
            data,
            teacher,
            seen,
            said,
            labels,
            transfer,
            epochs: common.epochs_or(20, 2),
            teacher_epochs,
        })
    }

    /// Trains `seeds` students for every lesson, in order.
    fn students(&self, lessons: &[Lesson], seeds: usize) -> anyhow::Result<Vec<Network>> {
        let bar = bar("teaching", lessons.len() * seeds);
        let students = share_out(lessons.len() * seeds, |i| {
            let lesson = lessons[i / seeds];
            let images = match lesson {
                Lesson::Alone => &self.data.train,
                Lesson::Control | Lesson::Taught(_) => &self.seen,
            };
            let student = self.student(lesson, i % seeds, images, &self.said, &self.labels);
            bar.inc(1);
            student
        });
        bar.finish();
        students.into_iter().collect()
    }

    /// Trains one student. Students with the same `number` differ only in the lesson.
    fn student(
        &self,
        lesson: Lesson,
        number: usize,
        data: &Dataset,
        said: &Teacher,
        labels: &[usize],
    ) -> anyhow::Result<Network> {
        let seed = self.args.common.seed("student").derive(number as u64);
        let training = Training {
            epochs: self.epochs,
            seed: seed.derive_name("training"),
            shift: shift(self.args.shift),
            progress: false,
            ..Training::default()
        };
        let model = Mlp::new(&[mnist::PIXELS, 100, mnist::CLASSES], seed)?;
        let (model, _) = match lesson {
            Lesson::Alone | Lesson::Control => {
                training.run(model, &CrossEntropy::default(), data, |_| Ok(None))?
            }
            Lesson::Taught(distiller) => {
                let taught = Taught {
                    distiller,
                    teacher: said,
                    labels,
                };
                training.run(model, &taught, data, |_| Ok(None))?
            }
        };
        model.export()
    }

    /// Trains two students without images of `digit`: one from the teacher's logits alone, and one without a teacher.
    fn leave_out(&self, digit: u8, temperature: f64) -> anyhow::Result<LeftOut> {
        let class = usize::from(digit);
        let train = rows_where(&self.data.train, |label| label != class);
        let said = Teacher::new(
            &self.teacher,
            &train,
            shift(self.args.shift).as_ref(),
            || {},
        )?;
        let by_teacher = KnowledgeDistillation::new(temperature).alpha(1.0);
        let lessons = [Lesson::Alone, Lesson::Taught(by_teacher)];
        let bar = bar("left out", 2);
        let students = share_out(2, |i| {
            let student = self.student(lessons[i], 0, &train, &said, &train.labels);
            bar.inc(1);
            student
        });
        bar.finish();
        let mut students = students.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        // The student's logit of the digit is too low by a constant, which the held-out images determine.
        let with_bias = |network: &Network, bias: f32| {
            let mut network = network.clone();
            if let Some(biases) = network
                .layers
                .last_mut()
                .and_then(|layer| layer.bias.as_mut())
            {
                biases[class] += bias;
            }
            network
        };
        let mut best = (usize::MAX, 0.0);
        for step in 0..=40 {
            let bias = step as f32 * 0.25;
            let count = errors(&with_bias(&students[1], bias), &self.data.held_out)?;
            if count < best.0 {
                best = (count, bias);
            }
        }
        students.push(with_bias(&students[1], best.1));
        let test = rows_where(&self.data.test, |label| label == class);
        Ok(LeftOut {
            digit,
            images: test.len(),
            alone_errors: errors(&students[0], &test)?,
            taught_errors: errors(&students[1], &test)?,
            taught_errors_with_bias: errors(&students[2], &test)?,
            bias: best.1,
            all_errors_with_bias: errors(&students[2], &self.data.test)?,
        })
    }
}

/// Shifts images by up to `pixels`; `None` for zero.
fn shift(pixels: usize) -> Option<Shift> {
    (pixels > 0).then_some(Shift {
        pixels,
        layout: Layout {
            channels: 1,
            side: mnist::SIDE,
        },
        background: mnist::BACKGROUND,
        mirror: false,
    })
}

/// The images, followed by `copies` of each that are shifted at random.
fn with_copies(data: &Dataset, copies: usize, seed: Seed) -> Dataset {
    let Some(shift) = shift(TRANSFER_SHIFT).filter(|_| copies > 0) else {
        return data.clone();
    };
    let mut images: Vec<f32> = data.images.iter().copied().collect();
    for copy in 0..copies {
        for (i, image) in data.images.rows().into_iter().enumerate() {
            let seed = seed.derive((copy * data.len() + i) as u64);
            shift.append(&image.to_vec(), seed, &mut images);
        }
    }
    let shape = ((copies + 1) * data.len(), data.images.ncols());
    Dataset {
        images: Array2::from_shape_vec(shape, images).expect("every copy has the same pixels"),
        labels: data.labels.repeat(copies + 1),
    }
}

/// The images whose label satisfies `keep`.
fn rows_where(data: &Dataset, keep: impl Fn(usize) -> bool) -> Dataset {
    let rows: Vec<usize> = (0..data.len())
        .filter(|&row| keep(data.labels[row]))
        .collect();
    Dataset {
        images: data.images.select(ndarray::Axis(0), &rows),
        labels: rows.iter().map(|&row| data.labels[row]).collect(),
    }
}

/// The number of errors of a network.
fn errors(network: &Network, data: &Dataset) -> anyhow::Result<usize> {
    let predicted = network.predict(data.images.view())?;
    Ok(predicted
        .iter()
        .zip(&data.labels)
        .filter(|(a, b)| a != b)
        .count())
}

/// Computes `f(0), …, f(count − 1)` with one thread per processor: for small networks this is faster than several threads per training.
fn share_out<T: Send>(count: usize, f: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(count));
    let threads = thread::available_parallelism()
        .map_or(1, |n| n.get())
        .min(count);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count {
                        break;
                    }
                    let result = f(i);
                    results
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((i, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|&(i, _)| i);
    results.into_iter().map(|(_, result)| result).collect()
}

fn mean(errors: &[usize]) -> f64 {
    errors.iter().sum::<usize>() as f64 / errors.len().max(1) as f64
}

/// Mean and standard deviation of a sample.
fn spread(errors: &[usize]) -> String {
    let mean = mean(errors);
    let squares: f64 = errors.iter().map(|&x| (x as f64 - mean).powi(2)).sum();
    match errors.len() {
        0 | 1 => format!("{mean:.0}"),
        n => format!("{mean:.1} ± {:.1}", (squares / (n - 1) as f64).sqrt()),
    }
}

fn tell(report: &mut Report, figures: &Figures, test: usize) {
    let title = format!(
        "Errors on {test} test images ({} seeds, mean ± standard deviation; published: on 10,000)",
        figures.student_alone_errors.len()
    );
    let mut table = Table::new(title, ["", "T", "α", "held out", "test", "published"]);
    table.row([
        "teacher",
        "",
        "",
        &figures.teacher_held_out_errors.to_string(),
        &figures.teacher_errors.to_string(),
        &PUBLISHED_TEACHER.to_string(),
    ]);
    table.row([
        "student alone",
        "",
        "",
        &spread(&figures.student_alone_held_out_errors),
        &spread(&figures.student_alone_errors),
        &PUBLISHED_ALONE.to_string(),
    ]);
    if figures.transfer > 0 {
        table.row([
            "student of the same images, true labels",
            "",
            "",
            &spread(&figures.control_held_out_errors),
            &spread(&figures.control_errors),
            "",
        ]);
    }
    for row in &figures.rows {
        let chosen = row.temperature == figures.best.temperature && row.alpha == figures.best.alpha;
        let published = PUBLISHED_TAUGHT.iter().find(|(t, _)| *t == row.temperature);
        table.row([
            if chosen { "taught (chosen)" } else { "taught" },
            &row.temperature.to_string(),
            &row.alpha.to_string(),
            &spread(&row.held_out_errors),
            &spread(&row.errors),
            &published.map_or_else(String::new, |(_, errors)| errors.to_string()),
        ]);
    }
    report.table(&table);
    report.say(&format!(
        "The student chosen on the held-out images makes {:.1} % fewer errors than alone (published: {:.1} %).",
        figures.fewer_errors_percent,
        100.0 * (1.0 - PUBLISHED_TAUGHT[0].1 as f64 / PUBLISHED_ALONE as f64),
    ));
    if figures.transfer > 0 {
        report.say(&format!(
            "Its images are the training images and, of each, {} shifted by up to {TRANSFER_SHIFT} pixel, which the teacher labels. \
             With their true labels and no teacher, a student makes {:.1} % fewer errors than alone.",
            figures.transfer,
            100.0 * (1.0 - mean(&figures.control_errors) / mean(&figures.student_alone_errors)),
        ));
    }
    report.say(&format!(
        "The teacher's logits take {}.",
        bytes(figures.teacher_logits_bytes)
    ));
    if let Some(left_out) = &figures.left_out {
        report.say(&format!(
            "Trained without images of {}: errors on its {} test images are {} alone, {} taught, and, with {} added to its \
             logit, {} ({} on all test images).",
            left_out.digit,
            left_out.images,
            left_out.alone_errors,
            left_out.taught_errors,
            left_out.bias,
            left_out.taught_errors_with_bias,
            left_out.all_errors_with_bias,
        ));
    }
}

fn plot(figures: &Figures, test: usize) -> Plot {
    let percent = |errors: f64, of: usize| 100.0 * errors / of as f64;
    let mut alphas: Vec<f64> = figures.rows.iter().map(|row| row.alpha).collect();
    alphas.sort_by(f64::total_cmp);
    alphas.dedup();
    let ends: Vec<f64> = figures.rows.iter().map(|row| row.temperature).collect();
    let level = |name: &str, height: f64, color: usize| {
        Series::new(
            name,
            Mark::Dashed,
            [
                (ends.iter().copied().fold(f64::MAX, f64::min), height),
                (ends.iter().copied().fold(f64::MIN, f64::max), height),
            ],
        )
        .color(color)
    };
    let mut series: Vec<Series> = alphas
        .iter()
        .map(|&alpha| {
            let rows = figures.rows.iter().filter(|row| row.alpha == alpha);
            let points = rows.map(|row| (row.temperature, percent(mean(&row.errors), test)));
            Series::new(format!("taught, α = {alpha}"), Mark::Line, points)
        })
        .collect();
    series.push(level(
        "student alone",
        percent(mean(&figures.student_alone_errors), test),
        4,
    ));
    if figures.transfer > 0 {
        series.push(level(
            "same images, true labels",
            percent(mean(&figures.control_errors), test),
            6,
        ));
    }
    series.push(level(
        "teacher",
        percent(figures.teacher_errors as f64, test),
        5,
    ));
    series.push(level(
        "published, alone",
        percent(PUBLISHED_ALONE as f64, 10_000),
        3,
    ));
    let published = PUBLISHED_TAUGHT.map(|(t, errors)| (t, percent(errors as f64, 10_000)));
    series.push(Series::new("published, taught", Mark::Points, published).color(3));
    Plot {
        title: "Distillation on MNIST".to_owned(),
        x: Axis::new("temperature", Scale::Log),
        y: Axis::new("test errors in percent", Scale::Linear),
        series,
    }
}
