//! The models there are: the demo, and folders that were added. Adding and forgetting touch no
//! model file.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use octet_engine::checkpoint::{Checkpoint, CheckpointError, QuantKind};
use serde::{Deserialize, Serialize};
use specta::Type;

use crate::error::{ApiError, ErrorCode, Result};

/// The demo's id.
pub const DEMO: &str = "demo";

/// A model as the page lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct ModelEntry {
    /// [`DEMO`], or that of an added folder.
    pub id: String,
    /// For people.
    pub name: String,
    /// Where it comes from.
    pub kind: ModelKind,
    /// Its folder.
    pub path: String,
    /// Its files together.
    #[specta(type = u32)]
    pub size_bytes: u64,
    /// Layers.
    #[specta(type = u32)]
    pub n_layers: usize,
    /// Experts a layer.
    #[specta(type = u32)]
    pub n_experts: usize,
    /// In words.
    pub quantization: String,
    /// The longest context it was made for, in tokens.
    #[specta(type = u32)]
    pub max_context: usize,
    /// Why it cannot be loaded.
    pub problem: Option<String>,
}

/// Where a model comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub enum ModelKind {
    /// It ships with the app.
    Demo,
    /// A folder of the user's.
    Folder,
}

/// Gives the demo's folder, unpacking it on first use.
pub type DemoSource = dyn Fn() -> Result<PathBuf> + Send + Sync;

/// The list on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Saved {
    version: u32,
    folders: Vec<Folder>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Folder {
    id: String,
    path: PathBuf,
}

/// The models there are.
pub struct ModelList {
    file: PathBuf,
    folders: Mutex<Vec<Folder>>,
    demo: Box<DemoSource>,
}

impl ModelList {
    /// The list in `file`; a missing or damaged one counts as empty, for a list is quickly made
    /// again.
    pub fn open(file: PathBuf, demo: Box<DemoSource>) -> Self {
        let saved = std::fs::read(&file).ok().and_then(|bytes| {
            serde_json::from_slice::<Saved>(&bytes)
                .inspect_err(|error| tracing::warn!(%error, "the list of models is damaged"))
                .ok()
        });
        Self {
            folders: Mutex::new(saved.unwrap_or_default().folders),
            file,
            demo,
        }
    }

    /// All of them, the demo first. Opens each; some milliseconds a model.
    pub fn list(&self) -> Vec<ModelEntry> {
        let mut entries = vec![self.demo_entry()];
        entries.extend(self.folders().iter().map(|f| inspect(&f.id, &f.path)));
        entries
    }

    /// One of them.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`].
    pub fn entry(&self, id: &str) -> Result<ModelEntry> {
        if id == DEMO {
            return Ok(self.demo_entry());
        }
        let folders = self.folders();
        let folder = folders.iter().find(|folder| folder.id == id);
        folder
            .map(|folder| inspect(&folder.id, &folder.path))
            .ok_or_else(|| ApiError::no_model(id))
    }

    /// Its folder.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`], or that the demo cannot be unpacked.
    pub fn dir(&self, id: &str) -> Result<PathBuf> {
        if id == DEMO {
            return (self.demo)();
        }
        let folders = self.folders();
        let folder = folders.iter().find(|folder| folder.id == id);
        folder
            .map(|folder| folder.path.clone())
            .ok_or_else(|| ApiError::no_model(id))
    }

    /// Adds a folder, after a look whether a model is in it. A folder that is in the list
    /// already is found, not added twice.
    ///
    /// # Errors
    /// Where there is no model in it, or the list cannot be written.
    pub fn add(&self, path: &Path) -> Result<ModelEntry> {
        let path = std::path::absolute(path)
            .map_err(|error| ApiError::io("find the folder", path, &error))?;
        Checkpoint::open(&path)?;
        let known = self.folders().iter().find(|f| f.path == path).cloned();
        let folder = match known {
            Some(folder) => folder,
            None => {
                let folder = Folder {
                    id: uuid::Uuid::new_v4().to_string(),
                    path,
                };
                self.change(|folders| folders.push(folder.clone()))?;
                folder
            }
        };
        Ok(inspect(&folder.id, &folder.path))
    }

    /// Forgets a folder; its files stay.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`], [`ErrorCode::Invalid`] for the demo, or that the list cannot be
    /// written.
    pub fn remove(&self, id: &str) -> Result<()> {
        if id == DEMO {
            return Err(ApiError::new(
                ErrorCode::Invalid,
                "The demo model is part of Octet and cannot be removed.",
            )
            .hint("Unload it to free its memory."));
        }
        if !self.folders().iter().any(|folder| folder.id == id) {
            return Err(ApiError::no_model(id));
        }
        self.change(|folders| folders.retain(|folder| folder.id != id))
    }

    fn folders(&self) -> Vec<Folder> {
        let folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        folders.clone()
    }

    /// Changes the list on disk, then the one in memory.
    fn change(&self, change: impl FnOnce(&mut Vec<Folder>)) -> Result<()> {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = folders.clone();
        change(&mut changed);
        let saved = Saved {
            version: 1,
            folders: changed,
        };
        write_whole(&self.file, &saved)
            .map_err(|error| ApiError::io("write", &self.file, &error))?;
        *folders = saved.folders;
        Ok(())
    }

    fn demo_entry(&self) -> ModelEntry {
        let (path, problem) = match (self.demo)() {
            Ok(path) => (path, None),
            Err(error) => (PathBuf::new(), Some(error.message)),
        };
        let entry = match problem {
            None => inspect(DEMO, &path),
            Some(problem) => faulty(DEMO, &path, problem),
        };
        ModelEntry {
            name: octet_demo::NAME.to_owned(),
            kind: ModelKind::Demo,
            ..entry
        }
    }
}

/// Writes through a temporary file, so that a crash leaves the old list or the new one.
fn write_whole(file: &Path, saved: &Saved) -> std::io::Result<()> {
    let dir = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let mut temporary = tempfile::NamedTempFile::new_in(dir)?;
    serde_json::to_writer_pretty(&mut temporary, saved)?;
    temporary.flush()?;
    temporary.as_file().sync_all()?;
    temporary.persist(file)?;
    Ok(())
}

fn inspect(id: &str, path: &Path) -> ModelEntry {
    match Checkpoint::open(path) {
        Ok(checkpoint) => describe(id, path, &checkpoint),
        Err(error) => faulty(id, path, problem_of(&error)),
    }
}

fn describe(id: &str, path: &Path, checkpoint: &Checkpoint) -> ModelEntry {
    let c = checkpoint.config();
    let quantization = checkpoint.quant_summary();
    let bits = |kinds: &[QuantKind]| kinds.first().map_or(16, |kind| kind.bits);
    ModelEntry {
        id: id.to_owned(),
        name: name_of(path),
        kind: ModelKind::Folder,
        path: path.display().to_string(),
        size_bytes: checkpoint.files().bytes,
        n_layers: c.n_layers,
        n_experts: c.n_experts,
        quantization: format!(
            "experts {} bits, attention {} bits",
            bits(&quantization.experts),
            bits(&quantization.attention)
        ),
        max_context: c.max_positions,
        problem: None,
    }
}

fn faulty(id: &str, path: &Path, problem: String) -> ModelEntry {
    ModelEntry {
        id: id.to_owned(),
        name: name_of(path),
        kind: ModelKind::Folder,
        path: path.display().to_string(),
        size_bytes: 0,
        n_layers: 0,
        n_experts: 0,
        quantization: String::new(),
        max_context: 0,
        problem: Some(problem),
    }
}

fn problem_of(error: &CheckpointError) -> String {
    crate::wording::sentence(&error.to_string())
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(dir: &Path) -> ModelList {
        let demo = octet_tests::fixture("tiny-2bit");
        ModelList::open(dir.join("models.json"), Box::new(move || Ok(demo.clone())))
    }

    #[test]
    fn an_added_folder_is_there_after_a_restart_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let model = octet_tests::model_with_tokenizer("tiny-3bit");
        let added = list(dir.path()).add(model.path()).unwrap();
        assert_eq!(added.kind, ModelKind::Folder);
        assert!(added.size_bytes > 0 && added.n_layers > 0 && added.problem.is_none());

        let again = list(dir.path());
        assert_eq!(again.list().len(), 2);
        assert_eq!(
            again.add(model.path()).unwrap().id,
            added.id,
            "found, not added twice"
        );
        assert_eq!(again.dir(&added.id).unwrap(), model.path());
        again.remove(&added.id).unwrap();
        assert!(model.path().join("config.json").exists());
        assert_eq!(
            again.remove(&added.id).unwrap_err().code,
            ErrorCode::NotFound
        );
        assert_eq!(list(dir.path()).list().len(), 1);
    }

    #[test]
    fn a_folder_without_a_model_is_refused_and_a_lost_one_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let list = list(dir.path());
        let empty = tempfile::tempdir().unwrap();
        let error = list.add(empty.path()).unwrap_err();
        assert_eq!(error.code, ErrorCode::Checkpoint);
        assert!(error.hint.is_some());

        let model = octet_tests::model_with_tokenizer("tiny-2bit");
        let added = list.add(model.path()).unwrap();
        drop(model);
        assert!(list.entry(&added.id).unwrap().problem.is_some());
    }

    #[test]
    fn the_demo_is_first_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let list = list(dir.path());
        let entries = list.list();
        assert_eq!(
            (entries[0].id.as_str(), entries[0].kind),
            (DEMO, ModelKind::Demo)
        );
        assert_eq!(list.remove(DEMO).unwrap_err().code, ErrorCode::Invalid);
        assert_eq!(list.dir("nothing").unwrap_err().code, ErrorCode::NotFound);
    }

    #[test]
    fn a_damaged_list_counts_as_empty() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("models.json"), b"{").unwrap();
        assert_eq!(list(dir.path()).list().len(), 1);
    }
}
