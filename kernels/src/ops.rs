//! Steps of a decoder layer over f32 slices, on the CPU: norms, softmax, activations, sums.

use half::f16;

use crate::exp::exp;

/// Little-endian f16 `bytes` of any alignment, as f32.
pub fn widen(bytes: &[u8], out: &mut [f32]) {
    for (pair, out) in bytes.chunks_exact(2).zip(out) {
        *out = f16::from_le_bytes([pair[0], pair[1]]).to_f32();
    }
}

/// `out = x / rms(x) * weight` for every row of `weight.len()` values (Zhang and Sennrich, 2019).
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let scale = inverse_rms(x, eps);
        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * w;
        }
    }
}

/// [`rms_norm`] in place.
pub fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    for x in x.chunks_exact_mut(weight.len()) {
        let scale = inverse_rms(x, eps);
        for (x, w) in x.iter_mut().zip(weight) {
            *x = *x * scale * w;
        }
    }
}

/// `1 / sqrt(mean(x^2) + eps)`.
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    // Eight partial sums vectorize, and lose less than one running sum.
    let mut sums = [0f32; 8];
    for part in x.chunks(8) {
        for (sum, v) in sums.iter_mut().zip(part) {
            *sum += v * v;
        }
    }
    let mean = sums.iter().sum::<f32>() / x.len() as f32;
    // Where f32 cannot hold the sum of squares, its inverse root would make every value 0.
    if mean < f32::INFINITY {
        1.0 / (mean + eps).sqrt()
    } else {
        f32::NAN
    }
}

/// `row += bias` for every row of `x`; nothing without a bias.
pub fn add_bias(x: &mut [f32], bias: &[f32]) {
    if !bias.is_empty() {
        for row in x.chunks_exact_mut(bias.len()) {
            add(row, bias);
        }
    }
}

/// `to += x`.
pub fn add(to: &mut [f32], x: &[f32]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to += x;
    }
}

/// `to += weight * x`.
pub fn add_scaled(to: &mut [f32], weight: f32, x: &[f32]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to += weight * x;
    }
}

/// Softmax in place.
pub fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for v in x.iter_mut() {
        *v = exp(*v - max);
        sum += *v;
    }
    let scale = 1.0 / sum;
    for v in x.iter_mut() {
        *v *= scale;
    }
}

/// Softmax in place, with one more logit that takes weight and stands for nothing.
pub fn softmax_with_sink(x: &mut [f32], sink: f32) {
    let max = x.iter().copied().fold(sink, f32::max);
    let mut sum = exp(sink - max);
    for v in x.iter_mut() {
        *v = exp(*v - max);
        sum += *v;
    }
    let scale = 1.0 / sum;
    for v in x.iter_mut() {
        *v *= scale;
    }
}

/// `1 / (1 + e^-x)` in place.
pub fn sigmoid(x: &mut [f32]) {
    for v in x {
        *v = 1.0 / (1.0 + exp(-*v));
    }
}

/// `gate = g / (1 + e^(-alpha g)) * (u + 1)`, with `gate` clamped from above and `up` from both
/// sides at `limit`.
pub fn clamped_swiglu(alpha: f32, limit: f32, gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        // `min` of floats would make a number of NaN.
        let g = if *gate > limit { limit } else { *gate };
        let u = up.clamp(-limit, limit);
        *gate = g / (1.0 + exp(-alpha * g)) * (u + 1.0);
    }
}

/// `gate = silu(gate) * up`, with `silu(x) = x / (1 + exp(-x))`.
pub fn silu_mul(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rms_norm_of_a_row_has_unit_mean_square() {
        let x: Vec<f32> = (0..19).map(|i| i as f32 - 7.0).collect();
        let mut out = vec![0.0; 19];
        rms_norm(&x, &[1.0; 19], 0.0, &mut out);
        let mean = out.iter().map(|v| v * v).sum::<f32>() / 19.0;
        assert!((mean - 1.0).abs() < 1e-6, "{mean}");
    }

    #[test]
    fn a_norm_that_overflows_is_nan() {
        for bad in [1e20, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let mut out = [0.0; 9];
            rms_norm(
                &[1.0, 2.0, 3.0, 4.0, bad, 1.0, 1.0, 1.0, 1.0],
                &[1.0; 9],
                1e-5,
                &mut out,
            );
            assert!(out.iter().all(|v| v.is_nan()), "{bad}: {out:?}");
        }
    }

    #[test]
    fn softmax_sums_to_one_whatever_the_scale() {
        let mut x = [1e4, 1e4 - 1.0, -1e30];
        softmax(&mut x);
        let e = 1.0 / (1.0 + (-1f32).exp());
        assert!(
            (x[0] - e).abs() < 1e-6 && (x[1] - (1.0 - e)).abs() < 1e-6 && x[2] < 1e-30,
            "{x:?}"
        );
    }
}
