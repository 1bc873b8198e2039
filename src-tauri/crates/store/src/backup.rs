//! Copies of the database, beside it in `backups`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use octet_files::Access;
use rusqlite::backup::{Backup as Copying, StepResult};
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use crate::database::{open_reader, sibling};
use crate::{InvalidRequest, Result, StoreError, Timestamp};

/// How many backups there are at most. The oldest goes when a new one is complete.
pub const BACKUPS_KEPT: usize = 3;

/// How old the newest backup may get while chats change.
const INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// Pages copied between looks at whether to stop: 4 MiB.
const STEP_PAGES: i32 = 1024;

/// A backup of the chats.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct Backup {
    /// The file.
    pub path: PathBuf,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its size.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub size_bytes: u64,
}

/// The backups of the database at `path`, the newest first. They may be there when the database
/// is not.
pub fn backups(path: &Path) -> Vec<Backup> {
    let prefix = format!("{}-", stem(path));
    let Ok(entries) = fs::read_dir(folder(path)) else {
        return Vec::new();
    };
    let mut found: Vec<Backup> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let is_backup = name.starts_with(&prefix) && name.ends_with(".db");
            let data = entry.metadata().ok().filter(|_| is_backup)?;
            let modified = data.modified().ok()?;
            let since_1970 = modified.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            Some(Backup {
                path: entry.path(),
                created_at: Timestamp::from_ms(since_1970.as_millis() as i64),
                size_bytes: data.len(),
            })
        })
        .collect();
    found.sort_by(|a, b| (b.created_at, &b.path).cmp(&(a.created_at, &a.path)));
    found
}

pub(crate) fn newest(path: &Path) -> Option<PathBuf> {
    backups(path).into_iter().next().map(|backup| backup.path)
}

/// When the database at `path` was last written to. To be asked before opening it.
pub(crate) fn last_change(path: &Path) -> Option<SystemTime> {
    modified(path).max(modified(&sibling(path, "-wal")))
}

/// Whether a database last changed then has to be backed up: the newest backup is from before,
/// and a day old.
pub(crate) fn is_due(path: &Path, changed: Option<SystemTime>) -> bool {
    let Some(changed) = changed else {
        return false;
    };
    newest(path)
        .and_then(|backup| modified(&backup))
        .is_none_or(|saved| {
            let age = SystemTime::now().duration_since(saved).unwrap_or_default();
            changed > saved && age >= INTERVAL
        })
}

fn modified(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).ok()?.modified().ok()
}

/// Copies the database at `path` while others may write to it, unless `is_cancelled` says so
/// meanwhile. The copy is one state of it, and complete once it has its name. Its file.
pub(crate) fn create(path: &Path, is_cancelled: impl Fn() -> bool) -> Result<PathBuf> {
    let folder = folder(path);
    fs::create_dir_all(&folder).map_err(|error| StoreError::io("create", &folder, error))?;
    octet_files::remove_stale(&folder);
    let name = format!("{}-{}", stem(path), Timestamp::now().file_name());
    let target = unused(&folder, &name);
    let failed = |error| StoreError::io("write", &target, error);
    let file = octet_files::temporary_in(&folder, Access::Owner).map_err(failed)?;
    copy(path, file.path(), is_cancelled).map_err(|error| error.about(&target))?;
    // Another backup may have got this name meanwhile; it is as good.
    file.persist(&target).map_err(|error| failed(error.error))?;
    octet_files::sync_folder(&folder);
    for old in backups(path).into_iter().skip(BACKUPS_KEPT) {
        if let Err(error) = fs::remove_file(&old.path) {
            tracing::warn!(%error, path = %old.path.display(), "an old backup stays");
        }
    }
    Ok(target)
}

fn copy(path: &Path, target: &Path, is_cancelled: impl Fn() -> bool) -> Result<()> {
    let source = open_reader(path)?;
    // Held until the end: the copy need not begin anew when somebody writes.
    let snapshot = source.unchecked_transaction()?;
    snapshot.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    let mut target = Connection::open_with_flags(target, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let copying = Copying::new(&source, &mut target)?;
    while copying.step(STEP_PAGES)? != StepResult::Done {
        if is_cancelled() {
            return Err(InvalidRequest::BackupCancelled.into());
        }
    }
    drop(copying);
    let health: String = target.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if health == "ok" {
        Ok(())
    } else {
        // It must not push out a backup that is sound.
        Err(StoreError::Damaged {
            path: path.to_owned(),
            reason: health,
            backup: newest(path),
        })
    }
}

pub(crate) fn folder(path: &Path) -> PathBuf {
    path.with_file_name("backups")
}

/// `chats` of `chats.db`.
pub(crate) fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(
        || "chats".to_owned(),
        |stem| stem.to_string_lossy().into_owned(),
    )
}

/// `NAME.db` in the folder, or with a number where that is taken.
pub(crate) fn unused(folder: &Path, name: &str) -> PathBuf {
    let mut candidate = folder.join(format!("{name}.db"));
    let mut number = 2;
    while candidate.exists() {
        candidate = folder.join(format!("{name}-{number}.db"));
        number += 1;
    }
    candidate
}
