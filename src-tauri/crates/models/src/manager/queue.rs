//! Downloads: one runs, the others wait for it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::{Manager, TICK, locked, no_download};
use crate::cache::RepoDir;
use crate::catalogue::mixtral_tokenizer;
use crate::download::{Job, Live, discard, is_pause};
use crate::names::RepoName;
use crate::record::{Manifest, Ticket, now_ms};
use crate::transfer::{Meter, Stop, TransferOptions, blocking, seconds_left};
use crate::{Download, DownloadState, ModelsError, PauseReason, Result, Use};

/// How a download ended, as [`Manager::wait`] tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownloadEnd {
    /// It is gone from the list: complete, or cancelled.
    Gone,
    /// All that has arrived is kept.
    Paused,
    /// So it is here.
    Failed(ModelsError),
}

/// All downloads, in their order.
#[derive(Default)]
pub(super) struct Queue {
    entries: Vec<Entry>,
}

struct Entry {
    repo: RepoName,
    status: Status,
    ticket: Ticket,
    /// What there was when it last ended or was found.
    done_bytes: u64,
    files_done: u32,
}

enum Status {
    Queued,
    Running(Running),
    Paused(PauseReason),
    Failed(ModelsError),
}

struct Running {
    stop: Stop,
    live: Arc<Live>,
    meter: Meter,
}

impl Queue {
    /// Those that an earlier run of the program has left.
    pub(super) fn left_over(root: &Path) -> Self {
        let mut entries: Vec<Entry> = RepoDir::all(root)
            .into_iter()
            .filter_map(|(repo, dir)| {
                let ticket = Ticket::read(&dir)?;
                let reason = match ticket.is_paused {
                    true => PauseReason::Asked,
                    false => PauseReason::Interrupted,
                };
                let (done_bytes, files_done) = on_disk(&dir, &ticket);
                Some(Entry {
                    repo,
                    status: Status::Paused(reason),
                    ticket,
                    done_bytes,
                    files_done,
                })
            })
            .collect();
        entries.sort_by_key(|entry| entry.ticket.asked_at_ms);
        Self { entries }
    }

    pub(super) fn show(&mut self, options: &TransferOptions) -> Vec<Download> {
        let mut ahead = 0;
        let entries = self.entries.iter_mut();
        entries
            .map(|entry| {
                let download = entry.show(ahead, options);
                if matches!(entry.status, Status::Queued | Status::Running(_)) {
                    ahead += 1;
                }
                download
            })
            .collect()
    }

    pub(super) fn is_active(&self) -> bool {
        let active = |e: &Entry| matches!(e.status, Status::Queued | Status::Running(_));
        self.entries.iter().any(active)
    }

    pub(super) fn has(&self, repo: &RepoName) -> bool {
        self.entries.iter().any(|entry| entry.repo == *repo)
    }

    fn find(&mut self, repo: &str) -> Result<&mut Entry> {
        let entry = self.entries.iter_mut().find(|e| e.repo.as_str() == repo);
        entry.ok_or_else(|| no_download(repo))
    }
}

impl Entry {
    fn show(&mut self, ahead: u32, options: &TransferOptions) -> Download {
        let files = &self.ticket.files;
        let mut download = Download {
            repo: self.repo.to_string(),
            state: DownloadState::Preparing,
            done_bytes: self.done_bytes,
            total_bytes: files.iter().map(|file| file.size).sum(),
            files_done: self.files_done,
            files: files.len() as u32,
            bytes_per_sec: 0.0,
            seconds_left: None,
            is_repair: self.ticket.is_repair,
        };
        download.state = match &mut self.status {
            Status::Queued => DownloadState::Queued { ahead },
            Status::Paused(reason) => DownloadState::Paused { reason: *reason },
            Status::Failed(problem) => DownloadState::Failed {
                problem: problem.clone(),
            },
            Status::Running(running) => running.show(&mut download, options),
        };
        download
    }

    fn dir(&self, root: &Path) -> RepoDir {
        RepoDir::new(root, &self.repo)
    }
}

impl Running {
    fn show(&mut self, download: &mut Download, options: &TransferOptions) -> DownloadState {
        let now = self.live.now();
        if now.total_bytes > 0 {
            download.total_bytes = now.total_bytes;
            download.files = now.files;
        }
        let retrying = |(until, problem): (Instant, ModelsError)| DownloadState::Retrying {
            in_seconds: until.saturating_duration_since(Instant::now()).as_secs() as u32,
            problem,
        };
        let Some(progress) = now.progress else {
            return now.waiting.map_or(DownloadState::Preparing, retrying);
        };
        download.done_bytes = progress.done_bytes();
        download.files_done = progress.files_done();
        let speed = self.meter.update(Instant::now(), progress.received_bytes());
        download.bytes_per_sec = speed;
        let left = download.total_bytes.saturating_sub(download.done_bytes);
        download.seconds_left = seconds_left(left, speed);
        if let Some(waiting) = progress.all_wait() {
            return retrying(waiting);
        }
        let silence = progress.silence();
        match silence > options.stall_after {
            true => DownloadState::Stalled {
                seconds: silence.as_secs() as u32,
            },
            false => DownloadState::Running,
        }
    }
}

/// Bytes and files of a download that are here.
fn on_disk(dir: &RepoDir, ticket: &Ticket) -> (u64, u32) {
    let commit = ticket.commit.as_deref().unwrap_or_default();
    let mut done = (0, 0);
    for file in &ticket.files {
        if dir.complete(commit, file).is_some() {
            done.0 += file.size;
            done.1 += 1;
        } else {
            let partial = std::fs::metadata(dir.partial(&file.blob));
            done.0 += partial.map_or(0, |meta| meta.len()).min(file.size);
        }
    }
    done
}

/// Whether there is no such model, and never was.
fn is_wrong_name(error: &ModelsError) -> bool {
    matches!(
        error,
        ModelsError::Missing { .. } | ModelsError::Withdrawn { .. } | ModelsError::Foreign { .. }
    )
}

impl Manager {
    /// Asks for a model. It is queued behind those that were asked for before; one that is in the
    /// list already goes on.
    ///
    /// # Errors
    /// A name that is none, or a models folder that cannot be written to. What happens to the
    /// download itself is in the state.
    pub async fn download(&self, repo: &str) -> Result<()> {
        let repo: RepoName = repo.parse()?;
        if locked(&self.shared.queue).has(&repo) {
            return self.resume(repo.as_str()).await;
        }
        self.enqueue(repo, Ticket::default()).await
    }

    pub(super) async fn enqueue(&self, repo: RepoName, ticket: Ticket) -> Result<()> {
        let ticket = Ticket {
            asked_at_ms: now_ms(),
            ..ticket
        };
        let dir = RepoDir::new(&self.folder(), &repo);
        let written = ticket.clone();
        blocking(move || written.write(&dir)).await??;
        {
            let mut queue = locked(&self.shared.queue);
            if !queue.has(&repo) {
                queue.entries.push(Entry {
                    repo,
                    status: Status::Queued,
                    ticket,
                    done_bytes: 0,
                    files_done: 0,
                });
            }
        }
        self.run_next();
        Ok(())
    }

    /// Stops a download; what has arrived is kept. The next one begins.
    ///
    /// # Errors
    /// [`ModelsError::NotFound`].
    pub async fn pause(&self, repo: &str) -> Result<()> {
        {
            let mut queue = locked(&self.shared.queue);
            let entry = queue.find(repo)?;
            entry.ticket.is_paused = true;
            match &entry.status {
                Status::Running(running) => running.stop.stop(),
                Status::Queued => entry.status = Status::Paused(PauseReason::Asked),
                Status::Paused(_) | Status::Failed(_) => {}
            }
        }
        self.until(repo, |status| !matches!(status, Some(Status::Running(_))))
            .await;
        self.keep_ticket(repo).await
    }

    /// Lets a download go on that is paused or failed.
    ///
    /// # Errors
    /// [`ModelsError::NotFound`].
    pub async fn resume(&self, repo: &str) -> Result<()> {
        {
            let mut queue = locked(&self.shared.queue);
            let entry = queue.find(repo)?;
            if let Status::Paused(_) | Status::Failed(_) = entry.status {
                entry.ticket.is_paused = false;
                entry.status = Status::Queued;
            }
        }
        self.keep_ticket(repo).await?;
        self.run_next();
        Ok(())
    }

    /// Ends a download and deletes what has arrived of it.
    ///
    /// # Errors
    /// [`ModelsError::NotFound`], or that its files cannot be deleted.
    pub async fn cancel(&self, repo: &str) -> Result<()> {
        {
            let mut queue = locked(&self.shared.queue);
            let entry = queue.find(repo)?;
            match &mut entry.status {
                Status::Running(running) => running.stop.stop(),
                status => *status = Status::Paused(PauseReason::Asked),
            }
        }
        self.until(repo, |status| !matches!(status, Some(Status::Running(_))))
            .await;
        let root = self.folder();
        let (dir, ticket) = {
            let mut queue = locked(&self.shared.queue);
            match queue.find(repo) {
                Ok(entry) => {
                    // As it is on disk: the run has listed the files.
                    let dir = entry.dir(&root);
                    let ticket = Ticket::read(&dir).unwrap_or_else(|| entry.ticket.clone());
                    (dir, ticket)
                }
                // It was complete before it heard of this.
                Err(_) => return Ok(()),
            }
        };
        blocking(move || discard(&dir, &ticket)).await??;
        let same = |entry: &Entry| entry.repo.as_str() == repo;
        locked(&self.shared.queue)
            .entries
            .retain(|entry| !same(entry));
        self.library_changed();
        Ok(())
    }

    /// Waits until a download has ended in one way or another.
    ///
    /// # Errors
    /// None now; the signature leaves room.
    pub async fn wait(&self, repo: &str) -> Result<DownloadEnd> {
        let ended =
            |status: Option<&Status>| !matches!(status, Some(Status::Running(_) | Status::Queued));
        self.until(repo, ended).await;
        let mut queue = locked(&self.shared.queue);
        Ok(match queue.find(repo).map(|entry| &entry.status) {
            Err(_) => DownloadEnd::Gone,
            Ok(Status::Failed(problem)) => DownloadEnd::Failed(problem.clone()),
            Ok(_) => DownloadEnd::Paused,
        })
    }

    /// Pauses all downloads and ends all other work; for the end of the program. They go on when
    /// they are resumed, as after [`crate::Manager::open`].
    pub async fn shut_down(&self) {
        let repos: Vec<String> = {
            let mut queue = locked(&self.shared.queue);
            for entry in &mut queue.entries {
                match &entry.status {
                    Status::Running(running) => running.stop.stop(),
                    Status::Queued => entry.status = Status::Paused(PauseReason::Interrupted),
                    _ => {}
                }
            }
            queue
                .entries
                .iter()
                .map(|entry| entry.repo.to_string())
                .collect()
        };
        for repo in repos {
            self.until(&repo, |status| !matches!(status, Some(Status::Running(_))))
                .await;
        }
        self.cancel_tasks();
    }

    /// Begins the next download if none runs.
    pub(super) fn run_next(&self) {
        let begun = {
            let mut queue = locked(&self.shared.queue);
            let is_running = |entry: &Entry| matches!(entry.status, Status::Running(_));
            match queue.entries.iter().any(is_running) {
                true => None,
                false => {
                    let queued = |entry: &&mut Entry| matches!(entry.status, Status::Queued);
                    queue.entries.iter_mut().find(queued).map(|entry| {
                        let (stop, live) = (Stop::new(), Arc::new(Live::default()));
                        entry.status = Status::Running(Running {
                            stop: stop.clone(),
                            live: Arc::clone(&live),
                            meter: Meter::default(),
                        });
                        (entry.repo.clone(), entry.ticket.clone(), stop, live)
                    })
                }
            }
        };
        self.refresh();
        if let Some((repo, ticket, stop, live)) = begun {
            let manager = self.clone();
            tokio::spawn(async move {
                let ended = manager.run(repo.clone(), ticket, stop, live).await;
                manager.end(&repo, ended);
            });
        }
    }

    /// One download from begin to end, with the state kept up to date.
    async fn run(&self, repo: RepoName, ticket: Ticket, stop: Stop, live: Arc<Live>) -> Result<()> {
        let options = &self.shared.options;
        let item = options.catalogue.iter().find(|item| item.repo == repo);
        let sources = item.map_or_else(mixtral_tokenizer, |item| item.tokenizer.clone());
        let job = Job {
            hub: self.hub().await?,
            root: self.folder(),
            repo,
            sources,
            options: options.transfer.clone(),
            stop,
            live,
        };
        let mut work = std::pin::pin!(job.run(ticket));
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                ended = &mut work => return ended,
                _ = ticks.tick() => self.refresh(),
            }
        }
    }

    fn end(&self, repo: &RepoName, ended: Result<()>) {
        let ended = ended.map_err(|error| self.instead_of(repo, error));
        let is_complete = ended.is_ok();
        {
            let root = self.folder();
            let mut queue = locked(&self.shared.queue);
            match ended {
                Ok(()) => queue.entries.retain(|entry| entry.repo != *repo),
                Err(error) => {
                    if let Ok(entry) = queue.find(repo.as_str()) {
                        let dir = entry.dir(&root);
                        let is_paused = entry.ticket.is_paused;
                        if let Some(ticket) = Ticket::read(&dir) {
                            entry.ticket = Ticket {
                                is_paused,
                                ..ticket
                            };
                        }
                        (entry.done_bytes, entry.files_done) = on_disk(&dir, &entry.ticket);
                        let has_begun =
                            entry.done_bytes > 0 || entry.ticket.is_repair || is_pause(&error);
                        let is_idle = is_wrong_name(&error) || Manifest::read(&dir).is_some();
                        let never_listed = entry.ticket.commit.is_none();
                        if !has_begun || (never_listed && is_idle && !is_pause(&error)) {
                            // Tried again it comes back; a restart need not tell of it, and a
                            // model that is here is not taken for one that is on its way.
                            if let Err(error) = discard(&dir, &entry.ticket) {
                                tracing::debug!(%error, "what a wrong name left stays");
                            }
                        }
                        entry.status = match is_pause(&error) {
                            true if is_paused => Status::Paused(PauseReason::Asked),
                            true => Status::Paused(PauseReason::Interrupted),
                            false => Status::Failed(error),
                        };
                    }
                }
            }
        }
        if is_complete {
            self.library_changed();
        }
        self.run_next();
    }

    /// Writes down what was wished for a download.
    async fn keep_ticket(&self, repo: &str) -> Result<()> {
        let root = self.folder();
        let (dir, is_paused, own) = {
            let mut queue = locked(&self.shared.queue);
            let Ok(entry) = queue.find(repo) else {
                // Complete in the meantime.
                return Ok(());
            };
            let own = entry.ticket.clone();
            (entry.dir(&root), own.is_paused, own)
        };
        let written = blocking(move || {
            let ticket = Ticket::read(&dir).unwrap_or(own);
            Ticket {
                is_paused,
                ..ticket
            }
            .write(&dir)
        });
        written.await??;
        self.refresh();
        Ok(())
    }

    /// Waits until the status of a download is as wished; there is none when it is gone.
    async fn until(&self, repo: &str, is_met: impl Fn(Option<&Status>) -> bool) {
        let mut changes = self.watch();
        loop {
            changes.mark_unchanged();
            {
                let mut queue = locked(&self.shared.queue);
                if is_met(queue.find(repo).ok().map(|entry| &entry.status)) {
                    return;
                }
            }
            // A change of status is a change of state; the tick is for those in between.
            let _ = tokio::time::timeout(TICK, changes.changed()).await;
        }
    }
}

/// A download of `what` is in the way; none: of anything.
pub(super) fn busy(what: Option<&str>) -> ModelsError {
    ModelsError::InUse {
        what: what.map(str::to_owned),
        by: Use::Download,
    }
}
