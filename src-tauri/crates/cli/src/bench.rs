//! `octet bench`: speed, hit rates and memory of a model on this machine.
//!
//! Prompt and decoded tokens are random, as llama-bench has them: sampling is not measured, and
//! the routing printed beside says what a cache figure is worth.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::Instant;

use octet_engine::experts::{ExpertStats, RoutingSummary};
use octet_engine::model::{Logits, Mixtral, PREFILL_CHUNK};
use octet_engine::plan::format_bytes;
use octet_engine::tokenizer::TokenId;
use octet_engine::{EngineError, Loaded};
use serde_json::json;

use crate::UsageError;
use crate::args::BenchArgs;
use crate::peak_rss::peak_rss_bytes;

/// Tokens run first and not counted: they bring pages and threads in.
const WARM_UP: usize = 16;

/// One measured run.
struct Run {
    prefill_tok_s: f64,
    decode_tok_s: f64,
    prefill: ExpertStats,
    decode: ExpertStats,
    routing: RoutingSummary,
}

pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    if args.prompt_tokens == 0 || args.repeat == 0 {
        let what = "--prompt-tokens and --repeat must be at least 1";
        return Err(UsageError(what.into()).into());
    }
    let loaded = args.engine.load()?;
    let wanted = args.prompt_tokens + args.new_tokens;
    if wanted > loaded.plan.ctx {
        return Err(EngineError::ContextFull {
            capacity: loaded.plan.ctx,
            wanted,
        }
        .into());
    }
    measure(&loaded.model, WARM_UP.min(args.prompt_tokens), 2, args.seed)?;
    let runs = (0..args.repeat)
        .map(|i| {
            let seed = args.seed + 1 + i as u64;
            measure(&loaded.model, args.prompt_tokens, args.new_tokens, seed)
        })
        .collect::<Result<Vec<_>, _>>()?;
    report(args, &loaded, &runs)?;
    Ok(())
}

fn measure(model: &Mixtral, prompt: usize, new: usize, seed: u64) -> Result<Run, EngineError> {
    let vocab = model.config().vocab_size as u64;
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    let mut token = || {
        // splitmix64 (Steele, Lea and Flood, 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        TokenId(((z ^ z >> 31) % vocab) as u32)
    };
    let tokens: Vec<TokenId> = (0..prompt).map(|_| token()).collect();
    let mut session = model.session(prompt + new);
    let go_on = &mut |_| ControlFlow::Continue(());
    let start = model.experts().stats();
    let clock = Instant::now();
    for chunk in tokens.chunks(PREFILL_CHUNK) {
        model.forward(&mut session, chunk, Logits::Last, go_on)?;
    }
    let prefill_tok_s = prompt as f64 / clock.elapsed().as_secs_f64();
    let middle = model.experts().stats();
    let clock = Instant::now();
    for _ in 0..new {
        model.forward(&mut session, &[token()], Logits::Last, go_on)?;
    }
    let decode_tok_s = new as f64 / clock.elapsed().as_secs_f64();
    let end = model.experts().stats();
    Ok(Run {
        prefill_tok_s,
        decode_tok_s,
        prefill: middle - start,
        decode: end - middle,
        routing: session.routing.summary(),
    })
}

fn median(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn report(args: &BenchArgs, loaded: &Loaded, runs: &[Run]) -> anyhow::Result<()> {
    let prefill_tok_s = median(runs, |run| run.prefill_tok_s);
    let decode_tok_s = median(runs, |run| run.decode_tok_s);
    let Run {
        prefill,
        decode,
        routing,
        ..
    } = &runs[runs.len() - 1];
    let bytes_moved = |stats: &ExpertStats| {
        stats.ram.bytes_moved + stats.device.map_or(0, |device| device.bytes_moved)
    };
    let threads = loaded.model.pool().threads();
    let mut out = io::stdout().lock();
    if args.json {
        let report = json!({
            "prefill_tok_s": prefill_tok_s,
            "decode_tok_s": decode_tok_s,
            "hit_rate": {
                "ram": decode.ram.hit_rate(),
                "device": decode.device.and_then(|device| device.hit_rate()),
            },
            "bytes_moved": bytes_moved(decode),
            "peak_rss": peak_rss_bytes(),
            "prompt_tokens": args.prompt_tokens,
            "new_tokens": args.new_tokens,
            "repeat": args.repeat,
            "threads": threads,
            "kernels": octet_kernels::features(),
            "experts": { "prefill": prefill, "decode": decode },
            "routing": routing,
            "ram_slots": loaded.plan.ram_slots,
        });
        writeln!(out, "{report}")?;
        return Ok(());
    }
    writeln!(out, "Threads    {threads} ({})", octet_kernels::features())?;
    writeln!(
        out,
        "Prefill    {prefill_tok_s:.1} tokens/s over {}",
        args.prompt_tokens
    )?;
    writeln!(
        out,
        "Decode     {decode_tok_s:.2} tokens/s over {}",
        args.new_tokens
    )?;
    if let Some(slots) = loaded.plan.ram_slots {
        writeln!(
            out,
            "RAM tier   {slots} slots of {}",
            loaded.plan.total_experts()
        )?;
    }
    let tiers = [("RAM", Some(decode.ram)), ("Device", decode.device)];
    for (name, tier) in tiers
        .into_iter()
        .filter_map(|(name, tier)| Some((name, tier?)))
    {
        let rate = tier.hit_rate().unwrap_or(0.0) * 100.0;
        writeln!(
            out,
            "{name:<10} {rate:.0}% hits ({} of {}); prefetches {}, of them {} used, {} wasted; {} moved; {:.2} s waited",
            tier.hits,
            tier.hits + tier.misses,
            tier.prefetches,
            tier.prefetch_hits,
            tier.prefetch_wasted,
            format_bytes(tier.bytes_moved),
            tier.wait_ns as f64 / 1e9,
        )?;
    }
    writeln!(
        out,
        "Routing    {:.0}% of experts kept from the token before, {:.1} distinct a layer",
        routing.kept_from_previous * 100.0,
        routing.distinct_per_layer,
    )?;
    if let Some(peak) = peak_rss_bytes() {
        writeln!(out, "Peak RSS   {}", format_bytes(peak))?;
    }
    Ok(())
}
