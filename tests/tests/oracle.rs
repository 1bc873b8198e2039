//! The forward pass against candle-transformers' own Mixtral on the same weights, dequantized.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::mixtral;
use octet_engine::checkpoint::{Checkpoint, ExpertId};
use octet_engine::experts::{ExpertOptions, Experts};
use octet_engine::model::{Decoder, Logits};
use octet_engine::tokenizer::TokenId;
use octet_kernels::{Matrix, Pool, Precision};
use serde_json::json;

fn matrix(w: Matrix<'_>) -> Tensor {
    let mut out = vec![0f32; w.n() * w.k()];
    w.dequantize_rows(0, &mut out);
    Tensor::from_vec(out, (w.n(), w.k()), &Device::Cpu).expect("a tensor")
}

fn f16_matrix(bytes: &[u8], rows: usize) -> Tensor {
    let value = |b: &[u8]| half::f16::from_le_bytes([b[0], b[1]]).to_f32();
    let values: Vec<f32> = bytes.chunks_exact(2).map(value).collect();
    let columns = values.len() / rows;
    Tensor::from_vec(values, (rows, columns), &Device::Cpu).expect("a tensor")
}

fn vector(values: &[f32]) -> Tensor {
    Tensor::from_slice(values, values.len(), &Device::Cpu).expect("a tensor")
}

fn oracle(checkpoint: &Checkpoint) -> mixtral::Model {
    let c = checkpoint.spec();
    let mut tensors = HashMap::new();
    let mut put = |name: String, tensor: Tensor| tensors.insert(name, tensor);
    put(
        "model.embed_tokens.weight".into(),
        f16_matrix(checkpoint.embedding().f16().expect("f16"), c.vocab_size),
    );
    put(
        "lm_head.weight".into(),
        f16_matrix(checkpoint.output().f16().expect("f16"), c.vocab_size),
    );
    put("model.norm.weight".into(), vector(checkpoint.final_norm()));
    for layer in 0..c.n_layers {
        let trunk = checkpoint.layer(layer);
        let name = |rest: &str| format!("model.layers.{layer}.{rest}");
        put(
            name("input_layernorm.weight"),
            vector(trunk.input_layernorm),
        );
        put(
            name("post_attention_layernorm.weight"),
            vector(trunk.post_attention_layernorm),
        );
        put(
            name("block_sparse_moe.gate.weight"),
            f16_matrix(trunk.gate.f16().expect("f16"), c.n_experts),
        );
        put(name("self_attn.q_proj.weight"), matrix(trunk.q_proj));
        put(name("self_attn.k_proj.weight"), matrix(trunk.k_proj));
        put(name("self_attn.v_proj.weight"), matrix(trunk.v_proj));
        put(name("self_attn.o_proj.weight"), matrix(trunk.o_proj));
        for expert in 0..c.n_experts {
            let id = ExpertId {
                layer: layer as u16,
                expert: expert as u16,
            };
            let weights = checkpoint.expert_mapped(id);
            for (part, w) in [("w1", weights.w1), ("w2", weights.w2), ("w3", weights.w3)] {
                let part = format!("block_sparse_moe.experts.{expert}.{part}.weight");
                put(name(&part), matrix(w));
            }
        }
    }
    let config = json!({
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads,
        "num_key_value_heads": c.n_kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": c.max_positions,
        "rms_norm_eps": c.rms_norm_eps,
        "rope_theta": c.rope_theta,
        "sliding_window": c.max_positions,
        "num_experts_per_tok": c.top_k,
        "num_local_experts": c.n_experts,
        "use_flash_attn": false,
    });
    let config: mixtral::Config = serde_json::from_value(config).expect("a config");
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    mixtral::Model::new(&config, weights).expect("a complete model")
}

#[test]
fn logits_equal_those_of_candles_mixtral() {
    for name in ["tiny-2bit", "tiny-3bit"] {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("fixtures")
            .join(name);
        let checkpoint = Arc::new(Checkpoint::open(&dir).expect("a valid checkpoint"));
        let mut oracle = oracle(&checkpoint);
        let experts =
            Experts::new(Arc::clone(&checkpoint), ExpertOptions::default()).expect("mapped");
        let model = Decoder::new(checkpoint, experts, Pool::new(2), Precision::Exact);

        let vocab = model.spec().vocab_size as u32;
        let tokens: Vec<u32> = (0..40u32).map(|i| (i * 97 + 13) % vocab).collect();
        let mut session = model.session(tokens.len());
        for (position, &token) in tokens.iter().enumerate() {
            let input = Tensor::new(&[[token]], &Device::Cpu).expect("a tensor");
            let expected = oracle.forward(&input, position).expect("a pass");
            let expected: Vec<f32> = expected
                .flatten_all()
                .and_then(|t| t.to_vec1())
                .expect("logits");
            let go_on = &mut |_| ControlFlow::Continue(());
            let logits = model.forward(&mut session, &[TokenId(token)], Logits::Last, go_on);
            let logits = logits.expect("a pass");
            let scale = expected.iter().map(|v| v * v).sum::<f32>().sqrt();
            let off = logits
                .iter()
                .zip(&expected)
                .map(|(a, b)| (a - b) * (a - b))
                .sum::<f32>();
            // Only the f16 KV cache and the order of sums differ.
            let relative = off.sqrt() / scale;
            assert!(
                relative < 2e-3,
                "{name}, position {position}: off by {relative}"
            );
        }
    }
}
