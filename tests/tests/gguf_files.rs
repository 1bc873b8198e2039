//! GGUF files in other wrappings, hostile ones, and the tokenizers inside them, through the engine.

use std::path::PathBuf;
use std::sync::Arc;

use octet_engine::checkpoint::{Checkpoint, ExpertId};
use octet_engine::experts::{ExpertOptions, Experts};
use octet_engine::load::open_tokenizer;
use octet_engine::model::{Decoder, Logits};
use octet_engine::tokenizer::{TokenId, Tokenizer};
use octet_kernels::{Pool, Precision};
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    octet_tests::fixture("gguf").join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).expect("fixture")).expect("JSON")
}

fn decoder(name: &str, ram_slots: Option<usize>) -> Decoder {
    let checkpoint = Arc::new(Checkpoint::open(&fixture(name)).expect("a model"));
    let options = ExpertOptions {
        ram_slots,
        ..ExpertOptions::default()
    };
    let experts = Experts::new(Arc::clone(&checkpoint), options).expect("enough slots");
    Decoder::new(checkpoint, experts, Pool::new(2), Precision::Fast)
}

fn logits(model: &Decoder) -> Result<Vec<f32>, String> {
    let vocab = model.spec().vocab_size as u32;
    let tokens: Vec<TokenId> = (5..25).map(|id| TokenId(id % vocab)).collect();
    let mut session = model.session(tokens.len());
    let go_on = &mut |_| std::ops::ControlFlow::Continue(());
    let logits = model.forward(&mut session, &tokens, Logits::All, go_on);
    logits.map(|all| all.to_vec()).map_err(|e| e.to_string())
}

/// A larger alignment, three parts (of which any may be named), and one tensor an expert.
#[test]
fn a_model_computes_the_same_in_every_wrapping() {
    let plain = logits(&decoder("mixtral-q4_0.gguf", None));
    let split = logits(&decoder("variants/split-00001-of-00003.gguf", None));
    for (name, expected) in [
        ("align-64.gguf", &plain),
        ("old-names.gguf", &plain),
        ("split-00002-of-00003.gguf", &split),
        ("split-00003-of-00003.gguf", &split),
    ] {
        let name = format!("variants/{name}");
        for slots in [None, Some(6)] {
            assert_eq!(
                &logits(&decoder(&name, slots)),
                expected,
                "{name} {slots:?}"
            );
        }
        assert!(expected.is_ok());
    }
}

#[test]
fn hostile_files_are_refused_with_a_reason() {
    let cases = json("hostile/hostile.json");
    let mut refused = 0;
    for (name, _) in cases.as_object().expect("cases") {
        let opened = Checkpoint::open(&fixture(&format!("hostile/{name}.gguf")));
        let opened = opened.map_err(|e| e.to_string()).and_then(|checkpoint| {
            checkpoint.check_trunk().map_err(|e| e.to_string())?;
            let tokenizer = open_tokenizer(&checkpoint, None);
            tokenizer.map(|_| ()).map_err(|e| e.to_string())
        });
        match (name.as_str(), opened) {
            // Found when it is used, for opening reads no experts.
            ("nan-expert" | "valid", Ok(_)) | ("norm-f16" | "key-utf8" | "rope-type", _) => {}
            (_, Ok(_)) => panic!("{name} opens"),
            (_, Err(message)) => {
                assert!(
                    message.contains(".gguf") && message.len() < 600,
                    "{name}: {message}"
                );
                refused += 1;
            }
        }
    }
    assert!(refused >= 79, "{refused}");
    Checkpoint::open(&fixture("hostile/valid.gguf")).expect("a valid file");
}

#[test]
fn an_expert_with_nan_in_it_gives_no_answer() {
    const NAME: &str = "hostile/nan-expert.gguf";
    let checkpoint = Checkpoint::open(&fixture(NAME)).expect("a model");
    let mut slot = vec![0; checkpoint.expert_bytes()];
    let mut read = checkpoint
        .expert_ids()
        .map(|id| checkpoint.read_expert(id, &mut slot));
    let error = read.find_map(Result::err).expect("a copy is checked");
    assert!(error.to_string().contains("not finite"), "{error}");
    // In place it is not; what comes out is no number, which sampling refuses.
    let logits = logits(&decoder(NAME, None)).expect("a pass");
    assert!(logits.iter().any(|value| !value.is_finite()));
}

/// Copies of an expert lie in slots as its views expect, whatever the types of its parts.
#[test]
fn copies_of_experts_are_the_experts() {
    for name in ["mixtral-mix-q4_k_m.gguf", "gpt-oss-mxfp4.gguf"] {
        let checkpoint = Checkpoint::open(&fixture(name)).expect("a model");
        let mut slot = vec![0; checkpoint.expert_bytes()];
        let mut lengths = Vec::new();
        for id in checkpoint.expert_ids() {
            checkpoint.read_expert(id, &mut slot).expect("a copy");
            let (copied, mapped) = (
                checkpoint.expert_view(id, &slot),
                checkpoint.expert_mapped(id),
            );
            for (a, b) in [
                (copied.w1, mapped.w1),
                (copied.w2, mapped.w2),
                (copied.w3, mapped.w3),
            ] {
                let mut rows = [vec![0.0; a.n() * a.k()], vec![0.0; a.n() * a.k()]];
                a.dequantize_rows(0, &mut rows[0]);
                b.dequantize_rows(0, &mut rows[1]);
                assert_eq!(rows[0], rows[1], "{name} {id}");
            }
            lengths.push(checkpoint.expert_len(id));
        }
        let least = checkpoint.experts_total_bytes();
        let all: u64 = lengths.iter().map(|len| *len as u64).sum();
        assert!((least..least + 192 * lengths.len() as u64).contains(&all));
    }
}

#[test]
fn a_file_that_changed_since_is_not_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("model.gguf");
    std::fs::copy(fixture("mixtral-q4_0.gguf"), &file).expect("a copy");
    let checkpoint = Checkpoint::open(dir.path()).expect("a folder with one model");
    std::fs::OpenOptions::new()
        .append(true)
        .open(&file)
        .and_then(|mut file| std::io::Write::write_all(&mut file, &[0; 64]))
        .expect("appended");
    let id = ExpertId {
        layer: 0,
        expert: 0,
    };
    let read = checkpoint.read_expert(id, &mut vec![0; checkpoint.expert_bytes()]);
    let message = read.expect_err("it grew").to_string();
    assert!(message.contains("changed"), "{message}");
}

#[test]
fn tokenizers_give_the_ids_and_texts_of_the_models_own() {
    let cases = json("tokenizer/tokenizer.json");
    let mut compared = 0;
    for (name, case) in cases.as_object().expect("cases") {
        let file = case["file"].as_str().expect("a file");
        // Of the others there is a model with the same vocabulary.
        let path = match file.ends_with(".gguf") {
            true => fixture("tokenizer").join(file),
            false => fixture(&format!("{}.gguf", name.replace("oss-f32", "oss-mxfp4"))),
        };
        let tokenizer = Tokenizer::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        for text in case["texts"].as_array().expect("texts") {
            let words = text["text"].as_str().expect("a text");
            let ids: Vec<TokenId> = text["ids"]
                .as_array()
                .expect("ids")
                .iter()
                .map(|id| TokenId(id.as_u64().expect("an id") as u32))
                .collect();
            let found = tokenizer.encode_markup(words).expect("ids");
            assert_eq!(found, ids, "{name}: {words:?}");
            // Typed, no special token comes of it.
            let typed = tokenizer.encode_text(words).expect("ids");
            let special = |id: &TokenId| {
                let text = tokenizer.token_text(*id);
                text.is_some_and(|text| tokenizer.special_token(&text).is_some())
            };
            assert!(!typed.iter().any(special), "{name}: {words:?} {typed:?}");
            compared += 1;
        }
    }
    assert!(compared > 250, "{compared}");
}

/// To open one would wait for ever.
#[cfg(unix)]
#[test]
fn a_pipe_is_neither_a_model_nor_a_tokenizer() {
    let dir = tempfile::tempdir().expect("a folder");
    let pipe = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    assert!(Checkpoint::open(&pipe).is_err());
    let message = Tokenizer::open(&pipe).expect_err("a pipe").to_string();
    assert!(message.contains("not a regular file"), "{message}");
}
