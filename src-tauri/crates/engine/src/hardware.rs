//! What this machine has to offer: GPUs, memory, processor, disk.
//!
//! Detection never fails. What could not be found out is absent from the result or carries a
//! reason, so that a person can be told what was probed and what came of it. Free
//! figures (VRAM, RAM, disk) are those of the moment of the call.

#[cfg(any(target_os = "linux", test))]
mod cgroup;
mod cpu;
mod disk;
mod gpu;
mod no_gpu;
mod vram;

use std::path::Path;

use serde::Serialize;
use sysinfo::{MemoryRefreshKind, System};

pub use cpu::Cpu;
pub use disk::Disk;
pub use gpu::{Gpu, GpuStatus};
pub use no_gpu::{GpuProblem, KernelLimit, NoGpu, UnusableGpu};
pub use vram::VramMeter;

/// The machine as found by [`Hardware::detect`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hardware {
    /// NVIDIA GPUs, or why there is none to use.
    pub gpu: GpuStatus,
    /// Memory this process can ever have: installed RAM, or the control group's limit if lower.
    pub ram_total_bytes: u64,
    /// Whether a control group (a container, a service) bounds that memory, and not the machine.
    pub ram_is_limited: bool,
    /// Memory that can be taken now without swapping. Page cache counts as available.
    pub ram_available_bytes: u64,
    /// RAM that the driver of a GPU pins at the most; `None`: no limit is known.
    pub pinnable_ram_bytes: Option<u64>,
    /// The processor.
    pub cpu: Cpu,
    /// The file system that holds the model folder; `None` where the system does not list it.
    pub disk: Option<Disk>,
}

impl Hardware {
    /// Looks at the machine. `dir` is the model folder (it need not exist yet): its file system
    /// is the one reported in [`Hardware::disk`].
    ///
    /// Takes some milliseconds; up to a second where the NVIDIA driver has to wake a GPU.
    pub fn detect(dir: &Path) -> Self {
        let ram = Ram::detect();
        Self {
            gpu: GpuStatus::detect(),
            ram_total_bytes: ram.total_bytes,
            ram_is_limited: ram.is_limited,
            ram_available_bytes: ram.available_bytes,
            pinnable_ram_bytes: pinnable_ram(
                ram.total_bytes,
                // What WSL has in place of a GPU's own device.
                cfg!(windows) || Path::new("/dev/dxg").exists(),
            ),
            cpu: Cpu::detect(),
            disk: Disk::detect(dir),
        }
    }
}

/// Whether the driver's CUDA library can be loaded, so that a GPU found by NVML can be computed on.
pub fn cuda_is_available() -> bool {
    octet_kernels::cuda::is_available()
}

/// RAM that a GPU's driver pins of `ram_total_bytes`, where that is limited. Windows' own driver model
/// grants a GPU half of the machine's memory and no more, also to a Linux below it (WSL).
fn pinnable_ram(ram_total_bytes: u64, is_windows: bool) -> Option<u64> {
    is_windows.then_some(ram_total_bytes / 2)
}

/// RAM within the limits of the process's control group.
struct Ram {
    total_bytes: u64,
    available_bytes: u64,
    is_limited: bool,
}

impl Ram {
    fn detect() -> Self {
        let mut system = System::new();
        system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        let total_bytes = system.total_memory();
        let available_bytes = system.available_memory().min(total_bytes);

        #[cfg(target_os = "linux")]
        if let Some(limit) = cgroup::memory_limit() {
            return Self {
                total_bytes: total_bytes.min(limit.limit_bytes),
                available_bytes: available_bytes.min(limit.available_bytes),
                is_limited: limit.limit_bytes < total_bytes,
            };
        }
        Self {
            total_bytes,
            available_bytes,
            is_limited: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_pins_half_of_the_ram_for_a_gpu() {
        assert_eq!(pinnable_ram(32_000, true), Some(16_000));
        assert_eq!(pinnable_ram(32_000, false), None);
    }

    #[test]
    fn detection_gives_consistent_figures() {
        let hardware = Hardware::detect(Path::new("."));
        assert!(hardware.ram_total_bytes > 0);
        assert!(hardware.ram_available_bytes <= hardware.ram_total_bytes);
        if let GpuStatus::Absent { reason } = &hardware.gpu {
            assert!(!reason.to_string().is_empty());
        }
    }
}
