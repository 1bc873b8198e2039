//! The beginning of a file: bytes in order, and their hash so far.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use super::run::Stop;
use crate::cache::RepoDir;
use crate::content_hash::ContentHash;
use crate::record::{RepoFile, Sidecar};
use crate::{InvalidInput, ModelsError, Result};

/// An open `HASH.incomplete`. Nothing but appending keeps other programs right that resume from
/// its length.
pub(super) struct Partial {
    dir: RepoDir,
    wanted: RepoFile,
    path: PathBuf,
    file: File,
    len: u64,
    hash: ContentHash,
}

impl Partial {
    /// Opens what there is of `wanted` and reads it, for its hash.
    pub(super) fn open(dir: &RepoDir, wanted: &RepoFile, stop: &Stop) -> Result<Self> {
        let path = dir.partial(&wanted.blob);
        let failed = |action| {
            let path = path.clone();
            move |error| ModelsError::io(action, &path, error)
        };
        fs::create_dir_all(dir.blobs()).map_err(failed("create the folder of"))?;
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed("open"))?;
        let mut len = file.metadata().map_err(failed("read"))?.len();
        if len > wanted.size {
            file.set_len(0).map_err(failed("shorten"))?;
            len = 0;
        }
        let mut hash = new_hash(wanted)?;
        if len > 0 {
            let proceed = &mut |_| match stop.is_stopped() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            };
            if !hash
                .update_from(&mut file, proceed)
                .map_err(failed("read"))?
            {
                return Err(ModelsError::Cancelled);
            }
            file.seek(SeekFrom::Start(len)).map_err(failed("read"))?;
        }
        Ok(Self {
            dir: dir.clone(),
            wanted: wanted.clone(),
            path,
            file,
            len,
            hash,
        })
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| ModelsError::io("write", &self.path, error))?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Forgets what there is.
    pub(super) fn restart(&mut self) -> Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(|error| ModelsError::io("shorten", &self.path, error))?;
        self.len = 0;
        self.hash = new_hash(&self.wanted)?;
        Ok(())
    }

    /// Gives a complete file its name.
    ///
    /// # Errors
    /// [`ModelsError::Checksum`] where it is not what was published; it is gone then.
    pub(super) fn finish(self) -> Result<()> {
        let found = self.hash.finish();
        drop(self.file);
        Sidecar::remove(&self.dir, &self.wanted.blob);
        if found != self.wanted.blob {
            let _ = fs::remove_file(&self.path);
            return Err(ModelsError::Checksum {
                file: self.wanted.path,
                expected: self.wanted.blob,
                found,
            });
        }
        fs::rename(&self.path, self.dir.blob(&self.wanted.blob))
            .map_err(|error| ModelsError::io("rename", &self.path, error))
    }
}

fn new_hash(wanted: &RepoFile) -> Result<ContentHash> {
    ContentHash::for_blob(&wanted.blob, wanted.size).ok_or_else(|| {
        let hash = wanted.blob.clone();
        InvalidInput::Hash { hash }.into()
    })
}
