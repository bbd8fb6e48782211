//! MNIST: 60,000 training and 10,000 test images of 28×28 grey levels, ten digits.
//!
//! Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document
//! recognition", Proceedings of the IEEE 86(11), 1998, doi:10.1109/5.726791.

use std::path::{Path, PathBuf};

use ndarray::{Array2, ArrayView2};

use super::{DataError, Dataset, Splits, idx};

/// The number of classes.
pub const CLASSES: usize = 10;
/// Rows and columns of an image.
pub const SIDE: usize = 28;
/// The number of pixels of an image.
pub const PIXELS: usize = SIDE * SIDE;
/// How many images at the end of the training set are held out.
pub const HELD_OUT: usize = 10_000;

// Mean and standard deviation of the grey levels of the training images, from 0 to 1.
const MEAN: f32 = 0.1307;
const DEVIATION: f32 = 0.3081;

/// The normalized value of a pixel without ink.
pub const BACKGROUND: f32 = -MEAN / DEVIATION;

/// The grey levels of normalized images: 0 without ink, 255 all ink.
pub fn grey_levels(images: ArrayView2<'_, f32>) -> Array2<u8> {
    images.mapv(|x| ((x * DEVIATION + MEAN) * 255.0).round() as u8)
}

/// The folder in the environment variable `MNIST_DIR` or, if it is not set, `examples/data/mnist` of the repository.
pub fn folder() -> PathBuf {
    std::env::var_os("MNIST_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mnist"),
        PathBuf::from,
    )
}

/// Loads 50,000 images for training, 10,000 held out and 10,000 for the test, from [`folder`].
///
/// # Errors
///
/// [`DataError`], as [`load_from`].
pub fn load() -> Result<Splits, DataError> {
    load_from(&folder())
}

/// Loads the images from a folder with the four published files, gzipped or not.
///
/// # Errors
///
/// [`DataError`] if the folder or a file is missing, a file has another magic number or a wrong length, the numbers of labels and
/// images differ, or a label is not a digit.
pub fn load_from(folder: &Path) -> Result<Splits, DataError> {
    if !folder.is_dir() {
        return Err(DataError::MissingFolder {
            path: folder.to_owned(),
            hint: "the environment variable MNIST_DIR names the folder with the four files of MNIST",
        });
    }
    let (train, held_out) =
        pair(folder, "train-images.idx3-ubyte", "train-labels.idx1-ubyte")?.split(HELD_OUT);
    let test = pair(folder, "t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte")?;
    Ok(Splits {
        train,
        held_out,
        test,
    })
}

fn pair(folder: &Path, images: &'static str, labels: &'static str) -> Result<Dataset, DataError> {
    let images = idx::read::<3>(folder, images)?;
    let labels = idx::read::<1>(folder, labels)?;
    let [count, rows, columns] = images.shape;
    if [rows, columns] != [SIDE as u32; 2] {
        return Err(DataError::ImageSize {
            path: images.path,
            expected: [SIDE as u32; 2],
            found: [rows, columns],
        });
    }
    let count = count as usize;
    if count != labels.values.len() {
        return Err(DataError::Count {
            folder: folder.to_owned(),
            images: count,
            labels: labels.values.len(),
        });
    }
    let wrong = labels
        .values
        .iter()
        .position(|&label| usize::from(label) >= CLASSES);
    if let Some(index) = wrong {
        return Err(DataError::Label {
            path: labels.path,
            index,
            label: labels.values[index].into(),
            classes: CLASSES,
        });
    }
    // One value for each of the 256 grey levels.
    let level: Vec<f32> = (0..=u8::MAX)
        .map(|grey| (f32::from(grey) / 255.0 - MEAN) / DEVIATION)
        .collect();
    let pixels = images
        .values
        .iter()
        .map(|&grey| level[usize::from(grey)])
        .collect();
    Ok(Dataset {
        images: Array2::from_shape_vec((count, PIXELS), pixels)
            .expect("the length was checked against the header"),
        labels: labels.values.into_iter().map(usize::from).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::fs;
    use std::io::Write;

    /// A temporary folder for one test, removed when dropped.
    struct Folder(PathBuf);

    impl Folder {
        /// Writes four files with two images each; the second label of the test set is 7.
        fn new(test: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("taper-mnist-{test}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            let folder = Self(path);
            for prefix in ["train", "t10k"] {
                folder.write(&format!("{prefix}-images.idx3-ubyte"), &images(2));
                folder.write(&format!("{prefix}-labels.idx1-ubyte"), &labels(&[3, 7]));
            }
            folder
        }

        fn write(&self, name: &str, bytes: &[u8]) {
            fs::write(self.0.join(name), bytes).unwrap();
        }

        fn load(&self) -> Result<Splits, DataError> {
            load_from(&self.0)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn file(magic: u32, shape: &[u32], values: &[u8]) -> Vec<u8> {
        let mut bytes = magic.to_be_bytes().to_vec();
        bytes.extend(shape.iter().flat_map(|n| n.to_be_bytes()));
        bytes.extend(values);
        bytes
    }

    fn images(count: u32) -> Vec<u8> {
        let values: Vec<u8> = (0..count as usize * PIXELS).map(|i| i as u8).collect();
        file(0x0803, &[count, SIDE as u32, SIDE as u32], &values)
    }

    fn labels(values: &[u8]) -> Vec<u8> {
        file(0x0801, &[values.len() as u32], values)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn well_formed_files_are_read() {
        let splits = Folder::new("good").load().unwrap();
        // Two training images, both held out.
        assert_eq!((splits.train.len(), splits.held_out.len()), (0, 2));
        assert_eq!(splits.test.labels, [3, 7]);
        assert_eq!(splits.test.images.dim(), (2, PIXELS));
        assert_eq!(splits.test.images[[0, 0]], BACKGROUND);
        assert_eq!(splits.test.images[[0, 255]], (1.0 - MEAN) / DEVIATION);
    }

    #[test]
    fn gzipped_files_are_read_where_there_are_no_plain_ones() {
        let folder = Folder::new("gzip");
        fs::remove_file(folder.0.join("t10k-labels.idx1-ubyte")).unwrap();
        folder.write("t10k-labels.idx1-ubyte.gz", &gzip(&labels(&[1, 2])));
        assert_eq!(folder.load().unwrap().test.labels, [1, 2]);
    }

    #[test]
    fn a_missing_folder_names_the_variable() {
        let error = load_from(Path::new("/nowhere/mnist")).unwrap_err();
        assert!(matches!(error, DataError::MissingFolder { .. }));
        assert!(error.to_string().contains("MNIST_DIR"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let folder = Folder::new("missing");
        fs::remove_file(folder.0.join("train-images.idx3-ubyte")).unwrap();
        let error = folder.load().unwrap_err();
        assert!(matches!(
            error,
            DataError::MissingFile {
                name: "train-images.idx3-ubyte",
                ..
            }
        ));
    }

    #[test]
    fn a_wrong_magic_number_is_told() {
        let folder = Folder::new("magic");
        folder.write("train-images.idx3-ubyte", &labels(&[3, 7]));
        assert!(matches!(
            folder.load().unwrap_err(),
            DataError::Magic {
                expected: 0x0803,
                found: 0x0801,
                ..
            }
        ));
    }

    #[test]
    fn every_length_but_the_right_one_is_told() {
        let folder = Folder::new("short");
        let whole = images(2);
        for length in [0, 3, 4, 10, 16, 17, whole.len() - 1] {
            folder.write("train-images.idx3-ubyte", &whole[..length]);
            let error = folder.load().unwrap_err();
            assert!(
                matches!(error, DataError::Length { found, .. } if found == length as u64),
                "{length} bytes: {error}"
            );
        }
        folder.write("train-images.idx3-ubyte", &[whole, vec![0]].concat());
        assert!(matches!(
            folder.load().unwrap_err(),
            DataError::Length { .. }
        ));
    }

    #[test]
    fn a_gzipped_file_cut_short_is_told() {
        let folder = Folder::new("short-gzip");
        fs::remove_file(folder.0.join("train-images.idx3-ubyte")).unwrap();
        let packed = gzip(&images(2));
        folder.write("train-images.idx3-ubyte.gz", &packed[..packed.len() / 2]);
        let expected = images(2).len() as u64;
        let error = folder.load().unwrap_err();
        assert!(
            matches!(error, DataError::Length { expected: e, found, .. } if e == expected && found < e),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_is_no_gzip_is_told() {
        let folder = Folder::new("no-gzip");
        fs::remove_file(folder.0.join("train-images.idx3-ubyte")).unwrap();
        folder.write("train-images.idx3-ubyte.gz", b"<html>not found</html>");
        assert!(matches!(
            folder.load().unwrap_err(),
            DataError::Unreadable { .. }
        ));
    }

    #[test]
    fn a_header_that_promises_more_than_memory_holds_is_told() {
        let folder = Folder::new("huge");
        folder.write(
            "train-images.idx3-ubyte",
            &file(0x0803, &[u32::MAX; 3], &[]),
        );
        assert!(matches!(
            folder.load().unwrap_err(),
            DataError::Length { .. }
        ));
    }

    #[test]
    fn labels_that_do_not_go_with_the_images_are_told() {
        let folder = Folder::new("count");
        folder.write("t10k-labels.idx1-ubyte", &labels(&[3, 7, 1]));
        assert!(matches!(
            folder.load().unwrap_err(),
            DataError::Count {
                images: 2,
                labels: 3,
                ..
            }
        ));
    }

    #[test]
    fn images_of_another_size_and_labels_that_are_no_digits_are_told() {
        let folder = Folder::new("size");
        folder.write("t10k-images.idx3-ubyte", &file(0x0803, &[2, 1, 1], &[0, 0]));
        assert!(matches!(
            folder.load().unwrap_err(),
            DataError::ImageSize { found: [1, 1], .. }
        ));
        folder.write("t10k-images.idx3-ubyte", &images(2));
        folder.write("t10k-labels.idx1-ubyte", &labels(&[3, 10]));
        assert!(matches!(
            folder.load().unwrap_err(),
            DataError::Label {
                index: 1,
                label: 10,
                ..
            }
        ));
    }

    #[test]
    fn the_published_files_are_whole() {
        let splits = load_from(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mnist")).unwrap();
        assert_eq!(splits.train.images.dim(), (50_000, PIXELS));
        assert_eq!(splits.held_out.len(), 10_000);
        assert_eq!(splits.test.len(), 10_000);
        let pixels = splits.train.images.mapv(f64::from);
        // The constants have four digits, and belong to all 60,000 images.
        assert!(pixels.mean().unwrap().abs() < 1e-2);
        assert!((pixels.std(0.0) - 1.0).abs() < 1e-2);
    }
}
