//! Causal attention of many positions, as in reading a prompt: blocks of queries against blocks of
//! keys, with a running softmax, so that no more scores than those of one pair of blocks are kept.
//!
//! Source: FlashAttention (arXiv 2205.14135), algorithm 1.

use std::sync::atomic::{AtomicUsize, Ordering};

use half::f16;

use super::{Cached, Heads};
use crate::cpu::{KB_F32, Kernels, TILE};
use crate::half_ops::bytes;
use crate::pool::Pool;
use crate::scratch::{Carver, Output, Scratch, Space};

/// Keys of a block: as many as an f32 tile has columns.
const KEYS: usize = KB_F32;
/// Rows of a block of queries: queries times the heads that share keys.
const ROWS: usize = 128;

/// What a thread works with.
struct Work<'s> {
    /// Scaled queries, `[part of the head][row]`, by columns.
    q: &'s mut [[f32; KB_F32]],
    /// Scores of a block, `[16 keys][row]`.
    scores: &'s mut [[f32; TILE]],
    /// Weights of a block, `[row]`.
    weights: &'s mut [[f32; KEYS]],
    /// Weighted sums of values so far, `[16 columns][row]`.
    sums: &'s mut [[f32; TILE]],
    /// The largest score of each row so far, and the sum of its weights.
    most: &'s mut [f32],
    total: &'s mut [f32],
    tile: &'s mut [[f32; KB_F32]; TILE],
    /// A block of values, `(keys, head_dim)`.
    values: &'s mut [f32],
}

/// Where its parts lie in a thread's space.
struct Plan {
    q: usize,
    scores: usize,
    weights: usize,
    sums: usize,
    most: usize,
    total: usize,
    tile: usize,
    values: usize,
    bytes: usize,
    /// Queries of a block, and its rows.
    queries: usize,
    rows: usize,
    /// Tiles of a head's columns, and parts of at most [`KB_F32`] columns.
    column_tiles: usize,
    parts: usize,
    head_dim: usize,
}

impl Plan {
    fn new(heads: &Heads<'_>) -> Self {
        let group = heads.group();
        let queries = (ROWS / group).max(1);
        let rows = queries * group;
        let column_tiles = heads.head_dim.div_ceil(TILE);
        let parts = heads.head_dim.div_ceil(KB_F32);
        let mut thread = Carver::default();
        Self {
            q: thread.add::<[f32; KB_F32]>(parts * rows),
            scores: thread.add::<[f32; TILE]>(KEYS / TILE * rows),
            weights: thread.add::<[f32; KEYS]>(rows),
            sums: thread.add::<[f32; TILE]>(column_tiles * rows),
            most: thread.add::<f32>(rows),
            total: thread.add::<f32>(rows),
            tile: thread.add::<[[f32; KB_F32]; TILE]>(1),
            values: thread.add::<f32>(KEYS * heads.head_dim),
            bytes: thread.bytes(),
            queries,
            rows,
            column_tiles,
            parts,
            head_dim: heads.head_dim,
        }
    }

    /// # Safety
    /// Nobody else uses `thread`.
    unsafe fn work<'s>(&self, thread: Space<'s>) -> Work<'s> {
        // SAFETY: the caller's promise, and the ranges are apart.
        unsafe {
            Work {
                q: thread.slice_mut(self.q, self.parts * self.rows),
                scores: thread.slice_mut(self.scores, KEYS / TILE * self.rows),
                weights: thread.slice_mut(self.weights, self.rows),
                sums: thread.slice_mut(self.sums, self.column_tiles * self.rows),
                most: thread.slice_mut(self.most, self.rows),
                total: thread.slice_mut(self.total, self.rows),
                tile: &mut thread.slice_mut(self.tile, 1)[0],
                values: thread.slice_mut(self.values, KEYS * self.head_dim),
            }
        }
    }
}

/// `out = softmax(q k^T / sqrt(head_dim)) v`, each query with the keys up to its own position.
///
/// `q` and `out` are f32 `(t, n_heads, head_dim)`. Everything is computed in f32.
///
/// # Panics
/// If a length does not fit, or if called inside a region of the pool.
pub(super) fn attend(
    pool: &Pool,
    scratch: &mut Scratch,
    heads: Heads<'_>,
    Cached { kv, layer, past }: Cached<'_>,
    q: &[f32],
    out: &mut [f32],
) {
    let width = heads.n_heads * heads.head_dim;
    let t = q.len() / width;
    assert!(
        q.len() == t * width && out.len() == q.len(),
        "BUG: attend: q is not (t, {width}), or out is not as long"
    );
    let kernels = scratch.kernels;
    let plan = Plan::new(&heads);
    let (_, space) = scratch.spaces(0, plan.bytes * pool.threads());
    let blocks = t.div_ceil(plan.queries);
    let out = Output::new(out);
    let next = AtomicUsize::new(0);
    pool.run(&|part, _| {
        // SAFETY: every part has a space of its own.
        let mut work = unsafe { plan.work(space.part(part * plan.bytes, plan.bytes)) };
        loop {
            let item = next.fetch_add(1, Ordering::Relaxed);
            if item >= blocks * heads.n_kv_heads {
                return;
            }
            // The last queries, which see the most keys, first.
            let start = (blocks - 1 - item / heads.n_kv_heads) * plan.queries;
            let block = Block {
                kernels,
                heads,
                past,
                plan: &plan,
                kv_head: item % heads.n_kv_heads,
                start,
                queries: plan.queries.min(t - start),
            };
            let keys = kv.keys(layer, block.kv_head, past + t);
            let values = kv.values(layer, block.kv_head, past + t);
            block.run(&mut work, (keys, values), q, out);
        }
    });
}

/// Some queries of all heads that share keys.
struct Block<'a> {
    kernels: &'static Kernels,
    heads: Heads<'a>,
    /// Positions before those of the pass.
    past: usize,
    plan: &'a Plan,
    kv_head: usize,
    /// Of the pass.
    start: usize,
    queries: usize,
}

impl Block<'_> {
    fn rows(&self) -> usize {
        self.heads.group() * self.queries
    }

    /// Where the head's columns of a row are in `q` and `out`.
    fn at(&self, row: usize) -> usize {
        let (h, i) = (row / self.queries, row % self.queries);
        let head = self.kv_head * self.heads.group() + h;
        ((self.start + i) * self.heads.n_heads + head) * self.heads.head_dim
    }

    fn run(
        &self,
        work: &mut Work<'_>,
        (keys, values): (&[f16], &[f16]),
        q: &[f32],
        out: Output<'_>,
    ) {
        let (rows, past, head_dim) = (self.rows(), self.past, self.heads.head_dim);
        self.scale(work, q);
        work.sums[..self.plan.column_tiles * rows].fill([0.0; TILE]);
        work.most[..rows].fill(f32::NEG_INFINITY);
        work.total[..rows].fill(0.0);
        // Keys that no query of the block sees are not even multiplied.
        let first = (past + self.start + 1).saturating_sub(self.heads.window);
        let end = past + self.start + self.queries;
        for at in (first..end).step_by(KEYS) {
            let len = KEYS.min(end - at);
            let range = at * head_dim..(at + len) * head_dim;
            self.score(work, &keys[range.clone()], len);
            self.weigh(work, at, len);
            self.add(work, &values[range], len);
        }
        self.write(work, out);
    }

    /// Queries, scaled.
    fn scale(&self, work: &mut Work<'_>, q: &[f32]) {
        let scale = self.heads.scale();
        for row in 0..self.rows() {
            let q = &q[self.at(row)..][..self.heads.head_dim];
            for (part, q) in q.chunks(KB_F32).enumerate() {
                let out = &mut work.q[part * self.rows() + row];
                for (out, q) in out.iter_mut().zip(q) {
                    *out = q * scale;
                }
                out[q.len()..].fill(0.0);
            }
        }
    }

    /// The scores of all rows with `len` keys.
    fn score(&self, work: &mut Work<'_>, keys: &[f16], len: usize) {
        let (rows, head_dim) = (self.rows(), self.heads.head_dim);
        for (i, keys) in keys.chunks(TILE * head_dim).enumerate() {
            let scores = &mut work.scores[i * rows..][..rows];
            scores.fill([0.0; TILE]);
            let count = TILE.min(len - i * TILE);
            for (part, q) in work.q.chunks(rows).take(self.plan.parts).enumerate() {
                let columns = KB_F32.min(head_dim - part * KB_F32);
                let size = (count.next_multiple_of(4), columns.next_multiple_of(32));
                for row in &mut work.tile[..size.0] {
                    row[..size.1].fill(0.0);
                }
                for (key, row) in keys.chunks(head_dim).zip(&mut *work.tile) {
                    let key = bytes(&key[part * KB_F32..][..columns]);
                    // SAFETY: a table is only handed out where the CPU has its features.
                    unsafe { (self.kernels.f16_to_f32)(key, &mut row[..columns]) };
                }
                // SAFETY: as above.
                unsafe { (self.kernels.mul_f32)(work.tile, size, q, scores) };
            }
        }
    }

    /// Scores of keys `at..at + len` to weights, and what was there to the new largest score.
    fn weigh(&self, work: &mut Work<'_>, at: usize, len: usize) {
        let rows = self.rows();
        for row in 0..rows {
            let position = self.past + self.start + row % self.queries;
            let oldest = (position + 1).saturating_sub(self.heads.window);
            let seen = oldest.clamp(at, at + len) - at..(position + 1).clamp(at, at + len) - at;
            let weights = &mut work.weights[row];
            for (i, weights) in weights[..len].chunks_mut(TILE).enumerate() {
                weights.copy_from_slice(&work.scores[i * rows + row][..weights.len()]);
            }
            weights[..seen.start].fill(0.0);
            weights[seen.end..].fill(0.0);
            if seen.is_empty() {
                continue;
            }
            let before = work.most[row];
            // SAFETY: a table is only handed out where the CPU has its features.
            let (most, total) = unsafe { (self.kernels.exp_from)(&mut weights[seen], before) };
            if most > before {
                let factor = (before - most).exp();
                work.total[row] *= factor;
                for sums in work.sums.chunks_mut(rows).take(self.plan.column_tiles) {
                    for sum in &mut sums[row] {
                        *sum *= factor;
                    }
                }
            }
            work.most[row] = most;
            work.total[row] += total;
        }
    }

    /// Adds `len` weighted values.
    fn add(&self, work: &mut Work<'_>, values: &[f16], len: usize) {
        let (rows, head_dim) = (self.rows(), self.heads.head_dim);
        let wide = &mut work.values[..len * head_dim];
        // SAFETY: a table is only handed out where the CPU has its features.
        unsafe { (self.kernels.f16_to_f32)(bytes(values), wide) };
        for (i, sums) in work
            .sums
            .chunks_mut(rows)
            .take(self.plan.column_tiles)
            .enumerate()
        {
            let first = i * TILE;
            let count = TILE.min(head_dim - first);
            let size = (count.next_multiple_of(4), len.next_multiple_of(32));
            for row in &mut work.tile[..size.0] {
                row[len..size.1].fill(0.0);
            }
            for row in &mut work.tile[count..size.0] {
                row[..len].fill(0.0);
            }
            for (key, value) in wide.chunks(head_dim).enumerate() {
                for (row, value) in work.tile.iter_mut().zip(&value[first..first + count]) {
                    row[key] = *value;
                }
            }
            // SAFETY: a table is only handed out where the CPU has its features.
            unsafe { (self.kernels.mul_f32)(work.tile, size, &work.weights[..rows], sums) };
        }
    }

    /// Sums of values by the sum of weights.
    fn write(&self, work: &Work<'_>, out: Output<'_>) {
        let rows = self.rows();
        for row in 0..rows {
            let mut factor = 1.0 / work.total[row];
            let head = self.kv_head * self.heads.group() + row / self.queries;
            if let Some(sink) = self.heads.sinks.get(head) {
                factor = 1.0 / (work.total[row] + (sink - work.most[row]).exp());
            }
            for i in 0..self.plan.column_tiles {
                let sums = work.sums[i * rows + row].map(|sum| sum * factor);
                let count = TILE.min(self.heads.head_dim - i * TILE);
                // SAFETY: every item has rows of its own.
                unsafe { out.set_run(self.at(row) + i * TILE, &sums[..count]) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KvCache, Level};

    /// A deterministic sequence in -0.5..0.5.
    fn noise(n: usize, mut state: u32) -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(|_| next()).collect()
    }

    /// Attention of the query at `position` of one head in f64; keys and values are the same.
    fn expected(
        heads: &Heads<'_>,
        head: usize,
        position: usize,
        q: &[f32],
        kv: &[f16],
    ) -> Vec<f64> {
        let d = heads.head_dim;
        let oldest = (position + 1).saturating_sub(heads.window);
        let dot = |key: &[f16]| -> f64 {
            let products = q.iter().zip(key);
            products.map(|(q, k)| f64::from(*q) * k.to_f64()).sum()
        };
        let score = |j: usize| (dot(&kv[j * d..(j + 1) * d]) / (d as f64).sqrt()).exp();
        let weights: Vec<f64> = (oldest..=position).map(score).collect();
        let sink = heads
            .sinks
            .get(head)
            .map_or(0.0, |sink| f64::from(*sink).exp());
        let total = weights.iter().sum::<f64>() + sink;
        let mut out = vec![0.0; d];
        for (weight, value) in weights.iter().zip(kv[oldest * d..].chunks(d)) {
            for (out, value) in out.iter_mut().zip(value) {
                *out += weight / total * value.to_f64();
            }
        }
        out
    }

    #[test]
    fn blocks_equal_the_definition() {
        let pool = Pool::new(2);
        for (past, t, window, head_dim, sinks) in [
            (0, 37, usize::MAX, 16, &[][..]),
            (0, 1, usize::MAX, 128, &[]),
            (700, 50, usize::MAX, 40, &[]),
            (530, 45, 300, 64, &[2.0, -1.0, 9.0, 0.5, 1.0, 0.0]),
            (0, 300, 7, 20, &[3.0; 6]),
            (5, 40, usize::MAX, 300, &[]),
        ] {
            let heads = Heads {
                n_heads: 6,
                n_kv_heads: 2,
                head_dim,
                window,
                sinks,
            };
            let width = 6 * head_dim;
            let q: Vec<f32> = noise(t * width, 1).iter().map(|q| 8.0 * q).collect();
            let mut kv = KvCache::new(1, 2, head_dim, past + t);
            let both = noise((past + t) * 2 * head_dim, 2);
            kv.write(0, 0, &both, &both);
            let cached = Cached {
                kv: &kv,
                layer: 0,
                past,
            };
            for level in Level::ALL {
                let mut out = vec![f32::NAN; t * width];
                let mut scratch = Scratch::with_level(level);
                attend(&pool, &mut scratch, heads, cached, &q, &mut out);
                for (at, out) in out.chunks(head_dim).enumerate() {
                    let (i, head) = (at / 6, at % 6);
                    let q = &q[at * head_dim..][..head_dim];
                    let kv = kv.keys(0, head / 3, past + t);
                    let expected = expected(&heads, head, past + i, q, kv);
                    for (out, expected) in out.iter().zip(expected) {
                        let error = (f64::from(*out) - expected).abs();
                        assert!(
                            error < 1e-5,
                            "{level:?}, {heads:?}, past {past}, query {i}: {error:e}"
                        );
                    }
                }
            }
        }
    }
}
