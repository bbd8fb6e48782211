//! The arrays and descriptions of one tensor in a container.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hasher};

use super::description::{CodedPart, Description, PartLine, whole_bytes};
use super::names::join;
use crate::model::TensorData;
use crate::model::entropy::{self, Coding, Laws, Order};
use crate::model::entry::{CodedTensor, CompressedTensor, Fingerprint};
use crate::model::extend::Artifact;
use crate::model::ties::can_be_tied;
use crate::{DType, Error, Result};

/// The bytes that the description of a coding takes: a part is coded only if that saves more.
const MARGIN: usize = 24;

/// Codes a tensor.
pub(super) fn code(tensor: &CompressedTensor) -> Result<CodedTensor> {
    let artifact = tensor.artifact();
    let mut description = Description::new(artifact)?;
    if tensor.shape() != artifact.shape() {
        description.view = Some(tensor.shape().to_vec());
    }
    if tensor.dtype() != DType::F32 {
        description.dtype = Some(tensor.dtype());
    }
    let mut coded = CodedTensor {
        arrays: Vec::new(),
        descriptions: Vec::new(),
        fingerprint: None,
    };
    coded.artifact("", artifact, description)?;
    if can_be_tied(tensor.shape()) {
        coded.fingerprint = Some(fingerprint(&coded.arrays, &coded.descriptions));
    }
    Ok(coded)
}

/// Adds the length of some bytes, and then the bytes.
fn add(hashers: &mut [DefaultHasher; 2], bytes: &[u8]) {
    /// What stays in the cache for the second pass.
    const CHUNK: usize = 1 << 16;
    for hasher in &mut *hashers {
        hasher.write_usize(bytes.len());
    }
    for chunk in bytes.chunks(CHUNK) {
        for hasher in &mut *hashers {
            hasher.write(chunk);
        }
    }
}

/// 128 bits of hash of the arrays and descriptions of a tensor, by which the writer of a container finds tensors that it has
/// written before.
///
/// It cannot compare their bytes, which are on the disk or only counted. Among 10^6 tensors two different ones have the same
/// fingerprint with a probability below 2^-88.
pub(super) fn fingerprint(
    arrays: &[(String, TensorData<'_>)],
    descriptions: &[(String, String)],
) -> Fingerprint {
    let mut arrays: Vec<_> = arrays.iter().collect();
    arrays.sort_by(|a, b| a.0.cmp(&b.0));
    let mut descriptions: Vec<_> = descriptions.iter().collect();
    descriptions.sort();
    let mut hashers = [DefaultHasher::new(), DefaultHasher::new()];
    hashers[1].write_u8(1);
    for (path, array) in arrays {
        let kind = format!("{:?} {:?}", array.dtype, array.shape);
        for bytes in [path.as_bytes(), kind.as_bytes(), &*array.bytes] {
            add(&mut hashers, bytes);
        }
    }
    for (path, text) in descriptions {
        add(&mut hashers, path.as_bytes());
        add(&mut hashers, text.as_bytes());
    }
    hashers.map(|hasher| hasher.finish())
}

impl CodedTensor {
    fn artifact(
        &mut self,
        path: &str,
        artifact: &dyn Artifact,
        mut description: Description,
    ) -> Result<()> {
        let children = artifact.children();
        let inherited: usize = children.iter().map(|child| child.1.parts().len()).sum();
        let parts = artifact.parts();
        let own = parts.len().checked_sub(inherited);
        let own = own.ok_or_else(|| Error::Unsupported {
            what: format!("an artifact of kind {:?}", artifact.kind()),
            reason: format!(
                "it has {} parts, fewer than the {inherited} of its children",
                parts.len()
            ),
        })?;
        for part in parts.into_iter().take(own) {
            let layout = artifact.code_layout(part.name);
            let width = whole_bytes(part.dtype)?.bytes();
            let coded = entropy::encode(&part.bytes, layout, width, MARGIN)?;
            let (array, coding) = match coded {
                Some((coding, bytes)) => {
                    // The others are packed codes, whose type and shape follow from their number.
                    let (dtype, shape) = match coding {
                        Coding::Laws(Laws {
                            order: Order::Cyclic,
                            ..
                        }) => (part.dtype, part.shape),
                        _ => (DType::U8, vec![part.bytes.len()]),
                    };
                    let array = TensorData {
                        dtype: DType::U8,
                        shape: vec![bytes.len()],
                        bytes: Cow::Owned(bytes),
                    };
                    let coding = CodedPart {
                        coding,
                        dtype,
                        shape,
                    };
                    (array, Some(coding))
                }
                None => {
                    let array = TensorData {
                        dtype: part.dtype,
                        shape: part.shape,
                        bytes: Cow::Owned(part.bytes.into_owned()),
                    };
                    (array, None)
                }
            };
            self.arrays.push((join(path, part.name), array));
            let name = part.name.to_owned();
            description.parts.push(PartLine { name, coding });
        }
        for (name, child) in children {
            self.artifact(&join(path, &name), child, Description::new(child)?)?;
        }
        self.descriptions
            .push((path.to_owned(), description.to_text()?));
        Ok(())
    }
}
