//! Why a GPU is not used. `Display` is the middle of a sentence, for the command line and for logs;
//! the window puts the data into its own language.

use serde::Serialize;
use thiserror::Error;

use crate::plan::format_bytes;

/// Why no GPU is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Error)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum NoGpu {
    /// The driver's library is not there.
    #[error(
        "no NVIDIA driver was found (no {library}); with an NVIDIA GPU in this machine, install \
         driver {min_driver} or newer"
    )]
    NoDriver {
        /// File name of the library.
        library: String,
        /// The oldest driver that works.
        min_driver: u32,
    },
    /// The driver's library is there and cannot be loaded.
    #[error(
        "the NVIDIA driver's library cannot be loaded ({detail}); reinstall the driver, \
         {min_driver} or newer"
    )]
    BadLibrary {
        /// What the system's loader says.
        detail: String,
        /// The oldest driver that works.
        min_driver: u32,
    },
    /// macOS has no driver for NVIDIA GPUs.
    #[error("NVIDIA GPUs do not work with macOS")]
    Macos,
    /// The library is there, the driver itself is not.
    #[error(
        "the NVIDIA driver library is installed but the driver is not loaded; load it (a restart \
         does), or reinstall it after a kernel update"
    )]
    DriverNotLoaded,
    /// The driver was updated and not loaded again since.
    #[error(
        "the NVIDIA driver's library and its kernel part differ in version, as happens after an \
         update; restart the machine"
    )]
    DriverMismatch,
    /// The driver cannot load the kernels.
    #[error(
        "NVIDIA driver {version} is too old: {min_driver} or newer is needed; update the driver"
    )]
    DriverTooOld {
        /// Of the driver.
        version: String,
        /// The oldest driver that works.
        min_driver: u32,
    },
    /// A driver without a GPU.
    #[error("NVIDIA driver {version} is present, but it reports no device")]
    NoDevice {
        /// Of the driver.
        version: String,
    },
    /// The driver answers with an error.
    #[error("the NVIDIA driver failed ({call}: {detail})")]
    DriverFailed {
        /// What it was asked for.
        call: &'static str,
        /// What it says.
        detail: String,
    },
    /// There are GPUs, each with a problem.
    #[error("no GPU can be used ({})", list(gpus))]
    Unusable {
        /// All of them.
        gpus: Vec<UnusableGpu>,
    },
    /// CUDA cannot be called.
    #[error(
        "the CUDA library of the NVIDIA driver cannot be loaded, so {gpu} ({} free) is not used",
        format_bytes(*free_bytes)
    )]
    NoCuda {
        /// Product name of the GPU that would be used.
        gpu: String,
        /// Its free VRAM.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        free_bytes: u64,
    },
    /// The GPU path does not compute something that the model has.
    #[error("the GPU path has no {} yet", features.join(", no "))]
    Unsupported {
        /// What the model has, in English.
        features: Vec<String>,
    },
    /// The model's shape is beyond the GPU kernels.
    #[error("{limit}, so {gpu} is not used")]
    KernelLimit {
        /// Product name of the GPU that would be used.
        gpu: String,
        /// Which limit.
        limit: KernelLimit,
    },
}

fn list(gpus: &[UnusableGpu]) -> String {
    let each: Vec<String> = gpus
        .iter()
        .map(|UnusableGpu { name, problem }| format!("{name}: {problem}"))
        .collect();
    each.join("; ")
}

/// A GPU that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct UnusableGpu {
    /// Product name.
    pub name: String,
    /// Why not.
    pub problem: GpuProblem,
}

/// Why one GPU cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Error)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum GpuProblem {
    /// The kernels are not compiled for it.
    #[error(
        "compute capability {capability} is below {needed} (GTX 16, RTX 20 and T4 are the oldest \
         that work)"
    )]
    TooOld {
        /// Its compute capability, as `6.1`.
        capability: String,
        /// The oldest one that works.
        needed: String,
    },
    /// The driver does not tell its name, capability or memory.
    #[error("the NVIDIA driver could not read it: {detail}")]
    Unreadable {
        /// What the driver says.
        detail: String,
    },
    /// CUDA answers with an error.
    #[error("CUDA does not start: {detail}")]
    NoCuda {
        /// What it says.
        detail: String,
    },
    /// It is split into MIG instances; CUDA computes in one of those.
    #[error("it is split into MIG instances; CUDA computes in one of those")]
    Mig,
    /// An environment variable hides it.
    #[error("{variable} hides it from this program")]
    Hidden {
        /// Name of the variable.
        variable: String,
    },
    /// CUDA does not list it.
    #[error("CUDA does not list it")]
    NotListed,
    /// Its memory is not known.
    #[error("its memory cannot be read: {detail}")]
    NoMemoryFigure {
        /// What CUDA says.
        detail: String,
    },
    /// Its driver cannot load the kernels.
    #[error(
        "its driver supports CUDA {supported}, and {needed} is needed; install driver {min_driver} \
         or newer"
    )]
    DriverTooOld {
        /// The CUDA version of the driver, as `11.8`.
        supported: String,
        /// The oldest CUDA version that works.
        needed: String,
        /// The oldest driver that works.
        min_driver: u32,
    },
    /// Once open, it has too little free VRAM.
    #[error("it has less free VRAM than it seemed")]
    NoRoom,
    /// It, or its driver, failed while the model was loaded.
    #[error("{detail}")]
    Failed {
        /// What was reported.
        detail: String,
    },
}

/// A limit of the GPU kernels that a model's shape is beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Error)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum KernelLimit {
    /// Experts that a token uses in each layer.
    #[error("the model has {has} experts a token, and the GPU kernels take at most {most}")]
    ExpertsPerToken {
        /// Of the model.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        has: usize,
        /// Of the kernels.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        most: usize,
    },
    /// Experts of a layer.
    #[error("the model has {has} experts a layer, and the GPU kernels take at most {most}")]
    ExpertsPerLayer {
        /// Of the model.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        has: usize,
        /// Of the kernels.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        most: usize,
    },
    /// Width of an attention head.
    #[error("the model has {has} values a head, and the GPU kernels take at most {most}")]
    HeadDim {
        /// Of the model.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        has: usize,
        /// Of the kernels.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        most: usize,
    },
    /// Query heads that share a key head.
    #[error("the model has {has} query heads a key head, and the GPU kernels take at most {most}")]
    HeadsPerKeyHead {
        /// Of the model.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        has: usize,
        /// Of the kernels.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        most: usize,
    },
    /// An odd width of an attention head.
    #[error("the model's heads are {has} wide, and the GPU kernels take even widths")]
    OddHeadDim {
        /// Of the model.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        has: usize,
    },
}
