//! CIFAR-10: 50,000 training and 10,000 test images of 32×32 pixels in three colours, ten classes.
//!
//! A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. Reads the published binary
//! files: for each image a byte for the label, then 1024 bytes each of red, green and blue, row by row.

use std::fs;
use std::path::{Path, PathBuf};

use ndarray::Array2;

use super::{DataError, Dataset, Splits};

/// The number of classes.
pub const CLASSES: usize = 10;
/// Rows and columns of an image.
pub const SIDE: usize = 32;
/// The number of values of an image.
pub const VALUES: usize = 3 * SIDE * SIDE;
/// How many images at the end of the training set are held out.
pub const HELD_OUT: usize = 5_000;

const TRAIN: [&str; 5] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
];
const TEST: [&str; 1] = ["test_batch.bin"];

// Mean and standard deviation of each colour over the training images, from 0 to 1.
const MEAN: [f32; 3] = [0.4914, 0.4822, 0.4465];
const DEVIATION: [f32; 3] = [0.2470, 0.2435, 0.2616];

const HINT: &str = "the environment variable CIFAR10_DIR names the folder with data_batch_1.bin to \
                    data_batch_5.bin and test_batch.bin, from the archive cifar-10-binary.tar.gz of \
                    https://www.cs.toronto.edu/~kriz/cifar.html";

/// Loads 45,000 images for training, 5,000 held out and 10,000 for the test, from the folder in the environment variable
/// `CIFAR10_DIR` or, if it is not set, from `cifar-10-batches-bin` in the working directory.
///
/// # Errors
///
/// [`DataError`], as [`load_from`].
pub fn load() -> Result<Splits, DataError> {
    let folder = std::env::var_os("CIFAR10_DIR")
        .map_or_else(|| PathBuf::from("cifar-10-batches-bin"), PathBuf::from);
    load_from(&folder)
}

/// Loads the images from a folder with the six published files.
///
/// # Errors
///
/// [`DataError`] if the folder or a file is missing, a file has an incomplete record, or a label is not a class.
pub fn load_from(folder: &Path) -> Result<Splits, DataError> {
    if !folder.is_dir() {
        return Err(DataError::MissingFolder {
            path: folder.to_owned(),
            hint: HINT,
        });
    }
    let (train, held_out) = read(folder, &TRAIN)?.split(HELD_OUT);
    let test = read(folder, &TEST)?;
    Ok(Splits {
        train,
        held_out,
        test,
    })
}

fn read(folder: &Path, names: &[&str]) -> Result<Dataset, DataError> {
    const RECORD: usize = 1 + VALUES;
    let mut values = Vec::new();
    let mut labels = Vec::new();
    for name in names {
        let path = folder.join(name);
        let bytes = fs::read(&path).map_err(|source| DataError::Unreadable {
            path: path.clone(),
            source,
        })?;
        let records = bytes.chunks_exact(RECORD);
        if bytes.is_empty() || !records.remainder().is_empty() {
            return Err(DataError::Length {
                path,
                expected: (bytes.len().div_ceil(RECORD).max(1) * RECORD) as u64,
                found: bytes.len() as u64,
            });
        }
        for (index, record) in records.enumerate() {
            let label = usize::from(record[0]);
            if label >= CLASSES {
                return Err(DataError::Label {
                    path,
                    index,
                    label,
                    classes: CLASSES,
                });
            }
            labels.push(label);
            for (colour, plane) in record[1..].chunks(SIDE * SIDE).enumerate() {
                let (mean, deviation) = (MEAN[colour], DEVIATION[colour]);
                let normal = |&byte: &u8| (f32::from(byte) / 255.0 - mean) / deviation;
                values.extend(plane.iter().map(normal));
            }
        }
    }
    Ok(Dataset {
        images: Array2::from_shape_vec((labels.len(), VALUES), values)
            .expect("every record has as many values"),
        labels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(test: &str, bytes: &[u8]) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("taper-cifar-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for name in TRAIN.iter().chain(&TEST) {
            fs::write(folder.join(name), bytes).unwrap();
        }
        folder
    }

    fn record(label: u8, level: u8) -> Vec<u8> {
        let mut record = vec![level; 1 + VALUES];
        record[0] = label;
        record
    }

    #[test]
    fn records_are_read_with_their_labels_and_colours() {
        let folder = folder("good", &[record(3, 0), record(9, 255)].concat());
        let splits = load_from(&folder).unwrap();
        // Ten training images, all of them held out.
        assert_eq!((splits.train.len(), splits.held_out.len()), (0, 10));
        assert_eq!(splits.test.labels, [3, 9]);
        for colour in 0..3 {
            let at = [1, colour * SIDE * SIDE];
            let expected = (1.0 - MEAN[colour]) / DEVIATION[colour];
            assert_eq!(splits.test.images[at], expected);
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn files_that_are_not_whole_and_labels_that_are_no_classes_are_told() {
        let whole = record(3, 0);
        let folder = folder("bad", &whole[..1000]);
        assert!(matches!(
            load_from(&folder),
            Err(DataError::Length { found: 1000, expected, .. }) if expected == 1 + VALUES as u64
        ));
        fs::write(folder.join(TRAIN[0]), record(10, 0)).unwrap();
        assert!(matches!(
            load_from(&folder),
            Err(DataError::Label {
                label: 10,
                index: 0,
                ..
            })
        ));
        fs::remove_file(folder.join(TRAIN[0])).unwrap();
        assert!(matches!(
            load_from(&folder),
            Err(DataError::Unreadable { .. })
        ));
        fs::remove_dir_all(&folder).unwrap();
        let error = load_from(&folder).unwrap_err().to_string();
        assert!(error.contains("CIFAR10_DIR") && error.contains("cifar-10-binary.tar.gz"));
    }
}
