//! What a model computes, whatever file describes it.
//!
//! A family is a value of [`ModelSpec`]: readers make one, and every backend computes by it alone.

#![warn(missing_docs)]

mod config_json;
pub mod json;
mod rope;

use std::fmt;

use serde::Serialize;

pub use config_json::ConfigError;
pub use rope::RopeTable;

/// Every reader holds sizes to these, so that products of them cannot overflow. Real models stay
/// far below.
#[allow(missing_docs)] // Names say it.
pub mod limits {
    pub const MAX_HIDDEN: usize = 1 << 16;
    pub const MAX_INTERMEDIATE: usize = 1 << 20;
    pub const MAX_LAYERS: usize = 1 << 10;
    pub const MAX_HEADS: usize = 1 << 10;
    pub const MAX_HEAD_DIM: usize = 1 << 12;
    pub const MAX_EXPERTS: usize = 1 << 10;
    pub const MAX_VOCAB: usize = 1 << 22;
    pub const MAX_POSITIONS: usize = 1 << 24;
}

/// A decoder-only transformer whose feed-forward blocks are mixtures of experts.
///
/// All sizes are positive, `n_heads` is a multiple of `n_kv_heads`, `head_dim` is even and
/// `top_k <= n_experts`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelSpec {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside an expert.
    pub intermediate_size: usize,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads, each shared by `n_heads / n_kv_heads` query heads.
    pub n_kv_heads: usize,
    /// Width of a head: `hidden_size / n_heads` unless the file says otherwise.
    pub head_dim: usize,
    /// Experts of a layer.
    pub n_experts: usize,
    /// Experts that a token uses.
    pub top_k: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Positions that the model was trained for.
    pub max_positions: usize,
    /// Base of the rotary embedding's wavelengths.
    pub rope_theta: f64,
    /// Added to the mean square in RMS norms.
    pub rms_norm_eps: f64,
    /// Positions that attention looks back, itself included, in the layers that `window_layers` names.
    pub sliding_window: Option<usize>,
    /// The token that begins a text.
    pub bos_token_id: u32,
    /// The tokens that end a text; may be empty.
    pub eos_token_ids: Vec<u32>,
    /// Whether the output matrix is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// What people call its family, for messages.
    pub family: &'static str,
    /// Which values of a head are rotated together.
    pub rope_pairs: RopePairs,
    /// How the rotary embedding is stretched beyond the positions of training.
    pub rope_scaling: RopeScaling,
    /// What each pair's frequency is divided by besides, (head_dim / 2); empty: nothing.
    pub rope_divisors: Vec<f32>,
    /// Factor of the rotary embedding's cosines and sines, besides that of the scaling.
    pub rope_magnitude: f64,
    /// Which layers have the sliding window.
    pub window_layers: WindowLayers,
    /// Norms of queries and keys, in front of their rotation.
    pub qk_norm: QkNorm,
    /// Whether the attention projections have biases.
    pub attention_bias: bool,
    /// Whether each head's softmax has one more logit, which takes weight and gives nothing.
    pub attention_sinks: bool,
    /// How experts are chosen and weighted.
    pub router: Router,
    /// Between an expert's projections.
    pub activation: Activation,
    /// Whether the experts' projections have biases.
    pub expert_bias: bool,
    /// Layers at the beginning that have one dense block in place of experts.
    pub n_dense_layers: usize,
    /// Width of an expert that every token uses; 0: none.
    pub shared_expert_size: usize,
}

/// Which two values of a head make a pair that is rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RopePairs {
    /// Value `i` and value `i + head_dim / 2` (Hugging Face).
    Halves,
    /// Values `2 i` and `2 i + 1` (the order of Llama's own weights, kept by GGUF).
    Adjacent,
}

/// How rotary angles are changed for contexts beyond those of training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every angle is divided by `factor`.
    Linear {
        /// Above 0.
        factor: f64,
    },
    /// YaRN (arXiv 2309.00071): slow pairs are divided, fast ones kept, with a ramp between.
    Yarn {
        /// Above 0.
        factor: f64,
        /// Positions of training.
        original_positions: usize,
        /// Rotations over the positions of training from which on a pair keeps its angle.
        beta_fast: f64,
        /// Those up to which a pair is divided.
        beta_slow: f64,
        /// Whether the ramp's ends are rounded to whole pairs. OpenAI's own code does not.
        rounds_ramp: bool,
    },
}

/// Which layers look back no further than the sliding window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowLayers {
    /// Every one.
    All,
    /// Those where it says so; the others see everything.
    Some(Vec<bool>),
}

/// RMS norms of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QkNorm {
    /// None.
    None,
    /// Of each head by itself.
    Head,
    /// Over all heads at once.
    Full,
}

/// How a token's experts are chosen and weighted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Router {
    /// From logits to weights.
    pub score: RouterScore,
    /// Whether the weights of those chosen are brought to sum 1.
    pub renormalizes: bool,
    /// Factor of all weights.
    pub scale: f32,
    /// Whether the logits have biases.
    pub has_bias: bool,
}

/// The function that makes weights of router logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RouterScore {
    /// Softmax over all experts. Renormalized, it is the softmax over those chosen.
    Softmax,
    /// Each logit by itself.
    Sigmoid,
}

/// What an expert does between its projections, with `g` from gate and `u` from up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Activation {
    /// `silu(g) * u`.
    SiluMul,
    /// `g' * sigmoid(alpha * g') * (u' + 1)`, with `g' = min(g, limit)` and `u'` within `limit`
    /// (gpt-oss).
    ClampedSwiglu {
        /// Steepness of the sigmoid.
        alpha: f32,
        /// Bound of both.
        limit: f32,
    },
}

/// Something of a [`ModelSpec`] that not every backend computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// [`ModelSpec::rope_pairs`] that are adjacent.
    AdjacentRopePairs,
    /// A window in some layers only.
    WindowByLayer,
    /// [`ModelSpec::qk_norm`].
    QkNorm,
    /// [`ModelSpec::attention_bias`].
    AttentionBias,
    /// [`ModelSpec::attention_sinks`].
    AttentionSinks,
    /// [`Router::score`] other than softmax, or not renormalized, scaled or biased.
    Routing,
    /// [`ModelSpec::activation`] other than `silu(g) * u`.
    Activation,
    /// [`ModelSpec::expert_bias`].
    ExpertBias,
    /// [`ModelSpec::n_dense_layers`].
    DenseLayers,
    /// [`ModelSpec::shared_expert_size`].
    SharedExpert,
    /// Weights of a type without kernels there.
    WeightType(&'static str),
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AdjacentRopePairs => "rotation of adjacent pairs",
            Self::WindowByLayer => "a sliding window in some layers only",
            Self::QkNorm => "norms of queries and keys",
            Self::AttentionBias => "biases in attention",
            Self::AttentionSinks => "attention sinks",
            Self::Routing => "this way of routing",
            Self::Activation => "this activation",
            Self::ExpertBias => "biases in experts",
            Self::DenseLayers => "layers without experts",
            Self::SharedExpert => "a shared expert",
            Self::WeightType(name) => return write!(f, "{name} weights"),
        })
    }
}

impl ModelSpec {
    /// Mixtral 8x7B as Mistral published it.
    pub fn mixtral() -> Self {
        Self {
            hidden_size: 4096,
            intermediate_size: 14_336,
            n_layers: 32,
            n_heads: 32,
            n_kv_heads: 8,
            head_dim: 128,
            n_experts: 8,
            top_k: 2,
            vocab_size: 32_000,
            max_positions: 131_072,
            rope_theta: 1e6,
            rms_norm_eps: 1e-5,
            sliding_window: None,
            bos_token_id: 1,
            eos_token_ids: vec![2],
            tie_word_embeddings: false,
            family: "Mixtral",
            rope_pairs: RopePairs::Halves,
            rope_scaling: RopeScaling::None,
            rope_divisors: Vec::new(),
            rope_magnitude: 1.0,
            window_layers: WindowLayers::All,
            qk_norm: QkNorm::None,
            attention_bias: false,
            attention_sinks: false,
            router: Router {
                score: RouterScore::Softmax,
                renormalizes: true,
                scale: 1.0,
                has_bias: false,
            },
            activation: Activation::SiluMul,
            expert_bias: false,
            n_dense_layers: 0,
            shared_expert_size: 0,
        }
    }

    /// Rows of the key and of the value projection: `n_kv_heads * head_dim`.
    pub fn kv_size(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Rows of the query projection, columns of the output projection: `n_heads * head_dim`.
    pub fn q_size(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Positions that a query of `layer` sees, itself included; `usize::MAX`: all.
    pub fn window(&self, layer: usize) -> usize {
        let is_windowed = match &self.window_layers {
            WindowLayers::All => true,
            WindowLayers::Some(windowed) => windowed[layer],
        };
        let window = self.sliding_window.filter(|_| is_windowed);
        window.unwrap_or(usize::MAX)
    }

    /// What of it goes beyond Mixtral, each of which a backend may lack.
    pub fn features(&self) -> Vec<Feature> {
        let plain = Self::mixtral();
        let has = [
            (
                self.rope_pairs != plain.rope_pairs,
                Feature::AdjacentRopePairs,
            ),
            (
                self.sliding_window.is_some() && self.window_layers != plain.window_layers,
                Feature::WindowByLayer,
            ),
            (self.qk_norm != plain.qk_norm, Feature::QkNorm),
            (self.attention_bias, Feature::AttentionBias),
            (self.attention_sinks, Feature::AttentionSinks),
            (self.router != plain.router, Feature::Routing),
            (self.activation != plain.activation, Feature::Activation),
            (self.expert_bias, Feature::ExpertBias),
            (self.n_dense_layers > 0, Feature::DenseLayers),
            (self.shared_expert_size > 0, Feature::SharedExpert),
        ];
        has.into_iter()
            .filter(|(it, _)| *it)
            .map(|(_, feature)| feature)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_beyond_mixtral_is_named() {
        let plain = ModelSpec::mixtral();
        assert_eq!(plain.features(), []);
        let spec = ModelSpec {
            rope_pairs: RopePairs::Adjacent,
            sliding_window: Some(4096),
            shared_expert_size: 512,
            router: Router {
                renormalizes: false,
                ..plain.router
            },
            ..plain.clone()
        };
        let names: Vec<String> = spec.features().iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            [
                "rotation of adjacent pairs",
                "this way of routing",
                "a shared expert"
            ]
        );
    }

    #[test]
    fn a_window_may_be_in_some_layers_only() {
        let spec = ModelSpec {
            sliding_window: Some(128),
            window_layers: WindowLayers::Some(vec![true, false]),
            ..ModelSpec::mixtral()
        };
        assert_eq!((spec.window(0), spec.window(1)), (128, usize::MAX));
        assert_eq!(spec.features(), [Feature::WindowByLayer]);
    }
}
