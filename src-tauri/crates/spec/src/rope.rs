//! Angles of rotary position embeddings.

use std::f64::consts::PI;

use crate::{ModelSpec, RopeScaling};

/// Angles of a rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// By how much each pair turns from one position to the next, in radians, (head_dim / 2).
    pub frequencies: Vec<f32>,
    /// Factor of cosine and sine.
    pub magnitude: f32,
}

impl ModelSpec {
    /// The angles that base, scaling and divisors give: `rope_theta^(-2i / head_dim)` (RoFormer,
    /// section 3.2.2), stretched as [`RopeScaling`] says.
    pub fn rope_table(&self) -> RopeTable {
        // In f32, as the reference has them: at position 30,000 it shows.
        let theta = self.rope_theta as f32;
        let plain = |i: usize| 1.0 / theta.powf(2.0 * i as f32 / self.head_dim as f32);
        let (low, high) = self.yarn_ends();
        let width = (high - low).max(1e-3);
        let stretched = |i: usize| match self.rope_scaling {
            RopeScaling::None => plain(i),
            RopeScaling::Linear { factor } => plain(i) / factor as f32,
            RopeScaling::Yarn { factor, .. } => {
                let ramp = ((i as f64 - low) / width).clamp(0.0, 1.0) as f32;
                plain(i) / factor as f32 * ramp + plain(i) * (1.0 - ramp)
            }
        };
        let divided = |i| match self.rope_divisors.get(i) {
            Some(divisor) => stretched(i) / divisor,
            None => stretched(i),
        };
        let magnitude = match self.rope_scaling {
            RopeScaling::Yarn { factor, .. } => 1.0 + 0.1 * factor.ln(),
            RopeScaling::None | RopeScaling::Linear { .. } => 1.0,
        };
        RopeTable {
            frequencies: (0..self.head_dim / 2).map(divided).collect(),
            magnitude: magnitude as f32 * self.rope_magnitude as f32,
        }
    }

    /// The last pair that YaRN keeps and the first that it divides, as fractions of pairs.
    fn yarn_ends(&self) -> (f64, f64) {
        let RopeScaling::Yarn {
            original_positions,
            beta_fast,
            beta_slow,
            rounds_ramp,
            ..
        } = self.rope_scaling
        else {
            return (0.0, 0.0);
        };
        let dim = self.head_dim as f64;
        let pair_that_turns = |turns: f64| {
            dim * (original_positions as f64 / (turns * 2.0 * PI)).ln()
                / (2.0 * self.rope_theta.ln())
        };
        let (mut low, mut high) = (pair_that_turns(beta_fast), pair_that_turns(beta_slow));
        if rounds_ramp {
            (low, high) = (low.floor(), high.ceil());
        }
        (low.max(0.0), high.min(dim - 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpt_oss(rounds_ramp: bool) -> ModelSpec {
        ModelSpec {
            head_dim: 64,
            rope_theta: 150_000.0,
            rope_scaling: RopeScaling::Yarn {
                factor: 32.0,
                original_positions: 4096,
                beta_fast: 32.0,
                beta_slow: 1.0,
                rounds_ramp,
            },
            ..ModelSpec::mixtral()
        }
    }

    #[test]
    fn the_ends_of_yarn_in_gpt_oss_are_the_published_ones() {
        let (low, high) = gpt_oss(false).yarn_ends();
        assert!(
            (low - 8.09).abs() < 0.005 && (high - 17.40).abs() < 0.005,
            "{low} {high}"
        );
        assert_eq!(gpt_oss(true).yarn_ends(), (8.0, 18.0));
    }

    #[test]
    fn yarn_keeps_short_wavelengths_and_divides_long_ones() {
        let plain = ModelSpec {
            rope_scaling: RopeScaling::None,
            ..gpt_oss(false)
        };
        let (plain, yarn) = (plain.rope_table(), gpt_oss(false).rope_table());
        assert_eq!((plain.magnitude, plain.frequencies.len()), (1.0, 32));
        assert!((yarn.magnitude - 1.346_573_6).abs() < 1e-6);
        let ratio = |pair: usize| plain.frequencies[pair] / yarn.frequencies[pair];
        assert!((0..=8).all(|pair| ratio(pair) == 1.0));
        assert!((18..32).all(|pair| (ratio(pair) - 32.0).abs() < 1e-5));
        assert!((9..17).all(|pair| ratio(pair) < ratio(pair + 1)));
        assert!((plain.frequencies[16] - 150_000_f32.powf(-0.5)).abs() < 1e-9);
    }

    #[test]
    fn linear_scaling_and_divisors_divide() {
        let spec = ModelSpec {
            head_dim: 4,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::Linear { factor: 4.0 },
            rope_magnitude: 1.5,
            rope_divisors: vec![1.0, 8.0],
            ..gpt_oss(true)
        };
        let table = spec.rope_table();
        let expected = [1.0 / 4.0, 0.01 / 8.0 / 4.0];
        let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-9;
        assert!(
            table.frequencies.iter().zip(&expected).all(close),
            "{table:?}"
        );
        assert_eq!(table.magnitude, 1.5);
    }
}
