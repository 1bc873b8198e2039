//! Grouped-query attention over the f16 KV cache.

mod flash;

use std::sync::{Mutex, PoisonError};

use crate::half_ops;
use crate::kv_cache::KvCache;
use crate::ops;
use crate::pool::Pool;
use crate::scratch::Scratch;

/// Up to this many positions attend one by one; more go by blocks.
const ONE_BY_ONE: usize = 4;

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
/// # Panics
/// If a length does not fit, or if called inside a region of the pool.
pub fn attend(
    pool: &Pool,
    scratch: &mut Scratch,
    heads: Heads<'_>,
    cached: Cached<'_>,
    q: &[f32],
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let width = heads.n_heads * heads.head_dim;
    if q.len() / width > ONE_BY_ONE {
        flash::attend(pool, scratch, heads, cached, q, out);
        return;
    }
    let rows = q.chunks_exact(width).zip(out.chunks_exact_mut(width));
    for (i, (q, out)) in rows.enumerate() {
        attend_one(pool, heads, cached, cached.past + i + 1, q, scores, out);
    }
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
    fn one_by_one_equals_blocks() {
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
            let (pool, mut scores) = (Pool::new(2), Vec::new());
            let mut scratch = Scratch::default();
            attend(
                &pool,
                &mut scratch,
                heads,
                cached,
                &q,
                &mut scores,
                &mut many,
            );
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
