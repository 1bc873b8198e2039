//! A checkpoint's own Jinja template.
//!
//! It is rendered as transformers has Jinja2 do it: `trim_blocks`, `lstrip_blocks`, loop controls,
//! the `generation` tag, `raise_exception`, `strftime_now` and a `tojson` of its own. Templates see
//! `messages`, `add_generation_prompt` and the special tokens by name; `tools` and `documents` are
//! undefined. `strftime_now` gives the time at which the conversation began, so that the same
//! conversation gives the same ids.
//!
//! A template may be hostile. Instructions and the bytes of all texts and lists together are paid
//! for from one budget ([`budget`]), before they are made.

use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use minijinja::machinery::{CodeGenerator, Instruction, Instructions, make_string_output, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use serde_json::Map;

use super::python::bounds;
use super::{Message, PromptError, generation_tag, python};

/// Published chat templates have up to 20 kB.
const MAX_TEMPLATE_BYTES: usize = 1 << 16;
/// A template of [`MAX_TEMPLATE_BYTES`] that is nothing but one nested expression fits.
const TEMPLATE_STACK_BYTES: usize = 256 << 20;
/// The template's name in messages.
const NAME: &str = "chat_template";

/// A template and where it was read.
#[derive(Debug)]
pub(crate) struct ChatTemplate {
    pub(crate) source: String,
    pub(crate) path: PathBuf,
}

/// What a template is rendered with.
pub(super) struct Input<'a> {
    pub(super) messages: &'a [Message],
    pub(super) add_generation_prompt: bool,
    /// The special tokens by the names that templates give them.
    pub(super) tokens: &'a Map<String, serde_json::Value>,
    /// When the conversation began, in local time.
    pub(super) began: DateTime,
}

/// Why there is no text.
#[derive(Debug)]
pub(super) enum Failure {
    /// The template called `raise_exception`.
    Refused(String),
    /// It does not compile, or cannot be carried out.
    Failed(String),
}

impl Failure {
    pub(super) fn of(self, path: &Path) -> PromptError {
        let path = path.to_path_buf();
        match self {
            Self::Refused(message) => PromptError::TemplateRefused { path, message },
            Self::Failed(message) => PromptError::Template { path, message },
        }
    }
}

/// What `raise_exception` was called with, as the cause of the error that ends rendering.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

/// Instructions, or 64 bytes of data each, that a template may take.
///
/// Templates look through the messages once, or once for every message.
fn budget(messages: &[Message]) -> u64 {
    const LEAST: u64 = 1_000_000;
    const MOST: u64 = 10_000_000;
    let count = messages.len() as u64;
    let bytes: u64 = messages
        .iter()
        .map(|message| message.content.len() as u64)
        .sum();
    let more = count.saturating_mul(100 * count + bytes / 16);
    LEAST.saturating_add(more).min(MOST)
}

impl ChatTemplate {
    /// Renders on a thread whose stack the nested expressions of the longest source do not
    /// overflow.
    pub(super) fn render(&self, input: &Input<'_>) -> Result<String, Failure> {
        if self.source.len() > MAX_TEMPLATE_BYTES {
            return Err(Failure::Failed(format!(
                "it has {} bytes, and at most {MAX_TEMPLATE_BYTES} are read",
                self.source.len()
            )));
        }
        std::thread::scope(|scope| {
            let rendering = std::thread::Builder::new()
                .name("chat template".to_owned())
                .stack_size(TEMPLATE_STACK_BYTES)
                .spawn_scoped(scope, || {
                    let budget = budget(input.messages);
                    render(&self.source, input, budget).map_err(|error| failure(&error, budget))
                })
                .map_err(|error| Failure::Failed(format!("no thread to render it: {error}")))?;
            let ended = || Failure::Failed("rendering it failed".to_owned());
            rendering.join().unwrap_or_else(|_| Err(ended()))
        })
    }
}

fn render(source: &str, input: &Input<'_>, budget: u64) -> Result<String, Error> {
    let source = generation_tag::without(source);
    let (instructions, blocks) = compile(&source)?;
    let mut environment = Environment::new();
    environment.set_fuel(Some(budget));
    python::install(&mut environment);
    environment.add_function("raise_exception", |message: String| -> Result<Value, _> {
        let refusal = Error::new(ErrorKind::InvalidOperation, message.clone());
        Err(refusal.with_source(Refusal(message)))
    });
    let began = input.began;
    environment.add_function("strftime_now", move |format: String| {
        strftime(&format, began)
    });

    let tokens = input.tokens.iter();
    let mut context: Vec<(&str, Value)> = tokens
        .map(|(name, text)| (name.as_str(), Value::from(Serde(text))))
        .collect();
    context.push(("messages", Value::from(Serde(input.messages))));
    context.push(("add_generation_prompt", input.add_generation_prompt.into()));
    let mut text = String::new();
    minijinja::machinery::eval(
        &environment,
        &instructions,
        Value::from_pairs(context),
        &blocks,
        &mut make_string_output(&mut text),
        AutoEscape::None,
    )?;
    Ok(text)
}

type Compiled<'s> = (
    Instructions<'s>,
    std::collections::BTreeMap<&'s str, Instructions<'s>>,
);

/// The template's program, in which `%` is Python's (the library knows the one of numbers only) and
/// what makes containers and joins texts is within bounds.
fn compile(source: &str) -> Result<Compiled<'_>, Error> {
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()?;
    let template = parse(source, NAME, syntax)?;
    let mut generator = CodeGenerator::new(NAME, source);
    generator.compile_stmt(&template);
    let (mut instructions, mut blocks) = generator.finish();
    for program in std::iter::once(&mut instructions).chain(blocks.values_mut()) {
        let mut place = 0;
        while let Some(instruction) = program.get_mut(place) {
            let call = match instruction {
                Instruction::Rem => Some((python::REMAINDER, 2)),
                Instruction::Add => Some((python::SUM, 2)),
                Instruction::StringConcat => Some((python::JOINED, 2)),
                Instruction::BuildList(Some(n)) => Some((bounds::LIST, *n)),
                Instruction::BuildTuple(Some(n)) => Some((bounds::TUPLE, *n)),
                Instruction::BuildMap(n) => Some((bounds::MAP, 2 * *n)),
                _ => None,
            };
            if let Some((name, n)) = call
                && let Ok(n) = u16::try_from(n)
            {
                *instruction = Instruction::CallFunction(name, Some(n));
            }
            place += 1;
        }
    }
    Ok((instructions, blocks))
}

/// `began` as Python's `strftime` writes it in the C locale.
fn strftime(format: &str, began: DateTime) -> Result<String, Error> {
    let mut spelled = String::with_capacity(format.len());
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        spelled.push(c);
        if c == '%' {
            match rest.next() {
                Some('c') => spelled.push_str("a %b %e %H:%M:%S %Y"),
                Some('x') => spelled.push_str("m/%d/%y"),
                Some('X') => spelled.push_str("H:%M:%S"),
                other => spelled.extend(other),
            }
        }
    }
    jiff::fmt::strtime::format(&spelled, began).map_err(|error| {
        let what = format!("strftime_now({format:?}): {error}");
        Error::new(ErrorKind::InvalidOperation, what)
    })
}

/// What went wrong, with its causes, on one line.
fn failure(error: &Error, budget: u64) -> Failure {
    const MOST_CHARS: usize = 500;
    let mut text = error.to_string();
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(Refusal(message)) = error.downcast_ref() {
            return Failure::Refused(cut(message, MOST_CHARS));
        }
        if let Some(error) = error.downcast_ref::<Error>()
            && error.kind() == ErrorKind::OutOfFuel
        {
            return Failure::Failed(format!(
                "it takes more than {budget} steps or {} MB of text for these messages",
                budget * 64 / 1_000_000
            ));
        }
        next = error.source();
        if let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
        }
    }
    Failure::Failed(cut(&text, MOST_CHARS))
}

/// `text` on one line of at most `most` characters.
fn cut(text: &str, most: usize) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ").replace(char::is_control, "\u{fffd}");
    match line.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}
