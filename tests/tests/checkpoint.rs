//! Checkpoints as they should be: the golden ones, and every legal variation of the format.
#![allow(clippy::unwrap_used)]

mod edit;

use std::fs;
use std::path::{Path, PathBuf};

use edit::{EXPERT, INDEX, TRUNK, TensorFile, edit, small_config, write_checkpoint, write_small};
use half::{bf16, f16};
use octet_engine::checkpoint::hqq::Quantization;
use octet_engine::checkpoint::{Checkpoint, ExpertId, ExpertWeights, QuantKind, WeightKind};
use octet_engine::synth::SynthOptions;
use octet_kernels::{Bits, QMatrix};
use safetensors::SafeTensors;

const FIRST: ExpertId = ExpertId {
    layer: 0,
    expert: 0,
};

fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures")).join(name)
}

fn expert_matrix<'a>(weights: &ExpertWeights<'a>, name: &str) -> QMatrix<'a> {
    let matrix = match name {
        "w1" => weights.w1,
        "w2" => weights.w2,
        "w3" => weights.w3,
        _ => panic!("no matrix {name}"),
    };
    matrix.hqq().unwrap()
}

fn same_weights(a: &QMatrix<'_>, b: &QMatrix<'_>) -> bool {
    assert_eq!((a.n(), a.k()), (b.n(), b.k()));
    (0..a.n()).all(|row| (0..a.k()).all(|col| a.weight(row, col) == b.weight(row, col)))
}

/// The reference dequantizes in f16, so a weight may differ by a few of its roundings.
fn assert_dequantizes(matrix: &QMatrix<'_>, expected: &[u8], what: &str) {
    let expected: Vec<f32> = expected
        .chunks_exact(2)
        .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
        .collect();
    assert_eq!(expected.len(), matrix.n() * matrix.k(), "{what}");
    let (mut error, mut power, mut worst) = (0.0_f64, 0.0_f64, 0.0_f32);
    for (i, &golden) in expected.iter().enumerate() {
        let diff = matrix.weight(i / matrix.k(), i % matrix.k()) - golden;
        error += f64::from(diff * diff);
        power += f64::from(golden * golden);
        worst = worst.max(diff.abs());
    }
    let rms = (power / expected.len() as f64).sqrt();
    assert!(
        (error / power).sqrt() < 2e-3,
        "{what}: relative error {}",
        (error / power).sqrt()
    );
    assert!(
        f64::from(worst) < 1.5e-2 * rms,
        "{what}: off by {worst}, RMS {rms}"
    );
}

fn assert_matches_golden(name: &str, min_matrices: usize) {
    let dir = fixture(name);
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let golden = fs::read(dir.join("golden.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let mut matrices = 0;
    for (tensor, expected) in golden.iter() {
        let Some(path) = tensor.strip_prefix("dequant.layers.") else {
            continue;
        };
        let parts: Vec<&str> = path.split('.').collect();
        let layer: u16 = parts[0].parse().unwrap();
        matrices += 1;
        if parts[1] == "experts" {
            let id = ExpertId {
                layer,
                expert: parts[2].parse().unwrap(),
            };
            let mapped = checkpoint.expert_mapped(id);
            assert_dequantizes(&expert_matrix(&mapped, parts[3]), expected.data(), tensor);
            let mut slot = vec![0; checkpoint.expert_bytes() + 7];
            checkpoint.read_expert(id, &mut slot).unwrap();
            let copied = checkpoint.expert_view(id, &slot);
            assert!(same_weights(
                &expert_matrix(&mapped, parts[3]),
                &expert_matrix(&copied, parts[3])
            ));
        } else {
            let trunk = checkpoint.layer(usize::from(layer));
            let matrix = match parts[2] {
                "q_proj" => trunk.q_proj,
                "k_proj" => trunk.k_proj,
                "v_proj" => trunk.v_proj,
                "o_proj" => trunk.o_proj,
                other => panic!("no projection {other}"),
            };
            assert_dequantizes(&matrix.hqq().unwrap(), expected.data(), tensor);
        }
    }
    assert!(
        matrices >= min_matrices,
        "only {matrices} golden matrices in {name}"
    );
}

#[test]
fn the_2_bit_checkpoint_dequantizes_as_the_reference_does() {
    assert_matches_golden("tiny-2bit", 5);
}

#[test]
fn the_3_bit_checkpoint_dequantizes_as_the_reference_does() {
    assert_matches_golden("tiny-3bit", 5);
}

#[test]
fn quantization_and_sizes_are_told_from_the_files() {
    let kind = |bits, group_size, scale_group_size, matrices| QuantKind {
        bits,
        group_size,
        scale_group_size: Some(scale_group_size),
        matrices,
    };
    for (name, experts, expert_bytes) in [
        ("tiny-2bit", kind(2, 16, 128, 96), 148_236),
        ("tiny-3bit", kind(3, 64, 128, 96), 184_524),
    ] {
        let dir = fixture(name);
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let summary = checkpoint.quant_summary();
        assert_eq!(summary.experts, [WeightKind::Hqq(experts)]);
        assert_eq!(summary.attention, [WeightKind::Hqq(kind(4, 64, 256, 16))]);
        assert_eq!(checkpoint.expert_bytes(), expert_bytes);
        assert_eq!(checkpoint.expert_len(FIRST), expert_bytes);
        assert_eq!(checkpoint.experts_total_bytes(), 32 * expert_bytes as u64);
        let trunk_bytes = fs::metadata(dir.join("model-00001-of-00033.safetensors"))
            .unwrap()
            .len();
        assert_eq!(checkpoint.trunk_bytes(), trunk_bytes);
        assert_eq!(checkpoint.files().count, 33);
        assert!(checkpoint.files().bytes > checkpoint.experts_total_bytes() + trunk_bytes);
        assert_eq!(checkpoint.dir(), dir);
        assert_eq!(checkpoint.spec().n_layers, 4);
    }
}

#[test]
fn the_trunk_is_read_as_another_reader_reads_it() {
    let dir = fixture("tiny-2bit");
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let bytes = fs::read(dir.join("model-00001-of-00033.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let data = |name: &str| file.tensor(name).unwrap().data();
    let floats = |name: &str| -> Vec<f32> {
        data(name)
            .chunks_exact(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect()
    };
    assert_eq!(
        checkpoint.embedding().f16().unwrap(),
        data("model.embed_tokens.weight")
    );
    assert_eq!(checkpoint.output().f16().unwrap(), data("lm_head.weight"));
    assert_eq!(checkpoint.final_norm(), floats("model.norm.weight"));
    for l in 0..4 {
        let layer = checkpoint.layer(l);
        let prefix = format!("model.layers.{l}");
        assert_eq!(
            layer.input_layernorm,
            floats(&format!("{prefix}.input_layernorm.weight"))
        );
        assert_eq!(
            layer.post_attention_layernorm,
            floats(&format!("{prefix}.post_attention_layernorm.weight"))
        );
        assert_eq!(
            layer.gate.f16().unwrap(),
            data(&format!("{prefix}.block_sparse_moe.gate.weight"))
        );
        assert_eq!(
            layer.k_proj.hqq().unwrap().w_q(),
            data(&format!("{prefix}.self_attn.k_proj.W_q"))
        );
        assert_eq!((layer.k_proj.n(), layer.k_proj.k()), (128, 256));
    }
}

#[test]
fn advice_changes_no_byte() {
    let checkpoint = Checkpoint::open(&fixture("tiny-2bit")).unwrap();
    let before = checkpoint.output().f16().unwrap().to_vec();
    let w_q = checkpoint
        .expert_mapped(FIRST)
        .w1
        .hqq()
        .unwrap()
        .w_q()
        .to_vec();
    checkpoint.advise_dont_need(checkpoint.output().f16().unwrap());
    checkpoint.advise_dont_need(checkpoint.expert_mapped(FIRST).w1.hqq().unwrap().w_q());
    checkpoint.advise_dont_need(&before);
    checkpoint.advise_will_need(FIRST);
    assert_eq!(checkpoint.output().f16().unwrap(), before);
    assert_eq!(checkpoint.expert_mapped(FIRST).w1.hqq().unwrap().w_q(), w_q);
}

#[test]
fn a_checkpoint_is_read_from_many_threads() {
    let checkpoint = Checkpoint::open(&fixture("tiny-2bit")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u16 {
            let checkpoint = &checkpoint;
            scope.spawn(move || {
                let mut slot = vec![0; checkpoint.expert_bytes()];
                for expert in 0..8 {
                    let id = ExpertId {
                        layer: thread,
                        expert,
                    };
                    checkpoint.read_expert(id, &mut slot).unwrap();
                    let (copied, mapped) = (
                        checkpoint.expert_view(id, &slot),
                        checkpoint.expert_mapped(id),
                    );
                    let [w1, w2, w3] = ["w1", "w2", "w3"]
                        .map(|name| (expert_matrix(&copied, name), expert_matrix(&mapped, name)));
                    assert_eq!(w1.0.w_q(), w1.1.w_q());
                    assert_eq!(w3.0.w_q(), w3.1.w_q());
                    assert_eq!(w2.0.weight(3, 5), w2.1.weight(3, 5));
                }
            });
        }
    });
}

#[cfg(unix)]
#[test]
fn files_may_be_links_as_in_the_hugging_face_cache() {
    let source = fixture("tiny-3bit");
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(&source).unwrap() {
        let entry = entry.unwrap();
        std::os::unix::fs::symlink(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let mut slot = vec![0; checkpoint.expert_bytes()];
    checkpoint.read_expert(FIRST, &mut slot).unwrap();
}

/// Opens the small checkpoint before and after `change`, which must keep its meaning.
fn assert_same_after(change: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    write_small(dir.path());
    let before = Checkpoint::open(dir.path()).unwrap();
    let changed = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), changed.path().join(entry.file_name())).unwrap();
    }
    change(changed.path());
    let after = Checkpoint::open(changed.path()).unwrap();
    for layer in 0..2 {
        for expert in 0..2 {
            let id = ExpertId { layer, expert };
            let mut slot = vec![0; after.expert_bytes()];
            after.read_expert(id, &mut slot).unwrap();
            let copied = after.expert_view(id, &slot);
            for name in ["w1", "w2", "w3"] {
                let expected = expert_matrix(&before.expert_mapped(id), name);
                assert!(same_weights(
                    &expected,
                    &expert_matrix(&after.expert_mapped(id), name)
                ));
                assert!(same_weights(&expected, &expert_matrix(&copied, name)));
            }
        }
        let (a, b) = (
            before.layer(usize::from(layer)),
            after.layer(usize::from(layer)),
        );
        assert!(same_weights(
            &a.o_proj.hqq().unwrap(),
            &b.o_proj.hqq().unwrap()
        ));
        assert_eq!(a.gate.f16(), b.gate.f16());
        assert_eq!(a.input_layernorm, b.input_layernorm);
    }
    assert_eq!(
        before.embedding().f16().unwrap(),
        after.embedding().f16().unwrap()
    );
    assert_eq!(
        before.output().f16().unwrap(),
        after.output().f16().unwrap()
    );
}

#[test]
fn tensors_may_lie_in_any_order_with_gaps_at_odd_offsets() {
    assert_same_after(|dir| {
        for file in [TRUNK, EXPERT] {
            edit(&dir.join(file), |file| {
                file.tensors.reverse();
                file.gap_bytes = 3;
            });
        }
    });
}

#[test]
fn packed_weights_may_be_flat() {
    assert_same_after(|dir| {
        edit(&dir.join(EXPERT), |file| {
            let w_q = file.get_mut("w2.W_q");
            w_q.shape = vec![w_q.shape.iter().product()];
        });
    });
}

#[test]
fn foreign_tensors_and_metadata_are_passed_over() {
    assert_same_after(|dir| {
        edit(&dir.join(EXPERT), |file| {
            let mut foreign = file.tensors[0].clone();
            foreign.name = "w1.bias".to_owned();
            file.tensors.push(foreign);
        });
        let path = dir.join(INDEX);
        let mut index: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        index["metadata"]["made_by"] = "a test".into();
        fs::write(path, index.to_string()).unwrap();
    });
}

#[test]
fn dense_tensors_may_be_f32_or_bf16() {
    let to_f32 = |data: &[u8]| -> Vec<f32> {
        data.chunks_exact(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect()
    };
    assert_same_after(|dir| {
        edit(&dir.join(TRUNK), |file| {
            for tensor in &mut file.tensors {
                if tensor.name.ends_with(".weight") {
                    tensor.data = to_f32(&tensor.data)
                        .iter()
                        .flat_map(|v| v.to_le_bytes())
                        .collect();
                    tensor.dtype = "F32".to_owned();
                }
            }
        });
    });

    let dir = tempfile::tempdir().unwrap();
    write_small(dir.path());
    let mut expected = Vec::new();
    edit(&dir.path().join(TRUNK), |file| {
        let embed = file.get_mut("model.embed_tokens.weight");
        let values: Vec<bf16> = to_f32(&embed.data)
            .iter()
            .map(|&v| bf16::from_f32(v))
            .collect();
        embed.dtype = "BF16".to_owned();
        embed.data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        expected = values
            .iter()
            .flat_map(|v| f16::from_f32(v.to_f32()).to_le_bytes())
            .collect();
    });
    assert_eq!(
        Checkpoint::open(dir.path())
            .unwrap()
            .embedding()
            .f16()
            .unwrap(),
        expected
    );
}

#[test]
fn a_tied_output_matrix_is_the_embedding_matrix() {
    let mut config = small_config();
    config["tie_word_embeddings"] = true.into();
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(&config, &SynthOptions::default(), dir.path());
    let trunk = TensorFile::load(&dir.path().join(TRUNK));
    assert!(
        trunk
            .tensors
            .iter()
            .all(|tensor| tensor.name != "lm_head.weight")
    );
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(
        checkpoint.output().f16().unwrap(),
        checkpoint.embedding().f16().unwrap()
    );
}

/// transformers ties the two after it has read them.
#[test]
fn an_output_matrix_in_the_file_is_not_used_where_the_configuration_ties_it() {
    let dir = tempfile::tempdir().unwrap();
    write_small(dir.path());
    let untied = Checkpoint::open(dir.path()).unwrap();
    assert_ne!(
        untied.output().f16().unwrap(),
        untied.embedding().f16().unwrap()
    );
    drop(untied);
    let path = dir.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["tie_word_embeddings"] = true.into();
    fs::write(&path, config.to_string()).unwrap();
    let tied = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(
        tied.output().f16().unwrap(),
        tied.embedding().f16().unwrap()
    );
}

/// Each read opened the file anew, which costs as much as a small expert where a scanner looks on.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_was_read_stays_open() {
    let dir = tempfile::tempdir().unwrap();
    write_small(dir.path());
    let path = dir.path().join(EXPERT).canonicalize().unwrap();
    let open = || {
        let files = fs::read_dir("/proc/self/fd").unwrap().flatten();
        files
            .filter(|file| fs::read_link(file.path()).is_ok_and(|to| to == path))
            .count()
    };
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(open(), 0);
    let mut slot = vec![0; checkpoint.expert_bytes()];
    for _ in 0..3 {
        checkpoint.read_expert(FIRST, &mut slot).unwrap();
        assert_eq!(open(), 1);
    }
    // It is read from the open file, whatever lies under its name now.
    let before = slot.clone();
    fs::rename(&path, dir.path().join("elsewhere")).unwrap();
    checkpoint.read_expert(FIRST, &mut slot).unwrap();
    assert_eq!(slot, before);
    drop(checkpoint);
    assert_eq!(open(), 0);
}

#[test]
fn single_plain_zeros_and_scales_serve_all_groups() {
    let dir = tempfile::tempdir().unwrap();
    write_small(dir.path());
    edit(&dir.path().join(EXPERT), |file| {
        file.tensors.retain(|tensor| {
            !(tensor.name.starts_with("w1.meta.zero_q")
                || tensor.name.contains("w1.meta.meta_zero"))
        });
        let mut zero = file.get_mut("w1.meta.meta_scale.zero").clone();
        zero.name = "w1.meta.zero".to_owned();
        zero.shape = Vec::new();
        zero.data = f16::from_f32(1.5).to_le_bytes().to_vec();
        file.tensors.push(zero);
    });
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let w1 = checkpoint.expert_mapped(FIRST).w1.hqq().unwrap();
    assert_eq!(w1.group_size(), 16);
    assert!((0..64).all(|col| w1.zero().get(col) == 1.5));
}

#[test]
fn experts_may_be_quantized_each_in_its_own_way() {
    let dir = tempfile::tempdir().unwrap();
    write_small(dir.path());
    let other_dir = tempfile::tempdir().unwrap();
    let experts = Quantization {
        bits: Bits::B3,
        group_size: 64,
        scale_group_size: None,
    };
    write_checkpoint(
        &small_config(),
        &SynthOptions {
            experts,
            ..SynthOptions::default()
        },
        other_dir.path(),
    );
    fs::copy(other_dir.path().join(EXPERT), dir.path().join(EXPERT)).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let second = ExpertId {
        layer: 0,
        expert: 1,
    };
    assert_eq!(
        checkpoint.expert_mapped(FIRST).w1.hqq().unwrap().bits(),
        Bits::B3
    );
    assert_eq!(
        checkpoint.expert_mapped(second).w1.hqq().unwrap().bits(),
        Bits::B2
    );
    let (first_bytes, second_bytes) = (checkpoint.expert_len(FIRST), checkpoint.expert_len(second));
    assert_ne!(first_bytes, second_bytes);
    assert_eq!(checkpoint.expert_bytes(), first_bytes.max(second_bytes));
    let summary = checkpoint.quant_summary();
    let kinds: Vec<_> = summary
        .experts
        .iter()
        .map(|kind| kind.hqq().unwrap())
        .map(|kind| (kind.bits, kind.group_size, kind.matrices))
        .collect();
    assert_eq!(kinds, [(2, 16, 9), (3, 64, 3)]);
    assert_eq!(
        summary.experts[1].to_string(),
        "3 bits in groups of 64, f16 scales"
    );
}
