//! The engine as others use it: load a model, ask it, read events; sync or async.
//!
//! A loaded model lives on a thread of its own, which takes one request after the other; those
//! who ask hold channels, so nothing here blocks an async runtime.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use octet_kernels::{Pool, Precision};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::backend::cpu;
use crate::calibration::Calibration;
use crate::checkpoint::Checkpoint;
use crate::error::EngineError;
use crate::experts::{DeviceOptions, Experts};
use crate::generate::{Conversation, DoneReason, Event, Generator, Request};
use crate::hardware::{GpuStatus, Hardware};
use crate::load::{LoadStage, Watch, report};
use crate::model::Decoder;
use crate::plan::{Plan, PlanRequest};
use crate::prompt::Message;
use crate::setup::Setup;
use crate::tokenizer::Tokenizer;

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
    /// A device above RAM.
    pub device: Option<DeviceOptions>,
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

impl Loaded {
    /// Opens the checkpoint in `dir`, plans its memory and prepares it.
    ///
    /// # Errors
    /// A damaged checkpoint or tokenizer, or a plan that does not fit this machine.
    pub fn open(dir: &Path, options: &LoadOptions) -> Result<Self, EngineError> {
        Self::open_watched(dir, options, &mut |_| ControlFlow::Continue(()))
    }

    /// [`Loaded::open`] under `watch`.
    pub(crate) fn open_watched(
        dir: &Path,
        options: &LoadOptions,
        watch: &mut Watch<'_>,
    ) -> Result<Self, EngineError> {
        report(watch, LoadStage::Checking, 0, 0)?;
        octet_kernels::Level::wanted()?;
        let checkpoint = Arc::new(Checkpoint::open(dir)?);
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
        let notes: Vec<String> = checkpoint
            .note()
            .into_iter()
            .chain(tokenizer.as_ref().and_then(Tokenizer::note))
            .map(str::to_owned)
            .collect();
        report(watch, LoadStage::Trunk, 0, total)?;
        checkpoint.check_trunk()?;
        let hardware = hardware_for(&checkpoint);
        let threads = options
            .threads
            .unwrap_or(hardware.cpu.physical_cores)
            .max(1);
        // The tensor library's products run on rayon's one pool; the first model sizes it.
        let _ = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global();
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
        Ok(Self {
            model,
            tokenizer,
            plan,
            calibration,
        })
    }
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
            reason: format!("the GPU path has no {} yet", names.join(", no ")),
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

struct Order {
    request: Request,
    events: UnboundedSender<Event>,
    cancelled: Arc<AtomicBool>,
}

/// A loaded model on its own thread. Cloning gives another handle; the model is unloaded when
/// the last one is dropped.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    orders: Mutex<Option<mpsc::Sender<Order>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Raised to end the generation at work.
    unloading: Arc<AtomicBool>,
    plan: Plan,
    tokenizer: Option<Arc<Tokenizer>>,
    experts: Arc<Experts>,
}

/// A generation under way: its events, and the means to end it. Dropping it cancels.
pub struct Generation {
    events: UnboundedReceiver<Event>,
    cancel: Cancel,
}

/// Ends a generation within a token (in prefill, within a layer).
#[derive(Clone)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks for the end; the generation then reports `Done` with what there is.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Engine {
    /// Loads the model in `dir` on a new thread, without blocking the caller's runtime.
    ///
    /// # Errors
    /// See [`Loaded::open`].
    pub async fn load(dir: PathBuf, options: LoadOptions) -> Result<Self, EngineError> {
        let (done, loaded) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            // The caller may have gone; then the model is simply dropped.
            let _ = done.send(Loaded::open(&dir, &options).map(Self::start));
        });
        loaded.await.map_err(|_| EngineError::Unloaded)?
    }

    /// Puts a loaded model on its thread.
    pub fn start(loaded: Loaded) -> Self {
        let (orders, inbox) = mpsc::channel::<Order>();
        let unloading = Arc::new(AtomicBool::new(false));
        let plan = loaded.plan.clone();
        let stop = Arc::clone(&unloading);
        let Loaded {
            model, tokenizer, ..
        } = loaded;
        let experts = model.experts_handle();
        let tokenizer = tokenizer.map(Arc::new);
        let (texts, ctx) = (tokenizer.clone(), plan.ctx);
        let thread = std::thread::spawn(move || {
            let mut conversation = Conversation::new(&model, ctx);
            for order in inbox {
                let stopped =
                    || order.cancelled.load(Ordering::Relaxed) || stop.load(Ordering::Relaxed);
                let mut emit = |event| {
                    if order.events.send(event).is_err() {
                        order.cancelled.store(true, Ordering::Relaxed);
                    }
                };
                let mut generator = Generator {
                    model: &model,
                    tokenizer: texts.as_deref(),
                    cancelled: &stopped,
                    emit: &mut emit,
                };
                generator.generate(&mut conversation, &order.request);
            }
        });
        Self(Arc::new(Inner {
            orders: Mutex::new(Some(orders)),
            thread: Mutex::new(Some(thread)),
            unloading,
            plan,
            tokenizer,
            experts,
        }))
    }

    /// What the model takes of the machine.
    pub fn plan(&self) -> &Plan {
        &self.0.plan
    }

    /// Tokens that `messages` take of the context; an answer at their end counts as begun, not
    /// as closed. Waits for nothing, a generation under way included.
    ///
    /// # Errors
    /// [`EngineError::Prompt`], or that the model folder has no tokenizer (it then has no name).
    pub fn count_tokens(&self, messages: &[Message]) -> Result<usize, EngineError> {
        let tokenizer = self
            .0
            .tokenizer
            .as_deref()
            .ok_or(EngineError::NoTokenizer {
                dir: "the model folder".to_owned(),
            })?;
        Ok(tokenizer.encode_chat(messages)?.len())
    }

    /// Where the experts live: [`Experts::snapshot`] may be asked for many times a second, while
    /// tokens are made. Holding on to it keeps the model's memory.
    pub fn experts(&self) -> &Arc<Experts> {
        &self.0.experts
    }

    /// Queues `request`; returns at once. Requests are worked on one after the other.
    pub fn generate(&self, request: Request) -> Generation {
        let (events, receiver) = unbounded_channel();
        let cancelled = Arc::new(AtomicBool::new(false));
        let order = Order {
            request,
            events,
            cancelled: Arc::clone(&cancelled),
        };
        let orders = self.0.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(orders) = &*orders {
            // A thread that is gone drops the order, and with it the event channel.
            let _ = orders.send(order);
        }
        Generation {
            events: receiver,
            cancel: Cancel(cancelled),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.unloading.store(true, Ordering::Relaxed);
        self.orders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic on the engine's thread was reported to those who waited for events.
            let _ = thread.join();
        }
    }
}

impl Generation {
    /// The next event, or `None` after the last one.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The next event for callers without a runtime.
    ///
    /// # Panics
    /// If called from async code.
    pub fn next_blocking(&mut self) -> Option<Event> {
        self.events.blocking_recv()
    }

    /// A handle that ends the generation from elsewhere.
    pub fn cancel_handle(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Waits for the end: the whole text, why it ended, and the last event.
    ///
    /// # Errors
    /// The message of an `Error` event, or that the model is gone.
    pub async fn text(mut self) -> Result<(String, DoneReason), String> {
        let mut all = String::new();
        while let Some(event) = self.next().await {
            match event {
                Event::Token { text, .. } => all += &text,
                Event::Done { reason, text, .. } => return Ok((all + &text, reason)),
                Event::Error { message, .. } => return Err(message),
                _ => {}
            }
        }
        Err(EngineError::Unloaded.to_string())
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
