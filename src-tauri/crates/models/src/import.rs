//! Folders that come in: as a link, or as a copy.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use octet_engine::checkpoint::{CONFIG_FILE, Checkpoint, INDEX_FILE, parse_index, read_small};
use serde::Deserialize;

use crate::cache::{Lock, RepoDir};
use crate::content_hash::ContentHash;
use crate::library::{IMPORTED, in_use_lock};
use crate::names::{RepoName, is_safe_file_name};
use crate::record::{Damage, Manifest, RepoFile, Ticket, now_ms};
use crate::work::Work;
use crate::{ForeignFault, ModelsError, Result, disk};

/// How a folder comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum ImportHow {
    /// It stays where it is and is remembered.
    Link,
    /// Its files are copied into the models folder.
    Copy,
}

/// Looks at the folder as the engine would.
///
/// # Errors
/// [`ModelsError::Foreign`] with what is missing or wrong.
pub(crate) fn check(folder: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(folder)
        .map_err(|error| ModelsError::io("find the folder", folder, error))?;
    match Checkpoint::open(&absolute) {
        Ok(_) => Ok(absolute),
        Err(error) => Err(ModelsError::Foreign {
            what: absolute.display().to_string(),
            fault: ForeignFault::refused(&error),
        }),
    }
}

/// Copies the model in `folder` into `root`, unless that was done before. The name of its
/// repository, which is in no hub.
///
/// # Errors
/// What is no model, a full disk, or a wish to stop: what was copied is gone then.
pub(crate) fn copy(
    root: &Path,
    folder: &Path,
    reserve_bytes: u64,
    work: &Work,
) -> Result<RepoName> {
    let (folder, names) = parts(&check(folder)?)?;
    let size = |name: &String| fs::metadata(folder.join(name)).map_or(0, |meta| meta.len());
    let total = names.iter().map(size).sum();
    if let Some(copied) = copied_before(root, &folder, &names, work)? {
        return Ok(copied);
    }
    disk::check(root, total, reserve_bytes)?;
    work.expect(total);
    let repo = free_name(root, &folder);
    let dir = RepoDir::new(root, &repo);
    // Tells other programs that this is no leftover.
    let lock = Lock::try_exclusive(&in_use_lock(&dir))?;
    let copied = copy_files(&dir, &folder, &names, work);
    drop(lock);
    if copied.is_err() {
        let _ = fs::remove_dir_all(dir.path());
    }
    copied.map(|()| repo)
}

/// The copy that holds just the files `names` of `folder`.
fn copied_before(
    root: &Path,
    folder: &Path,
    names: &[String],
    work: &Work,
) -> Result<Option<RepoName>> {
    let size = |name: &str| fs::metadata(folder.join(name)).map_or(0, |meta| meta.len());
    let is_same_size =
        |file: &RepoFile| names.contains(&file.path) && file.size == size(&file.path);
    let looks_same = |dir: &RepoDir, manifest: &Manifest| {
        manifest.is_imported
            && manifest.files.len() == names.len()
            && manifest.files.iter().all(is_same_size)
            && manifest
                .files
                .iter()
                .all(|file| dir.complete(&manifest.commit, file).is_some())
            && Damage::read(dir, &manifest.commit).is_none()
    };
    for (repo, dir) in RepoDir::all(root) {
        let Some(manifest) = Manifest::read(&dir).filter(|manifest| looks_same(&dir, manifest))
        else {
            continue;
        };
        work.restart(manifest.files.iter().map(|file| file.size).sum());
        let mut all_same = true;
        // Small files first: these tell most models apart.
        let mut files: Vec<&RepoFile> = manifest.files.iter().collect();
        files.sort_by_key(|file| file.size);
        for file in files {
            if work.hash(&folder.join(&file.path))? != file.blob {
                all_same = false;
                break;
            }
        }
        if all_same {
            return Ok(Some(repo));
        }
    }
    work.restart(0);
    Ok(None)
}

/// Deletes what copies have left that were killed in the middle: it is in no list.
pub(crate) fn remove_leftovers(root: &Path) {
    for (repo, dir) in RepoDir::all(root) {
        let is_copy = repo.as_str().starts_with(&format!("{IMPORTED}/"));
        let lock = in_use_lock(&dir);
        if !is_copy || !lock.is_file() || dir.commit().is_some() || Ticket::read(&dir).is_some() {
            continue;
        }
        // Else another program is at it.
        if let Ok(Some(lock)) = Lock::try_exclusive(&lock) {
            drop(lock);
            if let Err(error) = fs::remove_dir_all(dir.path()) {
                tracing::warn!(%error, folder = %dir.path().display(), "a leftover stays");
            }
        }
    }
}

fn copy_files(dir: &RepoDir, folder: &Path, names: &[String], work: &Work) -> Result<()> {
    let mut files = Vec::with_capacity(names.len());
    let mut all = ContentHash::for_blob(&"0".repeat(40), 0).expect("BUG: forty digits");
    for name in names {
        let incoming = dir.partial(&format!("import-{}", files.len()));
        let hash = work.copy(&folder.join(name), &incoming)?;
        let blob = dir.blob(&hash);
        fs::rename(&incoming, &blob)
            .map_err(|error| ModelsError::io("rename", &incoming, error))?;
        all.update(format!("{hash} {name}\n").as_bytes());
        files.push(RepoFile {
            path: name.clone(),
            size: fs::metadata(&blob).map_or(0, |meta| meta.len()),
            blob: hash,
        });
    }
    // There is no commit: the files themselves name their version.
    let commit = all.finish();
    for file in &files {
        dir.place(&commit, file)?;
    }
    let manifest = Manifest {
        commit: commit.clone(),
        files,
        beside: HashMap::new(),
        completed_at_ms: now_ms(),
        verified_at_ms: None,
        is_imported: true,
    };
    manifest.write(dir)?;
    dir.set_commit(&commit)
}

/// The folder of the model at `path` and the names of its files there.
fn parts(path: &Path) -> Result<(PathBuf, Vec<String>)> {
    let opened = Checkpoint::open(path).map_err(|error| ModelsError::Foreign {
        what: path.display().to_string(),
        fault: ForeignFault::refused(&error),
    })?;
    let Some(gguf) = opened.gguf() else {
        return Ok((path.to_owned(), names(path)?));
    };
    let files = gguf.files().iter().map(|file| file.path());
    let mut names: Vec<String> = files
        .filter_map(|file| Some(file.file_name()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    let folder = match path.is_dir() {
        true => path,
        false => path.parent().unwrap_or(path),
    };
    Ok((folder.to_owned(), names))
}

/// The files that belong to the model: those that the index names, and small ones beside them.
fn names(folder: &Path) -> Result<Vec<String>> {
    let failed = |error: &dyn fmt::Display| ModelsError::Foreign {
        what: folder.display().to_string(),
        fault: ForeignFault::refused(error),
    };
    let index = read_small(&folder.join(INDEX_FILE), 64 << 20);
    let index = index.map_err(|error| failed(&error))?.unwrap_or_default();
    let index = parse_index(&index).map_err(|error| failed(&error))?;
    let tensors = index.tensors().filter_map(|tensor| index.file(tensor));
    let mut names: Vec<String> = tensors.map(str::to_owned).collect();
    names.extend([CONFIG_FILE, INDEX_FILE].map(str::to_owned));
    let beside = [
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
        "special_tokens_map.json",
        "README.md",
        "LICENSE",
    ];
    names.extend(
        beside
            .into_iter()
            .filter(|name| folder.join(name).is_file())
            .map(str::to_owned),
    );
    names.retain(|name| is_safe_file_name(name));
    names.sort();
    names.dedup();
    Ok(names)
}

/// `local/FOLDER`, with a number where there is one of this name.
fn free_name(root: &Path, folder: &Path) -> RepoName {
    let name = folder
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let mut plain = String::new();
    for c in name.unwrap_or_default().chars().take(80) {
        let c = if c.is_ascii_alphanumeric() || matches!(c, '_' | '.') {
            c
        } else {
            '-'
        };
        // The hub's rules for names.
        if !(matches!(c, '-' | '.') && plain.ends_with(['-', '.'])) {
            plain.push(c);
        }
    }
    let plain = plain.trim_matches(['-', '.']);
    let plain = if plain.is_empty() { "model" } else { plain };
    let numbered = (1..).map(|number| match number {
        1 => format!("{IMPORTED}/{plain}"),
        number => format!("{IMPORTED}/{plain}-{number}"),
    });
    numbered
        .filter_map(|name| name.parse().ok())
        .find(|repo| !RepoDir::new(root, repo).path().exists())
        .expect("BUG: a plain name with a number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folders_name_becomes_a_repositorys() {
        let root = tempfile::tempdir().unwrap();
        for (folder, expected) in [
            ("/x/mixtral", "local/mixtral"),
            ("/x/My Model (v2)", "local/My-Model-v2"),
            ("/x/..a--b..", "local/a-b"),
            ("/x/ü", "local/model"),
            ("/", "local/model"),
        ] {
            assert_eq!(free_name(root.path(), Path::new(folder)).as_str(), expected);
        }
        fs::create_dir(root.path().join("models--local--mixtral")).unwrap();
        let second = free_name(root.path(), Path::new("/x/mixtral"));
        assert_eq!(second.as_str(), "local/mixtral-2");
    }
}
