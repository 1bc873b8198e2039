//! Loading a model: from a folder or file to a [`Loaded`] one, told stage by stage to whoever
//! waits, who can stop it.
//!
//! [`Loader`] is the one way. What it reads before it returns is a [`Fill`]: files are mapped, so
//! a model can compute before it is read, only slower.

mod setup;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use octet_kernels::{Pool, Precision};
use serde::Serialize;

use crate::backend::cpu;
use crate::calibration::Calibration;
use crate::checkpoint::Checkpoint;
use crate::error::EngineError;
use crate::hardware::{GpuStatus, Hardware, NoGpu};
use crate::model::{Decoder, Logits};
use crate::plan::{Plan, PlanRequest, Warning};
use crate::tokenizer::{TokenId, Tokenizer};
use setup::Setup;

/// How a model is to be loaded.
#[derive(Clone, Default)]
pub struct LoadOptions {
    /// What the memory plan is asked for.
    pub plan: PlanRequest,
    /// Worker threads; `None`: one a physical core.
    pub threads: Option<usize>,
    /// f32 activations everywhere.
    pub exact: bool,
    /// Where the tokenizer is, if not in the model's folder.
    pub tokenizer: Option<PathBuf>,
    /// Measure how fast misses are met even if that is known.
    pub calibrate: bool,
    /// Folder for what was measured, in place of the user's cache folder.
    pub cache_dir: Option<PathBuf>,
}

/// A model in memory with what belongs to it.
pub struct Loaded {
    /// The model.
    pub model: Decoder,
    /// Its tokenizer, if the folder has one.
    pub tokenizer: Option<Tokenizer>,
    /// What it takes of the machine, and why.
    pub plan: Plan,
    /// How fast misses are met, where that was asked for or decides something.
    pub calibration: Option<Calibration>,
}

/// What of a model is read before it is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fill {
    /// All that the plan keeps in memory, so that the first answer is not slower than the next.
    #[default]
    All,
    /// On a GPU the same. On the CPU experts are read once the model is handed out, while nothing
    /// else is to be done.
    Behind,
    /// Nothing: files are read as they are used.
    OnUse,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum LoadStage {
    /// Headers, index and configuration are read and the memory is planned.
    Checking,
    /// The tokenizer is read.
    Tokenizer,
    /// The trunk is read and its output matrix brought to 8 bits.
    Trunk,
    /// Experts are read into RAM, and copied to the GPU.
    Experts,
    /// One token is computed, so that every buffer exists.
    Warming,
}

/// How far loading is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct LoadProgress {
    /// What is being done.
    pub stage: LoadStage,
    /// Bytes of the model that are in memory.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub done_bytes: u64,
    /// Bytes that will be; 0 as long as that is not known.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub total_bytes: u64,
}

/// Told of progress; a break stops loading.
pub type Watch<'a> = dyn FnMut(LoadProgress) -> ControlFlow<()> + 'a;

/// Tells `watch`, and turns its break into an error.
fn report(
    watch: &mut Watch<'_>,
    stage: LoadStage,
    done_bytes: u64,
    total_bytes: u64,
) -> Result<(), EngineError> {
    let progress = LoadProgress {
        stage,
        done_bytes,
        total_bytes,
    };
    match watch(progress) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(EngineError::Cancelled),
    }
}

/// Loads one model. Made by [`Engine::builder`](crate::Engine::builder).
pub struct Loader<'a> {
    path: PathBuf,
    options: LoadOptions,
    fill: Fill,
    watch: Box<dyn FnMut(LoadProgress) -> ControlFlow<()> + Send + 'a>,
}

impl<'a> Loader<'a> {
    /// Of the model in the folder or GGUF file `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            options: LoadOptions::default(),
            fill: Fill::default(),
            watch: Box::new(|_| ControlFlow::Continue(())),
        }
    }

    /// Sets all options.
    #[must_use]
    pub fn options(mut self, options: LoadOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets what the memory plan is asked for.
    #[must_use]
    pub fn plan_request(mut self, request: PlanRequest) -> Self {
        self.options.plan = request;
        self
    }

    /// Sets what is read before the model is handed out.
    #[must_use]
    pub fn fill(mut self, fill: Fill) -> Self {
        self.fill = fill;
        self
    }

    /// Has `watch` told of progress several times a second; its break ends loading.
    #[must_use]
    pub fn watch(mut self, watch: impl FnMut(LoadProgress) -> ControlFlow<()> + Send + 'a) -> Self {
        self.watch = Box::new(watch);
        self
    }

    /// Loads the model for whoever runs its passes: see [`Decoder::forward`].
    ///
    /// # Errors
    /// A damaged checkpoint or tokenizer, or a plan that does not fit this machine; what cannot be
    /// read or copied; [`EngineError::Cancelled`] after a break.
    pub fn open(mut self) -> Result<Loaded, EngineError> {
        open(&self.path, &self.options, self.fill, &mut *self.watch)
    }
}

impl Loaded {
    /// The model in `path`, of which nothing is read yet.
    ///
    /// # Errors
    /// See [`Loader::open`].
    pub fn open(path: &Path, options: &LoadOptions) -> Result<Self, EngineError> {
        let watch = &mut |_| ControlFlow::Continue(());
        open(path, options, Fill::OnUse, watch)
    }

    /// The model in `path`, read as far as the plan keeps it in memory.
    ///
    /// # Errors
    /// See [`Loader::open`].
    pub fn load(
        path: &Path,
        options: &LoadOptions,
        watch: &mut Watch<'_>,
    ) -> Result<Self, EngineError> {
        open(path, options, Fill::All, watch)
    }

    /// Reads what the plan keeps in memory, and computes a first token, telling `watch` of it.
    ///
    /// # Errors
    /// What cannot be read or copied; [`EngineError::Cancelled`] after a break.
    fn fill(&mut self, watch: &mut Watch<'_>) -> Result<(), EngineError> {
        let experts = self.model.experts();
        let mut done = self.model.checkpoint().trunk_bytes();
        let total = done + experts.fill_bytes();
        experts.fill(&mut |bytes| {
            done += bytes;
            watch(LoadProgress {
                stage: LoadStage::Experts,
                done_bytes: done,
                total_bytes: total,
            })
        })?;
        if experts.refused_slots() > 0 {
            self.plan.warnings.push(Warning::Unpinned {
                experts: experts.unpinned_slots(),
            });
        }
        report(watch, LoadStage::Warming, total, total)?;
        self.warm()
    }

    /// Computes one token in a session of its own.
    fn warm(&self) -> Result<(), EngineError> {
        let mut session = self.model.session(1);
        let bos = self.tokenizer.as_ref().and_then(|t| t.bos());
        let rows = self.model.spec().vocab_size;
        let token = bos
            .filter(|bos| (bos.0 as usize) < rows)
            .unwrap_or(TokenId(0));
        let proceed = &mut |_| ControlFlow::Continue(());
        self.model
            .forward(&mut session, &[token], Logits::Last, proceed)?;
        self.model.experts().forget_trace();
        Ok(())
    }
}

fn open(
    path: &Path,
    options: &LoadOptions,
    fill: Fill,
    watch: &mut Watch<'_>,
) -> Result<Loaded, EngineError> {
    let mut loaded = map(path, options, watch)?;
    match fill {
        Fill::Behind if !loaded.model.is_on_gpu() => loaded.model.experts_handle().read_ahead(),
        Fill::All | Fill::Behind => loaded.fill(watch)?,
        Fill::OnUse => {}
    }
    Ok(loaded)
}

/// Opens and checks the files, plans the memory and makes the model ready; experts are read later.
fn map(path: &Path, options: &LoadOptions, watch: &mut Watch<'_>) -> Result<Loaded, EngineError> {
    report(watch, LoadStage::Checking, 0, 0)?;
    octet_kernels::Level::wanted()?;
    let checkpoint = Arc::new(Checkpoint::open(path)?);
    if let Some(feature) = cpu::lacks(checkpoint.spec()) {
        return Err(EngineError::Unsupported { feature });
    }
    let total = checkpoint.files().bytes;
    report(watch, LoadStage::Tokenizer, 0, total)?;
    let tokenizer = open_tokenizer(&checkpoint, options.tokenizer.as_deref())?;
    if let Some(tokenizer) = &tokenizer {
        let (tokens, model) = (tokenizer.vocab_size(), checkpoint.spec().vocab_size);
        if !tokenizer.fits(model) {
            return Err(EngineError::TokenizerMismatch {
                tokenizer: tokens,
                model,
            });
        }
    }
    let notes = notes(&checkpoint, tokenizer.as_ref());
    report(watch, LoadStage::Trunk, 0, total)?;
    checkpoint.check_trunk()?;
    let hardware = hardware_for(&checkpoint);
    let threads = options
        .threads
        .unwrap_or(hardware.cpu.physical_cores)
        .max(1);
    let setup = Setup {
        checkpoint,
        hardware,
        options,
        pool: Pool::new(threads),
        precision: match options.exact {
            true => Precision::Exact,
            false => Precision::Fast,
        },
    };
    let (model, mut plan, calibration) = setup.model()?;
    plan.warnings.extend(notes);
    Ok(Loaded {
        model,
        tokenizer,
        plan,
        calibration,
    })
}

/// What of the model's folder was left out of account.
fn notes(checkpoint: &Checkpoint, tokenizer: Option<&Tokenizer>) -> Vec<Warning> {
    let ignored = checkpoint
        .note()
        .map(|detail| Warning::GenerationConfigIgnored {
            detail: detail.to_owned(),
        });
    let bos = tokenizer.and_then(|tokenizer| {
        Some(Warning::BosFromConfig {
            token: tokenizer.bos()?.0,
            detail: tokenizer.note()?.to_owned(),
        })
    });
    ignored.into_iter().chain(bos).collect()
}

/// This machine as far as it can serve `checkpoint`.
pub fn hardware_for(checkpoint: &Checkpoint) -> Hardware {
    usable_by(checkpoint, Hardware::detect(checkpoint.dir()))
}

/// What of `hardware` can serve `checkpoint`: a GPU only if it computes all that the model has.
pub fn usable_by(checkpoint: &Checkpoint, mut hardware: Hardware) -> Hardware {
    let features = checkpoint.features();
    if !features.is_empty() && matches!(hardware.gpu, GpuStatus::Found(_)) {
        let names: Vec<String> = features.iter().map(ToString::to_string).collect();
        hardware.gpu = GpuStatus::Absent {
            reason: NoGpu::Unsupported { features: names },
        };
    }
    hardware
}

/// Whether text can go in and come out.
pub fn has_tokenizer(checkpoint: &Checkpoint) -> bool {
    match checkpoint.gguf() {
        Some(_) => matches!(open_tokenizer(checkpoint, None), Ok(Some(_))),
        None => checkpoint.dir().join("tokenizer.json").is_file(),
    }
}

/// The tokenizer at `path`, else the one beside the model, else the one in a GGUF file; `None` if
/// there is none.
///
/// # Errors
/// [`EngineError::Tokenizer`]. One beside a GGUF file that belongs to another model is passed over.
pub fn open_tokenizer(
    checkpoint: &Checkpoint,
    path: Option<&Path>,
) -> Result<Option<Tokenizer>, EngineError> {
    if let Some(path) = path {
        return Ok(Some(Tokenizer::open(path)?));
    }
    let model = checkpoint.dir();
    let dir = match checkpoint.gguf() {
        Some(_) if !model.is_dir() => model.parent().unwrap_or(model),
        _ => model,
    };
    let file = dir.join("tokenizer.json");
    let Some(gguf) = checkpoint.gguf() else {
        let opened = file.is_file().then(|| Tokenizer::open(&file)).transpose();
        return Ok(opened?);
    };
    if file.is_file()
        && let Ok(beside) = Tokenizer::open(&file)
        && beside.fits(checkpoint.spec().vocab_size)
    {
        return Ok(Some(beside));
    }
    const MODEL: &str = "tokenizer.ggml.model";
    match gguf.metadata().get::<&str>(MODEL) {
        Ok(None | Some("no_vocab" | "none")) => Ok(None),
        _ => Ok(Some(Tokenizer::of_gguf(gguf)?)),
    }
}
