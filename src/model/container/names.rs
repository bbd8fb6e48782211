//! Names of a model's tensors and metadata, as they stand in a file.
//!
//! The mapping is one to one and does not depend on the other names, so that any names can stand in one file, and parts of a
//! model that were written apart can be joined.

use std::borrow::Cow;

use super::KEY;

/// Characters that have a meaning of their own in a table of contents, and what replaces them, as in addresses of web pages.
const ESCAPES: [(&str, &str); 3] = [("%", "%25"), ("\t", "%09"), ("\n", "%0A")];

/// The name of a tensor as a table of contents has it.
pub(super) fn escape(name: &str) -> Cow<'_, str> {
    if !name.contains(['%', '\t', '\n']) {
        return name.into();
    }
    let escaped = ESCAPES
        .iter()
        .fold(name.to_owned(), |name, (from, to)| name.replace(from, to));
    escaped.into()
}

/// The name that a table of contents has in this form; none where [`escape`] gives no such form.
pub(super) fn unescape(text: &str) -> Option<String> {
    let name = ESCAPES
        .iter()
        .rev()
        .fold(text.to_owned(), |name, (to, from)| name.replace(from, to));
    (escape(&name) == text).then_some(name)
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
        prop_oneof!["[ab%/\t\n0259A]{0,8}", any::<String>()]
    }

    proptest! {
        #[test]
        fn names_and_keys_map_one_to_one(name in name(), other in name(), key in "(taper)?[+:a-]{0,3}(taper)?") {
            let text = escape(&name);
            prop_assert!(!text.contains(['\t', '\n']));
            prop_assert_eq!(unescape(&text), Some(name.clone()));
            prop_assert_eq!(escape(&other) == text, name == other);
            let written = metadata_key(&key);
            prop_assert_eq!(model_key(&written), Some(&*key));
        }

        /// A name in a file is read only in the form in which it is written.
        #[test]
        fn other_forms_of_a_name_are_refused(text in name()) {
            if let Some(name) = unescape(&text) {
                prop_assert_eq!(&*escape(&name), &*text);
            } else {
                prop_assert!(text.contains(['%', '\t', '\n']));
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
            "__metadata__",
        ] {
            assert_eq!(escape(name), name);
        }
        assert_eq!(escape("50%\n1"), "50%25%0A1");
        assert_eq!(metadata_key("format"), "format");
        assert_eq!(metadata_key("taper"), "taper+taper");
    }
}
