//! Where the fixtures are, and small files made on the spot.
#![allow(dead_code)] // No test uses all of it.

pub mod raw;

use std::fs;
use std::path::{Path, PathBuf};

use octet_gguf::{Gguf, GgufError};
use serde_json::Value;
use tempfile::TempDir;

pub fn fixture(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/fixtures/gguf");
    root.join(name)
}

pub fn json(name: &str) -> Value {
    let text = fs::read_to_string(fixture(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A model whose header is a fixture, with zeros for data. The folder goes when it is dropped.
pub fn model(name: &str) -> (Gguf, TempDir) {
    let header = fs::read(fixture("models").join(format!("{name}.gguf-header"))).unwrap();
    let len_bytes = json("models/models.json")[name]["len_bytes"].as_u64();
    open_bytes(&header, len_bytes.unwrap()).unwrap()
}

/// Opens a file that begins with `bytes` and has `len_bytes`.
pub fn open_bytes(bytes: &[u8], len_bytes: u64) -> Result<(Gguf, TempDir), GgufError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(len_bytes).unwrap();
    drop(file);
    Gguf::open(&path).map(|gguf| (gguf, dir))
}

/// Copies fixtures into a new folder.
pub fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (from, to) in files {
        fs::copy(fixture(from), dir.path().join(to)).unwrap();
    }
    dir
}
