//! How much VRAM this program holds, as NVML tells.

use nvml_wrapper::{Device, Nvml, enums::device::UsedGpuMemory};

/// Reads the VRAM that this program holds, CUDA context included.
///
/// The driver's own account of the process where it gives one. Where it does not (in containers it
/// knows the process by another number, on Windows it keeps none), what is in use of the GPU
/// beyond what was when the meter was made; other programs then count too.
pub struct VramMeter {
    nvml: Nvml,
    gpus: Vec<Metered>,
}

/// A GPU as it was when the meter was made.
struct Metered {
    index: u32,
    uuid: String,
    /// What was in use of it.
    before_bytes: u64,
}

impl VramMeter {
    /// A meter for all GPUs; `None` where there is no NVIDIA driver.
    pub fn new() -> Option<Self> {
        let nvml = Nvml::init().ok()?;
        let gpus = (0..nvml.device_count().ok()?)
            .filter_map(|index| {
                let device = nvml.device_by_index(index).ok()?;
                Some(Metered {
                    index,
                    uuid: device.uuid().ok()?,
                    before_bytes: device.memory_info().ok()?.used,
                })
            })
            .collect();
        Some(Self { nvml, gpus })
    }

    /// For each GPU its identifier, as in [`Gpu::uuid`](super::Gpu), and the bytes held of it.
    pub fn held(&self) -> impl Iterator<Item = (&str, u64)> {
        self.gpus.iter().filter_map(|gpu| {
            let device = self.nvml.device_by_index(gpu.index).ok()?;
            let held = match of_process(&device) {
                Some(bytes) => bytes,
                None => {
                    let used_bytes = device.memory_info().ok()?.used;
                    used_bytes.saturating_sub(gpu.before_bytes)
                }
            };
            Some((gpu.uuid.as_str(), held))
        })
    }
}

/// What the driver says this process holds.
fn of_process(device: &Device<'_>) -> Option<u64> {
    let processes = device.running_compute_processes().ok()?;
    let own = processes
        .iter()
        .find(|process| process.pid == std::process::id())?;
    match own.used_gpu_memory {
        UsedGpuMemory::Used(bytes) => Some(bytes),
        UsedGpuMemory::Unavailable => None,
    }
}
