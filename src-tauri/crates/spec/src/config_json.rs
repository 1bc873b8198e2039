//! `config.json`: the shape of a Mixtral model.
//!
//! Names and defaults are those of Hugging Face's `MixtralConfig`; every value is held to limits
//! so that later products of sizes cannot overflow.

use serde_json::Value;

use crate::{ModelSpec, limits};

use crate::json::{UniqueMap, shorten, without_byte_order_mark};

/// What is wrong with a `config.json`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not UTF-8, not JSON, not an object, or a key given twice.
    #[error("not a model configuration: {message}")]
    Malformed {
        /// The parser's message.
        message: String,
    },
    /// A model of a family that is not known in this format.
    #[error("`{field}` is {found}; this program runs Mixtral models only ({expected})")]
    UnknownFamily {
        /// The field that tells.
        field: &'static str,
        /// Its value.
        found: String,
        /// The value of a Mixtral model.
        expected: &'static str,
    },
    /// A value of the wrong type or beyond its limits.
    #[error("`{field}`: expected {expected}, found {found}")]
    Value {
        /// Which field.
        field: &'static str,
        /// What would be legal.
        expected: String,
        /// What there is.
        found: String,
    },
    /// A rotary embedding that is not the plain one.
    #[error(
        "`{field}`: rope type {found} is not supported, Mixtral uses the default one; set it to \
         null if this model was not trained with it"
    )]
    Rope {
        /// Which field.
        field: &'static str,
        /// The type it asks for.
        found: String,
    },
}

impl ModelSpec {
    /// Reads the bytes of a `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] names the field, what was expected and what was found.
    pub fn from_config_json(bytes: &[u8]) -> Result<Self, ConfigError> {
        let json = without_byte_order_mark(bytes);
        let UniqueMap(fields) = serde_json::from_slice::<UniqueMap<Value>>(json).map_err(|e| {
            ConfigError::Malformed {
                message: e.to_string(),
            }
        })?;
        let fields = Fields(fields);
        fields.check_family()?;

        let hidden_size = fields.size("hidden_size", 4096, limits::MAX_HIDDEN)?;
        let n_heads = fields.size("num_attention_heads", 32, limits::MAX_HEADS)?;
        let vocab_size = fields.size("vocab_size", 32_000, limits::MAX_VOCAB)?;
        let n_experts = fields.size("num_local_experts", 8, limits::MAX_EXPERTS)?;
        Ok(Self {
            hidden_size,
            intermediate_size: fields.size(
                "intermediate_size",
                14_336,
                limits::MAX_INTERMEDIATE,
            )?,
            n_layers: fields.size("num_hidden_layers", 32, limits::MAX_LAYERS)?,
            n_heads,
            n_kv_heads: fields.kv_heads(n_heads)?,
            head_dim: fields.head_dim(hidden_size, n_heads)?,
            n_experts,
            top_k: fields.size("num_experts_per_tok", 2, n_experts)?,
            vocab_size,
            max_positions: fields.size(
                "max_position_embeddings",
                131_072,
                limits::MAX_POSITIONS,
            )?,
            rope_theta: fields.rope_theta()?,
            rms_norm_eps: fields.number("rms_norm_eps", 1e-5, "above 0 and below 1", |v| {
                v > 0.0 && v < 1.0
            })?,
            sliding_window: fields.optional_size("sliding_window", limits::MAX_POSITIONS)?,
            bos_token_id: fields.token("bos_token_id", 1, vocab_size)?,
            eos_token_ids: fields.eos(vocab_size)?,
            tie_word_embeddings: fields.flag("tie_word_embeddings", false)?,
            ..ModelSpec::mixtral()
        })
    }

    /// Takes the end tokens of a `generation_config.json` too: a number, a list or null. Those that
    /// the model has no row for cannot come and are left out.
    ///
    /// # Errors
    /// [`ConfigError`]; nothing is taken then.
    pub fn add_end_tokens(&mut self, bytes: &[u8]) -> Result<(), ConfigError> {
        const FIELD: &str = "eos_token_id";
        let fields: serde_json::Map<String, Value> =
            serde_json::from_slice(without_byte_order_mark(bytes)).map_err(|e| {
                ConfigError::Malformed {
                    message: e.to_string(),
                }
            })?;
        let given: &[Value] = match fields.get(FIELD) {
            None | Some(Value::Null) => &[],
            Some(Value::Array(list)) => &list[..],
            Some(one) => std::slice::from_ref(one),
        };
        let ids: Option<Vec<u64>> = given.iter().map(Value::as_u64).collect();
        let ids = ids.ok_or_else(|| {
            let found = fields.get(FIELD).unwrap_or(&Value::Null);
            wrong(FIELD, "a token id or a list of them", found)
        })?;
        let rows = ids.into_iter().filter(|&id| id < self.vocab_size as u64);
        for id in rows.filter_map(|id| u32::try_from(id).ok()) {
            if !self.eos_token_ids.contains(&id) {
                self.eos_token_ids.push(id);
            }
        }
        Ok(())
    }
}

/// The object of a `config.json`, read field by field so that every complaint has a name.
struct Fields(std::collections::BTreeMap<String, Value>);

impl Fields {
    /// The value of `name`; an explicit null counts as missing, as it does for Hugging Face.
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn check_family(&self) -> Result<(), ConfigError> {
        const MODEL_TYPE: &str = "mixtral";
        const ARCHITECTURE: &str = "MixtralForCausalLM";
        let other = |field, expected, found| {
            Err(ConfigError::UnknownFamily {
                field,
                found,
                expected,
            })
        };
        let model_type = self.get("model_type");
        if let Some(value) = model_type
            && value != MODEL_TYPE
        {
            return other("model_type", "\"mixtral\"", show(value));
        }
        match self.get("architectures") {
            Some(Value::Array(list)) if list.iter().any(|name| name == ARCHITECTURE) => {}
            Some(value) => return other("architectures", "[\"MixtralForCausalLM\"]", show(value)),
            None if model_type.is_some() => {}
            None => return other("model_type", "\"mixtral\"", "missing".to_owned()),
        }
        match self.get("hidden_act") {
            Some(value) if value != "silu" => Err(wrong(
                "hidden_act",
                "\"silu\", the only one Mixtral has",
                value,
            )),
            _ => Ok(()),
        }
    }

    fn size(&self, field: &'static str, default: usize, max: usize) -> Result<usize, ConfigError> {
        match self.optional_size(field, max)? {
            Some(size) => Ok(size),
            None if default <= max => Ok(default),
            // A default may exceed a limit that another field sets (top_k of a single expert).
            None => Err(wrong(
                field,
                format!("an integer from 1 to {max}"),
                &default.into(),
            )),
        }
    }

    fn optional_size(&self, field: &'static str, max: usize) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        value
            .as_u64()
            .and_then(|size| usize::try_from(size).ok())
            .filter(|size| (1..=max).contains(size))
            .map(Some)
            .ok_or_else(|| wrong(field, format!("an integer from 1 to {max}"), value))
    }

    fn kv_heads(&self, n_heads: usize) -> Result<usize, ConfigError> {
        const FIELD: &str = "num_key_value_heads";
        // Hugging Face: missing means 8, null means one for every query head.
        let default = if self.0.contains_key(FIELD) {
            n_heads
        } else {
            8
        };
        let n_kv_heads = self.size(FIELD, default, limits::MAX_HEADS)?;
        if !n_heads.is_multiple_of(n_kv_heads) {
            let expected = format!("a divisor of the {n_heads} attention heads");
            return Err(wrong(FIELD, expected, &n_kv_heads.into()));
        }
        Ok(n_kv_heads)
    }

    fn head_dim(&self, hidden_size: usize, n_heads: usize) -> Result<usize, ConfigError> {
        const FIELD: &str = "head_dim";
        let head_dim = match self.optional_size(FIELD, limits::MAX_HEAD_DIM)? {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(n_heads) => hidden_size / n_heads,
            None => {
                let expected = format!("a multiple of the {n_heads} attention heads");
                return Err(wrong("hidden_size", expected, &hidden_size.into()));
            }
        };
        if !head_dim.is_multiple_of(2) || head_dim > limits::MAX_HEAD_DIM {
            let expected = format!("an even number up to {}", limits::MAX_HEAD_DIM);
            return Err(wrong(FIELD, expected, &head_dim.into()));
        }
        Ok(head_dim)
    }

    fn number(
        &self,
        field: &'static str,
        default: f64,
        expected: &str,
        legal: impl Fn(f64) -> bool,
    ) -> Result<f64, ConfigError> {
        number(field, self.get(field), expected, legal).map(|v| v.unwrap_or(default))
    }

    /// `rope_theta` at the top, or inside the `rope_parameters` of newer versions.
    fn rope_theta(&self) -> Result<f64, ConfigError> {
        const EXPECTED: &str = "a number from 1 to 1e12";
        let legal = |v: f64| (1.0..=1e12).contains(&v);
        let mut theta = number("rope_theta", self.get("rope_theta"), EXPECTED, legal)?;
        for field in ["rope_parameters", "rope_scaling"] {
            let Some(value) = self.get(field) else {
                continue;
            };
            let Value::Object(rope) = value else {
                return Err(wrong(field, "an object or null", value));
            };
            let kind = rope.get("rope_type").or_else(|| rope.get("type"));
            if let Some(kind) = kind.filter(|kind| !kind.is_null() && *kind != "default") {
                return Err(ConfigError::Rope {
                    field,
                    found: show(kind),
                });
            }
            // Without a type, anything but the base would still be a scaled form.
            let plain = |key: &str| matches!(key, "rope_type" | "type" | "rope_theta");
            if kind.is_none()
                && let Some(key) = rope.keys().find(|key| !plain(key))
            {
                return Err(ConfigError::Rope {
                    field,
                    found: format!("with `{}`", shorten(key)),
                });
            }
            let inner = rope.get("rope_theta").filter(|v| !v.is_null());
            theta = number("rope_theta", inner, EXPECTED, legal)?.or(theta);
        }
        Ok(theta.unwrap_or(1e6))
    }

    fn token(
        &self,
        field: &'static str,
        default: u32,
        vocab_size: usize,
    ) -> Result<u32, ConfigError> {
        match self.get(field) {
            None => token(field, &default.into(), vocab_size),
            Some(value) => token(field, value, vocab_size),
        }
    }

    fn eos(&self, vocab_size: usize) -> Result<Vec<u32>, ConfigError> {
        const FIELD: &str = "eos_token_id";
        match self.0.get(FIELD) {
            None => Ok(vec![2]),
            Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(list)) => list
                .iter()
                .map(|value| token(FIELD, value, vocab_size))
                .collect(),
            Some(value) => Ok(vec![token(FIELD, value, vocab_size)?]),
        }
    }

    fn flag(&self, field: &'static str, default: bool) -> Result<bool, ConfigError> {
        match self.get(field) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(wrong(field, "true or false", value)),
        }
    }
}

fn number(
    field: &'static str,
    value: Option<&Value>,
    expected: &str,
    legal: impl Fn(f64) -> bool,
) -> Result<Option<f64>, ConfigError> {
    let Some(value) = value else { return Ok(None) };
    value
        .as_f64()
        .filter(|&v| legal(v))
        .map(Some)
        .ok_or_else(|| wrong(field, expected, value))
}

fn token(field: &'static str, value: &Value, vocab_size: usize) -> Result<u32, ConfigError> {
    value
        .as_u64()
        .filter(|&id| id < vocab_size as u64)
        .and_then(|id| u32::try_from(id).ok())
        .ok_or_else(|| wrong(field, format!("a token id below {vocab_size}"), value))
}

fn wrong(field: &'static str, expected: impl Into<String>, found: &Value) -> ConfigError {
    ConfigError::Value {
        field,
        expected: expected.into(),
        found: show(found),
    }
}

fn show(value: &Value) -> String {
    shorten(&value.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(fields: Value) -> Result<ModelSpec, ConfigError> {
        let mut config = json!({ "model_type": "mixtral" });
        for (name, value) in fields.as_object().unwrap() {
            config[name] = value.clone();
        }
        ModelSpec::from_config_json(config.to_string().as_bytes())
    }

    #[test]
    fn missing_fields_have_the_defaults_of_mixtral_8x7b() {
        let config = read(json!({})).unwrap();
        let expected = ModelSpec {
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
            ..ModelSpec::mixtral()
        };
        assert_eq!(config, expected);
        assert_eq!((config.q_size(), config.kv_size()), (4096, 1024));
    }

    #[test]
    fn a_head_may_be_wider_than_its_share_of_the_stream() {
        let config = read(json!({ "head_dim": 256, "sliding_window": 4096 })).unwrap();
        assert_eq!((config.q_size(), config.kv_size()), (8192, 2048));
        assert_eq!(config.sliding_window, Some(4096));
    }

    #[test]
    fn null_key_value_heads_mean_one_for_every_query_head() {
        let config = read(json!({ "num_key_value_heads": null })).unwrap();
        assert_eq!(config.n_kv_heads, 32);
    }

    #[test]
    fn a_text_may_end_in_one_several_or_no_tokens() {
        for (value, expected) in [
            (json!(7), vec![7]),
            (json!([2, 9]), vec![2, 9]),
            (Value::Null, vec![]),
        ] {
            let config = read(json!({ "eos_token_id": value })).unwrap();
            assert_eq!(config.eos_token_ids, expected);
        }
    }

    #[test]
    fn the_rotary_base_may_stand_where_newer_versions_put_it() {
        for fields in [
            json!({ "rope_theta": 5e5 }),
            json!({ "rope_theta": 500_000, "rope_scaling": null }),
            json!({ "rope_parameters": { "rope_type": "default", "rope_theta": 5e5 } }),
            json!({ "rope_parameters": { "rope_theta": 5e5 } }),
            json!({ "rope_theta": 5e5, "rope_scaling": { "type": "default" } }),
        ] {
            assert_eq!(read(fields.clone()).unwrap().rope_theta, 5e5, "{fields}");
        }
    }

    #[test]
    fn a_default_is_held_to_the_limits_too() {
        let message = read(json!({ "num_local_experts": 1 }))
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            "`num_experts_per_tok`: expected an integer from 1 to 1, found 2"
        );
    }
}
