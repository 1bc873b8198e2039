//! Grouped-query attention over the f16 KV cache.

use std::sync::{Mutex, PoisonError};

use crate::half_ops;
use crate::kv_cache::KvCache;
use crate::ops;
use crate::pool::Pool;
use candle_core::{D, Device, Tensor};

/// Up to this many positions attend one by one; more go through matrix products.
const ONE_BY_ONE: usize = 4;

/// Bytes of scores that one matrix product of prefill may make.
const SCORE_BYTES: usize = 16 << 20;

/// The tensor library failed.
#[derive(Debug, thiserror::Error)]
#[error("attention failed: {0}")]
pub struct AttentionError(#[from] candle_core::Error);

/// The shape of one layer's attention.
#[derive(Debug, Clone, Copy)]
pub struct Heads<'a> {
    /// Query heads, a multiple of the others.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Values a head.
    pub head_dim: usize,
    /// Positions a query sees, itself included.
    pub window: usize,
    /// One more logit of each head that takes weight and stands for nothing, `(n_heads)`, or none.
    pub sinks: &'a [f32],
}

/// Where keys and values lie.
#[derive(Clone, Copy)]
pub struct Cached<'a> {
    /// The cache.
    pub kv: &'a KvCache,
    /// The layer at work.
    pub layer: usize,
    /// Positions in front of the queries' own, whose keys and values are written too.
    pub past: usize,
}

impl Heads<'_> {
    /// Query heads that share a kv head.
    fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// Causal attention of the newest positions, on the CPU: `q` and `out` are f32
/// `(t, n_heads, head_dim)`; `scores` is work space that grows with the positions.
///
/// # Errors
/// Only what the tensor library reports (it has no reason to).
pub fn attend(
    pool: &Pool,
    heads: Heads<'_>,
    cached: Cached<'_>,
    q: &[f32],
    scores: &mut Vec<f32>,
    out: &mut [f32],
) -> Result<(), AttentionError> {
    let width = heads.n_heads * heads.head_dim;
    let t = q.len() / width;
    if t > ONE_BY_ONE {
        return attend_many(heads, cached, q, out);
    }
    let rows = q.chunks_exact(width).zip(out.chunks_exact_mut(width));
    for (i, (q, out)) in rows.enumerate() {
        attend_one(pool, heads, cached, cached.past + i + 1, q, scores, out);
    }
    Ok(())
}

/// One position's attention over the first `len` cached ones, a kv head a work item.
fn attend_one(
    pool: &Pool,
    heads: Heads<'_>,
    Cached { kv, layer, .. }: Cached<'_>,
    len: usize,
    q: &[f32],
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let head_dim = heads.head_dim;
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
            for (h, scores) in scores.chunks_exact_mut(seen).enumerate() {
                match heads.sinks.get(kv_head * group + h) {
                    Some(sink) => ops::softmax_with_sink(scores, *sink),
                    None => ops::softmax(scores),
                }
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
fn attend_many(
    heads: Heads<'_>,
    Cached { kv, layer, past }: Cached<'_>,
    q: &[f32],
    out: &mut [f32],
) -> Result<(), AttentionError> {
    let Heads {
        n_heads, head_dim, ..
    } = heads;
    let (group, width) = (heads.group(), n_heads * head_dim);
    let t = q.len() / width;
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
            let weights = match heads.sinks.get(kv_head * group..(kv_head + 1) * group) {
                None => candle_nn::ops::softmax(&scores, D::Minus1)?,
                Some(sinks) => {
                    let sinks = Tensor::from_slice(sinks, (group, 1, 1), cpu)?;
                    let sinks = sinks.broadcast_as((group, rows, 1))?;
                    let scores = Tensor::cat(&[&scores, &sinks.contiguous()?], D::Minus1)?;
                    let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
                    weights.narrow(D::Minus1, 0, seen)?.contiguous()?
                }
            };
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
                n_heads: 6,
                n_kv_heads: 2,
                head_dim: 16,
                window,
                sinks: &[],
            };
            let mut kv = KvCache::new(1, 2, 16, past + t);
            kv.write(0, 0, &noise(past * 32, 1), &noise(past * 32, 2));
            kv.write(0, past, &noise(t * 32, 3), &noise(t * 32, 4));
            let cached = Cached {
                kv: &kv,
                layer: 0,
                past,
            };
            let q = noise(t * 96, 5);
            let (mut many, mut single) = (vec![0.0; t * 96], vec![0.0; t * 96]);
            attend_many(heads, cached, &q, &mut many).expect("tensors");
            let (pool, mut scores) = (Pool::new(2), Vec::new());
            for i in 0..t {
                let at = i * 96..(i + 1) * 96;
                let (q, out) = (&q[at.clone()], &mut single[at]);
                attend_one(&pool, heads, cached, past + i + 1, q, &mut scores, out);
            }
            for (a, b) in many.iter().zip(&single) {
                assert!((a - b).abs() < 1e-5, "past {past}, t {t}: {a} against {b}");
            }
        }
    }
}
