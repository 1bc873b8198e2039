//! Generation: from a request to a stream of events.
//!
//! Events come in this order: `Started`, `Prefill`..., `Token`..., then exactly one of `Done` or
//! `Error`; `ContextShift` may come before any `Prefill` or `Token`.

use std::ops::ControlFlow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::AwakeClock;
use crate::context_shift::drop_oldest;
use crate::error::EngineError;
use crate::experts::ExpertStats;
use crate::model::{Decoder, Logits, PREFILL_CHUNK, Session};
use crate::problem::Failure;
use crate::progress::{PromptProgress, Report};
use crate::prompt::{ChatOptions, Message, Role};
use crate::sampling::{Sampler, SamplingParams};
use crate::stream_text::StopMatcher;
use crate::tokenizer::{TokenId, Tokenizer};

/// Tokens of an answer that the advice for a longer context leaves room for, where a request sets
/// no limit.
const ROOM_TO_ADVISE: usize = 512;

/// What to go on from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// A conversation, rendered by the chat template.
    Messages(Vec<Message>),
    /// Text behind a BOS, in which special-token strings stand for the tokens.
    Prompt(String),
    /// Token ids as they are; needs no tokenizer.
    Tokens(Vec<TokenId>),
}

/// One generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// What to go on from.
    pub input: Input,
    /// How tokens are chosen.
    #[serde(default)]
    pub sampling: SamplingParams,
    /// New tokens at most; `None`: until the model ends or the context is full.
    #[serde(default)]
    pub max_new_tokens: Option<usize>,
    /// Texts that end the answer and are not part of it. The text of a special token stands for
    /// that token too, which is shown nowhere. Needs a tokenizer.
    #[serde(default)]
    pub stop: Vec<String>,
    /// Go on where the model would end (for measurements).
    #[serde(default)]
    pub ignore_eos: bool,
    /// When the conversation began, in milliseconds since 1970, for chat templates that tell the
    /// model the date; `None`: now.
    #[serde(default)]
    pub began_at_ms: Option<i64>,
}

impl Request {
    /// An answer to `input`, as long as the model makes it, with the default sampling.
    pub fn new(input: Input) -> Self {
        Self {
            input,
            sampling: SamplingParams::default(),
            max_new_tokens: None,
            stop: Vec::new(),
            ignore_eos: false,
            began_at_ms: None,
        }
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DoneReason {
    /// The model said so.
    Eos,
    /// A stop string came.
    Stop,
    /// `max_new_tokens` were made.
    Length,
    /// The context is full and holds nothing that could be dropped.
    ContextFull,
    /// Cancelled; what was said so far stands.
    Cancelled,
}

/// Figures of one generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, tokens that the KV cache still held.
    pub reused_tokens: usize,
    /// The seed that gives this answer again.
    pub seed: u64,
    /// Tokens made.
    pub new_tokens: usize,
    /// From the request to the first token, in milliseconds.
    pub time_to_first_token_ms: f64,
    /// Prompt tokens computed a second.
    pub prefill_tokens_per_sec: f64,
    /// New tokens a second, the first one not counted (it belongs to the prompt), nor time in
    /// which the machine was suspended. 0 where no second one came.
    pub decode_tokens_per_sec: f64,
    /// What the expert tiers did meanwhile.
    pub experts: ExpertStats,
}

/// What a generation reports.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The request is being worked on.
    Started {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Of these, tokens that need not be computed again.
        reused_tokens: usize,
    },
    /// The oldest turns were dropped to make room; the system text was kept.
    ContextShift {
        /// Messages dropped.
        dropped_messages: usize,
        /// Tokens of the prompt as it is now.
        prompt_tokens: usize,
    },
    /// The prompt is being computed; at most 20 a second, and one at the end.
    Prefill {
        /// Tokens done; all of them only at the end.
        done: usize,
        /// Tokens in all.
        total: usize,
        /// Of what had to be computed, the part that is done, 0 to 1.
        fraction: f64,
        /// How long the rest takes, in seconds, as soon as that can be estimated.
        seconds_left: Option<f64>,
    },
    /// A token was chosen.
    Token {
        /// The token.
        id: TokenId,
        /// Text that is now certain; often empty while a character or a stop string is open.
        text: String,
    },
    /// The end.
    Done {
        /// Why.
        reason: DoneReason,
        /// Text that was held back until now.
        text: String,
        /// Figures.
        stats: Box<Stats>,
    },
    /// The end, badly; the engine stays usable.
    Error(Failure),
}

/// A session and the tokens its cache holds, kept from request to request.
pub struct Conversation {
    session: Session,
    /// The token at every position of the KV cache.
    cached: Vec<TokenId>,
    /// The logits behind the newest prompt, at the position of its last token: asking the same
    /// again starts from the very same numbers, and at once.
    prompt_end: Option<(usize, Vec<f32>)>,
}

impl Conversation {
    /// An empty one for up to `ctx` positions.
    pub fn new(model: &Decoder, ctx: usize) -> Self {
        Self {
            session: model.session(ctx),
            cached: Vec::new(),
            prompt_end: None,
        }
    }

    /// The session, for statistics.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Keeps the common beginning of what is cached and `prompt`; how many tokens that is. The
    /// last token is computed again for its logits, unless they are known.
    fn rewind(&mut self, prompt: &[TokenId]) -> usize {
        let pairs = self.cached.iter().zip(prompt);
        let common = pairs.take_while(|(a, b)| a == b).count();
        self.prompt_end.take_if(|(len, _)| *len > common);
        let known = self
            .prompt_end
            .as_ref()
            .is_some_and(|(len, _)| *len == prompt.len());
        let keep = if known {
            common
        } else {
            common.min(prompt.len().saturating_sub(1))
        };
        self.cached.truncate(keep);
        self.session.truncate(keep);
        keep
    }
}

/// What is told of a prompt of `total` tokens.
fn prefill(report: Report, total: usize) -> Event {
    Event::Prefill {
        done: report.done,
        total,
        fraction: report.fraction,
        seconds_left: report.left.map(|left| left.as_secs_f64()),
    }
}

/// What [`generate`] works with.
pub struct Generator<'a> {
    /// The model.
    pub model: &'a Decoder,
    /// Its tokenizer; without one only [`Input::Tokens`] can be worked on.
    pub tokenizer: Option<&'a Tokenizer>,
    /// Asked between experts and tokens: whether to stop.
    pub cancelled: &'a dyn Fn() -> bool,
    /// Takes the events.
    pub emit: &'a mut dyn FnMut(Event),
}

impl Generator<'_> {
    /// Runs `request` on `conversation`; every outcome is reported as an event.
    pub fn generate(&mut self, conversation: &mut Conversation, request: &Request) {
        if let Err(error) = self.run(conversation, request) {
            // After a failed or cancelled pass the cache holds exactly what `cached` says, unless
            // it was lost with a GPU.
            if error.is_of_device() {
                let ctx = conversation.session.capacity();
                *conversation = Conversation::new(self.model, ctx);
            }
            (self.emit)(Event::Error(Failure::from(&error)));
        }
    }

    fn run(
        &mut self,
        conversation: &mut Conversation,
        request: &Request,
    ) -> Result<(), EngineError> {
        let clock = AwakeClock::start();
        let before = self.model.experts().stats();
        let capacity = conversation.session.capacity();
        // Random seeds stay below 2^32, so that any program can hold and repeat them.
        let seed = request
            .sampling
            .seed
            .unwrap_or_else(|| rand::random::<u32>().into());
        let mut sampler = Sampler::new(request.sampling.clone(), seed)?;
        if self.tokenizer.is_none() && !request.stop.is_empty() {
            return Err(EngineError::StopNeedsTokenizer {
                dir: self.model.checkpoint().dir().display().to_string(),
            });
        }
        let mut answer = Answer::new(self.tokenizer, request);

        let mut prompt = Prompt::new(self.tokenizer, self.model, request)?;
        let room = request
            .max_new_tokens
            .unwrap_or(capacity)
            .min(capacity / 4)
            .max(1);
        let dropped = prompt.shrink(capacity.saturating_sub(room))?;
        let prompt_tokens = prompt.ids.len();
        if prompt_tokens > capacity {
            let answer = request.max_new_tokens.unwrap_or(ROOM_TO_ADVISE);
            let c = self.model.spec();
            return Err(EngineError::context_full(
                c,
                capacity,
                prompt_tokens,
                answer,
            ));
        }
        let mut stats = Stats {
            seed,
            prompt_tokens: prompt.ids.len(),
            ..Stats::default()
        };
        stats.reused_tokens = conversation.rewind(&prompt.ids);
        (self.emit)(Event::Started {
            prompt_tokens: stats.prompt_tokens,
            reused_tokens: stats.reused_tokens,
        });
        self.say_dropped(dropped, prompt.ids.len());

        let limit = request.max_new_tokens.unwrap_or(usize::MAX);
        let mut decoding = Duration::ZERO;
        let mut history = prompt.ids.clone();
        let reason = 'answer: {
            if limit == 0 {
                break 'answer DoneReason::Length;
            }
            let prefill = clock.elapsed();
            let computed = history.len() - stats.reused_tokens;
            let mut logits = Vec::new();
            if conversation.cached.len() < history.len() {
                if self
                    .compute(conversation, &history, &mut logits, &clock)?
                    .is_break()
                {
                    break 'answer DoneReason::Cancelled;
                }
                conversation.prompt_end = Some((history.len(), logits.clone()));
            } else if let Some((_, known)) = &conversation.prompt_end {
                logits.clone_from(known);
            }
            let took = (clock.elapsed() - prefill).as_secs_f64();
            stats.prefill_tokens_per_sec = computed as f64 / took;
            loop {
                let id = sampler.sample(&mut logits, &history)?;
                if stats.new_tokens == 0 {
                    stats.time_to_first_token_ms = clock.elapsed().as_secs_f64() * 1e3;
                }
                stats.new_tokens += 1;
                // What the time of a token's way to a screen is measured from.
                tracing::trace!(n = stats.new_tokens, "sampled");
                if !request.ignore_eos && self.ends(id) {
                    break DoneReason::Eos;
                }
                if answer.stops_at(id) {
                    break DoneReason::Stop;
                }
                history.push(id);
                let (text, stopped) = answer.push(id);
                (self.emit)(Event::Token { id, text });
                if stopped {
                    break DoneReason::Stop;
                }
                if stats.new_tokens >= limit {
                    break DoneReason::Length;
                }
                if (self.cancelled)() {
                    break DoneReason::Cancelled;
                }
                let step = clock.elapsed();
                if history.len() > capacity {
                    let made = history.split_off(prompt.ids.len());
                    let most = capacity - capacity / 4;
                    let most = most.saturating_sub(made.len());
                    let dropped = match prompt.shrink(most) {
                        Ok(dropped) if dropped > 0 && prompt.ids.len() <= most => dropped,
                        _ => break DoneReason::ContextFull,
                    };
                    history.clone_from(&prompt.ids);
                    history.extend(made);
                    self.say_dropped(dropped, prompt.ids.len());
                    conversation.rewind(&history);
                }
                if self
                    .compute(conversation, &history, &mut logits, &clock)?
                    .is_break()
                {
                    break DoneReason::Cancelled;
                }
                decoding += clock.elapsed() - step;
            }
        };
        if stats.new_tokens > 1 {
            stats.decode_tokens_per_sec = (stats.new_tokens - 1) as f64 / decoding.as_secs_f64();
        }
        stats.experts = self.model.experts().stats() - before;
        let text = answer.finish(reason);
        (self.emit)(Event::Done {
            reason,
            text,
            stats: Box::new(stats),
        });
        Ok(())
    }

    /// Computes what the cache lacks of `tokens` and puts the logits behind the last one into
    /// `logits`; a break if cancelled. Progress is reported when there is more than one to do.
    fn compute(
        &mut self,
        conversation: &mut Conversation,
        tokens: &[TokenId],
        logits: &mut Vec<f32>,
        clock: &AwakeClock,
    ) -> Result<ControlFlow<()>, EngineError> {
        let Conversation {
            session, cached, ..
        } = conversation;
        let (first, total) = (cached.len(), tokens.len());
        let is_quiet = total - first <= 1;
        let mut progress = PromptProgress::new(self.model.spec(), first, total);
        let began = clock.elapsed();
        // Chunks of one size: a last one of few tokens would take as long where experts are read
        // from disk, and its time could not be told by its tokens.
        let todo = total - first;
        let chunk_len = todo.div_ceil(todo.div_ceil(PREFILL_CHUNK).max(1)).max(1);
        for chunk in tokens[first..].chunks(chunk_len) {
            let at = (cached.len(), chunk.len());
            let (cancelled, emit) = (self.cancelled, &mut *self.emit);
            let elapsed = || clock.elapsed().saturating_sub(began);
            let mut watch = |pass| {
                if cancelled() {
                    return ControlFlow::Break(());
                }
                if !is_quiet && let Some(report) = progress.take(at, pass, elapsed()) {
                    emit(prefill(report, total));
                }
                ControlFlow::Continue(())
            };
            match self.model.forward(session, chunk, Logits::Last, &mut watch) {
                Ok(last) => {
                    logits.clear();
                    logits.extend_from_slice(last);
                }
                Err(EngineError::Cancelled) => return Ok(ControlFlow::Break(())),
                Err(error) => return Err(error),
            }
            cached.extend_from_slice(chunk);
        }
        if !is_quiet {
            (self.emit)(prefill(Report::end(total), total));
        }
        Ok(ControlFlow::Continue(()))
    }

    fn ends(&self, id: TokenId) -> bool {
        self.model.spec().eos_token_ids.contains(&id.0)
            || self.tokenizer.and_then(Tokenizer::eos) == Some(id)
    }

    fn say_dropped(&mut self, dropped_messages: usize, prompt_tokens: usize) {
        if dropped_messages > 0 {
            (self.emit)(Event::ContextShift {
                dropped_messages,
                prompt_tokens,
            });
        }
    }
}

/// The prompt's tokens, and the messages they come from as long as any can be dropped.
struct Prompt<'a> {
    tokenizer: Option<&'a Tokenizer>,
    messages: Vec<Message>,
    options: ChatOptions,
    ids: Vec<TokenId>,
}

impl<'a> Prompt<'a> {
    fn new(
        tokenizer: Option<&'a Tokenizer>,
        model: &Decoder,
        request: &Request,
    ) -> Result<Self, EngineError> {
        let need = || {
            let dir = model.checkpoint().dir().display().to_string();
            tokenizer.ok_or(EngineError::NoTokenizer { dir })
        };
        let options = ChatOptions {
            began_at_ms: request.began_at_ms,
            ..ChatOptions::default()
        };
        let (messages, ids) = match &request.input {
            Input::Messages(messages) => {
                let ids = need()?.encode_chat_with(messages, &options)?;
                (messages.clone(), ids)
            }
            Input::Prompt(text) => (Vec::new(), need()?.encode_prompt(text)?),
            Input::Tokens(ids) => (Vec::new(), ids.clone()),
        };
        if ids.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        let rows = model.spec().vocab_size;
        if let Some(&id) = ids.iter().find(|id| id.0 as usize >= rows) {
            let text = tokenizer.and_then(|tokenizer| tokenizer.token_text(id));
            return Err(EngineError::UnknownToken {
                token: id.0,
                text: text.map_or_else(String::new, |text| format!(" ({text:?})")),
                vocab_size: rows,
            });
        }
        Ok(Self {
            tokenizer,
            messages,
            options,
            ids,
        })
    }

    /// Drops the oldest whole turns, never the system text nor the last turn, until at most
    /// `most` tokens are left or nothing can be dropped; how many messages that were.
    fn shrink(&mut self, most: usize) -> Result<usize, EngineError> {
        let Some(tokenizer) = self.tokenizer else {
            return Ok(0);
        };
        let options = &self.options;
        let encode = |messages: &[Message]| tokenizer.encode_chat_with(messages, options);
        Ok(drop_oldest(
            &mut self.messages,
            &mut self.ids,
            most,
            encode,
        )?)
    }
}

/// Whether the answer to `messages` goes on with one begun earlier.
fn continues(messages: &[Message]) -> bool {
    let open = |m: &Message| m.role == Role::Assistant && !m.content.trim().is_empty();
    messages.last().is_some_and(open)
}

/// The answer's text as it becomes certain.
struct Answer {
    decoder: Option<crate::stream_text::StreamDecoder>,
    stop: StopMatcher,
    /// The special tokens among the stop strings.
    stop_tokens: Vec<TokenId>,
}

impl Answer {
    fn new(tokenizer: Option<&Tokenizer>, request: &Request) -> Self {
        let decoder = tokenizer.map(|tokenizer| match request.input {
            Input::Messages(ref messages) if continues(messages) => {
                tokenizer.continuation_decoder()
            }
            Input::Messages(_) => tokenizer.reply_decoder(),
            Input::Prompt(_) | Input::Tokens(_) => tokenizer.decoder(),
        });
        Self {
            decoder,
            stop: StopMatcher::new(&request.stop),
            stop_tokens: tokenizer.map_or_else(Vec::new, |tokenizer| {
                let stop = request.stop.iter();
                stop.filter_map(|text| tokenizer.special_token(text))
                    .collect()
            }),
        }
    }

    /// Whether `id` is a special token that ends the answer.
    fn stops_at(&self, id: TokenId) -> bool {
        self.stop_tokens.contains(&id)
    }

    /// Takes a token; text that is now certain, and whether a stop string came.
    fn push(&mut self, id: TokenId) -> (String, bool) {
        let Some(decoder) = &mut self.decoder else {
            return (String::new(), false);
        };
        let outcome = self.stop.push(decoder.push(id));
        (outcome.emit, outcome.stopped)
    }

    /// What was held back.
    fn finish(mut self, reason: DoneReason) -> String {
        let Some(decoder) = self.decoder else {
            return String::new();
        };
        if reason == DoneReason::Stop {
            return String::new();
        }
        let outcome = self.stop.push(&decoder.finish());
        outcome.emit + &self.stop.flush()
    }
}
