//! `model.safetensors.index.json`: which file holds which tensor.

use std::collections::BTreeMap;

use serde::Deserialize;

use octet_spec::json::{UniqueMap, shorten, without_byte_order_mark};

/// Tensor name to file name; every file name is a plain name inside the folder.
#[derive(Debug)]
pub struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    /// The file that holds `tensor`.
    pub fn file(&self, tensor: &str) -> Option<&str> {
        self.weight_map.get(tensor).map(String::as_str)
    }

    /// The names of all tensors, sorted.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        self.weight_map.keys().map(String::as_str)
    }
}

/// What is wrong with an index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// Not UTF-8, not JSON, no `weight_map`, a tensor named twice, a value that is not text.
    #[error("not a safetensors index: {message}")]
    Malformed {
        /// The parser's message, with the tensor's name where there is one.
        message: String,
    },
    /// A file name that leads out of the folder, or is none.
    #[error("tensor `{tensor}`: `{file}` is not a plain file name inside the checkpoint's folder")]
    FileName {
        /// Which tensor.
        tensor: String,
        /// The name in the index.
        file: String,
    },
}

/// Reads an index.
///
/// # Errors
/// [`IndexError`]; above all, every file name that is not plain (a separator of any system, a
/// drive letter, `..`, NUL) is refused here, whether or not its tensor is ever looked at.
pub fn parse_index(bytes: &[u8]) -> Result<Index, IndexError> {
    #[derive(Deserialize)]
    struct RawIndex {
        weight_map: UniqueMap<String>,
    }

    let RawIndex {
        weight_map: UniqueMap(weight_map),
    } = serde_json::from_slice(without_byte_order_mark(bytes)).map_err(|e| {
        IndexError::Malformed {
            message: e.to_string(),
        }
    })?;
    for (tensor, file) in &weight_map {
        if !is_plain(file) {
            return Err(IndexError::FileName {
                tensor: shorten(tensor),
                file: shorten(file),
            });
        }
    }
    Ok(Index { weight_map })
}

/// Whether `name` means a file of this very folder on every system.
fn is_plain(name: &str) -> bool {
    const MAX_NAME_BYTES: usize = 255;
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && name != "."
        && name != ".."
        && !name.contains(|c: char| matches!(c, '/' | '\\' | ':') || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_file_of_a_tensor() {
        let json = br#"{"metadata":{"total_size":3},"weight_map":{"a.W_q":"one.safetensors"}}"#;
        let index = parse_index(json).unwrap();
        assert_eq!(index.file("a.W_q"), Some("one.safetensors"));
        assert_eq!(index.file("b"), None);
        assert_eq!(index.tensors().collect::<Vec<_>>(), ["a.W_q"]);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let names = [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "/etc/passwd",
            "..\\x",
            "C:x",
            "C:\\x",
            "x\u{0}",
            "x:stream",
            "a\nb",
        ];
        for name in names {
            let json = serde_json::json!({ "weight_map": { "some.tensor": name } }).to_string();
            let message = parse_index(json.as_bytes()).unwrap_err().to_string();
            assert!(message.contains("`some.tensor`"), "{name:?}: {message}");
        }
        let long = serde_json::json!({ "weight_map": { "t": "x".repeat(256) } }).to_string();
        assert!(parse_index(long.as_bytes()).is_err());
    }

    #[test]
    fn what_is_not_an_index_is_refused() {
        let cases: [(&[u8], &str); 6] = [
            (b"", "EOF"),
            (b"{}", "missing field `weight_map`"),
            (b"{\"weight_map\":[]}", "expected an object"),
            (b"{\"weight_map\":{\"a\":1}}", "`a`: invalid type"),
            (
                b"{\"weight_map\":{\"a\":\"x\",\"a\":\"y\"}}",
                "`a` is given twice",
            ),
            (b"{\"weight_map\":{\"\xff\":\"x\"}}", "invalid unicode"),
        ];
        for (json, expected) in cases {
            let message = parse_index(json).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
