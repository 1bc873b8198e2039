//! Routing that keeps experts from token to token, for benchmarks on random weights.
//!
//! In real text a token shares 40 to 60% of its experts with the one before it; random weights
//! route almost uniformly (25% with 2 of 8 at work), so a cache looks worse on them than it is.
//! [`RoutingReuse`] puts the previous token's experts back in with a fixed probability. Which
//! ones is a hash of seed, position, layer and choice, the same on every device.

use octet_kernels::cuda::Reuse;

use crate::backend::RouterHook;

/// Makes decoded tokens keep experts of the token before them. The routing weights stay, so what
/// is computed costs as much as before; it means nothing as text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoutingReuse {
    /// Probability, 0 to 1, that a choice becomes the same choice of the token before.
    pub p: f32,
    /// Another seed keeps other experts.
    pub seed: u32,
}

impl RoutingReuse {
    /// Replaces experts of `chosen` by those of `previous`, both of `layer` and best first.
    ///
    /// Choice `j` of the token at `position` of the KV cache becomes `previous[j]` with
    /// probability `p`, unless that expert is among the other choices already. Weights stay.
    /// Must agree bit for bit with `router` in `kernels/cuda/router.cu`.
    pub fn apply(
        &self,
        position: usize,
        layer: usize,
        previous: &[u16],
        chosen: &mut [(u16, f32)],
    ) {
        for (j, &expert) in previous.iter().enumerate().take(chosen.len()) {
            let is_there = chosen.iter().any(|(other, _)| *other == expert);
            if !is_there && self.draw(position, layer, j) < self.p {
                chosen[j].0 = expert;
            }
        }
    }

    /// A number in `[0, 1)`.
    fn draw(&self, position: usize, layer: usize, choice: usize) -> f32 {
        let mut hash = self.seed;
        for value in [position, layer, choice] {
            hash = (hash ^ value as u32).wrapping_mul(0x9E37_79B1);
            hash ^= hash >> 15;
        }
        hash = hash.wrapping_mul(0x85EB_CA77);
        hash ^= hash >> 13;
        // 24 bits: every value is an f32.
        (hash >> 8) as f32 / 16_777_216.0
    }
}

impl RouterHook for RoutingReuse {
    fn adapt(&self, position: usize, layer: usize, previous: &[u16], chosen: &mut [(u16, f32)]) {
        self.apply(position, layer, previous, chosen);
    }

    fn for_gpu(&self) -> Reuse {
        Reuse {
            p: self.p,
            seed: self.seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reuse(p: f32) -> RoutingReuse {
        RoutingReuse { p, seed: 7 }
    }

    #[test]
    fn draws_are_the_ones_the_kernel_makes() {
        // From the definition, in integer arithmetic of another language.
        let cases = [
            ((0, 0, 0, 0), 0),
            ((7, 129, 31, 1), 4_336_483),
            ((u32::MAX, 32_767, 3, 7), 2_119_020),
        ];
        for ((seed, position, layer, choice), bits) in cases {
            let draw = RoutingReuse { p: 0.5, seed }.draw(position, layer, choice);
            assert_eq!(draw, bits as f32 / 16_777_216.0);
        }
    }

    #[test]
    fn draws_are_uniform_enough() {
        let draws: Vec<f32> = (0..4096)
            .flat_map(|position| (0..4).map(move |layer| reuse(0.5).draw(position, layer, 1)))
            .collect();
        for p in [0.1, 0.5, 0.9] {
            let share = draws.iter().filter(|u| **u < p).count() as f32 / draws.len() as f32;
            // Three standard deviations of 16384 independent draws.
            assert!((share - p).abs() < 0.012, "{share} below {p}");
        }
    }

    #[test]
    fn nothing_changes_at_zero_and_everything_at_one() {
        let natural = [(5, 0.75), (2, 0.25)];
        let mut chosen = natural;
        reuse(0.0).apply(9, 3, &[0, 1], &mut chosen);
        assert_eq!(chosen, natural);
        reuse(1.0).apply(9, 3, &[0, 1], &mut chosen);
        assert_eq!(chosen, [(0, 0.75), (1, 0.25)]);
        // The first decoded token has none before it.
        reuse(1.0).apply(9, 3, &[], &mut chosen);
        assert_eq!(chosen, [(0, 0.75), (1, 0.25)]);
    }

    #[test]
    fn an_expert_is_never_chosen_twice() {
        let mut chosen = [(5, 0.75), (2, 0.25)];
        reuse(1.0).apply(0, 0, &[2, 5], &mut chosen);
        assert_eq!(chosen, [(5, 0.75), (2, 0.25)]);
    }

    proptest! {
        #[test]
        fn choices_stay_distinct_and_weights_stay(
            p in 0_f32..=1.0,
            seed in any::<u32>(),
            position in 0_usize..40_000,
            layer in 0_usize..64,
            experts in prop::sample::subsequence((0_u16..16).collect::<Vec<_>>(), 8).prop_shuffle(),
            previous in prop::sample::subsequence((0_u16..16).collect::<Vec<_>>(), 8).prop_shuffle(),
            top_k in 1_usize..=8,
        ) {
            let natural: Vec<(u16, f32)> = experts[..top_k]
                .iter()
                .enumerate()
                .map(|(j, expert)| (*expert, 1.0 / (j + 2) as f32))
                .collect();
            let mut chosen = natural.clone();
            let reuse = RoutingReuse { p, seed };
            reuse.apply(position, layer, &previous[..top_k], &mut chosen);
            for (j, (expert, weight)) in chosen.iter().enumerate() {
                prop_assert_eq!(*weight, natural[j].1);
                prop_assert!(*expert == natural[j].0 || *expert == previous[j]);
                prop_assert!(chosen.iter().filter(|(other, _)| other == expert).count() == 1);
            }
            let mut again = natural;
            reuse.apply(position, layer, &previous[..top_k], &mut again);
            prop_assert_eq!(again, chosen);
        }
    }
}
