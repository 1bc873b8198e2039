//! The models folder goes elsewhere.
//!
//! Only what Octet lists is moved: the folder may be a cache that other programs share. Where
//! both places are on one file system, folders are renamed. Elsewhere they are copied, and
//! deleted only when all are there and the new place has been written down; whatever ends this in
//! between, every model is whole in one place that the settings name or that is named again.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::{self, RepoDir};
use crate::names::RepoName;
use crate::work::Work;
use crate::{InvalidInput, ModelsError, Result, disk};

/// What a copy is called until it is complete.
const MOVING: &str = ".octet-moving";

/// Moves `repos` from the folder `from` to `to`. `switch` makes `to` the models folder; it is
/// called once, when all are there.
///
/// # Errors
/// A full disk, a model that is there already, a wish to stop: the old folder stays in use.
pub(crate) fn relocate(
    from: &Path,
    to: &Path,
    repos: &[RepoName],
    reserve_bytes: u64,
    work: &Work,
    switch: impl FnOnce() -> Result<()>,
) -> Result<()> {
    fs::create_dir_all(to).map_err(|error| ModelsError::io("create", to, error))?;
    let place = |root: &Path, repo: &RepoName| RepoDir::new(root, repo).path();
    for repo in repos {
        if place(to, repo).exists() {
            let repo = repo.to_string();
            return Err(InvalidInput::FolderHas { repo }.into());
        }
    }
    let total: u64 = repos
        .iter()
        .map(|repo| cache::size_bytes(&place(from, repo)))
        .sum();
    work.expect(total);
    if can_rename(from, to) {
        let mut moved = Vec::new();
        for repo in repos {
            let (old, new) = (place(from, repo), place(to, repo));
            if let Err(error) = fs::rename(&old, &new) {
                for (old, new) in moved {
                    let _ = fs::rename(new, old);
                }
                return Err(ModelsError::io("move", &old, error));
            }
            work.did(cache::size_bytes(&new));
            moved.push((old, new));
        }
        let switched = switch();
        if switched.is_err() {
            for (old, new) in moved {
                let _ = fs::rename(new, old);
            }
        }
        return switched;
    }
    disk::check(to, total, reserve_bytes)?;
    let mut copies: Vec<PathBuf> = Vec::new();
    let copied = repos.iter().try_for_each(|repo| {
        let (old, new) = (place(from, repo), place(to, repo));
        let incoming = new.with_file_name(format!("{MOVING}-{}", repo.folder()));
        let _ = fs::remove_dir_all(&incoming);
        copies.push(incoming.clone());
        copy_tree(&old, &incoming, work)?;
        fs::rename(&incoming, &new).map_err(|error| ModelsError::io("rename", &incoming, error))?;
        copies.push(new);
        Ok(())
    });
    if let Err(error) = copied.and_then(|()| switch()) {
        for copy in copies {
            let _ = fs::remove_dir_all(copy);
        }
        return Err(error);
    }
    for repo in repos {
        let old = place(from, repo);
        if let Err(error) = fs::remove_dir_all(&old) {
            tracing::warn!(%error, folder = %old.display(), "a moved model was not deleted");
        }
    }
    Ok(())
}

/// Whether both folders are on one file system, by trying.
fn can_rename(from: &Path, to: &Path) -> bool {
    let Ok(probe) = tempfile::Builder::new().prefix(MOVING).tempdir_in(from) else {
        return false;
    };
    let target = to.join(probe.path().file_name().unwrap_or_default());
    let renamed = fs::rename(probe.path(), &target).is_ok();
    if renamed {
        let _ = fs::remove_dir(&target);
    }
    renamed
}

/// Copies a folder with its links as links.
fn copy_tree(from: &Path, to: &Path, work: &Work) -> Result<()> {
    fs::create_dir_all(to).map_err(|error| ModelsError::io("create", to, error))?;
    let entries = fs::read_dir(from).map_err(|error| ModelsError::io("read", from, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| ModelsError::io("read", from, error))?;
        let (old, new) = (entry.path(), to.join(entry.file_name()));
        let kind = entry
            .file_type()
            .map_err(|error| ModelsError::io("read", &old, error))?;
        if kind.is_dir() {
            copy_tree(&old, &new, work)?;
        } else if kind.is_symlink() {
            let target =
                fs::read_link(&old).map_err(|error| ModelsError::io("read", &old, error))?;
            cache::symlink(&target, &new).map_err(|error| ModelsError::io("write", &new, error))?;
        } else {
            work.copy(&old, &new)?;
        }
    }
    Ok(())
}
