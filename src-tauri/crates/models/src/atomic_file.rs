//! Small files that are there as a whole or not at all.

use std::fs;
use std::io;
use std::path::Path;

use octet_engine::checkpoint::without_byte_order_mark;
use octet_files::Access;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that such a file has at most.
const MAX_BYTES: u64 = 64 << 20;

/// Replaces `path` by `value` as JSON.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    write(path, &bytes)
}

/// Replaces `path` by `bytes`, for all users of the cache to read. Folders are created.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    octet_files::replace(path, Access::Everyone, bytes)
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
