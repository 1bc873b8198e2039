//! The second quantization: scales and zeros to 8 bits, each meta group with an f16 scale and zero
//! of its own, rounded to nearest (as the demo's are: HQQ solves for weights only).
//!
//! Where the reference rounds the 8-bit values against an f32 grid and the grid to f16 afterwards,
//! here the f16 grid comes first and the values are rounded against it, as the file will have it.
//! Nor is a step held above 5e-5, which would take most of the 8 bits from a small matrix.

use half::f16;

use super::power::{round, round_to_u8};

/// Largest quantized value.
const MAX_Q: f32 = 255.0;

/// How far from zero a meta group may lie, in multiples of its spread, before it is widened: the
/// meta zero stays below 2048, where f16 still tells integers apart.
const MAX_OFFSET: f32 = 8.0;

/// Quantized values with the grids of their meta groups.
pub(super) struct MetaQuantized {
    /// The 8-bit values.
    pub(super) q: Vec<u8>,
    /// A scale for each meta group.
    pub(super) scale: Vec<f16>,
    /// A zero for each meta group.
    pub(super) zero: Vec<f16>,
}

/// Quantizes `values`, row-major with `n_meta` columns; every column is a meta group. Each value is
/// replaced by what its quantized form stands for.
pub(super) fn quantize(values: &mut [f32], n_meta: usize) -> MetaQuantized {
    let mut low = vec![f32::INFINITY; n_meta];
    let mut high = vec![f32::NEG_INFINITY; n_meta];
    for row in values.chunks_exact(n_meta) {
        for ((low, high), &value) in low.iter_mut().zip(&mut high).zip(row) {
            *low = if value < *low { value } else { *low };
            *high = if value > *high { value } else { *high };
        }
    }
    let (scale, zero): (Vec<f16>, Vec<f16>) = low
        .iter()
        .zip(&high)
        .map(|(&low, &high)| grid(low, high))
        .unzip();

    let step: Vec<f32> = scale.iter().map(|scale| scale.to_f32()).collect();
    let inverse: Vec<f32> = step
        .iter()
        .map(|&step| if step > 0.0 { 1.0 / step } else { 0.0 })
        .collect();
    let offset: Vec<f32> = zero.iter().map(|zero| zero.to_f32()).collect();
    let mut q = vec![0; values.len()];
    for (row, q) in values
        .chunks_exact_mut(n_meta)
        .zip(q.chunks_exact_mut(n_meta))
    {
        for c in 0..n_meta {
            let nearest = (row[c] * inverse[c] + offset[c]).clamp(0.0, MAX_Q);
            q[c] = round_to_u8(nearest);
            row[c] = (round(nearest) - offset[c]) * step[c];
        }
    }
    MetaQuantized { q, scale, zero }
}

/// The f16 scale and zero of a grid of 256 values that reaches from `low` to `high`.
fn grid(low: f32, high: f32) -> (f16, f16) {
    if low == high {
        let zero = if low < 0.0 { f16::ONE } else { f16::ZERO };
        return (f16::from_f32(low.abs()), zero);
    }
    const NEARER: f32 = MAX_OFFSET / (MAX_OFFSET + 1.0);
    let (low, high) = (low.min(high * NEARER), high.max(low * NEARER));
    let step = (high - low) / MAX_Q;
    let mut scale = f16::from_f32(step);
    if scale.to_f32() < step {
        scale = f16::from_bits(scale.to_bits() + 1);
    }
    (scale, f16::from_f32(0.0 - low / scale.to_f32()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(mut values: Vec<f32>, n_meta: usize) -> Vec<f32> {
        let meta = quantize(&mut values, n_meta);
        for (i, &value) in values.iter().enumerate() {
            let m = i % n_meta;
            let expected = (f32::from(meta.q[i]) - meta.zero[m].to_f32()) * meta.scale[m].to_f32();
            assert_eq!(value, expected, "what the file stands for");
        }
        values
    }

    #[test]
    fn values_are_kept_within_a_step() {
        let low_high = [
            (0.004, 0.02),
            (-0.3, 3.4),
            (0.0, 1e-5),
            (0.02, 0.020_001),
            (-70.0, -69.0),
            (0.1, 60_000.0),
        ];
        for (low, high) in low_high {
            let values: Vec<f32> = (0..=100)
                .map(|i| low + (high - low) * i as f32 / 100.0)
                .collect();
            // Half a step, half a step of a zero near 2048, and f16's own steps.
            let largest = low.abs().max(high.abs());
            let spread = (high - low).max(largest / (MAX_OFFSET + 1.0));
            let bound = spread / 255.0 + 2f32.powi(-24);
            for (value, decoded) in values.iter().zip(decoded(values.clone(), 1)) {
                let error = (value - decoded).abs();
                assert!(error <= bound, "{value} became {decoded} in {low}..{high}");
            }
        }
    }

    #[test]
    fn what_f16_holds_is_exact_where_all_are_equal() {
        for value in [0.0, 0.25, -3.0, 65504.0] {
            assert_eq!(decoded(vec![value; 6], 2), [value; 6]);
        }
    }

    #[test]
    fn a_zero_stays_zero_among_others() {
        let decoded = decoded(vec![0.3, 0.0, 0.1, 0.7], 1);
        assert_eq!(decoded[1], 0.0);
    }

    #[test]
    fn columns_are_groups() {
        let decoded = decoded(vec![1.0, 100.0, 2.0, 200.0, 3.0, 300.0], 2);
        assert!((decoded[0] - 1.0).abs() < 0.01, "{decoded:?}");
        assert!((decoded[5] - 300.0).abs() < 1.0, "{decoded:?}");
    }
}
