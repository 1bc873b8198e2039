//! Values that are no numbers, or that f16 cannot hold: found, wherever they would come out as an
//! answer.
#![allow(clippy::unwrap_used)]

mod edit;

use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;

use edit::{EXPERT, TRUNK, TensorFile, edit, write_small};
use half::f16;
use octet_engine::checkpoint::Checkpoint;
use octet_engine::experts::{ExpertOptions, Experts};
use octet_engine::model::{Decoder, Logits};
use octet_engine::tokenizer::TokenId;
use octet_kernels::{Pool, Precision};

fn assert_all(message: &str, expected: &[&str]) {
    for part in expected {
        assert!(message.contains(part), "no `{part}` in: {message}");
    }
}

#[test]
fn values_that_are_not_finite_are_refused_by_element() {
    let dir = tempfile::tempdir().unwrap();
    write_small(dir.path());
    for name in [TRUNK, EXPERT] {
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        for tensor in TensorFile::load(&path).tensors {
            let checked = tensor.dtype == "F16"
                && !["lm_head.weight", "model.embed_tokens.weight"].contains(&&*tensor.name);
            if !checked {
                continue;
            }
            let last = tensor.data.len() / 2 - 1;
            for (value, shown) in [(f16::NAN, "NaN"), (f16::NEG_INFINITY, "-inf")] {
                edit(&path, |file| {
                    file.get_mut(&tensor.name).data[2 * last..]
                        .copy_from_slice(&value.to_le_bytes());
                });
                let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
                let expected = format!("tensor `{}` holds {shown} at element {last}", tensor.name);
                assert_all(&message, &[name, &expected]);
                fs::write(&path, &whole).unwrap();
            }
        }
    }
}

/// The 8 bits that weights and activations are rounded to have no NaN: it came out as zero, and as
/// an answer.
#[test]
fn what_rounding_would_hide_is_found() {
    let dir = tempfile::tempdir().unwrap();
    write_small(dir.path());
    let path = dir.path().join(TRUNK);
    let whole = fs::read(&path).unwrap();
    let spoil = |tensor: &str| {
        edit(&path, |file| {
            file.get_mut(tensor).data[20..22].copy_from_slice(&f16::NAN.to_le_bytes());
        });
    };
    spoil("lm_head.weight");
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let message = checkpoint.check_trunk().unwrap_err().to_string();
    assert_all(&message, &["`lm_head.weight` holds NaN at element 10"]);
    fs::write(&path, &whole).unwrap();

    spoil("model.embed_tokens.weight");
    for precision in [Precision::Exact, Precision::Fast] {
        let checkpoint = Arc::new(Checkpoint::open(dir.path()).unwrap());
        checkpoint.check_trunk().unwrap();
        let experts = Experts::new(Arc::clone(&checkpoint), ExpertOptions::default()).unwrap();
        let model = Decoder::new(checkpoint, experts, Pool::new(1), precision);
        for tokens in [
            &[TokenId(0)][..],
            &[TokenId(1), TokenId(0)],
            &[TokenId(1); 4],
        ] {
            let mut session = model.session(8);
            let go_on = &mut |_| ControlFlow::Continue(());
            let logits = model
                .forward(&mut session, tokens, Logits::Last, go_on)
                .unwrap();
            // The first token's embedding is the spoilt one.
            let is_spoilt = tokens.last() == Some(&TokenId(0));
            assert_eq!(logits.iter().any(|x| x.is_nan()), is_spoilt, "{tokens:?}");
        }
    }
}

#[test]
fn values_that_f16_cannot_hold_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_small(dir.path());
    edit(&dir.path().join(TRUNK), |file| {
        let embed = file.get_mut("model.embed_tokens.weight");
        embed.dtype = "F32".to_owned();
        embed.data = vec![0; 2 * embed.data.len()];
        embed.data[20..24].copy_from_slice(&1e5_f32.to_le_bytes());
    });
    let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
    let expected = "`model.embed_tokens.weight` holds 100000 at element 5";
    assert_all(&message, &[TRUNK, expected]);
}
