//! Loops over blocks that compilers vectorize, once for all levels.

use super::super::common::{max_abs, round_i16, steps};
use super::{BlockRows, BlockTile, LANES, Layout, TILE_ROWS, XBlock, span_start};
use crate::blocks::{self, BlockType, Span, WIDTH};
use crate::outliers::is_finite;

/// Weights in f32.
#[inline(always)]
pub(in super::super) fn block_values(kind: BlockType, bytes: &[u8], out: &mut [f32]) {
    if kind.is_float() {
        blocks::floats(kind, bytes, out);
        return;
    }
    let mut span = Span::ZERO;
    for (bytes, out) in blocks::spans(kind, bytes).zip(out.chunks_mut(WIDTH)) {
        blocks::fill(kind, bytes, &mut span);
        let groups = out.chunks_mut(WIDTH / LANES).zip(span.q.as_chunks().0);
        for ((out, q), (scale, min)) in groups.zip(span.scale.iter().zip(&span.min)) {
            let q: &[i8; WIDTH / LANES] = q;
            for (out, q) in out.iter_mut().zip(q) {
                *out = scale * f32::from(*q) - min;
            }
        }
    }
}

/// Rounds up to 256 activations, a multiple of 32. What is not a finite number makes all the
/// outputs of its token NaN. `reorder` puts bytes in an order.
#[inline(always)]
pub(in super::super) fn block_x(
    layout: &Layout,
    x: &[f32],
    out: &mut XBlock,
    reorder: impl Fn(&[i8; WIDTH], &[u8; WIDTH], &mut [i8; WIDTH]),
) {
    let mut q = [0i8; WIDTH];
    let mut units = [0f32; LANES];
    let mut sums = [0i32; LANES];
    for (i, (x, q)) in x
        .as_chunks::<32>()
        .0
        .iter()
        .zip(q.as_chunks_mut::<32>().0)
        .enumerate()
    {
        let (to_units, unit) = steps(max_abs(x), 127.0);
        for (x, q) in x.iter().zip(q.iter_mut()) {
            *q = round_i16(x * to_units) as i8;
        }
        // Integers have no NaN: it would come out as a number.
        let unit = if is_finite(x) { unit } else { f32::NAN };
        for (half, q) in q.as_chunks::<16>().0.iter().enumerate() {
            units[2 * i + half] = unit;
            sums[2 * i + half] = q.iter().map(|q| i32::from(*q)).sum();
        }
    }
    for (lane, group) in layout.groups.iter().enumerate() {
        let (unit, sum) = (units[usize::from(*group)], sums[usize::from(*group)]);
        out.unit[lane] = unit * layout.factor[lane];
        out.sum[lane] = unit * sum as f32;
        // The factor is a power of 2.
        out.start[lane] = -((layout.offset as f32 / layout.factor[lane]) as i32) * sum;
    }
    reorder(&q, &layout.order, &mut out.q);
}

/// Puts 256 bytes in an order.
#[inline(always)]
pub(in super::super) fn reorder(q: &[i8; WIDTH], order: &[u8; WIDTH], out: &mut [i8; WIDTH]) {
    for (out, column) in out.iter_mut().zip(order) {
        *out = q[usize::from(*column)];
    }
}

/// Decodes span `i` of a row of `k` columns; returns its groups of 16 columns.
#[inline(always)]
fn decode(kind: BlockType, row: &[u8], k: usize, i: usize, span: &mut Span) -> usize {
    let at = span_start(k, i) / kind.block_len() * kind.block_bytes();
    let len = WIDTH / kind.block_len() * kind.block_bytes();
    let bytes = &row[at..row.len().min(at + len)];
    blocks::fill(kind, bytes, span) / (WIDTH / LANES)
}

/// The product of a span with activations in [`super::NATURAL`] order.
#[inline(always)]
fn dot_span(span: &Span, groups: usize, x: &XBlock) -> f32 {
    let pairs = span
        .q
        .as_chunks::<16>()
        .0
        .iter()
        .zip(x.q.as_chunks::<16>().0);
    let mut total = 0.0;
    for (group, (w, x_q)) in pairs.enumerate().take(groups) {
        let sum: i32 = w
            .iter()
            .zip(x_q)
            .map(|(w, x)| i32::from(*w) * i32::from(*x))
            .sum();
        total += sum as f32 * (span.scale[group] * x.unit[group]) - span.min[group] * x.sum[group];
    }
    total
}

/// `out[token][row]`, activations in [`super::NATURAL`] order.
#[inline(always)]
pub(in super::super) fn block_rows(rows: &BlockRows<'_>, out: &mut [f32]) {
    let count = rows.rows();
    let spans = rows.k.div_ceil(WIDTH);
    let mut span = Span::ZERO;
    out.fill(0.0);
    for (row, bytes) in rows.bytes.chunks(rows.row_bytes).enumerate() {
        for i in 0..spans {
            let groups = decode(rows.kind, bytes, rows.k, i, &mut span);
            for (x, out) in rows.x.chunks(spans).zip(out.chunks_mut(count)) {
                out[row] += dot_span(&span, groups, &x[i]);
            }
        }
    }
}

/// The same for many tokens, added to their sums.
pub(in super::super) fn block_tile(tile: &BlockTile<'_>, sums: &mut [[f32; TILE_ROWS]]) {
    let mut span = Span::ZERO;
    for (row, bytes) in tile.bytes.chunks(tile.row_bytes).enumerate() {
        for (i, x) in tile.x.chunks(sums.len()).enumerate() {
            let groups = decode(tile.kind, bytes, tile.k, i, &mut span);
            for (x, sums) in x.iter().zip(&mut *sums) {
                sums[row] += dot_span(&span, groups, x);
            }
        }
    }
}

/// The dot product of f32 and little-endian weights of a float type.
#[inline(always)]
pub(in super::super) fn dot_floats(kind: BlockType, x: &[f32], bytes: &[u8]) -> f32 {
    match kind {
        BlockType::F32 => dot_run(x, bytes.as_chunks::<4>().0, f32::from_le_bytes),
        BlockType::BF16 => dot_run(x, bytes.as_chunks::<2>().0, |b| {
            f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)
        }),
        _ => dot_run(x, bytes.as_chunks::<2>().0, |b| blocks::half(&b)),
    }
}

#[inline(always)]
fn dot_run<const B: usize>(x: &[f32], w: &[[u8; B]], of: impl Fn([u8; B]) -> f32) -> f32 {
    const RUN: usize = 64;
    let mut sums = [0f32; RUN];
    let (xs, x_rest) = x.as_chunks::<RUN>();
    let (ws, w_rest) = w.as_chunks::<RUN>();
    for (x, w) in xs.iter().zip(ws) {
        for i in 0..RUN {
            sums[i] += x[i] * of(w[i]);
        }
    }
    for ((sum, x), w) in sums.iter_mut().zip(x_rest).zip(w_rest) {
        *sum += x * of(*w);
    }
    // By halves, so that the order is the same however it is vectorized.
    let mut len = RUN;
    while len > 1 {
        len /= 2;
        for i in 0..len {
            sums[i] += sums[i + len];
        }
    }
    sums[0]
}

/// Functions around the loops of this module, compiled with the features given.
macro_rules! block_kernels {
    ($(#[$features:meta])?) => {
        $(#[$features])?
        fn block_values(kind: BlockType, bytes: &[u8], out: &mut [f32]) {
            match kind {
                BlockType::F16 => f16_to_f32(bytes, out),
                _ => blocks::common::block_values(kind, bytes, out),
            }
        }
        $(#[$features])?
        fn block_x(layout: &Layout, x: &[f32], out: &mut XBlock) {
            blocks::common::block_x(layout, x, out, blocks::common::reorder);
        }
        $(#[$features])?
        fn dot_floats(kind: BlockType, x: &[f32], bytes: &[u8]) -> f32 {
            blocks::common::dot_floats(kind, x, bytes)
        }
    };
}
pub(in super::super) use block_kernels;
