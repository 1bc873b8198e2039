//! Tokenizers made from metadata give the ids of the models' own.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::{fixture, json, open_bytes};
use octet_gguf::{Gguf, GgufWriter, TensorType, TokenizerError, TokenizerSpec};
use serde_json::Value;
use tempfile::TempDir;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer};

fn open(file: &str) -> TokenizerSpec {
    let bytes = fs::read(fixture("tokenizer").join(file)).unwrap();
    // Headers of models are cut off behind themselves; their data is of no matter here.
    let (gguf, _dir) = open_bytes(&bytes, 16 << 20).unwrap();
    TokenizerSpec::read(gguf.metadata()).unwrap()
}

fn load(spec: &TokenizerSpec) -> Tokenizer {
    spec.json.parse().unwrap()
}

#[test]
fn every_text_gives_the_reference_ids_and_comes_back() {
    let all = json("tokenizer/tokenizer.json");
    let mut n = 0;
    for (name, vocabulary) in all.as_object().unwrap() {
        let spec = open(vocabulary["file"].as_str().unwrap());
        let tokenizer = load(&spec);
        for row in vocabulary["texts"].as_array().unwrap() {
            let text = row["text"].as_str().unwrap();
            let ids: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
            let found = tokenizer.encode_fast(text, false).unwrap();
            assert_eq!(found.get_ids(), ids, "{name}: {text:?}");
            if let Some(decoded) = row["decoded"].as_str() {
                assert_eq!(
                    tokenizer.decode(&ids, false).unwrap(),
                    decoded,
                    "{name}: {text:?}"
                );
            }
            n += 1;
        }
    }
    assert_eq!(n, 42 * 6 + 47);
}

#[test]
fn tokens_keep_their_ids_and_special_ones_are_told() {
    let cases: [(&str, &[&str], &[&str]); 4] = [
        (
            "../models/mixtral-q4_0.gguf-header",
            &["<unk>", "<s>", "</s>"],
            &[],
        ),
        (
            "../models/qwen3moe-f32.gguf-header",
            &["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            &["<think>", "</think>"],
        ),
        (
            "../models/gpt-oss-f32.gguf-header",
            &[
                "<|startoftext|>",
                "<|endoftext|>",
                "<|return|>",
                "<|constrain|>",
                "<|channel|>",
                "<|start|>",
                "<|end|>",
                "<|message|>",
                "<|call|>",
            ],
            &[],
        ),
        (
            "../models/olmoe-f32.gguf-header",
            &["<|endoftext|>", "<|padding|>"],
            &["  "],
        ),
    ];
    for (file, special, user_defined) in cases {
        let spec = open(file);
        let tokenizer = load(&spec);
        let found: Vec<&str> = spec.special.iter().map(|t| t.text.as_str()).collect();
        assert_eq!(found, special, "{file}");
        for token in &spec.special {
            assert_eq!(tokenizer.token_to_id(&token.text), Some(token.id), "{file}");
        }
        let mut added: Vec<(u32, bool, String)> = tokenizer
            .get_added_tokens_decoder()
            .into_iter()
            .map(|(id, token)| (id, token.special, token.content))
            .collect();
        added.sort();
        let specials: Vec<&str> = added.iter().filter(|t| t.1).map(|t| t.2.as_str()).collect();
        let others: Vec<&str> = added
            .iter()
            .filter(|t| !t.1)
            .map(|t| t.2.as_str())
            .collect();
        assert_eq!(
            (specials.as_slice(), others.as_slice()),
            (special, user_defined),
            "{file}"
        );
        assert_eq!(tokenizer.get_vocab_size(true), spec.n_tokens, "{file}");
    }
}

#[test]
fn the_ends_of_texts_are_those_of_the_file() {
    let mixtral = open("vocab-mixtral.gguf");
    assert_eq!(mixtral.bos.as_ref().unwrap().text, "<s>");
    assert_eq!(mixtral.eos.as_ref().unwrap().id, 2);
    assert_eq!(mixtral.unknown.as_ref().unwrap().id, 0);
    assert_eq!(mixtral.end_ids(), [2]);
    assert!(mixtral.add_bos && !mixtral.add_eos && mixtral.add_space_prefix);
    let ids = load(&mixtral)
        .encode_fast("Hi", true)
        .unwrap()
        .get_ids()
        .to_vec();
    assert_eq!(ids, [1, 15359]);

    let qwen = open("../models/qwen3moe-f32.gguf-header");
    assert_eq!(qwen.eos.as_ref().unwrap().text, "<|im_end|>");
    assert_eq!(qwen.padding.as_ref().unwrap().text, "<|endoftext|>");
    assert!(!qwen.add_bos && !qwen.add_space_prefix && qwen.bos.is_none());
    assert!(
        qwen.chat_template
            .unwrap()
            .starts_with("{% for m in messages %}")
    );

    let gpt_2 = open("vocab-gpt-2.gguf");
    assert!(!gpt_2.add_bos && gpt_2.chat_template.is_none());
    assert_eq!(gpt_2.bos.as_ref().unwrap().text, "<|endoftext|>");
}

#[test]
fn mixtrals_vocabulary_and_merges_are_its_own_again() {
    let spec = open("vocab-mixtral.gguf");
    let made: Value = serde_json::from_str(&spec.json).unwrap();
    let own = fs::read(fixture("../tokenizer/tokenizer.json")).unwrap();
    let own: Value = serde_json::from_slice(&own).unwrap();
    assert_eq!(made["model"]["vocab"], own["model"]["vocab"]);
    let pairs = |file: &Value| -> Vec<(String, String)> {
        let merges = file["model"]["merges"].as_array().unwrap();
        let pair = |merge: &Value| match merge.as_str() {
            Some(text) => {
                let (left, right) = text.split_once(' ').unwrap();
                (left.to_owned(), right.to_owned())
            }
            None => serde_json::from_value(merge.clone()).unwrap(),
        };
        merges.iter().map(pair).collect()
    };
    let merges = pairs(&made);
    assert_eq!(merges.len(), 58_980);
    assert_eq!(merges, pairs(&own));
    for part in ["added_tokens", "post_processor"] {
        assert_eq!(made[part], own[part], "{part}");
    }
}

type Change = fn(&mut Small);

/// A byte-level vocabulary of a few tokens.
struct Small {
    model: &'static str,
    pre: Option<&'static str>,
    tokens: Vec<&'static str>,
    types: Vec<i32>,
    merges: Vec<&'static str>,
    scores: Option<Vec<f32>>,
    ids: Vec<(&'static str, u32)>,
    flags: Vec<(&'static str, bool)>,
}

impl Small {
    fn new() -> Self {
        Self {
            model: "gpt2",
            pre: Some("gpt-2"),
            tokens: vec!["a", "b", "ab", "abb", "<end>"],
            types: vec![1, 1, 1, 1, 3],
            merges: vec!["a b", "ab b"],
            scores: None,
            ids: vec![("eos", 4)],
            flags: vec![],
        }
    }

    fn read(self) -> Result<TokenizerSpec, TokenizerError> {
        let (gguf, _dir) = self.write();
        TokenizerSpec::read(gguf.metadata())
    }

    fn write(self) -> (Gguf, TempDir) {
        let owned = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect::<Vec<_>>();
        let mut writer = GgufWriter::new();
        writer
            .set("tokenizer.ggml.model", self.model)
            .set("tokenizer.ggml.tokens", owned(self.tokens))
            .set("tokenizer.ggml.token_type", self.types)
            .set("tokenizer.ggml.merges", owned(self.merges));
        if let Some(pre) = self.pre {
            writer.set("tokenizer.ggml.pre", pre);
        }
        if let Some(scores) = self.scores {
            writer.set("tokenizer.ggml.scores", scores);
        }
        for (name, id) in self.ids {
            writer.set(&format!("tokenizer.ggml.{name}_token_id"), id);
        }
        for (name, flag) in self.flags {
            writer.set(&format!("tokenizer.ggml.{name}"), flag);
        }
        writer.tensor("t", &[1], TensorType::F32, |out| out.write_all(&[0; 4]));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.gguf");
        writer.write(&path).unwrap();
        (Gguf::open(&path).unwrap(), dir)
    }
}

#[test]
fn added_tokens_keep_their_ids_wherever_they_lie() {
    let cases: [(&[&str], &[i32]); 6] = [
        (&["a", "<x>", "b", "ab"], &[1, 3, 1, 1]),
        (&["<pad>", "a", "b", "ab", "<end>"], &[3, 1, 1, 1, 3]),
        (&["a", "b", "<user>", "ab", "<end>"], &[1, 1, 4, 1, 3]),
        (&["a", "b", "ab", "<end>", "[PAD4]"], &[1, 1, 1, 3, 5]),
        (
            &["a", "b", "ab", "<x>", "[PAD4]", "<end>"],
            &[1, 1, 1, 3, 5, 3],
        ),
        (
            &["a", "b", "ab", "[PAD3]", "<x>", "<end>", "[PAD6]"],
            &[1, 1, 1, 5, 4, 3, 5],
        ),
    ];
    for (tokens, types) in cases {
        let mut small = Small::new();
        small.tokens = tokens.to_vec();
        small.types = types.to_vec();
        small.merges = vec!["a b"];
        small.ids.clear();
        let spec = small.read().unwrap();
        let tokenizer = load(&spec);
        for (id, (token, kind)) in (0..).zip(tokens.iter().zip(types)) {
            if *kind != 5 {
                assert_eq!(
                    tokenizer.token_to_id(token),
                    Some(id),
                    "{token} of {tokens:?}"
                );
                let found = tokenizer.encode_fast(*token, false).unwrap();
                assert_eq!(found.get_ids(), [id], "{token} of {tokens:?}");
            }
        }
    }
}

#[test]
fn texts_are_framed_as_the_file_says() {
    let frame = |flags: &[(&'static str, bool)], pre| {
        let mut small = Small::new();
        small.pre = Some(pre);
        small.ids = vec![("bos", 4), ("eos", 4)];
        small.flags = flags.to_vec();
        let spec = small.read().unwrap();
        load(&spec)
            .encode_fast("ab", true)
            .unwrap()
            .get_ids()
            .to_vec()
    };
    assert_eq!(frame(&[], "gpt-2"), [2]);
    assert_eq!(frame(&[], "llama-bpe"), [4, 2]);
    assert_eq!(frame(&[("add_bos_token", false)], "llama-bpe"), [2]);
    assert_eq!(
        frame(&[("add_bos_token", true), ("add_eos_token", true)], "olmo"),
        [4, 2, 4]
    );
    assert_eq!(frame(&[("add_eos_token", true)], "qwen2"), [2, 4]);
}

#[test]
fn a_piece_that_is_a_token_needs_no_merges_where_the_model_ignores_them() {
    let ids = |pre| {
        let mut small = Small::new();
        small.pre = Some(pre);
        small.merges = vec!["a b"];
        let spec = small.read().unwrap();
        load(&spec)
            .encode_fast("abb", false)
            .unwrap()
            .get_ids()
            .to_vec()
    };
    assert_eq!(ids("gpt-2"), [2, 1]);
    assert_eq!(ids("glm4"), [3]);
}

#[test]
fn characters_are_composed_where_the_model_does_so() {
    let ids = |pre| {
        let mut small = Small::new();
        small.pre = Some(pre);
        // The bytes of a composed e with an accent, and of the accent by itself.
        small.tokens = vec!["e", "Ã", "©", "Ì", "ģ"];
        small.types = vec![1; 5];
        small.merges.clear();
        small.ids.clear();
        let tokenizer = load(&small.read().unwrap());
        let found = tokenizer.encode_fast("e\u{301}", false).unwrap();
        found.get_ids().to_vec()
    };
    for pre in ["qwen2", "qwen35", "olmo"] {
        assert_eq!(ids(pre), [1, 2], "{pre}");
    }
    for pre in [
        "default",
        "gpt-2",
        "gpt-4o",
        "llama-bpe",
        "llama3",
        "llama-v3",
        "glm4",
    ] {
        assert_eq!(ids(pre), [0, 3, 4], "{pre}");
    }
}

#[test]
fn each_way_to_split_is_its_own() {
    let split = |pre, text: &str| {
        let mut small = Small::new();
        small.pre = Some(pre);
        let tokenizer = load(&small.read().unwrap());
        let mut pieces = PreTokenizedString::from(text);
        let splitter = tokenizer.get_pre_tokenizer().unwrap();
        splitter.pre_tokenize(&mut pieces).unwrap();
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let texts = pieces
            .iter()
            .map(|(_, (from, to), _)| text[*from..*to].to_owned());
        texts.collect::<Vec<_>>()
    };
    // Digits in runs, in threes, or one by one.
    for (pre, digits) in [
        ("default", &["12345"][..]),
        ("gpt-2", &["12345"]),
        ("olmo", &["12345"]),
        ("qwen2", &["1", "2", "3", "4", "5"]),
        ("qwen35", &["1", "2", "3", "4", "5"]),
        ("llama-bpe", &["123", "45"]),
        ("llama3", &["123", "45"]),
        ("llama-v3", &["123", "45"]),
        ("glm4", &["123", "45"]),
        ("gpt-4o", &["123", "45"]),
    ] {
        assert_eq!(split(pre, "12345"), digits, "{pre}");
    }
    // A mark on a letter belongs to its word, or begins another stretch.
    assert_eq!(split("qwen2", "e\u{301}a"), ["e", "\u{301}a"]);
    assert_eq!(split("qwen35", "e\u{301}a"), ["e\u{301}a"]);
    assert_eq!(split("gpt-4o", "e\u{301}a"), ["e\u{301}a"]);
    // Capitals begin a word; a contraction is a piece of its word.
    assert_eq!(split("gpt-4o", "aBC I'LL"), ["a", "BC", " I'LL"]);
    assert_eq!(split("llama-bpe", "aBC I'LL"), ["aBC", " I", "'LL"]);
    assert_eq!(split("gpt-2", "aBC I'LL"), ["aBC", " I", "'", "LL"]);
    // The last of several spaces belongs to the next word, but not to a line's end.
    assert_eq!(
        split("qwen2", "a   b  \n\nc"),
        ["a", "  ", " b", "  \n\n", "c"]
    );
    assert_eq!(
        split("gpt-2", "a   b  \n\nc"),
        ["a", "  ", " b", "  \n", "\n", "c"]
    );
    // A slash behind signs.
    assert_eq!(split("gpt-4o", "a. /\n/b"), ["a", ".", " /\n/", "b"]);
}

#[test]
fn a_sentence_piece_model_may_leave_out_its_space() {
    let ids = |flags: &[(&'static str, bool)]| {
        let mut small = Small::new();
        small.model = "llama";
        small.pre = None;
        small.tokens = vec!["<unk>", "<s>", "</s>", "▁", "a", "▁a"];
        small.types = vec![2, 3, 3, 1, 1, 1];
        small.scores = Some(vec![0.0; 6]);
        small.ids.clear();
        small.flags = flags.to_vec();
        let spec = small.read().unwrap();
        let tokenizer = load(&spec);
        let ids = tokenizer
            .encode_fast("a a", true)
            .unwrap()
            .get_ids()
            .to_vec();
        let text = tokenizer.decode(&ids, true).unwrap();
        assert_eq!(text, "a a");
        ids
    };
    // "▁a▁a", after a BOS that the file does not name.
    assert_eq!(ids(&[]), [1, 5, 5]);
    assert_eq!(ids(&[("add_space_prefix", false)]), [1, 4, 5]);
}

#[test]
fn a_vocabulary_without_special_tokens_has_none() {
    let mut small = Small::new();
    small.model = "llama";
    small.tokens = vec!["a", "b"];
    small.types = vec![1, 1];
    small.scores = Some(vec![0.0, -1.0]);
    small.ids.clear();
    let spec = small.read().unwrap();
    assert_eq!((&spec.bos, &spec.eos, &spec.unknown), (&None, &None, &None));
    assert!(!spec.add_bos && spec.special.is_empty() && spec.end_ids().is_empty());
    load(&spec);
}

#[test]
fn refusals_say_what_is_wrong() {
    let cases: [(Change, &str); 19] = [
        (|s| s.model = "bert", "`tokenizer.ggml.model` is \"bert\""),
        (
            |s| s.pre = Some("tekken"),
            "`tokenizer.ggml.pre` is \"tekken\"",
        ),
        (|s| s.pre = None, "`tokenizer.ggml.pre` is missing"),
        (|s| s.types.truncate(4), "has 4 items for 5 tokens"),
        (|s| s.types[1] = 7, "token 1 is of kind 7"),
        (|s| s.tokens[3] = "a", "tokens 0 and 3 are both \"a\""),
        (|s| s.tokens[3] = "", "token 3 has 0 bytes"),
        (
            |s| s.merges.push("ab"),
            "merge 2 (\"ab\") is not two pieces",
        ),
        (|s| s.merges.push("b a"), "merge 2 (\"b a\")"),
        (|s| s.merges.push("a <end>"), "merge 2"),
        (|s| s.merges.push("c b"), "merge 2"),
        (
            |s| s.ids.push(("bos", 5)),
            "`tokenizer.ggml.bos_token_id` is 5, in a vocabulary of 5",
        ),
        (|s| s.ids.push(("eot", u32::MAX)), "4294967295"),
        (
            |s| s.flags.push(("add_bos_token", true)),
            "there is no `tokenizer.ggml.bos_token_id`",
        ),
        (
            |s| {
                s.ids.clear();
                s.flags.push(("add_eos_token", true));
            },
            "there is no `tokenizer.ggml.eos_token_id`",
        ),
        (|s| s.model = "llama", "`tokenizer.ggml.scores` is missing"),
        (
            |s| {
                s.model = "llama";
                s.scores = Some(vec![0.0, 0.0, f32::NAN, 0.0, 0.0]);
            },
            "token 2 has the score NaN",
        ),
        (
            |s| {
                s.model = "llama";
                s.scores = Some(vec![0.0; 4]);
            },
            "`tokenizer.ggml.scores` has 4 items for 5 tokens",
        ),
        (
            |s| s.tokens[2] = Box::leak("x".repeat(1025).into_boxed_str()),
            "has 1025 bytes",
        ),
    ];
    for (change, words) in cases {
        let mut small = Small::new();
        change(&mut small);
        let error = small.read().unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
    let mut padding = Small::new();
    padding.ids.push(("padding", 5));
    assert_eq!(padding.read().unwrap().padding, None);
}
