//! One model, from the wish to the installed files.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use octet_engine::checkpoint::Checkpoint;

use crate::cache::RepoDir;
use crate::catalogue::TokenizerSources;
use crate::hub::Hub;
use crate::names::RepoName;
use crate::record::{Damage, Manifest, Ticket, now_ms};
use crate::remote::{RemoteModel, TOKENIZER_FILE};
use crate::tokenizer_source::{self, FoundTokenizer};
use crate::transfer::{Failure, Progress, Stop, Transfer, TransferOptions, blocking, persist};
use crate::{ForeignFault, ModelsError, Result, Use, disk};

/// Times that a repository may change while it is downloaded.
const MAX_CHANGES: usize = 3;

/// What a download works with.
pub(crate) struct Job {
    pub(crate) hub: Arc<Hub>,
    pub(crate) root: PathBuf,
    pub(crate) repo: RepoName,
    pub(crate) sources: TokenizerSources,
    pub(crate) options: TransferOptions,
    pub(crate) stop: Stop,
    pub(crate) live: Arc<Live>,
}

/// What a download shows while it runs.
#[derive(Debug, Default)]
pub(crate) struct Live(Mutex<LiveNow>);

/// At one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct LiveNow {
    pub(crate) progress: Option<Arc<Progress>>,
    pub(crate) files: u32,
    pub(crate) total_bytes: u64,
    /// Before there is progress: a question that is asked again.
    pub(crate) waiting: Option<(Instant, ModelsError)>,
}

impl Live {
    pub(crate) fn now(&self) -> LiveNow {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn change(&self, change: impl FnOnce(&mut LiveNow)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Job {
    /// Does all of it. The ticket in the repository's folder goes when it is complete, and stays
    /// with what has arrived when it is not.
    pub(crate) async fn run(&self, mut ticket: Ticket) -> Result<()> {
        let dir = RepoDir::new(&self.root, &self.repo);
        let mut changes = 0;
        loop {
            match self.once(&dir, &mut ticket).await {
                Ok(()) => return Ok(()),
                // The repository moved on, or its history was rewritten.
                Err(Failure::Changed(_)) if changes < MAX_CHANGES => ticket.commit = None,
                Err(Failure::Final(ModelsError::Missing { .. }))
                    if ticket.commit.is_some() && changes < MAX_CHANGES =>
                {
                    ticket.commit = None;
                }
                Err(failure) => return Err(failure.into_error(&self.hub.host())),
            }
            changes += 1;
            self.live.change(|now| *now = LiveNow::default());
        }
    }

    async fn once(&self, dir: &RepoDir, ticket: &mut Ticket) -> Result<(), Failure> {
        let revision = ticket.commit.clone().unwrap_or_else(|| "main".to_owned());
        let model = self
            .persist(|| RemoteModel::inspect(&self.hub, &self.repo, &revision))
            .await?;
        let is_new = ticket.files.is_empty() || ticket.commit.as_ref() != Some(&model.commit);
        ticket.commit = Some(model.commit.clone());
        ticket.files = model.files.clone();
        if is_new && !ticket.is_repair {
            let here = model.files.iter();
            let here = here.filter(|file| dir.complete(&model.commit, file).is_some());
            ticket.unchecked = here.map(|file| file.blob.clone()).collect();
        }
        ticket.write(dir)?;
        let transfer = Transfer::new(
            Arc::clone(&self.hub),
            self.repo.clone(),
            dir.clone(),
            model.commit.clone(),
            model.files.clone(),
            self.options.clone(),
            self.stop.clone(),
        )
        .doubting(&ticket.unchecked);
        let transfer = Arc::new(transfer);
        disk::check(
            &self.root,
            transfer.missing_bytes(),
            self.options.disk_reserve_bytes,
        )?;
        self.live.change(|now| {
            now.files = model.files.len() as u32;
            now.total_bytes = model.bytes();
        });
        // First, because it is small and may fail.
        let tokenizer = tokenizer_source::find(self, &model, &ticket.unchecked).await?;
        self.live
            .change(|now| now.progress = Some(Arc::clone(&transfer.progress)));
        transfer.run().await?;
        let (dir, files) = (dir.clone(), model.files);
        let commit = model.commit;
        let repo = self.repo.clone();
        // A repair compares what it fetches; the check before it has compared the others.
        let checked = Damage::read(&dir, &commit).filter(|_| ticket.is_repair);
        let verified_at_ms = checked.map_or_else(now_ms, |damage| damage.checked_at_ms);
        blocking(move || {
            let manifest = Manifest {
                commit,
                files,
                beside: HashMap::new(),
                completed_at_ms: now_ms(),
                verified_at_ms: Some(verified_at_ms),
                is_imported: false,
            };
            install(&dir, manifest, &repo, &tokenizer)
        })
        .await??;
        Ok(())
    }

    /// Asks until there is an answer, and shows that it waits.
    pub(crate) async fn persist<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        act: impl FnMut() -> F,
    ) -> Result<T, Failure> {
        let tell = |waiting| self.live.change(|now| now.waiting = waiting);
        persist(&self.options, &self.stop, tell, act).await
    }
}

/// Makes a model of files that are all here.
fn install(
    dir: &RepoDir,
    mut manifest: Manifest,
    repo: &RepoName,
    tokenizer: &FoundTokenizer,
) -> Result<()> {
    let commit = manifest.commit.clone();
    let snapshot = dir.snapshot(&commit);
    for file in &manifest.files {
        if let Some(content) = dir.complete(&commit, file) {
            sync(&content)?;
        }
        dir.place(&commit, file)?;
    }
    if tokenizer.repo != *repo {
        // A copy: the other repository may be deleted, and a link to nothing would make other
        // programs take this one for damaged.
        let beside = snapshot.join(TOKENIZER_FILE);
        let failed = |error| ModelsError::io("write", &beside, error);
        // A link to a tokenizer that was refused would be written through.
        let _ = fs::remove_file(&beside);
        fs::copy(&tokenizer.path, &beside).map_err(failed)?;
        sync(&beside)?;
        manifest
            .beside
            .insert(TOKENIZER_FILE.to_owned(), tokenizer.repo.to_string());
        // It is not the repository's own, so its hash is not that of the list.
        manifest.files.retain(|file| file.path != TOKENIZER_FILE);
    }
    if let Err(error) = Checkpoint::open(&snapshot) {
        return Err(ModelsError::Foreign {
            what: repo.to_string(),
            fault: ForeignFault::refused(&error),
        });
    }
    manifest.write(dir)?;
    dir.set_commit(&commit)?;
    Damage::remove(dir);
    Ticket::remove(dir);
    Ok(())
}

/// Makes a file last through a power cut.
fn sync(path: &Path) -> Result<()> {
    // Windows syncs only what is open for writing.
    let file = File::options().read(true).write(cfg!(windows)).open(path);
    file.and_then(|file| file.sync_all())
        .map_err(|error| ModelsError::io("save", path, error))
}

/// Deletes what a download has brought so far; a model that was complete before stays.
///
/// # Errors
/// Where a file is in use by another program, or the system refuses.
pub(crate) fn discard(dir: &RepoDir, ticket: &Ticket) -> Result<()> {
    use crate::cache::Lock;

    let others = Manifest::read(dir).is_some() || dir.commit().is_some();
    for file in &ticket.files {
        let lock = dir.locks().join(format!("{}.lock", file.blob));
        let Some(_lock) = Lock::try_exclusive(&lock)? else {
            return Err(ModelsError::InUse {
                what: Some(file.path.clone()),
                by: Use::OtherProgram,
            });
        };
        let mut paths = vec![dir.partial(&file.blob)];
        // Where there is a complete model, blobs may be its.
        if !others {
            paths.push(dir.blob(&file.blob));
        }
        for path in paths {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(ModelsError::io("remove", &path, error));
                }
                _ => {}
            }
        }
    }
    Ticket::remove(dir);
    if !others {
        let _ = fs::remove_dir_all(dir.locks());
        for folder in [dir.own(), dir.blobs(), dir.path()] {
            // What is not empty holds something of somebody else's.
            let _ = fs::remove_dir(folder);
        }
    }
    Ok(())
}

/// Whether a failure is the person's own wish.
pub(crate) fn is_pause(error: &ModelsError) -> bool {
    matches!(error, ModelsError::Cancelled)
}
