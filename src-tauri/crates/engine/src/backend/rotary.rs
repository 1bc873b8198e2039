//! The rotary positions of a model, for the CPU and for GPUs.

use octet_kernels::Rotary;

use crate::spec::{ModelSpec, RopePairs, RopeScaling};

/// The rotation that `c` asks for, with room for angles of `bytes`.
pub(super) fn with_room(c: &ModelSpec, bytes: u64) -> Rotary {
    let mut rotary = of(c);
    let of_position = (size_of::<(f32, f32)>() * c.head_dim / 2) as u64;
    rotary.reserve(usize::try_from(bytes / of_position).unwrap_or(0));
    rotary
}

/// The rotation that `c` asks for.
pub(super) fn of(c: &ModelSpec) -> Rotary {
    let (frequencies, magnitude) = frequencies(c);
    Rotary::new(frequencies, magnitude, c.rope_pairs == RopePairs::Adjacent)
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
