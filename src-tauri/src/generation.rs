//! From a message to a stored answer.
//!
//! What the person said is on disk before anything is computed, and the answer is begun there.
//! While it grows it is sent to the page at most once a frame and written at least every second;
//! at its end it is stored with its figures. What stops it (the person, a full disk, a lost
//! model) leaves what was said so far.

mod answering;
mod feed;
mod request;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use octet_store::settings::SamplingSettings;
use octet_store::{ChatId, Message, MessageId, NewChat, Role, Store};
use serde::Serialize;
use specta::Type;
use tokio::sync::watch;

use self::answering::Answering;
use self::feed::Feed;
use self::request::conversation;
use crate::chat_file::ChatFile;
use crate::error::{ApiError, AppProblem, Result};
use crate::experts::Activity;
use crate::models::{ModelState, Models};
use crate::queue::Queue;
use crate::task::blocking;

/// What the page is told while it waits.
#[derive(Clone, Debug, PartialEq, Serialize, Type)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum GenerationEvent {
    /// Both messages are stored.
    Started {
        /// What the person said, if that is new.
        user_message: Option<Message>,
        /// The answer, empty or as far as it got earlier.
        answer: Message,
    },
    /// Something else comes first.
    Queued {
        /// What.
        reason: QueueReason,
        /// How many answers are ahead.
        #[specta(type = u32)]
        position: usize,
    },
    /// The prompt is being read.
    Prefill {
        /// Tokens read.
        #[specta(type = u32)]
        done: usize,
        /// Tokens in all.
        #[specta(type = u32)]
        total: usize,
        /// Of these, known from the message before.
        #[specta(type = u32)]
        reused: usize,
        /// Of the work, the part that is done, 0 to 1.
        #[specta(type = u32)]
        fraction: f64,
        /// How long the rest takes, as soon as that can be estimated.
        seconds_left: Option<u32>,
    },
    /// The answer grew.
    Text {
        /// What is new.
        delta: String,
        /// Tokens so far.
        tokens: u32,
        /// How fast; none before the second one.
        #[specta(type = Option<u32>)]
        tokens_per_sec: Option<f64>,
        /// Tokens of the context in use.
        #[specta(type = u32)]
        context_used: usize,
        /// The experts that the last layer chose for the newest token.
        last_experts: Vec<u16>,
    },
    /// The context was full: the oldest messages are no longer seen by the model.
    ContextShift {
        /// How many.
        #[specta(type = u32)]
        dropped_messages: usize,
    },
    /// The answer is complete, or was stopped.
    Done {
        /// As stored.
        message: Message,
        /// Tokens of the context in use.
        #[specta(type = u32)]
        context_used: usize,
        /// Tokens of the context.
        #[specta(type = u32)]
        context_length: usize,
    },
    /// It was stopped before it had begun: the chat is as if nothing had been asked.
    TakenBack,
    /// The answer went wrong.
    Failed {
        /// As stored, or as it would have been.
        message: Message,
        /// Why.
        error: ApiError,
    },
}

/// What an answer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub enum QueueReason {
    /// The model.
    ModelLoading,
    /// Another answer.
    Busy,
}

/// How much of the context a chat takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct ContextUsage {
    /// Tokens of the active branch.
    #[specta(type = u32)]
    pub used: usize,
    /// Tokens of the context.
    #[specta(type = u32)]
    pub length: usize,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// An answer to something new, below `parent`.
    Send {
        /// What it follows.
        parent: Option<MessageId>,
        /// What the person said.
        text: String,
    },
    /// Another answer to the same message, or the first one.
    Regenerate {
        /// The answer there is, or the person's message, whose answers may all be deleted.
        message: MessageId,
    },
    /// An answer to a message said otherwise; the old one stays on its branch.
    Edit {
        /// The person's message.
        message: MessageId,
        /// What it says now.
        text: String,
    },
    /// More of an answer.
    Continue {
        /// Which.
        answer: MessageId,
    },
}

/// Why an answer is to end early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// It is not.
    No,
    /// The person wants it so; what has not begun is taken back.
    Asked,
    /// Something else wants it so; nothing of it is to go.
    Kept,
}

/// What an answer goes on from.
struct Begun {
    /// What the person said, if that is new.
    user_message: Option<Message>,
    /// The answer as it begins.
    answer: Message,
    /// The answer as it was, where it is continued.
    before: Option<Message>,
    /// The active leaf until now.
    leaf: Option<MessageId>,
}

/// Takes events.
pub type Sink = Arc<dyn Fn(GenerationEvent) + Send + Sync>;

/// Told that a chat changed.
pub type ChangeSink = Box<dyn Fn(Option<ChatId>) + Send + Sync>;

/// Gives the sampling settings of the moment.
pub type SamplingSource = Box<dyn Fn() -> SamplingSettings + Send + Sync>;

/// All generations of the app.
pub struct Generations {
    chats: Arc<ChatFile>,
    models: Arc<Models>,
    sampling: SamplingSource,
    changed: ChangeSink,
    queue: Queue,
    active: Mutex<HashMap<ChatId, Active>>,
    running: watch::Sender<usize>,
    activity: watch::Sender<Activity>,
}

/// An answer that is being made or waits for it.
struct Active {
    stop: watch::Sender<Stop>,
    feed: Arc<Feed>,
}

/// A chat that is being answered, until dropped.
struct Slot<'a> {
    generations: &'a Generations,
    chat: ChatId,
    stop: watch::Receiver<Stop>,
    feed: Arc<Feed>,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.feed.close();
        let mut active = self.generations.active();
        active.remove(&self.chat);
        self.generations.running.send_replace(active.len());
    }
}

impl Generations {
    /// Nothing is being generated.
    pub fn new(
        chats: Arc<ChatFile>,
        models: Arc<Models>,
        sampling: SamplingSource,
        changed: ChangeSink,
    ) -> Self {
        Self {
            chats,
            models,
            sampling,
            changed,
            queue: Queue::default(),
            active: Mutex::default(),
            running: watch::Sender::new(0),
            activity: watch::Sender::default(),
        }
    }

    /// What is being generated, and how fast.
    pub fn activity(&self) -> watch::Receiver<Activity> {
        self.activity.subscribe()
    }

    /// Whether any chat is being answered or waits for it.
    pub fn is_busy(&self) -> bool {
        *self.running.borrow() > 0
    }

    /// Stops the answer of `chat`, if one is being made. One that still waits is taken back.
    pub fn stop(&self, chat: ChatId) {
        if let Some(active) = self.active().get(&chat) {
            active.stop.send_replace(Stop::Asked);
        }
    }

    /// Stops the answer of `chat`, and keeps what was asked in any case.
    pub fn end(&self, chat: ChatId) {
        if let Some(active) = self.active().get(&chat) {
            active.stop.send_replace(Stop::Kept);
        }
    }

    /// The chats that are being answered or wait for it.
    pub fn running(&self) -> Vec<ChatId> {
        let active = self.active();
        let going_on = active.iter().filter(|(_, one)| !one.feed.has_ended());
        going_on.map(|(chat, _)| *chat).collect()
    }

    /// Tells `sink` where the answer of `chat` stands, then what follows; whoever was told before
    /// no longer is. Returns when the answer has ended, at once where none is made.
    pub async fn attach(&self, chat: ChatId, sink: Sink) {
        let feed = self.active().get(&chat).map(|one| Arc::clone(&one.feed));
        if let Some(feed) = feed {
            tracing::info!("a page attaches to the answer under way");
            feed.attach(sink);
            feed.end().await;
        }
    }

    /// The page that was told of answers is gone.
    pub fn detach_all(&self) {
        for active in self.active().values() {
            active.feed.detach();
        }
    }

    /// Stops all answers and waits until they are stored, for `limit` at most.
    pub async fn stop_all(&self, limit: Duration) {
        for active in self.active().values() {
            active.stop.send_replace(Stop::Kept);
        }
        let mut running = self.running.subscribe();
        let idle = running.wait_for(|running| *running == 0);
        if tokio::time::timeout(limit, idle).await.is_err() {
            tracing::warn!("answers did not end in time");
        }
    }

    /// Does what is asked for and returns when the answer has ended, well or badly. `chat` is
    /// created if there is none. What can be refused before anything is stored is an error;
    /// afterwards `sink` is told.
    ///
    /// # Errors
    /// [`AppProblem::NotLoaded`], [`AppProblem::ChatBusy`], [`AppProblem::EmptyMessage`],
    /// [`AppProblem::WrongMessage`], or that the messages cannot be stored.
    pub async fn run(&self, chat: Option<ChatId>, ask: Ask, sink: Sink) -> Result<ChatId> {
        let model = self.model_name()?;
        let sampling = (self.sampling)();
        if let Ask::Send { text, .. } | Ask::Edit { text, .. } = &ask
            && text.trim().is_empty()
        {
            return Err(AppProblem::EmptyMessage.into());
        }
        let store = self.chats.store()?;
        let existing = chat;
        let chat = self.chat(&store, chat).await?;
        let slot = self.reserve(chat, sink)?;
        let (to_store, named) = (Arc::clone(&store), model.clone());
        let begun = blocking(move || begin(&to_store, chat, ask, &named)).await;
        let begun = match begun {
            Ok(begun) => begun,
            Err(error) => {
                if existing.is_none() {
                    // An empty chat of no use; if even this fails, the list shows it.
                    let _ = blocking(move || Ok(store.delete_chat(chat)?)).await;
                }
                return Err(error);
            }
        };
        (self.changed)(Some(chat));
        slot.feed.send(GenerationEvent::Started {
            user_message: begun.user_message.clone(),
            answer: begun.answer.clone(),
        });
        let feed = Arc::clone(&slot.feed);
        let mut answering = Answering {
            generations: self,
            store,
            chat,
            text: begun.answer.text.clone(),
            begun,
            stop: slot.stop.clone(),
            sink: Arc::new(move |event| feed.send(event)),
        };
        answering.run(&sampling).await;
        drop(slot);
        (self.changed)(Some(chat));
        Ok(chat)
    }

    /// Tokens that the active branch of `chat` takes; `None` while no model is ready.
    ///
    /// # Errors
    /// Where the chat cannot be read.
    pub fn context_usage(&self, chat: ChatId) -> Result<Option<ContextUsage>> {
        let chat = self.chats.store()?.chat(chat)?;
        let Some(ready) = self.models.current() else {
            return Ok(None);
        };
        let messages = match chat.active_leaf {
            Some(leaf) => conversation(&chat, leaf, &(self.sampling)()),
            None => Vec::new(),
        };
        let used = match messages.last() {
            None => 0,
            Some(_) => ready.engine.count_tokens(&messages)?,
        };
        Ok(Some(ContextUsage {
            used,
            length: ready.engine.plan().ctx,
        }))
    }

    /// The name of the model that will answer.
    fn model_name(&self) -> Result<String> {
        match self.models.state() {
            ModelState::None => Err(AppProblem::NotLoaded.into()),
            ModelState::Failed { error, .. } => Err(error),
            ModelState::Loading { model, .. } | ModelState::Ready { model, .. } => Ok(model.name),
        }
    }

    /// The chat, or a new one.
    async fn chat(&self, store: &Arc<Store>, chat: Option<ChatId>) -> Result<ChatId> {
        let store = Arc::clone(store);
        match chat {
            Some(chat) => Ok(chat),
            None => blocking(move || Ok(store.create_chat(NewChat::default())?.id)).await,
        }
    }

    fn reserve(&self, chat: ChatId, sink: Sink) -> Result<Slot<'_>> {
        let mut active = self.active();
        if active.contains_key(&chat) {
            return Err(AppProblem::ChatBusy.into());
        }
        let (stop, stopped) = watch::channel(Stop::No);
        let feed = Arc::new(Feed::new(sink));
        active.insert(
            chat,
            Active {
                stop,
                feed: Arc::clone(&feed),
            },
        );
        self.running.send_replace(active.len());
        Ok(Slot {
            generations: self,
            chat,
            stop: stopped,
            feed,
        })
    }

    fn active(&self) -> MutexGuard<'_, HashMap<ChatId, Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stores what is asked for: the person's message, if new, and the answer, begun.
fn begin(store: &Store, chat: ChatId, ask: Ask, model: &str) -> Result<Begun> {
    let leaf = store.chat(chat)?.active_leaf;
    let answer_to = |user_message: Option<Message>, said| -> Result<Begun> {
        Ok(Begun {
            answer: store.begin_answer(chat, said, Some(model))?,
            user_message,
            before: None,
            leaf,
        })
    };
    let say = |parent, text: &str| -> Result<Begun> {
        let said = store.add_user(chat, parent, text)?;
        let id = said.id;
        answer_to(Some(said), id)
    };
    match ask {
        Ask::Send { parent, text } => say(parent, &text),
        Ask::Edit { message, text } => {
            let old = message_of(store, chat, message, Role::User)?;
            say(old.parent_id, &text)
        }
        Ask::Regenerate { message } => {
            let said = match store.message(message)? {
                Message {
                    role: Role::Assistant,
                    parent_id,
                    ..
                } => {
                    parent_id.ok_or_else(|| ApiError::internal("An answer follows no message."))?
                }
                Message { id, .. } => id,
            };
            let said = message_of(store, chat, said, Role::User)?;
            answer_to(None, said.id)
        }
        Ask::Continue { answer } => Ok(Begun {
            before: Some(message_of(store, chat, answer, Role::Assistant)?),
            answer: store.resume_answer(answer)?,
            user_message: None,
            leaf,
        }),
    }
}

/// A message of `chat`, by `role`.
fn message_of(store: &Store, chat: ChatId, id: MessageId, role: Role) -> Result<Message> {
    let message = store.message(id)?;
    if store.chat_of(id)? == chat && message.role == role {
        return Ok(message);
    }
    Err(AppProblem::WrongMessage.into())
}
