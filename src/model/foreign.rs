//! Files of other formats, recognized by their first bytes.

/// How much of a file is looked at.
const WINDOW: usize = 1024;
/// How much of a text is quoted.
const QUOTED: usize = 40;

/// The beginnings of files that are given in place of safetensors, and what to say of each.
const SIGNATURES: [(&[u8], &str); 13] = [
    (b"GGUF", "it is a GGUF file: convert it to safetensors"),
    (
        b"version https://git-lfs.github.com/spec/",
        "it is a git-lfs pointer, not the model: fetch the model with `git lfs pull`",
    ),
    (
        b"\x89HDF\r\n\x1a\n",
        "it is an HDF5 file: convert it to safetensors",
    ),
    (
        b"\x93NUMPY",
        "it is a NumPy array (.npy): convert it to safetensors",
    ),
    (b"\x1f\x8b", "it is compressed by gzip: decompress it first"),
    (
        b"\x28\xb5\x2f\xfd",
        "it is compressed by zstd: decompress it first",
    ),
    (b"\xfd7zXZ\0", "it is compressed by xz: decompress it first"),
    (b"BZh", "it is compressed by bzip2: decompress it first"),
    (b"%PDF-", "it is a PDF document"),
    (b"\xff\xd8\xff", "it is a JPEG image"),
    (b"\x89PNG\r\n\x1a\n", "it is a PNG image"),
    (b"ggjt", "it is a GGML file: convert it to safetensors"),
    (b"lmgg", "it is a GGML file: convert it to safetensors"),
];

const PICKLE: &str = "it is a pickle, as torch.save writes it: \
     load it in Python and write it with safetensors.torch.save_file";

/// What `file` is in place of a safetensors file, and what to do about it, where its first bytes tell.
///
/// To be asked of files whose header is wrong: the length with which a safetensors file begins may have the bytes of
/// any of these.
pub(super) fn recognize(file: &[u8]) -> Option<String> {
    let head = &file[..file.len().min(WINDOW)];
    let contains = |text: &[u8]| head.windows(text.len()).any(|window| window == text);
    if file.is_empty() {
        return Some("the file is empty".to_owned());
    }
    if let Some((_, problem)) = SIGNATURES.iter().find(|(start, _)| head.starts_with(start)) {
        return Some((*problem).to_owned());
    }
    if head.starts_with(b"PK\x03\x04") {
        let problem = match (contains(b"data.pkl"), contains(b".npy")) {
            (true, _) => PICKLE,
            (_, true) => "it is a NumPy archive (.npz): convert it to safetensors",
            _ => "it is a ZIP archive: unpack it first",
        };
        return Some(problem.to_owned());
    }
    // Protocols 2 to 5; a file of protocol 0 or 1 is text.
    if let [0x80, 2..=5, ..] = head {
        return Some(PICKLE.to_owned());
    }
    if contains(b"TFL3") && head.get(4..8) == Some(b"TFL3") {
        return Some("it is a TensorFlow Lite model: convert it to safetensors".to_owned());
    }
    text(head)
}

/// The same for a text.
fn text(head: &[u8]) -> Option<String> {
    // The window may end within a character.
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).expect("valid up to there")
        }
        Err(_) => return None,
    };
    let printable = |c: char| !c.is_control() || c.is_whitespace();
    if !valid.chars().all(printable) {
        return None;
    }
    let text = valid.trim_start_matches('\u{feff}').trim();
    let lower = text.to_ascii_lowercase();
    let starts = |starts: &[&str]| starts.iter().any(|start| lower.starts_with(start));
    Some(if starts(&["<!doctype html", "<html", "<head"]) {
        "it is an HTML page, not the model: check the address from which it was downloaded"
            .to_owned()
    } else if starts(&["<?xml", "<error"]) {
        "it is an XML page, not the model: check the address from which it was downloaded"
            .to_owned()
    } else if starts(&["{", "["]) {
        "it is JSON: open an index of shards under a name that ends in .json".to_owned()
    } else {
        let quoted: String = text.chars().take(QUOTED).collect();
        format!("it is a text that begins with {quoted:?}")
    })
}
