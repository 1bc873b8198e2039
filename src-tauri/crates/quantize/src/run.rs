//! The work itself: worker threads take one matrix after the other; files are finished, and
//! noted, as their last matrix is done.

use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use octet_checkpoint::{
    CONFIG_FILE, Checkpoint, INDEX_FILE, QuantSummary, TensorFile, WeightKind, read_small,
};
use octet_engine::hardware::Disk;
use serde_json::json;

use crate::error::QuantizeError;
use crate::hqq::{self, MatrixSpec, Scratch};
use crate::journal::{Finished, Journal, MatrixError, Task, check_folder};
use crate::output::{PartialFile, file_crc32, write_file};
use crate::plan::{Content, Job, Plan};
use crate::source::{MatrixSource, TensorSource};
use crate::summary::Summary;
use crate::verify;
use octet_checkpoint::hqq::{FileLayout, index};

/// Files that are taken over from the source where it has them.
const COPIED: [&str; 8] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];
const MAX_COPIED_BYTES: u64 = 256 << 20;

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the source that are done, those of earlier runs among them.
    pub done_bytes: u64,
    /// Bytes of the source in all.
    pub total_bytes: u64,
    /// Of `done_bytes`, those that an earlier run has done.
    pub kept_bytes: u64,
    /// Files that are finished.
    pub files_done: usize,
    /// Files in all.
    pub files: usize,
}

/// Whoever watches a run. Both methods are called from all worker threads.
pub trait Observer: Sync {
    /// Called at the beginning, and after every matrix and every file.
    fn progress(&self, progress: &Progress);

    /// Asked before every matrix; a run that is told to stop keeps the files that are finished.
    fn should_stop(&self) -> bool {
        false
    }
}

/// Nobody watches.
impl Observer for () {
    fn progress(&self, _: &Progress) {}
}

impl Plan {
    /// Checks what of `out` can be checked without changing anything: that it is a place of its
    /// own, new, empty or begun by an earlier run, and that the disk has room.
    ///
    /// # Errors
    /// [`QuantizeError::OutInSource`], [`QuantizeError::OutNotEmpty`] or
    /// [`QuantizeError::DiskFull`].
    pub fn check_out(&self, out: &Path) -> Result<(), QuantizeError> {
        let (dir, place) = (resolved(self.source.dir()), resolved(out));
        if place.starts_with(&dir) {
            return Err(QuantizeError::OutInSource {
                out: out.to_owned(),
                dir: self.source.dir().to_owned(),
            });
        }
        check_folder(out)?;
        let there = (0..self.files())
            .filter(|&file| out.join(self.file_name(file)).is_file())
            .map(|file| self.layout(file).file_bytes())
            .sum();
        check_disk(out, self.output_bytes().saturating_sub(there))
    }

    /// Quantizes the source into `out`, or goes on where an earlier run with the same source and
    /// options ended, in whatever way.
    ///
    /// Every tensor is read back and compared, and what is stored for a matrix is decoded with the
    /// engine's kernels and held against the source, before its file gets its name. The index is
    /// written last, then the engine opens the result.
    ///
    /// # Errors
    /// [`QuantizeError`]. Files that are finished stay for the next run, unfinished ones are
    /// removed.
    pub fn run(&self, out: &Path, observer: &dyn Observer) -> Result<Summary, QuantizeError> {
        self.check_out(out)?;
        let begun = Instant::now();
        let (journal, recorded) = Journal::open(out, &self.task()?)?;
        let run = Run::new(self, out, observer, journal);
        run.keep(recorded)?;
        run.report();
        check_disk(out, run.bytes_to_write())?;

        let work_begun = Instant::now();
        run.work_all()?;
        let worked = work_begun.elapsed();
        self.write_rest(out)?;
        let checkpoint = Checkpoint::open(out)?;
        self.expect_quantization(out, &checkpoint.quant_summary())?;
        run.finish(begun.elapsed(), worked)
    }

    /// Time that all of it will take, from a slice of the first expert quantized on all workers at
    /// once, as it will be.
    ///
    /// # Errors
    /// As [`Self::run`], of the slice.
    pub fn estimate(&self) -> Result<Estimate, QuantizeError> {
        const SLICE_WEIGHTS: usize = 4 << 20;
        let jobs = self.jobs.iter();
        let (source, spec) = jobs
            .rev()
            .find_map(|job| match &job.content {
                Content::Matrix { source, spec, .. } => Some((source, spec)),
                Content::Dense(_) => None,
            })
            .expect("BUG: a model without matrices");
        let mut slice = source.clone();
        let fits = |n: usize| hqq::check_spec(n, source.k, spec).is_ok();
        while slice.n.is_multiple_of(2) && slice.n * slice.k > SLICE_WEIGHTS && fits(slice.n / 2) {
            slice.n /= 2;
        }
        let workers = self.workers();
        let begun = Instant::now();
        let done: Result<Vec<()>, QuantizeError> = std::thread::scope(|scope| {
            let work = || -> Result<(), QuantizeError> {
                let mut weights = vec![0.0; slice.n * slice.k];
                self.source
                    .read_matrix(&slice, &mut Vec::new(), &mut weights)?;
                hqq::quantize(&weights, slice.n, slice.k, spec, &mut Scratch::default())
                    .map_err(|source| hqq_error("the last expert", source))?;
                Ok(())
            };
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(join).collect()
        });
        done?;
        let seconds = begun.elapsed().as_secs_f64();
        let bytes_per_sec = slice.bytes() as f64 * workers as f64 / seconds;
        Ok(Estimate {
            bytes_per_sec,
            seconds: self.source_bytes() as f64 / bytes_per_sec,
        })
    }

    /// What the journal has to agree with.
    fn task(&self) -> Result<Task, QuantizeError> {
        const VERSION: u32 = 1;
        let config = serde_json::to_vec(self.source.config_json()).unwrap_or_default();
        Ok(Task {
            version: VERSION,
            source: resolved(self.source.dir()).display().to_string(),
            config_crc32: crc32fast::hash(&config),
            files: self.source.fingerprint()?,
            options: self.options.record(),
        })
    }

    /// Everything but the tensors; the index, which makes it a checkpoint, last.
    fn write_rest(&self, out: &Path) -> Result<(), QuantizeError> {
        for name in COPIED {
            if let Some(bytes) = read_small(&self.source.dir().join(name), MAX_COPIED_BYTES)? {
                write_file(out, name, &bytes)?;
            }
        }
        let mut config = self.source.config_json().clone();
        // What is stored is f16, whatever the source was. Older versions of transformers know
        // neither `dtype` nor `rope_parameters`.
        config.remove("dtype");
        config.insert("torch_dtype".into(), json!("float16"));
        if config.get("rope_theta").is_none_or(|theta| theta.is_null()) {
            config.insert("rope_theta".into(), json!(self.spec().rope_theta));
        }
        let config = format!("{:#}\n", serde_json::Value::Object(config));
        write_file(out, CONFIG_FILE, config.as_bytes())?;
        let index = index(self.spec(), &self.trunk, &self.expert);
        write_file(out, INDEX_FILE, &index)
    }

    /// Whether the engine sees the quantization that was asked for.
    fn expect_quantization(&self, out: &Path, found: &QuantSummary) -> Result<(), QuantizeError> {
        let as_asked = |kinds: &[WeightKind], spec: MatrixSpec| {
            matches!(kinds, [WeightKind::Hqq(kind)] if kind.bits == spec.bits.count()
                && kind.group_size == spec.group_size
                && kind.scale_group_size == spec.scale_group_size)
        };
        let options = &self.options;
        if as_asked(&found.experts, options.spec(options.experts))
            && as_asked(&found.attention, options.spec(options.attention))
        {
            return Ok(());
        }
        Err(QuantizeError::Verify {
            path: out.to_owned(),
            what: format!("the engine reads it as {found:?}"),
        })
    }
}

/// What a run would take, by a measured slice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Bytes of source a second, all workers together.
    pub bytes_per_sec: f64,
    /// Seconds for the whole source.
    pub seconds: f64,
}

/// A run under way.
struct Run<'a> {
    plan: &'a Plan,
    out: &'a Path,
    observer: &'a dyn Observer,
    files: Vec<Mutex<FileState>>,
    journal: Mutex<Journal>,
    next: AtomicUsize,
    failed: AtomicBool,
    done_bytes: AtomicU64,
    kept_bytes: AtomicU64,
    files_done: AtomicUsize,
}

/// A file of the output.
#[derive(Default)]
struct FileState {
    /// Created with the first of its tensors.
    open: Option<Arc<PartialFile>>,
    jobs_left: usize,
    errors: Vec<MatrixError>,
    finished: Option<Finished>,
    kept: bool,
}

/// Memory of a worker, kept from matrix to matrix.
#[derive(Default)]
struct Buffers {
    bytes: Vec<u8>,
    weights: Vec<f32>,
    scratch: Scratch,
    check: verify::Buffers,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, out: &'a Path, observer: &'a dyn Observer, journal: Journal) -> Self {
        let mut files: Vec<FileState> = Vec::new();
        files.resize_with(plan.files(), FileState::default);
        for job in &plan.jobs {
            files[job.file].jobs_left += 1;
        }
        Self {
            plan,
            out,
            observer,
            files: files.into_iter().map(Mutex::new).collect(),
            journal: Mutex::new(journal),
            next: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            done_bytes: AtomicU64::new(0),
            kept_bytes: AtomicU64::new(0),
            files_done: AtomicUsize::new(0),
        }
    }

    /// Takes over the files of earlier runs that are as they were.
    fn keep(&self, recorded: Vec<Finished>) -> Result<(), QuantizeError> {
        for finished in recorded {
            let number =
                (0..self.files.len()).find(|&file| self.plan.file_name(file) == finished.file);
            let Some(number) = number else { continue };
            if self.observer.should_stop() {
                return Err(self.stopped());
            }
            if !self.is_intact(number, &finished) {
                tracing::warn!(
                    "{} is not as it was written: it is made again",
                    finished.file
                );
                continue;
            }
            let mut file = lock(&self.files[number]);
            if file.finished.is_none() {
                self.files_done.fetch_add(1, Ordering::Relaxed);
            }
            *file = FileState {
                finished: Some(finished),
                kept: true,
                ..FileState::default()
            };
        }
        let kept: u64 = self
            .plan
            .jobs
            .iter()
            .filter(|job| self.is_finished(job.file))
            .map(Job::source_bytes)
            .sum();
        self.kept_bytes.store(kept, Ordering::Relaxed);
        self.done_bytes.store(kept, Ordering::Relaxed);
        Ok(())
    }

    fn is_intact(&self, number: usize, finished: &Finished) -> bool {
        let layout = self.plan.layout(number);
        let path = self.out.join(&finished.file);
        TensorFile::open(path, &layout.tensors[0].name).is_ok_and(|file| {
            file.len_bytes() == finished.bytes
                && finished.bytes == layout.file_bytes()
                && file_crc32(&file).is_ok_and(|crc32| crc32 == finished.crc32)
        })
    }

    fn is_finished(&self, file: usize) -> bool {
        lock(&self.files[file]).finished.is_some()
    }

    fn bytes_to_write(&self) -> u64 {
        (0..self.files.len())
            .filter(|&file| !self.is_finished(file))
            .map(|file| self.plan.layout(file).file_bytes())
            .sum()
    }

    /// Does all jobs on the plan's number of threads.
    fn work_all(&self) -> Result<(), QuantizeError> {
        let results: Vec<Result<(), QuantizeError>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.plan.workers())
                .map(|_| scope.spawn(|| self.work()))
                .collect();
            threads.into_iter().map(join).collect()
        });
        // A worker that failed tells more than those that stopped because of it.
        results.into_iter().collect::<Result<(), _>>()?;
        if (0..self.files.len()).all(|file| self.is_finished(file)) {
            Ok(())
        } else {
            Err(self.stopped())
        }
    }

    fn work(&self) -> Result<(), QuantizeError> {
        let mut buffers = Buffers::default();
        while !self.failed.load(Ordering::Relaxed) && !self.observer.should_stop() {
            let Some(job) = self
                .plan
                .jobs
                .get(self.next.fetch_add(1, Ordering::Relaxed))
            else {
                break;
            };
            if self.is_finished(job.file) {
                continue;
            }
            if let Err(error) = self.run_job(job, &mut buffers) {
                self.failed.store(true, Ordering::Relaxed);
                return Err(error);
            }
            self.report();
        }
        Ok(())
    }

    fn run_job(&self, job: &Job, buffers: &mut Buffers) -> Result<(), QuantizeError> {
        let layout = self.plan.layout(job.file);
        let file = self.open(job.file, layout)?;
        let error = match &job.content {
            Content::Dense(tensor) => {
                self.write_dense(&file, layout, &job.name, tensor)?;
                None
            }
            Content::Matrix {
                label,
                source,
                spec,
            } => {
                let relative_error =
                    self.write_matrix(&file, layout, (&job.name, label), source, spec, buffers)?;
                Some(MatrixError {
                    name: label.clone(),
                    relative_error,
                })
            }
        };
        self.done_bytes
            .fetch_add(job.source_bytes(), Ordering::Relaxed);
        drop(file);
        self.job_done(job.file, layout, error)
    }

    fn open(&self, number: usize, layout: &FileLayout) -> Result<Arc<PartialFile>, QuantizeError> {
        let mut state = lock(&self.files[number]);
        if let Some(file) = &state.open {
            return Ok(Arc::clone(file));
        }
        let name = self.plan.file_name(number);
        let file = Arc::new(PartialFile::create(self.out, &name, layout)?);
        state.open = Some(Arc::clone(&file));
        Ok(file)
    }

    fn write_dense(
        &self,
        file: &PartialFile,
        layout: &FileLayout,
        name: &str,
        tensor: &TensorSource,
    ) -> Result<(), QuantizeError> {
        let mut at = layout.tensor(name).start;
        let mut values = self.plan.source.read_dense(tensor);
        let mut back = Vec::new();
        while let Some(piece) = values.next_piece()? {
            file.write_at(&piece, at)?;
            verify::read_back(file, name, &piece, at, &mut back)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn write_matrix(
        &self,
        file: &PartialFile,
        layout: &FileLayout,
        (name, label): (&str, &str),
        source: &MatrixSource,
        spec: &MatrixSpec,
        buffers: &mut Buffers,
    ) -> Result<f64, QuantizeError> {
        let (n, k) = (source.n, source.k);
        buffers.weights.resize(n * k, 0.0);
        self.plan
            .source
            .read_matrix(source, &mut buffers.bytes, &mut buffers.weights)?;
        let matrix = hqq::quantize(&buffers.weights, n, k, spec, &mut buffers.scratch)
            .map_err(|source| hqq_error(label, source))?;
        for tensor in &matrix.tensors {
            let planned = layout.tensor(&format!("{name}.{}", tensor.name));
            assert!(
                (planned.dtype, &planned.shape) == (tensor.dtype, &tensor.shape),
                "BUG: {label}.{} is {} {:?}, planned as {planned:?}",
                tensor.name,
                tensor.dtype,
                tensor.shape,
            );
            file.write_at(&tensor.data, planned.start)?;
        }
        let written = verify::Written {
            file,
            layout,
            name,
            spec,
            matrix: &matrix,
        };
        written.check(&buffers.weights, k, &mut buffers.check)?;
        Ok(matrix.relative_error)
    }

    /// Counts a job of a file; the last one finishes the file and notes it.
    fn job_done(
        &self,
        number: usize,
        layout: &FileLayout,
        error: Option<MatrixError>,
    ) -> Result<(), QuantizeError> {
        let (file, mut matrices) = {
            let mut state = lock(&self.files[number]);
            state.errors.extend(error);
            state.jobs_left -= 1;
            if state.jobs_left > 0 {
                return Ok(());
            }
            (state.open.take(), std::mem::take(&mut state.errors))
        };
        let file = file
            .and_then(Arc::into_inner)
            .expect("BUG: the last job of a file holds it alone");
        // Workers end in any order; the journal is to be the same each time.
        matrices.sort_by(|a, b| a.name.cmp(&b.name));
        let finished = Finished {
            file: self.plan.file_name(number),
            bytes: layout.file_bytes(),
            crc32: file.finish(layout)?,
            matrices,
        };
        lock(&self.journal).add(&finished)?;
        lock(&self.files[number]).finished = Some(finished);
        self.files_done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn report(&self) {
        self.observer.progress(&Progress {
            done_bytes: self.done_bytes.load(Ordering::Relaxed),
            total_bytes: self.plan.source_bytes(),
            kept_bytes: self.kept_bytes.load(Ordering::Relaxed),
            files_done: self.files_done.load(Ordering::Relaxed),
            files: self.files.len(),
        });
    }

    fn stopped(&self) -> QuantizeError {
        QuantizeError::Stopped {
            files_done: self.files_done.load(Ordering::Relaxed),
            files: self.files.len(),
        }
    }

    /// Removes the journal and sums up.
    fn finish(self, elapsed: Duration, worked: Duration) -> Result<Summary, QuantizeError> {
        let journal = self
            .journal
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        journal.remove()?;
        let files: Vec<(Finished, bool)> = self
            .files
            .into_iter()
            .filter_map(|file| {
                let file = file.into_inner().unwrap_or_else(PoisonError::into_inner);
                Some((file.finished?, file.kept))
            })
            .collect();
        let done_bytes = self.done_bytes.into_inner() - self.kept_bytes.into_inner();
        Ok(Summary::new(self.plan, &files, done_bytes, elapsed, worked))
    }
}

/// Refuses a disk with less room than that; one that does not tell is taken to have it.
fn check_disk(out: &Path, needed_bytes: u64) -> Result<(), QuantizeError> {
    match Disk::detect(out) {
        Some(disk) if disk.free_bytes < needed_bytes => Err(QuantizeError::DiskFull {
            out: out.to_owned(),
            needed_bytes,
            free_bytes: disk.free_bytes,
        }),
        _ => Ok(()),
    }
}

fn hqq_error(label: &str, source: hqq::HqqError) -> QuantizeError {
    QuantizeError::Hqq {
        matrix: label.to_owned(),
        source,
    }
}

/// A lock of data that no panic leaves half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// `path` with its links resolved, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let whole = absolute.ancestors().find_map(|existing| {
        let rest = absolute.strip_prefix(existing).ok()?;
        let mut whole = existing.canonicalize().ok()?;
        for part in rest.components() {
            match part {
                Component::ParentDir => drop(whole.pop()),
                part => whole.push(part),
            }
        }
        Some(whole)
    });
    whole.unwrap_or(absolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_is_refused_with_both_sizes() {
        let dir = tempfile::tempdir().unwrap();
        if Disk::detect(dir.path()).is_none() {
            println!("skipped: the room on this disk cannot be told");
            return;
        }
        check_disk(dir.path(), 0).unwrap();
        let message = check_disk(&dir.path().join("new"), u64::MAX)
            .unwrap_err()
            .to_string();
        assert!(message.contains("still needs 18.4 EB"), "{message}");
        assert!(message.contains("free; free some space"), "{message}");
    }

    #[test]
    fn places_are_compared_with_links_resolved() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("model")).unwrap();
        for path in ["model/../model/new/deeper", "new/../model/deeper"] {
            let place = resolved(&dir.path().join(path));
            assert!(place.starts_with(real.join("model")), "{place:?}");
        }
    }
}
