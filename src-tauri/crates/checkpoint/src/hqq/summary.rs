//! How a checkpoint is quantized, in a few lines.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::matrix::MatrixLayout;

/// One way in which matrices of a checkpoint are quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct QuantKind {
    /// Bits a weight.
    pub bits: u32,
    /// Weights that share a scale and a zero.
    pub group_size: usize,
    /// Scales that share a meta scale; `None` where scales are plain f16.
    pub scale_group_size: Option<usize>,
    /// Matrices quantized so.
    pub matrices: usize,
}

/// Counts the kinds among `matrices`.
pub(crate) fn kinds<'a>(matrices: impl Iterator<Item = &'a MatrixLayout>) -> Vec<QuantKind> {
    let mut counts = BTreeMap::new();
    for matrix in matrices {
        let kind = (matrix.bits.count(), matrix.group_size, matrix.scale_group());
        *counts.entry(kind).or_insert(0) += 1;
    }
    let mut kinds: Vec<QuantKind> = counts
        .into_iter()
        .map(
            |((bits, group_size, scale_group_size), matrices)| QuantKind {
                bits,
                group_size,
                scale_group_size,
                matrices,
            },
        )
        .collect();
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.matrices));
    kinds
}

impl fmt::Display for QuantKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bits in groups of {}, ", self.bits, self.group_size)?;
        match self.scale_group_size {
            Some(group) => write!(f, "8-bit scales in groups of {group}"),
            None => f.write_str("f16 scales"),
        }
    }
}
