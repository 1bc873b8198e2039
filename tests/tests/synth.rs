//! Random checkpoints: every shape and quantization opens, equal seeds give equal bytes, and the
//! values keep activations of ordinary size.
#![allow(clippy::unwrap_used)]

mod edit;

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use edit::{EXPERT, TensorFile, small_config, write_checkpoint};
use half::f16;
use octet_engine::checkpoint::hqq::Quantization;
use octet_engine::checkpoint::{Checkpoint, ExpertId};
use octet_engine::synth::{SynthError, SynthOptions, synth};
use octet_kernels::{Bits, QMatrix};
use serde_json::json;

fn options(bits: Bits, group_size: usize, scale_group_size: Option<usize>) -> SynthOptions {
    let quant = Quantization {
        bits,
        group_size,
        scale_group_size,
    };
    SynthOptions {
        experts: quant,
        attention: quant,
        ..SynthOptions::default()
    }
}

/// Mean and standard deviation of all weights.
fn moments(matrix: &QMatrix<'_>) -> (f64, f64) {
    let weights: Vec<f64> = (0..matrix.n())
        .flat_map(|row| (0..matrix.k()).map(move |col| f64::from(matrix.weight(row, col))))
        .collect();
    let count = weights.len() as f64;
    let mean = weights.iter().sum::<f64>() / count;
    let variance = weights.iter().map(|w| (w - mean) * (w - mean)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (
                entry.file_name().into_string().unwrap(),
                fs::read(entry.path()).unwrap(),
            )
        })
        .collect()
}

#[test]
fn every_quantization_opens_with_centred_weights_of_the_right_spread() {
    let mut config = small_config();
    config["hidden_size"] = 128.into();
    config["intermediate_size"] = 256.into();
    for bits in [Bits::B2, Bits::B3, Bits::B4, Bits::B8] {
        for (group_size, scale_group_size) in [
            (16, Some(128)),
            (64, Some(256)),
            (16, None),
            (40, Some(24)),
            (8, Some(1)),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let options = options(bits, group_size, scale_group_size);
            write_checkpoint(&config, &options, dir.path());
            let checkpoint = Checkpoint::open(dir.path()).unwrap();
            let weights = checkpoint.expert_mapped(ExpertId {
                layer: 1,
                expert: 1,
            });
            let trunk = checkpoint.layer(1);
            for (name, matrix, gain) in [
                ("w1", weights.w1.hqq().unwrap(), 1.0),
                ("w2", weights.w2.hqq().unwrap(), 1.0),
                ("w3", weights.w3.hqq().unwrap(), 1.0),
                ("q_proj", trunk.q_proj.hqq().unwrap(), 1.0),
                ("o_proj", trunk.o_proj.hqq().unwrap(), 0.5),
            ] {
                assert_eq!(matrix.bits(), bits);
                let (mean, std) = moments(&matrix);
                let expected = gain / (matrix.k() as f64).sqrt();
                let what = format!("{name}, {options:?}: mean {mean}, std {std}, not {expected}");
                assert!(mean.abs() < 0.05 * expected, "{what}");
                assert!((std / expected - 1.0).abs() < 0.1, "{what}");
            }
        }
    }
}

#[test]
fn sizes_that_nothing_divides_are_fitted() {
    let mut config = small_config();
    config["hidden_size"] = 84.into();
    config["head_dim"] = 6.into();
    config["intermediate_size"] = 55.into();
    config["num_hidden_layers"] = 1.into();
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(&config, &SynthOptions::default(), dir.path());
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let weights = checkpoint.expert_mapped(ExpertId {
        layer: 0,
        expert: 1,
    });
    // 55 x 84 = 4 * 3 * 5 * 7 * 11
    assert_eq!(weights.w1.hqq().unwrap().group_size(), 12);
    assert_eq!((weights.w2.n(), weights.w2.k()), (84, 55));
}

#[test]
fn what_cannot_be_packed_is_refused_with_its_numbers() {
    let mut config = small_config();
    config["intermediate_size"] = 55.into();
    config["hidden_size"] = 63.into();
    config["head_dim"] = 16.into();
    let dir = tempfile::tempdir().unwrap();
    let config_path = dir.path().join("config.json");
    fs::write(&config_path, config.to_string()).unwrap();
    let out = dir.path().join("out");
    let error = synth(&config_path, &out, &SynthOptions::default(), &mut |_, _| {}).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`w1`: 55 x 63 weights cannot be packed at 2 bits in groups of at most 16"
    );
    assert!(!out.exists());
}

#[test]
fn the_seed_and_nothing_else_chooses_the_bytes() {
    let write = |seed| {
        let dir = tempfile::tempdir().unwrap();
        let options = SynthOptions {
            seed,
            ..SynthOptions::default()
        };
        write_checkpoint(&small_config(), &options, dir.path());
        contents(dir.path())
    };
    let (first, again, other) = (write(7), write(7), write(8));
    assert_eq!(first.len(), 7);
    assert!(first == again);
    for (name, bytes) in &first {
        let tensors = name.ends_with(".safetensors");
        assert_eq!(bytes != &other[name], tensors, "{name}");
    }
    let experts: Vec<_> = (2..6)
        .map(|i| &first[&format!("model-{i:05}-of-00005.safetensors")])
        .collect::<Vec<_>>();
    assert!(experts.windows(2).all(|pair| pair[0] != pair[1]));
}

/// FNV-1a over names and contents: holds the bytes still across systems and versions.
#[test]
fn the_bytes_are_those_of_every_system() {
    let dir = tempfile::tempdir().unwrap();
    let options = SynthOptions {
        seed: 42,
        ..SynthOptions::default()
    };
    write_checkpoint(&small_config(), &options, dir.path());
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for (name, bytes) in contents(dir.path()) {
        if name.ends_with(".safetensors") {
            for byte in name.bytes().chain(bytes) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
    }
    assert_eq!(hash, 0x0b86_2180_bb71_8b53, "{hash:#x}");
}

#[test]
fn files_lie_as_in_the_reference_checkpoint() {
    let fixture = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tiny-2bit"));
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new/folder");
    let config = fixture.join("config.json");
    let summary = synth(&config, &out, &SynthOptions::default(), &mut |_, _| {}).unwrap();
    assert_eq!((summary.n_layers, summary.files), (4, 33));
    for entry in fs::read_dir(fixture).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("golden") {
            continue;
        }
        let ours = fs::read(out.join(&name)).unwrap();
        let theirs = fs::read(entry.path()).unwrap();
        if name.starts_with("model-") {
            let header = |bytes: &[u8]| {
                let len = u64::from_le_bytes(*bytes.first_chunk::<8>().unwrap()) as usize;
                bytes[..8 + len].to_vec()
            };
            assert!(header(&ours) == header(&theirs), "{name}");
            assert_eq!(ours.len(), theirs.len());
        } else {
            let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
            assert_eq!(json(&ours), json(&theirs), "{name}");
        }
    }
}

#[test]
fn layers_can_be_chosen_and_progress_reaches_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let config_path = dir.path().join("config.json");
    fs::write(&config_path, small_config().to_string()).unwrap();
    let out = dir.path().join("out");
    let mut calls = Vec::new();
    let options = SynthOptions {
        layers: Some(3),
        ..SynthOptions::default()
    };
    let summary = synth(&config_path, &out, &options, &mut |done, total| {
        calls.push((done, total))
    })
    .unwrap();
    assert_eq!((summary.n_layers, summary.files), (3, 7));
    assert!(
        calls
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 == pair[1].1)
    );
    assert_eq!(calls.last(), Some(&(summary.bytes, summary.bytes)));
    let checkpoint = Checkpoint::open(&out).unwrap();
    assert_eq!(checkpoint.spec().n_layers, 3);
    assert_eq!(checkpoint.files().bytes, summary.bytes);
}

#[test]
fn a_used_folder_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let config_path = dir.path().join("config.json");
    fs::write(&config_path, small_config().to_string()).unwrap();
    for out in [dir.path(), &config_path] {
        let error = synth(&config_path, out, &SynthOptions::default(), &mut |_, _| {}).unwrap_err();
        assert!(matches!(error, SynthError::NotEmpty { .. }), "{error}");
    }
    assert_eq!(contents(dir.path()).len(), 1);
}

#[test]
fn wrong_options_and_configurations_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let config_path = dir.path().join("config.json");
    fs::write(&config_path, small_config().to_string()).unwrap();
    let out = dir.path().join("out");
    for (layers, path, expected) in [
        (
            Some(0),
            &config_path,
            "`num_hidden_layers`: expected an integer from 1",
        ),
        (
            Some(100_000),
            &config_path,
            "`num_hidden_layers`: expected an integer from 1",
        ),
        (None, &dir.path().join("none.json"), "none.json is missing"),
        (None, &dir.path().to_owned(), "is not a regular file"),
    ] {
        let options = SynthOptions {
            layers,
            ..SynthOptions::default()
        };
        let error = synth(path, &out, &options, &mut |_, _| {})
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!out.exists());
    }
}

#[test]
fn what_no_disk_can_hold_is_refused_before_it_is_written() {
    let config = json!({
        "model_type": "mixtral", "hidden_size": 1 << 16, "intermediate_size": 1 << 20,
        "num_hidden_layers": 1024, "num_local_experts": 64,
    });
    let dir = tempfile::tempdir().unwrap();
    let config_path = dir.path().join("config.json");
    fs::write(&config_path, config.to_string()).unwrap();
    let out = dir.path().join("out");
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // Called only when writing has begun: the check found no disk to look at.
        let stop = &mut |_, _| std::panic::resume_unwind(Box::new("stop"));
        synth(&config_path, &out, &SynthOptions::default(), stop)
    }));
    match outcome {
        Ok(result) => {
            let error = result.unwrap_err();
            assert!(matches!(error, SynthError::DiskFull { .. }), "{error}");
            assert!(
                error.to_string().contains("free: give fewer --layers"),
                "{error}"
            );
        }
        Err(_) => println!(
            "skipped: the free space of {} cannot be told",
            dir.path().display()
        ),
    }
    assert!(!out.exists());
}

#[test]
fn what_is_interrupted_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let config_path = dir.path().join("config.json");
    fs::write(&config_path, small_config().to_string()).unwrap();
    let out = dir.path().join("out");
    let mut seen = Vec::new();
    let interrupted = catch_unwind(AssertUnwindSafe(|| {
        synth(
            &config_path,
            &out,
            &SynthOptions::default(),
            &mut |done, total| {
                if done * 2 > total {
                    seen = fs::read_dir(&out)
                        .unwrap()
                        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                        .collect();
                    std::panic::resume_unwind(Box::new("stop"));
                }
            },
        )
    }));
    assert!(interrupted.is_err());
    assert!(
        seen.iter().any(|name| name.ends_with(".incomplete")),
        "{seen:?}"
    );
    assert!(
        seen.iter()
            .all(|name| name != "model.safetensors.index.json")
    );
    assert!(!out.exists());
}

#[test]
fn three_bit_padding_holds_no_weight() {
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(
        &small_config(),
        &options(Bits::B3, 64, Some(128)),
        dir.path(),
    );
    let file = TensorFile::load(&dir.path().join(EXPERT));
    let w_q = file
        .tensors
        .iter()
        .find(|tensor| tensor.name == "w1.W_q")
        .unwrap();
    assert_eq!(
        (w_q.dtype.as_str(), w_q.shape.as_slice()),
        ("I32", &[7, 128][..])
    );
    let units: Vec<u32> = w_q
        .data
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    // Part 9 holds row 63 in packed row 0; the other packed rows have nothing there.
    assert!(units[..128].iter().any(|unit| unit & 7 != 0));
    assert!(units[128..].iter().all(|unit| unit & 7 == 0));
}

/// A token's activations through an expert, and the router's choice over many tokens.
#[test]
fn activations_stay_ordinary_and_routing_is_mixed() {
    let config = json!({
        "model_type": "mixtral", "hidden_size": 256, "intermediate_size": 512,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 400,
    });
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(&config, &SynthOptions::default(), dir.path());
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes
            .chunks_exact(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect()
    };
    let rms = |x: &[f32]| (x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32).sqrt();
    let product = |w: &QMatrix<'_>, x: &[f32]| -> Vec<f32> {
        (0..w.n())
            .map(|row| (0..w.k()).map(|col| w.weight(row, col) * x[col]).sum())
            .collect()
    };
    let embeddings = floats(checkpoint.embedding().f16().unwrap());
    let layer = checkpoint.layer(0);

    let gate = floats(layer.gate.f16().unwrap());
    let mut uses = [0_usize; 8];
    for token in embeddings.chunks(256) {
        let scale = 1.0 / rms(token);
        let mut logits: Vec<(f32, usize)> = gate
            .chunks(256)
            .map(|row| row.iter().zip(token).map(|(a, b)| a * b * scale).sum())
            .zip(0..)
            .collect();
        logits.sort_by(|a, b| b.0.total_cmp(&a.0));
        uses[logits[0].1] += 1;
        uses[logits[1].1] += 1;
    }
    assert!(uses.iter().all(|&n| n > 0 && n < 400), "{uses:?}");
    assert!(uses.iter().max() > uses.iter().min(), "{uses:?}");

    let token = &embeddings[..256];
    assert!((0.7..1.4).contains(&rms(token)), "{}", rms(token));
    let x: Vec<f32> = token
        .iter()
        .zip(layer.input_layernorm)
        .map(|(v, w)| v / rms(token) * w)
        .collect();
    for (matrix, expected) in [
        (layer.q_proj.hqq().unwrap(), 1.0),
        (layer.v_proj.hqq().unwrap(), 1.0),
        (layer.o_proj.hqq().unwrap(), 0.5),
    ] {
        let ratio = rms(&product(&matrix, &x)) / expected;
        assert!((0.7..1.4).contains(&ratio), "{ratio}");
    }
    let weights = checkpoint.expert_mapped(ExpertId {
        layer: 0,
        expert: 3,
    });
    let inner: Vec<f32> = product(&weights.w1.hqq().unwrap(), &x)
        .into_iter()
        .zip(product(&weights.w3.hqq().unwrap(), &x))
        .map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up)
        .collect();
    let out = product(&weights.w2.hqq().unwrap(), &inner);
    assert!((0.3..1.2).contains(&rms(&out)), "{}", rms(&out));
}
