//! Damaged and malicious checkpoints: each is refused, by the name of the file and tensor.
#![allow(clippy::unwrap_used)]

mod edit;

use std::fs;
use std::path::Path;

use edit::{EXPERT, INDEX, TRUNK, TensorFile, edit, small_config, write_small};
use half::f16;
use octet_engine::checkpoint::{Checkpoint, CheckpointError, ExpertId};
use octet_engine::spec::ModelSpec;
use serde_json::{Value, json};

const CONFIG: &str = "config.json";
const FIRST: ExpertId = ExpertId {
    layer: 0,
    expert: 0,
};

/// Writes the small checkpoint, lets `damage` at its folder, and tells why it does not open.
fn refusal(damage: impl FnOnce(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    write_small(dir.path());
    damage(dir.path());
    Checkpoint::open(dir.path())
        .expect_err("a damaged checkpoint")
        .to_string()
}

fn assert_all(message: &str, expected: &[&str]) {
    for part in expected {
        assert!(message.contains(part), "no `{part}` in: {message}");
    }
}

/// Damages one tensor file and checks that the refusal names it and says all of `expected`.
fn refuses(file: &str, expected: &[&str], damage: impl FnOnce(&mut TensorFile)) {
    let message = refusal(|dir| edit(&dir.join(file), damage));
    assert_all(&message, &[file]);
    assert_all(&message, expected);
}

fn change_index(dir: &Path, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let path = dir.join(INDEX);
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(index["weight_map"].as_object_mut().unwrap());
    fs::write(path, index.to_string()).unwrap();
}

fn config_refusal(changes: &[(&str, Value)]) -> String {
    let mut config = small_config();
    for (field, value) in changes {
        config[*field] = value.clone();
    }
    ModelSpec::from_config_json(config.to_string().as_bytes())
        .expect_err("a wrong config")
        .to_string()
}

#[test]
fn folders_that_are_no_checkpoint_say_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let message = |path: &Path| Checkpoint::open(path).unwrap_err().to_string();
    assert_all(
        &message(&dir.path().join("nowhere")),
        &["nowhere", "there is no such folder"],
    );
    assert_all(
        &message(dir.path()),
        &[
            "not an offloading-demo checkpoint",
            "config.json is missing",
        ],
    );
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    assert_all(&message(&file), &["it is not a folder"]);

    for (name, expected) in [
        (CONFIG, "config.json is missing; choose"),
        (INDEX, "model.safetensors.index.json is missing; choose"),
        (TRUNK, "places tensor `model.embed_tokens.weight` in it"),
        (EXPERT, "model.layers.0.block_sparse_moe.experts.0.w1.W_q"),
    ] {
        let message = refusal(|dir| fs::remove_file(dir.join(name)).unwrap());
        assert_all(&message, &[name, "is missing", expected]);
        let message = refusal(|dir| {
            fs::remove_file(dir.join(name)).unwrap();
            fs::create_dir(dir.join(name)).unwrap();
        });
        assert_all(&message, &[name, "is not a regular file"]);
    }
}

#[cfg(unix)]
#[test]
fn links_to_devices_and_to_nothing_are_refused() {
    for name in [CONFIG, INDEX, TRUNK, EXPERT] {
        for (target, expected) in [
            ("/dev/zero", "not a regular file"),
            ("nowhere", "is missing"),
        ] {
            let message = refusal(|dir| {
                fs::remove_file(dir.join(name)).unwrap();
                std::os::unix::fs::symlink(target, dir.join(name)).unwrap();
            });
            assert_all(&message, &[name, expected]);
        }
    }
}

#[test]
fn files_of_absurd_length_are_not_read() {
    for (name, len_bytes) in [(CONFIG, (1 << 20) + 1), (INDEX, (64 << 20) + 1)] {
        let message = refusal(|dir| {
            fs::OpenOptions::new()
                .write(true)
                .open(dir.join(name))
                .unwrap()
                .set_len(len_bytes)
                .unwrap();
        });
        assert_all(&message, &[name, "longer than any such file", "at most"]);
    }
}

#[test]
fn files_cut_anywhere_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    write_small(dir.path());
    for name in [TRUNK, EXPERT] {
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        let cuts = (0..16)
            .chain((16..whole.len()).step_by(997))
            .chain([whole.len() - 1]);
        for len in cuts {
            fs::write(&path, &whole[..len]).unwrap();
            let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
            assert_all(&message, &[name, "cut off"]);
        }
        fs::write(&path, &whole).unwrap();
    }
    Checkpoint::open(dir.path()).unwrap();
    for name in [CONFIG, INDEX] {
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        // The last bytes are the closing brace and a line's end.
        for len in (0..whole.len() - 2).step_by(101) {
            fs::write(&path, &whole[..len]).unwrap();
            let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
            assert_all(&message, &[name]);
        }
        fs::write(&path, &whole).unwrap();
    }
}

#[test]
fn headers_of_absurd_length_are_refused_unread() {
    for (length, expected) in [
        (u64::MAX, "100 MB is the most"),
        (100_000_001, "100 MB is the most"),
        (99_999_999, "cut off"),
        (1 << 63, "100 MB is the most"),
        (0, "the header is damaged"),
    ] {
        for name in [TRUNK, EXPERT] {
            let message = refusal(|dir| {
                let path = dir.join(name);
                let mut bytes = fs::read(&path).unwrap();
                bytes[..8].copy_from_slice(&length.to_le_bytes());
                fs::write(&path, bytes).unwrap();
            });
            assert_all(&message, &[name, expected]);
        }
    }
}

#[test]
fn headers_with_wrong_content_are_refused() {
    let info = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"w1.W_q":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let twice = r#"{"w1.W_q":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
                    "w1.W_q":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
    let overlap = r#"{"w1.W_q":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
                      "w2.W_q":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}}"#;
    let deep = "[".repeat(100_000);
    let deep_metadata = format!(r#"{{"__metadata__":{}}}"#, "[".repeat(100_000));
    let cases: Vec<(Vec<u8>, &[&str])> = vec![
        (twice.into(), &["`w1.W_q` is given twice"]),
        (overlap.into(), &["tensors `w1.W_q` and `w2.W_q` overlap"]),
        (info("\"U8\"", "[-1]", "[0,1]").into(), &["`w1.W_q`", "-1"]),
        (
            info("\"U8\"", "[1.5]", "[0,1]").into(),
            &["`w1.W_q`", "1.5"],
        ),
        (
            info("\"U8\"", "[18446744073709551616]", "[0,1]").into(),
            &["`w1.W_q`"],
        ),
        (
            info("\"I32\"", "[4611686018427387904]", "[0,0]").into(),
            &["`w1.W_q`", "does not fit"],
        ),
        (
            info("\"U8\"", "[4294967296,4294967297]", "[0,4294967296]").into(),
            &["does not fit"],
        ),
        (
            info("\"U8\"", "[2]", "[0,1]").into(),
            &["`w1.W_q`", "U8 [2] does not fit the 1 bytes"],
        ),
        (
            info("\"U8\"", "[1]", "[1,0]").into(),
            &["`w1.W_q`", "ends at 0 before it begins at 1"],
        ),
        (
            info(
                "\"U8\"",
                "[1]",
                "[18446744073709551614,18446744073709551615]",
            )
            .into(),
            &["`w1.W_q`", "cut off"],
        ),
        (info("\"U8\"", "[1]", "[0]").into(), &["`w1.W_q`"]),
        (info("\"U8\"", "[1]", "[0,1,2]").into(), &["`w1.W_q`"]),
        (
            info("\"U8\"", "\"1\"", "[0,1]").into(),
            &["`w1.W_q`", "at most 8 dimensions"],
        ),
        (info("\"U7\"", "[1]", "[0,1]").into(), &["`w1.W_q`", "U7"]),
        (info("8", "[1]", "[0,1]").into(), &["`w1.W_q`"]),
        (b"{\"w1.W_q\":null}".to_vec(), &["`w1.W_q`"]),
        (b"{\"w1.\xff\xfe\":{}}".to_vec(), &["the header is damaged"]),
        (b"\xef\xbb\xbf{}".to_vec(), &["the header is damaged"]),
        (b"{}{}".to_vec(), &["the header is damaged"]),
        (b"{}".to_vec(), &["tensor `w1.W_q` is missing"]),
        (deep.into(), &["the header is damaged"]),
        (deep_metadata.into(), &["the header is damaged"]),
    ];
    for (header, expected) in cases {
        let message = refusal(|dir| {
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend_from_slice(&header);
            bytes.resize(bytes.len() + 64, 0);
            fs::write(dir.join(EXPERT), bytes).unwrap();
        });
        assert_all(&message, &[EXPERT]);
        assert_all(&message, expected);
    }
}

#[test]
fn every_tensor_that_is_missing_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    write_small(dir.path());
    for name in [TRUNK, EXPERT] {
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        let tensors = TensorFile::load(&path).tensors;
        assert!(tensors.len() >= 21);
        for removed in tensors {
            edit(&path, |file| {
                file.tensors.retain(|tensor| tensor.name != removed.name)
            });
            let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
            assert_all(
                &message,
                &[name, &format!("tensor `{}` is missing", removed.name)],
            );
            fs::write(&path, &whole).unwrap();
        }
    }
}

#[test]
fn every_tensor_of_another_type_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_small(dir.path());
    for name in [TRUNK, EXPERT] {
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        for changed in TensorFile::load(&path).tensors {
            let other = if changed.dtype == "U8" { "I8" } else { "I16" };
            edit(&path, |file| {
                file.get_mut(&changed.name).dtype = other.to_owned()
            });
            let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
            let tensor = format!("tensor `{}`: expected", changed.name);
            assert_all(&message, &[name, &tensor, &format!("found {other}")]);
            fs::write(&path, &whole).unwrap();
        }
    }
}

#[test]
fn every_tensor_of_another_shape_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_small(dir.path());
    for name in [TRUNK, EXPERT] {
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        for changed in TensorFile::load(&path).tensors {
            edit(&path, |file| {
                // Another element: seven in all, of which no legal shape is made.
                let tensor = file.get_mut(&changed.name);
                let element_bytes = if tensor.dtype == "F16" { 2 } else { 1 };
                tensor.shape = vec![1, 7];
                tensor.data = vec![0; 7 * element_bytes];
            });
            let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
            let matrix = changed.name.split(".meta.").next().unwrap();
            assert_all(&message, &[name, matrix, "expected", "found"]);
            fs::write(&path, &whole).unwrap();
        }
    }
}

#[test]
fn shapes_that_contradict_each_other_are_refused() {
    let reshape = |name: &'static str, shape: &'static [u64]| {
        move |file: &mut TensorFile| {
            let tensor = file.get_mut(name);
            assert_eq!(
                tensor.shape.iter().product::<u64>(),
                shape.iter().product::<u64>(),
                "the case keeps the length"
            );
            tensor.shape = shape.to_vec();
        }
    };
    // w1 is 128 x 64 at 2 bits in 512 groups of 16: W_q (4, 512), scale_q (128, 4).
    refuses(
        EXPERT,
        &["`w1.W_q`", "`w1.meta.scale` has values, 512"],
        reshape("w1.W_q", &[2, 1024]),
    );
    refuses(
        EXPERT,
        &["`w1.W_q`", "two dimensions"],
        reshape("w1.W_q", &[4, 8, 64]),
    );
    refuses(
        EXPERT,
        &["`w1.meta.scale_q`", "rows of 4"],
        reshape("w1.meta.scale_q", &[4, 128]),
    );
    refuses(EXPERT, &["`w1.W_q`", "2, 3, 4 or 8 bits"], |file| {
        let w_q = file.get_mut("w1.W_q");
        w_q.shape = vec![3, 512];
        w_q.data.truncate(3 * 512);
    });
    refuses(EXPERT, &["`w1.W_q`", "not 511"], |file| {
        let w_q = file.get_mut("w1.W_q");
        w_q.shape = vec![4, 511];
        w_q.data.truncate(4 * 511);
    });
    refuses(EXPERT, &["`w2.meta.meta_scale.zero`", "4 values"], |file| {
        let zero = file.get_mut("w2.meta.meta_scale.zero");
        zero.shape = vec![1, 3];
        zero.data.truncate(6);
    });
    refuses(
        EXPERT,
        &["`w3.meta.meta_zero.scale`", "at least one value"],
        |file| {
            let scale = file.get_mut("w3.meta.meta_zero.scale");
            scale.shape = vec![0];
            scale.data.clear();
        },
    );
    refuses(
        EXPERT,
        &["`w3.meta.scale`", "`w3.meta.scale_q` is there too"],
        |file| {
            let mut plain = file.get_mut("w3.meta.meta_scale.scale").clone();
            plain.name = "w3.meta.scale".to_owned();
            file.tensors.push(plain);
        },
    );
    refuses(
        TRUNK,
        &["`model.layers.1.block_sparse_moe.gate.weight`", "[2, 64]"],
        |file| {
            file.get_mut("model.layers.1.block_sparse_moe.gate.weight")
                .shape = vec![64, 2];
        },
    );
    refuses(
        TRUNK,
        &["`lm_head.weight`", "[96, 64]", "F16 [64, 96]"],
        |file| {
            file.get_mut("lm_head.weight").shape = vec![64, 96];
        },
    );
}

#[test]
fn an_index_cannot_lead_out_of_its_folder() {
    let tensor = "model.layers.0.block_sparse_moe.experts.0.w1.W_q";
    for file in [
        "../secret",
        "..",
        ".",
        "",
        "/etc/passwd",
        "a/../b",
        "sub/model.safetensors",
        "..\\secret",
        "C:\\secret",
        "C:secret",
        "nul\u{0}byte",
        "file:stream",
    ] {
        let message = refusal(|dir| {
            change_index(dir, |map| {
                map.insert(tensor.to_owned(), file.into());
            });
        });
        assert_all(&message, &[INDEX, tensor, "not a plain file name"]);
    }
}

#[test]
fn an_index_at_odds_with_the_configuration_is_refused() {
    let w1 = |layer: u32, expert: u32| {
        format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.W_q")
    };
    let with = |name: String, file: Value| {
        refusal(|dir| {
            change_index(dir, |map| {
                map.insert(name, file);
            });
        })
    };
    let without = |name: String| {
        refusal(|dir| {
            change_index(dir, |map| {
                map.remove(&name).unwrap();
            });
        })
    };
    assert_all(
        &with(w1(2, 0), EXPERT.into()),
        &[INDEX, "beyond the 2 layers"],
    );
    assert_all(
        &with(w1(0, 2), EXPERT.into()),
        &[INDEX, "beyond the 2 experts"],
    );
    assert_all(
        &with(w1(1, 1), EXPERT.into()),
        &[
            INDEX,
            "layer 0 expert 0 and layer 1 expert 1 are both placed in",
            EXPERT,
        ],
    );
    assert_all(&with(w1(0, 0), 7.into()), &[INDEX, &w1(0, 0)]);
    assert_all(
        &with(w1(0, 0), TRUNK.into()),
        &[TRUNK, "`w1.W_q` is missing"],
    );
    assert_all(&without(w1(1, 0)), &[INDEX, &w1(1, 0), "is missing"]);
    assert_all(
        &without("model.embed_tokens.weight".to_owned()),
        &["does not place `model.embed_tokens.weight`"],
    );
}

#[test]
fn an_unquantized_model_is_recognized() {
    let message = refusal(|dir| {
        change_index(dir, |map| {
            let names: Vec<String> = map.keys().cloned().collect();
            for name in names {
                if let Some(prefix) = name.strip_suffix(".W_q") {
                    let file = map[&name].clone();
                    map.insert(format!("{prefix}.weight"), file);
                }
                if name.contains(".experts.") {
                    map.remove(&name);
                }
            }
        });
    });
    assert_all(&message, &["experts.0.w1.weight` is not quantized"]);
}

#[test]
fn indices_with_wrong_content_are_refused() {
    let twice = format!(
        r#"{{"weight_map":{{"model.embed_tokens.weight":"{TRUNK}","model.embed_tokens.weight":"x"}}}}"#
    );
    for (content, expected) in [
        (&b"{}"[..], "weight_map"),
        (b"[]", "not a safetensors index"),
        (b"{\"weight_map\":7}", "expected an object"),
        (b"{\"weight_map\":{}}", "does not place"),
        (
            b"{\"weight_map\":{\"\xc3\x28\":\"x\"}}",
            "not a safetensors index",
        ),
        (
            twice.as_bytes(),
            "`model.embed_tokens.weight` is given twice",
        ),
        ("[".repeat(1 << 20).as_bytes(), "not a safetensors index"),
        (
            format!("{{\"metadata\":{}", "[".repeat(1 << 20)).as_bytes(),
            "not a safetensors index",
        ),
    ] {
        let message = refusal(|dir| fs::write(dir.join(INDEX), content).unwrap());
        assert_all(&message, &[INDEX, expected]);
    }
}

#[test]
fn configurations_of_other_models_are_refused() {
    for (field, value, expected) in [
        ("model_type", json!("llama"), "`model_type` is \"llama\""),
        ("model_type", json!(7), "`model_type` is 7"),
        (
            "architectures",
            json!(["MistralForCausalLM"]),
            "`architectures` is [\"MistralForCausalLM\"]",
        ),
        (
            "architectures",
            json!("MixtralForCausalLM"),
            "`architectures` is",
        ),
        (
            "hidden_act",
            json!("gelu"),
            "`hidden_act`: expected \"silu\"",
        ),
        (
            "rope_scaling",
            json!({"type": "linear", "factor": 2.0}),
            "`rope_scaling`: rope type \"linear\"",
        ),
        (
            "rope_scaling",
            json!({"factor": 2.0}),
            "`rope_scaling`: rope type with `factor`",
        ),
        (
            "rope_scaling",
            json!(2),
            "`rope_scaling`: expected an object or null",
        ),
        (
            "rope_parameters",
            json!({"rope_type": "yarn"}),
            "`rope_parameters`: rope type \"yarn\"",
        ),
    ] {
        assert_all(&config_refusal(&[(field, value)]), &[expected]);
    }
    let neither = [("model_type", Value::Null), ("architectures", Value::Null)];
    assert_all(&config_refusal(&neither), &["`model_type` is missing"]);
}

#[test]
fn configurations_with_wrong_values_are_refused_by_field() {
    let sizes = [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "num_local_experts",
        "num_experts_per_tok",
        "vocab_size",
        "max_position_embeddings",
        "head_dim",
        "sliding_window",
    ];
    for field in sizes {
        for value in [
            json!(0),
            json!(-1),
            json!(1.5),
            json!("8"),
            json!([8]),
            json!(true),
            json!(u64::MAX),
            json!(1e300),
        ] {
            let message = config_refusal(&[(field, value.clone())]);
            assert_all(
                &message,
                &[
                    &format!("`{field}`: expected an integer from 1 to"),
                    "found",
                ],
            );
        }
    }
    for (field, value, expected) in [
        ("num_experts_per_tok", json!(3), "an integer from 1 to 2"),
        (
            "num_key_value_heads",
            json!(3),
            "a divisor of the 4 attention heads",
        ),
        (
            "num_key_value_heads",
            json!(8),
            "a divisor of the 4 attention heads",
        ),
        (
            "hidden_size",
            json!(66),
            "a multiple of the 4 attention heads",
        ),
        ("hidden_size", json!(1 << 20), "an integer from 1 to 65536"),
        ("head_dim", json!(15), "an even number"),
        ("rope_theta", json!(0), "a number from 1"),
        ("rope_theta", json!(-1e6), "a number from 1"),
        ("rope_theta", json!("1e6"), "a number from 1"),
        ("rms_norm_eps", json!(0), "above 0 and below 1"),
        ("rms_norm_eps", json!(2), "above 0 and below 1"),
        ("bos_token_id", json!(96), "a token id below 96"),
        ("bos_token_id", json!(-1), "a token id below 96"),
        ("eos_token_id", json!([2, 96]), "a token id below 96"),
        ("eos_token_id", json!("2"), "a token id below 96"),
        ("tie_word_embeddings", json!("no"), "true or false"),
    ] {
        let message = config_refusal(&[(field, value)]);
        assert_all(&message, &[&format!("`{field}`: expected"), expected]);
    }
}

#[test]
fn what_is_no_configuration_is_refused() {
    for bytes in [
        &b""[..],
        b"null",
        b"[]",
        b"{\"model_type\":\"mixtral\"",
        b"{\"model_type\":\"mixtral\",\"rms_norm_eps\":NaN}",
        b"{\"model_type\":\"mixtral\",\"rope_theta\":Infinity}",
        b"{\"model_type\":\"mixtral\",\"rope_theta\":1e999}",
        b"{\"model_type\":\"mixtral\",\"model_type\":\"mixtral\"}",
        b"{\"model_type\":\"mixtral\xff\"}",
        b"\xff\xfe{\x00}\x00",
        "[".repeat(1 << 20).as_bytes(),
        format!("{{\"model_type\":{}", "{\"a\":".repeat(100_000)).as_bytes(),
    ] {
        let message = ModelSpec::from_config_json(bytes).unwrap_err().to_string();
        assert_all(&message, &["not a model configuration"]);
        assert!(message.len() < 300, "{message}");
    }
    let message = refusal(|dir| fs::write(dir.join(CONFIG), "{").unwrap());
    assert_all(&message, &[CONFIG, "not a model configuration"]);
}

#[test]
fn long_values_are_not_echoed_in_full() {
    let message = config_refusal(&[("model_type", json!("x".repeat(1 << 19)))]);
    assert!(message.len() < 300, "{} bytes", message.len());
    let name = "y".repeat(1 << 16);
    let message = refusal(|dir| {
        edit(&dir.join(EXPERT), |file| {
            let w_q = file.get_mut("w1.W_q");
            w_q.name.clone_from(&name);
            w_q.shape = vec![1];
        });
    });
    assert_all(&message, &[EXPERT, "yyyy"]);
    assert!(message.len() < 500, "{} bytes", message.len());
}

#[test]
fn of_several_damaged_experts_the_first_is_reported() {
    for _ in 0..20 {
        let message = refusal(|dir| {
            for i in 2..=5 {
                let path = dir.join(format!("model-{i:05}-of-00005.safetensors"));
                edit(&path, |file| {
                    file.tensors.retain(|tensor| tensor.name != "w3.W_q")
                });
            }
        });
        assert_all(&message, &[EXPERT, "`w3.W_q` is missing"]);
    }
}

// Windows does not let a mapped file be replaced.
#[cfg(unix)]
#[test]
fn damage_after_opening_is_an_error_of_the_read() {
    let dir = tempfile::tempdir().unwrap();
    write_small(dir.path());
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let path = dir.path().join(EXPERT);
    let whole = fs::read(&path).unwrap();
    let mut slot = vec![0; checkpoint.expert_bytes()];
    // A new file under the old name: the map keeps the old one, as a replaced download would.
    let replace = |bytes: &[u8]| {
        let new = dir.path().join("new");
        fs::write(&new, bytes).unwrap();
        fs::rename(&new, &path).unwrap();
    };

    replace(&whole[..whole.len() - 1]);
    let error = checkpoint.read_expert(FIRST, &mut slot).unwrap_err();
    assert!(matches!(error, CheckpointError::Changed { .. }), "{error}");
    assert_all(&error.to_string(), &[EXPERT, &whole.len().to_string()]);

    replace(&whole);
    edit(&dir.path().join(EXPERT), |file| {
        let scale = file.get_mut("w2.meta.meta_scale.scale");
        scale.data[2..4].copy_from_slice(&f16::INFINITY.to_le_bytes());
    });
    let edited = fs::read(&path).unwrap();
    // The edited header may be shorter than the written one: keep the old one, take the data.
    let data_bytes = checkpoint.expert_len(FIRST);
    let mut damaged = whole.clone();
    let data_start = whole.len() - data_bytes;
    damaged[data_start..].copy_from_slice(&edited[edited.len() - data_bytes..]);
    replace(&damaged);
    let error = checkpoint
        .read_expert(FIRST, &mut slot)
        .unwrap_err()
        .to_string();
    assert_all(
        &error,
        &[EXPERT, "`w2.meta.meta_scale.scale` holds inf at element 1"],
    );

    fs::remove_file(&path).unwrap();
    let error = checkpoint.read_expert(FIRST, &mut slot).unwrap_err();
    assert!(matches!(error, CheckpointError::Gone { .. }), "{error}");
    assert_all(&error.to_string(), &[EXPERT, "is gone: was it moved"]);

    replace(&whole);
    checkpoint.read_expert(FIRST, &mut slot).unwrap();
}
