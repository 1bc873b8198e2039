//! The block types of GGUF files: a row is a sequence of blocks, each with its own scales, and is
//! read in place.
//!
//! Source: ggml (`ggml-common.h`, `ggml-quants.c`), MIT; the layouts are spelled out beside each
//! type in [`values`].

mod few;
mod grids;
mod many;
mod values;

pub(crate) use few::BlockVec;
#[cfg(target_arch = "x86_64")]
pub(crate) use grids::{IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, sign_byte};
pub(crate) use many::BlockMat;
#[cfg(target_arch = "x86_64")]
pub(crate) use values::{IQ4_LEVELS, MXFP4_LEVELS};
pub(crate) use values::{Span, WIDTH, fill, floats, half, spans};

use crate::cpu::Kernels;

/// How the weights of a matrix are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs, non_camel_case_types)] // the names are the format's own
pub enum BlockType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
    Q2_K,
    Q3_K,
    MXFP4,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    IQ4_NL,
    IQ4_XS,
    IQ3_XXS,
    IQ3_S,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
}

impl BlockType {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::Q2_K,
        Self::Q3_K,
        Self::MXFP4,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::IQ4_NL,
        Self::IQ4_XS,
        Self::IQ3_XXS,
        Self::IQ3_S,
        Self::IQ2_XXS,
        Self::IQ2_XS,
        Self::IQ2_S,
    ];

    /// As GGUF tools call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
            Self::Q2_K => "Q2_K",
            Self::Q3_K => "Q3_K",
            Self::MXFP4 => "MXFP4",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::IQ4_NL => "IQ4_NL",
            Self::IQ4_XS => "IQ4_XS",
            Self::IQ3_XXS => "IQ3_XXS",
            Self::IQ3_S => "IQ3_S",
            Self::IQ2_XXS => "IQ2_XXS",
            Self::IQ2_XS => "IQ2_XS",
            Self::IQ2_S => "IQ2_S",
        }
    }

    /// Columns of a block: the columns of a matrix are a multiple of it.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0
            | Self::MXFP4
            | Self::Q4_0
            | Self::Q4_1
            | Self::Q5_0
            | Self::Q5_1
            | Self::IQ4_NL => 32,
            _ => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::MXFP4 => 17,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::IQ4_NL => 18,
            Self::IQ4_XS => 136,
            Self::IQ3_XXS => 98,
            Self::IQ3_S => 110,
            Self::IQ2_XXS => 66,
            Self::IQ2_XS => 74,
            Self::IQ2_S => 82,
        }
    }

    /// Bytes of a row of `k` columns; `None` if `k` is not a multiple of the block, or too large.
    pub const fn row_bytes(self, k: usize) -> Option<usize> {
        if !k.is_multiple_of(self.block_len()) {
            return None;
        }
        (k / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Whether the weights are floats: these are multiplied in f32, whatever the precision.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }
}

impl std::fmt::Display for BlockType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What is wrong with the sizes of a block matrix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// A zero dimension, or one whose product overflows.
    #[error("a {n} x {k} matrix of {kind} cannot exist")]
    Shape {
        /// The type of its blocks.
        kind: BlockType,
        /// Rows.
        n: usize,
        /// Columns.
        k: usize,
    },
    /// A row is no number of whole blocks.
    #[error("{k} columns are not a multiple of the {block} of a block of {kind}")]
    Columns {
        /// The type of its blocks.
        kind: BlockType,
        /// Columns.
        k: usize,
        /// Columns of a block.
        block: usize,
    },
    /// The bytes are not as many as the shape says.
    #[error("a {n} x {k} matrix of {kind}: expected {expected} bytes, found {found}")]
    Length {
        /// The type of its blocks.
        kind: BlockType,
        /// Rows.
        n: usize,
        /// Columns.
        k: usize,
        /// Bytes the shape asks for.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
}

/// A matrix of blocks, borrowed: `n` rows (out) by `k` columns (in), row after row, of any
/// alignment.
#[derive(Debug, Clone, Copy)]
pub struct BlockMatrix<'a> {
    kind: BlockType,
    n: usize,
    k: usize,
    row_bytes: usize,
    bytes: &'a [u8],
}

impl<'a> BlockMatrix<'a> {
    /// Checks the length against the shape, so that the kernels need not. What the blocks hold is
    /// not looked at: see [`BlockMatrix::is_finite`].
    ///
    /// # Errors
    /// [`BlockError`] says what was expected and what was found.
    pub fn new(
        kind: BlockType,
        (n, k): (usize, usize),
        bytes: &'a [u8],
    ) -> Result<Self, BlockError> {
        if n == 0 || k == 0 {
            return Err(BlockError::Shape { kind, n, k });
        }
        let block = kind.block_len();
        if !k.is_multiple_of(block) {
            return Err(BlockError::Columns { kind, k, block });
        }
        let row_bytes = kind.row_bytes(k);
        // The number of weights is bounded as well: outputs are f32.
        let expected = row_bytes.and_then(|row| row.checked_mul(n)).filter(|_| {
            n.checked_mul(k)
                .is_some_and(|len| len <= isize::MAX as usize / 4)
        });
        let (Some(row_bytes), Some(expected)) = (row_bytes, expected) else {
            return Err(BlockError::Shape { kind, n, k });
        };
        if bytes.len() != expected {
            return Err(BlockError::Length {
                kind,
                n,
                k,
                expected,
                found: bytes.len(),
            });
        }
        Ok(Self {
            kind,
            n,
            k,
            row_bytes,
            bytes,
        })
    }

    /// The type of the blocks.
    pub fn kind(&self) -> BlockType {
        self.kind
    }

    /// Rows: the length of the output.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns: the length of the input.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// All rows.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes of `rows` rows from `first` on.
    pub(crate) fn rows(&self, first: usize, rows: usize) -> &'a [u8] {
        &self.bytes[first * self.row_bytes..(first + rows) * self.row_bytes]
    }

    /// The bytes of columns `start..start + len` of a row, both multiples of the block.
    pub(crate) fn run(&self, row: usize, start: usize, len: usize) -> &'a [u8] {
        let at = |column: usize| column / self.kind.block_len() * self.kind.block_bytes();
        &self.rows(row, 1)[at(start)..at(start + len)]
    }

    /// The weights of some rows in f32, from `first_row` on: as many as `out`, `(rows, k)`
    /// row-major, has room for. They equal ggml's to the bit.
    ///
    /// # Panics
    /// If `out` is not a number of whole rows that the matrix has.
    pub fn dequantize_rows(&self, first_row: usize, out: &mut [f32]) {
        let rows = out.len() / self.k;
        assert!(
            out.len().is_multiple_of(self.k) && first_row + rows <= self.n,
            "BUG: dequantize: {} values are no rows of ({}, {}) from {first_row} on",
            out.len(),
            self.n,
            self.k
        );
        // SAFETY: a table is only handed out where the CPU has its features.
        unsafe { (Kernels::best().block_values)(self.kind, self.rows(first_row, rows), out) };
    }

    /// Whether all scales of all blocks (all weights of a float type) are finite numbers; an
    /// exponent of 255 in MXFP4 is not. Reads the whole matrix.
    pub fn is_finite(&self) -> bool {
        values::is_finite(self.kind, self.bytes)
    }
}
