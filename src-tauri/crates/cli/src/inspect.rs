//! `octet inspect`: what a model is, and what it would take of this machine.

use std::io::Write;
use std::path::Path;

use octet_engine::EngineError;
use octet_engine::checkpoint::Checkpoint;
use octet_engine::hardware::GpuStatus;
use octet_engine::load::{hardware_for, has_tokenizer, open_tokenizer};
use octet_engine::plan::{ModelSizes, format_bytes, make_plan};
use octet_engine::tokenizer::Tokenizer;
use serde_json::json;

use crate::args::InspectArgs;
use crate::load::model_dir;
use crate::output::{count, note, stdout};
use crate::{plan_report, plan_text};

pub fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let dir = model_dir(&args.engine)?;
    let checkpoint = Checkpoint::open(&dir)?;
    let hardware = hardware_for(&checkpoint);
    let sizes = ModelSizes::of(&checkpoint);
    let plan = make_plan(&sizes, &hardware, &args.engine.options().plan);
    let (c, quant, files) = (
        checkpoint.spec(),
        checkpoint.quant_summary(),
        checkpoint.files(),
    );
    if let Some(text) = checkpoint.note() {
        note(text);
    }
    let given = match args.engine.tokenizer() {
        Some(path) => Some((path, tokenizer_tokens(path, c.vocab_size)?)),
        None => None,
    };
    // One in a GGUF file has to be read, for it may be none that is known.
    let own = checkpoint.gguf().map(|_| open_tokenizer(&checkpoint, None));
    let has_tokenizer = given.is_some() || has_tokenizer(&checkpoint);
    let mut out = stdout();
    if args.json {
        let report = json!({
            "config": c,
            "quantization": quant,
            "sizes": {
                "files": files.count,
                "total_bytes": files.bytes,
                "trunk_bytes": checkpoint.trunk_bytes(),
                "experts_bytes": checkpoint.experts_total_bytes(),
                "expert_bytes": checkpoint.expert_bytes(),
                "kv_bytes_per_token": sizes.kv_bytes_per_token,
            },
            "tokenizer": has_tokenizer,
            "hardware": plan_report::hardware_json(&hardware),
            "plan": plan.as_ref().ok().map(plan_report::json),
            "plan_error": plan.as_ref().err().map(plan_text::error),
        });
        writeln!(out, "{report:#}")?;
        return Ok(());
    }
    writeln!(out, "Model      {}", dir.display())?;
    if checkpoint.gguf().is_some() {
        writeln!(out, "Family     {}, GGUF", c.family)?;
    }
    writeln!(
        out,
        "Shape      {}, hidden {}, intermediate {}, {} heads ({} kv), {} experts ({} used per token), vocabulary {}, context {}",
        count(c.n_layers, "layer"),
        c.hidden_size,
        c.intermediate_size,
        c.n_heads,
        c.n_kv_heads,
        c.n_experts,
        c.top_k,
        c.vocab_size,
        c.max_positions,
    )?;
    for (name, kinds) in [("Experts", &quant.experts), ("Attention", &quant.attention)] {
        for kind in kinds {
            writeln!(out, "{name:<10} {kind}")?;
        }
    }
    let most = checkpoint.expert_bytes() as u64;
    let lengths = checkpoint
        .expert_ids()
        .map(|id| checkpoint.expert_len(id) as u64);
    let least = lengths.min().unwrap_or(most);
    writeln!(
        out,
        "Files      {}, {}: trunk {}, {} of {}{}",
        count(files.count, "file"),
        format_bytes(files.bytes),
        format_bytes(checkpoint.trunk_bytes()),
        count(c.n_layers * c.n_experts, "expert"),
        match least < most {
            true => format!("{} to ", format_bytes(least)),
            false => String::new(),
        },
        format_bytes(most),
    )?;
    if least < most {
        let slots = most * (c.n_layers * c.n_experts) as u64;
        let padding = 100.0 * (1.0 - checkpoint.experts_total_bytes() as f64 / slots as f64);
        writeln!(
            out,
            "Slots      as large as the largest expert: {padding:.0}% padding"
        )?;
    }
    let tokenizer = match (given, own) {
        (Some((path, tokens)), _) => format!("{}, {tokens} tokens", path.display()),
        (None, Some(Ok(Some(own)))) => format!("in the file, {} tokens", own.vocab_size()),
        (None, Some(Err(error))) => format!("none that can be used: {error} (--tokenizer FILE)"),
        (None, _) if has_tokenizer => "tokenizer.json".to_owned(),
        (None, Some(_)) => "none in the file (--tokenizer FILE, or --tokens)".to_owned(),
        (None, None) => "none in the folder (--tokenizer FILE, or --tokens)".to_owned(),
    };
    writeln!(out, "Tokenizer  {tokenizer}")?;
    writeln!(
        out,
        "Machine    {}, {} ({}); RAM {}, {} available",
        hardware.cpu.brand,
        count(hardware.cpu.physical_cores, "core"),
        octet_kernels::features(),
        format_bytes(hardware.ram_total_bytes),
        format_bytes(hardware.ram_available_bytes),
    )?;
    match &hardware.gpu {
        GpuStatus::Absent { reason } => writeln!(out, "GPU        none: {reason}")?,
        GpuStatus::Found(gpus) => {
            for gpu in gpus {
                let note = match &gpu.problem {
                    Some(problem) => problem.to_string(),
                    None => "usable".to_owned(),
                };
                let free = format_bytes(gpu.vram_free_bytes);
                writeln!(out, "GPU        {}, {free} free: {note}", gpu.name)?;
            }
        }
    }
    match plan {
        Ok(plan) => writeln!(out, "\n{}", plan_report::table(&plan))?,
        Err(error) => writeln!(out, "\nNo plan: {}", plan_text::error(&error))?,
    }
    Ok(())
}

/// Tokens of the tokenizer in `path`, which has to be the model's.
fn tokenizer_tokens(path: &Path, model: usize) -> anyhow::Result<usize> {
    let opened = Tokenizer::open(path)?;
    let tokenizer = opened.vocab_size();
    if !opened.fits(model) {
        return Err(EngineError::TokenizerMismatch { tokenizer, model }.into());
    }
    if let Some(text) = opened.note() {
        note(text);
    }
    Ok(tokenizer)
}
