//! What can go wrong with files: which file, what was expected and found, what to do.

use std::io;
use std::path::{Path, PathBuf};

use octet_files::bytes::sizes;

use crate::header::HeaderError;
use crate::metadata::MetadataError;

/// Why a file, or a set of them, cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The system refused an operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Nothing is there.
    #[error("there is no file or folder {}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A pipe or device in place of a file.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// What was to be read.
        path: PathBuf,
    },
    /// A file that this machine cannot map.
    #[error("{} has {len_bytes} bytes, more than a 32-bit program can map", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        len_bytes: u64,
    },
    /// The header is damaged, or the file is cut off.
    #[error("{}: {source}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: HeaderError,
    },
    /// A key of the container itself (`split.*`) that is wrong.
    #[error("{}: {source}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: MetadataError,
    },
    /// A part of a split model whose name does not say which part it is.
    #[error(
        "{} is part {} of {count} of a model, so its name has to end in `{}`; rename it, and keep \
         all parts in one folder",
        path.display(),
        no + 1,
        part_suffix(*no, *count)
    )]
    PartName {
        /// The file.
        path: PathBuf,
        /// Which part it says it is, from 0.
        no: u16,
        /// How many it says there are.
        count: u16,
    },
    /// A part of a split model that is not there.
    #[error("{} is missing: the model has {count} parts; download this one too", path.display())]
    PartMissing {
        /// Where it should be.
        path: PathBuf,
        /// Number of parts.
        count: u16,
    },
    /// A part that does not belong to the others.
    #[error(
        "{}: `{key}` is {found}, and {expected} in {}; download the parts of one model again",
        path.display(),
        other.display()
    )]
    PartConflict {
        /// The part.
        path: PathBuf,
        /// The part it is compared with.
        other: PathBuf,
        /// What they disagree on.
        key: &'static str,
        /// The other part's value, or the one that follows from it.
        expected: u64,
        /// This part's value.
        found: u64,
    },
    /// Parts that together have too few tensors or too many.
    #[error(
        "{}: its {count} parts hold {found} tensors together, where {expected} are expected; \
         download them again",
        path.display()
    )]
    PartTensors {
        /// The first part.
        path: PathBuf,
        /// Number of parts.
        count: u16,
        /// What the files say.
        expected: u64,
        /// What they hold.
        found: u64,
    },
    /// A tensor that two parts hold.
    #[error("tensor `{tensor}` is both in {} and in {}", first.display(), second.display())]
    TensorTwice {
        /// The tensor.
        tensor: String,
        /// One part.
        first: PathBuf,
        /// Another.
        second: PathBuf,
    },
    /// A folder without a model.
    #[error(
        "{} holds no model in GGUF{}",
        dir.display(),
        if aside.is_empty() { String::new() } else { format!(" ({} is none)", aside.join(", ")) }
    )]
    NoModel {
        /// The folder.
        dir: PathBuf,
        /// GGUF files in it that are something else: a vision part, a vocabulary.
        aside: Vec<String>,
    },
    /// A folder with more than one model.
    #[error(
        "{} holds {} models; choose one of these files: {}",
        dir.display(),
        candidates.len(),
        some_of(candidates)
    )]
    SeveralModels {
        /// The folder.
        dir: PathBuf,
        /// One file of each model, in the order of names.
        candidates: Vec<String>,
    },
    /// A file has another length than when it was opened.
    #[error(
        "{} has changed while in use ({}); load the model again",
        path.display(),
        sizes(*expected_bytes, *found_bytes, ["expected", "found"])
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// Its length at open.
        expected_bytes: u64,
        /// Its length now.
        found_bytes: u64,
    },
    /// A file that was there when it was opened.
    #[error("{} is gone: was it moved or its drive removed?", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be written as it was asked for.
    #[error("cannot write {}: {message}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What is wrong with what it was to hold.
        message: String,
    },
}

impl GgufError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// How the name of part `no` (from 0) of `count` ends.
pub(crate) fn part_suffix(no: u16, count: u16) -> String {
    format!("-{:05}-of-{count:05}.gguf", u32::from(no) + 1)
}

fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut text = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}
