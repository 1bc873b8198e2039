//! The product of a block matrix with a few tokens, as in decoding: bound by how fast the weights
//! can be read.

use super::{BlockMatrix, BlockType, WIDTH};
use crate::cpu::{BlockRows, Kernels, Layout, XBlock, span_start};
use crate::scratch::{Carver, Output, Space};

/// The most tokens of a plan: beyond, dequantizing tiles of the weights first takes less time.
pub(crate) const MAX_TOKENS: usize = 8;
/// The same for weights that are floats, where no rounded tiles are to be had for it.
const MAX_FLOAT_TOKENS: usize = 2;
/// Rows of a unit of work.
const ROWS: usize = 16;
/// Spans of activations prepared by one item.
const ITEM_SPANS: usize = 8;

/// How one matrix is multiplied, and where its activations lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockVec {
    tokens: usize,
    rows: usize,
    spans: usize,
    /// `None` for weights that are floats: they are multiplied with the activations as they are.
    layout: Option<&'static Layout>,
    /// [`XBlock`]s by token and span.
    x: usize,
    /// Whether the activations are another job's.
    x_shared: bool,
}

/// Rounds a span of the activations of a token.
pub(super) fn round(kernels: &Kernels, layout: &Layout, x: &[f32], span: usize, out: &mut XBlock) {
    let (start, own) = (span_start(x.len(), span), span * WIDTH);
    let end = x.len().min(start + WIDTH);
    let mut values = [0f32; WIDTH];
    values[own - start..end - start].copy_from_slice(&x[own..end]);
    // SAFETY: a table is only handed out where the CPU has its features.
    unsafe { (kernels.block_x)(layout, &values, out) };
}

impl BlockVec {
    /// Whether a product with so many tokens is computed this way.
    pub(crate) fn takes(kind: BlockType, tokens: usize, exact: bool) -> bool {
        if kind.is_float() {
            tokens <= MAX_FLOAT_TOKENS
        } else {
            tokens <= MAX_TOKENS && !exact
        }
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
        let layout = (!w.kind().is_float()).then(|| (kernels.block_layout)(w.kind()));
        let same = |twin: &&Self| match (twin.layout, layout) {
            (Some(a), Some(b)) => std::ptr::eq(a, b),
            _ => false,
        };
        let twin = twins.find(same);
        let x = match (twin, layout) {
            (Some(twin), _) => twin.x,
            (None, Some(_)) => shared.add::<XBlock>(tokens * spans),
            (None, None) => 0,
        };
        Self {
            tokens,
            rows: w.n(),
            spans,
            layout,
            x,
            x_shared: twin.is_some(),
        }
    }

    /// Units of work.
    pub(crate) fn units(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Items of preparation, to be done before any unit.
    pub(crate) fn prep_items(&self) -> usize {
        if self.x_shared || self.layout.is_none() {
            0
        } else {
            self.tokens * self.spans.div_ceil(ITEM_SPANS)
        }
    }

    /// Does one item of preparation: rounds some activations of a token.
    pub(crate) fn prepare(&self, kernels: &Kernels, x: &[f32], shared: Space<'_>, item: usize) {
        let Some(layout) = self.layout else { return };
        let k = x.len() / self.tokens;
        let runs = self.spans.div_ceil(ITEM_SPANS);
        let (token, first) = (item / runs, item % runs * ITEM_SPANS);
        let count = ITEM_SPANS.min(self.spans - first);
        let offset = self.x + (token * self.spans + first) * size_of::<XBlock>();
        // SAFETY: every item has its own spans.
        let out = unsafe { shared.slice_mut::<XBlock>(offset, count) };
        let x = &x[token * k..][..k];
        for (i, out) in out.iter_mut().enumerate() {
            round(kernels, layout, x, first + i, out);
        }
    }

    /// Does one unit of work: writes the outputs of some rows for all tokens.
    ///
    /// # Safety
    /// No other thread has the same unit; all items are prepared.
    pub(crate) unsafe fn run(
        &self,
        kernels: &Kernels,
        w: &BlockMatrix<'_>,
        x: &[f32],
        y: Output<'_>,
        shared: Space<'_>,
        unit: usize,
    ) {
        let first = unit * ROWS;
        let rows = ROWS.min(w.n() - first);
        let bytes = w.rows(first, rows);
        let mut sums = [0f32; MAX_TOKENS * ROWS];
        let sums = &mut sums[..self.tokens * rows];
        if self.layout.is_some() {
            // SAFETY: preparation has ended, so nobody writes the activations.
            let x = unsafe { shared.slice::<XBlock>(self.x, self.tokens * self.spans) };
            let rows = BlockRows {
                kind: w.kind(),
                bytes,
                row_bytes: w.row_bytes(),
                k: w.k(),
                x,
            };
            // SAFETY: a table is only handed out where the CPU has its features.
            unsafe { (kernels.block_rows)(&rows, sums) };
        } else {
            for (row, bytes) in bytes.chunks(w.row_bytes()).enumerate() {
                for (token, x) in x.chunks(w.k()).enumerate() {
                    // SAFETY: a table is only handed out where the CPU has its features.
                    sums[token * rows + row] = unsafe {
                        match w.kind() {
                            BlockType::F16 => (kernels.dot_f16)(x, bytes),
                            kind => (kernels.dot_floats)(kind, x, bytes),
                        }
                    };
                }
            }
        }
        for (token, sums) in sums.chunks(rows).enumerate() {
            for (row, sum) in sums.iter().enumerate() {
                // SAFETY: the rows of a unit are its own.
                unsafe { y.set(token * w.n() + first + row, *sum) };
            }
        }
    }
}
