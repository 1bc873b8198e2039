//! The one model of a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::error::GgufError;
use crate::file::GgufFile;
use crate::parts::PartName;

/// With more files than this none is looked into: a folder of models, and not a model's folder.
const MAX_LOOKED_INTO: usize = 64;

/// A file of the only model in `dir`.
pub(crate) fn find_model(dir: &Path) -> Result<PathBuf, GgufError> {
    let mut aside = Vec::new();
    let mut models: Vec<PathBuf> = Vec::new();
    let found = candidates(dir)?;
    let look = found.len() <= MAX_LOOKED_INTO;
    for path in found {
        if is_named_as_something_else(&path) || (look && is_something_else(&path)) {
            aside.push(name(&path));
        } else {
            models.push(path);
        }
    }
    match models.as_slice() {
        [] => Err(GgufError::NoModel {
            dir: dir.to_owned(),
            aside,
        }),
        [_] => Ok(models.remove(0)),
        _ => Err(GgufError::SeveralModels {
            dir: dir.to_owned(),
            candidates: models.iter().map(|path| name(path)).collect(),
        }),
    }
}

/// The GGUF files of a folder in the order of names; of each split model the first part there is.
fn candidates(dir: &Path) -> Result<Vec<PathBuf>, GgufError> {
    let io_error = |e| GgufError::io("list", dir)(e);
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(dir).map_err(io_error)? {
        let name = entry.map_err(io_error)?.file_name();
        let text = name.to_string_lossy();
        let is_gguf = text.to_ascii_lowercase().ends_with(".gguf");
        // Beside each file macOS leaves one that begins so on foreign drives.
        if is_gguf && !text.starts_with('.') && dir.join(&name).is_file() {
            names.insert(name);
        }
    }
    let mut sets: BTreeMap<(PathBuf, u16), PathBuf> = BTreeMap::new();
    for name in names {
        let path = dir.join(name);
        let key = match PartName::parse(&path) {
            Some(part) => (part.stem, part.count),
            None => (path.clone(), 1),
        };
        sets.entry(key).or_insert(path);
    }
    Ok(sets.into_values().collect())
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The part of a model that sees or hears comes beside it, under such a name.
fn is_named_as_something_else(path: &Path) -> bool {
    name(path).to_ascii_lowercase().contains("mmproj")
}

/// Whether a file is surely no model. What cannot be opened may be one that was cut off.
fn is_something_else(path: &Path) -> bool {
    let Ok((file, tensors)) = GgufFile::open(path) else {
        return false;
    };
    // The first part of a split model may be all metadata.
    if tensors.is_empty() && PartName::parse(path).is_none() {
        return true;
    }
    let text = |key| file.metadata().get::<&str>(key).ok().flatten();
    text("general.architecture") == Some("clip")
        || text("general.type").is_some_and(|kind| kind != "model")
}
