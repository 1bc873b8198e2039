//! What a model computes, as plain data: the same for every file that describes it.

use std::f64::consts::PI;

/// A decoder with mixture-of-experts layers.
///
/// All sizes are positive, `attention.n_heads` is a multiple of `attention.n_kv_heads`,
/// `attention.head_dim` is even and `experts.top_k <= experts.n_experts`.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// What files call the family: `llama`, `qwen3moe`, `gpt-oss`, `olmoe`.
    pub architecture: &'static str,
    /// What people call the family: `Mixtral`, `Qwen3 MoE`, `gpt-oss`, `OLMoE`.
    pub family: &'static str,
    /// The model's own name, for people.
    pub name: Option<String>,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Rows of the embeddings and of the output matrix.
    pub vocab: usize,
    /// Positions that the model was trained for.
    pub context_length: usize,
    /// Added to the mean square in RMS norms.
    pub rms_norm_eps: f64,
    /// Whether the output matrix is the embedding matrix.
    pub tied_output: bool,
    /// Attention, the same in every layer but for `windows`.
    pub attention: AttentionSpec,
    /// By layer: how many positions are seen, the token's own included. `None` is all.
    pub windows: Vec<Option<usize>>,
    /// The rotary embedding of queries and keys.
    pub rope: RopeSpec,
    /// The experts of every layer and their router.
    pub experts: ExpertsSpec,
}

/// Grouped-query attention.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads, each shared by `n_heads / n_kv_heads` query heads.
    pub n_kv_heads: usize,
    /// Width of a head. `n_heads * head_dim` need not be the hidden width.
    pub head_dim: usize,
    /// Norms of queries and keys, before they are rotated.
    pub qk_norm: QkNorm,
    /// Whether the four projections have biases.
    pub biases: bool,
    /// Whether each head has one more logit in its softmax, which only takes part in the divisor
    /// (and the maximum): no value belongs to it.
    pub sinks: bool,
}

/// Over what queries and keys are brought to length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// They are not.
    None,
    /// Each head by itself; the weights, (head_dim), are the same for all heads.
    PerHead,
    /// All heads at once; the weights are (n_heads * head_dim) and (n_kv_heads * head_dim).
    AllHeads,
}

/// A rotary position embedding over whole heads.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    /// Which values of a head rotate together.
    pub pairs: RopePairs,
    /// Values of a head that rotate: all of them.
    pub dim: usize,
    /// Base of the wavelengths.
    pub base: f64,
    /// How they are stretched for more positions.
    pub scaling: RopeScaling,
    /// A factor of cosine and sine beside that of the scaling.
    pub attn_factor: f64,
    /// What each pair's frequency is divided by besides (`rope_freqs.weight`), (dim / 2).
    pub divisors: Option<Vec<f32>>,
}

/// Which values of a head rotate together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairs {
    /// 2i and 2i + 1.
    Adjacent,
    /// i and i + dim / 2.
    Halves,
}

/// How a rotary embedding is stretched for more positions than it was trained with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// It is not.
    None,
    /// Positions are divided by the factor.
    Linear {
        /// At least 1 in practice; above 0.
        factor: f64,
    },
    /// YaRN (Peng et al. 2023): short wavelengths stay, long ones are divided, those between are
    /// mixed.
    Yarn {
        /// By what long wavelengths' frequencies are divided; at least 1.
        factor: f64,
        /// Positions before stretching.
        original_context: usize,
        /// A pair that turns more often than this over the original context stays as it is.
        beta_fast: f64,
        /// A pair that turns less often than this is divided.
        beta_slow: f64,
        /// Whether the ends of the mix are whole pairs. OpenAI's own gpt-oss does not round them.
        rounds: bool,
    },
}

/// Angles of a rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// By how much each pair turns from one position to the next, in radians, (dim / 2).
    pub inv_freq: Vec<f64>,
    /// Factor of cosine and sine.
    pub scale: f64,
}

impl RopeSpec {
    /// The angles that base, scaling and divisors give.
    pub fn table(&self) -> RopeTable {
        let n_pairs = self.dim / 2;
        let dim = self.dim as f64;
        let plain = |pair: usize| {
            let divisor = self
                .divisors
                .as_ref()
                .map_or(1.0, |all| f64::from(all[pair]));
            self.base.powf(-2.0 * pair as f64 / dim) / divisor
        };
        let plain = (0..n_pairs).map(plain);
        let (inv_freq, scale) = match self.scaling {
            RopeScaling::None => (plain.collect(), 1.0),
            RopeScaling::Linear { factor } => (plain.map(|freq| freq / factor).collect(), 1.0),
            RopeScaling::Yarn { factor, .. } => {
                let (low, high) = self.yarn_ends();
                let mixed = plain.enumerate().map(|(pair, freq)| {
                    // 1 where nothing is divided.
                    let keep =
                        1.0 - ((pair as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                    freq * keep + freq / factor * (1.0 - keep)
                });
                (mixed.collect(), 1.0 + 0.1 * factor.ln())
            }
        };
        RopeTable {
            inv_freq,
            scale: scale * self.attn_factor,
        }
    }

    /// The last pair that YaRN keeps and the first that it divides, as fractions of pairs.
    fn yarn_ends(&self) -> (f64, f64) {
        let RopeScaling::Yarn {
            original_context,
            beta_fast,
            beta_slow,
            rounds,
            ..
        } = self.scaling
        else {
            return (0.0, 0.0);
        };
        let dim = self.dim as f64;
        let pair_that_turns = |turns: f64| {
            dim * (original_context as f64 / (turns * 2.0 * PI)).ln() / (2.0 * self.base.ln())
        };
        let (mut low, mut high) = (pair_that_turns(beta_fast), pair_that_turns(beta_slow));
        if rounds {
            (low, high) = (low.floor(), high.ceil());
        }
        (low.max(0.0), high.min(dim - 1.0))
    }
}

/// A layer's experts, of which a router chooses some for each token.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertsSpec {
    /// Experts of a layer.
    pub n_experts: usize,
    /// Experts that a token uses.
    pub top_k: usize,
    /// Width inside an expert.
    pub intermediate: usize,
    /// Whether router and experts have biases.
    pub biases: bool,
    /// How the chosen experts are weighted.
    pub router: RouterSpec,
    /// What is between an expert's first two matrices and its third.
    pub activation: Activation,
}

/// From the router's logits to the weights of the `top_k` experts with the highest ones; of equal
/// logits the lower number comes first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RouterSpec {
    /// Over which logits the softmax goes.
    pub softmax: Softmax,
    /// Whether the weights of the chosen are then divided by their sum. With
    /// [`Softmax::OverChosen`] it is 1 anyway; [`Softmax::OverAll`] with this is the same.
    pub renormalize: bool,
    /// Factor of the weights.
    pub scale: f64,
}

/// Over which logits a router's softmax goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Softmax {
    /// Over those of all experts, before the choice.
    OverAll,
    /// Over those of the chosen.
    OverChosen,
}

/// What an expert computes from `g = gate x` and `u = up x`, each with its bias, for `down`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `silu(g) * u`.
    SiluGated,
    /// `g' * sigmoid(alpha * g') * (u' + 1)` with `g' = min(g, limit)` and `u'` clamped to
    /// `-limit..=limit`, as in gpt-oss.
    ClampedSwiglu {
        /// 1.702.
        alpha: f64,
        /// 7.
        limit: f64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpt_oss(rounds: bool) -> RopeSpec {
        RopeSpec {
            pairs: RopePairs::Halves,
            dim: 64,
            base: 150_000.0,
            scaling: RopeScaling::Yarn {
                factor: 32.0,
                original_context: 4096,
                beta_fast: 32.0,
                beta_slow: 1.0,
                rounds,
            },
            attn_factor: 1.0,
            divisors: None,
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
        let plain = RopeSpec {
            scaling: RopeScaling::None,
            ..gpt_oss(false)
        };
        let (plain, yarn) = (plain.table(), gpt_oss(false).table());
        assert_eq!((plain.scale, plain.inv_freq.len()), (1.0, 32));
        assert!((yarn.scale - 1.346_573_6).abs() < 1e-6);
        let ratio = |pair: usize| plain.inv_freq[pair] / yarn.inv_freq[pair];
        assert!((0..=8).all(|pair| ratio(pair) == 1.0));
        assert!((18..32).all(|pair| (ratio(pair) - 32.0).abs() < 1e-12));
        assert!((9..17).all(|pair| ratio(pair) < ratio(pair + 1)));
        assert!((plain.inv_freq[16] - 150_000_f64.powf(-0.5)).abs() < 1e-15);
    }

    #[test]
    fn linear_scaling_and_divisors_divide() {
        let spec = RopeSpec {
            dim: 4,
            base: 10_000.0,
            scaling: RopeScaling::Linear { factor: 4.0 },
            attn_factor: 1.5,
            divisors: Some(vec![1.0, 8.0]),
            ..gpt_oss(true)
        };
        let table = spec.table();
        let expected = [1.0 / 4.0, 0.01 / 8.0 / 4.0];
        let close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-12;
        assert!(table.inv_freq.iter().zip(&expected).all(close), "{table:?}");
        assert_eq!(table.scale, 1.5);
    }
}
