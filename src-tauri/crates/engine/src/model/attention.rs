//! Rotary positions and grouped-query attention over the f16 KV cache.

use std::sync::{Mutex, PoisonError};

use candle_core::{D, Device, Tensor};
use octet_kernels::{Pool, half_ops};

use super::ops;
use crate::config::Config;
use crate::error::EngineError;
use crate::kv_cache::KvCache;

/// Up to this many positions attend one by one; more go through matrix products.
const ONE_BY_ONE: usize = 4;

/// Bytes of scores that one matrix product of prefill may make.
const SCORE_BYTES: usize = 16 << 20;

/// Cosines and sines of the positions in one pass.
#[derive(Default)]
pub(crate) struct Rotary {
    half_dim: usize,
    /// `(t, head_dim / 2)` pairs (cos, sin).
    angles: Vec<(f32, f32)>,
}

impl Rotary {
    /// Computes the angles of positions `first .. first + t`: position times
    /// `rope_theta^(-2i / head_dim)` (RoFormer, section 3.2.2).
    pub(crate) fn prepare(&mut self, c: &Config, first: usize, t: usize) {
        self.half_dim = c.head_dim / 2;
        self.angles.clear();
        for position in first..first + t {
            for i in 0..self.half_dim {
                // Frequencies in f32, as the reference has them: at position 30,000 it shows.
                let frequency =
                    1.0 / (c.rope_theta as f32).powf(2.0 * i as f32 / c.head_dim as f32);
                let (sin, cos) = (position as f32 * frequency).sin_cos();
                self.angles.push((cos, sin));
            }
        }
    }

    /// Pairs (cos, sin), `(t, head_dim / 2)`.
    pub(crate) fn angles(&self) -> &[(f32, f32)] {
        &self.angles
    }

    /// Rotates `x`, f32 `(t, n_heads, head_dim)`, whose halves form the pairs.
    pub(super) fn rotate(&self, x: &mut [f32], n_heads: usize) {
        let head_dim = 2 * self.half_dim;
        let positions = x.chunks_exact_mut(n_heads * head_dim);
        for (position, angles) in positions.zip(self.angles.chunks_exact(self.half_dim)) {
            for head in position.chunks_exact_mut(head_dim) {
                let (low, high) = head.split_at_mut(self.half_dim);
                for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(angles) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    }
}

/// The shape of one layer's attention.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    layer: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    /// Positions a query sees, itself included.
    window: usize,
}

impl Heads {
    pub(super) fn new(c: &Config, layer: usize) -> Self {
        Self {
            layer,
            n_heads: c.n_heads,
            n_kv_heads: c.n_kv_heads,
            head_dim: c.head_dim,
            window: c.sliding_window.unwrap_or(usize::MAX),
        }
    }

    /// Query heads that share a kv head.
    fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// Causal attention of the newest positions: `q` and `out` are f32 `(t, n_heads, head_dim)`; the
/// cache holds `kv.len()` positions, and behind them this pass's own keys and values.
///
/// # Errors
/// Only what the tensor library reports (it has no reason to).
pub(super) fn attend(
    pool: &Pool,
    heads: Heads,
    kv: &KvCache,
    q: &[f32],
    scores: &mut Vec<f32>,
    out: &mut [f32],
) -> Result<(), EngineError> {
    let width = heads.n_heads * heads.head_dim;
    let t = q.len() / width;
    if t > ONE_BY_ONE {
        return attend_many(heads, kv, q, out);
    }
    for (i, (q, out)) in q
        .chunks_exact(width)
        .zip(out.chunks_exact_mut(width))
        .enumerate()
    {
        attend_one(pool, heads, kv, kv.len() + i + 1, q, scores, out);
    }
    Ok(())
}

/// One position's attention over the first `len` cached ones, a kv head a work item.
fn attend_one(
    pool: &Pool,
    heads: Heads,
    kv: &KvCache,
    len: usize,
    q: &[f32],
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let Heads {
        layer, head_dim, ..
    } = heads;
    let group = heads.group();
    let first = len.saturating_sub(heads.window);
    let seen = len - first;
    let scale = heads.scale();
    scores.resize(heads.n_heads * seen, 0.0);
    let work = Mutex::new(
        scores
            .chunks_exact_mut(group * seen)
            .zip(q.chunks_exact(group * head_dim))
            .zip(out.chunks_exact_mut(group * head_dim))
            .enumerate(),
    );
    pool.run(&|_, _| {
        loop {
            let item = work.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((kv_head, ((scores, q), out))) = item else {
                return;
            };
            let keys = &kv.keys(layer, kv_head, len)[first * head_dim..];
            for (i, key) in keys.chunks_exact(head_dim).enumerate() {
                for (h, q) in q.chunks_exact(head_dim).enumerate() {
                    scores[h * seen + i] = half_ops::dot(q, key) * scale;
                }
            }
            for scores in scores.chunks_exact_mut(seen) {
                ops::softmax(scores);
            }
            out.fill(0.0);
            let values = &kv.values(layer, kv_head, len)[first * head_dim..];
            for (i, value) in values.chunks_exact(head_dim).enumerate() {
                for (h, out) in out.chunks_exact_mut(head_dim).enumerate() {
                    half_ops::axpy(scores[h * seen + i], value, out);
                }
            }
        }
    });
}

/// Many positions' attention as matrix products, kv head by kv head and in blocks of queries so
/// that the scores stay small.
fn attend_many(heads: Heads, kv: &KvCache, q: &[f32], out: &mut [f32]) -> Result<(), EngineError> {
    let Heads {
        layer,
        n_heads,
        head_dim,
        ..
    } = heads;
    let (group, width) = (heads.group(), n_heads * head_dim);
    let t = q.len() / width;
    let past = kv.len();
    let len = past + t;
    let block = (SCORE_BYTES / (4 * group * len)).clamp(16, 512);
    let cpu = &Device::Cpu;
    let mut wide = vec![0f32; len * head_dim];
    for kv_head in 0..heads.n_kv_heads {
        half_ops::f16_to_f32(kv.keys(layer, kv_head, len), &mut wide);
        let keys = Tensor::from_slice(&wide, (len, head_dim), cpu)?.t()?;
        half_ops::f16_to_f32(kv.values(layer, kv_head, len), &mut wide);
        let values = Tensor::from_slice(&wide, (len, head_dim), cpu)?;
        for start in (0..t).step_by(block) {
            let rows = block.min(t - start);
            // Queries of a group stacked: (group, rows, head_dim), scaled once.
            let mut stacked = Vec::with_capacity(group * rows * head_dim);
            for h in 0..group {
                let head = kv_head * group + h;
                for i in start..start + rows {
                    let at = i * width + head * head_dim;
                    stacked.extend(q[at..at + head_dim].iter().map(|x| x * heads.scale()));
                }
            }
            // Keys beyond the block's last query are not even multiplied.
            let first = (past + start + 1).saturating_sub(heads.window);
            let end = past + start + rows;
            let seen = end - first;
            let stacked = Tensor::from_vec(stacked, (group * rows, head_dim), cpu)?;
            let scores = stacked.matmul(&keys.narrow(1, first, seen)?.contiguous()?)?;
            let mask = causal_mask(rows, first, past + start, seen, heads.window);
            let mask = Tensor::from_vec(mask, (1, rows, seen), cpu)?;
            let scores = scores.reshape((group, rows, seen))?.broadcast_add(&mask)?;
            let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
            let weights = weights.reshape((group * rows, seen))?;
            let result = weights.matmul(&values.narrow(0, first, seen)?)?;
            let result = result.flatten_all()?.to_vec1::<f32>()?;
            for (row, result) in result.chunks_exact(head_dim).enumerate() {
                let (h, i) = (row / rows, start + row % rows);
                let at = i * width + (kv_head * group + h) * head_dim;
                out[at..at + head_dim].copy_from_slice(result);
            }
        }
    }
    Ok(())
}

/// 0 where the query at position `past + row` sees the key at `first + column`, else -inf.
fn causal_mask(rows: usize, first: usize, past: usize, seen: usize, window: usize) -> Vec<f32> {
    let mut mask = Vec::with_capacity(rows * seen);
    for row in 0..rows {
        let query = past + row;
        mask.extend((first..first + seen).map(|key| {
            let visible = key <= query && query - key < window;
            if visible { 0.0 } else { f32::NEG_INFINITY }
        }));
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize, mut seed: u32) -> Vec<f32> {
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(|_| next()).collect()
    }

    /// The two ways agree, whatever is in the cache already and however wide the window.
    #[test]
    fn one_by_one_equals_matrix_products() {
        for (past, t, window) in [(0, 37, usize::MAX), (70, 19, usize::MAX), (30, 21, 9)] {
            let heads = Heads {
                layer: 0,
                n_heads: 6,
                n_kv_heads: 2,
                head_dim: 16,
                window,
            };
            let mut kv = KvCache::new(1, 2, 16, past + t);
            kv.write(0, &noise(past * 32, 1), &noise(past * 32, 2));
            kv.advance(past);
            kv.write(0, &noise(t * 32, 3), &noise(t * 32, 4));
            let q = noise(t * 96, 5);
            let (mut many, mut single) = (vec![0.0; t * 96], vec![0.0; t * 96]);
            attend_many(heads, &kv, &q, &mut many).expect("tensors");
            let (pool, mut scores) = (Pool::new(2), Vec::new());
            for i in 0..t {
                let at = i * 96..(i + 1) * 96;
                let (q, out) = (&q[at.clone()], &mut single[at]);
                attend_one(&pool, heads, &kv, past + i + 1, q, &mut scores, out);
            }
            for (a, b) in many.iter().zip(&single) {
                assert!((a - b).abs() < 1e-5, "past {past}, t {t}: {a} against {b}");
            }
        }
    }

    #[test]
    fn rotation_keeps_length_and_depends_on_distance_only() {
        let dot = |first: usize| {
            let (head_dim, mut rotary) = (
                8,
                Rotary {
                    half_dim: 4,
                    angles: Vec::new(),
                },
            );
            let mut x = noise(2 * head_dim, 7);
            for position in [first, first + 3] {
                for i in 0..4 {
                    let frequency = 1e4f32.powf(-2.0 * i as f32 / head_dim as f32);
                    let (sin, cos) = (position as f32 * frequency).sin_cos();
                    rotary.angles.push((cos, sin));
                }
            }
            rotary.rotate(&mut x, 1);
            let (a, b) = x.split_at(head_dim);
            (
                a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>(),
                a.iter().map(|a| a * a).sum::<f32>(),
            )
        };
        let ((near, length), (far, far_length)) = (dot(0), dot(50));
        assert!((near - far).abs() < 1e-4 && (length - far_length).abs() < 1e-4);
    }
}
