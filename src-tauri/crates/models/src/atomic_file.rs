//! Small files that are there as a whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use octet_engine::checkpoint::without_byte_order_mark;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that such a file has at most.
const MAX_BYTES: u64 = 64 << 20;

/// Writes `value` as JSON beside `path`, syncs, and renames.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    write(path, &bytes)
}

/// Writes `bytes` beside `path`, syncs, and renames. Folders are created.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(folder)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".octet-").suffix(".tmp");
    // As other files of the cache, which several users may share.
    #[cfg(unix)]
    let builder = {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o644))
    };
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_folder(folder);
    Ok(())
}

/// Reads JSON; none where there is no such file or it is damaged, which is logged.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let size = fs::metadata(path).ok()?.len();
    if size > MAX_BYTES {
        return None;
    }
    let bytes = fs::read(path).ok()?;
    serde_json::from_slice(without_byte_order_mark(&bytes))
        .inspect_err(|error| tracing::warn!(%error, path = %path.display(), "a file is damaged"))
        .ok()
}

/// Makes a rename last through a power cut, where folders can be synced.
pub(crate) fn sync_folder(folder: &Path) {
    if cfg!(unix)
        && let Err(error) = File::open(folder).and_then(|folder| folder.sync_all())
    {
        tracing::debug!(%error, folder = %folder.display(), "the folder was not synced");
    }
}
