//! `octet synth`: a random checkpoint in the demo format.

use indicatif::{ProgressBar, ProgressStyle};
use octet_engine::plan::format_bytes;
use octet_engine::synth::{SynthOptions, synth};
use octet_kernels::Bits;

use crate::UsageError;
use crate::args::SynthArgs;

pub fn run(args: &SynthArgs) -> anyhow::Result<()> {
    let mut options = SynthOptions {
        layers: args.layers,
        seed: args.seed,
        ..SynthOptions::default()
    };
    options.experts.bits = bits(args.expert_bits)?;
    options.experts.group_size = args.expert_group;
    options.attention.bits = bits(args.attention_bits)?;
    options.attention.group_size = args.attention_group;

    let style = "{bar:32} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(style)?);
    let summary = synth(&args.config, &args.out, &options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    println!(
        "{}: {} layers, {} files, {}",
        args.out.display(),
        summary.n_layers,
        summary.files,
        format_bytes(summary.bytes)
    );
    Ok(())
}

pub fn bits(count: u32) -> Result<Bits, UsageError> {
    match count {
        2 => Ok(Bits::B2),
        3 => Ok(Bits::B3),
        4 => Ok(Bits::B4),
        8 => Ok(Bits::B8),
        _ => Err(UsageError(format!("{count} bits: choose 2, 3, 4 or 8"))),
    }
}
