//! The settings of the moment, over the file they are in.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use octet_store::settings::{Loaded, Settings, SettingsFile};

use crate::error::Result;

/// Settings, in memory and on disk.
pub struct CurrentSettings {
    file: SettingsFile,
    settings: Mutex<Settings>,
}

impl CurrentSettings {
    /// Reads the file at `path`; also what was found there.
    pub fn open(path: &Path) -> (Self, Loaded) {
        let (file, loaded) = SettingsFile::open(path);
        let settings = Mutex::new(loaded.settings.clone());
        (Self { file, settings }, loaded)
    }

    /// As they are now.
    pub fn get(&self) -> Settings {
        self.lock().clone()
    }

    /// Keeps `settings`, brought into range; what was kept.
    ///
    /// # Errors
    /// Where the file cannot be written; then nothing changes.
    pub fn save(&self, settings: &Settings) -> Result<Settings> {
        let mut current = self.lock();
        *current = self.file.save(settings)?;
        Ok(current.clone())
    }

    /// Changes some of them.
    ///
    /// # Errors
    /// As [`CurrentSettings::save`].
    pub fn change(&self, change: impl FnOnce(&mut Settings)) -> Result<()> {
        let mut current = self.lock();
        let mut changed = current.clone();
        change(&mut changed);
        *current = self.file.save(&changed)?;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
