//! Names of a model's tensors and metadata, as names in a file.
//!
//! The mapping is one to one and does not depend on the other names, so that any names can stand in one file, and parts of a
//! model that were written apart can be joined.

use std::borrow::Cow;

use super::KEY;
use crate::model::header::METADATA;

/// What separates the name of a tensor from the path of a part.
const PARTS: char = '#';
/// What replaces characters that have a meaning of their own, as in addresses of web pages.
const ESCAPES: [(&str, &str); 2] = [("%", "%25"), ("#", "%23")];
/// The name that safetensors does not allow, written as it may be.
const RESERVED: &str = "%5F_metadata__";

/// The path of a tensor, which is the name in the file of one that is not compressed.
pub(super) fn path_of(name: &str) -> Cow<'_, str> {
    if name == METADATA {
        return RESERVED.into();
    }
    if !name.contains(['%', PARTS]) {
        return name.into();
    }
    let escaped = ESCAPES
        .iter()
        .fold(name.to_owned(), |name, (from, to)| name.replace(from, to));
    escaped.into()
}

/// The name of the tensor at a path; none where [`path_of`] gives no such path.
pub(super) fn name_of(path: &str) -> Option<String> {
    let name = match path {
        RESERVED => METADATA.to_owned(),
        path => ESCAPES
            .iter()
            .rev()
            .fold(path.to_owned(), |path, (to, from)| path.replace(from, to)),
    };
    (path_of(&name) == path).then_some(name)
}

/// The path of a part or a child of the artifact at `path`.
pub(super) fn join(path: &str, name: &str) -> String {
    let separator = if is_inner(path) { '/' } else { PARTS };
    format!("{path}{separator}{name}")
}

/// Whether this is the path of a part or a child.
pub(super) fn is_inner(path: &str) -> bool {
    path.contains(PARTS)
}

/// The key of the description of the artifact at a path.
pub(super) fn description_key(path: &str) -> String {
    format!("{KEY}:{path}")
}

/// The path of the artifact that a key describes, if it does.
pub(super) fn described(key: &str) -> Option<&str> {
    key.strip_prefix(KEY)?.strip_prefix(':')
}

/// The key in a file of the model's metadata of this key.
pub(super) fn metadata_key(key: &str) -> String {
    if key.starts_with(KEY) {
        format!("{KEY}+{key}")
    } else {
        key.to_owned()
    }
}

/// The model's key of metadata in a file; none for keys that the container uses itself.
pub(super) fn model_key(key: &str) -> Option<&str> {
    match key.strip_prefix(KEY) {
        None => Some(key),
        Some(own) => own.strip_prefix('+').filter(|key| key.starts_with(KEY)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            "[ab#%/235F_]{0,8}",
            Just(METADATA.to_owned()),
            Just(RESERVED.to_owned()),
            any::<String>()
        ]
    }

    proptest! {
        #[test]
        fn names_and_keys_map_one_to_one(name in name(), other in name(), key in "(taper)?[+:a-]{0,3}(taper)?") {
            let path = path_of(&name);
            prop_assert!(!is_inner(&path));
            prop_assert_ne!(&*path, METADATA);
            prop_assert_eq!(name_of(&path), Some(name.clone()));
            prop_assert_eq!(path_of(&other) == path, name == other);
            let written = metadata_key(&key);
            prop_assert_eq!(model_key(&written), Some(&*key));
        }

        /// A name in a file is read only in the form in which it is written.
        #[test]
        fn other_forms_of_a_name_are_refused(path in name()) {
            if let Some(name) = name_of(&path) {
                prop_assert_eq!(&*path_of(&name), &*path);
            } else {
                prop_assert!(path.contains(['%', '#']) || path == METADATA);
            }
        }
    }

    #[test]
    fn ordinary_names_are_kept() {
        for name in [
            "model.layers.0.weight",
            "dense/kernel:0",
            "",
            "π",
            "_metadata_",
        ] {
            assert_eq!(path_of(name), name);
        }
        assert_eq!(join("fc", "left"), "fc#left");
        assert_eq!(join("fc#left", "codes"), "fc#left/codes");
        assert_eq!(path_of("50%#1"), "50%25%231");
        assert_eq!(metadata_key("format"), "format");
        assert_eq!(metadata_key("taper"), "taper+taper");
    }
}
