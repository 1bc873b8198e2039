//! A small float Mixtral, quantized: its logits stay as near to the float ones as those of the
//! reference quantization of the same weights. `data/logits.py` measured the reference.
#![allow(clippy::unwrap_used)]

mod seeded;

use std::collections::HashMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::mixtral;
use octet_engine::model::Logits;
use octet_engine::tokenizer::TokenId;
use octet_engine::{LoadOptions, Loaded};
use octet_kernels::Bits;
use octet_quantize::{Options, PartOptions, Plan};
use serde_json::{Value, json};

fn number(value: &Value, key: &str) -> usize {
    value[key].as_u64().unwrap_or_else(|| panic!("{key}")) as usize
}

/// The model of `data/logits.py`: names, shapes and f32 values.
fn model(config: &Value) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let [vocab, hidden, intermediate] =
        ["vocab_size", "hidden_size", "intermediate_size"].map(|key| number(config, key));
    let kv = hidden / number(config, "num_attention_heads") * number(config, "num_key_value_heads");
    let (layers, experts) = (
        number(config, "num_hidden_layers"),
        number(config, "num_local_experts"),
    );
    let mut shapes = vec![
        ("model.embed_tokens".to_owned(), vocab, hidden),
        ("lm_head".to_owned(), vocab, hidden),
    ];
    for layer in 0..layers {
        let name = |rest: &str| format!("model.layers.{layer}.{rest}");
        for (rest, rows) in [
            ("self_attn.q_proj", hidden),
            ("self_attn.k_proj", kv),
            ("self_attn.v_proj", kv),
            ("self_attn.o_proj", hidden),
            ("block_sparse_moe.gate", experts),
        ] {
            shapes.push((name(rest), rows, hidden));
        }
        for expert in 0..experts {
            for (part, rows, columns) in [
                ("w1", intermediate, hidden),
                ("w2", hidden, intermediate),
                ("w3", intermediate, hidden),
            ] {
                let rest = format!("block_sparse_moe.experts.{expert}.{part}");
                shapes.push((name(&rest), rows, columns));
            }
        }
    }
    let mut tensors = Vec::new();
    for (seed, (name, rows, columns)) in (100..).zip(shapes) {
        let heavy = name.contains(".experts.");
        let std = 1.0 / (columns as f64).sqrt();
        let mut values = seeded::weights(heavy, std, seed, rows * columns);
        if !name.contains("_proj") && !heavy {
            for value in &mut values {
                *value = half::f16::from_f32(*value).to_f32();
            }
        }
        tensors.push((format!("{name}.weight"), vec![rows, columns], values));
    }
    let mut norm = |name: String| tensors.push((name, vec![hidden], vec![1.0; hidden]));
    norm("model.norm.weight".to_owned());
    for layer in 0..layers {
        norm(format!("model.layers.{layer}.input_layernorm.weight"));
        norm(format!(
            "model.layers.{layer}.post_attention_layernorm.weight"
        ));
    }
    tensors
}

fn save(dir: &Path, config: &Value, tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name.clone(), view.unwrap())
    });
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
}

/// Logits of all positions by candle's own Mixtral, in f32.
fn float_logits(
    config: &Value,
    tensors: &[(String, Vec<usize>, Vec<f32>)],
    tokens: &[u32],
) -> Vec<f64> {
    let weights: HashMap<String, Tensor> = tensors
        .iter()
        .map(|(name, shape, values)| {
            let tensor = Tensor::from_slice(values, shape.as_slice(), &Device::Cpu);
            (name.clone(), tensor.unwrap())
        })
        .collect();
    let mut config = config.clone();
    config["sliding_window"] = config["max_position_embeddings"].clone();
    config["use_flash_attn"] = json!(false);
    let config: mixtral::Config = serde_json::from_value(config).unwrap();
    let weights = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
    let mut model = mixtral::Model::new(&config, weights).unwrap();
    let mut all = Vec::new();
    for (position, &token) in tokens.iter().enumerate() {
        let input = Tensor::new(&[[token]], &Device::Cpu).unwrap();
        let logits = model.forward(&input, position).unwrap();
        let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
        all.extend(logits.into_iter().map(f64::from));
    }
    all
}

fn quantized_logits(dir: &Path, tokens: &[u32]) -> Vec<f64> {
    let options = LoadOptions {
        exact: true,
        threads: Some(1),
        ..LoadOptions::default()
    };
    let model = Loaded::open(dir, &options).unwrap().model;
    let mut session = model.session(tokens.len());
    let tokens: Vec<TokenId> = tokens.iter().map(|&t| TokenId(t)).collect();
    let go_on = &mut |_| ControlFlow::Continue(());
    let logits = model.forward(&mut session, &tokens, Logits::All, go_on);
    logits.unwrap().iter().map(|&v| f64::from(v)).collect()
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

fn bits(count: usize) -> Bits {
    match count {
        2 => Bits::B2,
        4 => Bits::B4,
        other => panic!("{other} bits are not in the data"),
    }
}

#[test]
fn logits_agree_with_the_float_model_as_the_reference_quantization_does() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/logits.json");
    let data: Value = serde_json::from_slice(&fs::read(data).unwrap()).unwrap();
    let tokens: Vec<u32> = serde_json::from_value(data["tokens"].clone()).unwrap();
    let tensors = model(&data["config"]);
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("float");
    fs::create_dir(&source).unwrap();
    save(&source, &data["config"], &tensors);

    // The two float models are the same one.
    let float = float_logits(&data["config"], &tensors, &tokens);
    let float_norm = norm(float.iter().copied());
    let stored = data["float_norm"].as_f64().unwrap();
    assert!(
        (float_norm / stored - 1.0).abs() < 1e-4,
        "{float_norm}, {stored}"
    );

    for (i, case) in data["cases"].as_array().unwrap().iter().enumerate() {
        let [experts, attention] =
            [("expert", 128), ("attention", 256)].map(|(part, scales)| PartOptions {
                bits: bits(number(case, &format!("{part}_bits"))),
                group_size: number(case, &format!("{part}_group")),
                scale_group_size: Some(scales),
            });
        let reference = case["error"].as_f64().unwrap();
        let mut errors = Vec::new();
        for round_to_nearest in [false, true] {
            let out = dir.path().join(format!("{i}-{round_to_nearest}"));
            let options = Options {
                experts,
                attention,
                round_to_nearest,
                threads: 1,
            };
            Plan::new(&source, &options)
                .unwrap()
                .run(&out, &())
                .unwrap();
            let logits = quantized_logits(&out, &tokens);
            errors.push(norm(logits.iter().zip(&float).map(|(a, b)| a - b)) / float_norm);
        }
        println!(
            "experts {} bits: {:.4} (reference {reference:.4}), to nearest {:.4} (reference {:.4})",
            case["expert_bits"],
            errors[0],
            errors[1],
            case["rtn_error"].as_f64().unwrap(),
        );
        assert!(errors[0] <= 1.02 * reference, "{} > {reference}", errors[0]);
        assert!(errors[0] < errors[1], "{errors:?}");
    }
}
