//! Room on a disk.

use std::path::Path;

/// Bytes that this user may still write to the file system that holds `path`, or would hold it once
/// created; `None` where the system does not say.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let absolute = std::path::absolute(path).ok()?;
    let existing = absolute.ancestors().find(|path| path.exists())?;
    fs4::available_space(existing).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_yet_to_be_made_has_the_room_of_its_parent() {
        let dir = tempfile::tempdir().expect("a folder");
        let free = free_bytes(&dir.path().join("models/mixtral"));
        assert!(free.is_some_and(|bytes| bytes > 0), "{free:?}");
    }
}
