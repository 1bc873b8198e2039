//! One file, until it is complete or given up.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::partial::Partial;
use super::retry::Tries;
use super::{Failure, Transfer};
use crate::cache::Lock;
use crate::hub::{Ask, Body};
use crate::record::{RepoFile, Sidecar};
use crate::{ModelsError, Result, content_hash};

/// Chunks on their way from the network to the disk, for each file.
const CHUNKS_UNDER_WAY: usize = 4;

/// Between two looks whether another program is done with a file.
const LOCK_POLL: Duration = Duration::from_millis(250);

impl Transfer {
    /// Fetches file `index`. What fails in passing is tried again, from where it ended.
    pub(super) async fn fetch(&self, index: usize) -> Result<(), Failure> {
        let file = &self.files[index];
        let _lock = self.lock(file).await?;
        // Another program, or another revision, may have brought it.
        if let Some(path) = self.dir.complete(&self.commit, file)
            && self.is_good(index, path).await?
        {
            self.progress.set(index, file.size);
            return Ok(());
        }
        let (mut tries, mut wrong) = (Tries::default(), 0);
        loop {
            self.pass_gate(index).await?;
            let (error, wait) = match self.attempt(index).await {
                Ok(()) => return Ok(()),
                Err(Failure::Final(ModelsError::Checksum { .. }))
                    if wrong + 1 < self.options.checksum_attempts =>
                {
                    wrong += 1;
                    self.progress.set(index, 0);
                    tries = Tries::default();
                    continue;
                }
                Err(Failure::Passing { error, wait }) => (error, wait),
                Err(Failure::Stale) => {
                    self.discard(index)?;
                    let reason = "it has less or something else than before".to_owned();
                    let host = self.hub.host();
                    (ModelsError::Hub { host, reason }, None)
                }
                Err(other) => return Err(other),
            };
            let Some(backoff) = tries.failed(self.progress.len(index), &self.options) else {
                return Err(Failure::Passing { error, wait });
            };
            let until = Instant::now() + wait.unwrap_or_default().max(backoff);
            tracing::debug!(file = file.path, %error, "a transfer failed and is tried again");
            if let ModelsError::RateLimited { .. } = error {
                self.close_gate(until, error.clone());
            }
            self.wait(index, until, error.clone()).await?;
        }
    }

    /// Whether a complete file has the bytes that were published, where that is in doubt. One
    /// that has others is removed.
    async fn is_good(&self, index: usize, path: PathBuf) -> Result<bool> {
        let blob = self.files[index].blob.clone();
        if !self.unchecked.contains(&blob) {
            return Ok(true);
        }
        let (progress, halt) = (self.progress.clone(), self.halt.clone());
        blocking(move || {
            let mut read = 0;
            let mut proceed = |bytes| {
                read += bytes;
                progress.arrived(index, read, 0);
                match halt.is_stopped() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            };
            match content_hash::of_file(&path, &blob, &mut proceed) {
                Ok(None) => return Err(ModelsError::Cancelled),
                Ok(Some(found)) if found == blob => return Ok(true),
                Ok(Some(_)) | Err(_) => {}
            }
            progress.set(index, 0);
            std::fs::remove_file(&path).map_err(|error| ModelsError::io("remove", &path, error))?;
            Ok(false)
        })
        .await?
    }

    /// Waits for other programs that fetch the same file.
    async fn lock(&self, file: &RepoFile) -> Result<Lock> {
        let path = self.dir.locks().join(format!("{}.lock", file.blob));
        loop {
            if let Some(lock) = Lock::try_exclusive(&path)? {
                return Ok(lock);
            }
            self.sleep_until(Instant::now() + LOCK_POLL).await?;
        }
    }

    /// Once from where it ended before to the end.
    async fn attempt(&self, index: usize) -> Result<(), Failure> {
        let file = &self.files[index];
        let (dir, wanted, halt) = (self.dir.clone(), file.clone(), self.halt.clone());
        let mut partial = blocking(move || Partial::open(&dir, &wanted, &halt)).await??;
        self.progress.set(index, partial.len());
        if partial.len() < file.size {
            let known =
                Sidecar::read(&self.dir, &file.blob).and_then(|sidecar| sidecar.served_etag);
            let ask = Ask {
                repo: &self.repo,
                commit: &self.commit,
                file,
                offset: partial.len(),
                etag: known.as_deref(),
            };
            let body = tokio::select! {
                () = self.halt.stopped() => return Err(ModelsError::Cancelled.into()),
                body = self.hub.file(ask) => body?,
            };
            let is_same = body.etag.is_some() && body.etag == known;
            if partial.len() > 0 && !is_same && known.is_some() && body.etag.is_some() {
                // What is here came from other content, whatever range was sent.
                if body.start > 0 {
                    return Err(Failure::Stale);
                }
                partial.restart()?;
            }
            // A server that does not know ranges sends again what is here.
            let skip = match body.start {
                0 if is_same => partial.len(),
                0 => {
                    partial.restart()?;
                    0
                }
                _ => 0,
            };
            self.progress.set(index, partial.len());
            if !is_same {
                let sidecar = Sidecar {
                    size: file.size,
                    served_etag: body.etag.clone(),
                };
                sidecar.write(&self.dir, &file.blob)?;
            }
            partial = self.stream(index, body, partial, skip).await?;
        }
        Ok(blocking(move || partial.finish()).await??)
    }

    /// Writes and hashes on a thread of its own while more arrives. The file at its full length.
    async fn stream(
        &self,
        index: usize,
        mut body: Body,
        mut partial: Partial,
        mut skip: u64,
    ) -> Result<Partial, Failure> {
        let file = &self.files[index];
        let (sender, mut chunks) = mpsc::channel::<bytes::Bytes>(CHUNKS_UNDER_WAY);
        let progress = self.progress.clone();
        let mut left = file.size - partial.len();
        let writer = spawn_blocking(move || {
            let mut written = Ok(());
            while let Some(chunk) = chunks.blocking_recv() {
                written = partial.append(&chunk);
                if written.is_err() {
                    break;
                }
                progress.arrived(index, partial.len(), chunk.len() as u64);
            }
            (partial, written)
        });

        let mut stopped = pin!(self.halt.stopped());
        let ended: Result<(), Failure> = loop {
            let chunk = tokio::select! {
                () = &mut stopped => break Err(ModelsError::Cancelled.into()),
                chunk = self.hub.chunk(&mut body) => chunk,
            };
            let mut chunk = match chunk {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break Ok(()),
                Err(failure) => break Err(failure),
            };
            let known = skip.min(chunk.len() as u64);
            skip -= known;
            let _ = chunk.split_to(known as usize);
            if chunk.len() as u64 > left {
                break Err(Failure::Stale);
            }
            left -= chunk.len() as u64;
            // Fails only where the writer did, which says why below.
            if !chunk.is_empty() && sender.send(chunk).await.is_err() {
                break Ok(());
            }
        };
        drop(sender);
        let joined = writer.await;
        let (partial, written) = joined.map_err(|error| ended_early(&error.to_string()))?;
        written?;
        match ended {
            Err(Failure::Stale) => Err(Failure::Stale),
            _ if partial.len() == file.size => Ok(partial),
            Err(failure) => Err(failure),
            Ok(()) => Err(Failure::passing(ModelsError::Hub {
                host: self.hub.host(),
                reason: format!(
                    "{} ended after {} of {} bytes",
                    file.path,
                    partial.len(),
                    file.size
                ),
            })),
        }
    }

    /// Forgets what there is of file `index`.
    fn discard(&self, index: usize) -> Result<()> {
        let blob = &self.files[index].blob;
        let path = self.dir.partial(blob);
        Sidecar::remove(&self.dir, blob);
        self.progress.set(index, 0);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(ModelsError::io("remove", &path, error))
            }
            _ => Ok(()),
        }
    }
}

/// Work that waits for the disk or the processor, off the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let done = spawn_blocking(work).await;
    done.map_err(|error| ended_early(&error.to_string()))
}

fn ended_early(reason: &str) -> ModelsError {
    ModelsError::Io {
        action: "finish the work on",
        path: "a file".into(),
        detail: reason.to_owned(),
    }
}
