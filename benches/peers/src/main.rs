//! taper's side of the comparison that `benches/peers/run` makes.
//!
//! Reads commands from standard input, one per line. It answers each with one line: `ok` and numbers by name, or `error` and a message.
//!
//! | command | what it does |
//! |---|---|
//! | `machine BYTES` | measures the peak rate of multiply-adds, and of reading `BYTES` again and again |
//! | `load TASK name=value …` | loads a task (see `work/`) and its inputs |
//! | `time SECONDS` | runs the task as often as fits into that time, at least once |
//! | `save FOLDER` | writes the result as `.npy` |
//!
//! The number of threads is that of rayon: `RAYON_NUM_THREADS`.

mod arrays;
mod machine;
mod work;

use std::fmt::Write as _;
use std::io::{BufRead, Write as _};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use work::{Arguments, Work};

/// Numbers by name.
type Numbers = Vec<(&'static str, f64)>;

fn main() -> anyhow::Result<()> {
    let mut loaded = None;
    for line in std::io::stdin().lock().lines() {
        let answer = match answer(&line?, &mut loaded) {
            Ok(numbers) => numbers
                .iter()
                .fold(String::from("ok"), |mut text, (name, value)| {
                    // Writing to a string does not fail.
                    let _ = write!(text, " {name}={value:e}");
                    text
                }),
            Err(error) => format!("error {error:#}").replace('\n', " "),
        };
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn answer(line: &str, loaded: &mut Option<Box<dyn Work>>) -> anyhow::Result<Numbers> {
    let mut words = line.split_whitespace();
    let command = words.next().context("the command is empty")?;
    match command {
        "machine" => {
            let bytes = words
                .next()
                .context("machine needs a number of bytes")?
                .parse()?;
            Ok(machine::measure(bytes))
        }
        "load" => {
            // Drops the previous task first: two large tasks may not fit the memory.
            *loaded = None;
            let name = words.next().context("load needs the name of a task")?;
            *loaded = Some(work::load(name, &Arguments::parse(words)?)?);
            Ok(Vec::new())
        }
        "time" => {
            let work = loaded.as_mut().context("no task is loaded")?;
            let seconds: f64 = words
                .next()
                .context("time needs a number of seconds")?
                .parse()?;
            let start = Instant::now();
            let mut calls = 0.0;
            loop {
                work.run()?;
                calls += 1.0;
                let elapsed = start.elapsed().as_secs_f64();
                if elapsed >= seconds {
                    return Ok(vec![("seconds", elapsed / calls), ("calls", calls)]);
                }
            }
        }
        "save" => {
            let work = loaded.as_ref().context("no task is loaded")?;
            work.save(Path::new(words.next().context("save needs a folder")?))
        }
        command => bail!("unknown command {command}"),
    }
}
