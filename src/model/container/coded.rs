//! The arrays and lines of one tensor in a container.

use std::hash::{DefaultHasher, Hasher};

use super::description::{ArrayLine, Description, PartLine, whole_bytes};
use crate::model::TensorData;
use crate::model::entropy::{self, Coding};
use crate::model::entry::{CodedTensor, CompressedTensor, Fingerprint};
use crate::model::extend::{Artifact, CodeLayout, malformed};
use crate::model::ties::can_be_tied;
use crate::{DType, Error, Result};

/// The bytes that the description of a coding takes: an array is coded only if that saves more.
const MARGIN: usize = 6;

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
    let mut coded = CodedTensor::default();
    coded.artifact(artifact, description)?;
    Ok(coded.marked(tensor.shape()))
}

/// Codes a tensor that is kept, without loss.
pub(super) fn code_plain(tensor: &TensorData<'_>) -> Result<CodedTensor> {
    let mut coded = CodedTensor::default();
    let line = coded.array(tensor.dtype, tensor.shape.clone(), &tensor.bytes, None)?;
    coded.text = line.to_text() + "\n";
    Ok(coded.marked(&tensor.shape))
}

/// 128 bits of hash of the lines and arrays of a tensor, by which the writer of a container finds tensors that it has written
/// before; none for a tensor of this shape that is not compared with others.
///
/// It cannot compare their bytes, which are on the disk or only counted. Among 10^6 tensors two different ones have the same
/// fingerprint with a probability below 2^-88.
pub(super) fn fingerprint(text: &str, bytes: &[u8], shape: &[usize]) -> Option<Fingerprint> {
    /// What stays in the cache for the second pass.
    const CHUNK: usize = 1 << 16;
    if !can_be_tied(shape) {
        return None;
    }
    let mut hashers = [DefaultHasher::new(), DefaultHasher::new()];
    hashers[1].write_u8(1);
    for hasher in &mut hashers {
        hasher.write_usize(text.len());
        hasher.write(text.as_bytes());
    }
    for chunk in bytes.chunks(CHUNK) {
        for hasher in &mut hashers {
            hasher.write(chunk);
        }
    }
    Some(hashers.map(|hasher| hasher.finish()))
}

impl CodedTensor {
    fn marked(mut self, shape: &[usize]) -> Self {
        self.fingerprint = fingerprint(&self.text, &self.bytes, shape);
        self
    }

    /// Appends an array, coded where that is shorter; `layout` describes packed codes.
    fn array(
        &mut self,
        dtype: DType,
        shape: Vec<usize>,
        bytes: &[u8],
        layout: Option<CodeLayout>,
    ) -> Result<ArrayLine> {
        let line = ArrayLine::plain(dtype, shape)?;
        if line.length != bytes.len() {
            return Err(malformed(format!(
                "an array {} has {} bytes, which should be {}",
                line.to_text(),
                bytes.len(),
                line.length
            )));
        }
        match entropy::encode(bytes, layout, dtype, MARGIN)? {
            None => {
                self.bytes.extend_from_slice(bytes);
                Ok(line)
            }
            Some((coding, coded)) => {
                self.bytes.extend_from_slice(&coded);
                match coding {
                    Coding::Planes(_) => Ok(ArrayLine {
                        coding: Some(coding),
                        length: coded.len(),
                        ..line
                    }),
                    Coding::Laws(_) | Coding::Numbers(_) | Coding::Paths(_) => {
                        ArrayLine::packed(coding, coded.len())
                    }
                }
            }
        }
    }

    fn artifact(&mut self, artifact: &dyn Artifact, mut description: Description) -> Result<()> {
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
            let dtype = whole_bytes(part.dtype)?;
            let array = self.array(dtype, part.shape, &part.bytes, layout)?;
            let name = part.name.to_owned();
            description.parts.push(PartLine { name, array });
        }
        self.text += &description.to_text()?;
        self.text.push('\n');
        for (_, child) in children {
            self.artifact(child, Description::new(child)?)?;
        }
        Ok(())
    }
}
