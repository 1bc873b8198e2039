//! A memory plan as a table for people, and as JSON for programs.

use std::fmt::{self, Write};

use octet_engine::hardware::{GpuStatus, Hardware};
use octet_engine::plan::{Fit, Misses, Plan, TierPlan, format_bytes};
use octet_models::FitView;
use serde_json::{Value, json};

use crate::plan_text;

/// Wide enough for `format_bytes` and a space.
const BYTES_WIDTH: usize = 10;

/// Device, context, memory item by item, and why.
pub fn table(plan: &Plan) -> String {
    let mut text = String::new();
    write_table(&mut text, plan).expect("BUG: a string takes all that is written");
    text
}

fn write_table(out: &mut String, plan: &Plan) -> fmt::Result {
    let name_width = name_width(plan);
    writeln!(out, "device   {}", plan_text::device(&plan.device))?;
    writeln!(out, "context  {} tokens", plan.ctx)?;
    writeln!(out, "experts  {}", experts_line(plan))?;
    if let Some(line) = misses_line(plan) {
        writeln!(out, "misses   {line}")?;
    }
    write!(out, "fit      {}", plan_text::fit(plan.fits))?;
    if let Some(gpu) = &plan.gpu {
        write_tier(out, "VRAM", gpu, name_width)?;
    }
    write_tier(out, "RAM", &plan.ram, name_width)?;
    write_list(out, "why", plan.reasons.iter().map(plan_text::reason))?;
    write_list(
        out,
        "warnings",
        plan.warnings.iter().map(plan_text::warning),
    )
}

fn name_width(plan: &Plan) -> usize {
    let tiers = plan.gpu.iter().chain([&plan.ram]);
    tiers
        .flat_map(|tier| &tier.items)
        .map(|item| plan_text::memory_use(&item.what).chars().count())
        .chain(["limit".len()])
        .max()
        .unwrap_or_default()
}

/// What becomes of experts that the fastest tier lacks; `None` where it has all.
fn misses_line(plan: &Plan) -> Option<String> {
    let ahead = match plan.prefetch {
        0 => "none predicted ahead".to_owned(),
        n => format!("{n} predicted ahead"),
    };
    if plan.gpu.is_none() {
        let lacks = plan.experts_in_ram() < plan.total_experts();
        return lacks.then(|| format!("experts not in RAM: read from disk, {ahead}"));
    }
    let how = match plan.misses {
        Misses::Auto => "copied up or computed on the CPU, whichever is sooner",
        Misses::Fetch => "copied up",
        Misses::Cpu => "computed on the CPU",
    };
    let lacks = plan.total_gpu_slots < plan.total_experts();
    lacks.then(|| format!("experts not in VRAM: {how}, {ahead}"))
}

fn experts_line(plan: &Plan) -> String {
    let total = plan.total_experts();
    let in_ram = match plan.ram_slots {
        None => format!("all {total} in RAM"),
        Some(slots) if slots == total => format!("all {total} in RAM"),
        Some(slots) if plan.total_gpu_slots == total => {
            format!("{slots} pass through RAM at load")
        }
        Some(slots) if plan.needs_no_disk() => format!("{slots} in RAM, none on disk only"),
        Some(slots) => {
            let on_disk = plan.experts_on_disk_only();
            format!("{slots} in RAM, {on_disk} on disk only")
        }
    };
    match plan.gpu {
        None => in_ram,
        Some(_) => format!(
            "{} of {total} in VRAM ({:.1} per layer), {in_ram}",
            plan.total_gpu_slots,
            plan.experts_on_gpu_per_layer()
        ),
    }
}

fn write_tier(out: &mut String, title: &str, tier: &TierPlan, name_width: usize) -> fmt::Result {
    write!(out, "\n\n{title}")?;
    let mut line = |name: &str, bytes: u64| {
        write!(
            out,
            "\n  {name:<name_width$}{:>BYTES_WIDTH$}",
            format_bytes(bytes)
        )
    };
    for item in &tier.items {
        line(&plan_text::memory_use(&item.what), item.bytes)?;
    }
    line("total", tier.used_bytes)?;
    line("limit", tier.limit_bytes)?;
    line("free now", tier.free_bytes)
}

fn write_list(
    out: &mut String,
    title: &str,
    mut sentences: impl ExactSizeIterator<Item = String>,
) -> fmt::Result {
    if sentences.len() == 0 {
        return Ok(());
    }
    write!(out, "\n\n{title}")?;
    sentences.try_for_each(|sentence| write!(out, "\n  - {sentence}"))
}

/// A plan for programs: numbers, and sentences as in [`table`].
pub fn json(plan: &Plan) -> Value {
    json!({
        "device": plan.device,
        "ctx": plan.ctx,
        "n_layers": plan.n_layers,
        "n_experts": plan.n_experts,
        "top_k": plan.top_k,
        "total_gpu_slots": plan.total_gpu_slots,
        "gpu_fetch_slots": plan.gpu_fetch_slots,
        "ram_slots": plan.ram_slots,
        "pinned_slots": plan.pinned_slots,
        "misses": plan.misses,
        "eviction": plan.eviction,
        "prefetch": plan.prefetch,
        "gpu": plan.gpu.as_ref().map(tier_json),
        "ram": tier_json(&plan.ram),
        "fits": match plan.fits {
            Fit::Fits => "fits",
            Fit::Tight => "tight",
            Fit::TooBig => "too_big",
        },
        "reasons": plan.reasons.iter().map(plan_text::reason).collect::<Vec<_>>(),
        "warnings": warnings_json(plan),
    })
}

/// The warnings of a plan, as sentences.
pub fn warnings_json(plan: &Plan) -> Vec<String> {
    plan.warnings.iter().map(plan_text::warning).collect()
}

fn tier_json(tier: &TierPlan) -> Value {
    let items: Vec<Value> = tier
        .items
        .iter()
        .map(|item| json!({ "name": plan_text::memory_use(&item.what), "bytes": item.bytes }))
        .collect();
    json!({
        "items": items,
        "used_bytes": tier.used_bytes,
        "limit_bytes": tier.limit_bytes,
        "free_bytes": tier.free_bytes,
    })
}

/// The machine for programs, with what is wrong with its GPUs as sentences.
pub fn hardware_json(hardware: &Hardware) -> Value {
    let mut value = json!(hardware);
    match &hardware.gpu {
        GpuStatus::Absent { reason } => {
            value["gpu"]["absent"]["reason"] = json!(reason.to_string());
        }
        GpuStatus::Found(gpus) => {
            for (i, gpu) in gpus.iter().enumerate() {
                let problem = gpu.problem.as_ref().map(ToString::to_string);
                value["gpu"]["found"][i]["problem"] = json!(problem);
            }
        }
    }
    value
}

/// How a model would run, for programs.
pub fn fit_json(fit: &FitView) -> Value {
    let mut value = json!(fit);
    value["badge"] = fit.badge.map_or(json!("unknown"), |badge| json!(badge));
    value["summary"] = json!(plan_text::summary(fit));
    value["reason"] = json!(fit.problem.as_ref().map(plan_text::error));
    if let Value::Object(fields) = &mut value {
        fields.remove("problem");
    }
    value
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use octet_engine::hardware::{Gpu, GpuProblem, NoGpu};
    use octet_engine::plan::{ModelSizes, PlanRequest, make_plan};

    use super::*;

    fn mixtral() -> ModelSizes {
        ModelSizes {
            n_layers: 32,
            n_experts: 8,
            top_k: 2,
            expert_bytes: 66_700_000,
            trunk_file_bytes: 1_250_000_000,
            trunk_resident_bytes: 1_200_000_000,
            kv_bytes_per_token: 131_072,
            vocab: 32_000,
            hidden: 4096,
            intermediate: 14_336,
            n_heads: 32,
            n_kv_heads: 8,
            head_dim: 128,
            max_positions: 32_768,
        }
    }

    fn machine() -> Hardware {
        let mut hardware = Hardware::detect(Path::new("."));
        hardware.ram_total_bytes = 32_000_000_000;
        hardware.ram_available_bytes = 28_000_000_000;
        hardware.gpu = GpuStatus::Found(vec![Gpu {
            index: 0,
            uuid: "GPU-0".to_owned(),
            name: "Test GPU".to_owned(),
            vram_total_bytes: 12 << 30,
            vram_free_bytes: 12 << 30,
            is_shared_with_system: false,
            compute_capability: (8, 6),
            driver_version: "550.54".to_owned(),
            problem: None,
        }]);
        hardware
    }

    fn plan() -> Plan {
        let request = PlanRequest {
            gpu_backend_available: true,
            ..PlanRequest::default()
        };
        make_plan(&mixtral(), &machine(), &request).expect("fits")
    }

    #[test]
    fn the_table_is_aligned_and_complete() {
        let plan = plan();
        let text = table(&plan);
        let ends: Vec<usize> = text
            .lines()
            .filter(|line| line.starts_with("  ") && !line.starts_with("  -"))
            .map(|line| line.chars().count())
            .collect();
        let lines = plan
            .gpu
            .iter()
            .chain([&plan.ram])
            .map(|t| t.items.len() + 3);
        assert_eq!(ends.len(), lines.sum::<usize>());
        assert!(ends.iter().all(|end| *end == ends[0]), "{text}");
        assert_eq!(text.trim(), text);
        for words in ["VRAM", "RAM", "trunk", "938 MB", "8192 tokens", "per layer"] {
            assert!(text.contains(words), "{words}:\n{text}");
        }
    }

    #[test]
    fn programs_get_numbers_and_sentences() {
        let json = json(&plan());
        assert_eq!(json["device"]["kind"], "cuda");
        assert_eq!(json["gpu"]["items"][0]["name"], "CUDA context and kernels");
        assert_eq!(json["gpu"]["items"][0]["bytes"], 400_000_000);
        assert_eq!(json["gpu"]["free_bytes"], 12_u64 << 30);
        assert_eq!(
            (&json["fits"], &json["misses"]),
            (&json!("fits"), &json!("auto"))
        );
        let reason = json["reasons"][0].as_str().expect("a sentence");
        assert!(
            reason.starts_with("Computes on GPU 0, Test GPU"),
            "{reason}"
        );
        assert_eq!(json["warnings"], json!([]));
    }

    #[test]
    fn what_is_wrong_with_a_gpu_is_a_sentence_for_programs() {
        let mut hardware = machine();
        assert_eq!(
            hardware_json(&hardware)["gpu"]["found"][0]["problem"],
            Value::Null
        );
        if let GpuStatus::Found(gpus) = &mut hardware.gpu {
            gpus[0].problem = Some(GpuProblem::NotListed);
        }
        let json = hardware_json(&hardware);
        assert_eq!(json["gpu"]["found"][0]["problem"], "CUDA does not list it");
        let reason = NoGpu::Macos;
        hardware.gpu = GpuStatus::Absent { reason };
        let json = hardware_json(&hardware);
        assert_eq!(
            json["gpu"]["absent"]["reason"],
            "NVIDIA GPUs do not work with macOS"
        );
    }

    #[test]
    fn the_fit_of_a_model_has_the_keys_that_programs_know() {
        let fit = FitView {
            badge: None,
            problem: Some(octet_engine::plan::PlanError::BadSizes {
                field: "top_k",
                value: 9,
            }),
            experts_on_gpu: None,
            experts_in_ram: 0,
            total_experts: 256,
            ram_bytes: 0,
            vram_bytes: None,
        };
        let sentence = "model sizes make no sense: top_k is 9";
        let expected = json!({
            "badge": "unknown",
            "summary": sentence,
            "reason": sentence,
            "expertsOnGpu": null,
            "expertsInRam": 0,
            "totalExperts": 256,
            "ramBytes": 0,
            "vramBytes": null,
        });
        assert_eq!(fit_json(&fit), expected);
    }
}
