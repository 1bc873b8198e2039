//! The memory plan: what goes to VRAM, what to RAM, what stays on disk, and why.
//!
//! A pure function of numbers: [`make_plan`] takes the model's sizes, the machine as detected
//! and what was asked for, and touches neither. It can therefore show what another machine
//! would get, and run at every move of a slider.
//!
//! # What takes memory
//! | Item | Bytes | On |
//! |---|---|---|
//! | trunk | `trunk_resident_bytes` | RAM; with a GPU, the embeddings in RAM and the rest on the GPU |
//! | KV cache, f16 | `ctx * kv_bytes_per_token` | the device that computes |
//! | experts | `slots * expert_bytes` | GPU and RAM |
//! | fetch buffers | `(top_k + prefetch) * expert_bytes`, unless all experts are in VRAM | GPU |
//! | working buffers | [`Needs::working`] | RAM, or the GPU |
//! | CUDA context and kernels | [`CUDA_CONTEXT_BYTES`] until measured | GPU |
//! | program | [`PROGRAM_BYTES`], with a GPU also [`CUDA_HOST_BYTES`] | RAM |
//!
//! # What may be taken
//! - **VRAM**: what is free, or [`PlanRequest::vram_budget`] if that is less. The budget covers
//!   everything the program takes of VRAM.
//! - **RAM**: what is available less a reserve for the system (the larger of 1 GB and 10% of the
//!   RAM), or [`PlanRequest::ram_budget`]. That budget is for *expert slots and KV cache only*:
//!   they are what a choice can shrink. Trunk, working buffers and program come on top of it
//!   (for Mixtral 8x7B the trunk and less than 600 MB).
//!
//! # How it is shared out
//! 1. A context that was asked for is given or refused. Otherwise the base is
//!    [`BASE_CTX`] tokens (or the model's limit). It is doubled, up to [`MAX_AUTO_CTX`], as
//!    long as all experts still fit beside it, and lowered, to no less than [`MIN_AUTO_CTX`],
//!    only where the fewest experts that work do not fit beside it.
//! 2. Experts take the rest. On a GPU the fewest is none (fetch buffers remain); in RAM it is
//!    [`ModelSizes::min_ram_slots`]. If RAM holds all of them, the checkpoint is used in place;
//!    behind a GPU RAM always holds them in slots, which are pinned.
//! 3. Once the GPU is open, [`Plan::step_down`] plans again if it has less than was thought.
//!
//! More memory never gives fewer experts, and a longer context never gives more.

mod eviction;
pub mod needs;
mod pool;
mod reason;
mod refusal;
mod remedy;
mod request;
mod share;
mod solve;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::Serialize;
use thiserror::Error;

use crate::hardware::{Hardware, NoGpu};

pub use needs::Needs;
pub use octet_checkpoint::WeightBytes;
pub use octet_files::bytes::{ParseBytesError, format_bytes, parse_bytes};
pub use reason::{GpuOption, Loss, Reason, Warning};
pub use remedy::{Remedy, Shortage};
pub use request::{
    Device, Eviction, MeasuredVram, Misses, ModelSizes, OffloadPreset, PlanRequest, UnknownChoice,
};
pub use solve::make_plan;

/// Context in tokens where none was asked for and memory is neither plentiful nor short.
pub const BASE_CTX: usize = 8192;

/// The longest context chosen without being asked for.
pub const MAX_AUTO_CTX: usize = 32768;

/// The shortest context chosen without being asked for; below it the plan is refused.
pub const MIN_AUTO_CTX: usize = 512;

/// Tokens that prefill works on at a time: the working buffers are sized by it.
pub const PREFILL_CHUNK: usize = 512;

/// VRAM that a CUDA context, the compiled kernels and allocation granularity take. Contexts
/// take 300 to 500 MB, by GPU and driver.
pub const CUDA_CONTEXT_BYTES: u64 = 400_000_000;

/// RAM of the program itself: code, tokenizer, thread stacks, allocator.
pub const PROGRAM_BYTES: u64 = 150_000_000;

/// RAM that the CUDA driver takes in a process that uses a GPU.
pub const CUDA_HOST_BYTES: u64 = 250_000_000;

/// What a model gets on a machine. Made by [`make_plan`].
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Where the trunk and the experts in the fastest tier compute.
    pub device: Placement,
    /// Context length in tokens.
    pub ctx: usize,
    /// Decoder layers of the model.
    pub n_layers: usize,
    /// Experts a layer of the model.
    pub n_experts: usize,
    /// Experts a token uses in each layer.
    pub top_k: usize,
    /// Experts held in VRAM over all layers. See [`Plan::gpu_slots_in_layer`].
    pub total_gpu_slots: usize,
    /// Further expert slots in VRAM through which fetched experts pass.
    pub gpu_fetch_slots: usize,
    /// Experts held in slots in RAM, pinned where there is a GPU; `None`: all of them, in place in
    /// the mapped checkpoint.
    pub ram_slots: Option<usize>,
    /// Of the RAM slots, those that are pinned for the GPU; 0 on the CPU.
    pub pinned_slots: usize,
    /// What happens to an expert that is not in VRAM. Always [`Misses::Cpu`] on the CPU.
    pub misses: Misses,
    /// Which expert gives way where slots are short.
    pub eviction: Eviction,
    /// Experts of the next layer fetched ahead; 0 where the fastest tier holds all experts.
    pub prefetch: usize,
    /// VRAM item by item; `None` on the CPU.
    pub gpu: Option<TierPlan>,
    /// RAM item by item.
    pub ram: TierPlan,
    /// How well it fits.
    pub fits: Fit,
    /// Why the plan is as it is.
    pub reasons: Vec<Reason>,
    /// What a person should know about it.
    pub warnings: Vec<Warning>,
}

impl Plan {
    /// Experts of the model, over all layers.
    #[must_use]
    pub fn total_experts(&self) -> usize {
        self.n_layers * self.n_experts
    }

    /// Experts a layer held in VRAM, on average: 4.5 means that half of the layers hold 5.
    #[must_use]
    pub fn experts_on_gpu_per_layer(&self) -> f64 {
        self.total_gpu_slots as f64 / self.n_layers as f64
    }

    /// Experts of layer `layer` held in VRAM where each layer has a cache of its own. They add
    /// up to [`Plan::total_gpu_slots`], and the layers differ by one at most.
    #[must_use]
    pub fn gpu_slots_in_layer(&self, layer: usize) -> usize {
        let extra = self.total_gpu_slots % self.n_layers;
        self.total_gpu_slots / self.n_layers + usize::from(layer < extra)
    }

    /// Experts held in RAM.
    #[must_use]
    pub fn experts_in_ram(&self) -> usize {
        self.ram_slots.unwrap_or(self.total_experts())
    }

    /// Plans again with what the GPU turned out to have once it was opened, or has left after an
    /// allocation failed. `hardware` and `request` are those of this plan; what was asked for of
    /// VRAM is then the most, no longer the least.
    ///
    /// The new plan may end up on the CPU. It says in [`Plan::warnings`] what was lost.
    ///
    /// # Errors
    /// As [`make_plan`], where not even no expert at all fits on a GPU that was asked for.
    pub fn step_down(
        &self,
        sizes: &ModelSizes,
        hardware: &Hardware,
        request: &PlanRequest,
        measured: MeasuredVram,
    ) -> Result<Self, PlanError> {
        let request = PlanRequest {
            measured_vram: Some(measured),
            ..request.clone()
        };
        let mut plan = make_plan(sizes, hardware, &request)?;
        let losses = self.losses(&plan);
        if !losses.is_empty() {
            plan.warnings.push(Warning::LessVram {
                context_bytes: measured.context_bytes,
                expected_context_bytes: CUDA_CONTEXT_BYTES,
                free_bytes: measured.free_bytes,
                losses,
            });
        }
        Ok(plan)
    }

    /// What `plan`, made in place of this one, gave up.
    fn losses(&self, plan: &Self) -> Vec<Loss> {
        let is_on_cpu = plan.device != self.device;
        let experts = Loss::Experts {
            held: plan.total_gpu_slots,
            planned: self.total_gpu_slots,
        };
        let context = Loss::Context {
            tokens: plan.ctx,
            planned: self.ctx,
        };
        let losses = [
            (is_on_cpu, Loss::Gpu),
            (
                !is_on_cpu && plan.total_gpu_slots < self.total_gpu_slots,
                experts,
            ),
            (plan.ctx < self.ctx, context),
        ];
        let lost = losses.into_iter().filter(|(is_lost, _)| *is_lost);
        lost.map(|(_, loss)| loss).collect()
    }

    /// Whether VRAM and RAM together hold every expert, so that nothing is read from disk once
    /// loaded.
    #[must_use]
    pub fn needs_no_disk(&self) -> bool {
        let on_gpu = self.total_gpu_slots + self.gpu_fetch_slots;
        self.eviction.keeps_all_in_memory(
            self.n_layers,
            self.n_experts,
            self.top_k,
            [self.experts_in_ram(), on_gpu],
        )
    }

    /// Experts that neither VRAM nor RAM has room for.
    #[must_use]
    pub fn experts_on_disk_only(&self) -> usize {
        if self.needs_no_disk() {
            return 0;
        }
        let in_memory = self.total_gpu_slots + self.gpu_fetch_slots + self.experts_in_ram();
        self.total_experts().saturating_sub(in_memory)
    }
}

/// Where a plan computes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Placement {
    /// On the processor.
    Cpu,
    /// On an NVIDIA GPU.
    Cuda {
        /// As in [`Gpu::index`](crate::hardware::Gpu).
        index: u32,
        /// As in [`Gpu::uuid`](crate::hardware::Gpu).
        uuid: String,
        /// Product name.
        name: String,
    },
}

/// What a plan takes of one kind of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct TierPlan {
    /// What takes memory; nothing of zero bytes.
    pub items: Vec<PlanItem>,
    /// Sum of the items.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub used_bytes: u64,
    /// What the plan may take. Not exceeded unless [`PlanRequest::force`] was set.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub limit_bytes: u64,
    /// What the machine has free.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub free_bytes: u64,
}

/// One line of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct PlanItem {
    /// What takes memory.
    pub what: MemoryUse,
    /// How much.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub bytes: u64,
}

/// What takes memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum MemoryUse {
    /// The trunk.
    Trunk,
    /// The trunk, as a GPU holds it.
    TrunkWithoutEmbeddings,
    /// The embeddings, which stay in RAM.
    Embeddings,
    /// The KV cache.
    KvCache {
        /// Length of the context.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        tokens: usize,
    },
    /// Intermediate values of a forward pass.
    WorkingBuffers,
    /// Slots in VRAM that fetched experts pass through.
    FetchBuffers,
    /// Slots in RAM that experts pass through on their way to VRAM.
    TransitBuffers,
    /// Some of the experts.
    SomeExperts {
        /// Held here.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        held: usize,
        /// Of the model.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        total: usize,
    },
    /// All experts, in place in the mapped checkpoint.
    ExpertsInPlace {
        /// Of the model.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        total: usize,
    },
    /// All experts, in slots that are pinned for a GPU.
    ExpertsPinned {
        /// Of the model.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        total: usize,
    },
    /// The CUDA context and the kernels.
    CudaContext,
    /// The CUDA driver's part of the program.
    CudaDriver,
    /// The program.
    Program,
}

/// How well a plan fits the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum Fit {
    /// Fits, and nothing is read from disk once loaded.
    Fits,
    /// Fits, but experts are read from disk while tokens are made, or the context had to be
    /// cut below [`BASE_CTX`].
    Tight,
    /// Does not fit; planned only because [`PlanRequest::force`] was set.
    TooBig,
}

/// Why there is no plan. The message names no option of the command line: the fields do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Error)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum PlanError {
    /// The sizes are not those of a model.
    #[error("model sizes make no sense: {field} is {value}")]
    BadSizes {
        /// Field of [`ModelSizes`].
        field: &'static str,
        /// Its value.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        value: u64,
    },
    /// A value of the request is out of its range.
    #[error("{option} is {value}, but this model allows {min} to {max}")]
    OutOfRange {
        /// Which value.
        option: RangedOption,
        /// What was asked for.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        value: usize,
        /// Least allowed.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        min: usize,
        /// Most allowed.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        max: usize,
    },
    /// The device and the preset of the request exclude each other.
    #[error("device {device} and preset {preset} cannot be combined")]
    Contradiction {
        /// The device.
        device: Device,
        /// The preset.
        preset: OffloadPreset,
    },
    /// A GPU was asked for, and there is none to use.
    #[error("cannot compute on a GPU: {why}")]
    NoGpu {
        /// Why not.
        why: NoGpu,
    },
    /// It does not fit.
    #[error("{0}")]
    TooBig(Shortage),
}

/// A number of a request that has a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum RangedOption {
    /// [`PlanRequest::ctx`].
    Ctx,
    /// [`PlanRequest::experts_on_gpu`].
    ExpertsOnGpu,
    /// [`PlanRequest::prefetch`].
    Prefetch,
}

impl fmt::Display for RangedOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ctx => "the context length",
            Self::ExpertsOnGpu => "the number of experts per layer on the GPU",
            Self::Prefetch => "the prefetch",
        })
    }
}

/// A kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "snake_case")]
pub enum Memory {
    /// Of the GPU.
    Vram,
    /// Of the machine.
    Ram,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vram => "VRAM",
            Self::Ram => "RAM",
        })
    }
}
