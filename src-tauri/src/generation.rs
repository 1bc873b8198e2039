//! From a message to a stored answer.
//!
//! What the person said is on disk before anything is computed, and the answer is begun there.
//! While it grows it is sent to the page at most once a frame and written at least every second;
//! at its end it is stored with its figures. What stops it (the person, a full disk, a lost
//! model) leaves what was said so far.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use octet_engine::Generation;
use octet_engine::experts::Experts;
use octet_engine::generate::{DoneReason, Event, Input, Request, Stats};
use octet_engine::prompt::{self, Message as Said};
use octet_engine::sampling::SamplingParams;
use octet_store::settings::SamplingSettings;
use octet_store::{
    AnswerStats, Chat, ChatId, Message, MessageId, MessageState, NewChat, Role, StopReason, Store,
};
use serde::Serialize;
use specta::Type;
use tokio::sync::watch;
use tokio::time::sleep_until;

use crate::chat_file::ChatFile;
use crate::error::{ApiError, ErrorCode, Result};
use crate::experts::{Activity, fastest};
use crate::models::{ModelState, Models, Ready};
use crate::queue::Queue;
use crate::task::blocking;

/// Text goes to the page at most once a frame.
const FRAME: Duration = Duration::from_millis(33);

/// A growing answer is written this often: a crash loses no more, and the half is for the write.
const SAVE_EVERY: Duration = Duration::from_millis(500);

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
    },
    /// The answer grew.
    Text {
        /// What is new.
        delta: String,
        /// Tokens so far.
        tokens: u32,
        /// How fast.
        #[specta(type = u32)]
        tokens_per_sec: f64,
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
    /// Another answer to the same message.
    Regenerate {
        /// The answer there is.
        answer: MessageId,
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
    /// By chat, the means to stop its answer.
    active: Mutex<HashMap<ChatId, watch::Sender<bool>>>,
    running: watch::Sender<usize>,
    activity: watch::Sender<Activity>,
}

/// A chat that is being answered, until dropped.
struct Slot<'a> {
    generations: &'a Generations,
    chat: ChatId,
    stop: watch::Receiver<bool>,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
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

    /// Stops the answer of `chat`, if one is being made or waits.
    pub fn stop(&self, chat: ChatId) {
        if let Some(stop) = self.active().get(&chat) {
            stop.send_replace(true);
        }
    }

    /// Stops all answers and waits until they are stored, for `limit` at most.
    pub async fn stop_all(&self, limit: Duration) {
        for stop in self.active().values() {
            stop.send_replace(true);
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
    /// [`ErrorCode::NotLoaded`], [`ErrorCode::Busy`], [`ErrorCode::Invalid`], or that the
    /// messages cannot be stored.
    pub async fn run(&self, chat: Option<ChatId>, ask: Ask, sink: Sink) -> Result<ChatId> {
        let model = self.model_name()?;
        let sampling = (self.sampling)();
        if let Ask::Send { text, .. } | Ask::Edit { text, .. } = &ask
            && text.trim().is_empty()
        {
            return Err(ApiError::new(ErrorCode::Invalid, "The message is empty.")
                .hint("Write something first."));
        }
        let store = self.chats.store()?;
        let existing = chat;
        let chat = self.chat(&store, chat).await?;
        let slot = self.reserve(chat)?;
        let (to_store, named) = (Arc::clone(&store), model.clone());
        let begun = blocking(move || begin(&to_store, chat, ask, &named)).await;
        let (user_message, answer) = match begun {
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
        sink(GenerationEvent::Started {
            user_message,
            answer: answer.clone(),
        });
        let mut answering = Answering {
            generations: self,
            store,
            chat,
            text: answer.text.clone(),
            answer,
            stop: slot.stop.clone(),
            sink,
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
            ModelState::None => Err(ApiError::not_loaded()),
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

    fn reserve(&self, chat: ChatId) -> Result<Slot<'_>> {
        let mut active = self.active();
        if active.contains_key(&chat) {
            return Err(
                ApiError::new(ErrorCode::Busy, "This chat is being answered already.")
                    .hint("Stop the answer, or wait for its end."),
            );
        }
        let (stop, stopped) = watch::channel(false);
        active.insert(chat, stop);
        self.running.send_replace(active.len());
        Ok(Slot {
            generations: self,
            chat,
            stop: stopped,
        })
    }

    fn active(&self) -> MutexGuard<'_, HashMap<ChatId, watch::Sender<bool>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stores what is asked for: the person's message, if new, and the answer, begun.
fn begin(store: &Store, chat: ChatId, ask: Ask, model: &str) -> Result<(Option<Message>, Message)> {
    let say = |parent, text: &str| -> Result<(Option<Message>, Message)> {
        let said = store.add_user(chat, parent, text)?;
        let answer = store.begin_answer(chat, said.id, Some(model))?;
        Ok((Some(said), answer))
    };
    match ask {
        Ask::Send { parent, text } => say(parent, &text),
        Ask::Edit { message, text } => {
            let old = message_of(store, chat, message, Role::User)?;
            say(old.parent_id, &text)
        }
        Ask::Regenerate { answer } => {
            let old = message_of(store, chat, answer, Role::Assistant)?;
            let parent = old
                .parent_id
                .ok_or_else(|| ApiError::internal("An answer follows no message."))?;
            Ok((None, store.begin_answer(chat, parent, Some(model))?))
        }
        Ask::Continue { answer } => {
            message_of(store, chat, answer, Role::Assistant)?;
            Ok((None, store.resume_answer(answer)?))
        }
    }
}

/// A message of `chat`, by `role`.
fn message_of(store: &Store, chat: ChatId, id: MessageId, role: Role) -> Result<Message> {
    let message = store.message(id)?;
    if store.chat_of(id)? == chat && message.role == role {
        return Ok(message);
    }
    Err(ApiError::new(
        ErrorCode::Invalid,
        format!("Message {id} cannot be used for this."),
    )
    .hint("Choose a message of the chat that is open."))
}

/// What the model sees: the system text, then the branch that ends with `leaf`.
///
/// Messages of the same side in a row (an answer between them was deleted) become one, for
/// prompts alternate. An empty leaf, the answer to be made, is left out.
fn conversation(chat: &Chat, leaf: MessageId, sampling: &SamplingSettings) -> Vec<Said> {
    let by_id: HashMap<MessageId, &Message> = chat.messages.iter().map(|m| (m.id, m)).collect();
    let mut branch: Vec<&Message> = std::iter::successors(by_id.get(&leaf).copied(), |message| {
        by_id.get(&message.parent_id?).copied()
    })
    .filter(|message| !message.text.is_empty() || message.id != leaf)
    .collect();
    branch.reverse();

    let system = chat
        .system_prompt
        .as_deref()
        .unwrap_or(&sampling.system_prompt);
    let mut said = Vec::new();
    if !system.trim().is_empty() && !branch.is_empty() {
        said.push(Said::new(prompt::Role::System, system));
    }
    for message in branch {
        let role = match message.role {
            Role::User => prompt::Role::User,
            Role::Assistant => prompt::Role::Assistant,
        };
        match said.last_mut().filter(|last: &&mut Said| last.role == role) {
            Some(last) => {
                last.content.push_str("\n\n");
                last.content.push_str(&message.text);
            }
            None => said.push(Said::new(role, &message.text)),
        }
    }
    said
}

/// The engine's request.
fn request(messages: Vec<Said>, sampling: &SamplingSettings) -> Request {
    Request {
        input: Input::Messages(messages),
        sampling: SamplingParams {
            temperature: sampling.temperature as f32,
            top_p: sampling.top_p as f32,
            top_k: sampling.top_k as usize,
            min_p: sampling.min_p as f32,
            repetition_penalty: sampling.repetition_penalty as f32,
            seed: sampling.seed.as_deref().and_then(|seed| seed.parse().ok()),
            ..SamplingParams::default()
        },
        max_new_tokens: sampling.max_tokens.map(|tokens| tokens as usize),
        stop: sampling.stop.clone(),
        ignore_eos: false,
    }
}

/// An answer being made.
struct Answering<'a> {
    generations: &'a Generations,
    store: Arc<Store>,
    chat: ChatId,
    answer: Message,
    /// All of it so far.
    text: String,
    stop: watch::Receiver<bool>,
    sink: Sink,
}

/// How an answer ended.
struct Ended {
    reason: DoneReason,
    stats: Option<Stats>,
    context_used: usize,
    context_length: usize,
}

impl Ended {
    /// Before anything was computed.
    fn unbegun() -> Self {
        Self {
            reason: DoneReason::Cancelled,
            stats: None,
            context_used: 0,
            context_length: 0,
        }
    }
}

impl Answering<'_> {
    /// Makes the answer and stores its end.
    async fn run(&mut self, sampling: &SamplingSettings) {
        let ended = match self.generate(sampling).await {
            Ok(ended) => self.finish(ended).await,
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            self.fail(error).await;
        }
    }

    async fn generate(&mut self, sampling: &SamplingSettings) -> Result<Ended> {
        let ticket = self.generations.queue.enter();
        let mut stop = self.stop.clone();
        let ready = tokio::select! {
            ready = self.wait(&ticket) => ready?,
            () = stopped(&mut stop) => return Ok(Ended::unbegun()),
        };
        let (store, chat, leaf) = (Arc::clone(&self.store), self.chat, self.leaf());
        let sampling = sampling.clone();
        let request = blocking(move || {
            let chat = store.chat(chat)?;
            Ok(request(conversation(&chat, leaf, &sampling), &sampling))
        })
        .await?;
        let context_length = ready.engine.plan().ctx;
        let experts = Arc::clone(ready.engine.experts());
        let generation = ready.engine.generate(request);
        // The engine is waited for when its last handle goes, and that must not be here.
        drop(ready);
        let activity = &self.generations.activity;
        activity.send_replace(Activity {
            generating: true,
            tokens_per_sec: None,
        });
        let followed = self.follow(generation, experts).await;
        activity.send_replace(Activity::default());
        let (reason, stats, context_used) = followed?;
        Ok(Ended {
            reason,
            stats: Some(stats),
            context_used: context_used.min(context_length),
            context_length,
        })
    }

    /// Where the conversation for this answer ends.
    fn leaf(&self) -> MessageId {
        match self.answer.parent_id {
            Some(parent) if self.answer.text.is_empty() => parent,
            _ => self.answer.id,
        }
    }

    /// Waits for its turn and for the model.
    async fn wait(&self, ticket: &crate::queue::Ticket) -> Result<Ready> {
        let models = &self.generations.models;
        let queued = |position| {
            let reason = match models.state() {
                ModelState::Loading { .. } => QueueReason::ModelLoading,
                _ => QueueReason::Busy,
            };
            (self.sink)(GenerationEvent::Queued { reason, position });
        };
        ticket.turn(queued).await;
        if matches!(models.state(), ModelState::Loading { .. }) {
            queued(0);
        }
        models.ready().await
    }

    /// Reads events to their end: why it ended, its figures, and the tokens of the context.
    async fn follow(
        &mut self,
        generation: Generation,
        experts: Arc<Experts>,
    ) -> Result<(DoneReason, Stats, usize)> {
        let mut stream = Stream::new(Arc::clone(&self.sink), experts);
        let ended = self.follow_with(generation, &mut stream).await;
        // However it ended, all text that came is shown.
        stream.end();
        ended
    }

    async fn follow_with(
        &mut self,
        mut generation: Generation,
        stream: &mut Stream,
    ) -> Result<(DoneReason, Stats, usize)> {
        let cancel = generation.cancel_handle();
        let mut stop = self.stop.clone();
        let mut saver = Saver::new(Arc::clone(&self.store), self.answer.id);
        let (mut prompt_tokens, mut reused, mut stopping) = (0, 0, false);
        loop {
            let event = tokio::select! {
                event = generation.next() => event,
                () = until(stream.due()) => {
                    self.generations.activity.send_replace(stream.flush());
                    continue;
                }
                saved = saver.step(&self.text) => {
                    saved.inspect_err(|_| cancel.cancel())?;
                    continue;
                }
                () = stopped(&mut stop), if !stopping => {
                    stopping = true;
                    cancel.cancel();
                    continue;
                }
            };
            match event.ok_or(octet_engine::EngineError::Unloaded)? {
                Event::Started {
                    prompt_tokens: tokens,
                    reused_tokens,
                } => (prompt_tokens, reused) = (tokens, reused_tokens),
                Event::ContextShift {
                    dropped_messages,
                    prompt_tokens: tokens,
                } => {
                    prompt_tokens = tokens;
                    (self.sink)(GenerationEvent::ContextShift { dropped_messages });
                }
                Event::Prefill { done, total } => (self.sink)(GenerationEvent::Prefill {
                    done,
                    total,
                    reused,
                }),
                Event::Token { text, .. } => {
                    self.text.push_str(&text);
                    saver.changed();
                    stream.push(&text);
                }
                Event::Done {
                    reason,
                    text,
                    stats,
                } => {
                    self.text.push_str(&text);
                    stream.rest(&text);
                    saver.end().await?;
                    return Ok((reason, *stats, prompt_tokens + stats.new_tokens));
                }
                Event::Error { code, message } => {
                    let error = ApiError::from_event(&code, &message);
                    if error.code == ErrorCode::Gpu {
                        self.generations.models.lose_gpu(&error.message);
                    }
                    return Err(error);
                }
            }
        }
    }

    async fn finish(&self, ended: Ended) -> Result<()> {
        let (store, id, text) = (Arc::clone(&self.store), self.answer.id, self.text.clone());
        let reason = stop_reason(ended.reason);
        let stats = ended.stats.map(|stats| answer_stats(&stats, reason));
        let message = blocking(move || Ok(store.finish_answer(id, &text, stats, reason)?)).await?;
        (self.sink)(GenerationEvent::Done {
            message,
            context_used: ended.context_used,
            context_length: ended.context_length,
        });
        Ok(())
    }

    /// Stores the failure; where that fails too, the page still gets the text.
    async fn fail(&self, error: ApiError) {
        tracing::warn!(code = ?error.code, "an answer failed");
        let (store, id, text) = (Arc::clone(&self.store), self.answer.id, self.text.clone());
        let why = error.message.clone();
        let stored = blocking(move || Ok(store.fail_answer(id, &text, &why)?)).await;
        let message = stored.unwrap_or_else(|_| Message {
            text: self.text.clone(),
            state: MessageState::Error,
            error: Some(error.message.clone()),
            ..self.answer.clone()
        });
        (self.sink)(GenerationEvent::Failed { message, error });
    }
}

/// Ends when the person stops the answer.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

fn stop_reason(reason: DoneReason) -> StopReason {
    match reason {
        DoneReason::Eos => StopReason::Eos,
        DoneReason::Stop => StopReason::Stop,
        DoneReason::Length => StopReason::Length,
        DoneReason::ContextFull => StopReason::ContextFull,
        DoneReason::Cancelled => StopReason::Cancelled,
    }
}

fn answer_stats(stats: &Stats, stop_reason: StopReason) -> AnswerStats {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    AnswerStats {
        new_tokens: count(stats.new_tokens),
        tokens_per_sec: stats.decode_tokens_per_sec,
        time_to_first_token_ms: stats.time_to_first_token_ms,
        hit_rate: fastest(&stats.experts).hit_rate(),
        stop_reason,
        prompt_tokens: count(stats.prompt_tokens),
        reused_tokens: count(stats.reused_tokens),
        seed: stats.seed.to_string(),
    }
}

/// Text on its way to the page, a frame at a time.
struct Stream {
    sink: Sink,
    experts: Arc<Experts>,
    pending: String,
    waiting: bool,
    sent_at: Option<Instant>,
    first_token_at: Option<Instant>,
    tokens: u32,
}

impl Stream {
    fn new(sink: Sink, experts: Arc<Experts>) -> Self {
        Self {
            sink,
            experts,
            pending: String::new(),
            waiting: false,
            sent_at: None,
            first_token_at: None,
            tokens: 0,
        }
    }

    /// Takes a token's text.
    fn push(&mut self, text: &str) {
        self.pending.push_str(text);
        self.tokens += 1;
        self.first_token_at.get_or_insert_with(Instant::now);
        self.waiting = true;
    }

    /// When the next frame is to go out.
    fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        self.waiting
            .then(|| self.sent_at.map_or(now, |sent_at| sent_at + FRAME))
    }

    /// Sends what is there; how fast it comes.
    fn flush(&mut self) -> Activity {
        let tokens_per_sec = self.tokens_per_sec();
        let mut last_experts = Vec::new();
        self.experts.newest_in_last_layer(&mut last_experts);
        (self.sink)(GenerationEvent::Text {
            delta: std::mem::take(&mut self.pending),
            tokens: self.tokens,
            tokens_per_sec,
            last_experts,
        });
        self.waiting = false;
        self.sent_at = Some(Instant::now());
        Activity {
            generating: true,
            tokens_per_sec: Some(tokens_per_sec),
        }
    }

    /// Takes what became certain at the end, which is no token of its own.
    fn rest(&mut self, text: &str) {
        self.pending.push_str(text);
    }

    /// Sends what is left.
    fn end(&mut self) {
        if self.waiting || !self.pending.is_empty() {
            self.flush();
        }
    }

    fn tokens_per_sec(&self) -> f64 {
        let since = self
            .first_token_at
            .map(|first| first.elapsed().as_secs_f64());
        match since {
            Some(seconds) if self.tokens > 1 && seconds > 0.0 => {
                f64::from(self.tokens - 1) / seconds
            }
            _ => 0.0,
        }
    }
}

/// Writes a growing answer, off the runtime and one write at a time.
struct Saver {
    store: Arc<Store>,
    id: MessageId,
    /// When the text first differed from what is stored.
    changed_at: Option<Instant>,
    writing: Option<tokio::task::JoinHandle<octet_store::Result<()>>>,
}

impl Saver {
    fn new(store: Arc<Store>, id: MessageId) -> Self {
        Self {
            store,
            id,
            changed_at: None,
            writing: None,
        }
    }

    fn changed(&mut self) {
        self.changed_at.get_or_insert_with(Instant::now);
    }

    /// Waits for the write under way, or until one is due and begins it. Cancelling loses
    /// nothing.
    async fn step(&mut self, text: &str) -> Result<()> {
        if self.writing.is_some() {
            return self.end().await;
        }
        until(self.changed_at.map(|changed_at| changed_at + SAVE_EVERY)).await;
        self.changed_at = None;
        let (store, id, text) = (Arc::clone(&self.store), self.id, text.to_owned());
        let write = move || store.update_answer(id, &text);
        self.writing = Some(tokio::task::spawn_blocking(write));
        Ok(())
    }

    /// Waits for the write under way.
    async fn end(&mut self) -> Result<()> {
        let Some(writing) = &mut self.writing else {
            return Ok(());
        };
        let written = writing.await;
        self.writing = None;
        written.map_err(|_| ApiError::internal("Writing the answer ended early."))??;
        Ok(())
    }
}
