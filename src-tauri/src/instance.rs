//! One Octet at a time for one user: two would overwrite each other's settings and take each
//! other's answers for broken off.
//!
//! A lock on a file in the folder of the settings says so on every system; it goes with the
//! process, however that ends. Bringing the first one's window up is another matter
//! (`tauri-plugin-single-instance`), which on Linux takes a session bus.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

/// Whether this is the only one.
#[derive(Debug)]
pub enum Instance {
    /// It is, as long as this is kept. No file where none can be locked.
    Only(Option<File>),
    /// Another one runs.
    Second,
}

/// Claims the folder of the settings.
pub fn claim(config_dir: &Path) -> Instance {
    let path = config_dir.join("instance.lock");
    let open = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let file = match open {
        Ok(file) => file,
        Err(error) => {
            // Nothing can be written there, so nothing can be overwritten either.
            tracing::warn!(%error, path = %path.display(), "no lock");
            return Instance::Only(None);
        }
    };
    match file.try_lock() {
        Ok(()) => Instance::Only(Some(file)),
        Err(TryLockError::WouldBlock) => Instance::Second,
        Err(TryLockError::Error(error)) => {
            tracing::warn!(%error, path = %path.display(), "no lock");
            Instance::Only(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_claimed_once_until_it_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let first = claim(dir.path());
        assert!(matches!(first, Instance::Only(Some(_))), "{first:?}");
        assert!(matches!(claim(dir.path()), Instance::Second));
        let other = tempfile::tempdir().unwrap();
        assert!(matches!(claim(other.path()), Instance::Only(Some(_))));
        drop(first);
        assert!(matches!(claim(dir.path()), Instance::Only(Some(_))));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_reason_not_to_start() {
        let dir = tempfile::tempdir().unwrap();
        let missing = claim(&dir.path().join("missing"));
        assert!(matches!(missing, Instance::Only(None)), "{missing:?}");
    }
}
