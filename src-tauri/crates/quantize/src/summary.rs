//! What came of a run.

use std::time::Duration;

use crate::journal::Finished;
use crate::plan::Plan;

/// What came of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// The experts' matrices.
    pub experts: PartSummary,
    /// The attention projections; their file, the trunk, also holds what is not quantized.
    pub attention: PartSummary,
    /// Tensor files written, now and by earlier runs.
    pub files: usize,
    /// Of them, those that earlier runs had finished.
    pub kept_files: usize,
    /// Bytes of all tensor files.
    pub bytes: u64,
    /// Bytes of the source that this run quantized.
    pub source_bytes: u64,
    /// Threads that worked.
    pub workers: usize,
    /// Time of the whole run.
    pub elapsed: Duration,
    /// Of it, the time of reading, quantizing and writing tensors.
    pub worked: Duration,
}

/// How one part of the model was quantized.
#[derive(Debug, Clone, PartialEq)]
pub struct PartSummary {
    /// Matrices.
    pub matrices: usize,
    /// Bytes of the files they are in.
    pub bytes: u64,
    /// Mean over the matrices of `|W - Ŵ| / |W|` in Frobenius norms.
    pub mean_error: f64,
    /// The largest of them.
    pub max_error: f64,
    /// The matrix it is of.
    pub worst: String,
}

impl Summary {
    pub(crate) fn new(
        plan: &Plan,
        files: &[(Finished, bool)],
        source_bytes: u64,
        elapsed: Duration,
        worked: Duration,
    ) -> Self {
        let trunk = plan.file_name(0);
        let part = |is_trunk: bool| {
            let files = files.iter().map(|(file, _)| file);
            PartSummary::new(files.filter(|file| (file.file == trunk) == is_trunk))
        };
        Self {
            experts: part(false),
            attention: part(true),
            files: files.len(),
            kept_files: files.iter().filter(|(_, kept)| *kept).count(),
            bytes: files.iter().map(|(file, _)| file.bytes).sum(),
            source_bytes,
            workers: plan.workers(),
            elapsed,
            worked,
        }
    }

    /// Bytes of source a second, by each thread; `None` if earlier runs had done all of it.
    pub fn bytes_per_sec_per_worker(&self) -> Option<f64> {
        let seconds = self.worked.as_secs_f64() * self.workers as f64;
        (self.source_bytes > 0 && seconds > 0.0).then(|| self.source_bytes as f64 / seconds)
    }
}

impl PartSummary {
    fn new<'a>(files: impl Iterator<Item = &'a Finished>) -> Self {
        let mut part = Self {
            matrices: 0,
            bytes: 0,
            mean_error: 0.0,
            max_error: 0.0,
            worst: String::new(),
        };
        for file in files {
            part.bytes += file.bytes;
            for matrix in &file.matrices {
                part.matrices += 1;
                part.mean_error += matrix.relative_error;
                if matrix.relative_error >= part.max_error {
                    part.max_error = matrix.relative_error;
                    part.worst.clone_from(&matrix.name);
                }
            }
        }
        part.mean_error /= part.matrices.max(1) as f64;
        part
    }
}
