//! Conversations and how they are laid out for the model.
//!
//! # The built-in format
//! One BOS, then ` [INST] {user} [/INST]` for a user message and ` {assistant}</s>` for an
//! answer, the leading spaces included; a system message goes before the first user message's
//! content, followed by a blank line. These are the ids of Mistral's own reference tokenizer
//! (`mistral_common`, v1).
//!
//! # A checkpoint's own template
//! A Jinja template from `tokenizer_config.json` or `chat_template.jinja` decides the layout
//! ([`template`]), with one exception: a template that differs from the built-in format in white
//! space only is one of the published Mixtral templates, most of which miss the reference
//! tokenizer's spacing, and the built-in format is used instead. A template that has a place of its
//! own for the system text is followed.
//!
//! # Turns of the same side in a row
//! A template may have a layout for them. Where it refuses them, as the built-in format does, they
//! become one turn, a blank line between them.
//!
//! # Messages cannot contain special tokens
//! Special-token strings inside a message reach a template as stand-ins ([`shield`]). A template
//! may copy, trim, split, replace or test contents; only one that makes special tokens out of them,
//! or whose special tokens depend on their characters, is refused.

mod generation_tag;
mod python;
mod shield;
mod template;

use std::borrow::Cow;
use std::path::PathBuf;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::shield::Shield;
pub(crate) use self::template::ChatTemplate;
use self::template::{Failure, Input};
use crate::tokenizer::{Span, SpecialTokens, TokenId, TokenizerError};

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
    /// When the conversation began, in milliseconds since 1970, for templates that tell the model
    /// the date; `None`: now.
    pub began_at_ms: Option<i64>,
}

impl ChatOptions {
    /// When the conversation began, in local time.
    fn began(&self) -> DateTime {
        let given = self.began_at_ms.map(Timestamp::from_millisecond);
        let began = given.and_then(Result::ok).unwrap_or_else(Timestamp::now);
        began.to_zoned(TimeZone::system()).datetime()
    }
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self {
            continue_last: true,
            began_at_ms: None,
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
    /// The checkpoint's template does not compile, or cannot be carried out.
    #[error(
        "the chat template in {} cannot be used: {message}; correct it, or remove it to use the \
         built-in Mixtral format",
        path.display()
    )]
    Template {
        /// The file that holds it.
        path: PathBuf,
        /// The template engine's message.
        message: String,
    },
    /// The checkpoint's template refuses the conversation.
    #[error(
        "the chat template in {} refuses these messages: {message}; change them, or the template",
        path.display()
    )]
    TemplateRefused {
        /// The file that holds it.
        path: PathBuf,
        /// The template's own message.
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

/// Messages of the same side in a row, as one turn.
struct Turn<'a> {
    role: Role,
    /// Of those with any; at least one.
    contents: Vec<&'a str>,
    n_messages: usize,
}

/// `messages` with those of the same side in a row together.
fn turns(messages: &[Message]) -> Vec<Turn<'_>> {
    let mut turns: Vec<Turn<'_>> = Vec::new();
    for Message { role, content } in messages {
        match turns.last_mut() {
            Some(turn) if turn.role == *role && *role != Role::System => {
                turn.n_messages += 1;
                if turn.contents == [""] {
                    turn.contents[0] = content;
                } else if !content.is_empty() {
                    turn.contents.push(content);
                }
            }
            _ => turns.push(Turn {
                role: *role,
                contents: vec![content],
                n_messages: 1,
            }),
        }
    }
    turns
}

/// `messages` with those of the same side in a row made one; `None` if there are none.
fn merged(messages: &[Message]) -> Option<Vec<Message>> {
    let turns = turns(messages);
    let one = |turn: Turn<'_>| Message::new(turn.role, turn.contents.join(BETWEEN));
    (turns.len() < messages.len()).then(|| turns.into_iter().map(one).collect())
}

/// Between messages that become one turn.
const BETWEEN: &str = "\n\n";

/// The assistant message that the model is to continue.
fn open_answer<'a>(messages: &'a [Message], options: &ChatOptions) -> Option<&'a Message> {
    let last = messages.last()?;
    (options.continue_last && last.role == Role::Assistant).then_some(last)
}

/// What the formats need to know of the tokenizer.
pub(crate) struct Frame<'a> {
    pub(crate) specials: &'a SpecialTokens,
    pub(crate) bos: Option<TokenId>,
    pub(crate) eos: Option<TokenId>,
    pub(crate) prepends_space: bool,
    /// The special tokens' texts by the names that templates give them.
    pub(crate) names: &'a Map<String, Value>,
}

/// The layout of a tokenizer's conversations.
#[derive(Debug)]
pub(crate) enum ChatFormat {
    /// The built-in format, which the template, if there is one, differs from in white space only.
    BuiltIn(Option<ChatTemplate>),
    Template(ChatTemplate),
}

impl ChatFormat {
    pub(crate) fn detect(template: Option<ChatTemplate>, frame: &Frame<'_>) -> Self {
        match template {
            Some(template) if !is_mixtral(&template, frame) => Self::Template(template),
            template => Self::BuiltIn(template),
        }
    }

    pub(crate) fn spans<'a>(
        &self,
        messages: &'a [Message],
        options: &ChatOptions,
        frame: &Frame<'_>,
    ) -> Result<Vec<Span<'a>>, PromptError> {
        if messages.is_empty() {
            return Err(PromptError::Empty);
        }
        let template = match self {
            Self::BuiltIn(template) => {
                let is_in_a_row = turns(messages).len() < messages.len();
                // Only the template knows whether it takes turns in a row.
                return match template.as_ref().filter(|_| is_in_a_row) {
                    Some(template) => template_spans(template, messages, options, frame)
                        .or_else(|_| mixtral_spans(messages, options, frame)),
                    None => mixtral_spans(messages, options, frame),
                };
            }
            Self::Template(template) => template,
        };
        let refused = match template_spans(template, messages, options, frame) {
            Err(refused @ PromptError::TemplateRefused { .. }) => refused,
            done => return done,
        };
        let Some(merged) = merged(messages) else {
            return Err(refused);
        };
        match template_spans(template, &merged, options, frame) {
            Err(PromptError::TemplateRefused { .. }) => Err(refused),
            done => done,
        }
    }
}

/// Whether `template` is the built-in format but for white space. It may refuse or drop the system
/// text, which the built-in format has a place for.
fn is_mixtral(template: &ChatTemplate, frame: &Frame<'_>) -> bool {
    const SYSTEM: &str = "4";
    let (bos, eos) = (
        frame.specials.text_of(frame.bos),
        frame.specials.text_of(frame.eos),
    );
    let turns = [(Role::User, "1"), (Role::Assistant, "2"), (Role::User, "3")];
    let turns = turns.map(|(role, content)| Message::new(role, content));
    let with_system = [&[Message::new(Role::System, SYSTEM)], &turns[..]].concat();
    let without_space = |messages: &[Message]| {
        let input = Input {
            messages,
            add_generation_prompt: true,
            tokens: frame.names,
            began: DateTime::default(),
        };
        let rendered = template.render(&input).ok()?;
        Some(rendered.split_whitespace().collect::<String>())
    };
    let built_in = |system: &str| format!("{bos}[INST]{system}1[/INST]2{eos}[INST]3[/INST]");
    let marks_are_text = frame.specials.find_all("[INST][/INST]").is_empty();
    marks_are_text
        && without_space(&turns) == Some(built_in(""))
        && without_space(&with_system)
            .is_none_or(|text| text == built_in(SYSTEM) || !text.contains(SYSTEM))
}

fn mixtral_spans<'a>(
    messages: &'a [Message],
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
    let (system, messages) = match messages {
        [first, rest @ ..] if first.role == Role::System => (Some(first.content.as_str()), rest),
        _ => (None, messages),
    };
    if messages.is_empty() {
        return Err(PromptError::SystemOnly);
    }
    let is_open = open_answer(messages, options).is_some();
    let text = |text: &'a str| Span::Text(Cow::Borrowed(text));

    let turns = turns(messages);
    let last = turns.len() - 1;
    let mut spans = Vec::from_iter(frame.bos.and_then(special));
    let mut index = usize::from(system.is_some());
    for (place, turn) in turns.iter().enumerate() {
        let expected = [Role::User, Role::Assistant][place % 2];
        if turn.role != expected {
            return Err(PromptError::RoleOrder {
                index,
                found: turn.role,
                expected,
            });
        }
        index += turn.n_messages;
        let said = turn
            .contents
            .iter()
            .enumerate()
            .flat_map(|(place, content)| {
                let between = (place > 0).then(|| text(BETWEEN));
                between.into_iter().chain([text(content)])
            });
        if turn.role == Role::User {
            spans.extend(frame.specials.spans(user_start));
            if let (0, Some(system)) = (place, system) {
                spans.extend([text(system), text(BETWEEN)]);
            }
            spans.extend(said);
            spans.extend(frame.specials.spans(" [/INST]"));
            continue;
        }
        if turn.contents != [""] {
            spans.push(text(" "));
            spans.extend(said);
        }
        if !(is_open && place == last) {
            spans.push(frame.eos.and_then(special).ok_or(PromptError::NoEos)?);
        }
    }
    Ok(spans)
}

fn template_spans(
    template: &ChatTemplate,
    messages: &[Message],
    options: &ChatOptions,
    frame: &Frame<'_>,
) -> Result<Vec<Span<'static>>, PromptError> {
    let open_answer = open_answer(messages, options);
    let open_text = open_answer.map_or("", |message| message.content.trim());
    let messages = match open_answer {
        // Nothing to continue: the answer starts here.
        Some(_) if open_text.is_empty() => &messages[..messages.len() - 1],
        _ => messages,
    };
    if messages.is_empty() {
        return Err(PromptError::Empty);
    }
    let shield = Shield::new(&template.source, messages, frame.specials)?;
    let began = options.began();
    let layout =
        |mut messages: Vec<Message>| -> Result<String, PromptError> {
            let answered = messages
                .last()
                .is_some_and(|last| last.role == Role::Assistant);
            let cut = messages
                .last_mut()
                .filter(|_| open_answer.is_some() && answered)
                .map(|last| shield.mark_end(last));
            let input = Input {
                messages: &messages,
                add_generation_prompt: !answered,
                tokens: frame.names,
                began,
            };
            let text = template
                .render(&input)
                .map_err(|failure: Failure| failure.of(&template.path))?;
            match cut {
                Some(trailing) => shield.cut_at_mark(&text, &trailing).ok_or(
                    PromptError::TemplateCannotContinue {
                        index: messages.len() - 1,
                    },
                ),
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
