//! Files that are there as a whole or not at all, with this crate's errors.

use std::path::Path;

use octet_files::{Access, Replacement};

use crate::{Result, StoreError};

/// Replaces the file at `path` by what `write` writes: whatever happens, it holds what it held
/// before or all of the new. Created for its owner alone.
pub(crate) fn replace(
    path: &Path,
    write: impl FnOnce(&mut Replacement) -> Result<()>,
) -> Result<()> {
    let failed = |error| StoreError::io("write", path, error);
    let mut file = Replacement::create(path, Access::Owner).map_err(failed)?;
    write(&mut file)?;
    file.finish().map_err(failed)
}
