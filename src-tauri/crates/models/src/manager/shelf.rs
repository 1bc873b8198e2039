//! What is done with models that are here, and what is on offer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use octet_engine::hardware::Hardware;
use octet_engine::plan::PlanRequest;

use super::queue::busy;
use super::{Manager, TICK, locked};
use crate::catalogue::{CatalogueItem, mixtral_tokenizer};
use crate::fit::fit;
use crate::hub::page;
use crate::import::{self, ImportHow};
use crate::library::{self, Found, by_name};
use crate::names::RepoName;
use crate::recommend::recommend;
use crate::record::Ticket;
use crate::remote::RemoteModel;
use crate::transfer::{Meter, Stop, blocking, persist, seconds_left};
use crate::work::Work;
use crate::{
    DiskNeed, Health, InstalledModel, InvalidInput, ModelSource, ModelsError, Offer, OfferStatus,
    Removed, Result, Task, TaskKind, VerifyReport, disk, relocate, verify,
};

/// Attempts of a question that a person waits for.
const LOOK_UP_ATTEMPTS: u32 = 3;

/// What a tokenizer takes, about.
const TOKENIZER_BYTES: u64 = 2_000_000;

/// Long work that is under way.
#[derive(Default)]
pub(super) struct Tasks {
    last_id: u32,
    running: Vec<Running>,
}

struct Running {
    id: u32,
    kind: TaskKind,
    model: Option<String>,
    work: Work,
    meter: Meter,
}

impl Tasks {
    pub(super) fn show(&mut self) -> Vec<Task> {
        let running = self.running.iter_mut();
        running
            .map(|task| {
                let (done_bytes, total_bytes) = (task.work.done_bytes(), task.work.total_bytes());
                let bytes_per_sec = task.meter.update(Instant::now(), done_bytes);
                Task {
                    id: task.id,
                    kind: task.kind,
                    model: task.model.clone(),
                    done_bytes,
                    total_bytes,
                    bytes_per_sec,
                    seconds_left: seconds_left(
                        total_bytes.saturating_sub(done_bytes),
                        bytes_per_sec,
                    ),
                }
            })
            .collect()
    }
}

impl Manager {
    /// What Octet offers by itself. No network.
    pub async fn offers(&self, plan: &PlanRequest) -> Vec<Offer> {
        let manager = self.clone();
        let plan = plan.clone();
        let offers = blocking(move || {
            let hardware = Hardware::detect(&manager.folder());
            let catalogue = &manager.shared.options.catalogue;
            let mut offers: Vec<Offer> = catalogue
                .iter()
                .map(|item| manager.offer(item, &hardware, &plan))
                .collect();
            let gone = locked(&manager.shared.gone).clone();
            recommend(catalogue, &mut offers, |item| gone.contains(&item.repo));
            offers
        });
        offers.await.unwrap_or_default()
    }

    fn offer(&self, item: &CatalogueItem, hardware: &Hardware, plan: &PlanRequest) -> Offer {
        let size_bytes = item.sizes.file_bytes() + TOKENIZER_BYTES;
        Offer {
            repo: item.repo.to_string(),
            title: item.title.to_owned(),
            about: item.about.to_owned(),
            license: Some(item.license.to_owned()),
            page: self.page(&item.repo),
            size_bytes,
            files: item.files,
            quantization: Some(item.quantization.clone()),
            tokenizer_from: item
                .tokenizer
                .repos
                .iter()
                .map(ToString::to_string)
                .collect(),
            fit: fit(&item.sizes, hardware, plan),
            disk: self.disk_need(&item.repo, size_bytes),
            status: self.status_of(&item.repo, hardware, plan),
            is_recommended: false,
            compared: None,
        }
    }

    /// Looks at any repository on the hub.
    ///
    /// # Errors
    /// [`ModelsError::Foreign`] where it is of another format; whatever the network does.
    pub async fn look_up(&self, repo: &str, plan: &PlanRequest) -> Result<Offer> {
        let repo: RepoName = repo.trim().parse()?;
        let hub = self.hub().await?;
        let mut options = self.shared.options.transfer.clone();
        options.attempts = options.attempts.min(LOOK_UP_ATTEMPTS);
        let ask = || RemoteModel::inspect(&hub, &repo, "main");
        let model = persist(&options, &Stop::new(), |_| {}, ask).await;
        let model =
            model.map_err(|failure| self.instead_of(&repo, failure.into_error(&hub.host())))?;
        let (manager, plan) = (self.clone(), plan.clone());
        blocking(move || {
            let hardware = Hardware::detect(&manager.folder());
            let known = manager
                .shared
                .options
                .catalogue
                .iter()
                .find(|item| item.repo == repo);
            let mut tokenizer_from = Vec::new();
            if model.tokenizer().is_some() {
                tokenizer_from.push(repo.to_string());
            }
            let sources = known.map_or_else(mixtral_tokenizer, |item| item.tokenizer.clone());
            if sources.check.vocab_size <= model.config.vocab_size {
                tokenizer_from.extend(sources.repos.iter().map(ToString::to_string));
            }
            Offer {
                repo: repo.to_string(),
                title: known.map_or(repo.short(), |item| item.title).to_owned(),
                about: known.map_or("", |item| item.about).to_owned(),
                license: model.license.clone(),
                page: manager.page(&repo),
                size_bytes: model.bytes(),
                files: model.files.len() as u32,
                quantization: known.map(|item| item.quantization.clone()),
                tokenizer_from,
                fit: fit(&model.sizes, &hardware, &plan),
                disk: manager.disk_need(&repo, model.bytes()),
                status: manager.status_of(&repo, &hardware, &plan),
                is_recommended: false,
                compared: None,
            }
        })
        .await
    }

    /// `error` of `repo`; if that is of the catalogue and the hub does not have it, what to take
    /// instead.
    pub(super) fn instead_of(&self, repo: &RepoName, error: ModelsError) -> ModelsError {
        let catalogue = &self.shared.options.catalogue;
        let is_known = catalogue.iter().any(|item| item.repo == *repo);
        match &error {
            ModelsError::Missing { what } if is_known && what == repo.as_str() => {}
            _ => return error,
        }
        let mut gone = locked(&self.shared.gone);
        gone.insert(repo.clone());
        match catalogue.iter().find(|item| !gone.contains(&item.repo)) {
            Some(other) => ModelsError::Withdrawn {
                repo: repo.to_string(),
                instead: other.repo.to_string(),
            },
            None => error,
        }
    }

    fn page(&self, repo: &RepoName) -> String {
        let (endpoint, _) = super::endpoint(&self.shared.options, &locked(&self.shared.chosen));
        // Only an address that is none has no page, and that one was refused before.
        page(&endpoint, repo).unwrap_or_default()
    }

    fn disk_need(&self, repo: &RepoName, size_bytes: u64) -> DiskNeed {
        let folder = self.folder();
        let downloads = locked(&self.shared.queue).show(&self.shared.options.transfer);
        let begun = downloads
            .iter()
            .find(|download| download.repo == repo.as_str());
        let needed_bytes = size_bytes.saturating_sub(begun.map_or(0, |d| d.done_bytes));
        let free_bytes = disk::free_bytes(&folder);
        let reserve = self.shared.options.transfer.disk_reserve_bytes;
        DiskNeed {
            needed_bytes,
            free_bytes,
            is_enough: free_bytes.is_none_or(|free| free >= needed_bytes.saturating_add(reserve)),
        }
    }

    fn status_of(&self, repo: &RepoName, hardware: &Hardware, plan: &PlanRequest) -> OfferStatus {
        if locked(&self.shared.queue).has(repo) {
            return OfferStatus::Downloading;
        }
        let found = self
            .scan()
            .into_iter()
            .find(|found| found.id == repo.as_str());
        match found.map(|found| found.look(hardware, plan).health) {
            None => OfferStatus::Available,
            Some(Health::Good { .. }) => OfferStatus::Installed,
            Some(Health::Damaged { .. }) => OfferStatus::Damaged,
        }
    }

    /// The models that are here: those in the models folder, then linked ones.
    ///
    /// # Errors
    /// None for a model that is damaged, which is listed as such.
    pub async fn installed(&self, plan: &PlanRequest) -> Result<Vec<InstalledModel>> {
        let (manager, plan) = (self.clone(), plan.clone());
        blocking(move || {
            let hardware = Hardware::detect(&manager.folder());
            let found = manager.scan();
            found
                .iter()
                .map(|found| found.look(&hardware, &plan))
                .collect()
        })
        .await
    }

    /// The folder of the model that `name` means: its id, or what comes after the slash in a
    /// repository's name.
    ///
    /// # Errors
    /// [`ModelsError::NotFound`], or [`ModelsError::Ambiguous`] where it could mean several.
    pub fn folder_of(&self, name: &str) -> Result<PathBuf> {
        Ok(by_name(self.scan(), name)?.folder)
    }

    /// The same where that folder is linked: removing the model leaves it alone.
    ///
    /// # Errors
    /// As [`Manager::folder_of`].
    pub fn linked_folder(&self, name: &str) -> Result<Option<PathBuf>> {
        let found = by_name(self.scan(), name)?;
        Ok(found.repo.is_none().then_some(found.folder))
    }

    fn scan(&self) -> Vec<Found> {
        let linked = locked(&self.shared.chosen).linked.clone();
        library::scan(&self.folder(), &linked)
    }

    fn found(&self, id: &str) -> Result<Found> {
        by_name(self.scan(), id)
    }

    /// Compares every byte of a model with what was published.
    ///
    /// # Errors
    /// [`ModelsError::NotFound`], [`ModelsError::Cancelled`]. Bad files are in the report.
    pub async fn verify(&self, id: &str) -> Result<VerifyReport> {
        let found = self.found(id)?;
        let model = Some(found.id.clone());
        let report = self.task(TaskKind::Verify, model, move |work| {
            verify::verify(&found, work)
        });
        let report = report.await?;
        self.library_changed();
        Ok(report)
    }

    /// Downloads the bad files of a model again, and only those. Verifies first, unless a check has
    /// told already which they are.
    ///
    /// # Errors
    /// As [`Manager::verify`]; [`ModelsError::InUse`] while it is loaded;
    /// [`ModelsError::Invalid`] for a model that is from no hub.
    pub async fn repair(&self, id: &str) -> Result<()> {
        let found = self.found(id)?;
        let Some(repo) = found.repo.as_ref().filter(|_| found.can_repair()) else {
            return Err(InvalidInput::NotRepairable { model: found.id }.into());
        };
        let name = repo.name.clone();
        if locked(&self.shared.queue).has(&name) {
            return self.resume(name.as_str()).await;
        }
        let claimed = found.clone();
        let claim = blocking(move || claimed.claim()).await??;
        let commit = repo.manifest.commit.clone();
        let bad = match &repo.damage {
            Some(_) => found.known_bad(),
            None => self.verify(id).await?.bad,
        };
        blocking(move || verify::remove_bad(&found, &bad)).await??;
        drop(claim);
        let ticket = Ticket {
            // What `main` is by now may have other files throughout.
            commit: Some(commit),
            is_repair: true,
            ..Ticket::default()
        };
        self.enqueue(name, ticket).await
    }

    /// Deletes a model; a linked one is forgotten.
    ///
    /// # Errors
    /// [`ModelsError::InUse`] while it is loaded or downloaded.
    pub async fn remove(&self, id: &str) -> Result<Removed> {
        let found = self.found(id)?;
        if found.source == ModelSource::Linked {
            let folder = found.folder.clone();
            self.choose(|chosen| chosen.linked.retain(|linked| *linked != folder))
                .await?;
        }
        if let Some(repo) = &found.repo
            && locked(&self.shared.queue).has(&repo.name)
        {
            return Err(busy(Some(&found.id)));
        }
        let model = found.id.clone();
        let freed_bytes = blocking(move || library::remove(&found)).await??;
        self.library_changed();
        Ok(Removed { model, freed_bytes })
    }

    /// Takes in a folder. The new model's id.
    ///
    /// # Errors
    /// [`ModelsError::Foreign`] where there is no model in it.
    pub async fn import(&self, folder: &Path, how: ImportHow) -> Result<String> {
        let folder = folder.to_owned();
        let id = match how {
            ImportHow::Link => {
                let folder = blocking(move || import::check(&folder)).await??;
                let id = library::of_link(&folder).id;
                self.choose(|chosen| {
                    if !chosen.linked.contains(&folder) {
                        chosen.linked.push(folder);
                    }
                })
                .await?;
                id
            }
            ImportHow::Copy => {
                let root = self.folder();
                let reserve = self.shared.options.transfer.disk_reserve_bytes;
                let model = Some(folder.display().to_string());
                let copy = move |work: &Work| import::copy(&root, &folder, reserve, work);
                self.task(TaskKind::Import, model, copy).await?.to_string()
            }
        };
        self.library_changed();
        Ok(id)
    }

    /// Makes `to` the models folder and moves all models there. What Octet does not list stays.
    ///
    /// # Errors
    /// [`ModelsError::InUse`] while a model is loaded or downloaded; a full disk. The old folder
    /// stays in use then.
    pub async fn move_folder(&self, to: &Path) -> Result<()> {
        let to = std::path::absolute(to)
            .map_err(|error| ModelsError::io("find the folder", to, error))?;
        let from = self.folder();
        if to == from {
            return Ok(());
        }
        if to.starts_with(&from) || from.starts_with(&to) {
            return Err(InvalidInput::FolderInside.into());
        }
        if locked(&self.shared.queue).is_active() {
            return Err(busy(None));
        }
        let found: Vec<Found> = self
            .scan()
            .into_iter()
            .filter(|f| f.repo.is_some())
            .collect();
        let downloads = locked(&self.shared.queue).show(&self.shared.options.transfer);
        let mut repos: Vec<RepoName> = found
            .iter()
            .filter_map(|f| Some(f.repo.as_ref()?.name.clone()))
            .collect();
        repos.extend(
            downloads
                .iter()
                .filter_map(|download| download.repo.parse().ok()),
        );
        repos.sort();
        repos.dedup();
        let manager = self.clone();
        let reserve = self.shared.options.transfer.disk_reserve_bytes;
        let moved = self.task(TaskKind::Move, None, move |work| {
            // On Windows an open lock would keep its folder from being moved.
            for found in &found {
                drop(found.claim()?);
            }
            let switch = || manager.switch_folder(&to);
            relocate::relocate(&from, &to, &repos, reserve, work, switch)
        });
        moved.await?;
        self.library_changed();
        Ok(())
    }

    fn switch_folder(&self, to: &Path) -> Result<()> {
        let mut chosen = locked(&self.shared.chosen);
        let mut changed = chosen.clone();
        changed.folder = Some(to.to_owned());
        crate::settings_file::write(&self.shared.options.config_dir, &changed)?;
        *chosen = changed;
        Ok(())
    }

    /// Ends a task; the method that began it gives [`ModelsError::Cancelled`].
    pub fn cancel_task(&self, id: u32) {
        let tasks = locked(&self.shared.tasks);
        if let Some(task) = tasks.running.iter().find(|task| task.id == id) {
            task.work.cancel();
        }
    }

    pub(super) fn cancel_tasks(&self) {
        for task in &locked(&self.shared.tasks).running {
            task.work.cancel();
        }
    }

    /// Does long work off the runtime's threads, and shows how far it is.
    async fn task<T: Send + 'static>(
        &self,
        kind: TaskKind,
        model: Option<String>,
        act: impl FnOnce(&Work) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let work = Work::default();
        let shown = Shown {
            manager: self.clone(),
            id: {
                let mut tasks = locked(&self.shared.tasks);
                tasks.last_id = tasks.last_id.wrapping_add(1);
                let id = tasks.last_id;
                tasks.running.push(Running {
                    id,
                    kind,
                    model,
                    work: work.clone(),
                    meter: Meter::default(),
                });
                id
            },
            work: work.clone(),
        };
        let mut done = std::pin::pin!(blocking(move || act(&work)));
        let mut ticks = tokio::time::interval(TICK);
        let done = loop {
            tokio::select! {
                done = &mut done => break done,
                _ = ticks.tick() => self.refresh(),
            }
        };
        drop(shown);
        done?
    }
}

/// A task in the list; gone from it, and ended, when whoever waits for it no longer does.
struct Shown {
    manager: Manager,
    id: u32,
    work: Work,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.work.cancel();
        let shared = Arc::clone(&self.manager.shared);
        locked(&shared.tasks)
            .running
            .retain(|task| task.id != self.id);
        self.manager.refresh();
    }
}
