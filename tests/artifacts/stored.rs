//! An artifact as what is stored of it.

use taper::model::extend::{Artifact, Registry, Stored, StoredPart};

/// What a container would hold of `artifact`.
pub fn stored(artifact: &dyn Artifact, registry: &Registry) -> Stored {
    let children: Vec<_> = artifact
        .children()
        .into_iter()
        .map(|(name, child)| {
            let child = registry.restore(child.kind(), stored(child, registry));
            (name, child.expect("a child that was written is read"))
        })
        .collect();
    let of_children: usize = children.iter().map(|(_, child)| child.parts().len()).sum();
    let parts = artifact.parts();
    let own = parts.len() - of_children;
    Stored {
        shape: artifact.shape().to_vec(),
        attributes: artifact.attributes().unwrap_or_default(),
        parts: parts
            .into_iter()
            .take(own)
            .map(|part| {
                let stored = StoredPart {
                    dtype: part.dtype,
                    shape: part.shape,
                    bytes: part.bytes.into_owned(),
                };
                (part.name.to_owned(), stored)
            })
            .collect(),
        children,
    }
}
