//! What can go wrong with a checkpoint: which file, which tensor, what was expected and found.

use std::io;
use std::path::PathBuf;

use octet_kernels::LayoutError;

use super::header::HeaderError;
use super::hqq::IndexError;
use octet_files::bytes::{format_bytes, sizes};
use octet_spec::ConfigError;

/// Why a checkpoint cannot be opened or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The folder is something else.
    #[error("{} is not an offloading-demo checkpoint: {why}", dir.display())]
    NotACheckpoint {
        /// The folder.
        dir: PathBuf,
        /// What is missing or different, and what to do.
        why: String,
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
    /// A file that was there when the checkpoint was opened.
    #[error("{} is gone: was it moved or its drive removed?", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// A file that the index names is not there.
    #[error(
        "{} is missing: the index places tensor `{tensor}` in it",
        path.display()
    )]
    MissingFile {
        /// The file.
        path: PathBuf,
        /// A tensor that it should hold.
        tensor: String,
    },
    /// A folder, pipe or device in place of a file.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// What was to be read.
        path: PathBuf,
    },
    /// A file that is longer than any real one.
    #[error(
        "{} is {}, longer than any such file ({} at most)",
        path.display(),
        format_bytes(*len_bytes),
        format_bytes(*limit_bytes)
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        len_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// `config.json` is damaged or describes another model.
    #[error("{}: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// The index is damaged.
    #[error("{}: {source}", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: IndexError,
    },
    /// The index and `config.json`, or two entries of the index, contradict each other.
    #[error("{}: {conflict}", path.display())]
    IndexConflict {
        /// The index.
        path: PathBuf,
        /// The contradiction.
        conflict: String,
    },
    /// A tensor file's header is damaged, or the file is cut off.
    #[error("{}: {source}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: HeaderError,
    },
    /// A tensor that the model needs is not in its file.
    #[error("{}: tensor `{tensor}` is missing", path.display())]
    MissingTensor {
        /// The file (or the index).
        path: PathBuf,
        /// The tensor's name, as it should be in that file.
        tensor: String,
    },
    /// A tensor's element type or shape does not fit the model.
    #[error("{}: tensor `{tensor}`: expected {expected}, found {found}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in that file.
        tensor: String,
        /// The types and shapes that would be legal.
        expected: String,
        /// The type and shape it has.
        found: String,
    },
    /// A quantized matrix whose tensors do not fit together.
    #[error("{}: matrix `{matrix}`: {source}", path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// The matrix's name in that file.
        matrix: String,
        /// What does not fit.
        source: LayoutError,
    },
    /// A scale, zero, norm or router weight that is NaN or infinite.
    #[error(
        "{}: tensor `{tensor}` holds {value} at element {element}, where every value must be \
         finite; the file is damaged",
        path.display()
    )]
    NonFinite {
        /// The file.
        path: PathBuf,
        /// The tensor's name in that file.
        tensor: String,
        /// Which element, counted from 0.
        element: usize,
        /// Its value, before any conversion.
        value: f32,
    },
    /// A block of an expert with a scale, minimum or value that is NaN or infinite.
    #[error(
        "{}: {expert} holds a scale that is not finite, in block {block}; the file is damaged",
        path.display()
    )]
    NonFiniteBlock {
        /// The file.
        path: PathBuf,
        /// Which expert.
        expert: String,
        /// Which block of the matrix, counted from 0.
        block: usize,
    },
    /// A GGUF file cannot be opened or read.
    #[error(transparent)]
    Gguf(Box<octet_gguf::GgufError>),
    /// What a GGUF file describes is not a model that Octet runs, or is damaged.
    #[error("{}: {source}", path.display())]
    GgufModel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<octet_gguf::ModelError>,
    },
    /// A file has another length than when the checkpoint was opened.
    #[error(
        "{} has changed while in use ({})",
        path.display(),
        sizes(*expected_bytes, *found_bytes, ["then", "now"])
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// Its length at open.
        expected_bytes: u64,
        /// Its length now.
        found_bytes: u64,
    },
}

impl From<octet_gguf::GgufError> for CheckpointError {
    fn from(error: octet_gguf::GgufError) -> Self {
        Self::Gguf(Box::new(error))
    }
}

impl CheckpointError {
    /// What to do about it, where the message alone does not tell.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::MissingFile { .. }
            | Self::TooLarge { .. }
            | Self::MissingTensor { .. }
            | Self::NonFinite { .. }
            | Self::NonFiniteBlock { .. }
            | Self::Header {
                source: HeaderError::Truncated { .. } | HeaderError::OutOfFile { .. },
                ..
            } => Some("download this file again"),
            Self::Changed { .. } => Some("load the model again"),
            _ => None,
        }
    }
}
