//! NVIDIA GPUs as the driver's two libraries report them.
//!
//! The management library (NVML) knows every GPU of the machine and what is free of it, and needs no
//! context on a GPU to say so. CUDA knows which of them this process may use (`CUDA_VISIBLE_DEVICES`,
//! MIG instances). They number GPUs differently, so both are matched by identifier. A GPU whose memory
//! NVML does not know is asked through CUDA, and so are all where NVML does not work.

use std::cmp::Reverse;
use std::collections::HashSet;

use nvml_wrapper::{Device, Nvml, error::NvmlError};
use octet_kernels::cuda::{self, CudaError, Listed};
use serde::Serialize;

use super::no_gpu::{GpuProblem, NoGpu};
use crate::plan::CUDA_CONTEXT_BYTES;

/// The oldest driver that loads the PTX 8.0 of the kernels (CUDA 12.0).
const MIN_DRIVER: u32 = 525;

/// The oldest architecture the kernels are compiled for: Turing.
const MIN_COMPUTE_CAPABILITY: (i32, i32) = (7, 5);

/// The CUDA version that those drivers support, for where only CUDA can be asked.
const MIN_CUDA: (i32, i32) = (12, 0);

/// VRAM left to the system where it shares a GPU with this program: the larger of this and
/// [`MARGIN_PERCENT`].
const MIN_MARGIN_BYTES: u64 = 500_000_000;

/// Of the installed VRAM.
const MARGIN_PERCENT: u64 = 4;

/// Names the GPUs that CUDA shows to a process.
const VISIBLE_VARIABLE: &str = "CUDA_VISIBLE_DEVICES";

/// Whether there is an NVIDIA GPU, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuStatus {
    /// The GPUs in the order of NVML, which is that of the PCI bus, then what CUDA alone lists; at
    /// least one. Each says for itself whether it can be used.
    Found(Vec<Gpu>),
    /// No GPU to use.
    Absent {
        /// What was probed and what came of it.
        reason: NoGpu,
    },
}

/// One NVIDIA GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// Index in the order of NVML. CUDA may number the GPUs otherwise: match by `uuid`.
    pub index: u32,
    /// The driver's identifier (`GPU-...`, of a MIG instance `MIG-...`); empty if it gave none.
    pub uuid: String,
    /// Product name.
    pub name: String,
    /// Installed VRAM.
    pub vram_total_bytes: u64,
    /// VRAM that no program holds at the moment.
    pub vram_free_bytes: u64,
    /// A display is attached to it, or the driver moves what does not fit to RAM without saying so
    /// (WDDM, Windows' own driver model): some VRAM has to stay free, see [`Gpu::margin_bytes`].
    pub is_shared_with_system: bool,
    /// CUDA compute capability, major and minor; (0, 0) if the driver did not say.
    pub compute_capability: (i32, i32),
    /// Version of the driver, as `525.60.13`.
    pub driver_version: String,
    /// Why this GPU cannot be used; `None` if it can.
    pub problem: Option<GpuProblem>,
}

impl GpuStatus {
    pub(super) fn detect() -> Self {
        match probe() {
            Ok(gpus) => Self::Found(gpus),
            Err(reason) => Self::Absent { reason },
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

    /// The one with the most VRAM to take, of those that can be used.
    pub fn best(&self) -> Option<&Gpu> {
        let most = |gpu: &&Gpu| {
            let to_take = gpu.vram_free_bytes.saturating_sub(gpu.margin_bytes());
            (to_take, Reverse(gpu.index))
        };
        self.usable().max_by_key(most)
    }

    /// Has the GPU `uuid` count as one that cannot be used, by `problem`.
    pub(crate) fn pass_over(&mut self, uuid: &str, problem: &GpuProblem) {
        if let Self::Found(gpus) = self {
            for gpu in gpus.iter_mut().filter(|gpu| gpu.uuid == uuid) {
                gpu.problem = Some(problem.clone());
            }
        }
    }
}

impl Gpu {
    /// VRAM that has to stay free. With less of it a desktop stutters, and what a driver then moves
    /// to RAM is slow from there on.
    #[must_use]
    pub fn margin_bytes(&self) -> u64 {
        if self.is_shared_with_system {
            MIN_MARGIN_BYTES.max(self.vram_total_bytes / 100 * MARGIN_PERCENT)
        } else {
            0
        }
    }
}

const LIBRARY: &str = if cfg!(windows) {
    "nvml.dll"
} else {
    "libnvidia-ml.so.1"
};

fn probe() -> Result<Vec<Gpu>, NoGpu> {
    if cfg!(target_os = "macos") {
        return Err(NoGpu::Macos);
    }
    let listed = cuda::list();
    match managed(&listed) {
        Err(too_old @ NoGpu::DriverTooOld { .. }) => Err(too_old),
        // What can be computed on need not be managed.
        Err(failure) => match listed {
            Ok(listed) if !listed.is_empty() => {
                let unmanaged = listed.iter().enumerate();
                Ok(unmanaged
                    .map(|(i, one)| by_cuda(one, i as u32, None))
                    .collect())
            }
            _ => Err(failure),
        },
        found => found,
    }
}

/// What NVML lists, and what CUDA lists beside it.
fn managed(listed: &Result<Vec<Listed>, CudaError>) -> Result<Vec<Gpu>, NoGpu> {
    let nvml = Nvml::init().map_err(init_error)?;
    let version = nvml
        .sys_driver_version()
        .map_err(|error| driver_failed("driver version", &error))?;
    check_driver(&version)?;
    let n_gpus = nvml
        .device_count()
        .map_err(|error| driver_failed("device count", &error))?;
    if n_gpus == 0 {
        return Err(NoGpu::NoDevice { version });
    }
    let mut gpus: Vec<Gpu> = (0..n_gpus)
        .map(|index| match query(&nvml, index, &version, listed) {
            Ok(gpu) => gpu,
            Err(error) => unreadable(index, version.clone(), &error),
        })
        .collect();
    if let Ok(listed) = listed {
        let known: HashSet<String> = gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        let others = listed
            .iter()
            .filter(|one| !known.iter().any(|uuid| one.is_named(uuid)));
        gpus.extend(others.map(|one| by_cuda(one, n_gpus, Some((&nvml, &version)))));
    }
    Ok(gpus)
}

fn driver_failed(call: &'static str, error: &NvmlError) -> NoGpu {
    NoGpu::DriverFailed {
        call,
        detail: error.to_string(),
    }
}

fn init_error(error: NvmlError) -> NoGpu {
    match error {
        NvmlError::LibraryNotFound => no_driver(),
        NvmlError::LibloadingError(source) => loading_error(whole(&source)),
        NvmlError::DriverNotLoaded => NoGpu::DriverNotLoaded,
        NvmlError::LibRmVersionMismatch => NoGpu::DriverMismatch,
        error => driver_failed("initialization", &error),
    }
}

fn no_driver() -> NoGpu {
    NoGpu::NoDriver {
        library: LIBRARY.to_owned(),
        min_driver: MIN_DRIVER,
    }
}

/// What the system's loader says, as text only: that the library is not there is no failure.
fn loading_error(detail: String) -> NoGpu {
    if ["No such file", "os error 126"]
        .iter()
        .any(|absent| detail.contains(absent))
    {
        no_driver()
    } else {
        NoGpu::BadLibrary {
            detail,
            min_driver: MIN_DRIVER,
        }
    }
}

/// An error with what caused it: on Windows, the error itself names only the call.
fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Versions read `525.60.13`. One that does not start with a number passes: better to try the
/// GPU than to refuse it over an unknown numbering.
fn check_driver(version: &str) -> Result<(), NoGpu> {
    let major: Option<u32> = version.split('.').next().and_then(|part| part.parse().ok());
    match major {
        Some(major) if major < MIN_DRIVER => Err(NoGpu::DriverTooOld {
            version: version.to_owned(),
            min_driver: MIN_DRIVER,
        }),
        _ => Ok(()),
    }
}

fn query(
    nvml: &Nvml,
    index: u32,
    version: &str,
    listed: &Result<Vec<Listed>, CudaError>,
) -> Result<Gpu, NvmlError> {
    let device = nvml.device_by_index(index)?;
    let uuid = device.uuid().unwrap_or_default();
    let by_cuda = match listed {
        Ok(listed) => listed.iter().find(|one| one.is_named(&uuid)),
        Err(_) => None,
    };
    let compute_capability = match (device.cuda_compute_capability(), by_cuda) {
        (Ok(capability), _) => (capability.major, capability.minor),
        (Err(_), Some(listed)) => listed.compute_capability,
        (Err(error), None) => return Err(error),
    };
    let mut gpu = Gpu {
        index,
        name: device.name()?,
        vram_total_bytes: 0,
        vram_free_bytes: 0,
        is_shared_with_system: is_shared_with_system(Some(&device), by_cuda),
        compute_capability,
        driver_version: version.to_owned(),
        problem: capability_problem(compute_capability),
        uuid,
    };
    let memory = memory_figure(&device)?;
    if let Some((total_bytes, free_bytes)) = memory {
        (gpu.vram_total_bytes, gpu.vram_free_bytes) = (total_bytes, free_bytes);
    }
    let hidden = listed.as_ref().map(|_| by_cuda.is_none());
    if gpu.problem.is_none() {
        gpu.problem = match hidden {
            Ok(true) => Some(why_hidden(&device)),
            Ok(false) if memory.is_none() => ask_memory(&mut gpu),
            Ok(false) => None,
            // Without CUDA's library nothing is computed on any GPU: that is said of all of them.
            Err(CudaError::NoDriver) => None,
            Err(error) => Some(GpuProblem::NoCuda {
                detail: error.to_string(),
            }),
        };
    }
    Ok(gpu)
}

/// VRAM in all and free, where NVML knows it: of some GPUs, as those that share the machine's
/// memory, it does not.
fn memory_figure(device: &Device<'_>) -> Result<Option<(u64, u64)>, NvmlError> {
    match device.memory_info() {
        Ok(memory) if memory.total > 0 => Ok(Some((memory.total, memory.free))),
        Ok(_) | Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why CUDA does not list a GPU that NVML does.
fn why_hidden(device: &Device<'_>) -> GpuProblem {
    if device.mig_mode().is_ok_and(|mode| mode.current != 0) {
        GpuProblem::Mig
    } else if std::env::var_os(VISIBLE_VARIABLE).is_some() {
        GpuProblem::Hidden {
            variable: VISIBLE_VARIABLE.to_owned(),
        }
    } else {
        GpuProblem::NotListed
    }
}

/// A GPU, or a MIG instance, that NVML's list does not have; of an instance it still knows the
/// memory.
fn by_cuda(listed: &Listed, mut index: u32, nvml: Option<(&Nvml, &str)>) -> Gpu {
    let instance = nvml.and_then(|(nvml, _)| nvml.device_by_uuid(listed.uuid_text("MIG")).ok());
    let parent = instance.as_ref().and_then(|it| it.mig_parent_device().ok());
    if let Some(of_parent) = parent.and_then(|parent| parent.index().ok()) {
        index = of_parent;
    }
    let mut gpu = Gpu {
        index,
        uuid: listed.uuid_text(if instance.is_some() { "MIG" } else { "GPU" }),
        name: listed.name.clone(),
        vram_total_bytes: listed.total_bytes,
        vram_free_bytes: 0,
        is_shared_with_system: is_shared_with_system(None, Some(listed)),
        compute_capability: listed.compute_capability,
        driver_version: nvml.map_or_else(supported_cuda, |(_, version)| version.to_owned()),
        problem: capability_problem(listed.compute_capability),
    };
    if gpu.problem.is_none() && nvml.is_none() {
        gpu.problem = cuda_problem();
    }
    let memory = instance.and_then(|instance| memory_figure(&instance).ok().flatten());
    match memory {
        Some((total_bytes, free_bytes)) => {
            (gpu.vram_total_bytes, gpu.vram_free_bytes) = (total_bytes, free_bytes);
        }
        None if gpu.problem.is_none() => gpu.problem = ask_memory(&mut gpu),
        None => {}
    }
    gpu
}

/// Asks CUDA for the memory of `gpu`; why that cannot be done, if so.
fn ask_memory(gpu: &mut Gpu) -> Option<GpuProblem> {
    match cuda::memory_of(&gpu.uuid) {
        Ok((free_bytes, total_bytes)) => {
            gpu.vram_total_bytes = total_bytes;
            // The context that it took to ask is given back, and is planned for.
            gpu.vram_free_bytes = free_bytes
                .saturating_add(CUDA_CONTEXT_BYTES)
                .min(total_bytes);
            None
        }
        Err(error) => Some(GpuProblem::NoMemoryFigure {
            detail: error.to_string(),
        }),
    }
}

/// What the driver supports, where its own version is not known.
fn supported_cuda() -> String {
    match cuda::supported_version() {
        Ok((major, minor)) => format!("for CUDA {major}.{minor}"),
        Err(_) => String::new(),
    }
}

/// Why the driver cannot load the kernels, if so.
fn cuda_problem() -> Option<GpuProblem> {
    let supported = cuda::supported_version().ok()?;
    (supported < MIN_CUDA).then(|| GpuProblem::DriverTooOld {
        supported: dotted(supported),
        needed: dotted(MIN_CUDA),
        min_driver: MIN_DRIVER,
    })
}

fn dotted((major, minor): (i32, i32)) -> String {
    format!("{major}.{minor}")
}

/// Whether the system draws with the GPU, or pages its memory.
fn is_shared_with_system(device: Option<&Device<'_>>, listed: Option<&Listed>) -> bool {
    let shows = device.is_some_and(|device| {
        device.is_display_active().unwrap_or(false)
            || device.is_display_connected().unwrap_or(false)
    });
    // Kernels have a time limit where a display waits for them.
    shows || listed.is_some_and(|listed| listed.has_time_limit) || pages_silently(device, listed)
}

/// Whether the driver grants more VRAM than there is: all of Windows' own driver model (WDDM) do.
#[cfg(windows)]
fn pages_silently(device: Option<&Device<'_>>, listed: Option<&Listed>) -> bool {
    use nvml_wrapper::enum_wrappers::device::DriverModel;
    match device.map(Device::driver_model) {
        Some(Ok(model)) => model.current == DriverModel::WDDM,
        _ => !listed.is_some_and(|listed| listed.is_compute_only),
    }
}

#[cfg(not(windows))]
fn pages_silently(_device: Option<&Device<'_>>, _listed: Option<&Listed>) -> bool {
    false
}

fn capability_problem(capability: (i32, i32)) -> Option<GpuProblem> {
    (capability < MIN_COMPUTE_CAPABILITY).then(|| GpuProblem::TooOld {
        capability: dotted(capability),
        needed: dotted(MIN_COMPUTE_CAPABILITY),
    })
}

fn unreadable(index: u32, driver_version: String, error: &NvmlError) -> Gpu {
    Gpu {
        index,
        uuid: String::new(),
        name: format!("GPU {index}"),
        vram_total_bytes: 0,
        vram_free_bytes: 0,
        is_shared_with_system: false,
        compute_capability: (0, 0),
        driver_version,
        problem: Some(GpuProblem::Unreadable {
            detail: error.to_string(),
        }),
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
            let problem = capability_problem(old).expect("too old").to_string();
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
        let problem = bad.problem.as_ref().map(ToString::to_string);
        assert!(problem.is_some_and(|problem| problem.contains("fell off")));
        let found = GpuStatus::Found(vec![bad, good.clone()]);
        assert_eq!(found.usable().collect::<Vec<_>>(), [&good]);
        let absent = GpuStatus::Absent {
            reason: NoGpu::Macos,
        };
        assert_eq!(absent.usable().count(), 0);
    }
}
