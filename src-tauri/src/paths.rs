//! Where the app keeps its things.

use std::path::PathBuf;

use directories::ProjectDirs;

use crate::error::{AppProblem, Result};

/// Folders and files of one user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Settings.
    pub config_dir: PathBuf,
    /// Chats, and models.
    pub data_dir: PathBuf,
    /// Logs.
    pub log_dir: PathBuf,
}

impl Paths {
    /// The ones the system has for programs; none where the user has no home folder.
    pub fn of_user() -> Option<Self> {
        let dirs = ProjectDirs::from("app", "octet", "Octet")?;
        Some(Self {
            config_dir: dirs.config_dir().to_owned(),
            data_dir: dirs.data_dir().to_owned(),
            log_dir: dirs.data_local_dir().join("logs"),
        })
    }

    /// Creates the folders.
    ///
    /// # Errors
    /// Where one cannot be created.
    pub fn create(&self) -> Result<()> {
        for dir in [&self.config_dir, &self.data_dir, &self.log_dir] {
            std::fs::create_dir_all(dir).map_err(|error| AppProblem::FolderNotCreated {
                path: dir.display().to_string(),
                detail: error.to_string(),
            })?;
        }
        Ok(())
    }

    /// The settings.
    pub fn settings(&self) -> PathBuf {
        self.config_dir.join("settings.json")
    }

    /// The chats.
    pub fn chats(&self) -> PathBuf {
        self.data_dir.join("chats.db")
    }
}
