//! An answer being made: from the queue through the engine's events to its stored end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use octet_engine::clock::AwakeClock;
use octet_engine::experts::Experts;
use octet_engine::generate::{DoneReason, Event, Stats};
use octet_engine::{EngineProblem, Generation};
use octet_store::settings::SamplingSettings;
use octet_store::{
    AnswerStats, ChatId, Message, MessageId, MessageState, StatsScope, StopReason, Store,
};
use tokio::sync::watch;
use tokio::time::sleep_until;

use super::request::request;
use super::{Begun, GenerationEvent, Generations, QueueReason, Sink, Stop};
use crate::error::{ApiError, Result};
use crate::experts::{Activity, fastest};
use crate::models::{ModelState, Ready};
use crate::queue::Ticket;
use crate::task::blocking;

/// Text goes to the page at most once a frame.
const FRAME: Duration = Duration::from_millis(33);

/// A growing answer is written this often: a crash loses no more, and the half is for the write.
const SAVE_EVERY: Duration = Duration::from_millis(500);

/// An answer being made.
pub(super) struct Answering<'a> {
    pub(super) generations: &'a Generations,
    pub(super) store: Arc<Store>,
    pub(super) chat: ChatId,
    /// What is answered, and how the answer began.
    pub(super) begun: Begun,
    /// All of it so far.
    pub(super) text: String,
    pub(super) stop: watch::Receiver<Stop>,
    pub(super) sink: Sink,
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
    pub(super) async fn run(&mut self, sampling: &SamplingSettings) {
        let ended = match self.generate(sampling).await {
            Ok(None) if *self.stop.borrow() == Stop::Asked => self.take_back().await,
            Ok(ended) => self.finish(ended.unwrap_or_else(Ended::unbegun)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            self.fail(error).await;
        }
    }

    /// Makes it; none if it was stopped before it had begun.
    async fn generate(&mut self, sampling: &SamplingSettings) -> Result<Option<Ended>> {
        let ticket = self.generations.queue.enter();
        let mut stop = self.stop.clone();
        let ready = tokio::select! {
            ready = self.wait(&ticket) => ready?,
            () = stopped(&mut stop) => return Ok(None),
        };
        let (store, chat, leaf) = (Arc::clone(&self.store), self.chat, self.leaf());
        let sampling = sampling.clone();
        let request = blocking(move || {
            let chat = store.chat(chat)?;
            Ok(request(&chat, leaf, &sampling))
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
        // The last speed stays.
        activity.send_modify(|activity| activity.generating = false);
        let (reason, stats, context_used) = followed?;
        Ok(Some(Ended {
            reason,
            stats: Some(stats),
            context_used: context_used.min(context_length),
            context_length,
        }))
    }

    /// Where the conversation for this answer ends.
    fn leaf(&self) -> MessageId {
        match self.begun.answer.parent_id {
            Some(parent) if self.begun.answer.text.is_empty() => parent,
            _ => self.begun.answer.id,
        }
    }

    /// Waits for its turn and for the model.
    async fn wait(&self, ticket: &Ticket) -> Result<Ready> {
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
        let mut saver = Saver::new(Arc::clone(&self.store), self.begun.answer.id);
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
                Event::Prefill {
                    done,
                    total,
                    fraction,
                    seconds_left,
                } => (self.sink)(GenerationEvent::Prefill {
                    done,
                    total,
                    reused,
                    fraction,
                    seconds_left: seconds_left.map(|seconds| seconds.ceil() as u32),
                }),
                Event::Token { text, .. } => {
                    let text = storable(text);
                    self.text.push_str(&text);
                    saver.changed();
                    stream.push(&text, prompt_tokens);
                }
                Event::Done {
                    reason,
                    text,
                    stats,
                } => {
                    let text = storable(text);
                    self.text.push_str(&text);
                    stream.rest(&text);
                    saver.end().await?;
                    return Ok((reason, *stats, prompt_tokens + stats.new_tokens));
                }
                Event::Error(failure) => {
                    if let EngineProblem::GpuFailed { .. } = failure.problem {
                        self.generations.models.lose_gpu();
                    }
                    return Err(failure.problem.into());
                }
            }
        }
    }

    async fn finish(&self, ended: Ended) -> Result<()> {
        let (store, id, text) = (
            Arc::clone(&self.store),
            self.begun.answer.id,
            self.text.clone(),
        );
        let reason = stop_reason(ended.reason);
        let stats = ended.stats.map(|stats| answer_stats(&stats, reason));
        let stats = of_all_runs(stats, self.begun.before.as_ref());
        let message = blocking(move || Ok(store.finish_answer(id, &text, stats, reason)?)).await?;
        (self.sink)(GenerationEvent::Done {
            message,
            context_used: ended.context_used,
            context_length: ended.context_length,
        });
        Ok(())
    }

    /// Makes the chat what it was before anything was asked.
    async fn take_back(&self) -> Result<()> {
        let (store, leaf) = (Arc::clone(&self.store), self.begun.leaf);
        let (id, before) = (self.begun.answer.id, self.begun.before.clone());
        let said = self.begun.user_message.as_ref().map(|said| said.id);
        let undo = move || match before {
            Some(before) if before.id == id => Ok(store.restore_answer(&before, leaf)?),
            // New, or the copy of an answer that something follows.
            _ => Ok(store.withdraw_answer(id, said, leaf)?),
        };
        blocking(undo).await?;
        (self.sink)(GenerationEvent::TakenBack);
        Ok(())
    }

    /// Stores the failure; where that fails too, the page still gets the text.
    async fn fail(&self, error: ApiError) {
        tracing::warn!(%error, "an answer failed");
        let (store, id, text) = (
            Arc::clone(&self.store),
            self.begun.answer.id,
            self.text.clone(),
        );
        // As data, so that the page can word it whenever the chat is opened again.
        let why = serde_json::to_string(&error).expect("BUG: plain fields are always JSON");
        let kept = why.clone();
        let stored = blocking(move || Ok(store.fail_answer(id, &text, &kept)?)).await;
        let message = stored.unwrap_or_else(|_| Message {
            text: self.text.clone(),
            state: MessageState::Error,
            error: Some(why),
            ..self.begun.answer.clone()
        });
        (self.sink)(GenerationEvent::Failed { message, error });
    }
}

/// Ends when the person stops the answer.
async fn stopped(stop: &mut watch::Receiver<Stop>) {
    let _ = stop.wait_for(|stop| *stop != Stop::No).await;
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
        hit_rate: fastest(&stats.experts).kept_rate(),
        stop_reason,
        prompt_tokens: count(stats.prompt_tokens),
        reused_tokens: count(stats.reused_tokens),
        seed: stats.seed.to_string(),
        scope: StatsScope::Whole,
    }
}

/// The figures of an answer that may go on from `before`, of all of it as far as they are known.
fn of_all_runs(stats: Option<AnswerStats>, before: Option<&Message>) -> Option<AnswerStats> {
    let earlier = before.and_then(|before| before.stats.as_ref());
    match (stats, earlier) {
        (Some(stats), Some(earlier)) => Some(stats.after(earlier)),
        (Some(stats), None) if before.is_some_and(|before| !before.text.is_empty()) => {
            Some(AnswerStats {
                scope: StatsScope::LastPart,
                ..stats
            })
        }
        (stats, earlier) => stats.or_else(|| earlier.cloned()),
    }
}

/// Text on its way to the page, a frame at a time.
struct Stream {
    sink: Sink,
    experts: Arc<Experts>,
    pending: String,
    waiting: bool,
    sent_at: Option<Instant>,
    clock: AwakeClock,
    first_token_at: Option<Duration>,
    tokens: u32,
    context_used: usize,
}

impl Stream {
    fn new(sink: Sink, experts: Arc<Experts>) -> Self {
        Self {
            sink,
            experts,
            pending: String::new(),
            waiting: false,
            sent_at: None,
            clock: AwakeClock::start(),
            first_token_at: None,
            tokens: 0,
            context_used: 0,
        }
    }

    /// Takes the text of a token that follows a prompt of so many.
    fn push(&mut self, text: &str, prompt_tokens: usize) {
        self.pending.push_str(text);
        self.tokens += 1;
        self.context_used = prompt_tokens + self.tokens as usize;
        let clock = &self.clock;
        self.first_token_at.get_or_insert_with(|| clock.elapsed());
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
            context_used: self.context_used,
            last_experts,
        });
        self.waiting = false;
        self.sent_at = Some(Instant::now());
        Activity {
            generating: true,
            tokens_per_sec,
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

    /// How fast tokens came; none before the second one, and the first belongs to the prompt.
    fn tokens_per_sec(&self) -> Option<f64> {
        let seconds = (self.clock.elapsed() - self.first_token_at?).as_secs_f64();
        (self.tokens > 1 && seconds > 0.0).then(|| f64::from(self.tokens - 1) / seconds)
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

/// What the store keeps of `text`, so that the page shows the same: no zero bytes.
fn storable(text: String) -> String {
    match text.contains('\0') {
        true => text.replace('\0', "\u{fffd}"),
        false => text,
    }
}
