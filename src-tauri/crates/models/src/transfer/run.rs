//! Many files at a time.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Failure, TransferOptions};
use crate::cache::RepoDir;
use crate::hub::Hub;
use crate::names::RepoName;
use crate::record::RepoFile;
use crate::{ModelsError, Result, disk};

/// Between two looks at the free disk.
const DISK_WATCH: Duration = Duration::from_secs(1);

/// A wish to stop, which many can wait for.
#[derive(Clone, Debug)]
pub(crate) struct Stop(Arc<watch::Sender<bool>>);

impl Stop {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub(crate) fn stop(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        *self.0.borrow()
    }

    pub(crate) async fn stopped(&self) {
        // Fails only without a sender, and this is one.
        let _ = self.0.subscribe().wait_for(|stopped| *stopped).await;
    }
}

/// How far a set of files is; read while it grows.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Bytes of each file that are on disk.
    lens: Vec<AtomicU64>,
    files_done: AtomicU32,
    received_bytes: AtomicU64,
    /// Files that a worker is at.
    active: AtomicU32,
    since: Instant,
    last_byte_ms: AtomicU64,
    waiting: Mutex<HashMap<usize, (Instant, ModelsError)>>,
}

impl Progress {
    pub(crate) fn new(files: usize) -> Arc<Self> {
        Arc::new(Self {
            lens: (0..files).map(|_| AtomicU64::new(0)).collect(),
            files_done: AtomicU32::new(0),
            received_bytes: AtomicU64::new(0),
            active: AtomicU32::new(0),
            since: Instant::now(),
            last_byte_ms: AtomicU64::new(0),
            waiting: Mutex::default(),
        })
    }

    /// Bytes on disk.
    pub(crate) fn done_bytes(&self) -> u64 {
        self.lens
            .iter()
            .map(|len| len.load(Ordering::Relaxed))
            .sum()
    }

    pub(crate) fn files_done(&self) -> u32 {
        self.files_done.load(Ordering::Relaxed)
    }

    /// Bytes that came over the network.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// How long ago the last byte came.
    pub(crate) fn silence(&self) -> Duration {
        let last = Duration::from_millis(self.last_byte_ms.load(Ordering::Relaxed));
        self.since.elapsed().saturating_sub(last)
    }

    /// Where every worker waits to try again: the first to do so, and what happened to it.
    pub(crate) fn all_wait(&self) -> Option<(Instant, ModelsError)> {
        let waiting = self.waiting();
        if waiting.is_empty() || (waiting.len() as u32) < self.active.load(Ordering::Relaxed) {
            return None;
        }
        waiting.values().min_by_key(|(until, _)| *until).cloned()
    }

    pub(super) fn len(&self, index: usize) -> u64 {
        self.lens[index].load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, index: usize, len: u64) {
        self.lens[index].store(len, Ordering::Relaxed);
    }

    pub(super) fn arrived(&self, index: usize, len: u64, bytes: u64) {
        self.set(index, len);
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        let now = self.since.elapsed().as_millis() as u64;
        self.last_byte_ms.fetch_max(now, Ordering::Relaxed);
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<usize, (Instant, ModelsError)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Files of one repository at one commit, on their way into its folder.
pub(crate) struct Transfer {
    pub(crate) hub: Arc<Hub>,
    pub(crate) repo: RepoName,
    pub(crate) dir: RepoDir,
    pub(crate) commit: String,
    pub(crate) files: Vec<RepoFile>,
    pub(crate) options: TransferOptions,
    pub(crate) progress: Arc<Progress>,
    /// The person's wish.
    pub(crate) stop: Stop,
    /// That, or the first error.
    pub(super) halt: Stop,
    /// Blobs that are read and compared although they are complete.
    pub(super) unchecked: HashSet<String>,
    /// Before this the hub wants no request.
    not_before: Mutex<Option<(Instant, ModelsError)>>,
}

impl Transfer {
    pub(crate) fn new(
        hub: Arc<Hub>,
        repo: RepoName,
        dir: RepoDir,
        commit: String,
        files: Vec<RepoFile>,
        options: TransferOptions,
        stop: Stop,
    ) -> Self {
        Self {
            hub,
            repo,
            dir,
            commit,
            progress: Progress::new(files.len()),
            files,
            options,
            stop,
            halt: Stop::new(),
            unchecked: HashSet::new(),
            not_before: Mutex::new(None),
        }
    }

    /// With blobs that are to be compared where they are here already.
    pub(crate) fn doubting(mut self, unchecked: &HashSet<String>) -> Self {
        self.unchecked.clone_from(unchecked);
        self
    }

    /// Bytes that are neither complete nor in the beginning of a file.
    pub(crate) fn missing_bytes(&self) -> u64 {
        let missing = |file: &RepoFile| {
            if self.dir.complete(&self.commit, file).is_some() {
                return 0;
            }
            let partial = std::fs::metadata(self.dir.partial(&file.blob));
            file.size - partial.map_or(0, |meta| meta.len()).min(file.size)
        };
        self.files.iter().map(missing).sum()
    }

    /// Fetches what is missing. All that has arrived is kept, whatever happens.
    pub(crate) async fn run(self: &Arc<Self>) -> Result<(), Failure> {
        // Same content under two names is one blob: it is fetched once.
        let mut seen = HashSet::new();
        let mut order = Vec::new();
        for (index, file) in self.files.iter().enumerate() {
            let is_here = self.dir.complete(&self.commit, file).is_some()
                && !self.unchecked.contains(&file.blob);
            if is_here || !seen.insert(file.blob.as_str()) {
                self.progress.set(index, file.size);
                self.progress.files_done.fetch_add(1, Ordering::Relaxed);
            } else {
                order.push(index);
            }
        }
        let next = Arc::new(AtomicUsize::new(0));
        let order = Arc::new(order);
        let mut workers = JoinSet::new();
        for _ in 0..self.options.parallel.max(1).min(order.len()) {
            let (transfer, next, order) = (self.clone(), next.clone(), order.clone());
            workers.spawn(async move {
                while let Some(&index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if transfer.halt.is_stopped() {
                        return Err(ModelsError::Cancelled.into());
                    }
                    transfer.progress.active.fetch_add(1, Ordering::Relaxed);
                    let fetched = transfer.fetch(index).await;
                    transfer.progress.active.fetch_sub(1, Ordering::Relaxed);
                    fetched?;
                    transfer.progress.files_done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
        }
        let mut watching = tokio::time::interval(DISK_WATCH);
        let mut first: Option<Failure> = None;
        let mut keep = |failure: Failure| {
            // Others that end because of it come later.
            first.get_or_insert(failure);
            self.halt.stop();
        };
        loop {
            tokio::select! {
                joined = workers.join_next() => match joined {
                    None => break,
                    Some(Ok(Ok(()))) => {}
                    Some(Ok(Err(failure))) => keep(failure),
                    Some(Err(error)) => keep(Failure::Final(ModelsError::Io {
                        action: "fetch into",
                        path: self.dir.path(),
                        detail: error.to_string(),
                    })),
                },
                () = self.stop.stopped(), if !self.halt.is_stopped() => self.halt.stop(),
                _ = watching.tick(), if !self.halt.is_stopped() => {
                    let path = self.dir.path();
                    if let Err(full) = disk::check(&path, 0, self.options.disk_reserve_bytes) {
                        keep(full.into());
                    }
                }
            }
        }
        match first {
            None => Ok(()),
            Some(Failure::Final(ModelsError::DiskFull { path, .. })) => {
                Err(Failure::Final(ModelsError::DiskFull {
                    free_bytes: disk::free_bytes(&path).unwrap_or(0),
                    path,
                    needed_bytes: self.missing_bytes() + self.options.disk_reserve_bytes,
                }))
            }
            Some(failure) => Err(failure),
        }
    }

    /// Waits until the hub takes requests again; file `index` is shown as waiting.
    pub(super) async fn pass_gate(&self, index: usize) -> Result<()> {
        loop {
            let closed = self.gate().clone();
            let Some((until, problem)) = closed.filter(|(until, _)| *until > Instant::now()) else {
                return Ok(());
            };
            self.wait(index, until, problem).await?;
        }
    }

    pub(super) fn close_gate(&self, until: Instant, problem: ModelsError) {
        let mut gate = self.gate();
        if gate.as_ref().is_none_or(|(before, _)| *before < until) {
            *gate = Some((until, problem));
        }
    }

    fn gate(&self) -> MutexGuard<'_, Option<(Instant, ModelsError)>> {
        self.not_before
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, and shows why.
    pub(super) async fn wait(
        &self,
        index: usize,
        until: Instant,
        problem: ModelsError,
    ) -> Result<()> {
        self.progress.waiting().insert(index, (until, problem));
        let waited = self.sleep_until(until).await;
        self.progress.waiting().remove(&index);
        waited
    }

    /// # Errors
    /// [`ModelsError::Cancelled`], at once, on a wish to stop.
    pub(super) async fn sleep_until(&self, until: Instant) -> Result<()> {
        tokio::select! {
            () = self.halt.stopped() => Err(ModelsError::Cancelled),
            () = tokio::time::sleep_until(until.into()) => Ok(()),
        }
    }
}
