//! The float checkpoint: a folder as transformers saves it, found, understood and checked.
//!
//! Only headers are read here. `tensors` tells which bytes are which matrix, `read` turns them
//! into numbers.

mod files;
mod fingerprint;
mod read;
mod tensors;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use octet_checkpoint::spec::ModelSpec;
use octet_checkpoint::{
    CONFIG_FILE, CheckpointError, TensorFile, read_small, shorten, without_byte_order_mark,
};
use serde_json::{Map, Value};

use crate::error::QuantizeError;
pub(crate) use tensors::{ExpertForm, ExpertPart, MatrixSource, Roles, TensorSource};

const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// An open source: its configuration, its files, and where every tensor is.
#[derive(Debug)]
pub(crate) struct Source {
    dir: PathBuf,
    config: ModelSpec,
    config_json: Map<String, Value>,
    files: Vec<TensorFile>,
    /// Tensor name to the number of its file.
    places: BTreeMap<String, usize>,
}

impl Source {
    /// Opens the folder `dir` and reads the headers of all its tensor files.
    pub(crate) fn open(dir: &Path) -> Result<Self, QuantizeError> {
        files::refuse_other_formats(dir)?;
        let (config, config_json) = read_config(dir)?;
        let (files, places) = files::open(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            config,
            config_json,
            files,
            places,
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn spec(&self) -> &ModelSpec {
        &self.config
    }

    /// `config.json` as it is.
    pub(crate) fn config_json(&self) -> &Map<String, Value> {
        &self.config_json
    }

    pub(crate) fn files(&self) -> &[TensorFile] {
        &self.files
    }
}

/// Refuses checkpoints whose tensor names show that they are of another kind.
fn refuse_other_names<'a>(
    dir: &Path,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), QuantizeError> {
    let refuse = |why: String| Err(refusal(dir, why));
    for name in names {
        let shown = shorten(name);
        if name.ends_with(".W_q") {
            return refuse(format!(
                "it is HQQ-quantized already (`{shown}`); use it as it is, with octet chat --model"
            ));
        }
        let quantized = [
            ".qweight",
            ".qzeros",
            ".scales",
            ".weight_scale",
            ".weight_scale_inv",
            ".weight_packed",
            ".absmax",
            ".quant_map",
        ];
        if quantized.iter().any(|end| name.ends_with(end)) {
            return refuse(format!(
                "it is quantized already (`{shown}`); choose the original with f32, f16 or bf16 \
                 weights"
            ));
        }
        if name == "tok_embeddings.weight" {
            return refuse(
                "it is in Mistral's own layout; choose the version for transformers, whose files \
                 are called model-00001-of-... and which has a model.safetensors.index.json"
                    .into(),
            );
        }
        if name.contains(".lora_") {
            return refuse(format!(
                "it is a LoRA adapter (`{shown}`); merge it into its base model first"
            ));
        }
    }
    Ok(())
}

pub(crate) fn refusal(dir: &Path, why: impl Into<String>) -> QuantizeError {
    QuantizeError::Source {
        dir: dir.to_owned(),
        why: why.into(),
    }
}

/// Reads `config.json`, which has to describe a Mixtral model that is not quantized.
fn read_config(dir: &Path) -> Result<(ModelSpec, Map<String, Value>), QuantizeError> {
    let path = dir.join(CONFIG_FILE);
    let Some(bytes) = read_small(&path, MAX_CONFIG_BYTES)? else {
        let why = format!("{CONFIG_FILE} is missing; choose the folder of a Mixtral model");
        return Err(refusal(dir, why));
    };
    let config = ModelSpec::from_config_json(&bytes)
        .map_err(|source| CheckpointError::Config { path, source })?;
    let json: Map<String, Value> = serde_json::from_slice(without_byte_order_mark(&bytes))
        .map_err(|error| refusal(dir, format!("{CONFIG_FILE}: {error}")))?;
    if let Some(quantization) = json.get("quantization_config").filter(|v| !v.is_null()) {
        let method = quantization.get("quant_method").and_then(Value::as_str);
        return Err(refusal(
            dir,
            format!(
                "it is quantized already ({}, by `quantization_config` of {CONFIG_FILE}); choose \
                 the original with f32, f16 or bf16 weights",
                method.map_or_else(|| "in some way".to_owned(), shorten),
            ),
        ));
    }
    Ok((config, json))
}
