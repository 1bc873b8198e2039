//! The one model that is loaded: none, loading, ready or failed.
//!
//! Loading runs on a thread of its own, tells how far it is and can be cancelled. A new load
//! ends the one under way. Whoever needs the model waits on [`Models::ready`], so that a message
//! sent while it loads is answered once it has.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use octet_engine::checkpoint::Checkpoint;
use octet_engine::load::hardware_for;
use octet_engine::plan::{ModelSizes, Placement, make_plan};
use octet_engine::{Engine, EngineError, EngineProblem, LoadOptions, LoadProgress, LoadStage};
use octet_models::Lease;
use octet_store::settings::OffloadSettings;
use serde::Serialize;
use specta::Type;
use tokio::sync::watch;

use crate::error::{ApiError, AppProblem, Result};
use crate::model_list::{ModelEntry, ModelKind, ModelList};
use crate::plan_view::{PlanView, plan_request};
use crate::task::blocking;

/// Progress is told at most this often: 20 times a second.
const PROGRESS_EVERY: Duration = Duration::from_millis(50);

/// How a model is.
#[derive(Clone, Debug, PartialEq, Serialize, Type)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
#[allow(clippy::large_enum_variant)] // One of it exists.
pub enum ModelState {
    /// Nothing is loaded.
    None,
    /// On its way.
    Loading {
        /// Which.
        model: ModelEntry,
        /// How far.
        progress: LoadProgress,
    },
    /// It answers.
    Ready {
        /// Which.
        model: ModelEntry,
        /// What it takes.
        plan: PlanView,
        /// How long loading took.
        #[specta(type = u32)]
        load_ms: u64,
        /// The settings it was loaded with.
        offload: OffloadSettings,
    },
    /// It could not be loaded.
    Failed {
        /// Which.
        model: ModelEntry,
        /// Why.
        error: ApiError,
    },
}

/// A model that answers.
#[derive(Clone)]
pub struct Ready {
    /// The engine.
    pub engine: Engine,
    /// The model's name.
    pub name: String,
    /// Held as long as anybody computes with it: its files cannot be deleted. None for the demo.
    _lease: Option<Arc<Lease>>,
}

/// See the [module](self).
pub struct Models {
    /// The models there are.
    pub list: ModelList,
    state: watch::Sender<ModelState>,
    ready: Mutex<Option<Ready>>,
    /// Held while loading or unloading.
    turn: tokio::sync::Mutex<()>,
    /// Raised to end the load under way.
    cancel: Mutex<Arc<AtomicBool>>,
}

impl Models {
    /// Nothing is loaded.
    pub fn new(list: ModelList) -> Self {
        Self {
            list,
            state: watch::Sender::new(ModelState::None),
            ready: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            cancel: Mutex::default(),
        }
    }

    /// How the model is.
    pub fn state(&self) -> ModelState {
        self.state.borrow().clone()
    }

    /// Tells of changes.
    pub fn subscribe(&self) -> watch::Receiver<ModelState> {
        self.state.subscribe()
    }

    /// The model, if it is ready now.
    pub fn current(&self) -> Option<Ready> {
        lock(&self.ready).clone()
    }

    /// Waits while the model loads.
    ///
    /// # Errors
    /// That none is loaded, or why it could not be.
    pub async fn ready(&self) -> Result<Ready> {
        let mut states = self.state.subscribe();
        let settled = states
            .wait_for(|state| !matches!(state, ModelState::Loading { .. }))
            .await
            .map(|state| state.clone());
        match settled {
            Ok(ModelState::Failed { error, .. }) => Err(error),
            Ok(ModelState::Ready { .. }) => {
                self.current().ok_or_else(|| AppProblem::NotLoaded.into())
            }
            _ => Err(AppProblem::NotLoaded.into()),
        }
    }

    /// What the model would take of the machine as it is now.
    ///
    /// # Errors
    /// Where there is no such model, or it does not fit.
    pub fn plan(&self, id: &str, offload: &OffloadSettings) -> Result<PlanView> {
        let dir = self.list.dir(id)?;
        let checkpoint = Checkpoint::open(&dir)?;
        let sizes = ModelSizes::of(&checkpoint);
        let request = plan_request(offload, &sizes, false);
        let plan = make_plan(&sizes, &hardware_for(&checkpoint), &request)?;
        Ok(PlanView::from(&plan))
    }

    /// Loads a model in place of the one there is; `force` even if it does not fit. Returns
    /// when it is ready, failed or cancelled, with the state then.
    ///
    /// # Errors
    /// Where there is no such model.
    pub async fn load(
        self: &Arc<Self>,
        id: &str,
        offload: OffloadSettings,
        force: bool,
    ) -> Result<ModelState> {
        let cancelled = self.begin();
        let _turn = self.turn.lock().await;
        if cancelled.load(Ordering::Relaxed) {
            return Ok(self.state());
        }
        let entry = self.list.entry(id).await?;
        self.release().await;
        let progress = LoadProgress {
            stage: LoadStage::Checking,
            done_bytes: 0,
            total_bytes: 0,
        };
        self.set(ModelState::Loading {
            model: entry.clone(),
            progress,
        });
        let started = Instant::now();
        self.set(match self.read(&entry, &offload, force, cancelled).await {
            Ok(Some((engine, lease))) => {
                let plan = PlanView::from(engine.plan());
                *lock(&self.ready) = Some(Ready {
                    engine,
                    name: entry.name.clone(),
                    _lease: lease.map(Arc::new),
                });
                let load_ms = started.elapsed().as_millis() as u64;
                tracing::info!(model = entry.id, load_ms, "model loaded");
                ModelState::Ready {
                    model: entry,
                    plan,
                    load_ms,
                    offload,
                }
            }
            Ok(None) => ModelState::None,
            Err(error) => {
                tracing::warn!(model = entry.id, %error, "model not loaded");
                ModelState::Failed {
                    model: entry,
                    error,
                }
            }
        });
        Ok(self.state())
    }

    /// Reads the model; `None` if that was cancelled.
    async fn read(
        self: &Arc<Self>,
        entry: &ModelEntry,
        offload: &OffloadSettings,
        force: bool,
        cancelled: Arc<AtomicBool>,
    ) -> Result<Option<(Engine, Option<Lease>)>> {
        let (models, entry, offload) = (Arc::clone(self), entry.clone(), offload.clone());
        let loading = move || {
            let dir = models.list.dir(&entry.id)?;
            // Before the minutes that the rest may take: all of it is for chatting.
            if !entry.has_tokenizer {
                return Err(no_tokenizer(&dir));
            }
            let lease = match entry.kind {
                ModelKind::Demo => None,
                _ => Some(models.list.library()?.lease(&dir)?),
            };
            let sizes = ModelSizes::of(&Checkpoint::open(&dir)?);
            let options = LoadOptions {
                plan: plan_request(&offload, &sizes, force),
                threads: offload.threads.map(|threads| threads as usize),
                ..LoadOptions::default()
            };
            let mut told = Instant::now();
            let mut stage = None;
            let mut watch = |progress: LoadProgress| {
                if stage != Some(progress.stage) || told.elapsed() >= PROGRESS_EVERY {
                    (told, stage) = (Instant::now(), Some(progress.stage));
                    models.set(ModelState::Loading {
                        model: entry.clone(),
                        progress,
                    });
                }
                match cancelled.load(Ordering::Relaxed) {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            };
            let loader = Engine::builder(&dir).options(options).watch(&mut watch);
            match loader.open() {
                Ok(_) if cancelled.load(Ordering::Relaxed) => Ok(None),
                Ok(loaded) if loaded.tokenizer.is_none() => Err(no_tokenizer(&dir)),
                Ok(loaded) => Ok(Some((Engine::start(loaded), lease))),
                Err(EngineError::Cancelled) => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        blocking(loading).await
    }

    /// Says that the loaded model computes on the CPU from now on, since the GPU failed.
    pub fn lose_gpu(&self) {
        self.state.send_if_modified(|state| match state {
            ModelState::Ready { plan, .. } if plan.device != Placement::Cpu => {
                plan.lose_gpu();
                true
            }
            _ => false,
        });
    }

    /// Ends the load under way, if any.
    pub fn cancel_load(&self) {
        lock(&self.cancel).store(true, Ordering::Relaxed);
    }

    /// Frees the model's memory. A generation under way ends with what it has.
    pub async fn unload(&self) {
        self.begin();
        let _turn = self.turn.lock().await;
        self.release().await;
        self.set(ModelState::None);
    }

    /// Ends the load under way and gives the means to end the one to come.
    fn begin(&self) -> Arc<AtomicBool> {
        let mine = Arc::new(AtomicBool::new(false));
        let before = std::mem::replace(&mut *lock(&self.cancel), Arc::clone(&mine));
        before.store(true, Ordering::Relaxed);
        mine
    }

    /// Gives the engine back; its thread is waited for elsewhere than on the runtime.
    async fn release(&self) {
        let ready = lock(&self.ready).take();
        if ready.is_some() {
            let freed = tokio::task::spawn_blocking(move || drop(ready)).await;
            if let Err(error) = freed {
                tracing::error!(%error, "the engine did not end well");
            }
        }
    }

    fn set(&self, state: ModelState) {
        self.state.send_replace(state);
    }
}

fn no_tokenizer(dir: &Path) -> ApiError {
    let dir = dir.display().to_string();
    EngineProblem::NoTokenizer { dir }.into()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
