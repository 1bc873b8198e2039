//! Rotary positions and grouped-query attention over the f16 KV cache.

use std::sync::{Mutex, PoisonError};

use candle_core::{D, Device, Tensor};
use octet_kernels::{Pool, half_ops};

use super::ops;
use crate::error::EngineError;
use crate::kv_cache::KvCache;
use crate::spec::{ModelSpec, RopePairs, RopeScaling};

/// Up to this many positions attend one by one; more go through matrix products.
const ONE_BY_ONE: usize = 4;

/// Bytes of scores that one matrix product of prefill may make.
const SCORE_BYTES: usize = 16 << 20;

/// Cosines and sines of the positions in one pass.
#[derive(Default)]
pub(crate) struct Rotary {
    half_dim: usize,
    pairs_are_adjacent: bool,
    /// `(t, head_dim / 2)` pairs (cos, sin).
    angles: Vec<(f32, f32)>,
}

/// Of every pair, the angle that one position turns it by, and the factor of cosines and sines.
///
/// `rope_theta^(-2i / head_dim)` (RoFormer, section 3.2.2), stretched as [`RopeScaling`] says.
fn frequencies(c: &ModelSpec) -> (Vec<f32>, f32) {
    let (mut frequencies, magnitude) = stretched(c);
    for (frequency, divisor) in frequencies.iter_mut().zip(&c.rope_divisors) {
        *frequency /= divisor;
    }
    (frequencies, magnitude * c.rope_magnitude as f32)
}

fn stretched(c: &ModelSpec) -> (Vec<f32>, f32) {
    // In f32, as the reference has them: at position 30,000 it shows.
    let plain = |i: usize| 1.0 / (c.rope_theta as f32).powf(2.0 * i as f32 / c.head_dim as f32);
    let pairs = 0..c.head_dim / 2;
    match c.rope_scaling {
        RopeScaling::None => (pairs.map(plain).collect(), 1.0),
        RopeScaling::Linear { factor } => {
            let stretched = pairs.map(|i| plain(i) / factor as f32);
            (stretched.collect(), 1.0)
        }
        RopeScaling::Yarn {
            factor,
            original_positions,
            beta_fast,
            beta_slow,
            rounds_ramp,
        } => {
            // The pair that turns `rotations` times over the positions of training.
            let pair = |rotations: f64| {
                let positions = original_positions as f64 / (rotations * std::f64::consts::TAU);
                c.head_dim as f64 * positions.ln() / (2.0 * c.rope_theta.ln())
            };
            let (mut low, mut high) = (pair(beta_fast), pair(beta_slow));
            if rounds_ramp {
                (low, high) = (low.floor(), high.ceil());
            }
            let (low, high) = (low.max(0.0), high.min(c.head_dim as f64 - 1.0));
            let width = (high - low).max(1e-3);
            let frequency = |i: usize| {
                let ramp = ((i as f64 - low) / width).clamp(0.0, 1.0) as f32;
                plain(i) / factor as f32 * ramp + plain(i) * (1.0 - ramp)
            };
            let magnitude = 1.0 + 0.1 * factor.ln();
            (pairs.map(frequency).collect(), magnitude as f32)
        }
    }
}

impl Rotary {
    /// Computes the angles of positions `first .. first + t`.
    pub(crate) fn prepare(&mut self, c: &ModelSpec, first: usize, t: usize) {
        self.half_dim = c.head_dim / 2;
        self.pairs_are_adjacent = c.rope_pairs == RopePairs::Adjacent;
        self.angles.clear();
        let (frequencies, magnitude) = frequencies(c);
        for position in first..first + t {
            for frequency in &frequencies {
                let (sin, cos) = (position as f32 * frequency).sin_cos();
                self.angles.push((cos * magnitude, sin * magnitude));
            }
        }
    }

    /// Pairs (cos, sin), `(t, head_dim / 2)`.
    pub(crate) fn angles(&self) -> &[(f32, f32)] {
        &self.angles
    }

    /// Rotates `x`, f32 `(t, n_heads, head_dim)`.
    pub(super) fn rotate(&self, x: &mut [f32], n_heads: usize) {
        let head_dim = 2 * self.half_dim;
        let turn = |a: &mut f32, b: &mut f32, (cos, sin): (f32, f32)| {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        };
        let positions = x.chunks_exact_mut(n_heads * head_dim);
        for (position, angles) in positions.zip(self.angles.chunks_exact(self.half_dim)) {
            for head in position.chunks_exact_mut(head_dim) {
                if self.pairs_are_adjacent {
                    for (pair, angle) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                        let [a, b] = pair;
                        turn(a, b, *angle);
                    }
                } else {
                    let (low, high) = head.split_at_mut(self.half_dim);
                    for ((a, b), angle) in low.iter_mut().zip(high).zip(angles) {
                        turn(a, b, *angle);
                    }
                }
            }
        }
    }
}

/// The shape of one layer's attention.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    layer: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    /// Positions a query sees, itself included.
    window: usize,
    /// One more logit of each head, `(n_heads)`, or none.
    sinks: &'a [f32],
}

impl<'a> Heads<'a> {
    pub(super) fn new(c: &ModelSpec, layer: usize, sinks: &'a [f32]) -> Self {
        Self {
            layer,
            n_heads: c.n_heads,
            n_kv_heads: c.n_kv_heads,
            head_dim: c.head_dim,
            window: c.window(layer),
            sinks,
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
    heads: Heads<'_>,
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
    heads: Heads<'_>,
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
    kv: &KvCache,
    q: &[f32],
    out: &mut [f32],
) -> Result<(), EngineError> {
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
                layer: 0,
                n_heads: 6,
                n_kv_heads: 2,
                head_dim: 16,
                window,
                sinks: &[],
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
                    pairs_are_adjacent: false,
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
