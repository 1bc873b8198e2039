//! The product of a block matrix with many tokens, as in reading a prompt: bound by arithmetic.
//!
//! A unit of work decodes some rows once a span and multiplies them with all tokens. Weights stay
//! the integers that the file has, and activations are rounded as for a few tokens, so that a
//! token's outputs do not depend on how many are computed together, but for the order of sums.

use super::{BlockMatrix, BlockType, WIDTH};
use crate::cpu::{BlockTile, Kernels, TILE_ROWS, TileLayout, TileSpace, XBlock};
use crate::scratch::{Carver, Output, Space};

/// Spans of activations prepared by one item.
const ITEM_SPANS: usize = 8;

/// How one matrix is multiplied, and where its activations lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockMat {
    tokens: usize,
    rows: usize,
    spans: usize,
    layout: TileLayout,
    /// [`XBlock`]s by span and token.
    x: usize,
    /// Whether the activations are another job's.
    x_shared: bool,
    /// Of a thread: a [`TileSpace`] and the sums of each token.
    tile: usize,
    sums: usize,
    thread_bytes: usize,
}

impl BlockMat {
    /// Whether products with weights of a type are computed this way.
    pub(crate) fn takes(kind: BlockType, exact: bool) -> bool {
        !kind.is_float() && !exact
    }

    /// The plan for `tokens` tokens. `twins` are the plans of jobs with the same `x`.
    pub(crate) fn new<'p>(
        kernels: &Kernels,
        w: &BlockMatrix<'_>,
        tokens: usize,
        mut twins: impl Iterator<Item = &'p Self>,
        shared: &mut Carver,
    ) -> Self {
        let spans = w.k().div_ceil(WIDTH);
        let layout = (kernels.tile_layout)(w.kind());
        let twin = twins.find(|twin| twin.layout == layout);
        let x = match twin {
            Some(twin) => twin.x,
            None => shared.add::<XBlock>(tokens * spans),
        };
        let mut thread = Carver::default();
        Self {
            tokens,
            rows: w.n(),
            spans,
            layout,
            x,
            x_shared: twin.is_some(),
            tile: thread.add::<TileSpace>(1),
            sums: thread.add::<[f32; TILE_ROWS]>(tokens),
            thread_bytes: thread.bytes(),
        }
    }

    pub(crate) fn thread_bytes(&self) -> usize {
        self.thread_bytes
    }

    /// Units of work.
    pub(crate) fn units(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// Multiplications of a unit with `k` columns.
    pub(crate) fn unit_products(&self, k: usize) -> usize {
        TILE_ROWS * self.tokens * k
    }

    /// Items of preparation, to be done before any unit.
    pub(crate) fn prep_items(&self) -> usize {
        if self.x_shared {
            0
        } else {
            self.tokens * self.spans.div_ceil(ITEM_SPANS)
        }
    }

    /// Does one item of preparation: rounds some activations of a token.
    pub(crate) fn prepare(&self, kernels: &Kernels, x: &[f32], shared: Space<'_>, item: usize) {
        let k = x.len() / self.tokens;
        let runs = self.spans.div_ceil(ITEM_SPANS);
        let (token, first) = (item / runs, item % runs * ITEM_SPANS);
        let x = &x[token * k..][..k];
        for span in first..self.spans.min(first + ITEM_SPANS) {
            let offset = self.x + (span * self.tokens + token) * size_of::<XBlock>();
            // SAFETY: every item has its own spans.
            let out = unsafe { &mut shared.slice_mut::<XBlock>(offset, 1)[0] };
            super::few::round(kernels, self.layout.order, x, span, out);
            self.layout.fold(out);
        }
    }

    /// Does one unit of work: writes the outputs of some rows for all tokens.
    ///
    /// # Safety
    /// No other thread has the same unit or uses `thread`; all items are prepared.
    pub(crate) unsafe fn run(
        &self,
        kernels: &Kernels,
        w: &BlockMatrix<'_>,
        y: Output<'_>,
        shared: Space<'_>,
        thread: Space<'_>,
        unit: usize,
    ) {
        let first = unit * TILE_ROWS;
        let rows = TILE_ROWS.min(w.n() - first);
        // SAFETY: the caller lends `thread` to this call alone, and the ranges are apart;
        // preparation has ended, so nobody writes the activations.
        let (space, sums, x) = unsafe {
            (
                &mut thread.slice_mut::<TileSpace>(self.tile, 1)[0],
                thread.slice_mut::<[f32; TILE_ROWS]>(self.sums, self.tokens),
                shared.slice::<XBlock>(self.x, self.tokens * self.spans),
            )
        };
        sums.fill([0.0; TILE_ROWS]);
        let tile = BlockTile {
            kind: w.kind(),
            bytes: w.rows(first, rows),
            row_bytes: w.row_bytes(),
            k: w.k(),
            x,
        };
        // SAFETY: a table is only handed out where the CPU has its features.
        unsafe { (kernels.block_tile)(&tile, space, sums) };
        for (token, sums) in sums.iter().enumerate() {
            // SAFETY: the rows of a unit are its own.
            unsafe { y.set_run(token * w.n() + first, &sums[..rows]) };
        }
    }
}
