//! The file system under the model folder.

use std::path::{Path, PathBuf};

use serde::Serialize;
use sysinfo::{DiskRefreshKind, Disks};

/// A file system and the room on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Where it is mounted (`/home`, `C:\`).
    pub path: PathBuf,
    /// Its size.
    pub total_bytes: u64,
    /// What an ordinary user may still write.
    pub free_bytes: u64,
}

impl Disk {
    /// The file system that holds `dir`, or would hold it once created.
    pub fn detect(dir: &Path) -> Option<Self> {
        let dir = nearest_existing(dir)?;
        // Sizes are asked of the one that matters only: a stale network mount can block.
        let mut disks = Disks::new_with_refreshed_list_specifics(DiskRefreshKind::nothing());
        let mount_points: Vec<PathBuf> = disks
            .iter()
            .map(|disk| disk.mount_point().to_owned())
            .collect();
        let index = innermost(&mount_points, &dir)?;
        let disk = &mut disks.list_mut()[index];
        disk.refresh_specifics(DiskRefreshKind::nothing().with_storage());
        (disk.total_space() > 0).then(|| Self {
            path: disk.mount_point().to_owned(),
            total_bytes: disk.total_space(),
            free_bytes: disk.available_space(),
        })
    }
}

/// The absolute path of `dir` or of its nearest ancestor that exists, links resolved.
fn nearest_existing(dir: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(dir).ok()?;
    let existing = absolute.ancestors().find(|path| path.exists())?;
    // Windows resolves to `\\?\C:\...`, which is no child of the mount point `C:\`.
    if cfg!(windows) {
        return Some(existing.to_owned());
    }
    existing.canonicalize().ok()
}

/// Index of the longest mount point that contains `path`; of equal ones the last, which is
/// the one mounted on top.
fn innermost(mount_points: &[PathBuf], path: &Path) -> Option<usize> {
    mount_points
        .iter()
        .enumerate()
        .filter(|(_, mount_point)| path.starts_with(mount_point))
        .max_by_key(|(_, mount_point)| mount_point.components().count())
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_point_wins() {
        let mounts = ["/", "/data", "/data/ann/models", "/data", "/mnt"].map(PathBuf::from);
        let cases = [
            ("/data/ann/models/mixtral", Some(2)),
            ("/data/ann/modelsx", Some(3)),
            ("/etc", Some(0)),
            ("relative", None),
        ];
        for (path, expected) in cases {
            assert_eq!(innermost(&mounts, Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn a_folder_yet_to_be_made_is_placed_by_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        let below = nearest_existing(&dir.path().join("models/mixtral")).unwrap();
        assert_eq!(below, nearest_existing(dir.path()).unwrap());
    }
}
