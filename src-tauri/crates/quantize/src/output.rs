//! Files written whole or not at all: under another name, checked, synced, renamed.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use octet_checkpoint::TensorFile;
use octet_files::Access;
use octet_files::position::{read_exact_at, write_all_at};

use crate::error::{QuantizeError, io_error};
use octet_checkpoint::hqq::FileLayout;

const PIECE_BYTES: usize = 1 << 20;

/// A tensor file under way. Removed when dropped before [`Self::finish`].
#[derive(Debug)]
pub(crate) struct PartialFile {
    path: PathBuf,
    partial: PathBuf,
    file: File,
    finished: bool,
}

impl PartialFile {
    /// Creates the file at its full length and writes its header.
    pub(crate) fn create(
        dir: &Path,
        name: &str,
        layout: &FileLayout,
    ) -> Result<Self, QuantizeError> {
        let partial = partial_path(dir, name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&partial)
            .map_err(io_error("create", &partial))?;
        let this = Self {
            path: dir.join(name),
            partial,
            file,
            finished: false,
        };
        this.file
            .set_len(layout.file_bytes())
            .map_err(io_error("write", &this.partial))?;
        this.write_at(&layout.header, 0)?;
        Ok(this)
    }

    /// Where it is until it is finished.
    pub(crate) fn partial(&self) -> &Path {
        &self.partial
    }

    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), QuantizeError> {
        write_all_at(&self.file, bytes, offset).map_err(io_error("write", &self.partial))
    }

    /// Reads back what was written.
    pub(crate) fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), QuantizeError> {
        read_exact_at(&self.file, bytes, offset).map_err(io_error("read", &self.partial))
    }

    /// Syncs the file, reads its header as the engine does, gives it its name, and tells the
    /// CRC-32 of all of it.
    pub(crate) fn finish(mut self, layout: &FileLayout) -> Result<u32, QuantizeError> {
        self.file
            .sync_all()
            .map_err(io_error("write", &self.partial))?;
        let written = TensorFile::open(self.partial.clone(), &layout.tensors[0].name)?;
        let found = &written.header().tensors;
        let as_planned = layout.tensors.iter().all(|tensor| {
            found.get(&tensor.name).is_some_and(|info| {
                (info.dtype, info.start, info.end)
                    == (tensor.dtype, tensor.start, tensor.start + tensor.bytes())
            })
        });
        if !as_planned || found.len() != layout.tensors.len() {
            return Err(QuantizeError::Verify {
                path: self.partial.clone(),
                what: "its header reads back in another way than it was written".into(),
            });
        }
        let crc32 = file_crc32(&written)?;
        drop(written);
        fs::rename(&self.partial, &self.path).map_err(io_error("rename", &self.partial))?;
        self.finished = true;
        if let Some(dir) = self.path.parent() {
            octet_files::sync_folder(dir);
        }
        Ok(crc32)
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.finished {
            // If it stays, the next run writes over it.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// CRC-32 of a whole tensor file.
pub(crate) fn file_crc32(file: &TensorFile) -> Result<u32, QuantizeError> {
    let mut crc32 = crc32fast::Hasher::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    while at < file.len_bytes() {
        let count = (file.len_bytes() - at).min(PIECE_BYTES as u64);
        let piece = &mut piece[..count as usize];
        file.read_at(piece, at)?;
        crc32.update(piece);
        at += count;
    }
    Ok(crc32.finalize())
}

/// Writes a small file whole.
pub(crate) fn write_file(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), QuantizeError> {
    let path = dir.join(name);
    octet_files::replace(&path, Access::Everyone, bytes).map_err(io_error("write", &path))
}

fn partial_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.incomplete"))
}
