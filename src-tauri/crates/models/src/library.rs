//! The models that are here: which there are, and what is wrong with them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use octet_engine::checkpoint::{CONFIG_FILE, Checkpoint, INDEX_FILE, parse_index, read_small};
use octet_engine::hardware::Hardware;
use octet_engine::load::{has_tokenizer, usable_by};
use octet_engine::plan::{ModelSizes, PlanRequest};

use crate::cache::{self, Lock, RepoDir};
use crate::fit::fit;
use crate::names::RepoName;
use crate::record::{Damage, Manifest, Ticket, ms_since_1970};
use crate::remote::TOKENIZER_FILE;
use crate::{
    BadFile, FileFault, Health, InstalledModel, ModelDamage, ModelSource, ModelsError,
    Quantization, Result, ShapeView, Use, Wanted,
};

/// Bytes of an index at most.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// Owner of repositories that are copies of folders.
pub(crate) const IMPORTED: &str = "local";

/// A model's folders and records.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) source: ModelSource,
    /// The folder or GGUF file to load.
    pub(crate) folder: PathBuf,
    /// None for a linked one.
    pub(crate) repo: Option<FoundRepo>,
}

/// What a model in the models folder has.
#[derive(Clone, Debug)]
pub(crate) struct FoundRepo {
    pub(crate) name: RepoName,
    pub(crate) dir: RepoDir,
    pub(crate) manifest: Manifest,
    /// Octet wrote the manifest; else it is what the links tell.
    pub(crate) is_recorded: bool,
    /// What was found when every byte was compared last, if that was damage.
    pub(crate) damage: Option<Damage>,
}

/// All models in `root`, and the linked ones.
pub(crate) fn scan(root: &Path, linked: &[PathBuf]) -> Vec<Found> {
    let repos = RepoDir::all(root).into_iter();
    let mut found: Vec<Found> = repos
        .filter_map(|(name, dir)| in_cache(name, dir))
        .collect();
    found.extend(linked.iter().map(|folder| of_link(folder)));
    found
}

/// The model in a repository's folder, if it is one of the right format.
fn in_cache(name: RepoName, dir: RepoDir) -> Option<Found> {
    let recorded = Manifest::read(&dir);
    if recorded.is_none() && Ticket::read(&dir).is_some() {
        // On its way.
        return None;
    }
    let is_recorded = recorded.is_some();
    let commit = match &recorded {
        // Another program may have moved `main` on, to a snapshot that lacks files.
        Some(manifest) => manifest.commit.clone(),
        None => dir.commit()?,
    };
    let folder = dir.snapshot(&commit);
    let manifest = match recorded {
        Some(manifest) => manifest,
        None if is_our_format(&folder) => Manifest::of_links(&dir, &commit),
        None => return None,
    };
    let source = match manifest.is_imported {
        true => ModelSource::Imported,
        false => ModelSource::Hub,
    };
    let damage = Damage::read(&dir, &manifest.commit);
    Some(Found {
        id: name.to_string(),
        name: match source {
            ModelSource::Imported => name.short().to_owned(),
            _ => name.to_string(),
        },
        source,
        folder,
        repo: Some(FoundRepo {
            name,
            dir,
            manifest,
            is_recorded,
            damage,
        }),
    })
}

/// Whether the folder's configuration and index are those of an HQQ Mixtral; its tensor files
/// may be missing.
fn is_our_format(folder: &Path) -> bool {
    let index = folder.join(INDEX_FILE);
    if !folder.join(CONFIG_FILE).is_file() || !index.is_file() {
        return false;
    }
    let index = read_small(&index, MAX_INDEX_BYTES).ok().flatten();
    let index = index.and_then(|bytes| parse_index(&bytes).ok());
    index.is_some_and(|index| {
        let first = "model.layers.0.block_sparse_moe.experts.0.w1.W_q";
        index.file(first).is_some()
    })
}

/// A folder or GGUF file of the person's own.
pub(crate) fn of_link(folder: &Path) -> Found {
    let name = folder.file_name().unwrap_or(folder.as_os_str());
    Found {
        id: folder.to_string_lossy().into_owned(),
        name: name.to_string_lossy().into_owned(),
        source: ModelSource::Linked,
        folder: folder.to_owned(),
        repo: None,
    }
}

impl Found {
    /// Looks at sizes and headers, not at every byte.
    pub(crate) fn look(&self, hardware: &Hardware, request: &PlanRequest) -> InstalledModel {
        let opened = Checkpoint::open(&self.folder);
        let bad = self.known_bad();
        let health = match (&opened, &bad[..]) {
            _ if self.is_gone() => Health::Damaged {
                damage: ModelDamage::Gone,
                files: Vec::new(),
                can_repair: false,
            },
            (Ok(_), []) => Health::Good {
                verified_at_ms: self.repo.as_ref().and_then(|r| r.manifest.verified_at_ms),
            },
            (opened, _) => Health::Damaged {
                damage: match opened {
                    Err(error) if bad.is_empty() => ModelDamage::Refused {
                        detail: error.to_string(),
                    },
                    _ => ModelDamage::Files,
                },
                files: bad,
                can_repair: self.can_repair(),
            },
        };
        let meta = fs::metadata(&self.folder);
        let completed = match &self.repo {
            Some(repo) => repo.manifest.completed_at_ms,
            None => meta.and_then(|m| m.modified()).map_or(0, ms_since_1970),
        };
        let checkpoint = opened.ok();
        InstalledModel {
            id: self.id.clone(),
            name: self.name.clone(),
            source: self.source,
            path: self.folder.clone(),
            size_bytes: self.size_bytes(),
            installed_at_ms: completed,
            shape: checkpoint.as_ref().map(shape),
            has_tokenizer: match &checkpoint {
                Some(checkpoint) => has_tokenizer(checkpoint),
                None => self.folder.join(TOKENIZER_FILE).is_file(),
            },
            health,
            fit: checkpoint.as_ref().map(|c| {
                let hardware = usable_by(c, hardware.clone());
                fit(&ModelSizes::of(c), &hardware, request)
            }),
            is_in_use: self.is_in_use(),
        }
    }

    /// Whether this is a linked folder or file that is not there.
    fn is_gone(&self) -> bool {
        self.source == ModelSource::Linked && !self.folder.exists()
    }

    /// Files that are missing or have another size, and those that had other bytes when they were
    /// last read.
    pub(crate) fn known_bad(&self) -> Vec<BadFile> {
        let mut bad = self.bad_by_size();
        let damage = self.repo.as_ref().and_then(|repo| repo.damage.as_ref());
        for file in damage.iter().flat_map(|damage| &damage.files) {
            if !bad.iter().any(|other| other.file == file.file) {
                bad.push(file.clone());
            }
        }
        bad
    }

    /// Files that are missing or have another size.
    pub(crate) fn bad_by_size(&self) -> Vec<BadFile> {
        let Some(repo) = &self.repo else {
            return Vec::new();
        };
        let mut bad = Vec::new();
        for file in &repo.manifest.files {
            if let Err(fault) = size_of(&self.folder.join(&file.path), file.size) {
                let file = file.path.clone();
                bad.push(BadFile { file, fault });
            }
        }
        if !repo.is_recorded {
            // Links say what is there, and only the index what should be.
            let index = read_small(&self.folder.join(INDEX_FILE), MAX_INDEX_BYTES)
                .ok()
                .flatten();
            if let Some(index) = index.and_then(|bytes| parse_index(&bytes).ok()) {
                let named: BTreeSet<&str> = index
                    .tensors()
                    .filter_map(|tensor| index.file(tensor))
                    .collect();
                for name in named {
                    let is_known = repo.manifest.files.iter().any(|file| file.path == name);
                    if !is_known && !self.folder.join(name).is_file() {
                        let (file, fault) = (name.to_owned(), FileFault::Missing);
                        bad.push(BadFile { file, fault });
                    }
                }
            }
        }
        bad
    }

    pub(crate) fn can_repair(&self) -> bool {
        self.source == ModelSource::Hub
    }

    /// What removing it frees.
    pub(crate) fn size_bytes(&self) -> u64 {
        match &self.repo {
            Some(repo) => cache::size_bytes(&repo.dir.path()),
            None => 0,
        }
    }

    fn in_use_lock(&self) -> Option<PathBuf> {
        Some(in_use_lock(&self.repo.as_ref()?.dir))
    }

    fn is_in_use(&self) -> bool {
        let Some(lock) = self.in_use_lock().filter(|lock| lock.is_file()) else {
            return false;
        };
        matches!(Lock::try_exclusive(&lock), Ok(None))
    }

    /// Makes sure that nobody runs the model while something is done to it.
    ///
    /// # Errors
    /// [`ModelsError::InUse`].
    pub(crate) fn claim(&self) -> Result<Option<Lock>> {
        let Some(path) = self.in_use_lock() else {
            return Ok(None);
        };
        match Lock::try_exclusive(&path)? {
            Some(lock) => Ok(Some(lock)),
            None => Err(ModelsError::InUse {
                what: Some(self.id.clone()),
                by: Use::Loaded,
            }),
        }
    }
}

/// Held shared while a model is loaded, by whatever program.
pub(crate) fn in_use_lock(dir: &RepoDir) -> PathBuf {
    dir.own().join("in-use.lock")
}

/// Kept while a model is loaded: as long as there is one, the model is not deleted, repaired or
/// moved, by this program or another.
#[derive(Debug)]
pub struct Lease {
    _lock: Option<Lock>,
}

impl Lease {
    /// For the model in `folder`, which need not be in the models folder: others have no lease
    /// to take, and are not touched anyway.
    ///
    /// # Errors
    /// [`ModelsError::InUse`] where it is being deleted, repaired or moved.
    pub(crate) fn take(root: &Path, folder: &Path) -> Result<Self> {
        let none = Self { _lock: None };
        let Some(repo_folder) = folder.parent().and_then(Path::parent) else {
            return Ok(none);
        };
        let name = repo_folder.file_name().and_then(|name| name.to_str());
        let Some(name) = name.and_then(RepoName::of_folder) else {
            return Ok(none);
        };
        let dir = RepoDir::new(root, &name);
        if !is_same(&dir.path(), repo_folder) {
            return Ok(none);
        }
        match Lock::try_shared(&in_use_lock(&dir)) {
            Ok(Some(lock)) => Ok(Self { _lock: Some(lock) }),
            Ok(None) => Err(ModelsError::InUse {
                what: Some(name.to_string()),
                by: Use::Change,
            }),
            // A models folder that cannot be written to cannot be changed from here either.
            Err(error) => {
                tracing::debug!(%error, "no lease was taken");
                Ok(none)
            }
        }
    }
}

fn is_same(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

/// What is wrong with a file that should have `size` bytes.
pub(crate) fn size_of(path: &Path, size: u64) -> Result<(), FileFault> {
    match fs::metadata(path) {
        Ok(meta) if !meta.is_file() => Err(FileFault::NotAFile),
        Ok(meta) if meta.len() == size => Ok(()),
        Ok(meta) => Err(FileFault::Size {
            found: meta.len(),
            expected: size,
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(FileFault::Missing),
        Err(error) => Err(FileFault::Unreadable {
            detail: error.to_string(),
        }),
    }
}

fn shape(checkpoint: &Checkpoint) -> ShapeView {
    let (config, quant) = (checkpoint.spec(), checkpoint.quant_summary());
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    ShapeView {
        layers: count(config.n_layers),
        experts: count(config.n_experts),
        experts_per_token: count(config.top_k),
        max_context: count(config.max_positions),
        quantization: Quantization::from(&quant),
    }
}

/// The model that a person means by `name`: its id, or the part of a repository's name after the
/// slash.
///
/// # Errors
/// [`ModelsError::NotFound`], or [`ModelsError::Ambiguous`] where it could mean several.
pub(crate) fn by_name(models: Vec<Found>, name: &str) -> Result<Found> {
    let same = |a: &str| a.eq_ignore_ascii_case(name);
    if let Some(exact) = models.iter().find(|m| m.id == name) {
        return Ok(exact.clone());
    }
    let mut matches: Vec<Found> = models
        .into_iter()
        .filter(|m| same(&m.id) || m.id.rsplit(['/', '\\']).next().is_some_and(same))
        .collect();
    match (matches.pop(), matches.first()) {
        (Some(found), None) => Ok(found),
        (Some(one), Some(other)) => Err(ModelsError::Ambiguous {
            name: name.to_owned(),
            candidates: [other.id.clone(), one.id],
        }),
        (None, _) => Err(ModelsError::NotFound {
            what: Wanted::InstalledModel,
            name: name.to_owned(),
        }),
    }
}

/// Deletes a model. Bytes that are free afterwards.
///
/// # Errors
/// [`ModelsError::InUse`] while somebody has a [`Lease`].
pub(crate) fn remove(found: &Found) -> Result<u64> {
    let Some(repo) = &found.repo else {
        return Ok(0);
    };
    let claim = found.claim()?;
    let path = repo.dir.path();
    let before = cache::size_bytes(&path);
    let failed = |error| ModelsError::io("delete", &path, error);
    // First what makes it a model: a deletion that is cut short leaves none that looks whole.
    for first in ["refs", "snapshots"] {
        remove_folder(&path.join(first)).map_err(failed)?;
    }
    remove_folder(&repo.dir.blobs()).map_err(failed)?;
    drop(claim);
    remove_folder(&path).map_err(failed)?;
    let _ = fs::remove_dir_all(repo.dir.locks());
    Ok(before.saturating_sub(cache::size_bytes(&path)))
}

fn remove_folder(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
