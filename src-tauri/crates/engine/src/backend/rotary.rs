//! Rotary positions.

use crate::spec::{ModelSpec, RopePairs, RopeScaling};

/// Turns pairs of values by angles that grow with the position.
pub(super) struct Rotary {
    pairs_are_adjacent: bool,
    /// By how much one position turns each pair, `(head_dim / 2)`.
    frequencies: Vec<f32>,
    /// Factor of cosines and sines.
    magnitude: f32,
    /// Pairs (cos, sin) of the positions of one pass, `(t, head_dim / 2)`.
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
    /// The rotation that `c` asks for, with room for angles of `bytes`.
    pub(super) fn new(c: &ModelSpec, bytes: u64) -> Self {
        let (frequencies, magnitude) = frequencies(c);
        let room = bytes / size_of::<(f32, f32)>() as u64;
        Self {
            pairs_are_adjacent: c.rope_pairs == RopePairs::Adjacent,
            frequencies,
            magnitude,
            angles: Vec::with_capacity(usize::try_from(room).unwrap_or(0)),
        }
    }

    /// Computes the angles of positions `first .. first + t`.
    pub(super) fn prepare(&mut self, first: usize, t: usize) {
        self.angles.clear();
        for position in first..first + t {
            for frequency in &self.frequencies {
                let (sin, cos) = (position as f32 * frequency).sin_cos();
                self.angles
                    .push((cos * self.magnitude, sin * self.magnitude));
            }
        }
    }

    /// Pairs (cos, sin), `(t, head_dim / 2)`.
    pub(super) fn angles(&self) -> &[(f32, f32)] {
        &self.angles
    }

    /// Rotates `x`, f32 `(t, n_heads, head_dim)`.
    pub(super) fn rotate(&self, x: &mut [f32], n_heads: usize) {
        let half_dim = self.frequencies.len();
        let head_dim = 2 * half_dim;
        let turn = |a: &mut f32, b: &mut f32, (cos, sin): (f32, f32)| {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        };
        let positions = x.chunks_exact_mut(n_heads * head_dim);
        for (position, angles) in positions.zip(self.angles.chunks_exact(half_dim)) {
            for head in position.chunks_exact_mut(head_dim) {
                if self.pairs_are_adjacent {
                    for (pair, angle) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                        let [a, b] = pair;
                        turn(a, b, *angle);
                    }
                } else {
                    let (low, high) = head.split_at_mut(half_dim);
                    for ((a, b), angle) in low.iter_mut().zip(high).zip(angles) {
                        turn(a, b, *angle);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_keeps_length_and_depends_on_distance_only() {
        let frequency = |i: i32| 1e4f32.powf(-2.0 * i as f32 / 8.0);
        let mut rotary = Rotary {
            pairs_are_adjacent: false,
            frequencies: (0..4).map(frequency).collect(),
            magnitude: 1.0,
            angles: Vec::new(),
        };
        let x = [0.3, -0.5, 0.7, 0.2, -0.1, 0.9, 0.4, -0.8];
        let y = [-0.6, 0.1, 0.2, 0.8, 0.5, -0.3, 0.7, 0.4];
        let mut dot = |first: usize| {
            let (mut x, mut y) = (x, y);
            rotary.prepare(first, 1);
            rotary.rotate(&mut x, 1);
            rotary.prepare(first + 3, 1);
            rotary.rotate(&mut y, 1);
            (
                x.iter().zip(&y).map(|(a, b)| a * b).sum::<f32>(),
                x.iter().map(|a| a * a).sum::<f32>(),
            )
        };
        let ((near, length), (far, far_length)) = (dot(0), dot(50));
        assert!((near - far).abs() < 1e-4 && (length - far_length).abs() < 1e-4);
    }
}
