//! The store as a whole: opening, looking after itself, closing.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::database::{self, Database};
use crate::{Result, StoreError, backup, messages, search};

/// How long deleted chats and messages can be had back.
pub const KEEP_DELETED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Chats on disk. One for the whole program; every method may be called from any thread.
///
/// Writing calls take turns. Reading calls run beside them and see the last finished write.
/// All of them block, most for well under a millisecond, writes for as long as the disk needs.
pub struct Store {
    database: Arc<Database>,
    interrupted: usize,
    closing: Arc<AtomicBool>,
    upkeep: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens the chats at `path`, or creates them, folders included.
    ///
    /// An older format is brought up to date after a backup. Answers that a crash cut off are
    /// marked, unless another program has the file open. A daily backup, if one is due, and
    /// purging of what was deleted [`KEEP_DELETED`] ago happen in the background.
    ///
    /// # Errors
    /// [`Damaged`](crate::StoreError::Damaged): see [`recover`](crate::recover).
    /// [`Newer`](crate::StoreError::Newer), [`Locked`](crate::StoreError::Locked),
    /// [`DiskFull`](crate::StoreError::DiskFull), [`Io`](crate::StoreError::Io): nothing was
    /// changed.
    pub fn open(path: &Path) -> Result<Self> {
        let changed = backup::last_change(path);
        let database = Arc::new(Database::open(path)?);
        let interrupted = if database.was_alone() {
            database.write(messages::interrupt_streaming)?
        } else {
            0
        };
        if interrupted > 0 {
            tracing::warn!(
                interrupted,
                "answers were cut off when the program last ended"
            );
        }
        let mut store = Self {
            database,
            interrupted,
            closing: Arc::default(),
            upkeep: None,
        };
        store.upkeep = store.start_upkeep(backup::is_due(path, changed));
        Ok(store)
    }

    fn start_upkeep(&self, backup_due: bool) -> Option<JoinHandle<()>> {
        let background = Self {
            database: Arc::clone(&self.database),
            interrupted: 0,
            closing: Arc::clone(&self.closing),
            upkeep: None,
        };
        let upkeep = move || {
            let is_closing = || background.closing.load(Ordering::Relaxed);
            if backup_due && let Err(error) = backup::create(background.path(), is_closing) {
                tracing::warn!(%error, "the daily backup failed");
            }
            if let Err(error) = background.purge(KEEP_DELETED) {
                tracing::warn!(%error, "old deleted chats were not purged");
            }
        };
        thread::Builder::new()
            .name("octet-store".to_owned())
            .spawn(upkeep)
            .inspect_err(|error| tracing::warn!(%error, "no thread for the upkeep of chats"))
            .ok()
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.database.path()
    }

    /// How many answers were found cut off when this was opened.
    pub fn interrupted_at_open(&self) -> usize {
        self.interrupted
    }

    /// Bytes on disk, without backups.
    pub fn size_bytes(&self) -> u64 {
        database::size_bytes(self.path())
    }

    /// Reads the whole database and lists what is wrong with it, at most 100 things; empty when
    /// it is sound. Takes a while on a large one.
    ///
    /// # Errors
    /// When the database cannot be read at all.
    pub fn check(&self) -> Result<Vec<String>> {
        let checked = self.database.read(|database| {
            let mut statement = database.prepare("PRAGMA quick_check(100)")?;
            let lines = statement.query_map([], |row| row.get::<_, String>(0))?;
            let mut problems = lines.collect::<rusqlite::Result<Vec<_>>>()?;
            problems.retain(|line| line != "ok");
            Ok(problems)
        });
        match checked {
            Err(StoreError::Damaged { reason, .. }) => Ok(vec![reason]),
            checked => checked,
        }
    }

    /// Makes a backup now. Its file.
    ///
    /// # Errors
    /// When the database cannot be read, or the disk is full.
    pub fn back_up(&self) -> Result<std::path::PathBuf> {
        backup::create(self.path(), || false)
    }

    /// Gives room that purged chats took back to the disk, and leaves no trace of their text in
    /// the file (backups may still have it). Needs as much free room as the chats take, and
    /// some seconds for a hundred thousand messages; writing calls wait meanwhile.
    ///
    /// # Errors
    /// When the disk is too full, or somebody else reads for too long.
    pub fn compact(&self) -> Result<()> {
        self.database.write(|database| search::rebuild(database))?;
        self.database.with_writer(|database| {
            database.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE);")?;
            Ok(())
        })
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(upkeep) = self.upkeep.take() {
            self.closing.store(true, Ordering::Relaxed);
            if upkeep.join().is_err() {
                tracing::warn!("the upkeep of chats panicked");
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::{MessageState, NewChat, StopReason};

    /// A new store in a folder of its own.
    pub(crate) fn scratch() -> (TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("chats.db")).unwrap();
        (folder, store)
    }

    #[test]
    fn a_store_goes_to_any_thread() {
        fn check<T: Send + Sync>() {}
        check::<Store>();
        check::<crate::settings::SettingsFile>();
    }

    #[test]
    fn a_full_disk_is_said_and_loses_nothing() {
        let (folder, store) = scratch();
        let chat = store.create_chat(NewChat::default()).unwrap().id;
        let question = store.add_user(chat, None, "before").unwrap();
        let answer = store.begin_answer(chat, question.id, None).unwrap().id;
        store.update_answer(answer, "so far").unwrap();
        store
            .database()
            .with_writer(|writer| {
                let pages: i64 = writer.pragma_query_value(None, "page_count", |row| row.get(0))?;
                writer.query_row(
                    &format!("PRAGMA max_page_count = {}", pages + 2),
                    [],
                    |_| Ok(()),
                )?;
                Ok(())
            })
            .unwrap();
        let large = "x".repeat(1 << 20);
        let full = store.update_answer(answer, &large).unwrap_err();
        assert!(matches!(full, StoreError::DiskFull { .. }), "{full}");
        let full = store.finish_answer(answer, &large, None, StopReason::Eos);
        assert!(matches!(full, Err(StoreError::DiskFull { .. })));
        let full = store.add_user(chat, Some(answer), &large);
        assert!(matches!(full, Err(StoreError::DiskFull { .. })));
        let full = store.import_from(
            crate::Format::Json,
            format!(
                r#"{{"format":"octet-chats","version":1,"chats":[{{"id":"01940000-0000-7000-8000-000000000001",
                "title":"{large}","pinned":false,"createdAt":1,"updatedAt":1,"systemPrompt":"{large}",
                "messages":[]}}]}}"#
            )
            .as_bytes(),
        );
        assert!(matches!(full, Err(StoreError::DiskFull { .. })), "{full:?}");
        assert_eq!(store.message(answer).unwrap().text, "so far");
        assert_eq!(store.chat(chat).unwrap().messages.len(), 2);
        drop(store);

        let store = Store::open(&folder.path().join("chats.db")).unwrap();
        assert_eq!(store.check().unwrap(), [""; 0]);
        let answer = store.message(answer).unwrap();
        assert_eq!(answer.text, "so far");
        assert_eq!(answer.state, MessageState::Interrupted);
    }

    #[test]
    fn a_writer_waits_for_another_program_and_a_reader_does_not() {
        let (_folder, store) = scratch();
        let chat = store.create_chat(NewChat::default()).unwrap().id;
        let second = Store::open(store.path()).unwrap();
        thread::scope(|scope| {
            let writing = store
                .database()
                .write(|_| {
                    let writing = scope.spawn(|| second.add_user(chat, None, "waited"));
                    assert_eq!(second.counts().unwrap().messages, 0);
                    assert!(second.search("waited", 10).unwrap().is_empty());
                    Ok(writing)
                })
                .unwrap();
            writing.join().unwrap().unwrap();
        });
        assert_eq!(store.chat(chat).unwrap().messages[0].text, "waited");
    }

    #[test]
    fn a_lock_that_is_never_let_go_is_said() {
        let (_folder, store) = scratch();
        let second = Store::open(store.path()).unwrap();
        second
            .database()
            .with_writer(|writer| Ok(writer.busy_timeout(Duration::ZERO)?))
            .unwrap();
        let locked = store
            .database()
            .write(|_| Ok(second.create_chat(NewChat::default()).unwrap_err()))
            .unwrap();
        assert!(matches!(locked, StoreError::Locked { .. }), "{locked}");
    }
}
