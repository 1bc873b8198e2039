//! Room on the disk.

use std::path::Path;

pub(crate) use octet_files::free_bytes;

use crate::{ModelsError, Result};

/// Refuses where `needed_bytes` and the reserve are not free in `folder`.
///
/// # Errors
/// [`ModelsError::DiskFull`].
pub(crate) fn check(folder: &Path, needed_bytes: u64, reserve_bytes: u64) -> Result<()> {
    let needed_bytes = needed_bytes.saturating_add(reserve_bytes);
    match free_bytes(folder) {
        Some(free_bytes) if free_bytes < needed_bytes => Err(ModelsError::DiskFull {
            path: folder.to_owned(),
            needed_bytes,
            free_bytes,
        }),
        _ => Ok(()),
    }
}
