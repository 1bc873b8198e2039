//! `octet synth`: a random checkpoint.

use std::io::Write;

use indicatif::{ProgressBar, ProgressStyle};
use octet_engine::checkpoint::{Checkpoint, QuantKind, WeightKind};
use octet_engine::plan::format_bytes;
use octet_engine::synth::{GgufSynthOptions, SynthOptions, synth, synth_gguf};

use crate::args::{SynthArgs, SynthFormat};
use crate::output::{count, note, stdout};

pub fn run(args: &SynthArgs) -> anyhow::Result<()> {
    let mut options = SynthOptions {
        layers: args.layers,
        seed: args.seed,
        ..SynthOptions::default()
    };
    options.experts.bits = args.expert_bits;
    options.experts.group_size = args.expert_group;
    options.attention.bits = args.attention_bits;
    options.attention.group_size = args.attention_group;

    let style =
        "{bar:32} {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left";
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(style)?);
    let progress = &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let summary = match args.format {
        SynthFormat::Hqq => synth(&args.config, &args.out, &options, progress)?,
        SynthFormat::Gguf => {
            let options = GgufSynthOptions {
                layers: args.layers,
                seed: args.seed,
                experts: args.experts,
                attention: args.attention_type,
                output: args.output_type,
            };
            synth_gguf(&args.config, &args.out, &options, progress)?
        }
    };
    bar.finish_and_clear();
    let mut out = stdout();
    writeln!(
        out,
        "{}: {}, {}, {}",
        args.out.display(),
        count(summary.n_layers, "layer"),
        count(summary.files, "file"),
        format_bytes(summary.bytes)
    )?;
    // Groups are fitted to each matrix, so only the files tell what was taken.
    let quant = Checkpoint::open(&args.out)?.quant_summary();
    for (name, option, asked, kinds) in [
        (
            "Experts",
            "--expert-group",
            args.expert_group,
            &quant.experts,
        ),
        (
            "Attention",
            "--attention-group",
            args.attention_group,
            &quant.attention,
        ),
    ] {
        for kind in kinds {
            writeln!(out, "{name:<10} {kind}")?;
            if let WeightKind::Hqq(QuantKind { group_size, .. }) = kind
                && *group_size != asked
            {
                note(&format!(
                    "{option} {asked} does not divide every matrix: {group_size} was taken"
                ));
            }
        }
    }
    Ok(())
}
