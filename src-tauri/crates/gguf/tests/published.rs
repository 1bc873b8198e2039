//! Headers of the shapes of published models, in front of holes as large as their weights.
//! Windows would take the space on the disk.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use common::open_bytes;
use common::raw::Raw;
use octet_gguf::{Gguf, Model, TensorType};
use tempfile::TempDir;

use TensorType::{F16, F32, MXFP4, Q4_K, Q5_K, Q6_K, Q8_0};

struct Shape {
    arch: &'static str,
    hidden: u64,
    ff: u64,
    experts: u64,
    used: u32,
    layers: u64,
    heads: u64,
    kv_heads: u64,
    head_dim: u64,
    vocab: u64,
    /// Gate and up, down, down in the layers that get more bits.
    expert_types: [TensorType; 3],
    /// Queries, keys, values and output.
    attention: [TensorType; 4],
    /// Output matrix and embeddings.
    ends: [TensorType; 2],
}

const MIXTRAL: Shape = Shape {
    arch: "llama",
    hidden: 4096,
    ff: 14336,
    experts: 8,
    used: 2,
    layers: 32,
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
    vocab: 32_000,
    expert_types: [Q4_K, Q4_K, Q6_K],
    attention: [Q4_K, Q8_0, Q8_0, Q5_K],
    ends: [Q6_K, Q4_K],
};

const QWEN3_30B: Shape = Shape {
    arch: "qwen3moe",
    hidden: 2048,
    ff: 768,
    experts: 128,
    used: 8,
    layers: 48,
    heads: 32,
    kv_heads: 4,
    head_dim: 128,
    vocab: 151_936,
    expert_types: [Q4_K, Q4_K, Q6_K],
    attention: [Q4_K, Q4_K, Q6_K, Q4_K],
    ends: [Q6_K, Q4_K],
};

const GPT_OSS_120B: Shape = Shape {
    arch: "gpt-oss",
    hidden: 2880,
    ff: 2880,
    experts: 128,
    used: 4,
    layers: 36,
    heads: 64,
    kv_heads: 8,
    head_dim: 64,
    vocab: 201_088,
    expert_types: [MXFP4; 3],
    attention: [Q8_0; 4],
    ends: [Q8_0; 2],
};

const OLMOE: Shape = Shape {
    arch: "olmoe",
    hidden: 2048,
    ff: 1024,
    experts: 64,
    used: 8,
    layers: 16,
    heads: 16,
    kv_heads: 16,
    head_dim: 128,
    vocab: 50_304,
    expert_types: [F16; 3],
    attention: [F16; 4],
    ends: [F16; 2],
};

/// Adds tensors one behind the other.
struct Builder {
    raw: Raw,
    end: u64,
}

impl Builder {
    fn add(&mut self, name: &str, dims: &[u64], ty: TensorType) {
        let raw = std::mem::take(&mut self.raw);
        self.raw = raw.tensor(name, dims, ty.id(), self.end);
        let len = ty.row_bytes(dims[0]).unwrap() * dims[1..].iter().product::<u64>();
        self.end += len.next_multiple_of(32);
    }
}

impl Shape {
    fn header(&self) -> Raw {
        let key = |name: &str| format!("{}.{name}", self.arch);
        let number = |n: u64| u32::try_from(n).unwrap();
        let raw = Raw::default()
            .text("general.architecture", self.arch)
            .u32(&key("block_count"), number(self.layers))
            .u32(&key("context_length"), 32_768)
            .u32(&key("embedding_length"), number(self.hidden))
            .u32(&key("feed_forward_length"), 5000)
            .u32(&key("expert_feed_forward_length"), number(self.ff))
            .u32(&key("expert_count"), number(self.experts))
            .u32(&key("expert_used_count"), self.used)
            .u32(&key("attention.head_count"), number(self.heads))
            .u32(&key("attention.head_count_kv"), number(self.kv_heads))
            .u32(&key("attention.key_length"), number(self.head_dim))
            .f32(&key("attention.layer_norm_rms_epsilon"), 1e-6)
            .u32(&key("vocab_size"), number(self.vocab));
        if self.arch == "gpt-oss" {
            raw.u32(&key("attention.sliding_window"), 128)
        } else {
            raw
        }
    }

    fn open(&self) -> (Gguf, TempDir) {
        let mut all = Builder {
            raw: self.header(),
            end: 0,
        };
        let (hidden, vocab) = (self.hidden, self.vocab);
        all.add("output.weight", &[hidden, vocab], self.ends[0]);
        all.add("token_embd.weight", &[hidden, vocab], self.ends[1]);
        all.add("output_norm.weight", &[hidden], F32);
        for layer in 0..self.layers {
            self.add_layer(&mut all, layer);
        }
        let header = all.raw.bytes();
        let len = header.len().next_multiple_of(32) as u64 + all.end;
        open_bytes(&header, len).unwrap()
    }

    fn add_layer(&self, all: &mut Builder, layer: u64) {
        let mut add = |name: &str, dims: &[u64], ty| {
            all.add(&format!("blk.{layer}.{name}"), dims, ty);
        };
        let (hidden, ff, experts) = (self.hidden, self.ff, self.experts);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let [gate_up, down, more_down] = self.expert_types;
        // As llama-quantize chooses the layers that get more bits.
        let n = self.layers;
        let more = layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
        let down = if more { more_down } else { down };
        add("attn_norm.weight", &[hidden], F32);
        for ((name, rows), ty) in [("q", q), ("k", kv), ("v", kv)]
            .into_iter()
            .zip(self.attention)
        {
            add(&format!("attn_{name}.weight"), &[hidden, rows], ty);
        }
        add("attn_output.weight", &[q, hidden], self.attention[3]);
        add("ffn_gate_inp.weight", &[hidden, experts], F32);
        add("ffn_gate_exps.weight", &[hidden, ff, experts], gate_up);
        add("ffn_up_exps.weight", &[hidden, ff, experts], gate_up);
        add("ffn_down_exps.weight", &[ff, hidden, experts], down);
        let norm = if self.arch == "gpt-oss" {
            "post_attention_norm"
        } else {
            "ffn_norm"
        };
        add(&format!("{norm}.weight"), &[hidden], F32);
        match self.arch {
            "qwen3moe" => {
                add("attn_q_norm.weight", &[self.head_dim], F32);
                add("attn_k_norm.weight", &[self.head_dim], F32);
            }
            "olmoe" => {
                add("attn_q_norm.weight", &[q], F32);
                add("attn_k_norm.weight", &[kv], F32);
            }
            "gpt-oss" => {
                for (name, rows) in [("q", q), ("k", kv), ("v", kv), ("output", hidden)] {
                    add(&format!("attn_{name}.bias"), &[rows], F32);
                }
                add("attn_sinks.weight", &[self.heads], F32);
                add("ffn_gate_inp.bias", &[experts], F32);
                add("ffn_gate_exps.bias", &[ff, experts], F32);
                add("ffn_up_exps.bias", &[ff, experts], F32);
                add("ffn_down_exps.bias", &[hidden, experts], F32);
            }
            _ => {}
        }
    }
}

/// Length of the file in hundreds of MB, and the sizes of experts there are, in bytes.
fn sizes(shape: &Shape) -> (u64, Vec<u64>) {
    let (gguf, _dir) = shape.open();
    let model = Model::read(&gguf).unwrap();
    let experts: Vec<u64> = model
        .layers
        .iter()
        .flat_map(|layer| &layer.experts)
        .map(|expert| expert.len_bytes())
        .collect();
    assert_eq!(experts.len() as u64, shape.layers * shape.experts);
    let trunk: u64 = model.trunk.iter().map(|(_, info)| info.span.len).sum();
    // What is left is header and padding.
    let rest = gguf.len_bytes() - trunk - experts.iter().sum::<u64>();
    assert!(rest < 1 << 20, "{rest}");
    let mut kinds = experts;
    kinds.sort_unstable();
    kinds.dedup();
    ((gguf.len_bytes() + 50_000_000) / 100_000_000, kinds)
}

#[test]
fn published_models_have_their_published_sizes() {
    let bytes = |q4: u64, q6: u64| (14_336 * 4096 / 256) * (q4 * 144 + q6 * 210);
    assert_eq!(sizes(&MIXTRAL), (284, vec![bytes(3, 0), bytes(2, 1)]));
    assert_eq!(sizes(&QWEN3_30B), (186, vec![2_654_208, 3_059_712]));
    assert_eq!(sizes(&GPT_OSS_120B), (634, vec![13_219_200]));
    assert_eq!(sizes(&OLMOE), (138, vec![12_582_912]));
}
