//! Files that are there as a whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::NamedTempFile;

/// What the names of temporary files begin and end with.
const PREFIX: &str = ".octet-";
const SUFFIX: &str = ".tmp";

/// After this a temporary file belongs to nobody who still lives.
const STALE: Duration = Duration::from_secs(60 * 60);

/// Who may read a new file, where the system tells users apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Its owner: chats, settings.
    Owner,
    /// Everyone: files of a cache that users share.
    Everyone,
}

/// An empty file in `folder` that is gone when it is dropped, unless it was given a name.
///
/// # Errors
/// The system's.
pub fn temporary_in(folder: &Path, access: Access) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    #[cfg(unix)]
    if access == Access::Everyone {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o644));
    }
    #[cfg(not(unix))]
    let _ = access;
    builder.tempfile_in(folder)
}

/// Removes temporary files that a crash left in `folder` long ago.
pub fn remove_stale(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_ours = name.starts_with(PREFIX) && name.ends_with(SUFFIX);
        let modified = entry.metadata().and_then(|data| data.modified());
        let age = modified
            .ok()
            .and_then(|then| SystemTime::now().duration_since(then).ok());
        if is_ours && age.is_some_and(|age| age > STALE) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A file under way: beside the one that it will replace, under another name, until
/// [`Replacement::finish`]. Whatever happens, that one holds what it held before or all of the
/// new. Dropped before, it leaves nothing behind.
#[derive(Debug)]
pub struct Replacement {
    writer: BufWriter<NamedTempFile>,
    path: PathBuf,
}

impl Replacement {
    /// For the file at `path`; a link's target is replaced, not the link. Folders are created.
    ///
    /// # Errors
    /// The system's.
    pub fn create(path: &Path, access: Access) -> io::Result<Self> {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let folder = folder_of(&path);
        fs::create_dir_all(folder)?;
        let writer = BufWriter::new(temporary_in(folder, access)?);
        Ok(Self { writer, path })
    }

    /// Syncs the file and gives it its name.
    ///
    /// # Errors
    /// The system's; the file that was to be replaced is as before then.
    pub fn finish(self) -> io::Result<()> {
        let file = self
            .writer
            .into_inner()
            .map_err(|error| error.into_error())?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        sync_folder(folder_of(&self.path));
        Ok(())
    }
}

impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Replaces the file at `path` by `bytes`, as [`Replacement`] does.
///
/// # Errors
/// The system's.
pub fn replace(path: &Path, access: Access, bytes: &[u8]) -> io::Result<()> {
    let mut file = Replacement::create(path, access)?;
    file.write_all(bytes)?;
    file.finish()
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes a rename in `folder` last through a power cut, where folders can be synced.
pub fn sync_folder(folder: &Path) {
    if cfg!(unix)
        && let Err(error) = File::open(folder).and_then(|folder| folder.sync_all())
    {
        tracing::debug!(%error, folder = %folder.display(), "the folder was not synced");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| {
            let name = entry.expect("listed").file_name();
            name.into_string().expect("plain")
        };
        fs::read_dir(folder).expect("listed").map(name).collect()
    }

    #[test]
    fn a_file_that_is_not_finished_leaves_the_old_one_as_it_was() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("new/settings.json");
        replace(&path, Access::Owner, b"before").expect("written");
        let mut file = Replacement::create(&path, Access::Owner).expect("created");
        file.write_all(b"after").expect("written");
        drop(file);
        assert_eq!(fs::read_to_string(&path).expect("read"), "before");
        assert_eq!(names(&dir.path().join("new")), ["settings.json"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_and_its_target_is_replaced() {
        let dir = tempfile::tempdir().expect("a folder");
        let (link, target) = (dir.path().join("link"), dir.path().join("target"));
        fs::write(&target, "before").expect("written");
        std::os::unix::fs::symlink(&target, &link).expect("linked");
        replace(&link, Access::Owner, b"after").expect("written");
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&target).expect("read"), "after");
    }

    #[cfg(unix)]
    #[test]
    fn only_what_is_shared_can_be_read_by_others() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a folder");
        for (access, mode) in [(Access::Owner, 0o600), (Access::Everyone, 0o644)] {
            let path = dir.path().join(format!("{access:?}"));
            replace(&path, access, b"x").expect("written");
            let found = fs::metadata(&path).expect("there").permissions().mode();
            // A stricter umask may take more away.
            assert_eq!(found & 0o777 & !mode, 0, "{access:?}");
        }
    }

    #[test]
    fn old_temporary_files_go_and_young_ones_stay() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |name: &str, age: Duration| {
            let file = File::create(dir.path().join(name)).expect("created");
            file.set_modified(SystemTime::now() - age).expect("dated");
        };
        at(".octet-old.tmp", STALE * 2);
        at(".octet-young.tmp", Duration::ZERO);
        at("chat.json", STALE * 2);
        remove_stale(dir.path());
        let mut left = names(dir.path());
        left.sort();
        assert_eq!(left, [".octet-young.tmp", "chat.json"]);
    }
}
