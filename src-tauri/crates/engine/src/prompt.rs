//! Conversations and how they are laid out for the model.
//!
//! # The built-in format
//! One BOS, then ` [INST] {user} [/INST]` for a user message and ` {assistant}</s>` for an
//! answer, the leading spaces included; a system message goes before the first user message's
//! content, followed by a blank line. These are the ids of Mistral's own reference tokenizer
//! (`mistral_common`, v1).
//!
//! # A checkpoint's own template
//! A Jinja template from `tokenizer_config.json` or `chat_template.jinja` decides the layout,
//! with one exception: a template that differs from the built-in format in white space only is
//! one of the published Mixtral templates, most of which miss the reference tokenizer's spacing,
//! and the built-in format is used instead.
//!
//! Templates see `messages`, `bos_token`, `eos_token`, `add_generation_prompt`, `tools` and
//! `documents` (both `none`), `raise_exception` and the common methods of Python strings and
//! dicts. `strftime_now` is left undefined: the same conversation always gives the same ids.
//!
//! # Messages cannot contain special tokens
//! Special-token strings inside a message are replaced, before a template sees it, by single
//! private-use characters that occur nowhere else, and turned back into ordinary text
//! afterwards. A template may copy, trim, split, replace or test contents; only one that makes
//! special tokens out of them, or whose special tokens depend on their characters, is refused.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::RangeInclusive;

use minijinja::value::{Rest, ValueKind, from_args};
use minijinja::{AutoEscape, Environment, ErrorKind, State, Value, context};
use serde::{Deserialize, Serialize};

use crate::tokenizer::{Span, SpecialTokens, TokenId, TokenizerError};

/// Published chat templates have up to 20 kB.
const MAX_TEMPLATE_BYTES: usize = 1 << 16;
/// Instructions of a template's program. A message takes some tens.
const MAX_TEMPLATE_STEPS: u64 = 10_000_000;
/// Of a text that a template's `replace` gives.
const MAX_RENDERED_BYTES: usize = 1 << 24;
/// A template of [`MAX_TEMPLATE_BYTES`] that is nothing but one nested expression fits.
const TEMPLATE_STACK_BYTES: usize = 256 << 20;

/// Who wrote a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        })
    }
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who wrote it.
    pub role: Role,
    /// Its text, taken literally.
    pub content: String,
}

impl Message {
    /// A message of this role.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
        }
    }
}

/// How to encode a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatOptions {
    /// Leave a trailing assistant message open, so that the model continues it. Otherwise it is
    /// closed with EOS like the earlier ones. On by default.
    pub continue_last: bool,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self {
            continue_last: true,
        }
    }
}

/// Why a conversation could not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// No message at all.
    #[error("the conversation is empty: expected at least one user message")]
    Empty,
    /// Roles out of order.
    #[error(
        "message {} is from the {found}, where one from the {expected} is expected: user and \
         assistant take turns, after an optional system message",
        .index + 1
    )]
    RoleOrder {
        /// Place of the message, counted from 0.
        index: usize,
        /// Its role.
        found: Role,
        /// The role that had to come.
        expected: Role,
    },
    /// A system message with nothing after it.
    #[error("the conversation has a system message only: expected a user message after it")]
    SystemOnly,
    /// An earlier answer cannot be closed.
    #[error("the tokenizer has no end-of-text token to close an assistant message with")]
    NoEos,
    /// The checkpoint's template does not compile, failed, or refused the conversation.
    #[error("the checkpoint's chat template failed: {message}")]
    Template {
        /// The template engine's or the template's own message.
        message: String,
    },
    /// The checkpoint's template mixes message text and special tokens.
    #[error(
        "the checkpoint's chat template gives {found} special tokens where {expected} do not \
         depend on what the messages say: it cannot be used safely with these messages"
    )]
    TemplateUnsafe {
        /// Special tokens in the rendered conversation.
        found: usize,
        /// Those in the same conversation with neutral contents.
        expected: usize,
    },
    /// The checkpoint's template leaves no way to continue the last message.
    #[error(
        "the model's chat template changes or drops the last assistant message (message {}), so it \
         cannot be continued",
        .index + 1
    )]
    TemplateCannotContinue {
        /// Place of the message, counted from 0.
        index: usize,
    },
    /// Every private-use character is taken.
    #[error("the messages use all {tried} private-use characters that could mark special tokens")]
    NoFreeCharacter {
        /// How many were tried.
        tried: usize,
    },
    /// The tokenizer failed on the laid-out text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Messages in a valid order.
pub(crate) struct Conversation<'a> {
    messages: &'a [Message],
    system: Option<&'a str>,
    /// User and assistant messages in turn, the user's first.
    turns: &'a [Message],
}

impl<'a> Conversation<'a> {
    pub(crate) fn new(messages: &'a [Message]) -> Result<Self, PromptError> {
        let (system, turns) = match messages {
            [] => return Err(PromptError::Empty),
            [only] if only.role == Role::System => return Err(PromptError::SystemOnly),
            [first, turns @ ..] if first.role == Role::System => {
                (Some(first.content.as_str()), turns)
            }
            turns => (None, turns),
        };
        for (turn, message) in turns.iter().enumerate() {
            let expected = [Role::User, Role::Assistant][turn % 2];
            if message.role != expected {
                return Err(PromptError::RoleOrder {
                    index: messages.len() - turns.len() + turn,
                    found: message.role,
                    expected,
                });
            }
        }
        Ok(Self {
            messages,
            system,
            turns,
        })
    }

    /// The assistant message that the model is to continue.
    fn open_answer(&self, options: &ChatOptions) -> Option<&'a Message> {
        let last = self.turns.last()?;
        (options.continue_last && last.role == Role::Assistant).then_some(last)
    }
}

/// What the formats need to know of the tokenizer.
pub(crate) struct Frame<'a> {
    pub(crate) specials: &'a SpecialTokens,
    pub(crate) bos: Option<TokenId>,
    pub(crate) eos: Option<TokenId>,
    pub(crate) prepends_space: bool,
}

/// The layout of a tokenizer's conversations.
#[derive(Debug)]
pub(crate) enum ChatFormat {
    Mixtral,
    /// Source of a Jinja template.
    Template(String),
}

impl ChatFormat {
    pub(crate) fn detect(
        template: Option<String>,
        specials: &SpecialTokens,
        bos: Option<TokenId>,
        eos: Option<TokenId>,
    ) -> Self {
        let Some(source) = template else {
            return Self::Mixtral;
        };
        let marks_are_text = specials.find_all("[INST][/INST]").is_empty();
        let (bos, eos) = (specials.text_of(bos), specials.text_of(eos));
        let probe = [(Role::User, "1"), (Role::Assistant, "2"), (Role::User, "3")];
        let probe = probe.map(|(role, content)| Message::new(role, content));
        let rendered = render(&source, &probe, bos, eos, true).unwrap_or_default();
        let without_space: String = rendered.split_whitespace().collect();
        let mixtral = format!("{bos}[INST]1[/INST]2{eos}[INST]3[/INST]");
        if marks_are_text && without_space == mixtral {
            Self::Mixtral
        } else {
            Self::Template(source)
        }
    }

    pub(crate) fn spans<'a>(
        &self,
        conversation: &Conversation<'a>,
        options: &ChatOptions,
        frame: &Frame<'_>,
    ) -> Result<Vec<Span<'a>>, PromptError> {
        match self {
            Self::Mixtral => mixtral_spans(conversation, options, frame),
            Self::Template(source) => template_spans(source, conversation, options, frame),
        }
    }
}

fn mixtral_spans<'a>(
    conversation: &Conversation<'a>,
    options: &ChatOptions,
    frame: &Frame<'_>,
) -> Result<Vec<Span<'a>>, PromptError> {
    let special = |id| frame.specials.index_of(id).map(Span::Special);
    // A tokenizer that prepends a space itself does so after every special token.
    let user_start = if frame.prepends_space {
        "[INST] "
    } else {
        " [INST] "
    };
    let open_answer = conversation.open_answer(options);

    let mut spans = Vec::from_iter(frame.bos.and_then(special));
    for (turn, message) in conversation.turns.iter().enumerate() {
        let content = Span::Text(Cow::Borrowed(message.content.as_str()));
        if message.role == Role::User {
            spans.extend(frame.specials.spans(user_start));
            if let (0, Some(system)) = (turn, conversation.system) {
                spans.push(Span::Text(Cow::Owned(format!("{system}\n\n"))));
            }
            spans.push(content);
            spans.extend(frame.specials.spans(" [/INST]"));
            continue;
        }
        if !message.content.is_empty() {
            spans.push(Span::Text(Cow::Borrowed(" ")));
            spans.push(content);
        }
        let is_open = open_answer.is_some() && turn + 1 == conversation.turns.len();
        if !is_open {
            spans.push(frame.eos.and_then(special).ok_or(PromptError::NoEos)?);
        }
    }
    Ok(spans)
}

fn template_spans<'a>(
    source: &str,
    conversation: &Conversation<'a>,
    options: &ChatOptions,
    frame: &Frame<'_>,
) -> Result<Vec<Span<'a>>, PromptError> {
    let open_answer = conversation.open_answer(options);
    let open_text = open_answer.map_or("", |message| message.content.trim());
    let messages = match open_answer {
        // Nothing to continue: the answer starts here.
        Some(_) if open_text.is_empty() => {
            &conversation.messages[..conversation.messages.len() - 1]
        }
        _ => conversation.messages,
    };
    let shield = Shield::new(source, messages, frame.specials)?;
    let (bos, eos) = (
        frame.specials.text_of(frame.bos),
        frame.specials.text_of(frame.eos),
    );
    let layout = |mut messages: Vec<Message>| -> Result<String, PromptError> {
        let asks = messages.last().is_some_and(|last| last.role == Role::User);
        let cut = messages
            .last_mut()
            .filter(|_| open_answer.is_some() && !asks)
            .map(|last| shield.mark_end(last));
        let text =
            render(source, &messages, bos, eos, asks).map_err(|error| PromptError::Template {
                message: describe(&error),
            })?;
        match cut {
            Some(trailing) => {
                shield
                    .cut_at_mark(&text, &trailing)
                    .ok_or(PromptError::TemplateCannotContinue {
                        index: messages.len() - 1,
                    })
            }
            None => Ok(text),
        }
    };

    let text = layout(shield.shielded(messages, frame.specials))?;
    let found = frame.specials.find_all(&text);
    let neutral = layout(shield.neutral(messages, frame.specials))?;
    let expected = frame.specials.find_all(&neutral);
    let tokens_of =
        |found: &[(_, usize)]| found.iter().map(|&(_, token)| token).collect::<Vec<_>>();
    if tokens_of(&found) != tokens_of(&expected) {
        return Err(PromptError::TemplateUnsafe {
            found: found.len(),
            expected: expected.len(),
        });
    }

    let mut spans = Vec::new();
    let mut done = 0;
    for (range, index) in found {
        spans.push(Span::Text(
            shield.open(&text[done..range.start], frame.specials).into(),
        ));
        spans.push(Span::Special(index));
        done = range.end;
    }
    spans.push(Span::Text(
        shield.open(&text[done..], frame.specials).into(),
    ));
    Ok(spans)
}

/// The private-use characters that stand-ins are taken from.
const STAND_INS: RangeInclusive<char> = '\u{100000}'..='\u{10FFFD}';

/// Stand-ins for the special-token strings that occur in messages.
struct Shield {
    /// A character that occurs nowhere, for each special token by its place.
    stand_ins: Vec<char>,
    /// Another one, for characters of no meaning.
    neutral: char,
    /// Another one, for the end of the last message.
    end: char,
}

impl Shield {
    fn new(
        source: &str,
        messages: &[Message],
        specials: &SpecialTokens,
    ) -> Result<Self, PromptError> {
        let private = STAND_INS;
        let contents = messages.iter().map(|message| message.content.as_str());
        let tokens = specials.tokens.iter().map(|token| token.content.as_str());
        let used: HashSet<char> = contents
            .chain(tokens)
            .chain([source])
            .flat_map(str::chars)
            .filter(|character| private.contains(character))
            .collect();
        let mut free = private
            .clone()
            .filter(|character| !used.contains(character));
        let stand_ins: Vec<char> = free.by_ref().take(specials.tokens.len()).collect();
        match (free.next(), free.next()) {
            (Some(neutral), Some(end)) => Ok(Self {
                stand_ins,
                neutral,
                end,
            }),
            _ => Err(PromptError::NoFreeCharacter {
                tried: private.count(),
            }),
        }
    }

    /// Messages in which every special-token string is its stand-in.
    fn shielded(&self, messages: &[Message], specials: &SpecialTokens) -> Vec<Message> {
        let shield = |content: &str| {
            let spans = specials.spans(content);
            spans.iter().fold(String::new(), |mut shielded, span| {
                match span {
                    Span::Text(text) => shielded.push_str(text),
                    Span::Special(index) => shielded.push(self.stand_ins[*index]),
                }
                shielded
            })
        };
        map_contents(messages, shield)
    }

    /// Messages in which no character can be part of a special token.
    fn neutral(&self, messages: &[Message], specials: &SpecialTokens) -> Vec<Message> {
        let tokens = specials.tokens.iter();
        let meaningful: HashSet<char> = tokens.flat_map(|token| token.content.chars()).collect();
        let neutralize = |character| {
            if meaningful.contains(&character) {
                self.neutral
            } else {
                character
            }
        };
        map_contents(messages, |content| {
            content.chars().map(neutralize).collect()
        })
    }

    /// Marks where a message's text ends; returns the white space that comes after the mark.
    fn mark_end(&self, message: &mut Message) -> String {
        let trailing = message.content.split_off(message.content.trim_end().len());
        message.content.push(self.end);
        message.content.push_str(&trailing);
        trailing
    }

    /// The text up to the mark and the white space after it, if the template kept that.
    fn cut_at_mark(&self, text: &str, trailing: &str) -> Option<String> {
        let (before, after) = text.rsplit_once(self.end)?;
        let kept = if after.starts_with(trailing) {
            trailing
        } else {
            ""
        };
        Some(before.replace(self.end, "") + kept)
    }

    /// Turns stand-ins back into the text they stand for.
    fn open(&self, text: &str, specials: &SpecialTokens) -> String {
        let mut opened = String::with_capacity(text.len());
        let is_stand_in = |character| STAND_INS.contains(&character);
        for character in text.chars() {
            let place = is_stand_in(character)
                .then(|| self.stand_ins.iter().position(|&one| one == character));
            match place.flatten() {
                Some(index) => opened.push_str(&specials.tokens[index].content),
                None => opened.push(character),
            }
        }
        opened
    }
}

fn map_contents(messages: &[Message], map: impl Fn(&str) -> String) -> Vec<Message> {
    let mapped = |message: &Message| Message::new(message.role, map(&message.content));
    messages.iter().map(mapped).collect()
}

/// Renders `source`, which may be hostile: in bounded steps, and on a stack that nested
/// expressions of the longest source do not overflow.
fn render(
    source: &str,
    messages: &[Message],
    bos_token: &str,
    eos_token: &str,
    add_generation_prompt: bool,
) -> Result<String, minijinja::Error> {
    let failed = |message: String| minijinja::Error::new(ErrorKind::InvalidOperation, message);
    if source.len() > MAX_TEMPLATE_BYTES {
        return Err(failed(format!(
            "the template has {} bytes, and at most {MAX_TEMPLATE_BYTES} are read",
            source.len()
        )));
    }
    std::thread::scope(|scope| {
        let rendering = std::thread::Builder::new()
            .name("chat template".to_owned())
            .stack_size(TEMPLATE_STACK_BYTES)
            .spawn_scoped(scope, || {
                render_here(
                    source,
                    messages,
                    bos_token,
                    eos_token,
                    add_generation_prompt,
                )
            });
        let rendering = rendering
            .map_err(|error| failed(format!("no thread to render the template: {error}")))?;
        rendering
            .join()
            .unwrap_or_else(|_| Err(failed("rendering the template failed".to_owned())))
    })
}

fn render_here(
    source: &str,
    messages: &[Message],
    bos_token: &str,
    eos_token: &str,
    add_generation_prompt: bool,
) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(MAX_TEMPLATE_STEPS));
    // They take a length and allocate it.
    for filter in ["batch", "slice", "indent"] {
        environment.remove_filter(filter);
    }
    environment.add_filter("replace", replace);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(python_method);
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", |message: String| -> Result<Value, _> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.template_from_str(source)?.render(context! {
        messages,
        bos_token,
        eos_token,
        add_generation_prompt,
        tools => (),
        documents => (),
    })
}

/// `replace`, which repeated makes a text as long as one likes.
fn replace(text: &str, from: &str, to: &str) -> Result<String, minijinja::Error> {
    let grown = text.matches(from).count().saturating_mul(to.len());
    if grown.saturating_add(text.len()) > MAX_RENDERED_BYTES {
        return Err(minijinja::Error::new(
            ErrorKind::InvalidOperation,
            format!("replace would make more than {MAX_RENDERED_BYTES} bytes"),
        ));
    }
    Ok(text.replace(from, to))
}

/// The error with its causes, on one line.
fn describe(error: &minijinja::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// `tojson` as Python's `json.dumps` writes it, without the HTML escapes of the usual filter.
fn to_json(value: &Value) -> Result<String, minijinja::Error> {
    struct Python;
    impl serde_json::ser::Formatter for Python {
        fn begin_array_value<W: ?Sized + std::io::Write>(
            &mut self,
            writer: &mut W,
            first: bool,
        ) -> std::io::Result<()> {
            writer.write_all(if first { b"" } else { b", " })
        }
        fn begin_object_key<W: ?Sized + std::io::Write>(
            &mut self,
            writer: &mut W,
            first: bool,
        ) -> std::io::Result<()> {
            writer.write_all(if first { b"" } else { b", " })
        }
        fn begin_object_value<W: ?Sized + std::io::Write>(
            &mut self,
            writer: &mut W,
        ) -> std::io::Result<()> {
            writer.write_all(b": ")
        }
    }
    let failed = |message: String| minijinja::Error::new(ErrorKind::BadSerialization, message);
    let mut json = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut json, Python);
    value
        .serialize(&mut serializer)
        .map_err(|error| failed(error.to_string()))?;
    String::from_utf8(json).map_err(|error| failed(error.to_string()))
}

/// The methods of Python's `str` and `dict` that chat templates call.
fn python_method(
    state: &State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, minijinja::Error> {
    let unknown = || minijinja::Error::from(ErrorKind::UnknownMethod);
    if let Some(text) = value.as_str() {
        return match method {
            "strip" | "lstrip" | "rstrip" => {
                let (set,): (Option<&str>,) = from_args(args)?;
                let in_set = |character: char| match set {
                    Some(set) => set.contains(character),
                    None => character.is_whitespace(),
                };
                Ok(Value::from(match method {
                    "strip" => text.trim_matches(in_set),
                    "lstrip" => text.trim_start_matches(in_set),
                    _ => text.trim_end_matches(in_set),
                }))
            }
            "startswith" => from_args(args).map(|(s,): (&str,)| text.starts_with(s).into()),
            "endswith" => from_args(args).map(|(s,): (&str,)| text.ends_with(s).into()),
            "split" => split(text, args),
            "replace" | "upper" | "lower" | "title" | "capitalize" => {
                let rest: Rest<Value> = from_args::<(Rest<Value>,)>(args)?.0;
                let arguments: Vec<Value> = std::iter::once(value.clone()).chain(rest.0).collect();
                state.apply_filter(method, &arguments)
            }
            _ => Err(unknown()),
        };
    }
    match (value.kind(), method) {
        (ValueKind::Map, "items") => state.apply_filter("items", std::slice::from_ref(value)),
        (ValueKind::Map, "keys") => Ok(value.try_iter()?.collect()),
        (ValueKind::Map, "get") => {
            let (key, default): (Value, Option<Value>) = from_args(args)?;
            let found = value.get_item(&key)?;
            Ok(if found.is_undefined() {
                default.unwrap_or(Value::from(()))
            } else {
                found
            })
        }
        _ => Err(unknown()),
    }
}

fn split(text: &str, args: &[Value]) -> Result<Value, minijinja::Error> {
    let (separator, limit): (Option<&str>, Option<usize>) = from_args(args)?;
    let limit = limit.map_or(usize::MAX, |limit| limit.saturating_add(1));
    match separator {
        Some("") => Err(minijinja::Error::new(
            ErrorKind::InvalidOperation,
            "split: the separator is empty",
        )),
        Some(separator) => Ok(text.splitn(limit, separator).map(Value::from).collect()),
        None => Ok(text.split_whitespace().map(Value::from).collect()),
    }
}
