//! What a plan is made from: the model's sizes and what was asked for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::hardware::KernelLimit;

#[cfg(doc)]
use super::Plan;
use super::PlanError;
use octet_checkpoint::{Checkpoint, WeightBytes};
use octet_spec::ModelSpec;

/// The sizes of a model that decide what it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelSizes {
    /// Decoder layers.
    pub n_layers: usize,
    /// Experts a layer.
    pub n_experts: usize,
    /// Experts a token uses in each layer.
    pub top_k: usize,
    /// One expert as it lies in its file.
    pub expert_bytes: u64,
    /// The trunk as it lies in its file.
    pub trunk_file_bytes: u64,
    /// The trunk as it is held to compute with (an 8-bit output head, for example).
    pub trunk_resident_bytes: u64,
    /// KV cache of all layers for one token; see [`ModelSizes::kv_bytes_per_token`].
    pub kv_bytes_per_token: u64,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Width of the hidden state.
    pub hidden: usize,
    /// Width inside an expert.
    pub intermediate: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Longest context the model was made for, in tokens.
    pub max_positions: usize,
}

impl ModelSizes {
    /// Those of an open checkpoint.
    #[must_use]
    pub fn of(checkpoint: &Checkpoint) -> Self {
        Self::new(checkpoint.spec(), checkpoint.weight_bytes())
    }

    /// The sizes of a model that computes what `c` says, in files of `bytes`.
    #[must_use]
    pub fn new(c: &ModelSpec, bytes: WeightBytes) -> Self {
        Self {
            n_layers: c.n_layers,
            n_experts: c.n_experts,
            top_k: c.top_k,
            expert_bytes: bytes.expert,
            trunk_file_bytes: bytes.trunk_file,
            trunk_resident_bytes: bytes.trunk_resident,
            kv_bytes_per_token: Self::kv_bytes_per_token(c.n_layers, c.n_kv_heads, c.head_dim),
            vocab: c.vocab_size,
            hidden: c.hidden_size,
            intermediate: c.intermediate_size,
            n_heads: c.n_heads,
            n_kv_heads: c.n_kv_heads,
            head_dim: c.head_dim,
            max_positions: c.max_positions,
        }
    }

    /// KV cache bytes a token takes over all layers: keys and values in f16.
    #[must_use]
    pub const fn kv_bytes_per_token(n_layers: usize, n_kv_heads: usize, head_dim: usize) -> u64 {
        2 * 2 * n_layers as u64 * n_kv_heads as u64 * head_dim as u64
    }

    /// The trunk as it is held to compute with, in bytes, of `trunk_file_bytes` on disk: the
    /// output matrix, f16 `(vocab, hidden)` in the file, is brought to 8 bits and a scale per 64.
    /// One that is `tied` to the embeddings is a copy, and those stay.
    #[must_use]
    pub fn trunk_resident_bytes(
        trunk_file_bytes: u64,
        (vocab, hidden): (usize, usize),
        tied: bool,
    ) -> u64 {
        octet_checkpoint::trunk_resident_bytes(trunk_file_bytes, (vocab, hidden), tied)
    }

    /// Experts over all layers.
    #[must_use]
    pub fn total_experts(&self) -> usize {
        self.n_layers * self.n_experts
    }

    /// The checkpoint on disk, in bytes.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.trunk_file_bytes
            .saturating_add(self.experts_bytes(self.total_experts()))
    }

    /// The embedding matrix as the file has it, f16 `(vocab, hidden)`, in bytes.
    #[must_use]
    pub fn embedding_bytes(&self) -> u64 {
        2 * self.vocab as u64 * self.hidden as u64
    }

    /// The first limit of the GPU kernels that a model of this shape is beyond.
    #[must_use]
    pub fn gpu_problem(&self) -> Option<KernelLimit> {
        let (top_k, n_experts, head_dim) = (self.top_k, self.n_experts, self.head_dim);
        let sharing = self.n_heads.div_ceil(self.n_kv_heads.max(1));
        let over = |has: usize, most: usize| (has > most).then_some((has, most));
        if let Some((has, most)) = over(top_k, 8) {
            Some(KernelLimit::ExpertsPerToken { has, most })
        } else if let Some((has, most)) = over(n_experts, 256) {
            Some(KernelLimit::ExpertsPerLayer { has, most })
        } else if let Some((has, most)) = over(head_dim, 256) {
            Some(KernelLimit::HeadDim { has, most })
        } else if let Some((has, most)) = over(sharing, 16) {
            Some(KernelLimit::HeadsPerKeyHead { has, most })
        } else {
            (head_dim % 2 == 1).then_some(KernelLimit::OddHeadDim { has: head_dim })
        }
    }

    /// The fewest expert slots in RAM that work: the experts of one token in one layer, those of
    /// the next being read meanwhile, and two that eviction may leave behind.
    #[must_use]
    pub fn min_ram_slots(&self) -> usize {
        (2 * self.top_k + 2).min(self.total_experts())
    }

    pub(super) fn experts_bytes(&self, n: usize) -> u64 {
        self.expert_bytes.saturating_mul(n as u64)
    }

    pub(super) fn kv_bytes(&self, ctx: usize) -> u64 {
        self.kv_bytes_per_token.saturating_mul(ctx as u64)
    }

    pub(super) fn check(&self) -> Result<(), PlanError> {
        let positive = [
            ("n_layers", self.n_layers as u64),
            ("n_experts", self.n_experts as u64),
            ("top_k", self.top_k as u64),
            ("expert_bytes", self.expert_bytes),
            ("kv_bytes_per_token", self.kv_bytes_per_token),
            ("n_heads", self.n_heads as u64),
            ("n_kv_heads", self.n_kv_heads as u64),
            ("head_dim", self.head_dim as u64),
            ("max_positions", self.max_positions as u64),
        ];
        if let Some(&(field, value)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(PlanError::BadSizes { field, value });
        }
        if self.top_k > self.n_experts {
            return Err(PlanError::BadSizes {
                field: "top_k",
                value: self.top_k as u64,
            });
        }
        // Far beyond any model, and small enough that no product of the plan overflows.
        let bounded = [
            ("n_layers", self.n_layers),
            ("n_experts", self.n_experts),
            ("vocab", self.vocab),
            ("hidden", self.hidden),
            ("intermediate", self.intermediate),
            (
                "n_heads * head_dim",
                self.n_heads.saturating_mul(self.head_dim),
            ),
            (
                "n_kv_heads * head_dim",
                self.n_kv_heads.saturating_mul(self.head_dim),
            ),
            ("max_positions", self.max_positions),
        ];
        match bounded.iter().find(|(_, value)| *value > 1 << 30) {
            Some(&(field, value)) => Err(PlanError::BadSizes {
                field,
                value: value as u64,
            }),
            None => Ok(()),
        }
    }
}

/// What was asked for. `None` and `Auto` leave the choice to the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanRequest {
    /// Where to compute.
    pub device: Device,
    /// Settings of the seed system for a size of GPU.
    pub preset: OffloadPreset,
    /// VRAM that the program may take in all, in bytes.
    pub vram_budget: Option<u64>,
    /// RAM that expert slots and KV cache may take, in bytes; the rest comes on top.
    pub ram_budget: Option<u64>,
    /// Experts a layer to hold in VRAM.
    pub experts_on_gpu: Option<usize>,
    /// Context length in tokens.
    pub ctx: Option<usize>,
    /// What to do with an expert that is not in VRAM.
    pub misses: Misses,
    /// Experts of the next layer to fetch ahead, 0 to 2; `None`: as many as pay.
    pub prefetch: Option<usize>,
    /// Which expert gives way where slots are short.
    pub eviction: Eviction,
    /// RAM that may be pinned for the GPU, in bytes; `None`: what the system allows
    /// ([`Hardware::pinnable_ram_bytes`](crate::hardware::Hardware)).
    pub pinned_ram: Option<u64>,
    /// Plan even what does not fit ("load anyway").
    pub force: bool,
    /// Whether CUDA can be called ([`cuda_is_available`](crate::hardware::cuda_is_available)). A
    /// fact, not a wish: not kept with settings.
    #[serde(skip)]
    pub gpu_backend_available: bool,
    /// What the GPU turned out to have, once it was opened. A fact too; see [`Plan::step_down`].
    #[serde(skip)]
    pub measured_vram: Option<MeasuredVram>,
}

/// VRAM as found once a CUDA context exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeasuredVram {
    /// What the context and the kernels took, in bytes.
    pub context_bytes: u64,
    /// What can be allocated beside them, in bytes.
    pub free_bytes: u64,
}

/// A word that names none of the choices.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{word:?} is not a {what}: choose {choices}")]
pub struct UnknownChoice {
    word: String,
    what: &'static str,
    choices: String,
}

/// `a, b or c`.
fn one_of(words: &[&str]) -> String {
    match words {
        [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        words => words.concat(),
    }
}

/// An enum whose variants have a word each, for the command line and for display. In settings and on
/// the page they go by their names in lower case.
macro_rules! choice {
    (
        $(#[$doc:meta])*
        $name:ident, $what:literal {
            $($(#[$variant_meta:meta])* $variant:ident = $word:literal),+ $(,)?
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[cfg_attr(feature = "specta", derive(specta::Type))]
        #[serde(rename_all = "lowercase")]
        pub enum $name {
            $($(#[$variant_meta])* $variant),+
        }

        impl $name {
            /// All choices with their names.
            pub const ALL: &[(Self, &'static str)] = &[$((Self::$variant, $word)),+];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }

        impl FromStr for $name {
            type Err = UnknownChoice;

            fn from_str(word: &str) -> Result<Self, UnknownChoice> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownChoice {
                        word: word.to_owned(),
                        what: $what,
                        choices: one_of(&[$($word),+]),
                    }),
                }
            }
        }
    };
}

choice! {
    /// Where to compute.
    Device, "device" {
        /// On a GPU if one can be used, else on the CPU.
        #[default]
        Auto = "auto",
        /// On the CPU.
        Cpu = "cpu",
        /// On a GPU, or not at all.
        Cuda = "cuda",
    }
}

choice! {
    /// Settings by size of GPU. The figures are those of the seed system (dvmazur/mixtral-offloading):
    /// `offload_per_layer` experts of each layer stay off the GPU.
    OffloadPreset, "preset" {
        /// Fill what free VRAM allows.
        #[default]
        Auto = "auto",
        /// For 16 GB: `offload_per_layer` 4.
        Gpu16 = "16gb",
        /// For 12 GB: `offload_per_layer` 5.
        Gpu12 = "12gb",
        /// No GPU.
        Cpu = "cpu",
    }
}

impl OffloadPreset {
    /// Experts of each layer that the preset keeps off the GPU.
    #[must_use]
    pub fn offload_per_layer(self) -> Option<usize> {
        match self {
            Self::Gpu16 => Some(4),
            Self::Gpu12 => Some(5),
            Self::Auto | Self::Cpu => None,
        }
    }
}

choice! {
    /// Which expert gives way where slots are short.
    Eviction, "eviction policy" {
        /// Any expert may take any slot; the least recently used of the layers that have more
        /// than their fair share goes.
        #[default]
        Global = "global",
        /// Every layer owns its share of the slots, as in the seed system (arXiv 2312.17238).
        Layer = "layer",
    }
}

choice! {
    /// What to do with an expert that a token needs and VRAM does not hold.
    Misses, "way to handle misses" {
        /// Whichever ends the layer sooner by measured bandwidths.
        #[default]
        Auto = "auto",
        /// Copy it to VRAM.
        Fetch = "fetch",
        /// Compute it on the CPU.
        Cpu = "cpu",
    }
}
