//! Products of GGUF's block types with activations of 8 bits.
//!
//! A row is read in *spans* of 256 weights. Activations lie in [`XBlock`]s, one a span, in an order
//! that the kernel of a type chooses: such that each 32-bit lane of four vectors of weights has the
//! same 16 columns, so that a span needs one conversion to f32 and one vector of scales.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
pub(super) mod common;
#[cfg(target_arch = "x86_64")]
mod grids;
#[cfg(target_arch = "x86_64")]
mod rows;
#[cfg(target_arch = "x86_64")]
mod simd;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod types;
#[cfg(target_arch = "x86_64")]
mod vbmi;

use crate::blocks::{BlockType, WIDTH};

/// Lanes of a span: groups of 16 columns.
pub(crate) const LANES: usize = 16;

/// 256 activations of one token, rounded to 8 bits in blocks of 32 columns.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct XBlock {
    /// In the order of a [`Layout`].
    pub q: [i8; WIDTH],
    /// The value of one unit, by lane, times the layout's factor.
    pub unit: [f32; LANES],
    /// The sum of the rounded activations, by lane.
    pub sum: [f32; LANES],
    /// The lane's integer sum before any product: what the layout's offset adds to each, negated.
    pub start: [i32; LANES],
}

/// The order in which a kernel wants activations.
#[derive(Debug)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // tiles are filled by it there only
pub(crate) struct Layout {
    /// The column of each byte.
    pub order: [u8; WIDTH],
    /// The group of 16 columns of each lane.
    pub groups: [u8; LANES],
    /// The lane of each group of 16 columns.
    pub lanes: [i32; LANES],
    /// What a lane's sum of products has to be multiplied by, a power of 2.
    pub factor: [f32; LANES],
    /// What is added to weights to make them unsigned.
    pub offset: i32,
}

impl Layout {
    const fn new(
        order: [u8; WIDTH],
        groups: [u8; LANES],
        factor: [f32; LANES],
        offset: i32,
    ) -> Self {
        let mut lanes = [0; LANES];
        let mut lane = 0;
        while lane < LANES {
            lanes[groups[lane] as usize] = lane as i32;
            lane += 1;
        }
        Self {
            order,
            groups,
            lanes,
            factor,
            offset,
        }
    }

    /// Vector `m` has columns `4m..4m + 4` of each lane's group.
    #[cfg(target_arch = "x86_64")]
    const fn by_lane(groups: [u8; LANES], factor: [f32; LANES], offset: i32) -> Self {
        let mut order = [0; WIDTH];
        let mut i = 0;
        while i < WIDTH {
            let (m, lane, byte) = (i / 64, i / 4 % 16, i % 4);
            order[i] = groups[lane] * 16 + (4 * m + byte) as u8;
            i += 1;
        }
        Self::new(order, groups, factor, offset)
    }

    /// Byte `i` of vector `m` has column `4i + m`.
    #[cfg(target_arch = "x86_64")]
    const fn planar(offset: i32) -> Self {
        let mut order = [0; WIDTH];
        let mut i = 0;
        while i < WIDTH {
            order[i] = (4 * (i % 64) + i / 64) as u8;
            i += 1;
        }
        Self::new(order, IN_ORDER, [1.0; LANES], offset)
    }
}

const IN_ORDER: [u8; LANES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Columns as they come, for kernels that take a group at a time.
pub(super) static NATURAL: Layout = {
    let mut order = [0; WIDTH];
    let mut i = 0;
    while i < WIDTH {
        order[i] = i as u8;
        i += 1;
    }
    Layout::new(order, IN_ORDER, [1.0; LANES], 0)
};

/// The order in which a kernel of tiles wants activations, and what it wants folded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TileLayout {
    pub order: &'static Layout,
    /// Whether 32 columns share a scale: `start` of the first of their two lanes is for both.
    pub paired: bool,
    /// Whether they share a minimum: the same for `sum`.
    pub paired_min: bool,
}

impl PartialEq for TileLayout {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.order, other.order)
            && (self.paired, self.paired_min) == (other.paired, other.paired_min)
    }
}

impl TileLayout {
    pub(super) fn plain(order: &'static Layout) -> Self {
        Self {
            order,
            paired: false,
            paired_min: false,
        }
    }

    /// Folds what lanes share into the first of them.
    pub(crate) fn fold(&self, x: &mut XBlock) {
        for [first, second] in self.order.lanes.as_chunks::<2>().0 {
            let (first, second) = (*first as usize, *second as usize);
            if self.paired {
                x.start[first] += x.start[second];
            }
            if self.paired_min {
                x.sum[first] += x.sum[second];
            }
        }
    }
}

/// Rows that are multiplied together with many tokens.
pub(crate) const TILE_ROWS: usize = 32;

/// Up to [`TILE_ROWS`] rows and the activations of many tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockTile<'a> {
    pub kind: BlockType,
    /// One row after the other.
    pub bytes: &'a [u8],
    pub row_bytes: usize,
    pub k: usize,
    /// `[span][token]`, in the tile layout of the type.
    pub x: &'a [XBlock],
}

/// A span of [`TILE_ROWS`] rows.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct TileSpace {
    halves: [HalfTile; 2],
}

/// A span of 16 rows, by groups of 16 columns: each 32-bit lane has four columns of a row.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct HalfTile {
    /// Four vectors a group, of four quarters each: of four rows.
    q: [[[[u8; 16]; 4]; 4]; LANES],
    scale: [[f32; 16]; LANES],
    min: [[f32; 16]; LANES],
}

/// Some rows and the activations of some tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockRows<'a> {
    pub kind: BlockType,
    /// One row after the other.
    pub bytes: &'a [u8],
    pub row_bytes: usize,
    pub k: usize,
    /// `[token][span]`, in the layout of the type.
    pub x: &'a [XBlock],
}

impl BlockRows<'_> {
    fn rows(&self) -> usize {
        self.bytes.len() / self.row_bytes
    }
}

/// The first column of a span: the last one ends with the row, and has activations of 0 where it
/// overlaps the one before.
pub(crate) fn span_start(k: usize, span: usize) -> usize {
    (span * WIDTH).min(k.saturating_sub(WIDTH))
}
