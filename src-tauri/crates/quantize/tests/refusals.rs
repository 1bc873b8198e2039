//! Sources that cannot be quantized: each is refused before anything is written, with the reason.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{Form, Model, SMALL, TINY, Tensor};
use octet_kernels::Bits;
use octet_quantize::{Options, PartOptions, Plan};
use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::{Value, json};

/// Groups that suit the tiny model.
fn options() -> Options {
    let part = PartOptions {
        bits: Bits::B4,
        group_size: 8,
        scale_group_size: Some(4),
    };
    Options {
        experts: part,
        attention: part,
        threads: 1,
        ..Options::default()
    }
}

fn refusal_of(dir: &Path) -> String {
    let error = Plan::new(dir, &options()).expect_err("a refusal");
    error.to_string()
}

/// The refusal of a tiny checkpoint after `damage`.
fn refusal(form: Form, shards: usize, damage: impl FnOnce(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    Model::new(TINY, 1).write(dir.path(), form, Dtype::BF16, shards);
    damage(dir.path());
    refusal_of(dir.path())
}

/// The refusal of a tiny model after `change`.
fn changed(change: impl FnOnce(&mut Model)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::new(TINY, 1);
    change(&mut model);
    model.write(dir.path(), Form::Separate, Dtype::F32, 1);
    refusal_of(dir.path())
}

fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
}

const EXPERT: &str = "model.layers.0.block_sparse_moe.experts.1.w2.weight";

#[test]
fn the_tiny_checkpoints_are_fine_as_they_are() {
    for form in [
        Form::Separate,
        Form::SeparateInMlp,
        Form::Fused,
        Form::FusedTransposed,
    ] {
        let dir = tempfile::tempdir().unwrap();
        Model::new(TINY, 1).write(dir.path(), form, Dtype::BF16, 2);
        Plan::new(dir.path(), &options()).unwrap();
    }
}

#[test]
fn other_models_are_refused() {
    let config = |field: &str, value: Value| {
        let field = field.to_owned();
        changed(move |model| model.config[field] = value)
    };
    let llama = changed(|model| {
        model.config["model_type"] = json!("llama");
        model.config["architectures"] = json!(["LlamaForCausalLM"]);
    });
    assert_says(&llama, &["config.json", "llama", "Mixtral"]);
    assert_says(
        &config("hidden_act", json!("gelu")),
        &["hidden_act", "gelu"],
    );
    assert_says(
        &config("num_local_experts", json!(0)),
        &["num_local_experts"],
    );
    assert_says(
        &config(
            "quantization_config",
            json!({ "quant_method": "awq", "bits": 4 }),
        ),
        &["quantized already", "awq", "original"],
    );
    for (name, parts) in [
        (
            "model.layers.0.self_attn.q_proj.qweight",
            ["quantized already", "qweight"],
        ),
        ("model.layers.0.self_attn.q_proj.W_q", ["octet chat", "W_q"]),
        (
            "tok_embeddings.weight",
            ["Mistral's own layout", "transformers"],
        ),
        (
            "model.layers.0.self_attn.q_proj.lora_A.weight",
            ["adapter", "merge"],
        ),
    ] {
        let message = changed(|model| {
            let tensor = model.tensors["model.norm.weight"].clone();
            model.tensors.insert(name.into(), tensor);
        });
        assert_says(&message, &parts);
    }
}

#[test]
fn folders_without_a_safetensors_model_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let says = |parts: &[&str]| assert_says(&refusal_of(dir.path()), parts);
    assert_says(&refusal_of(&dir.path().join("none")), &["no such folder"]);
    says(&["no safetensors files"]);
    let gguf = dir.path().join("mixtral.Q4_K_M.gguf");
    fs::write(&gguf, "GGUF").unwrap();
    says(&["GGUF"]);
    assert_says(&refusal_of(&gguf), &["GGUF", "original safetensors"]);
    fs::remove_file(gguf).unwrap();
    let bin = dir.path().join("pytorch_model-00001-of-00002.bin");
    fs::write(&bin, "PK").unwrap();
    says(&["PyTorch files only", "convert them to safetensors first"]);
    assert_says(&refusal_of(&bin), &["not a folder"]);
    fs::write(dir.path().join("adapter_model.safetensors"), "").unwrap();
    says(&["config.json is missing"]);
    fs::remove_file(bin).unwrap();
    fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
    says(&["LoRA adapter", "merge"]);
    // Also with the base model's configuration beside it, and as PyTorch saves it.
    let config = Model::new(TINY, 1).config.to_string();
    fs::write(dir.path().join("config.json"), &config).unwrap();
    says(&["LoRA adapter", "merge"]);
    fs::remove_file(dir.path().join("adapter_model.safetensors")).unwrap();
    fs::write(dir.path().join("adapter_model.bin"), "PK").unwrap();
    says(&["LoRA adapter", "merge"]);
}

/// The demo format's expert files all have the same tensor names, which the index does not.
#[test]
fn a_quantized_model_of_this_format_is_named_as_such() {
    let demo = octet_tests::fixture("tiny-2bit");
    assert_says(&refusal_of(&demo), &["HQQ-quantized already", "octet chat"]);
    // Whatever else is wrong with it: a file that has not arrived, a mark in front of the index.
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors.index.json"] {
        let json = fs::read(demo.join(name)).unwrap();
        fs::write(dir.path().join(name), [b"\xef\xbb\xbf", &json[..]].concat()).unwrap();
    }
    fs::write(dir.path().join("model-00001-of-00033.safetensors"), "").unwrap();
    assert_says(&refusal_of(dir.path()), &["HQQ-quantized already"]);
}

#[test]
fn a_merged_model_beside_its_adapters_configuration_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    Model::new(TINY, 1).write(dir.path(), Form::Separate, Dtype::BF16, 2);
    fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
    Plan::new(dir.path(), &options()).unwrap();
}

#[test]
fn incomplete_downloads_are_refused() {
    let index = "model.safetensors.index.json";
    let says = |damage: &dyn Fn(&Path), parts: &[&str]| {
        assert_says(&refusal(Form::Separate, 3, damage), parts);
    };
    let shard = "model-00002-of-00003.safetensors";
    says(
        &|dir| fs::remove_file(dir.join(shard)).unwrap(),
        &[shard, "missing"],
    );
    says(
        &|dir| {
            let bytes = fs::read(dir.join(shard)).unwrap();
            fs::write(dir.join(shard), &bytes[..bytes.len() - 1]).unwrap();
        },
        &[shard, "cut off"],
    );
    says(
        &|dir| fs::write(dir.join(shard), "").unwrap(),
        &[shard, "cut off"],
    );
    says(
        &|dir| fs::remove_file(dir.join(index)).unwrap(),
        &[index, "missing", "3 safetensors files"],
    );
    says(&|dir| fs::write(dir.join(index), "{").unwrap(), &[index]);
    let change_index = |dir: &Path, change: &dyn Fn(&mut Value)| {
        let mut json: Value = serde_json::from_slice(&fs::read(dir.join(index)).unwrap()).unwrap();
        change(&mut json["weight_map"]);
        fs::write(dir.join(index), json.to_string()).unwrap();
    };
    for name in ["../model-00002-of-00003.safetensors", "/etc/passwd", "a/b"] {
        says(
            &|dir| change_index(dir, &|map| map[EXPERT] = json!(name)),
            &[index, EXPERT, "not a plain file name"],
        );
    }
    says(
        &|dir| change_index(dir, &|map| map["model.more.weight"] = json!(shard)),
        &[shard, "model.more.weight", "missing"],
    );
}

#[test]
fn tensors_that_are_missing_left_over_or_of_another_shape_are_refused_by_name() {
    let message = changed(|model| {
        model.tensors.remove(EXPERT);
    });
    assert_says(
        &message,
        &[EXPERT, "none of the source's safetensors files (1)"],
    );
    let message = changed(|model| {
        model.tensors.remove("lm_head.weight");
    });
    assert_says(&message, &["lm_head.weight"]);

    for name in [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.1.input_layernorm.weight",
        "model.layers.0.block_sparse_moe.experts.2.w1.weight",
        "vision_tower.patch.weight",
    ] {
        let message = changed(|model| {
            let tensor = model.tensors["model.norm.weight"].clone();
            model.tensors.insert(name.into(), tensor);
        });
        assert_says(&message, &[name, "layers: 1, experts: 2"]);
    }

    let message = changed(|model| {
        let tensor = model.tensors.get_mut(EXPERT).unwrap();
        tensor.shape = vec![32, 16];
    });
    assert_says(&message, &[EXPERT, "[16, 32]", "[32, 16]"]);

    let dir = tempfile::tempdir().unwrap();
    Model::new(TINY, 1).write(dir.path(), Form::Separate, Dtype::I16, 1);
    assert_says(&refusal_of(dir.path()), &["F32, F16 or BF16", "I16"]);
}

#[test]
fn old_rotary_frequencies_are_no_reason_to_refuse() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::new(TINY, 1);
    let frequencies = Tensor {
        shape: vec![4],
        values: vec![1.0; 4],
    };
    let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    model.tensors.insert(name.into(), frequencies);
    model.write(dir.path(), Form::Separate, Dtype::F32, 1);
    Plan::new(dir.path(), &options()).unwrap();
}

#[test]
fn fused_tensors_of_other_shapes_are_refused() {
    let fused = |name: &str, shape: &[usize]| {
        let dir = tempfile::tempdir().unwrap();
        let model = Model::new(TINY, 1);
        let mut tensors = model.tensors_as(Form::Fused);
        let name = format!("model.layers.0.mlp.experts.{name}");
        tensors.get_mut(&name).unwrap().shape = shape.to_vec();
        fs::write(dir.path().join("config.json"), model.config.to_string()).unwrap();
        common::write_tensors(&dir.path().join("model.safetensors"), &tensors, Dtype::F32);
        refusal_of(dir.path())
    };
    let message = fused("gate_up_proj", &[2, 32, 32]);
    assert_says(
        &message,
        &["gate_up_proj", "[2, 64, 16] or [2, 16, 64]", "[2, 32, 32]"],
    );
    let message = fused("down_proj", &[1, 32, 32]);
    assert_says(&message, &["down_proj", "[2, 16, 32] or [2, 32, 16]"]);
    let message = fused("down_proj", &[2, 32, 16]);
    assert_says(
        &message,
        &["down_proj", "as `", "gate_up_proj` is laid out"],
    );
}

#[test]
fn groups_that_do_not_divide_are_refused_with_the_matrix() {
    let dir = tempfile::tempdir().unwrap();
    Model::new(SMALL, 1).write(dir.path(), Form::Fused, Dtype::BF16, 1);
    let refusal = |change: &dyn Fn(&mut Options)| {
        let mut options = Options::default();
        options.attention.scale_group_size = Some(64);
        change(&mut options);
        Plan::new(dir.path(), &options).unwrap_err().to_string()
    };
    let message = refusal(&|options| options.attention.scale_group_size = Some(256));
    assert_says(&message, &["self_attn.k_proj", "128 scales", "256"]);
    let message = refusal(&|options| options.experts.group_size = 48);
    assert_says(&message, &["experts.0.w1", "48"]);
    let message = refusal(&|options| options.experts.group_size = 2);
    assert_says(&message, &["experts.0.w1", "2 bits", "multiple of 4"]);
    refusal(&|options| options.experts.group_size = 0);
    refusal(&|options| options.attention.scale_group_size = Some(0));
}

/// The error of a run over a model in which one value is `value`, and what is left in the folder.
fn run_with(name: &str, value: f32) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("out"));
    let mut model = Model::new(TINY, 1);
    model.tensors.get_mut(name).unwrap().values[77 % 16] = value;
    model.write(&source, Form::Separate, Dtype::F32, 1);
    let plan = Plan::new(&source, &options()).unwrap();
    let message = plan.run(&out, &()).unwrap_err().to_string();
    let left = common::contents(&out);
    assert!(
        !left
            .keys()
            .any(|name| name.to_string_lossy().ends_with(".incomplete")),
        "{left:?}"
    );
    assert!(!out.join("model.safetensors.index.json").exists());
    message
}

#[test]
fn weights_that_are_no_numbers_are_refused_by_name() {
    for name in [
        EXPERT,
        "model.norm.weight",
        "model.layers.0.self_attn.k_proj.weight",
    ] {
        assert_says(&run_with(name, f32::NAN), &[name, "NaN at element 13"]);
        assert_says(
            &run_with(name, f32::NEG_INFINITY),
            &[name, "-inf at element 13"],
        );
    }
}

#[test]
fn the_element_of_a_fused_tensor_is_counted_in_the_whole_tensor() {
    for form in [Form::Fused, Form::FusedTransposed] {
        let dir = tempfile::tempdir().unwrap();
        let (source, out) = (dir.path().join("source"), dir.path().join("out"));
        let model = Model::new(TINY, 1);
        let mut tensors = model.tensors_as(form);
        let name = "model.layers.0.mlp.experts.down_proj";
        let values = &mut tensors.get_mut(name).unwrap().values;
        let element = values.len() - 3;
        values[element] = f32::INFINITY;
        fs::create_dir(&source).unwrap();
        fs::write(source.join("config.json"), model.config.to_string()).unwrap();
        common::write_tensors(&source.join("model.safetensors"), &tensors, Dtype::F32);
        let plan = Plan::new(&source, &options()).unwrap();
        let message = plan.run(&out, &()).unwrap_err().to_string();
        assert_says(&message, &[name, &format!("inf at element {element}")]);
    }
}

#[test]
fn values_beyond_f16_are_refused_in_the_trunk() {
    for name in ["model.embed_tokens.weight", "model.norm.weight"] {
        assert_says(&run_with(name, 70_000.0), &[name, "70000", "65504"]);
    }
}

proptest! {
    /// Sources come from anywhere. Whatever a header, the index or the configuration says, the
    /// answer is a plan or an error.
    #[test]
    fn damaged_bytes_never_panic(
        form in prop_oneof![Just(Form::Separate), Just(Form::Fused), Just(Form::FusedTransposed)],
        file in 0..4_usize,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let dir = tempfile::tempdir().unwrap();
        Model::new(TINY, 1).write(dir.path(), form, Dtype::BF16, 2);
        let name = [
            "config.json",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ][file];
        let path = dir.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        let header = match file {
            0 | 1 => bytes.len(),
            _ => 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize,
        };
        for (at, flip) in flips {
            bytes[at.index(header)] ^= flip;
        }
        fs::write(&path, bytes).unwrap();
        let out = tempfile::tempdir().unwrap();
        if let Ok(plan) = Plan::new(dir.path(), &options()) {
            // A sound header may still be another one: an error at worst.
            let _ = plan.run(out.path(), &());
        }
    }
}
