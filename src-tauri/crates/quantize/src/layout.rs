//! The files of the output: which tensors, in which order, at which bytes.
//!
//! All of it follows from the configuration and the options, so that sizes are known before any
//! work is done and a file's tensors can be written in any order. The order inside a file is that
//! of the demo's files: wide elements first, then by name.

use std::collections::BTreeMap;

use octet_engine::spec::ModelSpec;
use octet_kernels::Bits;
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::hqq::MatrixSpec;

pub(crate) const EMBED_TOKENS: &str = "model.embed_tokens.weight";
pub(crate) const LM_HEAD: &str = "lm_head.weight";
pub(crate) const FINAL_NORM: &str = "model.norm.weight";

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorLayout {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// First byte in the file.
    pub(crate) start: u64,
}

impl TensorLayout {
    pub(crate) fn new(name: String, dtype: Dtype, shape: Vec<usize>) -> Self {
        Self {
            name,
            dtype,
            shape,
            start: 0,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64 * self.dtype.bitsize() as u64 / 8
    }
}

/// A file to be written: its header, then its tensors one after the other.
#[derive(Debug)]
pub(crate) struct FileLayout {
    pub(crate) header: Vec<u8>,
    /// In the order of the file.
    pub(crate) tensors: Vec<TensorLayout>,
}

impl FileLayout {
    /// The trunk: embeddings, output matrix, norms, routers, attention.
    pub(crate) fn trunk(config: &ModelSpec, attention: &MatrixSpec) -> Self {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let dense =
            |name: String, shape: &[usize]| TensorLayout::new(name, Dtype::F16, shape.to_vec());
        let mut tensors = vec![
            dense(EMBED_TOKENS.into(), &[vocab, hidden]),
            dense(FINAL_NORM.into(), &[hidden]),
        ];
        if !config.tie_word_embeddings {
            tensors.push(dense(LM_HEAD.into(), &[vocab, hidden]));
        }
        for layer in 0..config.n_layers {
            for name in layer_norms(layer) {
                tensors.push(dense(name, &[hidden]));
            }
            tensors.push(dense(router(layer), &[config.n_experts, hidden]));
            for (name, (n, k)) in attention_matrices(config, layer) {
                tensors.extend(matrix(&name, (n, k), attention));
            }
        }
        Self::new(tensors)
    }

    /// One expert, with bare names; the same layout serves all.
    pub(crate) fn expert(config: &ModelSpec, spec: &MatrixSpec) -> Self {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let tensors = [
            ("w1", (intermediate, hidden)),
            ("w2", (hidden, intermediate)),
            ("w3", (intermediate, hidden)),
        ];
        Self::new(
            tensors
                .into_iter()
                .flat_map(|(name, shape)| matrix(name, shape, spec))
                .collect(),
        )
    }

    fn new(mut tensors: Vec<TensorLayout>) -> Self {
        tensors.sort_by(|a, b| {
            let by_width = b.dtype.bitsize().cmp(&a.dtype.bitsize());
            by_width.then_with(|| a.name.cmp(&b.name))
        });
        let mut json = Vec::from(b"{");
        let mut start = 0;
        for tensor in &tensors {
            let end = start + tensor.bytes();
            let separator = if start == 0 { "" } else { "," };
            let TensorLayout {
                name, dtype, shape, ..
            } = tensor;
            let shape = Value::from(shape.clone());
            json.extend_from_slice(
                format!(
                    r#"{separator}"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#
                )
                .as_bytes(),
            );
            start = end;
        }
        json.push(b'}');
        json.resize(json.len().next_multiple_of(8), b' ');
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.append(&mut json);
        let mut start = header.len() as u64;
        for tensor in &mut tensors {
            tensor.start = start;
            start += tensor.bytes();
        }
        Self { header, tensors }
    }

    /// Length of the file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.header.len() as u64 + self.data_bytes()
    }

    pub(crate) fn data_bytes(&self) -> u64 {
        self.tensors.iter().map(TensorLayout::bytes).sum()
    }

    /// The tensor `name`, which is one of this file's.
    pub(crate) fn tensor(&self, name: &str) -> &TensorLayout {
        self.tensors
            .iter()
            .find(|tensor| tensor.name == name)
            .expect("BUG: a tensor that the layout does not have")
    }
}

/// The two norms of a layer.
pub(crate) fn layer_norms(layer: usize) -> [String; 2] {
    ["input_layernorm", "post_attention_layernorm"]
        .map(|name| format!("model.layers.{layer}.{name}.weight"))
}

/// The router of a layer.
pub(crate) fn router(layer: usize) -> String {
    format!("model.layers.{layer}.block_sparse_moe.gate.weight")
}

/// The attention projections of a layer and their shapes.
pub(crate) fn attention_matrices(
    config: &ModelSpec,
    layer: usize,
) -> [(String, (usize, usize)); 4] {
    let (hidden, q, kv) = (config.hidden_size, config.q_size(), config.kv_size());
    [
        ("q_proj", (q, hidden)),
        ("k_proj", (kv, hidden)),
        ("v_proj", (kv, hidden)),
        ("o_proj", (hidden, q)),
    ]
    .map(|(name, shape)| (format!("model.layers.{layer}.self_attn.{name}"), shape))
}

/// The tensors of a quantized matrix; `spec` suits it.
fn matrix(name: &str, (n, k): (usize, usize), spec: &MatrixSpec) -> Vec<TensorLayout> {
    let n_groups = n * k / spec.group_size;
    let w_q = match spec.bits {
        Bits::B3 => Dtype::I32,
        _ => Dtype::U8,
    };
    let packed_rows = spec.bits.packed_rows(spec.group_size);
    let mut tensors = vec![("W_q", w_q, vec![packed_rows, n_groups])];
    match spec.scale_group_size {
        None => tensors.extend([
            ("meta.scale", Dtype::F16, vec![1, n_groups]),
            ("meta.zero", Dtype::F16, vec![1, n_groups]),
        ]),
        Some(scale_group) => {
            let n_meta = n_groups / scale_group;
            tensors.extend([
                ("meta.scale_q", Dtype::U8, vec![scale_group, n_meta]),
                ("meta.meta_scale.scale", Dtype::F16, vec![1, n_meta]),
                ("meta.meta_scale.zero", Dtype::F16, vec![1, n_meta]),
                ("meta.zero_q", Dtype::U8, vec![1, n_groups]),
                ("meta.meta_zero.scale", Dtype::F16, vec![]),
                ("meta.meta_zero.zero", Dtype::F16, vec![]),
            ]);
        }
    }
    tensors
        .into_iter()
        .map(|(part, dtype, shape)| TensorLayout::new(format!("{name}.{part}"), dtype, shape))
        .collect()
}

/// The name of file `file` (from 0) of `n_files`.
pub(crate) fn file_name(file: usize, n_files: usize) -> String {
    format!("model-{:05}-of-{n_files:05}.safetensors", file + 1)
}

/// The bytes of the index.
pub(crate) fn index(config: &ModelSpec, trunk: &FileLayout, expert: &FileLayout) -> Vec<u8> {
    let n_experts = config.n_layers * config.n_experts;
    let n_files = 1 + n_experts;
    let mut weight_map: BTreeMap<String, String> = trunk
        .tensors
        .iter()
        .map(|tensor| (tensor.name.clone(), file_name(0, n_files)))
        .collect();
    for i in 0..n_experts {
        let (layer, number) = (i / config.n_experts, i % config.n_experts);
        let prefix = format!("model.layers.{layer}.block_sparse_moe.experts.{number}");
        let file = file_name(1 + i, n_files);
        for tensor in &expert.tensors {
            weight_map.insert(format!("{prefix}.{}", tensor.name), file.clone());
        }
    }
    let total_size = trunk.data_bytes() + n_experts as u64 * expert.data_bytes();
    let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
    format!("{index:#}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use octet_engine::checkpoint::INDEX_FILE;
    use octet_engine::synth::{SynthOptions, synth};

    use super::*;
    use crate::options::Options;

    #[test]
    fn files_are_laid_out_as_random_checkpoints_of_the_same_shape_are() {
        let dir = tempfile::tempdir().unwrap();
        let config = json!({
            "model_type": "mixtral", "hidden_size": 256, "intermediate_size": 512,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "num_local_experts": 4, "vocab_size": 512, "max_position_embeddings": 64,
        });
        let path = dir.path().join("config.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let out = dir.path().join("out");
        synth(&path, &out, &SynthOptions::default(), &mut |_, _| {}).unwrap();

        let config = ModelSpec::from_config_json(config.to_string().as_bytes()).unwrap();
        let options = Options::default();
        let trunk = FileLayout::trunk(&config, &options.spec(options.attention));
        let expert = FileLayout::expert(&config, &options.spec(options.experts));
        for (file, layout) in [(0, &trunk), (1, &expert)] {
            let bytes = std::fs::read(out.join(file_name(file, 9))).unwrap();
            assert_eq!(bytes.len() as u64, layout.file_bytes());
            assert!(bytes.starts_with(&layout.header));
        }
        let expected = std::fs::read(out.join(INDEX_FILE)).unwrap();
        assert_eq!(index(&config, &trunk, &expert), expected);
    }
}
