//! `octet quantize`: a float Mixtral into the demo format.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use octet_engine::plan::format_bytes;
use octet_quantize::{Observer, Options, PartOptions, PartSummary, Plan, Progress, Summary};

use crate::args::QuantizeArgs;
use crate::interrupt::on_interrupt;
use crate::output::{count, note, note_threads, stdout};
use crate::peak_rss::peak_rss_bytes;

pub fn run(args: &QuantizeArgs) -> anyhow::Result<()> {
    let part = |bits, group_size, scale_group: usize| PartOptions {
        bits,
        group_size,
        scale_group_size: (scale_group > 0).then_some(scale_group),
    };
    let default = Options::default();
    let options = Options {
        experts: part(args.expert_bits, args.expert_group, args.expert_scale_group),
        attention: part(
            args.attention_bits,
            args.attention_group,
            args.attention_scale_group,
        ),
        round_to_nearest: args.round_to_nearest,
        threads: args.threads.map_or(default.threads, usize::from),
    };
    note_threads(args.threads);
    let plan = Plan::new(&args.source, &options)?;
    plan.check_out(&args.out)?;
    if args.dry_run {
        show_plan(args, &plan)?;
        let estimate = plan.estimate()?;
        let per_core = estimate.bytes_per_sec / plan.workers() as f64;
        return Ok(writeln!(
            stdout(),
            "Time       about {} ({}/s of source per thread, by a slice of the last expert)",
            HumanDuration(Duration::from_secs_f64(estimate.seconds)),
            format_bytes(per_core as u64),
        )?);
    }
    if io::stdout().is_terminal() {
        show_plan(args, &plan)?;
    }

    let stop = Arc::new(AtomicBool::new(false));
    let style = "{bar:32} {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left, {msg}";
    let bar = ProgressBar::no_length().with_style(ProgressStyle::with_template(style)?);
    let (interrupted, shown) = (Arc::clone(&stop), bar.clone());
    on_interrupt(move || {
        interrupted.store(true, Ordering::Relaxed);
        shown.suspend(|| {
            note("stopping after the matrices at work (again: at once, as safe)");
        });
    })?;
    let watch = Watch {
        bar: bar.clone(),
        begun: Once::new(),
        stop,
    };
    let result = plan.run(&args.out, &watch);
    bar.finish_and_clear();
    show_summary(args, &result?)
}

/// The bar, and the wish to stop.
struct Watch {
    bar: ProgressBar,
    begun: Once,
    stop: Arc<AtomicBool>,
}

impl Observer for Watch {
    fn progress(&self, progress: &Progress) {
        self.begun.call_once(|| {
            self.bar.set_length(progress.total_bytes);
            // What earlier runs did tells nothing of this one's speed.
            self.bar.set_position(progress.kept_bytes);
            self.bar.reset_eta();
            self.bar.enable_steady_tick(Duration::from_millis(500));
        });
        self.bar.set_position(progress.done_bytes);
        self.bar.set_message(format!(
            "{} of {} files",
            progress.files_done, progress.files
        ));
    }

    fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn show_plan(args: &QuantizeArgs, plan: &Plan) -> io::Result<()> {
    let mut out = stdout();
    let c = plan.spec();
    writeln!(
        out,
        "Source     {}: {}, {}, {} in {} ({})",
        args.source.display(),
        count(c.n_layers, "layer"),
        count(c.n_experts, "expert"),
        format_bytes(plan.source_bytes()),
        count(plan.source_files(), "file"),
        plan.source_form(),
    )?;
    let (trunk, expert) = plan.file_bytes();
    writeln!(
        out,
        "Output     {}: {} in {}: trunk {}, {} of {}",
        args.out.display(),
        format_bytes(plan.output_bytes()),
        count(plan.files(), "file"),
        format_bytes(trunk),
        count(plan.files() - 1, "expert"),
        format_bytes(expert),
    )?;
    writeln!(
        out,
        "Work       {}, {} of memory",
        count(plan.workers(), "thread"),
        format_bytes(plan.memory_bytes()),
    )
}

fn show_summary(args: &QuantizeArgs, summary: &Summary) -> anyhow::Result<()> {
    let mut out = stdout();
    for (name, part) in [
        ("Experts", &summary.experts),
        ("Attention", &summary.attention),
    ] {
        let PartSummary {
            matrices,
            bytes,
            mean_error,
            max_error,
            worst,
        } = part;
        writeln!(
            out,
            "{name:<10} {matrices} matrices in {}; relative error {mean_error:.4} on average, at \
             most {max_error:.4} ({worst})",
            format_bytes(*bytes),
        )?;
    }
    let kept = match summary.kept_files {
        0 => String::new(),
        kept => format!(", {kept} of them from before"),
    };
    writeln!(
        out,
        "Written    {}: {}, {}{kept}; read back and opened by the engine",
        args.out.display(),
        count(summary.files, "file"),
        format_bytes(summary.bytes),
    )?;
    if let Some(rate) = summary.bytes_per_sec_per_worker() {
        writeln!(
            out,
            "Time       {:.1} s: {} of source by {}, {}/s each",
            summary.elapsed.as_secs_f64(),
            format_bytes(summary.source_bytes),
            count(summary.workers, "thread"),
            format_bytes(rate as u64),
        )?;
    }
    if let Some(peak) = peak_rss_bytes() {
        writeln!(out, "Peak RSS   {}", format_bytes(peak))?;
    }
    if !args.out.join("tokenizer.json").is_file() {
        writeln!(
            out,
            "Tokenizer  none in {}: put the model's tokenizer.json into {} before a chat",
            args.source.display(),
            args.out.display()
        )?;
    }
    writeln!(out, "Use it     octet chat --model {}", args.out.display())?;
    Ok(())
}
