//! Files written whole or not at all: under another name, checked, synced, renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use octet_checkpoint::TensorFile;

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
        sync_dir(&self.path);
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
    let (path, partial) = (dir.join(name), partial_path(dir, name));
    let write = || -> io::Result<()> {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(io_error("write", &partial))?;
    fs::rename(&partial, &path).map_err(io_error("rename", &partial))?;
    sync_dir(&path);
    Ok(())
}

fn partial_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.incomplete"))
}

/// Makes a rename last: on Unix the folder has to be synced for that.
fn sync_dir(path: &Path) {
    #[cfg(unix)]
    if let Some(Ok(dir)) = path.parent().map(File::open) {
        // Not every file system can; the file itself is safe.
        let _ = dir.sync_all();
    }
    #[cfg(not(unix))]
    let _ = path;
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !bytes.is_empty() {
        match file.seek_write(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                bytes = &bytes[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !bytes.is_empty() {
        match file.seek_read(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                bytes = &mut bytes[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
