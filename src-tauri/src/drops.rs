//! Files that are dropped on the window. The page is told what they are, and may have those
//! imported; it can name no others.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use specta::Type;

use crate::error::{AppProblem, Result};

/// Something that was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct Dropped {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub path: String,
    /// What it looks like.
    pub kind: DroppedKind,
}

/// What Octet could do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub enum DroppedKind {
    /// Read chats from it: it ends like an export.
    Chats,
    /// Add it to the models: a GGUF file.
    Model,
    /// Import it as a model: a folder.
    Folder,
    /// Nothing.
    Other,
}

/// What the person dropped on the window.
#[derive(Default)]
pub struct DroppedFiles(Mutex<HashSet<PathBuf>>);

impl DroppedFiles {
    /// Takes what was dropped and says what it is.
    pub fn take(&self, paths: &[PathBuf]) -> Vec<Dropped> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(paths.iter().cloned());
        paths.iter().map(|path| dropped(path)).collect()
    }

    /// The file, if the person dropped it.
    ///
    /// # Errors
    /// [`AppProblem::FileNotDropped`].
    pub fn require(&self, path: String) -> Result<PathBuf> {
        let path = PathBuf::from(path);
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(&path) {
            return Ok(path);
        }
        let path = path.display().to_string();
        Err(AppProblem::FileNotDropped { path }.into())
    }
}

fn dropped(path: &Path) -> Dropped {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let is_export = |extension: &str| {
        ["json", "md"]
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    };
    let kind = match extension {
        _ if path.is_dir() => DroppedKind::Folder,
        Some(extension) if extension.eq_ignore_ascii_case("gguf") => DroppedKind::Model,
        Some(extension) if is_export(extension) => DroppedKind::Chats,
        _ => DroppedKind::Other,
    };
    let name = path.file_name().unwrap_or(path.as_os_str());
    Dropped {
        name: name.to_string_lossy().into_owned(),
        path: path.display().to_string(),
        kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_told_apart_and_only_that_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        std::fs::create_dir(file("model.json")).unwrap();
        let paths = [
            file("a.JSON"),
            file("b.md"),
            file("c.png"),
            file("none"),
            file("model.json"),
            file("model.GGUF"),
        ];
        let files = DroppedFiles::default();
        let kinds: Vec<_> = files.take(&paths).into_iter().map(|one| one.kind).collect();
        use DroppedKind::{Chats, Folder, Model, Other};
        assert_eq!(kinds, [Chats, Chats, Other, Other, Folder, Model]);
        let text = |path: &Path| path.display().to_string();
        assert_eq!(files.require(text(&paths[0])).unwrap(), paths[0]);
        let path = text(&file("d.json"));
        let refused = files.require(path.clone()).unwrap_err();
        assert_eq!(refused, AppProblem::FileNotDropped { path }.into());
    }
}
