//! Which model a file describes, and where its weights are.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{fixture, json, model, open_bytes};
use octet_gguf::{
    Expert, Gguf, GgufWriter, Matrix, Model, ModelError, Part, SLOT_ALIGNMENT, Span, TensorType,
    Value,
};
use octet_spec::{Activation, QkNorm, RopePairs, RopeScaling};
use tempfile::TempDir;

fn read(name: &str) -> Model {
    let (gguf, _dir) = model(name);
    Model::read(&gguf).unwrap()
}

#[test]
fn every_model_is_read_with_the_shape_it_was_made_with() {
    let models = json("models/models.json");
    let mut n = 0;
    for (name, about) in models.as_object().unwrap() {
        if name.starts_with("qwen35moe") {
            continue;
        }
        let model = read(name);
        let size = |key: &str| about["shape"][key].as_u64().unwrap() as usize;
        let spec = &model.spec;
        assert_eq!(model.architecture, about["shape"]["arch"].as_str().unwrap());
        assert_eq!(spec.hidden_size, size("hidden"), "{name}");
        assert_eq!(spec.n_layers, size("layers"), "{name}");
        assert_eq!(spec.n_heads, size("heads"), "{name}");
        assert_eq!(spec.n_kv_heads, size("kv"), "{name}");
        assert_eq!(spec.head_dim, size("head"), "{name}");
        assert_eq!(spec.n_experts, size("experts"), "{name}");
        assert_eq!(spec.top_k, size("top_k"), "{name}");
        assert_eq!(spec.intermediate_size, size("ff"), "{name}");
        assert_eq!(spec.vocab_size, 512, "{name}");
        assert_eq!(model.layers.len(), spec.n_layers);
        for layer in &model.layers {
            assert_eq!(layer.experts.len(), spec.n_experts);
        }
        n += 1;
    }
    assert_eq!(n, 32);
}

#[test]
fn a_family_that_is_not_known_is_named() {
    let (gguf, _dir) = model("qwen35moe-f32");
    let error = Model::read(&gguf).unwrap_err();
    assert!(
        matches!(&error, ModelError::Architecture { found } if found == "qwen35moe"),
        "{error}"
    );
}

#[test]
fn families_differ_in_what_they_compute() {
    let mixtral = read("mixtral-q4_0").spec;
    assert_eq!(mixtral.rope_pairs, RopePairs::Adjacent);
    assert_eq!(mixtral.rope_theta, 1e6);
    assert_eq!(mixtral.rope_scaling, RopeScaling::None);
    assert_eq!(mixtral.qk_norm, QkNorm::None);
    assert!(!mixtral.attention_bias && !mixtral.attention_sinks && !mixtral.expert_bias);
    assert!(mixtral.router.renormalizes);
    assert_eq!(mixtral.activation, Activation::SiluMul);
    assert_eq!(mixtral.sliding_window, None);
    assert!((mixtral.rms_norm_eps - 1e-5).abs() < 1e-9 && !mixtral.tie_word_embeddings);

    let qwen = read("qwen3moe-q4_k_m").spec;
    assert_eq!(qwen.rope_pairs, RopePairs::Halves);
    assert_eq!(qwen.qk_norm, QkNorm::Head);
    assert!(qwen.q_size() != qwen.hidden_size);
    assert!(qwen.router.renormalizes);

    let olmoe = read("olmoe-f32").spec;
    assert_eq!(olmoe.rope_pairs, RopePairs::Halves);
    assert_eq!(olmoe.qk_norm, QkNorm::Full);
    assert!(!olmoe.router.renormalizes);

    let gpt_oss = read("gpt-oss-mxfp4").spec;
    assert!(gpt_oss.attention_bias && gpt_oss.attention_sinks && gpt_oss.expert_bias);
    assert_eq!(
        [0, 1, 2].map(|layer| gpt_oss.window(layer)),
        [32, usize::MAX, 32]
    );
    // The softmax over those chosen is that over all, renormalized.
    assert!(gpt_oss.router.renormalizes);
    assert_eq!(
        gpt_oss.activation,
        Activation::ClampedSwiglu {
            alpha: 1.702,
            limit: 7.0
        }
    );
    let yarn = RopeScaling::Yarn {
        factor: 8.0,
        original_positions: 64,
        beta_fast: 32.0,
        beta_slow: 1.0,
        rounds_ramp: false,
    };
    assert_eq!(gpt_oss.rope_scaling, yarn);
}

#[test]
fn types_differ_between_layers_and_between_an_experts_matrices() {
    let model = read("qwen3moe-q4_k_m");
    let down: Vec<TensorType> = model.layers.iter().map(|l| l.experts[3].down.ty).collect();
    assert!(down.contains(&TensorType::Q4_K) && down.contains(&TensorType::Q6_K));
    for layer in &model.layers {
        assert_eq!(layer.experts[0].gate.ty, TensorType::Q4_K);
        assert_eq!(layer.o.weight.ty, TensorType::Q5_0);
        assert_eq!(layer.router.weight.ty, TensorType::F32);
    }
}

fn matrices(expert: &Expert) -> [Matrix; 3] {
    [expert.gate, expert.up, expert.down]
}

/// Each tensor's bytes are read once: by the trunk, or by the experts.
fn covers_all(gguf: &Gguf, model: &Model) {
    let experts = model
        .layers
        .iter()
        .flat_map(|l| &l.experts)
        .flat_map(matrices);
    let mut spans: Vec<Span> = experts.map(|matrix| matrix.span).collect();
    spans.extend(model.trunk.iter().map(|(_, info)| info.span));
    spans.sort();
    assert!(
        spans
            .windows(2)
            .all(|p| p[0].file != p[1].file || p[0].end() <= p[1].start)
    );
    let read: u64 = spans.iter().map(|span| span.len).sum();
    let all: u64 = gguf.tensors().values().map(|info| info.span.len).sum();
    assert_eq!(read, all);
}

#[test]
fn an_expert_is_its_rows_of_three_tensors() {
    for name in [
        "mixtral-mix-q3_k_m",
        "gpt-oss-mxfp4",
        "olmoe-q4_k_m",
        "qwen3moe-q4_k_m",
    ] {
        let (gguf, _dir) = model(name);
        let model = Model::read(&gguf).unwrap();
        covers_all(&gguf, &model);
        for (l, layer) in model.layers.iter().enumerate() {
            for (n, which) in ["gate", "up", "down"].iter().enumerate() {
                let tensor = format!("blk.{l}.ffn_{which}_exps.weight");
                let info = gguf.tensor(&tensor).unwrap();
                for (e, expert) in layer.experts.iter().enumerate() {
                    let matrix = matrices(expert)[n];
                    let len = info.span.len / layer.experts.len() as u64;
                    assert_eq!(
                        matrix.span,
                        info.span.part(e as u64 * len, len),
                        "{tensor} {e}"
                    );
                    assert_eq!(
                        [matrix.k as u64, matrix.n as u64],
                        info.dims.as_slice()[..2]
                    );
                    assert_eq!((matrix.ty, matrix.row_bytes()), (info.ty, info.row_bytes()));
                }
            }
        }
    }
}

#[test]
fn early_mixtral_files_have_a_tensor_for_each_expert() {
    let gguf = Gguf::open(&fixture("variants/old-names.gguf")).unwrap();
    let model = Model::read(&gguf).unwrap();
    covers_all(&gguf, &model);
    let (stacked, _dir) = common::model("mixtral-q4_0");
    let same = Model::read(&stacked).unwrap();
    assert_eq!(model.spec, same.spec);
    let info = gguf.tensor("blk.1.ffn_down.5.weight").unwrap();
    let down = model.layers[1].experts[5].down;
    assert_eq!((down.span, down.n, down.k), (info.span, 160, 96));
    // The same weights as in the file with stacked experts and another alignment.
    let aligned = Gguf::open(&fixture("variants/align-64.gguf")).unwrap();
    let aligned_model = Model::read(&aligned).unwrap();
    for (layer, other) in model.layers.iter().zip(&aligned_model.layers) {
        for (expert, other) in layer.experts.iter().zip(&other.experts) {
            for (one, two) in matrices(expert).iter().zip(matrices(other)) {
                assert_eq!(gguf.bytes(one.span), aligned.bytes(two.span));
            }
        }
    }
}

#[test]
fn an_experts_matrices_may_lie_in_different_files() {
    let gguf = Gguf::open(&fixture("variants/split-00003-of-00003.gguf")).unwrap();
    let model = Model::read(&gguf).unwrap();
    covers_all(&gguf, &model);
    let expert = model.layers[0].experts[2];
    assert_eq!((expert.down.span.file, expert.gate.span.file), (0, 1));
    let layout = expert.slot_layout();
    let mut slot = vec![0; layout.bytes as usize];
    for part in &layout.parts {
        let at = part.at as usize;
        gguf.read(part.span, &mut slot[at..at + part.span.len as usize])
            .unwrap();
    }
    for (matrix, at) in matrices(&expert).iter().zip(layout.places) {
        let at = at as usize;
        let copy = &slot[at..at + matrix.span.len as usize];
        assert_eq!(copy, gguf.bytes(matrix.span));
    }
    model.check_trunk(&gguf).unwrap();
}

#[test]
fn a_slot_holds_the_parts_aligned() {
    let expert = read("gpt-oss-mxfp4").layers[2].experts[7];
    let len = 160 * 160 / 32 * 17;
    assert_eq!(expert.len_bytes(), 3 * len);
    let layout = expert.slot_layout();
    let step = len.next_multiple_of(SLOT_ALIGNMENT);
    assert!(step > len);
    assert_eq!(layout.places, [0, step, 2 * step]);
    assert_eq!(layout.bytes, 2 * step + len);
    let parts = matrices(&expert).into_iter().zip(layout.places);
    let parts: Vec<Part> = parts
        .map(|(matrix, at)| Part {
            span: matrix.span,
            at,
        })
        .collect();
    assert_eq!(layout.parts, parts);
}

/// A valid file, its header taken apart, that can be changed and written again. Weights are 0.
struct Small {
    values: Vec<(String, octet_gguf::NewValue)>,
    tensors: Vec<(String, Vec<u64>, TensorType)>,
}

impl Small {
    fn new() -> Self {
        Self::from(&Gguf::open(&fixture("hostile/valid.gguf")).unwrap())
    }

    fn of(name: &str) -> Self {
        Self::from(&model(name).0)
    }

    /// Without the vocabulary, so that `vocab_size` counts.
    fn from(gguf: &Gguf) -> Self {
        let values = gguf.metadata().iter().filter_map(|(key, value)| {
            let value = match value {
                _ if key == "general.alignment" || key.starts_with("tokenizer") => return None,
                Value::Integer(n) => (n as u32).into(),
                Value::Float(x) => (x as f32).into(),
                Value::Bool(flag) => flag.into(),
                Value::String(text) => String::from_utf8(text.to_vec()).unwrap().into(),
                other => panic!("{other}"),
            };
            Some((key.to_owned(), value))
        });
        let tensors = gguf.tensors().iter();
        Self {
            values: values.collect(),
            tensors: tensors
                .map(|(name, info)| (name.clone(), info.dims.as_slice().to_vec(), info.ty))
                .collect(),
        }
    }

    fn set(&mut self, key: &str, value: impl Into<octet_gguf::NewValue>) -> &mut Self {
        self.values.retain(|(other, _)| other != key);
        self.values.push((key.to_owned(), value.into()));
        self
    }

    fn tensor(&mut self, name: &str, dims: &[u64], ty: TensorType) -> &mut Self {
        self.remove(name);
        self.tensors.push((name.to_owned(), dims.to_vec(), ty));
        self
    }

    fn remove(&mut self, name: &str) -> &mut Self {
        self.tensors.retain(|(other, ..)| other != name);
        self
    }

    fn write(&self, path: &Path) {
        let mut writer = GgufWriter::new();
        for (key, value) in &self.values {
            writer.set(key, value.clone());
        }
        for (name, dims, ty) in &self.tensors {
            let row = ty.row_bytes(dims[0]).unwrap();
            let len = row * dims[1..].iter().product::<u64>();
            // Ones: a divisor may not be 0.
            let fill: &[u8] = if *ty == TensorType::F32 {
                &[0, 0, 0x80, 0x3f]
            } else {
                &[0]
            };
            writer.tensor(name, dims, *ty, move |out| {
                (0..len / fill.len() as u64).try_for_each(|_| out.write_all(fill))
            });
        }
        writer.write(path).unwrap();
    }

    fn open(&self) -> (Gguf, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        self.write(&path);
        (Gguf::open(&path).unwrap(), dir)
    }

    fn read(&self) -> Result<Model, ModelError> {
        Model::read(&self.open().0)
    }
}

#[test]
fn fused_tensors_are_the_same_matrices() {
    let mut small = Small::new();
    small
        .remove("blk.0.attn_q.weight")
        .remove("blk.0.attn_k.weight")
        .remove("blk.0.attn_v.weight")
        .remove("blk.0.ffn_gate_exps.weight")
        .remove("blk.0.ffn_up_exps.weight")
        .tensor("blk.0.attn_qkv.weight", &[16, 32], TensorType::F16)
        .tensor(
            "blk.0.ffn_gate_up_exps.weight",
            &[16, 32, 2],
            TensorType::F16,
        );
    let (gguf, _dir) = small.open();
    let model = Model::read(&gguf).unwrap();
    covers_all(&gguf, &model);
    let layer = &model.layers[0];
    let qkv = gguf.tensor("blk.0.attn_qkv.weight").unwrap().span;
    assert_eq!(layer.q.weight.span, qkv.part(0, 16 * 32));
    assert_eq!(layer.k.weight.span, qkv.part(16 * 32, 8 * 32));
    assert_eq!(layer.v.weight.span, qkv.part(24 * 32, 8 * 32));
    let both = gguf.tensor("blk.0.ffn_gate_up_exps.weight").unwrap().span;
    let expert = layer.experts[1];
    assert_eq!(expert.gate.span, both.part(1024, 512));
    assert_eq!(expert.up.span, both.part(1536, 512));
    // Two reads get all of it.
    let layout = expert.slot_layout();
    let parts = [(both.part(1024, 1024), 0), (expert.down.span, 1024)];
    assert_eq!(layout.parts, parts.map(|(span, at)| Part { span, at }));
    assert_eq!((layout.places, layout.bytes), ([0, 512, 1024], 1536));
}

#[test]
fn a_missing_output_matrix_means_the_embeddings() {
    let mut small = Small::new();
    let model = small.remove("output.weight").read().unwrap();
    assert!(model.spec.tie_word_embeddings);
    assert_eq!(model.output, model.embeddings);
}

#[test]
fn numbers_may_be_of_any_width_and_given_for_each_layer() {
    let mut small = Small::new();
    small
        .set("llama.block_count", 1_u64)
        .set("llama.attention.head_count_kv", vec![1_i32])
        .set("llama.feed_forward_length", vec![16_u32])
        .set("llama.expert_used_count", 2)
        .set("llama.context_length", 64_u16);
    let spec = small.read().unwrap().spec;
    assert_eq!((spec.n_layers, spec.n_kv_heads, spec.top_k), (1, 1, 2));
    small.set("llama.attention.head_count_kv", vec![1, 2]);
    let error = small.read().unwrap_err().to_string();
    assert!(error.contains("the same for each layer"), "{error}");
}

#[test]
fn rope_keys_are_read() {
    let scaling = |keys: &[(&str, octet_gguf::NewValue)]| {
        let mut small = Small::new();
        for (key, value) in keys {
            small.set(&format!("llama.rope.{key}"), value.clone());
        }
        small.read().map(|model| model.spec)
    };
    let kind = |text: &str| ("scaling.type", text.into());
    let factor = ("scaling.factor", 4.0.into());
    assert_eq!(
        scaling(&[kind("none"), factor.clone()])
            .unwrap()
            .rope_scaling,
        RopeScaling::None
    );
    let linear = RopeScaling::Linear { factor: 4.0 };
    assert_eq!(
        scaling(std::slice::from_ref(&factor)).unwrap().rope_scaling,
        linear
    );
    assert_eq!(
        scaling(&[("scale_linear", 4.0.into())])
            .unwrap()
            .rope_scaling,
        linear
    );
    let yarn = scaling(&[
        kind("yarn"),
        factor,
        ("scaling.yarn_beta_fast", 16.0.into()),
    ])
    .unwrap();
    let expected = RopeScaling::Yarn {
        factor: 4.0,
        original_positions: 64,
        beta_fast: 16.0,
        beta_slow: 1.0,
        rounds_ramp: true,
    };
    assert_eq!(yarn.rope_scaling, expected);
    let attn = scaling(&[("scaling.attn_factor", 1.5.into())]).unwrap();
    assert_eq!(
        (attn.rope_magnitude, attn.rope_table().magnitude),
        (1.5, 1.5)
    );
    assert!(scaling(&[kind("yarn"), ("scaling.factor", 0.5.into())]).is_err());
    assert!(scaling(&[kind("longrope")]).is_err());
    assert!(scaling(&[("dimension_count", 4_u32.into())]).is_err());

    let mut small = Small::new();
    small.tensor("rope_freqs.weight", &[4], TensorType::F32);
    assert_eq!(small.read().unwrap().spec.rope_divisors, [1.0; 4]);
    small.tensor("rope_freqs.weight", &[4], TensorType::F16);
    let error = small.read().unwrap_err();
    assert!(
        matches!(error, ModelError::Divisor { value: 0.0, .. }),
        "{error}"
    );
}

#[test]
fn windows_follow_the_pattern() {
    let windows = |pattern: Option<octet_gguf::NewValue>| {
        let mut small = Small::of("gpt-oss-f32");
        if let Some(pattern) = pattern {
            small.set("gpt-oss.attention.sliding_window_pattern", pattern);
        }
        let window = |spec: &octet_spec::ModelSpec, layer| match spec.window(layer) {
            usize::MAX => None,
            window => Some(window),
        };
        let spec = small.read().map(|model| model.spec)?;
        Ok::<_, ModelError>([0, 1, 2].map(|layer| window(&spec, layer)))
    };
    assert_eq!(windows(None).unwrap(), [Some(32), None, Some(32)]);
    assert_eq!(
        windows(Some(3_u32.into())).unwrap(),
        [Some(32), Some(32), None]
    );
    assert_eq!(windows(Some(1_u32.into())).unwrap(), [None; 3]);
    assert_eq!(
        windows(Some(vec![0_u32, 0, 1].into())).unwrap(),
        [None, None, Some(32)]
    );
    assert!(windows(Some(vec![0_u32, 1].into())).is_err());
    assert!(windows(Some(0_u32.into())).is_err());
}

#[test]
fn what_would_change_the_result_is_refused() {
    type Change = fn(&mut Small);
    let cases: [(Change, &str); 16] = [
        (
            |s| {
                s.set("llama.attention.clamp_kqv", 8.0);
            },
            "clamp_kqv`: expected 0",
        ),
        (
            |s| {
                s.set("llama.final_logit_softcapping", 30.0);
            },
            "softcapping",
        ),
        (
            |s| {
                s.set("llama.expert_shared_count", 1_u32);
            },
            "shared_count",
        ),
        (
            |s| {
                s.set("llama.expert_gating_func", 2_u32);
            },
            "expected 1, a softmax, found 2",
        ),
        (
            |s| {
                s.set("llama.expert_weights_norm", false);
            },
            "expected true",
        ),
        (
            |s| {
                s.set("llama.expert_weights_scale", f32::NAN);
            },
            "weights_scale",
        ),
        (
            |s| {
                s.set("llama.attention.causal", false);
            },
            "causal`: expected true",
        ),
        (
            |s| {
                s.set("llama.attention.sliding_window", 32_u32);
            },
            "sliding_window",
        ),
        (
            |s| {
                s.set("llama.attention.value_length", 4_u32);
            },
            "8, the width of keys",
        ),
        (
            |s| {
                s.set("llama.attention.key_length", 7_u32);
            },
            "even width",
        ),
        (
            |s| {
                s.set("llama.embedding_length", 1_u32 << 17);
            },
            "1 to 65536",
        ),
        (
            |s| {
                s.set("llama.vocab_size", 15_u32);
            },
            "dimensions [16, 15]",
        ),
        (
            |s| {
                s.set("llama.block_count", 2_u32);
            },
            "`blk.1.attn_q.weight` is missing",
        ),
        (
            |s| {
                s.tensor("blk.0.ffn_gate_inp.weight", &[32, 2], TensorType::Q8_0);
            },
            "F32, F16 or BF16 [16, 2], found Q8_0 [32, 2]",
        ),
        (
            |s| {
                s.tensor("blk.0.ffn_gate.0.weight", &[16, 16], TensorType::F16);
            },
            "`blk.0.ffn_up.0.weight` is missing",
        ),
        (
            |s| {
                s.tensor("blk.1.attn_q.weight", &[16, 16], TensorType::F16)
                    .tensor("extra", &[16], TensorType::F32);
            },
            "`blk.1.attn_q.weight` and 1 more are not known",
        ),
    ];
    for (change, words) in cases {
        let mut small = Small::new();
        small.read().unwrap();
        change(&mut small);
        let error = small.read().expect_err(words).to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
    let mut gpt_oss = Small::of("gpt-oss-f32");
    gpt_oss.read().unwrap();
    let error = gpt_oss
        .remove("blk.2.attn_sinks.weight")
        .read()
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`blk.2.attn_sinks.weight` is missing"),
        "{error}"
    );
    // At these values such keys say what is done anyway.
    let mut small = Small::new();
    small
        .set("llama.attention.clamp_kqv", 0.0)
        .set("llama.logit_scale", 1.0)
        .set("llama.expert_gating_func", 1_u32)
        .set("llama.expert_weights_norm", true)
        .set("llama.attention.sliding_window", 4096_u32)
        .set("llama.expert_weights_scale", 2.5);
    assert_eq!(small.read().unwrap().spec.router.scale, 2.5);
}

#[test]
fn the_check_of_the_trunk_reads_it_all_and_names_the_tensor() {
    let bytes = std::fs::read(fixture("hostile/valid.gguf")).unwrap();
    let open = |bytes: &[u8]| open_bytes(bytes, bytes.len() as u64).unwrap();
    let (gguf, _dir) = open(&bytes);
    let model = Model::read(&gguf).unwrap();
    model.check_trunk(&gguf).unwrap();
    for (name, info) in &model.trunk {
        let mut bytes = bytes.clone();
        let (end, width) = (info.span.end() as usize, info.ty.block_bytes());
        bytes[end - 2..end].copy_from_slice(&[0xff, 0x7f]);
        let (gguf, _dir) = open(&bytes);
        let error = Model::read(&gguf).unwrap().check_trunk(&gguf).unwrap_err();
        let ModelError::NonFinite { tensor, block, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!((tensor, *block), (name, info.span.len / width as u64 - 1));
    }
}

#[test]
fn the_check_counts_blocks_over_all_pieces_of_a_long_tensor() {
    const VOCAB: u64 = 20_000;
    let mut small = Small::new();
    small
        .set("llama.vocab_size", VOCAB as u32)
        .tensor("token_embd.weight", &[16, VOCAB], TensorType::F16)
        .remove("output.weight");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    small.write(&path);
    let span = Gguf::open(&path)
        .unwrap()
        .tensor("token_embd.weight")
        .unwrap()
        .span;
    let mut bytes = std::fs::read(&path).unwrap();
    let value = 16 * VOCAB - 3;
    let at = (span.start + 2 * value) as usize;
    bytes[at..at + 2].copy_from_slice(&[0, 0x7c]);
    let (gguf, _dir) = open_bytes(&bytes, bytes.len() as u64).unwrap();
    let error = Model::read(&gguf).unwrap().check_trunk(&gguf).unwrap_err();
    assert!(
        matches!(error, ModelError::NonFinite { block, .. } if block == value),
        "{error}"
    );
}
