//! How fast this machine meets a miss: an expert's bytes a second on the CPU, and on their way to
//! the GPU from pinned and from plain RAM. Measured once, kept in a file of the user's cache folder.
//!
//! Both go on at once while tokens are made, and share the memory's bandwidth: so they are measured at
//! once. While the model runs, what real copies and computations take is followed from there
//! (`experts/speeds.rs`).
//!
//! The two decide, miss by miss, between [`Fetch`](crate::experts::Miss::Fetch) and
//! [`Cpu`](crate::experts::Miss::Cpu). They depend on what [`Machine`] lists; where any of it
//! differs, they are measured anew. A file that cannot be read counts as none, and one that cannot
//! be written costs the measurement at the next start, not the start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use directories::ProjectDirs;
use octet_files::Access;
use octet_kernels::{Pool, Precision, Scratch};
use serde::{Deserialize, Serialize};

use crate::backend::cpu::expert_forward;
use crate::checkpoint::{Checkpoint, ExpertId};
use crate::error::EngineError;
use crate::experts::Bandwidths;
use crate::hardware::{Gpu, Hardware};

/// Names the cache folder, in place of the system's.
pub const CACHE_DIR_VARIABLE: &str = "OCTET_CACHE_DIR";

const FILE_NAME: &str = "calibration.json";

/// Raised when what is measured changes.
const FORMAT: u32 = 1;

/// Machines and models that a file remembers; the oldest gives way.
const MAX_ENTRIES: usize = 32;

/// A file beyond this is none of ours.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Experts that are computed in turn, so that none is in the processor's cache when it is next.
const EXPERTS: usize = 3;

/// Each of them is measured so many times.
const ROUNDS: usize = 3;

/// Copies from plain RAM against those from pinned RAM, where they were not measured.
const STAGED_SHARE: f64 = 0.4;

/// What the bandwidths depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Model name of the processor.
    pub cpu: String,
    /// The kernels that run on it.
    pub kernels: String,
    /// Worker threads.
    pub threads: usize,
    /// f32 activations everywhere.
    pub exact: bool,
    /// The GPU, where there is one.
    pub gpu: Option<GpuAndDriver>,
    /// Size of an expert: its bytes, rounded up to a power of two.
    pub expert_bytes_class: u64,
}

/// A GPU and its driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuAndDriver {
    /// As in [`Gpu::uuid`].
    pub uuid: String,
    /// As in [`Gpu::driver_version`].
    pub driver_version: String,
}

/// What was measured, in bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Of an expert's matrices computed on the CPU for one token.
    pub cpu_bytes_per_sec: f64,
    /// From pinned RAM to the GPU; `None` without one.
    pub upload_bytes_per_sec: Option<f64>,
    /// From plain RAM to the GPU; `None` without one, or where an older version has measured.
    #[serde(default)]
    pub staged_bytes_per_sec: Option<f64>,
}

impl Machine {
    /// This machine with a pool of `threads`, a GPU and experts of `expert_bytes`.
    pub fn new(
        hardware: &Hardware,
        gpu: Option<&Gpu>,
        threads: usize,
        precision: Precision,
        expert_bytes: usize,
    ) -> Self {
        Self {
            cpu: hardware.cpu.brand.clone(),
            kernels: octet_kernels::features().to_owned(),
            threads,
            exact: precision == Precision::Exact,
            gpu: gpu.map(|gpu| GpuAndDriver {
                uuid: gpu.uuid.clone(),
                driver_version: gpu.driver_version.clone(),
            }),
            expert_bytes_class: (expert_bytes as u64).next_power_of_two(),
        }
    }
}

impl Calibration {
    /// For choosing how to meet misses; `None` without a GPU.
    pub fn bandwidths(&self) -> Option<Bandwidths> {
        let upload = self.upload_bytes_per_sec?;
        Some(Bandwidths {
            upload,
            staged: self.staged_bytes_per_sec.unwrap_or(upload * STAGED_SHARE),
            cpu: self.cpu_bytes_per_sec,
        })
    }

    /// Whether the numbers can be speeds: a file may hold anything.
    fn makes_sense(&self) -> bool {
        let is_speed = |speed: f64| speed.is_finite() && speed > 0.0;
        is_speed(self.cpu_bytes_per_sec)
            && self.upload_bytes_per_sec.is_none_or(is_speed)
            && self.staged_bytes_per_sec.is_none_or(is_speed)
    }
}

/// The file with what was measured.
#[derive(Debug, Clone)]
pub struct CalibrationCache {
    /// `None`: nowhere to keep it.
    path: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
struct File {
    format: u32,
    /// Oldest first.
    entries: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    machine: Machine,
    calibration: Calibration,
}

impl CalibrationCache {
    /// In the user's cache folder, or in that of `OCTET_CACHE_DIR`.
    pub fn of_user() -> Self {
        let dir = match std::env::var_os(CACHE_DIR_VARIABLE).filter(|dir| !dir.is_empty()) {
            Some(dir) => Some(PathBuf::from(dir)),
            None => ProjectDirs::from("app", "octet", "Octet").map(|d| d.cache_dir().to_owned()),
        };
        Self {
            path: dir.map(|dir| dir.join(FILE_NAME)),
        }
    }

    /// In `dir`.
    pub fn in_dir(dir: &Path) -> Self {
        Self {
            path: Some(dir.join(FILE_NAME)),
        }
    }

    /// Where the file is, or would be.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What was measured on `machine`, if it was.
    pub fn get(&self, machine: &Machine) -> Option<Calibration> {
        let entries = self.entries();
        let known = entries.iter().rfind(|entry| entry.machine == *machine)?;
        Some(known.calibration)
    }

    /// Remembers what was measured on `machine`, in place of what was before.
    ///
    /// # Errors
    /// That the file could not be written.
    pub fn put(&self, machine: &Machine, calibration: Calibration) -> io::Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let mut entries = self.entries();
        entries.retain(|entry| entry.machine != *machine);
        entries.push(Entry {
            machine: machine.clone(),
            calibration,
        });
        entries.drain(..entries.len().saturating_sub(MAX_ENTRIES));
        let file = File {
            format: FORMAT,
            entries,
        };
        octet_files::replace(path, Access::Owner, &serde_json::to_vec_pretty(&file)?)
    }

    /// [`CalibrationCache::get`], or what `measure` finds, which is then remembered. `anew` asks
    /// for a measurement whatever is known.
    ///
    /// # Errors
    /// Those of `measure`.
    pub fn get_or_measure(
        &self,
        machine: &Machine,
        anew: bool,
        measure: impl FnOnce() -> Result<Calibration, EngineError>,
    ) -> Result<Calibration, EngineError> {
        if let Some(known) = self.get(machine).filter(|_| !anew) {
            return Ok(known);
        }
        let calibration = measure()?;
        if let Err(error) = self.put(machine, calibration) {
            tracing::warn!(%error, path = ?self.path, "the calibration could not be kept");
        }
        Ok(calibration)
    }

    /// What the file holds; nothing where it is not there, damaged, or of another format.
    fn entries(&self) -> Vec<Entry> {
        let read = || -> Option<File> {
            let path = self.path.as_ref()?;
            let known_size = fs::metadata(path).ok()?.len() <= MAX_FILE_BYTES;
            serde_json::from_slice(&known_size.then(|| fs::read(path).ok())??).ok()
        };
        let file = read().filter(|file| file.format == FORMAT);
        let mut entries = file.map_or_else(Vec::new, |file| file.entries);
        entries.retain(|entry| entry.calibration.makes_sense());
        entries
    }
}

/// Copies bytes to the GPU, from pinned or from plain RAM, and says how many a second.
pub type Upload<'a> = dyn FnMut() -> Result<f64, EngineError> + Send + 'a;

/// The copies to measure, of pinned and of plain RAM.
pub struct Uploads<'a> {
    /// `None` where the system pins nothing: then there are none of its kind.
    pub pinned: Option<Box<Upload<'a>>>,
    /// As most experts are copied that cannot be pinned.
    pub staged: Box<Upload<'a>>,
}

/// Measures the CPU, and the copies while it computes; each kind at least [`ROUNDS`] times.
///
/// # Errors
/// Experts that cannot be read, and those of the copies.
pub fn measure(
    checkpoint: &Checkpoint,
    pool: &Pool,
    precision: Precision,
    uploads: Option<Uploads<'_>>,
) -> Result<Calibration, EngineError> {
    let cpu = || cpu_bytes_per_sec(checkpoint, pool, precision);
    let Some(mut uploads) = uploads else {
        return Ok(Calibration {
            cpu_bytes_per_sec: cpu()?,
            upload_bytes_per_sec: None,
            staged_bytes_per_sec: None,
        });
    };
    let (beside_staged, staged) = at_once(&mut *uploads.staged, cpu)?;
    let (beside_pinned, pinned) = match &mut uploads.pinned {
        Some(pinned) => at_once(&mut **pinned, cpu)?,
        None => (beside_staged, staged),
    };
    Ok(Calibration {
        // Most copies are of pinned RAM.
        cpu_bytes_per_sec: beside_pinned,
        upload_bytes_per_sec: Some(pinned),
        staged_bytes_per_sec: Some(staged),
    })
}

/// What `cpu` measures while `upload` copies again and again, and what that measures meanwhile.
fn at_once(
    upload: &mut Upload<'_>,
    cpu: impl Fn() -> Result<f64, EngineError>,
) -> Result<(f64, f64), EngineError> {
    let (started, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let copies = scope.spawn(|| -> Result<f64, EngineError> {
            let mut speeds = Vec::new();
            // The first one brings buffers in and is not counted.
            let first = upload();
            started.store(true, Ordering::Release);
            first?;
            while speeds.len() < ROUNDS || !ended.load(Ordering::Acquire) {
                speeds.push(upload()?);
            }
            Ok(median(speeds))
        });
        while !started.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        let computed = cpu();
        ended.store(true, Ordering::Release);
        let copied = copies
            .join()
            .expect("BUG: the copies of a calibration panicked");
        Ok((computed?, copied?))
    })
}

/// Bytes of an expert's matrices that the CPU gets through in a second, computing one token.
///
/// Takes the RAM of [`EXPERTS`] experts for as long as it runs.
///
/// # Errors
/// Experts that cannot be read.
pub fn cpu_bytes_per_sec(
    checkpoint: &Checkpoint,
    pool: &Pool,
    precision: Precision,
) -> Result<f64, EngineError> {
    let c = checkpoint.spec();
    let n_layers = c.n_layers;
    // Of different layers where there are several, as decoding has them.
    let ids = (0..EXPERTS.min(c.n_layers * c.n_experts)).map(|i| ExpertId {
        layer: (i % n_layers) as u16,
        expert: (i / n_layers) as u16,
    });
    let experts = ids
        .map(|id| {
            let mut bytes = vec![0; checkpoint.expert_len(id)];
            checkpoint.read_expert(id, &mut bytes)?;
            Ok((id, bytes))
        })
        .collect::<Result<Vec<_>, EngineError>>()?;
    let x: Vec<f32> = (0..c.hidden_size)
        .map(|i| (i % 17) as f32 / 8.0 - 1.0)
        .collect();
    let mut gate = vec![0.0; c.intermediate_size];
    let mut up = vec![0.0; c.intermediate_size];
    let mut y = vec![0.0; c.hidden_size];
    let mut scratch = Scratch::default();
    let mut speeds = Vec::new();
    // The first round brings threads and buffers in and is not counted.
    for round in 0..=ROUNDS {
        for (id, bytes) in &experts {
            let weights = checkpoint.expert_view(*id, bytes);
            let clock = Instant::now();
            let inner = (&mut gate[..], &mut up[..]);
            expert_forward(pool, &mut scratch, precision, &weights, &x, inner, &mut y);
            let seconds = clock.elapsed().as_secs_f64().max(1e-9);
            if round > 0 {
                speeds.push(bytes.len() as f64 / seconds);
            }
        }
    }
    Ok(median(speeds))
}

/// The middle one; there is at least one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(threads: usize) -> Machine {
        Machine {
            cpu: "Test CPU".to_owned(),
            kernels: "AVX2".to_owned(),
            threads,
            exact: false,
            gpu: Some(GpuAndDriver {
                uuid: "GPU-1".to_owned(),
                driver_version: "550.54".to_owned(),
            }),
            expert_bytes_class: 1 << 26,
        }
    }

    const MEASURED: Calibration = Calibration {
        cpu_bytes_per_sec: 3.5e10,
        upload_bytes_per_sec: Some(2.25e10),
        staged_bytes_per_sec: Some(8.5e9),
    };

    fn must_not_measure() -> Result<Calibration, EngineError> {
        panic!("it is known")
    }

    #[test]
    fn what_was_measured_is_remembered_by_machine() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = CalibrationCache::in_dir(&dir.path().join("new"));
        assert_eq!(cache.get(&machine(4)), None);
        cache.put(&machine(4), MEASURED).expect("written");
        let other = Calibration {
            upload_bytes_per_sec: None,
            ..MEASURED
        };
        cache.put(&machine(8), other).expect("written");
        assert_eq!(cache.get(&machine(4)), Some(MEASURED));
        assert_eq!(cache.get(&machine(8)), Some(other));
        let changes: [fn(&mut Machine); 6] = [
            |m| m.cpu.push('!'),
            |m| m.kernels.push('!'),
            |m| m.exact = true,
            |m| m.gpu = None,
            |m| m.expert_bytes_class *= 2,
            |m| {
                if let Some(gpu) = &mut m.gpu {
                    gpu.driver_version.push('!');
                }
            },
        ];
        for change in changes {
            let mut different = machine(4);
            change(&mut different);
            assert_eq!(cache.get(&different), None, "{different:?}");
        }
        let left: Vec<_> = fs::read_dir(dir.path().join("new"))
            .expect("there")
            .collect();
        assert_eq!(left.len(), 1, "no temporary file stays");
    }

    #[test]
    fn it_is_measured_once_unless_asked_for_anew() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = CalibrationCache::in_dir(dir.path());
        let first = cache.get_or_measure(&machine(4), false, || Ok(MEASURED));
        assert_eq!(first.expect("measured"), MEASURED);
        let second = cache.get_or_measure(&machine(4), false, must_not_measure);
        assert_eq!(second.expect("known"), MEASURED);
        let faster = Calibration {
            cpu_bytes_per_sec: 5e10,
            ..MEASURED
        };
        let anew = cache.get_or_measure(&machine(4), true, || Ok(faster));
        assert_eq!(anew.expect("measured"), faster);
        assert_eq!(cache.get(&machine(4)), Some(faster));
    }

    #[test]
    fn a_damaged_file_is_measured_anew_and_replaced() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(FILE_NAME);
        let cache = CalibrationCache::in_dir(dir.path());
        cache.put(&machine(4), MEASURED).expect("written");
        let good = fs::read(&path).expect("written");
        let text = String::from_utf8(good.clone()).expect("JSON");
        let damaged = [
            Vec::new(),
            good[..good.len() / 2].to_vec(),
            b"[]".to_vec(),
            text.replace("\"format\": 1", "\"format\": 2").into_bytes(),
            text.replace("35000000000.0", "-1.0").into_bytes(),
            text.replace("22500000000.0", "0.0").into_bytes(),
            text.replace("8500000000.0", "-2.0").into_bytes(),
        ];
        for bytes in damaged {
            assert_ne!(bytes, good);
            fs::write(&path, bytes).expect("written");
            assert_eq!(cache.get(&machine(4)), None);
            let measured = cache.get_or_measure(&machine(4), false, || Ok(MEASURED));
            assert_eq!(measured.expect("measured"), MEASURED);
            assert_eq!(fs::read(&path).expect("written"), good);
        }
    }

    #[test]
    fn a_place_that_cannot_be_written_costs_the_memory_only() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("a file");
        fs::write(&file, "in the way").expect("written");
        let cache = CalibrationCache::in_dir(&file);
        assert!(cache.put(&machine(1), MEASURED).is_err());
        let measured = cache.get_or_measure(&machine(1), false, || Ok(MEASURED));
        assert_eq!(measured.expect("measured all the same"), MEASURED);
    }

    #[test]
    fn a_failed_measurement_is_reported_and_not_remembered() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = CalibrationCache::in_dir(dir.path());
        let failed = cache.get_or_measure(&machine(1), false, || Err(EngineError::Cancelled));
        assert!(matches!(failed, Err(EngineError::Cancelled)));
        assert_eq!(cache.get(&machine(1)), None);
    }

    #[test]
    fn the_oldest_machines_are_forgotten() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = CalibrationCache::in_dir(dir.path());
        for threads in 0..=MAX_ENTRIES {
            cache.put(&machine(threads), MEASURED).expect("written");
        }
        assert_eq!(cache.get(&machine(0)), None);
        assert_eq!(cache.get(&machine(1)), Some(MEASURED));
        assert_eq!(cache.get(&machine(MAX_ENTRIES)), Some(MEASURED));
    }

    /// As version 0.1 writes it: the names in it are those on disk.
    #[test]
    fn a_file_of_version_0_1_is_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let text = r#"{
  "format": 1,
  "entries": [
    {
      "machine": {
        "cpu": "Test CPU",
        "kernels": "AVX2",
        "threads": 4,
        "exact": false,
        "gpu": {
          "uuid": "GPU-1",
          "driver_version": "550.54"
        },
        "expert_bytes_class": 67108864
      },
      "calibration": {
        "cpu_bytes_per_sec": 35000000000.0,
        "upload_bytes_per_sec": 22500000000.0,
        "staged_bytes_per_sec": 8500000000.0
      }
    }
  ]
}"#;
        fs::write(dir.path().join(FILE_NAME), text).expect("written");
        let cache = CalibrationCache::in_dir(dir.path());
        assert_eq!(cache.get(&machine(4)), Some(MEASURED));
    }

    #[test]
    fn a_file_of_before_copies_of_plain_ram_were_measured_is_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = CalibrationCache::in_dir(dir.path());
        let older = Calibration {
            staged_bytes_per_sec: None,
            ..MEASURED
        };
        cache.put(&machine(4), MEASURED).expect("written");
        let path = dir.path().join(FILE_NAME);
        let text = fs::read_to_string(&path).expect("written");
        let lines = text.lines().filter(|line| !line.contains("staged"));
        let text: Vec<&str> = lines.collect();
        // Nor is there a comma behind what is the last line now.
        let text = text.join("\n").replace("22500000000.0,", "22500000000.0");
        fs::write(&path, text).expect("written");
        assert_eq!(cache.get(&machine(4)), Some(older));
        let bandwidths = older.bandwidths().expect("there is a GPU");
        assert_eq!(bandwidths.upload, 2.25e10);
        assert!((8e9..1e10).contains(&bandwidths.staged), "{bandwidths:?}");
    }

    #[test]
    fn copies_are_measured_while_the_cpu_computes() {
        let copying = AtomicBool::new(false);
        let seen = AtomicBool::new(false);
        let mut upload = || {
            copying.store(true, Ordering::SeqCst);
            std::thread::yield_now();
            Ok(2e9)
        };
        let cpu = || {
            // One that was there before does not count.
            copying.store(false, Ordering::SeqCst);
            let clock = Instant::now();
            while !copying.load(Ordering::SeqCst) && clock.elapsed().as_secs() < 20 {
                std::thread::yield_now();
            }
            seen.store(copying.load(Ordering::SeqCst), Ordering::SeqCst);
            Ok(3e9)
        };
        let both = at_once(&mut upload, cpu).expect("measured");
        assert_eq!(both, (3e9, 2e9));
        assert!(seen.load(Ordering::SeqCst), "nothing was copied meanwhile");
    }

    #[test]
    fn a_copy_that_fails_ends_the_measurement() {
        let mut upload = || Err(EngineError::Cancelled);
        let measured = at_once(&mut upload, || Ok(1.0));
        assert!(matches!(measured, Err(EngineError::Cancelled)));
    }

    #[test]
    fn bandwidths_need_a_gpu() {
        assert!(MEASURED.bandwidths().is_some());
        let without = Calibration {
            upload_bytes_per_sec: None,
            ..MEASURED
        };
        assert_eq!(without.bandwidths(), None);
    }
}
