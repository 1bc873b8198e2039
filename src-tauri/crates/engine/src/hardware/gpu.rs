//! NVIDIA GPUs as the driver's management library (NVML) reports them.
//!
//! NVML comes with the driver and needs neither CUDA nor a context on the GPU, so asking it
//! costs no VRAM and works where nothing of NVIDIA's is installed: the library is then simply
//! not found.

use nvml_wrapper::{Nvml, error::NvmlError};
use serde::Serialize;
use thiserror::Error;

/// The oldest driver that loads the PTX 8.0 of the kernels (CUDA 12.0).
const MIN_DRIVER: u32 = 525;

/// The oldest architecture the kernels are compiled for: Turing.
const MIN_COMPUTE_CAPABILITY: (i32, i32) = (7, 5);

/// Whether there is an NVIDIA GPU, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuStatus {
    /// The GPUs in the order of NVML, which is that of the PCI bus; at least one. Each says for
    /// itself whether it can be used.
    Found(Vec<Gpu>),
    /// No GPU to use.
    Absent {
        /// What was probed and what came of it, for a person to read.
        reason: String,
    },
}

/// One NVIDIA GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// Index in the order of NVML. CUDA may number the GPUs otherwise: match by `uuid`.
    pub index: u32,
    /// The driver's identifier (`GPU-...`); empty if it gave none.
    pub uuid: String,
    /// Product name.
    pub name: String,
    /// Installed VRAM.
    pub vram_total_bytes: u64,
    /// VRAM that no program holds at the moment.
    pub vram_free_bytes: u64,
    /// CUDA compute capability, major and minor; (0, 0) if the driver did not say.
    pub compute_capability: (i32, i32),
    /// Version of the driver, as `525.60.13`.
    pub driver_version: String,
    /// Why this GPU cannot be used; `None` if it can.
    pub problem: Option<String>,
}

impl GpuStatus {
    pub(super) fn detect() -> Self {
        match probe() {
            Ok(gpus) => Self::Found(gpus),
            Err(failure) => Self::Absent {
                reason: failure.to_string(),
            },
        }
    }

    /// The GPUs that can be used.
    pub fn usable(&self) -> impl Iterator<Item = &Gpu> {
        let gpus = match self {
            Self::Found(gpus) => gpus.as_slice(),
            Self::Absent { .. } => &[],
        };
        gpus.iter().filter(|gpu| gpu.problem.is_none())
    }
}

/// Why no GPU could be listed.
#[derive(Debug, Error)]
enum ProbeError {
    #[error(
        "no NVIDIA driver was found (no {LIBRARY}); \
         with an NVIDIA GPU in this machine, install driver {MIN_DRIVER} or newer"
    )]
    NoLibrary,
    #[error(
        "the NVIDIA driver's library cannot be loaded ({detail}); \
         reinstall the driver, {MIN_DRIVER} or newer"
    )]
    BadLibrary { detail: String },
    #[error("NVIDIA GPUs do not work with macOS")]
    Macos,
    #[error(
        "the NVIDIA driver library is installed but the driver is not loaded; \
         load it (a restart does), or reinstall it after a kernel update"
    )]
    DriverNotLoaded,
    #[error(
        "the NVIDIA driver's library and its kernel part differ in version, as happens after \
         an update; restart the machine"
    )]
    DriverMismatch,
    #[error(
        "NVIDIA driver {version} is too old: {MIN_DRIVER} or newer is needed; update the driver"
    )]
    DriverTooOld { version: String },
    #[error("NVIDIA driver {version} is present, but it reports no device")]
    NoDevice { version: String },
    #[error("the NVIDIA driver failed ({call}: {source})")]
    Nvml {
        call: &'static str,
        source: NvmlError,
    },
}

const LIBRARY: &str = if cfg!(windows) {
    "nvml.dll"
} else {
    "libnvidia-ml.so.1"
};

fn probe() -> Result<Vec<Gpu>, ProbeError> {
    if cfg!(target_os = "macos") {
        return Err(ProbeError::Macos);
    }
    let nvml = Nvml::init().map_err(init_error)?;
    let version = nvml
        .sys_driver_version()
        .map_err(|source| ProbeError::Nvml {
            call: "driver version",
            source,
        })?;
    check_driver(&version)?;
    let n_gpus = nvml.device_count().map_err(|source| ProbeError::Nvml {
        call: "device count",
        source,
    })?;
    if n_gpus == 0 {
        return Err(ProbeError::NoDevice { version });
    }
    Ok((0..n_gpus)
        .map(|index| match query(&nvml, index, &version) {
            Ok(gpu) => gpu,
            Err(error) => unreadable(index, version.clone(), &error),
        })
        .collect())
}

fn init_error(error: NvmlError) -> ProbeError {
    match error {
        NvmlError::LibraryNotFound => ProbeError::NoLibrary,
        NvmlError::LibloadingError(source) => loading_error(whole(&source)),
        NvmlError::DriverNotLoaded => ProbeError::DriverNotLoaded,
        NvmlError::LibRmVersionMismatch => ProbeError::DriverMismatch,
        source => ProbeError::Nvml {
            call: "initialization",
            source,
        },
    }
}

/// What the system's loader says, as text only: that the library is not there is no failure.
fn loading_error(detail: String) -> ProbeError {
    if ["No such file", "os error 126"]
        .iter()
        .any(|absent| detail.contains(absent))
    {
        ProbeError::NoLibrary
    } else {
        ProbeError::BadLibrary { detail }
    }
}

/// An error with what caused it: on Windows, the error itself names only the call.
fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Versions read `525.60.13`. One that does not start with a number passes: better to try the
/// GPU than to refuse it over an unknown numbering.
fn check_driver(version: &str) -> Result<(), ProbeError> {
    let major: Option<u32> = version.split('.').next().and_then(|part| part.parse().ok());
    match major {
        Some(major) if major < MIN_DRIVER => Err(ProbeError::DriverTooOld {
            version: version.to_owned(),
        }),
        _ => Ok(()),
    }
}

fn query(nvml: &Nvml, index: u32, version: &str) -> Result<Gpu, NvmlError> {
    let device = nvml.device_by_index(index)?;
    let memory = device.memory_info()?;
    let capability = device.cuda_compute_capability()?;
    let compute_capability = (capability.major, capability.minor);
    Ok(Gpu {
        index,
        uuid: device.uuid().unwrap_or_default(),
        name: device.name()?,
        vram_total_bytes: memory.total,
        vram_free_bytes: memory.free,
        compute_capability,
        driver_version: version.to_owned(),
        problem: capability_problem(compute_capability),
    })
}

fn capability_problem(capability: (i32, i32)) -> Option<String> {
    let (major, minor) = capability;
    let (min_major, min_minor) = MIN_COMPUTE_CAPABILITY;
    (capability < MIN_COMPUTE_CAPABILITY).then(|| {
        format!(
            "compute capability {major}.{minor} is below {min_major}.{min_minor} \
             (GTX 16, RTX 20 and T4 are the oldest that work)"
        )
    })
}

fn unreadable(index: u32, driver_version: String, error: &NvmlError) -> Gpu {
    Gpu {
        index,
        uuid: String::new(),
        name: format!("GPU {index}"),
        vram_total_bytes: 0,
        vram_free_bytes: 0,
        compute_capability: (0, 0),
        driver_version,
        problem: Some(format!("the NVIDIA driver could not read it: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_drivers_are_told_from_new_ones() {
        let cases = [
            ("470.256.02", false),
            ("524.99", false),
            ("525.60.13", true),
            ("580.95.05", true),
            ("1000.1", true),
            ("rel-9", true),
            ("", true),
        ];
        for (version, accepted) in cases {
            assert_eq!(check_driver(version).is_ok(), accepted, "{version:?}");
        }
        let message = check_driver("470.256.02").unwrap_err().to_string();
        assert!(message.contains("470.256.02") && message.contains("525"));
    }

    #[test]
    fn gpus_before_turing_say_why_they_are_not_used() {
        for old in [(5, 2), (6, 1), (7, 0)] {
            let problem = capability_problem(old).expect("too old");
            assert!(
                problem.contains(&format!("{}.{}", old.0, old.1)),
                "{problem}"
            );
            assert!(problem.contains("7.5"), "{problem}");
        }
        for new in [(7, 5), (8, 0), (8, 6), (9, 0), (12, 0)] {
            assert_eq!(capability_problem(new), None);
        }
    }

    #[test]
    fn each_failure_to_start_has_its_own_reason() {
        let reasons: Vec<String> = [
            NvmlError::LibraryNotFound,
            NvmlError::DriverNotLoaded,
            NvmlError::LibRmVersionMismatch,
            NvmlError::NoPermission,
        ]
        .into_iter()
        .map(|error| init_error(error).to_string())
        .collect();
        for (reason, words) in reasons.iter().zip([
            "no NVIDIA driver was found",
            "driver is not loaded",
            "differ in version",
            "does not have permission",
        ]) {
            assert!(reason.contains(words), "{reason}");
        }
    }

    #[test]
    fn a_library_that_is_broken_is_not_one_that_is_absent() {
        for detail in [
            "libnvidia-ml.so.1: cannot open shared object file: No such file or directory",
            "LoadLibraryExW failed: The specified module could not be found. (os error 126)",
        ] {
            let reason = loading_error(detail.to_owned()).to_string();
            assert!(reason.starts_with("no NVIDIA driver was found"), "{reason}");
        }
        let broken = loading_error("libnvidia-ml.so.1: file too short".to_owned()).to_string();
        assert!(broken.contains("file too short"), "{broken}");
    }

    #[test]
    fn only_gpus_without_a_problem_are_usable() {
        let good = Gpu {
            problem: None,
            ..unreadable(1, "550.1".to_owned(), &NvmlError::GpuLost)
        };
        let bad = unreadable(0, "550.1".to_owned(), &NvmlError::GpuLost);
        assert!(
            bad.problem
                .as_deref()
                .is_some_and(|p| p.contains("fell off"))
        );
        let found = GpuStatus::Found(vec![bad, good.clone()]);
        assert_eq!(found.usable().collect::<Vec<_>>(), [&good]);
        let absent = GpuStatus::Absent {
            reason: "none".to_owned(),
        };
        assert_eq!(absent.usable().count(), 0);
    }
}
