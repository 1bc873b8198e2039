//! Dense matrices: little-endian f16 as in the file, or held at 8 bits.

use crate::cpu::{KB_F32, Kernels, Q8_BLOCK, TILE};
use crate::outliers::is_finite;
use crate::pool::Pool;
use crate::scratch::{Carver, Output, Scratch};

/// Rows of a piece of work with one token, which is bound by reading.
const PIECE_ROWS: usize = 64;
/// Tokens from which rows are converted to f32 tiles first.
const TILE_TOKENS: usize = 3;
/// Tokens a tile is multiplied with at a time: their sums and columns are on the stack.
const TOKEN_BLOCK: usize = 16;
/// The largest magnitude of 16-bit activations: with 8-bit weights, 64 products fit 32 bits.
const X_MAX_Q8: f32 = 32_000.0;
/// Multiplications below which a product is not worth a region.
const MIN_REGION: usize = 1 << 16;

type Block = [i8; Q8_BLOCK];

/// A dense matrix `(n, k)` held at 8 bits, with an f32 scale for every 64 columns of a row: for
/// `lm_head`, half the bytes of f16 at an error of about 0.4% of a weight's magnitude.
#[derive(Clone)]
pub struct Q8Matrix {
    n: usize,
    k: usize,
    /// `[row][block]`, zero beyond the row's end.
    q: Vec<Block>,
    scale: Vec<f32>,
}

impl std::fmt::Debug for Q8Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Q8Matrix")
            .field("n", &self.n)
            .field("k", &self.k)
            .finish()
    }
}

impl Q8Matrix {
    /// Quantizes a little-endian f16 matrix `(n, k)`, of any alignment.
    ///
    /// # Panics
    /// If `bytes` is not `2 * n * k` long.
    pub fn from_f16(pool: &Pool, bytes: &[u8], n: usize, k: usize) -> Self {
        assert_eq!(
            bytes.len(),
            2 * n * k,
            "BUG: Q8Matrix::from_f16: bytes are not ({n}, {k})"
        );
        let blocks = k.div_ceil(Q8_BLOCK);
        let mut q = vec![[0; Q8_BLOCK]; n * blocks];
        let mut scale = vec![0.0; n * blocks];
        let kernels = Kernels::best();
        let out = Output::new(&mut q);
        let scale_out = Output::new(&mut scale);
        pool.for_each(n, PIECE_ROWS, &|rows| {
            let mut values = [0f32; Q8_BLOCK];
            for row in rows {
                for block in 0..blocks {
                    let start = block * Q8_BLOCK;
                    let values = &mut values[..Q8_BLOCK.min(k - start)];
                    let at = 2 * (row * k + start);
                    let mut rounded = [0; Q8_BLOCK];
                    // SAFETY: a table is only handed out where the CPU has its features.
                    let step = unsafe {
                        (kernels.f16_to_f32)(&bytes[at..at + 2 * values.len()], values);
                        (kernels.round_x)(values, 127.0, &mut rounded)
                    };
                    let i = row * blocks + block;
                    // SAFETY: every row belongs to one range.
                    unsafe {
                        out.set(i, rounded.map(|v| v as i8));
                        scale_out.set(i, step);
                    }
                }
            }
        });
        Self { n, k, q, scale }
    }

    /// Rows: the length of the output.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns: the length of the input.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes held, which one pass reads.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.q[..]) + size_of_val(&self.scale[..])
    }

    /// The values, i8 in blocks of 64 by row, zero beyond a row's end.
    pub fn values(&self) -> &[i8] {
        self.q.as_flattened()
    }

    /// The scale of each block.
    pub fn scales(&self) -> &[f32] {
        &self.scale
    }

    fn row(&self, row: usize) -> (&[Block], &[f32]) {
        let blocks = self.k.div_ceil(Q8_BLOCK);
        let range = row * blocks..(row + 1) * blocks;
        (&self.q[range.clone()], &self.scale[range])
    }
}

/// `y = x W^T`, `x` `(t, k)`, `y` `(t, n)`. For one or two tokens, activations are rounded to 16 bits
/// in blocks of 64, else they stay f32: either way the only loss is the weights' own.
///
/// # Panics
/// If a length does not fit.
pub fn matmul_q8(pool: &Pool, scratch: &mut Scratch, w: &Q8Matrix, x: &[f32], y: &mut [f32]) {
    let (n, k) = (w.n, w.k);
    let t = tokens("matmul_q8", (n, k), x, y);
    let kernels = scratch.kernels;
    if t >= TILE_TOKENS {
        let fill = |row: usize, start: usize, out: &mut [f32]| {
            let (q, scale) = w.row(row);
            let first = start / Q8_BLOCK;
            for (i, out) in out.chunks_mut(Q8_BLOCK).enumerate() {
                for (out, q) in out.iter_mut().zip(&q[first + i]) {
                    *out = f32::from(*q) * scale[first + i];
                }
            }
        };
        tiled(pool, kernels, (n, k), x, y, &fill);
        return;
    }
    let blocks = k.div_ceil(Q8_BLOCK);
    let mut carver = Carver::default();
    let rounded_at = carver.add::<[i16; Q8_BLOCK]>(t * blocks);
    let step_at = carver.add::<f32>(t * blocks);
    let (space, _) = scratch.spaces(carver.bytes(), 0);
    // SAFETY: the ranges are apart, and the scratch is borrowed exclusively.
    let (rounded, steps) = unsafe {
        (
            space.slice_mut::<[i16; Q8_BLOCK]>(rounded_at, t * blocks),
            space.slice_mut::<f32>(step_at, t * blocks),
        )
    };
    for (x, (rounded, steps)) in x
        .chunks(k)
        .zip(rounded.chunks_mut(blocks).zip(steps.chunks_mut(blocks)))
    {
        for (x, (rounded, step)) in x.chunks(Q8_BLOCK).zip(rounded.iter_mut().zip(steps)) {
            rounded.fill(0);
            // SAFETY: a table is only handed out where the CPU has its features.
            *step = unsafe { (kernels.round_x)(x, X_MAX_Q8, rounded) };
            // Integers have no NaN: it would come out as a number.
            if !is_finite(x) {
                *step = f32::NAN;
            }
        }
    }
    let (rounded, steps) = (&*rounded, &*steps);
    let y = Output::new(y);
    pool.for_each(n, grain(n, k, t), &|rows| {
        for row in rows {
            let (q, scale) = w.row(row);
            let ahead = q.as_ptr_range().end.cast();
            for token in 0..t {
                let x = &rounded[token * blocks..][..blocks];
                let steps = &steps[token * blocks..][..blocks];
                // SAFETY: a table is only handed out where the CPU has its features; every row
                // belongs to one range.
                unsafe { y.set(token * n + row, (kernels.dot_q8)(q, scale, x, steps, ahead)) };
            }
        }
    });
}

/// `y = x W^T` in f32, with `w` little-endian f16 `(n, k)` of any alignment, `x` `(t, k)`, `y`
/// `(t, n)`. A small product (a router's gate) runs on the caller alone.
///
/// # Panics
/// If a length does not fit.
pub fn matmul_f16(pool: &Pool, w: &[u8], n: usize, x: &[f32], y: &mut [f32]) {
    let k = (w.len() / 2).checked_div(n).unwrap_or(0);
    assert!(
        k > 0 && w.len() == 2 * n * k,
        "BUG: matmul_f16: {} bytes, n = {n}",
        w.len()
    );
    let t = tokens("matmul_f16", (n, k), x, y);
    let kernels = Kernels::best();
    if t >= TILE_TOKENS {
        let fill = |row: usize, start: usize, out: &mut [f32]| {
            let at = 2 * (row * k + start);
            // SAFETY: a table is only handed out where the CPU has its features.
            unsafe { (kernels.f16_to_f32)(&w[at..at + 2 * out.len()], out) };
        };
        tiled(pool, kernels, (n, k), x, y, &fill);
        return;
    }
    let y = Output::new(y);
    pool.for_each(n, grain(n, k, t), &|rows| {
        for row in rows {
            for (token, x) in x.chunks(k).enumerate() {
                let w = &w[2 * row * k..2 * (row + 1) * k];
                // SAFETY: a table is only handed out where the CPU has its features; every row
                // belongs to one range.
                unsafe { y.set(token * n + row, (kernels.dot_f16)(x, w)) };
            }
        }
    });
}

fn tokens(what: &str, (n, k): (usize, usize), x: &[f32], y: &[f32]) -> usize {
    let t = x.len() / k;
    assert_eq!(x.len(), t * k, "BUG: {what}: x is not (t, {k})");
    assert_eq!(y.len(), t * n, "BUG: {what}: y is not ({t}, {n})");
    t
}

/// Rows of a piece of work: all of them if the product is small.
fn grain(n: usize, k: usize, t: usize) -> usize {
    if n * k * t < MIN_REGION {
        n
    } else {
        PIECE_ROWS.min(n.div_ceil(4))
    }
}

/// The product by f32 tiles; `fill(row, column, out)` writes a run of weights.
fn tiled(
    pool: &Pool,
    kernels: &Kernels,
    (n, k): (usize, usize),
    x: &[f32],
    y: &mut [f32],
    fill: &(dyn Fn(usize, usize, &mut [f32]) + Sync),
) {
    let t = x.len() / k;
    let y = Output::new(y);
    let tiles = n.div_ceil(TILE);
    let grain = if n * k * t < MIN_REGION { tiles } else { 1 };
    pool.for_each(tiles, grain, &|range| {
        let mut tile = [[0f32; KB_F32]; TILE];
        let mut columns = [[0f32; KB_F32]; TOKEN_BLOCK];
        for first in range.map(|tile| tile * TILE) {
            let rows = TILE.min(n - first);
            for (block, x) in x.chunks(TOKEN_BLOCK * k).enumerate() {
                let mut sums = [[0f32; TILE]; TOKEN_BLOCK];
                let t = x.len() / k;
                for start in (0..k).step_by(KB_F32) {
                    let len = KB_F32.min(k - start);
                    let size = (rows.next_multiple_of(4), len.next_multiple_of(32));
                    for (row, out) in tile.iter_mut().enumerate().take(rows) {
                        fill(first + row, start, &mut out[..len]);
                        out[len..size.1].fill(0.0);
                    }
                    for (out, x) in columns.iter_mut().zip(x.chunks(k)) {
                        out[..len].copy_from_slice(&x[start..start + len]);
                        out[len..size.1].fill(0.0);
                    }
                    // SAFETY: a table is only handed out where the CPU has its features.
                    unsafe { (kernels.mul_f32)(&tile, size, &columns[..t], &mut sums[..t]) };
                }
                for (token, sums) in sums[..t].iter().enumerate() {
                    for (row, sum) in sums[..rows].iter().enumerate() {
                        let at = (block * TOKEN_BLOCK + token) * n + first + row;
                        // SAFETY: the rows of a tile belong to one range.
                        unsafe { y.set(at, *sum) };
                    }
                }
            }
        }
    });
}
