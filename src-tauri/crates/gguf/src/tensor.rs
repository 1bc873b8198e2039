//! What a file says of a tensor.

use std::fmt;

use crate::tensor_type::TensorType;

/// A range of bytes of one of a model's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// Which file, from 0: see [`Gguf::files`](crate::Gguf::files).
    pub file: usize,
    /// The first byte, from the beginning of that file.
    pub start: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Span {
    /// One past the last byte.
    pub fn end(&self) -> u64 {
        // Spans are made of ranges that were checked against a file's length.
        self.start + self.len
    }

    /// `len` bytes of it, from its byte `offset` on.
    ///
    /// # Panics
    /// If they are not all in it.
    pub fn part(&self, offset: u64, len: u64) -> Self {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.len),
            "BUG: bytes {offset} to {offset} + {len} of {self:?}"
        );
        Self {
            file: self.file,
            start: self.start + offset,
            len,
        }
    }
}

/// One to four dimensions, as in the file: fastest first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Dims {
    dims: [u64; Dims::MAX_RANK],
    rank: usize,
}

impl Dims {
    /// The largest number of dimensions.
    pub const MAX_RANK: usize = 4;

    /// `None` for no dimensions or too many.
    pub fn new(dims: &[u64]) -> Option<Self> {
        let rank = dims.len();
        if rank == 0 || rank > Self::MAX_RANK {
            return None;
        }
        let mut all = [1; Self::MAX_RANK];
        all[..rank].copy_from_slice(dims);
        Some(Self { dims: all, rank })
    }

    /// The dimensions, fastest first.
    pub fn as_slice(&self) -> &[u64] {
        &self.dims[..self.rank]
    }

    /// Whether it is `dims`, where dimensions of 1 at the end may be left out.
    pub fn is(&self, dims: &[u64]) -> bool {
        Self::new(dims).is_some_and(|dims| dims.dims == self.dims)
    }
}

impl fmt::Debug for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

/// Type, shape and place of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// How its values are stored.
    pub ty: TensorType,
    /// Its dimensions; none is 0, and the first is a whole number of blocks.
    pub dims: Dims,
    /// Its bytes; they are all in the file, and no other tensor's.
    pub span: Span,
}

impl TensorInfo {
    /// Values in a row.
    pub fn k(&self) -> u64 {
        self.dims.dims[0]
    }

    /// Rows, over all dimensions but the first.
    pub fn rows(&self) -> u64 {
        // The product was checked when the header was read.
        self.dims.dims[1..].iter().product()
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> u64 {
        self.span.len / self.rows()
    }
}
