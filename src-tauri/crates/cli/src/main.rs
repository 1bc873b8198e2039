//! `octet`: the engine without a window.

mod args;
mod bench;
mod chat;
mod generate;
mod inspect;
mod interrupt;
mod load;
mod logits;
mod messages;
mod models;
mod models_json;
mod output;
mod peak_rss;
mod peak_vram;
mod plan_report;
mod plan_text;
mod prompt_bar;
mod quantize;
mod synth;
mod tokenize;

use std::borrow::Cow;
use std::io;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use octet_engine::checkpoint::shorten;

use args::{Cli, Command};
use octet_engine::EngineError;
use octet_engine::checkpoint::CheckpointError;

/// Exit status of a wrong command line; everything else that fails gives 1.
const USAGE: u8 = 2;

/// A mistake in how the program was called, found after parsing.
#[derive(Debug)]
struct UsageError(String);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    if let Err(error) = octet_kernels::Level::wanted() {
        complain(&error.to_string());
        return ExitCode::from(1);
    }
    let result = match cli.command {
        Command::Inspect(args) => inspect::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Generate(args) => generate::run(args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Chat(args) => chat::run(args),
        Command::Bench(args) => bench::run(&args),
        Command::Synth(args) => synth::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Models(args) => models::run(&args.command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough (`octet ... | head`).
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let code = if error.is::<UsageError>() { USAGE } else { 1 };
            // Messages name their causes themselves.
            complain(&output::with_hint(
                &message_of(&error),
                hint_of(&error).as_deref(),
            ));
            ExitCode::from(code)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(broken))
}

/// What went wrong. A plan that is refused names the options that would help.
fn message_of(error: &anyhow::Error) -> String {
    match error.downcast_ref::<EngineError>() {
        Some(EngineError::Plan(error)) => plan_text::error(error),
        _ => error.to_string(),
    }
}

/// What the engine advises.
fn hint_of(error: &anyhow::Error) -> Option<Cow<'static, str>> {
    error.chain().find_map(|cause| {
        let engine = cause.downcast_ref::<EngineError>();
        let checkpoint = cause.downcast_ref::<CheckpointError>();
        engine
            .and_then(EngineError::hint)
            .or_else(|| checkpoint.and_then(CheckpointError::hint).map(Cow::from))
    })
}

/// One line on standard error, whatever the message holds.
fn complain(message: &str) {
    let line: Vec<&str> = message.split_whitespace().collect();
    output::note(&line.join(" "));
}

/// What clap says, with what was given cut where it is long.
fn with_short_values(error: &clap::Error) -> String {
    let kinds = [
        ContextKind::InvalidValue,
        ContextKind::InvalidArg,
        ContextKind::InvalidSubcommand,
    ];
    let mut text = error.to_string();
    for kind in kinds {
        if let Some(ContextValue::String(given)) = error.get(kind) {
            text = text.replace(given.as_str(), &shorten(given));
        }
    }
    text
}

/// Help and version as they are; a mistake in one line.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(USAGE)
        }
        _ => {
            let text = with_short_values(error);
            let what: Vec<&str> = text
                .lines()
                .take_while(|line| !line.starts_with("Usage:") && !line.contains("'--help'"))
                .map(str::trim)
                // How to pass as a value what was meant as an option helps nobody.
                .filter(|line| !line.is_empty() && !line.starts_with("tip: to pass"))
                .collect();
            let what = what.join(" ").replace(" tip: ", ": ");
            let what = what.strip_prefix("error: ").unwrap_or(&what);
            complain(&format!("{what} (octet --help shows the options)"));
            ExitCode::from(USAGE)
        }
    }
}
