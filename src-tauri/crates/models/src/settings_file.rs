//! The small file that remembers what was chosen: the models folder, the hub's address, linked
//! folders, and whether there is a token in the keyring. Never the token itself.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{ModelsError, Result, atomic_file};

/// Of the file's format.
const VERSION: u32 = 1;

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Chosen {
    version: u32,
    /// The models folder.
    pub(crate) folder: Option<PathBuf>,
    /// The hub's address.
    pub(crate) endpoint: Option<String>,
    /// Folders that stay where they are.
    pub(crate) linked: Vec<PathBuf>,
    /// A token is in the keyring.
    pub(crate) token_in_keyring: bool,
}

impl Default for Chosen {
    fn default() -> Self {
        Self {
            version: VERSION,
            folder: None,
            endpoint: None,
            linked: Vec::new(),
            token_in_keyring: false,
        }
    }
}

/// The file's path.
pub(crate) fn path(config_dir: &Path) -> PathBuf {
    config_dir.join("library.json")
}

/// What is in the file. A damaged one is kept aside as `library.damaged.json`.
pub(crate) fn read(config_dir: &Path) -> Chosen {
    let path = path(config_dir);
    match atomic_file::read_json(&path) {
        Some(chosen) => chosen,
        None => {
            if path.exists() {
                let _ = std::fs::rename(&path, path.with_extension("damaged.json"));
            }
            Chosen::default()
        }
    }
}

/// Replaces the file.
///
/// # Errors
/// Where it cannot be written; it is as it was.
pub(crate) fn write(config_dir: &Path, chosen: &Chosen) -> Result<()> {
    let path = path(config_dir);
    atomic_file::write_json(&path, chosen).map_err(|error| ModelsError::io("write", &path, error))
}
