//! The engine as others use it: load a model, ask it, read events; sync or async.
//!
//! A loaded model lives on a thread of its own, which takes one request after the other; those
//! who ask hold channels, so nothing here blocks an async runtime.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::error::EngineError;
use crate::experts::Experts;
use crate::generate::{Conversation, DoneReason, Event, Generator, Request};
use crate::load::{Loaded, Loader};
use crate::plan::Plan;
use crate::problem::Failure;
use crate::prompt::Message;
use crate::tokenizer::Tokenizer;

impl Loader<'_> {
    /// Loads the model and puts it on a thread of its own. Blocks until it is ready.
    ///
    /// # Errors
    /// See [`Loader::open`].
    pub fn load(self) -> Result<Engine, EngineError> {
        self.open().map(Engine::start)
    }
}

impl Loader<'static> {
    /// The same without blocking the caller's runtime.
    ///
    /// # Errors
    /// See [`Loader::open`].
    pub async fn load_async(self) -> Result<Engine, EngineError> {
        let (done, loaded) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            // The caller may have gone; then the model is simply dropped.
            let _ = done.send(self.load());
        });
        loaded.await.map_err(|_| EngineError::Unloaded)?
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
    /// Where loading the model in the folder or GGUF file `path` begins.
    pub fn builder<'a>(path: impl Into<PathBuf>) -> Loader<'a> {
        Loader::new(path)
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
    /// The failure of an `Error` event, or that the model is gone.
    pub async fn text(mut self) -> Result<(String, DoneReason), Failure> {
        let mut all = String::new();
        while let Some(event) = self.next().await {
            match event {
                Event::Token { text, .. } => all += &text,
                Event::Done { reason, text, .. } => return Ok((all + &text, reason)),
                Event::Error(failure) => return Err(failure),
                _ => {}
            }
        }
        Err(Failure::from(&EngineError::Unloaded))
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
