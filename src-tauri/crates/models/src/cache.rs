//! The layout of a Hugging Face cache, which is the models folder's.
//!
//! ```text
//! models--owner--name/
//!   blobs/HASH                  the files' contents, named by their hashes
//!   blobs/HASH.incomplete       the beginning of one that is not complete
//!   refs/main                   the commit that `main` was
//!   snapshots/COMMIT/NAME       links to blobs
//!   .octet/                     what only Octet knows: see `record`
//! .locks/models--owner--name/HASH.lock    held while a blob is fetched, as other programs do
//! ```
//! Where links are refused (Windows, without the right to make them; file systems that have none)
//! the files themselves lie in the snapshot, as Hugging Face's own client does it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::names::RepoName;
use crate::record::RepoFile;
use crate::{ModelsError, Result, atomic_file};

/// The folder of one repository. Where things are is `hf_hub`'s to say; how they get there, as a
/// whole or not at all, is not.
#[derive(Clone, Debug)]
pub(crate) struct RepoDir {
    cache: hf_hub::Cache,
    repo: hf_hub::Repo,
}

impl RepoDir {
    pub(crate) fn new(root: &Path, repo: &RepoName) -> Self {
        Self {
            cache: hf_hub::Cache::new(root.to_owned()),
            repo: repo.in_cache(),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.cache.path().join(self.repo.folder_name())
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.path().join("blobs")
    }

    pub(crate) fn blob(&self, name: &str) -> PathBuf {
        self.blobs().join(name)
    }

    pub(crate) fn partial(&self, name: &str) -> PathBuf {
        self.blobs().join(format!("{name}.incomplete"))
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.cache.repo(self.repo.clone()).pointer_path(commit)
    }

    /// The file `name` of `main`, if it is here, whoever brought it.
    pub(crate) fn cached(&self, name: &str) -> Option<PathBuf> {
        self.cache.repo(self.repo.clone()).get(name)
    }

    /// Octet's own files.
    pub(crate) fn own(&self) -> PathBuf {
        self.path().join(".octet")
    }

    pub(crate) fn locks(&self) -> PathBuf {
        let locks = self.cache.path().join(".locks");
        locks.join(self.repo.folder_name())
    }

    fn reference(&self) -> PathBuf {
        self.path().join("refs").join("main")
    }

    /// The commit of `main`; where no reference says so, that of the newest snapshot.
    pub(crate) fn commit(&self) -> Option<String> {
        let named = fs::read_to_string(self.reference()).ok();
        let named = named.map(|text| text.trim().to_owned());
        if let Some(commit) = named.filter(|c| is_commit(c) && self.snapshot(c).is_dir()) {
            return Some(commit);
        }
        let entries = fs::read_dir(self.path().join("snapshots")).ok()?;
        let snapshots = entries.flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let time = entry.metadata().ok()?.modified().ok()?;
            is_commit(&name).then_some((time, name))
        });
        snapshots.max().map(|(_, name)| name)
    }

    /// Makes `main` mean `commit`.
    pub(crate) fn set_commit(&self, commit: &str) -> Result<()> {
        let path = self.reference();
        atomic_file::write(&path, commit.as_bytes())
            .map_err(|error| ModelsError::io("write", &path, error))
    }

    /// Where the complete content of `file` is: the blob, or the file itself in the snapshot of
    /// `commit`. None where it is missing or has another size.
    pub(crate) fn complete(&self, commit: &str, file: &RepoFile) -> Option<PathBuf> {
        let in_snapshot = self.snapshot(commit).join(&file.path);
        [self.blob(&file.blob), in_snapshot]
            .into_iter()
            .find(|path| fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() == file.size))
    }

    /// Puts `file`, whose blob is complete, into the snapshot of `commit`.
    pub(crate) fn place(&self, commit: &str, file: &RepoFile) -> Result<()> {
        let pointer = self.snapshot(commit).join(&file.path);
        let failed = |error| ModelsError::io("write", &pointer, error);
        let blob = self.blob(&file.blob);
        if !blob.is_file() {
            // The file lies in the snapshot itself.
            return Ok(());
        }
        if let Some(folder) = pointer.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        // From the snapshot's folder to the blob's: links stay right when the folder is moved.
        let up = "../".repeat(2 + file.path.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{}", file.blob));
        if fs::read_link(&pointer).is_ok_and(|link| link == target) {
            return Ok(());
        }
        match fs::remove_file(&pointer) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        match symlink(&target, &pointer) {
            Ok(()) => Ok(()),
            // Windows without the right to make links, and file systems that have none.
            Err(error) if cfg!(windows) || is_refusal(&error) => {
                tracing::debug!(%error, "links are refused: the file itself goes into the snapshot");
                fs::rename(&blob, &pointer).map_err(failed)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// All repositories in `root`.
    pub(crate) fn all(root: &Path) -> Vec<(RepoName, Self)> {
        let Ok(entries) = fs::read_dir(root) else {
            return Vec::new();
        };
        let names = entries.flatten().filter_map(|entry| {
            let folder = entry.file_name().into_string().ok()?;
            entry.path().is_dir().then_some(())?;
            RepoName::of_folder(&folder)
        });
        let mut all: Vec<_> = names
            .map(|repo| (repo.clone(), Self::new(root, &repo)))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

/// Whether this is a commit's hash, and so the name of a snapshot.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported
    )
}

#[cfg(unix)]
pub(crate) fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
pub(crate) fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    let target = target.to_string_lossy().replace('/', "\\");
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
pub(crate) fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A lock that other programs see too; given back when it is dropped or the program ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock at `path` if nobody has it.
    pub(crate) fn try_exclusive(path: &Path) -> Result<Option<Self>> {
        Self::take(path, File::try_lock)
    }

    /// Takes the lock at `path` beside others who do so.
    pub(crate) fn try_shared(path: &Path) -> Result<Option<Self>> {
        Self::take(path, File::try_lock_shared)
    }

    fn take(
        path: &Path,
        lock: impl FnOnce(&File) -> std::result::Result<(), TryLockError>,
    ) -> Result<Option<Self>> {
        let failed = |error| ModelsError::io("lock", path, error);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(failed)?;
        match lock(&file) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            // Some network file systems have no locks: then nobody else is told.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                Ok(Some(Self { _file: file }))
            }
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

/// Bytes of all regular files below `path`, links not followed.
pub(crate) fn size_bytes(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return 0;
    };
    if meta.is_file() {
        return meta.len();
    }
    if !meta.is_dir() {
        return 0;
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| size_bytes(&entry.path())).sum()
}
