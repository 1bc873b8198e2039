//! What Octet writes down about a repository, in `.octet` in its folder.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize};

use crate::cache::{RepoDir, is_commit};
use crate::names::is_safe_file_name;
use crate::{BadFile, FileFault, ModelsError, Result, atomic_file};

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RepoFile {
    /// Its name, with slashes.
    pub(crate) path: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Its hash, which is its blob's name.
    pub(crate) blob: String,
}

/// `.octet/model.json`: what a complete model consists of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) commit: String,
    pub(crate) files: Vec<RepoFile>,
    /// Files that were put beside those of the repository (the tokenizer), and where from.
    #[serde(default)]
    pub(crate) beside: HashMap<String, String>,
    pub(crate) completed_at_ms: u64,
    #[serde(default)]
    pub(crate) verified_at_ms: Option<u64>,
    /// Copied from a folder: there is nothing to download again.
    #[serde(default)]
    pub(crate) is_imported: bool,
}

impl Manifest {
    fn path(dir: &RepoDir) -> PathBuf {
        dir.own().join("model.json")
    }

    pub(crate) fn read(dir: &RepoDir) -> Option<Self> {
        let manifest: Self = atomic_file::read_json(&Self::path(dir))?;
        (is_commit(&manifest.commit) && are_safe(&manifest.files)).then_some(manifest)
    }

    pub(crate) fn write(&self, dir: &RepoDir) -> Result<()> {
        let path = Self::path(dir);
        atomic_file::write_json(&path, self).map_err(|error| ModelsError::io("write", &path, error))
    }

    /// What a snapshot that another program made consists of, as its links tell.
    pub(crate) fn of_links(dir: &RepoDir, commit: &str) -> Self {
        let snapshot = dir.snapshot(commit);
        let mut files = Vec::new();
        let mut folders = vec![(snapshot.clone(), String::new())];
        while let Some((folder, prefix)) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let Ok(name) = entry.file_name().into_string() else {
                    continue;
                };
                let path = format!("{prefix}{name}");
                match fs::read_link(entry.path()) {
                    Ok(target) => {
                        let blob = target.file_name().and_then(|name| name.to_str());
                        files.push(RepoFile {
                            path,
                            // A link to nothing has no size, and is found missing.
                            size: fs::metadata(entry.path()).map_or(u64::MAX, |meta| meta.len()),
                            blob: blob.unwrap_or_default().to_owned(),
                        });
                    }
                    Err(_) if entry.path().is_dir() => {
                        folders.push((entry.path(), format!("{path}/")));
                    }
                    Err(_) => {}
                }
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let completed = fs::metadata(&snapshot)
            .and_then(|meta| meta.modified())
            .ok();
        Self {
            commit: commit.to_owned(),
            files,
            beside: HashMap::new(),
            completed_at_ms: completed.map_or(0, ms_since_1970),
            verified_at_ms: None,
            is_imported: false,
        }
    }
}

/// `.octet/damage.json`: what comparing every byte has found wrong, until that is mended. Sizes and
/// headers, which are looked at each time, would not show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Damage {
    pub(crate) commit: String,
    #[serde(deserialize_with = "bad_files")]
    pub(crate) files: Vec<BadFile>,
    pub(crate) checked_at_ms: u64,
}

/// Where an earlier version gave a `reason` in words, that is kept as it is.
fn bad_files<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<BadFile>, D::Error> {
    #[derive(Deserialize)]
    struct Stored {
        file: String,
        #[serde(alias = "reason")]
        fault: StoredFault,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum StoredFault {
        Fault(FileFault),
        Text(String),
    }
    let files = Vec::<Stored>::deserialize(deserializer)?;
    let read = |Stored { file, fault }| BadFile {
        file,
        fault: match fault {
            StoredFault::Fault(fault) => fault,
            StoredFault::Text(detail) => FileFault::Refused { detail },
        },
    };
    Ok(files.into_iter().map(read).collect())
}

impl Damage {
    fn path(dir: &RepoDir) -> PathBuf {
        dir.own().join("damage.json")
    }

    /// That of `commit`, if there is any.
    pub(crate) fn read(dir: &RepoDir, commit: &str) -> Option<Self> {
        let known: Option<Self> = atomic_file::read_json(&Self::path(dir));
        known.filter(|damage| damage.commit == commit)
    }

    pub(crate) fn write(&self, dir: &RepoDir) -> Result<()> {
        let path = Self::path(dir);
        atomic_file::write_json(&path, self).map_err(|error| ModelsError::io("write", &path, error))
    }

    pub(crate) fn remove(dir: &RepoDir) {
        let _ = fs::remove_file(Self::path(dir));
    }
}

/// `.octet/download.json`: a download that is not complete. Written when it is asked for, removed
/// when it is complete or cancelled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ticket {
    /// When it was asked for; sets the order.
    pub(crate) asked_at_ms: u64,
    /// What it fetches; none as long as the repository was not listed.
    pub(crate) commit: Option<String>,
    /// Files of that commit.
    #[serde(default)]
    pub(crate) files: Vec<RepoFile>,
    /// It was paused on request.
    #[serde(default)]
    pub(crate) is_paused: bool,
    /// It replaces files of a model that was complete.
    #[serde(default)]
    pub(crate) is_repair: bool,
    /// Blobs that were here before it began: nobody knows whether they are what their names say.
    #[serde(default)]
    pub(crate) unchecked: HashSet<String>,
}

impl Ticket {
    fn path(dir: &RepoDir) -> PathBuf {
        dir.own().join("download.json")
    }

    pub(crate) fn read(dir: &RepoDir) -> Option<Self> {
        let path = Self::path(dir);
        if !path.is_file() {
            return None;
        }
        // That there is one tells that a download is not complete, even if it is damaged.
        let ticket: Option<Self> = atomic_file::read_json(&path);
        let is_safe = |ticket: &Self| {
            are_safe(&ticket.files) && ticket.commit.as_deref().is_none_or(is_commit)
        };
        Some(ticket.filter(is_safe).unwrap_or_default())
    }

    pub(crate) fn write(&self, dir: &RepoDir) -> Result<()> {
        let path = Self::path(dir);
        atomic_file::write_json(&path, self).map_err(|error| ModelsError::io("write", &path, error))
    }

    pub(crate) fn remove(dir: &RepoDir) {
        let _ = fs::remove_file(Self::path(dir));
        let _ = fs::remove_dir_all(Sidecar::folder(dir));
    }
}

/// `.octet/partial/HASH.json`: what the beginning of a file is the beginning of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sidecar {
    pub(crate) size: u64,
    /// As the server that sends the bytes names them: not the hub's own, where it redirects.
    pub(crate) served_etag: Option<String>,
}

impl Sidecar {
    fn folder(dir: &RepoDir) -> PathBuf {
        dir.own().join("partial")
    }

    fn path(dir: &RepoDir, blob: &str) -> PathBuf {
        Self::folder(dir).join(format!("{blob}.json"))
    }

    pub(crate) fn read(dir: &RepoDir, blob: &str) -> Option<Self> {
        atomic_file::read_json(&Self::path(dir, blob))
    }

    /// Not synced: a lost or damaged one costs a fetch, never a wrong file.
    pub(crate) fn write(&self, dir: &RepoDir, blob: &str) -> Result<()> {
        let path = Self::path(dir, blob);
        let failed = |error| ModelsError::io("write", &path, error);
        fs::create_dir_all(Self::folder(dir)).map_err(failed)?;
        let json = serde_json::to_vec(self).map_err(|error| failed(error.into()))?;
        fs::write(&path, json).map_err(failed)
    }

    pub(crate) fn remove(dir: &RepoDir, blob: &str) {
        let _ = fs::remove_file(Self::path(dir, blob));
    }
}

/// Names from a file are names from outside too: the folder may have come from another machine.
fn are_safe(files: &[RepoFile]) -> bool {
    let is_name = |blob: &str| blob.bytes().all(|b| b.is_ascii_alphanumeric());
    files
        .iter()
        .all(|file| is_safe_file_name(&file.path) && is_name(&file.blob))
}

pub(crate) fn ms_since_1970(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}

pub(crate) fn now_ms() -> u64 {
    ms_since_1970(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_that_an_earlier_version_wrote_down_is_read() {
        let root = tempfile::tempdir().unwrap();
        let dir = RepoDir::new(root.path(), &"a/b".parse().unwrap());
        let path = Damage::path(&dir);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let earlier = r#"{
            "commit": "0f",
            "files": [{"file": "x.safetensors", "reason": "cannot be read (os error 5)"}],
            "checkedAtMs": 7
        }"#;
        fs::write(&path, earlier).unwrap();
        let damage = Damage::read(&dir, "0f").expect("it is read");
        let detail = "cannot be read (os error 5)".to_owned();
        assert_eq!(damage.files[0].fault, FileFault::Refused { detail });

        let size = FileFault::Size {
            found: 1,
            expected: 2,
        };
        let mut today = damage;
        today.files[0].fault = size.clone();
        today.write(&dir).unwrap();
        assert_eq!(Damage::read(&dir, "0f").unwrap().files[0].fault, size);
    }

    #[test]
    fn records_that_name_files_elsewhere_are_not_believed() {
        let root = tempfile::tempdir().unwrap();
        let dir = RepoDir::new(root.path(), &"a/b".parse().unwrap());
        let file = |path: &str, blob: &str| RepoFile {
            path: path.to_owned(),
            size: 1,
            blob: blob.to_owned(),
        };
        for (path, blob, is_believed) in [
            ("config.json", "0f", true),
            ("../../x", "0f", false),
            ("config.json", "../x", false),
        ] {
            let ticket = Ticket {
                asked_at_ms: 7,
                files: vec![file(path, blob)],
                ..Ticket::default()
            };
            ticket.write(&dir).unwrap();
            let expected = if is_believed {
                ticket
            } else {
                Ticket::default()
            };
            assert_eq!(Ticket::read(&dir), Some(expected), "{path} {blob}");
            let manifest = Manifest {
                commit: "0".repeat(40),
                files: vec![file(path, blob)],
                beside: HashMap::new(),
                completed_at_ms: 0,
                verified_at_ms: None,
                is_imported: false,
            };
            manifest.write(&dir).unwrap();
            assert_eq!(Manifest::read(&dir).is_some(), is_believed, "{path} {blob}");
        }
    }
}
