//! The processor: name, cores, and the vector extensions that kernels choose from.

use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use serde::Serialize;
use sysinfo::{CpuRefreshKind, System};

/// The processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// Marketing name, or `"unknown"`.
    pub brand: String,
    /// Physical cores, at most `logical_cores`. Worker pools are sized by this.
    pub physical_cores: usize,
    /// Hardware threads that this process may use (affinity and control-group quota included).
    pub logical_cores: usize,
    /// Vector extensions present, in the names of Rust's target features.
    pub features: Vec<String>,
}

impl Cpu {
    pub(super) fn detect() -> Self {
        let mut system = System::new();
        system.refresh_cpu_list(CpuRefreshKind::nothing());
        let brand = system
            .cpus()
            .first()
            .map(|cpu| cpu.brand().trim())
            .filter(|brand| !brand.is_empty())
            .unwrap_or("unknown")
            .to_owned();
        let logical_cores =
            available_parallelism().map_or_else(|_| system.cpus().len().max(1), NonZeroUsize::get);
        let physical_cores = System::physical_core_count()
            .filter(|&cores| cores > 0)
            .map_or(logical_cores, |cores| cores.min(logical_cores));
        Self {
            brand,
            physical_cores,
            logical_cores,
            features: features(),
        }
    }
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
macro_rules! detected {
    ($($name:tt),* $(,)?) => {
        [$(($name, std::arch::is_x86_feature_detected!($name))),*]
    };
}

#[cfg(target_arch = "aarch64")]
macro_rules! detected {
    ($($name:tt),* $(,)?) => {
        [$(($name, std::arch::is_aarch64_feature_detected!($name))),*]
    };
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn features() -> Vec<String> {
    present(&detected![
        "sse4.1",
        "sse4.2",
        "avx",
        "f16c",
        "fma",
        "avx2",
        "avxvnni",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512vnni",
    ])
}

#[cfg(target_arch = "aarch64")]
fn features() -> Vec<String> {
    present(&detected!["neon", "fp16", "dotprod", "i8mm", "bf16", "sve"])
}

#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<String> {
    Vec::new()
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64"))]
fn present(detected: &[(&str, bool)]) -> Vec<String> {
    detected
        .iter()
        .filter(|(_, present)| *present)
        .map(|(name, _)| (*name).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_and_features_are_plausible() {
        let cpu = Cpu::detect();
        assert!(cpu.physical_cores >= 1);
        assert!(cpu.physical_cores <= cpu.logical_cores);
        assert!(!cpu.brand.is_empty());
        #[cfg(target_arch = "aarch64")]
        assert!(cpu.features.iter().any(|name| name == "neon"));
        #[cfg(target_arch = "x86_64")]
        assert_eq!(
            cpu.features.iter().any(|name| name == "avx2"),
            std::arch::is_x86_feature_detected!("avx2")
        );
    }
}
