//! GGUF files against candle's own reader and model, a second oracle for the types it knows.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;
use octet_engine::checkpoint::Checkpoint;
use octet_engine::experts::{ExpertOptions, Experts};
use octet_engine::model::{Decoder, Logits};
use octet_engine::tokenizer::TokenId;
use octet_gguf::Gguf;
use octet_kernels::{BlockMatrix, BlockType, Pool, Precision};

/// Files of types that candle knows; `OCTET_GOLDEN_GGUF` names a folder with more.
fn files() -> Vec<PathBuf> {
    let mut files = vec![
        octet_tests::fixture("gguf/mixtral-mix-q4_k_m.gguf"),
        octet_tests::fixture("gguf/mixtral-q4_0.gguf"),
    ];
    if let Some(more) = std::env::var_os("OCTET_GOLDEN_GGUF") {
        for name in ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0"] {
            files.push(Path::new(&more).join(format!("mixtral-{name}.gguf")));
        }
    }
    files
}

#[test]
fn weights_dequantize_as_in_candle() {
    for path in files() {
        let ours = Gguf::open(&path).expect("a model");
        let mut file = File::open(&path).expect("a file");
        let theirs = Content::read(&mut file).expect("a model");
        for (name, info) in ours.tensors() {
            let tensor = theirs.tensor(&mut file, name, &Device::Cpu);
            let tensor = tensor.and_then(|it| it.dequantize(&Device::Cpu)?.flatten_all());
            let expected = tensor.and_then(|it| it.to_vec1::<f32>()).expect("values");
            let kind = BlockType::ALL
                .iter()
                .find(|kind| kind.name() == info.ty.name());
            let shape = (info.rows() as usize, info.k() as usize);
            let matrix = BlockMatrix::new(*kind.expect("a type"), shape, ours.bytes(info.span));
            let mut found = vec![0.0; shape.0 * shape.1];
            matrix.expect("a matrix").dequantize_rows(0, &mut found);
            let largest = expected.iter().fold(0.0f32, |most, v| most.max(v.abs()));
            for (a, b) in found.iter().zip(&expected) {
                assert!((a - b).abs() <= 1e-6 * largest, "{} {name}", path.display());
            }
        }
    }
}

/// candle reads the names of early Mixtral files only, and rounds activations to 8 bits.
#[test]
fn logits_are_those_of_candles_mixtral() {
    let path = octet_tests::fixture("gguf/variants/old-names.gguf");
    let tokens: Vec<u32> = (3..40).map(|i| i * 11 % 512).collect();
    let mut file = File::open(&path).expect("a file");
    let content = Content::read(&mut file).expect("a model");
    let mut theirs = ModelWeights::from_gguf(content, &mut file, &Device::Cpu).expect("a model");
    let input = Tensor::new(&tokens[..], &Device::Cpu).and_then(|it| it.unsqueeze(0));
    let logits = input.and_then(|input| theirs.forward(&input, 0)?.flatten_all());
    let expected = logits.and_then(|it| it.to_vec1::<f32>()).expect("logits");

    let checkpoint = Arc::new(Checkpoint::open(&path).expect("a model"));
    let experts = Experts::new(Arc::clone(&checkpoint), ExpertOptions::default());
    let experts = experts.expect("experts");
    let model = Decoder::new(checkpoint, experts, Pool::new(2), Precision::Exact);
    let mut session = model.session(tokens.len());
    let ids: Vec<TokenId> = tokens.iter().map(|id| TokenId(*id)).collect();
    let go_on = &mut |_| ControlFlow::Continue(());
    let found = model
        .forward(&mut session, &ids, Logits::Last, go_on)
        .expect("a pass");
    let square = |v: f32| f64::from(v).powi(2);
    let off: f64 = found
        .iter()
        .zip(&expected)
        .map(|(a, b)| square(a - b))
        .sum();
    let all: f64 = expected.iter().map(|v| square(*v)).sum();
    let distance = (off / all).sqrt();
    assert!(distance < 0.03, "{distance}");
}
