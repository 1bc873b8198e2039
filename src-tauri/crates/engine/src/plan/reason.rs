//! What a plan says about itself. Data throughout: the command line puts it into words with its
//! options, the window with its settings and in its language.

use serde::Serialize;

use crate::hardware::{GpuProblem, NoGpu};

use super::{Memory, OffloadPreset, Shortage};

/// Why a plan is as it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    rename = "PlanReason",
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Reason {
    /// The request asks for the CPU.
    CpuAsked,
    /// Computes on the CPU, because no GPU can be used.
    NoGpu {
        /// Why not.
        why: NoGpu,
    },
    /// Computes on the CPU, because the GPU cannot hold the trunk and the shortest context.
    GpuTooSmall {
        /// Product name.
        gpu: String,
        /// VRAM that the model needs without any expert.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        needed_bytes: u64,
        /// VRAM within the limit.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        limit_bytes: u64,
    },
    /// Computes on a GPU.
    Gpu {
        /// As in [`Gpu::index`](crate::hardware::Gpu).
        index: u32,
        /// Product name.
        name: String,
        /// Free VRAM.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        free_bytes: u64,
        /// Installed VRAM.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        total_bytes: u64,
    },
    /// A number of experts was asked for, in place of the one of a preset.
    PresetOverridden {
        /// Experts per layer that were asked for.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        asked_per_layer: usize,
        /// Experts per layer of the preset.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        preset_per_layer: usize,
        /// The preset.
        preset: OffloadPreset,
    },
    /// VRAM holds as many experts as were asked for.
    GpuExpertsAsked {
        /// Experts in VRAM.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        experts: usize,
        /// Experts of the model.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        total: usize,
        /// Experts in VRAM per layer, on average.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        per_layer: f64,
    },
    /// VRAM holds all experts.
    GpuExpertsAll {
        /// Experts of the model.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        total: usize,
    },
    /// VRAM holds the experts that fit beside trunk, context and buffers.
    GpuExpertsRest {
        /// Experts in VRAM.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        experts: usize,
        /// Experts of the model.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        total: usize,
        /// Experts in VRAM per layer, on average.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        per_layer: f64,
        /// VRAM within the limit.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        limit_bytes: u64,
    },
    /// Some VRAM is left to the system, which uses this GPU too.
    VramReserve {
        /// How much.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        bytes: u64,
    },
    /// Some RAM is left to the system.
    RamReserve {
        /// How much.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        bytes: u64,
        /// Of this much that is available.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        available_bytes: u64,
    },
    /// VRAM and RAM together hold all experts, though neither does alone.
    AllInVramAndRam {
        /// Experts of the model.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        total: usize,
        /// Expert slots in VRAM, with those that fetched experts pass through.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        on_gpu: usize,
        /// Expert slots in RAM.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        in_ram: usize,
        /// Their size.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        in_ram_bytes: u64,
    },
    /// RAM holds all experts.
    AllInRam {
        /// Experts of the model.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        total: usize,
        /// Their size.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        bytes: u64,
        /// Held in slots for a GPU to copy from, not used in place.
        for_gpu: bool,
    },
    /// RAM holds some of the experts.
    SomeInRam {
        /// Experts in RAM.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        experts: usize,
        /// Their size.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        bytes: u64,
        /// Experts of the model.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        total: usize,
        /// Their size.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        total_bytes: u64,
    },
    /// Some of the experts in RAM are pinned for the GPU, as many as may be. The others are copied
    /// through buffers, which is slower.
    PinLimit {
        /// Pinned experts.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        pinned: usize,
        /// Experts in RAM.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        in_ram: usize,
        /// RAM that may be pinned.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        limit_bytes: u64,
    },
    /// The context was asked for.
    ContextAsked {
        /// Its length.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        tokens: usize,
        /// Its KV cache.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        kv_bytes: u64,
    },
    /// The context is the default one.
    ContextDefault {
        /// Its length.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        tokens: usize,
        /// Its KV cache.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        kv_bytes: u64,
    },
    /// The context is longer than the default, because all experts fit beside it.
    ContextGrown {
        /// Its length.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        tokens: usize,
        /// Its KV cache.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        kv_bytes: u64,
        /// Where.
        memory: Memory,
    },
    /// The context is shorter than the default, which does not fit.
    ContextCut {
        /// Its length.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        tokens: usize,
        /// Its KV cache.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        kv_bytes: u64,
        /// The default length.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        default_tokens: usize,
        /// Where it does not fit.
        memory: Memory,
        /// Bytes of it within the limit.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        limit_bytes: u64,
    },
}

/// What a person should know before or after loading.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    rename = "PlanWarning",
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Warning {
    /// More VRAM was asked for than is free. The plan keeps to what is.
    VramBudgetOverFree {
        /// The budget.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        budget_bytes: u64,
        /// Free, less the reserve.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        free_bytes: u64,
        /// Left to the system, which uses this GPU too; 0 if it does not.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        reserve_bytes: u64,
    },
    /// The RAM budget, with what comes on top of it, is more than is available. The plan keeps to
    /// what is.
    RamBudgetOverFree {
        /// The budget and what comes on top.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        asked_bytes: u64,
        /// Available.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        available_bytes: u64,
    },
    /// Experts are read from disk during answers.
    ReadsFromDisk,
    /// Options of the request that only concern a GPU, in a plan for the CPU.
    NoEffectOnCpu {
        /// Which.
        options: Vec<GpuOption>,
    },
    /// Planned because [`PlanRequest::force`](super::PlanRequest) was set: it does not fit.
    TooBig(Shortage),
    /// The GPU, once open, has less VRAM than was planned with.
    LessVram {
        /// What the driver takes for itself.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        context_bytes: u64,
        /// What it was expected to take.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        expected_context_bytes: u64,
        /// Free beside it.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        free_bytes: u64,
        /// What the plan gave up for it.
        losses: Vec<Loss>,
    },
    /// A GPU was not used, but another one.
    GpuPassedOver {
        /// Product name.
        name: String,
        /// Why not.
        problem: GpuProblem,
    },
    /// Computes on the CPU, because the last GPU could not be used in the end.
    GpuFailed {
        /// Why not.
        problem: GpuProblem,
    },
    /// The GPU failed after loading. The CPU computes since then.
    GpuLost,
    /// The system did not pin some experts' RAM for the GPU: their copies are slower.
    Unpinned {
        /// How many.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        experts: usize,
    },
    /// The model's `generation_config.json` cannot be used, so answers may run past their end.
    GenerationConfigIgnored {
        /// Which file, and what is wrong with it.
        detail: String,
    },
    /// The tokenizer does not name its token for the beginning of a text. `config.json` does.
    BosFromConfig {
        /// The token's id.
        token: u32,
        /// Which file, and what the token is.
        detail: String,
    },
}

/// An option of a request that only concerns a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum GpuOption {
    /// [`PlanRequest::preset`](super::PlanRequest), one for a size of GPU.
    Preset {
        /// Its value.
        preset: OffloadPreset,
    },
    /// [`PlanRequest::vram_budget`](super::PlanRequest).
    VramBudget,
    /// [`PlanRequest::experts_on_gpu`](super::PlanRequest).
    ExpertsOnGpu {
        /// Its value.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        per_layer: usize,
    },
    /// [`Misses::Fetch`](super::Misses).
    FetchMisses,
}

/// What a plan gives up when a GPU has less VRAM than was thought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Loss {
    /// The GPU: the CPU computes.
    Gpu,
    /// Experts in VRAM.
    Experts {
        /// Experts in VRAM now.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        held: usize,
        /// As planned before.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        planned: usize,
    },
    /// Length of the context.
    Context {
        /// Tokens now.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        tokens: usize,
        /// As planned before.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        planned: usize,
    },
}
