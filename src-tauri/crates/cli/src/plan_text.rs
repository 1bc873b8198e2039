//! What a memory plan says, in English and with the names of the command line's options.

use octet_engine::plan::{
    Fit, GpuOption, Loss, MemoryUse, Placement, PlanError, RangedOption, Reason, Remedy, Shortage,
    Warning, format_bytes,
};
use octet_models::FitView;

/// Why a plan is as it is, in a sentence.
pub fn reason(reason: &Reason) -> String {
    match reason {
        Reason::CpuAsked => "Computes on the CPU, as asked for".to_owned(),
        Reason::NoGpu { why } => format!("Computes on the CPU: {why}"),
        Reason::GpuTooSmall {
            gpu,
            needed_bytes,
            limit_bytes,
        } => format!(
            "Computes on the CPU: even without experts the model needs {} of VRAM, and {gpu} has {}",
            format_bytes(*needed_bytes),
            format_bytes(*limit_bytes)
        ),
        Reason::Gpu {
            index,
            name,
            free_bytes,
            total_bytes,
        } => format!(
            "Computes on GPU {index}, {name}: {} of its {} are free",
            format_bytes(*free_bytes),
            format_bytes(*total_bytes)
        ),
        Reason::PresetOverridden {
            asked_per_layer,
            preset_per_layer,
            preset,
        } => format!(
            "--experts-on-gpu {asked_per_layer} overrides the {preset_per_layer} of preset {preset}"
        ),
        Reason::GpuExpertsAsked { .. }
        | Reason::GpuExpertsAll { .. }
        | Reason::GpuExpertsRest { .. } => gpu_experts(reason),
        Reason::VramReserve { bytes } => format!(
            "{} of VRAM are left to the system, which uses this GPU too",
            format_bytes(*bytes)
        ),
        Reason::RamReserve {
            bytes,
            available_bytes,
        } => format!(
            "{} of the {} of RAM available are left to the system",
            format_bytes(*bytes),
            format_bytes(*available_bytes)
        ),
        Reason::AllInVramAndRam { .. }
        | Reason::AllInRam { .. }
        | Reason::SomeInRam { .. }
        | Reason::PinLimit { .. } => ram_experts(reason),
        Reason::ContextAsked { tokens, kv_bytes } => context(*tokens, *kv_bytes, "as asked for"),
        Reason::ContextDefault { tokens, kv_bytes } => context(*tokens, *kv_bytes, "the default"),
        Reason::ContextGrown {
            tokens,
            kv_bytes,
            memory,
        } => {
            let why = format!("all experts fit in {memory} beside it");
            context(*tokens, *kv_bytes, &why)
        }
        Reason::ContextCut {
            tokens,
            kv_bytes,
            default_tokens,
            memory,
            limit_bytes,
        } => {
            let limit = format_bytes(*limit_bytes);
            let why = format!("{limit} of {memory} do not hold the usual {default_tokens} tokens");
            context(*tokens, *kv_bytes, &why)
        }
    }
}

fn context(tokens: usize, kv_bytes: u64, why: &str) -> String {
    let kv = format_bytes(kv_bytes);
    format!("The context is {tokens} tokens ({kv} of KV cache): {why}")
}

/// A reason that is about experts in VRAM.
fn gpu_experts(reason: &Reason) -> String {
    let (experts, total, per_layer, why) = match reason {
        Reason::GpuExpertsAsked {
            experts,
            total,
            per_layer,
        } => (experts, total, per_layer, "as asked for".to_owned()),
        Reason::GpuExpertsRest {
            experts,
            total,
            per_layer,
            limit_bytes,
        } => {
            let limit = format_bytes(*limit_bytes);
            let why = format!("what {limit} leave after trunk, context and buffers");
            (experts, total, per_layer, why)
        }
        Reason::GpuExpertsAll { total } => {
            return format!("All {total} experts fit in VRAM and are held there");
        }
        _ => unreachable!("BUG: no reason about experts in VRAM: {reason:?}"),
    };
    format!("{experts} of {total} experts ({per_layer:.1} per layer) are held in VRAM: {why}")
}

/// A reason that is about experts in RAM.
fn ram_experts(reason: &Reason) -> String {
    match reason {
        Reason::AllInVramAndRam {
            total,
            on_gpu,
            in_ram,
            in_ram_bytes,
        } => format!(
            "VRAM and RAM together hold all {total} experts: {on_gpu} and {in_ram} ({}), {} of \
             them in both",
            format_bytes(*in_ram_bytes),
            (on_gpu + in_ram).saturating_sub(*total)
        ),
        Reason::AllInRam {
            total,
            bytes,
            for_gpu,
        } => {
            let how = match for_gpu {
                true => "held there pinned, from where the GPU copies fastest",
                false => "used in place from the mapped checkpoint",
            };
            let size = format_bytes(*bytes);
            format!("All {total} experts ({size}) fit in RAM and are {how}")
        }
        Reason::SomeInRam {
            experts,
            bytes,
            total,
            total_bytes,
        } => format!(
            "RAM holds {experts} of {total} experts ({} of {})",
            format_bytes(*bytes),
            format_bytes(*total_bytes)
        ),
        Reason::PinLimit {
            pinned,
            in_ram,
            limit_bytes,
        } => format!(
            "{pinned} of the {in_ram} experts in RAM are pinned, since {} may be; the others are \
             copied through buffers, slower",
            format_bytes(*limit_bytes)
        ),
        _ => unreachable!("BUG: no reason about experts in RAM: {reason:?}"),
    }
}

/// What to know about a plan, in a sentence.
pub fn warning(warning: &Warning) -> String {
    match warning {
        Warning::VramBudgetOverFree {
            budget_bytes,
            free_bytes,
            reserve_bytes,
        } => {
            let beside = match reserve_bytes {
                0 => String::new(),
                bytes => format!(
                    " beside the {} that the system needs of it",
                    format_bytes(*bytes)
                ),
            };
            format!(
                "The VRAM budget is {}, but only {} are free{beside}; the plan keeps to those",
                format_bytes(*budget_bytes),
                format_bytes(*free_bytes)
            )
        }
        Warning::RamBudgetOverFree {
            asked_bytes,
            available_bytes,
        } => format!(
            "The RAM budget and what comes on top of it are {}, but only {} are available; the plan \
             keeps to those",
            format_bytes(*asked_bytes),
            format_bytes(*available_bytes)
        ),
        Warning::ReadsFromDisk => {
            "Experts are read from disk during answers: the speed of the disk decides".to_owned()
        }
        Warning::NoEffectOnCpu { options } => {
            let options: Vec<String> = options.iter().map(gpu_option).collect();
            format!("Without effect on the CPU: {}", options.join(", "))
        }
        Warning::TooBig(found) => format!("Planned as asked for, but {}", shortage(found)),
        Warning::LessVram {
            context_bytes,
            expected_context_bytes,
            free_bytes,
            losses,
        } => {
            let (context, free) = (format_bytes(*context_bytes), format_bytes(*free_bytes));
            let why = match context_bytes > expected_context_bytes {
                true => format!(
                    "The driver takes {context} of VRAM for itself, not {} as expected, and {free} \
                     are free beside that",
                    format_bytes(*expected_context_bytes)
                ),
                false => format!(
                    "The GPU has {free} free beside its context of {context}, less than planned"
                ),
            };
            let losses: Vec<String> = losses.iter().map(loss).collect();
            format!("{why}: {}", losses.join(", "))
        }
        Warning::GpuPassedOver { name, problem } => format!("{name} is not used: {problem}"),
        Warning::GpuFailed { problem } => {
            format!("Computes on the CPU, since the GPU cannot be used: {problem}")
        }
        Warning::GpuLost => "The GPU failed: the model now runs on the CPU".to_owned(),
        Warning::Unpinned { experts } => format!(
            "{experts} experts lie in RAM that the system would not pin for the GPU: their copies \
             are slower (raise the limit of locked memory, or give a smaller --ram)"
        ),
        Warning::GenerationConfigIgnored { detail } | Warning::BosFromConfig { detail, .. } => {
            detail.clone()
        }
    }
}

fn gpu_option(option: &GpuOption) -> String {
    match option {
        GpuOption::Preset { preset } => format!("--preset {preset}"),
        GpuOption::VramBudget => "--vram".to_owned(),
        GpuOption::ExpertsOnGpu { per_layer } => format!("--experts-on-gpu {per_layer}"),
        GpuOption::FetchMisses => "--misses fetch".to_owned(),
    }
}

fn loss(loss: &Loss) -> String {
    match loss {
        Loss::Gpu => "it computes on the CPU".to_owned(),
        Loss::Experts { held, planned } => format!(
            "{} fewer experts are held in VRAM, {held} and not {planned}",
            planned.saturating_sub(*held)
        ),
        Loss::Context { tokens, planned } => {
            format!("the context is {tokens} tokens, not {planned}")
        }
    }
}

/// Why there is no plan, and what to do.
pub fn error(error: &PlanError) -> String {
    match error {
        PlanError::BadSizes { .. } => error.to_string(),
        PlanError::OutOfRange {
            option,
            value,
            min,
            max,
        } => {
            let option = match option {
                RangedOption::Ctx => "--ctx",
                RangedOption::ExpertsOnGpu => "--experts-on-gpu",
                RangedOption::Prefetch => "--prefetch",
            };
            format!("{option} is {value}, but this model allows {min} to {max}")
        }
        PlanError::Contradiction { device, preset } => {
            format!("--device {device} and --preset {preset} cannot be combined: drop one of them")
        }
        PlanError::NoGpu { why } => format!("--device cuda cannot be used: {why}"),
        PlanError::TooBig(found) => shortage(found),
    }
}

fn shortage(shortage: &Shortage) -> String {
    let remedies: Vec<String> = shortage.remedies.iter().map(remedy).collect();
    format!("{shortage}: {}", remedies.join(", or "))
}

fn remedy(remedy: &Remedy) -> String {
    // As an option takes it.
    let value = |bytes: &u64| format_bytes(*bytes).replace(' ', "");
    match remedy {
        Remedy::RaiseVram { bytes } => format!("raise --vram to {}", value(bytes)),
        Remedy::RaiseRam { bytes } => format!("raise --ram to {}", value(bytes)),
        Remedy::UseRamReserve { bytes } => format!(
            "give --ram {} to use what is kept for the system",
            value(bytes)
        ),
        Remedy::LowerCtx { tokens } => format!("lower --ctx to {tokens}"),
        Remedy::LowerExpertsOnGpu { per_layer } => {
            format!("lower --experts-on-gpu to {per_layer}")
        }
        Remedy::CloseGpuPrograms { bytes } => format!(
            "close other programs that use the GPU to free {}",
            format_bytes(*bytes)
        ),
        Remedy::UseCpu => "use --device cpu".to_owned(),
        Remedy::GlobalEviction => "use --eviction global".to_owned(),
        Remedy::ClosePrograms { bytes } => {
            format!("close other programs to free {}", format_bytes(*bytes))
        }
        Remedy::RaiseContainerLimit { bytes } => format!(
            "raise the memory limit of this container or service by {}",
            format_bytes(*bytes)
        ),
        Remedy::SmallerModel { total_bytes } => format!(
            "choose a smaller model (this machine has {} in all)",
            format_bytes(*total_bytes)
        ),
    }
}

/// What takes memory, in a few words.
pub fn memory_use(what: &MemoryUse) -> String {
    match what {
        MemoryUse::Trunk => "trunk".to_owned(),
        MemoryUse::TrunkWithoutEmbeddings => "trunk without embeddings".to_owned(),
        MemoryUse::Embeddings => "embeddings".to_owned(),
        MemoryUse::KvCache { tokens } => format!("KV cache ({tokens} tokens)"),
        MemoryUse::WorkingBuffers => "working buffers".to_owned(),
        MemoryUse::FetchBuffers => "fetch buffers".to_owned(),
        MemoryUse::TransitBuffers => "transit buffers".to_owned(),
        MemoryUse::SomeExperts { held, total } => format!("experts ({held} of {total})"),
        MemoryUse::ExpertsInPlace { total } => format!("experts (all {total}, in place)"),
        MemoryUse::ExpertsPinned { total } => format!("experts (all {total}, pinned)"),
        MemoryUse::CudaContext => "CUDA context and kernels".to_owned(),
        MemoryUse::CudaDriver => "CUDA driver".to_owned(),
        MemoryUse::Program => "program".to_owned(),
    }
}

/// Where a plan computes.
pub fn device(device: &Placement) -> String {
    match device {
        Placement::Cpu => "CPU".to_owned(),
        Placement::Cuda { index, name, .. } => format!("GPU {index}, {name}"),
    }
}

/// How well a plan fits, in a word.
pub fn fit(fit: Fit) -> &'static str {
    match fit {
        Fit::Fits => "fits",
        Fit::Tight => "tight",
        Fit::TooBig => "too big",
    }
}

/// How a model would run with a plan made without options, in a line.
pub fn summary(view: &FitView) -> String {
    match (view.badge, &view.problem) {
        (Some(Fit::TooBig), Some(problem)) => format!("too big, because {}", error(problem)),
        (_, Some(problem)) => error(problem),
        (badge, None) => {
            let badge = badge.map_or("unknown", fit);
            format!("{badge} (auto plan: {})", experts_place(view))
        }
    }
}

fn experts_place(view: &FitView) -> String {
    let (all, in_ram) = (view.total_experts, view.experts_in_ram);
    match view.experts_on_gpu {
        Some(per_layer) if per_layer.fract() == 0.0 => {
            format!("{per_layer:.0} experts per layer on the GPU")
        }
        Some(per_layer) => format!("{per_layer:.1} experts per layer on the GPU"),
        None if in_ram == all => format!("all {all} experts in RAM"),
        None => format!("{in_ram} of {all} experts in RAM, the others on disk"),
    }
}

#[cfg(test)]
mod tests {
    use octet_engine::hardware::{GpuProblem, KernelLimit, NoGpu, UnusableGpu};
    use octet_engine::plan::{Device, Memory, OffloadPreset};

    use super::*;

    /// Examples of every variant of a type, each with what its text has to name. A variant that has
    /// none does not compile.
    macro_rules! examples {
        ($name:ident: $type:ty { $($pattern:pat => $value:expr, $words:expr;)+ }) => {
            fn $name() -> Vec<($type, Vec<&'static str>)> {
                let _is_complete = |value: &$type| match value { $($pattern => ()),+ };
                $(assert!(matches!($value, $pattern));)+
                vec![$(($value, $words.to_vec())),+]
            }
        };
    }

    const GB: u64 = 1_000_000_000;

    fn failed() -> GpuProblem {
        GpuProblem::Failed {
            detail: "the GPU is busy".to_owned(),
        }
    }

    fn too_big() -> Shortage {
        Shortage {
            memory: Memory::Ram,
            needed_bytes: 20 * GB,
            limit_bytes: 8 * GB,
            remedies: vec![
                Remedy::RaiseRam { bytes: 19 * GB },
                Remedy::LowerCtx { tokens: 4096 },
            ],
        }
    }

    examples!(reasons: Reason {
        Reason::CpuAsked => Reason::CpuAsked, ["CPU"];
        Reason::NoGpu { .. } => Reason::NoGpu { why: NoGpu::Macos }, ["CPU: NVIDIA GPUs"];
        Reason::GpuTooSmall { .. } => Reason::GpuTooSmall {
            gpu: "RTX".to_owned(), needed_bytes: 3 * GB, limit_bytes: 2 * GB,
        }, ["CPU", "RTX", "3.00 GB", "2.00 GB"];
        Reason::Gpu { .. } => Reason::Gpu {
            index: 1, name: "RTX".to_owned(), free_bytes: 11 * GB, total_bytes: 12 * GB,
        }, ["GPU 1", "RTX", "11.0 GB", "12.0 GB"];
        Reason::PresetOverridden { .. } => Reason::PresetOverridden {
            asked_per_layer: 2, preset_per_layer: 4, preset: OffloadPreset::Gpu16,
        }, ["--experts-on-gpu 2", "the 4", "16gb"];
        Reason::GpuExpertsAsked { .. } => Reason::GpuExpertsAsked {
            experts: 96, total: 256, per_layer: 3.0,
        }, ["96 of 256", "3.0 per layer", "asked"];
        Reason::GpuExpertsAll { .. } => Reason::GpuExpertsAll { total: 256 }, ["All 256", "VRAM"];
        Reason::GpuExpertsRest { .. } => Reason::GpuExpertsRest {
            experts: 96, total: 256, per_layer: 3.0, limit_bytes: 11 * GB,
        }, ["96 of 256", "3.0 per layer", "11.0 GB"];
        Reason::VramReserve { .. } => Reason::VramReserve { bytes: GB / 2 }, ["500 MB of VRAM"];
        Reason::RamReserve { .. } => Reason::RamReserve {
            bytes: 3 * GB, available_bytes: 30 * GB,
        }, ["3.00 GB", "30.0 GB of RAM"];
        Reason::AllInVramAndRam { .. } => Reason::AllInVramAndRam {
            total: 256, on_gpu: 100, in_ram: 162, in_ram_bytes: 11 * GB,
        }, ["all 256", "100 and 162", "11.0 GB", "6 of them in both"];
        Reason::AllInRam { .. } => Reason::AllInRam {
            total: 256, bytes: 17 * GB, for_gpu: true,
        }, ["All 256", "17.0 GB", "pinned"];
        Reason::SomeInRam { .. } => Reason::SomeInRam {
            experts: 40, bytes: 3 * GB, total: 256, total_bytes: 17 * GB,
        }, ["40 of 256", "3.00 GB of 17.0 GB"];
        Reason::PinLimit { .. } => Reason::PinLimit {
            pinned: 9, in_ram: 40, limit_bytes: GB,
        }, ["9 of the 40", "1.00 GB"];
        Reason::ContextAsked { .. } => Reason::ContextAsked { tokens: 4096, kv_bytes: GB },
            ["4096 tokens", "1.00 GB", "asked"];
        Reason::ContextDefault { .. } => Reason::ContextDefault { tokens: 8192, kv_bytes: GB },
            ["8192 tokens", "1.00 GB", "default"];
        Reason::ContextGrown { .. } => Reason::ContextGrown {
            tokens: 16_384, kv_bytes: GB, memory: Memory::Vram,
        }, ["16384 tokens", "1.00 GB", "VRAM"];
        Reason::ContextCut { .. } => Reason::ContextCut {
            tokens: 576, kv_bytes: GB, default_tokens: 8192, memory: Memory::Ram, limit_bytes: 2 * GB,
        }, ["576 tokens", "1.00 GB", "8192", "2.00 GB of RAM"];
    });

    examples!(warnings: Warning {
        Warning::VramBudgetOverFree { .. } => Warning::VramBudgetOverFree {
            budget_bytes: 12 * GB, free_bytes: 10 * GB, reserve_bytes: GB / 2,
        }, ["12.0 GB", "10.0 GB", "500 MB"];
        Warning::RamBudgetOverFree { .. } => Warning::RamBudgetOverFree {
            asked_bytes: 12 * GB, available_bytes: 10 * GB,
        }, ["12.0 GB", "10.0 GB", "RAM"];
        Warning::ReadsFromDisk => Warning::ReadsFromDisk, ["disk"];
        Warning::NoEffectOnCpu { .. } => Warning::NoEffectOnCpu {
            options: gpu_options().into_iter().map(|(option, _)| option).collect(),
        }, ["--preset 12gb, --vram, --experts-on-gpu 3, --misses fetch"];
        Warning::TooBig(_) => Warning::TooBig(too_big()),
            ["20.0 GB of RAM", "12.0 GB more", "8.00 GB", "--ram to 19.0GB, or lower --ctx to 4096"];
        Warning::LessVram { .. } => Warning::LessVram {
            context_bytes: GB,
            expected_context_bytes: GB / 2,
            free_bytes: 9 * GB,
            losses: losses().into_iter().map(|(loss, _)| loss).collect(),
        }, ["1.00 GB", "500 MB", "9.00 GB", "computes on the CPU", "7 fewer", "512 tokens"];
        Warning::GpuPassedOver { .. } => Warning::GpuPassedOver {
            name: "RTX".to_owned(), problem: failed(),
        }, ["RTX", "busy"];
        Warning::GpuFailed { .. } => Warning::GpuFailed { problem: failed() }, ["CPU", "busy"];
        Warning::GpuLost => Warning::GpuLost, ["GPU failed", "CPU"];
        Warning::Unpinned { .. } => Warning::Unpinned { experts: 7 }, ["7 experts", "--ram"];
        Warning::GenerationConfigIgnored { .. } => Warning::GenerationConfigIgnored {
            detail: "m/generation_config.json is ignored".to_owned(),
        }, ["generation_config.json"];
        Warning::BosFromConfig { .. } => Warning::BosFromConfig {
            token: 1, detail: "BOS is token 1, as config.json has it".to_owned(),
        }, ["config.json"];
    });

    examples!(gpu_options: GpuOption {
        GpuOption::Preset { .. } => GpuOption::Preset { preset: OffloadPreset::Gpu12 },
            ["--preset 12gb"];
        GpuOption::VramBudget => GpuOption::VramBudget, ["--vram"];
        GpuOption::ExpertsOnGpu { .. } => GpuOption::ExpertsOnGpu { per_layer: 3 },
            ["--experts-on-gpu 3"];
        GpuOption::FetchMisses => GpuOption::FetchMisses, ["--misses fetch"];
    });

    examples!(losses: Loss {
        Loss::Gpu => Loss::Gpu, ["CPU"];
        Loss::Experts { .. } => Loss::Experts { held: 90, planned: 97 }, ["7 fewer", "90", "97"];
        Loss::Context { .. } => Loss::Context { tokens: 512, planned: 8192 }, ["512", "8192"];
    });

    examples!(remedies: Remedy {
        Remedy::RaiseVram { .. } => Remedy::RaiseVram { bytes: 12 * GB }, ["--vram to 12.0GB"];
        Remedy::RaiseRam { .. } => Remedy::RaiseRam { bytes: 12 * GB }, ["--ram to 12.0GB"];
        Remedy::UseRamReserve { .. } => Remedy::UseRamReserve { bytes: 12 * GB }, ["--ram 12.0GB"];
        Remedy::LowerCtx { .. } => Remedy::LowerCtx { tokens: 4096 }, ["--ctx to 4096"];
        Remedy::LowerExpertsOnGpu { .. } => Remedy::LowerExpertsOnGpu { per_layer: 3 },
            ["--experts-on-gpu to 3"];
        Remedy::CloseGpuPrograms { .. } => Remedy::CloseGpuPrograms { bytes: 2 * GB },
            ["GPU", "2.00 GB"];
        Remedy::UseCpu => Remedy::UseCpu, ["--device cpu"];
        Remedy::GlobalEviction => Remedy::GlobalEviction, ["--eviction global"];
        Remedy::ClosePrograms { .. } => Remedy::ClosePrograms { bytes: 2 * GB }, ["2.00 GB"];
        Remedy::RaiseContainerLimit { .. } => Remedy::RaiseContainerLimit { bytes: 2 * GB },
            ["container", "2.00 GB"];
        Remedy::SmallerModel { .. } => Remedy::SmallerModel { total_bytes: 8 * GB },
            ["smaller model", "8.00 GB"];
    });

    examples!(errors: PlanError {
        PlanError::BadSizes { .. } => PlanError::BadSizes { field: "top_k", value: 9 },
            ["top_k is 9"];
        PlanError::OutOfRange { .. } => PlanError::OutOfRange {
            option: RangedOption::Prefetch, value: 3, min: 0, max: 2,
        }, ["--prefetch is 3", "0 to 2"];
        PlanError::Contradiction { .. } => PlanError::Contradiction {
            device: Device::Cpu, preset: OffloadPreset::Gpu12,
        }, ["--device cpu and --preset 12gb"];
        PlanError::NoGpu { .. } => PlanError::NoGpu { why: NoGpu::Macos }, ["--device cuda", "macOS"];
        PlanError::TooBig(_) => PlanError::TooBig(too_big()), ["20.0 GB", "--ctx to 4096"];
    });

    examples!(memory_uses: MemoryUse {
        MemoryUse::Trunk => MemoryUse::Trunk, ["trunk"];
        MemoryUse::TrunkWithoutEmbeddings => MemoryUse::TrunkWithoutEmbeddings, ["without"];
        MemoryUse::Embeddings => MemoryUse::Embeddings, ["embeddings"];
        MemoryUse::KvCache { .. } => MemoryUse::KvCache { tokens: 512 }, ["512 tokens"];
        MemoryUse::WorkingBuffers => MemoryUse::WorkingBuffers, ["working"];
        MemoryUse::FetchBuffers => MemoryUse::FetchBuffers, ["fetch"];
        MemoryUse::TransitBuffers => MemoryUse::TransitBuffers, ["transit"];
        MemoryUse::SomeExperts { .. } => MemoryUse::SomeExperts { held: 3, total: 8 }, ["3 of 8"];
        MemoryUse::ExpertsInPlace { .. } => MemoryUse::ExpertsInPlace { total: 8 }, ["all 8", "place"];
        MemoryUse::ExpertsPinned { .. } => MemoryUse::ExpertsPinned { total: 8 }, ["all 8", "pinned"];
        MemoryUse::CudaContext => MemoryUse::CudaContext, ["context"];
        MemoryUse::CudaDriver => MemoryUse::CudaDriver, ["driver"];
        MemoryUse::Program => MemoryUse::Program, ["program"];
    });

    examples!(no_gpus: NoGpu {
        NoGpu::NoDriver { .. } => NoGpu::NoDriver {
            library: "libnvidia-ml.so.1".to_owned(), min_driver: 525,
        }, ["libnvidia-ml.so.1", "525"];
        NoGpu::BadLibrary { .. } => NoGpu::BadLibrary {
            detail: "too short".to_owned(), min_driver: 525,
        }, ["too short", "525"];
        NoGpu::Macos => NoGpu::Macos, ["macOS"];
        NoGpu::DriverNotLoaded => NoGpu::DriverNotLoaded, ["not loaded"];
        NoGpu::DriverMismatch => NoGpu::DriverMismatch, ["restart"];
        NoGpu::DriverTooOld { .. } => NoGpu::DriverTooOld {
            version: "470.1".to_owned(), min_driver: 525,
        }, ["470.1", "525"];
        NoGpu::NoDevice { .. } => NoGpu::NoDevice { version: "550.1".to_owned() }, ["550.1"];
        NoGpu::DriverFailed { .. } => NoGpu::DriverFailed {
            call: "device count", detail: "no permission".to_owned(),
        }, ["device count", "no permission"];
        NoGpu::Unusable { .. } => NoGpu::Unusable {
            gpus: vec![UnusableGpu { name: "RTX".to_owned(), problem: failed() }],
        }, ["RTX: the GPU is busy"];
        NoGpu::NoCuda { .. } => NoGpu::NoCuda { gpu: "RTX".to_owned(), free_bytes: 11 * GB },
            ["RTX", "11.0 GB"];
        NoGpu::Unsupported { .. } => NoGpu::Unsupported {
            features: vec!["attention sinks".to_owned()],
        }, ["no attention sinks"];
        NoGpu::KernelLimit { .. } => NoGpu::KernelLimit {
            gpu: "RTX".to_owned(), limit: KernelLimit::ExpertsPerToken { has: 9, most: 8 },
        }, ["RTX", "9", "8"];
    });

    examples!(gpu_problems: GpuProblem {
        GpuProblem::TooOld { .. } => GpuProblem::TooOld {
            capability: "6.1".to_owned(), needed: "7.5".to_owned(),
        }, ["6.1", "7.5"];
        GpuProblem::Unreadable { .. } => GpuProblem::Unreadable { detail: "lost".to_owned() },
            ["lost"];
        GpuProblem::NoCuda { .. } => GpuProblem::NoCuda { detail: "error 3".to_owned() },
            ["error 3"];
        GpuProblem::Mig => GpuProblem::Mig, ["MIG"];
        GpuProblem::Hidden { .. } => GpuProblem::Hidden {
            variable: "CUDA_VISIBLE_DEVICES".to_owned(),
        }, ["CUDA_VISIBLE_DEVICES"];
        GpuProblem::NotListed => GpuProblem::NotListed, ["CUDA"];
        GpuProblem::NoMemoryFigure { .. } => GpuProblem::NoMemoryFigure {
            detail: "error 3".to_owned(),
        }, ["memory", "error 3"];
        GpuProblem::DriverTooOld { .. } => GpuProblem::DriverTooOld {
            supported: "11.8".to_owned(), needed: "12.0".to_owned(), min_driver: 525,
        }, ["11.8", "12.0", "525"];
        GpuProblem::NoRoom => GpuProblem::NoRoom, ["less free VRAM"];
        GpuProblem::Failed { .. } => failed(), ["busy"];
    });

    examples!(kernel_limits: KernelLimit {
        KernelLimit::ExpertsPerToken { .. } => KernelLimit::ExpertsPerToken { has: 9, most: 8 },
            ["9 experts a token", "8"];
        KernelLimit::ExpertsPerLayer { .. } => KernelLimit::ExpertsPerLayer { has: 257, most: 256 },
            ["257 experts a layer", "256"];
        KernelLimit::HeadDim { .. } => KernelLimit::HeadDim { has: 258, most: 256 },
            ["258 values a head", "256"];
        KernelLimit::HeadsPerKeyHead { .. } => KernelLimit::HeadsPerKeyHead { has: 17, most: 16 },
            ["17 query heads", "16"];
        KernelLimit::OddHeadDim { .. } => KernelLimit::OddHeadDim { has: 63 }, ["63 wide"];
    });

    fn assert_says<T: std::fmt::Debug>(
        examples: Vec<(T, Vec<&'static str>)>,
        text: impl Fn(&T) -> String,
    ) {
        for (value, words) in examples {
            let text = text(&value);
            assert!(!text.trim().is_empty(), "{value:?}");
            assert!(!text.contains(['{', '}', '\n']), "{value:?}: {text}");
            assert!(!text.contains("  ") && !text.ends_with('.'), "{text}");
            for word in words {
                assert!(text.contains(word), "{word}: {text}");
            }
        }
    }

    #[test]
    fn everything_that_a_plan_says_has_its_words_and_numbers() {
        assert_says(reasons(), reason);
        assert_says(warnings(), warning);
        assert_says(gpu_options(), gpu_option);
        assert_says(losses(), loss);
        assert_says(remedies(), remedy);
        assert_says(errors(), error);
        assert_says(memory_uses(), memory_use);
        assert_says(no_gpus(), ToString::to_string);
        assert_says(gpu_problems(), ToString::to_string);
        assert_says(kernel_limits(), ToString::to_string);
    }

    #[test]
    fn a_model_that_would_fit_says_where_its_experts_go() {
        let view = FitView {
            badge: Some(Fit::Fits),
            problem: None,
            experts_on_gpu: None,
            experts_in_ram: 256,
            total_experts: 256,
            ram_bytes: 20 * GB,
            vram_bytes: None,
        };
        assert_eq!(summary(&view), "fits (auto plan: all 256 experts in RAM)");
        let on_gpu = FitView {
            experts_on_gpu: Some(4.5),
            ..view.clone()
        };
        assert_eq!(
            summary(&on_gpu),
            "fits (auto plan: 4.5 experts per layer on the GPU)"
        );
        let tight = FitView {
            badge: Some(Fit::Tight),
            experts_in_ram: 92,
            ..view.clone()
        };
        assert_eq!(
            summary(&tight),
            "tight (auto plan: 92 of 256 experts in RAM, the others on disk)"
        );
        let big = FitView {
            badge: Some(Fit::TooBig),
            problem: Some(PlanError::TooBig(too_big())),
            ..view
        };
        let text = summary(&big);
        assert!(
            text.starts_with("too big, because the model needs 20.0 GB"),
            "{text}"
        );
    }
}
