//! The machine as the page shows it.

use std::path::Path;

use octet_engine::hardware::{
    Gpu, GpuProblem, GpuStatus, Hardware, NoGpu, UnusableGpu, cuda_is_available,
};
use serde::Serialize;
use specta::Type;

/// The machine.
#[derive(Clone, Debug, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct HardwareInfo {
    /// The GPU that is, or would be, used.
    pub gpu: Option<GpuInfo>,
    /// Why no GPU is used.
    pub gpu_reason: Option<NoGpu>,
    /// Installed RAM.
    #[specta(type = u32)]
    pub ram_total_bytes: u64,
    /// RAM that can be taken now.
    #[specta(type = u32)]
    pub ram_free_bytes: u64,
    /// The processor.
    pub cpu_name: String,
    /// Its cores.
    #[specta(type = u32)]
    pub physical_cores: usize,
    /// Its vector extensions.
    pub cpu_features: Vec<String>,
    /// Room on the disk that holds the models.
    #[specta(type = Option<u32>)]
    pub disk_free_bytes: Option<u64>,
    /// Its size.
    #[specta(type = Option<u32>)]
    pub disk_total_bytes: Option<u64>,
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct GpuInfo {
    /// Product name.
    pub name: String,
    /// Installed VRAM.
    #[specta(type = u32)]
    pub vram_total_bytes: u64,
    /// VRAM that no program holds.
    #[specta(type = u32)]
    pub vram_free_bytes: u64,
    /// As `8.9`.
    pub compute_capability: String,
    /// Version of the driver.
    pub driver: String,
    /// Why it cannot be used.
    pub problem: Option<GpuProblem>,
}

impl HardwareInfo {
    /// Looks at the machine; `models` decides which disk is meant. May take a second.
    pub fn detect(models: &Path) -> Self {
        Self::from(Hardware::detect(models))
    }
}

impl From<Hardware> for HardwareInfo {
    fn from(hardware: Hardware) -> Self {
        let gpu = match &hardware.gpu {
            GpuStatus::Found(gpus) => hardware.gpu.best().or(gpus.first()),
            GpuStatus::Absent { .. } => None,
        };
        let gpu_reason = match &hardware.gpu {
            GpuStatus::Absent { reason } => Some(reason.clone()),
            GpuStatus::Found(gpus) => why_unused(gpu, gpus),
        };
        Self {
            gpu: gpu.map(GpuInfo::from),
            gpu_reason,
            ram_total_bytes: hardware.ram_total_bytes,
            ram_free_bytes: hardware.ram_available_bytes,
            cpu_name: hardware.cpu.brand,
            physical_cores: hardware.cpu.physical_cores,
            cpu_features: hardware.cpu.features,
            disk_free_bytes: hardware.disk.as_ref().map(|disk| disk.free_bytes),
            disk_total_bytes: hardware.disk.as_ref().map(|disk| disk.total_bytes),
        }
    }
}

/// Why `gpu`, the best of `gpus`, is not used, if so.
fn why_unused(gpu: Option<&Gpu>, gpus: &[Gpu]) -> Option<NoGpu> {
    let gpu = gpu?;
    if gpu.problem.is_some() {
        let unusable = gpus.iter().filter_map(|gpu| {
            Some(UnusableGpu {
                name: gpu.name.clone(),
                problem: gpu.problem.clone()?,
            })
        });
        return Some(NoGpu::Unusable {
            gpus: unusable.collect(),
        });
    }
    (!cuda_is_available()).then(|| NoGpu::NoCuda {
        gpu: gpu.name.clone(),
        free_bytes: gpu.vram_free_bytes,
    })
}

impl From<&Gpu> for GpuInfo {
    fn from(gpu: &Gpu) -> Self {
        let (major, minor) = gpu.compute_capability;
        Self {
            name: gpu.name.clone(),
            vram_total_bytes: gpu.vram_total_bytes,
            vram_free_bytes: gpu.vram_free_bytes,
            compute_capability: format!("{major}.{minor}"),
            driver: gpu.driver_version.clone(),
            problem: gpu.problem.clone(),
        }
    }
}
