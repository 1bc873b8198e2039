//! Why a checkpoint was not quantized.

use std::io;
use std::path::{Path, PathBuf};

use octet_checkpoint::CheckpointError;
use octet_files::bytes::format_bytes;

use crate::hqq::HqqError;

/// What stops a run. Files that were finished before stay, and the same call goes on with them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// A file of the source, or one that was written, cannot be read or is damaged.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The source is no float Mixtral checkpoint.
    #[error("{} cannot be quantized: {why}", dir.display())]
    Source {
        /// The folder, or whatever was given in place of one.
        dir: PathBuf,
        /// What is missing or different, and what to do.
        why: String,
    },
    /// A tensor that the model needs is in none of the source's files.
    #[error(
        "{}: tensor `{tensor}` is in none of the source's safetensors files ({files}); download \
         the model again",
        dir.display()
    )]
    Missing {
        /// The source.
        dir: PathBuf,
        /// The tensor, under the oldest of its names.
        tensor: String,
        /// Files that were looked through.
        files: usize,
    },
    /// A tensor that a Mixtral model of this shape does not have; leaving it out would give
    /// another model.
    #[error(
        "{}: tensor `{tensor}` is no part of a Mixtral model of this shape (layers: {layers}, \
         experts: {experts}); use a source whose tensors and config.json belong together",
        path.display()
    )]
    Unknown {
        /// The file it is in.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// Layers by `config.json`.
        layers: usize,
        /// Experts of a layer by `config.json`.
        experts: usize,
    },
    /// A tensor of another type or shape.
    #[error("{}: tensor `{tensor}`: expected {expected}, found {found}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The types and shapes that are legal.
        expected: String,
        /// What there is.
        found: String,
    },
    /// NaN or infinity among the weights.
    #[error(
        "{}: tensor `{tensor}` holds {value} at element {element}, where every weight must be \
         finite; the file is damaged or the training diverged: download it again or choose \
         another model",
        path.display()
    )]
    NonFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Which element, counted from 0.
        element: u64,
        /// Its value.
        value: f32,
    },
    /// A value that f16, in which the trunk is stored, cannot hold.
    #[error(
        "{}: tensor `{tensor}` holds {value} at element {element}; it is stored as f16, whose \
         largest value is 65504, so this model cannot be written in this format",
        path.display()
    )]
    BeyondHalf {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Which element, counted from 0.
        element: u64,
        /// Its value.
        value: f32,
    },
    /// Bits and group sizes that do not suit a matrix.
    #[error("matrix `{matrix}`: {source}{advice}")]
    Sizes {
        /// The matrix.
        matrix: String,
        /// What does not fit.
        source: HqqError,
        /// The command line's option, and a value that fits every matrix of its kind, as the end
        /// of a sentence; empty where none does.
        advice: String,
    },
    /// Weights that cannot be quantized.
    #[error("matrix `{matrix}`: {source}")]
    Hqq {
        /// The matrix.
        matrix: String,
        /// What does not fit.
        source: HqqError,
    },
    /// Output and source are the same place.
    #[error(
        "{} lies inside the source {}; choose a folder outside of it",
        out.display(),
        dir.display()
    )]
    OutInSource {
        /// The output folder.
        out: PathBuf,
        /// The source.
        dir: PathBuf,
    },
    /// The output folder holds something else.
    #[error("{}: {why}; choose a new folder", out.display())]
    OutNotEmpty {
        /// The output folder.
        out: PathBuf,
        /// What is there.
        why: String,
    },
    /// The output folder was begun with another source or other options.
    #[error(
        "{} was begun in another way: {difference}; give the same source and options as before to \
         go on with it, or choose a new folder",
        out.display()
    )]
    OtherRun {
        /// The output folder.
        out: PathBuf,
        /// What differs: then and now.
        difference: String,
    },
    /// Another process is writing there.
    #[error("{} is being written by another process; wait for it, or stop it", out.display())]
    InUse {
        /// The output folder.
        out: PathBuf,
    },
    /// Too little room on the disk.
    #[error(
        "{} still needs {} and its disk has {} free; free some space or choose another disk",
        out.display(),
        format_bytes(*needed_bytes),
        format_bytes(*free_bytes)
    )]
    DiskFull {
        /// The output folder.
        out: PathBuf,
        /// Bytes still to be written.
        needed_bytes: u64,
        /// Bytes free.
        free_bytes: u64,
    },
    /// What was read back is not what was written.
    #[error(
        "{}: {what}; the disk or the memory of this machine may be faulty, run it again",
        path.display()
    )]
    Verify {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// The system refused an operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Stopped on request.
    #[error("stopped: {files_done} of {files} files are done; run the same command to go on")]
    Stopped {
        /// Files that are finished and kept.
        files_done: usize,
        /// Files in all.
        files: usize,
    },
}

pub(crate) fn io_error(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> QuantizeError {
    let path = path.to_owned();
    move |source| QuantizeError::Io {
        action,
        path,
        source,
    }
}
