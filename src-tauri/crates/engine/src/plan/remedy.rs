//! What does not fit, by how much, and what would make it fit.

use std::fmt;

use serde::Serialize;

use super::{Memory, format_bytes};

/// Memory that is short. [`fmt::Display`] gives the numbers, without the remedies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct Shortage {
    /// Which memory.
    pub memory: Memory,
    /// The least that the request needs.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub needed_bytes: u64,
    /// The limit.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub limit_bytes: u64,
    /// What would make it fit: one or two ways, the best first.
    pub remedies: Vec<Remedy>,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the model needs {} of {}, {} more than the limit of {}",
            format_bytes(self.needed_bytes),
            self.memory,
            format_bytes(self.needed_bytes.saturating_sub(self.limit_bytes)),
            format_bytes(self.limit_bytes)
        )
    }
}

/// A way to make a model fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Remedy {
    /// Raise [`PlanRequest::vram_budget`](super::PlanRequest).
    RaiseVram {
        /// To this, three digits rounded up.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        bytes: u64,
    },
    /// Raise [`PlanRequest::ram_budget`](super::PlanRequest).
    RaiseRam {
        /// To this, three digits rounded up.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        bytes: u64,
    },
    /// Set [`PlanRequest::ram_budget`](super::PlanRequest), which takes some of what is otherwise left
    /// to the system.
    UseRamReserve {
        /// To this, three digits rounded up.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        bytes: u64,
    },
    /// Shorten [`PlanRequest::ctx`](super::PlanRequest).
    LowerCtx {
        /// To this.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        tokens: u64,
    },
    /// Lower [`PlanRequest::experts_on_gpu`](super::PlanRequest).
    LowerExpertsOnGpu {
        /// To this.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        per_layer: usize,
    },
    /// Close other programs that use the GPU.
    CloseGpuPrograms {
        /// VRAM to free.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        bytes: u64,
    },
    /// Compute on the CPU.
    UseCpu,
    /// Share the slots between all layers: [`Eviction::Global`](super::Eviction).
    GlobalEviction,
    /// Close other programs.
    ClosePrograms {
        /// RAM to free.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        bytes: u64,
    },
    /// Raise the memory limit of the container or service that this process is in.
    RaiseContainerLimit {
        /// By this.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        bytes: u64,
    },
    /// Choose a smaller model: this machine has too little RAM.
    SmallerModel {
        /// Its RAM.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        total_bytes: u64,
    },
}
