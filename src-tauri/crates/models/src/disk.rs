//! Room on the disk.

use std::path::Path;

use octet_engine::hardware::Disk;

use crate::{ModelsError, Result};

/// Bytes that may be written to the file system that holds `folder`, or would hold it; none where
/// the system does not say.
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    if let Some(bytes) = unix_free_bytes(folder) {
        return Some(bytes);
    }
    Disk::detect(folder).map(|disk| disk.free_bytes)
}

/// By the system call, which also knows mounts that are in no list (containers, quotas).
#[cfg(unix)]
fn unix_free_bytes(folder: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;

    let folder = folder.ancestors().find(|path| path.exists())?;
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes()).ok()?;
    // SAFETY: all bytes zero is a valid value of this plain C struct.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` is a C string and `stat` a place for the answer; both outlive the call.
    let failed = unsafe { libc::statvfs(path.as_ptr(), &mut stat) } != 0;
    // The types of both fields differ between systems.
    #[allow(clippy::unnecessary_cast)]
    (!failed).then(|| (stat.f_bavail as u64).saturating_mul(stat.f_frsize as u64))
}

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
