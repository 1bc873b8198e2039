//! A weight matrix of any type.

use crate::blocks::BlockMatrix;
use crate::layout::QMatrix;

/// One weight matrix, borrowed: what [`crate::matmul`] multiplies with.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Matrix<'a> {
    /// HQQ's packed layout.
    Hqq(QMatrix<'a>),
    /// Blocks as GGUF files have them.
    Blocks(BlockMatrix<'a>),
}

impl<'a> From<QMatrix<'a>> for Matrix<'a> {
    fn from(w: QMatrix<'a>) -> Self {
        Self::Hqq(w)
    }
}

impl<'a> From<BlockMatrix<'a>> for Matrix<'a> {
    fn from(w: BlockMatrix<'a>) -> Self {
        Self::Blocks(w)
    }
}

impl<'a> Matrix<'a> {
    /// The matrix, if it is HQQ's.
    pub fn hqq(self) -> Option<QMatrix<'a>> {
        match self {
            Self::Hqq(w) => Some(w),
            Self::Blocks(_) => None,
        }
    }
}

impl Matrix<'_> {
    /// Rows: the length of the output.
    pub fn n(&self) -> usize {
        match self {
            Self::Hqq(w) => w.n(),
            Self::Blocks(w) => w.n(),
        }
    }

    /// Columns: the length of the input.
    pub fn k(&self) -> usize {
        match self {
            Self::Hqq(w) => w.k(),
            Self::Blocks(w) => w.k(),
        }
    }

    /// Bytes that one pass reads.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Hqq(w) => w.bytes(),
            Self::Blocks(w) => w.bytes().len(),
        }
    }
}
