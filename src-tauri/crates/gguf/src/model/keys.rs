//! From the metadata's keys to a [`ModelSpec`].

use octet_spec::limits::{
    MAX_EXPERTS, MAX_HEAD_DIM, MAX_HEADS, MAX_HIDDEN, MAX_INTERMEDIATE, MAX_LAYERS, MAX_POSITIONS,
    MAX_VOCAB,
};
use octet_spec::{ModelSpec, RopeScaling, Router, RouterScore, WindowLayers};

use super::error::ModelError;
use super::family::{Family, Softmax};
use crate::metadata::{Metadata, MetadataError};
use crate::text::shorten;
use crate::value::{Array, FromValue, Value};

/// Keys that change what is computed, with the numbers at which they do not.
const NEUTRAL: [(&str, &[f64]); 13] = [
    ("attention.clamp_kqv", &[0.0]),
    ("attention.scale", &[0.0]),
    ("attn_logit_softcapping", &[0.0]),
    ("embedding_scale", &[0.0, 1.0]),
    ("expert_group_count", &[0.0, 1.0]),
    ("expert_shared_count", &[0.0]),
    ("final_logit_softcapping", &[0.0]),
    ("interleave_moe_layer_step", &[0.0, 1.0]),
    ("leading_dense_block_count", &[0.0]),
    ("logit_scale", &[0.0, 1.0]),
    ("nextn_predict_layers", &[0.0]),
    ("residual_scale", &[0.0, 1.0]),
    ("rope.scaling.yarn_ext_factor", &[1.0]),
];

pub(super) fn family(metadata: Metadata<'_>) -> Result<&'static Family, ModelError> {
    let name = metadata.require::<&str>("general.architecture")?;
    Family::of(name).ok_or_else(|| ModelError::Architecture {
        found: shorten(name),
    })
}

/// Reads everything but what the tensors decide: a tied output, the divisors of `rope_freqs`.
pub(super) fn spec(
    metadata: Metadata<'_>,
    family: &'static Family,
) -> Result<ModelSpec, ModelError> {
    let keys = Keys { metadata, family };
    keys.refuse_what_is_not_computed()?;
    let hidden_size = keys.size("embedding_length", MAX_HIDDEN)?;
    let n_layers = keys.size("block_count", MAX_LAYERS)?;
    let max_positions = keys.size("context_length", MAX_POSITIONS)?;
    let (n_heads, n_kv_heads, head_dim) = keys.heads(hidden_size)?;
    let vocab_size = keys.vocab()?;
    let (n_experts, top_k) = keys.experts()?;
    let (sliding_window, window_layers) = keys.windows(n_layers, max_positions)?;
    Ok(ModelSpec {
        hidden_size,
        intermediate_size: keys.intermediate()?,
        n_layers,
        n_heads,
        n_kv_heads,
        head_dim,
        n_experts,
        top_k,
        vocab_size,
        max_positions,
        rope_theta: keys.rope_theta(head_dim)?,
        rms_norm_eps: keys.number("attention.layer_norm_rms_epsilon", None, 0.0..1.0)?,
        sliding_window,
        bos_token_id: keys.token("bos", vocab_size)?.unwrap_or(0),
        eos_token_ids: keys.end_tokens(vocab_size)?,
        tie_word_embeddings: false,
        family: family.title,
        rope_pairs: family.pairs,
        rope_scaling: keys.rope_scaling(max_positions)?,
        rope_divisors: Vec::new(),
        rope_magnitude: keys.rope_magnitude()?,
        window_layers,
        qk_norm: family.qk_norm,
        attention_bias: family.biases_and_sinks,
        attention_sinks: family.biases_and_sinks,
        router: keys.router()?,
        activation: family.activation,
        expert_bias: family.biases_and_sinks,
        n_dense_layers: 0,
        shared_expert_size: 0,
    })
}

struct Keys<'a> {
    metadata: Metadata<'a>,
    family: &'static Family,
}

impl<'a> Keys<'a> {
    /// The key of this architecture that ends in `name`.
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.family.name)
    }

    fn get<T: FromValue<'a>>(&self, name: &str) -> Result<Option<T>, MetadataError> {
        self.metadata.get(&self.key(name))
    }

    /// The error of a value that is there and is not as `expected`.
    fn wrong(&self, name: &str, expected: impl Into<String>) -> MetadataError {
        let key = self.key(name);
        match self.metadata.value(&key) {
            Some(found) => MetadataError::value(&key, expected, found),
            None => MetadataError::Missing { key },
        }
    }

    /// A size of 1 to `limit`, once or the same for each layer; `None` where the key is missing.
    fn optional_size(&self, name: &str, limit: usize) -> Result<Option<usize>, MetadataError> {
        let size = self.metadata.uniform::<u64>(&self.key(name))?;
        let Some(size) = size else {
            return Ok(None);
        };
        let fits = usize::try_from(size)
            .ok()
            .filter(|n| (1..=limit).contains(n));
        fits.map(Some)
            .ok_or_else(|| self.wrong(name, format!("1 to {limit}")))
    }

    fn size(&self, name: &str, limit: usize) -> Result<usize, MetadataError> {
        let size = self.optional_size(name, limit)?;
        size.ok_or_else(|| MetadataError::Missing {
            key: self.key(name),
        })
    }

    /// A number inside `within`, ends excluded.
    fn number(
        &self,
        name: &str,
        default: Option<f64>,
        within: std::ops::Range<f64>,
    ) -> Result<f64, MetadataError> {
        let found = self.get::<f64>(name)?.or(default);
        let found = found.ok_or_else(|| MetadataError::Missing {
            key: self.key(name),
        })?;
        if within.start < found && found < within.end {
            return Ok(found);
        }
        let expected = format!("a number above {} and below {}", within.start, within.end);
        Err(self.wrong(name, expected))
    }

    fn refuse_what_is_not_computed(&self) -> Result<(), MetadataError> {
        for (name, neutral) in NEUTRAL {
            if let Some(found) = self.get::<f64>(name)?
                && !neutral.contains(&found)
            {
                return Err(self.wrong(
                    name,
                    format!("{}, as nothing else is supported", neutral[0]),
                ));
            }
        }
        for (name, neutral) in [("attention.causal", true), ("use_parallel_residual", false)] {
            if self
                .get::<bool>(name)?
                .is_some_and(|found| found != neutral)
            {
                return Err(self.wrong(name, format!("{neutral}, as nothing else is supported")));
            }
        }
        Ok(())
    }

    /// Rows of the embeddings: a token each, where the file has a vocabulary.
    fn vocab(&self) -> Result<usize, MetadataError> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        let Some(tokens) = self.metadata.get::<Array<'_>>(TOKENS)? else {
            return self.size("vocab_size", MAX_VOCAB);
        };
        if (1..=MAX_VOCAB).contains(&tokens.len()) {
            return Ok(tokens.len());
        }
        let expected = format!("1 to {MAX_VOCAB} strings");
        Err(MetadataError::value(TOKENS, expected, Value::Array(tokens)))
    }

    /// A token's id; `None` where the file names none.
    fn token(&self, name: &str, vocab: usize) -> Result<Option<u32>, MetadataError> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match self.metadata.get::<u32>(&key)? {
            Some(id) if id as usize >= vocab => Err(MetadataError::Value {
                key,
                expected: format!("a token below {vocab}"),
                found: id.to_string(),
            }),
            id => Ok(id),
        }
    }

    /// The tokens that end a text, a turn or a message, each once.
    fn end_tokens(&self, vocab: usize) -> Result<Vec<u32>, MetadataError> {
        let mut ids = Vec::new();
        for name in ["eos", "eot", "eom"] {
            ids.extend(self.token(name, vocab)?.filter(|id| !ids.contains(id)));
        }
        Ok(ids)
    }

    /// Query heads, key and value heads, and the width of a head.
    fn heads(&self, hidden: usize) -> Result<(usize, usize, usize), MetadataError> {
        const HEADS: &str = "attention.head_count";
        const KV_HEADS: &str = "attention.head_count_kv";
        const KEY_LENGTH: &str = "attention.key_length";
        const VALUE_LENGTH: &str = "attention.value_length";
        let n_heads = self.size(HEADS, MAX_HEADS)?;
        let n_kv_heads = self.optional_size(KV_HEADS, n_heads)?.unwrap_or(n_heads);
        if !n_heads.is_multiple_of(n_kv_heads) {
            return Err(self.wrong(KV_HEADS, format!("a divisor of {n_heads} heads")));
        }
        let head_dim = match self.optional_size(KEY_LENGTH, MAX_HEAD_DIM)? {
            Some(head_dim) => head_dim,
            None if hidden.is_multiple_of(n_heads) => hidden / n_heads,
            None => return Err(self.wrong(HEADS, format!("a divisor of the width {hidden}"))),
        };
        if !head_dim.is_multiple_of(2) {
            let name = if self.get::<u64>(KEY_LENGTH)?.is_some() {
                KEY_LENGTH
            } else {
                HEADS
            };
            return Err(self.wrong(name, format!("heads of an even width, not of {head_dim}")));
        }
        let value_dim = self.optional_size(VALUE_LENGTH, MAX_HEAD_DIM)?;
        if value_dim.is_some_and(|value_dim| value_dim != head_dim) {
            return Err(self.wrong(VALUE_LENGTH, format!("{head_dim}, the width of keys")));
        }
        Ok((n_heads, n_kv_heads, head_dim))
    }

    /// The window, and the layers that have it, where the family has one.
    fn windows(
        &self,
        n_layers: usize,
        context_length: usize,
    ) -> Result<(Option<usize>, WindowLayers), MetadataError> {
        const WINDOW: &str = "attention.sliding_window";
        if !self.family.windowed {
            // Writers of other families copy the number from configurations that do not use it.
            let window = self.get::<u64>(WINDOW)?.unwrap_or(0);
            if window != 0 && window < context_length as u64 {
                return Err(self.wrong(WINDOW, "0, as windows are not known for this model"));
            }
            return Ok((None, WindowLayers::All));
        }
        let window = self.size(WINDOW, MAX_POSITIONS)?;
        let windowed = self.windowed_layers(n_layers)?;
        Ok((Some(window), WindowLayers::Some(windowed)))
    }

    /// Which layers have a window: of every `n` all but the last, or as a list says.
    fn windowed_layers(&self, n_layers: usize) -> Result<Vec<bool>, MetadataError> {
        const PATTERN: &str = "attention.sliding_window_pattern";
        let every = match self.metadata.value(&self.key(PATTERN)) {
            None => 2,
            Some(Value::Array(array)) => {
                let flags = array.iter().map(|item| match item {
                    Value::Bool(flag) => Some(flag),
                    Value::Integer(0) => Some(false),
                    Value::Integer(1) => Some(true),
                    _ => None,
                });
                let flags = flags.collect::<Option<Vec<bool>>>();
                let flags = flags.filter(|flags| flags.len() == n_layers);
                return flags
                    .ok_or_else(|| self.wrong(PATTERN, format!("{n_layers} truth values")));
            }
            Some(_) => self.size(PATTERN, MAX_LAYERS)?,
        };
        Ok((0..n_layers)
            .map(|layer| layer % every + 1 < every)
            .collect())
    }

    /// The base of the rotary embedding, over whole heads and the same in every layer.
    fn rope_theta(&self, head_dim: usize) -> Result<f64, MetadataError> {
        const DIM: &str = "rope.dimension_count";
        const BASE: &str = "rope.freq_base";
        let dim = self.optional_size(DIM, MAX_HEAD_DIM)?.unwrap_or(head_dim);
        if dim != head_dim {
            return Err(self.wrong(DIM, format!("{head_dim}, the width of a head")));
        }
        let base = self.number(BASE, Some(10_000.0), 1.0..1e15)?;
        let windowed = self.get::<f64>("rope.freq_base_swa")?;
        if windowed.is_some_and(|windowed| windowed != base) {
            let expected = format!("{base}, the base of the other layers");
            return Err(self.wrong("rope.freq_base_swa", expected));
        }
        Ok(base)
    }

    fn rope_magnitude(&self) -> Result<f64, MetadataError> {
        let factor = |name| self.number(name, Some(1.0), 0.0..1e6);
        Ok(factor("rope.scaling.attn_factor")? * factor("rope.scaling.yarn_attn_factor")?)
    }

    fn rope_scaling(&self, context_length: usize) -> Result<RopeScaling, ModelError> {
        const TYPE: &str = "rope.scaling.type";
        const FACTOR: &str = "rope.scaling.factor";
        // Old files have the factor of linear scaling under a name of its own.
        let name = match self.get::<f64>(FACTOR)? {
            Some(_) => FACTOR,
            None => "rope.scale_linear",
        };
        // Some writers mean "none" by 0.
        let factor = match self.get::<f64>(name)? {
            Some(0.0) | None => 1.0,
            Some(_) => self.number(name, None, 0.0..1e6)?,
        };
        match self.get::<&str>(TYPE)?.unwrap_or("linear") {
            "none" => Ok(RopeScaling::None),
            "linear" if factor == 1.0 => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor }),
            "yarn" if factor < 1.0 => Err(self.wrong(name, "1 or more for yarn").into()),
            "yarn" => {
                let original = "rope.scaling.original_context_length";
                let turns = |name, default| self.number(name, Some(default), 0.0..1e6);
                Ok(RopeScaling::Yarn {
                    factor,
                    original_positions: self
                        .optional_size(original, MAX_POSITIONS)?
                        .unwrap_or(context_length),
                    beta_fast: turns("rope.scaling.yarn_beta_fast", 32.0)?,
                    beta_slow: turns("rope.scaling.yarn_beta_slow", 1.0)?,
                    rounds_ramp: self.family.yarn_rounds,
                })
            }
            found => Err(ModelError::RopeScaling {
                key: self.key(TYPE),
                found: shorten(found),
            }),
        }
    }

    /// Experts of a layer, and how many a token uses.
    fn experts(&self) -> Result<(usize, usize), ModelError> {
        const COUNT: &str = "expert_count";
        if self.get::<u64>(COUNT)?.unwrap_or(0) == 0 {
            return Err(ModelError::NoExperts);
        }
        let n_experts = self.size(COUNT, MAX_EXPERTS)?;
        Ok((n_experts, self.size("expert_used_count", n_experts)?))
    }

    /// Width inside an expert.
    fn intermediate(&self) -> Result<usize, MetadataError> {
        match self.optional_size("expert_feed_forward_length", MAX_INTERMEDIATE)? {
            Some(intermediate) => Ok(intermediate),
            None => self.size("feed_forward_length", MAX_INTERMEDIATE),
        }
    }

    fn router(&self) -> Result<Router, MetadataError> {
        const NORM: &str = "expert_weights_norm";
        const GATING: &str = "expert_gating_func";
        const SCALE: &str = "expert_weights_scale";
        // The families have no such keys: what contradicts them is another model.
        let renormalizes = self.family.sums_to_one();
        if self
            .get::<bool>(NORM)?
            .is_some_and(|norm| norm != renormalizes)
        {
            return Err(self.wrong(NORM, renormalizes.to_string()));
        }
        // 1 is a softmax over all experts, 3 one over the chosen.
        let gating = self.get::<u64>(GATING)?.unwrap_or(0);
        let gatings: &[u64] = match self.family.softmax {
            Softmax::OverAll => &[0, 1],
            Softmax::OverChosen => &[0, 1, 3],
        };
        if !gatings.contains(&gating) {
            return Err(self.wrong(GATING, "1, a softmax"));
        }
        let scale = match self.get::<f64>(SCALE)? {
            None | Some(0.0) => 1.0,
            Some(_) => self.number(SCALE, None, 0.0..1e6)?,
        };
        Ok(Router {
            score: RouterScore::Softmax,
            renormalizes,
            scale: scale as f32,
            has_bias: self.family.biases_and_sinks,
        })
    }
}
