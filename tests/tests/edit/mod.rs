//! Checkpoint files taken apart, changed and put together again.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs;
use std::path::Path;

use octet_engine::synth::{SynthOptions, synth};
use serde_json::{Value, json};

/// The trunk of [`write_small`]'s checkpoint.
pub const TRUNK: &str = "model-00001-of-00005.safetensors";
/// Its expert 0 of layer 0.
pub const EXPERT: &str = "model-00002-of-00005.safetensors";
/// Its index.
pub const INDEX: &str = "model.safetensors.index.json";

/// A model of 2 layers with 2 experts, 64 wide.
pub fn small_config() -> Value {
    json!({
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 2,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 256,
        "vocab_size": 96,
    })
}

/// Writes a random checkpoint of `config` to `dir`, which must be empty.
pub fn write_checkpoint(config: &Value, options: &SynthOptions, dir: &Path) {
    let config_dir = tempfile::tempdir().expect("a temporary folder");
    let config_path = config_dir.path().join("config.json");
    fs::write(&config_path, config.to_string()).expect("write config.json");
    synth(&config_path, dir, options, &mut |_, _| {}).expect("write a checkpoint");
}

/// Writes the small random checkpoint to `dir`, which must be empty.
pub fn write_small(dir: &Path) {
    write_checkpoint(&small_config(), &SynthOptions::default(), dir);
}

/// One tensor of a file.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<u64>,
    pub data: Vec<u8>,
}

/// A safetensors file in memory; the order of `tensors` is the order of their data.
pub struct TensorFile {
    pub tensors: Vec<Tensor>,
    /// Bytes left free in front of each tensor's data.
    pub gap_bytes: usize,
}

impl TensorFile {
    pub fn load(path: &Path) -> Self {
        let bytes = fs::read(path).expect("read a tensor file");
        let (length, rest) = bytes.split_first_chunk::<8>().expect("a length");
        let (json, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
        let header: serde_json::Map<String, Value> =
            serde_json::from_slice(json).expect("a JSON header");
        let numbers = |value: &Value| -> Vec<u64> {
            value
                .as_array()
                .expect("a list")
                .iter()
                .map(|v| v.as_u64().expect("a number"))
                .collect()
        };
        let mut tensors: Vec<(u64, Tensor)> = header
            .into_iter()
            .map(|(name, info)| {
                let offsets = numbers(&info["data_offsets"]);
                let tensor = Tensor {
                    name,
                    dtype: info["dtype"].as_str().expect("a type").to_owned(),
                    shape: numbers(&info["shape"]),
                    data: data[offsets[0] as usize..offsets[1] as usize].to_vec(),
                };
                (offsets[0], tensor)
            })
            .collect();
        tensors.sort_by_key(|(start, _)| *start);
        Self {
            tensors: tensors.into_iter().map(|(_, tensor)| tensor).collect(),
            gap_bytes: 0,
        }
    }

    pub fn save(&self, path: &Path) {
        let mut header = serde_json::Map::new();
        let mut data = Vec::new();
        for tensor in &self.tensors {
            data.resize(data.len() + self.gap_bytes, 0xee);
            let start = data.len();
            data.extend_from_slice(&tensor.data);
            let info = json!({
                "dtype": tensor.dtype,
                "shape": tensor.shape,
                "data_offsets": [start, data.len()],
            });
            header.insert(tensor.name.clone(), info);
        }
        let header = Value::from(header).to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&data);
        fs::write(path, bytes).expect("write a tensor file");
    }

    pub fn get_mut(&mut self, name: &str) -> &mut Tensor {
        self.tensors
            .iter_mut()
            .find(|tensor| tensor.name == name)
            .expect("a tensor of this name")
    }
}

/// Loads the file at `path`, lets `change` at it and writes it back.
pub fn edit(path: &Path, change: impl FnOnce(&mut TensorFile)) {
    let mut file = TensorFile::load(path);
    change(&mut file);
    file.save(path);
}
