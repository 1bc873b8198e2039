//! Damaged and malicious files: each is refused, where it should be, and by name of what is wrong.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use common::{fixture, json};
use octet_gguf::{Gguf, Model, TokenizerSpec};

/// What refuses a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// [`Gguf::open`]: it knows no models.
    Container,
    /// [`Model::read`]: keys and tensors of an architecture.
    Model,
    /// [`TokenizerSpec::read`].
    Tokenizer,
    /// [`Model::check_trunk`]: the weights' values.
    Weights,
}
use Stage::{Container, Model as Spec, Tokenizer, Weights};

fn refuse(name: &str) -> Result<(), (Stage, String)> {
    let gguf = Gguf::open(&fixture(&format!("hostile/{name}.gguf")))
        .map_err(|e| (Container, e.to_string()))?;
    let model = Model::read(&gguf).map_err(|e| (Spec, e.to_string()))?;
    TokenizerSpec::read(gguf.metadata()).map_err(|e| (Tokenizer, e.to_string()))?;
    model
        .check_trunk(&gguf)
        .map_err(|e| (Weights, e.to_string()))
}

const REFUSED: [(&str, Stage, &str); 81] = [
    ("magic", Container, "begins with \"GGML\""),
    ("version-1", Container, "version 1 is not supported"),
    ("version-4", Container, "version 4 is not supported"),
    ("big-endian", Container, "big-endian"),
    ("empty", Container, "0 B found); download it again"),
    ("tensors-2-62", Container, "4611686018427387904 tensors"),
    ("tensors-one-more", Container, "name of tensor 13"),
    ("keys-2-62", Container, "4611686018427387904 keys"),
    ("key-length", Container, "9223372036854775808 bytes"),
    ("string-length", Container, "in the value of `x`"),
    (
        "array-length",
        Container,
        "1152921504606846976 items in `x`",
    ),
    ("array-nested", Container, "`x` is an array of arrays"),
    ("value-type", Container, "`x` has a value of type 13"),
    ("bool-2", Container, "neither 0 nor 1"),
    ("key-utf8", Container, "key 20 is not UTF-8"),
    ("key-twice", Container, "`llama.block_count` is given twice"),
    ("tensor-twice", Container, "`output.weight` is given twice"),
    ("tensor-name-long", Container, "100000 bytes"),
    ("alignment-0", Container, "`general.alignment` is 0"),
    ("alignment-24", Container, "`general.alignment` is 24"),
    ("alignment-2-31", Container, "2147483648"),
    ("dims-5", Container, "5 dimensions"),
    ("dims-overflow", Container, "[4294967296, 4294967296, 2]"),
    ("dims-0", Container, "[16, 0]"),
    ("dims-negative", Container, "[18446744073709551584, 16]"),
    ("type-200", Container, "type 200 is unknown"),
    ("type-4", Container, "Q4_2 (4) no longer exists"),
    ("type-row", Container, "rows of 16, which Q4_K cannot"),
    ("type-integer", Container, "I32 (26) is not supported"),
    ("offset-odd", Container, "begins at 7"),
    ("offset-overlap", Container, "overlap at byte 1920"),
    (
        "offset-beyond",
        Container,
        "cut off in tensor `blk.0.attn_q.weight`",
    ),
    ("offset-wraps", Container, "18.4 EB expected"),
    (
        "cut-data",
        Container,
        "cut off in tensor `blk.0.ffn_down_exps.weight`",
    ),
    ("cut-3", Container, "4 B expected, 3 B found"),
    ("cut-7", Container, "in its version"),
    ("cut-20", Container, "20 B found"),
    ("cut-40", Container, "40 B found"),
    ("cut-300", Container, "300 B found"),
    ("cut-1100", Container, "1.10 kB found"),
    ("split", Container, "part 1 of 3"),
    ("no-block_count", Spec, "`llama.block_count` is missing"),
    (
        "no-embedding_length",
        Spec,
        "`llama.embedding_length` is missing",
    ),
    (
        "no-head_count",
        Spec,
        "`llama.attention.head_count` is missing",
    ),
    ("no-layer_norm_rms_epsilon", Spec, "rms_epsilon` is missing"),
    (
        "no-expert_used_count",
        Spec,
        "`llama.expert_used_count` is missing",
    ),
    (
        "no-feed_forward_length",
        Spec,
        "`llama.feed_forward_length` is missing",
    ),
    ("no-architecture", Spec, "`general.architecture` is missing"),
    (
        "architecture",
        Spec,
        "\"mamba\" are not supported; choose one of llama, qwen3moe",
    ),
    (
        "architecture-type",
        Spec,
        "expected a string in UTF-8, found 1",
    ),
    (
        "block-count-type",
        Spec,
        "`llama.block_count`: expected an integer",
    ),
    ("block-count", Spec, "found 1000000000"),
    ("block-count-0", Spec, "found 0"),
    ("head-count-0", Spec, "`llama.attention.head_count`"),
    (
        "head-count-kv",
        Spec,
        "`llama.attention.head_count_kv`: expected 1 to 2, found 3",
    ),
    ("experts-used", Spec, "expected 1 to 2, found 3"),
    ("experts-used-0", Spec, "expected 1 to 2, found 0"),
    ("experts-3", Spec, "`blk.0.ffn_gate_inp.weight`"),
    ("experts-none", Spec, "no experts"),
    ("eps-nan", Spec, "found NaN"),
    ("rope-base-inf", Spec, "found inf"),
    ("rope-base-0", Spec, "found 0.0"),
    (
        "rope-type",
        Spec,
        "`llama.rope.scaling.type` is \"longrope\"",
    ),
    ("context-0", Spec, "`llama.context_length`"),
    (
        "tokens-few",
        Spec,
        "`token_embd.weight`: expected dimensions [16, 15]",
    ),
    ("lacks-output_norm", Spec, "`output_norm.weight` is missing"),
    ("lacks-attn_k", Spec, "`blk.0.attn_k.weight` is missing"),
    (
        "lacks-ffn_down_exps",
        Spec,
        "`blk.0.ffn_down_exps.weight` is missing",
    ),
    (
        "shape-transposed",
        Spec,
        "expected dimensions [16, 16, 2], found F16 [2, 16, 16]",
    ),
    (
        "shape-vocab",
        Spec,
        "`output.weight`: expected dimensions [16, 16], found F16 [16, 17]",
    ),
    (
        "shape-norm",
        Spec,
        "`output_norm.weight`: expected F32, F16 or BF16 [16]",
    ),
    (
        "scale-tensor",
        Spec,
        "`blk.0.ffn_up_exps.scale` is not known",
    ),
    (
        "bias-unknown",
        Spec,
        "`blk.0.ffn_up_exps.bias` is not known",
    ),
    ("token-types-few", Tokenizer, "15 items for 16 tokens"),
    ("token-twice", Tokenizer, "tokens 3 and 15 are both \"a\""),
    ("scores-nan", Tokenizer, "token 0 has the score NaN"),
    ("eos", Spec, "expected a token below 16, found 1048576"),
    ("tokenizer-model", Tokenizer, "\"rwkv\""),
    (
        "nan-router",
        Weights,
        "`blk.0.ffn_gate_inp.weight` holds a NaN",
    ),
    ("nan-norm", Weights, "`output_norm.weight` holds a NaN"),
    (
        "nan-attention",
        Weights,
        "`blk.0.attn_q.weight` holds a NaN",
    ),
];

#[test]
fn every_file_is_refused_by_what_knows_enough() {
    for (name, stage, words) in REFUSED {
        let (found, message) = refuse(name).expect_err(name);
        assert_eq!(found, stage, "{name}: {message}");
        assert!(message.contains(words), "{name}: {message}");
        // One line a person can read.
        assert!(message.len() < 300 && !message.contains('\n'), "{message}");
    }
    // A norm may be of any float type, and experts are checked when they are read.
    for name in ["valid", "norm-f16", "nan-expert"] {
        assert_eq!(refuse(name), Ok(()), "{name}");
    }
    let listed: BTreeSet<String> = json("hostile/hostile.json")
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    let tested = REFUSED.iter().map(|(name, ..)| *name);
    let tested = tested.chain(["norm-f16", "nan-expert"]);
    assert_eq!(tested.map(str::to_owned).collect::<BTreeSet<_>>(), listed);
}

#[test]
fn a_nan_in_an_expert_is_found_in_its_bytes() {
    let bad = |name: &str| -> Vec<Option<usize>> {
        let gguf = Gguf::open(&fixture(&format!("hostile/{name}.gguf"))).unwrap();
        let experts = Model::read(&gguf).unwrap().layers[0].experts.clone();
        let matrices = experts.iter().flat_map(|e| [e.gate, e.up, e.down]);
        matrices
            .map(|matrix| matrix.ty.first_non_finite(gguf.bytes(matrix.span)))
            .collect()
    };
    assert_eq!(bad("valid"), [None; 6]);
    assert_eq!(bad("nan-expert").iter().flatten().count(), 2);
}
