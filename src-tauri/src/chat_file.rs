//! The file of chats: opened at the start, and anew when a person has it tried again or brought
//! back from a backup.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use octet_store::{Backup, Store, StoreError, backups, recover};

use crate::app::Notice;
use crate::error::{ApiError, AppProblem, Result};

/// See the [module](self).
pub struct ChatFile {
    path: PathBuf,
    opened: RwLock<Result<Arc<Store>>>,
}

impl ChatFile {
    /// Opens the chats at `path`; what a person should know goes to `notices`. Damaged ones are
    /// kept aside and what can be read is recovered.
    pub fn open(path: PathBuf, notices: &mut Vec<Notice>) -> Self {
        let opened = RwLock::new(open(&path, notices));
        Self { path, opened }
    }

    /// The chats.
    ///
    /// # Errors
    /// Why they could not be opened.
    pub fn store(&self) -> Result<Arc<Store>> {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        opened.clone()
    }

    /// The backups there are, the newest first.
    pub fn backups(&self) -> Vec<Backup> {
        backups(&self.path)
    }

    /// Opens what could not be opened before; what there is to know about it.
    ///
    /// # Errors
    /// Why it cannot be opened still.
    pub fn retry(&self) -> Result<Vec<Notice>> {
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        let mut notices = Vec::new();
        if opened.is_err() {
            *opened = open(&self.path, &mut notices);
        }
        opened.clone().map(|_| notices)
    }

    /// Puts a copy of `backup` in the place of the chats; where they are now. Nothing is changed
    /// where that fails.
    ///
    /// # Errors
    /// [`AppProblem::NotABackup`] where it is no backup of these chats, or what went wrong.
    pub fn restore(&self, backup: &Path) -> Result<PathBuf> {
        if !self.backups().iter().any(|known| known.path == backup) {
            let path = backup.display().to_string();
            return Err(AppProblem::NotABackup { path }.into());
        }
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        // Closed first: where a file is open, some systems do not let it be renamed.
        *opened = Err(AppProblem::Restoring.into());
        match recover::restore(&self.path, backup) {
            Ok((store, aside)) => {
                *opened = Ok(Arc::new(store));
                Ok(aside)
            }
            Err(error) => {
                *opened = open(&self.path, &mut Vec::new());
                Err(error.into())
            }
        }
    }
}

fn open(path: &Path, notices: &mut Vec<Notice>) -> Result<Arc<Store>> {
    let opened = match Store::open(path) {
        Err(StoreError::Damaged { reason, .. }) => {
            tracing::error!(reason, "the chats are damaged");
            recover::recover(path).map(|(store, recovered)| {
                notices.push(Notice::StoreRestored {
                    path: recovered.damaged.display().to_string(),
                    chats: recovered.chats,
                    messages: recovered.messages,
                });
                store
            })
        }
        opened => opened,
    };
    match opened {
        Ok(store) => {
            let count = store.interrupted_at_open();
            if count > 0 {
                notices.push(Notice::InterruptedAnswers { count });
            }
            Ok(Arc::new(store))
        }
        Err(error) => {
            tracing::error!(%error, "the chats cannot be opened");
            let error = ApiError::from(error);
            notices.push(Notice::StoreUnavailable {
                path: path.display().to_string(),
                error: error.clone(),
            });
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use octet_store::NewChat;

    use super::*;

    fn titles(file: &ChatFile) -> Vec<String> {
        let page = file.store().unwrap().list_chats(&octet_store::ChatFilter {
            limit: 10,
            ..Default::default()
        });
        let chats = page.unwrap().chats;
        chats.into_iter().map(|chat| chat.title).collect()
    }

    fn add(file: &ChatFile, title: &str) {
        let store = file.store().unwrap();
        let chat = store.create_chat(NewChat::default()).unwrap();
        store.rename_chat(chat.id, title).unwrap();
    }

    #[test]
    fn a_backup_takes_the_place_of_chats_that_are_open() {
        let dir = tempfile::tempdir().unwrap();
        let file = ChatFile::open(dir.path().join("chats.db"), &mut Vec::new());
        add(&file, "before");
        let backup = file.store().unwrap().back_up().unwrap();
        add(&file, "after");
        assert_eq!(file.backups()[0].path, backup);

        let aside = file.restore(&backup).unwrap();
        assert_eq!(titles(&file), ["before"]);
        assert!(aside.is_file(), "what was there is kept");

        std::fs::write(&backup, "no database").unwrap();
        assert!(file.restore(&backup).is_err());
        assert_eq!(titles(&file), ["before"], "a bad backup changes nothing");
    }

    #[test]
    fn only_a_backup_of_these_chats_is_restored() {
        let dir = tempfile::tempdir().unwrap();
        let file = ChatFile::open(dir.path().join("chats.db"), &mut Vec::new());
        let foreign = dir.path().join("foreign.db");
        std::fs::copy(dir.path().join("chats.db"), &foreign).unwrap();
        let path = foreign.display().to_string();
        assert_eq!(
            file.restore(&foreign),
            Err(AppProblem::NotABackup { path }.into())
        );
    }

    #[test]
    fn what_could_not_be_opened_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data").join("chats.db");
        // A file where the folder should be.
        std::fs::write(dir.path().join("data"), "").unwrap();
        let mut notices = Vec::new();
        let file = ChatFile::open(path, &mut notices);
        assert!(matches!(notices[0], Notice::StoreUnavailable { .. }));
        assert!(file.retry().is_err());
        std::fs::remove_file(dir.path().join("data")).unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        assert_eq!(file.retry().unwrap(), []);
        assert_eq!(titles(&file), [""; 0]);
    }
}
