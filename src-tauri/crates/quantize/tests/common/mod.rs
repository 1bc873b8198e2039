//! Small float Mixtral checkpoints with random weights, in every form that transformers saves.
// Every test file uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// How a source keeps its experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `block_sparse_moe.experts.E.w1.weight`, ...
    Separate,
    /// `mlp.experts.E.w1.weight`, ...
    SeparateInMlp,
    /// `mlp.experts.gate_up_proj` and `down_proj`, (experts, out, in).
    Fused,
    /// The same, (experts, in, out).
    FusedTransposed,
}

/// The sizes of a model.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub hidden: usize,
    pub intermediate: usize,
    pub layers: usize,
    pub experts: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub vocab: usize,
}

/// Large enough for groups of 64 with 64 to a scale in attention, 16 with 128 in experts.
pub const SMALL: Sizes = Sizes {
    hidden: 128,
    intermediate: 256,
    layers: 2,
    experts: 2,
    heads: 2,
    kv_heads: 1,
    vocab: 300,
};

/// Large enough for headers only.
pub const TINY: Sizes = Sizes {
    hidden: 16,
    intermediate: 32,
    layers: 1,
    experts: 2,
    heads: 2,
    kv_heads: 1,
    vocab: 8,
};

#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// A checkpoint in memory, experts apart.
#[derive(Debug, Clone)]
pub struct Model {
    pub config: Value,
    pub tensors: BTreeMap<String, Tensor>,
    sizes: Sizes,
}

impl Model {
    /// Random weights. All of them are multiples of 1/1024 below 1/4, norms multiples of 1/128 near
    /// 1, which f16, bf16 and f32 hold exactly: a model is the same in each of them.
    pub fn new(sizes: Sizes, seed: u64) -> Self {
        let Sizes {
            hidden,
            intermediate,
            layers,
            experts,
            heads,
            kv_heads,
            vocab,
        } = sizes;
        let config = json!({
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "num_local_experts": experts,
            "num_experts_per_tok": 2,
            "vocab_size": vocab,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 256,
            "tie_word_embeddings": false,
            "dtype": "bfloat16",
        });
        let kv = hidden / heads * kv_heads;
        let mut shapes: Vec<(String, Vec<usize>)> = vec![
            ("model.embed_tokens.weight".into(), vec![vocab, hidden]),
            ("lm_head.weight".into(), vec![vocab, hidden]),
            ("model.norm.weight".into(), vec![hidden]),
        ];
        for layer in 0..layers {
            let mut push = |name: &str, shape: &[usize]| {
                shapes.push((
                    format!("model.layers.{layer}.{name}.weight"),
                    shape.to_vec(),
                ));
            };
            push("input_layernorm", &[hidden]);
            push("post_attention_layernorm", &[hidden]);
            push("self_attn.q_proj", &[hidden, hidden]);
            push("self_attn.k_proj", &[kv, hidden]);
            push("self_attn.v_proj", &[kv, hidden]);
            push("self_attn.o_proj", &[hidden, hidden]);
            push("block_sparse_moe.gate", &[experts, hidden]);
            for e in 0..experts {
                let name = |part| format!("block_sparse_moe.experts.{e}.{part}");
                push(&name("w1"), &[intermediate, hidden]);
                push(&name("w2"), &[hidden, intermediate]);
                push(&name("w3"), &[intermediate, hidden]);
            }
        }
        let mut random = SplitMix(seed);
        let tensors = shapes
            .into_iter()
            .map(|(name, shape)| {
                let value = |w: f32| match name.contains("norm") {
                    true => 1.0 + (w * 128.0).trunc() / 128.0,
                    false => w,
                };
                let values = (0..shape.iter().product())
                    .map(|_| value(random.weight()))
                    .collect();
                (name, Tensor { shape, values })
            })
            .collect();
        Self {
            config,
            tensors,
            sizes,
        }
    }

    /// The tensors as `form` has them.
    pub fn tensors_as(&self, form: Form) -> BTreeMap<String, Tensor> {
        let mut tensors = self.tensors.clone();
        if form == Form::Separate {
            return tensors;
        }
        let renamed: Vec<String> = tensors
            .keys()
            .filter(|name| name.contains(".block_sparse_moe."))
            .cloned()
            .collect();
        for name in renamed {
            let tensor = tensors.remove(&name).expect("there");
            tensors.insert(name.replace(".block_sparse_moe.", ".mlp."), tensor);
        }
        if form == Form::SeparateInMlp {
            return tensors;
        }
        for layer in 0..self.sizes.layers {
            let prefix = format!("model.layers.{layer}.mlp.experts");
            let mut fused = [Vec::new(), Vec::new()];
            for e in 0..self.sizes.experts {
                let mut take = |part: &str| {
                    let name = format!("{prefix}.{e}.{part}.weight");
                    tensors.remove(&name).expect("there").values
                };
                let (w1, w2, w3) = (take("w1"), take("w2"), take("w3"));
                fused[0].extend([w1, w3].concat());
                fused[1].extend(w2);
            }
            let (h, i, e) = (
                self.sizes.hidden,
                self.sizes.intermediate,
                self.sizes.experts,
            );
            let shapes = [("gate_up_proj", 2 * i, h), ("down_proj", h, i)];
            for ((name, out, inner), mut values) in shapes.into_iter().zip(fused) {
                let mut shape = vec![e, out, inner];
                if form == Form::FusedTransposed {
                    shape = vec![e, inner, out];
                    values = values
                        .chunks(out * inner)
                        .flat_map(|m| transposed(m, out, inner))
                        .collect();
                }
                tensors.insert(format!("{prefix}.{name}"), Tensor { shape, values });
            }
        }
        tensors
    }

    /// Writes the checkpoint; several shards get an index.
    pub fn write(&self, dir: &Path, form: Form, dtype: Dtype, shards: usize) {
        let tensors = self.tensors_as(form);
        std::fs::create_dir_all(dir).expect("created");
        std::fs::write(dir.join("config.json"), self.config.to_string()).expect("written");
        let mut files: Vec<BTreeMap<String, Tensor>> = vec![BTreeMap::new(); shards];
        for (i, (name, tensor)) in tensors.into_iter().enumerate() {
            files[i % shards].insert(name, tensor);
        }
        if shards == 1 {
            write_tensors(&dir.join("model.safetensors"), &files[0], dtype);
            return;
        }
        let mut weight_map = serde_json::Map::new();
        for (i, tensors) in files.iter().enumerate() {
            let file = format!("model-{:05}-of-{shards:05}.safetensors", i + 1);
            write_tensors(&dir.join(&file), tensors, dtype);
            for name in tensors.keys() {
                weight_map.insert(name.clone(), file.clone().into());
            }
        }
        let index = json!({ "metadata": {}, "weight_map": weight_map });
        std::fs::write(dir.join("model.safetensors.index.json"), index.to_string())
            .expect("written");
    }
}

/// Writes tensors with elements of type `dtype`.
pub fn write_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>, dtype: Dtype) {
    let bytes: Vec<(&String, &[usize], Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| (name, tensor.shape.as_slice(), encode(&tensor.values, dtype)))
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(dtype, shape.to_vec(), bytes).expect("a tensor");
        (name.as_str(), view)
    });
    safetensors::serialize_to_file(views, None, path).expect("written");
}

fn encode(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Dtype::F16 => values
            .iter()
            .flat_map(|&v| f16::from_f32(v).to_le_bytes())
            .collect(),
        Dtype::BF16 => values
            .iter()
            .flat_map(|&v| bf16::from_f32(v).to_le_bytes())
            .collect(),
        // Only the length matters of what is to be refused.
        _ => vec![0; values.len() * dtype.bitsize() / 8],
    }
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns)
        .flat_map(|c| (0..rows).map(move |r| values[r * columns + c]))
        .collect()
}

/// Every file of a folder by name, with its bytes.
pub fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    std::fs::read_dir(dir)
        .expect("a folder")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = PathBuf::from(path.file_name().expect("a name"));
            (name, std::fs::read(path).expect("a file"))
        })
        .collect()
}

struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Near to normal, from the sum of four uniform values, between -252/1024 and 252/1024.
    fn weight(&mut self) -> f32 {
        let bits = self.next();
        let sum: i32 = (0..4).map(|i| (bits >> (16 * i) & 0x7f) as i32).sum();
        (sum - 254).clamp(-252, 252) as f32 / 1024.0
    }
}
