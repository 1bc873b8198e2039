//! A model's files as one: a single file, or the parts of a split one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use half::{bf16, f16};

use crate::error::GgufError;
use crate::file::GgufFile;
use crate::folder::find_model;
use crate::header::MAX_TENSORS;
use crate::metadata::{Metadata, MetadataError};
use crate::parts::{MAX_PARTS, PartName};
use crate::tensor::{Span, TensorInfo};
use crate::tensor_type::TensorType;
use crate::text::shorten;
use crate::value::{FromValue, Value};

const NO_KEY: &str = "split.no";
const COUNT_KEY: &str = "split.count";
const TENSORS_KEY: &str = "split.tensors.count";

/// Bytes that are read at a time where they are only looked at.
const PIECE_BYTES: usize = 256 << 10;

/// The open files of one model. All methods take `&self` and may be called from many threads.
#[derive(Debug)]
pub struct Gguf {
    files: Vec<GgufFile>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Gguf {
    /// Opens a model: its file, any of its files (`NAME-00001-of-00003.gguf`), or a folder that
    /// holds one model and no other. In a folder, vision parts, adapters and vocabularies without
    /// tensors do not count.
    ///
    /// Reads headers only: opening takes as long for 28 GB as for 28 MB.
    ///
    /// # Errors
    /// [`GgufError`] names the file, what was expected and what was found.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        if path.is_dir() {
            return Self::open(&find_model(path)?);
        }
        let (file, tensors) = GgufFile::open(path)?;
        let count = key::<u16>(&file, COUNT_KEY)?.unwrap_or(1);
        if count <= 1 {
            return Ok(Self {
                files: vec![file],
                tensors,
            });
        }
        if count > MAX_PARTS {
            let found = Value::Integer(count.into());
            return Err(GgufError::Metadata {
                path: path.to_owned(),
                source: MetadataError::value(COUNT_KEY, format!("1 to {MAX_PARTS}"), found),
            });
        }
        Self::open_parts(file, tensors, count)
    }

    fn open_parts(
        given: GgufFile,
        given_tensors: BTreeMap<String, TensorInfo>,
        count: u16,
    ) -> Result<Self, GgufError> {
        let given_no = require::<u16>(&given, NO_KEY)?;
        let name = PartName::parse(given.path())
            .filter(|name| (name.no, name.count) == (given_no, count))
            .ok_or_else(|| GgufError::PartName {
                path: given.path().to_owned(),
                no: given_no,
                count,
            })?;
        let expected = require::<u64>(&given, TENSORS_KEY)?;
        let given_path = given.path().to_owned();

        let mut given = Some((given, given_tensors));
        let mut all = Self {
            files: Vec::with_capacity(usize::from(count)),
            tensors: BTreeMap::new(),
        };
        for no in 0..count {
            let (file, tensors) = match given.take_if(|_| no == given_no) {
                Some(given) => given,
                None => open_part(&name.part(no), &given_path, [no, count], expected)?,
            };
            all.add(file, tensors)?;
        }
        let found = all.tensors.len() as u64;
        if found != expected || found > MAX_TENSORS {
            return Err(GgufError::PartTensors {
                path: all.path().to_owned(),
                count,
                expected: expected.min(MAX_TENSORS),
                found,
            });
        }
        Ok(all)
    }

    fn add(
        &mut self,
        file: GgufFile,
        tensors: BTreeMap<String, TensorInfo>,
    ) -> Result<(), GgufError> {
        let n = self.files.len();
        self.files.push(file);
        for (name, mut info) in tensors {
            info.span.file = n;
            if let Some(first) = self.tensors.get(&name) {
                return Err(GgufError::TensorTwice {
                    tensor: shorten(&name),
                    first: self.files[first.span.file].path().to_owned(),
                    second: self.files[n].path().to_owned(),
                });
            }
            self.tensors.insert(name, info);
        }
        Ok(())
    }

    /// The model's only file, or its first.
    pub fn path(&self) -> &Path {
        self.files[0].path()
    }

    /// The files in the order of their parts; there is at least one.
    pub fn files(&self) -> &[GgufFile] {
        &self.files
    }

    /// Length of all files together.
    pub fn len_bytes(&self) -> u64 {
        self.files.iter().map(GgufFile::len_bytes).sum()
    }

    /// The model's metadata.
    pub fn metadata(&self) -> Metadata<'_> {
        self.files[0].metadata()
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The mapped bytes of `span`. They change if the file does: see the crate's documentation.
    ///
    /// # Panics
    /// If `span` is not of this model.
    pub fn bytes(&self, span: Span) -> &[u8] {
        self.files[span.file].mapped(range(span))
    }

    /// Reads `span` into `buf` by positioned reads, with an error where the file is no longer what
    /// it was: gone, of another length, unreadable.
    ///
    /// # Errors
    /// [`GgufError::Changed`], [`GgufError::Gone`] or [`GgufError::Io`].
    ///
    /// # Panics
    /// If `buf` is not as long as `span`.
    pub fn read(&self, span: Span, buf: &mut [u8]) -> Result<(), GgufError> {
        assert_eq!(
            buf.len() as u64,
            span.len,
            "BUG: a buffer of another length"
        );
        self.files[span.file].read_at(buf, span.start)
    }

    /// Reads `span` by positioned reads and gives it to `take` piece by piece: the file's pages
    /// never count as this process's memory. Each piece but the last is a multiple of
    /// `granule_bytes` long.
    ///
    /// # Errors
    /// As [`Self::read`], and what `take` reports; then some pieces are missing.
    pub fn read_pieces<E: From<GgufError>>(
        &self,
        span: Span,
        granule_bytes: usize,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let most = (PIECE_BYTES / granule_bytes.max(1)).max(1) * granule_bytes.max(1);
        let most = (most as u64).min(span.len);
        let mut buf = vec![0; range(Span { len: most, ..span }).len()];
        let mut at = 0;
        while at < span.len {
            let part = span.part(at, most.min(span.len - at));
            let piece = &mut buf[..range(part).len()];
            self.read(part, piece)?;
            take(piece)?;
            at += part.len;
        }
        Ok(())
    }

    /// Reads a tensor of floats (F32, F16 or BF16) into f32 values; `None` for other types.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_f32(&self, info: &TensorInfo) -> Result<Option<Vec<f32>>, GgufError> {
        let width = info.ty.block_bytes();
        if !info.ty.is_float() {
            return Ok(None);
        }
        let mut values = Vec::with_capacity(range(info.span).len() / width);
        self.read_pieces(info.span, width, |piece| {
            let items = piece.chunks_exact(width);
            values.extend(items.map(|b| match info.ty {
                TensorType::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
                TensorType::BF16 => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
                _ => f16::from_le_bytes([b[0], b[1]]).to_f32(),
            }));
            Ok::<(), GgufError>(())
        })?;
        Ok(Some(values))
    }

    /// Asks the system to start reading `span` into its cache, where it can (Unix).
    pub fn advise_will_need(&self, span: Span) {
        self.files[span.file].advise_will_need(range(span));
    }

    /// Has the system read `span` into memory, and waits for it.
    pub fn bring_in(&self, span: Span) {
        self.files[span.file].bring_in(range(span));
    }

    /// Tells the system that `span` is not needed for now: its pages leave this process's memory
    /// (Unix; elsewhere nothing happens) and come back when they are touched.
    pub fn advise_dont_need(&self, span: Span) {
        self.files[span.file].advise_dont_need(range(span));
    }
}

/// A span's bytes in the map. Lengths of files were held against `isize` when they were opened.
fn range(span: Span) -> Range<usize> {
    let at = |byte| usize::try_from(byte).expect("BUG: a span beyond its file");
    at(span.start)..at(span.end())
}

/// Opens another part than the given one, and compares what they say of the whole.
fn open_part(
    path: &Path,
    other: &Path,
    [no, count]: [u16; 2],
    n_tensors: u64,
) -> Result<(GgufFile, BTreeMap<String, TensorInfo>), GgufError> {
    let (file, tensors) = GgufFile::open(path).map_err(|error| match error {
        GgufError::Missing { path } => GgufError::PartMissing { path, count },
        error => error,
    })?;
    let keys = [
        (NO_KEY, u64::from(no)),
        (COUNT_KEY, u64::from(count)),
        (TENSORS_KEY, n_tensors),
    ];
    for (key, expected) in keys {
        let found = require::<u64>(&file, key)?;
        if found != expected {
            return Err(GgufError::PartConflict {
                path: path.to_owned(),
                other: other.to_owned(),
                key,
                expected,
                found,
            });
        }
    }
    Ok((file, tensors))
}

fn key<'a, T: FromValue<'a>>(file: &'a GgufFile, key: &str) -> Result<Option<T>, GgufError> {
    let value = file.metadata().get(key);
    value.map_err(|source| GgufError::Metadata {
        path: file.path().to_owned(),
        source,
    })
}

fn require<'a, T: FromValue<'a>>(file: &'a GgufFile, key: &str) -> Result<T, GgufError> {
    let value = file.metadata().require(key);
    value.map_err(|source| GgufError::Metadata {
        path: file.path().to_owned(),
        source,
    })
}
