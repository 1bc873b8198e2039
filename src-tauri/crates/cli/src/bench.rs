//! `octet bench`: speed, hit rates and memory of a model on this machine.
//!
//! Prompt and decoded tokens are random, as llama-bench has them: sampling is not measured, and
//! the routing printed beside says what a cache figure is worth. Because random weights route
//! almost uniformly, a second run has tokens keep experts of the token before
//! ([`RoutingReuse`]), as real text does.

use std::fs;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use octet_engine::calibration::{Calibration, CalibrationCache};
use octet_engine::experts::{ExpertStats, RoutingSummary, TierStats};
use octet_engine::model::{Decoder, Logits, PREFILL_CHUNK};
use octet_engine::plan::{Placement, format_bytes};
use octet_engine::routing_reuse::RoutingReuse;
use octet_engine::tokenizer::TokenId;
use octet_engine::{EngineError, LoadOptions, Loaded};
use serde_json::{Value, json};

use crate::args::BenchArgs;
use crate::load::load_all;
use crate::output::{note, stdout};
use crate::peak_rss::peak_rss_bytes;
use crate::peak_vram::PeakVram;
use crate::{plan_report, plan_text};

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

/// All runs with the same routing: medians of speeds, the counters of the last.
struct Figures {
    prefill_tok_s: f64,
    decode_tok_s: f64,
    last: Run,
}

/// What was measured, and on what.
struct Report<'a> {
    args: &'a BenchArgs,
    loaded: &'a Loaded,
    /// With the model's own routing.
    untouched: Figures,
    reuse: Option<(RoutingReuse, Figures)>,
    peak_vram_bytes: Option<u64>,
}

pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let peak_vram = PeakVram::start();
    let options = LoadOptions {
        calibrate: args.calibrate,
        ..args.engine.options()
    };
    let loaded = load_all(&args.engine, options)?;
    let wanted = args.prompt_tokens + args.new_tokens;
    if wanted > loaded.plan.ctx {
        let c = loaded.model.spec();
        return Err(EngineError::context_full(c, loaded.plan.ctx, wanted, 0).into());
    }
    let reuse = (args.routing_reuse > 0.0).then_some(RoutingReuse {
        p: args.routing_reuse,
        seed: args.seed as u32,
    });
    let model = &loaded.model;
    measure(model, WARM_UP.min(args.prompt_tokens), 2, args.seed, None)?;
    let figures = |reuse| -> Result<Figures, EngineError> {
        let runs = (0..args.repeat)
            .map(|i| {
                let seed = args.seed + 1 + i as u64;
                measure(model, args.prompt_tokens, args.new_tokens, seed, reuse)
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Figures::of(runs))
    };
    let untouched = figures(None)?;
    let reuse = match reuse {
        Some(reuse) => Some((reuse, figures(Some(reuse))?)),
        None => None,
    };
    let peak_vram_bytes = match &loaded.plan.device {
        Placement::Cuda { uuid, .. } => peak_vram.bytes(uuid),
        Placement::Cpu => None,
    };
    let report = Report {
        args,
        loaded: &loaded,
        untouched,
        reuse,
        peak_vram_bytes,
    };
    let mut out = stdout();
    if args.json {
        if args.calibrate
            && let (Some(path), Some(calibration)) =
                (CalibrationCache::of_user().path(), &loaded.calibration)
            && let Some(why) = unkept(path, calibration)
        {
            note(&format!("{} could not be written: {why}", path.display()));
        }
        writeln!(out, "{}", report.json())?;
        return Ok(());
    }
    Ok(report.print(&mut out)?)
}

fn measure(
    model: &Decoder,
    prompt: usize,
    new: usize,
    seed: u64,
    reuse: Option<RoutingReuse>,
) -> Result<Run, EngineError> {
    let vocab = model.spec().vocab_size as u64;
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
    session.router_hook = reuse.map(|reuse| Box::new(reuse) as _);
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

impl Figures {
    fn of(mut runs: Vec<Run>) -> Self {
        Self {
            prefill_tok_s: median(&runs, |run| run.prefill_tok_s),
            decode_tok_s: median(&runs, |run| run.decode_tok_s),
            last: runs.pop().expect("BUG: --repeat is at least 1"),
        }
    }

    fn json(&self) -> Value {
        let Run {
            prefill,
            decode,
            routing,
            ..
        } = &self.last;
        let device_bytes = decode.device.map_or(0, |device| device.bytes_moved);
        json!({
            "prefill_tok_s": self.prefill_tok_s,
            "decode_tok_s": self.decode_tok_s,
            "hit_rate": {
                "ram": decode.ram.hit_rate(),
                "device": decode.device.and_then(|device| device.hit_rate()),
            },
            "bytes_moved": decode.ram.bytes_moved + device_bytes,
            "device_misses_on_cpu": decode.device.and_then(|device| device.share_met_below()),
            "upload_bytes_per_sec": decode.device.and_then(|device| device.bytes_per_sec()),
            "prefill_upload_bytes_per_sec":
                prefill.device.and_then(|device| device.bytes_per_sec()),
            "experts": { "prefill": prefill, "decode": decode },
            "routing": routing,
        })
    }

    fn print(&self, out: &mut impl Write, args: &BenchArgs) -> io::Result<()> {
        let (prompt, new) = (args.prompt_tokens, args.new_tokens);
        writeln!(
            out,
            "Prefill    {:.1} tokens/s over {prompt}",
            self.prefill_tok_s
        )?;
        if new == 0 {
            return writeln!(out, "Decode     not measured");
        }
        writeln!(
            out,
            "Decode     {:.2} tokens/s over {new}",
            self.decode_tok_s
        )?;
        let Run {
            decode, routing, ..
        } = &self.last;
        if let Some(device) = &decode.device {
            print_tier(out, "GPU", device)?;
            let fetched = device.misses - device.met_below;
            write!(
                out,
                "Misses     {fetched} fetched, {} on the CPU",
                device.met_below
            )?;
            match device.bytes_per_sec() {
                Some(speed) => writeln!(out, "; {}/s while fetching", format_bytes(speed as u64))?,
                None => writeln!(out)?,
            }
        }
        print_tier(out, "RAM", &decode.ram)?;
        writeln!(
            out,
            "Routing    {:.0}% of experts reused from the previous token, {:.1} distinct per layer",
            routing.kept_from_previous * 100.0,
            routing.distinct_per_layer,
        )
    }
}

fn print_tier(out: &mut impl Write, name: &str, tier: &TierStats) -> io::Result<()> {
    writeln!(
        out,
        "{name:<10} {:.0}% of {} found there, {:.0}% prefetched; {} prefetches, {} used, {} wasted; {} moved; {:.2} s waiting",
        tier.kept_rate().unwrap_or(0.0) * 100.0,
        tier.hits + tier.misses,
        (tier.hit_rate().unwrap_or(0.0) - tier.kept_rate().unwrap_or(0.0)) * 100.0,
        tier.prefetches,
        tier.prefetch_hits,
        tier.prefetch_wasted,
        format_bytes(tier.bytes_moved),
        tier.wait_ns as f64 / 1e9,
    )
}

impl Report<'_> {
    /// The figures with the model's own routing, and the others as an object of their own.
    fn json(&self) -> Value {
        let Self { args, loaded, .. } = self;
        let plan = &loaded.plan;
        let mut report = self.untouched.json();
        let reuse = self.reuse.as_ref().map(|(reuse, figures)| {
            let mut object = figures.json();
            object["p"] = json!(reuse.p);
            object
        });
        let rest = json!({
            "routing_reuse": reuse,
            "peak_rss": peak_rss_bytes(),
            "peak_vram": self.peak_vram_bytes,
            "planned_vram": plan.gpu.as_ref().map(|gpu| gpu.used_bytes),
            "device": plan.device,
            "gpu_slots": plan.gpu.as_ref().map(|_| plan.total_gpu_slots),
            "experts_on_gpu_per_layer":
                plan.gpu.as_ref().map(|_| plan.experts_on_gpu_per_layer()),
            "misses": plan.misses,
            "prefetch": plan.prefetch,
            "calibration": loaded.calibration,
            "prompt_tokens": args.prompt_tokens,
            "new_tokens": args.new_tokens,
            "repeat": args.repeat,
            "threads": loaded.model.pool().threads(),
            "kernels": octet_kernels::features(),
            "ram_slots": plan.ram_slots,
            "warnings": plan_report::warnings_json(plan),
        });
        if let (Value::Object(report), Value::Object(rest)) = (&mut report, rest) {
            report.extend(rest);
        }
        report
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { args, loaded, .. } = self;
        let plan = &loaded.plan;
        let threads = loaded.model.pool().threads();
        writeln!(out, "Device     {}", plan_text::device(&plan.device))?;
        writeln!(out, "Threads    {threads} ({})", octet_kernels::features())?;
        if plan.gpu.is_some() {
            writeln!(
                out,
                "VRAM tier  {} slots of {} ({:.1} per layer); misses {}, prefetch {}",
                plan.total_gpu_slots,
                plan.total_experts(),
                plan.experts_on_gpu_per_layer(),
                plan.misses,
                plan.prefetch,
            )?;
        }
        if let Some(slots) = plan.ram_slots {
            writeln!(out, "RAM tier   {slots} slots of {}", plan.total_experts())?;
        }
        if let Some(calibration) = &loaded.calibration {
            print_calibration(out, calibration)?;
        }
        writeln!(out)?;
        if let Some((reuse, figures)) = &self.reuse {
            writeln!(out, "With the model's own routing:")?;
            self.untouched.print(out, args)?;
            writeln!(
                out,
                "\nWith routing that reuses each expert of the previous token with probability {}:",
                reuse.p
            )?;
            figures.print(out, args)?;
        } else {
            self.untouched.print(out, args)?;
        }
        writeln!(out)?;
        if let (Some(gpu), Some(peak)) = (&plan.gpu, self.peak_vram_bytes) {
            writeln!(
                out,
                "Peak VRAM  {} ({} planned)",
                format_bytes(peak),
                format_bytes(gpu.used_bytes)
            )?;
        }
        if let Some(peak) = peak_rss_bytes() {
            writeln!(out, "Peak RSS   {}", format_bytes(peak))?;
        }
        for warning in &plan.warnings {
            writeln!(out, "Note       {}", plan_text::warning(warning))?;
        }
        Ok(())
    }
}

fn print_calibration(out: &mut impl Write, calibration: &Calibration) -> io::Result<()> {
    let speed = |bytes_per_sec: f64| format!("{}/s", format_bytes(bytes_per_sec as u64));
    let upload = calibration.upload_bytes_per_sec.map_or_else(
        || "no GPU to copy to".to_owned(),
        |s| format!("{} to the GPU", speed(s)),
    );
    let cpu = speed(calibration.cpu_bytes_per_sec);
    writeln!(out, "Misses at  {cpu} on the CPU, {upload}")?;
    match CalibrationCache::of_user().path() {
        Some(path) => match unkept(path, calibration) {
            None => writeln!(out, "           kept in {}", path.display()),
            Some(why) => writeln!(
                out,
                "           could not be kept in {}: {why}; OCTET_CACHE_DIR names another folder",
                path.display()
            ),
        },
        None => Ok(()),
    }
}

/// Why `calibration` is not in the file at `path`; `None` where it is. The engine goes on without
/// a word if it cannot write the file.
fn unkept(path: &Path, calibration: &Calibration) -> Option<String> {
    let kept = || -> Option<bool> {
        let file: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        let entries = file["entries"].as_array()?;
        // A number may come back from text a rounding step away.
        let is_it = |entry: &Value| {
            let speed = entry["calibration"]["cpu_bytes_per_sec"].as_f64();
            speed.is_some_and(|speed| (speed / calibration.cpu_bytes_per_sec - 1.0).abs() < 1e-9)
        };
        Some(entries.iter().any(is_it))
    };
    if kept() == Some(true) {
        return None;
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let probe = folder.join(format!(".octet-{}.tmp", std::process::id()));
    let tried = fs::create_dir_all(folder).and_then(|()| fs::write(&probe, b"octet"));
    // It may never have been there.
    let _ = fs::remove_file(&probe);
    Some(tried.map_or_else(
        |error| error.to_string(),
        |()| "the file does not hold what was measured".to_owned(),
    ))
}
