//! What a GPU or its driver reports.

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

/// A failure of the GPU or its driver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// The driver's library is not on this machine.
    #[error("no NVIDIA driver is installed")]
    NoDriver,
    /// The driver knows no GPU with that identifier.
    #[error("the driver lists no GPU {uuid}")]
    NoSuchGpu {
        /// The identifier asked for, `GPU-...`.
        uuid: String,
    },
    /// An allocation failed.
    #[error("no room for {what}: {bytes} bytes asked for")]
    OutOfMemory {
        /// What it was for.
        what: &'static str,
        /// How much.
        bytes: usize,
    },
    /// Any other call that failed; most leave the GPU unusable for this process.
    #[error("{call}: {name}")]
    Driver {
        /// What was being done.
        call: &'static str,
        /// The driver's name for the failure.
        name: String,
    },
}

impl CudaError {
    /// Whether memory ran out: less of it may still work.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::OutOfMemory { .. })
    }

    pub(super) fn of(call: &'static str) -> impl FnOnce(DriverError) -> Self {
        move |error| Self::Driver {
            call,
            name: name(&error),
        }
    }

    pub(super) fn of_allocation(
        what: &'static str,
        bytes: usize,
    ) -> impl FnOnce(DriverError) -> Self {
        move |error| match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Self::OutOfMemory { what, bytes },
            _ => Self::Driver {
                call: what,
                name: name(&error),
            },
        }
    }
}

fn name(error: &DriverError) -> String {
    match error.error_string() {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => format!("{:?}", error.0),
    }
}
