//! `octet generate`: one prompt, one answer.

use std::io::{self, IsTerminal, Write};

use octet_engine::generate::{DoneReason, Event, Stats};
use octet_engine::tokenizer::TokenId;
use octet_engine::{Engine, Failure, Generation};
use serde_json::json;

use crate::args::GenerateArgs;
use crate::interrupt::on_interrupt;
use crate::load::load;
use crate::output::{count, dim, note, stdout, with_hint};
use crate::plan_text;
use crate::prompt_bar::PromptBar;

/// New tokens where the user sets no limit: random weights, and some models, never end.
const MAX_NEW_TOKENS: usize = 512;

/// What an answer came to.
pub struct Answer {
    pub tokens: Vec<TokenId>,
    pub text: String,
    pub reason: DoneReason,
    pub stats: Stats,
}

pub fn run(args: GenerateArgs) -> anyhow::Result<()> {
    let mut request = args
        .sampling
        .request(args.input.input()?, Some(MAX_NEW_TOKENS))?;
    request.began_at_ms = args.date;
    let loaded = load(&args.engine)?;
    let has_tokenizer = loaded.tokenizer.is_some();
    for warning in &loaded.plan.warnings {
        note(&plan_text::warning(warning));
    }
    let most = request.max_new_tokens.unwrap_or(MAX_NEW_TOKENS);
    let engine = Engine::start(loaded);
    let generation = engine.generate(request);
    let cancel = generation.cancel_handle();
    on_interrupt(move || cancel.cancel())?;

    let json = args.json;
    let mut out = stdout();
    let answer = follow(generation, &mut |id, text| {
        match (json, has_tokenizer, id) {
            (true, ..) => return Ok(()),
            (false, true, _) => write!(out, "{text}")?,
            (false, false, Some(id)) => write!(out, "{} ", id.0)?,
            (false, false, None) => {}
        }
        out.flush()
    })?;
    if json {
        let report = json!({
            "tokens": answer.tokens,
            "text": answer.text,
            "reason": answer.reason,
            "stats": answer.stats,
        });
        writeln!(out, "{report}")?;
    } else {
        writeln!(out)?;
        match answer.reason {
            DoneReason::Length => dim(&format!(
                "[cut after {}: --max-new-tokens sets the limit]",
                count(most, "token")
            )),
            DoneReason::ContextFull => {
                dim("[cut: the context is full; --ctx sets its length]");
            }
            DoneReason::Cancelled => dim("[stopped]"),
            DoneReason::Eos | DoneReason::Stop => {}
        }
        if io::stderr().is_terminal() {
            dim(&summary(&answer.stats));
        }
    }
    Ok(())
}

/// Reads a generation to its end, showing a bar while the prompt is computed and handing on text
/// as it comes.
pub fn follow(
    mut generation: Generation,
    show: &mut dyn FnMut(Option<TokenId>, &str) -> io::Result<()>,
) -> anyhow::Result<Answer> {
    let (mut tokens, mut all) = (Vec::new(), String::new());
    let mut bar = PromptBar::new()?;
    while let Some(event) = generation.next_blocking() {
        match event {
            Event::Started { .. } => {}
            Event::ContextShift {
                dropped_messages, ..
            } => {
                bar.clear();
                bar.end_line();
                note(&match dropped_messages {
                    1 => "the context is full: the oldest message was dropped".to_owned(),
                    n => format!("the context is full: the {n} oldest messages were dropped"),
                });
            }
            Event::Prefill {
                done,
                total,
                fraction,
                seconds_left,
            } => bar.show(done, total, fraction, seconds_left),
            Event::Token { id, text } => {
                bar.clear();
                tokens.push(id);
                show(Some(id), &text)?;
                bar.printed(&text);
                all += &text;
            }
            Event::Done {
                reason,
                text,
                stats,
            } => {
                bar.clear();
                show(None, &text)?;
                return Ok(Answer {
                    tokens,
                    text: all + &text,
                    reason,
                    stats: *stats,
                });
            }
            Event::Error(Failure { message, hint, .. }) => {
                anyhow::bail!(with_hint(&message, hint.as_deref()))
            }
        }
    }
    anyhow::bail!("the engine stopped without an answer: run it again with RUST_BACKTRACE=1")
}

/// The figures of an answer in one line.
pub fn summary(stats: &Stats) -> String {
    let mut line = format!(
        "{}, {:.1} tokens/s, first after {:.2} s, prompt {} ({} reused)",
        count(stats.new_tokens, "token"),
        stats.decode_tokens_per_sec,
        stats.time_to_first_token_ms / 1e3,
        count(stats.prompt_tokens, "token"),
        stats.reused_tokens,
    );
    let tier = stats.experts.device.unwrap_or(stats.experts.ram);
    if let Some(rate) = tier.kept_rate() {
        line += &format!(", {:.0}% of experts already in memory", rate * 100.0);
        if tier.prefetch_hits > 0 {
            let ahead = tier.hit_rate().unwrap_or_default() - rate;
            line += &format!(" and {:.0}% prefetched", ahead * 100.0);
        }
    }
    line
}
