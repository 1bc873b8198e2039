//! Long work on files, with progress and an end on request.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::content_hash::ContentHash;
use crate::{ModelsError, Result};

/// Bytes copied at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// How far some work is, and whether it is to stop. Shared by those who do it and those who look.
#[derive(Clone, Debug, Default)]
pub(crate) struct Work(Arc<State>);

#[derive(Debug, Default)]
struct State {
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
    is_cancelled: AtomicBool,
}

impl Work {
    pub(crate) fn expect(&self, total_bytes: u64) {
        self.0.total_bytes.store(total_bytes, Ordering::Relaxed);
    }

    /// Begins anew, with other work.
    pub(crate) fn restart(&self, total_bytes: u64) {
        self.0.done_bytes.store(0, Ordering::Relaxed);
        self.expect(total_bytes);
    }

    pub(crate) fn did(&self, bytes: u64) {
        self.0.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn cancel(&self) {
        self.0.is_cancelled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn done_bytes(&self) -> u64 {
        self.0.done_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn total_bytes(&self) -> u64 {
        self.0.total_bytes.load(Ordering::Relaxed)
    }

    /// # Errors
    /// [`ModelsError::Cancelled`] after [`Work::cancel`].
    pub(crate) fn go_on(&self) -> Result<()> {
        match self.0.is_cancelled.load(Ordering::Relaxed) {
            true => Err(ModelsError::Cancelled),
            false => Ok(()),
        }
    }

    /// The same for what wants a [`ControlFlow`], with progress.
    pub(crate) fn proceed(&self) -> impl FnMut(u64) -> ControlFlow<()> + use<> {
        let work = self.clone();
        move |bytes| {
            work.did(bytes);
            match work.go_on() {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        }
    }

    /// The SHA-256 of a file.
    pub(crate) fn hash(&self, path: &Path) -> Result<String> {
        let read = |error| ModelsError::io("read", path, error);
        let mut hash = ContentHash::sha256();
        let mut file = File::open(path).map_err(read)?;
        match hash
            .update_from(&mut file, &mut self.proceed())
            .map_err(read)?
        {
            true => Ok(hash.finish()),
            false => Err(ModelsError::Cancelled),
        }
    }

    /// Copies a file, syncs it, and tells the SHA-256 of what was copied.
    pub(crate) fn copy(&self, from: &Path, to: &Path) -> Result<String> {
        let read = |error| ModelsError::io("read", from, error);
        let write = |error| ModelsError::io("write", to, error);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).map_err(write)?;
        }
        let mut source = File::open(from).map_err(read)?;
        let mut target = File::create(to).map_err(write)?;
        let mut hash = ContentHash::sha256();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            self.go_on()?;
            let n = source.read(&mut buffer).map_err(read)?;
            if n == 0 {
                break;
            }
            target.write_all(&buffer[..n]).map_err(write)?;
            hash.update(&buffer[..n]);
            self.did(n as u64);
        }
        target.sync_all().map_err(write)?;
        Ok(hash.finish())
    }
}
