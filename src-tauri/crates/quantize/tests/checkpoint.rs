//! Float checkpoints in, checkpoints of the demo's format out.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::mixtral;
use common::{Form, Model, SMALL, Sizes, contents};
use octet_checkpoint::spec::ModelSpec;
use octet_checkpoint::{Checkpoint, ExpertId, ExpertWeights};
use octet_engine::experts::{ExpertOptions, Experts};
use octet_engine::model::{Decoder, Logits};
use octet_engine::tokenizer::TokenId;
use octet_kernels::{Bits, Matrix, Pool, Precision};
use octet_quantize::{Options, PartOptions, Plan, Summary};
use safetensors::Dtype;
use serde_json::{Value, json};

/// The default, with scale groups that suit the small model.
fn options() -> Options {
    let mut options = Options {
        threads: 2,
        ..Options::default()
    };
    options.attention.scale_group_size = Some(64);
    options
}

/// 8 bits with plain scales: as near to the float model as it gets.
fn fine() -> Options {
    let part = PartOptions {
        bits: Bits::B8,
        group_size: 16,
        scale_group_size: None,
    };
    Options {
        experts: part,
        attention: part,
        ..options()
    }
}

fn quantize(source: &Path, out: &Path, options: &Options) -> Summary {
    Plan::new(source, options).unwrap().run(out, &()).unwrap()
}

/// Writes and quantizes a model; the folder holds `source` and `out`.
fn quantized(model: &Model, form: Form, options: &Options) -> (tempfile::TempDir, Summary) {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("out"));
    model.write(&source, form, Dtype::BF16, 1);
    let summary = quantize(&source, &out, options);
    (dir, summary)
}

#[test]
fn every_form_type_and_number_of_shards_gives_the_same_bytes() {
    let model = Model::new(SMALL, 1);
    let (dir, _) = quantized(&model, Form::Separate, &options());
    let expected = contents(&dir.path().join("out"));
    assert_eq!(
        expected.len(),
        1 + 4 + 2,
        "trunk, experts, configuration and index"
    );
    for (form, dtype, shards, threads) in [
        (Form::Separate, Dtype::F32, 5, 1),
        (Form::SeparateInMlp, Dtype::F16, 2, 3),
        (Form::Fused, Dtype::BF16, 3, 4),
        (Form::FusedTransposed, Dtype::F32, 1, 2),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (source, out) = (dir.path().join("source"), dir.path().join("out"));
        model.write(&source, form, dtype, shards);
        quantize(
            &source,
            &out,
            &Options {
                threads,
                ..options()
            },
        );
        assert!(
            contents(&out) == expected,
            "{form:?}, {dtype:?}, {shards} shards"
        );
    }
}

#[test]
fn square_fused_tensors_follow_the_other_one_or_the_convention() {
    // gate_up_proj is square in the first, down_proj in the second.
    for (hidden, intermediate) in [(128, 64), (128, 128)] {
        let model = Model::new(
            Sizes {
                hidden,
                intermediate,
                layers: 1,
                ..SMALL
            },
            2,
        );
        let options = Options {
            experts: PartOptions {
                scale_group_size: Some(64),
                ..options().experts
            },
            ..options()
        };
        let bytes = |form| contents(&quantized(&model, form, &options).0.path().join("out"));
        let expected = bytes(Form::Separate);
        for form in [Form::Fused, Form::FusedTransposed] {
            assert!(
                bytes(form) == expected,
                "{hidden} x {intermediate}, {form:?}"
            );
        }
    }
}

#[test]
fn what_is_stored_is_as_near_as_the_summary_says() {
    let model = Model::new(SMALL, 3);
    let (dir, summary) = quantized(&model, Form::Fused, &options());
    let checkpoint = Checkpoint::open(&dir.path().join("out")).unwrap();
    assert_eq!(summary.files, 5);
    assert_eq!(summary.bytes, checkpoint.files().bytes);
    assert_eq!(
        (summary.experts.matrices, summary.attention.matrices),
        (12, 8)
    );

    let mut errors = Vec::new();
    for layer in 0..2_u16 {
        for expert in 0..2_u16 {
            let ExpertWeights { w1, w2, w3, .. } =
                checkpoint.expert_mapped(ExpertId { layer, expert });
            for (part, w) in [("w1", w1), ("w2", w2), ("w3", w3)] {
                let name = format!("block_sparse_moe.experts.{expert}.{part}");
                let source = &model.tensors[&format!("model.layers.{layer}.{name}.weight")];
                assert_eq!(source.shape, [w.n(), w.k()]);
                errors.push(relative_error(&source.values, &values(w)));
            }
        }
    }
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    let max = errors.iter().copied().fold(0.0, f64::max);
    assert!((summary.experts.mean_error - mean).abs() < 1e-4, "{mean}");
    assert!((summary.experts.max_error - max).abs() < 1e-4, "{max}");
    assert!(summary.attention.max_error < 0.5 * summary.experts.mean_error);

    let plain = Options {
        round_to_nearest: true,
        ..options()
    };
    let (_, plain) = quantized(&model, Form::Fused, &plain);
    assert!(plain.experts.mean_error > summary.experts.mean_error);
}

#[test]
fn the_trunk_is_kept_to_the_bit() {
    let model = Model::new(SMALL, 4);
    let (dir, _) = quantized(&model, Form::SeparateInMlp, &options());
    let checkpoint = Checkpoint::open(&dir.path().join("out")).unwrap();
    let source = |name: &str| model.tensors[name].values.clone();
    let halves = |bytes: &[u8]| -> Vec<f32> {
        let value = |b: &[u8]| half::f16::from_le_bytes([b[0], b[1]]).to_f32();
        bytes.chunks_exact(2).map(value).collect()
    };
    assert_eq!(
        halves(checkpoint.embedding().f16().unwrap()),
        source("model.embed_tokens.weight")
    );
    assert_eq!(
        halves(checkpoint.output().f16().unwrap()),
        source("lm_head.weight")
    );
    assert_eq!(checkpoint.final_norm(), source("model.norm.weight"));
    let layer = checkpoint.layer(1);
    let name = |rest: &str| format!("model.layers.1.{rest}.weight");
    assert_eq!(layer.input_layernorm, source(&name("input_layernorm")));
    assert_eq!(
        layer.post_attention_layernorm,
        source(&name("post_attention_layernorm"))
    );
    assert_eq!(
        halves(layer.gate.f16().unwrap()),
        source(&name("block_sparse_moe.gate"))
    );
}

#[test]
fn every_way_to_quantize_is_read_by_the_engine() {
    let model = Model::new(Sizes { layers: 1, ..SMALL }, 5);
    for (bits, group_size, scale_group_size) in [
        (Bits::B2, 16, Some(32)),
        (Bits::B3, 64, Some(64)),
        (Bits::B3, 16, None),
        (Bits::B4, 64, None),
        (Bits::B8, 128, Some(1)),
    ] {
        let part = PartOptions {
            bits,
            group_size,
            scale_group_size,
        };
        let options = Options {
            experts: part,
            attention: part,
            ..options()
        };
        let (dir, _) = quantized(&model, Form::Separate, &options);
        let summary = Checkpoint::open(&dir.path().join("out"))
            .unwrap()
            .quant_summary();
        for kinds in [summary.experts, summary.attention] {
            assert_eq!(kinds.len(), 1);
            let kind = kinds[0].hqq().unwrap();
            assert_eq!(kind.bits, bits.count());
            assert_eq!(kind.group_size, group_size);
            assert_eq!(kind.scale_group_size, scale_group_size);
        }
    }
}

#[test]
fn a_tied_output_matrix_stays_tied() {
    for with_lm_head in [false, true] {
        let mut model = Model::new(SMALL, 6);
        model.config["tie_word_embeddings"] = json!(true);
        if !with_lm_head {
            model.tensors.remove("lm_head.weight");
        }
        let (dir, _) = quantized(&model, Form::Separate, &options());
        let checkpoint = Checkpoint::open(&dir.path().join("out")).unwrap();
        assert!(checkpoint.spec().tie_word_embeddings);
        assert_eq!(
            checkpoint.output().f16().unwrap(),
            checkpoint.embedding().f16().unwrap()
        );
    }
}

#[test]
fn configuration_and_tokenizer_come_along() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("out"));
    let mut model = Model::new(SMALL, 7);
    let config = model.config.as_object_mut().unwrap();
    config.remove("rope_theta");
    config.insert(
        "rope_parameters".into(),
        json!({ "rope_type": "default", "rope_theta": 5e5 }),
    );
    config.insert("router_aux_loss_coef".into(), json!(0.02));
    model.write(&source, Form::Fused, Dtype::BF16, 1);
    let copied = [
        "generation_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
    ];
    for name in copied {
        fs::write(source.join(name), format!("the bytes of {name}")).unwrap();
    }
    fs::write(source.join("notes.txt"), "not part of the model").unwrap();
    quantize(&source, &out, &options());

    let written = contents(&out);
    for name in copied {
        assert_eq!(written[Path::new(name)], contents(&source)[Path::new(name)]);
    }
    assert!(!out.join("notes.txt").exists());
    let config: Value = serde_json::from_slice(&written[Path::new("config.json")]).unwrap();
    assert_eq!(config["torch_dtype"], "float16");
    assert_eq!(config.get("dtype"), None);
    assert_eq!(
        config["rope_theta"], 5e5,
        "where older programs look for it"
    );
    assert_eq!(config["rope_parameters"]["rope_theta"], 5e5);
    assert_eq!(config["router_aux_loss_coef"], 0.02);
    let config = ModelSpec::from_config_json(&written[Path::new("config.json")]).unwrap();
    assert_eq!(config.rope_theta, 5e5);
}

#[test]
fn the_model_computes_what_its_weights_say() {
    let model = Model::new(SMALL, 8);
    let (dir, _) = quantized(&model, Form::Fused, &options());
    let out = dir.path().join("out");
    let weights = decoded_weights(&Checkpoint::open(&out).unwrap());
    // Only the f16 KV cache and the order of sums differ.
    assert_logits(&out, &weights, 2e-3);
}

#[test]
fn at_8_bits_the_model_computes_what_the_source_does() {
    let model = Model::new(SMALL, 9);
    for form in [Form::Separate, Form::Fused] {
        let (dir, summary) = quantized(&model, form, &fine());
        assert!(summary.experts.max_error < 0.005, "{summary:?}");
        let weights = model
            .tensors
            .iter()
            .map(|(name, tensor)| (name.clone(), (tensor.shape.clone(), tensor.values.clone())))
            .collect();
        // Every product is off by up to half a percent, which adds up over two layers.
        assert_logits(&dir.path().join("out"), &weights, 0.03);
    }
}

type Weights = HashMap<String, (Vec<usize>, Vec<f32>)>;

fn values(w: Matrix<'_>) -> Vec<f32> {
    let mut out = vec![0.0; w.n() * w.k()];
    w.dequantize_rows(0, &mut out);
    out
}

fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    let square = |v: f32| f64::from(v) * f64::from(v);
    let error: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    let norm: f64 = a.iter().map(|&a| square(a)).sum();
    (error / norm).sqrt()
}

/// All weights of a quantized checkpoint as numbers, under their float names.
fn decoded_weights(checkpoint: &Checkpoint) -> Weights {
    let c = checkpoint.spec();
    let halves = |bytes: &[u8]| -> Vec<f32> {
        let value = |b: &[u8]| half::f16::from_le_bytes([b[0], b[1]]).to_f32();
        bytes.chunks_exact(2).map(value).collect()
    };
    let table = vec![c.vocab_size, c.hidden_size];
    let mut weights = Weights::from([
        (
            "model.embed_tokens.weight".into(),
            (table.clone(), halves(checkpoint.embedding().f16().unwrap())),
        ),
        (
            "lm_head.weight".into(),
            (table, halves(checkpoint.output().f16().unwrap())),
        ),
        (
            "model.norm.weight".into(),
            (vec![c.hidden_size], checkpoint.final_norm().to_vec()),
        ),
    ]);
    for layer in 0..c.n_layers {
        let trunk = checkpoint.layer(layer);
        let mut put = |name: &str, shape: Vec<usize>, values: Vec<f32>| {
            weights.insert(
                format!("model.layers.{layer}.{name}.weight"),
                (shape, values),
            );
        };
        for (name, norm) in [
            ("input_layernorm", trunk.input_layernorm),
            ("post_attention_layernorm", trunk.post_attention_layernorm),
        ] {
            put(name, vec![c.hidden_size], norm.to_vec());
        }
        put(
            "block_sparse_moe.gate",
            vec![c.n_experts, c.hidden_size],
            halves(trunk.gate.f16().unwrap()),
        );
        for (name, w) in [
            ("q_proj", trunk.q_proj),
            ("k_proj", trunk.k_proj),
            ("v_proj", trunk.v_proj),
            ("o_proj", trunk.o_proj),
        ] {
            put(&format!("self_attn.{name}"), vec![w.n(), w.k()], values(w));
        }
        for expert in 0..c.n_experts {
            let id = ExpertId {
                layer: layer as u16,
                expert: expert as u16,
            };
            let ExpertWeights { w1, w2, w3, .. } = checkpoint.expert_mapped(id);
            for (part, w) in [("w1", w1), ("w2", w2), ("w3", w3)] {
                let name = format!("block_sparse_moe.experts.{expert}.{part}");
                put(&name, vec![w.n(), w.k()], values(w));
            }
        }
    }
    weights
}

/// Holds the engine's exact logits against those of candle's own Mixtral with float `weights`.
fn assert_logits(dir: &Path, weights: &Weights, bound: f32) {
    let checkpoint = Arc::new(Checkpoint::open(dir).unwrap());
    let mut oracle = oracle(checkpoint.spec(), weights);
    let experts = Experts::new(Arc::clone(&checkpoint), ExpertOptions::default()).unwrap();
    let model = Decoder::new(checkpoint, experts, Pool::new(1), Precision::Exact);
    let vocab = model.spec().vocab_size as u32;
    let mut session = model.session(16);
    for position in 0..16 {
        let token = (position as u32 * 97 + 13) % vocab;
        let input = Tensor::new(&[[token]], &Device::Cpu).unwrap();
        let expected = oracle.forward(&input, position).unwrap();
        let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
        let go_on = &mut |_| ControlFlow::Continue(());
        let found = model
            .forward(&mut session, &[TokenId(token)], Logits::Last, go_on)
            .unwrap();
        let relative = relative_error(&expected, found) as f32;
        assert!(relative < bound, "position {position}: off by {relative}");
    }
}

fn oracle(c: &ModelSpec, weights: &Weights) -> mixtral::Model {
    let tensors = weights
        .iter()
        .map(|(name, (shape, values))| {
            let tensor = Tensor::from_slice(values, shape.as_slice(), &Device::Cpu).unwrap();
            (name.clone(), tensor)
        })
        .collect();
    let config: mixtral::Config = serde_json::from_value(json!({
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
    }))
    .unwrap();
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    mixtral::Model::new(&config, weights).unwrap()
}
